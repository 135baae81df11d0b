"""Classic methods on fixed vectors of a clip.

Hand-crafted features with four classifiers are Bahuleyan's (2018, the paper's reference [1]); the
pooled maps of VGG-16 and the embedding go beyond both papers.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from genre_utils.extraction import musicnn, vgg
from genre_utils.models.nested import RbfSVM, Searched, inner_folds
from genre_utils.store import code_version, digest, remembered

POOLED = tuple(f"pooled-mel/{block}" for block in vgg.POOLS)
GAMMA = (0.03, 0.1, 0.3, 1.0)  # the more columns, the wider the best kernel
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
    return partial(RbfSVM, partial(select, names=names), gamma=GAMMA)


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
        learning_rate=0.1, max_iter=100, max_leaf_nodes=8, min_samples_leaf=10,
        early_stopping=False, random_state=seed,
    )  # fmt: skip


def importances(
    rows: np.ndarray, y: np.ndarray, groups: np.ndarray, names: Sequence[str], *, root: Path,
    n_folds: int = 3, n_repeats: int = 3, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
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
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(), "y": y.tolist(),
        "groups": groups.tolist(),
        "how": [n_folds, n_repeats, seed], "library": version("scikit-learn"),
        "code": code_version(sys.modules[__name__]),
    }  # fmt: skip
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
