"""Pictures say what their tables say: axes, labels, numbers, notes; files repeat by the byte."""

import io
import itertools

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from genre_utils import paper
from genre_utils.data import splits
from genre_utils.extraction import features
from genre_utils.metrics import confidence
from genre_utils.models import cnn
from genre_utils.plots import clip_figures, figures
from genre_utils.runtime import GenreUtilsError

NOTE = "demo corpus (synthesised)"
GENRES = ["Alt Rock", "Classical", "World"]
RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(0, 0.1, 160000)
CLIP = {name: RNG.uniform(-80, 0, shape) for name, shape in paper.SHAPES.items()}
MEL = CLIP["mel"]
PAPER_FIG3 = pd.DataFrame(paper.FIG3, paper.GENRES, paper.GENRES)
OURS = pd.DataFrame([[60, 25, 15], [0, 90, 10], [5, 35, 60]], GENRES, GENRES, float)
CLIPS = pd.DataFrame(
    {
        "genre": ["World", "World", "World", "Jazz", "Jazz", ""],
        "artist": ["a", "a", "b", "c", "c", ""],
        "status": ["ok", "ok", "ok", "ok", "silent", "empty file"],
    }
)
SHARES = pd.DataFrame(
    {
        "protocol": ["random"] * 3 + ["artist"] * 3,
        "group": ["track", "album", "artist"] * 2,
        "share": [0.973, 1, 1, 0, 0, 0],
    }
)
LEVEL = np.array([-70.0, -45, -44, -10, -5])
BOTH = ("random", "artist")
SYSTEMS = [*paper.TABLE1, "svm-fair", "majority", "oracle-artist", "mine"]


def _table(systems, protocols=BOTH, column="accuracy"):
    """A made-up Table 1."""
    table = pd.DataFrame(
        [
            (name, protocol, 0.9 - 0.07 * i + 0.02 * j)
            for i, name in enumerate(systems)
            for j, protocol in enumerate(protocols)
        ],
        columns=["system", "protocol", column],
    )
    table[f"{column}_lo"], table[f"{column}_hi"] = table[column] - 0.05, table[column] + 0.04
    known = table["system"].map({name: scores[0] for name, scores in paper.TABLE1.items()})
    return table.assign(paper_accuracy=known.where(table["protocol"] == "random"))


TABLE1 = _table(paper.TABLE1)
FIVE = _table(paper.TABLE1, tuple(splits.PROTOCOLS))
ALL = _table(SYSTEMS)
SONGS = _table(["pooled-lda", "cnn-mel", "svm-mfcc"], column="song_accuracy")
SONGS = SONGS.drop(columns="paper_accuracy")
GROUPS = {"The paper's": ["cnn-mel", "svm-mfcc"], "VGG-16 only": ["pooled-lda"], "None": ["x"]}
FOLDS = pd.DataFrame(
    list(itertools.product(paper.TABLE1, BOTH, range(5))), columns=["system", "protocol", "fold"]
).assign(accuracy=lambda t: 0.5 + 0.01 * t["fold"])
HISTORY = FOLDS[FOLDS["system"] != "svm-mfcc"].merge(
    pd.DataFrame({"epoch": [1, 2, 3]}), how="cross"
)
HISTORY["loss"] = (1 + HISTORY["fold"]) / HISTORY["epoch"]


def _predictions(sure):
    y_true, y_pred = RNG.choice(GENRES, 60), RNG.choice(GENRES, 60)
    best = RNG.uniform(sure, 1, 60)
    table = pd.DataFrame({"y_true": y_true, "y_pred": y_pred}).assign(system="svm-fair")
    for genre in GENRES:
        table[f"p_{genre}"] = np.where(y_pred == genre, best, (1 - best) / 2)
    return table


