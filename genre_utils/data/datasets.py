"""The clip table: its columns, the choice of clips, the audio check.

One row a clip. ``status`` is "ok" or the reason why the clip is refused; refused rows stay, so
that what went in equals what is used plus what is listed.

Data sets that are folders on the machine: GTZAN, a folder a genre, a manifest.

Data sets by name, each read into the same clip table (see `clip_table`).

Whether a data folder is whole: files there, unchanged, and sound.
"""

import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import joblib
import mutagen
import pandas as pd
import pooch

from genre_utils.data import audio, magnatagatune
from genre_utils.data.download import RELEASES, crc32, read_receipt
from genre_utils.runtime import GenreUtilsError, UsageError, progress
from genre_utils.store import cache_dir, code_digest, file_digest, write_json

local_sets = sys.modules[__name__]
datasets = sys.modules[__name__]

# ---- data.clip_table ----
COLUMNS = (
    "clip_id",
    "path",
    "dataset",
    "genre",
    "artist",
    "album",
    "track",
    "start_s",
    "duration_s",
    "status",
)
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
    key = f"{code_digest(audio)}-{version('soundfile')}-{version('librosa')}"
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


# ---- data.local_sets ----
TAGS = (("artist", "TPE1"), ("album", "TALB"), ("title", "TIT2"))  # wav has ID3's own names
GTZAN_GENRES = (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
)
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
        if len(parts) < 2 or path.suffix.lower() not in audio.SOUND:
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
        if (
            path.parent.parent == root
            and genre in GTZAN_GENRES
            and path.suffix.lower() in audio.SOUND
        ):
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


# ---- data.datasets ----
@dataclass(frozen=True)
class Dataset:
    """What is known of a data set, and ``load(folder, **options) -> (clips, report)``."""

    name: str
    title: str
    clips: str
    size: str
    licence: str
    citation: str
    needs: str
    load: Callable[..., tuple[pd.DataFrame, dict]]
    options: tuple[str, ...] = ()
    known_bad: tuple[str, ...] = ()
    synthetic: bool = False


def _load_demo(folder: Path) -> tuple[pd.DataFrame, dict]:
    from genre_utils.data import demo  # the renderer is needed for this set alone

    return demo.load(folder), {}


DATASETS = MappingProxyType(
    {
        one.name: one
        for one in (
            Dataset(
                name="demo",
                title="demo corpus (synthesised)",
                clips="270",
                size="110 MB",
                licence="MIT, like the code",
                citation="none: made by this package",
                needs="nothing: made on first use",
                load=_load_demo,
                synthetic=True,
            ),
            Dataset(
                name="magnatagatune",
                title="Magnatune clips (MagnaTagATune)",
                clips="25,863",
                size="3.0 GB to fetch, 3.0 GB unpacked",
                licence="CC BY-NC-SA 3.0 (tracks 1.0)",
                citation="E. Law, K. West, M. Mandel, M. Bay and J. S. Downie: Evaluation of "
                "Algorithms Using Games: The Case of Music Tagging. ISMIR 2009",
                needs="a folder: mp3/, clip_info_final.csv, Magnatune's catalogue",
                load=magnatagatune.load,
                options=("multi_genre",),
                known_bad=magnatagatune.EMPTY_FILES,
            ),
            Dataset(
                name="gtzan",
                title="GTZAN",
                clips="1,000",
                size="1.2 GB to fetch, 1.3 GB unpacked",
                licence="none stated; research use",
                citation="G. Tzanetakis and P. Cook: Musical Genre Classification of Audio "
                "Signals. IEEE Trans. Speech and Audio Processing 10(5), 2002; its faults: "
                "B. L. Sturm, MIRUM 2012",
                needs="a folder: genres/<genre>/<genre>.<number>.au or .wav; no artists known",
                load=local_sets.load_gtzan,
                known_bad=local_sets.GTZAN_BROKEN,
            ),
            Dataset(
                name="folder",
                title="a folder of sound files",
                clips="yours",
                size="yours",
                licence="yours",
                citation="yours",
                needs="a folder: <genre>/**/*.wav, .flac, .ogg, .mp3, .au ...; tags give artists",
                load=local_sets.load_folder,
            ),
            Dataset(
                name="csv",
                title="a manifest",
                clips="yours",
                size="yours",
                licence="yours",
                citation="yours",
                needs="a CSV beside its files, or the folder: path, genre[, artist, album, track]",
                load=local_sets.load_csv,
                options=("manifest",),
            ),
        )
    }
)


