"""The paper's seven claims, each judged by a stated rule from the stored predictions (section 3.2).

Figures are differences of accuracies (or of confusion rates) with 95 % intervals from a bootstrap
over artists. All comparisons made under one protocol are tested together, Holm's method at 5 %. A
claim made of several comparisons

- ``holds`` when each of them is significant in the claim's favour,
- ``does not hold`` when at least one is significant against it,
- is ``undecided: interval`` otherwise: the clips and artists at hand do not tell,
- is ``not tested`` when a system or a genre that it speaks of is missing, or artists are unknown.

An interval in the table is not corrected for the number of comparisons, a verdict is: an interval
that barely excludes 0 can go with ``undecided: interval``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import comb

import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.data import splits
from genre_utils.metrics import evaluate, intervals, tables
from genre_utils.metrics.evaluate import CNNS

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested"
UNDECIDED = "undecided: interval"
UNSETTLED = "undecided: seeds"  # other draws of folds and seeds give other verdicts
# The paper's own, the one that asks about new artists, and others' where there is such a split.
PROTOCOLS = ("random", "artist", "published")
ALPHA = 0.05
MIN_EXPECTED = 10  # wrong answers, below which a pair of genres is not called rarely confused
MEL, MFCC, CHROMA, SVM = paper.TABLE1
TESTED = paper.TEST_CLIPS_PER_GENRE * len(paper.GENRES)  # clips of the paper's Fig. 3
RIGHT = round(paper.FIG3.diagonal().mean() / 100 * TESTED)
CLAIMS = {
    1: ("CNN + mel-spectrogram is the best of the four systems", "3.2"),
    2: ("Each CNN is significantly better than the SVM", "3.2"),
    3: ("MFCC and chromagram are acceptable, behind the mel-spectrogram", "3.2"),
    4: ("Classical/Jazz, Electro Rock/Electronica and New Age/Ambient are confused more", "3.2"),
    5: ("CNN + mel-spectrogram has an accuracy of 0.90", "3.1, Table 1"),
    6: ("Table 1 and Fig. 3 report the same experiment", "Table 1, Fig. 3"),
    7: ("Combining features or methods may improve the result", "4"),
}
COLUMNS = ["claim", "text", "section", "dataset", "protocol", "measured", "figure", "low", "high"]
COLUMNS += ["verdict", "why"]
PAIR_COLUMNS = ["pair", "rate", "rank", "difference", "lo", "hi", "p_artist"]


@dataclass
class Comparison:
    """One figure that should be above 0, with its 95 % interval; ``p`` is Holm's in the end."""

    name: str
    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        ends = f"{self.low:+.2f} to {self.high:+.2f}"
        return f"{self.name}: {self.value:+.2f} ({ends}), p {self.p:.2g} after Holm"

    def side(self) -> int:
        """Return 1 or -1 when significantly above or below 0, otherwise 0."""
        return int(np.sign(self.value)) if self.p <= ALPHA else 0