BEFORE, AFTER = _predictions(0.9), _predictions(0.4)
COVERAGE = pd.DataFrame(
    list(itertools.product(["cnn-mel", "svm-fair"], BOTH, np.arange(1, 21) / 20)),
    columns=["system", "protocol", "coverage"],
).assign(
    accuracy=lambda t: 1 - 0.3 * t["coverage"] + 0.05 * (t["system"] == "svm-fair"),
    accuracy_lo=lambda t: t["accuracy"] - 0.1,
    accuracy_hi=lambda t: t["accuracy"] + 0.02,
)
IMPORTANCES = pd.DataFrame(
    {"feature": [f"f{i}" for i in range(30)], "importance": 0.1 / (1 + np.arange(30)), "sd": 0.004}
)
WINDOWS = pd.DataFrame(
    {
        "start_s": [0.0, 10.0, 20.0, 23.5],
        "Jazz": [0.7, 0.6, np.nan, 0.1],
        "World": [0.3, 0.4, np.nan, 0.9],
    }
)
CURVE = pd.DataFrame(
    {
        "system": np.repeat(["cnn-mel", "pooled-lda", "musicnn+handcrafted-lda"], 3),
        "n_artists": [18.1, 36.4, 73.0] * 3,
        "accuracy": [0.55, 0.6, 0.65, 0.5, 0.52, 0.54, 0.7, 0.8, 0.9],
        "gain": np.repeat([0.05, 0.02, 0.1], 3),
        "twice": np.repeat([0.7, 0.56, 1.0], 3),
    }
).assign(accuracy_lo=lambda t: t["accuracy"] - 0.1, accuracy_hi=lambda t: t["accuracy"] + 0.08)
BUMP = np.outer(np.hanning(216), np.hanning(626))
MAPS = {"trained": BUMP, "head random": 1 - BUMP, "all random": 0 * BUMP, "block 5 random": BUMP}
RHO = pd.Series(dict(zip(MAPS, (1.0, -1.0, np.nan, 0.25), strict=True)))
EXPLAINED = [
    ("World", MEL, BUMP, 3 * BUMP - 1),
    ("Electro Rock, taken for Electronica", MEL, BUMP, -2 * BUMP),
]
EXAMPLES = [(genre, f"clip {genre}", MEL) for genre in [*GENRES, "Jazz"]]
# Picture -> its function, its input, and what must be written on it.
PICTURES = {
    "mel": ("mel_spectrograms", (EXAMPLES,), {*GENRES, "clip World", "8,000", "Time (s)"}),
    "three mel": ("mel_spectrograms", (EXAMPLES[:3],), {*GENRES, "dB re maximum of the clip"}),
    "images": ("images", (CLIP,), {"MFCC, 32 × 79", "Chromagram, 32 × 157", "Pitch class"}),
    "waveform": ("waveform", (SIGNAL,), {"Waveform", "Amplitude (peak = 1)"}),
    "mfcc_hop": ("mfcc_hop", (SIGNAL,), {"in a window", "in no window"}),
    "frames": ("frames_kept", (LEVEL,), {"kept (4)", "removed (1)", "threshold -40 dB"}),
    "few frames": ("frames_kept", (LEVEL, -20.0), {"kept (2)", "removed (3)"}),
    "network": ("architecture", (), {"216 × 626 × 3", "6 × 19 × 512", "58,368", "ReLU, L2 0.01"}),
    "average": ("architecture", (7, "average"), {"Average", "over the map", "7"}),
    "clips": ("clips_per_genre", (CLIPS,), {"4 clips in 2 genres", "(no genre)"}),
    "groups": ("shared_groups", (SHARES,), {"97.3", "100", "0", "same track", "artist protocol"}),
    "five bars": ("accuracy_by_protocol", (FIVE,), {"published protocol", "artist protocol"}),
    "five points": ("accuracy_intervals", (FIVE,), {"published protocol"}),
    "bars": ("accuracy_by_protocol", (TABLE1,), {"0.90", "0.71", "Baseline SVM", "the paper"}),
    "folds": ("fold_accuracies", (FOLDS,), {"CNN+MFCC", "random protocol"}),
    "training": ("training_curves", (HISTORY,), {"CNN+MFCC", "random protocol", "artist protocol"}),
    "confusion": (
        "confusion_matrices",
        (OURS, PAPER_FIG3, ("Ours", "The paper"), "Confusion"),
        {"Ours", "The paper", "60"},
    ),
    "intervals": (
        "accuracy_intervals",
        (ALL,),
        {
            "SVM, treated fairly",
            "mine",
            "the paper",
            "Accuracy by clip, 95 % interval over artists",
        },
    ),
    "headings": (
        "accuracy_intervals",
        (SONGS, GROUPS, "song_accuracy"),
        {"The paper's", "VGG-16 only", "Accuracy by song, 95 % interval over artists"},
    ),
    "reliability": ("reliability_diagram", (BEFORE, AFTER), {"SVM, treated fairly"}),
    "coverage": ("coverage_curves", (COVERAGE,), {"artist protocol", "CNN+Mel-spectrogram"}),
    "saliency": ("saliency", (EXPLAINED,), {"World", "8,000", "Grad-CAM"}),
    "sanity": ("sanity_check", (MEL, MAPS, RHO), {"trained", "head random: ρ = -1.00"}),
    "importances": ("feature_importances", (IMPORTANCES,), {"f0", "f14"}),
    "learning": ("learning_curves", (CURVE,), {"18", "146", paper.LABELS["pooled-lda"]}),
    "song": ("along_song", (WINDOWS, 20.0), {"Jazz", "Along the song, windows of 20 s"}),
}


