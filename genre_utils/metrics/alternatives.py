"""One choice of a finished run replaced: what depends on it is computed, the rest is the run's."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import papermill

from genre_utils import paper
from genre_utils.artefacts import Run
from genre_utils.data import duplicates, splits
from genre_utils.errors import GenreUtilsError, UsageError
from genre_utils.extraction import features, vgg
from genre_utils.extraction.weights import load_weights
from genre_utils.metrics import evaluate
from genre_utils.metrics.claims import CNNS, MEL, SVM
from genre_utils.models.systems import SYSTEMS, cross_validate
from genre_utils.store import Store

PROTOCOL = "artist"
FOUR = (*CNNS, SVM)
CUTTING = ("offset", "fill", "mel_scale")
# Setting of a run -> the notebook that declares it, and its name there.
SETTINGS = {
    "fold_seed": ("01_data", "seed"),
    **{
        name: ("03_cnn", name)
        for name in (
            "weights", "channels", "preprocessing", "pooling", "epochs", "epochs_small", "seed",
        )
    },
    **{name: ("04_svm", name) for name in ("volume_threshold", "coding")},
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A setting, its values (our default first), and the systems that are tested again."""

    name: str
    values: tuple
    systems: tuple[str, ...]


@dataclass(frozen=True)
class Base:
    """What a finished run offers: its clips, folds and predictions by artist, its settings."""

    run: Run
    clips: pd.DataFrame
    folds: pd.DataFrame
    predictions: pd.DataFrame
    settings: dict[str, Any]
    jobs: int
    bootstrap: dict[str, int]

    @property
    def audio(self) -> Path:
        """Folder of the sound files."""
        return Path(self.run.recorded("data_dir")["path"])


def opened(folder: str | Path, jobs: int, bootstrap: dict) -> Base:
    """Open a finished run; raises `UsageError` when it is none or lacks the artist protocol."""
    run = Run(folder)
    if not (run.folder / "predictions.csv").is_file():
        raise UsageError(f"{folder}: no finished run (no predictions.csv)")
    clips, folds, tested = run.usable_clips(), run.read("splits"), run.read("predictions")
    folds, tested = (t[t["protocol"] == PROTOCOL] for t in (folds, tested))
    if folds.empty:
        raise UsageError(f"{folder}: a run without the {PROTOCOL} protocol cannot be judged here")
    evaluate.check_predictions(tested, folds, list(FOUR))
    settings = _settings(run) | {"baseline": SVM, "n_folds": folds["fold"].nunique()}
    return Base(run, clips, folds, tested, settings, jobs, bootstrap)


def _settings(run: Run) -> dict[str, Any]:
    """Return what the notebooks were executed with: their defaults, or what was given."""
    given, found = run.recorded("parameters"), dict(run.recorded("features"))
    declared = {}
    for stem in dict.fromkeys(stem for stem, _ in SETTINGS.values()):
        path = run.folder / "notebooks" / f"{stem}.ipynb"
        if not path.is_file():
            raise UsageError(f"no {path}; only a run of run_all.sh knows its settings")
        declared[stem] = papermill.inspect_notebook(str(path))
    for name, (stem, parameter) in SETTINGS.items():
        default = ast.literal_eval(declared[stem][parameter]["default"])
        found[name] = given.get(stem, {}).get(parameter, default)
    return found


def not_possible(base: Base, name: str, value: Any) -> str:  # noqa: ANN401
    """Say why this run cannot show an alternative; often nothing."""
    seconds, offset = base.clips["duration_s"], base.settings["offset"]
    whole = offset + paper.AUDIO["duration"]
    if name == "fill" and not (seconds < whole).any():
        return f"no clip is shorter than {whole:g} s"
    if name == "offset" and (seconds < value + 1).any():
        return f"{(seconds < value + 1).sum()} clips end within a second of it"
    if name == "baseline" and value not in set(base.predictions["system"]):
        return f"the run has no predictions of {value}"
    if name in ("n_folds", "fold_seed"):
        try:
            _folds(base, base.settings | {name: value})
        except UsageError as error:
            return str(error)
    return ""


def _folds(base: Base, settings: dict) -> pd.DataFrame:
    digests = dict(zip(base.clips["clip_id"], base.clips["sha256"], strict=True))
    pairs = duplicates.find(base.clips, base.audio, digests, by_sound=True, jobs=base.jobs)
    drawn = {"n_folds": settings["n_folds"], "seed": settings["fold_seed"]}
    return splits.make_splits(base.clips, [PROTOCOL], **drawn, duplicates=pairs)


def _arrays(base: Base, choice: Choice, system: str, settings: dict) -> Store:
    """Rows that a system takes when one choice is changed; only what depends on it is computed."""
    ids = list(base.clips["sha256"])
    (taken,) = SYSTEMS[system].arrays
    feature = taken.removeprefix("vgg-")
    if choice.name in CUTTING:
        how = {name: settings[name] for name in CUTTING}
        made = features.stores(base.run.cache, **how, fresh=False)
        touched = {SYSTEMS[name].arrays[0].removeprefix("vgg-") for name in choice.systems}
        targets = {name: store for name, store in made.items() if name in touched}
        files = [base.audio / path for path in base.clips["path"]]
        features.extract_all(files, ids, targets, jobs=base.jobs, **how)
        source = made[feature]
    else:
        source = base.run.arrays(feature)
    if system == SVM:
        return source
    if choice.name not in (*CUTTING, "channels", "preprocessing"):
        return base.run.arrays(taken)
    trunk = load_weights(settings["weights"])
    if trunk.digest != base.run.recorded("weights")["digest"]:
        raise GenreUtilsError(f"weights={settings['weights']} are no longer those of the run")
    look = {name: settings[name] for name in ("mel_scale", "channels", "preprocessing")}
    # The run's, also on a machine that would take another.
    look["precision"] = base.run.recorded("precision")["trunk"]
    return vgg.compute_maps(source, feature, ids, trunk, base.run.cache, **look)[taken]


def predict(base: Base, choice: Choice, value: Any) -> pd.DataFrame:  # noqa: ANN401
    """Test the systems of a choice with one of its values; rows of predictions.csv."""
    if choice.name == "baseline":
        stored = base.predictions[base.predictions["system"] == value]
        return stored.assign(system=SVM).reset_index(drop=True)
    settings = base.settings | {choice.name: value}
    refold = choice.name in ("n_folds", "fold_seed")
    folds = _folds(base, settings) if refold else base.folds
    tables = []
    for system in choice.systems:
        names = ("volume_threshold", "coding") if system == SVM else ("pooling", "seed")
        how = {name: settings[name] for name in names}
        if system != SVM:
            how["epochs"] = settings["epochs" if system == MEL else "epochs_small"]
        store = _arrays(base, choice, system, settings)
        tested, _ = cross_validate(
            system, store.load(list(base.clips["sha256"])), base.clips, folds,
            arrays_key=store.folder.name, settings=how, root=base.run.cache / "folds",
        )  # fmt: skip
        tables.append(tested)
    return pd.concat(tables, ignore_index=True)
