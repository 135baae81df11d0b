"""Saliency maps: which parts of a mel-spectrogram speak for a genre, and whether to trust them.

- `grad_cam` (Selvaraju et al., ICCV 2017): channels weighted by their mean gradient. One pass of
  the trunk; the way back leads through the head only.
- `occlusion` (Zeiler & Fergus, ECCV 2014): what a grey patch costs the genre, a pass for each.

The layer is block5_conv3, the last one that has 13 x 39 places (16 pixels, 0.5 s each); the pooling
behind it leaves 6 x 19. `stages` are for Grad-CAM with weights drawn at random, from the head
downwards (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018): a map that stays the
same shows edges of the image, not what the network has learned.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix

from genre_utils.extraction.features import to_image
from genre_utils.extraction.vgg import Arrays, build_trunk, load_weights, preprocess, random_arrays
from genre_utils.models.cnn import HeadClassifier, build_head
from genre_utils.runtime import GenreUtilsError, UsageError, check_choice
from genre_utils.store import Run, code_digest, digest, remembered

if TYPE_CHECKING:
    from genre_utils.backend import tf

LAYER, CELL = "block5_conv3", 16  # pixels from one of its places to the next
PATCHES = (4, 10)  # of occlusion, along frequency and time: 54 mel bands by 2 s
BATCH = 8
# Stages of the sanity check -> how the names of the trunk's random layers start.
RANDOM = {"head random": (), "head and block 5 random": ("block5",), "all random": ("block",)}


@dataclass(eq=False)
class Network:
    """Frozen trunk and trained head joined: ``below`` gives values of `LAYER`, ``above`` logits.

    In float32, the head was trained on float16: the third digit of probabilities may differ.
    """

    arrays: Arrays  # the trunk's, `Weights.arrays`
    head: HeadClassifier
    image_shape: tuple[int, int] = (216, 626)  # height, width
    preprocessing: str = "vgg16"  # of the maps that the head was trained on

    def __post_init__(self) -> None:
        from genre_utils.backend import keras

        head, trunk = self.head, build_trunk((*self.image_shape, 3), self.arrays)
        upper = build_head(trunk.output_shape[1:], len(head.classes_), pooling=head.pooling)
        upper.set_weights(head.weights_)
        upper.layers[-1].activation = keras.activations.linear  # softmax mixes genres
        seen = trunk.get_layer(LAYER).output
        self.below = keras.Model(trunk.input, seen)
        self.above = keras.Model(seen, upper(trunk.output))

    def inputs(self, images: np.ndarray) -> "tf.Tensor":
        """Images [n, height, width, 3], 0..255, as ``below`` takes them."""
        from genre_utils.backend import tf

        if images.shape[1:] != (expected := (*self.image_shape, 3)):
            raise UsageError(f"an image of shape {images.shape[1:]} where {expected} is expected")
        return tf.constant(preprocess(images, self.preprocessing))

    def log_odds(self, images: np.ndarray, genre: str) -> np.ndarray:
        """Logarithm of a genre's odds against all others, [n]; exact where p rounds to 1."""
        batches = (self.inputs(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
        logits = [self.above(self.below(b, training=False), training=False) for b in batches]
        logits = np.concatenate(logits).astype(float)
        number = self.class_number(genre)
        return logits[:, number] - logsumexp(np.delete(logits, number, axis=1), axis=1)

    def class_number(self, genre: str) -> int:
        """Column of a genre; raises `UsageError` for one that the head does not know."""
        known = list(self.head.classes_)
        check_choice("genre", genre, known)
        return known.index(genre)


def grad_cam(network: Network, image: np.ndarray, genre: str) -> np.ndarray:
    """Grad-CAM of a genre's logit, [height, width]; UsageError where the head has no such genre.

    ``image`` [height, width, 3] is from `features.to_image`: 0..255, low frequencies first. The
    genre need not be the answer. The map, float32, is 1 at the place that speaks most for it, and
    all 0 where nothing does.
    """
    from genre_utils.backend import tf

    number, inputs = network.class_number(genre), network.inputs(image[None])
    values = network.below(inputs, training=False)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        logit = network.above(values, training=False)[0, number]
    weights = tape.gradient(logit, values)[0].numpy().mean(axis=(0, 1))
    places = np.maximum(values[0].numpy() @ weights, 0).astype(np.float32)
    shape = network.image_shape
    size = [min(CELL * n, whole) for n, whole in zip(places.shape, shape, strict=True)]
    large = tf.image.resize(places[..., None], size).numpy()[..., 0]  # bilinear
    large /= max(large.max(), 1e-12)
    # Pooling drops the last rows and columns that do not fill a window: they get the edge's value.
    return np.pad(large, [(0, whole - n) for whole, n in zip(shape, size, strict=True)], "edge")


def occlusion(
    network: Network, image: np.ndarray, genre: str, patches: tuple[int, int] = PATCHES
) -> np.ndarray:
    """Drop of a genre's log-odds when a patch of the image is its mean grey.

    Not of its probability: where that is 1 to the last digit, no single patch would change it. The
    image, as for `grad_cam`, is cut into ``patches`` (rows, columns), a pass of the network each.
    The map, float32 [height, width], has one value a patch, above 0 where it speaks for the genre.
    """
    sides = zip(image.shape[:2], patches, strict=True)
    rows, columns = (pairwise(np.linspace(0, n, k + 1).astype(int)) for n, k in sides)
    places = [np.s_[a:b, c:d] for (a, b), (c, d) in product(rows, columns)]
    covered = np.repeat(image[None], len(places), axis=0)
    for patched, place in zip(covered, places, strict=True):
        patched[place] = image.mean()
    drops = network.log_odds(image[None], genre) - network.log_odds(covered, genre)
    result = np.zeros(image.shape[:2], np.float32)
    for place, drop in zip(places, drops, strict=True):
        result[place] = drop
    return result


def stages(network: Network, seed: int = 0) -> dict[str, Network]:
    """Return the network, "trained", and its copies with random weights (`RANDOM`), by name."""
    from genre_utils.backend import keras

    made = {"trained": network}
    head, drawn = copy.copy(network.head), random_arrays(seed)
    keras.utils.set_random_seed(seed)
    shape = [n // 32 for n in network.image_shape]
    fresh = build_head((*shape, 512), len(head.classes_), pooling=head.pooling)
    head.weights_ = fresh.get_weights()
    for name, start in RANDOM.items():
        arrays = {n: (drawn if n.startswith(start) else network.arrays)[n] for n in drawn}
        made[name] = Network(arrays, head, network.image_shape, network.preprocessing)
    return made


def rank_correlations(maps: dict[str, np.ndarray]) -> pd.Series:
    """Spearman's correlation of each map's pixels with the first map's; NaN where one is flat."""
    first = next(iter(maps.values()))
    flat = [name for name, values in maps.items() if np.ptp(values) == 0 or np.ptp(first) == 0]
    known = {n: spearmanr(first, m, axis=None).statistic for n, m in maps.items() if n not in flat}
    return pd.Series(known, dtype=float).reindex(list(maps))


def most_confused(predictions: pd.DataFrame, n: int = 1) -> list[tuple[str, str]]:
    """Return the n pairs of genres most taken for each other, as a share of their clips."""
    genres = sorted(set(predictions["y_true"]) | set(predictions["y_pred"]))
    counts = confusion_matrix(predictions["y_true"], predictions["y_pred"], labels=genres)
    of_genre = counts.sum(axis=1)
    rate = (counts + counts.T) / np.maximum(np.add.outer(of_genre, of_genre), 1)
    pairs = sorted(combinations(range(len(genres)), 2), key=lambda pair: -rate[pair])
    return [(genres[i], genres[j]) for i, j in pairs[:n]]


def examples(predictions: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Choose clips to explain: of two genres that are confused, the surest right and wrong.

    ``predictions`` are rows of predictions.csv of one system with probabilities under one protocol;
    GenreUtilsError for others. The columns are pair, kind ("right", "wrong"), protocol, clip_id,
    fold, y_true, y_pred, confidence: four rows a pair (right in each genre, wrong in each
    direction), fewer where no clip was answered so. Of equally sure clips the first by clip_id.
    """
    if len(predictions[["system", "protocol"]].drop_duplicates()) != 1:
        raise GenreUtilsError("examples are chosen of one system under one protocol")
    table = predictions.sort_values("clip_id", ignore_index=True)
    answered = "p_" + table["y_pred"]
    if table.reindex(columns=answered.unique()).isna().any(axis=None):
        raise GenreUtilsError(f"{table['system'].iloc[0]} has no probabilities to choose by")
    table["confidence"] = [table.at[i, column] for i, column in answered.items()]
    table = table.sort_values("confidence", ascending=False, kind="stable")
    cells = [
        ("/".join(pair), "right" if true == answer else "wrong", true, answer)
        for pair in pairs
        for true, answer in (*zip(pair, pair, strict=True), *permutations(pair))
    ]
    chosen = pd.DataFrame(cells, columns=["pair", "kind", "y_true", "y_pred"])
    chosen = chosen.merge(table.drop_duplicates(["y_true", "y_pred"]), on=["y_true", "y_pred"])
    columns = ["pair", "kind", "protocol", "clip_id", "fold", "y_true", "y_pred", "confidence"]
    return chosen[columns]


def explained(
    run: Run, chosen: pd.DataFrame, *, settings: dict[str, Any], patches: tuple[int, int] = PATCHES
) -> dict[str, np.ndarray]:
    """Explain the answers to clips chosen by `examples`, by heads that were not trained on them.

    These heads are trained once more, with the ``settings`` of the cross-validation (``seed`` is
    moved on by the fold). The run has mel-spectrograms and maps of them. The result is kept:
    "gradient" (`grad_cam`) and "occlusion" of each chosen clip, [len(chosen), 216, t].
    """

    def make() -> dict[str, np.ndarray]:
        maps: dict[str, list] = {"gradient": [], "occlusion": []}
        for network, image, genre in _answered(run, chosen, settings):
            maps["gradient"].append(grad_cam(network, image, genre))
            maps["occlusion"].append(occlusion(network, image, genre, patches))
        return {name: np.array(values) for name, values in maps.items()}

    return _kept(run, chosen, {"settings": settings, "patches": list(patches)}, make)


def sanity_check(
    run: Run, chosen: pd.DataFrame, *, settings: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Ask of each chosen clip, as in `explained`, whether Grad-CAM depends on what was learned.

    Kept: the first clip's maps by name of the `stages`, and "alike" [len(chosen), stages], the
    `rank_correlations` of each clip's maps with the trained network's.
    """

    def make() -> dict[str, np.ndarray]:
        networks, first, alike = {}, {}, []
        for network, image, genre in _answered(run, chosen, settings):
            if networks.get("trained") is not network:
                networks = stages(network, settings["seed"])
            maps = {name: grad_cam(part, image, genre) for name, part in networks.items()}
            first = first or maps
            alike.append(rank_correlations(maps))
        return first | {"alike": np.array(alike)}

    return _kept(run, chosen, {"settings": settings, "check": "sanity"}, make)


def _answered(
    run: Run, chosen: pd.DataFrame, settings: dict[str, Any]
) -> Iterator[tuple[Network, np.ndarray, str]]:
    """Of each chosen clip: the network that was not trained on it, its image, its answer."""
    clips, look = _folded(run, chosen), run.recorded("look")
    arrays = load_weights(look["weights"]).arrays
    digests = clips.set_index("clip_id")["sha256"]
    mel = run.arrays("mel").load(list(digests[chosen["clip_id"]]))
    maps, networks = run.arrays("vgg-mel").rows(list(clips["sha256"])), {}
    for values, fold, genre in zip(mel, chosen["fold"], chosen["y_pred"], strict=True):
        if fold not in networks:
            train = (clips["fold"] != fold).to_numpy()
            head = HeadClassifier(**settings | {"seed": settings["seed"] + int(fold)})
            head.fit(maps[train], clips["genre"].to_numpy()[train])
            networks[fold] = Network(arrays, head, mel.shape[1:], look["preprocessing"])
        image = to_image(values, "mel", scale=look["mel_scale"], channels=look["channels"])
        yield networks[fold], image, genre


def _folded(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """Clips of the chosen clips' protocol, with their fold."""
    splits = run.read("splits")
    folds = splits[splits["protocol"] == chosen["protocol"].iloc[0]].set_index("clip_id")["fold"]
    clips = run.usable_clips()
    return clips.assign(fold=clips["clip_id"].map(folds)).dropna(subset="fold")


def _kept(run: Run, chosen: pd.DataFrame, key: dict, make: Callable) -> dict[str, np.ndarray]:
    columns = ["protocol", "clip_id", "fold", "y_pred"]
    key |= {"chosen": chosen[columns].to_numpy().tolist()}
    key |= {"clips": _folded(run, chosen)[["sha256", "genre", "fold"]].to_numpy().tolist()}
    key |= {"maps": run.arrays("vgg-mel").folder.name, "code": code_digest(explained)}
    return remembered(run.cache / "folds" / f"saliency-{digest(key)[:24]}.npz", make)
