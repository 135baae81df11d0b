import numpy as np
import pandas as pd
import pytest

from genre_utils.metrics import evaluate, intervals, tables
from genre_utils.metrics import evaluate as votes

GENRES = ["Classical", "Jazz", "World"]


@pytest.fixture
def clips():
    """12 artists with 2 tracks of 2 clips each."""
    rows = [
        (g, f"{g}{a}", f"t{t}", float(c))
        for g in GENRES
        for a in range(4)
        for t in (0, 1)
        for c in (0, 29)
    ]
    table = pd.DataFrame(rows, columns=["genre", "artist", "track", "start_s"])
    return table.assign(clip_id=[f"c{i:02d}" for i in range(len(table))], album="al", status="ok")


@pytest.fixture
def predictions(clips):
    rng = np.random.default_rng(0)
    parts = []
    for system, protocol in (("cnn-mel", "random"), ("cnn-mel", "artist"), ("svm-mfcc", "random")):
        proba = rng.dirichlet([1, 1, 1], len(clips)) + 0.4 * (
            clips["genre"].to_numpy()[:, None] == GENRES
        )
        proba = proba / proba.sum(axis=1, keepdims=True)
        part = pd.DataFrame({"system": system, "protocol": protocol, "fold": np.arange(48) % 4})
        part["clip_id"], part["y_true"] = clips["clip_id"], clips["genre"]
        part["y_pred"] = np.array(GENRES)[proba.argmax(axis=1)]
        part[[f"p_{g}" for g in GENRES]] = proba if system == "cnn-mel" else np.nan
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_the_contract_comes_first_then_intervals_then_songs(predictions, clips):
    table = tables.table1(predictions, clips, n_resamples=300)
    assert list(table) == [
        "system",
        "protocol",
        "accuracy",
        "f_score",
        "n_clips",
        "n_folds",
        "paper_accuracy",
        "paper_f_score",
        "accuracy_lo",
        "accuracy_hi",
        "f_score_lo",
        "f_score_hi",
        "n_artists",
        "song_accuracy",
        "song_accuracy_lo",
        "song_accuracy_hi",
        "song_f_score",
        "n_songs",
    ]
    plain = evaluate.table1(predictions)
    pd.testing.assert_frame_equal(table[list(plain)], plain)
    assert (table["n_artists"] == 12).all()
    assert (table["n_songs"] == 24).all()


def test_numbers_are_those_of_the_modules_they_come_from(predictions, clips):
    table = tables.table1(predictions, clips, n_resamples=300, seed=5)
    bounds = intervals.cluster_intervals(predictions, clips, n_resamples=300, seed=5)
    both = table.merge(bounds, on=evaluate.KEY)
    assert np.allclose(both["accuracy_lo_x"], both["accuracy_lo_y"])
    assert (table["accuracy_lo"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["accuracy_hi"]).all()
    songs = votes.song_level(predictions, clips)
    right = (
        (songs["y_true"] == songs["y_pred"]).groupby([songs["system"], songs["protocol"]]).mean()
    )
    for row in table.itertuples():
        assert row.song_accuracy == pytest.approx(right[row.system, row.protocol], abs=1e-6)


def test_markdown_names_corpus_note_intervals_and_the_paper(predictions, clips):
    table = tables.table1(predictions, clips, n_resamples=300)
    text = tables.markdown(table, "my clips", "untrained VGG-16")
    assert "my clips" in text
    assert "untrained VGG-16" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(table) == 3
    first = table.iloc[0]
    assert f"| {first.accuracy:.2f} ({first.accuracy_lo:.2f}–{first.accuracy_hi:.2f}) |" in rows[0]
    assert rows[0].endswith("| 0.90 |")
    assert "| artist |" in rows[2]
    assert rows[2].endswith("|  |")  # the paper has no number for this protocol
    assert "nan" not in text
    assert "48 clips of 24 songs by 12 artists" in text
