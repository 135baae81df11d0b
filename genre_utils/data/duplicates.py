"""Clips that are one recording: the same bytes, the same artist and title, or the same sound.

A duplicate on the other side of a split is tested on what was trained on. GTZAN is the known case
(Sturm 2012), compilations are another. `merge_groups` keeps such clips in one fold.
"""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from genre_utils.data.clip_table import SEPARATOR
from genre_utils.extraction import audio
from genre_utils.parallel import each
from genre_utils.store import Store, cache_dir, code_version

COLUMNS = ["kind", "clip_id", "other_id", "similarity", "genre", "other_genre"]
# On 585 real clips, 99.99 % of pairs of different tracks stay under 0.35; the same clips encoded
# anew and shifted by up to a second have a median of 0.91.
THRESHOLD = 0.7
FRAMES = {"n_fft": 8192, "hop_length": 4096, "n_chroma": 12}
MAX_LAG = 4  # frames of 0.256 s
BLOCK = 1024
CHUNK = 16


def find(
    clips: pd.DataFrame, folder: Path, digests: dict[str, str], *,
    by_sound: bool = False, threshold: float = THRESHOLD, jobs: int = 1,
) -> pd.DataFrame:  # fmt: skip
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
    found = [_exact(ok, digests), _same_name(ok)]
    if by_sound and len(ok):
        found.append(_same_sound(ok, folder, digests, threshold, jobs))
    pairs = pd.concat(found, ignore_index=True).drop_duplicates(["first", "second"])
    first, second = (ok.loc[pairs[name].astype(int)] for name in ("first", "second"))
    columns = [
        pairs["kind"], first["clip_id"], second["clip_id"],
        pairs["similarity"].round(3), first["genre"], second["genre"],
    ]  # fmt: skip
    return pd.DataFrame(dict(zip(COLUMNS, (list(c) for c in columns), strict=True)))


def merge_groups(groups: pd.Series, clip_id: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """Join the groups that duplicates link, so that a splitter that keeps groups whole keeps them.

    Parameters
    ----------
    groups : pd.Series
        Name of each clip's group (the clip's own id under the random protocol).
    clip_id : pd.Series
        Ids on the same index.
    pairs : pd.DataFrame
        From `find`; pairs with a clip that is not in ``clip_id`` are passed over.

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
    key = {**FRAMES, "code": code_version(audio, sys.modules[__name__]),
           "libraries": {name: version(name) for name in ("librosa", "soundfile")}}  # fmt: skip
    store = Store(cache_dir() / "arrays", "fingerprint", key)
    lacking = set(store.missing(ids))
    todo = list({i: path for i, path in zip(ids, files, strict=True) if i in lacking}.items())
    tasks = [(todo[i : i + CHUNK], store) for i in range(0, len(todo), CHUNK)]
    each(_chromagrams, tasks, jobs=jobs, desc="fingerprints", unit=f"x{CHUNK} clips")
    return store.load(ids)


def _chromagrams(chunk: list[tuple[str, Path]], store: Store) -> None:
    waves = [audio.load_clip(path) for _, path in chunk]
    how = {"sr": audio.SAMPLE_RATE, "tuning": 0.0, **FRAMES}
    rows = [librosa.feature.chroma_stft(y=y, **how) for y in waves]
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
