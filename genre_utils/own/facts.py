"""What is known of a model and goes with it: data, features, and how good it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from genre_utils.data import datasets
from genre_utils.errors import GenreUtilsError
from genre_utils.extraction.weights import DIGEST
from genre_utils.metrics import evaluate, intervals
from genre_utils.metrics.calibration import apply_temperature
from genre_utils.store import Store

SURE = 0.5  # the model card says how good answers above this confidence are


def estimate(
    proba: np.ndarray, temperature: float, used: pd.DataFrame, folds: int
) -> dict[str, Any]:
    """Say how good the answers to unknown artists were, with 95 % intervals over artists.

    Parameters
    ----------
    proba : np.ndarray [shape=(n, n_classes)]
        Of each clip, from a model that has not heard its artist.
    temperature : float
        Fitted on them.
    used : pd.DataFrame
        The n clips.
    """
    genres = np.unique(used["genre"].to_numpy(dtype=str))
    calibrated = apply_temperature(proba, temperature)
    answers = used[["clip_id"]].assign(
        system="model", protocol="artist", y_true=used["genre"],
        y_pred=genres[calibrated.argmax(axis=1)],
    )  # fmt: skip
    right = (answers["y_true"] == answers["y_pred"]).to_numpy()
    sure = calibrated.max(axis=1) >= SURE
    interval = intervals.cluster_intervals(answers, used).iloc[0]
    return {
        "accuracy": float(right.mean()),
        "accuracy_lo": float(interval["accuracy_lo"]),
        "accuracy_hi": float(interval["accuracy_hi"]),
        "f_score": evaluate.f_score(answers["y_true"], answers["y_pred"]),
        "n_artists": int(interval["n_artists"]),
        "folds": folds,
        "recall": {str(g): float(right[(used["genre"] == g).to_numpy()].mean()) for g in genres},
        "sure": {
            "confidence": SURE, "share": float(sure.mean()),
            "accuracy": float(right[sure].mean()) if sure.any() else None,
        },
    }  # fmt: skip


def heard(clips: pd.DataFrame) -> dict[str, Any]:
    """Return what a model of this clip table has heard, and what was left out."""
    known = datasets.get(clips["dataset"].iloc[0])
    used, refused = clips[clips["status"] == "ok"], clips[clips["status"] != "ok"]
    by_genre = used.groupby("genre")
    named = used[used["artist"] != ""].groupby("genre")["artist"].nunique()
    return {
        "dataset": known.name, "title": known.title, "synthetic": known.synthetic,
        "licence": known.licence, "citation": known.citation, "clips": len(used),
        "genres": {
            str(g): {"clips": len(part), "artists": int(named.get(g, 0))} for g, part in by_genre
        },
        "refused": {str(why): int(n) for why, n in refused["status"].value_counts().items()},
    }  # fmt: skip


def recipe(store: Store) -> dict[str, Any]:
    """How rows of a store are made from sound: what `Predictor` must repeat with a new file.

    Raises
    ------
    GenreUtilsError
        The store's key, or that of the features it was made from, is gone.
    """
    maps = _key(store.folder)
    mel = _key(store.folder.parent / maps["features"])
    return {
        "array": store.folder.name.rpartition("-")[0],
        **{name: mel["audio"][name] for name in ("offset", "fill")},
        "mel_scale": mel["scale"],
        **{name: maps[name] for name in ("channels", "preprocessing", "precision", "weights")},
        "untrained": maps["weights"] != DIGEST,
    }


def _key(folder: Path) -> dict[str, Any]:
    path = folder / "key.txt"
    if not path.is_file():
        raise GenreUtilsError(f"no {path}; run the earlier notebooks again")
    return json.loads(path.read_text(encoding="utf-8"))
