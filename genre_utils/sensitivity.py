"""What else could have come out of a finished run: other choices, and other seeds.

`sensitivity`: whether a choice that the paper leaves open decides a verdict on its claims (README's
table). `seeds`: what chance does, that is folds drawn anew and heads trained from other seeds.
Notebooks 1 to 4 are executed again with parameters changed, of 3 (CNNs) and 4 (SVMs) the ones whose
systems are asked for; the cache serves what does not depend on them.
"""

import ast
from dataclasses import dataclass

import pandas as pd
import papermill

from genre_utils import paper, run
from genre_utils.metrics import claims, evaluate, intervals, tables
from genre_utils.runtime import GenreUtilsError, UsageError, progress
from genre_utils.store import Run, write_text

PROTOCOL = "artist"
SVM = "svm-mfcc"
FOUR = tuple(paper.TABLE1)
CNNS = FOUR[:3]
MADE = {"03_cnn": CNNS, "04_svm": (SVM,)}  # by these notebooks
NOTES = (
    "multi_genre single makes another clip table: it is a run of its own, not shown here.",
    "MFCC's 128 mel bands and image scale have no alternative in this code.",
)
ROW = ["choice", "default", "alternative", "system"]
FIGURES = ["accuracy", "accuracy_lo", "accuracy_hi", "default_accuracy", "difference", "lo", "hi"]
COLUMNS = [*ROW, *FIGURES, "verdict_changes"]


@dataclass(frozen=True)
class Choice:
    """A parameter of a notebook, the values to try, and the systems that it can change."""

    name: str
    notebook: str
    values: tuple
    systems: tuple[str, ...]


CHOICES = (
    Choice("offset", "02_features", (0.0, 9.0), FOUR),
    Choice("fill", "02_features", ("repeat", "zeros"), FOUR),
    Choice("mel_scale", "02_features", ("db", "amplitude", "power"), FOUR[:1]),
    Choice("channels", "03_cnn", ("repeat", "colormap"), CNNS),
    Choice("preprocessing", "03_cnn", ("vgg16", "scale"), CNNS),
    Choice("pooling", "03_cnn", ("flatten", "average"), CNNS),
    Choice("coding", "04_svm", ("onevsone", "onevsall"), (SVM,)),
    Choice("volume_threshold", "04_svm", (-40.0, -60.0, -20.0), (SVM,)),
    Choice("baseline", "", (SVM, "svm-fair"), (SVM,)),
    Choice("n_folds", "01_data", (5, 10), FOUR),
)


def sensitivity(
    folder: str,
    *,
    choices: tuple[Choice, ...] = CHOICES,
    jobs: int = 1,
    n_resamples: int = intervals.N_RESAMPLES,
) -> pd.DataFrame:
    """Replace the choices of a finished run's ``folder`` one by one and judge the claims again.

    Each alternative is a run in ``sensitivity`` of that folder, made by ``jobs`` processes; one
    that is there is read. ``sensitivity.csv`` and ``sensitivity.md`` are written after each.

    Returns
    -------
    pd.DataFrame [columns=COLUMNS]
        ``default`` is the run's value, ``difference`` alternative - default on the same clips with
        its 95 % interval by artists (lo, hi). ``verdict_changes`` concerns claims 1 to 5 with all
        systems of the choice replaced together: "none" or ``claim 2: holds -> does not hold; ...``.

    Raises UsageError where there is no finished run, or one without the artist protocol.
    """
    base = _finished(folder)
    clips, tested = base.usable_clips(), base.read("predictions")
    tested = tested[tested["protocol"] == PROTOCOL]
    if tested.empty:
        raise UsageError(f"{folder}: a run without the {PROTOCOL} protocol cannot be judged here")
    known = {choice.name: _value(base, choice) for choice in choices}
    todo = [(c, value) for c in choices for value in c.values if value != known[c.name]]
    judge = {"n_resamples": n_resamples}
    before = _verdicts(tested, clips, judge)
    rows, notes = [], [_f_scores(tested), *NOTES]
    for i, (choice, value) in enumerate(progress(todo, "alternatives", unit="alternative"), 1):
        try:
            other = _predictions(base, tested, clips, choice, value, jobs)
            after = _verdicts(_replaced(tested, other), clips, judge)
            changes = [f"claim {c}: {v} -> {after[c]}" for c, v in before.items() if v != after[c]]
            for system in choice.systems:
                named = (choice.name, _text(known[choice.name]), _text(value), system)
                figures = _figures(tested, other, clips, system, judge)
                rows.append((*named, *figures, "; ".join(changes) or "none"))
        except GenreUtilsError as error:
            notes.append(f"Not computed, {choice.name} {_text(value)}: {error}")
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_text(base.folder / "sensitivity.csv", table.to_csv(index=False, lineterminator="\n"))
        left = [f"Unfinished: {len(todo) - i} alternatives to come."] if i < len(todo) else []
        page = markdown(table, [*notes, *left], base.recorded("corpus")["title"], base.note())
        write_text(base.folder / "sensitivity.md", page)
    return table


