"""Pictures say what their input says: axes, labels, numbers, notes; files repeat by the byte."""

import inspect
import itertools

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from genre_utils import paper
from genre_utils.extraction import features
from genre_utils.models import cnn as head
from genre_utils.plots import figures
from genre_utils.plots.clip_figures import BLOCKS, block_shapes
from genre_utils.runtime import GenreUtilsError

NOTE = "demo corpus (synthesised)"
GENRES = ["Alt Rock", "Classical", "World"]
PAPER_FIG3 = pd.DataFrame(paper.FIG3, paper.GENRES, paper.GENRES)
OURS = pd.DataFrame([[60, 25, 15], [0, 90, 10], [5, 35, 60]], GENRES, GENRES, float)
RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(0, 0.1, 160000)
CLIP = {name: RNG.uniform(-80, 0, shape) for name, shape in paper.SHAPES.items()}
CLIPS = pd.DataFrame(
    {
        "genre": ["World", "World", "World", "Jazz", "Jazz", ""],
        "artist": ["a", "a", "b", "c", "c", ""],
        "status": ["ok", "ok", "ok", "ok", "silent", "empty file"],
    }
)
SHARES = pd.DataFrame(
    [
        (protocol, group, share)
        for protocol, shares in (("random", (0.973, 1, 1)), ("artist", (0, 0, 0)))
        for group, share in zip(("track", "album", "artist"), shares, strict=True)
    ],
    columns=["protocol", "group", "share"],
)
TABLE1 = pd.DataFrame(
    [
        (system, protocol, 0.51 + i / 20 - j / 5, accuracy if protocol == "random" else np.nan)
        for i, (system, (accuracy, _)) in enumerate(paper.TABLE1.items())
        for j, protocol in enumerate(("random", "artist"))
    ],
    columns=["system", "protocol", "accuracy", "paper_accuracy"],
)
FOLDS = pd.DataFrame(
    [
        (system, protocol, fold, 0.5 + 0.01 * fold)
        for system in paper.TABLE1
        for protocol in ("random", "artist")
        for fold in range(5)
    ],
    columns=["system", "protocol", "fold", "accuracy"],
)
HISTORY = FOLDS[FOLDS["system"] != "svm-mfcc"].merge(
    pd.DataFrame({"epoch": [1, 2, 3]}), how="cross"
)
HISTORY["loss"] = (1 + HISTORY["fold"]) / HISTORY["epoch"]
CALLS = {
    "mel_spectrograms": ([(genre, f"clip {genre}", CLIP["mel"]) for genre in [*GENRES, "Jazz"]],),
    "images": (CLIP,),
    "waveform": (SIGNAL,),
    "mfcc_hop": (SIGNAL,),
    "frames_kept": (np.array([-70.0, -45, -44, -10, -5]),),
    "architecture": (),
    "clips_per_genre": (CLIPS,),
    "shared_groups": (SHARES,),
    "accuracy_by_protocol": (TABLE1,),
    "fold_accuracies": (FOLDS,),
    "training_curves": (HISTORY,),
    "confusion_matrices": (OURS, PAPER_FIG3, "Ours"),
}


def draw(name, *extra, note=""):
    return getattr(figures, name)(*(extra or CALLS[name]), note=note)


def texts(where):
    return [text.get_text() for text in where.findobj(Text) if text.get_text()]


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_every_picture_is_covered_here():
    assert set(CALLS) == set(figures.__all__) - {"dense_layers", "save"}


@pytest.mark.parametrize("name", CALLS)
def test_note_and_title_are_printed_and_no_window_stays_open(name):
    before = plt.get_fignums()
    fig = draw(name, note=NOTE)
    assert NOTE in texts(fig)
    assert fig.get_suptitle()
    assert plt.get_fignums() == before
    assert NOTE not in texts(draw(name))
    assert inspect.signature(getattr(figures, name)).parameters["note"].default == ""


@pytest.mark.parametrize("name", CALLS)
def test_title_note_legend_and_panels_do_not_overlap(name):
    fig = draw(name, note=NOTE)
    fig.draw_without_rendering()
    parts = {"title": fig._suptitle.get_window_extent(), "note": fig._supxlabel.get_window_extent()}
    parts |= {f"legend {i}": legend.get_window_extent() for i, legend in enumerate(fig.legends)}
    for i, ax in enumerate(fig.axes):
        parts[f"panel {i}"] = ax.get_tightbbox()
    for (one, box), (other, box2) in itertools.combinations(parts.items(), 2):
        shared = Bbox.intersection(box, box2)
        assert shared is None or min(shared.size) < 3, f"{one} lies on {other}"


