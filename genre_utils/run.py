"""Run the notebooks in order with typed, checked parameters (papermill's Python API)."""

import fcntl
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import papermill
import yaml
from ipykernel.kernelspec import write_kernel_spec
from papermill.exceptions import PapermillExecutionError

from genre_utils import runtime
from genre_utils.data import datasets
from genre_utils.metrics.tables import beside_the_paper, paper_rows
from genre_utils.runtime import GenreUtilsError, UsageError, quiet_stderr
from genre_utils.store import ROOT, TABLES, Run, today, versions

NOTEBOOKS = ROOT / "notebooks"
PROFILES = Path(__file__).with_name("profiles.yml")
SOURCES = ("auto", "keras", "pypi", "random")  # of the parameter weights, or a file
FILES = ("use_split", "other_labels", "weights")  # parameters that can be the path of a file
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}


def load_profiles() -> dict[str, dict]:
    """Read profiles.yml: for each profile about, dataset, and the notebooks' parameters."""
    return yaml.safe_load(PROFILES.read_text(encoding="utf-8"))


def _profile(name: str) -> dict:
    profiles = load_profiles()
    if name not in profiles:
        raise UsageError(f"unknown profile {name!r}; one of {', '.join(profiles)}")
    return profiles[name]


def notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the numbered notebooks in order."""
    if not (found := sorted(folder.glob("[0-9][0-9]_*.ipynb"))):
        raise GenreUtilsError(f"no numbered notebooks in {folder}; run from a full checkout")
    return found


def declared_parameters(path: Path) -> dict[str, type]:
    """Name and type of each parameter that a notebook declares.

    GenreUtilsError: no cell is tagged ``parameters``, or a type hint lacks: anything would pass.
    """
    cells = nbformat.read(path, as_version=4).cells
    if not any("parameters" in cell.metadata.get("tags", []) for cell in cells):
        hint = "tag the cell that declares them"
        raise GenreUtilsError(f"{path}: no cell tagged 'parameters'; {hint}")
    found = papermill.inspect_notebook(str(path)).items()
    types = {name: TYPES.get(known["inferred_type_name"]) for name, known in found}
    for name in (name for name, known in types.items() if known is None):
        hint = f"write one of {', '.join(TYPES)}"
        raise GenreUtilsError(f"{path}: parameter {name} has no type hint; {hint}")
    return types


def check_parameters(path: Path, declared: dict[str, type], values: dict[str, Any]) -> None:
    """Raise UsageError for a name, type, value or file that a notebook does not take."""
    for name, value in values.items():
        if name not in declared:
            has = ", ".join(sorted(declared))
            raise UsageError(f"{path.stem} has no parameter {name!r}; it has {has}")
        wanted, kind = declared[name], type(value)
        if kind is not wanted and (kind, wanted) != (int, float):
            what = f"{wanted.__name__}, not {kind.__name__} ({value!r})"
            raise UsageError(f"{path.stem}: {name} must be {what}")
        file = name in FILES and not (name == "weights" and value in SOURCES)
        if file and value and not Path(runtime.expanded(value)).is_file():
            known = f" and none of {', '.join(SOURCES)}" * (name == "weights")
            raise UsageError(f"{path.stem}: {name}: {value!r} is no file{known}")
    try:
        runtime.check_ranges(values)
    except UsageError as error:
        raise UsageError(f"{path.stem}: {error}") from None


def plan(profile: str, shared: dict[str, Any], folder: Path = NOTEBOOKS) -> list[tuple[Path, dict]]:
    """Return notebooks with the profile's and ``shared`` parameters; UsageError for wrong ones."""
    paths = notebooks(folder)
    reduced = _profile(profile)["notebooks"]
    if unknown := set(reduced) - {path.stem for path in paths}:
        raise UsageError(f"profile {profile}: no notebook {', '.join(sorted(unknown))} in {folder}")
    steps = []
    for path in paths:
        own = {name: entry["value"] for name, entry in reduced.get(path.stem, {}).items()}
        declared = declared_parameters(path)
        values = own | {name: value for name, value in shared.items() if name in declared}
        check_parameters(path, declared, values)
        steps.append((path, values))
    return steps