def get(name: str) -> Dataset:
    """Return the data set of that name, or raise UsageError with the names there are."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: one of {', '.join(DATASETS)}")
    return DATASETS[name]


def data_folder(name: str, data_dir: str | Path | None = None, *, jobs: int = 1) -> Path:
    """Folder of a data set's files; the demo corpus is made there on first use.

    Without ``data_dir`` the demo corpus lies in the cache; any other set needs it. For a manifest
    it may be the file; its folder is returned.

    Raises
    ------
    UsageError
        Unknown name, or no ``data_dir`` where one is needed.
    """
    if get(name).synthetic:
        from genre_utils.data import demo

        folder = Path(data_dir) if data_dir else cache_dir() / "data" / name
        demo.make_corpus(folder, jobs=jobs)
        return folder
    if not data_dir:
        raise UsageError(f"data set {name} needs --data-dir DIR: {get(name).needs}")
    if "manifest" in get(name).options and Path(data_dir).is_file():
        return Path(data_dir).parent
    if not Path(data_dir).is_dir():
        needs = get(name).needs
        raise UsageError(f"--data-dir {data_dir} is not a folder; {name} needs {needs}")
    return Path(data_dir)


def read_table(
    name: str, data_dir: str | Path | None = None, *, jobs: int = 1, **options: object
) -> tuple[Dataset, Path, pd.DataFrame, dict]:
    """Read a data set's clip table without a look at the audio; arguments as `load_clips`.

    Returns
    -------
    dataset : Dataset
    folder : Path
        That the paths are relative to.
    clips : pd.DataFrame
    report : dict
        The loader's own counts.
    """
    dataset = get(name)
    unknown = sorted(set(options) - set(dataset.options))
    if unknown:
        raise UsageError(f"data set {name} has no option {', '.join(unknown)}")
    folder = data_folder(name, data_dir, jobs=jobs)
    if "manifest" in dataset.options and Path(data_dir or "").is_file():
        options = {"manifest": Path(data_dir or "").name, **options}
    clips, report = dataset.load(folder, **options)
    return dataset, folder, completed(clips, name), report


def load_clips(
    name: str,
    data_dir: str | Path | None = None,
    *,
    jobs: int = 1,
    max_per_genre: int | None = None,
    seed: int = 0,
    **options: object,
) -> tuple[pd.DataFrame, dict]:
    """Read a data set and check the audio of each clip that is to be used.

    Parameters
    ----------
    name : str
        Key of `DATASETS`.
    data_dir : str or Path, optional
        See `data_folder`.
    jobs : int
        Files checked at a time.
    max_per_genre : int, optional
        Use at most so many clips of each genre (549: the authors' poster), chosen by
        `clip_table.spread`; None or 0: all. A genre that has fewer keeps what it has, and is
        reported.
    seed : int
        Of that choice.
    **options
        The data set's own (`Dataset.options`).

    Returns
    -------
    clips : pd.DataFrame
        Columns `clip_table.COLUMNS`, sorted by clip_id; ``duration_s`` is what could be decoded,
        in seconds, and NaN where nothing was.
    report : dict
        JSON-able: the loader's own counts, and what became of the rows.

    Raises
    ------
    UsageError
        Unknown name or option, or a value that makes no sense.
    GenreUtilsError
        Files are missing or damaged, or no clip can be used.
    """
    max_per_genre = max_per_genre or None
    if max_per_genre is not None and max_per_genre < 0:
        raise UsageError(f"max_per_genre={max_per_genre}: at least 1, or 0 for all clips")
    dataset, folder, clips, loaded = read_table(name, data_dir, jobs=jobs, **options)
    refused = check_audio(clips, folder, most=max_per_genre, seed=seed, jobs=jobs)
    if not (clips["status"] == "ok").any():
        raise GenreUtilsError(
            f"{folder}: none of {len(clips)} clips can be used"
            + (f"; first: {clips['path'].iloc[0]}: {clips['status'].iloc[0]}" if len(clips) else "")
        )
    report = {"dataset": name, "synthetic": dataset.synthetic, **loaded}
    return clips, {**report, **_counts(clips, max_per_genre), "audio_refused": refused}


def _counts(clips: pd.DataFrame, max_per_genre: int | None) -> dict:
    ok, refused = clips[clips["status"] == "ok"], clips[clips["status"] != "ok"]
    by_genre = ok.groupby("genre")
    artists = ok[ok["artist"] != ""].groupby("genre")["artist"].nunique()
    sizes = {g: {"clips": len(rows), "artists": int(artists.get(g, 0))} for g, rows in by_genre}
    few = {g: n["clips"] for g, n in sizes.items() if n["clips"] < (max_per_genre or 0)}
    return {
        "clips_ok": len(ok),
        "clips_refused": {k: int(n) for k, n in refused["status"].value_counts().items()},
        "genres": sizes,
        "max_per_genre": max_per_genre,
        "genres_under_max": few,
    }


def audio_digests(clips: pd.DataFrame, folder: Path, *, jobs: int = 1) -> dict[str, str]:
    """SHA-256 of the file of each clip that is "ok", ``{clip_id: digest}``."""
    ok = clips[clips["status"] == "ok"]
    work = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    found = work(joblib.delayed(file_digest)(folder / path) for path in ok["path"])
    return dict(zip(ok["clip_id"], progress(found, "audio digests", len(ok)), strict=True))


def leave_out_small_genres(clips: pd.DataFrame, n_folds: int, min_artists: int) -> pd.DataFrame:
    """Refuse genres that are too small to be tested in each fold.

    A genre needs at least ``n_folds`` usable clips and ``min_artists`` artists. Where no artist
    at all is known (GTZAN), artists are not asked for: artist-wise folds are then impossible.

    Returns
    -------
    pd.DataFrame
        A copy in which those genres' clips have a status that gives the count.
    """
    clips = clips.copy()
    ok = clips[clips["status"] == "ok"]
    artists_known = (ok["artist"] != "").any()
    for _, rows in ok.groupby("genre"):
        artists = rows.loc[rows["artist"] != "", "artist"].nunique()
        if len(rows) < n_folds:
            reason = f"{len(rows)} clip{'s' * (len(rows) > 1)}, {n_folds} needed"
        elif artists_known and artists < min_artists:
            reason = f"{artists} artist{'s' * (artists != 1)}, {min_artists} needed"
        else:
            continue
        clips.loc[rows.index, "status"] = f"genre left out: {reason}"
    return clips


# ---- data.validation ----
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
        "dataset": name,
        "folder": str(folder),
        "clips": len(clips),
        **faults,
        "known_bad": known,
        "notes": notes,
        "ok": not any(faults.values()),
    }


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
