"""Estimators that choose their parameters by cross-validation inside the training part.

How far a support vector machine gets on MFCC when it is treated like the CNNs.

The paper's baseline (section 2.5) was cut down to save time: half of each clip, nothing
standardised, one linear kernel. Here the same 13 MFCC of the same 20 s that the CNNs see, with
their changes over time, standardised, a Gaussian kernel, and its two parameters chosen by nested
cross-validation.

Systems made of others: stacking, several windows, and a choice among candidates.

Means of probabilities, which need no training, are in `genre_utils.metrics.votes`.

Classic methods on fixed vectors of a clip.

Hand-crafted features with four classifiers are Bahuleyan's (2018, the paper's reference [1]); the
pooled maps of VGG-16 and the embedding go beyond both papers.
"""

import hashlib
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted, has_fit_parameter
from threadpoolctl import threadpool_limits

from genre_utils.extraction import musicnn, vgg
from genre_utils.metrics.confidence import apply_temperature, fit_temperature
from genre_utils.models.svm import frame_mask
from genre_utils.runtime import UsageError
from genre_utils.store import code_version, digest, remembered

fair_svm = sys.modules[__name__]

# ---- models.nested ----
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
        self,
        blocks: Blocks,
        *,
        C: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0),
        gamma: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0),
        inner_folds: int = 3,
        inner_seed: int = 0,
    ) -> None:
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
        self,
        blocks: Blocks,
        estimator: BaseEstimator,
        grid: dict,
        *,
        inner_folds: int = 3,
        inner_seed: int = 0,
    ) -> None:
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


# ---- models.fair_svm ----
SYSTEM = "svm-fair"
GAMMA = tuple(52 * gamma for gamma in (0.002, 0.006, 0.02, 0.06))  # of 52 columns, see RbfSVM


def vectors(rows: np.ndarray, threshold: float = -40.0) -> np.ndarray:
    """Mean and standard deviation over the kept frames of each MFCC and of its slope.

    Parameters
    ----------
    rows : np.ndarray [shape=(n, 14, t)]
        13 MFCC and the level in dB of each frame: the feature "svm-long" of `features`.
    threshold : float
        As in `svm.frame_mask`.

    Returns
    -------
    np.ndarray [shape=(n, 52)]
        13 means, 13 deviations; the same of the slopes (`librosa.feature.delta`, 9 frames).
    """
    slopes = librosa.feature.delta(rows[:, :-1].astype(float))
    result = []
    for clip, slope in zip(rows.astype(float), slopes, strict=True):
        kept = frame_mask(clip[-1], threshold)
        parts = [values[:, kept] for values in (clip[:-1], slope)]
        result.append(np.concatenate([[part.mean(axis=1), part.std(axis=1)] for part in parts]))
    return np.array(result).reshape(len(rows), -1)


def make(*, volume_threshold: float = -40.0, inner_folds: int = 3, inner_seed: int = 0) -> RbfSVM:
    """Return the classifier, which takes rows as `vectors` does."""
    blocks = partial(_blocks, threshold=volume_threshold)
    return RbfSVM(blocks, gamma=GAMMA, inner_folds=inner_folds, inner_seed=inner_seed)


def _blocks(rows: np.ndarray, threshold: float) -> list[np.ndarray]:
    return [vectors(rows, threshold)]


# ---- models.combine ----
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
    *,
    epochs: int,
    epochs_small: int,
    pooling: str = "flatten",
    seed: int = 0,
    volume_threshold: float = -40.0,
    inner_folds: int = 2,
    inner_seed: int = 0,
) -> Stacking:
    """Return `Stacking` of the three CNNs and the fair SVM; settings as theirs."""
    from genre_utils.models.cnn import HeadClassifier  # TensorFlow

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


# ---- models.classic ----
POOLED = tuple(f"pooled-mel/{block}" for block in vgg.POOLS)
CLASSIC_GAMMA = (0.03, 0.1, 0.3, 1.0)  # the more columns, the wider the best kernel
MUSICNN = ("musicnn/penultimate_mean", "musicnn/penultimate_std")


