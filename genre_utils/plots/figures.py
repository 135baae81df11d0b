"""Every picture of the companion: arrays and tables in, a matplotlib figure out.

Each function takes a ``note`` ("demo corpus (synthesised)") that is printed on the picture. Here
are the pictures of tables; those of sound and of the network are passed on from their modules.
"""

from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from genre_utils import paper
from genre_utils.plots.clip_figures import frames_kept, images, mel_spectrograms, mfcc_hop, waveform
from genre_utils.plots.schematic import architecture, dense_layers
from genre_utils.plots.style import BLUE, GREEN, ORANGE, PURPLE, canvas, finish, save, styled

__all__ = [
    "accuracy_by_protocol", "architecture", "clips_per_genre", "confusion_matrices", "dense_layers",
    "fold_accuracies", "frames_kept", "images", "mel_spectrograms", "mfcc_hop", "save",
    "shared_groups", "training_curves", "waveform",
]  # fmt: skip

PROTOCOLS = {"random": BLUE, "track": GREEN, "album": PURPLE, "artist": ORANGE}
SYSTEMS = dict(zip(paper.SYSTEM_LABELS, (BLUE, ORANGE, GREEN, PURPLE), strict=True))


@styled
def clips_per_genre(clips: pd.DataFrame, note: str = "") -> Figure:
    """Bars of the clips and artists of each genre.

    Parameters
    ----------
    clips : pd.DataFrame
        The clip table; clips whose status is not ``ok`` are drawn apart.
    """
    used = clips["status"] == "ok"
    genre = clips["genre"].replace("", "(no genre)")
    counts = pd.crosstab(genre, used).reindex(columns=[True, False], fill_value=0)
    artists = clips[used].groupby(genre)["artist"].nunique().reindex(counts.index, fill_value=0)
    fig, axes = canvas(1, 2, 1.5 + 0.34 * len(counts), sharey=True, width_ratios=(3, 2))
    axes[0].barh(counts.index, counts[True], color=BLUE, label="used")
    if not used.all():
        axes[0].barh(counts.index, counts[False], left=counts[True], color="0.8", label="left out")
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    for i, (good, bad) in enumerate(zip(counts[True], counts[False], strict=True)):
        axes[0].text(good + bad, i, f" {good}" + (f" + {bad}" if bad else ""), va="center")
    bars = axes[1].barh(artists.index, artists, color=ORANGE)
    axes[1].bar_label(bars, padding=3)
    for ax, title in zip(axes, ("Clips", "Artists"), strict=True):
        ax.set_title(title)
        ax.set_xlim(0, 1.14 * max(ax.dataLim.x1, 1))
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ax.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    return finish(fig, f"{used.sum():,} clips in {(counts[True] > 0).sum()} genres", note)


@styled
def shared_groups(shares: pd.DataFrame, note: str = "") -> Figure:
    """Bars of how many test clips have a relative among the training clips.

    Parameters
    ----------
    shares : pd.DataFrame
        protocol, group (track, album or artist), share (0..1) of the test clips.
    """
    table = shares.pivot(index="group", columns="protocol", values="share")
    groups = [group for group in ("track", "album", "artist") if group in table.index]
    table = table.loc[groups, list(dict.fromkeys(shares["protocol"]))] * 100
    fig, ax = canvas(height=3.8)
    places = _bars(ax, table)
    _numbers(ax, places, table, "{:.3g}")
    ax.set(ylim=(0, 109), yticks=range(0, 101, 25), ylabel="Test clips (%)")
    ax.set_xticks(range(len(groups)), [f"same {group}" for group in groups])
    fig.legend(loc="outside right upper")
    return finish(fig, "Test clips with a relative among the training clips", note)


