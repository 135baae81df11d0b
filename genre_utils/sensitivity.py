"""One choice of a finished run replaced: what depends on it is computed, the rest is the run's.

The table of `sensitivity` in words and in Markdown.

Whether a choice that the paper leaves open decides a verdict on its claims (README's table).

Each alternative of `CHOICES` replaces one choice of a finished run, under the artist protocol; what
does not depend on it is taken from the run. Other seeds of the head and other folds are no choices
but chance: they show how large a difference means nothing.
"""

import ast
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import papermill

from genre_utils import paper
from genre_utils.data import splits
from genre_utils.data import splits as duplicates
from genre_utils.extraction import features, vgg
from genre_utils.extraction.vgg import load_weights
from genre_utils.metrics import claims, evaluate, intervals
from genre_utils.metrics.claims import CNNS, MEL, SVM
from genre_utils.models import estimators as fair_svm
from genre_utils.models.systems import SYSTEMS, cross_validate
from genre_utils.runtime import GenreUtilsError, UsageError, on_terminal, progress, workers
from genre_utils.store import Run, Store, write_text

report = sys.modules[__name__]

# ---- metrics.alternatives ----
PROTOCOL = "artist"
FOUR = (*CNNS, SVM)
CUTTING = ("offset", "fill", "mel_scale")
# Setting of a run -> the notebook that declares it, and its name there.
SETTINGS = {
    "fold_seed": ("01_data", "seed"),
    **{
        name: ("03_cnn", name)
        for name in (
            "weights",
            "channels",
            "preprocessing",
            "pooling",
            "epochs",
            "epochs_small",
            "seed",
        )
    },
    **{name: ("04_svm", name) for name in ("volume_threshold", "coding")},
}


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
    named = (*CUTTING, "channels", "preprocessing")
    look = features.Look(**{name: settings[name] for name in named})
    if choice.name in CUTTING:
        touched = {SYSTEMS[name].arrays[0].removeprefix("vgg-") for name in choice.systems}
        files = [base.audio / path for path in base.clips["path"]]
        source = features.extract_all(
            files, ids, base.run.cache, look, sorted(touched), jobs=base.jobs
        )[feature]
    else:
        source = base.run.arrays(feature)
    if system == SVM:
        return source
    if choice.name not in (*CUTTING, "channels", "preprocessing"):
        return base.run.arrays(taken)
    trunk = load_weights(settings["weights"])
    if trunk.digest != base.run.recorded("weights")["digest"]:
        raise GenreUtilsError(f"weights={settings['weights']} are no longer those of the run")
    # The run's, also on a machine that would take another.
    precision = base.run.recorded("precision")["trunk"]
    made = vgg.compute_maps(source, feature, ids, trunk, base.run.cache, look, precision=precision)
    return made[taken]


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
            system,
            store.load(list(base.clips["sha256"])),
            base.clips,
            folds,
            arrays_key=store.folder.name,
            settings=how,
            root=base.run.cache / "folds",
        )
        tables.append(tested)
    return pd.concat(tables, ignore_index=True)


# ---- metrics.sensitivity_report ----
COLUMNS = [
    "choice",
    "default",
    "alternative",
    "system",
    "accuracy",
    "accuracy_lo",
    "accuracy_hi",
    "default_accuracy",
    "difference",
    "lo",
    "hi",
    "verdict_changes",
]
CHANCE = ("seed", "fold_seed")
NOTES = (
    "multi_genre single makes another clip table: it is a run of its own, not shown here.",
    "MFCC's 128 mel bands and image scale have no alternative in this code.",
)


def text(value: object) -> str:
    """Write a setting's value."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def interval(value: float, low: float, high: float, sign: str = "") -> str:
    """Write a figure with its interval."""
    figures = (f"{x:{sign}.2f}" for x in (value, low, high))
    return "{} ({} to {})".format(*figures)


def summary(rows: pd.DataFrame) -> str:
    """Say how many choices change a verdict and what the largest difference is; then chance."""
    choices, chance = (rows[rows["choice"].isin(CHANCE) == is_chance] for is_chance in (0, 1))
    if choices.empty:
        words = "No alternative was computed."
    else:
        changing = _changing(choices)
        n, m = choices["choice"].nunique(), len(set(changing))
        which = f" ({'; '.join(dict.fromkeys(_alternatives(choices)))})" if m else ""
        largest = choices.loc[choices["difference"].abs().idxmax()]
        far = interval(largest["difference"], largest["lo"], largest["hi"], "+")
        words = (
            f"{m or 'None'} of {n} choices that the paper leaves open change"
            f"{'s' * (m <= 1)} a verdict on claims 1 to 5{which}; the largest difference in "
            f"accuracy is {far}, of {largest['system']} with {_named(largest)}."
        )
    if len(chance):
        changed = "; ".join(dict.fromkeys(_alternatives(chance))) or "no verdict"
        far = chance["difference"].abs().max()
        words += f" By chance alone (other seeds, other folds) accuracies move by up to {far:.2f}"
        words += f", and a verdict changes ({changed})." if _changing(chance) else "; no verdict."
    return words


def _changing(rows: pd.DataFrame) -> list[str]:
    return list(rows.loc[rows["verdict_changes"] != "none", "choice"])


def _alternatives(rows: pd.DataFrame) -> list[str]:
    changing = rows[rows["verdict_changes"] != "none"]
    return [f"{_named(row)}: {row['verdict_changes']}" for _, row in changing.iterrows()]


def _named(row: pd.Series) -> str:
    return f"{row['choice']} {row['alternative']}"


def seed_spread(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each system over the seeds of its head, the run's own included.

    Returns
    -------
    pd.DataFrame
        system, n_seeds, mean, sd (of the sample), lowest, highest.
    """
    seeds = rows[rows["choice"] == "seed"]
    own = seeds.drop_duplicates("system").assign(accuracy=lambda t: t["default_accuracy"])
    of_system = pd.concat([own, seeds]).groupby("system", sort=False)["accuracy"]
    return of_system.agg(
        n_seeds="size", mean="mean", sd="std", lowest="min", highest="max"
    ).reset_index()