@pytest.mark.parametrize("name", CALLS)
def test_the_same_input_gives_the_same_bytes(name, tmp_path):
    files = [tmp_path / "one" / "a.png", tmp_path / "b.png"]
    for path in files:
        figures.save(draw(name, note=NOTE), path)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert b"Software" not in files[0].read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.png", "b.png"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(GenreUtilsError, match="cannot write"):
        figures.save(draw("waveform"), tmp_path / "folder")


def test_mel_axis_is_in_hertz_and_seconds():
    ax, *_ = draw("mel_spectrograms").axes
    image = ax.get_images()[0]
    centres = librosa.mel_frequencies(paper.MEL["n_mels"] + 2, fmin=0, fmax=8000)[1:-1]
    for place, label in zip(ax.get_yticks(), labels(ax.yaxis), strict=True):
        hz = float(label.replace(",", ""))
        nearest = np.abs(centres - hz).argmin()  # row i is drawn between i and i + 1
        assert abs(nearest + 0.5 - place) <= 1.01
    assert image.get_extent()[1] == pytest.approx(626 * 512 / 16000)
    assert image.get_clim() == (-80, 0)
    assert np.array_equal(image.get_array(), CLIP["mel"])


def test_mel_spectrograms_name_genres_and_clips_and_share_one_colour_bar():
    fig = draw("mel_spectrograms")
    panels = [ax for ax in fig.axes if ax.get_images()]
    assert [ax.get_title(loc="left") for ax in panels] == [*GENRES, "Jazz"]
    assert len(fig.axes) == len(panels) + 1 == 5
    assert {f"clip {genre}" for genre in GENRES} <= set(texts(fig))


def test_three_examples_leave_no_empty_axes():
    fig = figures.mel_spectrograms(CALLS["mel_spectrograms"][0][:3])
    assert sum(ax.get_visible() for ax in fig.axes) == 3 + 1


def test_images_name_each_axis_and_size():
    panels = [ax for ax in draw("images").axes if ax.get_images()]
    assert [ax.get_ylabel() for ax in panels] == ["Hz (mel scale)", "Coefficient", "Pitch class"]
    titles = ["Mel-spectrogram, 216 × 626", "MFCC, 32 × 79", "Chromagram, 32 × 157"]
    assert [ax.get_title(loc="left") for ax in panels] == titles
    assert panels[1].get_yticks()[1] == 8.5
    assert labels(panels[1].yaxis)[1] == "8"


@pytest.mark.parametrize(("pitch", "hz"), [("C", 261.63), ("E", 329.63), ("A", 440.0)])
def test_pitch_names_stand_where_the_tone_sounds(pitch, hz):
    tone = np.sin(2 * np.pi * hz * np.arange(32000) / 16000).astype(np.float32)
    loudest = features.chromagram(tone).mean(axis=1).argmax()
    ax = draw("images").axes[2]
    place = dict(zip(labels(ax.yaxis), ax.get_yticks(), strict=True))[pitch]
    assert abs(loudest + 0.5 - place) <= 0.5


def test_mfcc_hop_shows_a_quarter_of_the_samples_and_says_so():
    fig = draw("mfcc_hop")
    shares, titles = {}, {}
    for ax, name in zip(fig.axes, ("mel", "mfcc", "chroma"), strict=True):
        skipped, seen = (np.isfinite(line.get_ydata()).sum() for line in ax.get_lines())
        shares[name], titles[name] = seen / (seen + skipped), ax.get_title(loc="left")
    assert shares == pytest.approx({"mel": 1, "mfcc": 0.25, "chroma": 0.5}, abs=0.02)
    assert "75 % of the samples in no window" in titles["mfcc"]
    assert "each sample in 4 windows" in titles["mel"]


