"""From per-clip predictions to the paper's numbers (section 3.1).

What any table of results must be read against: rules that never hear a note.

The majority rule answers the most frequent genre of all; an oracle knows who made a clip (or from
which album or track it is) and answers that group's most frequent genre. An oracle is no system to
use; it shows how far one gets by recognising the maker (Pampalk, Flexer & Widmer, ISMIR 2005).

Several answers to one question become one: clips of a song, systems on a clip.
"""

from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from genre_utils import paper
from genre_utils.data.splits import groups
from genre_utils.runtime import GenreUtilsError, UsageError

F_AVERAGES = ("macro", "weighted")
KEY = ["system", "protocol"]


def f_score(y_true: pd.Series, y_pred: pd.Series, average: str = "macro") -> float:
    """F-score averaged over genres; the paper does not say how, macro is our default."""
    if average not in F_AVERAGES:
        raise UsageError(f"unknown f_average {average!r}: one of {', '.join(F_AVERAGES)}")
    return float(f1_score(y_true, y_pred, average=average, zero_division=0))


def check_predictions(predictions: pd.DataFrame, splits: pd.DataFrame, systems: list[str]) -> None:
    """Make sure that what each system tested fits the splits.

    The paper's four systems must have tested every clip of every protocol once, in its fold.
    Other systems may have tested some protocols or some folds, at least one: of each such fold
    every clip once, and no clip in another fold than its own. Probabilities must sum to 1.

    Raises
    ------
    GenreUtilsError
        A system is missing or does not fit the splits; the line says which and what to run.
    """
    where = ["protocol", "clip_id", "fold"]
    whole = splits[where].sort_values(where).reset_index(drop=True)
    pairs = pd.MultiIndex.from_frame(whole[["protocol", "fold"]])
    for system in systems:
        part = predictions[predictions["system"] == system]
        found = part[where].sort_values(where).reset_index(drop=True)
        expected = whole
        if system not in paper.TABLE1 and len(found):
            tested = pairs.isin(pd.MultiIndex.from_frame(found[["protocol", "fold"]]))
            expected = whole[tested].reset_index(drop=True)
        if not found.equals(expected):
            raise GenreUtilsError(
                f"predictions.csv: {system} has {len(found)} rows that do not fit the "
                f"{len(expected)} of splits.csv; run the notebook of {system} again"
            )
    columns = [column for column in predictions if column.startswith("p_")]
    sums = predictions[columns].sum(axis=1, min_count=1).dropna()
    if ((sums - 1).abs() > 1e-4).any():
        raise GenreUtilsError("predictions.csv: probabilities of a clip do not sum to 1")


