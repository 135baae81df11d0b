"""Style of all pictures; a clip (waveform, features, sound) and the network (Fig. 2)."""

from functools import lru_cache
from io import BytesIO
from itertools import groupby
from math import prod
from pathlib import Path
from textwrap import fill, shorten

import librosa
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import soundfile
from IPython.display import Audio, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font, get_font_names
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MultipleLocator

from genre_utils import paper
from genre_utils.extraction.features import TOP_DB
from genre_utils.metrics.tables import plain
from genre_utils.models.svm import frame_mask
from genre_utils.store import write_atomic

# Colour-blind safe. Text is sized so that a picture of 9 inches can be read when 900 px wide.
BLUE, ORANGE, GREEN, RED, PURPLE = sns.color_palette("colorblind").as_hex()[:5]
WIDTH = 9.0
SHARPER = 1.5  # a saved picture than one in a notebook
FEATURES = {"mel": "Mel-spectrogram", "mfcc": "MFCC", "chroma": "Chromagram"}
# DejaVu comes with Matplotlib; where one of the others is installed, it has what DejaVu lacks.
WIDE = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei")
FONTS = ("DejaVu Sans", *(font for font in WIDE if font in get_font_names()))
STYLE = {
    **sns.axes_style("whitegrid"),
    "axes.edgecolor": "0.6",
    "axes.labelsize": 11,
    **dict.fromkeys(("axes.spines.right", "axes.spines.top"), False),
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    **dict.fromkeys(("axes.titleweight", "figure.titleweight"), "bold"),
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.titlesize": 14,
    "font.family": FONTS,
    "font.size": 10.5,  # of legends and tick labels too
    "grid.color": "0.9",
    "legend.frameon": False,
    "text.parse_math": False,  # a "$" in a name is a dollar
}
styled = mpl.style.context(["default", STYLE])  # not what the user's matplotlibrc says


def shown(name: str, width: int = 28) -> str:
    """Return a name as pictures show it: in lines, letters that no font has by their numbers."""
    known, parts = _letters(), []
    for there, letters in groupby(" ".join(name.split()), known.__contains__):
        text = "".join(letters)
        parts.append(text if there else f"[no font: {' '.join(f'U+{ord(c):04X}' for c in text)}]")
    return fill("".join(parts), width)


@lru_cache(1)
def _letters() -> set[str]:
    """Characters that some of `FONTS` have, both plain and bold."""
    looks = [[FontProperties(family=f, weight=w) for f in FONTS] for w in ("normal", "bold")]
    known = [{i for look in of for i in get_font(findfont(look)).get_charmap()} for of in looks]
    return {chr(code) for code in known[0] & known[1]}


def canvas(rows: int = 1, columns: int = 1, height: float = 4.0, **options: object) -> tuple:
    """Return a figure of the common width and its axes; options as for ``plt.subplots``."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), **options)


def panels(n: int, columns: int, top: float, height: float, **options: object) -> tuple:
    """Return a figure with shared axes [rows, columns], ``n`` seen; ``top`` inches for titles."""
    rows = -(-n // columns)
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    fig, axes = canvas(rows, columns, top + height * rows, **shared, **options)
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return fig, axes


def finish(fig: Figure, title: str, note: str, *, legend: bool = False) -> Figure:
    """Add title, note and legend; take the figure out of pyplot's list, so that none piles up."""
    if legend:
        fig.legend(loc="outside right upper")
    fig.suptitle(title, x=0.01, ha="left")
    if note:
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#fff3e6", "edgecolor": RED}
        text = {"fontsize": 11, "weight": "bold", "color": RED}
        width = 96 if legend or not fig.legends else 26  # beside a legend that is below
        fig.supxlabel(shown(note, width), x=0.985, ha="right", bbox=box, **text)
    plt.close(fig)
    return fig


@styled
def save(fig: Figure, path: str | Path) -> None:
    """Write a figure as PNG by `write_atomic` and close it: the same figure, the same bytes."""
    options = {"dpi": SHARPER * fig.dpi, "bbox_inches": "tight", "format": "png"}
    write_atomic(path, lambda part: fig.savefig(part, metadata={"Software": None}, **options))
    fig.set_layout_engine("none")  # shown next, it need not be laid out again
    plt.close(fig)


