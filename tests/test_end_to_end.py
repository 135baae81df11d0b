"""A tiny run through all notebooks: what a run leaves is a contract."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from genre_utils import paper, sensitivity
from genre_utils.data import demo

ROOT = Path(__file__).resolve().parent.parent
GENRES = ("Classical", "Electronica", "Hard Rock")
CNNS = {"cnn-mel", "cnn-mfcc", "cnn-chroma"}
OTHERS = {"svm-mfcc", "svm-fair", "majority", "oracle-track", "oracle-album", "oracle-artist"}
PROTOCOLS = ["random", "track", "album", "artist"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Synthesised clips in MagnaTagATune's layout, one of them empty."""
    folder = tmp_path_factory.mktemp("tiny data ü")
    clips = demo.make_corpus(
        folder / "mp3",
        seed=3,
        jobs=2,
        genres=GENRES,
        artists_per_genre=3,
        tracks_per_artist=2,
        clips_per_track=1,
    )
    albums = {name: f"sku{i}" for i, name in enumerate(clips["album"].unique())}
    info = pd.DataFrame(
        {
            "clip_id": range(1, len(clips) + 1),
            "track_number": 1,
            "title": clips["track"],
            "artist": clips["artist"],
            "album": clips["album"],
            "url": [f"http://he3.magnatune.com/all/albums/{albums[a]}/" for a in clips["album"]],
            "segmentStart": 0,
            "segmentEnd": 29,
            "original_url": "",
            "mp3_path": clips["path"],
        }
    )
    info.to_csv(folder / "clip_info_final.csv", sep="\t", index=False, quoting=1)
    (folder / "mp3" / clips["path"].iloc[-1]).write_bytes(b"")
    genre_of = clips.drop_duplicates("album").set_index("album")["genre"]
    with sqlite3.connect(folder / "sqlite_normalized.db") as db:
        db.execute("CREATE TABLE albums (album_id INTEGER, artist_id, name, sku)")
        db.execute("CREATE TABLE genres (genre_id INTEGER, name)")
        db.execute("CREATE TABLE genres_albums (genre_id, album_id)")
        for i, (album, sku) in enumerate(albums.items()):
            db.execute("INSERT INTO albums VALUES (?, 1, ?, ?)", (i, album, sku))
            db.execute(
                "INSERT INTO genres_albums VALUES (?, ?)", (GENRES.index(genre_of[album]), i)
            )
        db.executemany("INSERT INTO genres VALUES (?, ?)", enumerate(GENRES))
    db.close()
    return folder, len(clips)


def _call(layout, base, *options):
    """Command, and where and with what environment it runs."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GENRE_UTILS_CACHE": str(base / "cache"),
    }
    command = [ROOT / "run_all.sh", "--profile", "tiny", "--dataset", "magnatagatune"]
    command += ["--data-dir", layout[0], "--out", base / "out dir", *options]
    return command, {"env": environment, "cwd": base}


def _run(layout, base, *options):
    command, where = _call(layout, base, *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False, **where)
    assert done.returncode == 0, done.stderr
    return base / "out dir", done


def _killed(layout, base, seconds, number):
    """Kill a run's process group after some seconds; none of its processes is left soon after."""
    command, where = _call(layout, base)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, start_new_session=True, **quiet, **where)
    with suppress(subprocess.TimeoutExpired):
        run.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(run.pid, number)
    run.wait()
    mark, until = f"GENRE_UTILS_CACHE={base / 'cache'}".encode(), time.monotonic() + 30
    while left := [path for path in Path("/proc").glob("[0-9]*/environ") if _has(path, mark)]:
        assert time.monotonic() < until, left
        time.sleep(0.2)


def _has(environment, mark):
    try:
        return mark in environment.read_bytes().split(b"\0")
    except OSError:  # gone, or another user's
        return False


@pytest.fixture(scope="module")
def first(layout, tmp_path_factory):
    return _run(layout, tmp_path_factory.mktemp("first"))


