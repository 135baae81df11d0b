"""Features of many files into stores: what they lack, in chunks, in several processes."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from genre_utils import parallel
from genre_utils.errors import GenreUtilsError
from genre_utils.extraction.audio import AudioError
from genre_utils.store import Store

CHUNK = 16  # clips that a worker extracts between two writes, at most
Extractor = Callable[[Path], dict[str, np.ndarray]]


def extract_lacking(
    files: Sequence[Path], ids: Sequence[str], targets: dict[str, Store], extractor: Extractor, *,
    jobs: int = 1, scheduler: str = "", desc: str = "features",
) -> int:  # fmt: skip
    """Extract the clips that some of the stores lack; workers write to the stores themselves.

    Parameters
    ----------
    files, ids : sequences of the same length
        Sound files and the digests of their bytes.
    targets : dict
        Store of each feature.
    extractor : callable
        File -> array of each feature of ``targets``; of a module's top level (or a `partial`).
    jobs, scheduler, desc
        As for `parallel.each`.

    Returns
    -------
    int
        Number of clips extracted now.

    Raises
    ------
    GenreUtilsError
        Some clips cannot be used; all others are stored. The line names the first of them.
    """
    lacking = {row for store in targets.values() for row in store.missing(ids)}
    todo = list({row: path for row, path in zip(ids, files, strict=True) if row in lacking}.items())
    tasks = [(chunk, targets, extractor) for chunk in _chunks(todo, jobs)]
    work = {"jobs": jobs, "scheduler": scheduler, "desc": desc, "unit": "chunk"}
    refused = [line for lines in parallel.each(_chunk, tasks, **work) for line in lines]
    if refused:
        raise GenreUtilsError(f"{len(refused)} clip(s) cannot be extracted; first: {refused[0]}")
    return len(todo)


def _chunks(todo: list, jobs: int) -> list[list]:
    """Split into even chunks of `CHUNK` clips at most, as many for each of the workers."""
    n = -(-len(todo) // (CHUNK * jobs)) * jobs
    edges = [len(todo) * i // n for i in range(n + 1)] if todo else [0]
    return [todo[a:b] for a, b in pairwise(edges) if a < b]


def _chunk(
    chunk: list[tuple[str, Path]], targets: dict[str, Store], extractor: Extractor
) -> list[str]:
    """Store a chunk's features; return the lines of the clips that cannot be used."""
    stored, rows, refused = [], {}, []
    for row, path in chunk:
        try:
            arrays = extractor(path)
        except AudioError as error:
            refused.append(str(error))
            continue
        for name in targets:
            if name not in rows:
                rows[name] = np.empty((len(chunk), *arrays[name].shape), arrays[name].dtype)
            rows[name][len(stored)] = arrays[name]  # at once: each clip then uses the same memory
        stored.append(row)
    for name, made in rows.items():
        targets[name].put(stored, made[: len(stored)])
    return refused
