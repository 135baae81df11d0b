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
from types import FunctionType
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn import ensemble
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from genre_utils.extraction import vgg
from genre_utils.models import estimators, svm
from genre_utils.models.cnn import FineTuneClassifier, HeadClassifier
from genre_utils.models.estimators import InnerFolds, Search, structured
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
    """A compared system: names of the stored ``arrays`` that the estimator takes, and its maker.

    ``make`` turns keyword settings into an estimator with ``fit`` and ``predict``. With
    ``predict_proba`` its probabilities are kept, with ``choice_`` what it chose, with ``history_``
    (of the last step of a pipeline) what it learned.
    """

    arrays: tuple[str, ...]
    make: Callable[..., BaseEstimator]


def _of(names: Sequence[str], make: Callable[..., BaseEstimator], **fixed: object) -> System:
    """Return a system of fields, or parts of them (see `estimators.pick`)."""
    arrays = tuple(dict.fromkeys(name.partition("/")[0] for name in names))
    return System(arrays, partial(make, *names, **fixed))


def _field(name: str) -> FunctionTransformer:
    return FunctionTransformer(estimators.pick, kw_args={"name": name})


def _fields(names: Sequence[str], *steps: BaseEstimator) -> FeatureUnion:
    """Fields, or parts of them, side by side, each behind steps of its own."""
    return FeatureUnion([(name, make_pipeline(_field(name), *steps)) for name in names])


def _cnn(field: str, *, kind: type = HeadClassifier, **settings: object) -> Pipeline:
    return make_pipeline(_field(field), kind(**settings))


def _windows(*fields: str, base: Callable, **settings: object) -> estimators.Windows:
    return estimators.Windows(base(**settings), fields)


def _calibrated(
    field: str, *, inner_folds: int = 3, inner_seed: int = 0, **settings: object
) -> CalibratedClassifierCV:
    """Temperature scaling (Guo et al., ICML 2017) by answers to inner test clips."""
    inner = InnerFolds(inner_folds, inner_seed)
    cnn = _cnn(field, **settings)
    return CalibratedClassifierCV(cnn, method="temperature", ensemble=False, cv=inner)


def _ecoc_svm(field: str, *, volume_threshold: float, coding: str) -> Pipeline:
    vectors = FunctionTransformer(svm.clip_vectors, kw_args={"threshold": volume_threshold})
    return make_pipeline(_field(field), vectors, svm.EcocSVM(coding=coding))


def _search(grid: dict, *steps: BaseEstimator, inner_folds: int = 3, inner_seed: int = 0) -> Search:
    return Search(make_pipeline(*steps), grid, cv=InnerFolds(inner_folds, inner_seed))


def _svm(*names: str, gamma: Sequence[float] = GAMMA, **inner: int) -> Search:
    """Gaussian kernel on standardised fields; each field weighs the same, however wide it is."""
    weigh = FunctionTransformer(estimators.weigh, kw_args={"n_blocks": len(names)})
    grid = {"gaussiansvm__C": (0.1, 1.0, 10.0, 100.0), "gaussiansvm__gamma": gamma}
    vectors = _fields(names, StandardScaler(), weigh)
    return _search(grid, vectors, estimators.GaussianSVM(), **inner)


def _fair_svm(field: str, *, volume_threshold: float = -40.0, **inner: int) -> Pipeline:
    """How far an SVM gets on MFCC when it is treated like the CNNs.

    The paper's baseline (section 2.5) takes half of each clip, not standardised, and one linear
    kernel. Here are the same 13 MFCC, of the 20 s that the CNNs see, with their changes over time,
    standardised, and a Gaussian kernel whose two parameters are chosen.
    """
    vectors = FunctionTransformer(_vectors, kw_args={"field": field, "threshold": volume_threshold})
    return make_pipeline(vectors, _svm(field, gamma=FAIR_GAMMA, **inner))


def _vectors(rows: np.ndarray, field: str, threshold: float) -> np.ndarray:
    """Structured rows with the vectors of `svm.clip_vectors` in place of the frames."""
    vectors = svm.clip_vectors(rows[field], threshold, slopes=True)
    return structured({field: vectors}, rows["group"])


