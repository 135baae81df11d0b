"""The compared systems, and their cross-validation; every finished fold is kept on disk.

A system is the names of stored arrays and a function of settings that makes a scikit-learn
estimator, which takes rows as `estimators.structured` makes them. A new system is one line in
`SYSTEMS`. The estimator itself, and the code of its parts, are the key of a finished fold.
"""

import json
import pickle
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from genre_utils.extraction import vgg
from genre_utils.models import svm
from genre_utils.models.estimators import (
    Chosen,
    FirstComponents,
    GaussianSVM,
    InnerFolds,
    Search,
    Windows,
    log_probabilities,
    pick,
    structured,
    weigh,
)
from genre_utils.runtime import GenreUtilsError, UsageError, each
from genre_utils.store import Rows, Store, code_digest, digest, read_npz, write_atomic

POOLED = tuple(f"pooled-mel/{block}" for block in vgg.POOLS)
MUSICNN = ("musicnn/penultimate_mean", "musicnn/penultimate_std")
# Times the mean squared difference of the standardised columns (scikit-learn's gamma times the
# number of columns; 1 is its "scale"). The more columns, the wider the best kernel.
GAMMA = (0.03, 0.1, 0.3, 1.0)
FAIR_GAMMA = tuple(52 * gamma for gamma in (0.002, 0.006, 0.02, 0.06))
AT_LEAST = 2  # artists a genre: choices are made on inner folds, between artists
NEXT_SEED = 100  # cross-validation counts seeds up by fold


@dataclass(frozen=True)
class System:
    """A compared system.

    Attributes
    ----------
    arrays : tuple of str
        Names of the stored arrays that the estimator takes.
    make : callable
        Keyword settings -> estimator with ``fit`` and ``predict``. With ``predict_proba`` its
        probabilities are kept, with ``choice_`` what it chose, with ``history_`` (of the last step
        of a pipeline) what it learned.
    """

    arrays: tuple[str, ...]
    make: Callable[..., BaseEstimator]


def _field(name: str) -> FunctionTransformer:
    return FunctionTransformer(pick, kw_args={"name": name})


def _fields(names: Sequence[str], *steps: BaseEstimator) -> FeatureUnion:
    """Fields, or parts of them, side by side, each behind steps of its own."""
    return FeatureUnion([(name, make_pipeline(_field(name), *steps)) for name in names])


def _cnn(field: str, **settings: Any) -> Pipeline:  # noqa: ANN401
    from genre_utils.models.cnn import HeadClassifier

    return make_pipeline(_field(field), HeadClassifier(**settings))


def _tuned(field: str, **settings: Any) -> Pipeline:  # noqa: ANN401
    from genre_utils.models.cnn import FineTuneClassifier

    return make_pipeline(_field(field), FineTuneClassifier(**settings))


def _windows(make: Callable, *fields: str, **settings: Any) -> Windows:  # noqa: ANN401
    return Windows(make(**settings), fields)


def _calibrated(*, inner_folds: int = 3, inner_seed: int = 0, **settings: Any) -> BaseEstimator:  # noqa: ANN401
    """Temperature scaling (Guo et al., ICML 2017) by answers to inner test clips."""
    how = {"method": "temperature", "ensemble": False, "cv": InnerFolds(inner_folds, inner_seed)}
    return CalibratedClassifierCV(_cnn("vgg-mel", **settings), **how)


def _ecoc_svm(*, volume_threshold: float, coding: str) -> Pipeline:
    vectors = FunctionTransformer(svm.clip_vectors, kw_args={"threshold": volume_threshold})
    return make_pipeline(_field("svm"), vectors, svm.EcocSVM(coding=coding))


def _search(
    vectors: BaseEstimator,
    classifier: BaseEstimator,
    grid: dict,
    *,
    inner_folds: int = 3,
    inner_seed: int = 0,
) -> Search:
    pipeline = Pipeline([("vectors", vectors), ("classifier", classifier)])
    return Search(pipeline, grid, cv=InnerFolds(inner_folds, inner_seed))