def draw(name, note=""):
    function, arguments, _ = PICTURES[name]
    module = figures if hasattr(figures, function) else clip_figures
    return getattr(module, function)(*arguments, note=note)


def texts(artist):
    return [text.get_text() for text in artist.findobj(Text) if text.get_text()]


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def errorbars(ax):
    return [c for c in ax.containers if isinstance(c, ErrorbarContainer)]


def ends(bar, axis=0):
    """Lower and upper end of each interval that is drawn."""
    lines = bar.lines[2][0].get_segments()
    return np.array([line[:, axis] for line in lines if np.isfinite(line).all() and len(line)])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_says_what_its_input_says_and_its_file_repeats(name, tmp_path):
    opened = plt.get_fignums()
    fig = draw(name, NOTE)
    assert plt.get_fignums() == opened
    paths = [tmp_path / "folder" / "a.png", tmp_path / "b.png"]
    clip_figures.save(fig, paths[0])
    clip_figures.save(draw(name, NOTE), paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"Software" not in paths[0].read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.png", "b.png"]

    fig.draw_without_rendering()
    assert {NOTE, fig.get_suptitle(), *PICTURES[name][2]} <= set(texts(fig))
    assert "nan" not in texts(fig)
    assert NOTE not in texts(draw(name))
    parts = {"title": fig._suptitle.get_window_extent(), "note": fig._supxlabel.get_window_extent()}
    parts |= {f"legend {i}": legend.get_window_extent() for i, legend in enumerate(fig.legends)}
    panels = [ax for ax in fig.axes if ax.get_visible()]
    parts |= {f"panel {i}": ax.get_tightbbox() for i, ax in enumerate(panels)}
    for (first, box), (second, box2) in itertools.combinations(parts.items(), 2):
        shared = Bbox.intersection(box, box2)
        assert shared is None or min(shared.size) < 3, f"{first} lies on {second}"
    for ax in panels:
        written = [t.get_window_extent() for t in ax.get_yticklabels() if ax.axison]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(written))
        assert all(box.x0 >= -1 for box in written)


ODD = [r"Ba$$in $\frac$", "R|B", "<b>x</b>", "Ab cd " * 10, "L" * 60, "_misc", "Café"]


@pytest.mark.filterwarnings("error")
def test_odd_names_are_shown_as_they_are(tmp_path):
    n = len(ODD)
    clips = pd.DataFrame({"genre": ODD, "artist": "", "status": "ok"})
    matrix = pd.DataFrame(np.eye(n), ODD, ODD)
    windows = pd.DataFrame(np.full((3, n), 1 / n), columns=ODD)
    windows.insert(0, "start_s", [0.0, 10.0, 20.0])
    pictures = {
        "clips": figures.clips_per_genre(clips),
        "matrix": figures.confusion_matrices(
            matrix, PAPER_FIG3, ("a $1$ set", "The paper"), "Confusion of CNN+Mel-spectrogram"
        ),
        "song": figures.along_song(windows, 20.0),
        "mel": clip_figures.mel_spectrograms([(genre, genre, MEL) for genre in ODD]),
        "saliency": figures.saliency([(genre, MEL, MEL, MEL) for genre in ODD]),
    }
    for name, fig in pictures.items():
        clip_figures.save(fig, tmp_path / f"{name}.png")  # as TeX it would be an error
        written = {"".join(text.split()) for text in texts(fig)}
        assert {"".join(genre.split()) for genre in ODD} <= written, name
    assert {text.get_text() for text in pictures["clips"].axes[1].texts} == {"0"}  # artists known


