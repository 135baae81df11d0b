"""How far a support vector machine gets on MFCC when it is treated like the CNNs.

The paper's baseline (section 2.5) was cut down to save time: half of each clip, nothing
standardised, one linear kernel. Here the same 13 MFCC of the same 20 s that the CNNs see, with
their changes over time, standardised, a Gaussian kernel, and its two parameters chosen by nested
cross-validation.
"""

from functools import partial

import librosa
import numpy as np

from genre_utils.models.nested import RbfSVM
from genre_utils.models.svm import frame_mask

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
