"""Archives unpacked with care: nothing outside the target, nothing absurd, nothing half-written."""

import io
import re
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from genre_utils.data.download import CHUNK, need_space, write_all
from genre_utils.errors import GenreUtilsError
from genre_utils.progress import progress

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
            todo = [m.size for m in members if _size(folder / m.name) != m.size]
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


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _write(member: Member, folder: Path) -> tuple[int, int]:
    """Write a member unless it is there; its size and CRC-32."""
    path = folder / member.name
    if _size(path) == member.size:
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
