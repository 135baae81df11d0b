"""The paper's audio features (section 2.2), the SVM's frames (2.5), and features as images."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import joblib
import librosa
import matplotlib
import numpy as np
from threadpoolctl import threadpool_limits

from genre_utils import paper
from genre_utils.errors import GenreUtilsError, UsageError
from genre_utils.extraction import audio
from genre_utils.progress import progress
from genre_utils.store import Store, code_version

MEL_SCALES = ("db", "amplitude", "power")
CHANNELS = ("repeat", "colormap")
TOP_DB = 80.0
CHUNK = 16  # clips a worker extracts between two writes


def mel_spectrogram(y: np.ndarray, *, scale: str = "db") -> np.ndarray:
    """Mel-spectrogram with the paper's parameters (section 2.2.1).

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
        16 kHz samples.
    scale : {"db", "amplitude", "power"}
        The paper names none; decibels below the clip's maximum, cut at -80 dB, is our default.

    Returns
    -------
    np.ndarray [shape=(216, 1 + n // 512), dtype=float32]
    """
    power = 1.0 if scale == "amplitude" else 2.0
    mel = librosa.feature.melspectrogram(y=y, **paper.MEL, power=power)
    if scale == "db":
        mel = librosa.power_to_db(mel, ref=np.max, top_db=TOP_DB)
    elif scale not in MEL_SCALES:
        raise UsageError(f"unknown mel scale {scale!r}: one of {', '.join(MEL_SCALES)}")
    return mel.astype(np.float32)


def mfcc(y: np.ndarray) -> np.ndarray:
    """MFCC with the paper's parameters (section 2.2.2), shape=(32, 1 + n // 4096).

    The number of mel bands under the DCT is not clear in the paper; librosa's 128 is taken.
    """
    return librosa.feature.mfcc(y=y, **paper.MFCC).astype(np.float32)


def chromagram(y: np.ndarray) -> np.ndarray:
    """Chromagram with the paper's parameters (section 2.2.2), shape=(32, 1 + n // 2048), 0..1."""
    return librosa.feature.chroma_stft(y=y, **paper.CHROMA).astype(np.float32)


def svm_frames(y: np.ndarray) -> np.ndarray:
    """Frames of the SVM baseline (section 2.5): 13 MFCC and the level of each.

    Uses the first 10 s; frames lie wholly inside it (MATLAB's way, no centring).

    Returns
    -------
    np.ndarray [shape=(14, t), dtype=float32]
        Rows 0-12: MFCC; row 13: the frame's RMS in dB re full scale, not under -100.
    """
    p = paper.SVM
    y = y[: round(p["duration"] * audio.SAMPLE_RATE)]
    frame = dict(hop_length=p["hop_length"], center=False)
    mel = librosa.feature.melspectrogram(
        y=y, sr=audio.SAMPLE_RATE, n_fft=p["n_fft"], window=p["window"], n_mels=p["n_mels"], **frame
    )
    cepstrum = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=p["n_mfcc"])
    rms = librosa.feature.rms(y=y, frame_length=p["n_fft"], **frame)
    level = 20 * np.log10(np.maximum(rms, 1e-5))
    return np.vstack([cepstrum, level]).astype(np.float32)


EXTRACTORS = MappingProxyType(
    {"mel": mel_spectrogram, "mfcc": mfcc, "chroma": chromagram, "svm": svm_frames}
)


def to_image(feature: np.ndarray, name: str, *, scale: str = "db", channels: str = "repeat"):  # noqa: ANN201
    """Turn one feature into the image VGG-16 sees (sections 2.2.2 and 2.3).

    Values become 0..255: decibels from -80 to 0 and chroma from 0 to 1 on a fixed scale, all else
    between the clip's own minimum and maximum, so nothing is fitted on other clips. The paper
    says "3-channel" and no more: the grey value three times, or a colour map (magma).

    Parameters
    ----------
    feature : np.ndarray [shape=(height, width)]
        Low frequencies (or coefficients) first; the image has them at the top as well.
    name : {"mel", "mfcc", "chroma"}
    scale : str
        Scale that the mel-spectrogram was made with.
    channels : {"repeat", "colormap"}

    Returns
    -------
    np.ndarray [shape=(height, width, 3), dtype=float32]
        RGB, 0..255.
    """
    if name not in paper.SHAPES or scale not in MEL_SCALES:
        raise UsageError(f"no image of feature {name!r} on scale {scale!r}")
    if name == "mel" and scale == "db":
        low, high = -TOP_DB, 0.0
    elif name == "chroma":
        low, high = 0.0, 1.0
    else:
        low, high = float(feature.min()), float(feature.max())
    grey = (feature - low) / max(high - low, 1e-12)
    if channels == "colormap":
        return (255 * matplotlib.colormaps["magma"](grey)[..., :3]).astype(np.float32)
    if channels != "repeat":
        raise UsageError(f"unknown channels {channels!r}: one of {', '.join(CHANNELS)}")
    return np.repeat((255 * grey).astype(np.float32)[..., None], 3, axis=2)


def stores(
    root: Path, *, offset: float, fill: str, mel_scale: str, fresh: bool
) -> dict[str, Store]:
    """Return the stores of all four features for one set of parameters."""
    shared = {
        "audio": _cutting(offset, fill),
        "code": code_version(audio, sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("librosa", "numpy", "scipy", "soundfile")},
    }
    of_paper = {"mel": paper.MEL, "mfcc": paper.MFCC, "chroma": paper.CHROMA, "svm": paper.SVM}
    keys = {name: {"feature": name, **dict(of_paper[name]), **shared} for name in EXTRACTORS}
    keys["mel"]["scale"] = mel_scale
    return {name: Store(root, name, key, fresh=fresh) for name, key in keys.items()}


def _cutting(offset: float, fill: str) -> dict:
    return {"offset": offset, "fill": fill, "duration": paper.AUDIO["duration"]}


def extract_all(
    files: Sequence[Path], ids: Sequence[str], targets: dict[str, Store], *,
    offset: float = 0.0, fill: str = "repeat", mel_scale: str = "db", jobs: int = 1,
) -> int:  # fmt: skip
    """Extract what the stores lack; one decode serves all features of a clip.

    Parameters
    ----------
    files, ids : sequences of the same length
        Sound files and the digests of their bytes.
    targets : dict
        From `stores`, made with the same ``offset``, ``fill`` and ``mel_scale``.
    jobs : int
        Worker processes, each with one thread.

    Returns
    -------
    int
        Number of clips extracted now.

    Raises
    ------
    GenreUtilsError
        Some clips cannot be used; all others are stored. The line names the first of them.
    """
    lacking = {row for store in targets.values() for row in store.missing(ids)}
    todo = list({row: path for row, path in zip(ids, files, strict=True) if row in lacking}.items())
    chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
    how = _cutting(offset, fill)
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        work = joblib.Parallel(return_as="generator_unordered")
        results = work(joblib.delayed(_extract_chunk)(c, targets, how, mel_scale) for c in chunks)
        bar = progress(results, "features", len(chunks), f"x{CHUNK} clips")
        refused = [line for lines in bar for line in lines]
    if refused:
        raise GenreUtilsError(f"{len(refused)} clip(s) cannot be extracted; first: {refused[0]}")
    return len(todo)


@threadpool_limits.wrap(limits=1)  # last bits must not depend on the number of threads
def _extract_chunk(
    chunk: list[tuple[str, Path]], targets: dict[str, Store], how: dict, mel_scale: str
) -> list[str]:
    rows = {name: [] for name in targets}
    ids, refused = [], []
    for row, path in chunk:
        try:
            y = audio.load_clip(path, **how)
        except audio.AudioError as error:
            refused.append(str(error))
            continue
        ids.append(row)
        for name in targets:
            extra = {"scale": mel_scale} if name == "mel" else {}
            rows[name].append(EXTRACTORS[name](y, **extra))
    for name, store in targets.items():
        if ids:
            store.put(ids, np.stack(rows[name]))
    return refused