@styled
def accuracy_by_protocol(table1: pd.DataFrame, note: str = "") -> Figure:
    """Bars of each system's accuracy under each protocol, the paper's number as a mark.

    Parameters
    ----------
    table1 : pd.DataFrame
        system, protocol, accuracy, paper_accuracy (0..1, empty where the paper has none); error
        bars where there are accuracy_lo and accuracy_hi.
    """
    systems, protocols = (list(dict.fromkeys(table1[c])) for c in ("system", "protocol"))
    wide = table1.pivot(index="system", columns="protocol")
    part = {c: wide[c].loc[systems, protocols].astype(float) for c in wide.columns.levels[0]}
    accuracy, known = part["accuracy"], part["paper_accuracy"]
    top = part.get("accuracy_hi", accuracy)
    fig, ax = canvas(height=4.4)
    places = _bars(ax, accuracy)
    if "accuracy_lo" in part:
        error = np.stack([accuracy - part["accuracy_lo"], top - accuracy]).reshape(2, -1)
        how = {"fmt": "none", "ecolor": "0.25", "elinewidth": 1.2, "capsize": 3}
        ax.errorbar(places.ravel(), accuracy.to_numpy().ravel(), error, **how)
    how = {"marker": "D", "s": 46, "color": "black", "edgecolor": "white", "zorder": 4}
    ax.scatter(places, known, label="the paper", **how)
    covered = (known > top - 0.03) & (known < top + 0.08)  # the mark would hide the number
    _numbers(ax, places, accuracy, "{:.2f}", top.mask(covered, np.maximum(known + 0.02, top)))
    ax.set(ylim=(0, 1.09), ylabel="Accuracy", yticks=np.arange(0, 1.01, 0.2))
    ax.set_xticks(range(len(systems)), [_label(system) for system in systems])
    fig.legend(loc="outside right upper")
    return finish(fig, "Accuracy by system and protocol", note)


def _label(system: str) -> str:
    return paper.SYSTEM_LABELS.get(system, system)


def _bars(ax: Axes, table: pd.DataFrame) -> np.ndarray:
    """Draw a group of bars for each row of ``table``, a bar for each column (a protocol).

    Returns the bars' centres, shaped as the table.
    """
    width = 0.8 / table.shape[1]
    shift = (np.arange(table.shape[1]) - (table.shape[1] - 1) / 2) * width
    places = np.arange(len(table))[:, None] + shift
    for i, protocol in enumerate(table):
        colour = PROTOCOLS.get(protocol, "0.6")
        label = f"{protocol} split"
        ax.bar(places[:, i], table[protocol], 0.94 * width, color=colour, label=label)
    ax.grid(visible=False, axis="x")
    return places


def _numbers(
    ax: Axes, places: np.ndarray, table: pd.DataFrame, text: str,
    heights: pd.DataFrame | None = None,
) -> None:  # fmt: skip
    """Write the numbers of ``table`` above its bars, or above ``heights``."""
    heights = table if heights is None else heights
    numbers = zip(places.flat, heights.to_numpy().flat, table.to_numpy().flat, strict=True)
    for x, y, value in numbers:
        if np.isfinite(value):
            how = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
            # With two protocols there is room for numbers of full size, with four there is not.
            size = 8 if table.shape[1] > 2 else None
            ax.annotate(text.format(value), (x, y), fontsize=size, **how)


@styled
def fold_accuracies(per_fold: pd.DataFrame, note: str = "") -> Figure:
    """Draw the accuracy of every fold as a point and their mean as a line.

    Parameters
    ----------
    per_fold : pd.DataFrame
        system, protocol, fold, accuracy (0..1).
    """
    systems, protocols = (list(dict.fromkeys(per_fold[c])) for c in ("system", "protocol"))
    width = 0.8 / len(protocols)
    fig, ax = canvas(height=4.2)
    for protocol, rows in per_fold.groupby("protocol", sort=False):
        colour, label = PROTOCOLS.get(protocol, "0.6"), f"{protocol} split"
        for system, folds in rows.groupby("system", sort=False):
            left = systems.index(system) - 0.4 + (protocols.index(protocol) + 0.08) * width
            x = np.linspace(left, left + 0.84 * width, len(folds))
            ax.scatter(x, folds["accuracy"], color=colour, s=24, alpha=0.8, lw=0, label=label)
            ax.hlines(folds["accuracy"].mean(), x[0], x[-1], color=colour, lw=2.5)
            label = None
    ax.set(ylim=(0, 1.03), ylabel="Accuracy of a fold")
    ax.set_xticks(range(len(systems)), [_label(system) for system in systems])
    ax.grid(visible=False, axis="x")
    fig.legend(loc="outside right upper")
    return finish(fig, "Accuracy of each fold and their mean", note)


