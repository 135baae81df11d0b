"""Do the probabilities mean what they say, and what is gained when a system may stay silent.

A network trained to the end is too sure of itself: of its answers at 0.99 fewer than 99 % are
right. Temperature scaling (Guo et al., ICML 2017) mends that with one number T: the logarithms of
the probabilities are divided by T before the softmax. The order of a clip's genres stays, so the
answers, and the accuracy, do too.

``proba`` is [n, n_classes], ``target`` the number of each clip's class. Tables are rows of
predictions.csv; systems without probabilities take no part.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

from genre_utils.errors import GenreUtilsError
from genre_utils.metrics.evaluate import KEY

N_BINS = 15  # as in Guo et al.
SMALLEST = 5e-7  # half of the last digit of predictions.csv, where 0 need not be 0
BOUNDS = (0.05, 20.0)  # of T; it comes near the lower one when every answer is right


def fit_temperature(proba: np.ndarray, target: np.ndarray) -> float:
    """Find the T with the smallest log-loss; above 1 the probabilities were too sure.

    To be honest about other clips, ``proba`` must come from models that did not train on these.
    """
    log_proba, rows = _log(proba), np.arange(len(target))

    def loss(log_t: float) -> float:  # convex in 1 / T, so its only dip is the lowest
        return -log_softmax(log_proba / np.exp(log_t), axis=1)[rows, target].mean()

    found = minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(proba: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities at a temperature, [n, n_classes]; at 1 they are the same."""
    return softmax(_log(proba) / temperature, axis=1)


def _log(proba: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(proba, dtype=float), SMALLEST))


def reliability(
    confidence: np.ndarray, right: np.ndarray, n_bins: int = N_BINS, *, adaptive: bool = False
) -> pd.DataFrame:
    """Compare confidence and accuracy, bin by bin.

    Parameters
    ----------
    confidence : np.ndarray [shape=(n,)]
        Probability of each answer.
    right : np.ndarray [shape=(n,), dtype=bool]
    n_bins : int
    adaptive : bool
        Bins of as many clips each (equal confidences stay together) instead of equal width.

    Returns
    -------
    pd.DataFrame
        low, high (edges; a bin holds low < confidence <= high), n, confidence (mean), accuracy; a
        row for each bin with clips in it.
    """
    steps = np.linspace(0, 1, n_bins + 1)
    edges = np.unique(np.quantile(confidence, steps)) if adaptive else steps
    bins = np.searchsorted(edges[1:-1], confidence)
    table = pd.DataFrame({"bin": bins, "confidence": confidence, "right": right}).groupby("bin")
    result = table.agg(n=("right", "size"), confidence=("confidence", "mean"))
    result["accuracy"] = table["right"].mean()
    result.insert(0, "low", edges[result.index])
    result.insert(1, "high", edges[np.minimum(result.index + 1, len(edges) - 1)])
    return result.reset_index(drop=True)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean distance of accuracy and confidence over the clips of `reliability`'s bins, 0..1."""
    gap = (table["accuracy"] - table["confidence"]).abs()
    return float((gap * table["n"]).sum() / table["n"].sum())


def with_probabilities(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have probabilities."""
    columns = _columns(predictions)
    return predictions.dropna(subset=columns) if columns else predictions.iloc[:0]


def calibration_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Measure every system's probabilities.

    Returns
    -------
    pd.DataFrame
        system, protocol, n_clips, accuracy, confidence (mean of the answers' probabilities), ece
        (15 bins of equal width), ece_adaptive (15 of as many clips), brier (sum over the genres,
        0..2), log_loss (natural logarithm).
    """
    rows = []
    for (system, protocol), part in with_probabilities(predictions).groupby(KEY, sort=False):
        proba, target = _arrays(part)
        confidence, right = confidences(part)
        kinds = (reliability(confidence, right, adaptive=adaptive) for adaptive in (False, True))
        labels = range(proba.shape[1])
        even = np.maximum(proba, SMALLEST)
        even /= even.sum(axis=1, keepdims=True)
        figures = (
            right.mean(), confidence.mean(), *(expected_calibration_error(kind) for kind in kinds),
            brier_score_loss(target, even, labels=labels, scale_by_half=False),
            log_loss(target, even, labels=labels),
        )  # fmt: skip
        rows.append((system, protocol, len(part), *(round(float(x), 6) for x in figures)))
    names = ["n_clips", "accuracy", "confidence", "ece", "ece_adaptive", "brier", "log_loss"]
    return pd.DataFrame(rows, columns=[*KEY, *names])


def confidences(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each answer, and whether it is right (bool), each shape=(n,)."""
    proba, _ = _arrays(predictions)
    right = predictions["y_true"] == predictions["y_pred"]
    answer = pd.Index(_genres(predictions)).get_indexer(predictions["y_pred"])
    return proba[np.arange(len(proba)), answer], right.to_numpy()


def _columns(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column.startswith("p_")]


def _genres(table: pd.DataFrame) -> list[str]:
    return [column.removeprefix("p_") for column in _columns(table)]


def _arrays(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and class numbers of rows that have them."""
    target = pd.Index(_genres(part)).get_indexer(part["y_true"])
    if (target < 0).any():
        raise GenreUtilsError(f"no probabilities of {part['y_true'].iloc[(target < 0).argmax()]!r}")
    return part[_columns(part)].to_numpy(float), target
