"""The table beyond the paper."""

import numpy as np
import pandas as pd
import pytest

from genre_utils.metrics import evaluate as votes
from genre_utils.metrics import intervals
from genre_utils.metrics import tables as beyond

GENRES = ("A", "B", "C")


def _clips(n=60):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "clip_id": [f"c{i:02d}" for i in range(n)],
            "path": "x",
            "dataset": "t",
            "genre": [GENRES[i // 2 % 3] for i in range(n)],
            "artist": [f"a{i // 4}" for i in range(n)],
            "album": [f"b{i // 4}" for i in range(n)],
            "track": [f"t{i // 2}" for i in range(n)],
            "start_s": [float(i % 2) for i in range(n)],
            "status": "ok",
            "sha256": [f"{rng.integers(1 << 62):x}" for _ in range(n)],
        }
    )


def _answers(clips, system, share, seed, folds=5):
    """Answers of which about ``share`` are right, with probabilities."""
    rng = np.random.default_rng(seed)
    right = rng.random(len(clips)) < share
    true = clips["genre"].to_numpy()
    other = np.array([GENRES[(GENRES.index(g) + 1) % 3] for g in true])
    table = pd.DataFrame(
        {
            "system": system,
            "protocol": "artist",
            "fold": np.arange(len(clips)) // 4 % folds,
            "clip_id": clips["clip_id"],
            "y_true": true,
            "y_pred": np.where(right, true, other),
        }
    )
    for genre in GENRES:
        table[f"p_{genre}"] = np.where(table["y_pred"] == genre, 0.8, 0.1)
    return table


@pytest.fixture
def clips():
    return _clips()


def test_the_lead_is_over_the_reference_on_the_same_clips(clips):
    reference, better = (
        _answers(clips, n, s, i) for i, (n, s) in enumerate([("cnn-mel", 0.4), ("chosen", 0.9)])
    )
    part = better[better["fold"] < 2]
    table = beyond.beyond_table(pd.concat([reference, part]), clips, n_resamples=300)
    row = table.set_index("system").loc["chosen"]
    same = reference[reference["fold"] < 2]
    right = [(t["y_true"] == t["y_pred"]).mean() for t in (part, same)]
    assert row["lead"] == pytest.approx(right[0] - right[1], abs=1e-6)
    songs = [votes.song_level(t, clips) for t in (part, same)]
    right = [(t["y_true"] == t["y_pred"]).mean() for t in songs]
    assert row["song_lead"] == pytest.approx(right[0] - right[1], abs=1e-6)
    assert row["n_folds"] == 2
    assert row["lead_lo"] <= row["lead"] <= row["lead_hi"]
    assert table.set_index("system").loc["cnn-mel", list(beyond.LEADS)].isna().all()


def test_p_is_corrected_for_the_number_of_comparisons(clips):
    names = ("cnn-mel", "chosen", "pooled-svm", "musicnn-svm")
    rows = pd.concat(_answers(clips, n, 0.5 + 0.1 * i, i) for i, n in enumerate(names))
    how = {"n_resamples": 300}
    table = beyond.beyond_table(rows, clips, **how).set_index("system")
    songs = votes.song_level(rows, clips)
    pairs = [(n, "cnn-mel") for n in names[1:]]
    alone = intervals.compare(songs, clips, pairs, **how)
    assert list(table.loc[list(names[1:]), "song_lead_p"]) == pytest.approx(
        list(alone["p_artist_holm"]), abs=1e-6
    )


def test_markdown_shows_leads_folds_and_costs(clips):
    rows = pd.concat([_answers(clips, "cnn-mel", 0.5, 0), _answers(clips, "chosen", 0.9, 1)])
    table = beyond.beyond_table(rows, clips, n_resamples=200)
    text = beyond.beyond_markdown(table, "the corpus", {"chosen": 12.4}, note="synthesised")
    assert "(synthesised)" in text
    line = next(line for line in text.splitlines() if "Chosen among all" in line)
    row = table.set_index("system").loc["chosen"]
    assert f"{row['song_lead']:+.2f}" in line
    assert line.endswith("| 12 s |")
