"""Features, head and the whole experiment, measured on real clips."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np

from genre_utils import paper
from genre_utils.benchmark import naive
from genre_utils.benchmark.machine import memory_available, streaming_seconds
from genre_utils.benchmark.rows import Row, alternate
from genre_utils.extraction import features as fast
from genre_utils.extraction import vgg
from genre_utils.extraction.vgg import Weights
from genre_utils.models.cnn import HeadClassifier
from genre_utils.store import Store

WORKERS = 2
TOLERANCES = {"mel": ("dB", 1e-4), "mfcc": ("", 1e-3), "chroma": ("", 1e-5)}
PAPER_FOLDS = 10  # what a clip's features and map are shared by (90 / 10 split, section 2.4)
STEP = paper.TRAINING["batch_size"]
HEAD_ROWS, HEAD_EPOCHS = 4 * STEP, 6
# Memory of one image's largest maps in float32 (216 x 626 x 64), some four of them alive at once.
BYTES_PER_IMAGE = 4 * 4 * math.prod(paper.SHAPES["mel"]) * 64


@dataclass
class Bench:
    """The clips to measure with, and what several measurements share.

    Attributes
    ----------
    files, ids : lists of the same length
        Sound files and the digests of their bytes.
    y : np.ndarray [shape=(n,)]
        Genres as class numbers.
    weights : Weights
    root : Path
        Folder of private stores.
    rivals : list of str
        Keys of `rivals.RIVALS`.
    repeats : int
        Timed rounds.
    """

    files: Sequence[Path]
    ids: Sequence[str]
    y: np.ndarray
    weights: Weights
    root: Path
    rivals: Sequence[str]
    repeats: int

    def __post_init__(self) -> None:
        self._number = itertools.count()

    def fresh(self) -> Path:
        """Return a folder without stores."""
        return self.root / f"round-{next(self._number)}"

    def extract(self, root: Path) -> dict[str, Store]:
        """Extract all features into new stores."""
        return fast.extract_all(self.files, self.ids, root, jobs=WORKERS)

    def maps_of(self, root: Path, n: int, precision: str = "auto") -> Store:
        """Run the first ``n`` mel-spectrograms through the trunk into a new store."""
        ids = self.ids[:n]
        made = vgg.compute_maps(
            self.stores["mel"], "mel", ids, self.weights, root, precision=precision
        )
        return made["vgg-mel"]

    @cached_property
    def stores(self) -> dict[str, Store]:
        """Our features of all clips."""
        return self.extract(self.fresh())

    @cached_property
    def plain(self) -> dict[str, np.ndarray]:
        """Features of all clips by librosa alone."""
        return naive.all_features(self.files)

    @cached_property
    def maps(self) -> np.ndarray:
        """Our maps of all clips, float16 [n, 6, 19, 512], in the precision the probe chose."""
        return self.maps_of(self.fresh(), len(self.ids)).load(self.ids)


def extraction(bench: Bench) -> list[Row]:
    """Features against librosa in a loop: speed, largest differences, cost and storage."""
    n = len(bench.files)
    tasks = {
        "ours": lambda: bench.extract(bench.fresh()),
        "plain": lambda: naive.all_features(bench.files),
    }
    took = alternate(tasks, bench.repeats)
    rows = [
        Row(
            "features",
            n / took["ours"],
            "clips/s",
            n / took["plain"],
            "ratio >= 3",
            f"{n} files, {WORKERS} workers against one plain librosa loop",
            more_is_better=True,
        ),
        Row("cost: features", WORKERS * took["ours"] / n, "core-s/clip"),
    ]
    for name, (unit, limit) in TOLERANCES.items():
        apart = np.abs(bench.stores[name].load(bench.ids) - bench.plain[name]).max()
        detail = "over all values of all clips, against librosa's own calls"
        rows.append(
            Row(
                f"{name}: largest difference",
                float(apart),
                unit,
                target=f"ours <= {limit:g}",
                detail=detail,
            )
        )
    sizes = {name: store.load(bench.ids[:1]).nbytes for name, store in bench.stores.items()}
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    rows.append(Row("storage: features", sum(sizes.values()), "bytes/clip", detail=parts))
    sound = np.mean([path.stat().st_size for path in bench.files])
    rows.append(Row("storage: sound files", float(sound), "bytes/clip"))
    rows.append(Row("storage: maps", bench.maps[0].nbytes, "bytes/clip", detail="float16"))
    return rows


def head(bench: Bench) -> list[Row]:
    """Milliseconds a step of 64 against Keras' ``fit``, and against the memory's speed.

    Set-up (initial weights, compilation) drops out: the time of one epoch is taken off the time
    of several.
    """
    maps = np.resize(bench.maps, (HEAD_ROWS, *bench.maps.shape[1:]))
    y = np.resize(bench.y, HEAD_ROWS)
    exact = maps.astype(np.float32)
    tasks = {
        f"{name} {epochs}": lambda fit=fit, X=X, epochs=epochs: fit(X, y, epochs)
        for epochs in (1, HEAD_EPOCHS)
        for name, fit, X in (("ours", our_fit, maps), ("plain", naive.fitted_head, exact))
    }
    took = alternate(tasks, bench.repeats)
    steps = (HEAD_EPOCHS - 1) * HEAD_ROWS // STEP
    ours, plain = (
        1000 * (took[f"{name} {HEAD_EPOCHS}"] - took[f"{name} 1"]) / steps
        for name in ("ours", "plain")
    )
    inputs = maps[0].size
    limit = 1000 * streaming_seconds(inputs * paper.HEAD["units"][0], 3, bench.repeats)
    training = paper.TRAINING["epochs"] * joblib.cpu_count() * ours / 1000 / STEP
    return [
        Row(
            "head",
            ours,
            "ms/step",
            plain,
            "ratio >= 2.5",
            f"{inputs:,} inputs, batches of {STEP}, {(maps == 0).mean():.0%} of the values are 0",
        ),
        Row(
            "head: share of the memory's speed",
            limit / ours,
            "",
            detail=f"weights and Adam's two moments read and written once: {limit:.1f} ms",
        ),
        Row(
            "cost: head",
            training,
            "core-s/clip",
            detail=f"one fold, {paper.TRAINING['epochs']} epochs",
        ),
    ]


def our_fit(X: np.ndarray, y: np.ndarray, epochs: int, seed: int = 0) -> HeadClassifier:
    """Train our head on maps X [n, height, width, 512]."""
    return HeadClassifier(epochs=epochs, seed=seed).fit(X, y)


def experiment(bench: Bench, found: dict[str, Row]) -> list[Row]:
    """Compare the CNN experiment per clip, fold and 200 epochs: all in ``fit``, or maps kept.

    Parameters
    ----------
    found : dict
        Rows "features", "trunk" and "head" by stage.
    """
    room = memory_available() // 2 // BYTES_PER_IMAGE
    batch = min(STEP, 2 ** int(math.log2(max(room, 1))), len(bench.ids))
    y, mel = bench.y[:STEP], bench.plain["mel"][:STEP]  # one batch, as the paper's
    images = naive.images(mel)
    model = naive.whole_network(images.shape[1:], int(bench.y.max()) + 1, bench.weights.arrays)
    task = {"epoch": lambda: naive.fit(model, images, y, 1, batch)}
    epoch = alternate(task, bench.repeats)["epoch"] / len(images)
    epochs = paper.TRAINING["epochs"]
    plain = epochs * epoch + 1 / found["features"].against / PAPER_FOLDS
    once = (1 / found["features"].ours + 1 / found["trunk"].ours) / PAPER_FOLDS
    training = epochs * found["head"].ours / 1000 / STEP
    detail = (
        f"Keras script: {epoch:.3f} s per clip and epoch measured ({len(images)} clips, batches "
        f"of {batch}), times {epochs}; ours from the rows below: features and trunk once for "
        f"{PAPER_FOLDS} folds {once:.4f} s, head {training:.3f} s"
    )
    return [
        Row(
            "whole CNN experiment",
            once + training,
            "s per clip and fold",
            plain,
            "ratio >= 200",
            detail,
        )
    ]