def _logistic(*names: str, **inner: int) -> Search:
    grid = {"logisticregression__C": (0.0001, 0.001, 0.01, 0.1)}
    # More columns than clips are turned, without loss, into as many: a penalty on the weights'
    # length does not see a rotation.
    vectors = _fields(names), StandardScaler(), PCA()
    return _search(grid, *vectors, LogisticRegression(max_iter=1000), **inner)


def _lda(*names: str, root: bool = False, **inner: int) -> Search:
    """Linear discriminant analysis on a few principal components.

    Some seventy training artists support few directions. The covariance is shrunk as far as
    Ledoit and Wolf (2004) compute, so the number of components is the only choice. ``root`` takes
    square roots of the columns first, for those that are heavy-tailed and not negative.
    """
    roots = [FunctionTransformer(np.sqrt)] if root else []
    vectors = _fields(names), *roots, StandardScaler(), estimators.FirstComponents()
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    grid = {"firstcomponents__n_components": (10, 20, 50)}
    return _search(grid, *vectors, classifier, **inner)


def _trees(field: str, *, kind: type[BaseEstimator], seed: int = 0, **fixed: object) -> Pipeline:
    return make_pipeline(_field(field), kind(random_state=seed, **fixed))


def _stacking(
    *fields: str,
    epochs: int,
    epochs_small: int,
    volume_threshold: float = -40.0,
    inner_folds: int = 2,
    inner_seed: int = 0,
    **settings: object,
) -> ensemble.StackingClassifier:
    """Logistic regression on the log-probabilities of three CNNs and the fair SVM (Wolpert 1992).

    It learns from answers to inner test clips, then all train again; ``settings`` are of every CNN.
    """
    *images, frames = fields
    lengths = (epochs, epochs_small, epochs_small)
    bases = [(f, _cnn(f, epochs=n, **settings)) for f, n in zip(images, lengths, strict=True)]
    fair = _fair_svm(frames, volume_threshold=volume_threshold, inner_seed=inner_seed)
    logs = FunctionTransformer(estimators.log_probabilities)
    judge = make_pipeline(logs, LogisticRegression(max_iter=1000))
    how = {"cv": InnerFolds(inner_folds, inner_seed), "stack_method": "predict_proba"}
    return ensemble.StackingClassifier([*bases, (frames, fair)], judge, **how)


def _chosen(candidates: dict[str, System], **inner: int) -> estimators.Chosen:
    return estimators.Chosen({name: system.make(**inner) for name, system in candidates.items()})


