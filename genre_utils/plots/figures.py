"""Every picture of the companion: arrays and tables in, a matplotlib figure out.

Each function takes a ``note`` ("demo corpus (synthesised)") that is printed on the picture. Here
are the pictures of tables; those of sound and of the network are passed on from their modules.

The picture of all systems and reference points under all protocols.

Pictures of what goes beyond the paper: more systems, how sure they are, and why they answer.
"""

from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from genre_utils import paper
from genre_utils.data import splits
from genre_utils.extraction.features import TOP_DB
from genre_utils.metrics import confidence as calibration
from genre_utils.metrics.tables import NAMES
from genre_utils.plots.clip_figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    architecture,
    canvas,
    dense_layers,
    finish,
    frames_kept,
    images,
    mel_spectrograms,
    mfcc_hop,
    save,
    show_feature,
    styled,
    waveform,
)

# ---- plots.figures ----
__all__ = [
    "accuracy_by_protocol",
    "architecture",
    "clips_per_genre",
    "confusion_matrices",
    "dense_layers",
    "fold_accuracies",
    "frames_kept",
    "images",
    "mel_spectrograms",
    "mfcc_hop",
    "save",
    "shared_groups",
    "training_curves",
    "waveform",
]

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
    ax: Axes,
    places: np.ndarray,
    table: pd.DataFrame,
    text: str,
    heights: pd.DataFrame | None = None,
) -> None:
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
            table,
            x="epoch",
            y=quantity,
            hue="system",
            style="protocol",
            palette=colours,
            errorbar=("pi", 100),
            ax=ax,
            legend="full" if quantity == "loss" else False,
        )
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
    ours: pd.DataFrame,
    paper_table: pd.DataFrame,
    ours_title: str,
    paper_title: str = "The paper",
    note: str = "",
) -> Figure:
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
            table,
            ax=ax,
            annot=True,
            fmt=".0f",
            cmap="Blues",
            vmin=0,
            vmax=100,
            cbar=False,
            linewidths=0.5,
            linecolor="0.92",
            annot_kws={"fontsize": 9.5},
        )
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


# ---- plots.measure_figures ----
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


# ---- plots.beyond_figures ----
COLOURS = tuple(sns.color_palette("colorblind").as_hex())
LINES = ("-", "--", ":")  # a second round of the ten colours is dashed
COARSE = 80  # dots per inch of noisy pictures, which take megabytes


def _colours(names: list[str]) -> dict[str, dict]:
    n = len(COLOURS)
    return {
        name: {"color": COLOURS[i % n], "ls": LINES[i // n % len(LINES)]}
        for i, name in enumerate(names)
    }


def _name(system: str) -> str:
    return NAMES.get(system, system)


@styled
def reliability_diagrams(before: pd.DataFrame, after: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy over confidence, a panel for each system: as trained, and with its temperature.

    Parameters
    ----------
    before, after : pd.DataFrame
        Rows of predictions.csv under one protocol, with probabilities; the latter of
        `combine.TemperatureScaled`, under the same names of systems.
    """
    systems = list(dict.fromkeys(before["system"]))
    columns = min(3, len(systems)) if len(systems) != 4 else 2
    rows = -(-len(systems) // columns)
    how = {"sharex": True, "sharey": True, "squeeze": False}
    fig, axes = canvas(rows, columns, 1.1 + min(9.0 / columns, 4.0) * rows, **how)
    for ax, system in zip(axes.flat, systems, strict=False):
        ax.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
        for table, colour, word in ((before, ORANGE, "as trained"), (after, BLUE, "scaled")):
            part = table[table["system"] == system]
            bins = calibration.reliability(*calibration.confidences(part))
            error = calibration.expected_calibration_error(bins)
            label = f"{word}: error {error:.3f}"
            points = bins["confidence"], bins["accuracy"]
            ax.plot(*points, color=colour, lw=1.2, alpha=0.8, label=label)
            size = 120 * np.sqrt(bins["n"] / bins["n"].sum())
            ax.scatter(*points, size, color=colour, alpha=0.7, lw=0)
        ax.set(title=_name(system), xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        ax.set(xticks=np.arange(0, 1.1, 0.25), yticks=np.arange(0, 1.1, 0.25))
        ax.legend(loc="upper left", borderaxespad=0.2, handlelength=1.2)
    _hide(axes, len(systems))
    fig.supylabel("Accuracy", fontsize=11)
    for ax in axes[-1]:
        ax.set_xlabel("Confidence")
    return finish(fig, "Reliability: how often answers of a confidence are right", note)


def _hide(axes: np.ndarray, used: int) -> None:
    for ax in axes.flat[used:]:
        ax.set_visible(False)


@styled
def coverage_curves(curves: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy when only the surest clips are answered, a panel for each protocol.

    Parameters
    ----------
    curves : pd.DataFrame
        From `coverage.coverage_curve`; up to about six systems can be told apart.
    """
    protocols = list(dict.fromkeys(curves["protocol"]))
    looks = _colours(list(dict.fromkeys(curves["system"])))
    fig, axes = canvas(1, len(protocols), 4.8, sharey=True, squeeze=False)
    for ax, protocol in zip(axes.flat, protocols, strict=True):
        for system, part in curves[curves["protocol"] == protocol].groupby("system", sort=False):
            look = looks[system]
            ends = part["accuracy_lo"], part["accuracy_hi"]
            ax.plot(part["coverage"], part["accuracy"], lw=2, **look)
            ax.fill_between(part["coverage"], *ends, color=look["color"], alpha=0.13, lw=0)
        ax.set(title=f"{protocol} split", xlim=(0, 1))
        ax.set_xlabel("Clips answered, the surest first")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes[0, 0].set(ylim=(None, 1.005), ylabel="Accuracy, 95 % interval")
    handles = [axes[0, 0].plot([], [], lw=2, **look)[0] for look in looks.values()]
    names = [_name(system) for system in looks]
    fig.legend(handles, names, loc="outside lower left", ncols=3, columnspacing=1.2)
    return finish(fig, "Accuracy when the system may say “don't know”", note)


@styled
def saliency(clips: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]], note: str = "") -> Figure:
    """Show what speaks for the answer: mel-spectrogram, gradient map over it, occlusion beside it.

    Parameters
    ----------
    clips : list of (title, mel, gradient map, occlusion)
        Title such as "Classical, taken for Ambient"; mel [216, t] in dB; maps of the same shape
        from `models.explain`, the first 0..1, the last in log-odds.
    """
    how = {"sharey": True, "squeeze": False, "dpi": COARSE}
    fig, axes = canvas(len(clips), 3, 0.9 + 2.5 * len(clips), **how)
    for row, (title, mel, gradient, occluded) in zip(axes, clips, strict=True):
        for ax, colours in zip(row, ("magma", "gray", "gray"), strict=True):
            show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0, cmap=colours)
            ax.set_ylabel("")
        _overlay(row[1], gradient, "inferno", (0, 1))
        far = max(np.abs(occluded).max(), 1e-6)
        _overlay(row[2], occluded, "RdBu_r", (-far, far))
        row[0].set_title(fill(title, 24))
        row[1].set_title("Gradient map")
        row[2].set_title(f"Occlusion, {occluded.min():+.1f} to {occluded.max():+.1f}")
    for ax in axes[-1]:
        ax.set_xlabel("Time (s)")
    fig.supylabel("Hz (mel scale)", fontsize=11)
    return finish(fig, "What speaks for the answer (occlusion: red for, blue against)", note)


