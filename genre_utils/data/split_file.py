"""A split as a small CSV that others can use: which clips, their genres, and their folds.

One row a clip: dataset, clip_id, path, genre, and a column ``fold_<protocol>`` for each protocol.
"""

from pathlib import Path

import pandas as pd

from genre_utils.data.splits import PROTOCOLS
from genre_utils.errors import GenreUtilsError, UsageError
from genre_utils.store import write_text

ABOUT = ("dataset", "clip_id", "path", "genre")
FOLD = "fold_"
NOT_IN_IT = "not in the split file"


def export_split(path: str | Path, clips: pd.DataFrame, splits: pd.DataFrame) -> None:
    """Write the usable clips and their folds, ordered by clip_id."""
    ok = clips.loc[clips["status"] == "ok", list(ABOUT)].set_index("clip_id", drop=False)
    folds = splits.pivot(index="clip_id", columns="protocol", values="fold")
    for protocol in splits["protocol"].unique():
        ok[FOLD + protocol] = folds[protocol]
    write_text(path, ok.sort_index().to_csv(index=False, lineterminator="\n"))


def use_split(path: str | Path, clips: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a split back for the same data set.

    Parameters
    ----------
    clips : pd.DataFrame
        The data set's clip table, with at least the clips of the file usable.

    Returns
    -------
    clips : pd.DataFrame
        A copy in which usable clips that the file does not name are refused.
    splits : pd.DataFrame
        protocol, clip_id, fold.

    Raises
    ------
    UsageError
        No such file, or it is of another data set.
    GenreUtilsError
        It is no split file, or does not fit the clips: one is not there, not usable here, or of
        another genre.
    """
    rows = _read(Path(path))
    here = clips.set_index("clip_id").reindex(rows["clip_id"])
    if set(rows["dataset"]) != set(clips["dataset"]):
        raise UsageError(f"{path} splits {rows['dataset'][0]}, not {clips['dataset'].iloc[0]}")
    status = here["status"].fillna("no such clip").to_numpy()
    _refuse(path, rows, status != "ok", status, "cannot be used here")
    genre = here["genre"].to_numpy()
    _refuse(path, rows, rows["genre"].to_numpy() != genre, genre, "have another genre here")
    clips = clips.copy()
    left = (clips["status"] == "ok") & ~clips["clip_id"].isin(rows["clip_id"])
    clips.loc[left, "status"] = NOT_IN_IT
    tables = [
        pd.DataFrame({"protocol": name, "clip_id": rows["clip_id"], "fold": rows[FOLD + name]})
        for name in _protocols(rows)
    ]
    return clips, pd.concat(tables, ignore_index=True)


def _protocols(rows: pd.DataFrame) -> list[str]:
    return [name.removeprefix(FOLD) for name in rows.columns if name.startswith(FOLD)]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"no split file {path}")
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).sort_values("clip_id")
        protocols = _protocols(rows)
        for name in protocols:
            rows[FOLD + name] = rows[FOLD + name].astype(int)
        unknown = set(protocols) - set(PROTOCOLS)
        fits = set(ABOUT) <= set(rows) and protocols and not unknown and len(rows)
    except (ValueError, KeyError, OSError):  # pandas' parser errors are ValueErrors
        fits = False
    if not fits or rows["clip_id"].duplicated().any():
        raise GenreUtilsError(
            f"{path} is no split file; it has one row a clip with {', '.join(ABOUT)} and "
            f"{FOLD}<protocol>, as --export-split writes it"
        )
    return rows.reset_index(drop=True)


def _refuse(
    path: str | Path, rows: pd.DataFrame, bad: pd.Series, why: pd.Series, what: str
) -> None:
    if bad.any():
        first = int(bad.argmax())
        raise GenreUtilsError(
            f"{path}: {bad.sum()} of {len(rows)} clips {what}; first: "
            f"{rows['path'][first]}: {why[first]}; read the data set with the options that the "
            "split was made with"
        )
