import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from genre_utils.models import estimators as combine
from genre_utils.models import estimators as nested
from genre_utils.models import systems
from genre_utils.models import systems as registry
from genre_utils.models.estimators import Chosen, Stacking

GENRES = np.array(["A", "B", "C"])


class Memory(ClassifierMixin, BaseEstimator):
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


def _noise(n_artists=12, n_clips=6, seed=0):
    """Genres by chance; each clip has a number, and one informative value in field "told"."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"artist {i}" for i in range(n_artists)], n_clips)
    y = GENRES[np.repeat(np.arange(n_artists) % 3, n_clips)]
    X = np.zeros(len(y), [("number", float, (1,)), ("told", float, (2,))])
    X["number"][:, 0] = np.arange(len(y))
    X["told"] = rng.normal(size=(len(y), 2))
    return X, y, groups


def test_a_base_that_memorises_gets_no_credit():
    """It knows all training clips; only answers to clips it has not met may count."""
    X, y, groups = _noise(n_artists=30)
    X["told"][:, 0] += 4 * (y == "A")
    X["told"][:, 1] += 4 * (y == "B")
    half = np.isin(groups, np.unique(groups)[:15])
    bases = {"number": Memory(), "told": LogisticRegression()}
    stack = Stacking(bases, inner_folds=3).fit(X[half], y[half], groups[half])
    assert (stack.predict(X[~half]) == y[~half]).mean() > 0.9
    alone = LogisticRegression().fit(X["told"][half], y[half])
    assert (alone.predict(X["told"][~half]) == y[~half]).mean() > 0.9
    # A judge that saw the bases' answers to their own training clips believes Memory alone.
    logs = stack._logs(stack.bases_, X, half)
    believer = LogisticRegression().fit(logs, y[half])
    weights = np.abs(believer.coef_[:, :3]).sum(), np.abs(stack._judge.coef_[:, :3]).sum()
    assert weights[0] > 5 * weights[1]


def test_stacking_is_at_chance_on_scrambled_test_labels(tmp_path, monkeypatch):
    """Through `cross_validate`: labels of test clips are drawn anew, their artists are known."""
    X, y, groups = _noise(n_artists=60, n_clips=2)
    rng = np.random.default_rng(1)
    y = rng.choice(GENRES, len(y))
    X["told"] = rng.normal(size=X["told"].shape)
    clips = pd.DataFrame({"clip_id": np.arange(len(y)).astype(str), "genre": y, "artist": groups})
    clips = clips.assign(album="", track="", sha256=clips["clip_id"])
    fold = pd.factorize(groups)[0] % 5
    table = pd.DataFrame({"protocol": "artist", "clip_id": clips["clip_id"], "fold": fold})
    bases = {"number": Memory(), "told": LogisticRegression()}
    system = registry.System(("number", "told"), lambda: Stacking(bases), (), (), "s", grouped=True)
    monkeypatch.setitem(systems.SYSTEMS, "leaky?", system)
    Memory.trained.clear()
    found, _ = systems.cross_validate(
        "leaky?", X, clips, table, arrays_key="x", settings={}, root=tmp_path
    )
    assert (found["y_pred"] == found["y_true"]).mean() < 0.46  # chance 1/3, 3 standard errors
    assert len(Memory.trained) == 5 * 4
    for i, rows in enumerate(Memory.trained):
        assert not set(rows) & set(np.flatnonzero(fold == i // 4)), "a test clip was trained on"
    for start in range(0, 20, 4):
        *inner, whole = (set(rows) for rows in Memory.trained[start : start + 4])
        for rows in inner:  # artists are whole in inner folds too
            left = [int(i) for i in whole - rows]
            assert not set(groups[left]) & set(groups[[int(i) for i in rows]])


def test_log_probabilities_by_hand():
    X, y, _ = _noise()
    base = LogisticRegression().fit(X["told"][y != "B"], y[y != "B"])
    stack = Stacking({"told": base})
    stack.classes_ = GENRES
    logs = stack._logs({"told": base}, X, slice(4, 9))
    proba = base.predict_proba(X["told"][4:9])
    assert np.allclose(logs, np.log(np.column_stack([proba[:, 0], [1e-6] * 5, proba[:, 1]])))


class Candidate(ClassifierMixin, BaseEstimator):
    """Answers "A" to all; its score is given."""

    def __init__(self, best_score_=0.0):
        self.best_score_ = best_score_

    def fit(self, X, y, groups=None):
        self.classes_, self.choice_ = np.unique(y), {"inner_accuracy": self.best_score_}
        self.seen_ = (len(X), groups)
        return self

    def predict(self, X):
        return np.full(len(X), "A")


def test_the_best_candidate_is_taken_and_named():
    X, y, groups = _noise()
    candidates = {"one": Candidate(0.3), "two": Candidate(0.6), "three": Candidate(0.6)}
    chosen = Chosen(candidates).fit(X, y, groups)
    assert chosen.choice_ == {"candidate": "two", "inner_accuracy": 0.6}
    assert chosen._best.seen_[0] == len(y)
    assert chosen._best.seen_[1] is groups
    assert (chosen.predict(X) == "A").all()


def _svm(field):
    return nested.RbfSVM(_Field(field), C=(0.1, 1.0, 10.0), gamma=(0.1, 1.0))


class _Field:
    def __init__(self, name):
        self.name = name

    def __call__(self, X):
        return [X[self.name]]


def test_choice_among_candidates_never_sees_the_test_clips():
    """Field "number" is made to tell the test clips' genre, and theirs alone."""
    X, y, groups = _noise(n_artists=30)
    test = np.isin(groups, np.unique(groups)[:10])
    X["number"][:, 0] = np.random.default_rng(0).normal(size=len(y))
    X["number"][test, 0] = 5 * np.searchsorted(GENRES, y[test])
    X["told"][:, 0] += 2 * (y == "A") - 2 * (y == "B")
    candidates = {"number": _svm("number"), "told": _svm("told")}
    chosen = Chosen(candidates).fit(X[~test], y[~test], groups[~test])
    assert chosen.choice_["candidate"] == "told"
    assert (chosen.predict(X[test]) == y[test]).mean() > 0.5
    # With the test clips in its hands it would have chosen the other.
    assert Chosen(candidates).fit(X[test], y[test], groups[test]).choice_["candidate"] == "number"