PARAMETERS = {"mel": paper.MEL, "mfcc": paper.MFCC, "chroma": paper.CHROMA}


def show_feature(ax: Axes, feature: np.ndarray, name: str, **colours: object) -> AxesImage:
    """Draw a feature (mel, mfcc, chroma) [height, t] over seconds; colours as for ``ax.imshow``."""
    height, width = feature.shape
    seconds = width * PARAMETERS[name]["hop_length"] / paper.AUDIO["sr"]
    options = {"aspect": "auto", "origin": "lower", "interpolation": "nearest", "cmap": "magma"}
    image = ax.imshow(feature, extent=(0, seconds, 0, height), **options | colours)
    if name == "mel":
        hz = np.array([0, 500, 1000, 2000, 4000, 8000])
        top = librosa.hz_to_mel(paper.MEL["fmax"])
        ax.set_yticks(librosa.hz_to_mel(hz) / top * height, [f"{value:,}" for value in hz])
        ax.set_ylabel("Hz (mel scale)")
    elif name == "mfcc":
        ax.set_yticks(np.arange(0, height, 8) + 0.5, range(0, height, 8))
        ax.set_ylabel("Coefficient")
    else:
        above_a = np.array([3, 5, 7, 8, 10, 12, 14])  # semitones; librosa's bin 0 is C for n * 12
        bins = above_a / 12 * height - 3 * (height // 12)
        ax.set_yticks(bins % height + 0.5, list("CDEFGAB"))
        ax.set_ylabel("Pitch class")
    ax.xaxis.set_major_locator(MultipleLocator(5))
    ax.grid(visible=False)
    return image


def outer_labels(axes: np.ndarray, x: str = "Time (s)", y: str = "Hz (mel scale)") -> None:
    """Name the axes of a grid [rows, columns] once, at the left and below."""
    axes[0, 0].figure.supylabel(y, fontsize=11)
    for ax in axes.flat:
        ax.set_ylabel("")
    for ax in axes[-1]:
        ax.set_xlabel(x)


@styled
def mel_spectrograms(examples: list[tuple[str, str, np.ndarray]], note: str = "") -> Figure:
    """Draw the paper's Fig. 1 of examples (genre, clip, mel [216, t] in dB re its maximum)."""
    fig, axes = panels(len(examples), 2, 0.8, 2.7)
    for ax, (genre, clip, mel) in zip(axes.flat, examples, strict=False):
        image = show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0)
        ax.set_title(shown(genre, 34))
        box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 2}
        style = {"transform": ax.transAxes, "va": "top", "fontsize": 8.5, "color": "white"}
        name = shorten(shown(clip, len(clip)), 48, placeholder=" …")
        ax.text(0.01, 0.97, name, bbox=box, **style)
    outer_labels(axes)
    bar = fig.colorbar(image, ax=axes, pad=0.015, aspect=30, ticks=MultipleLocator(20))
    bar.set_label("dB re maximum of the clip")
    return finish(fig, "Mel-spectrograms", note)


@styled
def images(features: dict[str, np.ndarray], note: str = "") -> Figure:
    """Show one clip's features: mel (dB), mfcc, chroma (0..1), each [height, width]."""
    fig, axes = canvas(len(features), 1, 2.5 * len(features), sharex=True, squeeze=False)
    for ax, (name, feature) in zip(axes.flat, features.items(), strict=True):
        fixed = {"vmin": 0, "vmax": 1} if name == "chroma" else {}
        image = show_feature(ax, feature, name, **fixed)
        ax.set_title(f"{FEATURES[name]}, {feature.shape[0]} × {feature.shape[1]}")
        label = {"mel": "dB re maximum", "mfcc": "Value", "chroma": "Relative energy"}[name]
        fig.colorbar(image, ax=ax, pad=0.015, aspect=14).set_label(label)
    axes[-1, 0].set_xlabel("Time (s)")
    fig.align_ylabels()
    return finish(fig, "One clip as the three images", note)