def markdown(rows: pd.DataFrame, notes: list[str], title: str, note: str = "") -> str:
    """Write the table for people."""
    said = f" ({note})" if note and note != title else ""
    lines = [
        f"**What the open choices decide on {title}, new artists**{said}",
        "",
        summary(rows),
        "",
        "| choice | default | alternative | system | accuracy (95 %) | difference (95 %) "
        "| verdicts that change |",
        "|---|---|---|---|--:|--:|---|",
    ]
    for row in rows.itertuples():
        accuracy = interval(row.accuracy, row.accuracy_lo, row.accuracy_hi)
        far = interval(row.difference, row.lo, row.hi, "+")
        cells = (row.choice, row.default, row.alternative, row.system, accuracy, far)
        lines.append(f"| {' | '.join(cells)} | {row.verdict_changes} |")
    spread = seed_spread(rows)
    if len(spread):
        lines += [
            "",
            "Seeds of the head, the run's own included:",
            "",
            "| system | seeds | mean accuracy | standard deviation | lowest to highest |",
            "|---|--:|--:|--:|--:|",
        ]
    for row in spread.itertuples():
        reach = f"{row.lowest:.3f} to {row.highest:.3f}"
        lines.append(f"| {row.system} | {row.n_seeds} | {row.mean:.3f} | {row.sd:.3f} | {reach} |")
    lines += [
        "",
        "Intervals: bootstrap over artists, not corrected for the number of rows. Verdicts: all "
        "systems of a choice replaced together, the rest as in the run.",
        "",
        *(f"- {line}" for line in notes),
    ]
    return "\n".join(lines) + "\n"


def write(run: Run, rows: pd.DataFrame, notes: list[str], unfinished: int) -> None:
    """Write ``sensitivity.md`` into a run's folder."""
    if unfinished:
        notes = [*notes, f"Unfinished: {unfinished} alternatives to come."]
    content = markdown(rows, notes, run.recorded("corpus")["title"], run.note())
    write_text(run.folder / "sensitivity.md", content)


# ---- metrics.sensitivity ----
# Channels and preprocessing concern every CNN; the claims rest on the mel-spectrogram, and its maps
# alone take minutes. Seed s of the head is moved on by one each fold: 1 would repeat most of 0's.
CHOICES = (
    Choice("offset", (0.0, 9.0), FOUR),
    Choice("fill", ("repeat", "zeros"), FOUR),
    Choice("mel_scale", ("db", "amplitude", "power"), (MEL,)),
    Choice("channels", ("repeat", "colormap"), (MEL,)),
    Choice("preprocessing", ("vgg16", "scale"), (MEL,)),
    Choice("pooling", ("flatten", "average"), CNNS),
    Choice("coding", ("onevsone", "onevsall"), (SVM,)),
    Choice("volume_threshold", (-40.0, -60.0, -20.0), (SVM,)),
    Choice("baseline", (SVM, fair_svm.SYSTEM), (SVM,)),
    Choice("n_folds", (10, 5), FOUR),
    Choice("fold_seed", (0, 1), FOUR),
    Choice("seed", (0, 100, 200), CNNS),
)


