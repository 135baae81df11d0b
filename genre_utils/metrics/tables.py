"""Tables of results: Table 1 with intervals, systems beyond the paper, the learning curve."""

import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.metrics import evaluate, intervals

NAMES = paper.LABELS
SONG = {
    "accuracy": "song_accuracy",
    "accuracy_lo": "song_accuracy_lo",
    "accuracy_hi": "song_accuracy_hi",
    "f_score": "song_f_score",
    "n_clips": "n_songs",
}


def table1(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    f_average: str = "macro",
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
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
    songs = _with_intervals(evaluate.song_level(predictions, clips).assign(fold=0), clips, how)
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


REFERENCE = next(iter(paper.TABLE1))  # cnn-mel
LEADS = ["lead", "lead_lo", "lead_hi", "song_lead", "song_lead_lo", "song_lead_hi", "song_lead_p"]


def beyond_table(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    reference: str = REFERENCE,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Table 1's numbers for any systems, and their lead over one of them.

    A system that was tested in some folds only is compared with the reference in these.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv, the reference's among them under each protocol.
    clips : pd.DataFrame
        The clip table.
    reference : str
        The system that the others are compared with.

    Returns
    -------
    pd.DataFrame
        `table1`'s columns without the paper's, then lead, lead_lo, lead_hi (difference of
        the accuracies of clips, 95 % by artists), song_lead, song_lead_lo, song_lead_hi (of
        songs), song_lead_p (two-sided, by artists, after Holm within the protocol); the leads of
        the reference itself are NaN.
    """
    how = {"n_resamples": n_resamples, "seed": seed}
    table = table1(predictions, clips, **how)
    table = table.drop(columns=["paper_accuracy", "paper_f_score"])
    leads = {}
    for (protocol, folds), tested in _tested_together(predictions).items():
        part = predictions[predictions["protocol"] == protocol]
        part = part[part["system"].isin([*tested, reference]) & part["fold"].isin(folds)]
        levels = part, evaluate.song_level(part, clips)
        pairs = [(system, reference) for system in tested if system != reference]
        if pairs:
            both = [intervals.compare(each, clips, pairs, **how) for each in levels]
            for clip, song in zip(*(each.itertuples() for each in both), strict=True):
                ends = [end for one in (clip, song) for end in (one.difference, one.lo, one.hi)]
                leads[clip.first, protocol] = (*ends, song.p_artist)
    nothing = (np.nan,) * len(LEADS)
    keys = zip(table["system"], table["protocol"], strict=True)
    table[LEADS] = np.array([leads.get(key, nothing) for key in keys])
    for protocol in table["protocol"].unique():
        here = (table["protocol"] == protocol) & table["song_lead_p"].notna()
        table.loc[here, "song_lead_p"] = intervals.holm(table.loc[here, "song_lead_p"])
    return table.round(dict.fromkeys(LEADS, 6))


def _tested_together(predictions: pd.DataFrame) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    """Systems that were tested in the same folds of a protocol."""
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (system, protocol), part in predictions.groupby(evaluate.KEY, sort=False):
        found.setdefault((protocol, tuple(sorted(part["fold"].unique()))), []).append(system)
    return found


def beyond_markdown(
    table: pd.DataFrame, title: str, seconds: dict[str, float] | None = None, note: str = ""
) -> str:
    """Write the table for people.

    Parameters
    ----------
    table : pd.DataFrame
        From `beyond_table`.
    title, note : str
        What data it is, and what must be said of it.
    seconds : dict, optional
        How long training and testing took, by system.
    """
    heading = f"**Beyond the paper on {title}**" + (f" ({note})" if note and note != title else "")
    lines = [
        heading,
        "",
        "| system | protocol | folds | accuracy (95 %) | by song (95 %) | F by song "
        "| lead over CNN+Mel by song (95 %) | p (Holm) | time |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in table.itertuples():
        cost = (seconds or {}).get(row.system)
        known = not np.isnan(row.song_lead)
        cells = [
            NAMES.get(row.system, row.system),
            row.protocol,
            str(row.n_folds),
            interval(row.accuracy, row.accuracy_lo, row.accuracy_hi),
            interval(row.song_accuracy, row.song_accuracy_lo, row.song_accuracy_hi),
            f"{row.song_f_score:.2f}",
            f"{row.song_lead:+.2f} ({row.song_lead_lo:+.2f} to {row.song_lead_hi:+.2f})"
            if known
            else "",
            f"{row.song_lead_p:.2g}" if known else "",
            "" if cost is None else f"{cost:.0f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Time: training and testing of all its folds, both protocols, two cores."]
    return "\n".join(lines) + "\n"


def learning_curve(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy by song over the number of artists, and a line through it.

    The line is straight over the logarithm of the number of artists (least squares). Intervals are
    of a bootstrap over test artists. Which training artists are left out, and the seeds, are chance
    as well and not in them; several draws make it smaller.

    Parameters
    ----------
    predictions : pd.DataFrame
        From `with_fewer_artists`, of several systems.
    clips : pd.DataFrame
        The clip table.

    Returns
    -------
    pd.DataFrame
        system, train_size, n_artists (mean over folds and draws), accuracy, accuracy_lo,
        accuracy_hi (by song, mean over draws, 95 %), lowest, highest (of the single draws), lead,
        lead_lo, lead_hi (over the first system with as many artists); the same in all rows of a
        system: gain, gain_lo, gain_hi (of the line for twice as many artists), twice, twice_lo,
        twice_hi (the line's accuracy at twice the artists of the largest part; not measured).
    """
    tables, first = [], None
    for _, table in predictions.groupby("system", sort=False):
        points = table.groupby(["system", "train_size"], as_index=False)["n_artists"].mean()
        single, drawn = _accuracies(table, clips, n_resamples, seed)
        found = single.mean(axis=1)
        first = first or (found, drawn)
        points["accuracy"], points[["accuracy_lo", "accuracy_hi"]] = found, _ends(drawn, found)
        points["lowest"], points["highest"] = single.min(axis=1), single.max(axis=1)
        points["lead"], points[["lead_lo", "lead_hi"]] = found - first[0], _ends(drawn - first[1])
        lines = (_line(points["n_artists"], values) for values in (found[:, None], drawn))
        for name, one, many in zip(("gain", "twice"), *lines, strict=True):
            points[[name, f"{name}_lo", f"{name}_hi"]] = one[0], *intervals.percentile(many)
        tables.append(points)
    return pd.concat(tables, ignore_index=True).round(6)


def _accuracies(
    table: pd.DataFrame, clips: pd.DataFrame, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies by song: each draw's [points, draws]; their mean, resampled [points, n]."""
    clusters, genres = intervals.artist_clusters(clips), sorted(set(table["y_true"]))
    single, drawn = [], []
    for _, part in table.groupby("train_size"):
        songs = [evaluate.song_level(one, clips) for _, one in part.groupby("draw")]
        counts = np.array([intervals.confusion_counts(s, clusters, genres) for s in songs])
        single.append(intervals.scores(counts.sum(axis=1))[0])
        times = intervals.draw(counts.shape[1], n_resamples, seed)
        # Each draw has the same songs, so the mean of counts has the mean accuracy.
        drawn.append(intervals.scores(intervals.resample(counts.mean(axis=0), times))[0])
    return np.array(single), np.array(drawn)


def _ends(drawn: np.ndarray, found: np.ndarray | None = None) -> np.ndarray:
    """Return the ends [points, 2] of the intervals of resampled values [points, n]."""
    estimates = [None] * len(drawn) if found is None else found
    pairs = zip(drawn, estimates, strict=True)
    return np.array([intervals.percentile(values, estimate=one) for values, one in pairs])


def _line(n_artists: pd.Series, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope for a doubling and the value at twice the largest number, each [n]."""
    doublings = np.log2(n_artists.to_numpy())
    centred = doublings - doublings.mean()
    spread = centred @ centred
    slope = centred @ accuracy / spread if spread else np.full(accuracy.shape[1], np.nan)
    return slope, accuracy.mean(axis=0) + slope * (doublings.max() + 1 - doublings.mean())