def _overlay(ax: Axes, values: np.ndarray, colours: str, limits: tuple[float, float]) -> None:
    """Lay a map over a picture, the more opaque the larger its values are."""
    extent = ax.images[0].get_extent()
    opacity = 0.75 * np.abs(values) / max(np.abs(limits))
    ax.imshow(
        values,
        extent=extent,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        alpha=np.clip(opacity, 0, 1),
    )


@styled
def sanity_check(
    mel: np.ndarray, maps: dict[str, np.ndarray], correlations: pd.Series, note: str = ""
) -> Figure:
    """Show a clip's map with the trained weights and with random ones.

    Parameters
    ----------
    mel : np.ndarray [shape=(216, t)]
        In dB.
    maps : dict
        From `explain.randomised`.
    correlations : pd.Series
        From `saliency.rank_correlations`.
    """
    how = {"sharex": True, "sharey": True, "squeeze": False, "dpi": COARSE}
    fig, axes = canvas(2, -(-len(maps) // 2), 5.6, **how)
    for ax, (name, values) in zip(axes.flat, maps.items(), strict=False):
        show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0, cmap="gray")
        _overlay(ax, values, "inferno", (0, 1))
        alike = correlations[name]
        words = "map is flat" if np.isnan(alike) else f"ρ = {alike:.2f}"
        ax.set_title(name if name == next(iter(maps)) else f"{name}: {words}")
        ax.set_ylabel("")
    _hide(axes, len(maps))
    for ax in axes[-1]:
        ax.set_xlabel("Time (s)")
    fig.supylabel("Hz (mel scale)", fontsize=11)
    return finish(fig, "Maps of random weights, ρ: rank correlation with the trained", note)


@styled
def feature_importances(table: pd.DataFrame, n_features: int = 15, note: str = "") -> Figure:
    """Bars of the features that count most.

    Parameters
    ----------
    table : pd.DataFrame
        feature, importance (loss of accuracy, 0..1), sd; largest first, see `classic.importances`.
    """
    top = table.head(n_features)
    fig, ax = canvas(height=1.3 + 0.29 * len(top))
    error = {"ecolor": "0.25", "elinewidth": 1.2, "capsize": 3}
    how = {"xerr": 100 * top["sd"], "color": BLUE, "error_kw": error}
    ax.barh(top["feature"], 100 * top["importance"], **how)
    ax.invert_yaxis()
    ax.set_xlabel("Loss of accuracy when the feature is shuffled (percentage points)")
    ax.grid(visible=False, axis="y")
    return finish(fig, f"The {len(top)} most important of {len(table)} hand-crafted features", note)


@styled
def systems_by_group(table: pd.DataFrame, groups: dict[str, list[str]], note: str = "") -> Figure:
    """Accuracy by song of many systems with intervals, under headings.

    Parameters
    ----------
    table : pd.DataFrame
        From `tables.table1`: system, protocol, song_accuracy, song_accuracy_lo, song_accuracy_hi.
    groups : dict
        Heading -> its systems from top to bottom; systems that are not in ``table`` are left out.
    """
    protocols = [name for name in PROTOCOLS if name in set(table["protocol"])]
    there = set(table["system"])
    rows = []
    for heading, systems in groups.items():
        known = [system for system in systems if system in there]
        rows += [(heading, None)] * bool(known) + [(None, system) for system in known]
    fig, ax = canvas(height=1.4 + 0.3 * len(rows))
    places = {system: i for i, (_, system) in enumerate(rows) if system}
    for i, protocol in enumerate(protocols):
        part = table[table["protocol"] == protocol].set_index("system").reindex(places)
        y = np.array(list(places.values())) + 0.3 * ((i + 0.5) / len(protocols) - 0.5) * 2
        found = part["song_accuracy"]
        error = [found - part["song_accuracy_lo"], part["song_accuracy_hi"] - found]
        how = {"fmt": "o", "ms": 5, "elinewidth": 2, "color": PROTOCOLS[protocol]}
        ax.errorbar(found, y, xerr=np.array(error), label=f"{protocol} split", **how)
    labels = [heading or _name(system) for heading, system in rows]
    ax.set_yticks(range(len(rows)), labels)
    for label, (heading, _) in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_weight("bold" if heading else "normal")
    lowest = np.floor(10 * table["song_accuracy_lo"].min()) / 10
    ax.set(xlim=(lowest, 1.01), ylim=(len(rows) - 0.4, -0.6))
    ax.set_xlabel("Accuracy by song, 95 % interval over artists")
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    fig.legend(loc="outside right upper")
    return finish(fig, "All systems", note)


@styled
def learning_curves(curves: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy with new artists over the number of artists to learn from.

    Parameters
    ----------
    curves : pd.DataFrame
        From `learning_curve.learning_curve`. Its line is dotted where it leaves the corpus.
    """
    fig, ax = canvas(height=4.4)
    systems = curves.groupby("system", sort=False)
    looks = _colours(list(systems.groups))
    for i, (system, part) in enumerate(systems):
        x, last, look = part["n_artists"], part.iloc[-1], looks[system]
        error = [part["accuracy"] - part["accuracy_lo"], part["accuracy_hi"] - part["accuracy"]]
        how = {"fmt": "o", "ms": 6, "elinewidth": 2, "color": look["color"]}
        apart = 1.025 ** (i - (len(looks) - 1) / 2)  # so that intervals do not hide each other
        ax.errorbar(x * apart, part["accuracy"], yerr=np.array(error), label=_name(system), **how)
        ends = np.array([x.min(), x.max(), 2 * x.max()])
        line = last["twice"] - last["gain"] * np.log2(ends[-1] / ends)
        ax.plot(ends[:2], line[:2], lw=1.5, color=look["color"])
        ax.plot(ends[1:], line[1:], lw=1.5, ls=":", color=look["color"])
    ax.set_xscale("log", base=2)
    ticks = sorted({round(n) for n in curves["n_artists"]} | {round(2 * curves["n_artists"].max())})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlabel("Artists trained on (dotted: not measured, the line goes on)")
    ax.set_ylabel("Accuracy by song, 95 % interval")
    fig.legend(loc="outside lower left", ncols=2, columnspacing=1.2)
    return finish(fig, "What more artists to learn from bring, songs of new artists", note)


@styled
def along_song(windows: pd.DataFrame, seconds: float, note: str = "") -> Figure:
    """Draw the genres' probabilities along a song, stacked.

    Parameters
    ----------
    windows : pd.DataFrame
        start_s and a column of probabilities for each genre; a row for each window. Where they are
        NaN (silence) the picture has a gap.
    seconds : float
        Length of a window.
    """
    genres = [column for column in windows if column != "start_s"]
    starts = windows["start_s"].to_numpy()
    # A window stands for the time nearest to its middle.
    middles = starts + seconds / 2
    edges = np.r_[starts[0], (middles[:-1] + middles[1:]) / 2, starts[-1] + seconds]
    fig, ax = canvas(height=3.8)
    floor = np.zeros(len(windows))
    for genre, look in _colours(genres).items():
        top = floor + windows[genre].fillna(0).to_numpy()
        how = {"baseline": floor, "fill": True, "color": look["color"], "alpha": 0.85}
        ax.stairs(top, edges, label=genre, hatch="" if look["ls"] == "-" else "//", **how)
        floor = top
    ax.set(xlim=edges[[0, -1]], ylim=(0, 1), xlabel="Time (s)", ylabel="Probability")
    ax.grid(visible=False, axis="x")
    fig.legend(loc="outside right upper", reverse=True)
    return finish(fig, f"Along the song, windows of {seconds:g} s", note)
