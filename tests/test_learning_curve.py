"""Systems that are trained on some of their artists, and the line through their accuracies."""

import numpy as np
import pandas as pd
import pytest

from genre_utils.metrics import intervals
from genre_utils.metrics import tables as curves

GENRES = ["A", "B"]


def _clips(n_artists=16, n_clips=2):
    artist = np.repeat(np.arange(n_artists), n_clips)
    n = len(artist)
    return pd.DataFrame(
        {
            "clip_id": [f"c{i:03d}" for i in range(n)],
            "genre": [GENRES[a % 2] for a in artist],
            "artist": [f"a{a}" for a in artist],
            "album": "",
            "start_s": np.arange(n) % n_clips,
            "track": [f"t{i}" for i in range(n)],
            "status": "ok",
            "sha256": [f"{i:064x}" for i in range(n)],
        }
    )


def _known_curve(clips, right, draws=1):
    """Predictions of which exactly the given number is right, by (train_size, n_artists)."""
    tables = []
    for (train_size, n_artists), number in right.items():
        for draw in range(draws):
            table = pd.DataFrame(
                {
                    "system": "cnn-mel",
                    "protocol": "artist",
                    "clip_id": clips["clip_id"],
                    "y_true": clips["genre"],
                    "train_size": train_size,
                    "draw": draw,
                    "n_artists": n_artists,
                }
            )
            other = clips["genre"].map({"A": "B", "B": "A"})
            shift = draw * (1 if train_size < 1 else 0)  # a draw has one right answer more
            wrong = np.arange(len(clips)) >= number + shift
            table["y_pred"] = clips["genre"].mask(wrong, other)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_a_straight_line_over_doublings_is_found_and_goes_on():
    clips = _clips(20, 1)
    right = {(0.25, 4): 10, (0.5, 8): 12, (1.0, 16): 14}
    curve = curves.learning_curve(_known_curve(clips, right), clips, n_resamples=500)
    assert list(curve["accuracy"]) == pytest.approx([0.5, 0.6, 0.7])
    assert list(curve["n_artists"]) == [4, 8, 16]
    assert set(curve["gain"]) == {0.1} and set(curve["twice"]) == {0.8}
    for name in ("accuracy", "gain", "twice"):
        assert (curve[f"{name}_lo"] < curve[name]).all()
        assert (curve[name] < curve[f"{name}_hi"]).all()


def test_leads_are_over_the_first_system_on_the_same_songs():
    clips = _clips(20, 1)
    one = _known_curve(clips, {(0.5, 8): 10, (1.0, 16): 12})
    two = _known_curve(clips, {(0.5, 8): 14, (1.0, 16): 12}).assign(system="mine")
    how = {"n_resamples": 400, "seed": 3}
    curve = curves.learning_curve(pd.concat([one, two]), clips, **how).set_index("system")
    assert (curve.loc["cnn-mel", ["lead", "lead_lo", "lead_hi"]] == 0).all(axis=None)
    lead = curve.loc["mine"].iloc[0]
    pair = pd.concat([one, two])
    pair = pair[pair["train_size"] == 0.5]
    expected = intervals.compare(pair, clips, [("mine", "cnn-mel")], **how).iloc[0]
    assert list(lead[["lead", "lead_lo", "lead_hi"]]) == pytest.approx(
        list(expected[["difference", "lo", "hi"]]), abs=1e-6
    )
    assert list(curve.loc["mine"].iloc[1][["lead", "lead_lo", "lead_hi"]]) == [0, 0, 0]


def test_draws_are_averaged_and_equal_sizes_have_no_slope():
    clips = _clips(20, 1)
    right = {(0.5, 8): 12, (1.0, 16): 14}
    curve = curves.learning_curve(_known_curve(clips, right, draws=3), clips, n_resamples=200)
    assert list(curve["accuracy"]) == pytest.approx([0.65, 0.7])
    assert list(curve["lowest"]) == pytest.approx([0.6, 0.7])
    assert list(curve["highest"]) == pytest.approx([0.7, 0.7])
    assert curve["gain"].iloc[0] == pytest.approx(0.05)
    same = curves.learning_curve(
        _known_curve(clips, {(0.5, 8): 12, (1.0, 8): 12}), clips, n_resamples=50
    )
    assert same[["gain", "gain_lo", "twice"]].isna().all(axis=None)


def test_songs_vote():
    clips = _clips(8, 2).assign(track=lambda t: t["artist"])
    table = _known_curve(clips, {(0.5, 2): 9, (1.0, 4): 16})
    for genre in GENRES:
        table[f"p_{genre}"] = np.where(table["y_pred"] == genre, 0.9, 0.1)
    wrong = (table["train_size"] == 1) & (table["clip_id"] == "c000")
    table.loc[wrong, ["p_A", "p_B"]] = [0.45, 0.55]  # the song's other clip is surer
    curve = curves.learning_curve(table, clips, n_resamples=50)
    assert curve["accuracy"].iloc[-1] == 1.0
