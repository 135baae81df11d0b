"""librosa's mel-spectrogram and filter banks for many clips of one kind.

`librosa.feature.melspectrogram` makes its filter bank anew at each call, multiplies with all its
zeros, and needs fresh memory for each step. Here the banks are kept and a block of frames goes
through all steps in the same memory: the same numbers (to 1e-4 dB) in well under half the time.

Features of many files into stores: what they lack, in chunks, in several processes.

The paper's audio features (section 2.2), the SVM's frames (2.5), and features as images.

Hand-crafted features of a clip, one number each, for classifiers that are no networks.

After Bahuleyan (arXiv:1804.01149, section 3.3; the paper's reference [1]): moments of the waveform,
zero-crossing rate, energy, tempo; MFCC, chroma, spectral centroid, bandwidth, contrast and roll-off
by their mean and standard deviation over the frames. Added here: flatness, tonnetz, and how fast
MFCC and loudness change (onset strength, the MFCC's slopes). The paper's CNNs see none of these.
"""

import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import librosa
import matplotlib
import numba
import numpy as np
from scipy import sparse

from genre_utils import paper
from genre_utils import runtime as parallel
from genre_utils.data import audio
from genre_utils.data.audio import AudioError
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Store, code_version

spectra = sys.modules[__name__]

# ---- extraction.spectra ----
BLOCK = 64  # frames at a time


@lru_cache(maxsize=16)
def mel_filters(sr: int, n_fft: int, n_mels: int, fmax: float | None = None) -> sparse.csr_array:
    """`librosa.filters.mel` without its zeros: a band has few of the bins.

    Returns
    -------
    scipy.sparse.csr_array [shape=(n_mels, 1 + n_fft // 2), dtype=float32]
    """
    return sparse.csr_array(librosa.filters.mel(sr=sr, n_fft=n_fft, n_mels=n_mels, fmax=fmax))


@lru_cache(maxsize=128)  # `librosa.estimate_tuning` knows 100 values
def chroma_filters(sr: int, n_fft: int, n_chroma: int, tuning: float) -> np.ndarray:
    """`librosa.filters.chroma`, shape=(n_chroma, 1 + n_fft // 2), dtype=float32; not to be changed.

    ``tuning`` is the deviation from A440 in fractions of a chroma bin.
    """
    bank = librosa.filters.chroma(sr=sr, n_fft=n_fft, n_chroma=n_chroma, tuning=tuning)
    bank.setflags(write=False)
    return bank


