"""Pictures of tables and of explanations: arrays and tables in, a matplotlib figure out.

Each function takes a ``note`` ("demo corpus (synthesised)") that is printed on the picture.
Accuracies, shares and probabilities are 0..1; ``_lo`` and ``_hi`` are ends of 95 % intervals.
"""

from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from genre_utils import paper
from genre_utils.extraction.features import TOP_DB
from genre_utils.metrics import confidence, evaluate
from genre_utils.plots.clip_figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    canvas,
    finish,
    outer_labels,
    panels,
    show_feature,
    shown,
    styled,
)

PROTOCOLS = {"random": BLUE, "track": GREEN, "album": PURPLE, "artist": ORANGE}
PROTOCOLS |= {"published": RED}
COLOURS = sns.color_palette("colorblind").as_hex()
LINES = ("-", "--", ":")  # a second round of the ten colours is dashed
COARSE = 80  # dots per inch of noisy pictures, which take megabytes
BAR = {"ecolor": "0.25", "elinewidth": 1.2, "capsize": 3}  # an interval on a bar
MARK = {"label": "the paper", "marker": "D", "s": 44, "c": "black", "ec": "white", "zorder": 4}


def _label(system: str) -> str:
    return paper.LABELS.get(system, system)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with systems and protocols as a reader names them."""
    return table.replace({"system": paper.LABELS}).assign(protocol=table["protocol"] + " protocol")


def _nothing(why: str, title: str, note: str) -> Figure:
    """Say why there is nothing to draw, so that no older picture stays in its place."""
    fig, ax = canvas(height=1.5)
    ax.text(0, 0.5, f"Left out: {why}.")
    ax.set_axis_off()
    return finish(fig, title, note)


def _looks(names: pd.Series | list[str]) -> dict[str, dict]:
    """Colour and line style of each name."""
    looks = cycle({"color": colour, "ls": line} for line in LINES for colour in COLOURS)
    return dict(zip(dict.fromkeys(names), looks, strict=False))


def _error(table: pd.DataFrame, column: str = "accuracy") -> np.ndarray:
    """Distances from a value down to its lower end and up to its upper end, [2, n]."""
    value = table[column]
    return np.array([value - table[f"{column}_lo"], table[f"{column}_hi"] - value])


@styled
def clips_per_genre(clips: pd.DataFrame, note: str = "") -> Figure:
    """Bars of the clips and artists of each genre; clips whose status is not ok are drawn apart."""
    used = clips["status"] == "ok"
    genre = clips["genre"].replace("", "(no genre)").map(shown)
    counts = pd.crosstab(genre, used).reindex(columns=[True, False], fill_value=0)
    artists = clips["artist"][used].replace("", np.nan).groupby(genre).nunique()
    artists = artists.reindex(counts.index, fill_value=0)
    fig, axes = canvas(1, 2, 1.5 + 0.34 * len(counts), sharey=True, width_ratios=(3, 2))
    axes[0].barh(counts.index, counts[True], color=BLUE, label="used")
    bars = axes[0].barh(counts.index, counts[False], left=counts[True], color="0.8")
    if not used.all():
        bars.set_label("left out")
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    numbers = [f"{good} + {bad}" if bad else str(good) for good, bad in counts.to_numpy()]
    axes[0].bar_label(bars, numbers, padding=3)
    axes[1].bar_label(axes[1].barh(artists.index, artists, color=ORANGE), padding=3)
    for ax, title in zip(axes, ("Clips", "Artists"), strict=True):
        ax.set(title=title, xlim=(0, 1.14 * max(ax.dataLim.x1, 1)))
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ax.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    return finish(fig, f"{used.sum():,} clips in {(counts[True] > 0).sum()} genres", note)


@styled
def shared_groups(shares: pd.DataFrame, note: str = "") -> Figure:
    """Bars of ``shares`` (protocol, group, share): test clips with a relative in training."""
    if shares.empty:
        return _nothing("artists, albums and tracks are unknown", "Relatives of test clips", note)
    table = 100 * shares.pivot(index="group", columns="protocol", values="share")
    table = table.reindex(["track", "album", "artist"])[shares["protocol"].unique()]
    table = table.dropna(how="all").rename("same {}".format)
    fig, ax = canvas(height=3.8)
    _grouped_bars(ax, table, "{:.3g}")
    ax.set(ylim=(0, 109), yticks=range(0, 101, 25), ylabel="Test clips (%)")
    return finish(fig, "Test clips with a relative among the training clips", note, legend=True)


@styled
def accuracy_by_protocol(table1: pd.DataFrame, note: str = "") -> Figure:
    """Bars of each system's accuracy under each protocol, the paper's number as a mark.

    ``table1`` has system, protocol, accuracy, paper_accuracy (may be empty); perhaps intervals.
    """
    systems, protocols = table1["system"].unique(), table1["protocol"].unique()
    wide = table1.pivot(index="system", columns="protocol").reindex(systems)
    part = {c: wide[c][protocols].astype(float) for c in wide.columns.levels[0]}
    accuracy, known = part["accuracy"], part["paper_accuracy"]
    fig, ax = canvas(height=4.4)
    places = _grouped_bars(ax, accuracy.rename(_label), "{:.2f}", foot=True)
    if "accuracy_lo" in part:
        error = np.abs([part[f"accuracy_{end}"] - accuracy for end in ("lo", "hi")]).reshape(2, -1)
        ax.errorbar(places.ravel(), accuracy.to_numpy().ravel(), error, fmt="none", **BAR)
    if known.notna().any(axis=None):
        ax.scatter(places, known, **MARK)
    ax.set(ylim=(0, 1.09), ylabel="Accuracy", yticks=np.arange(0, 1.01, 0.2))
    return finish(fig, "Accuracy by system and protocol", note, legend=True)


def _grouped_bars(ax: Axes, table: pd.DataFrame, number: str, *, foot: bool = False) -> np.ndarray:
    """Draw a group of bars for each row of ``table``, a bar for each column (a protocol).

    Numbers stand above the bars or at their ``foot``. Returns the bars' centres, as the table.
    """
    style = {"color": [PROTOCOLS[name] for name in table], "width": 0.8, "edgecolor": "white"}
    table.add_suffix(" protocol").plot.bar(ax=ax, rot=0, legend=False, xlabel="", **style)
    small = {1: None, 2: None, 5: 6.5}.get(table.shape[1], 8)  # room for the numbers
    texts = []
    for bars, name in zip(ax.containers, table, strict=True):
        numbers = [number.format(value) if np.isfinite(value) else "" for value in table[name]]
        texts.append(ax.bar_label(bars, numbers, padding=3, fontsize=small))
        for text in texts[-1] if foot else ():
            text.set(color="white", weight="bold")
            text.xy = text.xy[0], 0
    ax.grid(visible=False, axis="x")
    return np.array([[text.xy[0] for text in column] for column in texts]).T


@styled
def fold_accuracies(per_fold: pd.DataFrame, note: str = "") -> Figure:
    """Points of ``per_fold`` (system, protocol, fold, accuracy), their mean as a line."""
    fig, ax = canvas(height=4.2)
    protocols, table = per_fold["protocol"].unique(), _named(per_fold)
    style = {"x": "system", "y": "accuracy", "hue": "protocol"}
    style |= {"palette": [PROTOCOLS[name] for name in protocols], "ax": ax}
    sns.stripplot(table, dodge=True, jitter=False, size=5.5, alpha=0.5, **style)
    length = 320 / len(protocols) / table["system"].nunique()  # of a mean's line, in points
    style |= {"linestyle": "none", "marker": "_", "markersize": length, "markeredgewidth": 2.5}
    between = 0.8 - 0.8 / len(protocols)  # from the first protocol to the last, as the strips
    sns.pointplot(table, dodge=between, errorbar=None, legend=False, **style)
    ax.set(ylim=(0, 1.03), xlabel="", ylabel="Accuracy of a fold")
    ax.get_legend().remove()
    return finish(fig, "Accuracy of each fold and their mean", note, legend=True)


@styled
def training_curves(history: pd.DataFrame, note: str = "") -> Figure:
    """Draw ``history`` (system, protocol, fold, epoch, loss, accuracy): mean and whole range."""
    table = _named(history)
    n = table["system"].nunique()
    options = {"hue": "system", "style": "protocol", "palette": COLOURS[:n]}
    fig, axes = canvas(1, 2, 4.0)
    for ax, column in zip(axes, ("loss", "accuracy"), strict=True):
        sns.lineplot(table, x="epoch", y=column, ax=ax, errorbar=("pi", 100), **options)
        ax.set(title=f"Training {column}", xlabel="Epoch", ylabel="")
        ax.get_legend().remove()
    axes[0].set_yscale("log", subs=[])
    axes[0].yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
    axes[1].set_ylim(0, 1.03)
    # Seaborn's single legend becomes two: colours under the figure, line styles in the panel.
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles[1 : n + 1], names[1 : n + 1], loc="outside lower left", ncols=3)
    axes[0].legend(handles[n + 2 :], names[n + 2 :], loc="upper right")
    return finish(fig, "Training: mean of the folds, band from lowest to highest", note)


@styled
def confusion_matrices(
    ours: pd.DataFrame, other: pd.DataFrame, titles: tuple[str, str], heading: str, note: str = ""
) -> Figure:
    """Draw our confusion matrix beside another, the paper's Fig. 3 or one of another system.

    Both are per cent of each true genre (row) by predicted genre (column); ours is drawn in the
    other's order, further genres last.
    """
    known, own = other.index, ours.index
    order = [*known[known.isin(own)], *own[~own.isin(known)]]
    ours = ours.loc[order, order].rename(index=shown, columns=shown)
    tables = zip((ours, other.rename(index=shown, columns=shown)), titles, strict=True)
    same, long = list(ours) == list(known), any("\n" in genre for genre in ours)
    height = (5.6 if same else 5.1) + 0.3 * bool(note) + 1.5 * long
    fig, axes = canvas(1, 2, height, sharey=same)
    style = {"cmap": "Blues", "vmin": 0, "vmax": 100, "linewidths": 0.5, "linecolor": "0.92"}
    style |= {"cbar": False, "annot": True, "fmt": ".0f", "annot_kws": {"fontsize": 9.5}}
    for ax, (table, title) in zip(axes, tables, strict=True):
        sns.heatmap(table, ax=ax, **style)
        for text in ax.texts:
            text.set_color("0.7" if text.get_text() == "0" else text.get_color())
        ax.set(title=shown(title, 34), xlabel="Predicted genre", ylabel="True genre")
        ax.tick_params(length=0, **({"labelsize": 7} if long else {}))
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        turned |= {"rotation": 90, "va": "center"} if long else {}
        ax.set_xticks(ax.get_xticks(), table.columns, **turned)
        ax.tick_params(axis="y", rotation=0)
    axes[1].set_ylabel("")
    return finish(fig, f"{heading}, % of each true genre", note)


@styled
def accuracy_intervals(
    table: pd.DataFrame,
    groups: dict[str, list[str]] | None = None,
    column: str = "accuracy",
    note: str = "",
) -> Figure:
    """Draw each system's accuracy under each protocol as a point with its interval.

    ``table`` has system, protocol, ``column`` (accuracy of clips, or song_accuracy) and its _lo and
    _hi; paper_accuracy is marked where it is there. ``groups`` is heading -> systems from top to
    bottom, of which those in the table are drawn; without it all are, in the order they come.
    """
    there = list(table["system"].unique())
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
        ax.errorbar(
            part[column], y, xerr=_error(part, column), label=f"{protocol} protocol", **style
        )
        if "paper_accuracy" in part and part["paper_accuracy"].notna().any():
            ax.scatter(part["paper_accuracy"].astype(float), y, **MARK)
    ax.set_yticks(range(len(rows)), [heading or _label(system) for heading, system in rows])
    for label, (heading, _) in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_weight("bold" if heading else "normal")
    ax.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    ax.tick_params(axis="y", which="both", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="y", which="minor")
    lowest = np.floor(10 * table[f"{column}_lo"].min()) / 10
    ax.set(xlim=(max(lowest, 0), 1.02), ylim=(len(rows) - 0.5, -0.5))
    unit = "song" if "song" in column else "clip"
    over = " over artists" if table.get("n_artists", pd.Series([1])).any() else ""
    ax.set_xlabel(f"Accuracy by {unit}, 95 % interval{over}")
    return finish(fig, "Accuracy by system and protocol", note, legend=True)


@styled
def reliability_diagram(before: pd.DataFrame, after: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy over confidence of a system (one protocol) before and after calibration.

    A dot is a bin of confidence, its area the share of the clips, its line Wilson's 95 % interval.
    """
    fig, ax = canvas(height=4.9)
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
    for table, colour, word in ((before, ORANGE, "as trained"), (after, BLUE, "scaled")):
        bins = confidence.reliability(*confidence.confidences(table))
        error = confidence.expected_calibration_error(bins)
        points, label = (bins["confidence"], bins["accuracy"]), f"{word}: error {error:.3f}"
        ax.plot(*points, color=colour, lw=1.2, alpha=0.8, label=label)
        right = (bins["accuracy"] * bins["n"]).round().astype(int)
        ends = [evaluate.wilson_interval(*pair) for pair in zip(right, bins["n"], strict=True)]
        ax.vlines(points[0], *np.transpose(ends), color=colour, alpha=0.4, lw=2)
        ax.scatter(*points, 120 * bins["n"] / bins["n"].max(), color=colour, alpha=0.7, lw=0)
    ax.set(title=_label(before["system"].iloc[0]), aspect="equal")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.set(xticks=np.arange(0, 1.1, 0.25), yticks=np.arange(0, 1.1, 0.25))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=1.2)
    ax.set(xlabel="Confidence", ylabel="Accuracy, 95 % interval")
    return finish(fig, "Reliability: how often answers of a confidence are right", note)


