"""Data sets by name, each read into the same clip table (see `clip_table`)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import joblib
import pandas as pd

from genre_utils.data import local_sets, magnatagatune
from genre_utils.data.clip_table import check_audio, completed
from genre_utils.errors import GenreUtilsError, UsageError
from genre_utils.progress import progress
from genre_utils.store import cache_dir, file_digest


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
    name: str, data_dir: str | Path | None = None, *,
    jobs: int = 1, max_per_genre: int | None = None, seed: int = 0, **options: object,
) -> tuple[pd.DataFrame, dict]:  # fmt: skip
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