def test_same_again():
    X, y, groups = _noise(seed=3)
    X["told"][:, 0] += 2 * (y == "A")
    bases = {"told": LogisticRegression(), "number": _svm_plain()}
    one, two = (Stacking(bases, inner_folds=2).fit(X, y, groups) for _ in range(2))
    assert np.array_equal(one.predict_proba(X), two.predict_proba(X))
    assert np.allclose(one.predict_proba(X).sum(axis=1), 1)


def _svm_plain():
    return nested.RbfSVM(_whole, C=(1.0,), gamma=(1.0,))


def _whole(X):
    return [X]


def test_only_who_asks_for_groups_gets_them():
    X, y, groups = _noise()
    assert combine.fitted(Candidate(), X, y, groups).seen_[1] is groups
    combine.fitted(LogisticRegression(), X["told"], y, groups)  # would refuse them


def test_the_systems_stack_takes_their_settings():
    stack = combine.stacking(epochs=2, epochs_small=3, seed=5, inner_folds=2)
    assert list(stack.bases) == list(systems.SYSTEMS["stacking"].arrays)
    assert [stack.bases[f"vgg-{name}"].epochs for name in ("mel", "mfcc", "chroma")] == [2, 3, 3]
    assert {stack.bases[f"vgg-{name}"].seed for name in ("mel", "mfcc", "chroma")} == {5}
    rng = np.random.default_rng(0)
    y = np.repeat(GENRES, 12)
    maps = rng.normal(size=(36, 1, 2, 512)).clip(0) + 2 * (y == "A")[:, None, None, None]
    frames = rng.normal(size=(36, 14, 20))
    frames[:, 13] = 0
    frames[:, 0] += 5 * (y == "B")[:, None]
    X = systems.structured(
        {f"vgg-{name}": maps.astype(np.float16) for name in ("mel", "mfcc", "chroma")}
        | {"svm-long": frames.astype(np.float32)}
    )
    groups = np.arange(36) // 2
    half = np.arange(36) % 4 < 2
    fitted = stack.fit(X[half], y[half], groups[half])
    assert (fitted.predict(X[~half]) == y[~half]).mean() > 0.6


def test_windows_learn_from_all_and_vote():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b"], 30)
    first = np.where(y == "a", 1.0, -1.0)[:, None] + rng.normal(0, 0.1, (60, 1))
    last = first[:, [0]] + 10 * (y == "a")[:, None]  # a window of its own kind
    X = systems.structured({"first": first, "last": last})
    model = combine.Windows(LogisticRegression()).fit(X, y)
    each = LogisticRegression().fit(np.concatenate([first, last]), np.tile(y, 2))
    expected = (each.predict_proba(first) + each.predict_proba(last)) / 2
    assert model.predict_proba(X) == pytest.approx(expected, abs=1e-12)
    assert list(model.predict(X)) == list(each.classes_[expected.argmax(axis=1)])


@pytest.mark.parametrize("grouped", [True, False])
def test_windows_of_a_clip_stay_together_in_inner_folds(grouped):
    X, y, groups = _noise()
    X = systems.structured({"first": X["told"], "last": X["told"] + 0.1})
    seen = []

    class Spy(nested.RbfSVM):
        def fit(self, X, y, groups=None):
            seen.append(groups)
            return super().fit(X, y, groups)

    model = combine.Windows(Spy(lambda X: [X], inner_folds=2))
    model.fit(X, y, groups if grouped else None)
    expected = groups if grouped else np.arange(len(y))
    assert list(seen[0]) == [*expected, *expected]
