import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from genre_utils.data import splits
from genre_utils.models import cnn as head
from genre_utils.models import systems
from genre_utils.models import systems as registry
from genre_utils.store import Rows, Store

GENRES = ["Jazz", "New Age", "World"]


@pytest.fixture
def small():
    """60 clips of three genres, twelve artists; maps that tell the genre apart."""
    rng = np.random.default_rng(0)
    genre = np.repeat(GENRES, 20)
    clips = pd.DataFrame({"clip_id": [f"c{i:02d}" for i in range(60)], "genre": genre})
    clips["artist"] = [f"{g}{i % 4}" for i, g in enumerate(genre)]
    clips["album"] = clips["track"] = clips["clip_id"]
    clips["status"] = "ok"
    clips["sha256"] = [f"{i:064x}" for i in range(60)]
    maps = rng.normal(size=(60, 1, 2, 512)).clip(0)
    maps[:, 0, 0, :90] += 3 * (genre[:, None] == np.repeat(GENRES, 30))
    folds = splits.make_splits(clips, ["random", "artist"], n_folds=4, seed=0)
    return clips, maps.astype(np.float16), folds


def _run(small, tmp_path, name="cnn-mfcc", key="store-1", fresh=False, **settings):
    clips, maps, folds = small
    settings = {"epochs": 6, "pooling": "flatten", "seed": 0} | settings
    return systems.cross_validate(
        name, maps, clips, folds, arrays_key=key, settings=settings, root=tmp_path, fresh=fresh
    )


@pytest.fixture
def fitted(monkeypatch):
    """Rows that the CNN is trained on, a list for each fold."""
    seen, fit = [], head.HeadClassifier.fit
    monkeypatch.setattr(
        head.HeadClassifier, "fit", lambda self, X, y: seen.append(X.copy()) or fit(self, X, y)
    )
    return seen


def test_the_contract_of_predictions(small, tmp_path):
    predictions, history = _run(small, tmp_path)
    assert list(predictions) == [
        "system",
        "protocol",
        "fold",
        "clip_id",
        "y_true",
        "y_pred",
        *(f"p_{g}" for g in GENRES),
    ]
    for protocol, part in predictions.groupby("protocol"):
        assert sorted(part["clip_id"]) == sorted(small[0]["clip_id"]), protocol
        stored = small[2][small[2]["protocol"] == protocol].set_index("clip_id")["fold"]
        assert (part.set_index("clip_id")["fold"] == stored.loc[part["clip_id"]]).all()
    proba = predictions[[f"p_{g}" for g in GENRES]]
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (proba.idxmax(axis=1).str[2:] == predictions["y_pred"]).all()
    assert (predictions["y_true"] == predictions["y_pred"]).mean() > 0.8
    assert len(history) == 2 * 4 * 6
    assert list(history) == ["system", "protocol", "fold", "epoch", "loss", "accuracy"]


def test_finished_folds_are_reused_and_changes_recomputed(small, tmp_path, fitted):
    first, _ = _run(small, tmp_path)
    one = next(tmp_path.glob("*.npz"))
    fitted.clear()
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


def test_no_test_clip_reaches_fit(small, tmp_path, fitted):
    clips, maps, folds = small
    _run(small, tmp_path, epochs=1)
    of_row = {row.tobytes(): clip for row, clip in zip(maps, clips["clip_id"], strict=True)}
    runs = [(p, f) for p in ("random", "artist") for f in range(4)]
    for (protocol, fold), X in zip(runs, fitted, strict=True):
        part = folds[(folds["protocol"] == protocol) & (folds["fold"] == fold)]
        trained = {of_row[row.tobytes()] for row in X}
        assert trained == set(clips["clip_id"]) - set(part["clip_id"])


def test_some_folds_are_tested_as_in_the_whole(small, tmp_path, fitted):
    clips, maps, folds = small
    whole, _ = _run(small, tmp_path / "whole")
    fitted.clear()
    some = folds[(folds["protocol"] == "artist") & folds["fold"].isin([1, 3])]
    found, history = _run((clips, maps, some), tmp_path / "some")
    assert [len(X) for X in fitted] == [60 - (some["fold"] == i).sum() for i in (1, 3)]
    expected = whole[(whole["protocol"] == "artist") & whole["fold"].isin([1, 3])]
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))
    assert set(history["fold"]) == {1, 3}
    fitted.clear()
    _run((clips, maps, some), tmp_path / "whole")
    assert fitted == []  # the very same folds


