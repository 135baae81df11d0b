"""One measured line, what makes its target met, and how two things are timed side by side."""

import math
import operator
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

COLUMNS = ("stage", "ours", "against", "ratio", "target", "met", "unit", "detail")
OPERATORS = {">=": operator.ge, "<=": operator.le, "<": operator.lt}
TARGET = re.compile(r"(ours|ratio) (>=|<=|<) (\S+)")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    stage : str
        What was measured.
    ours, against : float
        Medians, in ``unit``; NaN where nothing was measured or there is nothing to compare with.
    unit : str
    target : str
        "ratio >= 3" or "ours <= 0.1"; empty: for information.
    detail : str
        How it was measured, what was left out.
    more_is_better : bool
        The unit is a rate, not a cost.
    """

    stage: str
    ours: float
    unit: str
    against: float = math.nan
    target: str = ""
    detail: str = ""
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        """How many times better ours is; NaN where nothing stands against it."""
        if self.more_is_better:
            return self.ours / self.against if self.against else math.nan
        return self.against / self.ours if self.ours else math.nan

    @property
    def margin(self) -> float:
        """How many times better than asked for: 1 or more where the target is met."""
        which, sign, limit = _parts(self.target)
        value, wanted = getattr(self, which), float(limit)
        if sign == ">=":
            return value / wanted
        return wanted / value if value else math.inf

    @property
    def met(self) -> str:
        """Say "yes" or "no"; empty without a target, or when it was not measured."""
        if not self.target:
            return ""
        which, sign, limit = _parts(self.target)
        value = getattr(self, which)
        if math.isnan(value):
            return ""
        return "yes" if OPERATORS[sign](value, float(limit)) else "no"


def _parts(target: str) -> tuple[str, str, str]:
    found = TARGET.fullmatch(target)
    if not found:
        raise ValueError(f"target {target!r} is not like 'ratio >= 3'")
    return found.groups()


def frame(rows: list[Row]) -> pd.DataFrame:
    """Return the table with `COLUMNS`."""
    return pd.DataFrame([[getattr(row, name) for name in COLUMNS] for row in rows], columns=COLUMNS)


def seconds(task: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def alternate(
    tasks: dict[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, float]:
    """Time tasks in turn, so that a busy or throttled machine slows all of them.

    Parameters
    ----------
    tasks : dict
        Name -> call. The first round is thrown away with ``warm_up`` (compilation, caches).
    repeats : int
        Timed rounds.

    Returns
    -------
    dict
        Name -> median seconds.
    """
    rounds = [
        {name: seconds(task) for name, task in tasks.items()} for _ in range(repeats + warm_up)
    ]
    return {name: statistics.median(one[name] for one in rounds[warm_up:]) for name in tasks}
