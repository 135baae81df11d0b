"""The paper's numbers: against one another by arithmetic, and against the paper's own text."""

import re

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from genre_utils import paper
from genre_utils.extraction import features

SAMPLES = 320000  # 20 s at 16 kHz


@pytest.mark.parametrize(
    ("name", "parameters", "rows"),
    [
        ("mel", paper.MEL, "n_mels"),
        ("mfcc", paper.MFCC, "n_mfcc"),
        ("chroma", paper.CHROMA, "n_chroma"),
    ],
)
def test_shapes_follow_from_the_parameters(name, parameters, rows):
    assert paper.AUDIO["sr"] * paper.AUDIO["duration"] == SAMPLES
    shape = (parameters[rows], 1 + SAMPLES // parameters["hop_length"])
    assert shape == paper.SHAPES[name]
    y = np.random.default_rng(0).normal(0, 0.1, SAMPLES).astype(np.float32)
    assert features.EXTRACTORS[name](y).shape == shape


def test_shapes_are_the_published_ones():
    assert dict(paper.SHAPES) == {"mel": (216, 626), "mfcc": (32, 79), "chroma": (32, 157)}


def test_svm_windows_are_the_stated_milliseconds():
    assert paper.SVM["n_fft"] / paper.AUDIO["sr"] == pytest.approx(0.200)
    assert paper.SVM["hop_length"] / paper.AUDIO["sr"] == pytest.approx(0.080)


def test_hops_give_the_stated_overlap_and_the_gaps():
    assert 1 - paper.MEL["hop_length"] / paper.MEL["n_fft"] == 0.75  # "75% overlap"
    assert paper.MFCC["n_fft"] / paper.MFCC["hop_length"] == 0.25
    assert paper.CHROMA["n_fft"] / paper.CHROMA["hop_length"] == 0.5


def test_fig3_rows_are_per_cents_of_fifty_clips():
    assert paper.FIG3.shape == (9, 9) == (len(paper.GENRES), len(paper.GENRES))
    assert (paper.FIG3.sum(axis=1) == 100).all()
    assert (paper.FIG3 % 2 == 0).all()
    assert (paper.FIG3 % 4 != 0).any()  # so 25 clips a genre would not do
    assert paper.TEST_CLIPS_PER_GENRE == 100 // 2


def test_fig3_diagonal_gives_table1_s_accuracy():
    right = np.trace(paper.FIG3)
    assert right == 808
    counts = paper.FIG3 * paper.TEST_CLIPS_PER_GENRE // 100
    assert (np.trace(counts), counts.sum()) == (404, 450)
    assert round(right / 900, 2) == paper.TABLE1["cnn-mel"][0]


def test_fig3_macro_scores_agree_with_table1_as_printed():
    counts = paper.FIG3 * paper.TEST_CLIPS_PER_GENRE // 100
    recall = np.diag(counts) / counts.sum(axis=1)
    precision = np.diag(counts) / counts.sum(axis=0)
    f_score = np.mean(2 * precision * recall / (precision + recall))
    assert round(f_score, 2) == paper.TABLE1["cnn-mel"][1] == 0.90
    assert recall.mean() == pytest.approx(808 / 900)
    assert round(precision.mean(), 2) == 0.91
    true, predicted = clips(counts)
    assert f_score == pytest.approx(f1_score(true, predicted, average="macro"))
    assert precision.mean() == pytest.approx(precision_score(true, predicted, average="macro"))
    assert recall.mean() == pytest.approx(recall_score(true, predicted, average="macro"))


def clips(counts):
    """Rebuild the test clips' true and predicted genres from a matrix of counts."""
    true, predicted = (
        index.repeat(counts.ravel()) for index in np.indices(counts.shape).reshape(2, -1)
    )
    assert (confusion_matrix(true, predicted) == counts).all()
    return true, predicted


def test_fig3_confuses_the_pairs_that_the_discussion_names():
    between = {
        pair: paper.FIG3[i, j] + paper.FIG3[j, i]
        for pair in paper.CONFUSED_PAIRS
        for i, j in [[paper.GENRES.index(genre) for genre in pair]]
    }
    pairs = [
        paper.FIG3[i, j] + paper.FIG3[j, i] for i in range(len(paper.GENRES)) for j in range(i)
    ]
    assert sorted(between.values()) == sorted(pairs)[-3:]


def test_table1_f_scores_are_not_above_the_accuracies():
    assert all(f_score <= accuracy for accuracy, f_score in paper.TABLE1.values())
    accuracies = [accuracy for accuracy, _ in paper.TABLE1.values()]
    assert accuracies == sorted(accuracies, reverse=True)
    assert set(paper.TABLE1) == set(paper.SYSTEM_LABELS)


def test_nothing_can_change_the_paper():
    with pytest.raises(TypeError):
        paper.MEL["n_mels"] = 128
    with pytest.raises(ValueError, match="read-only"):
        paper.FIG3[0, 0] = 99


@pytest.fixture(scope="module")
def text(shared):
    """The paper's text, one space between words."""
    path = shared / "paper" / "uchal-zhou.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there: no paper text to compare with")
    return path.read_text(encoding="utf-8")