def per_fold(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each fold: system, protocol, fold, accuracy (0..1)."""
    right = predictions["y_true"] == predictions["y_pred"]
    keys = [predictions[column] for column in [*KEY, "fold"]]
    return right.groupby(keys, sort=False).mean().rename("accuracy").reset_index()


def table1(predictions: pd.DataFrame, f_average: str = "macro") -> pd.DataFrame:
    """Compute Table 1 over all tested clips, the paper's numbers beside it.

    Returns
    -------
    pd.DataFrame
        system, protocol, accuracy, f_score, n_clips, n_folds, paper_accuracy, paper_f_score. The
        paper's columns are filled for its own protocol, ``random``, only.
    """
    rows = []
    for (system, protocol), part in predictions.groupby(KEY, sort=False):
        known = paper.TABLE1.get(system) if protocol == "random" else None
        theirs = known or (np.nan, np.nan)
        rows.append(
            {
                "system": system,
                "protocol": protocol,
                "accuracy": round(accuracy_score(part["y_true"], part["y_pred"]), 6),
                "f_score": round(f_score(part["y_true"], part["y_pred"], f_average), 6),
                "n_clips": len(part),
                "n_folds": part["fold"].nunique(),
                "paper_accuracy": theirs[0],
                "paper_f_score": theirs[1],
            }
        )
    order = {protocol: i for i, protocol in enumerate(predictions["protocol"].unique())}
    table = pd.DataFrame(rows)
    return table.sort_values(
        "protocol", key=lambda p: p.map(order), kind="stable", ignore_index=True
    )


def confusion_percent(predictions: pd.DataFrame, genres: list[str]) -> pd.DataFrame:
    """Confusion matrix in per cent of each true genre (rows), as in the paper's Fig. 3."""
    counts = confusion_matrix(predictions["y_true"], predictions["y_pred"], labels=genres)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return pd.DataFrame(share, index=genres, columns=genres)


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for k right answers of n independent ones."""
    interval = binomtest(k, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paper_figure3_metrics() -> dict[str, float]:
    """Accuracy and macro precision, recall and F-score that follow from the paper's Fig. 3.

    Equal numbers of test clips a genre, as the multiples of 2 % suggest.
    """
    matrix = paper.FIG3 / 100
    recall = matrix.diagonal()
    precision = recall / matrix.sum(axis=0)
    return {
        "accuracy": float(recall.mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "F-score": float((2 * precision * recall / (precision + recall)).mean()),
    }


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
        **{name: groups(clips, level) for name, level in columns.items()}, majority=pd.NA
    )
    tables = []
    for system in paper.REFERENCE_POINTS:
        for protocol, part in splits.groupby("protocol", sort=False):
            table = part[["clip_id", "fold"]].merge(known, on="clip_id", validate="one_to_one")
            table = table.sort_values("clip_id")
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
    heard = random.drop([name for name in paper.REFERENCE_POINTS if name in random])
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


CNNS = tuple(paper.TABLE1)[:3]
# Name -> what its mean probability is taken of (section 4; Bahuleyan 2018 for the last), label.
COMBINATIONS = MappingProxyType(
    {
        "fusion-cnns": (CNNS, "Mean of the CNNs"),
        "fusion-all": ((*CNNS, "svm-fair"), "Mean of CNNs and fair SVM"),
        "vgg+boosting": (("cnn-mel", "handcrafted-boosting"), "Mean of CNN (mel) and boosting"),
    }
)


def song_level(predictions: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Let the clips of a track vote for its genre.

    With probabilities, the genre of the highest mean probability wins; without, the most frequent
    answer, and of equally frequent ones that of the track's earliest clip (``start_s``). Under
    ``random`` the clips of a track come from different folds: models that have met the track's
    other clips vote as well.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv, whole protocols.
    clips : pd.DataFrame
        The clip table.

    Returns
    -------
    pd.DataFrame
        system, protocol, clip_id (of the earliest clip, which stands for the song), n_clips,
        y_true, y_pred; a track whose clips have two genres is a song of each.
    """
    about = clips[["clip_id", "start_s"]].assign(song=groups(clips, "track"))
    table = predictions.merge(about, on="clip_id", validate="many_to_one")
    if len(table) < len(predictions):
        raise GenreUtilsError("some clips of the predictions are not in the clip table")
    table = table.sort_values(["start_s", "clip_id"], kind="stable")
    keys = [*KEY, "song", "y_true"]
    song, columns = table.groupby(keys, sort=False), _columns(table)
    result = song.agg(clip_id=("clip_id", "first"), n_clips=("clip_id", "size"))
    mean = song[columns].mean().dropna() if columns else result.iloc[:0]
    voting = table[~pd.MultiIndex.from_frame(table[keys]).isin(mean.index)]
    voted = voting.groupby(keys, sort=False)["y_pred"].agg(_vote)
    if len(mean):
        surest = mean.idxmax(axis=1).str.removeprefix("p_").rename("y_pred")
        voted = pd.concat([voted, surest])
    result = result.assign(y_pred=voted).reset_index()
    order = {pair: i for i, pair in enumerate(_pairs(predictions))}
    rank = pd.Series([order[pair] for pair in _pairs(result, unique=False)])
    result = result.assign(rank=rank).sort_values(["rank", "clip_id"], ignore_index=True)
    return result[[*KEY, "clip_id", "n_clips", "y_true", "y_pred"]]


def combine(predictions: pd.DataFrame, systems: Sequence[str], name: str) -> pd.DataFrame:
    """Make one system of several by the mean of their probabilities; nothing is fitted.

    Returns
    -------
    pd.DataFrame
        Rows of predictions.csv of the new system ``name``, for the folds that all of ``systems``
        have been tested on.

    Raises
    ------
    GenreUtilsError
        One of the systems is not there or has no probabilities, no fold is common to all, or they
        were tested on other clips of a fold.
    """
    used = predictions[predictions["system"].isin(systems)]
    columns = _columns(used)
    lacking = set(systems) - set(used.dropna(subset=columns)["system"] if columns else [])
    if lacking:
        raise GenreUtilsError(f"no probabilities of {', '.join(sorted(lacking))} to combine")
    pair = ["protocol", "fold"]
    used = used[used.groupby(pair)["system"].transform("nunique") == len(systems)]
    each = used.groupby([*pair, "clip_id", "y_true"], sort=False)
    if used.empty or (each.size() != len(systems)).any():
        raise GenreUtilsError(f"{', '.join(systems)} were not tested on the same clips and folds")
    mean = each[columns].mean()
    winner = mean.idxmax(axis=1).str.removeprefix("p_")
    table = mean.assign(system=name, y_pred=winner).reset_index()
    return table[["system", "protocol", "fold", "clip_id", "y_true", "y_pred", *columns]]


def combinations(predictions: pd.DataFrame) -> pd.DataFrame:
    """Make every system of `COMBINATIONS`; raises as `combine` does when one lacks its parts."""
    made = [combine(predictions, parts, name) for name, (parts, _) in COMBINATIONS.items()]
    return pd.concat(made, ignore_index=True)


def _vote(answers: pd.Series) -> str:
    return Counter(answers).most_common(1)[0][0]  # of equally frequent ones the first met


def _columns(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column.startswith("p_")]


def _pairs(table: pd.DataFrame, *, unique: bool = True) -> list[tuple[str, str]]:
    pairs = table[KEY].drop_duplicates() if unique else table[KEY]
    return list(pairs.itertuples(index=False, name=None))
