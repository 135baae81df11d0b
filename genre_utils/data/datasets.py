"""Data sets by name, each read into the same clip table, and the check of their sound files.

A clip table has one row a clip. ``status`` is "ok" or the reason why the clip is refused; refused
rows stay, so that the number of rows read equals the number used plus the number refused.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import joblib
import mutagen
import pandas as pd
import pooch

from genre_utils.data import audio, magnatagatune
from genre_utils.data.download import Dataset, Release, Remote
from genre_utils.data.download import download as download_release
from genre_utils.runtime import GenreUtilsError, UsageError, each, progress
from genre_utils.store import cache_dir, code_digest, file_digest, write_json

LABELS = ("genre", "artist", "album", "track")
COLUMNS = ("clip_id", "path", "dataset", *LABELS, "start_s", "duration_s", "status")
PLAIN = {"start_s": float("nan"), "status": "ok"}  # where in a track a file begins is not known
OUTSIDE = "path leaves the data folder"
SEPARATOR = "\x1f"  # between names that are joined; pandas would drop a NUL
SAVE_EVERY = 1000  # checked files between two writes of the kept results
FAULTS = ("missing", "wrong_checksum", "undecodable", "too_short", "silent", "outside")


def load_demo(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read the corpus that `demo.make_corpus` has put there."""
    from genre_utils.data import demo  # the renderer is needed for this set alone

    return demo.load(folder), {}


DEMO = Dataset(
    name="demo",
    title="demo corpus (synthesised)",
    clips="270",
    size="110 MB",
    licence="MIT, like the code",
    citation="none: made by this package",
    needs="nothing: made on first use",
    load=load_demo,
    synthetic=True,
)


GTZAN_GENRES = ("blues", "classical", "country", "disco", "hiphop")
GTZAN_GENRES += ("jazz", "metal", "pop", "reggae", "rock")


def load_gtzan(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read GTZAN (Tzanetakis and Cook 2002), ``[genres/]<genre>/<genre>.<NNNNN>.<au|wav>``.

    The archive names neither artists nor albums, so these are "" and every file is its own track:
    folds by artist cannot be made of it. Of its known faults (Sturm 2012) only the broken file is
    left out here; replicas are found by `splits.find_duplicates`, wrong labels stay as they are.
    """
    places = ("", "genres", "genres_original", "Data/genres_original")
    root = next((folder / p for p in places if (folder / p / GTZAN_GENRES[0]).is_dir()), None)
    if root is None:
        raise GenreUtilsError(
            f"{folder}: no GTZAN here, that is genres/blues/blues.00000.au or .wav; "
            "`python -m genre_utils datasets download gtzan` fetches it"
        )
    rows = [
        {
            "clip_id": path.stem,
            "path": path.relative_to(folder).as_posix(),
            "genre": path.parent.name,
            "track": path.stem,
        }
        for genre in GTZAN_GENRES
        for path in sorted((root / genre).glob("[!.]*"))
        if path.suffix.lower() in audio.SOUND
    ]
    if not rows:
        raise GenreUtilsError(f"{root}: no .au or .wav files in the genres' folders")
    clips = pd.DataFrame(rows).assign(artist="", album="", **PLAIN)
    _refuse_repeated(clips, root)
    clips.loc[clips["path"].str.endswith(GTZAN.known_bad), "status"] = "known broken file"
    return clips, {"files": len(clips), "artists": "not in the archive", "faults": "Sturm 2012"}


GTZAN = Dataset(
    name="gtzan",
    title="GTZAN",
    clips="1,000",
    size="1.2 GB to fetch, 1.3 GB unpacked",
    licence="none stated; research use",
    citation="G. Tzanetakis and P. Cook: Musical Genre Classification of Audio Signals. IEEE "
    "Trans. Speech and Audio Processing 10(5), 2002; its faults: B. L. Sturm, MIRUM 2012",
    needs="a folder: genres/<genre>/<genre>.<number>.au or .wav; no artists known",
    load=load_gtzan,
    known_bad=("jazz.00054.au", "jazz.00054.wav"),  # by copy of the release
    release=Release(
        parts=(
            Remote(
                "genres.tar.gz",
                (
                    "http://opihi.cs.uvic.ca/sound/genres.tar.gz",
                    "https://huggingface.co/datasets/marsyas/gtzan/resolve/main/data/genres.tar.gz",
                ),
                cap=1_300_000_000,
                md5="5b3d6dddb579ab49814ab86dba69e7c7",
            ),
        ),
        audio="*.au",
        n_audio=1000,
        cap=2 * 10**9,
    ),
)


def load_folder(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read ``<genre>/**/*.<sound>``; artist, album and title come from the files' tags.

    A file without a title is a track of its own, named by its path; an unknown artist or album
    is "". Hidden files are passed over; files of other kinds are counted in the report.
    """
    rows, others = [], Counter()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts):
            continue
        if len(parts) < 2 or path.suffix.lower() not in audio.SOUND:
            others[path.suffix.lower() or path.name] += 1
            continue
        name = "/".join(parts)
        rows.append({"clip_id": name, "path": name, "genre": parts[0], **_tags(path, name)})
    if not rows:
        raise GenreUtilsError(f"{folder}: no sound files; put them in {folder}/<genre>/")
    report = {"files": len(rows), "files_of_other_kinds": dict(sorted(others.items()))}
    return pd.DataFrame(rows).assign(**PLAIN), report


