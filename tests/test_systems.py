import numpy as np
import pandas as pd
import pytest

from genre_utils.data import splits
from genre_utils.models import systems


@pytest.fixture
def small():
    """60 clips of three genres, ten artists; maps that tell the genre apart."""
    rng = np.random.default_rng(0)
    genre = np.repeat(["Jazz", "New Age", "World"], 20)
    clips = pd.DataFrame({"clip_id": [f"c{i:02d}" for i in range(60)], "genre": genre})
    clips["artist"] = [f"{g}{i % 4}" for i, g in enumerate(genre)]
    clips["album"] = clips["track"] = clips["clip_id"]
    clips["status"] = "ok"
    clips["sha256"] = [f"{i:064x}" for i in range(60)]
    maps = rng.normal(size=(60, 1, 2, 512)).clip(0)
    maps[:, 0, 0, :90] += 3 * (genre[:, None] == np.repeat(["Jazz", "New Age", "World"], 30))
    folds = splits.make_splits(clips, ["random", "artist"], n_folds=4, seed=0)
    return clips, maps.astype(np.float16), folds


def _run(small, tmp_path, name="cnn-mfcc", key="store-1", fresh=False, **settings):
    clips, maps, folds = small
    settings = {"epochs": 6, "pooling": "flatten", "seed": 0} | settings
    return systems.cross_validate(
        name, maps, clips, folds, arrays_key=key, settings=settings, root=tmp_path, fresh=fresh
    )


def test_the_contract_of_predictions(small, tmp_path):
    predictions, history = _run(small, tmp_path)
    genres = ["Jazz", "New Age", "World"]
    assert list(predictions) == [
        "system", "protocol", "fold", "clip_id", "y_true", "y_pred", *(f"p_{g}" for g in genres),
    ]  # fmt: skip
    for protocol, part in predictions.groupby("protocol"):
        assert sorted(part["clip_id"]) == sorted(small[0]["clip_id"]), protocol
        stored = small[2][small[2]["protocol"] == protocol].set_index("clip_id")["fold"]
        assert (part.set_index("clip_id")["fold"] == stored.loc[part["clip_id"]]).all()
    proba = predictions[[f"p_{g}" for g in genres]]
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (proba.idxmax(axis=1).str[2:] == predictions["y_pred"]).all()
    assert (predictions["y_true"] == predictions["y_pred"]).mean() > 0.8
    assert len(history) == 2 * 4 * 6
    assert list(history) == ["system", "protocol", "fold", "epoch", "loss", "accuracy"]


def test_finished_folds_are_reused_and_changes_recomputed(small, tmp_path, monkeypatch):
    first, _ = _run(small, tmp_path)
    one = next(tmp_path.glob("*.npz"))
    fitted = []
    fit = systems.HeadClassifier.fit
    monkeypatch.setattr(
        systems.HeadClassifier, "fit", lambda self, X, y: fitted.append(len(y)) or fit(self, X, y)
    )
    again, _ = _run(small, tmp_path)
    assert fitted == []
    pd.testing.assert_frame_equal(again, first)
    for change in ({"epochs": 2}, {"key": "store-2"}, {"fresh": True}, {"seed": 7}):
        fitted.clear()
        _run(small, tmp_path, **change)
        assert len(fitted) == 8, change
    one.unlink()
    fitted.clear()
    _run(small, tmp_path)
    assert len(fitted) == 1


def test_no_test_clip_reaches_fit(small, tmp_path, monkeypatch):
    clips, maps, folds = small
    seen = []
    fit = systems.HeadClassifier.fit
    monkeypatch.setattr(
        systems.HeadClassifier, "fit", lambda self, X, y: seen.append(X.copy()) or fit(self, X, y)
    )
    _run(small, tmp_path, epochs=1)
    of_row = {row.tobytes(): clip for row, clip in zip(maps, clips["clip_id"], strict=True)}
    runs = [(p, f) for p in ("random", "artist") for f in range(4)]
    assert len(seen) == len(runs)
    for (protocol, fold), X in zip(runs, seen, strict=True):
        part = folds[(folds["protocol"] == protocol) & (folds["fold"] == fold)]
        trained = {of_row[row.tobytes()] for row in X}
        assert trained == set(clips["clip_id"]) - set(part["clip_id"])


def test_the_svm_goes_the_same_way(small, tmp_path):
    clips, _, folds = small
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(60, 14, 123)).astype(np.float32)
    frames[:, 1] += 3 * clips["genre"].factorize()[0][:, None]
    frames[:, 13] = -20
    predictions, history = systems.cross_validate(
        "svm-mfcc", frames, clips, folds, arrays_key="s", root=tmp_path,
        settings={"volume_threshold": -40.0, "coding": "onevsone"},
    )  # fmt: skip
    assert list(predictions)[:6] == ["system", "protocol", "fold", "clip_id", "y_true", "y_pred"]
    assert not any(c.startswith("p_") for c in predictions)
    assert (predictions["y_true"] == predictions["y_pred"]).mean() > 0.9
    assert history.empty
