"""Accuracy and F-score, votes of several answers, and rules that need no music (section 3.1).

The rules are what a table of results must be read against. The majority rule answers the most
frequent genre. An oracle knows which track, album or artist a clip is of and answers that group's
most frequent genre: it shows how far recognising the artist leads (Pampalk, Flexer & Widmer,
ISMIR 2005).

Predictions are rows of predictions.csv: system, protocol, fold, clip_id, y_true, y_pred, and
``p_<genre>`` for each genre (NaN where a system gives no probabilities).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from genre_utils import paper
from genre_utils.data.splits import groups, left_out
from genre_utils.runtime import GenreUtilsError, UsageError

F_AVERAGES = ("macro", "weighted")
KEY = ["system", "protocol"]
CNNS = tuple(paper.TABLE1)[:3]
# Systems that are the mean probability of others (section 4; Bahuleyan 2018 for the last).
COMBINATIONS = {"fusion-cnns": CNNS, "fusion-all": (*CNNS, "svm-fair")}
COMBINATIONS |= {"vgg+boosting": ("cnn-mel", "handcrafted-boosting")}


def f_score(y_true: pd.Series, y_pred: pd.Series, average: str = "macro") -> float:
    """F-score averaged over genres; the paper does not say how, macro is our default."""
    check_average(average)
    return float(f1_score(y_true, y_pred, average=average, zero_division=0))


def check_average(average: str) -> None:
    """Raise UsageError unless the name is one of `F_AVERAGES`."""
    if average not in F_AVERAGES:
        raise UsageError(f"unknown f_average {average!r}: one of {', '.join(F_AVERAGES)}")


def check_predictions(predictions: pd.DataFrame, splits: pd.DataFrame, systems: list[str]) -> None:
    """Raise GenreUtilsError unless what each system tested fits the splits.

    The paper's four systems must have tested every clip of every protocol once, in its fold (from
    0 on, see `datasets.PARTS`). Others may have tested some protocols or some folds, at least
    one: of each such fold every clip once, and no clip in another. Probabilities must sum to 1.
    """
    where = ["protocol", "clip_id", "fold"]
    whole = splits.loc[splits["fold"] >= 0, where].sort_values(where, ignore_index=True)
    for system in systems:
        tested = predictions.loc[predictions["system"] == system, where]
        tested = tested.sort_values(where, ignore_index=True)
        expected = whole
        if system not in paper.TABLE1 and len(tested):
            expected = whole.merge(tested[["protocol", "fold"]].drop_duplicates())
        if not tested.equals(expected):
            why = f"{len(tested)} rows that do not fit the {len(expected)} of splits.csv"
            remedy = f"run the notebook of {system} again"
            raise GenreUtilsError(f"predictions.csv: {system} has {why}; {remedy}")
    sums = predictions[probability_columns(predictions)].sum(axis=1, min_count=1).dropna()
    if ((sums - 1).abs() > 1e-4).any():
        raise GenreUtilsError("predictions.csv: probabilities of a clip do not sum to 1")


def probability_columns(predictions: pd.DataFrame) -> list[str]:
    """Names of the columns ``p_<genre>``, in order."""
    return [column for column in predictions if column.startswith("p_")]


def per_fold(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each fold: system, protocol, fold, accuracy (0..1)."""
    table = predictions.assign(accuracy=predictions["y_true"] == predictions["y_pred"])
    return table.groupby([*KEY, "fold"], sort=False, as_index=False)["accuracy"].mean()


def score_table(predictions: pd.DataFrame, f_average: str = "macro") -> pd.DataFrame:
    """Accuracy and F-score over all tested clips, the paper's numbers beside them.

    The columns are system, protocol, accuracy, f_score, n_clips, n_folds, paper_accuracy and
    paper_f_score; the paper's are filled for its own protocol, ``random``, only.
    """
    rows = []
    for protocol in predictions["protocol"].unique():
        of_protocol = predictions[predictions["protocol"] == protocol]
        for system, part in of_protocol.groupby("system", sort=False):
            known = paper.TABLE1.get(system) if protocol == "random" else None
            answers = part["y_true"], part["y_pred"]
            scores = round(accuracy_score(*answers), 6), round(f_score(*answers, f_average), 6)
            sizes = len(part), part["fold"].nunique()
            rows.append((system, protocol, *scores, *sizes, *(known or (np.nan, np.nan))))
    names = ["accuracy", "f_score", "n_clips", "n_folds", "paper_accuracy", "paper_f_score"]
    return pd.DataFrame(rows, columns=[*KEY, *names])


