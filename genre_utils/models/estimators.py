"""What the compared systems need beside scikit-learn.

Rows come as a structured array [n] with a field for each stored array and a field ``group``, the
number of the group (artist, say) that stays whole. So groups reach every cross-validation inside a
system without an argument: in a grid search, in stacking, in calibration.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn import model_selection
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from genre_utils.extraction import musicnn, vgg
from genre_utils.runtime import UsageError
from genre_utils.store import code_digest, digest, remembered


def structured(arrays: dict[str, np.ndarray], group: np.ndarray | None = None) -> np.ndarray:
    """Rows [n] with a field for each array [n, ...], and ``group``: by default each row its own."""
    n = len(next(iter(arrays.values())))
    fields = {**arrays, "group": np.arange(n) if group is None else np.asarray(group)}
    dtype = np.dtype([(name, a.dtype, a.shape[1:]) for name, a in fields.items()], align=True)
    rows = np.empty(n, dtype)
    for name, array in fields.items():
        rows[name] = array
    return rows


def pick(rows: np.ndarray, name: str) -> np.ndarray:
    """Return a field [n, ...] of structured rows, or a part of it.

    ``name`` is "vgg-mel", say; with a part "pooled-mel/block3_pool" (`vgg.pooled_slices`) or
    "musicnn/penultimate_mean" (`musicnn.PARTS`). Vectors [n, d] are float32 or wider.
    """
    field, _, part = name.partition("/")
    values = rows[field]
    if part:
        parts = vgg.pooled_slices() if field == "pooled-mel" else musicnn.PARTS
        values = values[:, parts[part]]
    dtype = np.result_type(values, np.float32) if values.ndim == 2 else values.dtype
    return values.astype(dtype, copy=False)


def weigh(block: np.ndarray, n_blocks: int = 1) -> np.ndarray:
    """Scale standardised columns so that each of ``n_blocks`` blocks weighs the same."""
    return block * np.float64((block.shape[1] * n_blocks) ** -0.5)


def log_probabilities(proba: np.ndarray) -> np.ndarray:
    """Logarithms that are finite: a probability counts as 1e-6 at least."""
    return np.log(np.maximum(proba, 1e-6))


@dataclass(frozen=True)
class InnerFolds:
    """Folds of a training part, to choose parameters on: a scikit-learn splitter.

    They follow the protocol of the outer folds: groups stay whole, and where each row is a group
    of its own they are folds over rows. (An attribute ``n_splits`` in place of ``n_folds`` would
    let `CalibratedClassifierCV` refuse genres with fewer clips than folds.)
    """

    n_folds: int = 3
    seed: int = 0

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        """Return the number of folds."""
        return self.n_folds

    def split(
        self, X: np.ndarray, y: np.ndarray, groups: object = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions of the inner training and test rows, by ``X["group"]`` and genres y, [n].

        X may be a mapping. UsageError for too few groups, or an inner training part of one genre.
        """
        group, y = X["group"], np.asarray(y)
        n_groups = len(np.unique(group))
        if n_groups < self.n_folds:
            few = f"a training part has fewer than {self.n_folds} groups to choose parameters on"
            raise UsageError(f"{few}; use more folds or more clips")
        kind = StratifiedGroupKFold if n_groups < len(y) else StratifiedKFold
        splitter = kind(self.n_folds, shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():  # a genre with fewer groups than folds: see splits
            warnings.filterwarnings("ignore", message="The least populated class")
            folds = list(splitter.split(y, y, group if n_groups < len(y) else None))
        if any(len(np.unique(y[train])) < 2 for train, _ in folds):
            raise UsageError("an inner training part has one genre only; use more artists a genre")
        yield from folds


class GaussianSVM(ClassifierMixin, BaseEstimator):
    """`SVC` with a Gaussian kernel; its probabilities are the softmax of the decision values.

    These have an arbitrary scale: a temperature belongs on them, see `Search`. The kernel comes
    from one product of matrices, many times faster than libsvm's own on 10,000 columns. ``C`` and
    ``gamma`` are those of `SVC`.
    """

    def __init__(self, C: float = 1.0, gamma: float = 1.0) -> None:
        self.C = C
        self.gamma = gamma

    def fit(self, X: np.ndarray, y: np.ndarray) -> "GaussianSVM":
        """Train on vectors X [n, d] and classes y [n]."""
        self._vectors, y = validate_data(self, X, y)
        check_classification_targets(y)
        kernel = rbf_kernel(self._vectors, gamma=self.gamma)
        self._svc = SVC(kernel="precomputed", C=self.C).fit(kernel, y)
        self.classes_ = self._svc.classes_
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class that most pairwise machines vote for."""
        kernel = self._kernel(X)
        return self._svc.predict(kernel)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the softmax [n, n_classes] of the decision values."""
        kernel = self._kernel(X)
        values = self._svc.decision_function(kernel)
        return softmax(np.column_stack([-values, values]) if values.ndim == 1 else values, axis=1)

    def _kernel(self, X: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        return rbf_kernel(validate_data(self, X, reset=False), self._vectors, gamma=self.gamma)


class FirstComponents(TransformerMixin, BaseEstimator):
    """scikit-learn's `PCA`; where there are fewer rows than components, as many as there can be."""

    def __init__(self, n_components: int = 10) -> None:
        self.n_components = n_components

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> "FirstComponents":
        """Find the components of rows X [n, d]."""
        X = validate_data(self, X)
        self.pca_ = PCA(min(self.n_components, *X.shape), svd_solver="full").fit(X)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the rows' components [n, n_components]."""
        check_is_fitted(self)
        return self.pca_.transform(validate_data(self, X, reset=False))


class Search(model_selection.GridSearchCV):
    """`GridSearchCV` of a pipeline; a `GaussianSVM` at its end gets a temperature.

    The temperature (Guo et al., ICML 2017) scales its probabilities and comes from the same inner
    folds; answers do not depend on it. Its grid shares one matrix of distances a fold: on 10,000
    columns they are most of the work.
    """

    def __init__(self, estimator: Pipeline, param_grid: dict, *, cv: InnerFolds) -> None:
        super().__init__(estimator, param_grid, cv=cv, error_score="raise")

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Search":
        """Choose and train on rows X and genres y [n]."""
        if not isinstance(self.estimator[-1], GaussianSVM):
            super().fit(X, y)
            self.calibrated_ = self.best_estimator_
            return self
        grid, scores = list(model_selection.ParameterGrid(self.param_grid)), []
        *steps, (last, _) = self.estimator.steps
        for train, test in self.cv.split(X, y):
            vectors = clone(Pipeline(steps)).fit(X[train], y[train])
            known, new = vectors.transform(X[train]), vectors.transform(X[test])
            within = euclidean_distances(known, squared=True)
            across = euclidean_distances(new, known, squared=True)
            for point in grid:
                gamma = point[f"{last}__gamma"]
                svc = SVC(kernel="precomputed", C=point[f"{last}__C"])
                svc.fit(np.exp(-gamma * within), y[train])
                scores.append(svc.score(np.exp(-gamma * across), y[test]))
        means = np.reshape(scores, (-1, len(grid))).mean(axis=0)
        self.best_params_, self.best_score_ = grid[means.argmax()], means.max()
        self.best_estimator_ = clone(self.estimator).set_params(**self.best_params_).fit(X, y)
        how = {"method": "temperature", "cv": self.cv, "ensemble": False}
        self.calibrated_ = CalibratedClassifierCV(self.best_estimator_, **how).fit(X, y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        return self.calibrated_.predict_proba(X)

    @property
    def choice_(self) -> dict:
        """The chosen parameters, and ``inner_accuracy``."""
        choice = {name.split("__")[-1]: value for name, value in self.best_params_.items()}
        return {**choice, "inner_accuracy": round(float(self.best_score_), 6)}


class Chosen(ClassifierMixin, BaseEstimator):
    """The search with the best accuracy on inner folds, the same for all; of equals the first."""

    def __init__(self, candidates: dict[str, Search]) -> None:
        self.candidates = candidates

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Chosen":
        """Choose and train on rows X and genres y [n]."""
        searches = {name: clone(search).fit(X, y) for name, search in self.candidates.items()}
        best = max(searches, key=lambda name: searches[name].best_score_)
        self.search_, self.classes_ = searches[best], searches[best].classes_
        self.choice_ = {"candidate": best, **self.search_.choice_}
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the chosen candidate's answers."""
        check_is_fitted(self)
        return self.search_.predict(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the chosen candidate's probabilities [n, n_classes]."""
        check_is_fitted(self)
        return self.search_.predict_proba(X)


class Windows(ClassifierMixin, BaseEstimator):
    """A classifier of one window that hears several: it learns from all, and they vote.

    ``fields`` are a clip's windows; ``estimator`` takes structured rows with the first of them.
    """

    def __init__(self, estimator: BaseEstimator, fields: tuple[str, ...]) -> None:
        self.estimator = estimator
        self.fields = fields

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Windows":
        """Train on structured rows X and genres y [n]; the windows of a clip are one group."""
        rows = np.concatenate(self._windows(X))
        self.estimator_ = clone(self.estimator).fit(rows, np.tile(y, len(self.fields)))
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the windows' mean probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        return np.mean([self.estimator_.predict_proba(rows) for rows in self._windows(X)], axis=0)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable genre of each row."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def _windows(self, X: np.ndarray) -> list[np.ndarray]:
        return [structured({self.fields[0]: X[field]}, X["group"]) for field in self.fields]


def importances(
    rows: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    *,
    root: Path,
    seed: int = 0,
) -> pd.DataFrame:
    """How much accuracy a forest loses on clips that it has not met when a feature is shuffled.

    ``rows`` are hand-crafted features [n, d] of training clips, ``y`` [n] genres; ``groups`` [n]
    stay whole between three folds; ``names`` [d] are the features'. ``root`` keeps the result. The
    columns are feature, importance (mean loss of accuracy over folds and three shuffles) and sd,
    the largest first.
    """

    def losses() -> dict[str, np.ndarray]:
        values = []
        for train, test in InnerFolds(3, seed).split({"group": groups}, y):
            forest = RandomForestClassifier(n_estimators=200, random_state=seed)
            forest.fit(rows[train], y[train])
            how = {"n_repeats": 3, "random_state": seed}
            values.append(permutation_importance(forest, rows[test], y[test], **how).importances)
        return {"losses": np.hstack(values)}

    key = [joblib.hash([rows, y.tolist(), groups.tolist(), seed]), code_digest(importances)]
    stored = remembered(root / f"importances-{digest(key)[:24]}.npz", losses)["losses"]
    table = pd.DataFrame({"feature": names, "importance": stored.mean(axis=1)})
    table["sd"] = stored.std(axis=1, ddof=1)
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)