def _given(texts: Sequence[str]) -> dict[str, Any]:
    """Parameters of ``NAME=VALUE``, the value written as in profiles.yml."""
    values = {}
    for name, equals, text in (text.partition("=") for text in texts):
        if not (name and equals):
            raise UsageError(f"--set {name}: write NAME=VALUE, such as --set epochs=50")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"--set {name}={text}: no value that YAML can read") from None
        if name in FILES and (path := Path(runtime.expanded(text))).is_file():
            values[name] = str(path.resolve())
    return values


def run(
    profile: str = "demo",
    dataset: str = "",
    data_dir: str = "",
    out: str = "",
    jobs: int = 0,
    force: bool = False,
    scheduler: str = "",
    given: Sequence[str] = (),
) -> Path:
    """Run all notebooks and return the run's folder.

    ``profile`` is a name in profiles.yml. Empty, ``dataset`` is the profile's, ``data_dir`` its
    default place and ``out`` the folder ``runs/<profile>-<dataset>`` in the checkout; 0 ``jobs``
    are one for each processor. ``force`` computes everything anew, into ``cache`` of the run's
    folder; what other runs share stays. ``scheduler`` is the address of a Dask scheduler that takes
    the place of ``jobs`` where a notebook declares it. ``given`` are ``NAME=VALUE``, for each
    notebook that declares NAME, over the profile's. UsageError for an unknown name or a wrong
    value, before anything runs; GenreUtilsError where another run is at work in ``out``, nothing
    answers at ``scheduler``, or a notebook fails (the executed notebook stays for reading).
    """
    dataset = dataset or _profile(profile)["dataset"]
    data_dir = str(Path(runtime.expanded(data_dir)).resolve()) if data_dir else ""
    if not datasets.get(dataset).synthetic:
        datasets.data_folder(dataset, data_dir)  # which says what is missing
    results = Run(out or ROOT / "runs" / f"{profile}-{dataset}")
    shared = {"dataset": dataset, "data_dir": data_dir, "out": str(results.folder)}
    shared |= {"jobs": runtime.workers(jobs), "scheduler": scheduler}
    for name in ("data_dir", "out"):
        if shared[name].encode(errors="ignore").decode() != shared[name]:
            option = f"--{name.replace('_', '-')} {shared[name]!r}"
            raise UsageError(f"{option}: a name that is not UTF-8; rename the folder")
    values = _given(given)
    if owned := [name for name in values if name in shared]:
        raise UsageError(f"--set {owned[0]}: use --{owned[0].replace('_', '-')}")
    steps = plan(profile, values | shared)
    for name in values:
        if not any(name in own for _, own in steps):
            raise UsageError(f"--set {name}: no notebook has such a parameter")
    if scheduler:
        runtime.reach(scheduler)
    with _alone(results.folder):
        if force:
            shutil.rmtree(results.folder / "cache", ignore_errors=True)
            (results.folder / "cache").mkdir(parents=True)
        facts = {"profile": profile, "started": today(), **shared, "versions": versions()}
        results.record("run", facts)
        results.record("weights", {})  # or the first figures would speak of an earlier run's
        execute(steps, results)
    return results.folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system lets go of it however this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = "another run is at work there; wait for it or name another --out"
            raise GenreUtilsError(f"{folder}: {other}") from None
        except OSError:
            pass  # a file system without locks
        for part in folder.rglob(".part-*"):  # of a run that was killed
            shutil.rmtree(part, ignore_errors=True)
        yield


