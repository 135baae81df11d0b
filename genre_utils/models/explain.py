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

Explanations of tested clips, each by the head that had not heard it; kept on disk.

TensorFlow starts only where there is something to compute.
"""

import copy
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import spearmanr

from genre_utils.backend import keras, tf
from genre_utils.extraction.features import to_image
from genre_utils.extraction.vgg import Arrays, Weights, build_trunk, preprocess, random_arrays
from genre_utils.metrics.claims import pair_rates
from genre_utils.models.cnn import HeadClassifier, build_head
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Rows, digest, remembered, source_version

explain = sys.modules[__name__]

# ---- models.explain ----
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
        self,
        arrays: Arrays,
        head: HeadClassifier,
        image_shape: tuple[int, int] = (216, 626),
        preprocessing: str = "vgg16",
    ) -> None:
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


# ---- models.saliency ----
MODULES = ("explain", "head", "dense", "saliency")  # in which explanations are written


def most_confused(predictions: pd.DataFrame, n: int = 1) -> list[tuple[str, str]]:
    """Return the n pairs of genres that are taken for each other most, as a share of their clips.

    Parameters
    ----------
    predictions : pd.DataFrame
        y_true, y_pred of one system under one protocol.
    """
    genres = sorted(set(predictions["y_true"]) | set(predictions["y_pred"]))
    counts = pd.crosstab(predictions["y_true"], predictions["y_pred"])
    counts = counts.reindex(index=genres, columns=genres, fill_value=0).to_numpy()
    pairs = list(combinations(range(len(genres)), 2))
    order = np.argsort(-pair_rates(counts, pairs), kind="stable")[:n]
    return [(genres[pairs[i][0]], genres[pairs[i][1]]) for i in order]


def examples(predictions: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Choose clips to be explained: of two genres that are confused, the surest right and wrong.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv of one system with probabilities under one protocol.
    pairs : sequence of (genre, genre)

    Returns
    -------
    pd.DataFrame
        pair, kind ("right", "wrong"), clip_id, fold, y_true, y_pred, confidence: four rows a pair
        (right in each genre, wrong in each direction), fewer where no clip was answered so. Of
        equally sure clips the first by clip_id.

    Raises
    ------
    GenreUtilsError
        Several systems or protocols, or no probabilities.
    """
    if len(predictions[["system", "protocol"]].drop_duplicates()) != 1:
        raise GenreUtilsError("examples are chosen of one system under one protocol")
    table = predictions.sort_values("clip_id").reset_index(drop=True)
    columns = [f"p_{genre}" for genre in table["y_pred"]]
    if table.reindex(columns=sorted(set(columns))).isna().any(axis=None):
        raise GenreUtilsError(f"{table['system'].iloc[0]} has no probabilities to choose by")
    table["confidence"] = [table.at[i, column] for i, column in enumerate(columns)]
    rows = []
    for pair in pairs:
        cells = [("right", (g, g)) for g in pair] + [("wrong", way) for way in permutations(pair)]
        for kind, (true, answer) in cells:
            found = table[(table["y_true"] == true) & (table["y_pred"] == answer)]
            best = found.nlargest(1, "confidence")
            rows.append(best.assign(pair="/".join(pair), kind=kind))
    columns = ["pair", "kind", "clip_id", "fold", "y_true", "y_pred", "confidence"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def explained(
    chosen: pd.DataFrame,
    clips: pd.DataFrame,
    folds: pd.Series,
    maps: Rows,
    mel: np.ndarray,
    trunk: Weights,
    *,
    settings: dict[str, Any],
    look: dict[str, str],
    root: Path,
    patches: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Say of chosen clips what spoke for the genre that was answered.

    Parameters
    ----------
    chosen : pd.DataFrame
        From `examples`.
    clips : pd.DataFrame
        The n usable clips.
    folds : pd.Series
        Fold of each clip under the protocol of ``chosen``, indexed by clip_id.
    maps : Rows [shape=(n, 6, 19, 512)]
        VGG-16 maps that the heads are trained on, once more, for the folds of the chosen clips.
    mel : np.ndarray [shape=(len(chosen), 216, t)]
        Mel-spectrograms of the chosen clips.
    trunk : Weights
    settings : dict
        Of `HeadClassifier`, as in the cross-validation (``seed`` is moved on by the fold).
    look : dict
        mel_scale, channels and preprocessing, as the maps were made.
    root : Path
        Folder that keeps the result.
    patches : (rows, columns)
        Of `explain.occlusion`.

    Returns
    -------
    dict
        "gradient" (`explain.grad_cam`) and "occlusion" of each chosen clip
        [len(chosen), 216, t]; the `explain.randomised` maps of the first clip under their names
        after "sanity: ".
    """
    key = {
        "chosen": chosen.drop(columns="confidence").to_numpy().tolist(),
        "clips": clips[["sha256", "genre"]].to_numpy().tolist(),
        "folds": [int(fold) for fold in clips["clip_id"].map(folds)],
        "weights": trunk.digest,
        "settings": settings,
        "look": look,
        "patches": list(patches),
        "code": source_version(f"genre_utils.models.{name}" for name in MODULES),
    }
    path = root / f"saliency-{digest(key)[:24]}.npz"
    how = (settings, look, patches)
    return remembered(path, lambda: _maps(chosen, clips, folds, maps, mel, trunk, *how))


def _maps(
    chosen: pd.DataFrame,
    clips: pd.DataFrame,
    folds: pd.Series,
    maps: Rows,
    mel: np.ndarray,
    trunk: Weights,
    settings: dict,
    look: dict,
    patches: tuple[int, int],
) -> dict[str, np.ndarray]:
    from genre_utils.models.cnn import HeadClassifier

    y, fold_of = clips["genre"].to_numpy(), clips["clip_id"].map(folds).to_numpy()
    how = {"scale": look["mel_scale"], "channels": look["channels"]}
    images = [to_image(each, "mel", **how) for each in mel]
    result = {"gradient": np.zeros(mel.shape, np.float32), "occlusion": np.zeros(mel.shape)}
    for fold, rows in chosen.reset_index(drop=True).groupby("fold"):
        train = fold_of != fold
        own = settings | {"seed": settings["seed"] + int(fold)}
        trained = HeadClassifier(**own).fit(maps[train], y[train])
        shape = images[0].shape[:2]
        network = explain.Network(trunk.arrays, trained, shape, look["preprocessing"])
        for i, genre in rows["y_pred"].items():
            result["gradient"][i] = explain.grad_cam(network, images[i], genre)
            result["occlusion"][i] = explain.occlusion(network, images[i], genre, patches)
            if i == 0:
                found = explain.randomised(network, images[i], genre, settings["seed"])
                result |= {f"sanity: {name}": each for name, each in found.items()}
    return result


def rank_correlations(maps: dict[str, np.ndarray]) -> pd.Series:
    """Spearman's correlation of each map's pixels with the first map's, by name; 1 for itself.

    NaN where a map has one value everywhere: it has no ranks.
    """
    first = next(iter(maps.values()))
    return pd.Series({name: _spearman(first, each) for name, each in maps.items()})


def _spearman(one: np.ndarray, two: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(spearmanr(one, two, axis=None).statistic)