_VGG = {
    "pooled-svm": _of(POOLED, _svm),
    "block3-svm": _of(POOLED[:1], _svm),
    "block4-svm": _of(POOLED[1:2], _svm),
    "blocks3+4-svm": _of(POOLED[:2], _svm),
    "pooled-lda": _of(POOLED, _lda, root=True),
}
_ALL = _VGG | {
    "handcrafted-svm": _of(["handcrafted"], _svm),
    "musicnn-svm": _of(MUSICNN, _svm),
    "musicnn-logreg": _of(MUSICNN, _logistic),
    "musicnn-lda": _of(MUSICNN, _lda),
    "musicnn+handcrafted": _of([*MUSICNN, "handcrafted"], _svm),
    "musicnn+handcrafted-lda": _of([*MUSICNN, "handcrafted"], _lda),
    "all-features": _of([*MUSICNN, "handcrafted", *POOLED], _svm),
}
_MELS, _POOLS = ("vgg-mel", "vgg-mel-last"), ("pooled-mel", "pooled-mel-last")
_ONLY_CANDIDATES = ("block4-svm", "blocks3+4-svm", "musicnn-logreg")
_FOUR = ("vgg-mel", "vgg-mfcc", "vgg-chroma", "svm-long")
_FOREST = {"kind": ensemble.RandomForestClassifier, "n_estimators": 500}
# Small and slow trees: a corpus has some hundred clips.
_BOOSTING = {"kind": ensemble.HistGradientBoostingClassifier, "max_iter": 100}
_BOOSTING |= {"max_leaf_nodes": 8, "min_samples_leaf": 10, "early_stopping": False}
SYSTEMS: dict[str, System] = {
    "cnn-mel": _of(["vgg-mel"], _cnn),
    "cnn-mfcc": _of(["vgg-mfcc"], _cnn),
    "cnn-chroma": _of(["vgg-chroma"], _cnn),
    "svm-mfcc": _of(["svm"], _ecoc_svm),
    "svm-fair": _of(["svm-long"], _fair_svm),
    "stacking": _of(_FOUR, _stacking),
    "cnn-mel-tuned5": _of(["block4-mel"], _cnn, kind=FineTuneClassifier),
    "cnn-mel-tuned-all": _of(["mel"], _cnn, kind=FineTuneClassifier),
    "cnn-mel-windows": _of(_MELS, _windows, base=partial(_cnn, "vgg-mel")),
    "cnn-mel-calibrated": _of(["vgg-mel"], _calibrated),
    "block3-svm-windows": _of(_POOLS, _windows, base=_VGG["block3-svm"].make),
    "handcrafted-logreg": _of(["handcrafted"], _logistic),
    "handcrafted-forest": _of(["handcrafted"], _trees, **_FOREST),
    "handcrafted-boosting": _of(["handcrafted"], _trees, **_BOOSTING),
    **{name: system for name, system in _ALL.items() if name not in _ONLY_CANDIDATES},
    # Not compared with the others: its network was trained on MagnaTagATune.
    "musicnn-mtt-svm": _of([name.replace("musicnn", "musicnn-mtt") for name in MUSICNN], _svm),
    "chosen-vgg": System(("pooled-mel",), partial(_chosen, _VGG)),
    "chosen": System(_ALL["all-features"].arrays, partial(_chosen, _ALL)),
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
    """Test every clip (``published``: the test part) once a protocol; finished folds are kept.

    ``name`` is a key of `SYSTEMS`; ``arrays`` gives the store of a name (`Run.arrays`), of which a
    fold reads its rows. ``clips`` are the n usable clips (clip_id, genre, sha256 of the audio),
    ``splits`` has all of them under each protocol (protocol, clip_id, group, fold), or under
    ``published`` those that have a part. ``settings`` are keyword arguments of the system; a
    ``seed`` among them is moved on by one each fold. ``root`` is the folder of the finished folds;
    ``jobs`` are trained at once (the CNNs use all processors in one). Folds from 0 on are tested,
    or those of them in ``folds``; the protocol's clips that are not in a fold train for it.
    GenreUtilsError where a clip is not in ``splits`` or not stored.

    Returns the predictions, ordered by protocol (as in ``splits``) and clip: system, protocol,
    fold, clip_id, y_true, y_pred; of a system with probabilities a column ``p_<genre>`` a genre;
    ``attrs["seconds"]`` is how long the folds take, each as long as the median one (another may
    have waited while the machine did other work). With them the history: system, protocol, fold,
    then epoch, loss, accuracy of the training, a row an epoch; or of a system that chooses, what
    it chose; else empty.
    """
    system, y = SYSTEMS[name], clips["genre"].to_numpy()
    stores = {array: arrays(array) for array in system.arrays}
    stored = {array: store.rows(list(clips["sha256"])) for array, store in stores.items()}
    known = {"arrays": [store.folder.name for store in stores.values()]}
    known["clips"] = clips[["sha256", "genre"]].to_numpy().tolist()
    plan, todo = [], []
    for protocol, part in splits.groupby("protocol", sort=False):
        part = part.set_index("clip_id").reindex(clips["clip_id"])
        fold = part["fold"]
        if (n := fold.isna().sum()) and protocol != "published":
            without = f"{n} of {len(clips)} clips have no fold under the protocol {protocol}"
            raise GenreUtilsError(f"{without}; run notebook 01_data again")
        _, group = np.unique(part["group"].fillna("").astype(str), return_inverse=True)
        tested = sorted(set(fold[fold >= 0].astype(int)))
        for i in (i for i in tested if folds is None or i in folds):
            test = (fold == i).to_numpy()
            train = (fold.notna() & ~test).to_numpy()
            seed = {"seed": settings["seed"] + i} if "seed" in settings else {}
            estimator = system.make(**settings | seed)
            key = known | {"test": np.flatnonzero(test).tolist(), "group": group.tolist()}
            key |= {} if n == 0 else {"train": np.flatnonzero(train).tolist()}
            key |= {"estimator": joblib.hash(estimator), "code": code_digest(*_code(estimator))}
            path = root / f"{name}-{digest(key)[:24]}.npz"
            plan.append((test, {"system": name, "protocol": protocol, "fold": i}, path))
            if read_npz(path) is None:
                todo.append((estimator, stored, (y, train, test, group), path))
    each(_fold, todo, jobs=jobs, desc=name, unit="fold")
    tables, histories, seconds = [], [], []
    for test, place, path in plan:
        result, tested = read_npz(path), clips[test]
        columns = {"clip_id": tested["clip_id"], "y_true": tested["genre"]}
        table = pd.DataFrame(place | columns | {"y_pred": result["predicted"]})
        if "proba" in result:  # a genre absent from the training part has probability 0
            proba = pd.DataFrame(result["proba"], table.index, result["classes"])
            proba = proba.reindex(columns=sorted(set(y)), fill_value=0.0)
            table = table.join(proba.add_prefix("p_"))
        tables.append(table)
        if "choice" in result:
            learned = pd.DataFrame([place | json.loads(str(result["choice"]))])
        else:
            loss, accuracy = result.get("history", np.empty((0, 2))).T
            columns = {"epoch": np.arange(1, len(loss) + 1), "loss": loss, "accuracy": accuracy}
            learned = pd.DataFrame(place | columns)
        histories.append(learned)
        seconds.append(float(result["seconds"]))
    table = pd.concat(tables)
    by_protocol = [part.sort_values("clip_id") for _, part in table.groupby("protocol", sort=False)]
    predictions = pd.concat(by_protocol, ignore_index=True)
    predictions.attrs["seconds"] = len(seconds) * float(np.median(seconds))
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
    estimator: BaseEstimator, stored: dict[str, Rows], of_clip: tuple[np.ndarray, ...], path: Path
) -> None:
    """Train for a fold, test it, keep the answers; each clip has genre, train, test, group."""
    start, (y, train, test, group) = time.monotonic(), of_clip
    learned, held_out = (
        structured({name: rows[part] for name, rows in stored.items()}, group[part])
        for part in (train, test)
    )
    estimator.fit(learned, y[train])
    result = {"classes": np.asarray(estimator.classes_, dtype=str)}
    result["predicted"] = np.asarray(estimator.predict(held_out), dtype=str)
    if hasattr(estimator, "predict_proba"):
        result["proba"] = estimator.predict_proba(held_out)
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if hasattr(last, "history_"):
        result["history"] = last.history_
    if hasattr(last, "choice_"):
        result["choice"] = np.array(json.dumps(last.choice_))
    result["seconds"] = np.array(time.monotonic() - start)
    write_atomic(path, lambda part: np.savez(part, **result))