def sensitivity(
    folder: str | Path,
    *,
    choices: tuple[Choice, ...] = CHOICES,
    jobs: int = 1,
    n_resamples: int = intervals.N_RESAMPLES,
) -> pd.DataFrame:
    """Replace a finished run's choices one by one and judge the claims again.

    Writes ``sensitivity.csv`` and ``sensitivity.md`` into the run's folder after each alternative.
    Arrays and folds are kept as a run's are: started again, it computes only what is missing.

    Parameters
    ----------
    folder : str or Path
        A folder that ``run_all.sh`` filled.
    choices : tuple of Choice
        The run's own value is passed over.
    jobs : int
        Worker processes of the feature extraction.
    n_resamples : int
        Draws of the bootstrap over artists.

    Returns
    -------
    pd.DataFrame
        choice, default (the run's value), alternative, system, accuracy, accuracy_lo, accuracy_hi,
        default_accuracy, difference (alternative - default; of the same clips) with its 95 %
        interval by artists (lo, hi), verdict_changes (claims 1 to 5, all systems of the choice
        replaced together; "none" or ``claim 2: holds -> does not hold; ...``).

    Raises
    ------
    UsageError
        The folder holds no finished run, or one without the artist protocol.
    """
    base = opened(folder, jobs, {"n_resamples": n_resamples})
    before = verdicts(base.predictions, base)
    todo = [(c, value) for c in choices for value in c.values if value != base.settings[c.name]]
    rows, notes = pd.DataFrame(columns=report.COLUMNS), [_f_scores(base), *report.NOTES]
    for i, (choice, value) in enumerate(progress(todo, "alternatives", unit="alternative"), 1):
        reason = not_possible(base, choice.name, value)
        if reason:
            notes.append(f"Not computed, {choice.name} {report.text(value)}: {reason}.")
        else:
            made = _rows(base, choice, value, before)
            rows = pd.concat([rows, made], ignore_index=True) if len(rows) else made
        base.run.write("sensitivity", rows)
        report.write(base.run, rows, notes, unfinished=len(todo) - i)
    return rows


def swap(predictions: pd.DataFrame, instead: pd.DataFrame) -> pd.DataFrame:
    """Put systems' rows in place of their old ones; all rows take the new ones' folds."""
    stay = predictions[~predictions["system"].isin(instead["system"])]
    fold = instead.drop_duplicates("clip_id").set_index("clip_id")["fold"]
    both = pd.concat([stay, instead], ignore_index=True)
    return both.assign(fold=both["clip_id"].map(fold))


def verdicts(predictions: pd.DataFrame, base: Base) -> dict[int, str]:
    """Verdicts on claims 1 to 5 under the artist protocol."""
    table = claims.claims_table(predictions, base.clips, "", **base.bootstrap)
    table = table[(table["protocol"] == PROTOCOL) & (table["claim"] <= 5)]
    return dict(zip(table["claim"], table["verdict"], strict=True))


def changes(before: dict[int, str], after: dict[int, str]) -> str:
    """Say which verdicts differ; ``"none"`` when all are the same."""
    words = [f"claim {i}: {before[i]} -> {after[i]}" for i in before if before[i] != after[i]]
    return "; ".join(words) or "none"


def _rows(base: Base, choice: Choice, value: Any, before: dict) -> pd.DataFrame:  # noqa: ANN401
    new = predict(base, choice, value)
    changed = changes(before, verdicts(swap(base.predictions, new), base))
    rows = []
    for system in choice.systems:
        one, two = (t[t["system"] == system] for t in (new, base.predictions))
        both = pd.concat([one.assign(system="alternative"), two.assign(system="default")])
        found = intervals.compare(both, base.clips, [("alternative", "default")], **base.bootstrap)
        ends = intervals.cluster_intervals(one, base.clips, **base.bootstrap).iloc[0]
        accuracy, known = ((t["y_true"] == t["y_pred"]).mean() for t in (one, two))
        figures = (
            accuracy,
            ends["accuracy_lo"],
            ends["accuracy_hi"],
            known,
            *found.loc[0, ["difference", "lo", "hi"]],
        )
        names = (choice.name, report.text(base.settings[choice.name]), report.text(value), system)
        rows.append((*names, *(round(float(x), 6) for x in figures), changed))
    return pd.DataFrame(rows, columns=report.COLUMNS)


def _f_scores(base: Base) -> str:
    """Compare the two averages of the F-score, which needs no computing."""
    four = base.predictions[base.predictions["system"].isin(FOUR)]
    tables = [
        intervals.cluster_intervals(four, base.clips, f_average=average, **base.bootstrap)
        for average in evaluate.F_AVERAGES
    ]
    scores = [evaluate.table1(four, average)["f_score"] for average in evaluate.F_AVERAGES]
    words = []
    for i, system in enumerate(tables[0]["system"]):
        pairs = zip(scores, tables, strict=True)
        ends = [report.interval(f[i], t["f_score_lo"][i], t["f_score_hi"][i]) for f, t in pairs]
        words.append(f"{system} {' -> '.join(ends)}")
    return f"f_average macro -> weighted: {', '.join(words)}. No verdict rests on the F-score."


def main_sensitivity(arguments: Namespace) -> int:
    """Command ``sensitivity``; returns the exit code."""
    on_terminal()
    rows = sensitivity(arguments.run, jobs=workers(arguments.jobs))
    print(report.summary(rows))
    print(f"table      {Run(arguments.run).folder / 'sensitivity.md'}")
    return 0
