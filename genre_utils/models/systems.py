"""The compared systems and their cross-validation.

A system is stored arrays (features or VGG maps) and a scikit-learn estimator that eats their rows.
A new system is one function and one line in `SYSTEMS`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from genre_utils.models import dense, head, svm
from genre_utils.models.head import HeadClassifier
from genre_utils.progress import progress
from genre_utils.store import code_version, digest, write_atomic


@dataclass(frozen=True)
class System:
    """One row of Table 1.

    Attributes
    ----------
    arrays : str
        Name of the stored arrays whose rows the estimator takes.
    make : callable
        Keyword settings -> estimator with ``fit`` and ``predict``.
    modules : tuple of module
        Where the estimator is written; their edited source means new results.
    libraries : tuple of str
        Packages that the results depend on.
    """

    arrays: str
    make: Callable[..., BaseEstimator]
    modules: tuple[ModuleType, ...]
    libraries: tuple[str, ...]


def _ecoc_svm(*, volume_threshold: float, coding: str) -> BaseEstimator:
    vectors = FunctionTransformer(svm.clip_vectors, kw_args={"threshold": volume_threshold})
    return make_pipeline(vectors, svm.EcocSVM(coding=coding))


def _cnn(feature: str) -> System:
    libraries = ("keras", "tensorflow", "numba", "numpy", "scipy")
    return System(f"vgg-{feature}", HeadClassifier, (head, dense), libraries)


SYSTEMS: dict[str, System] = {
    "cnn-mel": _cnn("mel"),
    "cnn-mfcc": _cnn("mfcc"),
    "cnn-chroma": _cnn("chroma"),
    "svm-mfcc": System("svm", _ecoc_svm, (svm,), ("scikit-learn", "numpy")),
}


def cross_validate(
    name: str, rows: np.ndarray, clips: pd.DataFrame, splits: pd.DataFrame, *,
    arrays_key: str, settings: dict[str, Any], root: Path, fresh: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Test every clip once under each protocol; each finished fold is kept on disk.

    Parameters
    ----------
    name : str
        A key of `SYSTEMS`.
    rows : np.ndarray [shape=(n, ...)]
        Stored arrays in the order of ``clips``.
    clips : pd.DataFrame
        clip_id, genre and sha256 (of the audio) of the n usable clips.
    splits : pd.DataFrame
        protocol, clip_id, fold.
    arrays_key : str
        Name of the store that ``rows`` came from; it stands for all their parameters.
    settings : dict
        Keyword arguments of the estimator. A ``seed`` among them is moved on by one each fold.
    root : Path
        Folder of the finished folds.
    fresh : bool
        Train again whatever is there.

    Returns
    -------
    predictions : pd.DataFrame
        system, protocol, fold, clip_id, y_true, y_pred and, where the system gives probabilities,
        one column ``p_<genre>`` a genre; ordered by protocol (as in ``splits``) and clip.
    history : pd.DataFrame
        system, protocol, fold, epoch, loss, accuracy of the training; empty without epochs.
    """
    genres = sorted(clips["genre"].unique())
    jobs = [
        (protocol, fold)
        for protocol, part in splits.groupby("protocol", sort=False)
        for fold in sorted(part["fold"].unique())
    ]
    tables, histories = [], []
    for protocol, fold in progress(jobs, name, unit="fold"):
        part = splits[splits["protocol"] == protocol].set_index("clip_id")["fold"]
        test = (clips["clip_id"].map(part) == fold).to_numpy()
        how = settings | ({"seed": settings["seed"] + int(fold)} if "seed" in settings else {})
        key = _fold_key(name, clips, test, arrays_key, how)
        done = _fold(SYSTEMS[name], rows, clips["genre"].to_numpy(), test, how, root / key, fresh)
        where = {"system": name, "protocol": protocol, "fold": int(fold)}
        tables.append(_predictions(clips[test], done, genres, where))
        histories.append(_history(done, where))
    predictions = pd.concat(tables).sort_values("clip_id", kind="stable")
    order = {protocol: i for i, protocol in enumerate(splits["protocol"].unique())}
    predictions = predictions.sort_values("protocol", key=lambda p: p.map(order), kind="stable")
    return predictions.reset_index(drop=True), pd.concat(histories, ignore_index=True)


def _fold_key(
    name: str, clips: pd.DataFrame, test: np.ndarray, arrays_key: str, settings: dict
) -> str:
    system = SYSTEMS[name]
    pairs = clips[["sha256", "genre"]].to_numpy().tolist()
    key = {
        "arrays": arrays_key,
        "settings": settings,
        "clips": pairs,
        "test": np.flatnonzero(test).tolist(),
        "code": code_version(*system.modules, sys.modules[__name__]),
        "libraries": {library: version(library) for library in system.libraries},
    }
    return f"{name}-{digest(key)[:24]}.npz"


def _fold(
    system: System, rows: np.ndarray, y: np.ndarray, test: np.ndarray, settings: dict, path: Path,
    fresh: bool,
) -> dict[str, np.ndarray]:  # fmt: skip
    if fresh or not path.is_file():
        estimator = system.make(**settings).fit(rows[~test], y[~test])
        result = {"classes": np.asarray(estimator.classes_, dtype=str)}
        if hasattr(estimator, "predict_proba"):
            result["proba"] = estimator.predict_proba(rows[test])
            result["predicted"] = result["classes"][result["proba"].argmax(axis=1)]
        else:
            result["predicted"] = np.asarray(estimator.predict(rows[test]), dtype=str)
        if hasattr(estimator, "history_"):
            result["history"] = estimator.history_
        write_atomic(path, lambda part: np.savez(part, **result))
    with np.load(path) as stored:
        return dict(stored)


def _predictions(
    clips: pd.DataFrame, done: dict[str, np.ndarray], genres: list[str], where: dict
) -> pd.DataFrame:
    table = pd.DataFrame({"clip_id": clips["clip_id"], "y_true": clips["genre"]})
    table["y_pred"] = done["predicted"]
    if "proba" in done:
        proba = pd.DataFrame(done["proba"], columns=done["classes"], index=table.index)
        for genre in genres:  # a genre absent from the training part has probability 0
            table[f"p_{genre}"] = proba[genre].round(6) if genre in proba else 0.0
    for i, (column, value) in enumerate(where.items()):
        table.insert(i, column, value)
    return table


def _history(done: dict[str, np.ndarray], where: dict) -> pd.DataFrame:
    history = done.get("history", np.empty((0, 2)))
    table = pd.DataFrame(history, columns=["loss", "accuracy"])
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    for i, (column, value) in enumerate(where.items()):
        table.insert(i, column, value)
    return table
