"""The pictures beyond the paper say what their tables say, and nothing in them overlaps."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from genre_utils.metrics import confidence as calibration
from genre_utils.metrics.tables import NAMES
from genre_utils.plots import clip_figures as style
from genre_utils.plots import figures as beyond_figures
from genre_utils.plots.figures import PROTOCOLS

NOTE = "demo corpus (synthesised)"
RNG = np.random.default_rng(0)
MEL = RNG.uniform(-80, 0, (216, 626))
BUMP = np.outer(np.hanning(216), np.hanning(626))
GENRES = ["Classical", "Jazz", "World"]


def _predictions(systems, sure):
    tables = []
    for system in systems:
        y_true, y_pred = RNG.choice(GENRES, 60), RNG.choice(GENRES, 60)
        confidence = RNG.uniform(sure, 1, 60)
        table = pd.DataFrame({"y_true": y_true, "y_pred": y_pred}).assign(system=system)
        for genre in GENRES:
            table[f"p_{genre}"] = np.where(y_pred == genre, confidence, (1 - confidence) / 2)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


BEFORE = _predictions(["cnn-mel", "pooled-svm", "svm-fair", "mine", "other"], 0.9)
AFTER = _predictions(["cnn-mel", "pooled-svm", "svm-fair", "mine", "other"], 0.4)
CURVES = pd.DataFrame(
    [
        (system, protocol, coverage, 1 - 0.3 * coverage + 0.05 * i)
        for i, system in enumerate(("cnn-mel", "svm-fair"))
        for protocol in ("random", "artist")
        for coverage in np.arange(1, 21) / 20
    ],
    columns=["system", "protocol", "coverage", "accuracy"],
).assign(accuracy_lo=lambda t: t["accuracy"] - 0.1, accuracy_hi=lambda t: t["accuracy"] + 0.02)
IMPORTANCES = pd.DataFrame(
    {"feature": [f"f{i}" for i in range(30)], "importance": 0.1 / (1 + np.arange(30)), "sd": 0.004}
)
GROUPS = {"The paper's": ["cnn-mel", "svm-mfcc"], "VGG-16 only": ["pooled-svm"], "None": ["x"]}
TABLE = pd.DataFrame(
    [
        (system, protocol, 0.6 + 0.1 * i - 0.03 * j, 0.5 + 0.1 * i, 0.7 + 0.1 * i)
        for i, system in enumerate(("pooled-svm", "cnn-mel", "svm-mfcc"))
        for j, protocol in enumerate(("random", "artist"))
    ],
    columns=["system", "protocol", "song_accuracy", "song_accuracy_lo", "song_accuracy_hi"],
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
MAPS = {
    "trained": BUMP,
    "head random": 1 - BUMP,
    "all random": 0 * BUMP,
    "head and block 5 random": BUMP,
}
ALIKE = pd.Series(dict(zip(MAPS, (1.0, -1.0, np.nan, 0.25), strict=True)))
CLIPS = [
    ("World", MEL, BUMP, 3 * BUMP - 1),
    ("Electro Rock, taken for Electronica", MEL, BUMP, -2 * BUMP),
]
PICTURES = {
    "reliability": lambda note: beyond_figures.reliability_diagrams(BEFORE, AFTER, note),
    "coverage": lambda note: beyond_figures.coverage_curves(CURVES, note),
    "saliency": lambda note: beyond_figures.saliency(CLIPS, note),
    "sanity": lambda note: beyond_figures.sanity_check(MEL, MAPS, ALIKE, note),
    "importances": lambda note: beyond_figures.feature_importances(IMPORTANCES, note=note),
    "systems": lambda note: beyond_figures.systems_by_group(TABLE, GROUPS, note),
    "curves": lambda note: beyond_figures.learning_curves(CURVE, note),
    "song": lambda note: beyond_figures.along_song(WINDOWS, 20.0, note),
}


def _shown(fig):
    return [ax for ax in fig.axes if ax.get_visible()]


@pytest.mark.parametrize("name", PICTURES)
def test_notes_are_printed_nothing_overlaps_and_files_repeat(name, tmp_path):
    fig = PICTURES[name](NOTE)
    assert fig._supxlabel.get_text() == NOTE and fig._suptitle.get_text()
    style.save(fig, tmp_path / "one.png")
    fig.draw_without_rendering()  # a closed figure has no canvas that draws
    titles = [ax.get_title(loc="left") for ax in _shown(fig)]
    boxes = [
        ax._left_title.get_window_extent()
        for ax, title in zip(_shown(fig), titles, strict=True)
        if title
    ]
    boxes += [fig._suptitle.get_window_extent(), fig._supxlabel.get_window_extent()]
    boxes += [legend.get_window_extent() for legend in fig.legends]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(two) for two in boxes[i + 1 :])
        assert one.x1 <= fig.bbox.x1 + 1
    inside = [text.get_window_extent() for ax in _shown(fig) for text in ax.get_yticklabels()]
    assert all(box.x0 >= -1 for box in inside)
    again = PICTURES[name](NOTE)
    style.save(again, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert PICTURES[name]("")._supxlabel is None


def test_reliability_shows_each_systems_bins_and_errors():
    fig = PICTURES["reliability"]("")
    for ax, system in zip(_shown(fig), dict.fromkeys(BEFORE["system"]), strict=True):
        assert ax.get_title(loc="left") == NAMES.get(system, system)
        for line, table in zip(ax.lines[1:], (BEFORE, AFTER), strict=True):
            part = table[table["system"] == system]
            bins = calibration.reliability(*calibration.confidences(part))
            assert line.get_xydata() == pytest.approx(bins[["confidence", "accuracy"]].to_numpy())
            error = (bins["n"] * (bins["accuracy"] - bins["confidence"]).abs()).sum() / 60
            assert line.get_label().endswith(f"error {error:.3f}")


def test_learning_curves_show_points_and_where_the_line_leads():
    ax = PICTURES["curves"]("").axes[0]
    drawn = [each.lines[0] for each in ax.containers if isinstance(each, ErrorbarContainer)]
    lines = [line for line in ax.lines if line.get_marker() == "None"]
    parts = [part for _, part in CURVE.groupby("system", sort=False)]
    for points, measured, beyond, part in zip(drawn, lines[::2], lines[1::2], parts, strict=True):
        assert points.get_ydata() == pytest.approx(part["accuracy"].to_numpy())
        assert measured.get_color() == beyond.get_color() == points.get_color()
        assert measured.get_linestyle() == "-" and beyond.get_linestyle() == ":"
        assert beyond.get_xdata() == pytest.approx([73, 146])
        assert beyond.get_ydata()[1] == pytest.approx(part["twice"].iloc[0])
        assert np.diff(beyond.get_ydata()) == pytest.approx(part["gain"].iloc[0])


def test_coverage_shows_every_curve_whole():
    fig = PICTURES["coverage"]("")
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["random split", "artist split"]
    for ax, protocol in zip(fig.axes, ("random", "artist"), strict=True):
        for line, (_, part) in zip(
            ax.lines, CURVES[CURVES["protocol"] == protocol].groupby("system"), strict=False
        ):
            assert line.get_xydata() == pytest.approx(part[["coverage", "accuracy"]].to_numpy())
        assert ax.get_ylim()[0] < CURVES["accuracy_lo"].min()
    assert [text.get_text() for text in fig.legends[0].texts] == [
        NAMES["cnn-mel"],
        NAMES["svm-fair"],
    ]


def test_saliency_has_axes_in_seconds_and_hertz_and_maps_over_the_spectrogram():
    fig = PICTURES["saliency"]("")
    for row, (title, _, gradient, occluded) in zip(
        np.array(fig.axes).reshape(2, 3), CLIPS, strict=True
    ):
        assert row[0].get_title(loc="left").replace("\n", " ") == title
        assert [len(ax.images) for ax in row] == [1, 2, 2]
        assert (row[1].images[1].get_array() == gradient).all()
        assert (row[2].images[1].get_array() == occluded).all()
        low, high = row[2].images[1].get_clim()
        assert low == -high and high == np.abs(occluded).max()
        assert f"{occluded.min():+.1f} to {occluded.max():+.1f}" in row[2].get_title(loc="left")
        assert row[1].images[1].get_extent() == pytest.approx([0, 626 * 512 / 16000, 0, 216])
        assert "8,000" in [text.get_text() for text in row[0].get_yticklabels()]
    assert fig.axes[-1].get_xlabel() == "Time (s)" and "Hz" in fig._supylabel.get_text()


def test_the_sanity_check_says_the_correlations():
    titles = [ax.get_title(loc="left") for ax in _shown(PICTURES["sanity"](""))]
    assert titles[:2] == ["trained", "head random: ρ = -1.00"]
    assert titles[2] == "all random: map is flat"


def test_the_most_important_features_are_drawn():
    ax = beyond_figures.feature_importances(IMPORTANCES, 4).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["f0", "f1", "f2", "f3"]
    bars = [bar.get_width() for bar in ax.patches]
    assert bars == pytest.approx(100 * IMPORTANCES["importance"][:4])


def test_systems_stand_under_their_headings():
    ax = PICTURES["systems"]("").axes[0]
    names = [text.get_text() for text in ax.get_yticklabels()]
    expected = ["The paper's", "cnn-mel", "svm-mfcc", "VGG-16 only", "pooled-svm"]
    assert names == [NAMES.get(name, name) for name in expected]
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    for bar, protocol in zip(bars, ("random", "artist"), strict=True):
        part = TABLE[TABLE["protocol"] == protocol].set_index("system")
        part = part.loc[["cnn-mel", "svm-mfcc", "pooled-svm"]]
        assert bar.lines[0].get_xdata() == pytest.approx(part["song_accuracy"].to_numpy())
        ends = np.array([line[:, 0] for line in bar.lines[2][0].get_segments()])
        assert ends == pytest.approx(part[["song_accuracy_lo", "song_accuracy_hi"]].to_numpy())
        assert np.round(bar.lines[0].get_ydata()).tolist() == [1, 2, 4]
        assert to_hex(bar.lines[0].get_color()) == PROTOCOLS[protocol]


def test_the_song_is_covered_and_silence_is_a_gap():
    ax = PICTURES["song"]("").axes[0]
    first, second = (patch.get_data() for patch in ax.patches)
    assert first.edges == pytest.approx([0, 15, 25, 31.75, 43.5])
    assert first.values == pytest.approx([0.7, 0.6, 0, 0.1])
    assert second.baseline == pytest.approx(first.values)
    assert second.values == pytest.approx([1, 1, 0, 1])
