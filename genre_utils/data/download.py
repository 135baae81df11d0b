"""Fetch the release of a data set and unpack it.

Pooch fetches a file, compares its checksum and puts it in place at once. What comes from outside
is not trusted: sizes are capped, archives are looked through before anything is written.
"""

import io
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO

import pandas as pd
import pooch
import requests
from tqdm import tqdm

from genre_utils.runtime import GenreUtilsError, UsageError, progress
from genre_utils.store import write_atomic

TIMEOUT = 30.0  # seconds without an answer
CHUNK = 2**16  # bytes
SPARE = 100 * 10**6  # bytes left free on the disk
MAX_FILES = 200_000
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)

pooch.get_logger().setLevel("ERROR")  # the command line says itself what it does


@dataclass(frozen=True)
class Remote:
    """A file to fetch, of at most ``cap`` bytes, and the addresses that have it, in order.

    An address that ends in ``#bytes=FIRST-LAST`` means this range of a larger file.
    """

    name: str
    urls: tuple[str, ...]
    cap: int
    md5: str = ""


@dataclass(frozen=True)
class Release:
    """All files of a release.

    ``parts`` are the audio's archive, or its pieces in order; in it are ``n_audio`` files of the
    pattern ``audio``, of at most ``cap`` bytes together. ``catalogue`` has no checksum: the first
    file that ``check(folder)`` accepts will do; it raises GenreUtilsError for the others.
    """

    parts: tuple[Remote, ...]
    audio: str
    n_audio: int
    cap: int
    tables: tuple[Remote, ...] = ()
    catalogue: tuple[Remote, ...] = ()
    check: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set, and ``load(folder, **options) -> (clips, report)``."""

    name: str
    title: str
    needs: str
    load: Callable[..., tuple[pd.DataFrame, dict]]
    clips: str = "yours"
    size: str = "yours"
    licence: str = "yours"
    citation: str = "yours"
    options: tuple[str, ...] = ()
    known_bad: tuple[str, ...] = ()
    synthetic: bool = False
    release: Release | None = None


def download(release: Release, folder: Path, mirror: str = "") -> Iterator[str]:
    """Fetch what a folder lacks of a release and unpack it; yield a line on each step.

    The archive is deleted when all of its audio is there. A second call goes on after the last
    file that was complete. ``mirror`` is the address of a folder that is tried first; UsageError
    where it is no web address. GenreUtilsError: something could not be fetched, proven or written;
    where it is the catalogue, all other files are fetched before this is raised.
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        raise UsageError(f"--mirror {mirror}: must start with http:// or https://")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GenreUtilsError(f"cannot make {folder}: {error.strerror}; name another") from None
    complete = len(list(folder.rglob(release.audio))) >= release.n_audio
    if not complete:
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        wanted = max(2 * sum(part.cap for part in release.parts) - there, 0) + SPARE
        if (free := shutil.disk_usage(folder).free) < wanted:
            room = f"{wanted / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
            raise GenreUtilsError(f"{folder}: {room}; make room or name another --data-dir")
    for remote in release.tables:
        yield f"{fetch(remote, folder, mirror).name}: there, checksum right"
    failure = None
    if release.check:
        try:
            yield f"{_catalogue(release, folder, mirror)}: there, schema right"
        except GenreUtilsError as error:
            failure = error
            yield f"catalogue: {error}"
    if not complete:
        archive = folder / Path(release.parts[0].name).stem
        if len(release.parts) == 1:
            archive = fetch(release.parts[0], folder, mirror)
        elif not archive.is_file():  # joined when the checksum of each piece is right
            paths = [fetch(part, folder, mirror) for part in release.parts]
            write_atomic(archive, partial(_copy, [partial(path.open, "rb") for path in paths]))
            for path in paths:
                path.unlink()
        yield f"{archive.name}: there, checksum right"
        unpack(archive, folder, cap=release.cap)
        archive.unlink()
    yield f"audio: {release.n_audio} files there"
    if failure:
        raise failure


