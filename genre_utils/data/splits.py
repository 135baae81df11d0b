"""Who is tested against whom: folds by protocol, and clips that are one recording.

A duplicate on the other side of a split is tested on what was trained on. GTZAN is the known case
(Sturm, MIRUM 2012), compilations are another. Duplicates have the same bytes, the same artist and
title, or the same sound; they stay in one fold under every protocol.
"""

import re
import warnings
from pathlib import Path
from types import MappingProxyType

import librosa
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from genre_utils.data import audio
from genre_utils.data.datasets import SEPARATOR
from genre_utils.runtime import GenreUtilsError, UsageError, each
from genre_utils.store import Store, cache_dir, code_digest

# On 585 real clips, 99.99 % of pairs of different tracks stay under 0.35; the same clips encoded
# anew and shifted by up to a second have a median of 0.91.
THRESHOLD = 0.7
FRAMES = {"n_fft": 8192, "hop_length": 4096, "n_chroma": 12}
MAX_LAG = 4  # frames of 0.256 s
BLOCK = 1024
CHUNK = 16


def find_duplicates(
    clips: pd.DataFrame,
    folder: Path,
    digests: dict[str, str],
    *,
    by_sound: bool = False,
    threshold: float = THRESHOLD,
    jobs: int = 1,
) -> pd.DataFrame:
    """List pairs of usable clips that are one recording, each pair once.

    Parameters
    ----------
    clips : pd.DataFrame
        Clip table.
    folder : Path
        That its paths are relative to.
    digests : dict
        SHA-256 of each usable clip's file, from `datasets.audio_digests`.
    by_sound : bool
        Compare chromagrams too: some 20 ms a clip once, and a product of all pairs.
    threshold : float
        Least correlation of two chromagrams, 0..1.

    Returns
    -------
    pd.DataFrame
        kind ("exact", "name", "sound"; the first that holds), clip_id and other_id (in this order
        in the table), similarity (correlation; 1 for exact, NaN for name), and both genres.
    """
    ok = clips[clips["status"] == "ok"].sort_values("clip_id", ignore_index=True)
    tables = [_exact(ok, digests), _same_name(ok)]
    if by_sound and len(ok):
        tables.append(_same_sound(ok, folder, digests, threshold, jobs))
    pairs = pd.concat(tables, ignore_index=True).drop_duplicates(["first", "second"])
    first, second = (ok.loc[pairs[name].astype(int)] for name in ("first", "second"))
    return pd.DataFrame(
        {
            "kind": pairs["kind"].to_numpy(),
            "clip_id": first["clip_id"].to_numpy(),
            "other_id": second["clip_id"].to_numpy(),
            "similarity": pairs["similarity"].round(3).to_numpy(),
            "genre": first["genre"].to_numpy(),
            "other_genre": second["genre"].to_numpy(),
        }
    )


