"""What any table of results must be read against: rules that never hear a note.

The majority rule answers the most frequent genre of all; an oracle knows who made a clip (or from
which album or track it is) and answers that group's most frequent genre. An oracle is no system to
use; it shows how far one gets by recognising the maker (Pampalk, Flexer & Widmer, ISMIR 2005).
"""

from types import MappingProxyType

import pandas as pd

from genre_utils.data import splits as protocols
from genre_utils.metrics.evaluate import KEY

LABELS = MappingProxyType(
    {
        "majority": "Most frequent genre",
        "oracle-track": "Oracle: track known",
        "oracle-album": "Oracle: album known",
        "oracle-artist": "Oracle: artist known",
    }
)


def reference_points(clips: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Answers of the majority rule and of the three oracles.

    The majority rule gives one answer to all clips, so its accuracy is the share of the largest
    genre: chance level. (Taken from each training part anew it would be worse than chance, even 0
    on equally large genres: what is frequent in training is then rare in the test part.) The
    oracles know the training folds only; one that has not met a test clip's group there answers
    like the majority rule. Of equally frequent genres the alphabetically first is answered. A clip
    without the name of its artist counts as in `splits.groups`.

    Parameters
    ----------
    clips : pd.DataFrame
        The clip table; clips that are not in ``splits`` take no part.
    splits : pd.DataFrame
        protocol, clip_id, fold.

    Returns
    -------
    pd.DataFrame
        system, protocol, fold, clip_id, y_true, y_pred: rows of predictions.csv.
    """
    columns = {f"oracle-{level}": level for level in ("track", "album", "artist")}
    known = clips[["clip_id", "genre"]].assign(
        **{name: protocols.groups(clips, level) for name, level in columns.items()}, majority=pd.NA
    )
    tables = []
    for system in LABELS:
        for protocol, part in splits.groupby("protocol", sort=False):
            table = part.merge(known, on="clip_id", validate="one_to_one").sort_values("clip_id")
            answers = pd.concat(_answers(table, system, f) for f in sorted(table["fold"].unique()))
            named = table.assign(system=system, protocol=protocol, y_true=table["genre"])
            tables.append(named.assign(y_pred=answers.fillna(_most_frequent(table["genre"]))))
    columns = [*KEY, "fold", "clip_id", "y_true", "y_pred"]
    return pd.concat(tables, ignore_index=True)[columns]


def _answers(table: pd.DataFrame, system: str, fold: int) -> pd.Series:
    """Answer each test clip's group its usual genre in training; NaN where it was not met."""
    test = table["fold"] == fold
    counts = table[~test].groupby([system, "genre"]).size().unstack(fill_value=0)
    usual = counts.idxmax(axis=1) if len(counts) else {}  # of equals the alphabetically first
    return table.loc[test, system].map(usual)


def _most_frequent(genres: pd.Series) -> str:
    return genres.mode().iloc[0]  # sorted, so the alphabetically first of equals


def against_artist_oracle(table1: pd.DataFrame) -> str:
    """Say in words which systems the artist oracle matches or beats under ``random``.

    Parameters
    ----------
    table1 : pd.DataFrame
        system, protocol, accuracy, with the oracle's rows in it.

    Returns
    -------
    str
        One or two sentences; empty when the table has no artist oracle under ``random``.
    """
    random = table1[table1["protocol"] == "random"].set_index("system")["accuracy"]
    if "oracle-artist" not in random:
        return ""
    bar = random["oracle-artist"]
    heard = random.drop([name for name in LABELS if name in random])
    below = [f"{name} ({accuracy:.2f})" for name, accuracy in heard[heard <= bar].items()]
    above = [f"{name} ({accuracy:.2f})" for name, accuracy in heard[heard > bar].items()]
    start = f"Knowing the artist alone, without a note of music, scores {bar:.2f} under random"
    if not below:
        return f"{start}; every system is above it: {', '.join(above)}."
    words = (
        f"{start}. Not above it: {', '.join(below)}. Recognising artists would explain as much, "
        "so their score under random shows nothing about genre"
    )
    return f"{words}. Above it: {', '.join(above)}." if above else f"{words}."
