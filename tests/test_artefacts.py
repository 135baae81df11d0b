import numpy as np
import pandas as pd
import pytest

from genre_utils.runtime import GenreUtilsError
from genre_utils.store import ROOT, Run, Store, versions


@pytest.fixture
def run(tmp_path, cache):
    return Run(tmp_path / "a run")


def test_the_default_folder_lies_in_the_checkout():
    assert Run(dataset="demo").folder == ROOT / "runs" / "demo-demo"


def test_text_stays_text_and_empty_stays_empty(run):
    names = ["0012", "NA", "nan", ""]
    clips = pd.DataFrame({"clip_id": names, "artist": names, "start_s": [0, 1.5, np.nan, 2]})
    run.write("clips", clips)
    back = run.read("clips")
    assert back["artist"].tolist() == names
    assert back["clip_id"].tolist() == names
    assert back["start_s"].isna().tolist() == [False, False, True, False]


def test_what_is_missing_names_the_notebook_to_run(run):
    with pytest.raises(GenreUtilsError, match=r"no .*splits\.csv; run notebook 01_data first"):
        run.read("splits")
    with pytest.raises(GenreUtilsError, match=r"run\.json has no 'corpus'; run the earlier"):
        run.recorded("corpus")
    with pytest.raises(GenreUtilsError, match=r"arrays\.json has no 'vgg-mel'; run the earlier"):
        run.arrays("vgg-mel")


def _rows(system, folds, answer="Jazz"):
    n = len(folds)
    table = pd.DataFrame({"system": system, "protocol": "random", "fold": folds})
    table["clip_id"] = [f"c{i}" for i in range(n)]
    table["y_true"], table["y_pred"] = "Jazz", answer
    return table


def test_a_systems_new_rows_replace_its_old_ones_and_stale_rows_go(run):
    splits = pd.DataFrame({"protocol": "random", "clip_id": ["c0", "c1"], "fold": [0, 1]})
    run.write("splits", splits)
    run.add_predictions(_rows("svm-mfcc", [0, 1]))
    both = run.add_predictions(_rows("cnn-mel", [0, 1]))
    assert both["system"].tolist() == ["cnn-mel", "cnn-mel", "svm-mfcc", "svm-mfcc"]
    again = run.add_predictions(_rows("cnn-mel", [0, 1], answer="World"))
    assert (again[again["system"] == "cnn-mel"]["y_pred"] == "World").all()
    assert len(again) == 4
    run.write("splits", splits.assign(fold=[1, 0]))
    renewed = run.add_predictions(_rows("cnn-mel", [1, 0]))
    assert renewed["system"].unique().tolist() == ["cnn-mel"]  # svm's rows are of other folds


def test_the_file_does_not_depend_on_what_was_there_before(run):
    run.write("splits", pd.DataFrame({"protocol": "random", "clip_id": ["c0"], "fold": [0]}))
    proba = np.float32([0.1])
    for system in ("majority", "svm-fair", "svm-mfcc", "cnn-mel"):
        run.add_predictions(
            _rows(system, [0]).assign(p_Jazz=proba if system == "cnn-mel" else np.nan)
        )
    first = (run.folder / "predictions.csv").read_bytes()
    assert b",0.1\n" in first
    run.add_predictions(_rows("svm-mfcc", [0]).assign(p_Jazz=np.nan))
    assert (run.folder / "predictions.csv").read_bytes() == first
    order = run.read("predictions")["system"].tolist()
    assert order == ["cnn-mel", "svm-mfcc", "svm-fair", "majority"]


def test_parts_of_run_json_do_not_disturb_each_other(run):
    run.record("corpus", {"note": "demo corpus (synthesised)", "n": np.int64(3)})
    run.record("weights", {"random": False})
    assert run.note() == "demo corpus (synthesised)"
    run.record("weights", {"random": True})
    assert run.note() == "demo corpus (synthesised); untrained VGG-16"
    assert run.recorded("corpus")["n"] == 3


def test_arrays_are_found_again(run):
    store = Store(run.cache, "mel", {"x": 1})
    store.put(["a"], np.ones((1, 2)))
    run.record_arrays({"mel": store})
    assert np.array_equal(run.arrays("mel").load(["a"]), np.ones((1, 2)))


def test_usable_clips_carry_their_digest(run):
    clips = pd.DataFrame({"clip_id": ["1", "2"], "status": ["ok", "silent"]})
    run.write("clips", clips)
    run.write("audio", pd.DataFrame({"clip_id": ["1"], "sha256": ["ab"]}))
    used = run.usable_clips()
    assert used["clip_id"].tolist() == ["1"]
    assert used["sha256"].tolist() == ["ab"]


def test_versions_name_what_numbers_depend_on():
    assert {"tensorflow", "librosa", "soundfile"} <= set(versions())