def test_mfcc_hop_colours_the_samples_that_the_stft_reads():
    p, start = paper.MFCC, 16000
    seen = np.isfinite(figures.mfcc_hop(SIGNAL, start=1.0).axes[1].get_lines()[1].get_ydata())
    for i in np.flatnonzero(np.diff(seen.astype(int)))[:4]:
        for sample in (start + i, start + i + 1):
            click = np.zeros(len(SIGNAL), np.float32)
            click[sample] = 1
            how = {"n_fft": p["n_fft"], "hop_length": p["hop_length"], "window": "boxcar"}
            assert (np.abs(librosa.stft(click, **how)).max() > 0.5) == seen[sample - start]


def test_frames_kept_counts_follow_the_threshold():
    level = CALLS["frames_kept"][0]
    assert {"kept (4)", "removed (1)"} <= set(texts(draw("frames_kept")))
    fig = figures.frames_kept(level, threshold=-20.0)
    assert {"kept (2)", "removed (3)", "threshold -20 dB"} <= set(texts(fig))
    assert [len(points.get_offsets()) for points in fig.axes[0].collections] == [2, 3]


@pytest.mark.parametrize("name", paper.SHAPES)
def test_block_shapes_halve_and_round_down(name):
    height, width = paper.SHAPES[name]
    shapes = block_shapes(height, width)
    assert [shape[:2] for shape in shapes] == [
        (height >> i, width >> i) for i in range(1, len(BLOCKS) + 1)
    ]
    assert [shape[2] for shape in shapes] == [64, 128, 256, 512, 512]


def test_schematic_carries_the_paper_s_layers():
    said = texts(draw("architecture"))
    shapes = [
        "216 × 626 × 3",
        "108 × 313 × 64",
        "54 × 156 × 128",
        "27 × 78 × 256",
        "13 × 39 × 512",
        "6 × 19 × 512",
        "58,368",
        "512",
        "256",
        "9",
    ]
    assert set(shapes) <= set(said)
    assert {"ReLU, L2 0.01", "0.5", "softmax", "Flatten"} <= set(said)


@pytest.mark.parametrize(("name", "flat"), [("mfcc", 1 * 2 * 512), ("chroma", 1 * 4 * 512)])
def test_schematic_of_the_other_features(name, flat):
    said = texts(figures.architecture(7, name))
    assert {f"{flat:,}", "7"} <= set(said)
    assert "{} × {} × 3".format(*paper.SHAPES[name]) in said


@pytest.mark.parametrize("pooling", head.POOLING)
def test_layers_of_the_schematic_are_those_of_the_model(pooling):
    shape = (6, 19, 512)
    model = head.build_head(shape, 9, pooling=pooling)
    found = [(layer.output.shape[-1], layer.count_params()) for layer in model.layers]
    assert [(outputs, n) for _, outputs, n in figures.dense_layers(shape, 9, pooling)] == found


def test_schematic_of_average_pooling_has_no_flatten():
    said = texts(figures.architecture(pooling="average"))
    assert "Average" in said
    assert "Flatten" not in said


def test_red_box_holds_the_dense_layers_and_nothing_frozen():
    ax = draw("architecture").axes[0]
    (red,) = [
        p for p in ax.patches if type(p) is Rectangle and to_hex(p.get_edgecolor()) == "#ff0000"
    ]
    inside = red.get_bbox()
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    held = [p for p in boxes if inside.fully_containsx(p.get_x()) and inside.containsy(p.get_y())]
    assert len(boxes) == 12
    assert len(held) == 5
    trained = {p.get_facecolor() for p in held}
    assert len(trained) == 1
    assert not trained & {p.get_facecolor() for p in boxes if p not in held}


def test_clips_per_genre_counts_all_clips():
    fig = draw("clips_per_genre")
    clips, artists = fig.axes
    assert labels(clips.yaxis) == ["(no genre)", "Jazz", "World"]
    assert [bar.get_width() for bar in clips.patches] == [0, 1, 3, 1, 1, 0]
    assert sum(bar.get_width() for bar in clips.patches) == len(CLIPS)
    assert [bar.get_width() for bar in artists.patches] == [0, 1, 2]
    assert fig.get_suptitle() == "4 clips in 2 genres"


def test_shared_groups_bars_carry_the_shares():
    fig = draw("shared_groups")
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    assert heights == pytest.approx([97.3, 100, 100, 0, 0, 0])
    assert labels(fig.axes[0].xaxis) == ["same track", "same album", "same artist"]
    assert {"97.3", "100", "0", "random split", "artist split"} <= set(texts(fig))


