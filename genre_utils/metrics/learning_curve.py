"""What more artists to learn from would bring.

A corpus cannot show what a larger one would give. But leaving training artists out shows what a
smaller one gives, and how accuracy with new artists grows with the number of known ones.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from genre_utils.data import splits as protocols
from genre_utils.errors import UsageError
from genre_utils.metrics import intervals, votes
from genre_utils.models import systems
from genre_utils.store import Store

AT_LEAST = 2  # artists a genre: choices are made on inner folds, between artists
NEXT_SEED = 100  # cross-validation counts seeds up by fold


def some_artists(
    artist: np.ndarray, genre: np.ndarray, train: np.ndarray, train_size: float, seed: int = 0
) -> np.ndarray:
    """Choose a share of each genre's training artists, two at least.

    Of one seed, the artists of a smaller share are among those of a larger one. An artist with
    several genres counts for that of the first clip, and comes with all clips.

    Parameters
    ----------
    artist, genre : np.ndarray [shape=(n,)]
        Of each clip.
    train : np.ndarray [shape=(n,), dtype=bool]
        The clips that may be trained on.
    train_size : float
        More than 0, at most 1.

    Returns
    -------
    np.ndarray [shape=(n,), dtype=bool]
        The chosen artists' training clips.
    """
    shuffled = np.random.default_rng(seed).permutation(np.unique(artist))
    known = pd.Series(genre[train], artist[train])
    known = known[~known.index.duplicated()].reindex(shuffled).dropna()
    size = known.groupby(known).transform("size")
    place = known.groupby(known).cumcount()
    kept = known.index[place < (train_size * size).round().clip(lower=AT_LEAST)]
    return train & np.isin(artist, kept)


def with_fewer_artists(
    name: str, arrays: Callable[[str], Store], clips: pd.DataFrame, splits: pd.DataFrame, *,
    settings: dict[str, Any], train_sizes: Sequence[float], draws: int = 1, seed: int = 0,
    **how: Any,  # noqa: ANN401
) -> pd.DataFrame:  # fmt: skip
    """Test every clip with training parts that lack artists.

    Parameters
    ----------
    name, clips
        See `systems.cross_validate`.
    arrays : callable
        See `systems.load_rows`.
    splits : pd.DataFrame
        Folds of the protocol ``artist``.
    settings : dict
        Keyword arguments of the estimator.
    train_sizes : sequence of float
        Shares of the training artists, see `some_artists`; 1 is the whole training part.
    draws : int
        How often: each time other artists, and other seeds of the estimator.
    how
        ``root`` and ``fresh`` of `systems.cross_validate`.

    Returns
    -------
    pd.DataFrame
        Rows of predictions.csv; with train_size, draw, n_artists (trained on in that fold).

    Raises
    ------
    UsageError
        No draw or no share is asked for; what is left is too little to make choices on.
    """
    if draws < 1 or not train_sizes:
        raise UsageError(f"draws={draws}, train_sizes={train_sizes}: at least one of each")
    artist, genre = protocols.groups(clips, "artist").to_numpy(), clips["genre"].to_numpy()
    tables = []
    for draw, train_size, (_, fold) in product(range(draws), train_sizes, splits.groupby("fold")):
        test = clips["clip_id"].isin(fold["clip_id"]).to_numpy()
        train = some_artists(artist, genre, ~test, train_size, seed + draw)
        part = clips[train | test]
        rows, key = systems.load_rows(name, arrays, list(part["sha256"]))
        seeds = {s: settings[s] + NEXT_SEED * draw for s in ("seed", "inner_seed") if s in settings}
        tested, _ = systems.cross_validate(
            name, rows, part, fold, arrays_key=key, settings=settings | seeds, **how
        )
        known = {"train_size": train_size, "draw": draw, "n_artists": len(set(artist[train]))}
        tables.append(tested.assign(**known))
    return pd.concat(tables, ignore_index=True)


def learning_curve(
    predictions: pd.DataFrame, clips: pd.DataFrame, *,
    n_resamples: int = intervals.N_RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
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
        songs = [votes.song_level(one, clips) for _, one in part.groupby("draw")]
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