def _svm(*names: str, gamma: Sequence[float] = GAMMA, **inner: int) -> Search:
    """Gaussian kernel on standardised fields; each field weighs the same, however wide it is."""
    scaled = StandardScaler(), FunctionTransformer(weigh, kw_args={"n_blocks": len(names)})
    grid = {"classifier__C": (0.1, 1.0, 10.0, 100.0), "classifier__gamma": gamma}
    return _search(_fields(names, *scaled), GaussianSVM(), grid, **inner)


def _fair_svm(*, volume_threshold: float = -40.0, **inner: int) -> Pipeline:
    """How far an SVM gets on MFCC when it is treated like the CNNs.

    The paper's baseline (section 2.5) was cut down to save time: half of each clip, nothing
    standardised, one linear kernel. Here the same 13 MFCC of the same 20 s that the CNNs see, with
    their changes over time, standardised, a Gaussian kernel, and its two parameters chosen.
    """
    vectors = FunctionTransformer(fair_rows, kw_args={"threshold": volume_threshold})
    return make_pipeline(vectors, _svm("svm-long", gamma=FAIR_GAMMA, **inner))


def fair_rows(rows: np.ndarray, threshold: float) -> np.ndarray:
    """Structured rows with the vectors of `svm.clip_vectors` in place of the frames."""
    vectors = svm.clip_vectors(rows["svm-long"], threshold, slopes=True)
    return structured({"svm-long": vectors}, rows["group"])


def _logistic(*names: str, **inner: int) -> Search:
    # More columns than clips are turned, without loss, into as many: a penalty on the weights'
    # length does not see a rotation.
    vectors = make_pipeline(_fields(names), StandardScaler(), PCA())
    grid = {"classifier__C": (0.0001, 0.001, 0.01, 0.1)}
    return _search(vectors, LogisticRegression(max_iter=1000), grid, **inner)


def _lda(*names: str, root: bool = False, **inner: int) -> Search:
    """Linear discriminant analysis on a few principal components.

    Some seventy training artists support few directions. The covariance is shrunk as far as
    Ledoit and Wolf (2004) compute, so the number of components is the only choice. ``root`` takes
    square roots of the columns first, for those that are heavy-tailed and not negative.
    """
    roots = [FunctionTransformer(np.sqrt)] if root else []
    vectors = [("fields", make_pipeline(_fields(names), *roots, StandardScaler()))]
    vectors = Pipeline([*vectors, ("components", FirstComponents())])
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    grid = {"vectors__components__n_components": (10, 20, 50)}
    return _search(vectors, classifier, grid, **inner)


def _forest(*, seed: int = 0) -> Pipeline:
    forest = RandomForestClassifier(n_estimators=500, random_state=seed)
    return make_pipeline(_field("handcrafted"), forest)


def _boosting(*, seed: int = 0) -> Pipeline:
    """Boosted trees, small and slow ones: a corpus has some hundred clips."""
    small = {"max_leaf_nodes": 8, "min_samples_leaf": 10, "early_stopping": False}
    trees = HistGradientBoostingClassifier(max_iter=100, random_state=seed, **small)
    return make_pipeline(_field("handcrafted"), trees)


def _stacking(
    *,
    epochs: int,
    epochs_small: int,
    pooling: str = "flatten",
    seed: int = 0,
    volume_threshold: float = -40.0,
    inner_folds: int = 2,
    inner_seed: int = 0,
) -> StackingClassifier:
    """Logistic regression on the log-probabilities of three CNNs and the fair SVM (Wolpert 1992).

    It learns from answers to inner test clips; then the systems are trained again on all.
    """
    lengths = {"vgg-mel": epochs, "vgg-mfcc": epochs_small, "vgg-chroma": epochs_small}
    bases = [
        (field, _cnn(field, epochs=length, pooling=pooling, seed=seed))
        for field, length in lengths.items()
    ]
    bases.append(("svm-long", _fair_svm(volume_threshold=volume_threshold, inner_seed=inner_seed)))
    judge = make_pipeline(FunctionTransformer(log_probabilities), LogisticRegression(max_iter=1000))
    folds = InnerFolds(inner_folds, inner_seed)
    return StackingClassifier(bases, judge, cv=folds, stack_method="predict_proba")