def some_artists(
    artist: np.ndarray, genre: np.ndarray, train: np.ndarray, train_size: float, seed: int = 0
) -> np.ndarray:
    """Choose a share (0 to 1) of each genre's training artists, two at least.

    ``artist``, ``genre`` and ``train`` (the clip may be trained on) are arrays over clips, [n], and
    so is the result: the chosen artists' training clips. Of one seed, the artists of a smaller
    share are among those of a larger one. An artist with several genres counts for that of the
    first clip, and comes with all clips.
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
    """Test every clip with training parts that lack artists; see also `cross_validate`.

    ``splits`` are of the protocol ``artist``, ``group`` is the artist. ``train_sizes`` are shares
    of the training artists, see `some_artists`; 1 is the whole training part. That is done
    ``draws`` times, each time with other artists and other seeds of the estimator. The result are
    rows of predictions.csv with train_size, draw, n_artists (trained on in that fold); none where
    there are no ``splits``, because artists are unknown. UsageError: no draw or share is asked for,
    or what is left is too little to make choices on.
    """
    if draws < 1 or not train_sizes:
        raise UsageError(f"draws={draws}, train_sizes={train_sizes}: at least one of each")
    if splits.empty:
        return pd.DataFrame(columns=["system", "clip_id", "train_size", "draw", "n_artists"])
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
