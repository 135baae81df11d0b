"""The frozen trunk run once per clip: features in, VGG-16 maps out (sections 2.2.2 and 2.3)."""

import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np

from genre_utils import paper
from genre_utils.errors import UsageError
from genre_utils.extraction.features import mel_spectrogram, to_image
from genre_utils.extraction.precision import Decision, decide
from genre_utils.extraction.weights import Arrays, Weights, build_trunk, kept_file, read_arrays
from genre_utils.parallel import each
from genre_utils.store import Store, code_version

PREPROCESSING = ("vgg16", "scale")
KEEP = ("vgg", "block4", "pooled")
# Blocks whose maps are kept in some form: frequency bands of `pooled`, channels.
POOLS = {"block3_pool": (8, 256), "block4_pool": (4, 512), "block5_pool": (2, 512)}
BATCH = 8
SHARD = 64  # clips between two writes

Blocks = Callable[[np.ndarray], list[np.ndarray]]


def preprocess(images: np.ndarray, how: str = "vgg16") -> np.ndarray:
    """Images [n, height, width, 3] of 0..255 as the trunk expects them.

    ``"vgg16"`` is Keras' own (BGR, ImageNet's mean taken off); ``"scale"`` divides by 255.
    """
    if how == "scale":
        return images / np.float32(255)
    if how != "vgg16":
        raise UsageError(f"unknown preprocessing {how!r}: one of {', '.join(PREPROCESSING)}")
    from genre_utils.backend import keras  # where all maps are stored, TensorFlow is not started

    return keras.applications.vgg16.preprocess_input(images.copy())


def compute_maps(
    features: Store, name: str, ids: Sequence[str], weights: Weights, root: Path, *,
    mel_scale: str = "db", channels: str = "repeat", preprocessing: str = "vgg16",
    precision: str = "auto", keep: Sequence[str] = ("vgg",), jobs: int = 1, scheduler: str = "",
    fresh: bool = False,
) -> dict[str, Store]:  # fmt: skip
    """Run each clip once through the frozen trunk and keep its maps (transfer learning, 2.3).

    Parameters
    ----------
    features : Store
        Rows [height, width] of the feature ``name`` ("mel", "mfcc" or "chroma").
    ids : sequence of str
        Digests of the clips' audio.
    mel_scale : str
        Scale that the mel-spectrograms were made with.
    channels : {"repeat", "colormap"}
        See `features.to_image`.
    preprocessing : {"vgg16", "scale"}
        See `preprocess`.
    precision : {"auto", "float32", "bfloat16"}
        See `trunk_precision`; what was really used is part of the stores' keys.
    keep : sequence of {"vgg", "block4", "pooled"}
        What to store of the one pass: the trunk's output, the map before block 5 (to fine-tune
        that block), `pooled` values.
    jobs, scheduler
        See `parallel.each`. TensorFlow uses all processors of a machine by itself: more than one
        job gains nothing there.

    Returns
    -------
    dict of Store
        ``"<kept>-<name>"`` -> rows, float16: ``vgg`` [height // 32, width // 32, 512], ``block4``
        [height // 16, width // 16, 512], ``pooled`` [d] (see `pooled_slices`).

    Raises
    ------
    UsageError
        A parameter is none of those named above.
    """
    unknown = [kind for kind in keep if kind not in KEEP]
    if unknown:
        raise UsageError(f"unknown keep {unknown[0]!r}: one of {', '.join(KEEP)}")
    look = {"mel_scale": mel_scale, "channels": channels, "preprocessing": preprocessing}
    used = trunk_precision(weights, precision).precision
    key = {
        "features": features.folder.name,
        "weights": weights.digest,
        "channels": channels,
        "preprocessing": preprocessing,
        "precision": used,
        "code": code_version(sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("keras", "tensorflow")},
    }
    stores = {kind: Store(root, f"{kind}-{name}", key, fresh=fresh) for kind in keep}
    lacking = {row for store in stores.values() for row in store.missing(ids)}
    todo = [row for row in dict.fromkeys(ids) if row in lacking]
    if todo:
        shared = (features, name, stores, kept_file(weights), used, look)
        shards = [(todo[i : i + SHARD], *shared) for i in range(0, len(todo), SHARD)]
        how = {"desc": f"VGG-16 {name}", "unit": f"x{SHARD} clips"}
        each(_shard, shards, jobs=jobs, scheduler=scheduler, **how)
    return {f"{kind}-{name}": store for kind, store in stores.items()}


def trunk_precision(weights: Weights, precision: str = "auto") -> Decision:
    """Return the precision that this machine runs the trunk in, for all three features.

    ``"auto"`` is bfloat16 (multiplications; weights and the stored maps stay float32 and float16)
    where it is clearly faster and gives the same maps but for rounding, else float32: measured
    once on synthetic mel-spectrograms, then read from the cache. See `precision.decide`.
    """
    key = {"weights": weights.digest, "trunk": code_version(sys.modules[__name__])}
    return decide(precision, lambda kind: _timed_pass(weights.arrays, kind), key)


