"""Long stages: where their progress bars go, and how many workers they have.

In a terminal run the notebooks' kernels draw on the terminal itself, so that executed notebooks
stay clean; ``GENRE_UTILS_PROGRESS`` then names that terminal. Empty means quiet; unset, as in
JupyterLab, means a bar in the notebook that goes away when done.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm
from tqdm.auto import tqdm as notebook_tqdm

from genre_utils.errors import UsageError

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
