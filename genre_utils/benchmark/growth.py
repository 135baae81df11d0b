"""Memory at 5,500 clips, growth with the number of clips, start-up, a repeated run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import numpy as np

from genre_utils import paper
from genre_utils import runtime as progress
from genre_utils.benchmark.rows import Row
from genre_utils.run import notebooks
from genre_utils.runtime import GenreUtilsError

SIZES = (1000, 2000, 4000)
# Sizes of each stage's measurement. Where 5,500 clips would take long, memory is extrapolated.
PLAN = {
    "features": SIZES,
    "trunk": (128, 384),
    "trunk_small": SIZES,
    "head": (*SIZES, paper.N_CLIPS),
    "duplicates": SIZES,
    "pairs": (*SIZES, paper.N_CLIPS),
    "tables": (*SIZES, paper.N_CLIPS),
}
LABELS = {
    "features": "features",
    "trunk": "trunk",
    "trunk_small": "trunk on MFCC images",
    "head": "head, one fold and epoch",
    "duplicates": "duplicates by sound",
    "pairs": "comparing all pairs alone",
    "tables": "Table 1",
}
Found = list[list[float]]


def child(stage: str, folder: Path, sizes: Sequence[int]) -> Found:
    """Measure one stage in a process of its own: [clips, seconds, peak GB] a size."""
    arguments = [stage, str(folder), *map(str, sizes)]
    text = _python("-m", "genre_utils.benchmark.child", *arguments, what=LABELS[stage])
    return json.loads(text.splitlines()[-1])


def _python(*arguments: str, what: str) -> str:
    quiet = {**os.environ, progress.VARIABLE: ""}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed, perhaps for want of memory"])[-1]
        raise GenreUtilsError(f"measuring {what} failed: {last}")
    return done.stdout


def synthetic(files: Sequence[Path], root: Path) -> list[Row]:
    """Measure memory and growth of every stage of `PLAN`.

    Parameters
    ----------
    files : sequence of Path
        Sound files that the features stage repeats.
    root : Path
        Folder of the stages' private stores.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "files.json").write_text(json.dumps([str(path) for path in files]))
    found = {stage: child(stage, root, sizes) for stage, sizes in PLAN.items()}
    rows = [memory_row(stage, sizes) for stage, sizes in found.items()]
    return rows + [growth_row(stage, sizes) for stage, sizes in found.items() if stage != "trunk"]


def memory_row(stage: str, found: Found) -> Row:
    """Peak memory at the paper's number of clips, extrapolated from the two largest sizes."""
    (small, _, low), (large, _, high) = found[-2:]
    slope = max(high - low, 0) / (large - small)
    peak = high + slope * max(paper.N_CLIPS - large, 0)
    detail = f"{high:.2f} GB at {large:,.0f} clips"
    if large < paper.N_CLIPS:
        detail += f" and {1e6 * slope:.1f} kB more a clip, extrapolated to {paper.N_CLIPS:,}"
    name = f"memory: {LABELS[stage]}"
    return Row(name, peak, "GB", target="ours < 4", detail=f"process and its workers; {detail}")


def growth_row(stage: str, found: Found) -> Row:
    """Time a clip at the largest of `SIZES` as a multiple of that at the smallest."""
    times = {n: took for n, took, _ in found}
    first, last = (times[n] / n for n in (SIZES[0], SIZES[-1]))
    detail = ", ".join(f"{n:,}: {times[n]:.2f} s" for n in SIZES)
    # The pairs are a part of the duplicates' stage, and quadratic by their nature: no target.
    name, target = f"growth: {LABELS[stage]}", "" if stage == "pairs" else "ours <= 1.1"
    return Row(
        name, last / first, "time per clip, 4,000 to 1,000 clips", target=target, detail=detail
    )


def start_up(repeats: int) -> Row:
    """Time of the imports of the command line and of each notebook, TensorFlow's own left out."""
    lines = {"command line": "from genre_utils import __main__\n__main__.parser()"}
    lines |= {path.stem: imports(path) for path in notebooks()}
    took = {
        name: np.median([_import_time(one) for _ in range(repeats)]) for name, one in lines.items()
    }
    slowest = max(took, key=took.get)
    detail = f"slowest of {len(took)}: {slowest}; command line {took['command line']:.2f} s"
    return Row("start-up", float(took[slowest]), "s", target="ours < 5", detail=detail)


def imports(notebook: Path) -> str:
    """Return the import lines of a notebook."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    found = re.findall(r"^(?:from|import) [^(\n]*(?:\([^)]*\))?", code, flags=re.MULTILINE)
    return "\n".join(found)


def _import_time(lines: str) -> float:
    code = (
        "import time; from genre_utils.backend import tf; start = time.perf_counter()\n"
        f"{lines}\nprint(time.perf_counter() - start)"
    )
    return float(_python("-c", code, what="start-up").splitlines()[-1])


def repeated_run(folder: str) -> Row:
    """Seconds of all notebooks of a run that was repeated with nothing changed.

    Parameters
    ----------
    folder : str
        The run's folder; empty: nothing is measured, and the row says so.

    Raises
    ------
    GenreUtilsError
        There is no finished run in it.
    """
    name, target = "repeated run, nothing changed", "ours < 30"
    if not folder:
        return Row(name, np.nan, "s", target=target, detail="not measured: give --run DIR")
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise GenreUtilsError(f"--run {folder}: no run.json in it; give the folder of a run")
    known = json.loads(path.read_text(encoding="utf-8"))
    timings = known.get("timings", {})
    lacking = [one.stem for one in notebooks() if one.stem not in timings]
    if lacking:
        raise GenreUtilsError(f"--run {folder}: {lacking[0]} was not run; finish the run first")
    detail = ", ".join(f"{one[:2]}: {took:g} s" for one, took in timings.items())
    return Row(name, sum(timings.values()), "s", target=target, detail=detail)
