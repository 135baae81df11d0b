"""How fast every stage is on this machine, beside the usual librosa and Keras script (`naive`).

``python tests/benchmark.py --help`` lists the options.
"""

import math
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import joblib
import naive
import nbformat
import numpy as np
import pandas as pd
from joblib.externals.loky import get_reusable_executor
from matplotlib.figure import Figure
from sklearn.model_selection import StratifiedKFold

from genre_utils import paper
from genre_utils.backend import keras
from genre_utils.data import datasets, splits
from genre_utils.extraction import features, vgg
from genre_utils.metrics import tables
from genre_utils.models import cnn, systems
from genre_utils.plots.clip_figures import GREEN, ORANGE, canvas, finish, save, styled
from genre_utils.run import notebooks
from genre_utils.runtime import GenreUtilsError, UsageError, on_terminal, workers
from genre_utils.store import ROOT, Run, Store, read_json, today, versions, write_json, write_text

WORKERS = 2
FOLDS, EPOCHS = 4, 25  # of the heads whose predictions are compared; epochs as the demo profile
PAPER_FOLDS = 10  # what a clip's features and map are shared by (section 2.4)
STEP = paper.TRAINING["batch_size"]
HEAD_ROWS, HEAD_EPOCHS = 4 * STEP, 6
TOLERANCES = {"mel": ("dB", 1e-4), "mfcc": ("", 1e-3), "chroma": ("", 1e-5)}
SIZES = (1000, 2000, 4000)
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
COLUMNS = ["stage", "ours", "against", "ratio", "target", "met", "unit", "detail"]
SHOWN = (0.1, 1000)  # margins beyond these are drawn at the edge


@dataclass(frozen=True)
class Row:
    """One line of the table: medians of one stage, in ``unit``; NaN where nothing was measured.

    ``target`` is "ratio >= 3", "ours <= 0.1" or empty (for information); of a ``rate`` more is
    better.
    """

    stage: str
    ours: float
    unit: str
    against: float = math.nan
    target: str = ""
    detail: str = ""
    rate: bool = False

    @property
    def ratio(self) -> float:
        """How many times better ours is; NaN where nothing stands against it."""
        return self.ours / self.against if self.rate else self.against / (self.ours or math.nan)

    @property
    def margin(self) -> float:
        """How many times better than asked for; below 1 the target is missed, NaN: not known."""
        if not self.target:
            return math.nan
        which, sign, limit = self.target.split()
        value = getattr(self, which)
        return value / float(limit) if sign == ">=" else float(limit) / max(value, 1e-12)

    @property
    def met(self) -> str:
        """Say "yes" or "no"; empty without a target, or when it was not measured."""
        return "" if math.isnan(self.margin) else "yes" if self.margin >= 1 else "no"


@dataclass
class Bench:
    """Clips to measure with (``ids``: digests of the files; ``y``: class numbers [n]).

    Arrays that several stages need are made once; ``root`` holds private stores, ``repeats`` is
    the number of timed rounds.
    """

    files: list[Path]
    ids: list[str]
    y: np.ndarray
    root: Path
    repeats: int

    def fresh(self) -> Path:
        """Return a folder without stores."""
        return Path(tempfile.mkdtemp(dir=self.root))

    def extract(self) -> dict[str, Store]:
        """Extract all features into new stores."""
        return features.extract_all(self.files, self.ids, self.fresh(), jobs=WORKERS)

    def maps_of(self, n: int, precision: str = "auto") -> Store:
        """Run the first ``n`` mel-spectrograms through the trunk into a new store."""
        given = (self.stores["mel"], "mel", self.ids[:n], self.weights, self.fresh())
        return vgg.compute_maps(*given, precision=precision)["vgg-mel"]

    @cached_property
    def weights(self) -> vgg.Weights:
        """VGG-16's ImageNet weights."""
        return vgg.load_weights()

    @cached_property
    def stores(self) -> dict[str, Store]:
        """Our features of all clips."""
        return self.extract()

    @cached_property
    def plain(self) -> dict[str, np.ndarray]:
        """Features of all clips by librosa alone."""
        return naive.all_features(self.files)

    @cached_property
    def maps(self) -> np.ndarray:
        """Our maps of all clips, float16 [n, 6, 19, 512], in the precision of this machine."""
        return self.maps_of(len(self.ids)).load(self.ids)


