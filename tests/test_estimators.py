"""Inner folds, and what is chosen, stacked, calibrated or heard in windows on them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from genre_utils.data import splits
from genre_utils.extraction import musicnn, vgg
from genre_utils.models import estimators, systems
from genre_utils.models.estimators import (
    FirstComponents,
    GaussianSVM,
    InnerFolds,
    Windows,
    pick,
    structured,
)
from genre_utils.runtime import UsageError

GENRES = np.array(["A", "B", "C"])
WIDTH = {"pooled-mel": 10240, "pooled-mel-last": 10240, "handcrafted": 30, "musicnn": 400}
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
        if array.startswith("pooled-mel"):  # as behind a ReLU
            rows = (rows - rows.min()).astype(np.float16)
        arrays[array] = rows if rows.dtype == np.float16 else rows.astype(np.float32)
    return structured(arrays, artist), GENRES[genre]


@threadpool_limits.wrap(limits=1)
def _accuracy(name, rows, y):
    test = rows["group"] % 3 == rows["group"] // 3 % 3
    estimator = systems.SYSTEMS[name].make().fit(rows[~test], y[~test])
    proba = estimator.predict_proba(rows[test])
    assert np.allclose(proba.sum(axis=1), 1)
    answers = estimator.predict(rows[test])
    assert (estimator.classes_[proba.argmax(axis=1)] == answers).mean() > 0.8  # but for ties
    return (answers == y[test]).mean()


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_learns_what_is_there_and_nothing_else(name):
    assert _accuracy(name, *_corpus(name, strength=1.0)) > 0.8
    assert _accuracy(name, *_corpus(name, strength=0.0)) < 0.7  # 18 clips of 6 artists: 1/3
    assert type(clone(systems.SYSTEMS[name].make())) is type(systems.SYSTEMS[name].make())


@pytest.mark.parametrize("name", ["handcrafted-forest", "handcrafted-boosting", "pooled-svm"])
def test_same_again(name):
    rows, y = _corpus(name, strength=0.2, n_artists=9)
    make = systems.SYSTEMS[name].make
    with threadpool_limits(limits=1):
        first, second = (make().fit(rows, y).predict_proba(rows) for _ in range(2))
    assert np.array_equal(first, second)


def test_all_four_methods_on_handcrafted_features_are_there():
    methods = {name.split("-")[1] for name in SYSTEMS if name.startswith("handcrafted-")}
    assert methods == {"logreg", "forest", "svm", "boosting"}


@parametrize_with_checks([GaussianSVM(gamma=0.1), FirstComponents(2)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_components_are_the_first_there_are():
    rows = np.random.default_rng(0).normal(size=(60, 8)) * np.arange(1, 9)
    centred = rows - rows.mean(axis=0)
    vectors = np.linalg.eigh(centred.T @ centred).eigenvectors
    expected = centred @ vectors[:, ::-1]  # the largest first
    found = FirstComponents(3).fit(rows).transform(rows)
    assert np.abs(found) == pytest.approx(np.abs(expected[:, :3]), abs=1e-8)
    assert FirstComponents(50).fit(rows).transform(rows).shape == (60, 8)
    assert FirstComponents(50).fit(rows[:5]).transform(rows).shape == (60, 5)


def test_lda_finds_what_two_directions_of_heavy_tailed_columns_carry():
    rng, genre = np.random.default_rng(0), np.arange(240) % 3
    hidden = rng.normal(size=(240, 2)) + 4 * np.array([[0, 1], [1, -1], [-1, -1]])[genre]
    rows = (hidden @ rng.normal(size=(2, 200)) + 0.5 * rng.normal(size=(240, 200)) + 12) ** 2
    X, roots = structured({"handcrafted": rows}), structured({"handcrafted": np.sqrt(rows)})
    y, lda = GENRES[genre], systems._lda
    fitted = lda("handcrafted", root=True).fit(X[:120], y[:120])
    assert (fitted.predict(X[120:]) == y[120:]).mean() > 0.95
    assert set(fitted.choice_) == {"n_components", "inner_accuracy"}
    plain = lda("handcrafted").fit(roots[:120], y[:120])
    assert np.allclose(fitted.predict_proba(X), plain.predict_proba(roots))


def _rings(n=90, seed=0):
    rng = np.random.default_rng(seed)
    radius = np.repeat([1.0, 3.0, 5.0], n // 3)
    angle = rng.uniform(0, 2 * np.pi, n)
    x = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    x += rng.normal(scale=0.3, size=(n, 2))
    return structured({"handcrafted": x}, rng.integers(0, 15, n)), np.repeat(GENRES, n // 3)


def test_the_svm_is_scikit_learns_grid_search():
    X, y = _rings()
    mine = systems._svm("handcrafted").fit(X, y)
    grid = {"svc__C": (0.1, 1.0, 10.0, 100.0), "svc__gamma": [g / 2 for g in systems.GAMMA]}
    inner = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    theirs = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=inner)
    theirs.fit(X["handcrafted"], y, groups=X["group"])
    other = _rings(seed=1)[0]
    assert (mine.predict(other) == theirs.predict(other["handcrafted"])).all()
    assert mine.best_score_ == pytest.approx(theirs.best_score_)
    assert mine.choice_["C"] == theirs.best_params_["svc__C"]
    assert mine.choice_["gamma"] / 2 == theirs.best_params_["svc__gamma"]
    values = np.log(mine.predict_proba(other))  # the decision values over a temperature
    decision = theirs.decision_function(other["handcrafted"])
    ratio = np.ptp(decision, axis=1) / np.ptp(values, axis=1)
    assert np.allclose(ratio, ratio[0], rtol=1e-4)


def test_blocks_weigh_the_same():
    """A block of one column decides as much as one of 400 that is noise."""
    rng = np.random.default_rng(0)
    y = np.repeat(GENRES, 40)
    told = 2.0 * np.repeat([-1, 0, 1], 40)[:, None] + rng.normal(scale=0.3, size=(120, 1))
    noise = rng.normal(size=(120, 400))
    X = structured({"told": told, "noise": noise, "both": np.hstack([told, noise])})
    fit = np.arange(120) % 2 == 0
    right = [
        (systems._svm(*names).fit(X[fit], y[fit]).predict(X[~fit]) == y[~fit]).mean()
        for names in (("told", "noise"), ("both",))
    ]
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
    X = {"group": groups}
    folds = list(InnerFolds(3).split(X, y))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(y)))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert abs((y[test] == "A").mean() - 1 / 3) < 0.15
    assert str(folds) == str(list(InnerFolds(3).split(X, y)))
    assert str(folds) != str(list(InnerFolds(3, seed=1).split(X, y)))


def test_what_cannot_be_folded_is_refused():
    y = np.array(["A", "A", "B", "B"] * 3)
    with pytest.raises(UsageError, match="fewer than 3 groups"):
        list(InnerFolds(3).split({"group": y}, y))
    with pytest.raises(UsageError, match="one genre only"):
        list(InnerFolds(2).split({"group": np.array(["a", "a", "b", "b"] * 3)}, y))


def test_parts_of_arrays_by_hand():
    rows = np.arange(2 * WIDTH["pooled-mel"]).reshape(2, -1) % 1000
    embedding = np.arange(800, dtype=np.float32).reshape(2, 400)
    X = structured({"pooled-mel": rows.astype(np.float16), "musicnn": embedding})
    first, last = (pick(X, systems.POOLED[i]) for i in (0, -1))
    assert np.array_equal(first, rows[:, :4096]) and np.array_equal(last, rows[:, 8192:])
    assert first.dtype == np.float32
    assert np.array_equal(np.hstack([pick(X, name) for name in systems.MUSICNN]), embedding)
    assert sum(pick(X, name).shape[1] for name in systems.POOLED) == 10240
    assert [vgg.pooled_slices()[b].stop for b in vgg.POOLS] == [4096, 8192, 10240]
    assert set(systems.MUSICNN) <= {f"musicnn/{part}" for part in musicnn.PARTS}
    assert pick(structured({"vgg-mel": np.ones((2, 1, 2, 3), np.float16)}), "vgg-mel").dtype == "f2"


@threadpool_limits.wrap(limits=1)
def test_importance_finds_the_planted_feature(tmp_path):
    rng = np.random.default_rng(0)
    y, groups = np.repeat(GENRES, 30), np.arange(90) % 15
    rows = rng.normal(size=(90, 5))
    rows[:, 3] += 3 * np.searchsorted(GENRES, y)
    names = [f"f{i}" for i in range(5)]
    table = estimators.importances(rows, y, groups, names, root=tmp_path)
    assert table["feature"][0] == "f3"
    assert table["importance"][0] > 0.3
    assert (table["importance"][1:].abs() < 0.1).all()
    assert table.equals(estimators.importances(rows, y, groups, names, root=tmp_path))


def test_turning_the_columns_loses_nothing():
    rows, y = _corpus("musicnn-svm", strength=0.1, n_artists=12)
    mine = systems._logistic(*systems.MUSICNN).fit(rows, y)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=mine.choice_["C"], max_iter=1000))
    expected = plain.fit(rows["musicnn"], y).predict_proba(rows["musicnn"])
    assert np.allclose(mine.predict_proba(rows), expected, atol=1e-3)


class ByHeart(ClassifierMixin, BaseEstimator):
    """Knows every clip that it was trained on by heart, and guesses all others."""

    trained: list = []  # noqa: RUF012 (rows of every fit)

    def fit(self, X, y):
        self.trained.append(X.ravel().tolist())
        self.classes_ = np.unique(y)
        self.known_ = dict(zip(X.ravel().tolist(), y, strict=True))
        return self

    def predict_proba(self, X):
        right = [self.known_.get(x) for x in X.ravel().tolist()]
        proba = (np.array(right)[:, None] == self.classes_) + 1e-3
        return proba / proba.sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def _noise(n_artists=12, n_clips=6, seed=0):
    """Genres by chance; each clip has a number, and one informative value in field "told"."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_artists), n_clips)
    number = np.arange(len(group), dtype=float)[:, None]
    X = structured({"number": number, "told": rng.normal(size=(len(group), 2))}, group)
    return X, GENRES[group % 3]


