"""Arrays on disk, one row a clip, found again by content.

A folder ``<name>-<key>`` belongs to one computation: the key is a digest of its parameters and of
the source code that does it. Inside, each shard is ``<digest>.npy`` (rows) with ``<digest>.json``
(the rows' ids, digests of the audio). Rows are therefore reused exactly when audio, parameters and
code are unchanged; plain NumPy reads a shard. Each file appears at once when it is whole, a shard
counts only once both of its files are there and fit: an interrupted run loses at most one shard,
two runs at once cannot spoil each other's, and what a broken machine left half is made anew.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from genre_utils.errors import GenreUtilsError

KEY = "key.txt"  # parameters of a store; its date is that of the last use
LEFT_OVER = ".part-"  # start of a temporary file's name


def cache_dir() -> Path:
    """Folder of everything kept between runs: ``$GENRE_UTILS_CACHE`` or ~/.cache/genre-utils."""
    return Path(os.environ.get("GENRE_UTILS_CACHE") or Path.home() / ".cache" / "genre-utils")


def digest(value: Any) -> str:  # noqa: ANN401
    """SHA-256 of a JSON-able value, independent of the order of a dictionary's keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def source_version(names: Iterable[str]) -> str:
    """Digest of modules' source text, by their names: nothing is imported (TensorFlow would be)."""
    return digest([Path(find_spec(name).origin).read_text(encoding="utf-8") for name in names])


def code_version(*modules: ModuleType) -> str:
    """Short `source_version` of imported modules: an edited stage is computed anew."""
    return source_version(module.__name__ for module in modules)[:16]


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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=LEFT_OVER, suffix=path.suffix)
        os.close(handle)
        write(Path(name))
        with Path(name).open("rb") as stream:
            os.fsync(stream.fileno())  # or a machine that dies leaves the name without the content
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


def remembered(
    path: str | Path, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file; where it is not there, ``make`` and write them.

    The name must say all that the arrays depend on (a digest).
    """
    path = Path(path)
    if not path.is_file():
        arrays = make()
        write_atomic(path, lambda part: np.savez(part, **arrays))
    with np.load(path) as stored:
        return dict(stored)


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
        self._open(Path(root) / f"{name}-{digest(key)[:16]}")
        if not (self.folder / KEY).is_file():
            write_json(self.folder / KEY, key)
        if fresh:
            for path in [*self.folder.glob("*.json"), *self.folder.glob("*.npy")]:
                path.unlink(missing_ok=True)

    def _open(self, folder: Path) -> None:
        self.folder = folder
        self._index: dict[str, tuple[str, int]] = {}
        self._seen: set[str] = set()
        with suppress(OSError):  # not there yet, or on a read-only disk
            os.utime(folder / KEY)  # when it was last used, for `cache prune`

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
        store._open(Path(folder))
        return store

    def __reduce__(self) -> tuple:
        """Travel between processes by the folder alone."""
        return Store.opened, (self.folder,)

    def index(self) -> dict[str, tuple[str, int]]:
        """Where each stored id lies: ``{id: (shard name, row)}``; each shard is read once."""
        names = {entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".json")}
        if not self._seen <= names:  # another run began anew
            self._index, self._seen = {}, set()
        for name in sorted(names - self._seen):
            shard = name.removesuffix(".json")
            self._index |= {row: (shard, i) for i, row in enumerate(self._ids(shard))}
        self._seen = names
        return self._index

    def _ids(self, shard: str) -> list[str]:
        """Ids of a shard; none where a file of it is damaged, so that its rows are made anew."""
        try:
            ids = json.loads((self.folder / f"{shard}.json").read_text(encoding="utf-8"))
            return ids if len(self._shard(shard)) == len(ids) else []
        except (OSError, ValueError, EOFError):
            return []

    def _shard(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids not stored yet, each once, in the order given."""
        there = self.index()
        return [row for row in dict.fromkeys(ids) if row not in there]

    def put(self, ids: Sequence[str], rows: np.ndarray) -> None:
        """Store ``rows`` [shape=(len(ids), ...)] as one shard."""
        if len(ids) != len(rows):
            raise ValueError(f"{len(ids)} ids for {len(rows)} rows")
        name = digest(list(ids))[:16]
        self._seen.discard(f"{name}.json")
        write_atomic(self.folder / f"{name}.npy", lambda part: np.save(part, rows))
        write_json(self.folder / f"{name}.json", list(ids))

    def rows(self, ids: Sequence[str]) -> "Rows":
        """Rows of ``ids`` in that order, left on disk until they are asked for.

        Raises
        ------
        GenreUtilsError
            Some rows are not stored.
        """
        if any(row not in self._index for row in ids):
            self.index()
        absent = sum(row not in self._index for row in ids)
        if absent or not ids:
            raise GenreUtilsError(
                f"{self.folder}: {absent} of {len(ids)} clips are not stored; "
                "run the earlier stage again"
            )
        return Rows(self, [self._index[row] for row in ids])

    def load(self, ids: Sequence[str]) -> np.ndarray:
        """`rows` in memory, shape=(len(ids), ...)."""
        return self.rows(ids)[:]


class Rows:
    """Stored rows on disk, seen as one array that is read where it is indexed.

    Attributes
    ----------
    shape : tuple
    dtype : np.dtype
    """

    def __init__(self, store: Store, places: list[tuple[str, int]]) -> None:
        self._store = store
        self._places = places
        first = self._read(places[0][0])
        self.shape = (len(places), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, which: slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Read some rows (a slice, a mask or positions) into memory, one shard after the other."""
        positions = np.arange(len(self))[which]
        wanted: dict[str, list[tuple[int, int]]] = {}
        for target, position in enumerate(positions):
            shard, row = self._places[position]
            wanted.setdefault(shard, []).append((target, row))
        rows = np.empty((len(positions), *self.shape[1:]), self.dtype)
        for shard, pairs in wanted.items():
            targets, sources = np.transpose(pairs)
            rows[targets] = self._read(shard)[sources]
        return rows

    def _read(self, shard: str) -> np.ndarray:
        try:
            return self._store._shard(shard)
        except (OSError, ValueError, EOFError):
            raise GenreUtilsError(
                f"{self._store.folder}: a file of it is gone since; run the earlier stage again"
            ) from None
