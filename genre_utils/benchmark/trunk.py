"""The frozen trunk against other frameworks, and the results against the straightforward path."""

import math
from collections.abc import Callable

import joblib
import numpy as np
from sklearn.model_selection import StratifiedKFold

from genre_utils.backend import tf
from genre_utils.benchmark import naive, rivals
from genre_utils.benchmark.rows import Row, alternate
from genre_utils.benchmark.stages import Bench, our_fit
from genre_utils.extraction import vgg
from genre_utils.extraction.vgg import build_trunk, smallest_cosine
from genre_utils.runtime import GenreUtilsError

TIMED_IMAGES = 32
FOLDS, EPOCHS = 4, 25  # of the heads whose predictions are compared; epochs as the demo profile


def trunk(bench: Bench) -> list[Row]:
    """Images a second through the frozen trunk against the frameworks, all in one run."""
    n = min(TIMED_IMAGES, len(bench.ids))
    images = naive.images(bench.plain["mel"][:n])
    forwards = {"tensorflow": _tensorflow(bench, images.shape[1:])}
    for name in bench.rivals:
        forwards[name] = rivals.forward(name, bench.weights.arrays, bench.root)
    _check_equal(forwards, images[: vgg.BATCH])
    tasks: dict[str, Callable] = {"ours": lambda: bench.maps_of(bench.fresh(), n)}
    for name, forward in forwards.items():
        tasks[name] = lambda forward=forward: _in_batches(forward, images)
    rates = {name: n / took for name, took in alternate(tasks, bench.repeats).items()}
    used = vgg.trunk_precision(bench.weights).precision
    best = max(forwards, key=rates.get)
    others = ", ".join(f"{name} {rates[name]:.2f}" for name in forwards)
    detail = (
        f"{n} images of 216 x 626 in batches of {vgg.BATCH}; ours in {used} with making the "
        f"images and storing the maps; float32: {others}; best: {best}"
    )
    rows = [
        Row(
            "trunk",
            rates["ours"],
            "images/s",
            rates[best],
            "ratio >= 0.9",
            detail,
            more_is_better=True,
        ),
        Row("cost: trunk", joblib.cpu_count() / rates["ours"], "core-s/clip"),
    ]
    return rows + (_rounding(bench) if used == "bfloat16" else [])


def _tensorflow(bench: Bench, shape: tuple[int, int, int]) -> rivals.Forward:
    model = build_trunk(shape, bench.weights.arrays)
    forward = tf.function(lambda images: model(images, training=False))
    return lambda images: forward(tf.constant(images)).numpy()


def _in_batches(forward: rivals.Forward, images: np.ndarray) -> np.ndarray:
    size = vgg.BATCH
    return np.concatenate([forward(images[i : i + size]) for i in range(0, len(images), size)])


def _check_equal(forwards: dict[str, rivals.Forward], images: np.ndarray) -> None:
    """Refuse to time a framework that does not compute the same maps."""
    maps = {name: forward(images) for name, forward in forwards.items()}
    for name, found in maps.items():
        apart = np.abs(found - maps["tensorflow"]).max() / maps["tensorflow"].max()
        if not apart < 1e-4:
            raise GenreUtilsError(f"{name}: maps differ from TensorFlow's by {apart:.1e}; stopped")


def _rounding(bench: Bench) -> list[Row]:
    """Say what bfloat16 changes: maps, and predictions of cross-validated heads."""
    exact = bench.maps_of(bench.fresh(), len(bench.ids), "float32").load(bench.ids)
    cosine = smallest_cosine(bench.maps, exact)
    one, other = (fold_predictions(maps, bench.y, _our_head) for maps in (bench.maps, exact))
    n = len(bench.ids)
    return [
        Row("trunk: smallest cosine of bfloat16 maps", cosine, "", detail=f"{n} clips"),
        Row(
            "trunk: predictions that bfloat16 changes",
            int((one != other).sum()),
            "clips",
            detail=f"of {n}, {FOLDS} folds, {EPOCHS} epochs; right: "
            f"{(one == bench.y).sum()} with bfloat16, {(other == bench.y).sum()} with float32",
        ),
    ]


def agreement(bench: Bench) -> list[Row]:
    """Accuracy of librosa, Keras' ``predict`` and ``fit`` beside ours, same seed and folds."""
    images = naive.images(bench.plain["mel"])
    model = build_trunk(images.shape[1:], bench.weights.arrays)
    plain_maps = model.predict(images, batch_size=vgg.BATCH, verbose=0)
    plain = fold_predictions(plain_maps, bench.y, _plain_head)
    ours = fold_predictions(bench.maps, bench.y, _our_head)
    n = len(bench.y)
    right, plain_right = (ours == bench.y).mean(), (plain == bench.y).mean()
    error = math.sqrt(max(plain_right * (1 - plain_right), 1 / n) / n)
    detail = (
        f"accuracy {right:.3f} ours, {plain_right:.3f} straightforward, limit: one standard error "
        f"on {n} clips; {(ours != plain).sum()} predictions differ. Same initial weights; Keras "
        "draws the order of clips and the dropout from another stream, maps are stored as float16 "
        f"({vgg.trunk_precision(bench.weights).precision} trunk), sums run in another order"
    )
    return [
        Row(
            "same results: difference of accuracies",
            abs(right - plain_right),
            "",
            target=f"ours <= {error:.4f}",
            detail=detail,
        )
    ]


def fold_predictions(maps: np.ndarray, y: np.ndarray, predict: Callable) -> np.ndarray:
    """Test each clip once: ``predict(X_train, y_train, X_test, seed)`` -> class numbers."""
    found = np.full(len(y), -1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(maps, y)
    for seed, (train, test) in enumerate(folds):
        found[test] = predict(maps[train], y[train], maps[test], seed)
    return found


def _our_head(X: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return our_fit(X, y, EPOCHS, seed).predict(test)


def _plain_head(X: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return naive.fitted_head(X, y, EPOCHS, seed).predict(test, verbose=0).argmax(axis=1)