def confusion_percent(predictions: pd.DataFrame, genres: list[str]) -> pd.DataFrame:
    """Confusion matrix in per cent of each true genre (rows), as in the paper's Fig. 3."""
    counts = confusion_matrix(predictions["y_true"], predictions["y_pred"], labels=genres)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return pd.DataFrame(share, index=genres, columns=genres)


def ceiling(predictions: pd.DataFrame, other: pd.Series | None = None) -> pd.DataFrame:
    """Show what the two genres that a system confuses most cost it.

    ``predictions`` are of one protocol; ``other`` [index clip_id] are labels of another catalogue.
    The columns are system, accuracy, pair, share (of the errors that lie between the two), merged
    (accuracy with both as one genre), and catalogue: what knowing the other labels scores at best,
    by each one's most frequent genre (NaN without ``other``).
    """
    rows = []
    for system, part in predictions.groupby("system", sort=False):
        true, said = part["y_true"], part["y_pred"]
        errors = Counter(map(frozenset, part.loc[true != said, ["y_true", "y_pred"]].to_numpy()))
        pair, n = errors.most_common(1)[0] if errors else (frozenset(), 0)
        right = (true == said) | (true.isin(pair) & said.isin(pair))
        known = np.nan
        if other is not None:
            counts = pd.crosstab(part["clip_id"].map(other), true)
            known = counts.max(axis=1).sum() / counts.to_numpy().sum()
        share = n / max(errors.total(), 1)
        row = (true == said).mean(), " / ".join(sorted(pair)), share, right.mean(), known
        rows.append((system, *row))
    names = ["system", "accuracy", "pair", "share", "merged", "catalogue"]
    return pd.DataFrame(rows, columns=names)


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval for k right answers of n independent ones."""
    interval = binomtest(k, n).proportion_ci(method="wilson")
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
    """Answers of the majority rule and of the three oracles (`paper.REFERENCE_POINTS`).

    The majority rule gives one answer to all clips, so its accuracy is the share of the largest
    genre: chance level. (Taken from each training part anew it would be worse than chance, even 0
    on equally large genres: what is frequent in training is then rare in the test part.) The
    oracles know the training folds only; one that has not met a test clip's group there answers
    like the majority rule. Of equally frequent genres the alphabetically first is answered. A clip
    without the name of its artist counts as in `splits.groups`; where nobody's is known, there is
    no such oracle.

    ``splits`` has protocol, clip_id, fold; clips that are not in it take no part. Returns rows of
    predictions.csv without probabilities.
    """
    levels = ("track", "album", "artist")
    known = clips[["clip_id", "genre"]].assign(
        **{f"oracle-{level}": groups(clips, level) for level in levels}, majority=pd.NA
    )
    tables, unknown = [], {f"oracle-{level}" for level in left_out(clips)}
    for system in (name for name in paper.REFERENCE_POINTS if name not in unknown):
        for protocol, part in splits.groupby("protocol", sort=False):
            table = part[["clip_id", "fold"]].merge(known, on="clip_id", validate="one_to_one")
            table = table.sort_values("clip_id")
            tested = table[table["fold"] >= 0]
            answers = pd.concat(_answers(table, system, f) for f in sorted(set(tested["fold"])))
            majority = tested["genre"].mode().iloc[0]  # alphabetically first of equally frequent
            named = tested.assign(system=system, protocol=protocol, y_true=table["genre"])
            tables.append(named.assign(y_pred=answers.fillna(majority)))
    return pd.concat(tables, ignore_index=True)[[*KEY, "fold", "clip_id", "y_true", "y_pred"]]


def _answers(table: pd.DataFrame, system: str, fold: int) -> pd.Series:
    """Answer each test clip's group its usual genre in training; NaN where it was not met."""
    test = table["fold"] == fold
    counts = table[~test].groupby([system, "genre"]).size().unstack(fill_value=0)
    usual = counts.idxmax(axis=1) if len(counts) else {}  # first of equally frequent genres
    return table.loc[test, system].map(usual)


