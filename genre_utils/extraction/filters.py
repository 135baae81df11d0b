"""librosa's filter banks, made once a process instead of at each call."""

from functools import lru_cache

import librosa
import numpy as np
from scipy import sparse


@lru_cache(maxsize=16)
def mel(sr: int, n_fft: int, n_mels: int, fmax: float | None = None) -> sparse.csr_array:
    """`librosa.filters.mel` without its zeros: a band has few of the bins.

    Returns
    -------
    scipy.sparse.csr_array [shape=(n_mels, 1 + n_fft // 2), dtype=float32]
    """
    return sparse.csr_array(librosa.filters.mel(sr=sr, n_fft=n_fft, n_mels=n_mels, fmax=fmax))


@lru_cache(maxsize=128)  # `librosa.estimate_tuning` knows 100 values
def chroma(sr: int, n_fft: int, n_chroma: int, tuning: float) -> np.ndarray:
    """`librosa.filters.chroma`, shape=(n_chroma, 1 + n_fft // 2), dtype=float32; not to be changed.

    ``tuning`` is the deviation from A440 in fractions of a chroma bin.
    """
    bank = librosa.filters.chroma(sr=sr, n_fft=n_fft, n_chroma=n_chroma, tuning=tuning)
    bank.setflags(write=False)
    return bank
