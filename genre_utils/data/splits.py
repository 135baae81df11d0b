"""Who is tested against whom: folds by protocol, and clips that are one recording.

A duplicate across a split is tested on what was trained on (GTZAN: Sturm, MIRUM 2012; or from
compilations). Duplicates have the same bytes, artist and title, or sound; they stay in one fold.
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
from genre_utils.data.datasets import PARTS, SEPARATOR
from genre_utils.runtime import GenreUtilsError, UsageError, each
from genre_utils.store import Store, cache_dir, code_digest, located

# On 585 real clips, 99.99 % of pairs of different tracks stay under 0.35; the same clips encoded
# anew and shifted by up to a second have a median of 0.91.
THRESHOLD = 0.7
FRAMES = {"n_fft": 8192, "hop_length": 4096, "n_chroma": 12}
MAX_LAG = 4  # frames of 0.256 s
BLOCK = 1024
CHUNK = 16

LEVELS = ["artist", "album", "track", "clip_id"]
# Protocol -> how many of `LEVELS` name a group. Clips of a group lie in one fold; under the
# paper's protocol, "random", each clip is its own group (section 2.4). Under "published" the
# clips' parts decide, and groups are kept whole in inner folds only.
PROTOCOLS = MappingProxyType({"random": 4, "track": 3, "album": 2, "artist": 1, "published": 1})
COLUMNS = ["protocol", "clip_id", "genre", "group", "fold"]  # of splits.csv


def find_duplicates(
    clips: pd.DataFrame,
    folder: Path,
    digests: dict[str, str],
    *,
    by_sound: bool = False,
    jobs: int = 1,
) -> pd.DataFrame:
    """List pairs of usable clips that are one recording, each pair once.

    The clips' paths are relative to ``folder``, ``digests`` come from `datasets.audio_digests`.
    With ``by_sound`` chromagrams are compared too: 20 ms a clip once, and a product of all pairs.
    The columns are kind ("exact", "name", "sound"; the first that holds), clip_id and other_id (as
    the table is sorted), similarity (correlation; exact: 1, name: NaN), genre and other_genre.
    """
    ok = clips[clips["status"] == "ok"].sort_values("clip_id", ignore_index=True)
    tables = [_chain(ok["clip_id"].map(digests)).assign(kind="exact", similarity=1.0)]
    tables.append(_chain(_names(ok)).assign(kind="name", similarity=np.nan))
    if by_sound and len(ok):
        files = [located(folder, path) for path in ok["path"]]
        columns = {"first": int, "second": int, "similarity": float}
        alike = similar(fingerprints(files, [digests[clip] for clip in ok["clip_id"]], jobs=jobs))
        alike = pd.DataFrame(alike, columns=list(columns)).astype(columns)
        tracks = ok["artist"].str.cat(ok[["album", "track"]], sep=SEPARATOR)
        neighbours = alike["first"].map(tracks) == alike["second"].map(tracks)
        tables.append(alike[~neighbours].assign(kind="sound"))
    pairs = pd.concat(tables, ignore_index=True).drop_duplicates(["first", "second"])
    ends = ok[["clip_id", "genre"]]
    pairs = pairs.join(ends, on="first").join(ends.add_prefix("other_"), on="second")
    pairs = pairs.rename(columns={"other_clip_id": "other_id"}).round({"similarity": 3})
    names = ["kind", "clip_id", "other_id", "similarity", "genre", "other_genre"]
    return pairs[names].reset_index(drop=True)


def _chain(group: pd.Series) -> pd.DataFrame:
    """Link the members of each group (by place in the table) to the group's first."""
    group = group.dropna()
    first = group.index.to_series().groupby(group).transform("min")
    links = first[first != first.index]
    return pd.DataFrame({"first": links.to_numpy(int), "second": links.index.to_numpy(int)})


def _names(ok: pd.DataFrame) -> pd.Series:
    """Name artist, title and second of the track; clips of the same name are duplicates.

    Where the second is unknown, another album will do. Other clips of a track are only neighbours.
    """
    names = ok[["artist", "track"]].map(lambda name: re.sub(r"\W+", " ", name).strip().casefold())
    known = ok[(names != "").all(axis=1) & (ok["track"] != ok["path"])]
    group = names["artist"].str.cat(names["track"], sep=SEPARATOR)[known.index]
    placed = known["start_s"].notna()
    group = group.mask(placed, group + SEPARATOR + known["start_s"].astype(str))
    return group[placed | (known["album"].groupby(group).transform("nunique") > 1)]


