"""Estimators that choose their parameters by cross-validation inside the training part."""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from genre_utils.errors import UsageError
from genre_utils.metrics.calibration import fit_temperature

Blocks = Callable[[np.ndarray], list[np.ndarray]]


def inner_folds(
    y: np.ndarray, groups: np.ndarray | None = None, n_folds: int = 3, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of a training part, to choose parameters on.

    They follow the protocol of the outer folds: groups stay whole, and where each clip is a group
    of its own (or ``groups`` is None) they are folds over clips.

    Parameters
    ----------
    y, groups : np.ndarray [shape=(n,)]
        Genre and group (artist, say) of each training clip.

    Returns
    -------
    list of (np.ndarray, np.ndarray)
        Positions of the inner training and test clips.

    Raises
    ------
    UsageError
        Too few groups, or an inner training part of one genre.
    """
    grouped = groups is not None and len(set(groups)) < len(groups)
    n_groups = len(set(groups)) if grouped else len(y)
    if n_groups < n_folds:
        raise UsageError(
            f"a training part has fewer than {n_folds} groups to choose parameters on; use more "
            "folds or more clips"
        )
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = kind(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a genre with fewer groups than folds: see splits
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = list(splitter.split(y, y, groups if grouped else None))
    if any(len(set(y[train])) < 2 for train, _ in folds):
        raise UsageError("an inner training part has one genre only; use more artists a genre")
    return folds


class RbfSVM(ClassifierMixin, BaseEstimator):
    """Standardised vectors and a support vector machine with Gaussian kernel.

    C and gamma are those of the best mean accuracy on the inner folds. Squared distances are
    computed once a fold and serve the whole grid: on 10,000 columns that is most of the work.
    Probabilities are the softmax of the decision values, their scale fitted on the inner test
    clips' (temperature scaling; Guo et al., ICML 2017); answers do not depend on them.

    Parameters
    ----------
    blocks : callable
        X -> list of matrices [n, d]. Each block weighs the same, however many columns it has.
    C : tuple of float
        Values to choose from.
    gamma : tuple of float
        Values to choose from, times the mean squared difference of the standardised columns
        (scikit-learn's gamma times the number of columns; 1 is its "scale").
    inner_folds, inner_seed : int
        See `inner_folds`.

    Attributes
    ----------
    classes_ : np.ndarray [shape=(n_classes,)]
    best_score_ : float
        Mean accuracy on the inner test clips, of the choice.
    choice_ : dict
        C, gamma and inner_accuracy.
    temperature_ : float
    scaler_ : StandardScaler
        Of all blocks' columns side by side, d of them.
    weights_ : np.ndarray [shape=(d,)]
        Factor of each standardised column.
    vectors_ : np.ndarray [shape=(n, d)]
        Training rows, standardised and weighted.
    gamma_ : float
        As chosen.
    svc_ : SVC
        Takes the kernel exp(-gamma_ |a - b|^2) of rows and ``vectors_``; its classes are the
        positions in ``classes_``.
    """

    def __init__(
        self, blocks: Blocks, *, C: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0),
        gamma: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0), inner_folds: int = 3, inner_seed: int = 0,
    ) -> None:  # fmt: skip
        self.blocks = blocks
        self.C = C
        self.gamma = gamma
        self.inner_folds = inner_folds
        self.inner_seed = inner_seed

    @threadpool_limits.wrap(limits=1)  # last bits must not depend on the number of threads
    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "RbfSVM":
        """Choose and train on rows X and genres y [n]; groups [n] stay whole in inner folds."""
        self.classes_, target = np.unique(y, return_inverse=True)
        blocks = self.blocks(X)
        x, sizes = np.hstack(blocks), [block.shape[1] for block in blocks]
        self.weights_ = np.concatenate([np.full(d, (d * len(sizes)) ** -0.5) for d in sizes])
        folds = inner_folds(y, groups, self.inner_folds, self.inner_seed)
        grid = [(C, gamma) for C in self.C for gamma in self.gamma]
        scores = np.zeros((len(grid), len(folds)))
        values = np.zeros((len(grid), len(y), len(self.classes_)))
        for i, (train, test) in enumerate(folds):
            scale = StandardScaler().fit(x[train])
            a, b = (scale.transform(x[part]) * self.weights_ for part in (train, test))
            within = euclidean_distances(a, squared=True)
            across = euclidean_distances(b, a, squared=True)
            for j, (C, gamma) in enumerate(grid):
                svc = SVC(kernel="precomputed", C=C).fit(np.exp(-gamma * within), target[train])
                kernel = np.exp(-gamma * across)
                scores[j, i] = svc.score(kernel, target[test])
                values[j, test] = _decision(svc, kernel, len(self.classes_))
        best = int(scores.mean(axis=1).argmax())
        self.best_score_ = float(scores[best].mean())
        self.temperature_ = fit_temperature(softmax(values[best], axis=1), target)
        C, self.gamma_ = grid[best]
        self.choice_ = {"C": C, "gamma": self.gamma_, "inner_accuracy": round(self.best_score_, 6)}
        self.scaler_ = StandardScaler().fit(x)
        self.vectors_ = self.scaler_.transform(x) * self.weights_
        kernel = np.exp(-self.gamma_ * euclidean_distances(self.vectors_, squared=True))
        self.svc_ = SVC(kernel="precomputed", C=C).fit(kernel, target)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the genre that most pairwise machines vote for."""
        return self.classes_[self.svc_.predict(self._kernel(X))]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        values = _decision(self.svc_, self._kernel(X), len(self.classes_))
        return softmax(values / self.temperature_, axis=1)

    @threadpool_limits.wrap(limits=1)
    def _kernel(self, X: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        x = self.scaler_.transform(np.hstack(self.blocks(X))) * self.weights_
        return np.exp(-self.gamma_ * euclidean_distances(x, self.vectors_, squared=True))


class Searched(ClassifierMixin, BaseEstimator):
    """A scikit-learn estimator whose parameters are those of the best accuracy on inner folds.

    Parameters
    ----------
    blocks : callable
        X -> list of matrices [n, d], which are put side by side.
    estimator : estimator
    grid : dict
        Parameter of the estimator -> values to choose from.
    inner_folds, inner_seed : int
        See `inner_folds`.

    Attributes
    ----------
    classes_, best_score_, choice_
        As of `RbfSVM`; ``choice_`` has the parameters of ``grid``.
    """

    def __init__(
        self, blocks: Blocks, estimator: BaseEstimator, grid: dict, *, inner_folds: int = 3,
        inner_seed: int = 0,
    ) -> None:  # fmt: skip
        self.blocks = blocks
        self.estimator = estimator
        self.grid = grid
        self.inner_folds = inner_folds
        self.inner_seed = inner_seed

    @threadpool_limits.wrap(limits=1)  # last bits must not depend on the number of threads
    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Searched":
        """Choose and train on rows X and genres y [n]; groups [n] stay whole in inner folds."""
        folds = inner_folds(y, groups, self.inner_folds, self.inner_seed)
        search = GridSearchCV(clone(self.estimator), self.grid, cv=folds, error_score="raise")
        self._best = search.fit(np.hstack(self.blocks(X)), y).best_estimator_
        self.classes_, self.best_score_ = search.classes_, float(search.best_score_)
        chosen = {name.split("__")[-1]: value for name, value in search.best_params_.items()}
        self.choice_ = {**chosen, "inner_accuracy": round(self.best_score_, 6)}
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable genre of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    @threadpool_limits.wrap(limits=1)
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        return self._best.predict_proba(np.hstack(self.blocks(X)))


def _decision(svc: SVC, kernel: np.ndarray, n_classes: int) -> np.ndarray:
    """Decision values [n, n_classes]; a class that ``svc`` has not met is below all others."""
    found = svc.decision_function(kernel)
    if found.ndim == 1:  # two classes have one value
        found = np.column_stack([-found, found])
    values = np.repeat(found.min(axis=1, keepdims=True) - 1, n_classes, axis=1)
    values[:, svc.classes_] = found
    return values
