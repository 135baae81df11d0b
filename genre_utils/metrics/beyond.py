"""The table of the systems beyond the paper: each beside the paper's best one, clip and song."""

import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.metrics import evaluate, intervals, tables, votes

REFERENCE = next(iter(paper.TABLE1))  # cnn-mel
LEADS = ["lead", "lead_lo", "lead_hi", "song_lead", "song_lead_lo", "song_lead_hi", "song_lead_p"]


def beyond_table(
    predictions: pd.DataFrame, clips: pd.DataFrame, reference: str = REFERENCE, *,
    n_resamples: int = intervals.N_RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
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
        `tables.table1`'s columns without the paper's, then lead, lead_lo, lead_hi (difference of
        the accuracies of clips, 95 % by artists), song_lead, song_lead_lo, song_lead_hi (of
        songs), song_lead_p (two-sided, by artists, after Holm within the protocol); the leads of
        the reference itself are NaN.
    """
    how = {"n_resamples": n_resamples, "seed": seed}
    table = tables.table1(predictions, clips, **how)
    table = table.drop(columns=["paper_accuracy", "paper_f_score"])
    leads = {}
    for (protocol, folds), systems in _tested_together(predictions).items():
        part = predictions[predictions["protocol"] == protocol]
        part = part[part["system"].isin([*systems, reference]) & part["fold"].isin(folds)]
        levels = part, votes.song_level(part, clips)
        pairs = [(system, reference) for system in systems if system != reference]
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


def markdown(
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
            tables.NAMES.get(row.system, row.system),
            row.protocol,
            str(row.n_folds),
            tables.interval(row.accuracy, row.accuracy_lo, row.accuracy_hi),
            tables.interval(row.song_accuracy, row.song_accuracy_lo, row.song_accuracy_hi),
            f"{row.song_f_score:.2f}",
            f"{row.song_lead:+.2f} ({row.song_lead_lo:+.2f} to {row.song_lead_hi:+.2f})"
            if known else "",
            f"{row.song_lead_p:.2g}" if known else "",
            "" if cost is None else f"{cost:.0f} s",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Time: training and testing of all its folds, both protocols, two cores."]
    return "\n".join(lines) + "\n"