def _finished(folder: str) -> Run:
    run_ = Run(folder)
    if not (run_.folder / "predictions.csv").is_file():
        raise UsageError(f"{folder}: no finished run (no predictions.csv)")
    return run_


def _value(base: Run, choice: Choice) -> object:
    """Value that the run was made with: given to the notebook, or its default."""
    if not choice.notebook:
        return choice.values[0]
    given = base.recorded("parameters").get(choice.notebook, {})
    path = run.NOTEBOOKS / f"{choice.notebook}.ipynb"
    default = papermill.inspect_notebook(str(path))[choice.name]["default"]
    return given.get(choice.name, ast.literal_eval(default))


def _predictions(
    base: Run, tested: pd.DataFrame, clips: pd.DataFrame, choice: Choice, value: object, jobs: int
) -> pd.DataFrame:
    """Predictions of the systems of a choice with one of its values."""
    if not choice.notebook:
        other = tested[tested["system"] == value].assign(system=SVM)
        if other.empty:
            raise GenreUtilsError(f"the run has no predictions of {value}")
        return other
    if choice.name == "fill" and not (clips["duration_s"] < paper.AUDIO["duration"]).any():
        raise GenreUtilsError(f"no clip is shorter than {paper.AUDIO['duration']:g} s")
    changed = {"01_data": {"protocols": [PROTOCOL]}}
    changed.setdefault(choice.notebook, {})[choice.name] = value
    other = _again(base, f"sensitivity/{choice.name}-{value}", changed, jobs, choice.systems)
    return other[other["system"].isin(choice.systems)]


def _again(base: Run, place: str, changed: dict, jobs: int, systems: tuple = FOUR) -> pd.DataFrame:
    """Predictions of ``systems`` with parameters ``changed``, in a folder of the run."""
    results = Run(base.folder / place)
    finished = results.folder / "finished"
    if not finished.is_file():
        asked = [path for path in run.notebooks()[:4] if {*MADE.get(path.stem, FOUR)} & {*systems}]
        steps = {path: dict(base.recorded("parameters")[path.stem]) for path in asked}
        for path, values in steps.items():
            values |= {"out": str(results.folder)} | changed.get(path.stem, {})
            values |= {"jobs": jobs} if "jobs" in values else {}
            run.check_parameters(path, run.declared_parameters(path), values)
        run.execute(list(steps.items()), results)
        write_text(finished, "")
    return results.read("predictions")


def seeds(folder: str, *, n: int = 5, jobs: int = 1) -> str:
    """Repeat a finished run's paper systems with ``n`` draws of folds and seeds, the first its own.

    Draw s takes ``seed=s`` in notebook 1 and 100 s in notebook 3 (which counts up by fold). Each is
    a run in ``seeds`` of that folder; one that is there is read. Writes ``seeds.csv`` (one row a
    system and protocol: means over the draws, accuracy's 95 % interval over artists, its standard
    deviation, lowest and highest over the draws) and ``seeds.md``, which is returned; claims.csv
    and claims.md say in how many draws a verdict comes out, and call none settled that differs.
    """
    base = _finished(folder)
    clips, drawn = base.usable_clips(), []
    known = base.read("predictions")
    protocols = [name for name in claims.PROTOCOLS if name in set(known["protocol"])]
    for seed in range(n):
        changed = {
            "01_data": {"seed": seed, "protocols": protocols},
            "03_cnn": {"seed": 100 * seed},
        }
        table = _again(base, f"seeds/{seed}", changed, jobs) if seed else known
        drawn.append(table[table["protocol"].isin(protocols)])
    table = tables.spread(drawn, clips)
    write_text(base.folder / "seeds.csv", table.to_csv(index=False, lineterminator="\n"))
    _settle(base, drawn, clips)
    page = tables.spread_markdown(table, base.recorded("corpus")["title"], base.note())
    write_text(base.folder / "seeds.md", page)
    return page