def against_artist_oracle(table1: pd.DataFrame) -> str:
    """Say in words which systems the artist oracle matches or beats under ``random``.

    ``table1`` has system, protocol, accuracy, the oracle's rows among them; without any under
    ``random`` that is said.
    """
    random = table1[table1["protocol"] == "random"].set_index("system")["accuracy"]
    if "oracle-artist" not in random:
        return "No artist oracle under random to compare with."
    bar = random["oracle-artist"]
    trained = random.drop(list(paper.REFERENCE_POINTS), errors="ignore")
    below, above = (
        ", ".join(f"{name} ({accuracy:.2f})" for name, accuracy in part.items())
        for part in (trained[trained <= bar], trained[trained > bar])
    )
    words = f"Knowing the artist alone, without a note of music, scores {bar:.2f} under random"
    if not below:
        return f"{words}; every system is above it: {above}."
    words += f". Not above it: {below}. Recognising artists would explain as much, so their score"
    words += " under random shows nothing about genre."
    return f"{words} Above it: {above}." if above else words


def song_level(predictions: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Let the clips of a track vote for its genre.

    With probabilities, the genre of the highest mean probability wins; without, the most frequent
    answer, and of equally frequent ones that of the track's earliest clip (``start_s``). Under
    ``random`` the clips of a track come from different folds: models that have met the track's
    other clips vote as well.

    ``predictions`` are of whole protocols. The songs have system, protocol, clip_id (of the
    earliest clip, which stands for the song), n_clips, y_true, y_pred; a track whose clips have two
    genres is a song of each. Raises GenreUtilsError when a clip is not in the clip table.
    """
    about = clips[["clip_id", "start_s"]].assign(song=groups(clips, "track"))
    table = predictions.assign(order=predictions.groupby(KEY, sort=False).ngroup())
    table = table.merge(about, on="clip_id", validate="many_to_one")
    if len(table) < len(predictions):
        raise GenreUtilsError("some clips of the predictions are not in the clip table")
    table = table.sort_values(["start_s", "clip_id"], kind="stable")
    keys = ["order", *KEY, "song", "y_true"]
    votes = table.groupby([*keys, "y_pred"], sort=False).size().reset_index(name="votes")
    most = votes.groupby(keys, sort=False)["votes"].idxmax()  # first met of equally frequent
    songs = table.groupby(keys, sort=False)
    result = songs.agg(clip_id=("clip_id", "first"), n_clips=("clip_id", "size"))
    result["y_pred"] = votes.loc[most].set_index(keys)["y_pred"]
    if columns := probability_columns(table):
        result.update(_surest(songs[columns].mean().dropna()))
    result = result.reset_index().sort_values(["order", "clip_id"], ignore_index=True)
    return result[[*KEY, "clip_id", "n_clips", "y_true", "y_pred"]]


def _surest(proba: pd.DataFrame) -> pd.Series:
    """Genre of the highest probability in each row."""
    return proba.idxmax(axis=1).str.removeprefix("p_").rename("y_pred")


def combine(predictions: pd.DataFrame, systems: Sequence[str], name: str) -> pd.DataFrame:
    """Make one system of several by the mean of their probabilities; nothing is fitted.

    Returns rows of predictions.csv of the new system ``name``, for the folds that all of
    ``systems`` have been tested on. Raises GenreUtilsError when one of them is not there or has no
    probabilities, no fold is common to all, or they were tested on other clips of a fold.
    """
    used = predictions[predictions["system"].isin(systems)]
    columns = probability_columns(used)
    lacking = set(systems) - set(used.dropna(subset=columns)["system"] if columns else [])
    if lacking:
        raise GenreUtilsError(f"no probabilities of {', '.join(sorted(lacking))} to combine")
    place = ["protocol", "fold"]
    used = used[used.groupby(place)["system"].transform("nunique") == len(systems)]
    clips = used.groupby([*place, "clip_id", "y_true"], sort=False)
    if used.empty or (clips.size() != len(systems)).any():
        raise GenreUtilsError(f"{', '.join(systems)} were not tested on the same clips and folds")
    mean = clips[columns].mean()
    table = mean.assign(system=name, y_pred=_surest(mean)).reset_index()
    return table[["system", "protocol", "fold", "clip_id", "y_true", "y_pred", *columns]]


def combinations(predictions: pd.DataFrame) -> pd.DataFrame:
    """Make every system of `COMBINATIONS`; raises as `combine` does when one lacks its parts."""
    made = [combine(predictions, parts, name) for name, parts in COMBINATIONS.items()]
    return pd.concat(made, ignore_index=True)