def select(X: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """Return stored arrays, or parts of them, as matrices.

    Parameters
    ----------
    X : np.ndarray [shape=(n,) or (n, d)]
        Structured rows, or those of the one array in ``names``.
    names : sequence of str
        "handcrafted"; or with a part, "pooled-mel/block3_pool" (`vgg.pooled_slices`) or
        "musicnn/penultimate_mean" (`musicnn.PARTS`).

    Returns
    -------
    list of np.ndarray [shape=(n, d), dtype=float32 or wider]
    """
    parts = {"pooled-mel": vgg.pooled_slices(), "musicnn": musicnn.PARTS}
    found = []
    for name in names:
        array, _, part = name.partition("/")
        rows = X[array] if X.dtype.names else X
        rows = rows[:, parts[array][part]] if part else rows
        found.append(rows.astype(np.result_type(rows, np.float32), copy=False))
    return found


def svm_of(*names: str) -> Callable[..., RbfSVM]:
    """Return a function that makes `RbfSVM` for arrays, or parts of them, see `select`."""
    return partial(RbfSVM, partial(select, names=names), gamma=CLASSIC_GAMMA)


def logistic_of(*names: str) -> Callable[..., Searched]:
    """Return a function that makes multinomial logistic regression for arrays or parts of them."""
    # More columns than clips are turned, without loss, into as many: a penalty on the weights'
    # length does not see a rotation.
    pipeline = make_pipeline(StandardScaler(), PCA(), LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": (0.0001, 0.001, 0.01, 0.1)}
    return partial(Searched, partial(select, names=names), pipeline, grid)


class FirstComponents(TransformerMixin, BaseEstimator):
    """scikit-learn's `PCA`; where there are fewer clips than components, as many as there can be.

    Parameters
    ----------
    n_components : int
    """

    def __init__(self, n_components: int = 10) -> None:
        self.n_components = n_components

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> "FirstComponents":
        """Find the components of rows X [n, d]."""
        self.pca_ = PCA(min(self.n_components, *X.shape), svd_solver="full").fit(X)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the rows' components [n, n_components]."""
        return self.pca_.transform(X)


def lda_of(*names: str, root: bool = False) -> Callable[..., Searched]:
    """Return a function that makes linear discriminant analysis on a few principal components.

    Some seventy training artists support few directions. The covariance is shrunk as far as
    Ledoit and Wolf (2004) compute, so the number of components is the only choice. ``root`` takes
    square roots of the columns first, for those that are heavy-tailed and not negative.
    """
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    steps = [FunctionTransformer(np.sqrt)] if root else []
    pipeline = make_pipeline(*steps, StandardScaler(), FirstComponents(), lda)
    grid = {"firstcomponents__n_components": (10, 20, 50)}
    return partial(Searched, partial(select, names=names), pipeline, grid)


def vgg_candidates(**how: int) -> dict[str, RbfSVM | Searched]:
    """Return what can be made of VGG-16's pooled maps, to choose from."""
    return {
        "pooled-svm": svm_of(*POOLED)(**how),
        "block3-svm": svm_of(POOLED[0])(**how),
        "block4-svm": svm_of(POOLED[1])(**how),
        "blocks3+4-svm": svm_of(*POOLED[:2])(**how),
        "pooled-lda": lda_of(*POOLED, root=True)(**how),
    }


def candidates(**how: int) -> dict[str, RbfSVM | Searched]:
    """Return what can be made of all vectors of a clip, to choose from."""
    others = {
        "handcrafted-svm": svm_of("handcrafted"),
        "musicnn-svm": svm_of(*MUSICNN),
        "musicnn-logreg": logistic_of(*MUSICNN),
        "musicnn-lda": lda_of(*MUSICNN),
        "musicnn+handcrafted": svm_of(*MUSICNN, "handcrafted"),
        "musicnn+handcrafted-lda": lda_of(*MUSICNN, "handcrafted"),
        "all-features": svm_of(*MUSICNN, "handcrafted", *POOLED),
    }
    return {**vgg_candidates(**how), **{name: make(**how) for name, make in others.items()}}


def forest(*, seed: int = 0) -> RandomForestClassifier:
    """Return a forest of 500 trees; it has nothing that must be chosen."""
    return RandomForestClassifier(n_estimators=500, random_state=seed)


def boosting(*, seed: int = 0) -> HistGradientBoostingClassifier:
    """Return boosted trees, small and slow ones: a corpus has some hundred clips."""
    return HistGradientBoostingClassifier(
        learning_rate=0.1,
        max_iter=100,
        max_leaf_nodes=8,
        min_samples_leaf=10,
        early_stopping=False,
        random_state=seed,
    )


def importances(
    rows: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    *,
    root: Path,
    n_folds: int = 3,
    n_repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """How much accuracy a forest loses on clips that it has not met when a feature is shuffled.

    Parameters
    ----------
    rows : np.ndarray [shape=(n, d)]
        Hand-crafted features of training clips.
    y, groups : np.ndarray [shape=(n,)]
        Genres, and what stays whole between the folds (artists).
    names : sequence of str [len=d]
    root : Path
        Folder that keeps the result.

    Returns
    -------
    pd.DataFrame
        feature, importance (mean loss of accuracy over folds and shuffles), sd; largest first.
    """
    key = {
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "y": y.tolist(),
        "groups": groups.tolist(),
        "how": [n_folds, n_repeats, seed],
        "library": version("scikit-learn"),
        "code": code_version(sys.modules[__name__]),
    }
    path = root / f"importances-{digest(key)[:24]}.npz"
    losses = remembered(path, lambda: _losses(rows, y, groups, n_folds, n_repeats, seed))["losses"]
    table = pd.DataFrame({"feature": names, "importance": losses.mean(axis=1)})
    table["sd"] = losses.std(axis=1, ddof=1)
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def _losses(
    rows: np.ndarray, y: np.ndarray, groups: np.ndarray, n_folds: int, n_repeats: int, seed: int
) -> dict[str, np.ndarray]:
    losses = []
    for train, test in inner_folds(y, groups, n_folds, seed):
        trees = RandomForestClassifier(n_estimators=200, random_state=seed)
        trees.fit(rows[train], y[train])
        how = {"n_repeats": n_repeats, "random_state": seed}
        losses.append(permutation_importance(trees, rows[test], y[test], **how).importances)
    return {"losses": np.hstack(losses)}
