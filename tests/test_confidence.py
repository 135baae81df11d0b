"""Calibration and abstention on probabilities whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from genre_utils.metrics import confidence
from genre_utils.runtime import GenreUtilsError, UsageError

GENRES = ["Classical", "Jazz", "World"]
N = 6000


def _drawn(factor=1.0, n=N, seed=0):
    """Logits, probabilities made over-confident by ``factor``, and classes drawn from the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, len(GENRES)))
    edges = softmax(logits, axis=1).cumsum(axis=1)
    target = (rng.random((n, 1)) > edges).sum(axis=1)
    return softmax(factor * logits, axis=1), target


def _predictions(proba, target):
    names = np.array(GENRES)
    table = pd.DataFrame(
        {
            "system": "cnn-mel",
            "protocol": "random",
            "fold": np.arange(len(proba)) % 5,
            "clip_id": [f"c{i:05}" for i in range(len(proba))],
            "y_true": names[target],
            "y_pred": names[proba.argmax(axis=1)],
        }
    )
    return table.assign(**{f"p_{genre}": proba[:, i] for i, genre in enumerate(GENRES)})


def _clips(predictions, artists):
    about = {"album": "", "track": "", "status": "ok", "artist": artists}
    return predictions[["clip_id"]].drop_duplicates().assign(**about)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_is_the_known_factor(factor):
    proba, target = _drawn(factor)
    assert confidence.fit_temperature(proba, target) == pytest.approx(factor, rel=0.06)


def test_temperature_is_where_the_loss_is_smallest():
    proba, target = _drawn(2.0, n=300)
    found = confidence.fit_temperature(proba, target)
    losses = {
        t: -np.log(confidence.apply_temperature(proba, t)[np.arange(300), target]).mean()
        for t in [found, *np.geomspace(0.1, 10, 401)]
    }
    assert losses[found] <= min(losses.values()) + 1e-7


def test_applied_temperature_against_the_power_form():
    proba, _ = _drawn(n=50)
    power = proba ** (1 / 2.5)
    expected = power / power.sum(axis=1, keepdims=True)
    assert confidence.apply_temperature(proba, 2.5) == pytest.approx(expected)
    assert confidence.apply_temperature(proba, 1.0) == pytest.approx(proba)


def test_temperature_changes_no_answer_and_survives_zeros():
    proba = np.array([[1.0, 0, 0], [0, 0.2, 0.8], [0.1, 0.9, 0]])
    for t in (0.1, 1, 10):
        after = confidence.apply_temperature(proba, t)
        assert np.isfinite(after).all()
        assert after.argmax(axis=1).tolist() == [0, 2, 1]
        assert after.sum(axis=1) == pytest.approx(1)
    assert np.isfinite(confidence.fit_temperature(proba, np.array([1, 2, 1])))


def test_all_answers_right_come_near_the_lower_bound():
    proba = np.full((30, 3), 0.1)
    proba[:, 1] = 0.8
    low = confidence.BOUNDS[0]
    assert low <= confidence.fit_temperature(proba, np.ones(30, int)) < 1.2 * low


@pytest.mark.parametrize("adaptive", [False, True])
def test_calibrated_probabilities_have_a_small_error_and_others_do_not(adaptive):
    def ece(factor):
        predictions = _predictions(*_drawn(factor, n=20_000))
        table = confidence.reliability(*confidence.confidences(predictions), adaptive=adaptive)
        assert table["n"].sum() == 20_000
        return confidence.expected_calibration_error(table)

    assert ece(1.0) < 0.02
    assert ece(3.0) > 0.1


def test_reliability_of_a_hand_made_table():
    sure = np.array([0.5, 0.45, 0.9, 0.95, 1.0])
    right = np.array([True, False, True, True, False])
    table = confidence.reliability(sure, right, 2)
    assert table.to_numpy().tolist() == [
        [0.0, 0.5, 2, pytest.approx(0.475), 0.5],
        [0.5, 1.0, 3, pytest.approx(0.95), pytest.approx(2 / 3)],
    ]
    expected = 2 / 5 * 0.025 + 3 / 5 * (0.95 - 2 / 3)
    assert confidence.expected_calibration_error(table) == pytest.approx(expected)


def test_adaptive_bins_hold_as_many_clips_and_keep_equal_ones_together():
    sure = np.concatenate([np.linspace(0.34, 0.9, 100), np.ones(50)])
    table = confidence.reliability(sure, np.ones(150, bool), 15, adaptive=True)
    assert table["n"].tolist()[:9] == [10] * 9
    assert table["n"].iloc[-1] >= 50
    shuffled = np.random.default_rng(0).permutation(150)
    again = confidence.reliability(sure[shuffled], np.ones(150, bool), 15, adaptive=True)
    pd.testing.assert_frame_equal(table, again)


