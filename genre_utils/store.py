"""Arrays on disk, one row a clip, found again by content; `Run`, the folder of a run.

A folder ``<name>-<key>`` belongs to one computation: the key is a digest of its parameters and of
the source code that does it. Inside, each shard is ``<digest>.npy`` (rows) with ``<digest>.json``
(the rows' ids, digests of the audio, and a checksum of ids and rows). Rows are reused exactly when
audio, parameters and code are unchanged. A file appears at once when it is whole, and a shard
counts when both of its files are there and fit: an interrupted run loses at most one shard, two
runs at once cannot spoil each other's, and what a broken machine or disk damaged is made anew.
"""

import ast
import codecs
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from platformdirs import user_cache_path

from genre_utils import paper
from genre_utils.runtime import GenreUtilsError, expanded

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "genre_utils"
# They carry numbers and do not make any: a change of them makes nothing stale.
INFRASTRUCTURE = tuple(f"{PACKAGE}.{name}" for name in ("store", "runtime", "backend"))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}  # where import and package differ
WINDOWS = "genre_utils.windows"  # how `shown` decodes what is no UTF-8
codecs.register_error(
    WINDOWS, lambda e: (e.object[e.start : e.end].decode("cp1252", "replace"), e.end)
)
KEY = "key.txt"  # parameters of a store
Arrays = dict[str, np.ndarray]


def cache_dir() -> Path:
    """Folder of what is kept between runs: ``$GENRE_UTILS_CACHE``, or in the system's cache."""
    chosen = os.environ.get("GENRE_UTILS_CACHE")
    return Path(expanded(chosen)) if chosen else user_cache_path("genre-utils", False)


def digest(value: Any) -> str:  # noqa: ANN401
    """SHA-256 of a JSON-able value, independent of the order of a dictionary's keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def code_digest(*objects: Any) -> str:  # noqa: ANN401
    """Digest (16 hexadecimal digits) of the code that makes a result: edited, it is made anew.

    Covers the modules in which ``objects`` (classes, functions, modules) are defined, every module
    of this package that these import, directly or through others, and the versions of the other
    packages that they import. Docstrings and comments do not count. Nothing is imported for it.
    """
    names = [getattr(item, "__module__", None) or item.__name__ for item in objects]
    code, packages = {}, set()
    while names:
        if (name := names.pop()) not in {*code, *INFRASTRUCTURE}:
            code[name], own, others = _parsed(name)
            names += own
            packages |= others
    names = {DISTRIBUTIONS.get(name, name) for name in packages - set(sys.stdlib_module_names)}
    return digest([code, {name: version(name) for name in names}])[:16]


@lru_cache
def _parsed(name: str) -> tuple[str, list[str], set[str]]:
    """Digest of a module without docstrings, its imports from here, its other packages."""
    tree = ast.parse(Path(find_spec(name).origin).read_text(encoding="utf-8"))
    own, others = [], set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            node.body = body[1:]
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            others.add(node.module.partition(".")[0])
            if node.module.startswith(PACKAGE):
                folder = ROOT.joinpath(*node.module.split("."))
                for name in (alias.name for alias in node.names):
                    is_module = (folder / f"{name}.py").is_file()
                    own.append(f"{node.module}.{name}" if is_module else node.module)
    own = [module for module in own if module != PACKAGE]
    return digest(ast.dump(tree)), own, others - {PACKAGE}


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shown(name: str | bytes) -> str:
    """Return a name from outside as text that every table, notebook and terminal takes.

    Bytes that are no UTF-8 are read as Windows-1252, control characters become U+FFFD.
    """
    text = os.fsencode(name).decode(errors=WINDOWS)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", text)


def located(folder: str | Path, path: str | PurePosixPath) -> Path:
    """Return the file of a path in a table: called so, else `shown` so, accents composed or not."""
    place, (first, *rest) = Path(folder), PurePosixPath(path).parts or (".",)
    if not os.path.lexists(place / path):
        with suppress(OSError, ValueError):
            for name in _names(place, place.stat().st_mtime_ns).get(_alike(first), ()):
                if os.path.lexists(found := located(place / name, PurePosixPath(*rest))):
                    return found
    return place / path


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", shown(name))


@lru_cache(64)
def _names(folder: Path, _: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for path in folder.iterdir():
        names.setdefault(_alike(path.name), []).append(path.name)
    return names


def write_atomic(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then put it in place at once."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as scratch:
            part = Path(scratch) / path.name
            write(part)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())  # or a machine that dies leaves a name without content
            part.chmod(0o644)
            part.replace(path)
    except OSError as error:
        why = f"cannot write {path}: {error.strerror or error}"
        if path.is_relative_to(cache_dir()):
            why += "; the variable GENRE_UTILS_CACHE can name another folder"
        raise GenreUtilsError(why) from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, UTF-8 with Unix line ends."""
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: str | Path, value: Any) -> None:  # noqa: ANN401
    """Write a value, NumPy's scalars included, as indented JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=np.generic.item)
    write_text(path, f"{text}\n")


def read_json(path: str | Path) -> dict[str, Any] | None:
    """Return what `write_json` made of a dictionary; None where it is not there or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None