def test_the_svm_goes_the_same_way(small, tmp_path):
    clips, _, folds = small
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(60, 14, 123)).astype(np.float32)
    frames[:, 1] += 3 * clips["genre"].factorize()[0][:, None]
    frames[:, 13] = -20
    predictions, history = systems.cross_validate(
        "svm-mfcc",
        frames,
        clips,
        folds,
        arrays_key="s",
        root=tmp_path,
        settings={"volume_threshold": -40.0, "coding": "onevsone"},
    )
    assert list(predictions)[:6] == ["system", "protocol", "fold", "clip_id", "y_true", "y_pred"]
    assert not any(c.startswith("p_") for c in predictions)
    assert (predictions["y_true"] == predictions["y_pred"]).mean() > 0.9
    assert history.empty


class Nearest(ClassifierMixin, BaseEstimator):
    """The genre of the nearest row of field "a"; field "b" holds each clip's number."""

    seen: list = []  # noqa: RUF012 (what all fits were given)

    def fit(self, X, y, groups):
        self.seen.append((X["b"].copy(), y, groups))
        self.classes_, self.rows_, self.answers_ = np.unique(y), X["a"], y
        self.choice_ = {"rows": len(X)}
        return self

    def predict(self, X):
        distance = ((X["a"][:, None] - self.rows_[None]) ** 2).sum(axis=(2, 3))
        return self.answers_[distance.argmin(axis=1)]


@pytest.fixture
def nearest(small, monkeypatch, tmp_path):
    system = registry.System(("a", "b"), Nearest, (), (), "nearest", grouped=True)
    monkeypatch.setitem(systems.SYSTEMS, "nearest", system)
    clips, maps, _ = small
    Nearest.seen = []
    stores = {name: Store(tmp_path / "arrays", name, {}) for name in ("a", "b")}
    ids = list(clips["sha256"])
    stores["a"].put(ids, maps[:, 0])
    stores["b"].put(ids[::-1], np.arange(60)[::-1])
    return stores


def test_several_arrays_are_fields_of_one(small, nearest):
    clips, maps, _ = small
    ids = list(clips["sha256"])
    rows, key = systems.load_rows("nearest", nearest.__getitem__, ids)
    assert key == f"{nearest['a'].folder.name}+{nearest['b'].folder.name}"
    assert (rows.dtype.names, rows.shape) == (("a", "b"), (60,))
    assert np.array_equal(rows["a"], maps[:, 0])
    assert rows["b"].tolist() == list(range(60))
    assert np.array_equal(rows[5:9]["a"], maps[5:9, 0])
    one, key = systems.load_rows("cnn-mel", {"vgg-mel": nearest["a"]}.__getitem__, ids)
    assert isinstance(one, Rows)  # left on disk: all maps of a corpus need not fit in memory
    assert np.array_equal(one[:], maps[:, 0])
    assert key == nearest["a"].folder.name


def test_groups_of_the_protocol_reach_the_estimator(small, nearest, tmp_path):
    clips, _, folds = small
    rows, key = systems.load_rows("nearest", nearest.__getitem__, list(clips["sha256"]))
    found, chosen = systems.cross_validate(
        "nearest", rows, clips, folds, arrays_key=key, settings={}, root=tmp_path
    )
    assert (found["y_true"] == found["y_pred"]).mean() > 0.8
    assert list(chosen) == ["system", "protocol", "fold", "rows"]
    runs = [(p, f) for p in ("random", "artist") for f in range(4)]
    for i, (protocol, fold) in enumerate(runs):
        number, y, groups = Nearest.seen[i]
        part = folds[(folds["protocol"] == protocol) & (folds["fold"] == fold)]
        trained = clips[~clips["clip_id"].isin(part["clip_id"])]
        assert number.tolist() == trained.index.tolist()
        assert y.tolist() == trained["genre"].tolist()
        assert len(set(groups)) == (len(y) if protocol == "random" else trained["artist"].nunique())
        assert pd.Series(trained["artist"].to_numpy()).groupby(groups).nunique().max() == 1
        assert chosen["rows"][i] == len(y)


def test_another_artist_is_another_fold_for_a_grouped_system(small, nearest, tmp_path):
    clips, _, folds = small
    folds = folds[(folds["protocol"] == "artist") & (folds["fold"] == 0)]
    rows, key = systems.load_rows("nearest", nearest.__getitem__, list(clips["sha256"]))
    how = {"arrays_key": key, "settings": {}, "root": tmp_path}
    systems.cross_validate("nearest", rows, clips, folds, **how)
    systems.cross_validate("nearest", rows, clips, folds, **how)
    assert len(Nearest.seen) == 1
    renamed = clips.assign(artist=clips["artist"].replace("Jazz0", "Jazz1"))
    systems.cross_validate("nearest", rows, renamed, folds, **how)
    assert len(Nearest.seen) == 2


def test_every_system_says_where_it_is_written():
    for name, system in systems.SYSTEMS.items():
        assert system.label
        assert system.arrays, name
        for module in system.modules:
            __import__(f"genre_utils.{module}")
