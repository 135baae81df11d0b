"""Systems that are trained on some of their artists, and the line through their accuracies."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_utils.data import splits
from genre_utils.metrics import intervals
from genre_utils.metrics import tables as curves
from genre_utils.models import systems
from genre_utils.models.estimators import RbfSVM
from genre_utils.runtime import UsageError
from genre_utils.store import Store

GENRES = ["A", "B"]


def _clips(n_artists=16, n_clips=2):
    artist = np.repeat(np.arange(n_artists), n_clips)
    n = len(artist)
    return pd.DataFrame(
        {
            "clip_id": [f"c{i:03d}" for i in range(n)],
            "genre": [GENRES[a % 2] for a in artist],
            "artist": [f"a{a}" for a in artist],
            "album": "",
            "start_s": np.arange(n) % n_clips,
            "track": [f"t{i}" for i in range(n)],
            "status": "ok",
            "sha256": [f"{i:064x}" for i in range(n)],
        }
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shares_of_the_training_artists(data):
    n = data.draw(st.integers(4, 30))
    clips = _clips(n, data.draw(st.integers(1, 3)))
    clips["genre"] = data.draw(st.lists(st.sampled_from("AB"), min_size=n, max_size=n)) * (
        len(clips) // n
    )
    train = np.array(data.draw(st.lists(st.booleans(), min_size=len(clips), max_size=len(clips))))
    seed = data.draw(st.integers(0, 9))
    of_clip = clips["artist"].to_numpy(), clips["genre"].to_numpy(), train
    small, large = (curves.some_artists(*of_clip, size, seed) for size in (0.3, 0.7))
    assert not (small & ~large).any() and not (large & ~train).any()
    assert (curves.some_artists(*of_clip, 1.0, seed) == train).all()
    artists = of_clip[0]
    for kept, size in ((small, 0.3), (large, 0.7)):
        assert (kept == (train & np.isin(artists, artists[kept]))).all()  # whole artists
        first = clips[train].drop_duplicates("artist")
        for _, part in first.groupby("genre"):
            chosen = part["artist"].isin(artists[kept]).sum()
            assert chosen == min(len(part), max(2, round(size * len(part))))


def test_which_artists_is_a_matter_of_the_seed():
    clips = _clips()
    of_clip = clips["artist"].to_numpy(), clips["genre"].to_numpy(), np.ones(len(clips), bool)
    drawn = [curves.some_artists(*of_clip, 0.5, seed) for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


@pytest.fixture
def stored(tmp_path):
    """Clips, their artist folds, and vectors that tell the genres apart."""
    clips = _clips()
    folds = splits.make_splits(clips, ["artist"], n_folds=4, seed=0)
    rows = np.random.default_rng(0).normal(size=(len(clips), 5))
    rows[:, 0] += 4 * (clips["genre"] == "A")
    store = Store(tmp_path, "handcrafted", {})
    store.put(list(clips["sha256"]), rows)
    return clips, folds, store


def _answers(stored, tmp_path, **how):
    clips, folds, store = stored
    return curves.with_fewer_artists(
        "handcrafted-svm",
        {"handcrafted": store}.__getitem__,
        clips,
        folds,
        settings={"inner_folds": 2, "inner_seed": 0},
        root=tmp_path / "folds",
        **how,
    )


def test_all_clips_are_tested_and_fewer_artists_trained_on(stored, tmp_path, monkeypatch):
    trained, fit = [], RbfSVM.fit

    def spy(self, X, y, groups=None):
        trained.append(set(groups))
        return fit(self, X, y, groups)

    monkeypatch.setattr(RbfSVM, "fit", spy)
    clips, folds, _ = stored
    table = _answers(stored, tmp_path, train_sizes=(0.5, 1.0), draws=2)
    of_fold = folds.merge(clips, on="clip_id").groupby("fold")["artist"].agg(set)
    known = set(clips["artist"])
    parts = list(table.groupby(["draw", "train_size", "fold"], sort=False))
    for (_, part), artists in zip(parts, trained, strict=True):
        tested = of_fold[part["fold"].iloc[0]]
        assert not artists & tested
        assert set(part["n_artists"]) == {len(artists)}
        assert part["train_size"].iloc[0] == 0.5 or artists == known - tested
        assert part["train_size"].iloc[0] == 1.0 or len(artists) <= len(known - tested) / 2 + 1
    for _, part in table.groupby(["draw", "train_size"]):
        assert sorted(part["clip_id"]) == sorted(clips["clip_id"])
    assert len(trained) == 4 * 4


def test_the_whole_training_part_is_that_of_cross_validation(stored, tmp_path):
    clips, folds, store = stored
    table = _answers(stored, tmp_path, train_sizes=(1.0,))
    expected, _ = systems.cross_validate(
        "handcrafted-svm",
        store.load(list(clips["sha256"])),
        clips,
        folds,
        arrays_key=store.folder.name,
        settings={"inner_folds": 2, "inner_seed": 0},
        root=tmp_path / "other",
    )
    columns = list(expected)
    one, two = (each.sort_values("clip_id", ignore_index=True) for each in (table, expected))
    pd.testing.assert_frame_equal(one[columns], two[columns])


@pytest.mark.parametrize("how", [{"draws": 0, "train_sizes": (0.5,)}, {"train_sizes": ()}])
def test_nothing_to_train_is_a_mistake(stored, tmp_path, how):
    with pytest.raises(UsageError, match="at least one of each"):
        _answers(stored, tmp_path, **how)


def _known_curve(clips, right, draws=1):
    """Predictions of which exactly the given number is right, by (train_size, n_artists)."""
    tables = []
    for (train_size, n_artists), number in right.items():
        for draw in range(draws):
            table = pd.DataFrame(
                {
                    "system": "cnn-mel",
                    "protocol": "artist",
                    "clip_id": clips["clip_id"],
                    "y_true": clips["genre"],
                    "train_size": train_size,
                    "draw": draw,
                    "n_artists": n_artists,
                }
            )
            other = clips["genre"].map({"A": "B", "B": "A"})
            shift = draw * (1 if train_size < 1 else 0)  # a draw has one right answer more
            wrong = np.arange(len(clips)) >= number + shift
            table["y_pred"] = clips["genre"].mask(wrong, other)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_a_straight_line_over_doublings_is_found_and_goes_on():
    clips = _clips(20, 1)
    right = {(0.25, 4): 10, (0.5, 8): 12, (1.0, 16): 14}
    curve = curves.learning_curve(_known_curve(clips, right), clips, n_resamples=500)
    assert list(curve["accuracy"]) == pytest.approx([0.5, 0.6, 0.7])
    assert list(curve["n_artists"]) == [4, 8, 16]
    assert set(curve["gain"]) == {0.1} and set(curve["twice"]) == {0.8}
    for name in ("accuracy", "gain", "twice"):
        assert (curve[f"{name}_lo"] < curve[name]).all()
        assert (curve[name] < curve[f"{name}_hi"]).all()


def test_leads_are_over_the_first_system_on_the_same_songs():
    clips = _clips(20, 1)
    one = _known_curve(clips, {(0.5, 8): 10, (1.0, 16): 12})
    two = _known_curve(clips, {(0.5, 8): 14, (1.0, 16): 12}).assign(system="mine")
    how = {"n_resamples": 400, "seed": 3}
    curve = curves.learning_curve(pd.concat([one, two]), clips, **how).set_index("system")
    assert (curve.loc["cnn-mel", ["lead", "lead_lo", "lead_hi"]] == 0).all(axis=None)
    lead = curve.loc["mine"].iloc[0]
    pair = pd.concat([one, two])
    pair = pair[pair["train_size"] == 0.5]
    expected = intervals.compare(pair, clips, [("mine", "cnn-mel")], **how).iloc[0]
    assert list(lead[["lead", "lead_lo", "lead_hi"]]) == pytest.approx(
        list(expected[["difference", "lo", "hi"]]), abs=1e-6
    )
    assert list(curve.loc["mine"].iloc[1][["lead", "lead_lo", "lead_hi"]]) == [0, 0, 0]


def test_every_draw_has_seeds_of_its_own(stored, tmp_path, monkeypatch):
    seeds, fit = [], RbfSVM.fit

    def spy(self, X, y, groups=None):
        seeds.append(self.inner_seed)
        return fit(self, X, y, groups)

    monkeypatch.setattr(RbfSVM, "fit", spy)
    _answers(stored, tmp_path, train_sizes=(1.0,), draws=2)
    assert seeds == [0] * 4 + [100] * 4


def test_draws_are_averaged_and_equal_sizes_have_no_slope():
    clips = _clips(20, 1)
    right = {(0.5, 8): 12, (1.0, 16): 14}
    curve = curves.learning_curve(_known_curve(clips, right, draws=3), clips, n_resamples=200)
    assert list(curve["accuracy"]) == pytest.approx([0.65, 0.7])
    assert list(curve["lowest"]) == pytest.approx([0.6, 0.7])
    assert list(curve["highest"]) == pytest.approx([0.7, 0.7])
    assert curve["gain"].iloc[0] == pytest.approx(0.05)
    same = curves.learning_curve(
        _known_curve(clips, {(0.5, 8): 12, (1.0, 8): 12}), clips, n_resamples=50
    )
    assert same[["gain", "gain_lo", "twice"]].isna().all(axis=None)


def test_songs_vote():
    clips = _clips(8, 2).assign(track=lambda t: t["artist"])
    table = _known_curve(clips, {(0.5, 2): 9, (1.0, 4): 16})
    for genre in GENRES:
        table[f"p_{genre}"] = np.where(table["y_pred"] == genre, 0.9, 0.1)
    wrong = (table["train_size"] == 1) & (table["clip_id"] == "c000")
    table.loc[wrong, ["p_A", "p_B"]] = [0.45, 0.55]  # the song's other clip is surer
    curve = curves.learning_curve(table, clips, n_resamples=50)
    assert curve["accuracy"].iloc[-1] == 1.0
