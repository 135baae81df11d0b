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
from genre_utils.metrics import intervals, votes
from genre_utils.models import systems
from genre_utils.store import Store

TRAIN_SIZES = (0.25, 0.5, 1.0)
AT_LEAST = 2  # artists a genre: choices are made on inner folds, between artists


def some_artists(
    clips: pd.DataFrame, train: np.ndarray, train_size: float, seed: int = 0
) -> np.ndarray:
    """Choose a share of each genre's training artists, two at least.

    Of one seed, the artists of a smaller share are among those of a larger one. An artist with
    several genres counts for that of the first clip, and comes with all clips.

    Parameters
    ----------
    clips : pd.DataFrame
        The n usable clips.
    train : np.ndarray [shape=(n,), dtype=bool]
        Those that may be trained on.
    train_size : float
        More than 0, at most 1.

    Returns
    -------
    np.ndarray [shape=(n,), dtype=bool]
        The chosen artists' training clips.
    """
    artist = protocols.groups(clips, "artist").to_numpy()
    shuffled = np.random.default_rng(seed).permutation(np.unique(artist))
    table = pd.DataFrame({"artist": artist, "genre": clips["genre"].to_numpy()})[train]
    genre = table.drop_duplicates("artist").set_index("artist")["genre"]
    genre = genre.reindex([name for name in shuffled if name in genre.index])
    size = genre.groupby(genre).transform("size")
    place = genre.groupby(genre).cumcount()
    kept = genre.index[place < (train_size * size).round().clip(lower=AT_LEAST)]
    return train & np.isin(artist, kept)


def with_fewer_artists(
    name: str, arrays: Callable[[str], Store], clips: pd.DataFrame, splits: pd.DataFrame, *,
    train_sizes: Sequence[float] = TRAIN_SIZES, draws: int = 1, seed: int = 0,
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
    train_sizes : sequence of float
        Shares of the training artists, see `some_artists`; 1 is the whole training part.
    draws : int
        How often artists are drawn.
    how
        ``settings``, ``root`` and ``fresh`` of `systems.cross_validate`.

    Returns
    -------
    pd.DataFrame
        Rows of predictions.csv; with train_size, draw, n_artists (trained on in that fold).
    """
    tables = []
    for draw, train_size, (_, fold) in product(range(draws), train_sizes, splits.groupby("fold")):
        test = clips["clip_id"].isin(fold["clip_id"]).to_numpy()
        train = some_artists(clips, ~test, train_size, seed + draw)
        part = clips[train | test]
        rows, key = systems.load_rows(name, arrays, list(part["sha256"]))
        tested, _ = systems.cross_validate(name, rows, part, fold, arrays_key=key, **how)
        n_artists = protocols.groups(clips[train], "artist").nunique()
        tables.append(tested.assign(train_size=train_size, draw=draw, n_artists=n_artists))
    return pd.concat(tables, ignore_index=True)


def learning_curve(
    predictions: pd.DataFrame, clips: pd.DataFrame, *,
    n_resamples: int = intervals.N_RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy by song over the number of artists, and a line through it.

    The line is straight over the logarithm of the number of artists (least squares). Intervals are
    of a bootstrap over test artists; which training artists are left out is chance as well, and not
    in them.

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
        accuracy_hi (by song, mean over draws, 95 %); the same in all rows of a system: gain,
        gain_lo, gain_hi (of the line for twice as many artists), twice, twice_lo, twice_hi (the
        line's accuracy at twice the artists of the largest part).
    """
    clusters, genres = intervals.artist_clusters(clips), sorted(set(predictions["y_true"]))
    tables = []
    for _, table in predictions.groupby("system", sort=False):
        points = table.groupby(["system", "train_size"], as_index=False)["n_artists"].mean()
        # Each draw has the same songs, so the mean of counts has the mean accuracy.
        counts = [
            np.mean([_counts(one, clips, clusters, genres) for _, one in part.groupby("draw")], 0)
            for _, part in table.groupby("train_size")
        ]
        found = np.array([intervals.scores(each.sum(axis=0))[0] for each in counts])
        drawn = intervals.draw(len(counts[0]), n_resamples, seed)
        drawn = np.array([intervals.scores(intervals.resample(each, drawn))[0] for each in counts])
        pairs = zip(drawn, found, strict=True)
        ends = [intervals.percentile(values, estimate=one) for values, one in pairs]
        points["accuracy"], points[["accuracy_lo", "accuracy_hi"]] = found, np.array(ends)
        lines = (_line(points["n_artists"], values) for values in (found[:, None], drawn))
        for name, one, many in zip(("gain", "twice"), *lines, strict=True):
            points[[name, f"{name}_lo", f"{name}_hi"]] = one[0], *intervals.percentile(many)
        tables.append(points)
    return pd.concat(tables, ignore_index=True).round(6)


def _counts(
    predictions: pd.DataFrame, clips: pd.DataFrame, clusters: pd.Series, genres: list[str]
) -> np.ndarray:
    songs = votes.song_level(predictions, clips)
    return intervals.confusion_counts(songs, clusters, genres)


def _line(n_artists: pd.Series, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope for a doubling, and value at twice the largest number, of accuracies [points, n]."""
    doublings = np.log2(n_artists.to_numpy())
    centred = doublings - doublings.mean()
    spread = centred @ centred
    slope = centred @ accuracy / spread if spread else np.full(accuracy.shape[1], np.nan)
    return slope, accuracy.mean(axis=0) + slope * (doublings.max() + 1 - doublings.mean())
