"""Several answers to one question become one: clips of a song, systems on a clip."""

from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType

import pandas as pd

from genre_utils import paper
from genre_utils.data import splits
from genre_utils.errors import GenreUtilsError
from genre_utils.metrics.evaluate import KEY

CNNS = tuple(paper.TABLE1)[:3]
# Name -> what its mean probability is taken of (section 4; Bahuleyan 2018 for the last), label.
COMBINATIONS = MappingProxyType(
    {
        "fusion-cnns": (CNNS, "Mean of the CNNs"),
        "fusion-all": ((*CNNS, "svm-fair"), "Mean of CNNs and fair SVM"),
        "vgg+boosting": (("cnn-mel", "handcrafted-boosting"), "Mean of CNN (mel) and boosting"),
    }
)


def song_level(predictions: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Let the clips of a track vote for its genre.

    With probabilities, the genre of the highest mean probability wins; without, the most frequent
    answer, and of equally frequent ones that of the track's earliest clip (``start_s``). Under
    ``random`` the clips of a track come from different folds: models that have met the track's
    other clips vote as well.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv, whole protocols.
    clips : pd.DataFrame
        The clip table.

    Returns
    -------
    pd.DataFrame
        system, protocol, clip_id (of the earliest clip, which stands for the song), n_clips,
        y_true, y_pred; a track whose clips have two genres is a song of each.
    """
    about = clips[["clip_id", "start_s"]].assign(song=splits.groups(clips, "track"))
    table = predictions.merge(about, on="clip_id", validate="many_to_one")
    if len(table) < len(predictions):
        raise GenreUtilsError("some clips of the predictions are not in the clip table")
    table = table.sort_values(["start_s", "clip_id"], kind="stable")
    keys = [*KEY, "song", "y_true"]
    song, columns = table.groupby(keys, sort=False), _columns(table)
    result = song.agg(clip_id=("clip_id", "first"), n_clips=("clip_id", "size"))
    mean = song[columns].mean().dropna() if columns else result.iloc[:0]
    voting = table[~pd.MultiIndex.from_frame(table[keys]).isin(mean.index)]
    voted = voting.groupby(keys, sort=False)["y_pred"].agg(_vote)
    if len(mean):
        surest = mean.idxmax(axis=1).str.removeprefix("p_").rename("y_pred")
        voted = pd.concat([voted, surest])
    result = result.assign(y_pred=voted).reset_index()
    order = {pair: i for i, pair in enumerate(_pairs(predictions))}
    rank = pd.Series([order[pair] for pair in _pairs(result, unique=False)])
    result = result.assign(rank=rank).sort_values(["rank", "clip_id"], ignore_index=True)
    return result[[*KEY, "clip_id", "n_clips", "y_true", "y_pred"]]


def combine(predictions: pd.DataFrame, systems: Sequence[str], name: str) -> pd.DataFrame:
    """Make one system of several by the mean of their probabilities; nothing is fitted.

    Returns
    -------
    pd.DataFrame
        Rows of predictions.csv of the new system ``name``, for the folds that all of ``systems``
        have been tested on.

    Raises
    ------
    GenreUtilsError
        One of the systems is not there or has no probabilities, no fold is common to all, or they
        were tested on other clips of a fold.
    """
    used = predictions[predictions["system"].isin(systems)]
    columns = _columns(used)
    lacking = set(systems) - set(used.dropna(subset=columns)["system"] if columns else [])
    if lacking:
        raise GenreUtilsError(f"no probabilities of {', '.join(sorted(lacking))} to combine")
    pair = ["protocol", "fold"]
    used = used[used.groupby(pair)["system"].transform("nunique") == len(systems)]
    each = used.groupby([*pair, "clip_id", "y_true"], sort=False)
    if used.empty or (each.size() != len(systems)).any():
        raise GenreUtilsError(f"{', '.join(systems)} were not tested on the same clips and folds")
    mean = each[columns].mean()
    winner = mean.idxmax(axis=1).str.removeprefix("p_")
    table = mean.assign(system=name, y_pred=winner).reset_index()
    return table[["system", "protocol", "fold", "clip_id", "y_true", "y_pred", *columns]]


def combinations(predictions: pd.DataFrame) -> pd.DataFrame:
    """Make every system of `COMBINATIONS`; raises as `combine` does when one lacks its parts."""
    made = [combine(predictions, parts, name) for name, (parts, _) in COMBINATIONS.items()]
    return pd.concat(made, ignore_index=True)


def _vote(answers: pd.Series) -> str:
    return Counter(answers).most_common(1)[0][0]  # of equally frequent ones the first met


def _columns(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column.startswith("p_")]


def _pairs(table: pd.DataFrame, *, unique: bool = True) -> list[tuple[str, str]]:
    pairs = table[KEY].drop_duplicates() if unique else table[KEY]
    return list(pairs.itertuples(index=False, name=None))
