"""One file from the first mirror that has it: resumed when broken off, used only when proven.

Pooch compares the checksum, puts the file in place at once and knows when it is there already.
What pooch lacks is here: going on with a broken part (HTTP ranges), and one part of an archive as
a range of the whole.
"""

import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pooch

from genre_utils.errors import GenreUtilsError
from genre_utils.progress import progress

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
        pooch.retrieve(
            source.url, known, fname=remote.name, path=folder, downloader=downloader
        )
    )  # fmt: skip


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