def mel_power(
    y: np.ndarray,
    *,
    sr: int,
    n_fft: int,
    hop_length: int,
    window: str,
    n_mels: int,
    fmax: float | None = None,
    power: int = 2,
    center: bool = True,
) -> np.ndarray:
    """`librosa.feature.melspectrogram` of a mono signal; the arguments are its.

    The transforms are done in double precision, as librosa does them: in single precision soft
    bands beside loud ones would be off by up to 1e-3 dB.

    Returns
    -------
    np.ndarray [shape=(n_mels, t), dtype=float32]
    """
    bank = mel_filters(sr, n_fft, n_mels, fmax)
    taper = librosa.filters.get_window(window, n_fft)
    y = np.pad(y, n_fft // 2) if center else y
    frames = librosa.util.frame(y, frame_length=n_fft, hop_length=hop_length, axis=0)
    n, bins = min(BLOCK, len(frames)), 1 + n_fft // 2
    tapered, stft = np.empty((n, n_fft)), np.empty((n, bins), np.complex128)
    spectrum = np.empty((bins, n), np.float32)
    mel = np.empty((n_mels, len(frames)), np.float32)
    for i in range(0, len(frames), n):
        block = slice(min(i, len(frames) - n), i + n)  # the last one overlaps
        np.multiply(frames[block], taper, out=tapered)
        _square(np.fft.rfft(tapered, out=stft), spectrum)
        mel[:, block] = bank @ (np.sqrt(spectrum) if power == 1 else spectrum)
    return mel


@numba.njit
def _square(stft, spectrum):  # noqa: ANN001, ANN202 (numba infers: complex128 [n, k], float32 [k, n])
    for i in range(stft.shape[0]):
        for k in range(stft.shape[1]):
            spectrum[k, i] = stft[i, k].real ** 2 + stft[i, k].imag ** 2


# ---- extraction.batch ----
CHUNK = 16  # clips that a worker extracts between two writes, at most
Extractor = Callable[[Path], dict[str, np.ndarray]]


def extract_lacking(
    files: Sequence[Path],
    ids: Sequence[str],
    targets: dict[str, Store],
    extractor: Extractor,
    *,
    jobs: int = 1,
    scheduler: str = "",
    desc: str = "features",
) -> int:
    """Extract the clips that some of the stores lack; workers write to the stores themselves.

    Parameters
    ----------
    files, ids : sequences of the same length
        Sound files and the digests of their bytes.
    targets : dict
        Store of each feature.
    extractor : callable
        File -> array of each feature of ``targets``; of a module's top level (or a `partial`).
    jobs, scheduler, desc
        As for `parallel.each`.

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
    tasks = [(chunk, targets, extractor) for chunk in _chunks(todo, jobs)]
    work = {"jobs": jobs, "scheduler": scheduler, "desc": desc, "unit": "chunk"}
    refused = [line for lines in parallel.each(_chunk, tasks, **work) for line in lines]
    if refused:
        raise GenreUtilsError(f"{len(refused)} clip(s) cannot be extracted; first: {refused[0]}")
    return len(todo)


def _chunks(todo: list, jobs: int) -> list[list]:
    """Split into even chunks of `CHUNK` clips at most, as many for each of the workers."""
    n = -(-len(todo) // (CHUNK * jobs)) * jobs
    edges = [len(todo) * i // n for i in range(n + 1)] if todo else [0]
    return [todo[a:b] for a, b in pairwise(edges) if a < b]


def _chunk(
    chunk: list[tuple[str, Path]], targets: dict[str, Store], extractor: Extractor
) -> list[str]:
    """Store a chunk's features; return the lines of the clips that cannot be used."""
    stored, rows, refused = [], {}, []
    for row, path in chunk:
        try:
            arrays = extractor(path)
        except AudioError as error:
            refused.append(str(error))
            continue
        for name in targets:
            if name not in rows:
                rows[name] = np.empty((len(chunk), *arrays[name].shape), arrays[name].dtype)
            rows[name][len(stored)] = arrays[name]  # at once: each clip then uses the same memory
        stored.append(row)
    for name, made in rows.items():
        targets[name].put(stored, made[: len(stored)])
    return refused


# ---- extraction.features ----
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
    mel = spectra.mel_power(y, **paper.MEL, power=1 if scale == "amplitude" else 2)
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
    mel = spectra.mel_power(y, sr=audio.SAMPLE_RATE, **shape, **frame)
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
        "mel": mel_spectrogram,
        "mfcc": mfcc,
        "chroma": chromagram,
        "svm": svm_frames,
        "svm-long": svm_frames_long,
    }
)


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
        "mel": {**paper.MEL, "scale": mel_scale},
        "mfcc": paper.MFCC,
        "chroma": paper.CHROMA,
        "svm": paper.SVM,
        "svm-long": {**paper.SVM, "duration": cutting["duration"]},
    }
    keys = {name: {"feature": name, **of_paper[name], **shared} for name in EXTRACTORS}
    return {name: Store(root, name, key, fresh=fresh) for name, key in keys.items()}


def _cutting(offset: float, fill: str) -> dict:
    return {"offset": offset, "fill": fill, "duration": paper.AUDIO["duration"]}


def extract_all(
    files: Sequence[Path],
    ids: Sequence[str],
    targets: dict[str, Store],
    *,
    offset: float = 0.0,
    fill: str = "repeat",
    mel_scale: str = "db",
    jobs: int = 1,
    scheduler: str = "",
) -> int:
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


# ---- extraction.handcrafted ----
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
        onset_envelope=found["onset_strength"][0],
        sr=audio.SAMPLE_RATE,
        hop_length=FRAMES["hop_length"],
    )
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
    files: Sequence[Path],
    ids: Sequence[str],
    root: Path,
    *,
    jobs: int = 1,
    scheduler: str = "",
    fresh: bool = False,
) -> Store:
    """Describe the clips that are not stored under ``root``: their first 30 s; all if ``fresh``.

    All else is as for `batch.extract_lacking`.

    Returns
    -------
    Store
        ``handcrafted``, rows [len(NAMES)].
    """
    key = {
        "feature": "handcrafted",
        "names": NAMES,
        "duration": DURATION,
        "code": code_version(audio, spectra, sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("librosa", "numpy", "scipy", "soundfile")},
    }
    store = Store(root, "handcrafted", key, fresh=fresh)
    work = {"jobs": jobs, "scheduler": scheduler, "desc": "hand-crafted features"}
    extract_lacking(files, ids, {"handcrafted": store}, _handcrafted_extract_file, **work)
    return store


def _handcrafted_extract_file(path: Path) -> dict[str, np.ndarray]:
    y = audio.decode(path, duration=DURATION)
    try:
        y = audio.cut(y, duration=len(y) / audio.SAMPLE_RATE)  # all of it: nothing repeated
    except ValueError as error:
        raise audio.AudioError(path, str(error)) from None
    return {"handcrafted": handcrafted(y)}
