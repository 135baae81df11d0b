"""The rules for the paper's claims, on predictions made to bear them out or not."""

import re

import numpy as np
import pandas as pd
import pytest

from genre_utils import paper
from genre_utils.metrics import claims, intervals
from genre_utils.metrics.claims import FAILS, HOLDS, UNDECIDED, UNTESTED, Comparison

QUICK = {"n_resamples": 600}
PARTNER = dict(paper.CONFUSED_PAIRS) | {b: a for a, b in paper.CONFUSED_PAIRS}
PAPERS = {name: accuracy for name, (accuracy, _) in paper.TABLE1.items()} | {"cnn-mel": 0.93}


def _clips(genres=paper.GENRES, n_artists=12, n_clips=6):
    rows = [(g, f"{g} {a}") for g in genres for a in range(n_artists) for _ in range(n_clips)]
    clips = pd.DataFrame(rows, columns=["genre", "artist"])
    clips = clips.assign(clip_id=[f"{i:04d}" for i in range(len(rows))], album="al", status="ok")
    return clips.assign(track=clips["clip_id"], start_s=0.0)


def _answers(clips, accuracy, rng, partner):
    """Right answers at about this rate, artist by artist; wrong ones go to the pair's other."""
    ease = rng.normal(accuracy, 0.03, clips["artist"].nunique()).clip(0, 1)
    right = rng.random(len(clips)) < np.repeat(ease, len(clips) // len(ease))
    genres = sorted(clips["genre"].unique())
    wrong = [rng.choice([other for other in genres if other != g]) for g in clips["genre"]]
    paired = [PARTNER.get(g, w) for g, w in zip(clips["genre"], wrong, strict=True)]
    use = [p in genres and u < partner for p, u in zip(paired, rng.random(len(clips)), strict=True)]
    return clips["genre"].where(right, np.where(use, paired, wrong))


def _predictions(clips, accuracy, protocol="random", partner=0.7, seed=0):
    rng = np.random.default_rng(seed)
    tables = []
    for system, share in accuracy.items():
        table = clips[["clip_id"]].assign(system=system, protocol=protocol)
        table["fold"] = np.arange(len(clips)) % 5
        table["y_true"], table["y_pred"] = clips["genre"], _answers(clips, share, rng, partner)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _verdicts(predictions, clips, protocol="random"):
    table = claims.claims_table(predictions, clips, "made up", **QUICK)
    return table[table["protocol"] == protocol].set_index("claim")


def test_numbers_like_the_papers_bear_its_claims_out():
    clips = _clips()
    found = _verdicts(_predictions(clips, PAPERS), clips)
    assert found["verdict"].to_dict() == {
        1: HOLDS,
        2: HOLDS,
        3: HOLDS,
        4: HOLDS,
        5: HOLDS,
        6: HOLDS,
        7: UNTESTED,
    }
    assert found.loc[1, "measured"] in (
        "CNN+Mel-spectrogram over CNN+MFCC",
        "CNN+Mel-spectrogram over CNN+Chromagram",
    )
    assert (found["low"] < found["figure"])[:6].all()
    assert (found["figure"] < found["high"])[:6].all()
    assert found.loc[1, "why"].startswith("all 3 comparisons above 0, largest p 0.0")
    assert "Classical/Jazz" in found.loc[4, "why"]
    assert "Knowing the artist alone scores 1.00: nothing is shown" in found.loc[5, "why"]


def test_numbers_the_other_way_round_do_not():
    clips = _clips()
    turned = {"cnn-mel": 0.05, "cnn-mfcc": 0.3, "cnn-chroma": 0.04, "svm-mfcc": 0.8}
    predictions = _predictions(clips, turned)
    mel = predictions["system"] == "cnn-mel"
    between = {"Alt Rock": "World", "World": "Alt Rock", "Hard Rock": "World"}
    predictions.loc[mel, "y_pred"] = predictions["y_true"].map(between).fillna("Hard Rock")
    found = _verdicts(predictions, clips)
    assert found["verdict"].to_dict() == {
        1: FAILS,
        2: FAILS,
        3: FAILS,
        4: FAILS,
        5: FAILS,
        6: HOLDS,
        7: UNTESTED,
    }
    assert found.loc[1, "measured"] == "CNN+Mel-spectrogram over Baseline SVM"
    assert found.loc[1, "high"] < 0


def test_equal_systems_leave_claims_about_systems_undecided():
    clips = _clips(n_artists=5)
    equal = dict.fromkeys(PAPERS, 0.5)
    found = _verdicts(_predictions(clips, equal, partner=0.0), clips)
    assert found["verdict"][[1, 2, 3, 4]].tolist() == [UNDECIDED] * 4
    assert found.loc[1, "low"] < 0


@pytest.mark.parametrize(("wrong", "verdict"), [(2, HOLDS), (13, UNDECIDED), (40, FAILS)])
def test_accuracy_is_held_against_the_papers_own_interval(wrong, verdict):
    clips = _clips(n_artists=10, n_clips=1)  # 90 clips, each of its own artist
    predictions = _predictions(clips, PAPERS)
    mel = predictions.index[predictions["system"] == "cnn-mel"]
    predictions.loc[mel, "y_pred"] = predictions.loc[mel, "y_true"]
    predictions.loc[mel[:wrong], "y_pred"] = "World"
    found = _verdicts(predictions, clips).loc[5]
    assert found["figure"] == pytest.approx(1 - wrong / 90, abs=1e-6)
    assert found["verdict"] == verdict
    assert (found["low"] < 0.867 < found["high"]) == (verdict == UNDECIDED)


def test_each_protocol_is_judged_by_itself():
    clips = _clips()
    equal = _predictions(clips, dict.fromkeys(PAPERS, 0.3), "artist", partner=0.0, seed=1)
    both = pd.concat([_predictions(clips, PAPERS), equal])
    table = claims.claims_table(both, clips, "made up", **QUICK)
    assert table["claim"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7]
    columns = "claim text section dataset protocol measured figure low high verdict why"
    assert list(table.columns) == columns.split()
    first = table[table["claim"] == 1].set_index("protocol")["verdict"]
    assert first.to_dict() == {"random": HOLDS, "artist": UNDECIDED}
    alone = _verdicts(equal, clips, "artist")
    assert alone.equals(table[table["protocol"] == "artist"].set_index("claim"))
    assert "Knowing" not in alone.loc[5, "why"]


def test_a_published_split_is_judged_where_it_was_tested():
    clips = _clips()
    random, other = (_predictions(clips, PAPERS, name) for name in ("random", "published"))
    table = claims.claims_table(pd.concat([random, other]), clips, "made up", **QUICK)
    assert table["protocol"].value_counts().to_dict() == {"random": 7, "artist": 6, "published": 6}
    alone = claims.claims_table(random, clips, "made up", **QUICK)
    rest = table[table["protocol"] != "published"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, alone)


def test_a_protocol_that_was_not_run_is_not_judged():
    clips = _clips(n_artists=3)
    table = claims.claims_table(_predictions(clips, PAPERS), clips, "made up", **QUICK)
    artist = table[table["protocol"] == "artist"]
    assert artist["verdict"].tolist() == [UNTESTED] * 6
    assert artist["why"].str.contains("artist protocol").all()
    assert table.loc[table["claim"] == 6, "verdict"].tolist() == [HOLDS]


def test_claims_about_new_artists_are_not_tested_where_artists_are_unknown():
    clips = _clips(n_artists=3)
    predictions = _predictions(clips, PAPERS)
    table = claims.claims_table(predictions, clips.assign(artist="", album=""), "made up", **QUICK)
    artist = table[table["protocol"] == "artist"]
    assert set(artist["verdict"]) == {UNTESTED} and set(artist["why"]) == {"artists unknown"}
    random = table[table["protocol"] == "random"].set_index("claim")
    assert HOLDS in set(random["verdict"]) and "Knowing" not in random.loc[5, "why"]


@pytest.mark.parametrize(
    ("missing", "untested"),
    [("cnn-mel", {1, 3, 4, 5, 2, 7}), ("svm-mfcc", {1, 2, 7}), ("cnn-chroma", {1, 2, 3, 7})],
)
def test_a_missing_system(missing, untested):
    clips = _clips(n_artists=4)
    found = _verdicts(_predictions(clips, {k: v for k, v in PAPERS.items() if k != missing}), clips)
    assert set(found.index[found["verdict"] == UNTESTED]) == untested
    assert found.loc[sorted(untested - {7}), "why"].str.contains(missing).all()
    assert found.loc[sorted(untested), "figure"].isna().all()


def test_genres_that_are_absent():
    clips = _clips(("Classical", "Jazz", "World", "Electronica"))
    found = _verdicts(_predictions(clips, PAPERS | {"cnn-mel": 0.7}), clips).loc[4]
    assert found["verdict"] == HOLDS
    assert found["measured"] == "Classical/Jazz over other pairs"
    assert found["why"].startswith("Classical/Jazz over other pairs: +")  # the one comparison
    assert "Not in this data set: Electro Rock/Electronica, New Age/Ambient" in found["why"]
    assert "among 6 pairs: Classical/Jazz 1" in found["why"]
    clips = _clips(("Classical", "World", "Electronica"))
    found = _verdicts(_predictions(clips, PAPERS), clips).loc[4]
    assert found["verdict"] == UNTESTED
    assert "Classical/Jazz" in found["why"]
    clips = _clips(("Classical", "Jazz"))
    assert _verdicts(_predictions(clips, PAPERS), clips).loc[4, "verdict"] == UNTESTED


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.99, HOLDS), (0.93, UNDECIDED), (0.5, FAILS)])
def test_a_fusion_is_held_against_the_best_single_system(accuracy, verdict):
    clips = _clips()
    predictions = _predictions(clips, PAPERS | {"fusion-x": accuracy, "svm-fair": 0.999})
    found = _verdicts(predictions, clips).loc[7]
    assert found["verdict"] == verdict
    assert found["measured"] == "fusion-x over CNN+Mel-spectrogram"


