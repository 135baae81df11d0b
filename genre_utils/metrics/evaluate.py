"""From per-clip predictions to the paper's numbers (section 3.1)."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from genre_utils import paper
from genre_utils.errors import GenreUtilsError, UsageError

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