def test_letters_that_no_font_has_become_numbers(monkeypatch):
    assert clip_figures.shown("Enka 演歌", 99) == "Enka [no font: U+6F14 U+6B4C]"
    monkeypatch.setattr(clip_figures, "_letters", lambda: set("Enka 演歌"))
    assert clip_figures.shown("Enka 演歌") == "Enka 演歌"


@pytest.mark.parametrize(
    ("name", "word"), [("shared_groups", "albums"), ("learning_curves", "are")]
)
def test_what_cannot_be_drawn_is_said(name, word):
    fig = getattr(figures, name)(pd.DataFrame(columns=["protocol", "group", "share"]), note="why")
    assert any(text.startswith("Left out: artists") and word in text for text in texts(fig))


@pytest.mark.parametrize("name", PICTURES)
def test_a_long_note_lies_on_nothing(name):
    fig = draw(name, "; ".join(["artists, albums, tracks unknown: no such folds or oracles"] * 2))
    fig.draw_without_rendering()
    note = fig._supxlabel.get_window_extent()
    others = [*fig.legends, *(ax for ax in fig.axes if ax.get_visible())]
    for box in (other.get_tightbbox() for other in others):
        shared = Bbox.intersection(note, box)
        assert shared is None or min(shared.size) < 3


def test_intervals_of_unknown_artists_are_not_over_artists():
    table = _table(SYSTEMS).assign(n_artists=0)
    assert "Accuracy by clip, 95 % interval" in texts(figures.accuracy_intervals(table))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(GenreUtilsError, match="cannot write"):
        clip_figures.save(draw("waveform"), tmp_path / "folder")


def test_mel_axis_is_in_hertz_and_seconds():
    ax, *others = draw("mel").axes
    assert len(others) == 4  # three more clips, one colour bar
    image = ax.get_images()[0]
    centres = librosa.mel_frequencies(paper.MEL["n_mels"] + 2, fmin=0, fmax=8000)[1:-1]
    for place, label in zip(ax.get_yticks(), labels(ax.yaxis), strict=True):
        nearest = np.abs(centres - float(label.replace(",", ""))).argmin()
        assert abs(nearest + 0.5 - place) <= 1.01  # row i is drawn between i and i + 1
    assert image.get_extent()[1] == pytest.approx(626 * 512 / 16000)
    assert image.get_clim() == (-80, 0)
    assert np.array_equal(image.get_array(), MEL)
    assert sum(ax.get_visible() for ax in draw("three mel").axes) == 3 + 1


@pytest.mark.parametrize(("pitch", "hz"), [("C", 261.63), ("E", 329.63), ("A", 440.0)])
def test_pitch_names_stand_where_the_tone_sounds(pitch, hz):
    tone = np.sin(2 * np.pi * hz * np.arange(32000) / 16000).astype(np.float32)
    loudest = features.chromagram(tone).mean(axis=1).argmax()
    ax = draw("images").axes[2]
    place = dict(zip(labels(ax.yaxis), ax.get_yticks(), strict=True))[pitch]
    assert abs(loudest + 0.5 - place) <= 0.5


def test_mfcc_hop_colours_the_samples_that_the_stft_reads():
    axes, shares = draw("mfcc_hop").axes, {}
    for ax, name in zip(axes, ("mel", "mfcc", "chroma"), strict=True):
        skipped, seen = (np.isfinite(line.get_ydata()).sum() for line in ax.get_lines())
        shares[name] = seen / (seen + skipped)
    assert shares == pytest.approx({"mel": 1, "mfcc": 0.25, "chroma": 0.5}, abs=0.02)
    assert "75 % of the samples in no window" in axes[1].get_title(loc="left")
    assert "each sample in 4 windows" in axes[0].get_title(loc="left")
    seen, start = np.isfinite(axes[1].get_lines()[1].get_ydata()), 5 * 16000
    for i in np.flatnonzero(np.diff(seen.astype(int)))[:4]:
        for sample in (start + i, start + i + 1):
            click = np.zeros(len(SIGNAL), np.float32)
            click[sample] = 1
            stft = {key: paper.MFCC[key] for key in ("n_fft", "hop_length")}
            heard = np.abs(librosa.stft(click, window="boxcar", **stft)).max() > 0.5
            assert heard == seen[sample - start]