@styled
def coverage_curves(curves: pd.DataFrame, note: str = "") -> Figure:
    """Draw `confidence.coverage_curve`, a panel a protocol, for at most six or so systems."""
    protocols, looks = curves["protocol"].unique(), _looks(curves["system"])
    fig, axes = panels(len(protocols), len(protocols), 0, 4.8)
    for ax, protocol in zip(axes[0], protocols, strict=True):
        for system, part in curves[curves["protocol"] == protocol].groupby("system", sort=False):
            look, x = looks[system], part["coverage"]
            ax.plot(x, part["accuracy"], lw=2, **look)
            ends = part["accuracy_lo"], part["accuracy_hi"]
            ax.fill_between(x, *ends, color=look["color"], alpha=0.13, lw=0)
        ax.set(title=f"{protocol} protocol", xlim=(0, 1), xlabel="Clips answered, the surest first")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes[0, 0].set(ylim=(None, 1.005), ylabel="Accuracy, 95 % interval")
    for system, look in looks.items():
        axes[0, 0].plot([], [], lw=2, label=_label(system), **look)
    fig.legend(loc="outside lower left", ncols=3, columnspacing=1.2)
    return finish(fig, "Accuracy when the system may say “don't know”", note)


@styled
def saliency(clips: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]], note: str = "") -> Figure:
    """Show what speaks for the answer: mel-spectrogram, gradient map over it, occlusion beside it.

    A clip is (title, mel [216, t] in dB, Grad-CAM 0..1, occlusion in log-odds), as `explain` has.
    """
    fig, axes = panels(3 * len(clips), 3, 0.9, 2.5, dpi=COARSE)
    for row, (title, mel, gradient, occluded) in zip(axes, clips, strict=True):
        titles = shown(title, 24), "Grad-CAM", "Occlusion"
        for ax, words, colours in zip(row, titles, ("magma", "gray", "gray_r"), strict=True):
            show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0, cmap=colours)
            ax.set_title(words)
        _overlay(row[1], gradient, "inferno", 0, 1)
        far = max(np.abs(occluded).max(), 1e-6)
        _overlay(row[2], occluded, "RdBu_r", -far, far)
        for ax, unit in zip(row[1:], ("share of the highest", "log-odds lost"), strict=True):
            fig.colorbar(ax.images[1], ax=ax, pad=0.02, aspect=14).set_label(unit, fontsize=9)
    outer_labels(axes)
    return finish(fig, "What speaks for the answer (red) and against it (blue)", note)


