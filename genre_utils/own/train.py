"""Train a system on all usable clips of a data set, for use on other music.

What the model is worth is estimated beforehand, on artists that it was not trained on: folds over
artists give every clip probabilities from a model that has not heard its artist. From these come
the accuracy in the model card and the temperature that calibrates the final model's confidence.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from genre_utils import __version__
from genre_utils.artefacts import Run, versions
from genre_utils.data import datasets, duplicates, splits
from genre_utils.errors import UsageError
from genre_utils.extraction import features, vgg
from genre_utils.extraction.weights import load_weights
from genre_utils.metrics.calibration import fit_temperature
from genre_utils.models import registry
from genre_utils.own import facts
from genre_utils.own.saved import Arrays, SavedModel, check_target, of_head, of_svm
from genre_utils.progress import progress
from genre_utils.store import Store, cache_dir, digest, source_version

FOLDS = 5
MIN_ARTISTS = 2  # of a genre: one to train on, one to test on


@dataclass(frozen=True)
class Recipe:
    """A registered system with settings of its own, and how its estimator is saved."""

    registered: str
    settings: dict[str, Any]
    saved: Callable[[Any], tuple[str, Arrays]]
    about: str

    @property
    def array(self) -> str:
        """Name of the stored array that it takes."""
        return registry.SYSTEMS[self.registered].arrays[0]


SYSTEMS = MappingProxyType(
    {
        "cnn-mel-small": Recipe(
            "cnn-mel", {"pooling": "average", "epochs": 100, "seed": 0}, of_head,
            "frozen VGG-16 on mel-spectrograms, its map averaged, and the paper's dense layers",
        ),
        "cnn-mel": Recipe(
            "cnn-mel", {"pooling": "flatten", "epochs": 25, "seed": 0}, of_head,
            "the paper's best system: frozen VGG-16 on mel-spectrograms and its dense layers",
        ),
        "pooled-svm": Recipe(
            "pooled-svm", {}, of_svm,
            "a support vector machine on means and maxima of three blocks of a frozen VGG-16",
        ),
    }
)  # fmt: skip
DEFAULT = "cnn-mel-small"


def train(
    dataset: str, data_dir: str, out: str | Path, *,
    system: str = DEFAULT, epochs: int = 0, jobs: int = 1,
) -> SavedModel:  # fmt: skip
    """Read a data set, train on all its usable clips and write the model's folder.

    Parameters
    ----------
    dataset, data_dir : str
        Name in `datasets.DATASETS` and its folder.
    out : str or Path
        The model's folder.
    system : str
        A key of `SYSTEMS`.
    epochs : int
        Of the network's training; 0: the system's own number.
    jobs : int
        Workers that read audio.

    Raises
    ------
    UsageError
        As `fit`; an unknown system or data set, or a folder that is not to be written to.
    """
    chosen = _with_epochs(_recipe(system), system, epochs)
    check_target(out)
    clips, _ = datasets.load_clips(dataset, data_dir or None, jobs=jobs)
    clips = datasets.leave_out_small_genres(clips, FOLDS, MIN_ARTISTS)
    folder = datasets.data_folder(dataset, data_dir or None, jobs=jobs)
    digests = datasets.audio_digests(clips, folder, jobs=jobs)
    clips = clips.assign(sha256=clips["clip_id"].map(digests))
    used = clips[clips["status"] == "ok"]
    pairs = duplicates.find(used, folder, digests, jobs=jobs)
    store = _stored(chosen.array, used, folder, jobs)
    model = fit(system, clips, store, epochs=epochs, folds=_folds(used, pairs))
    model.save(out)
    return model


def train_from_run(run: Run, out: str | Path = "", *, system: str = DEFAULT) -> SavedModel:
    """Train on the arrays of a finished run, on its clips and with its artist folds.

    ``out`` is the model's folder, ``model`` in the run's when empty. Takes a minute or less; a
    model there that was made of the same is read instead.
    """
    out = check_target(out or run.folder / "model")
    clips = run.read("clips").merge(run.read("audio"), on="clip_id", how="left")
    drawn = run.read("splits")
    folds = drawn[drawn["protocol"] == "artist"].set_index("clip_id")["fold"] % FOLDS
    store = run.arrays(_recipe(system).array)
    made_of = _made_of(system, clips, folds, store)
    with suppress(UsageError):  # no model yet, or one of another version
        known = SavedModel.load(out)
        if known.facts.get("made_of") == made_of:
            return known
    model = fit(system, clips, store, folds="the run has no artist folds" if folds.empty else folds)
    model = replace(model, facts={**model.facts, "made_of": made_of})
    model.save(out)
    return model


def _made_of(system: str, clips: pd.DataFrame, folds: pd.Series, store: Store) -> str:
    """Return a digest of everything that a model of a run depends on."""
    known = _recipe(system)
    own = ("own.train", "own.saved", "own.facts", "own.card")
    names = (*own, *registry.SYSTEMS[known.registered].modules)
    return digest(
        {
            "system": [system, known.registered, known.settings], "store": store.folder.name,
            "clips": clips[["clip_id", "sha256", "genre", "status"]].astype(str).values.tolist(),
            "folds": folds.to_dict(), "versions": versions(),
            "code": source_version(f"genre_utils.{name}" for name in names),
        }
    )  # fmt: skip


def _recipe(name: str) -> Recipe:
    if name not in SYSTEMS:
        raise UsageError(f"unknown system {name!r}: one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def _stored(array: str, used: pd.DataFrame, folder: Path, jobs: int) -> Store:
    """Extract what the cache lacks; the features' defaults are the paper's and README's."""
    root, ids = cache_dir() / "arrays", list(used["sha256"])
    how = {"offset": 0.0, "fill": "repeat", "mel_scale": "db"}
    mel = features.stores(root, **how, fresh=False)["mel"]
    features.extract_all([folder / p for p in used["path"]], ids, {"mel": mel}, jobs=jobs, **how)
    keep = (array.removesuffix("-mel"),)
    return vgg.compute_maps(mel, "mel", ids, load_weights(), root, keep=keep)[array]