@pytest.mark.parametrize("name", paper.SHAPES)
def test_block_shapes_halve_and_round_down(name):
    height, width = paper.SHAPES[name]
    channels = (64, 128, 256, 512, 512)
    expected = [(height >> i, width >> i, n) for i, n in enumerate(channels, 1)]
    assert clip_figures.block_shapes(height, width) == expected


@pytest.mark.parametrize("pooling", cnn.POOLING)
def test_layers_of_the_schematic_are_those_of_the_model(pooling):
    model = cnn.build_head((6, 19, 512), 9, pooling=pooling)
    expected = [(layer.output.shape[-1], layer.count_params()) for layer in model.layers]
    layers = clip_figures.dense_layers((6, 19, 512), 9, pooling)
    assert [(outputs, n) for _, outputs, n in layers] == expected
    assert ("Flatten" in texts(draw("average"))) is False


def test_red_box_holds_the_dense_layers_and_nothing_frozen():
    ax = draw("network").axes[0]
    red = [p for p in ax.patches if type(p) is Rectangle and to_hex(p.get_edgecolor()) == "#ff0000"]
    inside = red[0].get_bbox()
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    held = [p for p in boxes if inside.fully_containsx(p.get_x()) and inside.containsy(p.get_y())]
    assert (len(red), len(boxes), len(held)) == (1, 12, 5)
    trained = {p.get_facecolor() for p in held}
    assert len(trained) == 1
    assert not trained & {p.get_facecolor() for p in boxes if p not in held}


def test_bars_are_as_long_as_the_numbers():
    clips, artists = draw("clips").axes
    assert labels(clips.yaxis) == ["(no genre)", "Jazz", "World"]
    assert [bar.get_width() for bar in clips.patches] == [0, 1, 3, 1, 1, 0]
    assert [bar.get_width() for bar in artists.patches] == [0, 1, 2]
    heights = [bar.get_height() for bar in draw("groups").axes[0].patches]
    assert heights == pytest.approx([97.3, 100, 100, 0, 0, 0])
    widths = [bar.get_width() for bar in draw("importances").axes[0].patches]
    assert widths == pytest.approx(100 * IMPORTANCES["importance"][:15])


def test_accuracy_bars_their_intervals_and_the_paper_s_marks():
    (ax,) = draw("bars").axes
    by_protocol = TABLE1.sort_values("protocol", ascending=False, kind="stable")
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(by_protocol["accuracy"])
    bars, marks = ax.collections
    limits = [segment[:, 1] for segment in bars.get_segments()]
    assert np.allclose(limits, TABLE1[["accuracy_lo", "accuracy_hi"]])
    places = np.ma.filled(marks.get_offsets(), np.nan)
    places = places[np.isfinite(places[:, 1])]
    assert places[:, 1].tolist() == [accuracy for accuracy, _ in paper.TABLE1.values()]
    assert places[:, 0] == pytest.approx(
        [bar.get_x() + bar.get_width() / 2 for bar in ax.patches[:4]]
    )
    assert labels(ax.xaxis) == list(paper.SYSTEM_LABELS.values())
    bare = figures.accuracy_by_protocol(TABLE1.drop(columns=["accuracy_lo", "accuracy_hi"]))
    assert len(bare.axes[0].collections) == 1  # the marks alone


