"""Releases that can be fetched: addresses, checksums, and the way from nothing to a data folder."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from genre_utils.data import magnatagatune
from genre_utils.data.archives import unpack
from genre_utils.data.download import Remote, Source, fetch, need_space
from genre_utils.errors import GenreUtilsError, UsageError
from genre_utils.store import write_json

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
                _file(name, base=MAGNATUNE)
                for name in ("sqlite_normalized.db.gz", "song_info.csv")
            ),
        ),
        "gtzan": Release(
            bases=(
                "http://opihi.cs.uvic.ca/sound/",
                "https://huggingface.co/datasets/marsyas/gtzan/resolve/main/data/",
            ),
            parts=(
                replace(
                    _file("genres.tar.gz", "5b3d6dddb579ab49814ab86dba69e7c7"), cap=2 * 10**9
                ),
            ),
            cap=2 * 10**9,
            size=1_230_000_000,
        ),
    }
)  # fmt: skip


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
    return not files or any(_size(folder / path) != size for path, (size, _) in files.items())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
