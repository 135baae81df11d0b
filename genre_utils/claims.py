"""The paper's claims, one row each, judged by rules that are written down here.

A comparison counts when zero difference is rejected at 5 % by a bootstrap over artists, corrected
by Holm's method over all comparisons of the table, so that no verdict rests on having looked often.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from genre_utils import evaluate, intervals, paper, votes
from genre_utils.errors import GenreUtilsError

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided: interval"
ABSENT = "undecided: genres not in the data"
MEL, MFCC, CHROMA, SVM = paper.TABLE1
COMBINED = "cnn-combined"
LEVEL = 0.05
MIN_EXPECTED = 5  # confusions in the named pairs, were all pairs alike; as for chi-square
COLUMNS = ("claim", "section", "dataset", "protocol", "figure", "verdict", "why")

# Number -> (claim, section).
CLAIMS = MappingProxyType(
    {
        1: ("CNN + mel-spectrogram is the best of the four systems", "3.2"),
        2: ("each CNN is significantly better than the SVM", "3.2"),
        3: (
            "MFCC and chromagram are acceptable (taken as: better than always answering the most "
            "frequent genre), but behind mel",
            "3.2",
        ),
        4: (
            "Classical/Jazz, Electro Rock/Electronica, New Age/Ambient are more likely to be "
            "confused than other pairs",
            "3.2",
        ),
        5: ("CNN + mel-spectrogram reaches an accuracy of 0.90", "3.1"),
        6: ("the paper's Fig. 3 and Table 1 agree", "3.1, 3.2"),
        7: (
            "combining features may help (taken as: the mean of the three CNNs' probabilities is "
            "better than mel alone)",
            "4",
        ),
    }
)
# Claims that hold when the first of every pair is better than the second, and do not hold when
# one is worse.
PAIRS = MappingProxyType(
    {
        1: ((MEL, MFCC), (MEL, CHROMA), (MEL, SVM)),
        2: ((MEL, SVM), (MFCC, SVM), (CHROMA, SVM)),
        3: ((MFCC, "majority"), (CHROMA, "majority"), (MEL, MFCC), (MEL, CHROMA)),
        7: ((COMBINED, MEL),),
    }
)


class Verdict(NamedTuple):
    """What was found, the word for it, and the reason."""

    figure: str
    verdict: str
    why: str


def judge(
    predictions: pd.DataFrame, clips: pd.DataFrame, dataset: str, *,
    n_resamples: int = intervals.N_RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Judge each claim of the paper under each protocol.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv of the paper's four systems and of `reference_points`.
    clips : pd.DataFrame
        The clip table.
    dataset : str
        Its name, for the table.

    Returns
    -------
    pd.DataFrame
        claim, section, dataset, protocol, figure (ours, with 95 % interval by artists), verdict
        ("holds", "does not hold", "undecided: ..."), why.

    Raises
    ------
    GenreUtilsError
        A system that a claim speaks of is not there.
    """
    lacking = {*paper.TABLE1, "majority"} - set(predictions["system"])
    if lacking:
        raise GenreUtilsError(f"claims: no predictions of {', '.join(sorted(lacking))}")
    how = {"n_resamples": n_resamples, "seed": seed}
    combined = votes.combine(predictions, [MEL, MFCC, CHROMA], COMBINED)
    pairs = list(dict.fromkeys(pair for wanted in PAIRS.values() for pair in wanted))
    compared = intervals.compare(pd.concat([predictions, combined]), clips, pairs, **how)
    mel = predictions[predictions["system"] == MEL]
    bounds = intervals.cluster_intervals(mel, clips, **how).set_index("protocol")
    clusters = intervals.artist_clusters(clips)
    rows = [(6, "the paper's", "random", figures_agree())]
    for protocol, part in mel.groupby("protocol", sort=False):
        these = compared[compared["protocol"] == protocol]
        found = {number: compare_verdict(these, wanted) for number, wanted in PAIRS.items()}
        found[4] = pairs_verdict(part, clusters, **how)
        ends = bounds.loc[protocol, ["accuracy_lo", "accuracy_hi"]]
        oracle = _artist_oracle(predictions) if protocol == "random" else np.nan
        found[5] = accuracy_verdict(_accuracy(part), *ends, oracle)
        rows += [(number, dataset, protocol, verdict) for number, verdict in found.items()]
    rows.sort(key=lambda row: row[0])
    named = [(f"({n}) {CLAIMS[n][0]}", CLAIMS[n][1], *where, *v) for n, *where, v in rows]
    return pd.DataFrame(named, columns=COLUMNS)