def _overlay(ax: Axes, values: np.ndarray, cmap: str, low: float, high: float) -> None:
    """Lay a map over a mel-spectrogram, the more opaque the farther its values are from 0."""
    opacity = np.clip(0.75 * np.abs(values) / high, 0, 1)
    show_feature(ax, values, "mel", cmap=cmap, vmin=low, vmax=high, alpha=opacity)


@styled
def sanity_check(
    mel: np.ndarray, maps: dict[str, np.ndarray], correlations: pd.Series, note: str = ""
) -> Figure:
    """Show a clip's maps (`explain.randomised`) over its mel, with their `rank_correlations`."""
    fig, axes = panels(len(maps), -(-len(maps) // 2), 0.6, 2.5, dpi=COARSE)
    for i, (ax, (name, values)) in enumerate(zip(axes.flat, maps.items(), strict=False)):
        show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0, cmap="gray")
        _overlay(ax, values, "inferno", 0, 1)
        rho = correlations[name]
        words = "map is flat" if np.isnan(rho) else f"ρ = {rho:.2f}"
        ax.set_title(f"{name}: {words}" if i else name)
    outer_labels(axes)
    return finish(fig, "Maps of random weights, ρ: rank correlation with the trained", note)


@styled
def feature_importances(table: pd.DataFrame, note: str = "") -> Figure:
    """Bars of the top 15 of ``table`` (feature, importance: loss of accuracy, sd; sorted)."""
    top = table.head(15)
    fig, ax = canvas(height=1.3 + 0.29 * len(top))
    ax.barh(top["feature"], 100 * top["importance"], xerr=100 * top["sd"], error_kw=BAR)
    ax.invert_yaxis()
    ax.set_xlabel("Loss of accuracy when the feature is shuffled (percentage points)")
    ax.grid(visible=False, axis="y")
    return finish(fig, f"The {len(top)} most important of {len(table)} hand-crafted features", note)


@styled
def learning_curves(curves: pd.DataFrame, note: str = "") -> Figure:
    """Draw `tables.learning_curve`; a line is dotted where it leaves the corpus."""
    if curves.empty:
        return _nothing("artists are unknown", "What more artists to learn from bring", note)
    fig, ax = canvas(height=4.4)
    looks = _looks(curves["system"])
    for i, (system, part) in enumerate(curves.groupby("system", sort=False)):
        x, last, colour = part["n_artists"], part.iloc[-1], looks[system]["color"]
        style = {"fmt": "o", "ms": 6, "elinewidth": 2, "color": colour, "label": _label(system)}
        apart = 1.025 ** (i - (len(looks) - 1) / 2)  # so that intervals do not hide each other
        ax.errorbar(x * apart, part["accuracy"], _error(part), **style)
        ends = np.array([x.min(), x.max(), 2 * x.max()])
        line = last["twice"] - last["gain"] * np.log2(ends[-1] / ends)
        ax.plot(ends[:2], line[:2], lw=1.5, color=colour)
        ax.plot(ends[1:], line[1:], lw=1.5, ls=":", color=colour)
    ax.set_xscale("log", base=2)
    ticks = sorted({round(n) for n in curves["n_artists"]} | {round(2 * curves["n_artists"].max())})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlabel("Artists trained on (dotted: not measured, the line goes on)")
    ax.set_ylabel("Accuracy by song, 95 % interval")
    fig.legend(loc="outside lower left", ncols=2, columnspacing=1.2)
    return finish(fig, "What more artists to learn from bring, songs of new artists", note)


@styled
def along_song(windows: pd.DataFrame, seconds: float, note: str = "") -> Figure:
    """Stack ``windows``: start_s, a column a genre; a row lasts ``seconds``, NaN leaves a gap."""
    starts = windows["start_s"].to_numpy()
    middles = starts + seconds / 2  # a window stands for the time nearest to its middle
    edges = np.r_[starts[0], (middles[:-1] + middles[1:]) / 2, starts[-1] + seconds]
    fig, ax = canvas(height=3.8)
    floor, areas = np.zeros(len(windows)), {}
    for genre, look in _looks(windows.columns.drop("start_s")).items():
        top = floor + windows[genre].fillna(0).to_numpy()
        style = {"color": look["color"], "alpha": 0.85, "hatch": "" if look["ls"] == "-" else "//"}
        areas[shown(genre, 20)] = ax.stairs(top, edges, baseline=floor, fill=True, **style)
        floor = top
    ax.set(xlim=edges[[0, -1]], ylim=(0, 1), xlabel="Time (s)", ylabel="Probability")
    ax.grid(visible=False, axis="x")
    fig.legend(areas.values(), areas, loc="outside right upper", reverse=True)
    return finish(fig, f"Along the song, windows of {seconds:g} s", note)