def fetch(
    remote: Remote, folder: Path, mirror: str = "", check: Callable[[Path], object] | None = None
) -> Path:
    """Put a file into ``folder``, unless it is there with the right checksum, and return its path.

    A file that ``check(folder)`` refuses (GenreUtilsError) is deleted, and the next address tried.
    GenreUtilsError: no address has it (the line gives the reason of each), or it cannot be written.
    """
    front = (f"{mirror.rstrip('/')}/{remote.name}",) if mirror else ()
    terminal = sys.stderr if sys.stderr.isatty() else io.StringIO()
    failures = []
    for address in front + remote.urls:
        url, _, part = address.partition("#")
        headers = {"Accept-Encoding": "identity"} | ({"Range": part} if part else {})
        bar = _Bar(desc=remote.name, unit="B", unit_scale=True, leave=False, file=terminal)
        bar.cap = remote.cap
        get = pooch.HTTPDownloader(bar, CHUNK, timeout=TIMEOUT, headers=headers)
        known = f"md5:{remote.md5}" if remote.md5 else None
        try:
            path = Path(pooch.retrieve(url, known, remote.name, folder, downloader=get))
            if check:
                check(folder)
            return path
        except GenreUtilsError as error:
            failures.append(f"{url}: {error}")
            path.unlink()
        except ValueError:  # raised by pooch; the file is deleted by then
            failures.append(f"{url}: wrong checksum")
        except requests.HTTPError as error:
            failures.append(f"{url}: HTTP {error.response.status_code} {error.response.reason}")
        except requests.RequestException as error:
            failures.append(f"{url}: " + str(error).rpartition(": ")[2].rstrip("')\""))
        except OSError as error:
            why = f"cannot write {folder / remote.name}: {error.strerror}"
            raise GenreUtilsError(f"{why}; make room and run the same command again") from None
    why = f"{remote.name} could not be fetched ({'; '.join(failures)})"
    remedy = "run the same command again later, or name an address that has it with --mirror URL"
    raise GenreUtilsError(f"{why}; {remedy}")


class _Bar(tqdm):
    """Progress bar for pooch that ends a transfer of more than ``cap`` bytes."""

    cap = 0

    def __bool__(self) -> bool:  # tqdm: False where the length is not known
        return True

    def update(self, n: float | None = 1) -> bool | None:
        if self.n >= self.cap:
            raise requests.RequestException(f"more than the {self.cap} bytes allowed")
        return super().update(n)


def _catalogue(release: Release, folder: Path, mirror: str) -> str:
    """Return the name of a sound catalogue; a new one is checked before it is put in place."""
    with suppress(GenreUtilsError):
        return release.check(folder)
    failures = []
    with TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
        for remote in release.catalogue:
            try:
                path = fetch(remote, Path(scratch), mirror, release.check)
            except GenreUtilsError as error:
                failures.append(str(error))
                continue
            for unsound in release.catalogue:
                (folder / unsound.name).unlink(missing_ok=True)
            path.replace(folder / remote.name)
            return release.check(folder)
    raise GenreUtilsError("; ".join(failures))


def unpack(archive: Path, folder: Path, *, cap: int) -> None:
    """Unpack the files of a zip or tar.gz below a folder; those there in the right size stay.

    Each file appears when it is whole. GenreUtilsError before anything is written: the archive is
    damaged, takes more than ``cap`` bytes, or has a link or a member that leaves the folder;
    later: a member is damaged or cannot be written.
    """
    tar = archive.name.endswith(".tar.gz")
    try:
        with tarfile.open(archive, "r:gz") if tar else zipfile.ZipFile(archive) as packed:
            if tar:
                sizes = {m.name: m.size if m.isreg() else -1 for m in packed if not m.isdir()}
            else:
                sizes = {m.filename: m.file_size for m in packed.infolist() if not m.is_dir()}
            faults = [f"{name} is no plain file" for name, size in sizes.items() if size < 0]
            for name in sizes:
                path = PureWindowsPath(name)  # takes both kinds of slashes
                if path.anchor or ".." in path.parts:
                    faults.append(f"{name!r} leaves the target folder")
            total = sum(sizes.values())
            if total > cap or len(sizes) > MAX_FILES:
                what = f"{len(sizes)} files of {total / 1e9:.1f} GB, more than"
                faults.append(f"{what} the {cap / 1e9:.1f} GB that this archive can hold")
            if faults:
                raise GenreUtilsError(f"{archive}: {faults[0]}; nothing unpacked")
            read = packed.extractfile if tar else packed.open
            for name in progress(sizes, "unpack", len(sizes), "file"):
                path = folder / name
                if not path.is_file() or path.stat().st_size != sizes[name]:
                    write_atomic(path, partial(_copy, [partial(read, name)]))
    except DAMAGED as error:
        why = f"damaged archive ({error}); delete it and run the same command again"
        raise GenreUtilsError(f"{archive}: {why}") from None


def _copy(sources: Iterable[Callable[[], IO[bytes]]], target: Path) -> None:
    """Open the sources one after the other and write them to one file."""
    with target.open("wb") as out:
        for source in sources:
            with source() as stream:
                shutil.copyfileobj(stream, out)