def _tags(path: Path, name: str) -> dict[str, str]:
    """Artist, album and track of a file; a file whose tags cannot be read has none."""
    try:
        tags = getattr(mutagen.File(path, easy=True), "tags", None) or {}
    except (mutagen.MutagenError, OSError):
        tags = {}
    # a wav file has the names of ID3 itself
    artist, album = _tag(tags, "artist", "TPE1"), _tag(tags, "album", "TALB")
    return {"artist": artist, "album": album, "track": _tag(tags, "title", "TIT2") or name}


def _tag(tags: dict, *keys: str) -> str:
    for key in keys:  # what is raised differs by format
        with suppress(KeyError, IndexError, TypeError, ValueError):
            return " ".join(str(tags[key][0]).split())
    return ""


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
    if absent := [name for name in ("path", "genre") if name not in rows]:
        raise GenreUtilsError(f"{path}: no column {', '.join(absent)}; a manifest needs both")
    rows = rows.apply(lambda column: column.str.strip())
    for row in rows.index[rows["path"] == ""]:
        raise GenreUtilsError(f"{path}: line {row + 2} has no path")
    clips = rows.reindex(columns=["path", *LABELS], fill_value="")
    clips.insert(0, "clip_id", clips["path"])
    clips["track"] = clips["track"].where(clips["track"] != "", clips["path"])
    _refuse_repeated(clips, path)
    unknown = sorted(set(rows) - {"path", *LABELS})
    clips = clips.assign(**PLAIN)
    clips.loc[clips["genre"] == "", "status"] = "no genre in the manifest"
    return clips, {"manifest": path.name, "rows": len(rows), "columns_not_used": unknown}


def _only_manifest(folder: Path) -> Path:
    tables = sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")])
    manifests = [path for path in tables if {"path", "genre"} <= set(_header(path))]
    if len(manifests) != 1:
        names = ", ".join(path.name for path in manifests) or "none"
        raise UsageError(
            f"{folder}: one .csv or .tsv with the columns path and genre is needed, found {names}; "
            "name the file itself as --data-dir"
        )
    return manifests[0]


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return next(csv.reader([stream.readline()], delimiter=_separator(path)), [])


def _separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _refuse_repeated(clips: pd.DataFrame, where: Path) -> None:
    for clip_id in clips.loc[clips["clip_id"].duplicated(), "clip_id"]:
        raise GenreUtilsError(f"{where}: {clip_id} stands there twice; keep one of them")


