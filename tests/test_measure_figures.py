from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from genre_utils import paper
from genre_utils.plots import clip_figures as style
from genre_utils.plots import figures as measure_figures


def _table(protocols=("artist", "random")):
    rows = []
    for i, system in enumerate([*paper.TABLE1, "svm-fair", "majority", "oracle-artist", "mine"]):
        for j, protocol in enumerate(protocols):
            known = paper.TABLE1.get(system, (np.nan,))[0] if protocol == "random" else np.nan
            accuracy = 0.9 - 0.1 * i + 0.02 * j
            ends = (accuracy - 0.05, accuracy + 0.07)
            rows.append((system, protocol, accuracy, *ends, known))
    names = ["system", "protocol", "accuracy", "accuracy_lo", "accuracy_hi", "paper_accuracy"]
    return pd.DataFrame(rows, columns=names)


def _bars(fig):
    return [c for c in fig.axes[0].containers if isinstance(c, ErrorbarContainer)]


def test_every_number_is_where_it_belongs():
    table = _table()
    fig = measure_figures.accuracy_with_intervals(table)
    bars = _bars(fig)
    assert [bar.get_label() for bar in bars] == ["random split", "artist split"]
    for bar, protocol in zip(bars, ("random", "artist"), strict=True):
        part = table[table["protocol"] == protocol]
        assert bar.lines[0].get_xdata() == pytest.approx(part["accuracy"].to_numpy())
        ends = np.array([line[:, 0] for line in bar.lines[2][0].get_segments()])
        assert ends == pytest.approx(part[["accuracy_lo", "accuracy_hi"]].to_numpy())
        assert np.round(bar.lines[0].get_ydata()).tolist() == list(range(8))
    paper_marks = fig.axes[0].collections[-1].get_offsets().data
    assert paper_marks[:, 0] == pytest.approx([a for a, _ in paper.TABLE1.values()])
    assert np.round(paper_marks[:, 1]).tolist() == [0, 1, 2, 3]


def test_systems_have_names_and_the_note_is_there():
    fig = measure_figures.accuracy_with_intervals(_table(), note="made up")
    names = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert names[:2] == ["CNN+Mel-spectrogram", "CNN+MFCC"]
    assert names[4:] == [
        "SVM, treated fairly",
        "Most frequent genre",
        "Oracle: artist known",
        "mine",
    ]
    assert fig._supxlabel.get_text() == "made up"


def test_a_system_that_was_not_run_under_a_protocol_leaves_its_place_empty():
    table = _table(("random", "track", "album", "artist"))
    some = table[(table["system"] != "cnn-mfcc") | (table["protocol"] != "track")]
    track = _bars(measure_figures.accuracy_with_intervals(some))[1]
    assert np.isnan(track.lines[0].get_xdata().astype(float)).tolist() == [False, True] + 6 * [
        False
    ]


def test_nothing_overlaps(tmp_path):
    fig = measure_figures.accuracy_with_intervals(
        _table(("random", "track", "album", "artist")), "demo corpus (synthesised)"
    )
    style.save(fig, tmp_path / "one.png")
    fig.draw_without_rendering()  # a closed figure has no canvas that draws
    labels = [t.get_window_extent() for t in fig.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(labels))
    legend = fig.axes[0].get_legend().get_window_extent()
    assert not legend.overlaps(fig._suptitle.get_window_extent())
    assert not legend.overlaps(fig._supxlabel.get_window_extent())
    again = measure_figures.accuracy_with_intervals(
        _table(("random", "track", "album", "artist")), "demo corpus (synthesised)"
    )
    style.save(again, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