def fingerprints(files: list[Path], ids: list[str], *, jobs: int = 1) -> np.ndarray:
    """Chromagrams of the first 20 s, 4 frames a second, shape=(n, 12, 79); kept by ``ids``."""
    key = {**FRAMES, "code": code_digest(fingerprints)}
    store = Store.make(cache_dir() / "arrays", "fingerprint", key)
    file_of = dict(zip(ids, files, strict=True))
    todo = store.missing(ids)
    chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
    tasks = [(chunk, [file_of[i] for i in chunk], store) for chunk in chunks]
    each(_chromagrams, tasks, jobs=jobs, desc="fingerprints", unit=f"x{CHUNK} clips")
    return store.load(ids)


def _chromagrams(ids: list[str], files: list[Path], store: Store) -> None:
    settings = {"sr": audio.SAMPLE_RATE, "tuning": 0.0, **FRAMES}
    rows = [librosa.feature.chroma_stft(y=audio.load_clip(path), **settings) for path in files]
    store.put(ids, np.stack(rows).astype(np.float32))


def similar(prints: np.ndarray, threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """Pairs of chromagrams, shape=(n, 12, t), that correlate, the best of shifts up to a second.

    Each pitch class is taken about its mean over time: pieces that rest on the same chord are alike
    in the mean, one recording is alike in how it moves. All pairs are compared, in blocks: memory
    grows with n, time with its square (5,500 clips: 4 s of one core, after two minutes for their
    chromagrams). Returns (first, second, correlation) with first < second, ordered.
    """
    best: dict[tuple[int, int], float] = {}
    n, _, t = prints.shape
    for lag in range(MAX_LAG + 1):
        late, early = _standard(prints[:, :, lag:]), _standard(prints[:, :, : t - lag])
        for start in range(0, n, BLOCK):
            values = late[start : start + BLOCK] @ early.T
            for i, j in np.argwhere(values >= threshold).tolist():
                pair = (min(start + i, j), max(start + i, j))
                best[pair] = max(best.get(pair, -1.0), float(values[i, j]))
    return sorted((i, j, value) for (i, j), value in best.items() if i < j)


def _standard(prints: np.ndarray) -> np.ndarray:
    centred = (prints - prints.mean(axis=2, keepdims=True)).reshape(len(prints), -1)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)


def named(clips: pd.DataFrame) -> pd.DataFrame:
    """Artist, album and track of each clip, NaN where unknown; its file's name is no track."""
    names = clips[LEVELS[:3]].replace("", np.nan)
    own = clips.filter(["clip_id", "path"]).eq(clips["track"], axis=0).any(axis=1)
    return names.assign(track=names["track"].mask(own))


def left_out(clips: pd.DataFrame) -> dict[str, str]:
    """Protocols, and oracles, that a table does not allow: ``{"artist": "artists unknown"}``."""
    nowhere = named(clips).isna().all()
    return {level: f"{level}s unknown" for level in nowhere.index[nowhere]}


def unknown(clips: pd.DataFrame) -> dict[str, int]:
    """Count the clips whose artist, album or track is unknown; names that all have are left out."""
    counts = named(clips).isna().sum()
    return counts[counts > 0].to_dict()


def note(clips: pd.DataFrame) -> str:
    """Say which names are unknown and what follows from that; "" where all are known."""
    none, some = left_out(clips), unknown(clips)
    said = [f"{', '.join(f'{level}s' for level in none)} unknown: no such folds or oracles"]
    said = said * bool(none) + ["intervals too narrow"] * ("artist" in none)
    some = [f"{level} of {n:,}" for level, n in some.items() if level not in none]
    return "; ".join(said + [f"{', '.join(some)} of {len(clips):,} clips unknown"] * bool(some))


def groups(clips: pd.DataFrame, protocol: str) -> pd.Series:
    """Name of each clip's group under a protocol, on the index of ``clips``.

    A clip without the name asked for (artist, say) is not thrown together with all others of that
    kind: it goes by the next finer name it has (album, track), at last it is a group of its own.
    """
    names = clips[LEVELS].astype(str)
    group = pd.Series("", index=clips.index)
    for depth in range(len(LEVELS), PROTOCOLS[protocol] - 1, -1):
        whole = names["artist"].str.cat(names[LEVELS[1:depth]], sep=SEPARATOR)
        group = group.mask(names[LEVELS[depth - 1]] != "", whole)
    return group


