import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from genre_utils.data import splits
from genre_utils.extraction import musicnn, vgg
from genre_utils.models import estimators as classic
from genre_utils.models import estimators as nested
from genre_utils.models import systems
from genre_utils.runtime import UsageError

GENRES = np.array(["A", "B", "C"])
WIDTH = {"pooled-mel": 10240, "handcrafted": 30, "musicnn": 1956}
SYSTEMS = [name for name, system in systems.SYSTEMS.items() if set(system.arrays) <= set(WIDTH)]


def _corpus(name, strength, n_artists=18, n_clips=3, seed=0):
    """Rows of a system's arrays; artists differ, and by ``strength`` genres."""
    rng = np.random.default_rng(seed)
    genre = np.repeat(np.arange(n_artists) % 3, n_clips)
    artist = np.repeat(np.arange(n_artists), n_clips)
    arrays = {}
    for array in systems.SYSTEMS[name].arrays:
        d = WIDTH[array]
        rows = rng.normal(size=(len(genre), d)) + 0.3 * rng.normal(size=(n_artists, d))[artist]
        rows += strength * rng.normal(size=(3, d))[genre]
        if array == "pooled-mel":  # as behind a ReLU
            rows = (rows - rows.min()).astype(np.float16)
        arrays[array] = rows if array == "pooled-mel" else rows.astype(np.float32)
    rows = next(iter(arrays.values())) if len(arrays) == 1 else systems.structured(arrays)
    return rows, GENRES[genre], np.array([f"artist {i}" for i in artist])


@threadpool_limits.wrap(limits=1)
def _accuracy(name, rows, y, groups):
    system = systems.SYSTEMS[name]
    test = np.isin(groups, np.unique(groups)[::3])
    known = {"groups": groups[~test]} if system.grouped else {}
    estimator = system.make().fit(rows[~test], y[~test], **known)
    proba = estimator.predict_proba(rows[test])
    assert np.allclose(proba.sum(axis=1), 1)
    answers = estimator.predict(rows[test])
    assert (estimator.classes_[proba.argmax(axis=1)] == answers).mean() > 0.8  # but for ties
    return (answers == y[test]).mean()


@pytest.mark.parametrize("name", ["handcrafted-forest", "handcrafted-boosting", "pooled-svm"])
def test_same_again(name):
    rows, y, groups = _corpus(name, strength=0.2, n_artists=9)
    make, known = systems.SYSTEMS[name].make, {}
    if systems.SYSTEMS[name].grouped:
        known = {"groups": groups}
    with threadpool_limits(limits=1):
        one, two = (make().fit(rows, y, **known).predict_proba(rows) for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_learns_what_is_there_and_nothing_else(name):
    assert _accuracy(name, *_corpus(name, strength=1.0)) > 0.8
    rows, y, groups = _corpus(name, strength=0.0)
    assert _accuracy(name, rows, y, groups) < 0.7  # 18 clips of 6 artists: chance is 1/3


def test_components_are_the_first_there_are():
    rows = np.random.default_rng(0).normal(size=(60, 8)) * np.arange(1, 9)
    centred = rows - rows.mean(axis=0)
    vectors = np.linalg.eigh(centred.T @ centred).eigenvectors
    expected = centred @ vectors[:, ::-1]  # the largest first
    found = classic.FirstComponents(3).fit(rows).transform(rows)
    assert np.abs(found) == pytest.approx(np.abs(expected[:, :3]), abs=1e-8)
    assert classic.FirstComponents(50).fit(rows).transform(rows).shape == (60, 8)
    assert classic.FirstComponents(50).fit(rows[:5]).transform(rows).shape == (60, 5)


def test_lda_finds_what_two_directions_of_heavy_tailed_columns_carry():
    rng, genre = np.random.default_rng(0), np.arange(240) % 3
    hidden = rng.normal(size=(240, 2)) + 4 * np.array([[0, 1], [1, -1], [-1, -1]])[genre]
    rows = (hidden @ rng.normal(size=(2, 200)) + 0.5 * rng.normal(size=(240, 200)) + 12) ** 2
    make = classic.lda_of("handcrafted", root=True)
    fitted = make(inner_folds=3).fit(rows[:120], GENRES[genre[:120]])
    assert (fitted.predict(rows[120:]) == GENRES[genre[120:]]).mean() > 0.95
    assert set(fitted.choice_) == {"n_components", "inner_accuracy"}
    plain = classic.lda_of("handcrafted")(inner_folds=3)
    plain.fit(np.sqrt(rows[:120]), GENRES[genre[:120]])
    assert np.allclose(fitted.predict_proba(rows), plain.predict_proba(np.sqrt(rows)))


def test_all_four_methods_on_handcrafted_features_are_there():
    methods = {name.split("-")[1] for name in SYSTEMS if name.startswith("handcrafted-")}
    assert methods == {"logreg", "forest", "svm", "boosting"}


def _rings(n=90, seed=0):
    rng = np.random.default_rng(seed)
    radius = np.repeat([1.0, 3.0, 5.0], n // 3)
    angle = rng.uniform(0, 2 * np.pi, n)
    x = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]) + rng.normal(
        scale=0.3, size=(n, 2)
    )
    return x, np.repeat(GENRES, n // 3), rng.integers(0, 15, n)


def _one(X):
    return [X]


def test_the_svm_is_scikit_learns_grid_search():
    x, y, groups = _rings()
    mine = nested.RbfSVM(_one).fit(x, y, groups)
    grid = {"svc__C": mine.C, "svc__gamma": [gamma / 2 for gamma in mine.gamma]}
    inner = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    theirs = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=inner)
    theirs.fit(x, y, groups=groups)
    other, _, _ = _rings(seed=1)
    assert (mine.predict(other) == theirs.predict(other)).all()
    assert mine.best_score_ == pytest.approx(theirs.best_score_)
    assert mine.choice_["C"] == theirs.best_params_["svc__C"]
    assert mine.choice_["gamma"] / 2 == theirs.best_params_["svc__gamma"]
    values = theirs.decision_function(other)
    expected = np.exp(values / mine.temperature_)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(mine.predict_proba(other), expected, atol=1e-3)


