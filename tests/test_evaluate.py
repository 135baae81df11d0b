"""Scores, songs and combinations, and the rules that need no music."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from genre_utils import paper
from genre_utils.data import splits as protocols
from genre_utils.metrics import evaluate
from genre_utils.runtime import GenreUtilsError, UsageError

GENRES = ["Classical", "Jazz", "World"]


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    tables = []
    for system in ("cnn-mel", "svm-mfcc", "other"):
        for protocol in ("random", "artist"):
            y = np.repeat(GENRES, [10, 20, 5])
            guess = np.where(rng.random(35) < 0.6, y, rng.choice(GENRES, 35))
            table = pd.DataFrame(
                {"system": system, "protocol": protocol, "fold": np.arange(35) % 5}
            )
            table["clip_id"] = [f"c{i}" for i in range(35)]
            table["y_true"], table["y_pred"] = y, guess
            for genre in GENRES:
                table[f"p_{genre}"] = np.nan if system == "svm-mfcc" else (guess == genre) * 1.0
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def splits(predictions):
    return predictions[predictions["system"] == "cnn-mel"][["protocol", "clip_id", "fold"]]


def test_scores_against_scikit_learn(predictions):
    for average in evaluate.F_AVERAGES:
        for row in evaluate.score_table(predictions, average).itertuples():
            part = predictions[
                (predictions["system"] == row.system) & (predictions["protocol"] == row.protocol)
            ]
            report = metrics.classification_report(
                part["y_true"], part["y_pred"], output_dict=True, zero_division=0
            )
            assert row.accuracy == pytest.approx(report["accuracy"], abs=1e-6)
            assert row.f_score == pytest.approx(report[f"{average} avg"]["f1-score"], abs=1e-6)
            assert (row.n_clips, row.n_folds) == (35, 5)


def test_the_papers_numbers_stand_beside_its_own_protocol_only(predictions):
    table = evaluate.score_table(predictions).set_index(["system", "protocol"])
    assert table.loc[("cnn-mel", "random"), ["paper_accuracy", "paper_f_score"]].tolist() == [
        0.9,
        0.9,
    ]
    assert table.loc[("svm-mfcc", "random"), "paper_accuracy"] == 0.32
    assert table.loc[(slice(None), "artist"), "paper_accuracy"].isna().all()
    assert np.isnan(table.loc[("other", "random"), "paper_accuracy"])


def test_confusion_rows_are_per_cent_of_the_true_genre(predictions):
    part = predictions[:35]
    matrix = evaluate.confusion_percent(part, GENRES)
    assert np.allclose(matrix.sum(axis=1), 100)
    true_jazz = part[part["y_true"] == "Jazz"]
    assert matrix.loc["Jazz", "World"] == pytest.approx(
        100 * (true_jazz["y_pred"] == "World").mean()
    )
    counts = part["y_true"].value_counts()[GENRES].to_numpy()
    accuracy = (np.diag(matrix) * counts).sum() / counts.sum() / 100
    assert accuracy == pytest.approx((part["y_true"] == part["y_pred"]).mean())


def test_per_fold_accuracy_averages_to_the_whole(predictions):
    folds = evaluate.per_fold(predictions)
    assert len(folds) == 6 * 5
    whole = evaluate.score_table(predictions).set_index(["system", "protocol"])["accuracy"]
    means = folds.groupby(["system", "protocol"])["accuracy"].mean()  # folds of equal size
    for key, accuracy in whole.items():
        assert means[key] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize(("k", "n"), [(404, 450), (0, 10), (10, 10), (3, 7)])
def test_wilson_interval_by_its_formula(k, n):
    z, p = 1.959964, k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert evaluate.wilson_interval(k, n) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_the_papers_figure_3_against_its_table_1():
    found = evaluate.paper_figure3_metrics()
    assert found["accuracy"] == pytest.approx(808 / 900)
    truth = np.repeat(paper.GENRES, 50)
    answers = np.concatenate([np.repeat(paper.GENRES, row // 2) for row in paper.FIG3])
    assert found["F-score"] == pytest.approx(metrics.f1_score(truth, answers, average="macro"))
    precision = metrics.precision_score(truth, answers, average="macro")
    assert found["precision"] == pytest.approx(precision)
    assert round(found["accuracy"], 2) == paper.TABLE1["cnn-mel"][0]
    assert round(found["F-score"], 2) == paper.TABLE1["cnn-mel"][1]


def test_predictions_that_fit_the_splits_pass(predictions, splits):
    evaluate.check_predictions(predictions, splits, ["cnn-mel", "svm-mfcc"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p[p["system"] != "svm-mfcc"], "svm-mfcc has 0 rows"),
        (lambda p: p.drop(index=3), "cnn-mel has 69 rows"),
        (lambda p: pd.concat([p, p[:1]]), "cnn-mel has 71 rows"),
        (lambda p: p.assign(fold=p["fold"].where(p.index != 5, 9)), "do not fit"),
        (lambda p: p.assign(p_Jazz=p["p_Jazz"] * 0.5), "do not sum to 1"),
    ],
)
def test_predictions_that_do_not_are_refused(predictions, splits, spoil, said):
    with pytest.raises(GenreUtilsError, match=said):
        evaluate.check_predictions(spoil(predictions), splits, ["cnn-mel", "svm-mfcc"])


def test_an_unknown_average_is_refused(predictions):
    with pytest.raises(UsageError, match="unknown f_average 'micro'"):
        evaluate.score_table(predictions, "micro")


SONGS = pd.DataFrame(
    [
        ("c3", "A", "x", "al", "t", 0.0),
        ("c1", "A", "x", "al", "t", 29.0),
        ("c2", "A", "x", "al", "t", 58.0),
        ("c4", "B", "y", "al", "t", 0.0),
        ("c5", "B", "y", "al", "t", 29.0),
        ("c6", "B", "", "", "", 0.0),
        ("c7", "B", "", "", "", 0.0),
    ],
    columns=["clip_id", "genre", "artist", "album", "track", "start_s"],
)


def _answers(system, answers, proba=None):
    """Answers of the clips in the order of `SONGS`."""
    table = SONGS[["clip_id"]].assign(system=system, protocol="random", fold=range(len(SONGS)))
    table = table.assign(y_true=SONGS["genre"], y_pred=list(answers))
    a = np.full(len(SONGS), np.nan) if proba is None else np.array(proba)
    return table.assign(p_A=a, p_B=1 - a)


def test_songs_by_hand():
    sure_once = [0.45, 0.45, 0.9, 0.2, 0.7, 0.1, 0.9]
    both = pd.concat(
        [
            _answers("cnn", "BBABABA", sure_once),
            _answers("svm", "BBABABA"),
        ]
    )
    songs = evaluate.song_level(both, SONGS).set_index(["system", "clip_id"])
    assert songs.loc["cnn"].index.tolist() == ["c3", "c4", "c6", "c7"]  # the earliest stands
    assert songs.loc["cnn", "n_clips"].tolist() == [3, 2, 1, 1]
    assert songs.loc["cnn", "y_pred"].tolist() == ["A", "B", "B", "A"]  # means .6 and .45
    # Votes: two of three for B; a tie, to the answer of the clip at 0 s; each nameless clip alone.
    assert songs.loc["svm", "y_pred"].tolist() == ["B", "B", "B", "A"]
    assert songs.loc["svm", "y_true"].tolist() == ["A", "B", "B", "B"]


def test_a_tie_goes_to_the_earliest_clip_whatever_its_id():
    tied = _answers("svm", "BAABAAA")  # of y: B at 0 s, A at 29 s
    for answers, wanted in (("BABBAAA", "B"), ("BABABAA", "A")):
        songs = evaluate.song_level(_answers("svm", answers), SONGS).set_index("clip_id")
        assert songs.loc["c4", "y_pred"] == wanted
    mixed = tied.sample(frac=1, random_state=0)
    assert evaluate.song_level(mixed, SONGS).equals(evaluate.song_level(tied, SONGS))


def test_systems_and_protocols_keep_their_order_and_are_not_mixed():
    one = _answers("z", "AAABBBB")
    two = _answers("a", "BBBAAAA")
    everything = pd.concat([one, two, one.assign(protocol="artist")])
    songs = evaluate.song_level(everything, SONGS)
    pairs = songs[["system", "protocol"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["z", "random"], ["a", "random"], ["z", "artist"]]
    right = (songs["y_true"] == songs["y_pred"]).groupby(songs["system"]).mean()
    assert right.to_dict() == {"a": 0.0, "z": 1.0}


def test_combined_probabilities_by_hand():
    one = _answers("one", "AAABBBB", [0.9, 0.6, 0.5, 0.1, 0.2, 0.3, 0.4])
    two = _answers("two", "AAABBBB", [0.2, 0.3, 0.9, 0.1, 0.9, 0.3, 0.5])
    whole = pd.concat([one, two, _answers("svm", "AAABBBB")])
    both = evaluate.combine(whole, ["one", "two"], "fused")
    assert both["p_A"].tolist() == pytest.approx([0.55, 0.45, 0.7, 0.1, 0.55, 0.3, 0.45])
    assert "".join(both["y_pred"]) == "ABABABB"
    assert both["clip_id"].tolist() == one["clip_id"].tolist()
    expected = one[["protocol", "clip_id", "fold"]]
    evaluate.check_predictions(both, expected, ["fused"])


def test_folds_that_all_have_are_combined():
    one = _answers("one", "AAABBBB", np.linspace(0, 1, 7))
    two = one.assign(system="two", p_A=0.5, p_B=0.5)
    other = two.assign(protocol="artist")
    both = evaluate.combine(pd.concat([one, two[3:], other]), ["one", "two"], "fused")
    assert both["fold"].tolist() == [3, 4, 5, 6]
    assert set(both["protocol"]) == {"random"}
    assert both["p_A"].tolist() == pytest.approx(list((np.arange(3, 7) / 6 + 0.5) / 2))


def test_what_cannot_be_combined_is_refused():
    one = _answers("one", "AAABBBB", np.linspace(0, 1, 7))
    svm = _answers("svm", "AAABBBB")
    with pytest.raises(GenreUtilsError, match="no probabilities of svm to combine"):
        evaluate.combine(pd.concat([one, svm]), ["one", "svm"], "fused")
    with pytest.raises(GenreUtilsError, match="no probabilities of two to combine"):
        evaluate.combine(one, ["one", "two"], "fused")
    other = one.assign(system="two", protocol="artist")
    with pytest.raises(GenreUtilsError, match="not tested on the same clips and folds"):
        evaluate.combine(pd.concat([one, other]), ["one", "two"], "fused")
    with pytest.raises(GenreUtilsError, match="not tested on the same clips"):
        apart = one.assign(fold=1 - one["fold"] % 2)
        evaluate.combine(pd.concat([one, apart[2:].assign(system="two")]), ["one", "two"], "fused")
    with pytest.raises(GenreUtilsError, match="not in the clip table"):
        evaluate.song_level(one, SONGS[1:])


def _clips(rows):
    clips = pd.DataFrame(rows, columns=["genre", "artist", "album", "track"])
    clips.insert(0, "clip_id", [f"{i:04d}" for i in range(len(clips))])
    return clips.assign(status="ok")


@pytest.fixture
def corpus():
    """Four genres, ten artists each; one album in five is of another genre than its artist."""
    rng = np.random.default_rng(0)
    rows = []
    for g in "ABCD":
        for a in range(10):
            for album in range(5):
                genre = g if album else rng.choice(list("ABCD"))
                rows += [(genre, f"{g}{a}", f"al{album}", f"t{t // 2}") for t in range(4)]
    clips = _clips(rows)
    return clips, protocols.make_splits(clips, list(protocols.PROTOCOLS), n_folds=5)


def test_answers_by_hand():
    clips = _clips(
        [
            ("A", "x", "1", "t"),
            ("A", "x", "1", "t"),
            ("B", "x", "2", "u"),
            ("B", "y", "1", "v"),
            ("B", "y", "1", "w"),
            ("C", "z", "1", "t"),
            ("B", "", "", ""),
        ]
    )
    folds = [0, 1, 1, 1, 1, 0, 0]
    table = pd.DataFrame({"protocol": "random", "clip_id": clips["clip_id"], "fold": folds})
    found = evaluate.reference_points(clips, table)
    first = found[found["fold"] == 0].set_index(["clip_id", "system"])["y_pred"].unstack()
    # Training: A of x/1/t, B of x/2/u, two B of y. Artist x: A and B equally often, so A.
    # Of all seven clips B has four.
    assert first.loc["0000"].to_dict() == {
        "majority": "B",
        "oracle-track": "A",
        "oracle-album": "A",
        "oracle-artist": "A",
    }
    assert (first.loc["0005"] == "B").all()  # z is met in no training fold
    assert (first.loc["0006"] == "B").all()


def test_each_clip_once_a_protocol_in_the_form_of_predictions(corpus):
    clips, table = corpus
    found = evaluate.reference_points(clips, table)
    evaluate.check_predictions(found, table, list(paper.REFERENCE_POINTS))
    assert len(found) == len(paper.REFERENCE_POINTS) * len(table)
    truth = clips.set_index("clip_id")["genre"]
    assert (found["y_true"] == found["clip_id"].map(truth)).all()


def test_an_oracle_is_worth_what_the_protocol_leaves_shared(corpus):
    clips, table = corpus
    found = evaluate.score_table(evaluate.reference_points(clips, table))
    accuracy = found.pivot(index="system", columns="protocol", values="accuracy")
    assert accuracy.loc["oracle-track", "random"] > 0.7
    assert 0.7 < accuracy.loc["oracle-artist", "random"] < 1
    assert accuracy.loc["oracle-album", "random"] > 0.95  # an album has one genre here
    majority = accuracy.loc["majority"]
    assert (majority < 0.4).all()
    for system, blind in {
        "oracle-track": ["track", "album", "artist"],
        "oracle-album": ["album", "artist"],
        "oracle-artist": ["artist"],
    }.items():
        assert (accuracy.loc[system, blind] == majority[blind]).all(), system
    assert accuracy.loc["oracle-artist", "album"] > 0.7


def test_an_oracle_of_unknown_names_is_not_asked(corpus):
    clips, table = corpus
    clips = clips.assign(artist="", track=clips["clip_id"])
    assert set(evaluate.reference_points(clips, table)["system"]) == {"majority", "oracle-album"}


def test_test_clips_tell_an_oracle_nothing(corpus):
    """Changing the genres of one fold's clips changes no oracle's answer on a group it has met."""
    clips, table = corpus
    mine = table[table["protocol"] == "random"]
    in_fold = clips["clip_id"].isin(mine.loc[mine["fold"] == 2, "clip_id"])
    others = clips.assign(genre=clips["genre"].mask(in_fold, "D"))
    for level in ("track", "album", "artist"):
        group = protocols.groups(clips, level)
        met = clips.loc[in_fold & group.isin(group[~in_fold]), "clip_id"]
        answers = [evaluate.reference_points(c, mine) for c in (clips, others)]
        of_oracle = [a[a["system"] == f"oracle-{level}"] for a in answers]
        one, two = (a[a["clip_id"].isin(met)] for a in of_oracle)
        assert len(one) == len(met) > 100
        assert one["y_pred"].tolist() == two["y_pred"].tolist()
        assert one["y_true"].tolist() != two["y_true"].tolist()


def test_majority_is_chance_level_under_every_protocol(corpus):
    """Not less: the usual training-part majority scores 0 on equally large genres."""
    clips, table = corpus
    found = evaluate.score_table(evaluate.reference_points(clips, table)).set_index("system")
    share = clips["genre"].value_counts(normalize=True).max()
    assert found.loc["majority", "accuracy"].tolist() == pytest.approx([share] * 4, abs=1e-6)


def _table(**accuracy):
    rows = [(name.replace("_", "-"), "random", value) for name, value in accuracy.items()]
    return pd.DataFrame(rows, columns=["system", "protocol", "accuracy"])


def test_words_about_the_artist_oracle():
    words = evaluate.against_artist_oracle(
        _table(cnn_mel=0.9, svm_mfcc=0.97, oracle_artist=0.95, oracle_album=0.99, majority=0.2)
    )
    assert "scores 0.95 under random" in words
    assert "Not above it: cnn-mel (0.90)" in words
    assert "Above it: svm-mfcc (0.97)" in words
    assert "majority" not in words and "oracle" not in words
    words = evaluate.against_artist_oracle(_table(cnn_mel=0.96, oracle_artist=0.95))
    assert words.endswith("every system is above it: cnn-mel (0.96).")
    assert evaluate.against_artist_oracle(_table(cnn_mel=0.9)).startswith("No artist oracle")


def test_what_the_most_confused_pair_costs():
    true = ["pop"] * 4 + ["rock"] * 4 + ["jazz"] * 2
    said = ["pop", "rock", "rock", "jazz"] + ["rock"] * 3 + ["pop"] + ["jazz"] * 2
    table = pd.DataFrame({"y_true": true, "y_pred": said}).assign(system="a", protocol="artist")
    table["clip_id"] = [f"c{i}" for i in table.index]
    row = evaluate.ceiling(table).iloc[0]
    assert (row["pair"], row["accuracy"], row["share"]) == ("pop / rock", 0.6, 0.75)
    assert row["merged"] == pytest.approx(0.9)
    assert np.isnan(row["catalogue"])
    other = pd.Series(["Alt"] * 8 + ["Jazz"] * 2, table["clip_id"])  # pop and rock are one there
    assert evaluate.ceiling(table, other).iloc[0]["catalogue"] == pytest.approx(0.6)
    perfect = evaluate.ceiling(table.assign(y_pred=true)).iloc[0]
    assert (perfect["pair"], perfect["share"], perfect["merged"]) == ("", 0, 1)