def _accuracy(part: pd.DataFrame) -> float:
    return float((part["y_true"] == part["y_pred"]).mean())


def _artist_oracle(predictions: pd.DataFrame) -> float:
    """Its accuracy under the paper's protocol; NaN, which nothing is under, without it."""
    rows = predictions[["system", "protocol"]] == ["oracle-artist", "random"]
    return _accuracy(predictions[rows.all(axis=1)])


def compare_verdict(compared: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Verdict:
    """Judge "the first of each pair is better" from rows of `intervals.compare`."""
    rows = compared.set_index(["first", "second"]).loc[list(pairs)].reset_index()
    sure = rows["p_artist_holm"] < LEVEL
    worse, unsure = rows[sure & (rows["difference"] < 0)], rows[~sure]
    figure = "; ".join(
        f"{row.first} − {row.second} {_interval(row.difference, row.lo, row.hi)}"
        for row in rows.itertuples()
    )
    if len(worse):
        return Verdict(figure, FAILS, f"{_named(worse)}: the other way round")
    if len(unsure):
        return Verdict(figure, OPEN, f"{_named(unsure)}: no sure difference")
    largest = rows["p_artist_holm"].max()
    return Verdict(figure, HOLDS, f"every difference is above 0 (largest adjusted p {largest:.3f})")


def _named(rows: pd.DataFrame) -> str:
    return ", ".join(
        f"{row.first} − {row.second} (adjusted p {row.p_artist_holm:.2g})"
        for row in rows.itertuples()
    )


def accuracy_verdict(accuracy: float, low: float, high: float, oracle: float) -> Verdict:
    """Judge "reaches 0.90": an accuracy that rounds to it, 0.895 or more."""
    least = paper.TABLE1[MEL][0] - 0.005
    figure = _interval(accuracy, low, high, "")
    if low >= least:
        verdict, why = HOLDS, f"the interval is at or above {least:g}"
    elif high < least:
        verdict, why = FAILS, f"the interval is under {least:g}"
    else:
        verdict, why = OPEN, f"{least:g} is inside the interval"
    if accuracy <= oracle:
        why += f"; knowing the artist alone scores {oracle:.2f}: nothing shown about genre"
    return Verdict(figure, verdict, why)


def pair_rates(counts: np.ndarray) -> np.ndarray:
    """How often two genres are taken for each other, in per cent: mean of the two directions.

    Parameters
    ----------
    counts : np.ndarray [shape=(..., n_genres, n_genres)]

    Returns
    -------
    np.ndarray [shape=(..., n_pairs)]
        Pairs in the order of ``np.triu_indices(n_genres, 1)``; NaN where a genre has no clip.
    """
    total = counts.sum(axis=-1, keepdims=True)
    share = 100 * counts / np.where(total > 0, total, np.nan)
    first, second = np.triu_indices(counts.shape[-1], 1)
    return (share[..., first, second] + share[..., second, first]) / 2


def pairs_verdict(
    predictions: pd.DataFrame, clusters: pd.Series, *, n_resamples: int, seed: int
) -> Verdict:
    """Judge "the named pairs are confused more than other pairs" by the mean rates of both.

    The interval of their difference decides, where there are errors enough to tell.
    """
    genres = sorted(set(predictions["y_true"]) | set(predictions["y_pred"]))
    pairs = [(genres[i], genres[j]) for i, j in zip(*np.triu_indices(len(genres), 1), strict=True)]
    wanted = {tuple(sorted(pair)) for pair in paper.CONFUSED_PAIRS}
    named = np.array([pair in wanted for pair in pairs])
    if not named.any() or named.all():
        return Verdict("", ABSENT, "none of the named pairs, or no other pair, is in the data")
    counts = intervals.confusion_counts(predictions, clusters, genres)
    rates = pair_rates(counts.sum(axis=0))
    drawn = intervals.draw(len(counts), n_resamples, seed)
    spread = _contrast(pair_rates(intervals.resample(counts, drawn)), named)
    low, high = intervals.percentile(spread[~np.isnan(spread)])
    rank = {pairs[i]: int((rates > rates[i]).sum()) + 1 for i in np.flatnonzero(named)}
    ranks = ", ".join(f"{a}/{b} {place}" for (a, b), place in rank.items())
    difference = f"{_contrast(rates, named):+.1f} [{low:.1f}, {high:.1f}]"
    figure = f"named − other pairs {difference} percentage points"
    most = pairs[int(np.nanargmax(rates))]
    absent = len(wanted) - int(named.sum())
    why = f"rank among {len(pairs)} pairs: {ranks}; most confused: {'/'.join(most)}" + (
        f"; {absent} of the named pairs not in the data" if absent else ""
    )
    verdict = HOLDS if low > 0 else FAILS if high < 0 else OPEN
    expected = _wrong(counts) * named.mean()
    if expected < MIN_EXPECTED:  # no resample can hold a confusion that was never seen
        verdict = OPEN
        why = f"too few errors ({_wrong(counts)}) to compare pairs; {why}"
    return Verdict(figure, verdict, why)


def _wrong(counts: np.ndarray) -> int:
    return int(counts.sum() - np.trace(counts.sum(axis=0)))


def _contrast(rates: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Mean over the named pairs less that over the others; NaN where one of them has no pair."""
    known = ~np.isnan(rates)
    means = []
    for wanted in (known & named, known & ~named):
        total = np.where(wanted, rates, 0).sum(axis=-1)
        means.append(total / np.where(wanted.any(axis=-1), wanted.sum(axis=-1), np.nan))
    return means[0] - means[1]


def figures_agree() -> Verdict:
    """Judge whether Table 1's numbers for the mel model follow from Fig. 3."""
    found = evaluate.paper_figure3_metrics()
    n = paper.TEST_CLIPS_PER_GENRE * len(paper.GENRES)
    right = round(found["accuracy"] * n)
    low, high = evaluate.wilson_interval(right, n)
    stated = paper.TABLE1[MEL]
    agree = (round(found["accuracy"], 2), round(found["F-score"], 2)) == stated
    figure = (
        f"{right}/{n} = {found['accuracy']:.3f} [{low:.2f}, {high:.2f}], "
        f"macro F {found['F-score']:.3f}"
    )
    return Verdict(
        figure,
        HOLDS if agree else FAILS,
        f"rounded, Fig. 3 gives {found['accuracy']:.2f} and {found['F-score']:.2f}; Table 1 says "
        f"{stated[0]:.2f} and {stated[1]:.2f}. The interval takes clips as independent",
    )


def _interval(value: float, low: float, high: float, sign: str = "+") -> str:
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def claims_markdown(table: pd.DataFrame, title: str, note: str = "") -> str:
    """Write the table for people, in Markdown."""
    lines = [
        f"**The paper's claims on {title}**" + (f" ({note})" if note and note != title else ""),
        "",
        "| claim | section | data set | protocol | our figure [95 %] | verdict | why |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {' | '.join(row[:5])} | **{row[5]}** | {row[6]} |"
        for row in table[list(COLUMNS)].itertuples(index=False, name=None)
    ]
    return "\n".join(lines) + "\n"
