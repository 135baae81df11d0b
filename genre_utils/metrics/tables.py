"""Table 1 with everything a reader needs beside a number: intervals, songs, reference points."""

import numpy as np
import pandas as pd

from genre_utils.metrics import evaluate, intervals, votes
from genre_utils.metrics.reference_points import LABELS
from genre_utils.models.systems import SYSTEMS

NAMES = {
    **{name: system.label for name, system in SYSTEMS.items()},
    **{name: label for name, (_, label) in votes.COMBINATIONS.items()},
    **LABELS,
}
SONG = {
    "accuracy": "song_accuracy",
    "accuracy_lo": "song_accuracy_lo",
    "accuracy_hi": "song_accuracy_hi",
    "f_score": "song_f_score",
    "n_clips": "n_songs",
}


def table1(
    predictions: pd.DataFrame, clips: pd.DataFrame, f_average: str = "macro",
    n_resamples: int = intervals.N_RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Compute Table 1 for clips and for songs, each with 95 % intervals over artists.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv.
    clips : pd.DataFrame
        The clip table (artists are what the bootstrap draws, tracks are what votes).

    Returns
    -------
    pd.DataFrame
        The columns of `evaluate.table1`, then accuracy_lo, accuracy_hi, f_score_lo, f_score_hi,
        n_artists, then song_accuracy, song_accuracy_lo, song_accuracy_hi, song_f_score, n_songs.
    """
    how = {"f_average": f_average, "n_resamples": n_resamples, "seed": seed}
    table = _with_intervals(predictions, clips, how)
    songs = _with_intervals(votes.song_level(predictions, clips).assign(fold=0), clips, how)
    songs = songs[[*evaluate.KEY, *SONG]].rename(columns=SONG)
    return table.merge(songs, on=evaluate.KEY, validate="one_to_one")


def _with_intervals(predictions: pd.DataFrame, clips: pd.DataFrame, how: dict) -> pd.DataFrame:
    table = evaluate.table1(predictions, how["f_average"])
    bounds = intervals.cluster_intervals(predictions, clips, **how)
    merged = table.merge(bounds, on=evaluate.KEY, validate="one_to_one")
    floats = merged.select_dtypes("float").columns
    return merged.round(dict.fromkeys(floats, 6))


def markdown(table: pd.DataFrame, title: str, note: str = "") -> str:
    """Write Table 1 for people, in Markdown: accuracies with their intervals."""
    heading = f"**Table 1 on {title}**" + (f" ({note})" if note and note != title else "")
    lines = [
        heading,
        "",
        "| system | protocol | accuracy (95 %) | F-score | by song (95 %) | the paper |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in table.itertuples():
        theirs = "" if np.isnan(row.paper_accuracy) else f"{row.paper_accuracy:.2f}"
        cells = [
            NAMES.get(row.system, row.system),
            row.protocol,
            interval(row.accuracy, row.accuracy_lo, row.accuracy_hi),
            f"{row.f_score:.2f}",
            interval(row.song_accuracy, row.song_accuracy_lo, row.song_accuracy_hi),
            theirs,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    sizes = table.iloc[0]
    lines += ["", f"{sizes.n_clips} clips of {sizes.n_songs} songs by {sizes.n_artists} artists."]
    return "\n".join(lines) + "\n"


def interval(value: float, low: float, high: float) -> str:
    """Write a number with the ends of its interval."""
    return f"{value:.2f} ({low:.2f}–{high:.2f})"
