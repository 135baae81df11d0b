"""Whether a data folder is whole: files there, unchanged, and sound."""

from pathlib import Path

import joblib
import pooch

from genre_utils.data import datasets
from genre_utils.data.archives import crc32
from genre_utils.data.clip_table import OUTSIDE, check_files
from genre_utils.data.releases import RELEASES, read_receipt
from genre_utils.progress import progress

FAULTS = ("missing", "wrong_checksum", "undecodable", "too_short", "silent", "outside")


def validate(name: str, data_dir: str | Path | None = None, *, jobs: int = 1) -> dict:
    """Look at every file of a data set, whatever its label.

    Checksums are compared where they are known: for what ``datasets download`` fetched.

    Returns
    -------
    dict
        JSON-able. ``clips``: number of rows; for each of `FAULTS` the files and the reason;
        ``known_bad``: faulty files that are known to be so in the release; ``notes``; ``ok``: no
        fault beyond the known ones.

    Raises
    ------
    GenreUtilsError
        The clip table cannot be read.
    """
    dataset, folder, clips, _ = datasets.read_table(name, data_dir, jobs=jobs)
    inside = clips["status"] != OUTSIDE
    paths = clips.loc[inside, "path"].tolist()
    changed, notes = _checksums(name, folder, jobs)
    faults: dict[str, dict[str, str]] = {kind: {} for kind in FAULTS}
    faults["outside"] = dict.fromkeys(clips.loc[~inside, "path"], OUTSIDE)
    faults["wrong_checksum"] = dict(changed)
    results = check_files([folder / path for path in paths], jobs)
    for path, (duration, status) in zip(paths, results, strict=True):
        if status != "ok":
            faults[_kind(folder / path, duration, status)][path] = status
    known = {}
    for found in faults.values():
        for path in [p for p in found if any(p.endswith(bad) for bad in dataset.known_bad)]:
            known[path] = found.pop(path)
    return {
        "dataset": name, "folder": str(folder), "clips": len(clips), **faults,
        "known_bad": known, "notes": notes, "ok": not any(faults.values()),
    }  # fmt: skip


def _kind(path: Path, duration: float, status: str) -> str:
    if not path.is_file():
        return "missing"
    if duration != duration:  # NaN: nothing could be decoded
        return "undecodable"
    return "silent" if status == "silent" else "too_short"


def _checksums(name: str, folder: Path, jobs: int) -> tuple[dict[str, str], list[str]]:
    """Files that are not as they were released, and what could not be told."""
    released = read_receipt(folder)["files"]
    there = [path for path in released if (folder / path).is_file()]
    work = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    found = work(joblib.delayed(_size_and_crc)(folder / path) for path in there)
    pairs = zip(there, progress(found, "checksums", len(there)), strict=True)
    changed = {path: "not as released" for path, now in pairs if now != tuple(released[path])}
    tables = [one for one in RELEASES[name].files if one.md5] if name in RELEASES else []
    other = [
        one.name
        for one in tables
        if (folder / one.name).is_file()
        and pooch.file_hash(str(folder / one.name), alg="md5") != one.md5
    ]
    if released:
        return changed | dict.fromkeys(other, "not as released"), []
    notes = [f"{table} is not the release's: an excerpt or another version" for table in other]
    return changed, [*notes, "audio checksums are not known: not fetched by `datasets download`"]


def _size_and_crc(path: Path) -> tuple[int, int]:
    with path.open("rb") as stream:
        return path.stat().st_size, crc32(stream)
