"""Data sets that are folders on the machine: GTZAN, a folder a genre, a manifest."""

import csv
from collections import Counter
from pathlib import Path

import mutagen
import pandas as pd

from genre_utils.errors import GenreUtilsError, UsageError

SOUND = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
TAGS = (("artist", "TPE1"), ("album", "TALB"), ("title", "TIT2"))  # wav has ID3's own names
GTZAN_GENRES = (
    "blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock",
)  # fmt: skip
GTZAN_BROKEN = ("jazz.00054.au", "jazz.00054.wav")  # by copy of the release
PLAIN = {"start_s": float("nan"), "status": "ok"}  # where in a track a file begins is not known
MANIFEST_COLUMNS = ("path", "genre")


def load_folder(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read ``<genre>/**/*.<sound>``; artist, album and title come from the files' tags.

    A file without a title is a track of its own, named by its path; an unknown artist or album
    is "". Hidden files are passed over; files of other kinds are counted in the report.
    """
    rows, others = [], Counter()
    for path in _files(folder):
        parts = path.relative_to(folder).parts
        if len(parts) < 2 or path.suffix.lower() not in SOUND:
            others[path.suffix.lower() or path.name] += 1
            continue
        name = "/".join(parts)
        rows.append({"clip_id": name, "path": name, "genre": parts[0], **_tags(path, name)})
    if not rows:
        raise GenreUtilsError(f"{folder}: no sound files; put them in {folder}/<genre>/")
    report = {"files": len(rows), "files_of_other_kinds": dict(sorted(others.items()))}
    return pd.DataFrame(rows).assign(**PLAIN), report


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        p for p in found if not any(n.startswith(".") for n in p.relative_to(folder).parts)
    )


def _tags(path: Path, name: str) -> dict[str, str]:
    """Artist, album and track of a file; a file whose tags cannot be read has none."""
    try:
        tags = getattr(mutagen.File(path, easy=True), "tags", None) or {}
    except (mutagen.MutagenError, OSError):
        tags = {}
    artist, album, title = (_first(tags, *keys) for keys in TAGS)
    return {"artist": artist, "album": album, "track": title or name}


def _first(tags: dict, *keys: str) -> str:
    for key in keys:
        try:
            return " ".join(str(tags[key][0]).split())
        except (KeyError, IndexError, TypeError, ValueError):  # what is raised differs by format
            continue
    return ""


def load_gtzan(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read GTZAN (Tzanetakis and Cook 2002), ``[genres/]<genre>/<genre>.<NNNNN>.<au|wav>``.

    The archive names neither artists nor albums, so these are "" and every file is its own track:
    folds by artist cannot be made of it. Of its known faults (Sturm 2012) only the broken file is
    left out here; replicas are found by `duplicates`, wrong labels stay as they are.
    """
    names = ("", "genres", "genres_original", "Data/genres_original")
    root = next((folder / n for n in names if (folder / n / GTZAN_GENRES[0]).is_dir()), None)
    if root is None:
        raise GenreUtilsError(
            f"{folder}: no GTZAN here, that is genres/blues/blues.00000.au or .wav; "
            "`python -m genre_utils datasets download gtzan` fetches it"
        )
    rows = []
    for path in _files(root):
        genre = path.parent.name
        if path.parent.parent == root and genre in GTZAN_GENRES and path.suffix.lower() in SOUND:
            known = {"artist": "", "album": "", "track": path.stem}
            name = path.relative_to(folder).as_posix()
            rows.append({"clip_id": path.stem, "path": name, "genre": genre, **known})
    if not rows:
        raise GenreUtilsError(f"{root}: no .au or .wav files in the genres' folders")
    clips = pd.DataFrame(rows).assign(**PLAIN)
    _refuse_repeated(clips, root)
    clips.loc[clips["path"].str.endswith(GTZAN_BROKEN), "status"] = "known broken file"
    return clips, {"files": len(clips), "artists": "not in the archive", "faults": "Sturm 2012"}


def load_csv(folder: Path, *, manifest: str = "") -> tuple[pd.DataFrame, dict]:
    """Read a manifest: path and genre, and where there are such columns artist, album, track.

    Parameters
    ----------
    folder : Path
        Where the manifest is; its paths are relative to it.
    manifest : str
        Name of the file (comma-separated, TAB-separated if it ends in .tsv, UTF-8); empty: the one
        table in the folder that has both columns.
    """
    path = folder / manifest if manifest else _only_manifest(folder)
    try:
        rows = pd.read_csv(
            path, sep=_separator(path), dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (ValueError, OSError) as error:
        why = str(error).strip().splitlines()[0][:80]
        raise GenreUtilsError(f"{path}: no table: {why}") from None
    absent = [name for name in MANIFEST_COLUMNS if name not in rows]
    if absent:
        raise GenreUtilsError(f"{path}: no column {', '.join(absent)}; a manifest needs both")
    rows = rows.apply(lambda column: column.str.strip())
    if (rows["path"] == "").any():
        line = int((rows["path"] == "").argmax()) + 2
        raise GenreUtilsError(f"{path}: line {line} has no path")
    clips = pd.DataFrame({"clip_id": rows["path"], "path": rows["path"], "genre": rows["genre"]})
    for name in ("artist", "album", "track"):
        clips[name] = rows.get(name, "")
    clips["track"] = clips["track"].where(clips["track"] != "", clips["path"])
    _refuse_repeated(clips, path)
    clips = clips.assign(**PLAIN)
    clips.loc[clips["genre"] == "", "status"] = "no genre in the manifest"
    unknown = sorted(set(rows) - {"path", "genre", "artist", "album", "track"})
    return clips, {"manifest": path.name, "rows": len(rows), "columns_not_used": unknown}


def _only_manifest(folder: Path) -> Path:
    tables = sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")])
    fit = [path for path in tables if set(MANIFEST_COLUMNS) <= set(_header(path))]
    if len(fit) != 1:
        found = ", ".join(path.name for path in fit) or "none"
        raise UsageError(
            f"{folder}: one .csv or .tsv with the columns path and genre is needed, found {found}; "
            "name the file itself as --data-dir"
        )
    return fit[0]


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return next(csv.reader([stream.readline()], delimiter=_separator(path)), [])


def _separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _refuse_repeated(clips: pd.DataFrame, where: Path) -> None:
    twice = clips.loc[clips["clip_id"].duplicated(), "clip_id"]
    if len(twice):
        raise GenreUtilsError(f"{where}: {twice.iloc[0]} stands there twice; keep one of them")