def test_points_and_intervals_stand_in_the_row_of_their_system():
    some = ALL[(ALL["system"] != "cnn-mfcc") | (ALL["protocol"] != "artist")]
    for column, table, groups, systems, rows in (
        ("accuracy", some, None, SYSTEMS, list(range(8))),
        ("song_accuracy", SONGS, GROUPS, ["cnn-mel", "svm-mfcc", "pooled-lda"], [1, 2, 4]),
    ):
        ax = figures.accuracy_intervals(table, groups, column).axes[0]
        names = [labels(ax.yaxis)[row] for row in rows]
        assert names == [paper.LABELS.get(name, name) for name in systems]
        assert [bar.get_label() for bar in errorbars(ax)] == ["random protocol", "artist protocol"]
        for bar, protocol in zip(errorbars(ax), BOTH, strict=True):
            part = table[table["protocol"] == protocol].set_index("system").reindex(systems)
            points = np.asarray(bar.lines[0].get_xdata(), float)
            assert points == pytest.approx(part[column].to_numpy(), nan_ok=True)
            known = part.dropna(subset=column)[[f"{column}_lo", f"{column}_hi"]]
            assert ends(bar) == pytest.approx(known.to_numpy())
            assert np.round(bar.lines[0].get_ydata()).tolist() == rows
            assert to_hex(bar.lines[0].get_color()) == figures.PROTOCOLS[protocol]
    (marks,) = [c for c in draw("intervals").axes[0].collections if c.get_label() == "the paper"]
    places = np.ma.filled(marks.get_offsets(), np.nan)
    places = places[np.isfinite(places[:, 0])]
    assert places[:, 0] == pytest.approx([a for a, _ in paper.TABLE1.values()])
    assert np.round(places[:, 1]).tolist() == [0, 1, 2, 3]


def test_fold_points_and_means():
    (ax,) = draw("folds").axes
    points = [c for c in ax.collections if len(c.get_offsets()) == 5]
    lines = [line for line in ax.lines if line.get_marker() == "_"]
    assert (len(points), len(lines)) == (8, 2)
    for cloud in points:
        assert cloud.get_offsets()[:, 1].tolist() == pytest.approx([0.5, 0.51, 0.52, 0.53, 0.54])
    for line in lines:
        assert line.get_ydata() == pytest.approx([0.52] * 4)
        clouds = [c for c in points if to_hex(c.get_facecolor()[0]) == to_hex(line.get_color())]
        assert line.get_xdata() == pytest.approx([c.get_offsets()[0, 0] for c in clouds])


def test_training_curves_draw_mean_and_range_of_the_folds():
    loss, accuracy = draw("training").axes
    means = [line.get_ydata() for line in loss.get_lines() if len(line.get_ydata())]
    assert len(means) == 6
    for mean in means:
        assert mean == pytest.approx([3, 1.5, 1])
    for band in loss.collections:
        (path,) = band.get_paths()
        first = path.vertices[path.vertices[:, 0] == 1, 1]
        assert (first.min(), first.max()) == (1, 5)
    assert accuracy.get_ylim()[0] == 0


def test_confusion_cells_are_the_input_in_the_paper_s_order():
    names = ["Blues", *GENRES[:0:-1]]
    ours = pd.DataFrame(np.eye(3) * 100, names, names)
    shuffled = OURS.loc[GENRES[::-1], GENRES[::-1]]
    for table, order in ((shuffled, GENRES), (ours, ["Classical", "World", "Blues"])):
        panels = figures.confusion_matrices(table, PAPER_FIG3, ("Ours", "The paper"), "X").axes
        for ax, cells in zip(panels, (table.loc[order, order], PAPER_FIG3), strict=True):
            assert [float(t.get_text()) for t in ax.texts] == cells.to_numpy().ravel().tolist()
            assert labels(ax.xaxis) == labels(ax.yaxis) == list(cells.columns)
            assert ax.get_xlabel() == "Predicted genre"
        assert panels[0].get_ylabel() == "True genre"


