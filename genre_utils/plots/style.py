"""The one style of every picture, and how a picture is finished and saved."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from genre_utils.store import write_atomic

# Colour-blind safe. Text is sized so that a picture of 9 inches can be read when 900 px wide.
BLUE, ORANGE, GREEN, RED, PURPLE = sns.color_palette("colorblind").as_hex()[:5]
WIDTH = 9.0
SHARPER = 1.5  # a saved picture than one in a notebook
FEATURES = {"mel": "Mel-spectrogram", "mfcc": "MFCC", "chroma": "Chromagram"}
STYLE = {
    **sns.axes_style("whitegrid"),
    "axes.axisbelow": True, "axes.edgecolor": "0.6", "axes.labelsize": 11,
    "axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left",
    "axes.titlesize": 11.5, "axes.titleweight": "bold", "figure.constrained_layout.use": True,
    "figure.dpi": 100, "figure.titlesize": 14, "figure.titleweight": "bold",
    "font.family": "DejaVu Sans", "font.size": 10.5, "grid.color": "0.9",
    "legend.fontsize": 10.5, "legend.frameon": False, "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
}  # fmt: skip
styled = mpl.rc_context(STYLE)


def canvas(rows: int = 1, columns: int = 1, height: float = 4.0, **how: object) -> tuple:
    """Return a figure of the common width and its axes; ``how`` goes to ``plt.subplots``."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), **how)


def finish(fig: Figure, title: str, note: str) -> Figure:
    """Add the title and the note; take the figure out of pyplot's list, so that none piles up."""
    fig.suptitle(title, x=0.01, ha="left")
    if note:
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#fff3e6", "edgecolor": RED}
        how = {"fontsize": 11, "weight": "bold", "color": RED}
        fig.supxlabel(note, x=0.985, ha="right", bbox=box, **how)
    plt.close(fig)
    return fig


@styled
def save(fig: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes.

    Parameters
    ----------
    fig : Figure
        Closed afterwards.
    path : str or Path
        File to write; its folder is made.

    Raises
    ------
    GenreUtilsError
        The file cannot be written.
    """
    how = {"metadata": {"Software": None}, "bbox_inches": "tight", "format": "png"}
    how["dpi"] = SHARPER * fig.dpi
    write_atomic(path, lambda part: fig.savefig(part, **how))
    fig.set_layout_engine("none")  # shown next, it need not be laid out again
    plt.close(fig)