def test_blocks_weigh_the_same():
    """A block of one column decides as much as one of 400 that is noise."""
    rng = np.random.default_rng(0)
    y = np.repeat(GENRES, 40)
    told = 2.0 * np.repeat([-1, 0, 1], 40)[:, None] + rng.normal(scale=0.3, size=(120, 1))
    X = np.hstack([told, rng.normal(size=(120, 400))])
    fit, test = np.arange(120) % 2 == 0, np.arange(120) % 2 == 1
    apart = nested.RbfSVM(lambda X: [X[:, :1], X[:, 1:]]).fit(X[fit], y[fit])
    together = nested.RbfSVM(_one).fit(X[fit], y[fit])
    right = [(svm.predict(X[test]) == y[test]).mean() for svm in (apart, together)]
    assert right[0] > 0.9 > right[1]


@pytest.mark.parametrize("protocol", list(splits.PROTOCOLS))
def test_inner_folds_follow_the_groups(protocol):
    made = [
        (g, f"{g}{a}", f"al{a % 2}", f"t{t // 2}")
        for g in GENRES
        for a in range(8)
        for t in range(4)
    ]
    clips = pd.DataFrame(made, columns=["genre", "artist", "album", "track"])
    clips.insert(0, "clip_id", [f"{i:03d}" for i in range(len(clips))])
    y, groups = clips["genre"].to_numpy(), splits.groups(clips, protocol).to_numpy()
    folds = nested.inner_folds(y, groups, 3)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(y)))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert abs((y[test] == "A").mean() - 1 / 3) < 0.15
    assert str(folds) == str(nested.inner_folds(y, groups, 3))
    assert str(folds) != str(nested.inner_folds(y, groups, 3, seed=1))


def test_what_cannot_be_folded_is_refused():
    y = np.array(["A", "A", "B", "B"] * 3)
    with pytest.raises(UsageError, match="fewer than 3 groups"):
        nested.inner_folds(y, y)
    groups = np.array(["a", "a", "b", "b"] * 3)
    with pytest.raises(UsageError, match="one genre only"):
        nested.inner_folds(y, groups, 2)


def test_parts_of_arrays_by_hand():
    rows = np.arange(2 * WIDTH["pooled-mel"]).reshape(2, -1) % 1000
    whole = systems.structured(
        {"pooled-mel": rows.astype(np.float16), "musicnn": np.ones((2, 1956), np.float32)}
    )
    first, tags = classic.select(whole, ["pooled-mel/block3_pool", "musicnn/tags"])
    assert np.array_equal(first, rows[:, :4096])
    assert (first.dtype, tags.shape) == (np.float32, (2, 50))
    (last,) = classic.select(whole["pooled-mel"], [classic.POOLED[-1]])
    assert np.array_equal(last, rows[:, 8192:])
    assert sum(part.shape[1] for part in classic.select(whole, classic.POOLED)) == 10240
    assert [vgg.pooled_slices()[b].stop for b in vgg.POOLS] == [4096, 8192, 10240]
    assert set(classic.MUSICNN) <= {f"musicnn/{part}" for part in musicnn.PARTS}


@threadpool_limits.wrap(limits=1)
def test_importance_finds_the_planted_feature(tmp_path):
    rng = np.random.default_rng(0)
    y, groups = np.repeat(GENRES, 30), np.arange(90) % 15
    rows = rng.normal(size=(90, 5))
    rows[:, 3] += 3 * np.searchsorted(GENRES, y)
    names = [f"f{i}" for i in range(5)]
    table = classic.importances(rows, y, groups, names, root=tmp_path)
    assert table["feature"][0] == "f3"
    assert table["importance"][0] > 0.3
    assert (table["importance"][1:].abs() < 0.1).all()
    assert table.equals(classic.importances(rows, y, groups, names, root=tmp_path))


def test_estimators_follow_scikit_learns_conventions():
    for name in SYSTEMS:
        made = systems.SYSTEMS[name].make()
        assert type(clone(made)) is type(made)


def test_turning_the_columns_loses_nothing():
    rows, y, groups = _corpus("musicnn-svm", strength=0.1, n_artists=12)
    mine = classic.logistic_of("musicnn/tags", "musicnn/penultimate_mean")().fit(rows, y, groups)
    x = np.hstack(classic.select(rows, ["musicnn/tags", "musicnn/penultimate_mean"]))
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=mine.choice_["C"], max_iter=1000))
    expected = plain.fit(x, y).predict_proba(x)
    assert np.allclose(mine.predict_proba(rows), expected, atol=1e-3)