def merge_groups(group: pd.Series, clip_id: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """Join the groups that duplicates link, so that a splitter that keeps groups whole keeps them.

    ``group`` and ``clip_id`` share an index; ``pairs`` come from `find_duplicates`, and one with a
    clip that is not in ``clip_id`` is passed over. Linked groups take the name of their first.
    """
    codes, names = pd.factorize(group)
    group_of = dict(zip(clip_id, codes, strict=True))
    known = pairs[pairs["clip_id"].isin(group_of) & pairs["other_id"].isin(group_of)]
    ends = [known[name].map(group_of).to_numpy(int) for name in ("clip_id", "other_id")]
    links = coo_array((np.ones(len(known)), ends), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    return group.groupby(component[codes], sort=False).transform("first")


def make_splits(
    clips: pd.DataFrame,
    protocols: list[str],
    n_folds: int = 10,
    seed: int = 0,
    duplicates: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Draw the folds: every usable clip is tested once under each protocol but ``published``.

    ``random`` is stratified by genre over clips (`StratifiedKFold`), the others keep groups whole
    and genres as even as that allows (`StratifiedGroupKFold`). A genre with fewer groups than folds
    is absent from some test folds, but in every training part. The pairs ``duplicates``
    (`find_duplicates`) stay in one fold. ``published`` draws nothing: a clip's ``part`` gives its
    fold (`PARTS`), a clip of no part has no row, and without any part it is passed over. Of the
    columns `COLUMNS`, ``group`` is the number of the clips that stay together, duplicates included,
    ``fold`` 0 to ``n_folds - 1``. UsageError: protocols unknown, `left_out`, none; under two folds
    or genres, a negative seed, too few clips or groups (its advice was tried).
    """
    wrong = [name for name in protocols if name not in PROTOCOLS]
    if wrong or not protocols:
        why = f"unknown protocol {wrong[0]!r}" if wrong else "no protocol to draw folds by"
        raise UsageError(f"{why}; one of {', '.join(PROTOCOLS)}")
    if n_folds < 2 or seed < 0:
        raise UsageError(f"n_folds={n_folds}, seed={seed}: at least 2 and 0")
    if not clips.filter(["part"]).ne("").any(axis=None):
        if list(protocols) == ["published"]:
            raise UsageError("published protocol: no clip has a part, train or test")
        protocols = [name for name in protocols if name != "published"]
    used = clips[clips["status"] == "ok"].sort_values("clip_id", ignore_index=True)
    if used["genre"].nunique() < 2:
        why = "".join(clips["status"][clips["status"] != "ok"].mode()[:1].radd("; most others: "))
        raise UsageError(f"{used['genre'].nunique()} genres with usable clips, 2 needed{why}")
    for protocol, why in left_out(used).items():
        if protocol in protocols:
            raise UsageError(f"{protocol} protocol: {why}; name them, or ask for other protocols")
    tables, genre = [], used["genre"]
    for protocol in protocols:
        group = groups(used, protocol)
        if duplicates is not None:
            group = merge_groups(group, used["clip_id"], duplicates)
        if protocol == "published":
            fold = _published(used)
        else:
            fold, fault = _drawn(genre, group, protocol, n_folds, seed)
            if fault:
                way = _way_out(genre, group, protocol, n_folds, seed)
                raise UsageError(f"{protocol} protocol: {fault}; {way}")
        number = np.unique(group, return_inverse=True)[1]
        table = used.assign(protocol=protocol, group=number, fold=fold)[COLUMNS]
        tables.append(table.dropna(subset="fold").astype({"fold": int}))
    return pd.concat(tables, ignore_index=True)


def _published(used: pd.DataFrame) -> pd.Series:
    fold = used["part"].map(PARTS)
    trained, tested = (set(used["genre"][fold == number]) for number in PARTS.values())
    if not tested or len(trained) < 2 or tested - trained:
        parts = (f"{', '.join(sorted(part)) or 'no genre'}" for part in (trained, tested))
        why = "published protocol: usable clips of {} train, of {} are tested".format(*parts)
        raise UsageError(f"{why}; each tested genre, and two at least, must have some that train")
    return fold


def across(pairs: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Duplicates (`find_duplicates`) of which one is trained on and one tested as published."""
    part = clips.set_index("clip_id").get("part", pd.Series(dtype=str))
    parts = pairs[["clip_id", "other_id"]].map(part.to_dict().get)
    return pairs[parts.isin([*PARTS]).all(axis=1) & (parts.nunique(axis=1) > 1)]


def _way_out(genre: pd.Series, group: pd.Series, protocol: str, n_folds: int, seed: int) -> str:
    """Find by trying what makes folds possible: fewer of them, or fewer genres."""
    smallest = group.groupby(genre).nunique().sort_values(kind="stable").index
    for lost in range(len(smallest) - 1):
        kept = genre.isin(smallest[lost:])
        for n in range(n_folds, 1, -1):
            if not _drawn(genre[kept], group[kept], protocol, n, seed)[1]:
                words = [f"without {', '.join(map(repr, smallest[:lost]))}"] * bool(lost)
                words += [f"with n_folds={n}"] * (n < n_folds)
                return f"it can be done {' and '.join(words)}"
    return "it takes more clips, or another protocol"


def _drawn(genre: pd.Series, group: pd.Series, protocol: str, n_folds: int, seed: int) -> tuple:
    """Draw the fold of each clip, [n]; with it "", or what is in the way."""
    unit = "clip" if protocol == "random" else protocol
    clips, sizes = genre.value_counts(), group.groupby(genre).nunique()
    fold, fault = np.full(len(genre), -1), ""
    if protocol == "random" and clips.min() < n_folds:
        fault = f"genre {clips.idxmin()!r} has {clips.min()} clips, {n_folds} needed"
    elif sizes.min() < 2:
        fault = f"genre {sizes.idxmin()!r} has 1 {unit} (copies count once), 2 needed"
    elif group.nunique() < n_folds:
        fault = f"{group.nunique()} {unit}s cannot fill {n_folds} folds"
    elif clips.max() < n_folds:
        fault = f"no genre has {n_folds} clips"
    if fault:
        return fold, fault
    whole = None if group.is_unique else group
    splitter = StratifiedKFold if whole is None else StratifiedGroupKFold
    parts = splitter(n_folds, shuffle=True, random_state=seed).split(genre, genre, whole)
    with warnings.catch_warnings():  # fewer groups than folds: allowed, see make_splits
        warnings.filterwarnings("ignore", message="The least populated class")
        for i, (_, test) in enumerate(parts):
            fold[test] = i
    of_genre = pd.Series(fold).groupby(genre.to_numpy()).nunique()
    if len(np.unique(fold)) < n_folds or of_genre.min() < 2:
        fault = f"one of {n_folds} folds is empty, or has nothing to train a genre on"
    return fold, fault


def shared_groups(clips: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Share of test clips whose track, album or artist (if known) is in the training folds too."""
    rows, levels = [], [name for name in LEVELS[2::-1] if name not in left_out(clips)]
    for protocol, part in splits.groupby("protocol", sort=False):
        table = clips.merge(part[["clip_id", "fold"]], on="clip_id")
        for level in levels:
            folds = table["fold"].groupby(groups(table, level)).transform("nunique")
            rows.append((protocol, level, float((folds > 1)[table["fold"] >= 0].mean())))
    return pd.DataFrame(rows, columns=["protocol", "group", "share"])


def use_split(path: str | Path, clips: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take up the splits.csv of another run on the same data set, whose clip table is ``clips``.

    Returns a copy of the clip table in which usable clips that the file does not name are refused,
    and the file's table (see `make_splits`) without protocols that are `left_out` here. UsageError:
    no file, nothing left. GenreUtilsError: no such table, a clip unusable or of another genre.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no split file {path}")
    try:
        splits = pd.read_csv(path, dtype=str, keep_default_na=False)[COLUMNS]
        splits = splits.astype({"group": int, "fold": int})
        fits = len(splits) and set(splits["protocol"]) <= set(PROTOCOLS)
        fits = fits and not splits.duplicated(["protocol", "clip_id"]).any()
    except (ValueError, KeyError, OSError):  # pandas' parser errors are ValueErrors
        fits = False
    if not fits:
        what = f"with the columns {', '.join(COLUMNS)}, one row a protocol and clip"
        raise GenreUtilsError(f"{path} is no split file; it is the splits.csv of a run, {what}")
    rows = splits.drop_duplicates("clip_id").set_index("clip_id")
    here = clips.set_index("clip_id").reindex(rows.index)
    reason = here["status"].fillna("no such clip")
    other = (reason == "ok") & (here["genre"] != rows["genre"])
    reason = reason.mask(other, "its genre here is " + here["genre"].fillna(""))
    for clip, why in reason[reason != "ok"].items():
        raise GenreUtilsError(
            f"{path}: {(reason != 'ok').sum()} of {len(rows)} clips cannot be used here; first: "
            f"{clip}: {why}; read the data set with the options that the split was made with"
        )
    without = left_out(clips[clips["clip_id"].isin(rows.index)])
    splits = splits[~splits["protocol"].isin(without)].reset_index(drop=True)
    if splits.empty:
        raise UsageError(f"{path}: no protocol can be used: {', '.join(without.values())}")
    unnamed = (clips["status"] == "ok") & ~clips["clip_id"].isin(rows.index)
    return clips.assign(status=clips["status"].mask(unnamed, "not in the split file")), splits
