"""Who is tested against whom: folds by protocol, and what each protocol leaves shared."""

import warnings
from types import MappingProxyType

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from genre_utils.data.clip_table import SEPARATOR
from genre_utils.data.duplicates import merge_groups
from genre_utils.errors import UsageError

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
    clips: pd.DataFrame, protocols: list[str], n_folds: int = 10, seed: int = 0,
    duplicates: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
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
        Pairs from `duplicates.find`: clips of one recording, which stay in one fold under every
        protocol.

    Returns
    -------
    pd.DataFrame
        protocol, clip_id, fold (0 to ``n_folds - 1``).

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
        part = pd.DataFrame({"protocol": protocol, "clip_id": used["clip_id"], "fold": fold})
        tables.append(part)
    return pd.concat(tables, ignore_index=True)


def _folds(
    used: pd.DataFrame, group: pd.Series, protocol: str, n_folds: int, seed: int
) -> np.ndarray:
    _check(used["genre"], group, protocol, n_folds)
    grouped = not group.is_unique
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = kind(n_folds, shuffle=True, random_state=seed)
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