def _chosen(candidates: dict[str, Callable[..., Search]], **inner: int) -> Chosen:
    return Chosen({name: make(**inner) for name, make in candidates.items()})


_VGG = {
    "pooled-svm": partial(_svm, *POOLED),
    "block3-svm": partial(_svm, POOLED[0]),
    "block4-svm": partial(_svm, POOLED[1]),
    "blocks3+4-svm": partial(_svm, *POOLED[:2]),
    "pooled-lda": partial(_lda, *POOLED, root=True),
}
_OTHERS = {
    "handcrafted-svm": partial(_svm, "handcrafted"),
    "musicnn-svm": partial(_svm, *MUSICNN),
    "musicnn-logreg": partial(_logistic, *MUSICNN),
    "musicnn-lda": partial(_lda, *MUSICNN),
    "musicnn+handcrafted": partial(_svm, *MUSICNN, "handcrafted"),
    "musicnn+handcrafted-lda": partial(_lda, *MUSICNN, "handcrafted"),
    "all-features": partial(_svm, *MUSICNN, "handcrafted", *POOLED),
}
_MEL, _BOTH = ("vgg-mel", "vgg-mel-last"), ("musicnn", "handcrafted")
_ALL, _BLOCK3 = ("pooled-mel", "handcrafted", "musicnn"), ("pooled-mel", "pooled-mel-last")
SYSTEMS: MappingProxyType[str, System] | dict[str, System] = {
    "cnn-mel": System(("vgg-mel",), partial(_cnn, "vgg-mel")),
    "cnn-mfcc": System(("vgg-mfcc",), partial(_cnn, "vgg-mfcc")),
    "cnn-chroma": System(("vgg-chroma",), partial(_cnn, "vgg-chroma")),
    "svm-mfcc": System(("svm",), _ecoc_svm),
    "svm-fair": System(("svm-long",), _fair_svm),
    "stacking": System(("vgg-mel", "vgg-mfcc", "vgg-chroma", "svm-long"), _stacking),
    "cnn-mel-tuned5": System(("block4-mel",), partial(_tuned, "block4-mel")),
    "cnn-mel-tuned-all": System(("mel",), partial(_tuned, "mel")),
    "cnn-mel-windows": System(_MEL, partial(_windows, partial(_cnn, "vgg-mel"), *_MEL)),
    "cnn-mel-calibrated": System(("vgg-mel",), _calibrated),
    "pooled-svm": System(("pooled-mel",), _VGG["pooled-svm"]),
    "block3-svm": System(("pooled-mel",), _VGG["block3-svm"]),
    "block3-svm-windows": System(_BLOCK3, partial(_windows, _VGG["block3-svm"], *_BLOCK3)),
    "pooled-lda": System(("pooled-mel",), _VGG["pooled-lda"]),
    "handcrafted-logreg": System(("handcrafted",), partial(_logistic, "handcrafted")),
    "handcrafted-forest": System(("handcrafted",), _forest),
    "handcrafted-svm": System(("handcrafted",), _OTHERS["handcrafted-svm"]),
    "handcrafted-boosting": System(("handcrafted",), _boosting),
    "musicnn-svm": System(("musicnn",), _OTHERS["musicnn-svm"]),
    "musicnn-lda": System(("musicnn",), _OTHERS["musicnn-lda"]),
    "musicnn+handcrafted": System(_BOTH, _OTHERS["musicnn+handcrafted"]),
    "musicnn+handcrafted-lda": System(_BOTH, _OTHERS["musicnn+handcrafted-lda"]),
    "all-features": System(_ALL, _OTHERS["all-features"]),
    "chosen-vgg": System(("pooled-mel",), partial(_chosen, _VGG)),
    "chosen": System(_ALL, partial(_chosen, _VGG | _OTHERS)),
}