def _stack(**bases):
    """The stacking of `systems`, of other bases."""
    made = [(name, make_pipeline(systems._field(name), base)) for name, base in bases.items()]
    stack = systems.SYSTEMS["stacking"].make(epochs=1, epochs_small=1, inner_folds=3)
    return stack.set_params(estimators=made)


def test_a_base_that_memorises_gets_no_credit():
    """It knows all training clips; only answers to clips it has not met may count."""
    X, y = _noise(n_artists=30)
    X["told"][:, 0] += 4 * (y == "A")
    X["told"][:, 1] += 4 * (y == "B")
    half = X["group"] < 15
    stack = _stack(number=ByHeart(), told=LogisticRegression()).fit(X[half], y[half])
    assert (stack.predict(X[~half]) == y[~half]).mean() > 0.9
    # A judge that saw the bases' answers to their own training clips believes ByHeart alone.
    logs = np.hstack([base.predict_proba(X[half]) for base in stack.estimators_])
    believer = LogisticRegression().fit(estimators.log_probabilities(logs), y[half])
    weights = [np.abs(judge.coef_[:, :3]).sum() for judge in (believer, stack.final_estimator_[-1])]
    assert weights[0] > 5 * weights[1]


def test_stacking_trains_on_whole_groups():
    X, y = _noise()
    ByHeart.trained.clear()
    _stack(number=ByHeart(), told=LogisticRegression()).fit(X, y)
    assert len(ByHeart.trained) == 4
    for rows in sorted(ByHeart.trained, key=len)[:3]:
        left = sorted(set(range(len(y))) - {int(i) for i in rows})
        assert not set(X["group"][left]) & set(X["group"][[int(i) for i in rows]])