def build_blocks(
    input_shape: tuple[int, int, int], arrays: Arrays, precision: str = "float32"
) -> Blocks:
    """Build the trunk with three outputs.

    Returns
    -------
    callable
        Preprocessed images [n, height, width, 3] -> the maps after each of `POOLS`, float32.
    """
    from genre_utils.backend import keras, tf

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        trunk = build_trunk(input_shape, arrays)
    finally:
        keras.config.set_dtype_policy(policy)
    model = keras.Model(trunk.input, [trunk.get_layer(pool).output for pool in POOLS])

    @tf.function
    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        return [tf.cast(maps, tf.float32) for maps in model(images, training=False)]

    return lambda images: [maps.numpy() for maps in forward(tf.constant(images))]


def pooled(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Pool maps over time and frequency bands.

    Each map's frequency axis is cut into as many bands as `POOLS` says (low frequencies first,
    one row each where the map has fewer rows); a band gives every channel's mean and then every
    channel's maximum over its rows and all columns.

    Parameters
    ----------
    maps : sequence of np.ndarray [shape=(n, rows, columns, channels)]
        After each of `POOLS`.

    Returns
    -------
    np.ndarray [shape=(n, d), dtype=float32]
        Columns: see `pooled_slices`.
    """
    parts = []
    for (bands, _), block in zip(POOLS.values(), maps, strict=True):
        for band in np.array_split(block, min(bands, block.shape[1]), axis=1):
            parts += [band.mean(axis=(1, 2)), band.max(axis=(1, 2))]
    return np.concatenate(parts, axis=1)


def pooled_slices(name: str = "mel") -> dict[str, slice]:
    """Which columns of the store ``pooled-<name>`` belong to which block.

    A block's columns are [bands, (mean, maximum), channels], flattened.
    """
    found, start = {}, 0
    for number, (pool, (bands, channels)) in enumerate(POOLS.items(), 3):
        stop = start + min(bands, paper.SHAPES[name][0] // 2**number) * 2 * channels
        found[pool] = slice(start, stop)
        start = stop
    return found


def _shard(
    ids: list[str], features: Store, name: str, stores: dict[str, Store], trunk: Path,
    precision: str, look: dict[str, str],
) -> None:  # fmt: skip
    grey = features.load(ids)
    blocks = _blocks_of(trunk, (*grey.shape[1:], 3), precision)
    kept = {kind: [] for kind in stores}
    for start in range(0, len(grey), BATCH):
        maps = _forward(blocks, _images(grey[start : start + BATCH], name, **look))
        rows = {"vgg": maps[2], "block4": maps[1]}
        if "pooled" in kept:
            rows["pooled"] = pooled(maps)
        for kind, parts in kept.items():
            parts.append(rows[kind].astype(np.float16))
    for kind, store in stores.items():
        absent = set(store.missing(ids))
        new = [i for i, row in enumerate(ids) if row in absent]
        if new:
            store.put([ids[i] for i in new], np.concatenate(kept[kind])[new])


@lru_cache(maxsize=1)  # one feature after the other: the previous trunk can go
def _blocks_of(trunk: Path, input_shape: tuple[int, int, int], precision: str) -> Blocks:
    return build_blocks(input_shape, read_arrays(trunk), precision)


def _images(
    grey: np.ndarray, name: str, *, mel_scale: str, channels: str, preprocessing: str
) -> np.ndarray:
    images = np.stack([to_image(f, name, scale=mel_scale, channels=channels) for f in grey])
    return preprocess(images, preprocessing)


def _forward(blocks: Blocks, images: np.ndarray) -> list[np.ndarray]:
    """Run up to `BATCH` images, filled up to one shape for all batches."""
    filler = np.zeros((BATCH - len(images), *images.shape[1:]), np.float32)
    return [maps[: len(images)] for maps in blocks(np.concatenate([images, filler]))]


def _timed_pass(arrays: Arrays, precision: str) -> tuple[float, np.ndarray]:
    """Seconds of a pass over four synthetic clips of 5 s, and their maps after block 5."""
    glide = librosa.chirp(fmin=50, fmax=7000, sr=paper.MEL["sr"], duration=5)
    noise = np.random.default_rng(0).normal(size=len(glide))
    sounds = [glide + level * noise for level in (0.001, 0.01, 0.1, 1)]
    images = preprocess(np.stack([to_image(mel_spectrogram(y), "mel") for y in sounds]))
    blocks = build_blocks(images.shape[1:], arrays, precision)
    maps = blocks(images)  # the first pass also compiles
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        maps = blocks(images)
        seconds.append(time.perf_counter() - start)
    return min(seconds), maps[-1]
