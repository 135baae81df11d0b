"""Pictures of tables and of explanations: arrays and tables in, a matplotlib figure out.

Each function takes a ``note`` ("demo corpus (synthesised)") that is printed on the picture.
Pictures of sound and of the network come from `clip_figures`; notebooks find all of them here.
"""

from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from genre_utils import paper
from genre_utils.extraction.features import TOP_DB
from genre_utils.metrics import confidence
from genre_utils.plots.clip_figures import (  # noqa: F401 - some are here for notebooks
    BLUE,
    GREEN,
    IMAGE,
    ORANGE,
    PURPLE,
    architecture,
    canvas,
    dense_layers,
    finish,
    frames_kept,
    images,
    mel_axes,
    mel_spectrograms,
    mfcc_hop,
    save,
    show_feature,
    styled,
    waveform,
)

PROTOCOLS = {"random": BLUE, "track": GREEN, "album": PURPLE, "artist": ORANGE}
COLOURS = sns.color_palette("colorblind").as_hex()
LINES = ("-", "--", ":")  # a second round of the ten colours is dashed
COARSE = 80  # dots per inch of noisy pictures, which take megabytes


def _label(system: str) -> str:
    return paper.LABELS.get(system, system)


def _looks(names: list[str]) -> dict[str, dict]:
    """Colour and line style of each name."""
    n = len(COLOURS)
    return {
        name: {"color": COLOURS[i % n], "ls": LINES[i // n % len(LINES)]}
        for i, name in enumerate(names)
    }


def _error(table: pd.DataFrame, column: str = "accuracy") -> np.ndarray:
    """Distances from a value down to its lower end and up to its upper end, [2, n]."""
    value = table[column]
    return np.array([value - table[f"{column}_lo"], table[f"{column}_hi"] - value])


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
    _grouped_bars(ax, table, table, "{:.3g}")
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
    covered = (known > top - 0.03) & (known < top + 0.08)  # the mark would hide the number
    heights = top.mask(covered, np.maximum(known + 0.02, top))
    fig, ax = canvas(height=4.4)
    places = _grouped_bars(ax, accuracy, heights, "{:.2f}")
    if "accuracy_lo" in part:
        style = {"fmt": "none", "ecolor": "0.25", "elinewidth": 1.2, "capsize": 3}
        error = np.stack([accuracy - part["accuracy_lo"], top - accuracy]).reshape(2, -1)
        ax.errorbar(places.ravel(), accuracy.to_numpy().ravel(), error, **style)
    style = {"marker": "D", "s": 46, "color": "black", "edgecolor": "white", "zorder": 4}
    ax.scatter(places, known, label="the paper", **style)
    ax.set(ylim=(0, 1.09), ylabel="Accuracy", yticks=np.arange(0, 1.01, 0.2))
    ax.set_xticks(range(len(systems)), [_label(system) for system in systems])
    fig.legend(loc="outside right upper")
    return finish(fig, "Accuracy by system and protocol", note)


def _grouped_bars(ax: Axes, table: pd.DataFrame, heights: pd.DataFrame, number: str) -> np.ndarray:
    """Draw a group of bars for each row of ``table``, a bar for each column (a protocol).

    Numbers are written above ``heights`` (shaped as the table) by the format ``number``. Returns
    the bars' centres, shaped as the table.
    """
    width = 0.8 / table.shape[1]
    shift = (np.arange(table.shape[1]) - (table.shape[1] - 1) / 2) * width
    places = np.arange(len(table))[:, None] + shift
    style = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
    style["fontsize"] = 8 if table.shape[1] > 2 else None  # room for numbers of full size
    for x, protocol in zip(places.T, table, strict=True):
        colour, label = PROTOCOLS.get(protocol, "0.6"), f"{protocol} split"
        ax.bar(x, table[protocol], 0.94 * width, color=colour, label=label)
        for place, height, value in zip(x, heights[protocol], table[protocol], strict=True):
            if np.isfinite(value):
                ax.annotate(number.format(value), (place, height), **style)
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
    looks = _looks(list(dict.fromkeys(table["system"])))
    colours = {name: look["color"] for name, look in looks.items()}
    options = {"hue": "system", "style": "protocol", "palette": colours, "errorbar": ("pi", 100)}
    fig, axes = canvas(1, 2, 4.0)
    for ax, column in zip(axes, ("loss", "accuracy"), strict=True):
        sns.lineplot(table, x="epoch", y=column, ax=ax, legend=column == "loss", **options)
        ax.set(title=f"Training {column}", xlabel="Epoch", ylabel="")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[1].set_ylim(0, 1.03)
    # Seaborn's single legend becomes two: colours under the figure, line styles in the panel.
    pairs = list(zip(*axes[0].get_legend_handles_labels(), strict=True))
    systems = [pair for pair in pairs if pair[1] in colours]
    protocols = [pair for pair in pairs if pair[1].endswith(" split")]
    fig.legend(*zip(*systems, strict=True), loc="outside lower left", ncols=3)
    axes[0].legend(*zip(*protocols, strict=True), loc="upper right")
    return finish(fig, "Training: mean of the folds, band from lowest to highest", note)


@styled
def confusion_matrices(
    ours: pd.DataFrame, paper_table: pd.DataFrame, ours_title: str, note: str = ""
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
    panels = (ours.loc[order, order], ours_title), (paper_table, "The paper")
    same = order == list(paper_table.index)
    fig, axes = canvas(1, 2, (5.6 if same else 5.1) + 0.3 * bool(note), sharey=same)
    colours = {"cmap": "Blues", "vmin": 0, "vmax": 100, "cbar": False}
    cells = {"annot": True, "fmt": ".0f", "linewidths": 0.5, "linecolor": "0.92"}
    for ax, (table, title) in zip(axes, panels, strict=True):
        sns.heatmap(table, ax=ax, annot_kws={"fontsize": 9.5}, **colours, **cells)
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


@styled
def accuracy_intervals(
    table: pd.DataFrame,
    groups: dict[str, list[str]] | None = None,
    column: str = "accuracy",
    note: str = "",
) -> Figure:
    """Draw each system's accuracy under each protocol as a point with its interval.

    Parameters
    ----------
    table : pd.DataFrame
        system, protocol, ``column``, ``column``_lo, ``column``_hi (0..1); where there is a column
        paper_accuracy (NaN where the paper has none), it is marked.
    groups : dict, optional
        Heading -> its systems from top to bottom; systems that are not in ``table`` are left out.
        Without it: all systems in the order in which they come.
    column : str
        "accuracy" (of clips) or "song_accuracy".
    """
    there = list(dict.fromkeys(table["system"]))
    rows = []  # (a heading, no system) or (no heading, a system)
    for heading, systems in (groups or {"": there}).items():
        known = [(None, system) for system in systems if system in there]
        rows += [(heading, None)] * bool(known and heading) + known
    places = {system: i for i, (_, system) in enumerate(rows) if system}
    protocols = [name for name in PROTOCOLS if name in set(table["protocol"])]
    step = min(0.3, 0.8 / len(protocols))
    fig, ax = canvas(height=1.5 + (0.12 * len(protocols) + 0.08) * len(rows))
    for i, protocol in enumerate(protocols):
        part = table[table["protocol"] == protocol].set_index("system").reindex(places)
        y = np.array(list(places.values())) + (i - (len(protocols) - 1) / 2) * step
        style = {"fmt": "o", "ms": 5, "elinewidth": 2, "color": PROTOCOLS[protocol]}
        error = _error(part, column)
        ax.errorbar(part[column], y, xerr=error, label=f"{protocol} split", **style)
        marks = part.get("paper_accuracy", pd.Series(np.nan, part.index)).to_numpy(float)
        if np.isfinite(marks).any():
            ax.scatter(marks, y, marker="D", s=40, color="black", zorder=4, label="the paper")
    ax.set_yticks(range(len(rows)), [heading or _label(system) for heading, system in rows])
    for label, (heading, _) in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_weight("bold" if heading else "normal")
    ax.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    ax.tick_params(axis="y", which="both", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="y", which="minor")
    lowest = np.floor(10 * table[f"{column}_lo"].min()) / 10
    ax.set(xlim=(max(lowest, 0), 1.02), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xlabel(
        f"Accuracy by {'song' if 'song' in column else 'clip'}, 95 % interval over artists"
    )
    fig.legend(loc="outside right upper")
    return finish(fig, "Accuracy by system and protocol", note)


@styled
def reliability_diagrams(before: pd.DataFrame, after: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy over confidence, a panel for each system: as trained, and with its temperature.

    Parameters
    ----------
    before, after : pd.DataFrame
        Rows of predictions.csv under one protocol, with probabilities; the latter of calibrated
        systems, under the same names.
    """
    systems = list(dict.fromkeys(before["system"]))
    columns = min(3, len(systems)) if len(systems) != 4 else 2
    rows = -(-len(systems) // columns)
    height = 1.1 + min(9.0 / columns, 4.0) * rows
    fig, axes = canvas(rows, columns, height, sharex=True, sharey=True, squeeze=False)
    for ax, system in zip(axes.flat, systems, strict=False):
        ax.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
        for table, colour, word in ((before, ORANGE, "as trained"), (after, BLUE, "scaled")):
            part = table[table["system"] == system]
            bins = confidence.reliability(*confidence.confidences(part))
            error = confidence.expected_calibration_error(bins)
            points, label = (bins["confidence"], bins["accuracy"]), f"{word}: error {error:.3f}"
            ax.plot(*points, color=colour, lw=1.2, alpha=0.8, label=label)
            size = 120 * np.sqrt(bins["n"] / bins["n"].sum())
            ax.scatter(*points, size, color=colour, alpha=0.7, lw=0)
        ax.set(title=_label(system), xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
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
        From `confidence.coverage_curve`; up to about six systems can be told apart.
    """
    protocols = list(dict.fromkeys(curves["protocol"]))
    looks = _looks(list(dict.fromkeys(curves["system"])))
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
    names = [_label(system) for system in looks]
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
    height = 0.9 + 2.5 * len(clips)
    fig, axes = canvas(len(clips), 3, height, sharey=True, squeeze=False, dpi=COARSE)
    for row, (title, mel, gradient, occluded) in zip(axes, clips, strict=True):
        for ax, colours in zip(row, ("magma", "gray", "gray"), strict=True):
            show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0, cmap=colours)
        _overlay(row[1], gradient, "inferno", (0, 1))
        far = max(np.abs(occluded).max(), 1e-6)
        _overlay(row[2], occluded, "RdBu_r", (-far, far))
        row[0].set_title(fill(title, 24))
        row[1].set_title("Gradient map")
        row[2].set_title(f"Occlusion, {occluded.min():+.1f} to {occluded.max():+.1f}")
    mel_axes(fig, axes)
    return finish(fig, "What speaks for the answer (occlusion: red for, blue against)", note)


def _overlay(ax: Axes, values: np.ndarray, colours: str, limits: tuple[float, float]) -> None:
    """Lay a map over a picture, the more opaque the larger its values are."""
    opacity = np.clip(0.75 * np.abs(values) / max(np.abs(limits)), 0, 1)
    scale = {"cmap": colours, "vmin": limits[0], "vmax": limits[1]}
    ax.imshow(values, extent=ax.images[0].get_extent(), alpha=opacity, **IMAGE, **scale)


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
        From `explain.rank_correlations`.
    """
    options = {"sharex": True, "sharey": True, "squeeze": False, "dpi": COARSE}
    fig, axes = canvas(2, -(-len(maps) // 2), 5.6, **options)
    for ax, (name, values) in zip(axes.flat, maps.items(), strict=False):
        show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0, cmap="gray")
        _overlay(ax, values, "inferno", (0, 1))
        rho = correlations[name]
        words = "map is flat" if np.isnan(rho) else f"ρ = {rho:.2f}"
        ax.set_title(name if name == next(iter(maps)) else f"{name}: {words}")
    _hide(axes, len(maps))
    mel_axes(fig, axes)
    return finish(fig, "Maps of random weights, ρ: rank correlation with the trained", note)


@styled
def feature_importances(table: pd.DataFrame, note: str = "") -> Figure:
    """Bars of the 15 features that count most.

    Parameters
    ----------
    table : pd.DataFrame
        feature, importance (loss of accuracy when it is shuffled, 0..1), sd; largest first.
    """
    top = table.head(15)
    fig, ax = canvas(height=1.3 + 0.29 * len(top))
    error = {"ecolor": "0.25", "elinewidth": 1.2, "capsize": 3}
    ax.barh(top["feature"], 100 * top["importance"], xerr=100 * top["sd"], error_kw=error)
    ax.invert_yaxis()
    ax.set_xlabel("Loss of accuracy when the feature is shuffled (percentage points)")
    ax.grid(visible=False, axis="y")
    return finish(fig, f"The {len(top)} most important of {len(table)} hand-crafted features", note)


@styled
def learning_curves(curves: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy with new artists over the number of artists to learn from.

    Parameters
    ----------
    curves : pd.DataFrame
        From `tables.learning_curve`. A line is dotted where it leaves the corpus.
    """
    fig, ax = canvas(height=4.4)
    systems = curves.groupby("system", sort=False)
    looks = _looks(list(systems.groups))
    for i, (system, part) in enumerate(systems):
        x, last, look = part["n_artists"], part.iloc[-1], looks[system]
        style = {"fmt": "o", "ms": 6, "elinewidth": 2, "color": look["color"]}
        apart = 1.025 ** (i - (len(looks) - 1) / 2)  # so that intervals do not hide each other
        ax.errorbar(x * apart, part["accuracy"], _error(part), label=_label(system), **style)
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
    for genre, look in _looks(genres).items():
        top = floor + windows[genre].fillna(0).to_numpy()
        style = {"color": look["color"], "alpha": 0.85, "hatch": "" if look["ls"] == "-" else "//"}
        ax.stairs(top, edges, label=genre, baseline=floor, fill=True, **style)
        floor = top
    ax.set(xlim=edges[[0, -1]], ylim=(0, 1), xlabel="Time (s)", ylabel="Probability")
    ax.grid(visible=False, axis="x")
    fig.legend(loc="outside right upper", reverse=True)
    return finish(fig, f"Along the song, windows of {seconds:g} s", note)