def remembered(path: str | Path, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of an ``.npz`` file; where it is not there, ``make`` and write them.

    The name must digest all that they depend on. Where nothing can be written, none is kept.
    """
    if (arrays := read_npz(path)) is None:
        arrays = make()
        with suppress(GenreUtilsError):
            write_atomic(path, lambda part: np.savez(part, **arrays))
    return arrays


def read_npz(path: str | Path) -> Arrays | None:
    """Return the arrays of an ``.npz`` file; None where it is not there or damaged."""
    try:
        with zipfile.ZipFile(path) as stored:
            stored.fp.seek(-12, os.SEEK_END)
            count = int.from_bytes(stored.fp.read(2), "little")  # of members, as the end says
            # NumPy reads as far as the shape says, which can be damaged: not up to the checksum.
            if stored.testzip() or len(stored.namelist()) != count:
                return None
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception:  # damaged bytes can fail in any way
        return None


class Store:
    """Rows of one computation, in a folder made before; GenreUtilsError where it is gone."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise GenreUtilsError(f"{folder}: stored arrays are gone; run the earlier stage again")
        self._index: dict[str, tuple[str, int]] = {}
        self._seen: set[str] = set()

    @classmethod
    def make(cls, root: Path, name: str, key: dict) -> "Store":
        """Return the store of rows ``name``; ``key`` is all they depend on, `code_digest` too."""
        folder = Path(root) / f"{name}-{digest(key)[:16]}"
        if digest(read_json(folder / KEY)) != digest(key):
            write_json(folder / KEY, key)
        return cls(folder)

    def __reduce__(self) -> tuple:
        """Travel between processes by the folder alone."""
        return Store, (self.folder,)

    def index(self) -> dict[str, tuple[str, int]]:
        """Return ``{id: (shard, row)}``, each shard read once; a damaged one has no rows."""
        shards = {path.stem for path in self.folder.glob("*.json")}
        if not self._seen <= shards:  # another run began anew
            self._index, self._seen = {}, set()
        for shard in sorted(shards - self._seen):
            path = self.folder / f"{shard}.json"
            with suppress(Exception):  # damaged bytes can fail in any way
                ids = (read_json(path) or {})["ids"]
                if len(np.load(path.with_suffix(".npy"), mmap_mode="r")) == len(ids):
                    self._index |= {row: (shard, i) for i, row in enumerate(ids)}
        self._seen = shards
        return self._index

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids not stored, each once, in order; damaged shards are thrown away."""
        there, ids = self.index(), list(dict.fromkeys(ids))
        shards = {there[row][0] for row in ids if row in there}
        damaged = [shard for shard in shards if not _is_intact(self.folder / f"{shard}.npy")]
        for shard in damaged:
            (self.folder / f"{shard}.json").unlink(missing_ok=True)
        return self.missing(ids) if damaged else [row for row in ids if row not in there]

    @property
    def key(self) -> dict[str, Any]:
        """The parameters of the rows; GenreUtilsError where the file is damaged."""
        if (known := read_json(self.folder / KEY)) is None:
            raise GenreUtilsError(f"{self.folder / KEY} is damaged; run the earlier stage again")
        return known

    def put(self, ids: Sequence[str], rows: np.ndarray) -> None:
        """Store ``rows`` [shape=(len(ids), ...)] as one shard."""
        if len(ids) != len(rows):
            raise ValueError(f"{len(ids)} ids for {len(rows)} rows")
        name = digest(list(ids))[:16]
        self._seen.discard(name)
        write_atomic(self.folder / f"{name}.npy", lambda part: np.save(part, rows))
        known = {"ids": list(ids), "checksum": _checksum(ids, rows)}
        write_json(self.folder / f"{name}.json", known)

    def rows(self, ids: Sequence[str]) -> "Rows":
        """Rows of ``ids`` in that order, left on disk; GenreUtilsError where some are missing."""
        if any(row not in self._index for row in ids):
            self.index()
        absent = sum(row not in self._index for row in ids)
        if absent or not ids:
            why = f"{absent} of {len(ids)} clips are not stored; run the earlier stage again"
            raise GenreUtilsError(f"{self.folder}: {why}")
        return Rows(self.folder, [self._index[row] for row in ids])

    def load(self, ids: Sequence[str]) -> np.ndarray:
        """`rows` in memory, shape=(len(ids), ...)."""
        return self.rows(ids)[:]


def _checksum(ids: Sequence[str], rows: np.ndarray) -> int:
    """CRC-32 of ids, type, shape and values: twice as fast as a digest, and enough for damage."""
    start = zlib.crc32(json.dumps([list(ids), rows.dtype.str, rows.shape]).encode())
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8), start)


def _is_intact(path: Path) -> bool:
    """Whether a shard's ids and rows (``path``) are those that were put; read once a process."""
    with suppress(OSError):
        files = [file.stat() for file in (path, path.with_suffix(".json"))]
        return _agrees(path, *((file.st_ino, file.st_mtime_ns, file.st_size) for file in files))
    return False


@cache
def _agrees(path: Path, *_: tuple[int, ...]) -> bool:
    """Compare the checksum; files that the system describes otherwise are others."""
    with suppress(Exception):  # damaged bytes can fail in any way
        known = read_json(path.with_suffix(".json")) or {}
        return _checksum(known["ids"], np.load(path, mmap_mode="r")) == known["checksum"]
    return False


class Rows:
    """Stored rows on disk, seen as one array (`shape`, `dtype`) that is read where indexed."""

    def __init__(self, folder: Path, places: list[tuple[str, int]]) -> None:
        self._folder = folder
        self._places = pd.DataFrame(places, columns=["shard", "row"])
        first = self._read(places[0][0])
        self.shape = (len(places), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, which: slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Read some rows (a slice, a mask or positions) into memory, one shard after the other."""
        places = self._places.iloc[np.arange(len(self))[which]].reset_index(drop=True)
        rows = np.empty((len(places), *self.shape[1:]), self.dtype)
        for shard, part in places.groupby("shard"):
            rows[part.index] = self._read(shard)[part["row"].to_numpy()]
        return rows

    def _read(self, shard: str) -> np.ndarray:
        path = self._folder / f"{shard}.npy"
        if _is_intact(path):
            return np.load(path, mmap_mode="r")
        what = "is damaged" if path.is_file() else "is gone since"
        raise GenreUtilsError(f"{path} {what}; run the earlier stage again")


# Notebook -> the tables that it writes.
TABLES = {
    "01_data": ("clips", "splits", "audio"),
    "03_cnn and 04_svm": ("predictions",),
    "03_cnn": ("history",),
    "05_results": ("table1",),
    "06_what_it_measures": ("comparisons", "claims"),
    "07_beyond_the_paper": ("beyond", "beyond_table", "chosen", "fewer_artists", "learning_curve"),
    "08_trust": ("calibration",),
}
TEXT = ("clip_id", "path", "genre", "artist", "album", "track", "part", "status")
TEXT += ("y_true", "y_pred")
PACKAGES = ("librosa", "soundfile", "numpy", "scipy", "keras", "tensorflow", "scikit-learn")


class Run:
    """The folder of one run; without ``out``, ``runs/demo-<dataset>`` beside the notebooks.

    A table is read as it was written or not at all: run.json has a checksum of each. `cache` is the
    folder of its arrays and folds: the common one, or a forced run's own.
    """

    def __init__(self, out: str | Path = "", dataset: str = "demo") -> None:
        self.folder = Path(expanded(out)).resolve() if out else ROOT / "runs" / f"demo-{dataset}"
        self.figures = self.folder / "figures"
        pd.set_option("display.html.use_mathjax", False)  # a "$" in a name is a dollar
        own = self.folder / "cache"
        self.cache = own if own.is_dir() else cache_dir() / "arrays"

    def read(self, name: str) -> pd.DataFrame:
        """Read one of `TABLES`; gone or altered, GenreUtilsError names file and notebook."""
        path = self.folder / f"{name}.csv"
        (notebook,) = (notebook for notebook, names in TABLES.items() if name in names)
        if not path.is_file():
            raise GenreUtilsError(f"no {path}; run notebook {notebook} first")
        content, types = path.read_bytes(), dict.fromkeys(TEXT, str)
        known = self._known("run.json").get("tables", {}).get(name)
        try:
            if known not in (None, zlib.crc32(content)):  # None: of an earlier version
                raise ValueError
            how = {"dtype": types, "keep_default_na": False, "na_values": [""]}
            table = pd.read_csv(io.BytesIO(content), **how)
        except ValueError:
            why = f"is not as it was written; run notebook {notebook} again"
            raise GenreUtilsError(f"{path} {why}") from None
        return table.fillna({column: "" for column in TEXT if column in table})

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Write one of `TABLES` atomically, and its checksum into run.json."""
        text = table.to_csv(index=False, lineterminator="\n")
        write_text(self.folder / f"{name}.csv", text)
        with suppress(GenreUtilsError):  # damaged: the stage that needs more of it will say so
            tables = self._known("run.json").get("tables", {})
            self.record("tables", tables | {name: zlib.crc32(text.encode())})

    def add_predictions(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Put systems' rows into predictions.csv in place of their old ones.

        Rows of other systems stay as long as they belong to the current splits. The order of the
        systems is always the same: the paper's, others, reference points. Returns the whole table.
        """
        if (self.folder / "predictions.csv").is_file():
            try:
                old = self.read("predictions")
            except GenreUtilsError as error:
                print(f"begun anew: {error}")
                old = predictions.iloc[:0]
            where = ["protocol", "clip_id", "fold"]
            current = pd.MultiIndex.from_frame(self.read("splits")[where])
            valid = pd.MultiIndex.from_frame(old[where]).isin(current)
            gone = set(predictions["system"])
            if "majority" in gone:  # the reference points come as one
                gone.update(paper.REFERENCE_POINTS)
            stay = valid & ~old["system"].isin(gone).to_numpy()
            predictions = pd.concat([old[stay], predictions], ignore_index=True)
        others = set(predictions["system"]) - {*paper.TABLE1, *paper.REFERENCE_POINTS}
        order = [*paper.TABLE1, *sorted(others), *paper.REFERENCE_POINTS]
        how = {"key": lambda names: names.map(order.index), "kind": "stable"}
        rounded = predictions.filter(regex="^p_").astype(float).round(6)
        self.write("predictions", predictions.assign(**rounded).sort_values("system", **how))
        return self.read("predictions")

    def usable_clips(self) -> pd.DataFrame:
        """Return the clips with status ``ok``, with the digest of their audio (sha256)."""
        clips = self.read("clips")
        return clips[clips["status"] == "ok"].merge(self.read("audio"), on="clip_id", how="left")

    def sound_files(self, clips: pd.DataFrame) -> list[Path]:
        """Return the sound file of each clip."""
        folder = Path(self.recorded("data_dir")["path"])
        return [located(folder, path) for path in clips["path"]]

    def record(self, part: str, value: Any, file: str = "run.json") -> None:  # noqa: ANN401
        """Put one part (facts of a stage, say) into a file; where damaged, that begins anew."""
        known = read_json(self.folder / file) or {}
        write_json(self.folder / file, known | {part: value})

    def recorded(self, part: str, file: str = "run.json") -> Any:  # noqa: ANN401
        """Return a part of ``file``; GenreUtilsError where no earlier stage recorded it."""
        known, path = self._known(file), self.folder / file
        if part not in known:
            raise GenreUtilsError(f"{path} has no {part!r}; run the earlier notebooks")
        return known[part]

    def note(self) -> str:
        """Return what every figure and table of this run must say of itself; often nothing."""
        untrained = self._known("run.json").get("weights", {}).get("random")
        parts = self.recorded("corpus")["note"], "untrained VGG-16" if untrained else ""
        return "; ".join(filter(None, parts))

    def record_arrays(self, stores: dict[str, Store]) -> None:
        """Note in arrays.json which folders hold the rows of this run."""
        for name, store in stores.items():
            self.record(name, str(store.folder), "arrays.json")

    def arrays(self, name: str) -> Store:
        """Return this run's store of "mel", "vgg-mel", ...; GenreUtilsError where none is made."""
        return Store(self.recorded(name, "arrays.json"))

    def _known(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if (known := read_json(path)) is None and path.is_file():
            raise GenreUtilsError(f"{path} is damaged; run the notebooks again, from the first")
        return known or {}


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    return {package: version(package) for package in PACKAGES}


def today() -> str:
    """Date and time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
