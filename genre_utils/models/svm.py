"""The baseline: an error-correcting output code of linear SVMs on MFCC (section 2.5)."""

import warnings
from itertools import combinations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

from genre_utils.runtime import UsageError

CODINGS = ("onevsone", "onevsall")
MAX_ITER = 1_000_000  # MATLAB's fitcsvm stops there too ("IterationLimit")


def frame_mask(level_db: np.ndarray, threshold: float = -40.0) -> np.ndarray:
    """Tell which frames of a clip are loud enough to be kept.

    Parameters
    ----------
    level_db : np.ndarray [shape=(t,)]
        RMS of each frame in dB.
    threshold : float
        In dB re the clip's loudest frame, which is always kept. The paper gives no value.

    Returns
    -------
    np.ndarray [shape=(t,), dtype=bool]
    """
    return level_db - level_db.max() >= min(threshold, 0.0)


def clip_vectors(rows: np.ndarray, threshold: float = -40.0) -> np.ndarray:
    """Mean and standard deviation of each MFCC over the kept frames.

    The paper does not say how a clip's frames become its vector.

    Parameters
    ----------
    rows : np.ndarray [shape=(n, 14, t)]
        13 MFCC and the level in dB of each frame, see `features.svm_frames`.

    Returns
    -------
    np.ndarray [shape=(n, 26)]
    """
    vectors = []
    for clip in rows.astype(float):
        kept = clip[:-1, frame_mask(clip[-1], threshold)]
        vectors.append(np.concatenate([kept.mean(axis=1), kept.std(axis=1)]))
    return np.array(vectors)


def code_matrix(n_classes: int, coding: str = "onevsone") -> np.ndarray:
    """Rows are classes, columns two-class problems: +1, -1, or 0 for a class that sits out.

    ``"onevsone"`` (MATLAB's ``fitcecoc`` default) has a column for each pair, the first of the
    pair positive; ``"onevsall"`` one for each class.

    Returns
    -------
    np.ndarray [shape=(n_classes, n_learners), dtype=int]
    """
    if coding == "onevsall":
        return 2 * np.eye(n_classes, dtype=int) - 1
    if coding != "onevsone":
        raise UsageError(f"unknown coding {coding!r}: one of {', '.join(CODINGS)}")
    pairs = list(combinations(range(n_classes), 2))
    matrix = np.zeros((n_classes, len(pairs)), dtype=int)
    for column, (first, second) in enumerate(pairs):
        matrix[first, column], matrix[second, column] = 1, -1
    return matrix


def decode(scores: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Choose the class with the smallest loss-weighted hinge loss, as ``fitcecoc`` does.

    Parameters
    ----------
    scores : np.ndarray [shape=(n, n_learners)]
        Signed distances, positive on the +1 side.
    matrix : np.ndarray [shape=(n_classes, n_learners)]

    Returns
    -------
    np.ndarray [shape=(n,), dtype=int]
        Row of the code matrix; the first of equals.
    """
    losses = np.maximum(0, 1 - matrix[None] * scores[:, None, :]) / 2
    used = np.abs(matrix)
    return ((losses * used[None]).sum(axis=2) / used.sum(axis=1)).argmin(axis=1)


class EcocSVM(ClassifierMixin, BaseEstimator):
    """Error-correcting output codes with linear SVM learners, after MATLAB's ``fitcecoc``.

    Its defaults are kept: C = 1, no standardisation, loss-weighted decoding with the hinge loss.

    Parameters
    ----------
    coding : {"onevsone", "onevsall"}
    C : float
        Box constraint of each learner.

    Attributes
    ----------
    classes_ : np.ndarray [shape=(n_classes,)]
    code_matrix_ : np.ndarray [shape=(n_classes, n_learners)]
    estimators_ : list of SVC
    n_stopped_ : int
        Learners that reached `MAX_ITER` before they converged.
    """

    def __init__(self, coding: str = "onevsone", C: float = 1.0) -> None:
        self.coding = coding
        self.C = C

    def fit(self, X: np.ndarray, y: np.ndarray) -> "EcocSVM":
        """Train one SVM a column of the code matrix on X [n, d] and labels y [n]."""
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError("the SVM needs at least two genres to train on")
        self.code_matrix_ = code_matrix(len(self.classes_), self.coding)
        self.estimators_ = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted in n_stopped_
            for column in self.code_matrix_.T:
                side = column[target]
                learner = SVC(kernel="linear", C=self.C, max_iter=MAX_ITER)
                self.estimators_.append(learner.fit(X[side != 0], side[side != 0]))
        self.n_stopped_ = sum(learner.fit_status_ for learner in self.estimators_)
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return each learner's signed distance, shape=(n, n_learners)."""
        check_is_fitted(self)
        return np.column_stack([learner.decision_function(X) for learner in self.estimators_])

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the genre whose code fits the learners' scores best."""
        return self.classes_[decode(self.decision_function(X), self.code_matrix_)]