def test_a_picture_is_shown_with_its_caption_as_it_is(tmp_path, monkeypatch):
    """Below it what Markdown would take for its own is escaped; a screen reader has it plain."""
    said = []
    monkeypatch.setattr(clip_figures, "display", lambda shown, **how: said.append((shown, how)))
    fig, caption = draw("reliability"), "Ba$$in, a_b*c.wav: 3 clips"
    clip_figures.show(fig, caption, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
    (picture, how), (text, _) = said
    assert picture is fig
    assert how["metadata"]["image/png"]["alt"] == caption
    assert text.data == r"*Ba\$\$in, a\_b\*c.wav: 3 clips*"


def test_reliability_shows_the_bins_and_their_error():
    (ax,) = draw("reliability").axes
    for line, table in zip(ax.lines[1:], (BEFORE, AFTER), strict=True):
        bins = confidence.reliability(*confidence.confidences(table))
        assert line.get_xydata() == pytest.approx(bins[["confidence", "accuracy"]].to_numpy())
        error = (bins["n"] * (bins["accuracy"] - bins["confidence"]).abs()).sum() / 60
        assert line.get_label().endswith(f"error {error:.3f}")


def test_coverage_shows_every_curve_whole():
    for ax, protocol in zip(draw("coverage").axes, BOTH, strict=True):
        curves = COVERAGE[COVERAGE["protocol"] == protocol].groupby("system")
        for line, (_, part) in zip(ax.lines, curves, strict=False):
            assert line.get_xydata() == pytest.approx(part[["coverage", "accuracy"]].to_numpy())
        assert ax.get_ylim()[0] < COVERAGE["accuracy_lo"].min()


def test_learning_curves_show_points_and_where_the_line_leads():
    ax = draw("learning").axes[0]
    lines = [line for line in ax.lines if line.get_marker() == "None"]
    parts = [part for _, part in CURVE.groupby("system", sort=False)]
    rows = zip(errorbars(ax), lines[::2], lines[1::2], parts, strict=True)
    for bar, measured, beyond, part in rows:
        assert bar.lines[0].get_ydata() == pytest.approx(part["accuracy"].to_numpy())
        assert ends(bar, 1) == pytest.approx(part[["accuracy_lo", "accuracy_hi"]].to_numpy())
        assert measured.get_color() == beyond.get_color() == bar.lines[0].get_color()
        assert (measured.get_linestyle(), beyond.get_linestyle()) == ("-", ":")
        assert beyond.get_xdata() == pytest.approx([73, 146])
        assert beyond.get_ydata()[1] == pytest.approx(part["twice"].iloc[0])
        assert np.diff(beyond.get_ydata()) == pytest.approx(part["gain"].iloc[0])


def test_saliency_maps_lie_over_the_spectrogram():
    panels = np.array(draw("saliency").axes[:6]).reshape(2, 3)
    for row, (title, _, gradient, occluded) in zip(panels, EXPLAINED, strict=True):
        assert row[0].get_title(loc="left").replace("\n", " ") == title
        assert [len(ax.images) for ax in row] == [1, 2, 2]
        assert (row[1].images[1].get_array() == gradient).all()
        assert (row[2].images[1].get_array() == occluded).all()
        assert row[2].get_title(loc="left") == "Occlusion"
        low, high = row[2].images[1].get_clim()
        assert low == -high and high == np.abs(occluded).max()
        assert row[1].images[1].get_extent() == pytest.approx([0, 626 * 512 / 16000, 0, 216])
    titles = [ax.get_title(loc="left") for ax in draw("sanity").axes]
    assert titles[2:] == ["all random: map is flat", "block 5 random: ρ = 0.25"]


def test_the_song_is_covered_and_silence_is_a_gap():
    ax = draw("song").axes[0]
    first, second = (patch.get_data() for patch in ax.patches)
    assert first.edges == pytest.approx([0, 15, 25, 31.75, 43.5])
    assert first.values == pytest.approx([0.7, 0.6, 0, 0.1])
    assert second.baseline == pytest.approx(first.values)
    assert second.values == pytest.approx([1, 1, 0, 1])


def test_a_player_is_short_and_has_the_whole_sound():
    time = np.arange(80_001) / 16_000  # a length that no frame of mp3 divides
    y = (0.5 * np.sin(2 * np.pi * 440 * time) * np.exp(-time)).astype(np.float32)
    player = clip_figures.player(y)
    assert 'type="audio/mpeg"' in player._repr_html_()
    assert len(player.data) < 2 * len(y) / 4  # of 16-bit WAV
    heard, rate = soundfile.read(io.BytesIO(player.data))
    assert rate == 16_000
    assert abs(len(heard) - len(y)) <= 576  # a frame
    n = min(len(heard), len(y))
    assert np.corrcoef(heard[:n], y[:n])[0, 1] > 0.99
    assert clip_figures.player(y).data == player.data
