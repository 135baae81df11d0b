"""Explanations of tested clips, each by the head that had not heard it; kept on disk.

TensorFlow starts only where there is something to compute.
"""

from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from genre_utils.errors import GenreUtilsError
from genre_utils.extraction.features import to_image
from genre_utils.extraction.weights import Weights
from genre_utils.metrics.confused_pairs import pair_rates
from genre_utils.store import Rows, digest, remembered, source_version

MODULES = ("explain", "head", "dense", "saliency")  # in which explanations are written


def most_confused(predictions: pd.DataFrame, n: int = 1) -> list[tuple[str, str]]:
    """Return the n pairs of genres that are taken for each other most, as a share of their clips.

    Parameters
    ----------
    predictions : pd.DataFrame
        y_true, y_pred of one system under one protocol.
    """
    genres = sorted(set(predictions["y_true"]) | set(predictions["y_pred"]))
    counts = pd.crosstab(predictions["y_true"], predictions["y_pred"])
    counts = counts.reindex(index=genres, columns=genres, fill_value=0).to_numpy()
    pairs = list(combinations(range(len(genres)), 2))
    order = np.argsort(-pair_rates(counts, pairs), kind="stable")[:n]
    return [(genres[pairs[i][0]], genres[pairs[i][1]]) for i in order]


def examples(predictions: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Choose clips to be explained: of two genres that are confused, the surest right and wrong.

    Parameters
    ----------
    predictions : pd.DataFrame
        Rows of predictions.csv of one system with probabilities under one protocol.
    pairs : sequence of (genre, genre)

    Returns
    -------
    pd.DataFrame
        pair, kind ("right", "wrong"), clip_id, fold, y_true, y_pred, confidence: four rows a pair
        (right in each genre, wrong in each direction), fewer where no clip was answered so. Of
        equally sure clips the first by clip_id.

    Raises
    ------
    GenreUtilsError
        Several systems or protocols, or no probabilities.
    """
    if len(predictions[["system", "protocol"]].drop_duplicates()) != 1:
        raise GenreUtilsError("examples are chosen of one system under one protocol")
    table = predictions.sort_values("clip_id").reset_index(drop=True)
    columns = [f"p_{genre}" for genre in table["y_pred"]]
    if table.reindex(columns=sorted(set(columns))).isna().any(axis=None):
        raise GenreUtilsError(f"{table['system'].iloc[0]} has no probabilities to choose by")
    table["confidence"] = [table.at[i, column] for i, column in enumerate(columns)]
    rows = []
    for pair in pairs:
        cells = [("right", (g, g)) for g in pair] + [("wrong", way) for way in permutations(pair)]
        for kind, (true, answer) in cells:
            found = table[(table["y_true"] == true) & (table["y_pred"] == answer)]
            best = found.nlargest(1, "confidence")
            rows.append(best.assign(pair="/".join(pair), kind=kind))
    columns = ["pair", "kind", "clip_id", "fold", "y_true", "y_pred", "confidence"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def explained(
    chosen: pd.DataFrame, clips: pd.DataFrame, folds: pd.Series, maps: Rows,
    mel: np.ndarray, trunk: Weights, *, settings: dict[str, Any], look: dict[str, str], root: Path,
    patches: tuple[int, int],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Say of chosen clips what spoke for the genre that was answered.

    Parameters
    ----------
    chosen : pd.DataFrame
        From `examples`.
    clips : pd.DataFrame
        The n usable clips.
    folds : pd.Series
        Fold of each clip under the protocol of ``chosen``, indexed by clip_id.
    maps : Rows [shape=(n, 6, 19, 512)]
        VGG-16 maps that the heads are trained on, once more, for the folds of the chosen clips.
    mel : np.ndarray [shape=(len(chosen), 216, t)]
        Mel-spectrograms of the chosen clips.
    trunk : Weights
    settings : dict
        Of `HeadClassifier`, as in the cross-validation (``seed`` is moved on by the fold).
    look : dict
        mel_scale, channels and preprocessing, as the maps were made.
    root : Path
        Folder that keeps the result.
    patches : (rows, columns)
        Of `explain.occlusion`.

    Returns
    -------
    dict
        "gradient" (`explain.grad_cam`) and "occlusion" of each chosen clip
        [len(chosen), 216, t]; the `explain.randomised` maps of the first clip under their names
        after "sanity: ".
    """
    key = {
        "chosen": chosen.drop(columns="confidence").to_numpy().tolist(),
        "clips": clips[["sha256", "genre"]].to_numpy().tolist(),
        "folds": [int(fold) for fold in clips["clip_id"].map(folds)],
        "weights": trunk.digest, "settings": settings, "look": look, "patches": list(patches),
        "code": source_version(f"genre_utils.models.{name}" for name in MODULES),
    }  # fmt: skip
    path = root / f"saliency-{digest(key)[:24]}.npz"
    how = (settings, look, patches)
    return remembered(path, lambda: _maps(chosen, clips, folds, maps, mel, trunk, *how))


def _maps(
    chosen: pd.DataFrame, clips: pd.DataFrame, folds: pd.Series, maps: Rows,
    mel: np.ndarray, trunk: Weights, settings: dict, look: dict, patches: tuple[int, int],
) -> dict[str, np.ndarray]:  # fmt: skip
    from genre_utils.models import explain  # TensorFlow
    from genre_utils.models.head import HeadClassifier

    y, fold_of = clips["genre"].to_numpy(), clips["clip_id"].map(folds).to_numpy()
    how = {"scale": look["mel_scale"], "channels": look["channels"]}
    images = [to_image(each, "mel", **how) for each in mel]
    result = {"gradient": np.zeros(mel.shape, np.float32), "occlusion": np.zeros(mel.shape)}
    for fold, rows in chosen.reset_index(drop=True).groupby("fold"):
        train = fold_of != fold
        own = settings | {"seed": settings["seed"] + int(fold)}
        trained = HeadClassifier(**own).fit(maps[train], y[train])
        shape = images[0].shape[:2]
        network = explain.Network(trunk.arrays, trained, shape, look["preprocessing"])
        for i, genre in rows["y_pred"].items():
            result["gradient"][i] = explain.grad_cam(network, images[i], genre)
            result["occlusion"][i] = explain.occlusion(network, images[i], genre, patches)
            if i == 0:
                found = explain.randomised(network, images[i], genre, settings["seed"])
                result |= {f"sanity: {name}": each for name, each in found.items()}
    return result


def rank_correlations(maps: dict[str, np.ndarray]) -> pd.Series:
    """Spearman's correlation of each map's pixels with the first map's, by name; 1 for itself.

    NaN where a map has one value everywhere: it has no ranks.
    """
    first = next(iter(maps.values()))
    return pd.Series({name: _spearman(first, each) for name, each in maps.items()})


def _spearman(one: np.ndarray, two: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(spearmanr(one, two, axis=None).statistic)