@styled
def training_curves(history: pd.DataFrame, note: str = "") -> Figure:
    """Draw loss and accuracy in training: mean over the folds, band from lowest to highest.

    Parameters
    ----------
    history : pd.DataFrame
        system, protocol, fold, epoch, loss, accuracy (0..1).
    """
    table = history.assign(
        system=history["system"].map(_label), protocol=history["protocol"] + " split"
    )
    colours = {_label(name): colour for name, colour in SYSTEMS.items()}
    colours = {name: colours.get(name, "0.4") for name in dict.fromkeys(table["system"])}
    fig, axes = canvas(1, 2, 4.0)
    for ax, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        sns.lineplot(
            table, x="epoch", y=quantity, hue="system", style="protocol", palette=colours,
            errorbar=("pi", 100), ax=ax, legend="full" if quantity == "loss" else False,
        )  # fmt: skip
        ax.set(title=f"Training {quantity}", xlabel="Epoch", ylabel="")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[1].set_ylim(0, 1.03)
    _two_legends(fig, axes[0], set(colours))
    return finish(fig, "Training: mean of the folds, band from lowest to highest", note)


def _two_legends(fig: Figure, ax: Axes, systems: set[str]) -> None:
    """Put seaborn's single legend as colours under the figure and line styles into ``ax``."""
    pairs = list(zip(*ax.get_legend_handles_labels(), strict=True))
    colours = [pair for pair in pairs if pair[1] in systems]
    styles = [pair for pair in pairs if pair[1].endswith(" split")]
    fig.legend(*zip(*colours, strict=True), loc="outside lower left", ncols=3)
    ax.legend(*zip(*styles, strict=True), loc="upper right")


@styled
def confusion_matrices(
    ours: pd.DataFrame, paper_table: pd.DataFrame, ours_title: str, paper_title: str = "The paper",
    note: str = "",
) -> Figure:  # fmt: skip
    """Draw our confusion matrix of CNN+Mel-spectrogram beside the paper's (its Fig. 3).

    Parameters
    ----------
    ours, paper_table : pd.DataFrame
        Per cent of each true genre (row) by predicted genre (column); ours in the paper's order,
        other genres last.
    """
    order = [genre for genre in paper_table.index if genre in ours.index]
    order += [genre for genre in ours.index if genre not in order]
    tables = ours.loc[order, order], paper_table
    same = order == list(paper_table.index)
    fig, axes = canvas(1, 2, (5.6 if same else 5.1) + 0.3 * bool(note), sharey=same)
    for ax, table, title in zip(axes, tables, (ours_title, paper_title), strict=True):
        sns.heatmap(
            table, ax=ax, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar=False,
            linewidths=0.5, linecolor="0.92", annot_kws={"fontsize": 9.5},
        )  # fmt: skip
        for text in ax.texts:
            if text.get_text() == "0":
                text.set_color("0.7")
        ax.set_title(fill(title, 34))
        ax.set(xlabel="Predicted genre", ylabel="True genre")
        ax.tick_params(length=0)
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(ax.get_xticks(), table.columns, **turned)
        ax.tick_params(axis="y", rotation=0)
    axes[1].set_ylabel("")
    return finish(fig, "Confusion of CNN+Mel-spectrogram, % of each true genre", note)
