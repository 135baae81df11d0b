"""Hand-crafted features of a clip, one number each, for classifiers that are no networks.

After Bahuleyan (arXiv:1804.01149, section 3.3; the paper's reference [1]): moments of the waveform,
zero-crossing rate, energy, tempo; MFCC, chroma, spectral centroid, bandwidth, contrast and roll-off
by their mean and standard deviation over the frames. Added here: flatness, tonnetz, and how fast
MFCC and loudness change (onset strength, the MFCC's slopes). The paper's CNNs see none of these.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import librosa
import numpy as np

from genre_utils.extraction import audio, spectra
from genre_utils.extraction.batch import extract_lacking
from genre_utils.store import Store, code_version

DURATION = 30.0  # s; Magnatune's and GTZAN's clips are not longer
FRAMES = MappingProxyType({"n_fft": 2048, "hop_length": 512})  # 128 ms, every 32 ms
N_MELS, N_MFCC, N_CHROMA = 128, 20, 12

MOMENTS = ("mean", "std", "skewness", "kurtosis")
BOTH = ("mean", "std")
SPREAD = ("mean", "std", "10%", "90%")
# Series over time -> (its rows, what is taken of each row).
SERIES = MappingProxyType(
    {
        "zero_crossing_rate": (1, BOTH),
        "rms": (1, SPREAD),
        "mfcc": (N_MFCC, BOTH),
        "chroma": (N_CHROMA, BOTH),
        "spectral_centroid": (1, SPREAD),
        "spectral_bandwidth": (1, BOTH),
        "spectral_contrast": (7, BOTH),
        "spectral_rolloff": (1, SPREAD),
        "spectral_flatness": (1, BOTH),
        "tonnetz": (6, BOTH),
        "onset_strength": (1, SPREAD),
        "mfcc_delta": (N_MFCC, ("std", "10%", "90%")),
        "mfcc_delta2": (N_MFCC, ("std",)),
    }
)
STATISTICS = MappingProxyType(
    {
        "mean": lambda rows: rows.mean(axis=1),
        "std": lambda rows: rows.std(axis=1),
        "10%": lambda rows: np.percentile(rows, 10, axis=1),
        "90%": lambda rows: np.percentile(rows, 90, axis=1),
    }
)
NAMES = (
    *(f"waveform {moment}" for moment in MOMENTS),
    "tempo",
    *(
        f"{name}{f'[{i}]' if rows > 1 else ''} {statistic}"
        for name, (rows, statistics) in SERIES.items()
        for statistic in statistics
        for i in range(rows)
    ),
)


def handcrafted(y: np.ndarray) -> np.ndarray:
    """Describe a clip by the numbers that `NAMES` lists.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
        16 kHz samples, peak 1, at least 1 s.

    Returns
    -------
    np.ndarray [shape=(len(NAMES),), dtype=float32]
        Finite, also for a clip that is nearly silent. Frequencies in Hz, tempo in beats a minute.
    """
    found = series(y)
    tempo = librosa.feature.tempo(
        onset_envelope=found["onset_strength"][0], sr=audio.SAMPLE_RATE,
        hop_length=FRAMES["hop_length"],
    )  # fmt: skip
    parts = [_moments(y), tempo]
    for name, (_, statistics) in SERIES.items():
        rows = found[name].astype(np.float64)
        parts += [STATISTICS[statistic](rows) for statistic in statistics]
    return np.concatenate(parts).astype(np.float32)


def series(y: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of `SERIES` as librosa computes it, shape=(rows, 1 + n // 512)."""
    frame = {"frame_length": FRAMES["n_fft"], "hop_length": FRAMES["hop_length"]}
    magnitude = np.abs(librosa.stft(y, **FRAMES))
    power = magnitude**2
    bank = spectra.mel_filters(audio.SAMPLE_RATE, FRAMES["n_fft"], N_MELS)
    level = librosa.power_to_db(bank @ power)
    mfcc = librosa.feature.mfcc(S=level, n_mfcc=N_MFCC)
    chroma = _chroma(power)
    spectrum = {"S": magnitude, "sr": audio.SAMPLE_RATE}
    centroid = librosa.feature.spectral_centroid(**spectrum)
    onset = librosa.onset.onset_strength(
        S=level, sr=audio.SAMPLE_RATE, hop_length=FRAMES["hop_length"], n_fft=FRAMES["n_fft"]
    )
    return {
        "zero_crossing_rate": librosa.feature.zero_crossing_rate(y, **frame),
        "rms": librosa.feature.rms(y=y, **frame),
        "mfcc": mfcc,
        "chroma": chroma,
        "spectral_centroid": centroid,
        "spectral_bandwidth": librosa.feature.spectral_bandwidth(**spectrum, centroid=centroid),
        "spectral_contrast": librosa.feature.spectral_contrast(**spectrum),
        "spectral_rolloff": librosa.feature.spectral_rolloff(**spectrum),
        "spectral_flatness": librosa.feature.spectral_flatness(S=magnitude),
        "tonnetz": librosa.feature.tonnetz(chroma=chroma),
        "onset_strength": onset[None],
        "mfcc_delta": librosa.feature.delta(mfcc),
        "mfcc_delta2": librosa.feature.delta(mfcc, order=2),
    }


def _chroma(power: np.ndarray) -> np.ndarray:
    """`librosa.feature.chroma_stft` of 12 semitones."""
    sr = audio.SAMPLE_RATE
    with warnings.catch_warnings():  # where nothing has a pitch, its tuning is 0
        warnings.filterwarnings("ignore", message="Trying to estimate tuning from empty")
        tuning = librosa.estimate_tuning(S=power, sr=sr, bins_per_octave=N_CHROMA)
    bank = spectra.chroma_filters(sr, FRAMES["n_fft"], N_CHROMA, float(tuning))
    return librosa.util.normalize(bank @ power, axis=0)


def _moments(y: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, skewness, excess kurtosis (0 and -3 where nothing varies)."""
    y = y.astype(np.float64)
    mean, std = y.mean(), y.std()
    z = (y - mean) / max(std, 1e-10)
    square = z * z  # NumPy's z**3 takes ten times as long
    return np.array([mean, std, (square * z).mean(), (square * square).mean() - 3])


def stored(
    files: Sequence[Path], ids: Sequence[str], root: Path, *,
    jobs: int = 1, scheduler: str = "", fresh: bool = False,
) -> Store:  # fmt: skip
    """Describe the clips that are not stored under ``root``: their first 30 s; all if ``fresh``.

    All else is as for `batch.extract_lacking`.

    Returns
    -------
    Store
        ``handcrafted``, rows [len(NAMES)].
    """
    key = {
        "feature": "handcrafted", "names": NAMES, "duration": DURATION,
        "code": code_version(audio, spectra, sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("librosa", "numpy", "scipy", "soundfile")},
    }  # fmt: skip
    store = Store(root, "handcrafted", key, fresh=fresh)
    work = {"jobs": jobs, "scheduler": scheduler, "desc": "hand-crafted features"}
    extract_lacking(files, ids, {"handcrafted": store}, _extract_file, **work)
    return store


def _extract_file(path: Path) -> dict[str, np.ndarray]:
    y = audio.decode(path, duration=DURATION)
    try:
        y = audio.cut(y, duration=len(y) / audio.SAMPLE_RATE)  # all of it: nothing repeated
    except ValueError as error:
        raise audio.AudioError(path, str(error)) from None
    return {"handcrafted": handcrafted(y)}
