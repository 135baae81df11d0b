"""Data sets by name, each read into the same clip table, and the check of their sound files.

A clip table has one row a clip. ``status`` is "ok" or the reason why the clip is refused; refused
rows stay, so that the number of rows read equals the number used plus the number refused.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import joblib
import pandas as pd
import pooch
import yaml

from genre_utils.data import audio, inputs, magnatagatune
from genre_utils.data.download import Dataset, Release, Remote
from genre_utils.data.download import download as download_release
from genre_utils.runtime import GenreUtilsError, UsageError, check_choice, each, progress
from genre_utils.store import cache_dir, code_digest, file_digest, located, shown, write_json

LABELS = ("genre", "artist", "album", "track")
COLUMNS = ("clip_id", "path", "dataset", *LABELS, "start_s", "duration_s", "status")
# Parts of a published split -> fold; one below 0 is never tested. A clip may have none ("").
PARTS = MappingProxyType({"train": -1, "test": 0})
OUTSIDE = "path leaves the data folder"
TWICE, TWO_GENRES = "the same file as another row's", "one file under two genres"
SEPARATOR = "\x1f"  # between names that are joined; pandas would drop a NUL
SAVE_EVERY = 1000  # checked files between two writes of the kept results
FAULTS = ("missing", "wrong_checksum", "undecodable", "too_short", "silent", "outside", "row")


def load_demo(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read the corpus that `demo.make_corpus` has put there."""
    from genre_utils.data import demo  # the renderer is needed for this set alone

    return demo.load(folder), {}


DEMO = Dataset(
    name="demo",
    title="demo corpus (synthesised)",
    clips="270",
    size="190 MB",
    licence="MIT, like the code",
    citation="none: made by this package",
    needs="nothing: made on first use",
    load=load_demo,
    synthetic=True,
)
DEMO_LARGE = replace(
    DEMO, name="demo-large", title="large demo corpus (synthesised)", clips="4,941", size="3.4 GB"
)
GTZAN_GENRES = ("blues", "classical", "country", "disco", "hiphop")
GTZAN_GENRES += ("jazz", "metal", "pop", "reggae", "rock")
GTZAN_URLS = (
    "http://opihi.cs.uvic.ca/sound/genres.tar.gz",
    "https://huggingface.co/datasets/marsyas/gtzan/resolve/main/data/genres.tar.gz",
)
GTZAN_AUDIO = Remote("genres.tar.gz", GTZAN_URLS, 1_300_000_000, "5b3d6dddb579ab49814ab86dba69e7c7")


