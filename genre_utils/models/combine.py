"""Systems made of others: stacking, several windows, and a choice among candidates.

Means of probabilities, which need no training, are in `genre_utils.metrics.votes`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted, has_fit_parameter
from threadpoolctl import threadpool_limits

from genre_utils.metrics.calibration import apply_temperature, fit_temperature
from genre_utils.models import fair_svm
from genre_utils.models.nested import inner_folds

Rows = slice | np.ndarray
SMALLEST = 1e-6  # probability, so that its logarithm is finite


class Stacking(ClassifierMixin, BaseEstimator):
    """Logistic regression on the log-probabilities of several systems (Wolpert 1992).

    It learns from answers to clips that the systems were not trained on: out of inner folds,
    groups whole. Then the systems are trained again on all that `fit` is given.

    Parameters
    ----------
    bases : dict
        Field of X -> estimator with ``predict_proba``.
    inner_folds, inner_seed : int
        See `nested.inner_folds`.

    Attributes
    ----------
    classes_ : np.ndarray [shape=(n_classes,)]
    bases_ : dict
        The trained estimators.
    """

    def __init__(
        self, bases: dict[str, BaseEstimator], *, inner_folds: int = 3, inner_seed: int = 0
    ) -> None:
        self.bases = bases
        self.inner_folds = inner_folds
        self.inner_seed = inner_seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Stacking":
        """Train on structured rows X and genres y [n]; groups [n] stay whole in inner folds."""
        self.classes_ = np.unique(y)
        logs = np.zeros((len(y), len(self.bases) * len(self.classes_)))
        for train, test in inner_folds(y, groups, self.inner_folds, self.inner_seed):
            logs[test] = self._logs(self._trained(X, y, groups, train), X, test)
        self.bases_ = self._trained(X, y, groups, slice(None))
        with threadpool_limits(limits=1):  # last bits must not depend on the number of threads
            self._judge = LogisticRegression(max_iter=1000).fit(logs, y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        return self._judge.predict_proba(self._logs(self.bases_, X, slice(None)))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable genre of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _trained(
        self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None, rows: Rows
    ) -> dict[str, BaseEstimator]:
        known = None if groups is None else groups[rows]
        return {
            field: fitted(base, X[field][rows], y[rows], known)
            for field, base in self.bases.items()
        }

    def _logs(self, bases: dict[str, BaseEstimator], X: np.ndarray, rows: Rows) -> np.ndarray:
        """Log-probabilities [n, bases x classes]; a class that a base has not met has the least."""
        proba = []
        for field, base in bases.items():
            found = base.predict_proba(X[field][rows])
            whole = np.zeros((len(found), len(self.classes_)))
            whole[:, np.searchsorted(self.classes_, base.classes_)] = found
            proba.append(whole)
        return np.log(np.maximum(np.hstack(proba), SMALLEST))


def stacking(
    *, epochs: int, epochs_small: int, pooling: str = "flatten", seed: int = 0,
    volume_threshold: float = -40.0, inner_folds: int = 2, inner_seed: int = 0,
) -> Stacking:  # fmt: skip
    """Return `Stacking` of the three CNNs and the fair SVM; settings as theirs."""
    from genre_utils.models.head import HeadClassifier  # TensorFlow

    lengths = {"vgg-mel": epochs, "vgg-mfcc": epochs_small, "vgg-chroma": epochs_small}
    bases = {
        field: HeadClassifier(epochs=length, pooling=pooling, seed=seed)
        for field, length in lengths.items()
    }
    bases["svm-long"] = fair_svm.make(volume_threshold=volume_threshold, inner_seed=inner_seed)
    return Stacking(bases, inner_folds=inner_folds, inner_seed=inner_seed)


class Windows(ClassifierMixin, BaseEstimator):
    """A classifier of one window that hears several: it learns from all, and they vote.

    Parameters
    ----------
    estimator : estimator
        Takes the array of one window and has ``predict_proba``.

    Attributes
    ----------
    classes_ : np.ndarray [shape=(n_classes,)]
    """

    def __init__(self, estimator: BaseEstimator) -> None:
        self.estimator = estimator

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Windows":
        """Train on structured rows X [n], a field for each window, and genres y [n].

        Groups [n] stay whole in inner folds; without them the windows of a clip do.
        """
        fields = X.dtype.names
        windows = np.concatenate([X[field] for field in fields])
        groups = np.arange(len(y)) if groups is None else groups
        repeated = (np.tile(each, len(fields)) for each in (y, groups))
        self._trained = fitted(self.estimator, windows, *repeated)
        self.classes_ = self._trained.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the windows' mean probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        proba = [self._trained.predict_proba(X[field]) for field in X.dtype.names]
        return np.mean(proba, axis=0)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable genre of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class Chosen(ClassifierMixin, BaseEstimator):
    """The candidate with the best accuracy on inner folds of the training part.

    Of equals the first. Each candidate chooses its own parameters on the same folds, so this is one
    grid search over different methods.

    Parameters
    ----------
    candidates : dict
        Name -> estimator with ``best_score_`` and ``choice_`` (`nested.RbfSVM`, `nested.Searched`).

    Attributes
    ----------
    classes_ : np.ndarray [shape=(n_classes,)]
    choice_ : dict
        candidate (its name), and what that one chose.
    """

    def __init__(self, candidates: dict[str, BaseEstimator]) -> None:
        self.candidates = candidates

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Chosen":
        """Choose and train on rows X and genres y [n]; groups [n] stay whole in inner folds."""
        found = {name: fitted(one, X, y, groups) for name, one in self.candidates.items()}
        best = max(found, key=lambda name: found[name].best_score_)
        self._best = found[best]
        self.classes_ = self._best.classes_
        self.choice_ = {"candidate": best, **self._best.choice_}
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        return self._best.predict_proba(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the chosen candidate's answers."""
        check_is_fitted(self)
        return self._best.predict(X)


