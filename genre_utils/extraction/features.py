"""A clip's features: mel-spectrogram, MFCC and chromagram (section 2.2), the SVM's frames (2.5).

Also features as images (2.2.2, 2.3), hand-crafted features, and the extraction of many files into
stores. Filter banks are kept between calls, and blocks of frames share their memory: librosa's
numbers (to 1e-4 dB) in well under half of its time.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import librosa
import matplotlib
import numba
import numpy as np
from scipy import sparse

from genre_utils import paper
from genre_utils.data import audio
from genre_utils.data.audio import AudioError
from genre_utils.runtime import RANGES, GenreUtilsError, UsageError, check_choice, each
from genre_utils.store import Store, code_digest

BLOCK = 64  # frames that `mel_power` transforms at a time
CHUNK = 16  # clips that a worker extracts between two writes, at most
TOP_DB = 80.0
SVM_FRAMES = 123  # of the first 10 s, which the paper's SVM hears
CHOICES = {name: RANGES[name] for name in ("fill", "mel_scale", "channels", "preprocessing")}

Extractor = Callable[[Path], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Look:
    """How sound becomes an image: what the paper leaves open. Raises UsageError for other names."""

    offset: float = 0.0  # where the 20 s start in the clip, in seconds
    fill: str = "repeat"  # or "zeros": what follows a shorter clip, see `audio.cut`
    mel_scale: str = "db"  # or "amplitude", "power": see `mel_spectrogram`
    channels: str = "repeat"  # or "colormap": see `to_image`
    preprocessing: str = "vgg16"  # or "scale": see `vgg.preprocess`

    def __post_init__(self) -> None:
        for name in CHOICES:
            check_choice(name, getattr(self, name))

    @property
    def cutting(self) -> dict[str, float | str]:
        """Arguments of `audio.load_clip`."""
        return {"offset": self.offset, "fill": self.fill, "duration": paper.AUDIO["duration"]}


DEFAULT = Look()


@lru_cache(maxsize=16)
def mel_filters(sr: int, n_fft: int, n_mels: int, fmax: float | None = None) -> sparse.csr_array:
    """`librosa.filters.mel` [n_mels, 1 + n_fft // 2] without its zeros: a band has few bins."""
    return sparse.csr_array(librosa.filters.mel(sr=sr, n_fft=n_fft, n_mels=n_mels, fmax=fmax))


# librosa would make them again for each clip; `librosa.estimate_tuning` knows 100 values.
_chroma_filters = lru_cache(maxsize=128)(librosa.filters.chroma)


def mel_power(y: np.ndarray, p: Mapping, *, power: int = 2, center: bool = True) -> np.ndarray:
    """`librosa.feature.melspectrogram` of 16 kHz samples: shape=(n_mels, t), dtype=float32.

    ``p`` has its n_fft, hop_length, window, n_mels and perhaps fmax. The transforms have double
    precision, as librosa's: in single precision soft bands beside loud ones would be off by up to
    1e-3 dB.
    """
    n_fft = p["n_fft"]
    bank = mel_filters(audio.SAMPLE_RATE, n_fft, p["n_mels"], p.get("fmax"))
    taper = librosa.filters.get_window(p["window"], n_fft)
    y = np.pad(y, n_fft // 2) if center else y
    frames = librosa.util.frame(y, frame_length=n_fft, hop_length=p["hop_length"], axis=0)
    n, bins = min(BLOCK, len(frames)), 1 + n_fft // 2
    tapered, stft = np.empty((n, n_fft)), np.empty((n, bins), np.complex128)
    spectrum = np.empty((bins, n), np.float32)
    mel = np.empty((p["n_mels"], len(frames)), np.float32)
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


def mel_spectrogram(y: np.ndarray, *, scale: str = "db") -> np.ndarray:
    """Mel-spectrogram of 16 kHz samples [n] (section 2.2.1): float32 [216, 1 + n // 512].

    The paper names no ``scale``; decibels below the clip's maximum, cut at -80, is our default.
    """
    check_choice("mel_scale", scale)
    mel = mel_power(y, paper.MEL, power=1 if scale == "amplitude" else 2)
    if scale == "db":
        mel = librosa.power_to_db(mel, ref=np.max, top_db=TOP_DB)
    return mel.astype(np.float32)


def mfcc(y: np.ndarray) -> np.ndarray:
    """MFCC with the paper's parameters (section 2.2.2), shape=(32, 1 + n // 4096).

    The number of mel bands under the DCT is not clear in the paper; librosa's 128 is taken.
    """
    p = paper.MFCC
    mel = mel_filters(p["sr"], p["n_fft"], n_mels=128) @ _power(y, p)
    return librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=p["n_mfcc"]).astype(np.float32)


def chromagram(y: np.ndarray) -> np.ndarray:
    """Chromagram with the paper's parameters (section 2.2.2), shape=(32, 1 + n // 2048), 0..1."""
    return _chroma(_power(y, paper.CHROMA), paper.CHROMA["n_chroma"])


def svm_frames(y: np.ndarray) -> np.ndarray:
    """Frames of the SVM (section 2.5): 13 MFCC and the level of each.

    Frames lie wholly inside the signal (MATLAB's way, no centring). Returns shape=(14, t), float32:
    rows 0-12 are MFCC, row 13 the frame's RMS in dB re full scale, not under -100. 20 s give
    t = 248, which the fair SVM sees; the paper's SVM sees the first `SVM_FRAMES`.
    """
    p = paper.SVM
    mel = mel_power(y, p, center=False)
    # Only the floor of -80 dB is relative: to the loudest frame of each 10 s.
    pieces = [mel[:, i : i + SVM_FRAMES] for i in range(0, mel.shape[1], SVM_FRAMES)]
    level = np.hstack([librosa.power_to_db(piece) for piece in pieces])
    cepstrum = librosa.feature.mfcc(S=level, n_mfcc=p["n_mfcc"])
    frame = {"frame_length": p["n_fft"], "hop_length": p["hop_length"], "center": False}
    rms = librosa.feature.rms(y=y, **frame)
    return np.vstack([cepstrum, 20 * np.log10(np.maximum(rms, 1e-5))]).astype(np.float32)


def _power(y: np.ndarray, p: Mapping) -> np.ndarray:
    """Power spectrogram, shape=(1 + n_fft // 2, t), dtype=float32."""
    stft = librosa.stft(y, n_fft=p["n_fft"], hop_length=p["hop_length"], window=p["window"])
    return np.abs(stft) ** 2


def _chroma(power: np.ndarray, n_chroma: int) -> np.ndarray:
    """`librosa.feature.chroma_stft` with kept filters."""
    sr, n_fft = audio.SAMPLE_RATE, 2 * (len(power) - 1)
    with warnings.catch_warnings():  # where nothing has a pitch, its tuning is 0
        warnings.filterwarnings("ignore", message="Trying to estimate tuning from empty")
        tuning = librosa.estimate_tuning(S=power, sr=sr, bins_per_octave=n_chroma)
    bank = _chroma_filters(sr=sr, n_fft=n_fft, n_chroma=n_chroma, tuning=float(tuning))
    return librosa.util.normalize(bank @ power, axis=0).astype(np.float32)


EXTRACTORS = {
    "mel": mel_spectrogram,
    "mfcc": mfcc,
    "chroma": chromagram,
    "svm": lambda y: svm_frames(y)[:, :SVM_FRAMES],
    "svm-long": svm_frames,
}


def to_image(
    feature: np.ndarray, name: str, *, scale: str = "db", channels: str = "repeat"
) -> np.ndarray:
    """Turn one feature into the image VGG-16 sees (sections 2.2.2 and 2.3).

    ``feature`` [shape=(height, width)] is "mel" (made with ``scale``), "mfcc" or "chroma", as
    ``name`` says. Decibels from -80 to 0 and chroma from 0 to 1 have a fixed scale; all else lies
    between the clip's own minimum and maximum, so nothing is fitted on other clips. The paper says
    "3-channel" and no more: the grey value three times ("repeat"), or a colour map (magma). Low
    frequencies are at the top. Returns RGB, 0..255, shape=(height, width, 3), dtype=float32;
    UsageError for others.
    """
    if name not in paper.SHAPES:
        raise UsageError(f"no image of feature {name!r}: one of {', '.join(paper.SHAPES)}")
    check_choice("mel_scale", scale)
    check_choice("channels", channels)
    if name == "mel" and scale == "db":
        low, high = -TOP_DB, 0.0
    elif name == "chroma":
        low, high = 0.0, 1.0
    else:
        low, high = float(feature.min()), float(feature.max())
    grey = (feature - low) / max(high - low, 1e-12)
    if channels == "colormap":
        return (255 * matplotlib.colormaps["magma"](grey)[..., :3]).astype(np.float32)
    return np.repeat((255 * grey).astype(np.float32)[..., None], 3, axis=2)


def extract_all(
    files: Sequence[Path],
    ids: Sequence[str],
    root: Path,
    look: Look = DEFAULT,
    names: Sequence[str] = tuple(EXTRACTORS),
    *,
    jobs: int = 1,
    scheduler: str = "",
) -> dict[str, Store]:
    """Return the stores of features, cut and scaled as ``look`` says; all else as for `stored`."""
    parameters = {
        "mel": {**paper.MEL, "scale": look.mel_scale},
        "mfcc": paper.MFCC,
        "chroma": paper.CHROMA,
        "svm": paper.SVM,
        "svm-long": {**paper.SVM, "duration": paper.AUDIO["duration"]},
    }
    keys = {name: {**parameters[name], "audio": look.cutting} for name in names}
    extractor = partial(_features_of_file, names=tuple(names), look=look)
    return stored(keys, extractor, files, ids, root, jobs=jobs, scheduler=scheduler)


def _features_of_file(path: Path, names: tuple[str, ...], look: Look) -> dict[str, np.ndarray]:
    y = audio.load_clip(path, **look.cutting)
    extractors = EXTRACTORS | {"mel": partial(mel_spectrogram, scale=look.mel_scale)}
    made = {name: extractors[name](y) for name in names if name != "svm"}
    if "svm" in names:  # the first of the long frames
        frames = made["svm-long"] if "svm-long" in made else svm_frames(y)
        made["svm"] = frames[:, :SVM_FRAMES]
    return made


def stored(
    keys: dict[str, dict],
    extractor: Extractor,
    files: Sequence[Path],
    ids: Sequence[str],
    root: Path,
    *,
    jobs: int = 1,
    scheduler: str = "",
) -> dict[str, Store]:
    """Return stores of arrays, one row a clip; the clips that one of them lacks are extracted.

    ``keys`` are name of each array -> the parameters it depends on, beside the extractor's code;
    ``extractor`` (of a module's top level, or a `partial`) makes from a file the array of each
    name. ``files`` are sound files, ``ids`` the digests of their bytes; ``root`` is the stores'
    folder, where workers write themselves; ``jobs`` and ``scheduler`` are as for `runtime.each`.
    Raises GenreUtilsError if clips cannot be used: the line names the first, all others are stored.
    """
    code = code_digest(getattr(extractor, "func", extractor))
    keys = {name: {"feature": name, **key, "code": code} for name, key in keys.items()}
    stores = {name: Store.make(root, name, key) for name, key in keys.items()}
    lacking = {row for store in stores.values() for row in store.missing(ids)}
    todo = list({row: path for row, path in zip(ids, files, strict=True) if row in lacking}.items())
    size = max(1, min(CHUNK, -(-len(todo) // max(1, jobs))))  # no worker without a chunk
    chunks = [(todo[i : i + size], stores, extractor) for i in range(0, len(todo), size)]
    work = {"jobs": jobs, "scheduler": scheduler, "desc": " ".join(keys), "unit": "chunk"}
    refused = [line for lines in each(_chunk, chunks, **work) for line in lines]
    if refused:
        raise GenreUtilsError(f"{len(refused)} clip(s) cannot be extracted; first: {refused[0]}")
    return stores


def _chunk(chunk: list, stores: dict[str, Store], extractor: Extractor) -> list[str]:
    """Store the arrays of a chunk's (id, file); return the lines of the clips that are unusable."""
    made, refused = {}, []
    for row, path in chunk:
        try:
            made[row] = extractor(path)
        except AudioError as error:
            refused.append(str(error))
    for name, store in stores.items() if made else ():
        store.put(list(made), np.stack([arrays[name] for arrays in made.values()]))
    return refused


# Hand-crafted features, after Bahuleyan (arXiv:1804.01149, section 3.3; the paper's reference [1]).
# Added here: flatness, tonnetz, onset strength and the MFCC's slopes.

DURATION = 30.0  # s; Magnatune's and GTZAN's clips are not longer
N_FFT, N_MELS, N_MFCC, N_CHROMA = 2048, 128, 20, 12  # librosa's own, as its hop of 512 (32 ms)
MOMENTS = ("mean", "std", "skewness", "kurtosis")
BOTH = ("mean", "std")
SPREAD = ("mean", "std", "10%", "90%")
# Series over time -> (its rows, what is taken of each row).
SERIES = {
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
STATISTICS = {"mean": np.mean, "std": np.std}
STATISTICS |= {f"{q}%": partial(np.percentile, q=q) for q in (10, 90)}
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
    """Describe 16 kHz samples [n], peak 1, at least 1 s, by `NAMES`: float32, always finite."""
    wave, over_time = y.astype(np.float64), series(y)
    mean, std = wave.mean(), wave.std()
    z = (wave - mean) / max(std, 1e-10)  # where nothing varies: skewness 0, excess kurtosis -3
    square = z * z  # NumPy's z**3 takes ten times as long
    onset = over_time["onset_strength"][0]
    tempo = librosa.feature.tempo(onset_envelope=onset, sr=audio.SAMPLE_RATE)
    parts = [[mean, std, (square * z).mean(), (square * square).mean() - 3], tempo]
    for name, (_, statistics) in SERIES.items():
        rows = over_time[name].astype(np.float64)
        parts += [STATISTICS[statistic](rows, axis=1) for statistic in statistics]
    return np.concatenate(parts).astype(np.float32)


def handcrafted_of_file(path: Path) -> dict[str, np.ndarray]:
    """`handcrafted` of a file's first 30 s, as an extractor for `stored`."""
    y = audio.decode(path, duration=DURATION)
    try:
        y = audio.cut(y, duration=len(y) / audio.SAMPLE_RATE)  # all of it: nothing repeated
    except ValueError as error:
        raise AudioError(path, str(error)) from None
    return {"handcrafted": handcrafted(y)}


def series(y: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of `SERIES` as librosa computes it, shape=(rows, 1 + n // 512)."""
    magnitude = np.abs(librosa.stft(y, n_fft=N_FFT))
    power = magnitude**2
    level = librosa.power_to_db(mel_filters(audio.SAMPLE_RATE, N_FFT, N_MELS) @ power)
    mfcc = librosa.feature.mfcc(S=level, n_mfcc=N_MFCC)
    chroma = _chroma(power, N_CHROMA)
    spectrum = {"S": magnitude, "sr": audio.SAMPLE_RATE}
    centroid = librosa.feature.spectral_centroid(**spectrum)
    return {
        "zero_crossing_rate": librosa.feature.zero_crossing_rate(y),
        "rms": librosa.feature.rms(y=y),
        "mfcc": mfcc,
        "chroma": chroma,
        "spectral_centroid": centroid,
        "spectral_bandwidth": librosa.feature.spectral_bandwidth(**spectrum, centroid=centroid),
        "spectral_contrast": librosa.feature.spectral_contrast(**spectrum),
        "spectral_rolloff": librosa.feature.spectral_rolloff(**spectrum),
        "spectral_flatness": librosa.feature.spectral_flatness(S=magnitude),
        "tonnetz": librosa.feature.tonnetz(chroma=chroma),
        "onset_strength": librosa.onset.onset_strength(S=level, sr=audio.SAMPLE_RATE)[None],
        "mfcc_delta": librosa.feature.delta(mfcc),
        "mfcc_delta2": librosa.feature.delta(mfcc, order=2),
    }