def test_accuracy_bars_and_the_paper_s_marks():
    fig = draw("accuracy_by_protocol")
    (ax,) = fig.axes
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx(TABLE1.sort_values("protocol", ascending=False)["accuracy"])
    marks = np.ma.filled(ax.collections[0].get_offsets(), np.nan)
    marks = marks[np.isfinite(marks[:, 1])]
    assert marks[:, 1].tolist() == [accuracy for accuracy, _ in paper.TABLE1.values()]
    assert marks[:, 0] == pytest.approx(
        [bar.get_x() + bar.get_width() / 2 for bar in ax.patches[:4]]
    )
    assert labels(ax.xaxis) == list(paper.SYSTEM_LABELS.values())
    assert {"0.51", "0.31", "the paper"} <= set(texts(fig))


def test_accuracy_intervals_are_drawn_when_they_are_known():
    assert len(draw("accuracy_by_protocol").axes[0].collections) == 1
    table = TABLE1.assign(
        accuracy_lo=TABLE1["accuracy"] - 0.04, accuracy_hi=TABLE1["accuracy"] + 0.02
    )
    bars = draw("accuracy_by_protocol", table).axes[0].collections[0]
    ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
    wanted = table[["accuracy_lo", "accuracy_hi"]].to_numpy()
    assert np.allclose(ends, wanted)


def test_a_system_unknown_to_the_paper_keeps_its_name():
    row = pd.DataFrame([("majority", "random", 0.2, np.nan)], columns=TABLE1.columns)
    fig = draw("accuracy_by_protocol", pd.concat([TABLE1, row]))
    assert labels(fig.axes[0].xaxis)[-1] == "majority"
    assert "0.20" in texts(fig)
    assert "nan" not in texts(fig)


def test_fold_points_and_means():
    (ax,) = draw("fold_accuracies").axes
    points = [c for c in ax.collections if len(c.get_offsets()) == 5]
    lines = [c for c in ax.collections if c not in points]
    assert len(points) == len(lines) == 8
    for cloud in points:
        assert cloud.get_offsets()[:, 1].tolist() == pytest.approx([0.5, 0.51, 0.52, 0.53, 0.54])
    for line in lines:
        assert line.get_segments()[0][:, 1].tolist() == pytest.approx([0.52, 0.52])


def test_training_curves_draw_mean_and_range_of_the_folds():
    fig = draw("training_curves")
    loss, accuracy = fig.axes
    means = [line.get_ydata() for line in loss.get_lines() if len(line.get_ydata())]
    assert len(means) == 6
    for mean in means:
        assert mean == pytest.approx([3, 1.5, 1])
    for band in loss.collections:
        (path,) = band.get_paths()
        at_first = path.vertices[path.vertices[:, 0] == 1, 1]
        assert (at_first.min(), at_first.max()) == (1, 5)
    assert accuracy.get_ylim()[0] == 0
    assert {"CNN+MFCC", "random split", "artist split"} <= set(texts(fig))


def test_confusion_cells_are_the_input_in_the_paper_s_order():
    shuffled = OURS.loc[GENRES[::-1], GENRES[::-1]]
    ours, reported = draw("confusion_matrices", shuffled, PAPER_FIG3, "Ours").axes
    for ax, table in ((ours, OURS), (reported, PAPER_FIG3)):
        assert [float(cell.get_text()) for cell in ax.texts] == table.to_numpy().ravel().tolist()
        assert labels(ax.xaxis) == labels(ax.yaxis) == list(table.columns)
        assert ax.get_xlabel() == "Predicted genre"
    assert ours.get_ylabel() == "True genre"
    assert (ours.get_title(loc="left"), reported.get_title(loc="left")) == ("Ours", "The paper")


def test_confusion_genres_that_the_paper_lacks_come_last():
    names = ["Blues", "Classical", "World"]
    table = OURS.set_axis(names, axis=0).set_axis(names, axis=1)
    ours = draw("confusion_matrices", table, PAPER_FIG3, "Ours").axes[0]
    assert labels(ours.xaxis) == ["Classical", "World", "Blues"]
    assert float(ours.texts[-1].get_text()) == table.loc["Blues", "Blues"]
