"""Table 1, the table beyond the paper, the learning curve, and how they are written."""

import re

import numpy as np
import pandas as pd
import pytest

from genre_utils.metrics import evaluate, intervals, tables

GENRES = ["Classical", "Jazz", "World"]
QUICK = {"n_resamples": 300}


def _clips(n_artists=12, n_tracks=2, n_clips=2):
    """Clips of artists who make music of one genre each."""
    rows = [
        (GENRES[a % 3], f"a{a}", f"t{t}", 29.0 * c)
        for a in range(n_artists)
        for t in range(n_tracks)
        for c in range(n_clips)
    ]
    clips = pd.DataFrame(rows, columns=["genre", "artist", "track", "start_s"])
    return clips.assign(clip_id=[f"c{i:03d}" for i in clips.index], album="al", status="ok")


def _answers(clips, system, share=0.6, seed=0, protocol="artist", n_folds=4):
    """Answers of which about ``share`` are right, with probabilities."""
    rng = np.random.default_rng(seed)
    true = clips["genre"].to_numpy()
    other = np.array([GENRES[(GENRES.index(genre) + 1) % 3] for genre in true])
    table = clips[["clip_id"]].assign(system=system, protocol=protocol, y_true=true)
    table["fold"] = np.arange(len(clips)) // 4 % n_folds
    table["y_pred"] = np.where(rng.random(len(clips)) < share, true, other)
    for genre in GENRES:
        table[f"p_{genre}"] = np.where(table["y_pred"] == genre, 0.8, 0.1)
    return table


def _accuracy(answers):
    return (answers["y_true"] == answers["y_pred"]).mean()


