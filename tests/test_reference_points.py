import numpy as np
import pandas as pd
import pytest

from genre_utils.data import splits
from genre_utils.metrics import evaluate
from genre_utils.metrics import evaluate as reference_points
from genre_utils.paper import REFERENCE_POINTS as LABELS


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
    return clips, splits.make_splits(clips, list(splits.PROTOCOLS), n_folds=5)


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
    found = reference_points.reference_points(clips, table)
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
    found = reference_points.reference_points(clips, table)
    evaluate.check_predictions(found, table, list(LABELS))
    assert len(found) == len(LABELS) * len(table)
    truth = clips.set_index("clip_id")["genre"]
    assert (found["y_true"] == found["clip_id"].map(truth)).all()


def test_an_oracle_is_worth_what_the_protocol_leaves_shared(corpus):
    clips, table = corpus
    found = evaluate.table1(reference_points.reference_points(clips, table))
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


def test_test_clips_tell_an_oracle_nothing(corpus):
    """Changing the genres of one fold's clips changes no oracle's answer on a group it has met."""
    clips, table = corpus
    mine = table[table["protocol"] == "random"]
    in_fold = clips["clip_id"].isin(mine.loc[mine["fold"] == 2, "clip_id"])
    others = clips.assign(genre=clips["genre"].mask(in_fold, "D"))
    for level in ("track", "album", "artist"):
        group = splits.groups(clips, level)
        met = clips.loc[in_fold & group.isin(group[~in_fold]), "clip_id"]
        answers = [reference_points.reference_points(c, mine) for c in (clips, others)]
        of_oracle = [a[a["system"] == f"oracle-{level}"] for a in answers]
        one, two = (a[a["clip_id"].isin(met)] for a in of_oracle)
        assert len(one) == len(met) > 100
        assert one["y_pred"].tolist() == two["y_pred"].tolist()
        assert one["y_true"].tolist() != two["y_true"].tolist()


def test_majority_is_chance_level_under_every_protocol(corpus):
    """Not less: the usual training-part majority scores 0 on equally large genres."""
    clips, table = corpus
    found = evaluate.table1(reference_points.reference_points(clips, table)).set_index("system")
    share = clips["genre"].value_counts(normalize=True).max()
    assert found.loc["majority", "accuracy"].tolist() == pytest.approx([share] * 4, abs=1e-6)


def _table(**accuracy):
    rows = [(name.replace("_", "-"), "random", value) for name, value in accuracy.items()]
    return pd.DataFrame(rows, columns=["system", "protocol", "accuracy"])


def test_words_about_the_artist_oracle():
    words = reference_points.against_artist_oracle(
        _table(cnn_mel=0.9, svm_mfcc=0.97, oracle_artist=0.95, oracle_album=0.99, majority=0.2)
    )
    assert "scores 0.95 under random" in words
    assert "Not above it: cnn-mel (0.90)" in words
    assert "Above it: svm-mfcc (0.97)" in words
    assert "majority" not in words and "oracle" not in words
    words = reference_points.against_artist_oracle(_table(cnn_mel=0.96, oracle_artist=0.95))
    assert words.endswith("every system is above it: cnn-mel (0.96).")
    assert reference_points.against_artist_oracle(_table(cnn_mel=0.9)) == ""
