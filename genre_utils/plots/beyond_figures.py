"""Pictures of what goes beyond the paper: more systems, how sure they are, and why they answer."""

from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from genre_utils.extraction.features import TOP_DB
from genre_utils.metrics import calibration
from genre_utils.metrics.tables import NAMES
from genre_utils.plots.clip_figures import show_feature
from genre_utils.plots.figures import PROTOCOLS
from genre_utils.plots.style import BLUE, ORANGE, canvas, finish, styled

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
        values, extent=extent, aspect="auto", origin="lower", interpolation="nearest",
        cmap=colours, vmin=limits[0], vmax=limits[1], alpha=np.clip(opacity, 0, 1),
    )  # fmt: skip


@styled
def sanity_check(
    mel: np.ndarray, maps: dict[str, np.ndarray], correlations: pd.Series, note: str = ""
) -> Figure:  # fmt: skip
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