def _cells(text):
    """Rows of a Markdown table, heads first; ``\\|`` does not end a cell."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


@pytest.fixture
def clips():
    return _clips()


@pytest.fixture
def predictions(clips):
    svm = _answers(clips, "svm-mfcc", 0.4, 2, "random")
    svm[[f"p_{genre}" for genre in GENRES]] = np.nan
    cnn = [_answers(clips, "cnn-mel", 0.7, i, p) for i, p in enumerate(("random", "artist"))]
    return pd.concat([*cnn, svm], ignore_index=True)


def test_the_contract_comes_first_then_intervals_then_songs(predictions, clips):
    table = tables.table1(predictions, clips, **QUICK)
    plain = evaluate.score_table(predictions)
    bounds = "accuracy_lo accuracy_hi f_score_lo f_score_hi n_artists"
    songs = "song_accuracy song_accuracy_lo song_accuracy_hi song_f_score n_songs"
    assert list(table) == [*plain, *bounds.split(), *songs.split()]
    pd.testing.assert_frame_equal(table[list(plain)], plain)
    assert (table["n_artists"] == 12).all()
    assert (table["n_songs"] == 24).all()


def test_numbers_are_those_of_the_modules_they_come_from(predictions, clips):
    table = tables.table1(predictions, clips, **QUICK, seed=5)
    bounds = intervals.cluster_intervals(predictions, clips, **QUICK, seed=5)
    both = table.merge(bounds, on=evaluate.KEY)
    assert np.allclose(both["accuracy_lo_x"], both["accuracy_lo_y"])
    assert (table["accuracy_lo"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["accuracy_hi"]).all()
    songs = evaluate.song_level(predictions, clips)
    for row in table.itertuples():
        part = songs[(songs["system"] == row.system) & (songs["protocol"] == row.protocol)]
        assert row.song_accuracy == pytest.approx(_accuracy(part), abs=1e-6)


def test_markdown_names_corpus_note_intervals_and_the_paper(predictions, clips):
    table = tables.table1(predictions, clips, **QUICK)
    text = tables.markdown(table, "my clips", "untrained VGG-16")
    assert text.startswith("**Table 1 on my clips** (untrained VGG-16)\n\n|")
    assert tables.markdown(table, "my clips", "my clips").startswith("**Table 1 on my clips**\n")
    heads, *rows = _cells(text)
    assert heads == [
        "system",
        "protocol",
        "accuracy (95 %)",
        "F-score",
        "by song (95 %)",
        "the paper",
    ]
    first = table.iloc[0]
    interval = f"{first.accuracy:.2f} ({first.accuracy_lo:.2f}–{first.accuracy_hi:.2f})"
    assert rows[0][:4] == ["CNN+Mel-spectrogram", "random", interval, f"{first.f_score:.2f}"]
    assert [row[1] for row in rows] == ["random", "random", "artist"]
    assert [row[5] for row in rows] == ["0.90", "0.32", ""]
    assert "nan" not in text
    assert text.endswith("\n\n48 clips of 24 songs by 12 artists.\n")


def test_markdown_keeps_names_that_look_like_markdown():
    names = ["R|B", "$10 and $20", "007", "1e3"]
    table = pd.DataFrame({"name": names, "n": ["1.50", "", "2", "3"]})
    text = tables.page(table, "Sums", "a|b $et", "costs $5", right=["n"])
    assert text.startswith("**Sums on a\\|b \\$et** (costs \\$5)\n\n")
    rows = _cells(text)[1:]
    assert rows == [["R\\|B", "1.50"], ["\\$10 and \\$20", ""], ["007", "2"], ["1e3", "3"]]
    assert re.search(r"\n\|:-+\|-+:\|\n", text)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("<b>x</b>", r"\<b\>x\</b\>"),
        ("R&amp;B, R&B", r"R\&amp;B, R&B"),
        ("a_b_ *c*", r"a\_b\_ \*c\*"),
        ("`d` [e](f)", r"\`d\` \[e\](f)"),
        ("~~g~~\n h\\", r"\~\~g\~\~ h\\"),
    ],
)
def test_no_name_is_markup(name, written):
    assert tables.plain(name) == written
    assert f"**x on {written}**" in tables.page(pd.DataFrame({"name": [name]}), "x", name)


def test_unknown_artists_are_not_counted(predictions, clips):
    table = tables.table1(predictions, clips.assign(artist=""), **QUICK)
    assert set(table["n_artists"]) == {0}
    assert tables.markdown(table, "a set").endswith("songs by unknown artists.\n")
    half = clips.assign(artist=clips["artist"].where(clips.index < 24, ""))
    assert set(tables.table1(predictions, half, **QUICK)["n_artists"]) == {6}


def test_the_lead_is_over_the_papers_best_on_the_same_clips(clips):
    reference, better = _answers(clips, "cnn-mel", 0.4, 0), _answers(clips, "chosen", 0.9, 1)
    part, same = (table[table["fold"] < 2] for table in (better, reference))
    table = tables.beyond_table(pd.concat([reference, part]), clips, **QUICK).set_index("system")
    row = table.loc["chosen"]
    assert row["lead"] == pytest.approx(_accuracy(part) - _accuracy(same), abs=1e-6)
    songs = [_accuracy(evaluate.song_level(answers, clips)) for answers in (part, same)]
    assert row["song_lead"] == pytest.approx(songs[0] - songs[1], abs=1e-6)
    assert row["n_folds"] == 2
    assert row["lead_lo"] <= row["lead"] <= row["lead_hi"]
    assert table.loc["cnn-mel", tables.LEADS].isna().all()
    assert not any(column.startswith("paper_") for column in table)


def test_p_is_corrected_for_the_number_of_comparisons_within_a_protocol(clips):
    names = ("cnn-mel", "chosen", "pooled-svm", "musicnn-svm")
    artist = pd.concat(_answers(clips, name, 0.5 + 0.1 * i, i) for i, name in enumerate(names))
    random = artist[artist["system"].isin(names[:2])].assign(protocol="random")
    table = tables.beyond_table(pd.concat([artist, random]), clips, **QUICK)
    table = table.set_index(["protocol", "system"])["song_lead_p"]
    for protocol, answers in (("artist", artist), ("random", random)):
        songs = evaluate.song_level(answers, clips)
        others = [name for name in names[1:] if name in set(answers["system"])]
        alone = intervals.compare(songs, clips, [(name, "cnn-mel") for name in others], **QUICK)
        theirs = table[protocol][others].tolist()
        assert theirs == pytest.approx(alone["p_artist_holm"].tolist(), abs=1e-6)


def test_markdown_shows_leads_folds_and_costs(clips):
    answers = pd.concat([_answers(clips, "cnn-mel", 0.5, 0), _answers(clips, "chosen", 0.9, 1)])
    table = tables.beyond_table(answers, clips, **QUICK)
    text = tables.beyond_markdown(table, "the corpus", {"chosen": 12.4}, note="synthesised")
    assert text.startswith("**Beyond the paper on the corpus** (synthesised)")
    _, mel, chosen = _cells(text)
    assert mel[6:] == ["", "", ""]
    row = table.set_index("system").loc["chosen"]
    assert chosen[0] == "Chosen among all"
    assert chosen[2] == "4"
    ends = f"({row['song_lead_lo']:+.2f} to {row['song_lead_hi']:+.2f})"
    assert chosen[6] == f"{row['song_lead']:+.2f} {ends}"
    assert chosen[7:] == [f"{row['song_lead_p']:.2g}", "12 s"]


def _known_curve(clips, right, draws=1):
    """Predictions of which exactly the given number is right, by (train_size, n_artists)."""
    parts = []
    for (train_size, n_artists), number in right.items():
        for draw in range(draws):
            shift = draw if train_size < 1 else 0  # a draw has one right answer more
            other = clips["genre"].map({"Classical": "Jazz", "Jazz": "World", "World": "Jazz"})
            wrong = np.arange(len(clips)) >= number + shift
            part = clips[["clip_id"]].assign(
                system="cnn-mel", protocol="artist", y_true=clips["genre"]
            )
            part["y_pred"] = clips["genre"].mask(wrong, other)
            parts.append(part.assign(train_size=train_size, draw=draw, n_artists=n_artists))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def single():
    """Twenty artists with one clip each."""
    return _clips(20, 1, 1)


def test_a_straight_line_over_doublings_is_found_and_goes_on(single):
    right = {(0.25, 4): 10, (0.5, 8): 12, (1.0, 16): 14}
    curve = tables.learning_curve(_known_curve(single, right), single, **QUICK)
    assert list(curve["accuracy"]) == pytest.approx([0.5, 0.6, 0.7])
    assert list(curve["n_artists"]) == [4, 8, 16]
    assert set(curve["gain"]) == {0.1}
    assert set(curve["twice"]) == {0.8}
    for name in ("accuracy", "gain", "twice"):
        assert (curve[f"{name}_lo"] < curve[name]).all()
        assert (curve[name] < curve[f"{name}_hi"]).all()


def test_leads_are_over_the_first_system_on_the_same_songs(single):
    reference = _known_curve(single, {(0.5, 8): 10, (1.0, 16): 12})
    mine = _known_curve(single, {(0.5, 8): 14, (1.0, 16): 12}).assign(system="mine")
    both = pd.concat([reference, mine])
    curve = tables.learning_curve(both, single, **QUICK, seed=3).set_index("system")
    leads = curve[["lead", "lead_lo", "lead_hi"]]
    assert (leads.loc["cnn-mel"] == 0).all(axis=None)
    pair = both[both["train_size"] == 0.5]
    expected = intervals.compare(pair, single, [("mine", "cnn-mel")], **QUICK, seed=3).iloc[0]
    expected = expected[["difference", "lo", "hi"]].tolist()
    assert leads.loc["mine"].iloc[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert leads.loc["mine"].iloc[1].tolist() == [0, 0, 0]


def test_draws_are_averaged_and_equal_sizes_have_no_slope(single):
    answers = _known_curve(single, {(0.5, 8): 12, (1.0, 16): 14}, draws=3)
    curve = tables.learning_curve(answers, single, **QUICK)
    assert list(curve["accuracy"]) == pytest.approx([0.65, 0.7])
    assert list(curve["lowest"]) == pytest.approx([0.6, 0.7])
    assert list(curve["highest"]) == pytest.approx([0.7, 0.7])
    assert curve["gain"].iloc[0] == pytest.approx(0.05)
    same = tables.learning_curve(_known_curve(single, {(0.5, 8): 12, (1.0, 8): 12}), single)
    assert same[["gain", "gain_lo", "twice"]].isna().all(axis=None)


def test_songs_vote():
    clips = _clips(8, 1, 2)
    answers = _known_curve(clips, {(0.5, 2): 9, (1.0, 4): 16})
    for genre in GENRES:
        answers[f"p_{genre}"] = np.where(answers["y_pred"] == genre, 0.9, 0.05)
    wrong = (answers["train_size"] == 1) & (answers["clip_id"] == "c000")
    answers.loc[wrong, ["p_Classical", "p_Jazz"]] = [0.45, 0.5]  # the song's other clip is surer
    assert tables.learning_curve(answers, clips, **QUICK)["accuracy"].iloc[-1] == 1.0


def test_draws_are_averaged_and_their_spread_is_shown(clips):
    drawn = [_answers(clips, "cnn-mel", share, i) for i, share in enumerate((0.5, 0.6, 0.9))]
    row = tables.spread(drawn, clips).iloc[0]
    each = [_accuracy(answers) for answers in drawn]
    assert row["accuracy"] == pytest.approx(np.mean(each), abs=1e-6)
    assert row["sd"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    ends = row["lowest"], row["highest"], row["draws"]
    assert ends == pytest.approx((min(each), max(each), 3), abs=1e-6)
    songs = [_accuracy(evaluate.song_level(answers, clips)) for answers in drawn]
    assert row["song_accuracy"] == pytest.approx(np.mean(songs), abs=1e-6)
    f_scores = [evaluate.f_score(answers["y_true"], answers["y_pred"]) for answers in drawn]
    assert row["f_score"] == pytest.approx(np.mean(f_scores), abs=1e-6)
    # The mean of three draws of equal worth: its interval is that of one system's mean answers.
    same = tables.spread([drawn[0]] * 3, clips).iloc[0]
    known = intervals.cluster_intervals(drawn[0], clips).iloc[0]
    assert same["accuracy_lo"] == pytest.approx(known["accuracy_lo"], abs=1e-6)
    assert same["sd"] == 0
    text = tables.spread_markdown(tables.spread(drawn, clips), "clips")
    assert text.startswith("**Means over 3 draws of folds and seeds on clips**")
    assert f"{min(each):.2f} to {max(each):.2f}, {row['sd']:.3f}" in text
