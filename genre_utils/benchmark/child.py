"""One stage on synthetic clips in a process of its own: ``python -m ...child STAGE FOLDER N N``.

Prints a JSON list of [clips, seconds, peak memory in GB], one entry a size; each size has private
stores below FOLDER. The first, small round (imports, compilation, workers) is not timed.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.benchmark.rows import seconds
from genre_utils.store import Store

WARM_UP = 70  # more than one batch, shard and chunk
BLOCK = 64
GENRES, PER_ARTIST, PER_TRACK = 9, 20, 2
WORKERS = 2
Task = Callable[[], object]


def clip_table(n: int) -> pd.DataFrame:
    """Make ``n`` usable clips: 9 genres, 20 clips an artist, 2 a track."""
    i = np.arange(n)
    text = pd.Series(i).map("{:08d}".format)
    artist = i // PER_ARTIST
    return pd.DataFrame(
        {
            "clip_id": text,
            "sha256": text,
            "path": text,
            "status": "ok",
            "start_s": i % PER_TRACK,
            "genre": [paper.GENRES[a % GENRES] for a in artist],
            "artist": artist.astype(str),
            "album": artist.astype(str),
            "track": (i // PER_TRACK).astype(str),
        }
    )


def synthetic(root: Path, name: str, n: int, shape: tuple, zeros: float = 0.0) -> Store:
    """Fill a store with random rows, a share ``zeros`` of them 0 as in the maps."""
    store, rng = Store(root, name, {"synthetic": n}), np.random.default_rng(0)
    ids = list(clip_table(n)["sha256"])
    for start in range(0, n, BLOCK):
        part = ids[start : start + BLOCK]
        rows = rng.random((len(part), *shape), np.float32)
        rows *= rng.random(rows.shape, np.float32) >= zeros
        store.put(part, rows.astype(np.float16))
    return store


def _files(n: int, root: Path) -> tuple[list[Path], list[str]]:
    """Repeat the files named in files.json of the parent's folder under other digests."""
    files = [Path(path) for path in json.loads((root.parent / "files.json").read_text())]
    return [files[i % len(files)] for i in range(n)], list(clip_table(n)["sha256"])


def features(n: int, root: Path) -> Task:
    """Extract real files, repeated under other digests."""
    from genre_utils.extraction import features as fast

    files, ids = _files(n, root)
    return lambda: fast.extract_all(files, ids, root, jobs=WORKERS)


def trunk(n: int, root: Path, name: str = "mel") -> Task:
    """Run random mel-spectrograms through the frozen blocks."""
    from genre_utils.extraction import vgg
    from genre_utils.extraction.vgg import load_weights

    store = synthetic(root, name, n, paper.SHAPES[name])
    ids, weights = list(clip_table(n)["sha256"]), load_weights()
    return lambda: vgg.compute_maps(store, name, ids, weights, root)


def trunk_small(n: int, root: Path) -> Task:
    """Run random MFCC images, a fiftieth of the mel-spectrogram's size, through the blocks."""
    return trunk(n, root, "mfcc")


def head(n: int, root: Path) -> Task:
    """Train one fold for an epoch and test it, with all that `cross_validate` does around it."""
    from genre_utils.models import systems

    store, clips = synthetic(root, "vgg-mel", n, (6, 19, 512), zeros=0.9), clip_table(n)
    fold = pd.DataFrame({"protocol": "random", "clip_id": clips["clip_id"], "fold": 0})[::10]

    def task() -> None:
        rows, key = systems.load_rows("cnn-mel", {"vgg-mel": store}.get, list(clips["sha256"]))
        how = {"arrays_key": key, "settings": {"epochs": 1, "seed": 0}, "root": root / "folds"}
        systems.cross_validate("cnn-mel", rows, clips, fold, **how)

    return task


def duplicates(n: int, root: Path) -> Task:
    """Take fingerprints of real files, repeated; compare random ones, which are no duplicates."""
    from genre_utils.data import splits as duplicates

    os.environ["GENRE_UTILS_CACHE"] = str(root)  # fingerprints are kept in the cache
    compare, (files, ids) = pairs(n, root), _files(n, root)
    return lambda: (duplicates.fingerprints(files, ids, jobs=WORKERS), compare())


def pairs(n: int, root: Path) -> Task:
    """Compare random fingerprints of all clips with each other."""
    from genre_utils.data import splits as duplicates

    prints = np.random.default_rng(0).random((n, 12, 79), np.float32)
    return lambda: duplicates.similar(prints)


def tables(n: int, root: Path) -> Task:
    """Compute Table 1 with its intervals for the paper's systems under two protocols."""
    from genre_utils.metrics import tables

    clips, rng, parts = clip_table(n), np.random.default_rng(0), []
    for system in paper.TABLE1:
        for protocol in ("random", "artist"):
            guess = np.where(rng.random(n) < 0.5, clips["genre"], rng.choice(paper.GENRES, n))
            part = {"system": system, "protocol": protocol, "fold": np.arange(n) % 10}
            parts.append(clips[["clip_id"]].assign(y_true=clips["genre"], y_pred=guess, **part))
    predictions = pd.concat(parts, ignore_index=True)
    for genre in paper.GENRES:
        predictions[f"p_{genre}"] = (predictions["y_pred"] == genre).astype(float)
    return lambda: tables.table1(predictions, clips)


STAGES = {
    task.__name__: task for task in (features, trunk, trunk_small, head, duplicates, pairs, tables)
}


def peak_memory() -> float:
    """Largest resident memory so far of this process and its workers together, in GB (Linux)."""
    tasks = Path("/proc/self/task").glob("*/children")
    workers = [number for task in tasks for number in task.read_text().split()]
    return sum(_peak(number) for number in (str(os.getpid()), *workers))


def _peak(process: str) -> float:
    lines = Path("/proc", process, "status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM:"))


def main(stage: str, folder: str, *sizes: str) -> list[list[float]]:
    """Measure a stage at growing sizes; see the module."""
    make, root = STAGES[stage], Path(folder)
    make(WARM_UP, root / f"{stage}-warm")()
    found = []
    for n in map(int, sizes):
        task = make(n, root / f"{stage}-{n}")
        took = seconds(task)
        found.append([n, took, peak_memory()])
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
