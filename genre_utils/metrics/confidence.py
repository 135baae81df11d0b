"""Do the probabilities mean what they say, and what is gained when a system may stay silent.

A network trained to the end is too sure of itself: of its answers at 0.99 fewer than 99 % are
right. Temperature scaling (Guo et al., ICML 2017) mends that with one number T: the logarithms of
the probabilities are divided by T before the softmax. The order of a clip's genres stays, so the
answers, and the accuracy, do too.

``proba`` is [n, n_classes], ``target`` the number of each clip's class. Tables are rows of
predictions.csv; systems without probabilities take no part.

How accurate a system is when it may say "don't know" to the clips that it is least sure of.

The curve of accuracy over coverage, the share of clips answered (El-Yaniv & Wiener, JMLR 11,
2010). Confidence is the probability of the answer; a temperature hardly changes the curve, which
asks for the order of the clips alone. Intervals come from a bootstrap over artists, in which every
resample chooses its own threshold for the coverage asked for.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

from genre_utils.metrics import intervals
from genre_utils.metrics.evaluate import KEY
from genre_utils.runtime import GenreUtilsError, UsageError

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
            right.mean(),
            confidence.mean(),
            *(expected_calibration_error(kind) for kind in kinds),
            brier_score_loss(target, even, labels=labels, scale_by_half=False),
            log_loss(target, even, labels=labels),
        )
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


COVERAGES = tuple(np.arange(1, 101) / 100)
PART = 256  # resamples at once: some 10 MB for 5,500 clips


def coverage_curve(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    coverages: Sequence[float] = COVERAGES,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy on the most confident clips.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv; systems without probabilities take no part.
    clips : pd.DataFrame
        The clip table (artists are what the bootstrap draws).
    coverages : sequence of float
        Shares of the clips to be answered at least, over 0 to 1.

    Returns
    -------
    pd.DataFrame
        system, protocol, coverage (asked for), answered (share; more where clips are equally
        confident), threshold (clips at or above it are answered), accuracy, accuracy_lo,
        accuracy_hi (95 %).
    """
    if not all(0 < share <= 1 for share in coverages):
        raise UsageError("coverages are shares of the clips: over 0, up to 1")
    tables = []
    for where, confidence, right, resamples in _systems(predictions, clips, n_resamples, seed):
        last = _thresholds(confidence)
        answered = last + 1.0
        places = _places(answered, coverages)
        accuracy = np.cumsum(right)[last][places] / answered[places]
        drawn = np.vstack([_accuracies(confidence, right, w, coverages) for w in resamples])
        ends = [
            intervals.percentile(column, estimate=found)
            for column, found in zip(drawn.T, accuracy, strict=True)
        ]
        low, high = np.array(ends).T
        columns = {
            "coverage": coverages,
            "answered": answered[places] / answered[-1],
            "threshold": confidence[last][places],
            "accuracy": accuracy,
            "accuracy_lo": low,
            "accuracy_hi": high,
        }
        table = pd.DataFrame(columns).round(6)
        tables.append(pd.DataFrame(where, index=table.index).join(table))
    names = [*KEY, "coverage", "answered", "threshold", "accuracy", "accuracy_lo", "accuracy_hi"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)


def _systems(
    predictions: pd.DataFrame, clips: pd.DataFrame, n_resamples: int, seed: int
) -> Iterator[tuple[dict[str, str], np.ndarray, np.ndarray, Iterator[np.ndarray]]]:
    """Each system and protocol: its clips, the most confident first, and the resamples' weights.

    Weights come in parts [<= `PART`, n_clips]: how often each clip is in each resample.
    """
    clusters = intervals.artist_clusters(clips)
    for where, part in with_probabilities(predictions).groupby(KEY, sort=False):
        of_clip = part["clip_id"].map(clusters)
        if of_clip.isna().any():
            lost = part.loc[of_clip.isna(), "clip_id"].iloc[0]
            raise GenreUtilsError(f"clip {lost!r} of the predictions is not in the clip table")
        confidence, right = confidences(part)
        order = np.argsort(-confidence, kind="stable")
        names, cluster = np.unique(of_clip.to_numpy(dtype=str)[order], return_inverse=True)
        drawn = intervals.draw(len(names), n_resamples, seed)
        parts = (drawn[i : i + PART, cluster] for i in range(0, n_resamples, PART))
        yield dict(zip(KEY, where, strict=True)), confidence[order], right[order], parts


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