def test_it_prints_table_1_and_where_things_are(first):
    out, done = first
    for label in paper.SYSTEM_LABELS.values():
        assert label in done.stdout
    assert str(out / "notebooks") in done.stdout
    assert str(out / "figures") in done.stdout
    at = {name: done.stdout.index(name) for name in ("05_results", "Table 1", "06_what")}
    assert sorted(at, key=at.get) == list(at)  # the answer first, then what goes beyond it
    assert "| the paper" in done.stdout
    assert "random folds" in done.stdout
    assert "artist folds" in done.stdout
    assert done.stderr == ""
    assert "untrained" in done.stdout  # random weights are named wherever a number stands


def test_clips_in_equals_used_plus_refused(first, layout):
    clips = pd.read_csv(first[0] / "clips.csv", keep_default_na=False)
    assert list(clips) == [
        "clip_id",
        "path",
        "dataset",
        "genre",
        "artist",
        "album",
        "track",
        "start_s",
        "duration_s",
        "status",
    ]
    assert len(clips) == layout[1]
    assert clips["status"].value_counts().to_dict() == {"ok": layout[1] - 1, "empty file": 1}


def test_splits_and_predictions_fit_together(first, layout):
    splits = pd.read_csv(first[0] / "splits.csv", dtype={"clip_id": str})
    table = pd.read_csv(first[0] / "predictions.csv", dtype={"clip_id": str})
    assert list(splits) == ["protocol", "clip_id", "genre", "group", "fold"]
    assert list(table)[:6] == ["system", "protocol", "fold", "clip_id", "y_true", "y_pred"]
    assert list(table)[6:] == [f"p_{genre}" for genre in GENRES]
    assert set(table["system"]) == CNNS | OTHERS
    assert list(splits["protocol"].unique()) == PROTOCOLS
    for (system, protocol), part in table.groupby(["system", "protocol"]):
        merged = part.merge(splits, on=["protocol", "clip_id"], suffixes=("", "_split"))
        assert len(merged) == len(part) == layout[1] - 1, (system, protocol)
        assert (merged["fold"] == merged["fold_split"]).all()
        proba = part[[f"p_{genre}" for genre in GENRES]]
        if system in CNNS | {"svm-fair"}:
            assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
        else:
            assert proba.isna().all(axis=None)


def test_systems_beyond_the_paper_were_tested_in_the_same_folds(first):
    splits = pd.read_csv(first[0] / "splits.csv", dtype={"clip_id": str})
    table = pd.read_csv(first[0] / "beyond.csv", dtype={"clip_id": str})
    merged = table.merge(splits, on=["protocol", "clip_id"], suffixes=("", "_split"))
    assert len(merged) == len(table)
    assert (merged["fold"] == merged["fold_split"]).all()
    systems = set(table["system"])
    expected = {"cnn-mel-tuned5", "cnn-mel-windows", "chosen-vgg", "handcrafted-forest"}
    assert expected | {"block3-svm-windows"} <= systems
    assert not {"chosen", "musicnn-svm", "stacking", "cnn-mel-tuned-all"} & systems  # tiny's choice
    tuned = table[table["system"] == "cnn-mel-tuned5"]
    assert set(tuned["fold"]) == {0}
    proba = table[[f"p_{genre}" for genre in GENRES]]
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    shown = pd.read_csv(first[0] / "beyond_table.csv")
    assert set(shown["system"]) == systems | CNNS | {"svm-mfcc", "svm-fair"}
    assert "untrained" in (first[0] / "beyond_table.md").read_text()