class TemperatureScaled(ClassifierMixin, BaseEstimator):
    """A classifier whose temperature comes from its own training clips alone.

    Each training clip is answered by a model that was trained without it (and without its group);
    these answers give T, see `calibration.fit_temperature`. Then the classifier is trained on all.
    Costs ``inner_folds`` trainings more, on somewhat fewer clips than the last one.

    Parameters
    ----------
    estimator : estimator
        Has ``predict_proba``.
    inner_folds, inner_seed : int
        See `nested.inner_folds`.

    Attributes
    ----------
    classes_ : np.ndarray [shape=(n_classes,)]
    estimator_ : estimator
        Trained on all clips.
    temperature_ : float
    """

    def __init__(
        self, estimator: BaseEstimator, *, inner_folds: int = 3, inner_seed: int = 0
    ) -> None:
        self.estimator = estimator
        self.inner_folds = inner_folds
        self.inner_seed = inner_seed

    def fit(
        self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None
    ) -> "TemperatureScaled":
        """Train on rows X and genres y [n]; groups [n] stay whole in inner folds."""
        self.classes_, target = np.unique(y, return_inverse=True)
        proba = np.zeros((len(y), len(self.classes_)))  # a genre not trained on has 0
        for train, test in inner_folds(y, groups, self.inner_folds, self.inner_seed):
            model = fitted(self.estimator, X[train], y[train], None)
            columns = np.searchsorted(self.classes_, model.classes_)
            proba[np.ix_(test, columns)] = model.predict_proba(X[test])
        self.temperature_ = fit_temperature(proba, target)
        self.estimator_ = fitted(self.estimator, X, y, None)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        return apply_temperature(self.estimator_.predict_proba(X), self.temperature_)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the trained classifier's answers; a temperature changes none."""
        check_is_fitted(self)
        return self.estimator_.predict(X)


def fitted(
    estimator: BaseEstimator, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None
) -> BaseEstimator:
    """Train a copy of an estimator; it gets the groups if it asks for them."""
    known = {"groups": groups} if has_fit_parameter(estimator, "groups") else {}
    return clone(estimator).fit(X, y, **known)


def chosen_of(candidates: Callable[..., dict[str, BaseEstimator]]) -> Callable[..., Chosen]:
    """Return a function of the inner folds' settings that makes `Chosen` of candidates."""
    return partial(_chosen, candidates)


def _chosen(candidates: Callable, **how: int) -> Chosen:
    return Chosen(candidates(**how))