def numbers(text, pattern):
    found = re.search(pattern, re.sub(r"\\_", "_", re.sub(r"\s+", " ", text)))
    assert found, f"the text lacks {pattern!r}"
    values = tuple(float(group) for group in found.groups())
    return values if len(values) > 1 else values[0]


STATED = {
    r"sound files to (\d+)-second long": paper.AUDIO["duration"],
    r"Sampling rate \(sr\) = (\d+)": paper.AUDIO["sr"],
    r"size \(n_fft\) = (\d+)": paper.MEL["n_fft"],
    r"\(hop_size\) = (\d+)": paper.MEL["hop_length"],
    r"Number of Mel bins: (\d+)": paper.MEL["n_mels"],
    r"n_fft=(\d+) and hop size=(\d+) and a Hann window. Next": (
        paper.MFCC["n_fft"],
        paper.MFCC["hop_length"],
    ),
    r"Mel filter banks, was set to (\d+)": paper.MFCC["n_mfcc"],
    r"n_fft=(\d+) and hop size=(\d+) and a Hann window, and the number of chroma is set to (\d+)": (
        paper.CHROMA["n_fft"],
        paper.CHROMA["hop_length"],
        paper.CHROMA["n_chroma"],
    ),
    r"use a (\d+)-unit hidden layer followed by a (\d+)-unit": paper.HEAD["units"],
    r"\$\\lambda\$ set to ([\d.]+\d)": paper.HEAD["l2"],
    r"dropout rate of ([\d.]+\d)": paper.HEAD["dropout"],
    r"for (\d+) epochs with a batch size of (\d+)": (
        paper.TRAINING["epochs"],
        paper.TRAINING["batch_size"],
    ),
    r"learning rate is set to ([\d.]+\d)": paper.TRAINING["learning_rate"],
    r"train \(90%\), test \((\d+)%\)": 100 * paper.TEST_SHARE,
    r"only the first (\d+) seconds": paper.SVM["duration"],
    r"window size of (\d+) samples": paper.SVM["n_fft"],
    r"hop size of (\d+) samples": paper.SVM["hop_length"],
    r"(\d+) logarithmically spaced Mel-filters": paper.SVM["n_mels"],
    r"only the first (\d+) dimensions": paper.SVM["n_mfcc"],
    r"approximately (\d+) audio files in (\d+) genres": (paper.N_CLIPS, len(paper.GENRES)),
}


@pytest.mark.parametrize("pattern", STATED)
def test_constant_is_the_one_in_the_text(text, pattern):
    assert numbers(text, pattern) == STATED[pattern]


def test_windows_highest_frequency_and_title_are_the_ones_in_the_text(text):
    assert "Window Function: Hann Window" in text
    assert paper.MEL["window"] == paper.MFCC["window"] == paper.CHROMA["window"] == "hann"
    assert "using a Hamming window" in text
    assert paper.SVM["window"] == "hamming"
    assert "(f\\_max) = sr/2" in text
    assert paper.MEL["fmax"] == paper.AUDIO["sr"] / 2
    assert paper.TITLE.upper() in text
    assert ", ".join(paper.AUTHORS) in text


def test_genres_and_confused_pairs_are_the_ones_in_the_text(text):
    assert f"genres: {', '.join(paper.GENRES)}." in text
    pairs = ", ".join(" and ".join(pair) for pair in paper.CONFUSED_PAIRS)
    assert f"confused with each other: {pairs}" in text


def test_table1_is_the_one_in_the_text(text):
    for system, label in paper.SYSTEM_LABELS.items():
        row = rf"(?m)^{re.escape(label)}\s+([\d.]+)\s+([\d.]+)\s*$"
        found = re.search(row, text)
        assert found, f"the text's Table 1 lacks {label}"
        assert tuple(map(float, found.groups())) == paper.TABLE1[system]


def test_fig3_is_the_one_in_the_text(text):
    table = np.zeros((9, 9), int)
    for i, genre in enumerate(paper.GENRES):
        (row,) = re.findall(rf"(?m)^{genre}((?:\s+\d+%){{9}})\s*$", text)
        table[i] = [int(cell) for cell in re.findall(r"\d+", row)]
    assert np.array_equal(table, paper.FIG3)
    header = re.search(r"(?m)^\s+(Alt Rock\tAmbient.*)$", text).group(1)
    assert tuple(header.split("\t")) == paper.GENRES