@pytest.mark.parametrize(
    ("sides", "verdict", "some"),
    [
        ("++", HOLDS, HOLDS),
        ("+0", UNDECIDED, HOLDS),
        ("+-", FAILS, HOLDS),
        ("00", UNDECIDED, UNDECIDED),
        ("0-", FAILS, UNDECIDED),
        ("--", FAILS, FAILS),
    ],
)
def test_the_rule_for_several_comparisons(sides, verdict, some):
    numbers = {"+": (0.2, 0.1, 0.3, 0.01), "0": (0.2, 0.01, 0.3, 0.06), "-": (-0.2, -0.3, -0.1, 0)}
    compared = [Comparison(side, *numbers[side]) for side in sides]
    assert verdict in claims._verdict(compared)
    assert some in claims._verdict(compared, some=True)


def test_verdicts_are_corrected_for_the_number_of_comparisons(monkeypatch):
    clips = _clips(n_artists=4)
    predictions = _predictions(clips, PAPERS)
    seen = []
    monkeypatch.setattr(intervals, "holm", lambda p: seen.append(len(p)) or np.ones(len(p)))
    found = _verdicts(predictions, clips)
    # Five leads among the four systems, two over the majority class, three pairs of genres. The
    # correction that `intervals.compare` itself makes comes before.
    assert seen[-1] == 10
    assert found["verdict"][[1, 2, 3, 4]].tolist() == [UNDECIDED] * 4


