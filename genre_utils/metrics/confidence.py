"""Do probabilities mean what they say, and what does a system gain when it may not answer.

A network trained to the end is too sure of itself: of its answers at 0.99 fewer than 99 % are
right. Temperature scaling (Guo et al., ICML 2017) mends that with one number T: the logarithms of
the probabilities are divided by T before the softmax. The order of a clip's genres stays.

A system may answer only the clips that it is surest of (El-Yaniv & Wiener, JMLR 11, 2010).
Confidence is the probability of the answer. ``proba`` is [n, n_classes], ``target`` the number of
each clip's class. Tables are rows of predictions.csv; systems without probabilities take no part.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

from genre_utils.metrics import intervals
from genre_utils.metrics.evaluate import KEY, probability_columns
from genre_utils.runtime import GenreUtilsError, UsageError

N_BINS = 15  # as in Guo et al.
SMALLEST = 5e-7  # half of the last digit of predictions.csv, where 0 need not be 0
BOUNDS = (0.05, 20.0)  # of T; it comes near the lower one when every answer is right
COVERAGES = tuple(np.arange(1, 101) / 100)
PART = 256  # resamples at once: some 10 MB for 5,500 clips


def fit_temperature(proba: np.ndarray, target: np.ndarray) -> float:
    """Find the T with the smallest log-loss; above 1 the probabilities were too sure.

    To be honest about other clips, ``proba`` must come from models that did not train on these.
    """
    log_proba, rows = _log(proba), np.arange(len(target))

    def loss(log_t: float) -> float:  # convex in 1 / T, so its only dip is the lowest
        return -log_softmax(log_proba / np.exp(log_t), axis=1)[rows, target].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded").x))


def apply_temperature(proba: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities at a temperature, [n, n_classes]; at 1 they are the same."""
    return softmax(_log(proba) / temperature, axis=1)


def _log(proba: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(proba, dtype=float), SMALLEST))


def reliability(
    confidence: np.ndarray, right: np.ndarray, n_bins: int = N_BINS, *, adaptive: bool = False
) -> pd.DataFrame:
    """Compare confidence and accuracy, bin by bin.

    ``confidence`` is the probability of each answer, ``right`` whether it is right (bool), each
    shape=(n,). With ``adaptive`` bins have as many clips each (equal confidences stay together)
    instead of equal width. Returns a row for each bin with clips in it: low, high (edges; a bin
    holds low < confidence <= high), n, confidence (mean), accuracy.
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


def _with_probabilities(predictions: pd.DataFrame) -> pd.DataFrame:
    columns = probability_columns(predictions)
    return predictions.dropna(subset=columns) if columns else predictions.iloc[:0]


def calibration_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Measure every system's probabilities.

    Returns system, protocol, n_clips, accuracy, confidence (mean), ece (15 bins of equal width),
    ece_adaptive (15 of as many clips), brier (sum over the genres, 0..2), log_loss (natural).
    """
    rows = []
    for (system, protocol), part in _with_probabilities(predictions).groupby(KEY, sort=False):
        columns = probability_columns(part)
        proba, labels = part[columns].to_numpy(float), range(len(columns))
        target = pd.Index(columns).get_indexer("p_" + part["y_true"])
        if (target < 0).any():
            raise GenreUtilsError(f"no probabilities of {part.loc[target < 0, 'y_true'].iloc[0]!r}")
        confidence, right = confidences(part)
        bins = [reliability(confidence, right, adaptive=adaptive) for adaptive in (False, True)]
        even = np.maximum(proba, SMALLEST)
        even /= even.sum(axis=1, keepdims=True)
        figures = (
            right.mean(),
            confidence.mean(),
            *(expected_calibration_error(table) for table in bins),
            brier_score_loss(target, even, labels=labels, scale_by_half=False),
            log_loss(target, even, labels=labels),
        )
        rows.append((system, protocol, len(part), *(round(float(x), 6) for x in figures)))
    names = ["n_clips", "accuracy", "confidence", "ece", "ece_adaptive", "brier", "log_loss"]
    return pd.DataFrame(rows, columns=[*KEY, *names])


def confidences(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each answer, and whether it is right (bool), each shape=(n,)."""
    columns = probability_columns(predictions)
    answer = pd.Index(columns).get_indexer("p_" + predictions["y_pred"])
    proba = predictions[columns].to_numpy(float)[np.arange(len(predictions)), answer]
    return proba, (predictions["y_true"] == predictions["y_pred"]).to_numpy()


def coverage_curve(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    coverages: Sequence[float] = COVERAGES,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy on the most confident clips, with intervals by artists.

    ``clips`` is the clip table (artists are what the bootstrap draws), ``coverages`` are shares of
    the clips to be answered at least, over 0 to 1 (UsageError for others). Every resample of the
    artists chooses its own threshold for them. Returns system, protocol, coverage (asked for),
    answered (share; more where clips are equally confident), threshold (clips at or above it are
    answered), accuracy, accuracy_lo, accuracy_hi (95 %).
    """
    if not all(0 < share <= 1 for share in coverages):
        raise UsageError("coverages are shares of the clips: over 0, up to 1")
    clusters, rows = intervals.artist_clusters(clips), []
    for (system, protocol), part in _with_probabilities(predictions).groupby(KEY, sort=False):
        confidence, right = confidences(part)
        order = np.argsort(-confidence, kind="stable")
        confidence, right = confidence[order], right[order]
        cluster = intervals.cluster_numbers(part, clusters)[order]
        last = _thresholds(confidence)
        answered = last + 1.0
        places = _places(answered, coverages)
        accuracy = np.cumsum(right)[last][places] / answered[places]
        drawn = intervals.draw(cluster.max() + 1, n_resamples, seed)
        parts = (drawn[i : i + PART, cluster] for i in range(0, n_resamples, PART))
        resampled = np.vstack([_accuracies(confidence, right, w, coverages) for w in parts])
        pairs = zip(resampled.T, accuracy, strict=True)
        ends = np.array([intervals.percentile(values, estimate=e) for values, e in pairs])
        shares, thresholds = answered[places] / answered[-1], confidence[last][places]
        points = np.column_stack([coverages, shares, thresholds, accuracy, ends])
        rows += [(system, protocol, *point) for point in points.round(6)]
    names = ["coverage", "answered", "threshold", "accuracy", "accuracy_lo", "accuracy_hi"]
    return pd.DataFrame(rows, columns=[*KEY, *names])


def _accuracies(
    confidence: np.ndarray, right: np.ndarray, weights: np.ndarray, coverages: Sequence[float]
) -> np.ndarray:
    """Accuracy [n_resamples, n_coverages] where clips count ``weights`` [n_resamples, n] times."""
    last, coverages = _thresholds(confidence), np.asarray(coverages)
    answered = np.cumsum(weights, axis=1)[:, last]
    right_sums = np.cumsum(weights * right, axis=1)[:, last]
    places = np.array([_places(row, coverages) for row in answered])
    return np.take_along_axis(right_sums / np.maximum(answered, 1), places, axis=1)


def _thresholds(confidence: np.ndarray) -> np.ndarray:
    """Last place of each value in falling confidences: where a threshold can lie."""
    return np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)


def _places(answered: np.ndarray, coverages: Sequence[float]) -> np.ndarray:
    """Which thresholds answer these shares of the clips, or just more; rounding aside."""
    return np.searchsorted(answered, np.asarray(coverages) * answered[-1] - 1e-9)
