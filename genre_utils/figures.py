"""Every picture of the companion: arrays and tables in, a matplotlib figure out.

Each function takes a ``note`` ("demo corpus (synthesised)") that is printed on the picture. Here
are the pictures of tables; those of sound and of the network are passed on from their modules.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genre_utils import paper
from genre_utils.clip_figures import frames_kept, images, mel_spectrograms, mfcc_hop, waveform
from genre_utils.schematic import architecture
from genre_utils.style import BLUE, GREEN, ORANGE, PURPLE, canvas, finish, save, styled

__all__ = [
    "accuracy_by_protocol", "architecture", "clips_per_genre", "confusion_matrices",
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
        ax.margins(x=0.14)
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
    _bars(ax, table, "{:.0f} %")
    ax.set(ylim=(0, 112), yticks=range(0, 101, 25), ylabel="Test clips (%)")
    ax.set_xticks(range(len(groups)), [f"same {group} in training" for group in groups])
    return finish(fig, "Test clips that share a track, album or artist with training", note)


@styled
def accuracy_by_protocol(table1: pd.DataFrame, note: str = "") -> Figure:
    """Bars of each system's accuracy under each protocol, the paper's number as a mark.

    Parameters
    ----------
    table1 : pd.DataFrame
        system, protocol, accuracy, paper_accuracy (0..1, empty where the paper has none); error
        bars where there are accuracy_lo and accuracy_hi.
    """
    wide = table1.pivot(index="system", columns="protocol")
    systems, protocols = (list(dict.fromkeys(table1[c])) for c in ("system", "protocol"))
    part = {column: wide[column].loc[systems, protocols] for column in wide.columns.levels[0]}
    fig, ax = canvas(height=4.4)
    error = None
    if "accuracy_lo" in part:
        error = part["accuracy"] - part["accuracy_lo"], part["accuracy_hi"] - part["accuracy"]
    places = _bars(ax, part["accuracy"], "{:.2f}", error)
    known = part["paper_accuracy"].to_numpy(float)
    how = {"marker": "D", "s": 48, "color": "black", "edgecolor": "white", "zorder": 4}
    ax.scatter(places, known, label="the paper", **how)
    ax.set(ylim=(0, 1.09), ylabel="Accuracy", yticks=np.arange(0, 1.01, 0.2))
    ax.set_xticks(range(len(systems)), [_label(system) for system in systems])
    _legend(fig, ax)
    return finish(fig, "Accuracy by system and protocol", note)


def _label(system: str) -> str:
    return paper.SYSTEM_LABELS.get(system, system)


def _legend(fig: Figure, ax: Axes) -> None:
    fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper")


def _bars(
    ax: Axes, table: pd.DataFrame, text: str, error: tuple | None = None
) -> np.ndarray:  # fmt: skip
    """Draw one group of bars a row of ``table`` and one bar a column; return their centres."""
    width = 0.8 / table.shape[1]
    shift = (np.arange(table.shape[1]) - (table.shape[1] - 1) / 2) * width
    places = np.arange(len(table))[:, None] + shift
    for i, column in enumerate(table):
        bars = ax.bar(
            places[:, i], table[column], 0.94 * width, label=f"{column} split",
            color=PROTOCOLS.get(column, "0.6"),
        )  # fmt: skip
        ax.bar_label(bars, [text.format(value) for value in table[column]], padding=2)
    ax.grid(visible=False, axis="x")
    return places


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
    for j, protocol in enumerate(protocols):
        colour = PROTOCOLS.get(protocol, "0.6")
        for i, system in enumerate(systems):
            mine = per_fold[(per_fold["system"] == system) & (per_fold["protocol"] == protocol)]
            left = i - 0.4 + (j + 0.08) * width
            x = np.linspace(left, left + 0.84 * width, len(mine))
            label = None if i else f"{protocol} split"
            ax.scatter(x, mine["accuracy"], color=colour, s=24, alpha=0.8, lw=0, label=label)
            ax.hlines(mine["accuracy"].mean(), x[0], x[-1], color=colour, lw=2.5)
    ax.set(ylim=(0, 1.03), ylabel="Accuracy of a fold")
    ax.set_xticks(range(len(systems)), [_label(system) for system in systems])
    ax.grid(visible=False, axis="x")
    _legend(fig, ax)
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
    fig, axes = canvas(1, 2, 3.9)
    for ax, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        sns.lineplot(
            table, x="epoch", y=quantity, hue="system", style="protocol", palette=colours,
            errorbar=("pi", 100), ax=ax, legend="full" if quantity == "loss" else False,
        )  # fmt: skip
        ax.set(title=f"Training {quantity}", xlabel="Epoch", ylabel="")
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1.03)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].get_legend().remove()
    pairs = [(h, n) for h, n in zip(handles, labels, strict=True) if n not in table.columns]
    fig.legend(*zip(*pairs, strict=True), loc="outside lower left", ncols=3)
    return finish(fig, "Training of the dense layers", note)


@styled
def confusion_matrices(
    ours: pd.DataFrame, paper_table: pd.DataFrame, ours_title: str, paper_title: str = "The paper",
    note: str = "",
) -> Figure:  # fmt: skip
    """Draw our confusion matrix beside the paper's (its Fig. 3).

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
    fig, axes = canvas(1, 2, 5.3, sharey=same, width_ratios=[len(table) for table in tables])
    for ax, table, title in zip(axes, tables, (ours_title, paper_title), strict=True):
        sns.heatmap(
            table, ax=ax, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar=False,
            square=True, linewidths=0.5, linecolor="0.92", annot_kws={"fontsize": 9.5},
        )  # fmt: skip
        for text in ax.texts:
            if text.get_text() == "0":
                text.set_color("0.7")
        ax.set_title(title)
        ax.set(xlabel="Predicted genre", ylabel="True genre")
        ax.tick_params(length=0)
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(ax.get_xticks(), table.columns, **turned)
    axes[1].set_ylabel("")
    return finish(fig, "Confusion matrices, % of each true genre", note)