def _folds(used: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series | str:
    """Fold of each clip by artist, or why there can be none."""
    try:
        drawn = splits.make_splits(used, ["artist"], FOLDS, 0, pairs)
    except UsageError as error:
        return str(error)
    return drawn.set_index("clip_id")["fold"]


def fit(
    system: str, clips: pd.DataFrame, store: Store, *, folds: pd.Series | str, epochs: int = 0
) -> SavedModel:
    """Estimate by artist folds, calibrate, then train on all usable clips.

    Parameters
    ----------
    system : str
        A key of `SYSTEMS`.
    clips : pd.DataFrame
        The whole clip table, refused rows included, with sha256 of the audio.
    store : Store
        Rows of the system's array.
    folds : pd.Series or str
        Fold by clip_id; a text says why there are none.

    Raises
    ------
    UsageError
        Clips of fewer than two genres; or epochs for a system that has none.
    """
    chosen, used = _with_epochs(_recipe(system), system, epochs), clips[clips["status"] == "ok"]
    if used["genre"].nunique() < 2:
        raise UsageError(f"{used['genre'].nunique()} genre with usable clips; two are needed")
    rows, y = store.load(list(used["sha256"])), used["genre"].to_numpy(dtype=str)
    group = splits.groups(used, "artist").to_numpy()
    if not (used["artist"] != "").any():
        folds = "the data set does not name its artists"
    if isinstance(folds, str):
        temperature, worth = 1.0, {"none": folds}
    else:
        fold = used["clip_id"].map(folds).to_numpy()
        proba = _out_of_fold(chosen, rows, y, group, fold)
        temperature = fit_temperature(proba, np.unique(y, return_inverse=True)[1])
        worth = facts.estimate(proba, temperature, used, FOLDS)
    model = _trained(chosen, rows, y, group)
    known = {
        "system": system, "about": chosen.about, "data": facts.heard(clips),
        "features": facts.recipe(store), "settings": chosen.settings, "estimate": worth,
        "versions": {"genre_utils": __version__, **versions()},
    }  # fmt: skip
    return SavedModel(model.kind, model.classes, model.arrays, temperature, known)


def _with_epochs(chosen: Recipe, name: str, epochs: int) -> Recipe:
    if not epochs:
        return chosen
    if "epochs" not in chosen.settings:
        raise UsageError(f"{name} is not trained in epochs; leave --epochs out")
    return replace(chosen, settings={**chosen.settings, "epochs": epochs})


def _trained(chosen: Recipe, rows: np.ndarray, y: np.ndarray, group: np.ndarray) -> SavedModel:
    system = registry.SYSTEMS[chosen.registered]
    extra = {"groups": group} if system.grouped else {}
    estimator = system.make(**chosen.settings).fit(rows, y, **extra)
    kind, arrays = chosen.saved(estimator)
    return SavedModel(kind, tuple(str(genre) for genre in estimator.classes_), arrays)


def _out_of_fold(
    chosen: Recipe, rows: np.ndarray, y: np.ndarray, group: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Probabilities [n, n_classes] of each clip from a model that has not heard its artist."""
    genres = np.unique(y)
    proba = np.zeros((len(y), len(genres)))
    for i in progress(np.unique(fold), "artist folds", unit="fold"):
        test = fold == i
        model = _trained(chosen, rows[~test], y[~test], group[~test])
        columns = np.searchsorted(genres, model.classes)
        proba[np.ix_(test, columns)] = model.predict_proba(rows[test])
    return proba
