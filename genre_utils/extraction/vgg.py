"""The frozen trunk run once per clip: features in, VGG-16 maps out (sections 2.2.2 and 2.3)."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from genre_utils.backend import keras, tf
from genre_utils.errors import UsageError
from genre_utils.extraction.features import to_image
from genre_utils.extraction.weights import Weights, build_trunk
from genre_utils.progress import progress
from genre_utils.store import Store, code_version

PREPROCESSING = ("vgg16", "scale")
BATCH = 8
SHARD = 64  # clips between two writes
PRECISION = "float32"


def preprocess(images: np.ndarray, how: str = "vgg16") -> np.ndarray:
    """Images [n, height, width, 3] of 0..255 as the trunk expects them.

    ``"vgg16"`` is Keras' own (BGR, ImageNet's mean taken off); ``"scale"`` divides by 255.
    """
    if how == "scale":
        return images / np.float32(255)
    if how != "vgg16":
        raise UsageError(f"unknown preprocessing {how!r}: one of {', '.join(PREPROCESSING)}")
    return keras.applications.vgg16.preprocess_input(images.copy())


def compute_maps(
    features: Store, name: str, ids: list[str], weights: Weights, root: Path, *,
    mel_scale: str = "db", channels: str = "repeat", preprocessing: str = "vgg16",
    fresh: bool = False,
) -> Store:  # fmt: skip
    """Run each clip once through the frozen trunk and keep its map (transfer learning, 2.3).

    Parameters
    ----------
    features : Store
        Rows [height, width] of the feature ``name`` ("mel", "mfcc" or "chroma").
    ids : list of str
        Digests of the clips' audio.
    mel_scale : str
        Scale that the mel-spectrograms were made with.
    channels : {"repeat", "colormap"}
        See `features.to_image`.
    preprocessing : {"vgg16", "scale"}
        See `preprocess`.

    Returns
    -------
    Store
        Rows [height // 32, width // 32, 512], float16.
    """
    key = {
        "features": features.folder.name,
        "weights": weights.digest,
        "channels": channels,
        "preprocessing": preprocessing,
        "precision": PRECISION,
        "code": code_version(sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("keras", "tensorflow")},
    }
    store = Store(root, f"vgg-{name}", key, fresh=fresh)
    todo = store.missing(ids)
    if not todo:
        return store
    model = build_trunk((*features.load(todo[:1]).shape[1:], 3), weights.arrays)
    forward = tf.function(lambda batch: model(batch, training=False))
    bar = progress(range(0, len(todo), SHARD), f"VGG-16 {name}", unit=f"x{SHARD} clips")
    for start in bar:
        part = todo[start : start + SHARD]
        grey = features.load(part)
        images = np.stack([to_image(f, name, scale=mel_scale, channels=channels) for f in grey])
        store.put(part, _forward(forward, preprocess(images, preprocessing)))
    return store


def _forward(forward: Callable, images: np.ndarray) -> np.ndarray:
    """Run images [n, height, width, 3] in batches of one shape, the last one filled up."""
    maps = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        full = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), np.float32)])
        maps.append(forward(tf.constant(full)).numpy()[: len(batch)])
    return np.concatenate(maps).astype(np.float16)