@styled
def waveform(y: np.ndarray, sr: int = paper.AUDIO["sr"], note: str = "") -> Figure:
    """Draw the waveform of a clip, y [shape=(n,)], peak 1, at ``sr`` Hz."""
    fig, ax = canvas(height=2.6)
    librosa.display.waveshow(y, sr=sr, ax=ax, color=BLUE, axis="s")
    ax.set(xlabel="Time (s)", xlim=(0, len(y) / sr))
    ax.set(ylabel="Amplitude (peak = 1)", ylim=(-1.1, 1.1))
    return finish(fig, "Waveform", note)


def show(picture: object, caption: str, path: str | Path = "") -> None:
    """Show a picture in a notebook, its caption below and for screen readers; `save` it too."""
    if path:
        save(picture, path)
    display(picture, metadata={"image/png": {"alt": caption}}, exclude=["text/plain"])
    display(Markdown(f"*{plain(caption)}*"))


def player(y: np.ndarray, sr: int = paper.AUDIO["sr"]) -> Audio:
    """Return a player of a clip, y [shape=(n,)] at ``sr`` Hz: mp3, a sixth of the bytes of WAV."""
    sound = BytesIO()
    soundfile.write(sound, y, sr, format="MP3")
    heard = Audio(sound.getvalue())
    heard.mimetype = "audio/mpeg"  # IPython takes all bytes for WAV
    return heard


