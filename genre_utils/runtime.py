"""Errors that are the user's to mend: one clear line, never a traceback.

Libraries in C write remarks straight to descriptor 2; a notebook would keep them as errors.

Long stages: where their progress bars go, and how many workers they have.

In a terminal run the notebooks' kernels draw on the terminal itself, so that executed notebooks
stay clean; ``GENRE_UTILS_PROGRESS`` then names that terminal. Empty means quiet; unset, as in
JupyterLab, means a bar in the notebook that goes away when done.

Tasks in several processes: on this machine (joblib), or on the workers of a Dask scheduler.

A scheduler's workers import this package in the same version as here; start them with one thread
each (``dask worker ADDRESS --nthreads 1``). Tasks name files by their paths, so the folder of the
sound files and the cache (``$GENRE_UTILS_CACHE``) must lie at the same place for every worker and
for this process: one machine, or a shared file system.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from tqdm.auto import tqdm as notebook_tqdm


# ---- errors ----
class GenreUtilsError(Exception):
    """Something failed for a reason that one line explains (exit code 1)."""

    def _render_traceback_(self) -> list[str]:
        """Show the line alone in a notebook; IPython looks for this method."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(GenreUtilsError):
    """The call itself is wrong: an unknown name, type or combination (exit code 2)."""


# ---- quiet ----
_lock = threading.Lock()
_inside = 0
_saved = -1


@contextmanager
def quiet_stderr(target: str | os.PathLike = os.devnull) -> Iterator[None]:
    """Send descriptor 2 of this process to the file ``target`` while any thread is inside.

    Processes that are started inside inherit it. Where threads overlap, the first one's target
    serves all.
    """
    global _inside, _saved
    with _lock:
        if _inside == 0:
            file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            _saved = os.dup(2)
            os.dup2(file, 2)
            os.close(file)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                os.dup2(_saved, 2)
                os.close(_saved)


# ---- progress ----
VARIABLE = "GENRE_UTILS_PROGRESS"


def on_terminal() -> None:
    """Let a command's bars go to the terminal, if there is one, also from its kernels."""
    os.environ.setdefault(VARIABLE, os.ttyname(2) if os.isatty(2) else "")


def workers(jobs: int) -> int:
    """Return ``jobs``, or one for each processor if it is 0; raise UsageError below that."""
    if jobs < 0:
        raise UsageError(f"--jobs must be 0 or more, not {jobs}")
    return jobs or os.cpu_count() or 1


def progress(items: Iterable, desc: str, total: int | None = None, unit: str = "clip") -> Iterable:
    """Wrap ``items`` in a tqdm bar that follows ``GENRE_UTILS_PROGRESS``."""
    target = os.environ.get(VARIABLE)
    if target is None:
        return notebook_tqdm(items, desc=desc, total=total, unit=unit, leave=False)
    if not target or not Path(target).exists():
        return items
    return _on_terminal(items, desc, total, unit, target)


def _on_terminal(items: Iterable, desc: str, total: int | None, unit: str, target: str) -> Iterable:
    with Path(target).open("w") as stream:
        yield from tqdm(items, desc=desc, total=total, unit=unit, leave=False, file=stream)


# ---- parallel ----
if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 30  # seconds until a scheduler must answer, and have a worker


def each(
    function: Callable,
    tasks: Sequence[tuple],
    *,
    jobs: int = 1,
    scheduler: str = "",
    desc: str = "",
    unit: str = "clip",
) -> list:
    """Run ``function(*task)`` for all tasks with a progress bar; BLAS has one thread in each.

    Where a scheduler's worker dies, its tasks are done again by another one, also those that were
    finished but not yet reported; a dead local process ends the stage. What tasks have stored
    stays in both cases.

    Parameters
    ----------
    function : callable
        Of a module's top level. It stores large results itself and returns what is small.
    tasks : sequence of tuple
        The arguments; small as well, paths rather than arrays.
    jobs : int
        Local processes; with 1 everything happens in this one.
    scheduler : str
        Address of a Dask scheduler ("tcp://host:8786"); its workers take the place of ``jobs``.
    desc, unit : str
        Of the progress bar.

    Returns
    -------
    list
        What the function returned, in the order of the tasks.

    Raises
    ------
    UsageError
        ``scheduler`` is no address.
    GenreUtilsError
        Nothing answers there, it has no workers, or Dask is not installed; a worker was killed.
        Errors of the function come through as they are.
    """
    run = _on_cluster if scheduler else _locally
    done = run(function, tasks, scheduler or jobs)
    results: list[Any] = [None] * len(tasks)
    for i, result in progress(done, desc, len(tasks), unit):
        results[i] = result
    return results


def _run(function: Callable, number: int, task: tuple) -> tuple[int, Any]:
    with threadpool_limits(limits=1):  # last bits must not depend on the number of threads
        return number, function(*task)


def _locally(function: Callable, tasks: Sequence[tuple], jobs: int) -> Iterator[tuple[int, Any]]:
    work = (joblib.delayed(_run)(function, i, task) for i, task in enumerate(tasks))
    try:
        with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
            yield from joblib.Parallel(return_as="generator_unordered")(work)
    except BrokenProcessPool:
        raise GenreUtilsError(
            "a worker process was killed, often for want of memory; the same command with a "
            "smaller --jobs goes on from what is stored"
        ) from None


def _on_cluster(
    function: Callable, tasks: Sequence[tuple], scheduler: str
) -> Iterator[tuple[int, Any]]:
    # Not through joblib, which computes here when the cluster has just one core.
    with _connected(scheduler) as client:
        from distributed import KilledWorker, as_completed

        run = partial(_run, function)
        futures = client.map(run, range(len(tasks)), list(tasks), pure=False)
        try:
            for _, result in as_completed(futures, with_results=True):
                yield result
        except KilledWorker:
            raise GenreUtilsError(
                f"{scheduler}: one task ended several workers, often for want of memory; the same "
                "command goes on from what is stored"
            ) from None
        except RuntimeError as error:
            if "deserialization" not in str(error):
                raise
            raise GenreUtilsError(
                f"{scheduler}: its workers have another version of this package, or none; install "
                "there what is installed here"
            ) from None


@contextmanager
def _connected(scheduler: str) -> Iterator["Client"]:
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError:
        raise GenreUtilsError(
            "--scheduler needs the package distributed: pip install distributed"
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # lost workers are made up for
    try:
        place = get_address_host_port(scheduler)
    except ValueError as error:
        raise UsageError(f"--scheduler {scheduler}: {error}; it is like tcp://host:8786") from None
    try:
        socket.create_connection(place, PATIENCE).close()  # a Client that fails would linger
        client = Client(scheduler, timeout=PATIENCE)
    except OSError as error:
        raise GenreUtilsError(
            f"no Dask scheduler answers at {scheduler} ({error.strerror or error}); start one with "
            "`dask scheduler`"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, PATIENCE)
        except TimeoutError:
            raise GenreUtilsError(
                f"the scheduler at {scheduler} has no workers; start some with "
                f"`dask worker {scheduler} --nthreads 1`"
            ) from None
        yield client
