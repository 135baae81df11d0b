"""What in a mel-spectrogram speaks for a genre: saliency maps, and whether to trust them.

Two methods, each a map [height, width] of the image:

- `grad_cam` (Selvaraju et al., ICCV 2017): channels weighted by their mean gradient;
- `occlusion` (Zeiler & Fergus, ECCV 2014): what a grey patch costs the genre; no gradient, but
  one pass through the network a patch.

The layer is block5_conv3, the last before the head that still has places: 13 x 39 of them (16
pixels, 0.5 s each), against 6 x 19 after the pooling behind it. `randomised` repeats a map with
weights drawn at random from the head downwards (Adebayo et al., "Sanity checks for saliency maps",
NeurIPS 2018): a map that stays the same shows edges of the image, not what the network learned.

A gradient map costs one pass of the trunk (the way back is only through the head), occlusion 41,
the sanity check 4.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from scipy.special import logsumexp

from genre_utils.backend import keras, tf
from genre_utils.errors import UsageError
from genre_utils.extraction.vgg import preprocess
from genre_utils.extraction.weights import Arrays, build_trunk, random_arrays
from genre_utils.models.head import HeadClassifier, build_head

LAYER, CELL = "block5_conv3", 16  # pixels from one of its places to the next
PATCHES = (4, 10)  # of occlusion, along frequency and time: 54 mel bands by 2 s
BATCH = 8


class Network:
    """Frozen trunk and trained head joined: from images to genres, in float32.

    The stored maps that the head was trained on are float16: probabilities differ from those of
    predictions.csv in the third digit or later.

    Parameters
    ----------
    arrays : dict
        The trunk's kernels and biases (`Weights.arrays`).
    head : HeadClassifier
        Trained.
    image_shape : (height, width)
    preprocessing : {"vgg16", "scale"}
        As the maps were made.
    """

    def __init__(
        self, arrays: Arrays, head: HeadClassifier, image_shape: tuple[int, int] = (216, 626),
        preprocessing: str = "vgg16",
    ) -> None:  # fmt: skip
        self.arrays, self.head = arrays, head
        self.image_shape, self.preprocessing = tuple(image_shape), preprocessing
        trunk = build_trunk((*self.image_shape, 3), arrays)
        self._lower = keras.Model(trunk.input, trunk.get_layer(LAYER).output)
        shape = trunk.output_shape[1:]
        upper = build_head(shape, len(head.classes_), pooling=head.pooling)
        upper.set_weights(head.weights_)
        upper.layers[-1].activation = keras.activations.linear  # logits: softmax mixes genres
        self._upper = keras.Sequential([keras.layers.MaxPooling2D(2), upper])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Values before the softmax, [n, n_classes], of images [n, height, width, 3], 0..255."""
        batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        return np.concatenate([self._upper(self._maps(b), training=False) for b in batches])

    def log_odds(self, images: np.ndarray, genre: str) -> np.ndarray:
        """Logarithm of a genre's odds against all others, [n]; exact where p rounds to 1."""
        logits, number = self.logits(images).astype(float), self.class_number(genre)
        return logits[:, number] - logsumexp(np.delete(logits, number, axis=1), axis=1)

    def activations(self, image: np.ndarray, genre: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the layer's values for an image [height, width, 3] and the logit's gradient.

        Returns
        -------
        values, gradient : np.ndarray [shape=(rows, columns, 512)]
        """
        number, maps = self.class_number(genre), self._maps(image[None])
        with tf.GradientTape() as tape:
            tape.watch(maps)
            logit = self._upper(maps, training=False)[0, number]
        return maps[0].numpy(), tape.gradient(logit, maps)[0].numpy()

    def class_number(self, genre: str) -> int:
        """Column of a genre; raises `UsageError` for one that the head does not know."""
        known = list(self.head.classes_)
        if genre not in known:
            raise UsageError(f"unknown genre {genre!r}: one of {', '.join(known)}")
        return known.index(genre)

    def randomised(self, parts: Sequence[str], seed: int = 0) -> "Network":
        """Copy the network with new weights in "head", "block5" or every block ("trunk")."""
        head, arrays = self.head, self.arrays
        if "head" in parts:
            keras.utils.set_random_seed(seed)
            head, shape = copy.copy(head), self._upper.layers[-1].input_shape[1:]
            fresh = build_head(shape, len(head.classes_), pooling=head.pooling)
            head.weights_ = fresh.get_weights()
        if "trunk" in parts or "block5" in parts:
            start = "block" if "trunk" in parts else "block5"
            drawn = random_arrays(seed)
            arrays = {n: (drawn if n.startswith(start) else arrays)[n] for n in arrays}
        return Network(arrays, head, self.image_shape, self.preprocessing)

    def _maps(self, images: np.ndarray) -> tf.Tensor:
        self._check(images.shape[1:])
        return self._lower(tf.constant(preprocess(images, self.preprocessing)), training=False)

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = (*self.image_shape, 3)
        if tuple(shape) != expected:
            raise UsageError(f"an image of shape {tuple(shape)} where {expected} is expected")


def grad_cam(network: Network, image: np.ndarray, genre: str) -> np.ndarray:
    """Grad-CAM of a genre's logit.

    Parameters
    ----------
    network : Network
    image : np.ndarray [shape=(height, width, 3)]
        From `features.to_image`, 0..255, low frequencies first.
    genre : str
        The genre to be explained, answered or not.

    Returns
    -------
    np.ndarray [shape=(height, width), dtype=float32]
        0..1, 1 at the place that speaks most for the genre; all 0 where nothing does.
    """
    values, gradient = network.activations(image, genre)
    return _enlarged(values @ gradient.mean(axis=(0, 1)), network.image_shape)


def _enlarged(places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Keep what is positive, scale it to 1 and give each place its pixels, in between bilinear.

    Pooling drops the last rows and columns that do not fill a window: they get the edge's value.
    """
    places = np.maximum(places, 0).astype(np.float32)
    size = [min(CELL * n, whole) for n, whole in zip(places.shape, shape, strict=True)]
    large = tf.image.resize(places[..., None], size).numpy()[..., 0]
    large /= max(large.max(), 1e-12)
    return np.pad(large, [(0, whole - n) for whole, n in zip(shape, size, strict=True)], "edge")


def occlusion(
    network: Network, image: np.ndarray, genre: str, patches: tuple[int, int] = PATCHES
) -> np.ndarray:
    """Drop of a genre's log-odds when a patch of the image is its mean grey.

    Not of its probability: where that is 1 to the last digit, no single patch would change it.

    Parameters
    ----------
    network, image, genre
        As for `grad_cam`.
    patches : (rows, columns)
        The image is cut into that many; each costs a pass of the network.

    Returns
    -------
    np.ndarray [shape=(height, width), dtype=float32]
        One value a patch, natural logarithm; above 0 where the patch speaks for the genre.
    """
    sides = zip(image.shape[:2], patches, strict=True)
    rows, columns = (pairwise(np.linspace(0, n, k + 1).astype(int)) for n, k in sides)
    places = [np.s_[a:b, c:d] for (a, b), (c, d) in product(rows, columns)]
    whole = network.log_odds(image[None], genre)
    result = np.zeros(image.shape[:2], np.float32)
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        covered = np.repeat(image[None], len(part), axis=0)
        for one, place in zip(covered, part, strict=True):
            one[place] = image.mean()
        for place, drop in zip(part, whole - network.log_odds(covered, genre), strict=True):
            result[place] = drop
    return result


def randomised(
    network: Network, image: np.ndarray, genre: str, seed: int = 0
) -> dict[str, np.ndarray]:
    """Sanity check of `grad_cam`: weights drawn at random, from the head downwards.

    Parameters
    ----------
    network, image, genre
        As for `grad_cam`.
    seed : int
        Of the random weights.

    Returns
    -------
    dict
        "trained", "head random", "head and block 5 random", "all random" -> map. Compare them with
        `saliency.rank_correlations`.
    """
    stages = {
        "head random": ("head",),
        "head and block 5 random": ("head", "block5"),
        "all random": ("head", "trunk"),
    }
    maps = {"trained": grad_cam(network, image, genre)}
    for name, parts in stages.items():
        maps[name] = grad_cam(network.randomised(parts, seed), image, genre)
    return maps