@styled
def mfcc_hop(y: np.ndarray, sr: int = paper.AUDIO["sr"], note: str = "") -> Figure:
    """Show which samples (1.5 s) lie in a window of each feature: the MFCC's hop skips many."""
    first, n = 5 * sr, 3 * sr // 2
    part, time = y[first : first + n], (first + np.arange(n)) / sr
    fig, axes = canvas(3, 1, 5.6, sharex=True, sharey=True)
    for ax, (name, p) in zip(axes, PARAMETERS.items(), strict=True):
        window, hop = p["n_fft"], p["hop_length"]
        near = (first + np.arange(len(part)) + window // 2) % hop  # windows are centred on hops
        seen = near < min(window, hop)
        ax.plot(time[: len(part)], np.where(seen, np.nan, part), color="0.75", lw=0.8)
        ax.plot(time[: len(part)], np.where(seen, part, np.nan), color=BLUE, lw=0.8)
        kept = f"{100 * (1 - window / hop):.0f} % of the samples in no window"
        kept = f"each sample in {window // hop} windows" if window >= hop else kept
        ax.set_title(f"{FEATURES[name]}: window {window:,}, hop {hop:,}: {kept}")
        ax.set(yticks=[], xlim=(time[0], time[-1]))
    axes[-1].set_xlabel("Time (s)")
    handles = [Line2D([], [], color=c, lw=3) for c in (BLUE, "0.75")]
    fig.legend(handles, ["in a window", "in no window"], loc="outside upper right", ncols=2)
    return finish(fig, "What each feature sees of the signal", note)


@styled
def frames_kept(
    level_db: np.ndarray, threshold: float = -40.0, hop_s: float = 0.08, note: str = ""
) -> Figure:
    """Draw the SVM's frames kept and removed by their level (section 2.5).

    ``level_db`` [t] is row 13 of `features.svm_frames`, ``threshold`` dB re the loudest frame.
    """
    kept, level = frame_mask(level_db, threshold), level_db - level_db.max()
    time = hop_s * np.arange(len(level))
    fig, ax = canvas(height=3.4)
    for mask, colour, marker, word in ((kept, BLUE, "o", "kept"), (~kept, RED, "x", "removed")):
        label = f"{word} ({mask.sum()})"
        ax.scatter(time[mask], level[mask], color=colour, marker=marker, s=26, label=label)
    ax.axhline(threshold, color="0.3", ls="--", lw=1.2, label=f"threshold {threshold:g} dB")
    ax.set(xlabel="Time (s)", ylabel="Level (dB re loudest frame)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return finish(fig, f"SVM frames: {kept.sum()} of {len(kept)} kept", note)


BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # VGG-16: convolutions, channels
STEP, BOX = 1.5, (1.26, 1.05)  # from box to box; width and height of one
TOP, BOTTOM = 2.2, 0.35  # lower edges of the two rows
ARROW = {"arrowstyle": "-|>", "color": "0.35", "lw": 1.4}


def block_shapes(height: int, width: int) -> list[tuple[int, int, int]]:
    """Shape after each of VGG-16's five blocks: pooling halves both sides, rounding down."""
    return [(height >> i, width >> i, channels) for i, (_, channels) in enumerate(BLOCKS, 1)]


def dense_layers(
    map_shape: tuple[int, int, int], n_classes: int, pooling: str = "flatten"
) -> list[tuple[str, int, int]]:
    """Name, number of outputs and number of weights of each layer of `cnn.build_head`."""
    flat = pooling == "flatten"
    layers = [("Flatten" if flat else "Average", prod(map_shape) if flat else map_shape[-1], 0)]
    for units in (*paper.HEAD["units"], n_classes):
        layers += [("Dense", units, (layers[-1][1] + 1) * units), ("Dropout", units, 0)]
    return layers[:-1]  # nothing is dropped behind the softmax


@styled
def architecture(
    n_classes: int = len(paper.GENRES), pooling: str = "flatten", note: str = ""
) -> Figure:
    """Draw the paper's Fig. 2; ``pooling`` (flatten or average) joins blocks and dense layers."""
    shapes = block_shapes(*paper.SHAPES["mel"])
    blocks = [("Input image", FEATURES["mel"], (*paper.SHAPES["mel"], 3))]
    for i, ((n, channels), shape) in enumerate(zip(BLOCKS, shapes, strict=True), 1):
        blocks.append((f"Block {i}", f"{n} × conv 3×3, {channels}\nmax-pool 2×2", shape))
    layers = dense_layers(shapes[-1], n_classes, pooling)
    over, dropout = "" if pooling == "flatten" else "over the map", f"{paper.HEAD['dropout']:g}"
    texts = [over, f"ReLU, L2 {paper.HEAD['l2']:g}", dropout, "ReLU", dropout, "softmax"]
    dense = [(name, text, (n,)) for (name, n, _), text in zip(layers, texts, strict=True)]
    fig, ax = canvas(height=4.1)
    width, height = BOX
    right = 5 * STEP + width
    rows = (
        (TOP, blocks, "#d6e8f5", BLUE, BLUE, "frozen convolution blocks"),
        (BOTTOM, dense, "#fbe3c4", ORANGE, "red", "trained on the clips"),
    )
    for y, boxes, face, edge, frame, words in rows:
        for i, (name, text, shape) in enumerate(boxes):
            x, colours = i * STEP, {"fc": face, "ec": edge} if i else {"fc": "#f2f2f2", "ec": "0.6"}
            shape_of_box = "round,pad=0,rounding_size=0.08"
            ax.add_patch(FancyBboxPatch((x, y), *BOX, boxstyle=shape_of_box, lw=1.4, **colours))
            size = " × ".join(f"{side:,}" for side in shape)
            middle = {"x": x + width / 2, "ha": "center", "va": "top"}
            ax.text(y=y + 0.93, s=name, weight="bold", fontsize=11, **middle)
            ax.text(y=y + 0.66, s=text, fontsize=8.5, linespacing=1.15, **middle)
            ax.text(y=y + 0.26, s=size, fontsize=10, **middle)
            if i:
                ends = (x, y + height / 2), (x - STEP + width, y + height / 2)
                ax.annotate("", *ends, arrowprops=ARROW)
        corner, size = (STEP - 0.12, y - 0.12), (right - STEP + 0.24, height + 0.24)
        ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=frame, lw=2))
        ax.text(right + 0.12, y + height + 0.2, words, color=frame, weight="bold", ha="right")
    turn = TOP - 0.28  # the way from the upper row to the lower one
    ax.plot([right - width / 2] * 2 + [width / 2], [TOP, turn, turn], color="0.35", lw=1.4)
    ax.annotate("", (width / 2, BOTTOM + height), (width / 2, turn + 0.01), arrowprops=ARROW)
    ax.set(xlim=(-0.05, right + 0.15), ylim=(BOTTOM - 0.16, TOP + height + 0.36))
    ax.set_axis_off()
    return finish(fig, "The network: VGG-16's blocks and new dense layers", note)