@contextmanager
def _own_surroundings() -> Iterator[None]:
    """Let kernels run on this Python with the packages' own defaults, not the user's settings."""
    with tempfile.TemporaryDirectory(prefix="genre-utils-", ignore_cleanup_errors=True) as home:
        write_kernel_spec(Path(home) / "kernels" / "python3")
        folders = ("IPYTHONDIR", "JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        ours = dict.fromkeys(folders, home) | {"MATPLOTLIBRC": os.devnull}
        ours["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        ours["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        with patch.dict(os.environ, ours):
            yield


def execute(steps: list[tuple[Path, dict]], results: Run) -> None:
    """Execute the notebooks of a `plan`, each in its own kernel; print how long each took."""
    results.record("parameters", {path.stem: values for path, values in steps})
    folder = results.folder / "notebooks"
    folder.mkdir(exist_ok=True)
    runtime.on_terminal()
    timings = {}
    with _own_surroundings():
        for path, values in steps:
            start = time.monotonic()
            if not (folder / path.name).exists():
                print(f"{path.stem}: {_run_time(path)}", flush=True)
            with quiet_stderr(folder / "kernels.log"):  # what kernels say outside the notebooks
                _execute(path, folder / path.name, values)
            timings[path.stem] = round(time.monotonic() - start, 1)
            results.record("timings", timings)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # kB; bytes on macOS
            peak /= 2**30 if sys.platform == "darwin" else 2**20
            results.record("peak_gb", round(peak, 2))  # of the largest process
            print(f"{path.stem:<20}{timings[path.stem]:8.1f} s", flush=True)
            if "table1" in TABLES.get(path.stem, ()):
                print(first_answer(results), flush=True)


def _execute(path: Path, target: Path, values: dict[str, Any]) -> None:
    logging.getLogger("papermill").setLevel(logging.ERROR)
    how = {"progress_bar": False, "cwd": str(target.parent), "kernel_name": "python3"}
    how["coalesce_streams"] = True  # printed lines are one output, whenever they arrive
    try:
        papermill.execute_notebook(str(path), str(target), values, **how)
    except PapermillExecutionError as error:
        if len(error.traceback) == 1:  # ours: GenreUtilsError shows one line
            kind = UsageError if error.ename == "UsageError" else GenreUtilsError
            raise kind(f"{path.stem}: {error.evalue}") from None
        reason = f"{error.ename}: {error.evalue.strip()}".splitlines()[0]
        where = f"{path.stem}, cell {error.exec_count}"
        raise GenreUtilsError(f"{where}: {reason}; see {target}") from None
    except OSError as error:
        why = f"{error.strerror or error} ({error.filename or target})"
        raise GenreUtilsError(f"{path.stem}: {why}; the same command goes on") from None
    except RuntimeError:  # nbclient's word for a kernel that died
        raise GenreUtilsError(
            f"{path.stem}: its process was killed, often for want of memory (kernels.log beside "
            f"{target} has its last words); the same command goes on from what is stored"
        ) from None


def _run_time(path: Path) -> str:
    """Return what a notebook's first cell says of its run time."""
    opening = nbformat.read(path, as_version=4).cells[0].source
    return opening.partition("**Run time.** ")[2].partition("\n")[0]


def first_answer(results: Run) -> str:
    """Table 1's rows of the paper, and where to look; the notebooks behind 05 go beyond it."""
    table = results.read("table1")
    names = {"random": "random folds", "artist": "artist folds", "published": "published split"}
    there = set(table["protocol"])
    columns = {name: paper_rows(table, key) for key, name in names.items() if key in there}
    corpus = results.recorded("corpus")
    title = f"Table 1 ({results.note() or corpus['title']}; {corpus['n_clips']} clips)"
    title += ": accuracy (95 % interval) / F-score"
    return f"\n{title}\n\n{beside_the_paper(columns).to_markdown()}\n\n{summary(results.folder)}\n"


def summary(folder: Path) -> str:
    """Where the results of a run lie."""
    places = {"every row": "table1.md", "notebooks": "notebooks", "figures": "figures"}
    return "\n".join(f"{name:<10} {folder / place}" for name, place in places.items())