def test_the_table_against_plain_formulas():
    proba, target = _drawn(2.0, n=400)
    row = confidence.calibration_table(_predictions(proba, target)).iloc[0]
    own = proba[np.arange(400), target]
    assert row["log_loss"] == pytest.approx(-np.log(own).mean(), abs=1e-4)
    square = ((proba - np.eye(3)[target]) ** 2).sum(axis=1).mean()
    assert row["brier"] == pytest.approx(square, abs=1e-4)
    assert row["accuracy"] == pytest.approx((proba.argmax(axis=1) == target).mean(), abs=1e-6)
    assert row["confidence"] == pytest.approx(proba.max(axis=1).mean(), abs=1e-6)


def test_systems_without_probabilities_are_left_out():
    with_p = _predictions(*_drawn(n=60))
    without = with_p.drop(columns=[f"p_{genre}" for genre in GENRES]).assign(system="svm-mfcc")
    both = pd.concat([without, with_p], ignore_index=True)
    assert confidence.calibration_table(both)["system"].tolist() == ["cnn-mel"]
    clips = _clips(with_p, [f"a{i % 9}" for i in range(60)])
    curve = confidence.coverage_curve(both, clips, (0.5,), n_resamples=20)
    assert curve["system"].tolist() == ["cnn-mel"]
    assert confidence.coverage_curve(without, clips, n_resamples=20).empty


def _hand_made():
    sure = np.array([0.9, 0.8, 0.8, 0.7, 0.6])
    target = np.array([0, 0, 1, 0, 1])  # right, right, wrong, right, wrong
    rest = (1 - sure) / 2
    return _predictions(np.stack([sure, rest, rest], axis=1), target)


def test_the_coverage_curve_of_a_hand_made_table():
    predictions = _hand_made().sample(frac=1, random_state=3)
    clips = _clips(predictions, list("abcde"))
    curve = confidence.coverage_curve(predictions, clips, (0.2, 0.3, 0.6, 0.8, 1.0), n_resamples=50)
    assert curve["threshold"].tolist() == [0.9, 0.8, 0.8, 0.7, 0.6]
    assert curve["answered"].tolist() == [0.2, 0.6, 0.6, 0.8, 1.0]
    assert curve["accuracy"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 3 / 4, 3 / 5], abs=1e-6)


def test_a_resample_counts_like_repeated_clips():
    predictions = _hand_made()
    sure, right = confidence.confidences(predictions)
    times = np.array([0, 2, 1, 3, 1])
    weights = times[None].astype(float)
    counted = confidence._accuracies(sure, right, weights, confidence.COVERAGES)[0]
    written = predictions.loc[predictions.index.repeat(times)].reset_index(drop=True)
    written["clip_id"] = [f"r{i}" for i in written.index]
    clips = _clips(written, list("abcdefg"))
    curve = confidence.coverage_curve(written, clips, n_resamples=5)
    assert counted == pytest.approx(curve["accuracy"].to_numpy(), abs=1e-6)


def test_keeping_silent_pays_where_confidence_means_something():
    proba, target = _drawn(n=1500)
    predictions = _predictions(proba, target)
    clips = _clips(predictions, [f"a{i % 60}" for i in range(1500)])
    good = confidence.coverage_curve(predictions, clips, (0.3, 1.0), n_resamples=200)
    assert good["accuracy_lo"][0] > good["accuracy_hi"][1]
    assert (good["accuracy_lo"] <= good["accuracy"]).all()
    assert (good["accuracy"] <= good["accuracy_hi"]).all()
    # Confidences dealt out anew, answers as they were: nothing is gained.
    rng = np.random.default_rng(0)
    empty = predictions.copy()
    sure = rng.uniform(0.5, 1, 1500)
    answers = pd.Index(GENRES).get_indexer(empty["y_pred"])
    for i, genre in enumerate(GENRES):
        empty[f"p_{genre}"] = np.where(answers == i, sure, (1 - sure) / 2)
    curve = confidence.coverage_curve(empty, clips, (0.3, 1.0), n_resamples=200)
    assert curve["accuracy_lo"][0] < curve["accuracy"][1] < curve["accuracy_hi"][0]


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    inside = 0
    for seed in range(60):
        proba, target = _drawn(n=400, seed=seed)
        predictions = _predictions(proba, target)
        clips = _clips(predictions, [f"a{i % 50}" for i in range(400)])
        curve = confidence.coverage_curve(predictions, clips, (0.5,), n_resamples=200, seed=seed)
        low, high = curve.loc[0, ["accuracy_lo", "accuracy_hi"]]
        inside += low <= TRUTH <= high
    assert inside >= 52  # of 60; with 95 % coverage fewer than that has a chance of 1 in 200


def _truth():
    proba, _ = _drawn(n=200_000, seed=99)
    sure = np.sort(proba.max(axis=1))[::-1]
    return sure[:100_000].mean()  # of calibrated probabilities the mean is the accuracy


TRUTH = _truth()


def test_clips_not_in_the_table_and_wrong_coverages_are_refused():
    predictions = _hand_made()
    clips = _clips(predictions, list("abcde"))
    with pytest.raises(GenreUtilsError, match="'c00000'"):
        confidence.coverage_curve(predictions, clips.iloc[1:], n_resamples=5)
    with pytest.raises(UsageError, match="over 0, up to 1"):
        confidence.coverage_curve(predictions, clips, (0.0,), n_resamples=5)