def _settle(base: Run, drawn: list[pd.DataFrame], clips: pd.DataFrame) -> None:
    """Judge the claims as notebook 6 does, and say in how many draws each verdict comes out."""
    title, judged = base.recorded("corpus")["title"], []
    for part in drawn:
        fusion = evaluate.combine(part, claims.CNNS, "fusion-cnns")
        judged.append(claims.claims_table(pd.concat([part, fusion]), clips, title))
    table, verdicts = judged[0], pd.concat([each["verdict"] for each in judged], axis=1)
    same = verdicts.eq(table["verdict"], axis=0).sum(axis=1)
    table["draws"] = [f"{k} of {len(drawn)}" for k in same]
    table["verdict"] = table["verdict"].mask(same < len(drawn), claims.UNSETTLED)
    base.write("claims", table)
    write_text(base.folder / "claims.md", claims.claims_markdown(table, title, base.note()))


def _replaced(tested: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Put systems' rows in place of their old ones; all rows take the new ones' folds."""
    both = pd.concat([tested[~tested["system"].isin(other["system"])], other], ignore_index=True)
    fold = other.drop_duplicates("clip_id").set_index("clip_id")["fold"]
    return both.assign(fold=both["clip_id"].map(fold))


def _verdicts(predictions: pd.DataFrame, clips: pd.DataFrame, judge: dict) -> dict[int, str]:
    """Verdicts on claims 1 to 5 under the artist protocol."""
    table = claims.claims_table(predictions, clips, "", **judge)
    table = table[(table["protocol"] == PROTOCOL) & (table["claim"] <= 5)]
    return dict(zip(table["claim"], table["verdict"], strict=True))


def _figures(
    tested: pd.DataFrame, other: pd.DataFrame, clips: pd.DataFrame, system: str, judge: dict
) -> tuple[float, ...]:
    """Accuracy with its interval, the run's own, and their difference with its interval."""
    new, old = (table[table["system"] == system] for table in (other, tested))
    both = pd.concat([new.assign(system="alternative"), old.assign(system="default")])
    pair = intervals.compare(both, clips, [("alternative", "default")], **judge).iloc[0]
    ends = intervals.cluster_intervals(new, clips, **judge).iloc[0]
    accuracy, known = ((table["y_true"] == table["y_pred"]).mean() for table in (new, old))
    figures = (accuracy, *ends[["accuracy_lo", "accuracy_hi"]], known)
    return tuple(round(float(x), 6) for x in (*figures, *pair[["difference", "lo", "hi"]]))


def _f_scores(tested: pd.DataFrame) -> str:
    """Compare the two averages of the F-score, which needs no run."""
    words = []
    for system in FOUR:
        part = tested[tested["system"] == system]
        scores = (evaluate.f_score(part["y_true"], part["y_pred"], a) for a in evaluate.F_AVERAGES)
        words.append(f"{system} " + " -> ".join(f"{score:.2f}" for score in scores))
    return f"f_average macro -> weighted: {', '.join(words)}. No verdict rests on the F-score."


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def summary(rows: pd.DataFrame) -> str:
    """Say how many choices change a verdict and what the largest difference is."""
    named = rows["choice"] + " " + rows["alternative"].astype(str)
    said = named + ": " + rows["verdict_changes"]
    changing = rows["verdict_changes"] != "none"
    if rows.empty:
        return "No alternative was computed."
    n, m = rows["choice"].nunique(), rows.loc[changing, "choice"].nunique()
    which = f" ({'; '.join(said[changing].unique())})" if m else ""
    largest = rows.loc[rows["difference"].abs().idxmax()]
    return (
        f"{m or 'None'} of {n} choices that the paper leaves open change{'s' * (m <= 1)} a verdict "
        f"on claims 1 to 5{which}; the largest difference in accuracy is "
        f"{_interval(largest['difference'], largest['lo'], largest['hi'])}, of "
        f"{largest['system']} with {named[largest.name]}. What chance does is in seeds.md."
    )


def markdown(rows: pd.DataFrame, notes: list[str], title: str, note: str = "") -> str:
    """Write the table for people; ``title`` names the data, ``note`` what must be said of it."""
    said = f" ({note})" if note and note != title else ""
    table = rows[ROW].copy()
    table["accuracy (95 %)"] = [
        f"{r.accuracy:.2f} ({r.accuracy_lo:.2f} to {r.accuracy_hi:.2f})" for r in rows.itertuples()
    ]
    table["difference (95 %)"] = [_interval(r.difference, r.lo, r.hi) for r in rows.itertuples()]
    table["verdicts that change"] = rows["verdict_changes"]
    parts = [
        f"**What the open choices decide on {title}, new artists**{said}",
        summary(rows),
        table.to_markdown(index=False, disable_numparse=True),
        "Intervals: bootstrap over artists, not corrected for the number of rows. Verdicts: all "
        "systems of a choice replaced together, the rest as in the run.",
        "\n".join(f"- {line}" for line in notes),
    ]
    return "\n\n".join(parts) + "\n"
