"""The paper's audio features (section 2.2), the SVM's frames (2.5), and features as images."""

import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import librosa
import matplotlib
import numpy as np

from genre_utils import paper
from genre_utils.errors import UsageError
from genre_utils.extraction import audio, spectra
from genre_utils.extraction.batch import extract_lacking
from genre_utils.store import Store, code_version

MEL_SCALES = ("db", "amplitude", "power")
CHANNELS = ("repeat", "colormap")
TOP_DB = 80.0


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
    if scale not in MEL_SCALES:
        raise UsageError(f"unknown mel scale {scale!r}: one of {', '.join(MEL_SCALES)}")
    mel = spectra.mel_spectrogram(y, **paper.MEL, power=1 if scale == "amplitude" else 2)
    if scale == "db":
        mel = librosa.power_to_db(mel, ref=np.max, top_db=TOP_DB)
    return mel.astype(np.float32)


def mfcc(y: np.ndarray) -> np.ndarray:
    """MFCC with the paper's parameters (section 2.2.2), shape=(32, 1 + n // 4096).

    The number of mel bands under the DCT is not clear in the paper; librosa's 128 is taken.
    """
    return _mfcc(_power(y, paper.MFCC))


def chromagram(y: np.ndarray) -> np.ndarray:
    """Chromagram with the paper's parameters (section 2.2.2), shape=(32, 1 + n // 2048), 0..1."""
    return _chromagram(_power(y, paper.CHROMA))


def svm_frames(y: np.ndarray) -> np.ndarray:
    """Frames of the SVM baseline (section 2.5): 13 MFCC and the level of each.

    Uses the first 10 s; frames lie wholly inside it (MATLAB's way, no centring).

    Returns
    -------
    np.ndarray [shape=(14, t), dtype=float32]
        Rows 0-12: MFCC; row 13: the frame's RMS in dB re full scale, not under -100.
    """
    return svm_frames_long(y[: round(paper.SVM["duration"] * audio.SAMPLE_RATE)])


def svm_frames_long(y: np.ndarray) -> np.ndarray:
    """Frames as `svm_frames` makes them, of the whole signal: what the fair SVM sees.

    Returns
    -------
    np.ndarray [shape=(14, t), dtype=float32]
        t = 248 for 20 s; the first 123 are `svm_frames`.
    """
    frame = {"hop_length": paper.SVM["hop_length"], "center": False}
    shape = {name: paper.SVM[name] for name in ("n_fft", "window", "n_mels")}
    mel = spectra.mel_spectrogram(y, sr=audio.SAMPLE_RATE, **shape, **frame)
    # Only the floor of -80 dB is relative: to the loudest frame of each 10 s.
    ten_seconds = _first_ten_seconds()
    pieces = [mel[:, i : i + ten_seconds] for i in range(0, mel.shape[1], ten_seconds)]
    level = np.hstack([librosa.power_to_db(piece) for piece in pieces])
    cepstrum = librosa.feature.mfcc(S=level, n_mfcc=paper.SVM["n_mfcc"])
    rms = librosa.feature.rms(y=y, frame_length=paper.SVM["n_fft"], **frame)
    return np.vstack([cepstrum, 20 * np.log10(np.maximum(rms, 1e-5))]).astype(np.float32)


def _first_ten_seconds() -> int:
    """Return how many frames `svm_frames` has, the SVM's frames lying wholly inside its 10 s."""
    p = paper.SVM
    return 1 + (round(p["duration"] * audio.SAMPLE_RATE) - p["n_fft"]) // p["hop_length"]


def _power(y: np.ndarray, p: Mapping) -> np.ndarray:
    """Power spectrogram, shape=(1 + n_fft // 2, t), dtype=float32."""
    stft = librosa.stft(y, n_fft=p["n_fft"], hop_length=p["hop_length"], window=p["window"])
    return np.abs(stft) ** 2


