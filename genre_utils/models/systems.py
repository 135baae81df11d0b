"""The compared systems: stored arrays and the estimator that takes their rows.

A system is stored arrays (features, VGG maps, embeddings) and a scikit-learn estimator that eats
their rows. A new system is one function and one line in `SYSTEMS`.

Cross-validation of the systems in `registry`; every finished fold is kept on disk.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from genre_utils import paper
from genre_utils.data import splits as protocols
from genre_utils.models import estimators as classic
from genre_utils.models import estimators as combine
from genre_utils.models import estimators as fair_svm
from genre_utils.models import svm
from genre_utils.runtime import each
from genre_utils.store import Rows, Store, digest, source_version, write_atomic


# ---- models.registry ----
@dataclass(frozen=True)
class System:
    """One row of the table of results.

    Attributes
    ----------
    arrays : tuple of str
        Names of the stored arrays that the estimator takes.
    make : callable
        Keyword settings -> estimator with ``fit`` and ``predict``. With ``predict_proba`` its
        probabilities are kept, with ``history_`` or ``choice_`` what it learned or chose.
    modules : tuple of str
        Modules of this package that it is written in; their edited source means new results.
        (Names, so that finished folds are read without importing TensorFlow.)
    libraries : tuple of str
        Packages that the results depend on.
    label : str
        Its name in tables and figures.
    grouped : bool
        ``fit`` also takes ``groups``: the training clips' groups of the outer protocol, for inner
        cross-validation.
    """

    arrays: tuple[str, ...]
    make: Callable[..., BaseEstimator]
    modules: tuple[str, ...]
    libraries: tuple[str, ...]
    label: str
    grouped: bool = False


def _head(**settings: Any) -> BaseEstimator:  # noqa: ANN401
    from genre_utils.models.cnn import HeadClassifier  # TensorFlow

    return HeadClassifier(**settings)


def _windows(**settings: Any) -> BaseEstimator:  # noqa: ANN401
    return combine.Windows(_head(**settings))


def _block3_windows(**how: int) -> BaseEstimator:
    return combine.Windows(classic.svm_of(classic.POOLED[0])(**how))


def _calibrated(*, inner_folds: int, inner_seed: int = 0, **settings: Any) -> BaseEstimator:  # noqa: ANN401
    how = {"inner_folds": inner_folds, "inner_seed": inner_seed}
    return combine.TemperatureScaled(_head(**settings), **how)


def _tuned(**settings: Any) -> BaseEstimator:  # noqa: ANN401
    from genre_utils.models.cnn import FineTuneClassifier  # TensorFlow

    return FineTuneClassifier(**settings)


def _ecoc_svm(*, volume_threshold: float, coding: str) -> BaseEstimator:
    vectors = FunctionTransformer(svm.clip_vectors, kw_args={"threshold": volume_threshold})
    return make_pipeline(vectors, svm.EcocSVM(coding=coding))


def _classic(make: Callable, label: str, *arrays: str, grouped: bool = True) -> System:
    modules = ("models.classic", *NESTED, "models.combine")
    return System(arrays, make, modules, SKLEARN, label, grouped)


HEAD = ("models.head", "models.dense")
TUNED = ("models.finetune", *HEAD, "extraction.vgg", "extraction.features")
NESTED = ("models.nested", "metrics.calibration")
FAIR = ("models.fair_svm", *NESTED, "models.svm")
ALL = ("pooled-mel", "handcrafted", "musicnn")
KERAS = ("keras", "tensorflow", "numba", "numpy", "scipy")
SKLEARN = ("scikit-learn", "numpy", "scipy")
LABELS = paper.SYSTEM_LABELS
SYSTEMS: dict[str, System] = {
    "cnn-mel": System(("vgg-mel",), _head, HEAD, KERAS, LABELS["cnn-mel"]),
    "cnn-mfcc": System(("vgg-mfcc",), _head, HEAD, KERAS, LABELS["cnn-mfcc"]),
    "cnn-chroma": System(("vgg-chroma",), _head, HEAD, KERAS, LABELS["cnn-chroma"]),
    "svm-mfcc": System(("svm",), _ecoc_svm, ("models.svm",), SKLEARN, LABELS["svm-mfcc"]),
    fair_svm.SYSTEM: System(
        ("svm-long",),
        fair_svm.make,
        FAIR,
        (*SKLEARN, "librosa"),
        "SVM, treated fairly",
        grouped=True,
    ),
    "stacking": System(
        ("vgg-mel", "vgg-mfcc", "vgg-chroma", "svm-long"),
        combine.stacking,
        (*HEAD, *FAIR, "models.combine"),
        (*KERAS, "scikit-learn", "librosa"),
        "Stacking of CNNs and fair SVM",
        grouped=True,
    ),
    "cnn-mel-tuned5": System(("block4-mel",), _tuned, TUNED, KERAS, "CNN+Mel, block 5 fine-tuned"),
    "cnn-mel-tuned-all": System(("mel",), _tuned, TUNED, KERAS, "CNN+Mel, all blocks fine-tuned"),
    "cnn-mel-windows": System(
        ("vgg-mel", "vgg-mel-last"),
        _windows,
        (*HEAD, "models.combine"),
        KERAS,
        "CNN+Mel, first and last 20 s",
    ),
    "cnn-mel-calibrated": System(
        ("vgg-mel",),
        _calibrated,
        (*HEAD, *NESTED, "models.combine"),
        KERAS,
        "CNN+Mel, calibrated",
        grouped=True,
    ),
    "pooled-svm": _classic(classic.svm_of(*classic.POOLED), "VGG blocks 3-5, SVM", "pooled-mel"),
    "block3-svm": _classic(classic.svm_of(classic.POOLED[0]), "VGG block 3, SVM", "pooled-mel"),
    "block3-svm-windows": _classic(
        _block3_windows, "VGG block 3, SVM, first and last 20 s", "pooled-mel", "pooled-mel-last"
    ),
    "pooled-lda": _classic(
        classic.lda_of(*classic.POOLED, root=True), "VGG blocks 3-5, LDA", "pooled-mel"
    ),
    "handcrafted-logreg": _classic(
        classic.logistic_of("handcrafted"), "Hand-crafted, logistic regression", "handcrafted"
    ),
    "handcrafted-forest": _classic(
        classic.forest, "Hand-crafted, forest", "handcrafted", grouped=False
    ),
    "handcrafted-svm": _classic(classic.svm_of("handcrafted"), "Hand-crafted, SVM", "handcrafted"),
    "handcrafted-boosting": _classic(
        classic.boosting, "Hand-crafted, boosting", "handcrafted", grouped=False
    ),
    "musicnn-svm": _classic(classic.svm_of(*classic.MUSICNN), "musicnn, SVM", "musicnn"),
    "musicnn-lda": _classic(classic.lda_of(*classic.MUSICNN), "musicnn, LDA", "musicnn"),
    "musicnn+handcrafted": _classic(
        classic.svm_of(*classic.MUSICNN, "handcrafted"),
        "musicnn + hand-crafted, SVM",
        "musicnn",
        "handcrafted",
    ),
    "musicnn+handcrafted-lda": _classic(
        classic.lda_of(*classic.MUSICNN, "handcrafted"),
        "musicnn + hand-crafted, LDA",
        "musicnn",
        "handcrafted",
    ),
    "all-features": _classic(
        classic.svm_of(*classic.MUSICNN, "handcrafted", *classic.POOLED),
        "All features, SVM",
        *ALL,
    ),
    "chosen-vgg": _classic(
        combine.chosen_of(classic.vgg_candidates), "Chosen among VGG only", "pooled-mel"
    ),
    "chosen": _classic(combine.chosen_of(classic.candidates), "Chosen among all", *ALL),
}


# ---- models.systems ----
def load_rows(
    name: str, arrays: Callable[[str], Store], ids: Sequence[str]
) -> tuple[Rows | np.ndarray, str]:
    """Return what a system takes.

    Parameters
    ----------
    name : str
        A key of `SYSTEMS`.
    arrays : callable
        Name of stored arrays -> their store (`Run.arrays`, or a dictionary's ``__getitem__``).
    ids : sequence of str
        Digests of the clips' audio.

    Returns
    -------
    rows : Rows [shape=(n, ...)] or np.ndarray [shape=(n,)]
        One array is left on disk until it is indexed; several are a structured array in memory
        with a field for each.
    arrays_key : str
        The stores' names, for `cross_validate`.
    """
    stores = {part: arrays(part) for part in SYSTEMS[name].arrays}
    key = "+".join(store.folder.name for store in stores.values())
    if len(stores) == 1:
        return next(iter(stores.values())).rows(ids), key
    return structured({part: store.load(ids) for part, store in stores.items()}), key


def structured(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Put arrays [n, ...] side by side: a structured array [shape=(n,)] with a field for each."""
    dtype = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    rows = np.empty(len(next(iter(arrays.values()))), dtype)
    for name, array in arrays.items():
        rows[name] = array
    return rows


def cross_validate(
    name: str,
    rows: Rows | np.ndarray,
    clips: pd.DataFrame,
    splits: pd.DataFrame,
    *,
    arrays_key: str,
    settings: dict[str, Any],
    root: Path,
    jobs: int = 1,
    fresh: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every clip of the folds once under each protocol; a finished fold is kept on disk.

    Parameters
    ----------
    name : str
        A key of `SYSTEMS`.
    rows : Rows or np.ndarray [shape=(n, ...)]
        Stored arrays in the order of ``clips``, see `load_rows`.
    clips : pd.DataFrame
        The n usable clips: clip_id, genre, sha256 (of the audio); for a grouped system artist,
        album and track as well.
    splits : pd.DataFrame
        protocol, clip_id, fold. All protocols and folds, or some: all clips that are not in a
        fold train for it.
    arrays_key : str
        Names of the stores that ``rows`` came from; they stand for all their parameters.
    settings : dict
        Keyword arguments of the estimator. A ``seed`` among them is moved on by one each fold.
    root : Path
        Folder of the finished folds.
    jobs : int
        Folds that are trained at once. The CNNs use all processors in one.
    fresh : bool
        Train again whatever is there.

    Returns
    -------
    predictions : pd.DataFrame
        system, protocol, fold, clip_id, y_true, y_pred and, where the system gives probabilities,
        one column ``p_<genre>`` a genre; ordered by protocol (as in ``splits``) and clip.
        ``attrs["seconds"]`` is how long the folds took, training and testing, when they were made.
    history : pd.DataFrame
        system, protocol, fold, then epoch, loss, accuracy of the training, a row an epoch; or of
        a system that chooses, what it chose; else empty.
    """
    system, y = SYSTEMS[name], clips["genre"].to_numpy()
    folds, todo, made_of = [], [], _made_of(name, clips, arrays_key)
    for protocol, part in splits.groupby("protocol", sort=False):
        fold = clips["clip_id"].map(part.set_index("clip_id")["fold"]).to_numpy()
        groups = protocols.groups(clips, protocol).to_numpy() if system.grouped else None
        for i in sorted(part["fold"].unique()):
            test, where = fold == i, {"system": name, "protocol": protocol, "fold": int(i)}
            how = settings | ({"seed": settings["seed"] + int(i)} if "seed" in settings else {})
            key = made_of | {
                "settings": how,
                "test": np.flatnonzero(test).tolist(),
                "groups": None if groups is None else groups.tolist(),
            }
            path = root / f"{name}-{digest(key)[:24]}.npz"
            folds.append((test, where, path))
            if fresh or not path.is_file():
                todo.append((system, rows, y, test, groups, how, path))
    each(_fold, todo, jobs=jobs, desc=name, unit="fold")
    genres = sorted(set(y))
    tables, histories, seconds = [], [], 0.0
    for test, where, path in folds:
        with np.load(path) as stored:
            done = dict(stored)
        tables.append(_predictions(clips[test], done, genres, where))
        histories.append(_history(done, where))
        seconds += float(done["seconds"])
    predictions = pd.concat(tables).sort_values("clip_id", kind="stable")
    order = {protocol: i for i, protocol in enumerate(splits["protocol"].unique())}
    predictions = predictions.sort_values("protocol", key=lambda p: p.map(order), kind="stable")
    predictions = predictions.reset_index(drop=True)
    predictions.attrs["seconds"] = seconds
    return predictions, pd.concat(histories, ignore_index=True)


def _made_of(name: str, clips: pd.DataFrame, arrays_key: str) -> dict:
    """Return what the answers of all folds depend on."""
    system = SYSTEMS[name]
    modules = [f"genre_utils.{module}" for module in (*system.modules, "models.systems")]
    return {
        "arrays": arrays_key,
        "clips": clips[["sha256", "genre"]].to_numpy().tolist(),
        "code": source_version(modules),
        "libraries": {library: version(library) for library in system.libraries},
    }


def _fold(
    system: System,
    rows: Rows | np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    groups: np.ndarray | None,
    settings: dict,
    path: Path,
) -> None:
    """Train for one fold, test it, and keep the answers."""
    start = time.monotonic()
    known = {} if groups is None else {"groups": groups[~test]}
    estimator = system.make(**settings).fit(rows[~test], y[~test], **known)
    result = {
        "classes": np.asarray(estimator.classes_, dtype=str),
        "predicted": np.asarray(estimator.predict(rows[test]), dtype=str),
    }
    if hasattr(estimator, "predict_proba"):
        result["proba"] = estimator.predict_proba(rows[test])
    if hasattr(estimator, "history_"):
        result["history"] = estimator.history_
    if hasattr(estimator, "choice_"):
        result["choice"] = np.array(json.dumps(estimator.choice_))
    result["seconds"] = np.array(time.monotonic() - start)
    write_atomic(path, lambda part: np.savez(part, **result))


def _predictions(
    clips: pd.DataFrame, done: dict[str, np.ndarray], genres: list[str], where: dict
) -> pd.DataFrame:
    table = pd.DataFrame({"clip_id": clips["clip_id"], "y_true": clips["genre"]})
    table["y_pred"] = done["predicted"]
    if "proba" in done:
        proba = pd.DataFrame(done["proba"], columns=done["classes"], index=table.index)
        for genre in genres:  # a genre absent from the training part has probability 0
            table[f"p_{genre}"] = proba.get(genre, 0.0)
    return _placed(table, where)


def _history(done: dict[str, np.ndarray], where: dict) -> pd.DataFrame:
    if "choice" in done:
        return _placed(pd.DataFrame([json.loads(str(done["choice"]))]), where)
    history = done.get("history", np.empty((0, 2)))
    table = pd.DataFrame(history, columns=["loss", "accuracy"])
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    return _placed(table, where)


def _placed(table: pd.DataFrame, where: dict) -> pd.DataFrame:
    for i, (column, value) in enumerate(where.items()):
        table.insert(i, column, value)
    return table
