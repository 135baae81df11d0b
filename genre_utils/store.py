"""Arrays on disk, one row a clip, found again by content.

A folder ``<name>-<key>`` belongs to one computation: the key is a digest of its parameters and of
the source code that does it. Inside, each shard is ``<digest>.npy`` (rows) with ``<digest>.json``
(the rows' ids, digests of the audio). Rows are therefore reused exactly when audio, parameters and
code are unchanged; plain NumPy reads a shard; a shard counts only once its ``.json`` is there, so
an interrupted run loses at most one shard and two runs at once cannot spoil each other's.
"""

import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from genre_utils.errors import GenreUtilsError


def cache_dir() -> Path:
    """Folder of everything kept between runs: ``$GENRE_UTILS_CACHE`` or ~/.cache/genre-utils."""
    return Path(os.environ.get("GENRE_UTILS_CACHE") or Path.home() / ".cache" / "genre-utils")


def digest(value: Any) -> str:  # noqa: ANN401
    """SHA-256 of a JSON-able value, independent of the order of a dictionary's keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def code_version(*modules: ModuleType) -> str:
    """Digest of modules' source text: an edited stage is computed anew."""
    return digest([inspect.getsource(module) for module in modules])[:16]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then put it in place at once."""
    path = Path(path)
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.suffix)
        os.close(handle)
        write(Path(name))
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise GenreUtilsError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, UTF-8 with Unix line ends."""
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: str | Path, value: Any) -> None:  # noqa: ANN401
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


class Store:
    """Rows of one computation.

    Parameters
    ----------
    root : Path
        Folder that holds the stores.
    name : str
        What the rows are ("mel", "vgg-mel").
    key : dict
        JSON-able: every parameter the rows depend on, `code_version` included.
    fresh : bool
        Ignore and remove what is there (``--force``).
    """

    def __init__(self, root: Path, name: str, key: dict, *, fresh: bool = False) -> None:
        self.folder = Path(root) / f"{name}-{digest(key)[:16]}"
        write_json(self.folder / "key.txt", key)
        if fresh:
            for path in [*self.folder.glob("*.json"), *self.folder.glob("*.npy")]:
                path.unlink(missing_ok=True)

    @classmethod
    def opened(cls, folder: str | Path) -> "Store":
        """Return the store in a folder that an earlier stage named.

        Raises
        ------
        GenreUtilsError
            The folder is gone.
        """
        if not Path(folder).is_dir():
            raise GenreUtilsError(f"{folder}: stored arrays are gone; run the earlier stage again")
        store = cls.__new__(cls)
        store.folder = Path(folder)
        return store

    def index(self) -> dict[str, tuple[str, int]]:
        """Where each stored id lies: ``{id: (shard name, row)}``."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            rows = json.loads(path.read_text(encoding="utf-8"))
            found |= {row: (path.stem, i) for i, row in enumerate(rows)}
        return found

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids not stored yet, each once, in the order given."""
        there = self.index()
        return [row for row in dict.fromkeys(ids) if row not in there]

    def put(self, ids: Sequence[str], rows: np.ndarray) -> None:
        """Store ``rows`` [shape=(len(ids), ...)] as one shard."""
        if len(ids) != len(rows):
            raise ValueError(f"{len(ids)} ids for {len(rows)} rows")
        name = digest(list(ids))[:16]
        write_atomic(self.folder / f"{name}.npy", lambda part: _save(part, rows))
        write_json(self.folder / f"{name}.json", list(ids))

    def load(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of ``ids`` in that order, shape=(len(ids), ...).

        Raises
        ------
        GenreUtilsError
            Some rows are not stored.
        """
        there = self.index()
        absent = [row for row in ids if row not in there]
        if absent or not ids:
            raise GenreUtilsError(
                f"{self.folder}: {len(absent)} of {len(ids)} clips are not stored; "
                "run the earlier stage again"
            )
        shards = {there[row][0] for row in ids}
        maps = {s: np.load(self.folder / f"{s}.npy", mmap_mode="r") for s in shards}
        first = maps[there[ids[0]][0]]
        rows = np.empty((len(ids), *first.shape[1:]), first.dtype)
        for i, row in enumerate(ids):
            shard, j = there[row]
            rows[i] = maps[shard][j]
        return rows


def _save(path: Path, rows: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, rows)