def test_pair_rates_by_hand():
    counts = np.array([[8, 1, 1], [3, 7, 0], [0, 0, 0]])
    rates = claims.pair_rates(counts, [(0, 1), (0, 2), (1, 2)])
    assert rates == pytest.approx([4 / 20, 1 / 10, 0])
    assert claims.pair_rates(counts[None], [(2, 2)]) == pytest.approx(np.zeros((1, 1)))


def test_the_papers_own_matrix_ranks_its_pairs():
    answers = [np.repeat(paper.GENRES, row // 2) for row in paper.FIG3]
    clips = _clips(n_artists=50, n_clips=1)
    table = clips[["clip_id"]].assign(y_true=clips["genre"], y_pred=np.concatenate(answers))
    found = claims.confused_pairs(table, clips, **QUICK).set_index("pair")
    assert found["rate"].to_dict() == pytest.approx(
        {"Ambient/New Age": 0.04, "Classical/Jazz": 0.06, "Electro Rock/Electronica": 0.04}
    )
    assert found["rank"].to_dict() == {
        "Ambient/New Age": 2,
        "Classical/Jazz": 1,
        "Electro Rock/Electronica": 2,
    }


def test_without_a_difference_pairs_are_seldom_called_more_confused():
    clips = _clips(n_artists=10, n_clips=4)
    p = []
    for seed in range(60):
        mel = _predictions(clips, {"cnn-mel": 0.4}, partner=0.0, seed=seed)
        p += claims.confused_pairs(mel, clips, n_resamples=300)["p_artist"].tolist()
    assert len(p) == 180
    assert np.mean(np.array(p) < 0.05) < 0.11


def test_a_pair_without_an_error_is_not_called_rarer_when_hardly_any_was_due():
    clips = _clips(n_artists=20, n_clips=8)
    mel = _predictions(clips, {"cnn-mel": 1.0})
    wrong = {"Alt Rock": "World", "World": "Hard Rock", "Hard Rock": "Alt Rock"}
    p = {}
    for every in (1, 8):
        hit = mel["y_true"].isin(list(wrong)) & (mel.index % every == 0)
        answers = mel["y_true"].map(wrong).where(hit, mel["y_true"])
        found = claims.confused_pairs(mel.assign(y_pred=answers), clips, **QUICK)
        assert (found["rate"] == 0).all()
        assert (found["hi"] < 0).all()
        p[every] = found["p_artist"].tolist()
    assert max(p[1]) < 0.01
    assert p[8] == [1, 1, 1]


def test_same_seed_same_table_in_any_order_of_rows():
    clips = _clips(n_artists=3)
    predictions = _predictions(clips, PAPERS)
    one = claims.claims_table(predictions, clips, "made up", **QUICK)
    mixed = predictions.sample(frac=1, random_state=0)
    assert claims.claims_table(mixed, clips, "made up", **QUICK).equals(one)


def test_markdown_has_every_row_and_no_nan():
    clips = _clips(n_artists=3)
    table = claims.claims_table(_predictions(clips, PAPERS), clips, "made up", **QUICK)
    text = claims.claims_markdown(table, "Made-up clips", "synthesised")
    assert "Made-up clips** (synthesised)" in text
    heads, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert heads == ["claim", "section", "protocol", "figure (95 % interval)", "verdict", "why"]
    assert [re.match(r"\d", row[0]).group() for row in rows] == table["claim"].astype(str).tolist()
    assert {len(row) for row in rows} == {6}
    assert "nan" not in text
    own = next(row for row in rows if row[2] == "the paper's own")
    assert own[3].endswith("404 of 450: 0.90 (0.87 to 0.92)")
    assert own[4] == "**holds**"
    first = table.iloc[0]
    assert rows[0][3].endswith(f"{first.figure:+.2f} ({first.low:+.2f} to {first.high:+.2f})")
