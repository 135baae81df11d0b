"""Errors of one line, ranges of parameters, progress bars, work spread over processes or Dask."""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import joblib
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from tqdm.auto import tqdm as notebook_tqdm

PROGRESS = "GENRE_UTILS_PROGRESS"
PATIENCE = 30  # seconds until a scheduler must answer, and have a worker
MOST = 10**6
expanded = os.path.expanduser  # Path.expanduser fails where a name starts with ~ and is no user's
# The notebooks' parameters: lowest and highest value, or all values that there are.
RANGES: dict[str, tuple] = {
    "jobs": (1, 1024),
    "seed": (0, 10**9),
    "n_resamples": (100, MOST),  # 2.5 % at either end are to be some draws
    **dict.fromkeys(("max_per_genre", "min_artists", "tuned_folds", "all_folds"), (0, MOST)),
    **dict.fromkeys(("epochs", "epochs_small", "tuned_epochs", "all_epochs", "draws"), (1, MOST)),
    **dict.fromkeys(("n_folds", "inner_folds", "checked"), (2, MOST)),
    "offset": (0.0, 1e6),
    "volume_threshold": (-1000.0, 0.0),
    "dont_know": (0.0, 1.0),
    **dict.fromkeys(("force", "embedding", "leak", "windows", "stacking"), (False, True)),
    "multi_genre": ("first", "single"),
    "fill": ("repeat", "zeros"),
    "mel_scale": ("db", "amplitude", "power"),
    "channels": ("repeat", "colormap"),
    "preprocessing": ("vgg16", "scale"),
    "precision": ("auto", "float32", "bfloat16"),
    "pooling": ("flatten", "average"),
    "engine": ("auto", "sweep", "keras"),
    "coding": ("onevsone", "onevsall"),
    "f_average": ("macro", "weighted"),
}
# Lists: fewest and most elements, whether they differ from each other, the range of each.
LISTS: dict[str, tuple[int, int, bool, tuple]] = {
    "protocols": (1, 5, True, ("random", "track", "album", "artist", "published")),
    "train_sizes": (1, 100, True, (0.01, 1.0)),
    "patches": (2, 2, False, (1, 200)),
}
_redirection = threading.Lock()


class GenreUtilsError(click.ClickException):
    """Something failed for a reason that one line explains (exit code 1)."""

    def _render_traceback_(self) -> list[str]:
        """Show the line alone in a notebook; IPython looks for this method."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(GenreUtilsError):
    """The call itself is wrong: an unknown name, type or combination (exit code 2)."""

    exit_code = 2


def check_choice(name: str, value: str, known: Iterable[str] = ()) -> None:
    """Raise UsageError if ``value`` is none of ``known``, by default the `RANGES` of ``name``."""
    known = known or RANGES[name]
    if value not in known:
        raise UsageError(f"unknown {name.replace('_', ' ')} {value!r}: one of {', '.join(known)}")


def check_ranges(values: Mapping[str, Any]) -> None:
    """Raise UsageError for a value outside `RANGES` or `LISTS`; notebooks give ``globals()``."""
    for name, value in values.items():
        if name in RANGES and not _fits(value, RANGES[name]):
            raise UsageError(f"{name} must be {_range(RANGES[name])}, not {value!r}")
        if name in LISTS:
            low, high, different, each_one = LISTS[name]
            fits = type(value) is list and low <= len(value) <= high
            fits = fits and all(_fits(item, each_one) for item in value)
            if not fits or (different and len(set(value)) < len(value)):
                what = f"a list of {low} to {high}{' different' * different} values, each"
                raise UsageError(f"{name} must be {what} {_range(each_one)}, not {value!r}")


def _fits(value: object, known: tuple) -> bool:
    kind = type(known[0])
    if kind in (str, bool):
        return type(value) is kind and value in known
    return type(value) in (int, kind) and known[0] <= value <= known[-1]  # NaN is not


def _range(known: tuple) -> str:
    if type(known[0]) in (str, bool):
        return f"one of {', '.join(map(str, known))}"
    kind = "a whole number" if type(known[0]) is int else "a number"
    return f"{kind} from {known[0]} to {known[-1]}"


@contextmanager
def quiet_stderr(target: str | os.PathLike = os.devnull) -> Iterator[None]:
    """Send what libraries in C and child processes write to descriptor 2 to the file ``target``.

    It holds for the whole process: not for use while other threads have work.
    """
    with _redirection, Path(target).open("a") as stream:
        kept = os.dup(2)
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def on_terminal() -> None:
    """Let a command's progress bars go to its terminal, also from the notebooks' kernels.

    A kernel has no terminal, so it is told the name of this one; without one there are no bars.
    """
    with suppress(OSError):  # in some containers a terminal has no name
        os.environ.setdefault(PROGRESS, os.ttyname(2))
    os.environ.setdefault(PROGRESS, "")


def workers(jobs: int) -> int:
    """Return ``jobs``, or for 0 one for each usable processor; UsageError for other numbers."""
    if not 0 <= jobs <= RANGES["jobs"][1]:
        raise UsageError(f"--jobs must be 0 or more, at most {RANGES['jobs'][1]}, not {jobs}")
    return jobs or joblib.cpu_count()  # which knows of taskset and of a container's limits


def progress(items: Iterable, desc: str, total: int | None = None, unit: str = "clip") -> Iterable:
    """Wrap ``items`` in a tqdm bar: in JupyterLab one that goes away, else see `on_terminal`."""
    terminal = "" if total == 0 else os.environ.get(PROGRESS)  # no bar where nothing is to do
    if terminal is None:
        yield from notebook_tqdm(items, desc=desc, total=total, unit=unit, leave=False)
    elif terminal and Path(terminal).exists():
        with Path(terminal).open("w") as stream:
            yield from tqdm(items, desc=desc, total=total, unit=unit, leave=False, file=stream)
    else:
        yield from items


def each(
    function: Callable,
    tasks: Sequence[tuple],
    *,
    jobs: int = 1,
    scheduler: str = "",
    desc: str = "",
    unit: str = "clip",
) -> list:
    """Run ``function(*task)`` for all tasks, with a progress bar and one thread of BLAS in each.

    Returns its results in the order of the tasks. It is of a module's top level, takes and returns
    what is small (paths rather than arrays), and stores large results itself: they stay when the
    stage ends early. With ``jobs`` 1 everything happens in this process.

    ``scheduler`` is the address of a Dask scheduler ("tcp://host:8786") whose workers take the
    place of ``jobs``. They import this package in the same version and see sound files and cache
    under the same paths; start them with ``dask worker ADDRESS --nthreads 1``. A lost worker of a
    cluster is made up for, a dead local process ends the stage. UsageError where it is no address,
    GenreUtilsError where nothing answers there, it has no workers, Dask is not installed or a
    worker was killed. Errors of the function come through as they are.
    """
    done = _on_cluster(function, tasks, scheduler) if scheduler else _here(function, tasks, jobs)
    results: list = [None] * len(tasks)
    for i, result in progress(done, desc, len(tasks), unit):
        results[i] = result
    return results


def _here(function: Callable, tasks: Sequence[tuple], jobs: int) -> Iterator[tuple]:
    if jobs > 1 and "librosa" in sys.modules:
        # Its functions are compiled when first imported. Where several processes do so at once,
        # numba's cache is left damaged: they, and all later ones, call address 0.
        import_module("librosa.core.pitch")
    if "loky" not in joblib.parallel.BACKENDS:  # no shared memory, so no locks between processes
        yield from (_task(function, os.getpid(), i, task) for i, task in enumerate(tasks))
        return
    work = (joblib.delayed(_task)(function, os.getpid(), i, task) for i, task in enumerate(tasks))
    loky = {"inner_max_num_threads": 1, "initializer": _watch, "initargs": (os.getpid(),)}
    # Never one process for several asked: with one, the task would run in this process, and a
    # decoder that crashes would end it.
    n_jobs = min(jobs, max(2, len(tasks)))
    try:
        with joblib.parallel_config("loky", n_jobs=n_jobs, **loky):
            yield from joblib.Parallel(return_as="generator_unordered")(work)
    except BrokenProcessPool:
        remedy = "the same command with a smaller --jobs goes on from what is stored"
        why = f"a worker process was killed, often for want of memory; {remedy}"
        raise GenreUtilsError(why) from None


def _task(function: Callable, parent: int, number: int, task: tuple) -> tuple:
    if parent and os.getpid() != parent:
        _silence()
    with threadpool_limits(limits=1):  # last bits must not depend on the number of threads
        return number, function(*task)


def _watch(parent: int) -> None:
    """End this worker soon after the process that started it, however that was ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(1)
