"""How accurate a system is when it may say "don't know" to the clips that it is least sure of.

The curve of accuracy over coverage, the share of clips answered (El-Yaniv & Wiener, JMLR 11,
2010). Confidence is the probability of the answer; a temperature hardly changes the curve, which
asks for the order of the clips alone. Intervals come from a bootstrap over artists, in which every
resample chooses its own threshold for the coverage asked for.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from genre_utils.errors import GenreUtilsError, UsageError
from genre_utils.metrics import intervals
from genre_utils.metrics.calibration import confidences, with_probabilities
from genre_utils.metrics.evaluate import KEY

COVERAGES = tuple(np.arange(1, 101) / 100)
PART = 256  # resamples at once: some 10 MB for 5,500 clips


def coverage_curve(
    predictions: pd.DataFrame, clips: pd.DataFrame, coverages: Sequence[float] = COVERAGES, *,
    n_resamples: int = intervals.N_RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
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
            "coverage": coverages, "answered": answered[places] / answered[-1],
            "threshold": confidence[last][places], "accuracy": accuracy,
            "accuracy_lo": low, "accuracy_hi": high,
        }  # fmt: skip
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