def test_log_probabilities_by_hand():
    logs = estimators.log_probabilities(np.array([[0.5, 0.0], [1.0, 1e-9]]))
    assert np.allclose(logs, [[np.log(0.5), np.log(1e-6)], [0, np.log(1e-6)]])


def test_the_systems_stack_takes_their_settings():
    stack = systems.SYSTEMS["stacking"].make(epochs=2, epochs_small=3, seed=5, inner_folds=2)
    bases = dict(stack.estimators)
    assert list(bases) == list(systems.SYSTEMS["stacking"].arrays)
    heads = [bases[f"vgg-{name}"][-1] for name in ("mel", "mfcc", "chroma")]
    assert [(head.epochs, head.seed) for head in heads] == [(2, 5), (3, 5), (3, 5)]
    rng = np.random.default_rng(0)
    y = np.repeat(GENRES, 12)
    maps = rng.normal(size=(36, 1, 2, 512)).clip(0) + 2 * (y == "A")[:, None, None, None]
    frames = rng.normal(size=(36, 14, 20))
    frames[:, 13] = 0
    frames[:, 0] += 5 * (y == "B")[:, None]
    arrays = {f"vgg-{name}": maps.astype(np.float16) for name in ("mel", "mfcc", "chroma")}
    X = structured(arrays | {"svm-long": frames.astype(np.float32)}, np.arange(36) // 2)
    half = np.arange(36) % 4 < 2
    assert (stack.fit(X[half], y[half]).predict(X[~half]) == y[~half]).mean() > 0.6


def test_the_best_candidate_is_taken_and_named_of_equals_the_first():
    X, y = _noise(n_artists=30)
    X["told"][:, 0] += 4 * (y == "A")
    X["told"][:, 1] += 4 * (y == "B")
    told = systems._of(["told"], systems._lda)
    candidates = {"number": systems._of(["number"], systems._svm), "told": told, "again": told}
    chosen = systems._chosen(candidates, inner_folds=2).fit(X, y)
    alone = systems._lda("told", inner_folds=2).fit(X, y)
    assert chosen.choice_ == {"candidate": "told"} | alone.choice_
    assert next(iter(chosen.choice_)) == "candidate"
    assert np.array_equal(chosen.predict_proba(X), alone.predict_proba(X))


def test_choice_among_candidates_never_sees_the_test_clips():
    """Field "number" is made to tell the test clips' genre, and theirs alone."""
    X, y = _noise(n_artists=30)
    test = X["group"] < 10
    X["number"][:, 0] = np.random.default_rng(0).normal(size=len(y))
    X["number"][test, 0] = 5 * np.searchsorted(GENRES, y[test])
    X["told"][:, 0] += 2 * (y == "A") - 2 * (y == "B")
    candidates = {name: systems._of([name], systems._svm) for name in ("number", "told")}
    chosen = systems._chosen(candidates).fit(X[~test], y[~test])
    assert chosen.choice_["candidate"] == "told"
    assert (chosen.predict(X[test]) == y[test]).mean() > 0.5
    # With the test clips in its hands it would have chosen the other.
    again = systems._chosen(candidates).fit(X[test], y[test])
    assert again.choice_["candidate"] == "number"


def test_windows_learn_from_all_and_vote():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b"], 30)
    first = np.where(y == "a", 1.0, -1.0)[:, None] + rng.normal(0, 0.1, (60, 1))
    last = first[:, [0]] + 10 * (y == "a")[:, None]  # a window of its own kind
    X = structured({"first": first, "last": last})
    field = FunctionTransformer(pick, kw_args={"name": "first"})
    model = Windows(make_pipeline(field, LogisticRegression()), ("first", "last")).fit(X, y)
    each = LogisticRegression().fit(np.concatenate([first, last]), np.tile(y, 2))
    expected = (each.predict_proba(first) + each.predict_proba(last)) / 2
    assert model.predict_proba(X) == pytest.approx(expected, abs=1e-12)
    assert list(model.predict(X)) == list(each.classes_[expected.argmax(axis=1)])


def test_windows_of_a_clip_stay_together_in_inner_folds():
    X, y = _noise()
    X = structured({"first": X["number"], "last": X["number"]})  # no groups but the clips
    ByHeart.trained.clear()
    memory = make_pipeline(FunctionTransformer(pick, kw_args={"name": "first"}), ByHeart())
    calibrated = CalibratedClassifierCV(
        memory, method="temperature", cv=InnerFolds(2), ensemble=False
    )
    Windows(calibrated, ("first", "last")).fit(X, y)
    assert len(ByHeart.trained) == 3
    for numbers in ByHeart.trained:
        assert (np.unique(numbers, return_counts=True)[1] == 2).all()


def test_calibration_takes_its_temperature_from_clips_not_trained_on():
    """A network that knows its training clips by heart would call itself always right."""
    rng = np.random.default_rng(0)
    y = np.repeat(GENRES, 40)
    maps = rng.normal(size=(120, 1, 1, 512)) + 0.15 * np.eye(3, 512)[np.repeat(range(3), 40)][
        :, None, None
    ].cumsum(axis=-1)
    X = structured({"vgg-mel": maps.astype(np.float16)})
    settings = {"epochs": 30, "seed": 0}
    fit, new = np.arange(120) % 2 == 0, np.arange(120) % 2 == 1
    sure = systems.SYSTEMS["cnn-mel"].make(**settings).fit(X[fit], y[fit])
    calm = systems.SYSTEMS["cnn-mel-calibrated"].make(**settings, inner_folds=3).fit(X[fit], y[fit])
    assert (sure.predict(X[new]) == calm.predict(X[new])).all()
    right = (sure.predict(X[new]) == y[new]).mean()
    assert right < 0.9
    gaps = [model.predict_proba(X[new]).max(axis=1).mean() - right for model in (sure, calm)]
    assert abs(gaps[1]) < gaps[0]
