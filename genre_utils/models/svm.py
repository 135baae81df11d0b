"""The baseline: an error-correcting output code of linear SVMs on MFCC (section 2.5)."""

import warnings
from itertools import combinations

import librosa
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from genre_utils.runtime import check_choice

CODINGS = ("onevsone", "onevsall")
MAX_ITER = 1_000_000  # MATLAB's fitcsvm stops there too ("IterationLimit")


def frame_mask(level_db: np.ndarray, threshold: float = -40.0) -> np.ndarray:
    """Tell which frames of a clip are loud enough to be kept: bool [t].

    ``level_db`` [t] is each frame's RMS, ``threshold`` relative to the loudest, which always stays.
    """
    return level_db - level_db.max() >= min(threshold, 0.0)


def clip_vectors(
    frames: np.ndarray, threshold: float = -40.0, *, slopes: bool = False
) -> np.ndarray:
    """Mean and standard deviation of each MFCC over the kept frames: [n, 26].

    The paper does not say how a clip's frames become its vector. ``frames`` [n, 14, t] are 13 MFCC
    and the level in dB, see `features.svm_frames`. With ``slopes`` the same of the MFCC's slopes
    follows (`librosa.feature.delta`, 9 frames): [n, 52].
    """
    frames = frames.astype(float)
    series = [frames[:, :-1]]
    if slopes:
        series.append(librosa.feature.delta(series[0]))
    vectors = []
    for i, level in enumerate(frames[:, -1]):
        kept = [values[i][:, frame_mask(level, threshold)] for values in series]
        vectors.append(np.concatenate([[part.mean(axis=1), part.std(axis=1)] for part in kept]))
    return np.array(vectors).reshape(len(frames), -1)


def code_matrix(n_classes: int, coding: str = "onevsone") -> np.ndarray:
    """Rows are classes, columns two-class problems: +1, -1, or 0 for a class that sits out.

    ``"onevsone"`` (MATLAB's ``fitcecoc`` default) has a column for each pair, the first of the
    pair positive; ``"onevsall"`` one for each class; UsageError for others. The result is
    [n_classes, n_learners].
    """
    check_choice("coding", coding, CODINGS)
    if coding == "onevsall":
        return 2 * np.eye(n_classes, dtype=int) - 1
    pairs = list(combinations(range(n_classes), 2))
    matrix = np.zeros((n_classes, len(pairs)), dtype=int)
    for column, (first, second) in enumerate(pairs):
        matrix[first, column], matrix[second, column] = 1, -1
    return matrix


def losses(scores: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Loss-weighted hinge loss [n, n_classes] of `EcocSVM.scores`; the class of the least wins."""
    hinge = np.maximum(0, 1 - matrix[None] * scores[:, None, :]) / 2
    used = np.abs(matrix)
    return (hinge * used[None]).sum(axis=2) / used.sum(axis=1)


class EcocSVM(ClassifierMixin, BaseEstimator):
    """Error-correcting output codes with linear SVM learners, after MATLAB's ``fitcecoc``.

    Its defaults are kept: C = 1, no standardisation, loss-weighted decoding with the hinge loss.
    ``coding`` is as for `code_matrix`, ``C`` the box constraint of each learner. Trained, it has
    ``classes_`` [n_classes], ``code_matrix_`` [n_classes, n_learners] and ``estimators_`` (SVC).
    """

    def __init__(self, coding: str = "onevsone", C: float = 1.0) -> None:
        self.coding = coding
        self.C = C

    def fit(self, X: np.ndarray, y: np.ndarray) -> "EcocSVM":
        """Train one SVM a column of the code matrix on X [n, d] and labels y [n]."""
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("EcocSVM needs at least two classes to train on, not 1 class")
        self.code_matrix_ = code_matrix(len(self.classes_), self.coding)
        self.estimators_ = []
        with warnings.catch_warnings():  # a learner that stopped at MAX_ITER still answers
            warnings.simplefilter("ignore", ConvergenceWarning)
            for column in self.code_matrix_.T:
                side = column[target]
                learner = SVC(kernel="linear", C=self.C, max_iter=MAX_ITER)
                self.estimators_.append(learner.fit(X[side != 0], side[side != 0]))
        return self

    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return each learner's signed distance, shape=(n, n_learners)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return np.column_stack([learner.decision_function(X) for learner in self.estimators_])

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return each class's loss, negative, [n, n_classes]; of two classes their difference."""
        values = -losses(self.scores(X), self.code_matrix_)
        return values[:, 1] - values[:, 0] if len(self.classes_) == 2 else values

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the genre whose code fits the learners' scores best; the first of equals."""
        best = losses(self.scores(X), self.code_matrix_).argmin(axis=1)
        return self.classes_[best]