def pair_rates(counts: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Share of the clips of two genres that got the other's name, shape=(..., n_pairs).

    ``counts`` are confusion matrices [..., n_genres, n_genres] with true genres in rows, ``pairs``
    the rows of two genres each. The share is 0 where neither genre has a clip.
    """
    first, second = np.array(pairs).T
    swapped = counts[..., first, second] + counts[..., second, first]
    of_genre = counts.sum(axis=-1)
    return swapped / np.maximum(of_genre[..., first] + of_genre[..., second], 1)


def confused_pairs(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each pair of genres that the paper names with the pairs that it does not name.

    ``predictions`` are of one system under one protocol. Returns a row for each of
    `paper.CONFUSED_PAIRS` of which both genres occur: pair, rate (see `pair_rates`), rank (1: the
    most confused of all pairs), difference from the mean rate of the pairs not named, its 95 %
    interval by artists (lo, hi) and p_artist, not adjusted. A pair is not called rarer (p_artist is
    1) where the others' rate would have given it fewer than `MIN_EXPECTED` wrong answers: no
    resample holds an error that was never seen. Empty when no pair, or no other pair, is there.
    """
    genres = sorted(predictions["y_true"].unique())
    places = list(combinations(range(len(genres)), 2))
    known = {frozenset(pair) for pair in paper.CONFUSED_PAIRS}
    named = np.array([{genres[a], genres[b]} in known for a, b in places], dtype=bool)
    if not named.any() or named.all():
        return pd.DataFrame(columns=PAIR_COLUMNS)
    counts = intervals.confusion_counts(predictions, intervals.artist_clusters(clips), genres)
    rates = pair_rates(counts.sum(axis=0), places)
    drawn = intervals.draw(len(counts), n_resamples, seed)
    resampled = pair_rates(intervals.resample(counts, drawn), places)
    rest = rates[~named].mean()
    excess = resampled - resampled[:, ~named].mean(axis=1, keepdims=True)
    of_genre = counts.sum(axis=(0, 2))
    rank = pd.Series(-rates).rank(method="min").astype(int)
    rows = []
    for i in np.flatnonzero(named):
        pair, difference = "/".join(genres[place] for place in places[i]), float(rates[i] - rest)
        few = rest * of_genre[list(places[i])].sum() < MIN_EXPECTED
        p = 1.0 if few and difference < 0 else intervals.bootstrap_p(excess[:, i])
        ends = intervals.percentile(excess[:, i])
        rows.append((pair, rates[i], rank[i], difference, *ends, p))
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def claims_table(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    dataset: str,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Judge the paper's seven claims under `PROTOCOLS`, the last only where it was tested.

    1. The smallest lead of ``cnn-mel`` over the three others is above 0.
    2. The smallest lead of a CNN over ``svm-mfcc`` is above 0.
    3. ``cnn-mel`` leads both others, and both lead the majority class. "Acceptable" is not defined
       in the paper; better than always answering one genre is its weakest reading.
    4. Each named pair of genres is confused by ``cnn-mel`` more often than the pairs not named
       are on average; see `confused_pairs`. Pairs of which a genre is absent are left out and
       named.
    5. The interval of ``cnn-mel``'s accuracy lies at or above 0.87, the lower end of the Wilson
       interval of the paper's own 404 of 450: the paper's result or better. ``does not hold``
       when it lies below.
    6. Accuracy and macro F-score computed from Fig. 3 round to Table 1's. No data set is needed.
    7. A system whose name starts with ``fusion-`` leads the best of the paper's four (best on the
       same clips, which favours the single system). ``does not hold`` when every one is
       significantly behind.

    ``predictions`` are rows of predictions.csv; the majority class and the oracles are added where
    missing. Returns claim, text, section, dataset, protocol, measured, figure, low, high, verdict,
    why; a row for each claim and protocol, one for claim 6. ``figure`` is the weakest of a claim's
    comparisons, ``measured`` says which one.
    """
    rows = []
    tested = set(predictions["protocol"])
    for protocol in (name for name in PROTOCOLS if name != "published" or name in tested):
        part = predictions[predictions["protocol"] == protocol]
        if part.empty:
            reason = f"no system was tested under the {protocol} protocol"
            reason = splits.left_out(clips).get(protocol, reason)
            judged = {claim: _untested(reason) for claim in CLAIMS if claim != 6}
        else:
            judged = _judged(part, clips, {"n_resamples": n_resamples, "seed": seed})
        rows += [(claim, *CLAIMS[claim], dataset, protocol, *judged[claim]) for claim in judged]
    rows.append((6, *CLAIMS[6], "the paper", "random", *_own_numbers()))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values("claim", kind="stable", ignore_index=True)


def claims_markdown(table: pd.DataFrame, title: str, note: str = "") -> str:
    """Write the table of `claims_table` for people, in Markdown."""
    figures = []
    for row in table.itertuples():
        sign = "" if row.claim in (5, 6) else "+"  # the others are differences
        figure, low, high = (f"{x:{sign}.2f}" for x in (row.figure, row.low, row.high))
        figures.append(f"{row.measured}: {figure} ({low} to {high})" if row.measured else "")
    own = table["dataset"] == "the paper"
    columns = {
        "claim": table["claim"].astype(str) + ". " + table["text"],
        "section": table["section"],
        "protocol": table["protocol"].mask(own, "the paper's own"),
        "figure (95 % interval)": figures,
        "verdict": table["verdict"],
        "why": table["why"],
    }
    columns |= {"same in": table["draws"]} if "draws" in table else {}
    return tables.page(pd.DataFrame(columns), "The paper's claims", title, note, bold="verdict")


def _result(measured: str, figures: Sequence[float], verdict: str, why: str) -> tuple:
    return measured, *(round(x, 6) for x in figures), verdict, why


def _untested(why: str) -> tuple:
    return _result("", (np.nan,) * 3, UNTESTED, why)


def _judged(part: pd.DataFrame, clips: pd.DataFrame, bootstrap: dict) -> dict[int, tuple]:
    """Verdicts on all claims but the sixth, from one protocol's rows."""
    folds = part[["protocol", "clip_id", "fold"]].drop_duplicates()
    references = evaluate.reference_points(clips, folds)
    missing = ~references["system"].isin(part["system"])
    part = pd.concat([part, references[missing]], ignore_index=True)
    accuracy = (part["y_true"] == part["y_pred"]).groupby(part["system"]).mean()
    single = accuracy[accuracy.index.isin(paper.TABLE1)]
    best = single.idxmax() if len(single) else MEL
    wanted = {  # which system should lead which
        1: [(MEL, other) for other in (MFCC, CHROMA, SVM)],
        2: [(cnn, SVM) for cnn in CNNS],
        3: [(MEL, MFCC), (MEL, CHROMA), (MFCC, "majority"), (CHROMA, "majority")],
        7: [(name, best) for name in part["system"].unique() if name.startswith("fusion-")],
    }
    pairs = list(dict.fromkeys(chain(*wanted.values())))
    compared = intervals.compare(part, clips, pairs, **bootstrap)
    leads = {}
    for row in compared.itertuples():
        names = (paper.LABELS.get(name, name) for name in (row.first, row.second))
        leads[row.first, row.second] = _comparison(" over ".join(names), row)
    mel, no_mel = part[part["system"] == MEL], f"no predictions of {MEL}"
    confused, words = ([], no_mel) if mel.empty else _confusions(mel, clips, bootstrap)
    family = [*leads.values(), *confused]
    for comparison, p in zip(family, intervals.holm([c.p for c in family]), strict=True):
        comparison.p = float(p)
    judged = {}
    for claim, of_claim in wanted.items():
        absent = set(chain(*of_claim)) - set(accuracy.index)
        if not of_claim:  # claim 7
            judged[claim] = _untested("future work in the paper; no combined system was run")
        elif absent:
            judged[claim] = _untested(f"no predictions of {', '.join(sorted(absent))}")
        else:
            judged[claim] = _verdict([leads[pair] for pair in of_claim], some=claim == 7)
    judged[4] = _verdict(confused, words) if confused else _untested(words)
    judged[5] = _untested(no_mel) if mel.empty else _level(mel, accuracy, clips, bootstrap)
    return judged


def _comparison(name: str, row: tuple) -> Comparison:
    return Comparison(name, row.difference, row.lo, row.hi, row.p_artist)


def _verdict(compared: list[Comparison], words: str = "", *, some: bool = False) -> tuple:
    """Apply the module's rule; ``some``: one significant comparison is enough to hold."""
    decisive = max if some else min
    side = decisive(comparison.side() for comparison in compared)
    verdict = {1: HOLDS, 0: UNDECIDED, -1: FAILS}[side]
    why = "; ".join(str(c) for c in compared if c.side() == side)
    if verdict == HOLDS and not some and len(compared) > 1:
        largest = max(comparison.p for comparison in compared)
        why = f"all {len(compared)} comparisons above 0, largest p {largest:.2g} after Holm"
    why += f". {words}" if words else ""
    shown = decisive(compared, key=lambda comparison: comparison.value)
    return _result(shown.name, (shown.value, shown.low, shown.high), verdict, why)


def _confusions(mel: pd.DataFrame, clips: pd.DataFrame, bootstrap: dict) -> tuple[list, str]:
    """Compare claim 4's pairs, and say in words how they rank and which are absent."""
    genres = set(mel["y_true"])
    absent = ["/".join(pair) for pair in paper.CONFUSED_PAIRS if not set(pair) <= genres]
    rows = list(confused_pairs(mel, clips, **bootstrap).itertuples())
    ranks = ", ".join(f"{row.pair} {row.rank}" for row in rows)
    words = [f"Ranks among {comb(len(genres), 2)} pairs: {ranks}"] if ranks else []
    words += [f"Not in this data set: {', '.join(absent)}"] if absent else []
    compared = [_comparison(f"{row.pair} over other pairs", row) for row in rows]
    return compared, ". ".join(words) or "no other pair of genres to compare with"


def _level(mel: pd.DataFrame, accuracy: pd.Series, clips: pd.DataFrame, bootstrap: dict) -> tuple:
    """Judge claim 5; under the paper's protocol with what the artist oracle scores."""
    ends = intervals.cluster_intervals(mel, clips, **bootstrap).iloc[0]
    low, high = ends["accuracy_lo"], ends["accuracy_hi"]
    bar = evaluate.wilson_interval(RIGHT, TESTED)[0]
    verdict = HOLDS if low >= bar else FAILS if high < bar else UNDECIDED
    place = {HOLDS: "lies at or above", FAILS: "lies below", UNDECIDED: "reaches both sides of"}
    why = f"the interval {place[verdict]} {bar:.2f}, the lower end for the paper's 404 of 450"
    if mel["protocol"].iloc[0] == "random" and "oracle-artist" in accuracy:
        oracle = accuracy["oracle-artist"]
        why += f". Knowing the artist alone scores {oracle:.2f}"
        why += ": nothing is shown about genre" if accuracy[MEL] <= oracle else ""
    return _result(f"accuracy of {paper.LABELS[MEL]}", (accuracy[MEL], low, high), verdict, why)


def _own_numbers() -> tuple:
    """Judge claim 6."""
    scores = evaluate.paper_figure3_metrics()
    ours, theirs = (scores["accuracy"], scores["F-score"]), paper.TABLE1[MEL]
    verdict = HOLDS if tuple(round(x, 2) for x in ours) == theirs else FAILS
    why = "Fig. 3 gives accuracy {:.3f} and F-score {:.3f}, Table 1 says {:.2f} and {:.2f}"
    figures = RIGHT / TESTED, *evaluate.wilson_interval(RIGHT, TESTED)
    measured = f"accuracy from Fig. 3, {RIGHT} of {TESTED}"
    return _result(measured, figures, verdict, why.format(*ours, *theirs))
