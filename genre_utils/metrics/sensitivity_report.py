"""The table of `sensitivity` in words and in Markdown."""

import pandas as pd

from genre_utils.artefacts import Run
from genre_utils.store import write_text

COLUMNS = [
    "choice", "default", "alternative", "system", "accuracy", "accuracy_lo", "accuracy_hi",
    "default_accuracy", "difference", "lo", "hi", "verdict_changes",
]  # fmt: skip
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