def load_gtzan(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read GTZAN (Tzanetakis and Cook 2002), ``[genres/]<genre>/<genre>.<NNNNN>.<au|wav>``.

    The archive names neither artists nor albums, so these are "" and every file is its own track:
    folds by artists' names cannot be made of it, but the published split (gtzan_split.yml) keeps
    artists apart. The 70 files that it leaves out are refused, as is the broken one; what it
    validates on trains, for nothing is tuned on it here. Wrong labels (Sturm 2012) stay.
    """
    places = ("", "genres", "genres_original", "Data/genres_original")
    root = next((folder / p for p in places if (folder / p / GTZAN_GENRES[0]).is_dir()), None)
    if root is None:
        what = f"{folder}: no GTZAN here, that is genres/blues/blues.00000.au or .wav"
        raise GenreUtilsError(f"{what}; `python -m genre_utils datasets download gtzan` fetches it")
    found, passed = inputs.below(root)
    rows = [
        (shown(path.stem), shown(path.relative_to(folder).as_posix()), genre, why or "ok")
        for path, why in found.items()
        if (genre := "".join(path.relative_to(root).parts[:1])) in GTZAN_GENRES
    ]
    passed["outside the genres' folders"] = len(found) - len(rows)
    clips = pd.DataFrame(rows, columns=["clip_id", "path", "genre", "status"])
    if clips.empty:
        raise GenreUtilsError(f"{root}: no .au or .wav files in the genres' folders")
    split = yaml.safe_load(Path(__file__).with_name("gtzan_split.yml").read_text(encoding="utf-8"))
    part = {name: part for part, names in split.items() for name in names.split()}
    part = clips["clip_id"].map(part).replace("validation", "train").fillna("")
    gone = (part == "left out") & (clips["status"] == "ok")
    clips.loc[gone, "status"] = "left out by the published split"
    clips = clips.assign(artist="", album="", track=clips["clip_id"], start_s=float("nan"))
    clips["part"] = part.replace("left out", "")
    for clip_id in clips.loc[clips["clip_id"].duplicated(), "clip_id"]:
        raise GenreUtilsError(f"{root}: {clip_id} stands there twice; keep one of them")
    clips.loc[clips["path"].str.endswith(GTZAN.known_bad), "status"] = "known broken file"
    report = {"files": len(clips), "artists": "not in the archive", "faults": "Sturm 2012"}
    return clips, report | {"passed_over": dict(+passed)}


GTZAN = Dataset(
    name="gtzan",
    title="GTZAN",
    clips="1,000",
    size="1.2 GB to fetch, 1.3 GB unpacked",
    licence="none stated; research use",
    citation="G. Tzanetakis and P. Cook: Musical Genre Classification of Audio Signals. IEEE "
    "Trans. Speech and Audio Processing 10(5), 2002; its faults: B. L. Sturm, MIRUM 2012",
    needs="a folder: genres/<genre>/<genre>.<number>.au or .wav; no artists named",
    load=load_gtzan,
    known_bad=("jazz.00054.au", "jazz.00054.wav"),  # by copy of the release
    release=Release((GTZAN_AUDIO,), audio="*.au", n_audio=1000, cap=2 * 10**9),
)


def load_folder(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Read ``<genre>/**/*.<sound>``; artist, album and title come from the files' tags.

    A file without a title is a track of its own, named by its path; an unknown artist or album
    is "". What is not called like sound, and what is hidden, is passed over and counted.
    """
    found, passed = inputs.below(folder)
    if not found:
        others = inputs.and_passed(passed)
        raise GenreUtilsError(f"{folder}: no sound files; put them in {folder}/<genre>/{others}")
    rows, damaged = [], []
    for path, why in found.items():
        name = shown(path.relative_to(folder).as_posix())
        genre = name.rpartition("/")[0].partition("/")[0]
        tags = {} if why else inputs.tags(path)
        damaged += [name] * (tags is None)
        why = why or ("ok" if genre else "not in a folder of a genre")
        rows.append({"path": name, "genre": genre, "status": why, **(tags or {})})
    clips = pd.DataFrame(rows, columns=["path", "status", *LABELS]).fillna("")
    clips["track"] = clips["track"].where(clips["track"] != "", clips["path"])
    report = {"files": len(rows), "passed_over": dict(passed), "tags_unreadable": damaged}
    return clips.assign(clip_id=clips["path"], start_s=float("nan")), report


def load_csv(folder: Path, *, manifest: str = "") -> tuple[pd.DataFrame, dict]:
    """Read a manifest: path, genre, and where there are such columns artist, album, track, part.

    ``manifest`` is a file in the folder (see `inputs.read_rows`); "": the one table there with both
    columns. Paths are relative to the folder. A column ``albumartist`` goes before ``artist``.
    GenreUtilsError: a part (of a published split) that is none of `PARTS`, in any spelling.
    """
    path = folder / manifest
    if not manifest:
        manifests, others = [], []
        for path in sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")]):
            try:
                inputs.read_rows(path, ("path", "genre"))
                manifests.append(path)
            except GenreUtilsError as error:
                others.append(str(error))
        if len(manifests) != 1:
            names = ", ".join(path.name for path in manifests) or "none"
            why = f" ({others[0]})" if others and not manifests else ""
            what = "one .csv or .tsv with the columns path and genre is needed, found"
            raise UsageError(f"{folder}: {what} {names}{why}; name the file itself as --data-dir")
        (path,) = manifests
    rows, how = inputs.read_rows(path, ("path", "genre"), (*LABELS, "albumartist", "part"))
    text = rows.reindex(columns=["path", "albumartist", *LABELS, "part"], fill_value="")
    text = text.map(lambda field: shown(field.strip()))
    text = text.assign(part=text["part"].map(inputs.same))
    for line in text.index[~text["part"].isin(["", *PARTS])]:
        what = f"line {line}, {text['path'][line]}: part {rows['part'][line]!r}"
        raise GenreUtilsError(f"{path}: {what}; train, test or nothing is allowed")
    who = map(inputs.somebody, text["albumartist"], text["artist"])
    where = [inputs.below_folder(folder, p) if p else "" for p in text["path"]]
    clips = text.assign(artist=list(who), path=where, status=rows["fault"]).astype(str)
    clips["track"] = clips["track"].where(clips["track"] != "", clips["path"])
    why = clips["path"].map(lambda path: "ok" if path else "no path")
    clips["status"] = clips["status"].where(clips["status"] != "", why)
    again = (clips["path"] == "") | clips["path"].duplicated()
    line = clips["path"].str.cat("line " + clips.index.astype(str), sep=" ").str.strip()
    clips = clips.assign(clip_id=clips["path"].where(~again, line), start_s=float("nan"))
    unknown = sorted(set(rows) - {*text, "fault"})
    report = {"manifest": path.name, "rows": len(rows), "columns_not_used": unknown, **how}
    return clips.reset_index(drop=True), report


FOLDER = Dataset(
    name="folder",
    title="a folder of sound files",
    needs="a folder: <genre>/**/*.wav, .flac, .ogg, .mp3, .au ...; tags give artists",
    load=load_folder,
)
CSV = Dataset(
    name="csv",
    title="a manifest",
    needs="a CSV beside its files, or the folder: path, genre[, artist, album, track, part]",
    load=load_csv,
    options=("manifest",),
)
DATASETS = MappingProxyType(
    {x.name: x for x in (DEMO, DEMO_LARGE, magnatagatune.DATASET, GTZAN, FOLDER, CSV)}
)


def get(name: str) -> Dataset:
    """Return the data set of that name, or raise UsageError with the names there are."""
    check_choice("data set", name, DATASETS)
    return DATASETS[name]


def download(name: str, folder: Path, mirror: str = "") -> Iterator[str]:
    """See `download.download`; UsageError where nothing can be fetched for that name."""
    if not (release := get(name).release):
        names = ", ".join(key for key, dataset in DATASETS.items() if dataset.release)
        raise UsageError(f"nothing to fetch for {name!r}: one of {names}")
    return download_release(release, folder, mirror)


def data_folder(name: str, data_dir: str | Path | None = None, *, jobs: int = 1) -> Path:
    """Folder of a data set's files, or of its manifest; the demo corpus is made on first use.

    Without ``data_dir`` it lies in the cache; UsageError for any other set.
    """
    dataset = get(name)
    folder = Path(data_dir or cache_dir() / "data" / name)
    if dataset.synthetic:
        from genre_utils.data import demo

        demo.make_corpus(folder, jobs=jobs, **(demo.LARGE if dataset is DEMO_LARGE else {}))
    elif not data_dir:
        raise UsageError(f"data set {name} needs --data-dir DIR: {dataset.needs}")
    elif "manifest" in dataset.options and folder.is_file():
        folder = folder.parent
    elif not folder.is_dir():
        raise UsageError(f"--data-dir {data_dir} is not a folder; {name} needs {dataset.needs}")
    return folder


def read_table(
    name: str, data_dir: str | Path | None = None, *, jobs: int = 1, **options: object
) -> tuple[Dataset, Path, pd.DataFrame, dict]:
    """Read a data set: itself, the folder of its paths, clips with unchecked audio, counts.

    The clips have all `COLUMNS`, and ``part`` if one has any. Refused are a path out of the folder
    and of two rows of a file the second, or both if their genres differ: ``rows_refused``.
    Spellings of a name are ``merged``.
    """
    dataset = get(name)
    if unknown := sorted(set(options) - set(dataset.options)):
        raise UsageError(f"data set {name} has no option {', '.join(unknown)}")
    folder = data_folder(name, data_dir, jobs=jobs)
    if "manifest" in dataset.options and Path(data_dir or "").is_file():
        options = {"manifest": Path(data_dir or "").name, **options}
    clips, report = dataset.load(folder, **options)
    parted = ["part"] * bool(clips.filter(["part"]).ne("").any(axis=None))
    clips = clips.assign(dataset=name).reindex(columns=[*COLUMNS, *parted])
    clips = clips.sort_values("clip_id", ignore_index=True).astype({"duration_s": float})
    merged: dict[str, dict[str, str]] = {}
    clips["artist"] = clips["artist"].map(inputs.somebody)
    for field in ("genre", "artist"):
        clips[field], merged[field] = inputs.merge(clips[field])
    clips.loc[(clips["genre"] == "") & (clips["status"] == "ok"), "status"] = "no genre"
    clips.loc[clips["path"].map(inputs.leaves).astype(bool), "status"] = OUTSIDE
    ok = clips[clips["status"] == "ok"]
    file = ok["path"].map(lambda path: os.path.realpath(located(folder, path)))
    torn = ok["genre"].groupby(file).transform("nunique") > 1
    clips.loc[ok.index[file.duplicated()], "status"] = TWICE
    clips.loc[ok.index[torn], "status"] = TWO_GENRES
    refused = clips[(clips["path"] == "") | clips["status"].isin((TWICE, TWO_GENRES))]
    rows_refused = dict(zip(refused["clip_id"], refused["status"], strict=True))
    return dataset, folder, clips, report | {"rows_refused": rows_refused, "merged": merged}


def remarks(report: dict) -> list[str]:
    """Say in a line each what of a data set's counts its user should know; often nothing."""
    lines = {
        "table": [report.get("read_as", "")],
        "rows refused": [f"{row}: {why}" for row, why in report["rows_refused"].items()],
        "files": [inputs.and_passed(report.get("passed_over", {}), "")],
        "tags that cannot be read": report.get("tags_unreadable", []),
    }
    for field, spellings in report["merged"].items():
        said = [f"{old!r} is {new!r}" for old, new in spellings.items()]
        lines[f"spellings of one {field}"] = said
    more = {what: f" and {len(some) - 5} more" * (len(some) > 5) for what, some in lines.items()}
    return [f"{what}: {', '.join(s[:5])}{more[what]}" for what, s in lines.items() if any(s)]


def load_clips(
    name: str,
    data_dir: str | Path | None = None,
    *,
    jobs: int = 1,
    max_per_genre: int = 0,
    seed: int = 0,
    **options: object,
) -> tuple[pd.DataFrame, dict]:
    """Read a data set and check the audio of each clip that is to be used.

    ``data_dir`` is as in `data_folder`, ``jobs`` files are checked at a time, ``options`` are
    `Dataset.options`. At most ``max_per_genre`` clips of each genre are used (549: the authors'
    poster; 0: all), chosen by `spread` with ``seed``; a genre with fewer is reported. Returns the
    clips, with the columns `COLUMNS` and sorted by clip_id (``duration_s`` is what could be
    decoded, or NaN), and JSON-able counts: the loader's own, and what became of the rows.
    UsageError: an unknown name or option, a senseless value. GenreUtilsError: missing or damaged
    files, or no usable clip.
    """
    if max_per_genre < 0:
        raise UsageError(f"max_per_genre={max_per_genre}: at least 1, or 0 for all clips")
    dataset, folder, clips, loaded = read_table(name, data_dir, jobs=jobs, **options)
    audio_refused = check_audio(clips, folder, most=max_per_genre, seed=seed, jobs=jobs)
    refused, sizes = clips.loc[clips["status"] != "ok", "status"], _sizes(clips)
    if len(refused) == len(clips):
        first = "".join(f"; first: {clips['path'][i]}: {refused[i]}" for i in refused.index[:1])
        raise GenreUtilsError(f"{folder}: none of {len(clips)} clips can be used{first}")
    used = set(clips["path"].drop(refused.index))
    damaged = [path for path in loaded.get("tags_unreadable", ()) if path in used]
    return clips, {
        "dataset": name,
        "synthetic": dataset.synthetic,
        **loaded,
        "tags_unreadable": damaged,
        "clips_ok": len(clips) - len(refused),
        "clips_refused": refused.value_counts().to_dict(),
        "genres": sizes.to_dict("index"),
        "max_per_genre": max_per_genre or None,
        "genres_under_max": sizes.loc[sizes["clips"] < max_per_genre, "clips"].to_dict(),
        "audio_refused": audio_refused,
    }


def _sizes(clips: pd.DataFrame) -> pd.DataFrame:
    """Usable clips and known artists of each genre."""
    ok = clips[clips["status"] == "ok"]
    known = ok.assign(artist=ok["artist"].where(ok["artist"] != ""))
    return known.groupby("genre").agg(clips=("genre", "size"), artists=("artist", "nunique"))


def spread(clips: pd.DataFrame, seed: int = 0) -> pd.Series:
    """Rank the clips of each genre, from 0, so that the first N are spread over its artists.

    Turns go round the artists, then their albums, then the tracks. Who is first, SHA-256 of seed
    and name decides: the same on every machine, and unmoved by what else is in the table.
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
    clips: pd.DataFrame, folder: Path, *, most: int = 0, seed: int = 0, jobs: int = 1
) -> dict[str, str]:
    """Check "ok" rows of ``clips`` in place, ``most`` a genre; return path -> why it is refused."""
    order = spread(clips, seed).sort_values(kind="stable").index if most else clips.index
    checked = clips.index[:0]
    while True:
        usable = clips.loc[order].query("status == 'ok'")
        chosen = usable.groupby("genre").head(most or len(clips))
        todo = chosen.index.difference(checked)
        if todo.empty:
            break
        results = check_files([located(folder, path) for path in clips.loc[todo, "path"]], jobs)
        clips.loc[todo, "duration_s"] = [round(duration, 3) for duration, _ in results]
        clips.loc[todo, "status"] = [status for _, status in results]
        checked = checked.union(todo)
    clips.loc[usable.index.difference(chosen.index), "status"] = f"not chosen: {most} a genre asked"
    refused = clips.loc[checked].query("status != 'ok'")
    return dict(zip(refused["path"], refused["status"], strict=True))


def check_files(paths: Sequence[Path], jobs: int) -> list[tuple[float, str]]:
    """`audio.check` for each file; results are kept by content: no file is decoded twice."""
    store = cache_dir() / f"audio-checks-{code_digest(audio)}.json"
    kept: dict[str, tuple[float, str]] = {}
    with suppress(OSError, ValueError, AttributeError, TypeError):
        content = json.loads(store.read_text(encoding="utf-8"))
        kept = {key: (float(duration), str(status)) for key, (duration, status) in content.items()}
    digests = _digests(paths, jobs, digest_if_readable)
    new = {key: path for key, path in zip(digests, paths, strict=True) if key and key not in kept}
    todo = list(new)
    for part in (todo[i : i + SAVE_EVERY] for i in range(0, len(todo), SAVE_EVERY)):
        # In processes: decoding redirects descriptor 2, which all threads of a process share.
        kept |= zip(part, _checked([new[key] for key in part], jobs), strict=True)
        with suppress(GenreUtilsError):  # where nothing can be kept, they are checked each time
            write_json(store, kept)
    return [
        kept[key] if key else (math.nan, inputs.unreadable(path) or "cannot be read")
        for key, path in zip(digests, paths, strict=True)
    ]


def _checked(paths: list[Path], jobs: int) -> list[tuple[float, str]]:
    """Check files; one whose decoder ends the worker process is found by halving, and refused."""
    try:
        tasks = [(path,) for path in paths]
        return each(audio.check, tasks, jobs=jobs, desc="audio check", unit="file")
    except GenreUtilsError:
        if len(paths) < 2:
            return [(math.nan, "cannot be decoded: it ends the decoder's process")] * len(paths)
        half = len(paths) // 2
        return _checked(paths[:half], jobs) + _checked(paths[half:], jobs)


def digest_if_readable(path: Path) -> str:
    """SHA-256 of a file, or ""."""
    with suppress(OSError):
        return "" if inputs.unreadable(path) else file_digest(path)
    return ""


def _digests(paths: Sequence[Path], jobs: int, digest: Callable[[Path], str]) -> list[str]:
    work = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    digests = work(joblib.delayed(digest)(path) for path in paths)
    return list(progress(digests, "audio digests", len(paths), "file"))


def audio_digests(clips: pd.DataFrame, folder: Path, *, jobs: int = 1) -> dict[str, str]:
    """SHA-256 of the file of each clip that is "ok", ``{clip_id: digest}``."""
    ok = clips[clips["status"] == "ok"]
    digests = _digests([located(folder, path) for path in ok["path"]], jobs, file_digest)
    return dict(zip(ok["clip_id"], digests, strict=True))


def leave_out_small_genres(clips: pd.DataFrame, n_folds: int, min_artists: int) -> pd.DataFrame:
    """Refuse genres that are too small to be tested in each fold; returns a copy.

    They need ``n_folds`` usable clips and, if artists are known at all, ``min_artists`` artists.
    """
    sizes, reasons = _sizes(clips), {}
    needed = {"clips": n_folds, "artists": min_artists * sizes["artists"].any()}
    for what, least in reversed(needed.items()):  # the clips have the last word
        for genre, n in sizes.loc[sizes[what] < least, what].items():
            unit = what.removesuffix("s" * (n == 1))
            reasons[genre] = f"genre left out: {n} {unit}, {least} needed"
    reason = clips["genre"].map(reasons).where(clips["status"] == "ok")
    return clips.assign(status=reason.fillna(clips["status"]))


def validate(name: str, data_dir: str | Path | None = None, *, jobs: int = 1) -> dict:
    """Decode every file of a data set, whatever its label, and compare the tables' checksums.

    JSON-able: ``clips`` is the number of rows; each of `FAULTS`, and ``known_bad`` (faulty in the
    release itself), has its files and why; ``notes``: tables of another version; ``ok``: no fault.
    """
    dataset, folder, clips, report = read_table(name, data_dir, jobs=jobs)
    faults: dict[str, dict[str, str]] = {kind: {} for kind in (*FAULTS, "known_bad")}
    faults["row"] = report["rows_refused"]
    whole = clips[~clips["clip_id"].isin(faults["row"])]
    inside = whole["status"] != OUTSIDE
    faults["outside"] = dict.fromkeys(whole.loc[~inside, "path"], OUTSIDE)
    paths = whole.loc[inside, "path"].tolist()
    found = [located(folder, path) for path in paths]
    for path, file, (duration, status) in zip(paths, found, check_files(found, jobs), strict=True):
        if status == "ok":
            continue
        kind = "silent" if status == "silent" else "too_short"
        if math.isnan(duration):
            kind = "missing" if inputs.unreadable(file) else "undecodable"
        if path.endswith(dataset.known_bad):
            kind = "known_bad"
        faults[kind][path] = status
    released = {folder / t.name: t.md5 for t in getattr(dataset.release, "tables", ())}
    tables = [
        path.name
        for path, md5 in released.items()
        if path.is_file() and pooch.file_hash(str(path), alg="md5") != md5
    ]
    notes = [f"{table} is not the release's: an excerpt or another version" for table in tables]
    if notes and len(clips) >= dataset.release.n_audio:
        faults["wrong_checksum"], notes = dict.fromkeys(tables, "not as released"), []
    return {
        "dataset": name,
        "folder": str(folder),
        "clips": len(clips),
        **faults,
        "notes": notes + remarks(report | {"rows_refused": {}}),
        "ok": not any(faults[kind] for kind in FAULTS),
    }
