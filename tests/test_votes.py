import numpy as np
import pandas as pd
import pytest

from genre_utils.metrics import evaluate
from genre_utils.metrics import evaluate as votes
from genre_utils.runtime import GenreUtilsError

CLIPS = pd.DataFrame(
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


def _predictions(system, answers, proba=None):
    """Answers of the clips in the order of `CLIPS`."""
    table = CLIPS[["clip_id"]].assign(system=system, protocol="random", fold=range(len(CLIPS)))
    table = table.assign(y_true=CLIPS["genre"], y_pred=list(answers))
    a = np.full(len(CLIPS), np.nan) if proba is None else np.array(proba)
    return table.assign(p_A=a, p_B=1 - a)


def test_songs_by_hand():
    sure_once = [0.45, 0.45, 0.9, 0.2, 0.7, 0.1, 0.9]
    both = pd.concat(
        [
            _predictions("cnn", "BBABABA", sure_once),
            _predictions("svm", "BBABABA"),
        ]
    )
    songs = votes.song_level(both, CLIPS).set_index(["system", "clip_id"])
    assert songs.loc["cnn"].index.tolist() == ["c3", "c4", "c6", "c7"]  # the earliest stands
    assert songs.loc["cnn", "n_clips"].tolist() == [3, 2, 1, 1]
    assert songs.loc["cnn", "y_pred"].tolist() == ["A", "B", "B", "A"]  # means .6 and .45
    # Votes: two of three for B; a tie, to the answer of the clip at 0 s; each nameless clip alone.
    assert songs.loc["svm", "y_pred"].tolist() == ["B", "B", "B", "A"]
    assert songs.loc["svm", "y_true"].tolist() == ["A", "B", "B", "B"]


def test_a_tie_goes_to_the_earliest_clip_whatever_its_id():
    tied = _predictions("svm", "BAABAAA")  # of y: B at 0 s, A at 29 s
    for answers, wanted in (("BABBAAA", "B"), ("BABABAA", "A")):
        songs = votes.song_level(_predictions("svm", answers), CLIPS).set_index("clip_id")
        assert songs.loc["c4", "y_pred"] == wanted
    mixed = tied.sample(frac=1, random_state=0)
    assert votes.song_level(mixed, CLIPS).equals(votes.song_level(tied, CLIPS))


def test_systems_and_protocols_keep_their_order_and_are_not_mixed():
    one = _predictions("z", "AAABBBB")
    two = _predictions("a", "BBBAAAA")
    everything = pd.concat([one, two, one.assign(protocol="artist")])
    songs = votes.song_level(everything, CLIPS)
    pairs = songs[["system", "protocol"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["z", "random"], ["a", "random"], ["z", "artist"]]
    right = (songs["y_true"] == songs["y_pred"]).groupby(songs["system"]).mean()
    assert right.to_dict() == {"a": 0.0, "z": 1.0}


def test_combined_probabilities_by_hand():
    one = _predictions("one", "AAABBBB", [0.9, 0.6, 0.5, 0.1, 0.2, 0.3, 0.4])
    two = _predictions("two", "AAABBBB", [0.2, 0.3, 0.9, 0.1, 0.9, 0.3, 0.5])
    whole = pd.concat([one, two, _predictions("svm", "AAABBBB")])
    both = votes.combine(whole, ["one", "two"], "fused")
    assert both["p_A"].tolist() == pytest.approx([0.55, 0.45, 0.7, 0.1, 0.55, 0.3, 0.45])
    assert "".join(both["y_pred"]) == "ABABABB"
    assert both["clip_id"].tolist() == one["clip_id"].tolist()
    expected = one[["protocol", "clip_id", "fold"]]
    evaluate.check_predictions(both, expected, ["fused"])


def test_folds_that_all_have_are_combined():
    one = _predictions("one", "AAABBBB", np.linspace(0, 1, 7))
    two = one.assign(system="two", p_A=0.5, p_B=0.5)
    other = two.assign(protocol="artist")
    both = votes.combine(pd.concat([one, two[3:], other]), ["one", "two"], "fused")
    assert both["fold"].tolist() == [3, 4, 5, 6]
    assert set(both["protocol"]) == {"random"}
    assert both["p_A"].tolist() == pytest.approx(list((np.arange(3, 7) / 6 + 0.5) / 2))


def test_what_cannot_be_combined_is_refused():
    one = _predictions("one", "AAABBBB", np.linspace(0, 1, 7))
    svm = _predictions("svm", "AAABBBB")
    with pytest.raises(GenreUtilsError, match="no probabilities of svm to combine"):
        votes.combine(pd.concat([one, svm]), ["one", "svm"], "fused")
    with pytest.raises(GenreUtilsError, match="no probabilities of two to combine"):
        votes.combine(one, ["one", "two"], "fused")
    other = one.assign(system="two", protocol="artist")
    with pytest.raises(GenreUtilsError, match="not tested on the same clips and folds"):
        votes.combine(pd.concat([one, other]), ["one", "two"], "fused")
    with pytest.raises(GenreUtilsError, match="not tested on the same clips"):
        apart = one.assign(fold=1 - one["fold"] % 2)
        votes.combine(pd.concat([one, apart[2:].assign(system="two")]), ["one", "two"], "fused")
    with pytest.raises(GenreUtilsError, match="not in the clip table"):
        votes.song_level(one, CLIPS[1:])
