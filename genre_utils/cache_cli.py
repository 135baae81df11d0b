"""``python -m genre_utils cache``: what the cache holds, and what of it can go.

Each change of code or parameters leaves what was made before it. A store was last used when a run
last opened it, a finished fold when it was made. Runs outside ``runs/`` (``--out``) are not known
here: what they need counts by its age alone.
"""

import argparse
import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import KEY, LEFT_OVER, ROOT, cache_dir

RUNS = ROOT / "runs"
DAY = 86400
MONTH = 30


@dataclass(frozen=True)
class Entry:
    """A store, a finished fold or a left-over file.

    Attributes
    ----------
    name : str
        Of the store, or of the fold's system.
    about : str
        Its parameters in short; "fold" or "left over".
    path : Path
    rows, size : int
        Clips (1 for a fold), bytes.
    used : float
        Last use in seconds since 1970.
    run : str
        A run that needs it, or empty.
    """

    name: str
    about: str
    path: Path
    rows: int
    size: int
    used: float
    run: str = ""


def entries() -> list[Entry]:
    """List stores, finished folds and left-over files by name, last used first."""
    root, needed = cache_dir() / "arrays", _needed()
    found = [_store(key.parent, needed) for key in root.glob(f"[!.]*/{KEY}")]
    found += [_file(path, "fold") for path in (root / "folds").glob("*.npz")]
    left = [_file(path, "left over") for path in root.rglob(f"{LEFT_OVER}*")]
    found += [one for one in left if time.time() - one.used > DAY]  # younger: in the making
    return sorted(found, key=lambda one: (one.name, -one.used))


def _needed() -> dict[str, str]:
    """Folders of the stores that finished runs name, with the run."""
    found = {}
    for path in RUNS.glob("*/arrays.json"):
        with suppress(OSError, ValueError):
            folders = json.loads(path.read_text(encoding="utf-8")).values()
            found |= dict.fromkeys(folders, path.parent.name)
    return found


def _store(folder: Path, needed: dict[str, str]) -> Entry:
    rows = 0
    for shard in folder.glob("*.json"):
        with suppress(OSError, ValueError):
            rows += len(json.loads(shard.read_text(encoding="utf-8")))
    name, run = folder.name.rpartition("-")[0], needed.get(str(folder), "")
    used = (folder / KEY).stat().st_mtime
    return Entry(name, _about(folder), folder, rows, _size(folder), used, run)


def _about(folder: Path) -> str:
    with suppress(OSError, ValueError):
        key = json.loads((folder / KEY).read_text(encoding="utf-8"))
        hidden = ("code", "features", "feature", "weights")
        parts = (key.get("audio", {}) | key).items()
        return " ".join(
            f"{k}={v}" for k, v in parts if k not in hidden and not isinstance(v, dict | list)
        )
    return "its key is damaged"


def _file(path: Path, about: str) -> Entry:
    name = path.stem.rpartition("-")[0] if about == "fold" else about
    return Entry(name, about, path, 1, _size(path), path.lstat().st_mtime)


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() else [path]
    return sum(one.lstat().st_size for one in inside)


def delete(entry: Entry) -> None:
    """Delete an entry; a store that is broken off in the middle is a left-over.

    Raises
    ------
    GenreUtilsError
        It cannot be deleted.
    """
    try:
        if entry.path.is_dir():
            gone = entry.path.with_name(f"{LEFT_OVER}{entry.path.name}")
            entry.path.rename(gone)
            shutil.rmtree(gone)
        else:
            entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise GenreUtilsError(f"cannot delete {entry.path}: {error.strerror or error}") from None


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add ``cache`` and its commands; each sets ``func``, which returns the exit code."""
    whole = commands.add_parser(
        "cache", help="stored arrays: list them, delete old ones", allow_abbrev=False
    )
    whole.set_defaults(func=main_show)
    below = whole.add_subparsers(metavar="COMMAND")
    one = below.add_parser("show", help="list them (the default)", allow_abbrev=False)
    one.set_defaults(func=main_show)
    one = below.add_parser(
        "prune",
        help="delete stores and finished folds that were not used for a while",
        description="Deletes whole stores and finished folds that were not used for a while, "
        "except the stores of a run in runs/, and files that an interrupted run left over.",
        allow_abbrev=False,
    )
    add = one.add_argument
    add("--older-than", type=float, metavar="DAYS", help=f"not used for so long (default: {MONTH})")
    add("--name", default="", help="only stores or folds of this name (see `cache show`)")
    add("--all", action="store_true", help="whatever age (unless given), also what runs need")
    add("--dry-run", action="store_true", help="only say what would go")
    one.set_defaults(func=main_prune)


def main_show(_arguments: argparse.Namespace) -> int:
    """Print what there is, folds of a system in one line; 0."""
    found = entries()
    stores = [one for one in found if one.about not in ("fold", "left over")]
    lines = [_line(one.name, f"{one.rows} clips", [one]) for one in stores]
    for name in sorted({one.name for one in found} - {one.name for one in stores}):
        files = [one for one in found if one.name == name]
        what = "files" if name == "left over" else "folds"
        lines.append(_line(name, f"{len(files)} {what}", files))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)] if lines else []
    for line in lines:
        print("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip())
    print(f"{len(stores)} stores, {_megabytes(found)} in {cache_dir() / 'arrays'}")
    return 0


def _line(name: str, count: str, parts: list[Entry]) -> tuple[str, ...]:
    day = time.strftime("%Y-%m-%d", time.gmtime(max(one.used for one in parts)))
    run, about = parts[0].run, parts[0].about if len(parts) == 1 else ""
    return name, count, _megabytes(parts), day, f"runs/{run}" if run else "-", about[:80]


def _megabytes(parts: list[Entry]) -> str:
    return f"{sum(one.size for one in parts) / 1e6:.1f} MB"


def main_prune(arguments: argparse.Namespace) -> int:
    """Delete what is asked for and say how much is free now; 0."""
    days = arguments.older_than
    if days is None:
        days = 0 if arguments.all else MONTH
    if not days >= 0:
        raise UsageError(f"--older-than {days:g}: 0 days or more")
    found = entries()
    names = sorted({one.name for one in found})
    if arguments.name and arguments.name not in names:
        raise UsageError(f"nothing named {arguments.name!r} is stored; there is {', '.join(names)}")
    chosen = [
        one
        for one in found
        if (arguments.name in ("", one.name))
        and (one.about == "left over" or one.used <= time.time() - days * DAY)
        and (arguments.all or not one.run)
    ]
    for one in chosen:
        if not arguments.dry_run:
            delete(one)
        print(f"{one.path.name}  {_megabytes([one])}")
    verb = "would be freed" if arguments.dry_run else "freed"
    print(f"{_megabytes(chosen)} {verb}; {len(found) - len(chosen)} of {len(found)} entries stay")
    return 0
