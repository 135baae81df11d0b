"""The picture of all systems and reference points under all protocols."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from genre_utils.data import splits
from genre_utils.metrics.tables import NAMES
from genre_utils.plots.figures import PROTOCOLS
from genre_utils.plots.style import canvas, finish, styled


@styled
def accuracy_with_intervals(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw each accuracy as a point with its interval, a band of rows for each system.

    Unlike `figures.accuracy_by_protocol` it has room for any number of systems.

    Parameters
    ----------
    table : pd.DataFrame
        system, protocol, accuracy, accuracy_lo, accuracy_hi, paper_accuracy (0..1, the last NaN
        where the paper has none). Systems are drawn in the order in which they come.
    """
    systems = list(dict.fromkeys(table["system"]))
    protocols = [name for name in splits.PROTOCOLS if name in set(table["protocol"])]
    fig, ax = canvas(height=1.5 + (0.16 * len(protocols) + 0.1) * len(systems))
    height = 0.8 / len(protocols)
    for i, protocol in enumerate(protocols):
        part = table[table["protocol"] == protocol].set_index("system").reindex(systems)
        y = np.arange(len(systems)) - 0.4 + (i + 0.5) * height
        error = [part["accuracy"] - part["accuracy_lo"], part["accuracy_hi"] - part["accuracy"]]
        how = {"fmt": "o", "ms": 5, "elinewidth": 2, "color": PROTOCOLS[protocol]}
        ax.errorbar(part["accuracy"], y, xerr=np.array(error), label=f"{protocol} split", **how)
    known = table.dropna(subset="paper_accuracy")
    y = [systems.index(name) - 0.4 + 0.5 * height for name in known["system"]]
    how = {"marker": "D", "s": 40, "color": "black", "zorder": 4}
    ax.scatter(known["paper_accuracy"], y, label="the paper", **how)
    ax.set(xlim=(0, 1.02), ylim=(len(systems) - 0.5, -0.5), xlabel="Accuracy, 95 % interval")
    ax.set_yticks(range(len(systems)), [NAMES.get(name, name) for name in systems])
    ax.set_yticks(np.arange(1, len(systems)) - 0.5, minor=True)
    ax.tick_params(axis="y", which="minor", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="y", which="minor")
    columns = len(protocols) + 1
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, columnspacing=1.2)
    return finish(fig, "Accuracy by system and protocol", note)
