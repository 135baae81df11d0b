"""Pictures of sound: waveform, features as images, and what their windows see."""

from textwrap import shorten

import librosa
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from genre_utils import paper
from genre_utils.extraction.features import TOP_DB
from genre_utils.models.svm import frame_mask
from genre_utils.plots.style import BLUE, FEATURES, RED, canvas, finish, styled

PARAMETERS = {"mel": paper.MEL, "mfcc": paper.MFCC, "chroma": paper.CHROMA}


def _seconds(feature: np.ndarray, name: str) -> float:
    return feature.shape[1] * PARAMETERS[name]["hop_length"] / paper.AUDIO["sr"]


def show_feature(ax: Axes, feature: np.ndarray, name: str, **colours: object) -> AxesImage:
    """Draw a feature with time in seconds and its own vertical axis named.

    Parameters
    ----------
    ax : Axes
    feature : np.ndarray [shape=(height, t)]
        Low frequencies (or coefficients) first.
    name : {"mel", "mfcc", "chroma"}
    colours
        As for ``ax.imshow``: cmap, vmin, vmax.
    """
    height = len(feature)
    extent = (0, _seconds(feature, name), 0, height)
    how = {"aspect": "auto", "origin": "lower", "interpolation": "nearest", "cmap": "magma"}
    image = ax.imshow(feature, extent=extent, **how | colours)
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


@styled
def mel_spectrograms(examples: list[tuple[str, str, np.ndarray]], note: str = "") -> Figure:
    """Mel-spectrograms of some genres (the paper's Fig. 1).

    Parameters
    ----------
    examples : list of (genre, clip, mel)
        The paper shows four; mel is [216, t] in dB, 0 the clip's maximum.
    """
    rows = -(-len(examples) // 2)
    fig, axes = canvas(rows, 2, 0.8 + 2.7 * rows, sharex=True, sharey=True, squeeze=False)
    for ax, (genre, clip, mel) in zip(axes.flat, examples, strict=False):
        image = show_feature(ax, mel, "mel", vmin=-TOP_DB, vmax=0)
        ax.set_title(genre)
        ax.text(
            0.01, 0.97, shorten(clip, 48, placeholder=" …"), transform=ax.transAxes, va="top",
            fontsize=8.5, color="white",
            bbox={"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 2},
        )  # fmt: skip
        ax.label_outer()
    for ax in axes.flat[len(examples) :]:
        ax.set_visible(False)
    fig.supylabel("Hz (mel scale)", fontsize=11)
    for ax in axes[:, 0]:
        ax.set_ylabel("")
    for ax in axes[-1]:
        ax.set_xlabel("Time (s)")
    bar = fig.colorbar(image, ax=axes, pad=0.015, aspect=30, ticks=MultipleLocator(20))
    bar.set_label("dB re maximum of the clip")
    return finish(fig, "Mel-spectrograms", note)


@styled
def images(features: dict[str, np.ndarray], note: str = "") -> Figure:
    """Show the three features of one clip, low frequencies at the bottom.

    Parameters
    ----------
    features : dict
        "mel" (dB), "mfcc", "chroma" (0..1) -> [height, width].
    """
    fig, axes = canvas(len(features), 1, 2.5 * len(features), sharex=True, squeeze=False)
    for ax, (name, feature) in zip(axes.flat, features.items(), strict=True):
        fixed = {"vmin": 0, "vmax": 1} if name == "chroma" else {}
        image = show_feature(ax, feature, name, **fixed)
        height, width = feature.shape
        ax.set_title(f"{FEATURES[name]}, {height} × {width}")
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


@styled
def mfcc_hop(
    y: np.ndarray, sr: int = paper.AUDIO["sr"], start: float = 5.0, seconds: float = 1.5,
    note: str = "",
) -> Figure:  # fmt: skip
    """Show which samples lie in a window of each feature: the MFCC's hop skips three quarters.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
    start, seconds : float
        The part shown.
    """
    first, n = round(start * sr), round(seconds * sr)
    part, time = y[first : first + n], start + np.arange(n) / sr
    fig, axes = canvas(3, 1, 5.6, sharex=True, sharey=True)
    for ax, (name, p) in zip(axes, PARAMETERS.items(), strict=True):
        window, hop = p["n_fft"], p["hop_length"]
        near = (first + np.arange(len(part)) + window // 2) % hop  # windows are centred on hops
        seen = near < min(window, hop)
        ax.plot(time[: len(part)], np.where(seen, np.nan, part), color="0.75", lw=0.8)
        ax.plot(time[: len(part)], np.where(seen, part, np.nan), color=BLUE, lw=0.8)
        kept = f"each sample in {window // hop} windows" if window >= hop else ""
        kept = kept or f"{100 * (1 - window / hop):.0f} % of the samples in no window"
        ax.set_title(f"{FEATURES[name]}: window {window:,}, hop {hop:,}: {kept}")
        ax.set(yticks=[], xlim=(start, start + seconds))
    axes[-1].set_xlabel("Time (s)")
    handles = [Line2D([], [], color=c, lw=3) for c in (BLUE, "0.75")]
    fig.legend(handles, ["in a window", "in no window"], loc="outside upper right", ncols=2)
    return finish(fig, "What each feature sees of the signal", note)


@styled
def frames_kept(
    level_db: np.ndarray, threshold: float = -40.0, hop_s: float = 0.08, note: str = ""
) -> Figure:
    """Draw the SVM's frames kept and removed by their level (section 2.5).

    Parameters
    ----------
    level_db : np.ndarray [shape=(t,)]
        Level of each frame in dB (row 13 of `features.svm_frames`).
    threshold : float
        Frames more than this below the loudest are removed; dB, negative.
    hop_s : float
        Seconds from frame to frame.
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
