import librosa
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from genre_utils.data import splits
from genre_utils.metrics import evaluate
from genre_utils.models import estimators as fair_svm
from genre_utils.models import systems
from genre_utils.runtime import UsageError


def test_the_vector_by_hand():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 14, 30)).astype(np.float32)
    rows[:, 13] = -10
    rows[1, 13, 5:12] = -60  # seven frames too soft
    found = fair_svm.vectors(rows)
    assert found.shape == (3, 52)
    kept = np.r_[0:5, 12:30]
    slope = librosa.feature.delta(rows[1, :13].astype(float))[:, kept]
    mfcc = rows[1, :13, kept].T.astype(float)
    by_hand = [mfcc.mean(axis=1), mfcc.std(axis=1), slope.mean(axis=1), slope.std(axis=1)]
    assert np.allclose(found[1], np.concatenate(by_hand))


def _corpus(n_artists=8, n_clips=4, seed=0):
    """Six rings in the means of twelve MFCC: no straight line parts them; the last is too loud."""
    rng = np.random.default_rng(seed)
    rows, frames = [], []
    for radius, genre in ((1, "A"), (3, "B"), (5, "C")):
        for artist in range(n_artists):
            for track in range(n_clips):
                rows.append((genre, f"{genre}{artist}", "al", f"t{track}"))
                angle = rng.uniform(0, 2 * np.pi, 6)
                clip = rng.normal(scale=0.1, size=(14, 20))
                clip[:12] += radius * np.concatenate([np.cos(angle), np.sin(angle)])[:, None]
                clip[12] *= 1000
                clip[13] = -10
                frames.append(clip)
    clips = pd.DataFrame(rows, columns=["genre", "artist", "album", "track"])
    clips.insert(0, "clip_id", [f"{i:04d}" for i in range(len(clips))])
    return np.array(frames, np.float32), clips.assign(status="ok", sha256=clips["clip_id"])


def _validate(frames, clips, table, root, **how):
    settings = {"volume_threshold": -40.0, "inner_folds": 3, "inner_seed": 0}
    return systems.cross_validate(
        fair_svm.SYSTEM, frames, clips, table, arrays_key="x", settings=settings, root=root, **how
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    frames, clips = _corpus()
    table = splits.make_splits(clips, ["random", "artist"], n_folds=4)
    return frames, clips, table, _validate(frames, clips, table, tmp_path_factory.mktemp("folds"))


def test_each_clip_is_tested_once_and_rings_are_told_apart(result):
    _, _, table, (predictions, chosen) = result
    evaluate.check_predictions(predictions, table, [fair_svm.SYSTEM])
    assert (evaluate.table1(predictions)["accuracy"] > 0.5).all()
    assert len(chosen) == 8
    assert set(chosen["gamma"]) <= set(fair_svm.GAMMA)
    assert chosen["inner_accuracy"].between(0.4, 1).all()


def test_answers_are_those_of_scikit_learns_grid_search(result):
    """The whole system again with plain scikit-learn: pipeline, grid, inner folds."""
    frames, clips, table, (predictions, chosen) = result
    grid = {"svc__C": [0.1, 1.0, 10.0, 100.0], "svc__gamma": [0.002, 0.006, 0.02, 0.06]}
    x, y = fair_svm.vectors(frames), clips["genre"].to_numpy()
    for protocol, kind in (("random", StratifiedKFold), ("artist", StratifiedGroupKFold)):
        fold = table[table["protocol"] == protocol].set_index("clip_id")["fold"]
        fold = fold[clips["clip_id"]].to_numpy()
        found = predictions[predictions["protocol"] == protocol].set_index("clip_id")["y_pred"]
        for i in range(4):
            train = fold != i
            inner = kind(3, shuffle=True, random_state=0)
            search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=inner)
            groups = clips["artist"][train] if protocol == "artist" else None
            search.fit(x[train], y[train], groups=groups)
            assert (found[clips["clip_id"][~train]] == search.predict(x[~train])).all()
            mine = chosen[(chosen["protocol"] == protocol) & (chosen["fold"] == i)].iloc[0]
            assert mine["inner_accuracy"] == pytest.approx(search.best_score_, abs=1e-6)
            assert mine["C"] == search.best_params_["svc__C"]
            assert mine["gamma"] == pytest.approx(52 * search.best_params_["svc__gamma"])


def test_probabilities_go_with_the_answers(result):
    predictions, _ = result[3]
    proba = predictions[["p_A", "p_B", "p_C"]]
    assert np.allclose(proba.sum(axis=1), 1)
    assert (proba.idxmax(axis=1).str[2:] == predictions["y_pred"]).mean() > 0.95
    right = predictions["y_pred"] == predictions["y_true"]
    sure = proba.max(axis=1)
    assert sure[right].mean() > sure[~right].mean()
    assert abs(sure.mean() - right.mean()) < 0.12


def test_same_again_in_any_number_of_processes(result, tmp_path):
    frames, clips, table, (predictions, chosen) = result
    again, chosen_again = _validate(frames, clips, table, tmp_path, jobs=2)
    pd.testing.assert_frame_equal(predictions, again, check_exact=True)
    assert chosen.equals(chosen_again)


def test_test_clips_take_no_part_in_any_choice(result, tmp_path):
    """Spoiling the labels of one fold changes no answer on that fold."""
    frames, clips, table, (predictions, _) = result
    mine = table[(table["protocol"] == "artist") & (table["fold"] == 1)]
    spoilt = clips["clip_id"].isin(mine["clip_id"])
    other = clips.assign(genre=clips["genre"].mask(spoilt, "A"))
    again, _ = _validate(frames, other, mine, tmp_path)
    known = predictions[(predictions["protocol"] == "artist") & (predictions["fold"] == 1)]
    columns = ["y_pred", "p_A", "p_B", "p_C"]
    assert again[columns].equals(known[columns].reset_index(drop=True))


def test_too_few_groups_are_refused(tmp_path):
    frames, clips = _corpus(n_artists=2)
    few = clips[clips["genre"] != "C"]
    table = splits.make_splits(few, ["artist"], n_folds=2)
    with pytest.raises(UsageError, match="fewer than 3 groups"):
        _validate(frames[: len(few)], few, table, tmp_path)
