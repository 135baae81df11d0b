"""Intervals and comparisons by artists: against scikit-learn, scipy, formulas and simulations."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, bootstrap, multinomial, norm
from sklearn.metrics import accuracy_score, f1_score

from genre_utils.metrics import intervals
from genre_utils.metrics.evaluate import wilson_interval
from genre_utils.runtime import GenreUtilsError, UsageError

GENRES = ["A", "B", "C"]


def _corpus(n_artists=40, n_clips=6, seed=0, truth="ABC"):
    """Clips of artists who are well or badly recognised as a whole: strong clusters."""
    rng = np.random.default_rng(seed)
    artists = np.repeat([f"artist {i:02d}" for i in range(n_artists)], n_clips)
    clips = pd.DataFrame({"clip_id": [f"{i:04d}" for i in range(len(artists))], "artist": artists})
    clips = clips.assign(album="al", track=clips["clip_id"], start_s=0.0)
    clips["genre"] = np.repeat([truth[i % len(truth)] for i in range(n_artists)], n_clips)
    ease = {name: rng.beta(1, 1, n_artists) for name in ("one", "two")}
    tables = []
    for name, of_artist in ease.items():
        right = rng.random(len(clips)) < np.repeat(of_artist, n_clips)
        wrong = clips["genre"].map({"A": "B", "B": "C", "C": "A"})
        table = clips[["clip_id"]].assign(system=name, protocol="artist", y_true=clips["genre"])
        tables.append(table.assign(y_pred=clips["genre"].where(right, wrong)))
    return clips, pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_scores_of_a_resample_are_scikit_learns_on_the_drawn_clips(average):
    clips, predictions = _corpus(n_artists=7)
    one = predictions[predictions["system"] == "one"]
    clusters = intervals.artist_clusters(clips)
    counts = intervals.confusion_counts(one, clusters, GENRES)
    assert counts.sum() == len(one)
    drawn = intervals.draw(7, 200, seed=3)
    accuracy, f = intervals.scores(intervals.resample(counts, drawn), average)
    names = sorted(clips["artist"].unique())
    absent = 0
    for row, ours, our_f in zip(drawn, accuracy, f, strict=True):
        times = one["clip_id"].map(clusters).map(dict(zip(names, row.astype(int), strict=True)))
        clip = one.loc[one.index.repeat(times)]
        assert ours == pytest.approx(accuracy_score(clip["y_true"], clip["y_pred"]))
        theirs = f1_score(clip["y_true"], clip["y_pred"], average=average, zero_division=0)
        assert our_f == pytest.approx(theirs)
        absent += clip["y_true"].nunique() < 3
    assert absent  # resamples that lack a genre are among them


def test_draws_are_those_of_n_clusters_with_replacement():
    drawn = intervals.draw(4, 20_000, seed=1)
    assert (drawn.sum(axis=1) == 4).all()
    assert (drawn[:, 0] == 2).mean() == pytest.approx(
        sum(
            multinomial.pmf([2, a, b, 2 - a - b], 4, [0.25] * 4)
            for a in range(3)
            for b in range(3 - a)
        ),
        abs=0.01,
    )
    assert np.array_equal(drawn, intervals.draw(4, 20_000, seed=1))
    assert not np.array_equal(drawn, intervals.draw(4, 20_000, seed=2))


def test_the_interval_against_scipys_bootstrap():
    clips, predictions = _corpus()
    found = intervals.cluster_intervals(predictions, clips).set_index("system").loc["one"]
    one = predictions[predictions["system"] == "one"].merge(clips, on="clip_id")
    by_artist = (one["y_true"] == one["y_pred"]).groupby(one["artist"]).mean()
    theirs = bootstrap(
        (by_artist.to_numpy(),), np.mean, n_resamples=9999, method="percentile", rng=0
    ).confidence_interval  # artists have equally many clips: the mean of means is the accuracy
    assert found["accuracy_lo"] == pytest.approx(theirs.low, abs=0.01)
    assert found["accuracy_hi"] == pytest.approx(theirs.high, abs=0.01)
    assert found["f_score_lo"] < found["f_score_hi"]
    assert found["n_artists"] == 40


def _coverage(n_artists, trials=400):
    """How often intervals hold the truth: artists of 1 to 12 clips, recognised or not as a whole.

    Sizes and ease are drawn independently, so the population's accuracy is the mean ease, 0.5.
    """
    rng = np.random.default_rng(0)
    by_artist = by_clip = 0
    for trial in range(trials):
        size = rng.integers(1, 13, n_artists)
        hits = rng.binomial(size, rng.beta(0.7, 0.7, n_artists))
        counts = np.zeros((n_artists, 2, 2))
        counts[:, 0, 0], counts[:, 0, 1] = hits, size - hits
        drawn = intervals.draw(n_artists, 1000, seed=trial)
        low, high = intervals.percentile(intervals.scores(intervals.resample(counts, drawn))[0])
        by_artist += low <= 0.5 <= high
        low, high = wilson_interval(int(hits.sum()), int(size.sum()))
        by_clip += low <= 0.5 <= high
    return by_artist / trials, by_clip / trials


def test_coverage_by_simulation():
    by_artist, by_clip = _coverage(n_artists=60)
    assert 0.92 <= by_artist <= 0.98
    assert by_clip < 0.75  # an interval that takes clips as independent is far too narrow


def test_with_few_artists_the_interval_is_somewhat_narrow():
    by_artist, _ = _coverage(n_artists=12)
    assert 0.85 <= by_artist <= 0.97


def _f_coverage(trials=300, n_genres=9, per_genre=5):
    """The same of the macro F-score: each artist has a taste of wrong answers of its own."""

    def world(rng, artists):
        counts = np.zeros((n_genres * artists, n_genres, n_genres))
        for i, size in enumerate(rng.integers(1, 12, len(counts))):
            genre = i % n_genres
            right = rng.binomial(size, rng.beta(0.8, 1.2))
            taste = rng.dirichlet(np.full(n_genres - 1, 0.3))
            counts[i, genre] = np.insert(rng.multinomial(size - right, taste), genre, right)
        return counts

    truth = float(intervals.scores(world(np.random.default_rng(99), 3000).sum(axis=0))[1])
    corrected = plain = 0
    for trial in range(trials):
        counts = world(np.random.default_rng(trial), per_genre)
        drawn = intervals.draw(len(counts), 600, seed=trial)
        values = intervals.scores(intervals.resample(counts, drawn))[1]
        found = float(intervals.scores(counts.sum(axis=0))[1])
        low, high = intervals.percentile(values, estimate=found)
        corrected += low <= truth <= high
        low, high = intervals.percentile(values)
        plain += low <= truth <= high
    return corrected / trials, plain / trials


def test_with_five_artists_a_genre_the_f_score_needs_its_bias_corrected():
    corrected, plain = _f_coverage()
    assert corrected > plain + 0.02
    assert 0.86 <= corrected < 0.95  # better, not yet good: as the docstring says


def test_bias_correction_by_hand():
    values = np.linspace(0, 1, 10_001)
    assert intervals.percentile(values) == pytest.approx((0.025, 0.975), abs=1e-3)
    assert intervals.percentile(values, estimate=0.5) == pytest.approx((0.025, 0.975), abs=1e-3)
    # 69.15 % of values under the estimate: z0 = 0.5, tails at z = 2 * 0.5 -+ 1.96.
    expected = (norm.cdf(1 - 1.959964), norm.cdf(1 + 1.959964))
    assert intervals.percentile(values, estimate=0.69146) == pytest.approx(expected, abs=1e-3)
    assert intervals.percentile(np.ones(9), estimate=1.0) == (1, 1)
    low, high = intervals.percentile(values, estimate=2.0)  # beyond all of them
    assert 0 <= low <= high <= 1


def test_no_difference_is_seldom_called_one_and_the_clip_test_calls_it_often():
    """Two systems equally good over all artists, each good at other artists."""
    by_artist, by_clip = [], []
    for seed in range(120):
        clips, predictions = _corpus(n_artists=30, n_clips=8, seed=seed)
        row = intervals.compare(predictions, clips, n_resamples=500).iloc[0]
        by_artist.append(row["p_artist"] < 0.05)
        only = int(row["only_first"]), int(row["only_second"])
        by_clip.append(binomtest(only[0], sum(only)).pvalue < 0.05)  # McNemar's test
    assert np.mean(by_artist) <= 0.12
    assert np.mean(by_clip) >= 2 * np.mean(by_artist)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04 -> kept from falling: .06
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert len(intervals.holm([])) == 0


def test_holm_rejects_what_its_definition_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.beta(0.3, 4, rng.integers(1, 9))
        rejected = np.zeros(len(p), dtype=bool)
        for step, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (len(p) - step):
                break
            rejected[i] = True
        assert (intervals.holm(p) <= 0.05).tolist() == rejected.tolist()


def test_the_p_of_resampled_differences():
    assert intervals.bootstrap_p(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert intervals.bootstrap_p(np.zeros(999)) == 1.0
    assert intervals.bootstrap_p(np.r_[np.full(50, -1.0), np.full(949, 1.0)]) == pytest.approx(
        0.102
    )


def test_comparison_by_hand():
    clips, predictions = _corpus()
    row = intervals.compare(predictions, clips).iloc[0]
    right = {
        name: (part["y_true"] == part["y_pred"]).to_numpy()
        for name, part in predictions.groupby("system")
    }
    assert (row["first"], row["second"], row["protocol"]) == ("one", "two", "artist")
    assert row["difference"] == pytest.approx(right["one"].mean() - right["two"].mean())
    assert row["only_first"] == (right["one"] & ~right["two"]).sum() > 0
    assert row["only_second"] == (right["two"] & ~right["one"]).sum() > 0
    assert row["lo"] < row["difference"] < row["hi"]
    assert not any("mcnemar" in name for name in row.index)  # its p would be too small
    assert row["p_artist_holm"] == row["p_artist"]  # one comparison


def test_a_system_against_itself_and_a_far_better_one():
    clips, predictions = _corpus()
    copy = predictions[predictions["system"] == "one"].assign(system="copy")
    perfect = copy.assign(system="perfect", y_pred=copy["y_true"])
    table = intervals.compare(pd.concat([predictions, copy, perfect]), clips)
    table = table.set_index(["first", "second"])
    same = table.loc[("one", "copy")]
    assert same[["difference", "lo", "hi"]].tolist() == [0, 0, 0]
    assert same["p_artist"] == 1
    better = table.loc[("one", "perfect")]
    assert better["hi"] < 0
    assert better["p_artist_holm"] == pytest.approx(better["p_artist"] * 6)
    assert better["p_artist_holm"] < 0.05


def test_pairing_makes_the_interval_of_a_difference_narrower():
    clips, predictions = _corpus()
    one = predictions[predictions["system"] == "one"]
    twin = one.assign(system="twin", y_pred=one["y_pred"].where(one.index % 10 > 0, one["y_true"]))
    row = intervals.compare(pd.concat([one, twin]), clips).iloc[0]
    alone = intervals.cluster_intervals(one, clips).iloc[0]
    assert row["hi"] - row["lo"] < 0.5 * (alone["accuracy_hi"] - alone["accuracy_lo"])


def test_clips_of_unknown_artists_count_each_for_itself():
    clips, predictions = _corpus()
    nameless = clips.assign(artist="", album="", track="")
    found = intervals.cluster_intervals(predictions, nameless)
    assert (found["n_artists"] == 0).all()  # none is known
    alone = intervals.cluster_intervals(predictions, clips.assign(artist=clips["clip_id"]))
    assert found.filter(like="accuracy").equals(alone.filter(like="accuracy"))


def test_what_does_not_fit_is_refused():
    clips, predictions = _corpus()
    with pytest.raises(GenreUtilsError, match="not in the clip table"):
        intervals.cluster_intervals(predictions, clips[1:])
    with pytest.raises(GenreUtilsError, match="one and two were not tested on the same clips"):
        intervals.compare(predictions[:-1], clips)
    with pytest.raises(UsageError, match="unknown f_average 'micro'"):
        intervals.cluster_intervals(predictions, clips, f_average="micro")