YOURS = dict.fromkeys(("clips", "size", "licence", "citation"), "yours")
FOLDER = Dataset(
    name="folder",
    title="a folder of sound files",
    **YOURS,
    needs="a folder: <genre>/**/*.wav, .flac, .ogg, .mp3, .au ...; tags give artists",
    load=load_folder,
)
CSV = Dataset(
    name="csv",
    title="a manifest",
    **YOURS,
    needs="a CSV beside its files, or the folder: path, genre[, artist, album, track]",
    load=load_csv,
    options=("manifest",),
)
DATASETS = MappingProxyType(
    {dataset.name: dataset for dataset in (DEMO, magnatagatune.DATASET, GTZAN, FOLDER, CSV)}
)


def get(name: str) -> Dataset:
    """Return the data set of that name, or raise UsageError with the names there are."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: one of {', '.join(DATASETS)}")
    return DATASETS[name]


def download(name: str, folder: Path, mirror: str = "") -> Iterator[str]:
    """See `download.download`; UsageError where nothing can be fetched for that name."""
    if not (release := get(name).release):
        names = ", ".join(key for key, dataset in DATASETS.items() if dataset.release)
        raise UsageError(f"nothing to fetch for {name!r}: one of {names}")
    return download_release(release, folder, mirror)


def data_folder(name: str, data_dir: str | Path | None = None, *, jobs: int = 1) -> Path:
    """Folder of a data set's files; the demo corpus is made there on first use.

    Without ``data_dir`` the demo corpus lies in the cache; any other set needs it. For a manifest
    it may be the file; its folder is returned.

    Raises
    ------
    UsageError
        Unknown name, or no ``data_dir`` where one is needed.
    """
    dataset = get(name)
    if dataset.synthetic:
        from genre_utils.data import demo

        folder = Path(data_dir) if data_dir else cache_dir() / "data" / name
        demo.make_corpus(folder, jobs=jobs)
        return folder
    if not data_dir:
        raise UsageError(f"data set {name} needs --data-dir DIR: {dataset.needs}")
    if "manifest" in dataset.options and Path(data_dir).is_file():
        return Path(data_dir).parent
    if not Path(data_dir).is_dir():
        raise UsageError(f"--data-dir {data_dir} is not a folder; {name} needs {dataset.needs}")
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
    if unknown := sorted(set(options) - set(dataset.options)):
        raise UsageError(f"data set {name} has no option {', '.join(unknown)}")
    folder = data_folder(name, data_dir, jobs=jobs)
    if "manifest" in dataset.options and Path(data_dir or "").is_file():
        options = {"manifest": Path(data_dir or "").name, **options}
    clips, report = dataset.load(folder, **options)
    return dataset, folder, completed(clips, name), report


def completed(clips: pd.DataFrame, name: str) -> pd.DataFrame:
    """All columns in order, rows by clip_id, and no path that leaves the data folder."""
    clips = clips.assign(dataset=name)
    clips = clips.reindex(columns=list(COLUMNS)).sort_values("clip_id", ignore_index=True)
    clips["duration_s"] = clips["duration_s"].astype(float)
    paths = clips["path"].map(PurePosixPath)
    outside = paths.map(lambda path: path.is_absolute() or ".." in path.parts).astype(bool)
    clips.loc[outside, "status"] = OUTSIDE
    return clips


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
        Use at most so many clips of each genre (549: the authors' poster), chosen by `spread`;
        None or 0: all. A genre that has fewer keeps what it has, and is reported.
    seed : int
        Of that choice.
    **options
        The data set's own (`Dataset.options`).

    Returns
    -------
    clips : pd.DataFrame
        Columns `COLUMNS`, sorted by clip_id; ``duration_s`` is what could be decoded, in seconds,
        and NaN where nothing was.
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
    artists = ok[ok["artist"] != ""].groupby("genre")["artist"].nunique()
    sizes = {
        genre: {"clips": len(rows), "artists": int(artists.get(genre, 0))}
        for genre, rows in ok.groupby("genre")
    }
    few = {g: n["clips"] for g, n in sizes.items() if n["clips"] < (max_per_genre or 0)}
    return {
        "clips_ok": len(ok),
        "clips_refused": {k: int(n) for k, n in refused["status"].value_counts().items()},
        "genres": sizes,
        "max_per_genre": max_per_genre,
        "genres_under_max": few,
    }


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
    levels = [*LABELS, "clip_id"]
    rank = pd.Series(0, index=clips.index)
    for depth in range(len(levels) - 1, 0, -1):
        names = clips["genre"].str.cat(clips[levels[1 : depth + 1]], sep=SEPARATOR)
        keys = names.map(lambda name: hashlib.sha256(f"{seed}{SEPARATOR}{name}".encode()).digest())
        order = pd.DataFrame({"rank": rank, "key": keys}).sort_values(["rank", "key"])
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
    store = cache_dir() / f"audio-checks-{code_digest(audio)}.json"
    kept: dict[str, tuple[float, str]] = {}
    with suppress(OSError, ValueError, AttributeError, TypeError):
        content = json.loads(store.read_text(encoding="utf-8"))
        kept = {key: (float(duration), str(status)) for key, (duration, status) in content.items()}
    digests = _digests(paths, jobs, _digest_or_nothing)
    new = {key: path for key, path in zip(digests, paths, strict=True) if key and key not in kept}
    keys = list(new)
    for start in range(0, len(keys), SAVE_EVERY):
        part = keys[start : start + SAVE_EVERY]
        # In processes: decoding redirects descriptor 2, which all threads of a process share.
        tasks = [(new[key],) for key in part]
        results = each(audio.check, tasks, jobs=jobs, desc="audio check", unit="file")
        kept |= dict(zip(part, results, strict=True))
        write_json(store, kept)
    pairs = zip(digests, paths, strict=True)
    return [kept[key] if key else audio.check(path) for key, path in pairs]


def _digest_or_nothing(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return ""


def _digests(paths: Sequence[Path], jobs: int, digest: Callable[[Path], str]) -> list[str]:
    work = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    digests = work(joblib.delayed(digest)(path) for path in paths)
    return list(progress(digests, "audio digests", len(paths), "file"))


def audio_digests(clips: pd.DataFrame, folder: Path, *, jobs: int = 1) -> dict[str, str]:
    """SHA-256 of the file of each clip that is "ok", ``{clip_id: digest}``."""
    ok = clips[clips["status"] == "ok"]
    digests = _digests([folder / path for path in ok["path"]], jobs, file_digest)
    return dict(zip(ok["clip_id"], digests, strict=True))


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


def validate(name: str, data_dir: str | Path | None = None, *, jobs: int = 1) -> dict:
    """Decode every file of a data set, whatever its label, and compare the tables' checksums.

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
    dataset, folder, clips, _ = read_table(name, data_dir, jobs=jobs)
    faults: dict[str, dict[str, str]] = {kind: {} for kind in FAULTS}
    inside = clips["status"] != OUTSIDE
    faults["outside"] = dict.fromkeys(clips.loc[~inside, "path"], OUTSIDE)
    paths = clips.loc[inside, "path"].tolist()
    results = check_files([folder / path for path in paths], jobs)
    for path, (duration, status) in zip(paths, results, strict=True):
        if status != "ok":
            faults[_kind(folder / path, duration, status)][path] = status
    tables = [
        table.name
        for table in (dataset.release.tables if dataset.release else ())
        if (folder / table.name).is_file()
        and pooch.file_hash(str(folder / table.name), alg="md5") != table.md5
    ]
    notes = [f"{table} is not the release's: an excerpt or another version" for table in tables]
    if notes and len(clips) >= dataset.release.n_audio:
        faults["wrong_checksum"], notes = dict.fromkeys(tables, "not as released"), []
    known_bad = {}
    for files in faults.values():
        for path in [path for path in files if path.endswith(dataset.known_bad)]:
            known_bad[path] = files.pop(path)
    return {
        "dataset": name,
        "folder": str(folder),
        "clips": len(clips),
        **faults,
        "known_bad": known_bad,
        "notes": notes,
        "ok": not any(faults.values()),
    }


def _kind(path: Path, duration: float, status: str) -> str:
    if not path.is_file():
        return "missing"
    if duration != duration:  # NaN: nothing could be decoded
        return "undecodable"
    return "silent" if status == "silent" else "too_short"
