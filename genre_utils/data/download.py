"""One file from the first mirror that has it: resumed when broken off, used only when proven.

Pooch compares the checksum, puts the file in place at once and knows when it is there already.
What pooch lacks is here: going on with a broken part (HTTP ranges), and one part of an archive as
a range of the whole.

Archives unpacked with care: nothing outside the target, nothing absurd, nothing half-written.

Releases that can be fetched: addresses, checksums, and the way from nothing to a data folder.
"""

import http.client
import io
import json
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import IO, NamedTuple

import pooch

from genre_utils.data import magnatagatune
from genre_utils.runtime import GenreUtilsError, UsageError, progress
from genre_utils.store import write_json

# ---- data.download ----
TIMEOUT = 30.0  # seconds without an answer
TRIES = 5  # requests to one address, as long as each brings something
CHUNK = 2**20
SPARE = 100 * 10**6  # bytes left free on the disk

pooch.get_logger().setLevel("ERROR")  # the command line says itself what it does


@dataclass(frozen=True)
class Source:
    """Where a file is: all that ``url`` gives, or the range of it that begins at ``offset``."""

    url: str
    offset: int | None = None


@dataclass(frozen=True)
class Remote:
    """A file to fetch: ``size`` in bytes and ``md5`` where known, and at most ``cap`` bytes."""

    name: str
    sources: tuple[Source, ...]
    size: int | None = None
    md5: str = ""
    cap: int = 4 * 10**9


class _Unusable(Exception):
    """An answer that is not the file; the text says why."""


def fetch(remote: Remote, folder: Path) -> Path:
    """Put a file into ``folder``, unless it is there with the right checksum.

    A broken transfer leaves ``<name>.part``, and the next one goes on from there. A file of a
    wrong size or checksum is deleted, never used, and the next source is tried.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    GenreUtilsError
        No source has it (the line gives the reason of each), or it cannot be written.
    """
    part = folder / f"{remote.name}.part"
    failures = []
    for source in remote.sources:
        if not remote.md5:
            part.unlink(missing_ok=True)  # nothing would prove that two halves belong together
        # A part begun elsewhere may be what is wrong: then once more from the start.
        for _ in range(2 if part.is_file() else 1):
            try:
                return _retrieve(remote, source, folder, part)
            except ValueError:  # pooch's word for a wrong checksum; the file is gone already
                failures.append(f"{source.url}: wrong checksum, deleted")
            except (_Unusable, OSError, http.client.HTTPException) as error:
                failures.append(f"{source.url}: {error}")
                break
    raise GenreUtilsError(
        f"{remote.name} could not be fetched ({'; '.join(failures)}); run the same command again "
        "later, or name an address that has it with --mirror URL"
    )


def _retrieve(remote: Remote, source: Source, folder: Path, part: Path) -> Path:
    def downloader(_url: str, output_file: str, _pooch: object) -> None:
        _transfer_all(remote, source, part)
        part.replace(output_file)

    known = f"md5:{remote.md5}" if remote.md5 else None
    return Path(
        pooch.retrieve(source.url, known, fname=remote.name, path=folder, downloader=downloader)
    )