def _silence() -> None:
    """Drop a worker's descriptor 2 for good: the mp3 decoder remarks on every damaged frame."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def reach(scheduler: str) -> None:
    """Raise what `each` says of a scheduler that is no address, or where nothing answers."""
    try:
        from distributed.comm import get_address_host_port
    except ImportError:
        why = "--scheduler needs the package distributed: pip install distributed"
        raise GenreUtilsError(why) from None
    try:
        place = get_address_host_port(scheduler)
    except ValueError as error:
        raise UsageError(f"--scheduler {scheduler}: {error}; it is like tcp://host:8786") from None
    try:
        socket.create_connection(place, PATIENCE).close()
    except (OSError, OverflowError) as error:
        why = f"no Dask scheduler answers at {scheduler} ({error})"
        raise GenreUtilsError(f"{why}; start one with `dask scheduler`") from None


def _on_cluster(function: Callable, tasks: Sequence[tuple], scheduler: str) -> Iterator[tuple]:
    # Not through joblib: its Dask backend waits for ever when a task ends its workers.
    reach(scheduler)  # a Client that fails would linger
    from distributed import Client, KilledWorker, as_completed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # lost workers are made up for
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except OSError as error:
        raise GenreUtilsError(f"no Dask scheduler answers at {scheduler} ({error})") from None
    with client:
        try:
            client.wait_for_workers(1, PATIENCE)
            work = partial(_task, function, 0)
            futures = client.map(work, range(len(tasks)), list(tasks), pure=False)
            for _, result in as_completed(futures, with_results=True):
                yield result
        except TimeoutError:
            remedy = f"start some with `dask worker {scheduler} --nthreads 1`"
            why = f"the scheduler at {scheduler} has no workers"
            raise GenreUtilsError(f"{why}; {remedy}") from None
        except KilledWorker:
            why = "one task ended several workers, often for want of memory"
            remedy = "the same command goes on from what is stored"
            raise GenreUtilsError(f"{scheduler}: {why}; {remedy}") from None
        except RuntimeError as error:
            if "deserialization" not in str(error):
                raise
            why = "its workers have another version of this package, or none"
            remedy = "install there what is installed here"
            raise GenreUtilsError(f"{scheduler}: {why}; {remedy}") from None