def seconds(task: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def alternate(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of tasks that take turns, so that a busy machine slows all of them.

    A first round (compilation, caches) is thrown away.
    """
    rounds = [{name: seconds(task) for name, task in tasks.items()} for _ in range(repeats + 1)]
    return {name: statistics.median(round_[name] for round_ in rounds[1:]) for name in tasks}


def extraction(bench: Bench) -> Iterator[Row]:
    """Features against librosa in a loop: speed, largest differences, cost and storage."""
    n = len(bench.files)
    tasks = {"ours": bench.extract, "plain": lambda: naive.all_features(bench.files)}
    took = alternate(tasks, bench.repeats)
    detail = f"{n} files, {WORKERS} workers against one plain librosa loop"
    rates = n / took["ours"], n / took["plain"]
    yield Row("features", rates[0], "clips/s", rates[1], "ratio >= 3", detail, rate=True)
    for name, (unit, limit) in TOLERANCES.items():
        apart = np.abs(bench.stores[name].load(bench.ids) - bench.plain[name]).max()
        stage, target = f"{name}: largest difference", f"ours <= {limit}"
        yield Row(stage, float(apart), unit, target=target, detail="over all values of all clips")
    yield Row("cost: features", WORKERS * took["ours"] / n, "core-s/clip")
    sizes = {name: store.load(bench.ids[:1]).nbytes for name, store in bench.stores.items()}
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    yield Row("storage: features", sum(sizes.values()), "bytes/clip", detail=parts)
    sound = statistics.mean(path.stat().st_size for path in bench.files)
    yield Row("storage: sound files", sound, "bytes/clip")
    yield Row("storage: maps", bench.maps[0].nbytes, "bytes/clip", detail="float16")


def trunk(bench: Bench) -> Iterator[Row]:
    """Images a second through the frozen trunk, and what bfloat16 changes."""
    n = min(32, len(bench.ids))
    images = naive.images(bench.plain["mel"][:n])
    model = vgg.build_trunk(images.shape[1:], bench.weights.arrays)
    tasks = {
        "ours": lambda: bench.maps_of(n),
        "plain": lambda: model.predict(images, batch_size=vgg.BATCH, verbose=0),
    }
    took, used = alternate(tasks, bench.repeats), vgg.trunk_precision(bench.weights).precision
    detail = (
        f"{n} images of 216 x 626 in batches of {vgg.BATCH}; ours in {used} with making the images "
        "and storing the maps, against Keras' predict in float32"
    )
    rates = n / took["ours"], n / took["plain"]
    yield Row("trunk", rates[0], "images/s", rates[1], "ratio >= 0.9", detail, rate=True)
    if find_spec("openvino"):  # the fastest other engine of those tried; not needed otherwise
        other = openvino_trunk(model, images, used)
        took = alternate({"ours": tasks["ours"], "other": other}, bench.repeats)
        detail, rates = (
            f"both in {used}; OpenVINO without storing maps",
            [n / t for t in took.values()],
        )
        yield Row("trunk, OpenVINO", rates[0], "images/s", rates[1], "", detail, rate=True)
    yield Row("cost: trunk", joblib.cpu_count() / rates[0], "core-s/clip")
    if used == "bfloat16":
        exact = bench.maps_of(len(bench.ids), "float32").load(bench.ids)
        cosine = vgg.smallest_cosine(bench.maps, exact)
        yield Row("trunk: smallest cosine of bfloat16 maps", cosine, "")
        short, long = (fold_answers(maps, bench.y, _our_head) for maps in (bench.maps, exact))
        detail = (
            f"of {len(bench.y)}, {FOLDS} folds, {EPOCHS} epochs; right: "
            f"{(short == bench.y).sum()} with bfloat16, {(long == bench.y).sum()} with float32"
        )
        changed = int((short != long).sum())
        yield Row("trunk: predictions that bfloat16 changes", changed, "clips", detail=detail)


def openvino_trunk(model: keras.Model, images: np.ndarray, precision: str) -> Callable:
    """Return a function that sends all images through OpenVINO's version of a Keras model."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        converted = openvino.convert_model(folder)
    hint = {"INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[precision]}
    compiled = openvino.compile_model(converted, "CPU", hint)
    batches = np.array_split(images, -(-len(images) // vgg.BATCH))
    return lambda: [compiled(batch) for batch in batches]


def moving(n: int) -> float:
    """Return the seconds in which two threads read and write three float32 arrays of n values."""
    arrays = np.zeros((2, 3, n // 2), np.float32)

    def move(half: np.ndarray) -> None:
        for array in half:
            np.add(array, 1, out=array)

    with ThreadPoolExecutor(2) as pool:
        return min(seconds(lambda: list(pool.map(move, arrays))) for _ in range(5))


def head(bench: Bench) -> Iterator[Row]:
    """Milliseconds a step of 64 against Keras' ``fit``; set-up drops out of the difference."""
    maps = np.resize(bench.maps, (HEAD_ROWS, *bench.maps.shape[1:]))
    y, exact = np.resize(bench.y, HEAD_ROWS), maps.astype(np.float32)
    fits = {"ours": (our_head, maps), "plain": (naive.fitted_head, exact)}
    tasks = {
        f"{name} {epochs}": lambda fit=fit, X=X, epochs=epochs: fit(X, y, epochs)
        for epochs in (1, HEAD_EPOCHS)
        for name, (fit, X) in fits.items()
    }
    took, steps = alternate(tasks, bench.repeats), (HEAD_EPOCHS - 1) * HEAD_ROWS // STEP
    ours, plain = (1000 * (took[f"{n} {HEAD_EPOCHS}"] - took[f"{n} 1"]) / steps for n in fits)
    detail = f"{maps[0].size:,} inputs, batches of {STEP}, {(maps == 0).mean():.0%} are 0"
    yield Row("head", ours, "ms/step", plain, "ratio >= 2.5", detail)
    used = np.mean([maps[i : i + STEP].any(axis=0).mean() for i in range(0, len(maps), STEP)])
    units = paper.HEAD["units"][0]
    limit = 1000 * moving(round(used * maps[0].size) * units)
    detail = (
        f"the time in which the memory moves what must move: weights and Adam's two moments of "
        f"the inputs that have a value in a batch ({used:.0%}), read and written once; of all "
        f"inputs {1000 * moving(maps[0].size * units):.1f} ms"
    )
    yield Row("head: limit", ours, "ms/step", limit, "", detail)
    cost = paper.TRAINING["epochs"] * joblib.cpu_count() * ours / 1000 / STEP
    yield Row("cost: head", cost, "core-s/clip", detail="one fold, the paper's epochs")


def our_head(X: np.ndarray, y: np.ndarray, epochs: int, seed: int = 0) -> cnn.HeadClassifier:
    """Train our head on maps X [n, height, width, 512]."""
    return cnn.HeadClassifier(epochs=epochs, seed=seed).fit(X, y)


def experiment(bench: Bench, rows: dict[str, Row]) -> Row:
    """Compare the CNN experiment per clip, fold and 200 epochs: all in ``fit``, or maps kept.

    ``rows`` has the rows "features", "trunk" and "head".
    """
    images, y = naive.images(bench.plain["mel"][:STEP]), bench.y[:STEP]
    model = naive.whole_network(images.shape[1:], int(bench.y.max()) + 1, bench.weights.arrays)
    batch = min(STEP, len(images))  # as the paper's
    took = alternate({"epoch": lambda: naive.fit(model, images, y, 1, batch)}, bench.repeats)
    epoch, epochs = took["epoch"] / len(images), paper.TRAINING["epochs"]
    plain = epochs * epoch + 1 / rows["features"].against / PAPER_FOLDS
    once = (1 / rows["features"].ours + 1 / rows["trunk"].ours) / PAPER_FOLDS
    training = epochs * rows["head"].ours / 1000 / STEP
    detail = (
        f"Keras script: {epoch:.3f} s per clip and epoch measured ({len(images)} clips), times "
        f"{epochs}; ours: features and trunk once for {PAPER_FOLDS} folds {once:.4f} s, head "
        f"{training:.3f} s"
    )
    unit = "s per clip and fold"
    return Row("whole CNN experiment", once + training, unit, plain, "ratio >= 200", detail)


def agreement(bench: Bench) -> Row:
    """Accuracy of librosa, Keras' ``predict`` and ``fit`` beside ours, same seed and folds."""
    images = naive.images(bench.plain["mel"])
    model = vgg.build_trunk(images.shape[1:], bench.weights.arrays)
    plain_maps = model.predict(images, batch_size=vgg.BATCH, verbose=0)
    plain = fold_answers(plain_maps, bench.y, _plain_head)
    ours, n = fold_answers(bench.maps, bench.y, _our_head), len(bench.y)
    right, plain_right = (ours == bench.y).mean(), (plain == bench.y).mean()
    error = math.sqrt(max(plain_right * (1 - plain_right), 1 / n) / n)
    detail = (
        f"accuracy {right:.3f} ours, {plain_right:.3f} straightforward, limit: one standard error "
        f"on {n} clips; {(ours != plain).sum()} predictions differ. Same initial weights; order of "
        "clips, dropout, precision and order of sums differ"
    )
    name = "same results: difference of accuracies"
    return Row(name, abs(right - plain_right), "", math.nan, f"ours <= {error:.4f}", detail)


def fold_answers(maps: np.ndarray, y: np.ndarray, predict: Callable) -> np.ndarray:
    """Test each clip once: ``predict(X_train, y_train, X_test, seed)`` -> class numbers [n]."""
    answers = np.full(len(y), -1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(maps, y)
    for seed, (train, test) in enumerate(folds):
        answers[test] = predict(maps[train], y[train], maps[test], seed)
    return answers


def _our_head(X: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return our_head(X, y, EPOCHS, seed).predict(test)


def _plain_head(X: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return naive.fitted_head(X, y, EPOCHS, seed).predict(test, verbose=0).argmax(axis=1)


# Synthetic clips, measured in a process of its own: memory and growth with the number of clips.


def _clip_table(n: int) -> pd.DataFrame:
    """Make ``n`` usable clips: 9 genres, 20 clips an artist, 2 a track."""
    i = np.arange(n)
    name, artist = pd.Series(i).map("{:08d}".format), pd.Series(i // 20).astype(str)
    track = pd.Series(i // 2).astype(str)
    genre = [paper.GENRES[a % len(paper.GENRES)] for a in i // 20]
    table = {"clip_id": name, "sha256": name, "path": name, "genre": genre, "artist": artist}
    return pd.DataFrame({**table, "album": artist, "track": track, "start_s": i % 2.0})


def _random_store(root: Path, name: str, n: int, shape: tuple, zeros: float = 0.0) -> Store:
    """Fill a store with random rows, a share ``zeros`` of them 0 as in the maps."""
    store, rng = Store.make(root, name, {"synthetic": n}), np.random.default_rng(0)
    for ids in np.array_split(_clip_table(n)["sha256"], -(-n // STEP)):
        rows = rng.random((len(ids), *shape), np.float32)
        rows *= rng.random(rows.shape, np.float32) >= zeros
        store.put(list(ids), rows.astype(np.float16))
    return store


def _features(n: int, root: Path, files: list[Path]) -> Callable:
    repeated = [files[i % len(files)] for i in range(n)]
    ids = list(_clip_table(n)["sha256"])
    return lambda: features.extract_all(repeated, ids, root, jobs=WORKERS)


def _trunk(n: int, root: Path, _files: list[Path], name: str = "mel") -> Callable:
    store = _random_store(root, name, n, paper.SHAPES[name])
    ids, weights = list(_clip_table(n)["sha256"]), vgg.load_weights()
    return lambda: vgg.compute_maps(store, name, ids, weights, root)


def _head(n: int, root: Path, _files: list[Path]) -> Callable:
    arrays = {"vgg-mel": _random_store(root, "vgg-mel", n, (6, 19, 512), 0.9)}
    clips = _clip_table(n)
    folds = clips[["clip_id", "genre"]].assign(
        protocol="random", group=np.arange(n), fold=np.arange(n) % PAPER_FOLDS
    )
    settings = {"settings": {"epochs": 1, "seed": 0}, "root": root / "folds", "folds": [0]}
    return lambda: systems.cross_validate("cnn-mel", arrays.get, clips, folds, **settings)


def _pairs(n: int, _root: Path, _files: list[Path]) -> Callable:
    prints = np.random.default_rng(0).random((n, 12, 79), np.float32)
    return lambda: splits.similar(prints)


def _duplicates(n: int, root: Path, files: list[Path]) -> Callable:
    os.environ["GENRE_UTILS_CACHE"] = str(root)  # of this process: fingerprints are kept there
    repeated, ids = [files[i % len(files)] for i in range(n)], list(_clip_table(n)["sha256"])
    compare = _pairs(n, root, files)
    return lambda: (splits.fingerprints(repeated, ids, jobs=WORKERS), compare())


def _table1(n: int, _root: Path, _files: list[Path]) -> Callable:
    clips, rng, parts = _clip_table(n), np.random.default_rng(0), []
    for system in paper.TABLE1:
        for protocol in ("random", "artist"):
            guess = np.where(rng.random(n) < 0.5, clips["genre"], rng.choice(paper.GENRES, n))
            part = {"system": system, "protocol": protocol, "fold": np.arange(n) % PAPER_FOLDS}
            parts.append(clips[["clip_id"]].assign(y_true=clips["genre"], y_pred=guess, **part))
    predictions = pd.concat(parts, ignore_index=True)
    return lambda: tables.table1(predictions, clips)


# Stage -> what is timed, sizes, target of growth. Comparing pairs is quadratic by its nature.
STAGES = {
    "features": (_features, SIZES, "ours <= 1.1"),
    "trunk": (_trunk, (128, 384), ""),
    "trunk on MFCC images": (partial(_trunk, name="mfcc"), SIZES, "ours <= 1.1"),
    "head, one fold and epoch": (_head, (*SIZES, paper.N_CLIPS), "ours <= 1.1"),
    "duplicates by sound": (_duplicates, SIZES, "ours <= 1.1"),
    "comparing all pairs alone": (_pairs, (*SIZES, paper.N_CLIPS), ""),
    "Table 1": (_table1, (*SIZES, paper.N_CLIPS), "ours <= 1.1"),
}


def measured(stage: str, root: Path, files: list[Path], sizes: tuple[int, ...]) -> list[tuple]:
    """Return (clips, seconds, peak memory in GB) at each size; a small first round is not timed."""
    make = STAGES[stage][0]
    make(STEP + 6, root / "warm", files)()
    tasks = ((n, make(n, root / str(n), files)) for n in sizes)
    points = [(n, seconds(task), _peak_memory()) for n, task in tasks]
    # This process would wait for idle workers at its end, five minutes.
    get_reusable_executor(reuse=True).shutdown(kill_workers=True)
    return points


def _peak_memory() -> float:
    """Largest resident memory so far of this process and its workers together, in GB (Linux)."""
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    lines = [
        line
        for process in (str(os.getpid()), *" ".join(children).split())
        for line in Path("/proc", process, "status").read_text().splitlines()
    ]
    return sum(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM:"))


def growth(bench: Bench) -> Iterator[Row]:
    """Measure memory and growth of each of `STAGES` in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    for stage, (_, sizes, target) in STAGES.items():
        with ProcessPoolExecutor(1, spawn) as pool:
            points = pool.submit(measured, stage, bench.fresh(), bench.files, sizes).result()
        yield from growth_rows(stage, points, target)


def growth_rows(stage: str, points: list[tuple], target: str) -> Iterator[Row]:
    """Peak memory at the paper's number of clips, and the time a clip from 1,000 to 4,000."""
    (small, _, low), (large, _, high) = points[-2:]
    slope = max(high - low, 0) / (large - small)
    peak = high + slope * max(paper.N_CLIPS - large, 0)
    detail = f"process and its workers; {high:.2f} GB at {large:,} clips"
    if large < paper.N_CLIPS:
        detail += f" and {1e6 * slope:.1f} kB more a clip, extrapolated to {paper.N_CLIPS:,}"
    yield Row(f"memory: {stage}", peak, "GB", math.nan, "ours < 4", detail)
    times = {n: took for n, took, _ in points}
    if not times.keys() >= set(SIZES):
        return
    first, last = (times[n] / n for n in (SIZES[0], SIZES[-1]))
    detail = ", ".join(f"{n:,}: {times[n]:.2f} s" for n in SIZES)
    unit = "time per clip, 4,000 to 1,000 clips"
    yield Row(f"growth: {stage}", last / first, unit, math.nan, target, detail)


def start_up(repeats: int) -> Row:
    """Time of the imports of the command line and of each notebook, TensorFlow's own left out."""
    lines = {"command line": "import genre_utils.__main__"}
    for path in notebooks():
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        imports = re.findall(r"^(?:from|import) [^(\n]*(?:\([^)]*\))?", code, flags=re.MULTILINE)
        lines[path.stem] = "\n".join(imports)
    took = {
        name: statistics.median(_import_seconds(text) for _ in range(repeats))
        for name, text in lines.items()
    }
    slowest = max(took, key=took.get)
    detail = f"slowest of {len(took)}: {slowest}; command line {took['command line']:.2f} s"
    return Row("start-up", took[slowest], "s", math.nan, "ours < 5", detail)


def _import_seconds(lines: str) -> float:
    code = (
        "import time; from genre_utils.backend import tf; start = time.perf_counter()\n"
        f"{lines}\nprint(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def repeated_run(folder: str) -> Row:
    """Seconds of all notebooks of a run that was repeated with nothing changed.

    Raises
    ------
    GenreUtilsError
        There is no finished run in ``folder``.
    """
    name = "repeated run, nothing changed"
    if not folder:
        return Row(name, math.nan, "s", math.nan, "ours < 60", "not measured: give --run DIR")
    timings = Run(folder).recorded("timings")
    lacking = [path.stem for path in notebooks() if path.stem not in timings]
    if lacking:
        raise GenreUtilsError(f"--run {folder}: {lacking[0]} was not run; finish the run first")
    detail = ", ".join(f"{stem[:2]}: {took:g} s" for stem, took in timings.items())
    return Row(name, sum(timings.values()), "s", math.nan, "ours < 60", detail)


def paper_size(folder: str, rows: dict[str, Row]) -> Row:
    """Hours of a run of the paper's experiment at its size, and the Keras script's for the mel CNN.

    ``rows`` has "features", "trunk" and "whole CNN experiment". A run of hours is seldom alone on
    its machine and may be resumed: features and maps count at the rates of these rows, the heads by
    their median folds, the other notebooks as they took last.
    """
    name = "the paper's experiment at its size"
    if not folder:
        return Row(name, math.nan, "h", detail="not measured: give --large DIR")
    run = Run(folder)
    corpus, folds = run.recorded("corpus"), run.read("splits")
    n = corpus["n_clips"]
    hours = {stage: n / rows[stage].ours / 3600 for stage in ("features", "trunk")}
    hours["heads"] = sum(run.recorded("seconds").values()) / 3600
    done = {"02_features", "03_cnn"}
    other = [took for stem, took in run.recorded("timings").items() if stem not in done]
    hours["the rest"] = sum(other) / 3600
    n_folds = len(folds[["protocol", "fold"]].drop_duplicates())
    plain = rows["whole CNN experiment"].against * n * n_folds / 3600
    arrays = read_json(run.folder / "arrays.json")
    disk = sum(p.stat().st_size for place in arrays.values() for p in Path(place).rglob("*"))
    parts = ", ".join(f"{stage} {took:.2f}" for stage, took in hours.items())
    detail = (
        f"{n:,} clips, {n_folds} folds in all, {run.recorded('heads')['epochs']} epochs, three "
        f"images and the SVM; hours: {parts}; largest process {run.recorded('peak_gb')} GB, arrays "
        f"{disk / 1e9:.1f} GB; against the Keras script's mel-spectrogram CNN alone, extrapolated: "
        f"{plain / 24:,.0f} days"
    )
    return Row(name, sum(hours.values()), "h", plain, "", detail)


def choose(name: str, data_dir: str, n: int) -> tuple[pd.DataFrame, Path]:
    """Take ``n`` usable clips, spread over genres and artists; UsageError where they are too few.

    Returns the clip table with ``sha256`` and class number ``y``, and the folder of its paths.
    """
    jobs = workers(0)
    clips, _ = datasets.load_clips(name, data_dir or None, jobs=jobs)
    folder = datasets.data_folder(name, data_dir or None, jobs=jobs)
    clips = clips[clips["status"] == "ok"]
    clips = clips.loc[datasets.spread(clips).sort_values(kind="stable").index].head(max(n, 0))
    if clips.empty or clips["genre"].value_counts().min() < FOLDS:
        least = FOLDS * max(clips["genre"].nunique(), 1)
        raise UsageError(
            f"--clips {n} gives a genre of {name} fewer than {FOLDS} clips; at least {least}"
        )
    digests = datasets.audio_digests(clips, folder, jobs=jobs)
    y = np.unique(clips["genre"], return_inverse=True)[1]
    clips = clips.assign(sha256=clips["clip_id"].map(digests), y=y).drop_duplicates("sha256")
    return clips.reset_index(drop=True), folder


def main(
    dataset: str = "demo",
    data_dir: str = "",
    *,
    clips: int = 72,
    repeats: int = 2,
    run: str = "",
    large: str = "",
    out: str = "",
) -> list[Row]:
    """Measure everything, write and print the table; each stage is written when it is done.

    Parameters
    ----------
    dataset, data_dir, clips
        Data set and how many of its clips; UsageError where these are too few.
    repeats : int
        Timed rounds, at least 1.
    run : str
        Folder of a run that was repeated with nothing changed; empty: not measured.
    large : str
        Folder of a run of the paper's size, at least up to notebook 3; empty: not measured.
    out : str
        Folder of the results; empty: ``figures/benchmark``.
    """
    if repeats < 1:
        raise UsageError(f"--repeats must be 1 or more, not {repeats}")
    rows = [repeated_run(run)]
    chosen, folder = choose(dataset, data_dir, clips)
    target = Path(out or ROOT / "figures" / "benchmark")
    machine = describe() | {"clips": len(chosen), "corpus": dataset, "repeats": repeats}
    with tempfile.TemporaryDirectory(prefix="genre-utils-benchmark-") as root:
        files = [folder / path for path in chosen["path"]]
        bench = Bench(files, list(chosen["sha256"]), chosen["y"].to_numpy(), Path(root), repeats)
        for stage in (extraction, trunk, head):
            rows += stage(bench)
            write(rows, machine, target)
        rows.insert(0, experiment(bench, {row.stage: row for row in rows}))
        rows.insert(1, paper_size(large, {row.stage: row for row in rows}))
        rows += [agreement(bench), start_up(repeats), *growth(bench)]
        print(write(rows, machine, target))
    return rows


def describe() -> dict:
    """Processor, cores, memory in GB, relevant instructions, versions, date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": facts.get("model name", "unknown"),
        "cores": joblib.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "flags": [flag for flag in FLAGS if flag in facts.get("flags", "").split()],
        "versions": versions(),
        "date": today(),
    }


def write(rows: list[Row], machine: dict, folder: Path) -> str:
    """Write benchmark.csv, .json (the machine), .md and .png; return the Markdown."""
    values = [[getattr(row, name) for name in COLUMNS] for row in rows]
    table = pd.DataFrame(values, columns=COLUMNS)
    write_text(folder / "benchmark.csv", table.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "benchmark.json", machine)
    count = {word: sum(row.met == word for row in rows) for word in ("yes", "no")}
    unknown = sum(bool(row.target) and not row.met for row in rows)
    known = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    numbers = table[["ours", "against", "ratio"]].map(number)
    text = "\n\n".join(
        [
            f"**Benchmark**: {count['yes']} targets met, {count['no']} missed, {unknown} not "
            "measured.",
            f"{_processor(machine)} ({', '.join(machine['flags'])}); {known}; {machine['date']}. "
            f"{machine['clips']} clips of {machine['corpus']}. Medians of {machine['repeats']} "
            "rounds; ours and the other take turns in one process. A ratio says how many times "
            "better ours is.",
            table.assign(**numbers).to_markdown(index=False, disable_numparse=True) + "\n",
        ]
    )
    write_text(folder / "benchmark.md", text)
    save(picture(rows, machine), folder / "benchmark.png")
    return text


def number(value: float) -> str:
    """Three significant digits, or all before the point; nothing for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _processor(machine: dict) -> str:
    return f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"


@styled
def picture(rows: list[Row], machine: dict) -> Figure:
    """Draw how far each measured value lies on the right or wrong side of its target."""
    shown = [row for row in rows if row.met][::-1]
    fig, ax = canvas(height=1.4 + 0.34 * len(shown))
    low, high = SHOWN
    for i, row in enumerate(shown):
        margin = min(max(row.margin, low), high)
        colour = GREEN if row.met == "yes" else ORANGE
        ax.barh(i, margin - 1, left=1, color=colour, height=0.6)
        if row.met == "no":  # a bar can be too short to be seen
            ax.plot(margin, i, "o", color=colour, ms=9)
        value = row.ratio if row.target.startswith("ratio") else row.ours
        asked = row.target.replace(">=", "≥").replace("<=", "≤")
        text = f" {number(value)} ({asked})" + ", missed" * (row.met == "no")
        ax.text(max(margin, 1), i, text, va="center", fontsize=9.5)
    ax.axvline(1, color="black", lw=1)
    ax.set(xscale="log", xlim=(low, high * 30), ylim=(-0.7, len(shown) - 0.3))
    ax.set_xticks([0.1, 1, 10, 100, 1000], ["0.1", "target", "10", "100", "1000"])
    ax.set_yticks(range(len(shown)), [row.stage for row in shown])
    ax.set_xlabel("times better than the target (left of it: missed)")
    ax.grid(visible=False, axis="y")
    return finish(fig, f"Benchmark: {_processor(machine)}", "")


@click.command()
@click.option("--dataset", default="demo", help="Data set (default: demo).")
@click.option("--data-dir", default="", help="Where its files are.")
@click.option("--clips", default=72, help="Clips to measure with (default: 72).")
@click.option("--repeats", default=2, help="Timed rounds (default: 2).")
@click.option("--run", default="", help="Folder of a run that was repeated: its times are read.")
@click.option("--large", default="", help="Folder of a run of the paper's size.")
@click.option("--out", default="", help="Results (default: figures/benchmark).")
def command(dataset: str, data_dir: str, **options: Any) -> None:
    """Measure every stage on this machine, beside the usual librosa and Keras script."""
    on_terminal()
    main(dataset, data_dir, **options)


if __name__ == "__main__":
    command()
