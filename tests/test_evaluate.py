import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from genre_utils import paper
from genre_utils.metrics import evaluate
from genre_utils.runtime import GenreUtilsError, UsageError

GENRES = ["Classical", "Jazz", "World"]


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    tables = []
    for system in ("cnn-mel", "svm-mfcc", "other"):
        for protocol in ("random", "artist"):
            y = np.repeat(GENRES, [10, 20, 5])
            guess = np.where(rng.random(35) < 0.6, y, rng.choice(GENRES, 35))
            table = pd.DataFrame(
                {"system": system, "protocol": protocol, "fold": np.arange(35) % 5}
            )
            table["clip_id"] = [f"c{i}" for i in range(35)]
            table["y_true"], table["y_pred"] = y, guess
            for genre in GENRES:
                table[f"p_{genre}"] = np.nan if system == "svm-mfcc" else (guess == genre) * 1.0
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def splits(predictions):
    return predictions[predictions["system"] == "cnn-mel"][["protocol", "clip_id", "fold"]]


def test_table1_against_scikit_learn(predictions):
    for average in evaluate.F_AVERAGES:
        for row in evaluate.table1(predictions, average).itertuples():
            part = predictions[
                (predictions["system"] == row.system) & (predictions["protocol"] == row.protocol)
            ]
            report = metrics.classification_report(
                part["y_true"], part["y_pred"], output_dict=True, zero_division=0
            )
            assert row.accuracy == pytest.approx(report["accuracy"], abs=1e-6)
            assert row.f_score == pytest.approx(report[f"{average} avg"]["f1-score"], abs=1e-6)
            assert (row.n_clips, row.n_folds) == (35, 5)


def test_the_papers_numbers_stand_beside_its_own_protocol_only(predictions):
    table = evaluate.table1(predictions).set_index(["system", "protocol"])
    assert table.loc[("cnn-mel", "random"), ["paper_accuracy", "paper_f_score"]].tolist() == [
        0.9,
        0.9,
    ]
    assert table.loc[("svm-mfcc", "random"), "paper_accuracy"] == 0.32
    assert table.loc[(slice(None), "artist"), "paper_accuracy"].isna().all()
    assert np.isnan(table.loc[("other", "random"), "paper_accuracy"])


def test_confusion_rows_are_per_cent_of_the_true_genre(predictions):
    part = predictions[:35]
    matrix = evaluate.confusion_percent(part, GENRES)
    assert np.allclose(matrix.sum(axis=1), 100)
    true_jazz = part[part["y_true"] == "Jazz"]
    assert matrix.loc["Jazz", "World"] == pytest.approx(
        100 * (true_jazz["y_pred"] == "World").mean()
    )
    counts = part["y_true"].value_counts()[GENRES].to_numpy()
    accuracy = (np.diag(matrix) * counts).sum() / counts.sum() / 100
    assert accuracy == pytest.approx((part["y_true"] == part["y_pred"]).mean())


def test_per_fold_accuracy_averages_to_the_whole(predictions):
    folds = evaluate.per_fold(predictions)
    assert len(folds) == 6 * 5
    whole = evaluate.table1(predictions).set_index(["system", "protocol"])["accuracy"]
    means = folds.groupby(["system", "protocol"])["accuracy"].mean()  # folds of equal size
    for key, accuracy in whole.items():
        assert means[key] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize(("k", "n"), [(404, 450), (0, 10), (10, 10), (3, 7)])
def test_wilson_interval_by_its_formula(k, n):
    z, p = 1.959964, k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert evaluate.wilson_interval(k, n) == pytest.approx((centre - half, centre + half), abs=1e-6)
    scipy_own = binomtest(k, n).proportion_ci(method="wilson")
    assert evaluate.wilson_interval(k, n) == pytest.approx((scipy_own.low, scipy_own.high))


def test_the_papers_figure_3_against_its_table_1():
    found = evaluate.paper_figure3_metrics()
    assert found["accuracy"] == pytest.approx(808 / 900)
    truth = np.repeat(paper.GENRES, 50)
    answers = np.concatenate([np.repeat(paper.GENRES, row // 2) for row in paper.FIG3])
    assert found["F-score"] == pytest.approx(metrics.f1_score(truth, answers, average="macro"))
    precision = metrics.precision_score(truth, answers, average="macro")
    assert found["precision"] == pytest.approx(precision)
    assert round(found["accuracy"], 2) == paper.TABLE1["cnn-mel"][0]
    assert round(found["F-score"], 2) == paper.TABLE1["cnn-mel"][1]


def test_predictions_that_fit_the_splits_pass(predictions, splits):
    evaluate.check_predictions(predictions, splits, ["cnn-mel", "svm-mfcc"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p[p["system"] != "svm-mfcc"], "svm-mfcc has 0 rows"),
        (lambda p: p.drop(index=3), "cnn-mel has 69 rows"),
        (lambda p: pd.concat([p, p[:1]]), "cnn-mel has 71 rows"),
        (lambda p: p.assign(fold=p["fold"].where(p.index != 5, 9)), "do not fit"),
        (lambda p: p.assign(p_Jazz=p["p_Jazz"] * 0.5), "do not sum to 1"),
    ],
)
def test_predictions_that_do_not_are_refused(predictions, splits, spoil, said):
    with pytest.raises(GenreUtilsError, match=said):
        evaluate.check_predictions(spoil(predictions), splits, ["cnn-mel", "svm-mfcc"])


def test_an_unknown_average_is_refused(predictions):
    with pytest.raises(UsageError, match="unknown f_average 'micro'"):
        evaluate.table1(predictions, "micro")