def cross_validate(
    name: str,
    arrays: Callable[[str], Store],
    clips: pd.DataFrame,
    splits: pd.DataFrame,
    *,
    settings: dict[str, Any],
    root: Path,
    jobs: int = 1,
    folds: Collection[int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every clip once under each protocol; a finished fold is kept on disk.

    Parameters
    ----------
    name : str
        A key of `SYSTEMS`.
    arrays : callable
        Name of stored arrays -> their store (`Run.arrays`, or a dictionary's ``__getitem__``).
        They stay on disk until a fold takes its rows.
    clips : pd.DataFrame
        The n usable clips: clip_id, genre, sha256 (of the audio).
    splits : pd.DataFrame
        protocol, clip_id, group, fold; all of ``clips`` under each protocol.
    settings : dict
        Keyword arguments of the system. A ``seed`` among them is moved on by one each fold.
    root : Path
        Folder of the finished folds.
    jobs : int
        Folds that are trained at once. The CNNs use all processors in one.
    folds : collection of int, optional
        The folds to test; all clips that are not in a fold train for it.

    Returns
    -------
    predictions : pd.DataFrame
        system, protocol, fold, clip_id, y_true, y_pred and, where the system gives probabilities,
        one column ``p_<genre>`` a genre; ordered by protocol (as in ``splits``) and clip.
        ``attrs["seconds"]`` is how long the folds took, training and testing, when they were made.
    history : pd.DataFrame
        system, protocol, fold, then epoch, loss, accuracy of the training, a row an epoch; or of
        a system that chooses, what it chose; else empty.

    Raises
    ------
    GenreUtilsError
        A clip is not in ``splits``, or an array of it is not stored.
    """
    system, y = SYSTEMS[name], clips["genre"].to_numpy()
    stores = {array: arrays(array) for array in system.arrays}
    stored = {array: store.rows(list(clips["sha256"])) for array, store in stores.items()}
    known = {
        "arrays": [store.folder.name for store in stores.values()],
        "clips": clips[["sha256", "genre"]].to_numpy().tolist(),
    }
    plan, todo = [], []
    for protocol, part in splits.groupby("protocol", sort=False):
        part = part.set_index("clip_id").reindex(clips["clip_id"])
        if part["fold"].isna().any():
            raise GenreUtilsError(
                f"{part['fold'].isna().sum()} of {len(clips)} clips have no fold under the "
                f"protocol {protocol}; run notebook 01_data again"
            )
        _, group = np.unique(part["group"].astype(str), return_inverse=True)
        for i in sorted(part["fold"].astype(int).unique()):
            if folds is not None and i not in folds:
                continue
            test, seeded = (part["fold"] == i).to_numpy(), dict(settings)
            if "seed" in settings:
                seeded["seed"] += int(i)
            estimator = system.make(**seeded)
            key = known | {"test": np.flatnonzero(test).tolist(), "group": group.tolist()}
            key |= {"estimator": joblib.hash(estimator), "code": code_digest(*_code(estimator))}
            path = root / f"{name}-{digest(key)[:24]}.npz"
            plan.append((test, {"system": name, "protocol": protocol, "fold": int(i)}, path))
            if read_npz(path) is None:
                todo.append((estimator, stored, y, test, group, path))
    each(_fold, todo, jobs=jobs, desc=name, unit="fold")
    tables, histories, seconds = [], [], 0.0
    for test, place, path in plan:
        result = read_npz(path)
        tables.append(_predictions(clips[test], result, sorted(set(y)), place))
        histories.append(_history(result, place))
        seconds += float(result["seconds"])
    predictions = pd.concat(tables).sort_values("clip_id", kind="stable")
    order = {protocol: i for i, protocol in enumerate(splits["protocol"].unique())}
    predictions = predictions.sort_values("protocol", key=lambda p: p.map(order), kind="stable")
    predictions = predictions.reset_index(drop=True)
    predictions.attrs["seconds"] = seconds
    return predictions, pd.concat(histories, ignore_index=True)


def _code(estimator: BaseEstimator) -> list[type | FunctionType]:
    """Return the classes and functions of this package that an estimator is made of."""
    parts = {}

    class Pickler(pickle.Pickler):
        def reducer_override(self, part: object) -> object:
            if isinstance(part, type | FunctionType) and part.__module__.startswith("genre_utils."):
                parts[f"{part.__module__}.{part.__qualname__}"] = part
            return NotImplemented

    Pickler(BytesIO()).dump(estimator)
    return [parts[name] for name in sorted(parts)]


@threadpool_limits.wrap(limits=1)  # last bits must not depend on the number of threads
def _fold(
    estimator: BaseEstimator,
    stored: dict[str, Rows],
    y: np.ndarray,
    test: np.ndarray,
    group: np.ndarray,
    path: Path,
) -> None:
    """Train for one fold, test it, and keep the answers."""
    start = time.monotonic()
    train, held_out = (
        structured({name: rows[part] for name, rows in stored.items()}, group[part])
        for part in (~test, test)
    )
    estimator.fit(train, y[~test])
    result = {
        "classes": np.asarray(estimator.classes_, dtype=str),
        "predicted": np.asarray(estimator.predict(held_out), dtype=str),
    }
    if hasattr(estimator, "predict_proba"):
        result["proba"] = estimator.predict_proba(held_out)
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if hasattr(last, "history_"):
        result["history"] = last.history_
    if hasattr(last, "choice_"):
        result["choice"] = np.array(json.dumps(last.choice_))
    result["seconds"] = np.array(time.monotonic() - start)
    write_atomic(path, lambda part: np.savez(part, **result))


def _predictions(
    clips: pd.DataFrame, result: dict[str, np.ndarray], genres: list[str], place: dict
) -> pd.DataFrame:
    columns = place | {"clip_id": clips["clip_id"], "y_true": clips["genre"]}
    table = pd.DataFrame(columns | {"y_pred": result["predicted"]})
    if "proba" in result:
        proba = pd.DataFrame(result["proba"], columns=result["classes"], index=table.index)
        for genre in genres:  # a genre absent from the training part has probability 0
            table[f"p_{genre}"] = proba.get(genre, 0.0)
    return table


def _history(result: dict[str, np.ndarray], place: dict) -> pd.DataFrame:
    if "choice" in result:
        return pd.DataFrame([place | json.loads(str(result["choice"]))])
    history = result.get("history", np.empty((0, 2)))
    epochs = np.arange(1, len(history) + 1)
    columns = {"epoch": epochs, "loss": history[:, 0], "accuracy": history[:, 1]}
    return pd.DataFrame(place | columns)


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
    name: str,
    arrays: Callable[[str], Store],
    clips: pd.DataFrame,
    splits: pd.DataFrame,
    *,
    settings: dict[str, Any],
    train_sizes: Sequence[float],
    root: Path,
    draws: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Test every clip with training parts that lack artists.

    Parameters
    ----------
    name, arrays, clips, settings, root
        See `cross_validate`.
    splits : pd.DataFrame
        Of the protocol ``artist``; ``group`` is the artist.
    train_sizes : sequence of float
        Shares of the training artists, see `some_artists`; 1 is the whole training part.
    draws : int
        How often: each time other artists, and other seeds of the estimator.

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
    part = splits.set_index("clip_id").loc[clips["clip_id"]]
    artist, fold, genre = (a.to_numpy() for a in (part["group"], part["fold"], clips["genre"]))
    tables = []
    for draw, train_size, i in product(range(draws), train_sizes, np.unique(fold)):
        train = some_artists(artist, genre, fold != i, train_size, seed + draw)
        used = clips[train | (fold == i)]
        seeds = {s: settings[s] + NEXT_SEED * draw for s in ("seed", "inner_seed") if s in settings}
        how = {"settings": settings | seeds, "root": root, "folds": [i]}
        tested, _ = cross_validate(name, arrays, used, splits, **how)
        known = {"train_size": train_size, "draw": draw, "n_artists": len(set(artist[train]))}
        tables.append(tested.assign(**known))
    return pd.concat(tables, ignore_index=True)
