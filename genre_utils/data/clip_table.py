"""The clip table: its columns, the choice of clips, the audio check.

One row a clip. ``status`` is "ok" or the reason why the clip is refused; refused rows stay, so
that what went in equals what is used plus what is listed.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import joblib
import pandas as pd

from genre_utils.extraction import audio
from genre_utils.progress import progress
from genre_utils.store import cache_dir, code_version, file_digest, write_json

COLUMNS = ("clip_id", "path", "dataset", "genre", "artist", "album", "track", "start_s",
           "duration_s", "status")  # fmt: skip
OUTSIDE = "path leaves the data folder"
SEPARATOR = "\x1f"  # between names that are joined; pandas would drop a NUL
SAVE_EVERY = 1000  # checked files between two writes of the kept results


def completed(clips: pd.DataFrame, name: str) -> pd.DataFrame:
    """All columns in order, rows by clip_id, and no path that leaves the data folder."""
    clips = clips.assign(dataset=name)
    clips = clips.reindex(columns=list(COLUMNS)).sort_values("clip_id", ignore_index=True)
    clips["duration_s"] = clips["duration_s"].astype(float)
    paths = clips["path"].map(PurePosixPath)
    outside = paths.map(lambda path: path.is_absolute() or ".." in path.parts).astype(bool)
    clips.loc[outside, "status"] = OUTSIDE
    return clips


def spread(clips: pd.DataFrame, seed: int = 0) -> pd.Series:
    """Rank the clips of each genre so that the first N are spread over its artists.

    Turns go round the artists, within an artist round the albums, within an album round the
    tracks. Chance decides who is first, by SHA-256 of seed and name: the same on every machine,
    and unmoved by what else is in the table.

    Returns
    -------
    pd.Series [dtype=int]
        0 is the first of its genre.
    """
    levels = ["genre", "artist", "album", "track", "clip_id"]
    rank = pd.Series(0, index=clips.index)
    for depth in range(len(levels) - 1, 0, -1):
        names = clips["genre"].str.cat(clips[levels[1 : depth + 1]], sep=SEPARATOR)
        keys = {
            n: hashlib.sha256(f"{seed}{SEPARATOR}{n}".encode()).digest() for n in names.unique()
        }
        order = pd.DataFrame({"rank": rank, "key": names.map(keys)}).sort_values(["rank", "key"])
        groups = [clips.loc[order.index, level] for level in levels[:depth]]
        rank = rank.loc[order.index].groupby(groups).cumcount().reindex(clips.index)
    return rank


def check_audio(
    clips: pd.DataFrame, folder: Path, *, most: int | None = None, seed: int = 0, jobs: int = 1
) -> dict[str, str]:
    """Check the files of rows that are "ok", ``most`` a genre; a refused one gives way to the next.

    Changes ``clips`` in place and returns the refused files' reasons by path.
    """
    order = clips.index if most is None else spread(clips, seed).sort_values(kind="stable").index
    checked = pd.Series(False, index=clips.index)
    while True:
        usable = clips.loc[order[clips.loc[order, "status"] == "ok"]]
        chosen = usable if most is None else usable.groupby("genre").head(most)
        todo = sorted(chosen.index[~checked[chosen.index]])
        if not todo:
            break
        results = check_files([folder / path for path in clips.loc[todo, "path"]], jobs)
        clips.loc[todo, "duration_s"] = [round(duration, 3) for duration, _ in results]
        clips.loc[todo, "status"] = [status for _, status in results]
        checked[todo] = True
    clips.loc[usable.index.difference(chosen.index), "status"] = f"not chosen: {most} a genre asked"
    bad = clips[checked & (clips["status"] != "ok")]
    return dict(zip(bad["path"], bad["status"], strict=True))


def check_files(paths: Sequence[Path], jobs: int) -> list[tuple[float, str]]:
    """`audio.check` for each file; results are kept by content: no file is decoded twice."""
    key = f"{code_version(audio)}-{version('soundfile')}-{version('librosa')}"
    store = cache_dir() / f"audio-checks-{key}.json"
    kept: dict[str, tuple[float, str]] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(store.read_text(encoding="utf-8"))
    results, new = [], 0
    # Threads: hashing and decoding are C code that lets the others run.
    work = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    found = work(joblib.delayed(_check_file)(path, kept) for path in paths)
    for name, result in progress(found, "audio check", len(paths)):
        results.append(tuple(result))
        new += bool(name)
        if name:
            kept[name] = result
        if new == SAVE_EVERY or (new and len(results) == len(paths)):
            write_json(store, kept)
            new = 0
    return results


def _check_file(path: Path, kept: dict) -> tuple[str, tuple[float, str]]:
    """Return the result, and the name to keep it under ("" where it is kept or cannot be)."""
    try:
        name = f"{file_digest(path)}{path.suffix.lower()}"
    except OSError:
        return "", audio.check(path)
    return ("", kept[name]) if name in kept else (name, audio.check(path))