def merge_groups(groups: pd.Series, clip_id: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """Join the groups that duplicates link, so that a splitter that keeps groups whole keeps them.

    Parameters
    ----------
    groups : pd.Series
        Name of each clip's group (the clip's own id under the random protocol).
    clip_id : pd.Series
        Ids on the same index.
    pairs : pd.DataFrame
        From `find_duplicates`; pairs with a clip that is not in ``clip_id`` are passed over.

    Returns
    -------
    pd.Series
        As ``groups``, linked ones under the name of the first of them.
    """
    codes, names = pd.factorize(groups)
    group_of = dict(zip(clip_id, codes, strict=True))
    known = pairs[pairs["clip_id"].isin(group_of) & pairs["other_id"].isin(group_of)]
    ends = [known[name].map(group_of).to_numpy(int) for name in ("clip_id", "other_id")]
    links = coo_array((np.ones(len(known)), ends), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    first = pd.Series(range(len(names))).groupby(component).transform("min").to_numpy()
    return pd.Series(np.asarray(names)[first[codes]], index=groups.index, name=groups.name)


def _chain(rows: pd.DataFrame, kind: str, similarity: float) -> pd.DataFrame:
    """Link the members of each group (column ``group``, ordered) to the group's first."""
    rows = rows.dropna()
    first = rows.index.to_series().groupby(rows["group"]).transform("min")
    links = first[first != first.index]
    return pd.DataFrame(
        {"kind": kind, "first": links.to_numpy(), "second": links.index, "similarity": similarity}
    )


def _exact(ok: pd.DataFrame, digests: dict[str, str]) -> pd.DataFrame:
    return _chain(pd.DataFrame({"group": ok["clip_id"].map(digests)}), "exact", 1.0)


def _same_name(ok: pd.DataFrame) -> pd.DataFrame:
    """Find the same artist and title at the same second of the track.

    Where the second is unknown, another album will do. Other clips of one track are no duplicates
    but neighbours; the track protocol is for those.
    """
    names = ok[["artist", "track"]].map(lambda name: re.sub(r"\W+", " ", name).strip().casefold())
    known = ok[(names != "").all(axis=1) & (ok["track"] != ok["path"])]
    group = names["artist"].str.cat(names["track"], sep=SEPARATOR)[known.index]
    placed = known["start_s"].notna()
    group = group.where(~placed, group + SEPARATOR + known["start_s"].astype(str))
    albums = known["album"].groupby(group).transform("nunique")
    return _chain(pd.DataFrame({"group": group[placed | (albums > 1)]}), "name", np.nan)


def _same_sound(
    ok: pd.DataFrame, folder: Path, digests: dict[str, str], threshold: float, jobs: int
) -> pd.DataFrame:
    ids = [digests[clip] for clip in ok["clip_id"]]
    prints = fingerprints([folder / path for path in ok["path"]], ids, jobs=jobs)
    pairs = pd.DataFrame(similar(prints, threshold), columns=["first", "second", "similarity"])
    tracks, _ = pd.factorize(ok["artist"].str.cat(ok[["album", "track"]], sep=SEPARATOR))
    ends = pairs[["first", "second"]].to_numpy(int)
    neighbours = tracks[ends[:, 0]] == tracks[ends[:, 1]]
    return pairs[~neighbours].assign(kind="sound")


def fingerprints(files: list[Path], ids: list[str], *, jobs: int = 1) -> np.ndarray:
    """Chromagrams of the first 20 s, 4 frames a second, shape=(n, 12, 79); kept by ``ids``."""
    key = {**FRAMES, "code": code_digest(fingerprints)}
    store = Store.make(cache_dir() / "arrays", "fingerprint", key)
    lacking = set(store.missing(ids))
    todo = list({i: path for i, path in zip(ids, files, strict=True) if i in lacking}.items())
    tasks = [(todo[i : i + CHUNK], store) for i in range(0, len(todo), CHUNK)]
    each(_chromagrams, tasks, jobs=jobs, desc="fingerprints", unit=f"x{CHUNK} clips")
    return store.load(ids)


def _chromagrams(chunk: list[tuple[str, Path]], store: Store) -> None:
    waves = [audio.load_clip(path) for _, path in chunk]
    settings = {"sr": audio.SAMPLE_RATE, "tuning": 0.0, **FRAMES}
    rows = [librosa.feature.chroma_stft(y=y, **settings) for y in waves]
    store.put([row for row, _ in chunk], np.stack(rows).astype(np.float32))


def similar(prints: np.ndarray, threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """Pairs of clips whose chromagrams correlate, the best of shifts up to a second.

    Each pitch class is taken about its mean over time: two pieces that rest on the same chord are
    alike in the mean, one recording is alike in how it moves. All pairs are compared, in blocks:
    memory grows with n, time with its square, but from a small start (4 s of one core at 5,500
    clips, where the chromagrams themselves take two minutes).

    Parameters
    ----------
    prints : np.ndarray [shape=(n, 12, t)]

    Returns
    -------
    list of (first, second, correlation)
        first < second, ordered.
    """
    best: dict[tuple[int, int], float] = {}
    n, _, t = prints.shape
    for lag in range(MAX_LAG + 1):
        late, early = _standard(prints[:, :, lag:]), _standard(prints[:, :, : t - lag])
        for start in range(0, n, BLOCK):
            values = late[start : start + BLOCK] @ early.T
            for i, j in np.argwhere(values >= threshold).tolist():
                pair = (min(start + i, j), max(start + i, j))
                if pair[0] != pair[1]:
                    best[pair] = max(best.get(pair, -1.0), float(values[i, j]))
    return sorted((first, second, value) for (first, second), value in best.items())


def _standard(prints: np.ndarray) -> np.ndarray:
    centred = (prints - prints.mean(axis=2, keepdims=True)).reshape(len(prints), -1)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)


# Protocol -> columns that make up a group. Clips of a group lie in one fold; the paper's protocol,
# "random", knows no groups (section 2.4).
PROTOCOLS = MappingProxyType(
    {
        "random": (),
        "track": ("artist", "album", "track"),
        "album": ("artist", "album"),
        "artist": ("artist",),
    }
)


COLUMNS = ["protocol", "clip_id", "genre", "group", "fold"]  # of splits.csv


def groups(clips: pd.DataFrame, protocol: str) -> pd.Series:
    """Name of each clip's group under a protocol.

    A clip without the name asked for (artist, say) is not thrown together with all others of that
    kind: it goes by the next finer name it has (album, track), at last it is a group of its own.

    Returns
    -------
    pd.Series [dtype=str]
        On the index of ``clips``.
    """
    levels = ["artist", "album", "track", "clip_id"]
    start = len(PROTOCOLS[protocol]) - 1 if PROTOCOLS[protocol] else levels.index("clip_id")
    names = clips[levels].astype(str)
    name = pd.Series("", index=clips.index)
    for i in reversed(range(start, len(levels))):
        whole = names["artist"].str.cat(names[levels[1 : i + 1]], sep=SEPARATOR)
        name = name.mask(names[levels[i]] != "", whole)
    return name


def make_splits(
    clips: pd.DataFrame,
    protocols: list[str],
    n_folds: int = 10,
    seed: int = 0,
    duplicates: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Draw the folds: every usable clip is tested once under each protocol.

    ``random`` is stratified by genre over clips (`StratifiedKFold`), the others keep groups whole
    and genres as even as that allows (`StratifiedGroupKFold`). A genre with fewer groups than
    folds is absent from some test folds; it must be present in every training part.

    Parameters
    ----------
    clips : pd.DataFrame
        A clip table; only rows with status ``ok`` take part, in any order.
    protocols : list of str
        Names from `PROTOCOLS`.
    duplicates : pd.DataFrame, optional
        Pairs from `find_duplicates`, which stay in one fold under every protocol.

    Returns
    -------
    pd.DataFrame
        protocol, clip_id, genre, group (number of the clips that stay together, duplicates
        included), fold (0 to ``n_folds - 1``).

    Raises
    ------
    UsageError
        An unknown protocol, fewer than two folds, or too few clips or groups of a genre.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown:
        raise UsageError(f"unknown protocol {unknown[0]!r}; one of {', '.join(PROTOCOLS)}")
    if n_folds < 2:
        raise UsageError(f"n_folds={n_folds}: at least 2")
    used = clips[clips["status"] == "ok"].sort_values("clip_id", ignore_index=True)
    if used.empty:
        raise UsageError("no usable clip to split; see the column status of the clip table")
    tables = []
    for protocol in protocols:
        group = groups(used, protocol)
        if duplicates is not None:
            group = merge_groups(group, used["clip_id"], duplicates)
        fold = _folds(used, group, protocol, n_folds, seed)
        number = np.unique(group, return_inverse=True)[1]
        part = used[["clip_id", "genre"]].assign(protocol=protocol, group=number, fold=fold)
        tables.append(part[COLUMNS])
    return pd.concat(tables, ignore_index=True)


def _folds(
    used: pd.DataFrame, group: pd.Series, protocol: str, n_folds: int, seed: int
) -> np.ndarray:
    _check(used["genre"], group, protocol, n_folds)
    grouped = not group.is_unique
    splitter_class = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = splitter_class(n_folds, shuffle=True, random_state=seed)
    parts = splitter.split(used, used["genre"], group if grouped else None)
    fold = np.full(len(used), -1)
    with warnings.catch_warnings():  # fewer groups than folds: allowed, see make_splits
        warnings.filterwarnings("ignore", message="The least populated class")
        for i, (_, test) in enumerate(parts):
            fold[test] = i
    for i in range(n_folds):
        untrained = set(used["genre"]) - set(used["genre"][fold != i])
        if untrained or not (fold == i).any():
            which = (
                f"genre {untrained.pop()!r} has nothing to train on" if untrained else "is empty"
            )
            raise UsageError(
                f"{protocol} protocol: fold {i} of {n_folds} {which}; use fewer folds, another "
                "seed, or leave the smallest genres out"
            )
    return fold


def _check(genre: pd.Series, group: pd.Series, protocol: str, n_folds: int) -> None:
    sizes = group.groupby(genre).nunique()
    unit = f"{protocol}s" if PROTOCOLS[protocol] else "clips"
    least = 2 if PROTOCOLS[protocol] else n_folds
    if sizes.min() < least:
        raise UsageError(
            f"{protocol} protocol: genre {sizes.idxmin()!r} has {sizes.min()} {unit}, "
            f"{least} needed; leave it out or use fewer folds"
        )
    if group.nunique() < n_folds:
        raise UsageError(
            f"{protocol} protocol: {group.nunique()} {unit} cannot fill {n_folds} folds; use fewer"
        )


def shared_groups(clips: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Share of test clips whose track, album or artist also has clips in the training folds.

    Returns
    -------
    pd.DataFrame
        protocol, group ("track", "album", "artist"), share (0..1).
    """
    rows = []
    for protocol, part in splits.groupby("protocol", sort=False):
        table = clips.merge(part[["clip_id", "fold"]], on="clip_id")
        for level in ("track", "album", "artist"):
            group = groups(table, level)
            in_group = group.groupby(group).transform("size")
            in_fold = group.groupby([group, table["fold"]]).transform("size")
            share = float((in_group > in_fold).mean())
            rows.append({"protocol": protocol, "group": level, "share": share})
    return pd.DataFrame(rows)


def use_split(path: str | Path, clips: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take up the splits.csv of another run on the same data set.

    Parameters
    ----------
    path : str or Path
        Table with the columns that `make_splits` returns.
    clips : pd.DataFrame
        The data set's clip table, with at least the clips of the file usable.

    Returns
    -------
    clips : pd.DataFrame
        A copy in which usable clips that the file does not name are refused.
    splits : pd.DataFrame
        The file.

    Raises
    ------
    UsageError
        No such file.
    GenreUtilsError
        It is no such table, or does not fit the clips: one is not there, not usable here, or of
        another genre.
    """
    splits = _read_splits(Path(path))
    rows = splits.drop_duplicates("clip_id").set_index("clip_id")
    here = clips.set_index("clip_id").reindex(rows.index)
    reason = here["status"].fillna("no such clip")
    other = (reason == "ok") & (here["genre"] != rows["genre"])
    reason = reason.mask(other, "its genre here is " + here["genre"].fillna(""))
    refused = reason[reason != "ok"]
    if len(refused):
        raise GenreUtilsError(
            f"{path}: {len(refused)} of {len(rows)} clips cannot be used here; first: "
            f"{refused.index[0]}: {refused.iloc[0]}; read the data set with the options that the "
            "split was made with"
        )
    unnamed = (clips["status"] == "ok") & ~clips["clip_id"].isin(rows.index)
    return clips.assign(status=clips["status"].mask(unnamed, "not in the split file")), splits


def _read_splits(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"no split file {path}")
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)[COLUMNS]
        rows = rows.astype({"group": int, "fold": int})
        fits = len(rows) and set(rows["protocol"]) <= set(PROTOCOLS)
    except (ValueError, KeyError, OSError):  # pandas' parser errors are ValueErrors
        fits = False
    if not fits or rows.duplicated(["protocol", "clip_id"]).any():
        raise GenreUtilsError(
            f"{path} is no split file; it is the splits.csv of a run, with the columns "
            f"{', '.join(COLUMNS)}, one row a protocol and clip"
        )
    return rows
