"""Whether a choice that the paper leaves open decides a verdict on its claims (README's table).

Each alternative of `CHOICES` replaces one choice of a finished run, under the artist protocol; what
does not depend on it is taken from the run. Other seeds of the head and other folds are no choices
but chance: they show how large a difference means nothing.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from genre_utils.artefacts import Run
from genre_utils.metrics import claims, evaluate, intervals
from genre_utils.metrics import sensitivity_report as report
from genre_utils.metrics.alternatives import (
    FOUR,
    PROTOCOL,
    Base,
    Choice,
    not_possible,
    opened,
    predict,
)
from genre_utils.metrics.claims import CNNS, MEL, SVM
from genre_utils.models import fair_svm
from genre_utils.progress import on_terminal, progress, workers

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
    folder: str | Path, *, choices: tuple[Choice, ...] = CHOICES, jobs: int = 1,
    n_resamples: int = intervals.N_RESAMPLES,
) -> pd.DataFrame:  # fmt: skip
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
            accuracy, ends["accuracy_lo"], ends["accuracy_hi"], known,
            *found.loc[0, ["difference", "lo", "hi"]],
        )  # fmt: skip
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