def _mfcc(power: np.ndarray) -> np.ndarray:
    p = paper.MFCC
    mel = spectra.mel_filters(p["sr"], p["n_fft"], n_mels=128) @ power
    return librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=p["n_mfcc"]).astype(np.float32)


def _chromagram(power: np.ndarray) -> np.ndarray:
    """`librosa.feature.chroma_stft`, which would make its filters again for each clip."""
    p = paper.CHROMA
    tuning = librosa.estimate_tuning(S=power, sr=p["sr"], bins_per_octave=p["n_chroma"])
    chroma = spectra.chroma_filters(p["sr"], p["n_fft"], p["n_chroma"], float(tuning)) @ power
    return librosa.util.normalize(chroma, axis=0).astype(np.float32)


EXTRACTORS = MappingProxyType(
    {
        "mel": mel_spectrogram, "mfcc": mfcc, "chroma": chromagram,
        "svm": svm_frames, "svm-long": svm_frames_long,
    }
)  # fmt: skip


def extract(y: np.ndarray, names: Collection[str], *, mel_scale: str = "db") -> dict:
    """Make the features ``names`` of `EXTRACTORS`; what two of them share is computed once.

    Returns
    -------
    dict
        Feature by name, each as its own function makes it.
    """
    made = {}
    if "mel" in names:
        made["mel"] = mel_spectrogram(y, scale=mel_scale)
    if {"mfcc", "chroma"} & set(names):
        power = _power(y, paper.CHROMA)
        made["chroma"] = _chromagram(power)
        # Same windows, a hop twice as long: every second frame.
        step = paper.MFCC["hop_length"] // paper.CHROMA["hop_length"]
        made["mfcc"] = _mfcc(np.ascontiguousarray(power[:, ::step]))
    if "svm-long" in names:
        made["svm-long"] = svm_frames_long(y)
        made["svm"] = made["svm-long"][:, : _first_ten_seconds()]
    elif "svm" in names:
        made["svm"] = svm_frames(y)
    return made


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
    """Return the stores of all five features for one set of parameters."""
    cutting = _cutting(offset, fill)
    shared = {
        "audio": cutting,
        "code": code_version(audio, spectra, sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("librosa", "numpy", "scipy", "soundfile")},
    }
    of_paper = {
        "mel": {**paper.MEL, "scale": mel_scale}, "mfcc": paper.MFCC, "chroma": paper.CHROMA,
        "svm": paper.SVM, "svm-long": {**paper.SVM, "duration": cutting["duration"]},
    }  # fmt: skip
    keys = {name: {"feature": name, **of_paper[name], **shared} for name in EXTRACTORS}
    return {name: Store(root, name, key, fresh=fresh) for name, key in keys.items()}


def _cutting(offset: float, fill: str) -> dict:
    return {"offset": offset, "fill": fill, "duration": paper.AUDIO["duration"]}


def extract_all(
    files: Sequence[Path], ids: Sequence[str], targets: dict[str, Store], *,
    offset: float = 0.0, fill: str = "repeat", mel_scale: str = "db",
    jobs: int = 1, scheduler: str = "",
) -> int:  # fmt: skip
    """Extract what the stores lack; one decode serves all features of a clip.

    Parameters
    ----------
    files, ids : sequences of the same length
        Sound files and the digests of their bytes.
    targets : dict
        From `stores`, made with the same ``offset``, ``fill`` and ``mel_scale``.
    jobs, scheduler
        Worker processes here, or a Dask scheduler's; see `parallel.each`.

    Returns
    -------
    int
        Number of clips extracted now.

    Raises
    ------
    GenreUtilsError
        Some clips cannot be used; all others are stored. The line names the first of them.
    """
    extractor = partial(
        _extract_file, names=tuple(targets), how=_cutting(offset, fill), mel_scale=mel_scale
    )
    return extract_lacking(files, ids, targets, extractor, jobs=jobs, scheduler=scheduler)


def _extract_file(path: Path, names: tuple[str, ...], how: dict, mel_scale: str) -> dict:
    return extract(audio.load_clip(path, **how), names, mel_scale=mel_scale)