def _transfer_all(remote: Remote, source: Source, part: Path) -> None:
    """Fill ``part``, with a new request after each cut."""
    for _ in range(TRIES):
        before = _size(part)
        try:
            if _transfer(remote, source, part):
                return
            reason: Exception = _Unusable("the connection broke off")
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise _Unusable(f"HTTP {error.code} {error.reason}") from None
            part.unlink()  # longer than the file there
            continue
        except urllib.error.URLError as error:
            reason = _Unusable(str(error.reason))
        except (OSError, http.client.HTTPException) as error:
            reason = _Unusable(str(error) or type(error).__name__)
        if _size(part) <= before:
            break
    raise reason


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(remote: Remote, source: Source, part: Path) -> bool:
    """Ask once for what ``part`` lacks, and add it; whether it is whole now."""
    have = _size(part)
    if remote.size is not None and have >= remote.size:
        if have == remote.size:
            return True
        part.unlink()
        have = 0
    start = (source.offset or 0) + have
    headers = {"User-Agent": "genre-utils", "Accept-Encoding": "identity"}
    if have or source.offset is not None:
        end = "" if remote.size is None else (source.offset or 0) + remote.size - 1
        headers["Range"] = f"bytes={start}-{end}"
    request = urllib.request.Request(source.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0  # a server without ranges sends all of it
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _Unusable("the server sent another range than asked for")
        length = answer.headers.get("Content-Length")
        total = remote.size if length is None else have + int(length)
        if remote.size is not None and total != remote.size:
            raise _Unusable(f"{total} bytes, not the {remote.size} of this file")
        if total is not None and total > remote.cap:
            raise _Unusable(f"{total} bytes, more than the {remote.cap} allowed")
        _append(answer, part, have, remote, total)
    return total is None or _size(part) == total


def _append(
    answer: http.client.HTTPResponse, part: Path, have: int, remote: Remote, total: int | None
) -> None:
    steps = None if total is None else -(-(total - have) // CHUNK)
    # Unbuffered: what has arrived is kept whatever happens next.
    with _opened(part, "ab" if have else "wb") as out:
        for chunk in progress(_chunks(answer), remote.name, steps, "MiB"):
            have += len(chunk)
            if have > remote.cap:
                raise _Unusable(f"more than the {remote.cap} bytes allowed")
            write_all(out, chunk, part)


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = answer.read(CHUNK)
        except http.client.IncompleteRead as error:
            yield error.partial
            raise
        if not chunk:
            return
        yield chunk


def _opened(path: Path, mode: str):  # noqa: ANN202
    try:
        return path.open(mode, buffering=0)
    except OSError as error:
        raise _cannot_write(path, error) from None


def write_all(out, chunk: bytes, path: Path) -> None:  # noqa: ANN001
    """Write all of ``chunk`` to an unbuffered file, or raise GenreUtilsError (disk full)."""
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> GenreUtilsError:
    return GenreUtilsError(
        f"cannot write {path}: {error.strerror}; what is fetched is kept: make room and run the "
        "same command again"
    )


def need_space(folder: Path, wanted: int) -> None:
    """Raise GenreUtilsError unless ``wanted`` bytes fit on the folder's disk."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < wanted + SPARE:
        raise GenreUtilsError(
            f"{folder}: {(wanted + SPARE) / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; make "
            "room or name another --data-dir"
        )


# ---- data.archives ----
MAX_FILES = 200_000


class Joined(io.RawIOBase):
    """Files read as one, in order: the parts of a byte-split archive without a joined copy."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [path.open("rb") for path in paths]
        self.starts = [0, *accumulate(path.stat().st_size for path in paths)]
        self.at = 0

    def readable(self) -> bool:
        """As for any file."""
        return True

    def seekable(self) -> bool:
        """As for any file."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As for any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.starts[-1]}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self.at = base + offset
        return self.at

    def readinto(self, buffer: memoryview) -> int:
        """Read up to the end of one part."""
        if self.at >= self.starts[-1]:
            return 0
        which = bisect_right(self.starts, self.at) - 1
        part = self.files[which]
        part.seek(self.at - self.starts[which])
        n = part.readinto(memoryview(buffer))
        self.at += n
        return n

    def close(self) -> None:
        """Close all parts."""
        for file in self.files:
            file.close()
        super().close()


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(parts: Sequence[Path], folder: Path, *, cap: int) -> dict[str, tuple[int, int]]:
    """Unpack a zip (in one or more byte-split parts) or a tar.gz.

    Files that are there with the right size are left alone, so that a broken run goes on; each
    file appears at once when it is whole.

    Parameters
    ----------
    parts : sequence of Path
        In order.
    folder : Path
        Target; a member's path goes below it.
    cap : int
        Most bytes that the members may have together.

    Returns
    -------
    dict
        ``{path below folder: (bytes, CRC-32)}`` of all files of the archive.

    Raises
    ------
    GenreUtilsError
        Before anything is written: damaged, a member outside the folder or of a special kind, too
        large, disk too small. Later: a member is damaged, or cannot be written.
    """
    try:
        with _members(parts) as members:
            _refuse_unsafe(members, cap, parts[0])
            todo = [m.size for m in members if _archives_size(folder / m.name) != m.size]
            need_space(folder, sum(todo))
            return {m.name: _write(m, folder) for m in progress(members, "unpack", unit="file")}
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise GenreUtilsError(
            f"{parts[0]}: damaged archive ({error}); delete it and run the same command again"
        ) from None


@contextmanager
def _members(parts: Sequence[Path]) -> Iterator[list[Member]]:
    if parts[0].name.endswith(".tar.gz"):
        with tarfile.open(parts[0], "r:gz") as tar:
            yield [_tar_member(tar, one) for one in tar.getmembers() if not one.isdir()]
        return
    with io.BufferedReader(Joined(parts), CHUNK) as stream, zipfile.ZipFile(stream) as archive:
        yield [
            Member(one.filename, one.file_size, lambda one=one: archive.open(one))
            for one in archive.infolist()
            if not one.is_dir()
        ]


def _tar_member(tar: tarfile.TarFile, one: tarfile.TarInfo) -> Member:
    if not one.isreg():
        raise GenreUtilsError(f"{tar.name}: {one.name} is no plain file; nothing was unpacked")
    return Member(one.name, one.size, lambda: tar.extractfile(one))


def _refuse_unsafe(members: list[Member], cap: int, archive: Path) -> None:
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", member.name):
            raise GenreUtilsError(
                f"{archive}: {member.name!r} leaves the target folder; nothing was unpacked"
            )
    total = sum(member.size for member in members)
    if total > cap or len(members) > MAX_FILES:
        raise GenreUtilsError(
            f"{archive}: {len(members)} files of {total / 1e9:.1f} GB, more than the "
            f"{cap / 1e9:.1f} GB that this archive can hold; nothing was unpacked"
        )


def _archives_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _write(member: Member, folder: Path) -> tuple[int, int]:
    """Write a member unless it is there; its size and CRC-32."""
    path = folder / member.name
    if _archives_size(path) == member.size:
        with path.open("rb") as stream:
            return member.size, crc32(stream)
    part = path.with_name(f"{path.name}.part")
    check = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as stream, part.open("wb", buffering=0) as out:
            while chunk := stream.read(CHUNK):
                check = zlib.crc32(chunk, check)
                write_all(out, chunk, part)
        part.replace(path)
    except OSError as error:
        raise GenreUtilsError(f"cannot write {path}: {error.strerror or error}") from None
    return member.size, check


def crc32(stream: IO[bytes]) -> int:
    """CRC-32 of the rest of a stream."""
    check = 0
    while chunk := stream.read(CHUNK):
        check = zlib.crc32(chunk, check)
    return check


# ---- data.releases ----
RECEIPT = "download.json"


@dataclass(frozen=True)
class Release:
    """A release: loose files, and an archive of audio in one or more byte-split parts.

    ``bases`` are the addresses that files lie under, in order of preference; ``wholes`` are
    addresses of the joined archive, of which a part is a range; ``cap`` is the most that the
    audio can take unpacked, in bytes; the first of ``catalogue`` that is sound will do.
    """

    bases: tuple[str, ...]
    parts: tuple[Remote, ...]
    cap: int
    size: int
    files: tuple[Remote, ...] = ()
    wholes: tuple[str, ...] = ()
    catalogue: tuple[Remote, ...] = ()


def _file(name: str, md5: str = "", size: int | None = None, *, base: str = "") -> Remote:
    sources = (Source(base + name),) if base else ()
    return Remote(name, sources, size, md5, cap=size or 64 * 2**20)


MAGNATUNE = "http://he3.magnatune.com/info/"  # plain HTTP only: what comes is capped and checked
RELEASES = MappingProxyType(
    {
        "magnatagatune": Release(
            bases=(
                "https://mirg.city.ac.uk/datasets/magnatagatune/",
                "http://mi.soi.city.ac.uk/datasets/magnatagatune/",
                "https://huggingface.co/datasets/confit/magnatagatune/resolve/main/",
            ),
            wholes=("https://huggingface.co/datasets/confit/magnatagatune/resolve/main/mp3.zip",),
            files=(_file("clip_info_final.csv", "03ef3cb8ddcfe53fdcdb8e0cda005be2"),),
            parts=(
                _file("mp3.zip.001", "179c91c8c2a6e9b3da3d4e69d306fd3b", 1_100_000_000),
                _file("mp3.zip.002", "acf8265ff2e35c6ff22210e46457a824", 1_100_000_000),
                _file("mp3.zip.003", "582dc649cabb8cd991f09e14b99349a5", 772_769_864),
            ),
            cap=4 * 10**9,
            size=2_972_769_864,
            catalogue=tuple(
                _file(name, base=MAGNATUNE) for name in ("sqlite_normalized.db.gz", "song_info.csv")
            ),
        ),
        "gtzan": Release(
            bases=(
                "http://opihi.cs.uvic.ca/sound/",
                "https://huggingface.co/datasets/marsyas/gtzan/resolve/main/data/",
            ),
            parts=(
                replace(_file("genres.tar.gz", "5b3d6dddb579ab49814ab86dba69e7c7"), cap=2 * 10**9),
            ),
            cap=2 * 10**9,
            size=1_230_000_000,
        ),
    }
)


def download(name: str, folder: Path, mirror: str = "") -> Iterator[str]:
    """Fetch what a data set lacks and unpack it; yields a line on each step done.

    What is there and proven stays; a broken run goes on where it stopped. The archive is deleted
    when all of its audio is there, and ``download.json`` keeps each file's size and checksum.

    Parameters
    ----------
    mirror : str
        Address of a folder to try before the known ones.

    Raises
    ------
    UsageError
        Nothing to fetch for that name, or a mirror that is no web address.
    GenreUtilsError
        Something could not be fetched, proven or written; what is fetched stays.
    """
    if name not in RELEASES:
        raise UsageError(f"nothing to fetch for {name!r}: one of {', '.join(RELEASES)}")
    if mirror and not mirror.startswith(("http://", "https://")):
        raise UsageError(f"--mirror {mirror}: must start with http:// or https://")
    release = _with_mirror(RELEASES[name], mirror)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GenreUtilsError(f"cannot make {folder}: {error.strerror}; name another") from None
    receipt = read_receipt(folder)
    lacking = missing_audio(folder, receipt)
    if lacking:
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        need_space(folder, max(2 * release.size - there, 0))  # the archive, and its audio
    for one in release.files:
        fetch(one, folder)
        yield f"{one.name}: there, checksum right"
    failure = None
    if release.catalogue:
        try:
            yield f"{_fetch_catalogue(release, folder)}: there, schema right"
        except GenreUtilsError as error:
            failure = error  # the audio comes from elsewhere, and is the longer part
            yield f"catalogue: {error}"
    if lacking:
        parts = []
        for one in release.parts:
            parts.append(fetch(one, folder))
            yield f"{one.name}: there, checksum right"
        files = unpack(parts, folder, cap=release.cap)
        receipt = {"data set": name, "files": {k: list(v) for k, v in sorted(files.items())}}
        write_json(folder / RECEIPT, receipt)
    for one in release.parts:
        (folder / one.name).unlink(missing_ok=True)
    yield f"audio: {len(receipt['files'])} files there"
    if failure:
        raise failure


def _with_mirror(release: Release, mirror: str) -> Release:
    """Give each file its sources, the mirror's in front."""
    front = (mirror.rstrip("/") + "/",) if mirror else ()
    bases = front + release.bases
    wholes = tuple(f"{base}{release.parts[0].name.rpartition('.')[0]}" for base in front)
    parts, offset = [], 0
    for one in release.parts:
        sources = [Source(base + one.name) for base in bases]
        if release.wholes:
            sources += [Source(url, offset) for url in wholes + release.wholes]
            offset += one.size or 0
        parts.append(replace(one, sources=tuple(sources)))
    files = (
        replace(one, sources=tuple(Source(base + one.name) for base in bases))
        for one in release.files
    )
    catalogue = (
        replace(one, sources=tuple(Source(b + one.name) for b in front) + one.sources)
        for one in release.catalogue
    )
    return replace(release, parts=tuple(parts), files=tuple(files), catalogue=tuple(catalogue))


def _fetch_catalogue(release: Release, folder: Path) -> str:
    """Return the name of a sound catalogue; it is put in place only after a look into it."""
    with suppress(GenreUtilsError):
        return magnatagatune.album_genres(folder)[1]
    failures = []
    single = (replace(one, sources=(s,)) for one in release.catalogue for s in one.sources)
    for one in single:
        with TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
            try:
                path = fetch(one, Path(scratch))
                magnatagatune.album_genres(Path(scratch))
            except GenreUtilsError as error:
                failures.append(str(error))
                continue
            known = magnatagatune.CATALOGUES
            for unsound in known[: known.index(one.name)]:  # would be read before this one
                (folder / unsound).unlink(missing_ok=True)
            path.replace(folder / one.name)
            return one.name
    raise GenreUtilsError("; ".join(failures))


def read_receipt(folder: Path) -> dict:
    """Read what an earlier download left: ``{"files": {path: [bytes, CRC-32]}}``, or no files."""
    with suppress(OSError, ValueError):
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        if isinstance(receipt.get("files"), dict):
            return receipt
    return {"files": {}}


def missing_audio(folder: Path, receipt: dict) -> bool:
    """Whether some file of the receipt is gone or of another size, or there is no receipt."""
    files = receipt["files"]
    return not files or any(
        _releases_size(folder / path) != size for path, (size, _) in files.items()
    )


def _releases_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