def test_the_learning_curve_ends_at_the_systems_own_accuracy(first):
    curve = pd.read_csv(first[0] / "learning_curve.csv")
    assert list(dict.fromkeys(curve["system"])) == ["cnn-mel", "pooled-lda"]
    whole = curve[curve["train_size"] == 1].set_index("system")["accuracy"]
    table = pd.read_csv(first[0] / "beyond_table.csv")
    table = table[table["protocol"] == "artist"].set_index("system")["song_accuracy"]
    assert np.allclose(whole, table[whole.index], atol=2e-6)
    answers = pd.read_csv(first[0] / "fewer_artists.csv")
    assert set(answers["n_artists"]) == {2 * len(GENRES)}  # with three artists none can be left out
    assert curve["gain"].isna().all()


def test_the_run_leaves_a_model(first):
    folder = first[0] / "model"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(genre in card for genre in GENRES)
    for path in folder.glob("*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            assert len(stored.files) > 1


def test_table1_follows_from_the_predictions(first, layout):
    table1 = pd.read_csv(first[0] / "table1.csv")
    expected = [
        "system",
        "protocol",
        "accuracy",
        "f_score",
        "n_clips",
        "n_folds",
        "paper_accuracy",
        "paper_f_score",
    ]
    assert [column for column in table1 if column in expected] == expected
    predictions = pd.read_csv(first[0] / "predictions.csv")
    right = predictions.assign(right=predictions["y_true"] == predictions["y_pred"])
    accuracy = right.groupby(["system", "protocol"])["right"].mean()
    for row in table1.itertuples():
        assert row.accuracy == pytest.approx(accuracy[row.system, row.protocol], abs=1e-6)
        assert (row.n_clips, row.n_folds) == (layout[1] - 1, 3)
    paper_rows = table1[table1["protocol"] == "random"].set_index("system")
    for system, (accuracy, f_score) in paper.TABLE1.items():
        assert paper_rows.loc[system, "paper_accuracy"] == accuracy
        assert paper_rows.loc[system, "paper_f_score"] == f_score


def test_figures_notebooks_and_run_json(first):
    out, _ = first
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert figures >= {
        "fig1_mel_spectrograms",
        "fig2_architecture",
        "fig3_confusion_matrix",
        "training_curves",
    }
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [c for c in nbformat.read(out / "notebooks" / path.name, 4).cells]
        outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
        assert outputs
        assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    facts = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert facts["weights"]["random"] is True
    assert facts["parameters"]["03_cnn"]["epochs"] == 2
    assert set(facts["timings"]) == {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert {"tensorflow", "librosa", "numpy"} <= set(facts["run"]["versions"])
    assert facts["precision"]["trunk"] == "float32"


def test_two_runs_give_identical_predictions_and_pictures(first, layout, tmp_path):
    for seconds in (8, 20, 45):
        _killed(layout, tmp_path, seconds, signal.SIGTERM if seconds == 20 else signal.SIGKILL)
    (tmp_path / "out dir").mkdir(exist_ok=True)  # where the earlier run came further than all
    known = json.loads((first[0] / "run.json").read_text())
    (tmp_path / "out dir" / "run.json").write_text(json.dumps(known))
    again, _ = _run(layout, tmp_path)  # a cache of its own: everything computed anew
    names = (
        "clips",
        "splits",
        "predictions",
        "table1",
        "history",
        "comparisons",
        "claims",
        "beyond",
        "beyond_table",
        "chosen",
        "fewer_artists",
        "learning_curve",
        "calibration",
    )
    for name in names:
        name = f"{name}.csv"
        assert (again / name).read_bytes() == (first[0] / name).read_bytes(), name
    for path in sorted((first[0] / "figures").glob("*.png")):
        assert (again / "figures" / path.name).read_bytes() == path.read_bytes(), path.name


def test_open_choices_are_replaced_one_by_one(first, monkeypatch):
    out, _ = first
    monkeypatch.setenv("GENRE_UTILS_CACHE", str(out.parent / "cache"))
    wanted = {"coding", "fill", "offset", "baseline", "pooling"}
    choices = tuple(c for c in sensitivity.CHOICES if c.name in wanted)
    rows = sensitivity.sensitivity(str(out), choices=choices, n_resamples=100)
    assert set(rows["choice"]) == wanted - {"fill"}
    page = (out / "sensitivity.md").read_text(encoding="utf-8")
    assert "Not computed, fill zeros: no clip is shorter than 20 s" in page
    stored = pd.read_csv(out / "table1.csv").query("protocol == 'artist'").set_index("system")
    assert rows["default_accuracy"].to_list() == list(stored.loc[rows["system"], "accuracy"])
    fair = rows[rows["choice"] == "baseline"].iloc[0]
    assert fair["accuracy"] == stored.loc["svm-fair", "accuracy"]
    assert fair["difference"] == pytest.approx(fair["accuracy"] - fair["default_accuracy"])
    times = {path: path.stat().st_mtime for path in (out / "sensitivity").rglob("*.csv")}
    again = sensitivity.sensitivity(str(out), choices=choices, n_resamples=100)
    pd.testing.assert_frame_equal(again, rows)
    assert {path: path.stat().st_mtime for path in (out / "sensitivity").rglob("*.csv")} == times


def test_other_draws_settle_verdicts_or_do_not(first, tmp_path, monkeypatch):
    monkeypatch.setenv("GENRE_UTILS_CACHE", str(first[0].parent / "cache"))
    out = shutil.copytree(first[0], tmp_path / "run")
    page = sensitivity.seeds(str(out), n=2)
    table = pd.read_csv(out / "seeds.csv").set_index(["protocol", "system"])
    own = pd.read_csv(out / "table1.csv").set_index(["protocol", "system"])
    other = pd.read_csv(out / "seeds" / "1" / "predictions.csv")
    other = other.assign(right=other["y_true"] == other["y_pred"])
    other = other.groupby(["protocol", "system"])["right"].mean()
    for key in [(protocol, system) for protocol in ("random", "artist") for system in CNNS]:
        mean = (own.loc[key, "accuracy"] + other[key]) / 2
        assert table.loc[key, "accuracy"] == pytest.approx(mean, abs=1e-6)
        assert table.loc[key, "draws"] == 2
    folds = [pd.read_csv(path / "splits.csv") for path in (out, out / "seeds" / "1")]
    both = folds[0].merge(folds[1], on=["protocol", "clip_id"])
    assert (both["fold_x"] != both["fold_y"]).any()
    assert "Means over 2 draws" in page
    assert (out / "seeds.md").read_text(encoding="utf-8") == page
    claims = pd.read_csv(out / "claims.csv")
    flipped = claims["draws"] == "1 of 2"
    assert set(claims.loc[claims["claim"] < 6, "draws"]) <= {"1 of 2", "2 of 2"}
    assert (claims["verdict"].eq("undecided: seeds") == flipped).all()
    assert "same in" in (out / "claims.md").read_text(encoding="utf-8")


def test_a_repeated_run_computes_nothing_again(first, layout):
    out, _ = first
    arrays = out.parent / "cache" / "arrays"
    before = {path: path.stat().st_mtime_ns for path in arrays.rglob("*.np[yz]")}
    assert before
    stored = (out / "predictions.csv").read_bytes()
    _run(layout, out.parent)
    assert {path: path.stat().st_mtime_ns for path in arrays.rglob("*.np[yz]")} == before
    assert (out / "predictions.csv").read_bytes() == stored


def test_a_notebook_opened_alone_executes_from_the_stored_artefacts(first, tmp_path):
    out, _ = first
    environment = os.environ | {"GENRE_UTILS_CACHE": str(out.parent / "cache")}
    subprocess.run(
        [
            sys.executable,
            "-m",
            "jupyter",
            "nbconvert",
            "--execute",
            "--to",
            "notebook",
            "--output-dir",
            tmp_path,
            out / "notebooks" / "05_results.ipynb",
        ],
        check=True,
        capture_output=True,
        env=environment,
        cwd=tmp_path,
    )
    cells = nbformat.read(tmp_path / "05_results.ipynb", 4).cells
    assert "Baseline SVM" in str(cells)
