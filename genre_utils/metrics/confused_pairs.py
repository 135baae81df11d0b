"""Which two genres are taken for each other, and whether more than others (section 3.2)."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.metrics import intervals

MIN_EXPECTED = 10
COLUMNS = ["pair", "rate", "rank", "difference", "lo", "hi", "p_artist"]


def pair_rates(counts: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Share of the clips of two genres that got the other's name.

    Parameters
    ----------
    counts : np.ndarray [shape=(..., n_genres, n_genres)]
        Confusion matrices; rows are true genres.
    pairs : sequence of (int, int)
        Rows of the two genres.

    Returns
    -------
    np.ndarray [shape=(..., n_pairs)]
        0 where neither genre has a clip.
    """
    first, second = np.array(pairs).T
    swapped = counts[..., first, second] + counts[..., second, first]
    of_genre = counts.sum(axis=-1)
    return swapped / np.maximum(of_genre[..., first] + of_genre[..., second], 1)


def confused_pairs(
    predictions: pd.DataFrame, clips: pd.DataFrame, *,
    n_resamples: int = intervals.N_RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Compare each pair of genres that the paper names with the pairs that it does not name.

    Parameters
    ----------
    predictions : pd.DataFrame
        clip_id, y_true, y_pred of one system under one protocol.
    clips : pd.DataFrame
        The clip table.

    Returns
    -------
    pd.DataFrame
        A row for each of `paper.CONFUSED_PAIRS` of which both genres occur: pair, rate (see
        `pair_rates`), rank (1: the most confused of all pairs), difference from the mean rate of
        the pairs not named, its 95 % interval by artists (lo, hi) and p_artist, not adjusted.
        A pair is not called rarer (p_artist is 1) where the others' rate would have given it fewer
        than `MIN_EXPECTED` wrong answers: no resample holds an error that was never seen. Empty
        when no pair, or no other pair, is there.
    """
    genres = sorted(predictions["y_true"].unique())
    places = list(combinations(range(len(genres)), 2))
    known = {frozenset(pair) for pair in paper.CONFUSED_PAIRS}
    named = np.array([{genres[a], genres[b]} in known for a, b in places], dtype=bool)
    if not named.any() or named.all():
        return pd.DataFrame(columns=COLUMNS)
    counts = intervals.confusion_counts(predictions, intervals.artist_clusters(clips), genres)
    rates = pair_rates(counts.sum(axis=0), places)
    drawn = intervals.draw(len(counts), n_resamples, seed)
    resampled = pair_rates(intervals.resample(counts, drawn), places)
    rest, rests = rates[~named].mean(), resampled[:, ~named].mean(axis=1)
    of_genre = counts.sum(axis=(0, 2))
    rank = pd.Series(-rates).rank(method="min").astype(int)
    rows = []
    for i in np.flatnonzero(named):
        excess = resampled[:, i] - rests
        pair, difference = "/".join(genres[place] for place in places[i]), float(rates[i] - rest)
        few = rest * of_genre[list(places[i])].sum() < MIN_EXPECTED
        p = 1.0 if few and difference < 0 else intervals.bootstrap_p(excess)
        rows.append((pair, rates[i], rank[i], difference, *intervals.percentile(excess), p))
    return pd.DataFrame(rows, columns=COLUMNS)
