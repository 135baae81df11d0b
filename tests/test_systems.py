"""Cross-validation of the systems: contract, keys of finished folds, groups, fewer artists."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin

from genre_utils import paper
from genre_utils.data import splits
from genre_utils.metrics import evaluate, tables
from genre_utils.models import cnn, estimators, systems
from genre_utils.models.estimators import Search
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Store

GENRES = ["Jazz", "New Age", "World"]


@pytest.fixture
def small(tmp_path):
    """60 clips of three genres, twelve artists; stored maps that tell the genre apart."""
    rng = np.random.default_rng(0)
    genre = np.repeat(GENRES, 20)
    clips = pd.DataFrame({"clip_id": [f"c{i:02d}" for i in range(60)], "genre": genre})
    clips["artist"] = [f"{g}{i % 4}" for i, g in enumerate(genre)]
    clips["album"] = clips["track"] = clips["clip_id"]
    clips["status"] = "ok"
    clips["sha256"] = [f"{i:064x}" for i in range(60)]
    maps = rng.normal(size=(60, 1, 2, 512)).clip(0)
    maps[:, 0, 0, :90] += 3 * (genre[:, None] == np.repeat(GENRES, 30))
    folds = splits.make_splits(clips, ["random", "artist"], n_folds=4, seed=0)
    return clips, _stores(tmp_path, clips, {"vgg-mfcc": maps.astype(np.float16)}), folds


def _stores(root, clips, arrays, key="1"):
    stores = {name: Store.make(root / "arrays", name, {"key": key}) for name in arrays}
    for name, array in arrays.items():
        stores[name].put(list(clips["sha256"]), array)
    return stores.__getitem__


def _run(small, tmp_path, name="cnn-mfcc", folds=None, **settings):
    clips, arrays, table = small
    settings = {"epochs": 6, "pooling": "flatten", "seed": 0} | settings
    return systems.cross_validate(
        name, arrays, clips, table, settings=settings, root=tmp_path / "folds", folds=folds
    )


@pytest.fixture
def fitted(monkeypatch):
    """Rows that the CNN is trained on, a list for each fold."""
    seen, fit = [], cnn.HeadClassifier.fit
    monkeypatch.setattr(
        cnn.HeadClassifier, "fit", lambda self, X, y: seen.append(X.copy()) or fit(self, X, y)
    )
    return seen


def test_the_contract_of_predictions(small, tmp_path):
    predictions, history = _run(small, tmp_path)
    columns = ["system", "protocol", "fold", "clip_id", "y_true", "y_pred"]
    assert list(predictions) == [*columns, *(f"p_{g}" for g in GENRES)]
    for protocol, part in predictions.groupby("protocol"):
        assert sorted(part["clip_id"]) == sorted(small[0]["clip_id"]), protocol
        stored = small[2][small[2]["protocol"] == protocol].set_index("clip_id")["fold"]
        assert (part.set_index("clip_id")["fold"] == stored.loc[part["clip_id"]]).all()
    proba = predictions[[f"p_{g}" for g in GENRES]]
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (proba.idxmax(axis=1).str[2:] == predictions["y_pred"]).all()
    assert (predictions["y_true"] == predictions["y_pred"]).mean() > 0.8
    assert len(history) == 2 * 4 * 6
    assert list(history) == ["system", "protocol", "fold", "epoch", "loss", "accuracy"]


def test_finished_folds_are_reused_and_changes_recomputed(small, tmp_path, fitted):
    clips, arrays, table = small
    first, _ = _run(small, tmp_path)
    fitted.clear()
    again, _ = _run(small, tmp_path)
    assert fitted == []
    pd.testing.assert_frame_equal(again, first)
    maps = arrays("vgg-mfcc").load(list(clips["sha256"]))
    other = clips, _stores(tmp_path, clips, {"vgg-mfcc": maps}, key="2"), table
    renamed = clips, arrays, table.assign(group=table["group"].mask(table.index % 60 < 2, "same"))
    for changed, how in ((small, {"epochs": 2}), (small, {"seed": 7}), (other, {})):
        fitted.clear()
        _run(changed, tmp_path, **how)
        assert len(fitted) == 8
    fitted.clear()
    _run(renamed, tmp_path)
    assert len(fitted) >= 4  # other groups, other inner folds


def test_a_damaged_fold_is_made_anew(small, tmp_path, fitted):
    first, _ = _run(small, tmp_path)
    paths = sorted((tmp_path / "folds").glob("*.npz"))
    whole = paths[0].read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-10]):
        paths[0].write_bytes(damaged)
        fitted.clear()
        again, _ = _run(small, tmp_path)
        assert len(fitted) == 1
        pd.testing.assert_frame_equal(again, first)


def test_a_changed_recipe_or_code_changes_the_key(small, tmp_path, fitted, monkeypatch):
    """The recipe stands in `systems`, which no list of module names covered."""
    _run(small, tmp_path)
    recipe = systems.System(("vgg-mfcc",), lambda **how: systems._cnn("vgg-mfcc", **how, l2=0.1))
    with monkeypatch.context() as patch:
        patch.setitem(systems.SYSTEMS, "cnn-mfcc", recipe)
        fitted.clear()
        _run(small, tmp_path)
        assert len(fitted) == 8
    seen = []
    monkeypatch.setattr(systems, "code_digest", lambda *parts: seen.append(parts) or "edited")
    fitted.clear()
    _run(small, tmp_path)
    assert len(fitted) == 8
    assert {part.__name__ for part in seen[0]} == {"pick", "HeadClassifier"}


def test_the_code_of_all_candidates_counts():
    names = {part.__name__ for part in systems._code(systems.SYSTEMS["chosen"].make())}
    classes = {"Chosen", "Search", "InnerFolds", "GaussianSVM", "FirstComponents"}
    assert names == classes | {"pick", "weigh"}


def test_no_test_clip_reaches_fit(small, tmp_path, fitted):
    clips, arrays, folds = small
    _run(small, tmp_path, epochs=1)
    maps = arrays("vgg-mfcc").load(list(clips["sha256"]))
    of_row = {row.tobytes(): clip for row, clip in zip(maps, clips["clip_id"], strict=True)}
    runs = [(p, f) for p in ("random", "artist") for f in range(4)]
    for (protocol, fold), X in zip(runs, fitted, strict=True):
        part = folds[(folds["protocol"] == protocol) & (folds["fold"] == fold)]
        trained = {of_row[row.tobytes()] for row in X}
        assert trained == set(clips["clip_id"]) - set(part["clip_id"])


def test_some_folds_are_tested_as_in_the_whole(small, tmp_path, fitted):
    whole, _ = _run(small, tmp_path / "whole")
    fitted.clear()
    found, history = _run(small, tmp_path / "some", folds=(1, 3))
    assert len(fitted) == 4
    expected = whole[whole["fold"].isin([1, 3])]
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))
    assert set(history["fold"]) == {1, 3}
    fitted.clear()
    _run(small, tmp_path / "whole", folds=[1])
    assert fitted == []  # the very same folds


def test_the_svm_goes_the_same_way(small, tmp_path):
    clips, _, folds = small
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(60, 14, 123)).astype(np.float32)
    frames[:, 1] += 3 * clips["genre"].factorize()[0][:, None]
    frames[:, 13] = -20
    predictions, history = systems.cross_validate(
        "svm-mfcc",
        _stores(tmp_path, clips, {"svm": frames}),
        clips,
        folds,
        root=tmp_path,
        settings={"volume_threshold": -40.0, "coding": "onevsone"},
    )
    assert list(predictions)[:6] == ["system", "protocol", "fold", "clip_id", "y_true", "y_pred"]
    assert not any(c.startswith("p_") for c in predictions)
    assert (predictions["y_true"] == predictions["y_pred"]).mean() > 0.9
    assert history.empty


class Nearest(ClassifierMixin, BaseEstimator):
    """The genre of the nearest row of field "a"; field "b" holds each clip's number."""

    seen: list = []  # noqa: RUF012 (what all fits were given)

    def fit(self, X, y):
        self.seen.append((X["b"].copy(), y, X["group"].copy()))
        self.classes_, self.rows_, self.answers_ = np.unique(y), X["a"], y
        self.choice_ = {"rows": len(X)}
        return self

    def predict(self, X):
        distance = ((X["a"][:, None] - self.rows_[None]) ** 2).sum(axis=(2, 3))
        return self.answers_[distance.argmin(axis=1)]


def test_arrays_and_groups_reach_the_estimator(small, monkeypatch, tmp_path):
    monkeypatch.setitem(systems.SYSTEMS, "nearest", systems.System(("a", "b"), Nearest))
    clips, arrays, folds = small
    maps = arrays("vgg-mfcc").load(list(clips["sha256"]))
    stored = _stores(tmp_path, clips, {"a": maps[:, 0], "b": np.arange(60)})
    Nearest.seen.clear()
    found, chosen = systems.cross_validate(
        "nearest", stored, clips, folds, settings={}, root=tmp_path
    )
    assert (found["y_true"] == found["y_pred"]).mean() > 0.8
    assert list(chosen) == ["system", "protocol", "fold", "rows"]
    runs = [(p, f) for p in ("random", "artist") for f in range(4)]
    for i, (protocol, fold) in enumerate(runs):
        number, y, groups = Nearest.seen[i]
        part = folds[(folds["protocol"] == protocol) & (folds["fold"] == fold)]
        trained = clips[~clips["clip_id"].isin(part["clip_id"])]
        assert number.tolist() == trained.index.tolist()
        assert y.tolist() == trained["genre"].tolist()
        assert len(set(groups)) == (len(y) if protocol == "random" else trained["artist"].nunique())
        assert pd.Series(trained["artist"].to_numpy()).groupby(groups).nunique().max() == 1
        assert chosen["rows"][i] == len(y)
    with pytest.raises(GenreUtilsError, match="1 of 60 clips have no fold under the protocol"):
        systems.cross_validate("nearest", stored, clips, folds[1:], settings={}, root=tmp_path)


def test_duplicates_stay_together_in_inner_folds(small, tmp_path, monkeypatch):
    """Under `random` too: two clips that are one recording choose no parameters for each other."""
    clips, arrays, _ = small
    ids = clips["clip_id"].to_numpy()
    pairs = pd.DataFrame({"clip_id": ids[::2], "other_id": ids[1::2]})
    folds = splits.make_splits(clips, ["random"], n_folds=4, duplicates=pairs)
    kept, split = [], estimators.InnerFolds.split

    def spy(self, X, y, groups=None):
        kept.extend((X["group"], train, test) for train, test in split(self, X, y))
        return split(self, X, y)

    monkeypatch.setattr(estimators.InnerFolds, "split", spy)
    made = systems.System(("vgg-mfcc",), lambda: systems._calibrated("vgg-mfcc", epochs=1))
    monkeypatch.setitem(systems.SYSTEMS, "calibrated", made)
    systems.cross_validate("calibrated", arrays, clips, folds, settings={}, root=tmp_path)
    assert kept
    for group, train, test in kept:
        assert pd.Series(group).value_counts().max() == 2
        assert not set(group[train]) & set(group[test])


def _rings(n_artists=8, n_clips=4, seed=0):
    """Six rings in the means of twelve MFCC: no straight line parts them; the last is too loud."""
    rng = np.random.default_rng(seed)
    rows, frames = [], []
    for radius, genre in ((1, "A"), (3, "B"), (5, "C")):
        for artist in range(n_artists):
            for track in range(n_clips):
                rows.append((genre, f"{genre}{artist}", "al", f"t{track}"))
                angle = rng.uniform(0, 2 * np.pi, 6)
                clip = rng.normal(scale=0.1, size=(14, 20))
                clip[:12] += radius * np.concatenate([np.cos(angle), np.sin(angle)])[:, None]
                clip[12] *= 1000
                clip[13] = -10
                frames.append(clip)
    clips = pd.DataFrame(rows, columns=["genre", "artist", "album", "track"])
    clips.insert(0, "clip_id", [f"{i:04d}" for i in range(len(clips))])
    return np.array(frames, np.float32), clips.assign(status="ok", sha256=clips["clip_id"])


def _fair(frames, clips, table, root, **how):
    stored = _stores(root, clips, {"svm-long": frames})
    return systems.cross_validate(
        "svm-fair", stored, clips, table, settings={"inner_folds": 3}, root=root, **how
    )


@pytest.fixture(scope="module")
def fair(tmp_path_factory):
    frames, clips = _rings()
    table = splits.make_splits(clips, ["random", "artist"], n_folds=4)
    return frames, clips, table, _fair(frames, clips, table, tmp_path_factory.mktemp("folds"))


def test_the_fair_svm_tells_rings_apart_and_says_what_it_chose(fair):
    _, _, table, (predictions, chosen) = fair
    evaluate.check_predictions(predictions, table, ["svm-fair"])
    assert (evaluate.score_table(predictions)["accuracy"] > 0.5).all()
    assert list(chosen) == ["system", "protocol", "fold", "C", "gamma", "inner_accuracy"]
    assert len(chosen) == 8
    assert set(chosen["gamma"]) <= set(systems.FAIR_GAMMA)
    proba = predictions[["p_A", "p_B", "p_C"]]
    assert np.allclose(proba.sum(axis=1), 1)
    assert (proba.idxmax(axis=1).str[2:] == predictions["y_pred"]).mean() > 0.95
    right = predictions["y_pred"] == predictions["y_true"]
    assert abs(proba.max(axis=1).mean() - right.mean()) < 0.12


def test_same_again_in_any_number_of_processes(fair, tmp_path):
    frames, clips, table, (predictions, chosen) = fair
    again, chosen_again = _fair(frames, clips, table, tmp_path, jobs=2)
    pd.testing.assert_frame_equal(predictions, again, check_exact=True)
    assert chosen.equals(chosen_again)


def test_test_clips_take_no_part_in_any_choice(fair, tmp_path):
    """Spoiling the labels of one fold changes no answer on that fold."""
    frames, clips, table, (predictions, _) = fair
    artist = table[table["protocol"] == "artist"]
    spoilt = clips["clip_id"].isin(artist.loc[artist["fold"] == 1, "clip_id"])
    other = clips.assign(genre=clips["genre"].mask(spoilt, "A"))
    again, _ = _fair(frames, other, artist, tmp_path, folds=[1])
    known = predictions[(predictions["protocol"] == "artist") & (predictions["fold"] == 1)]
    columns = ["y_pred", "p_A", "p_B", "p_C"]
    assert again[columns].equals(known[columns].reset_index(drop=True))


def test_too_few_groups_are_refused(tmp_path):
    frames, clips = _rings(n_artists=2)
    few = clips[clips["genre"] != "C"]
    table = splits.make_splits(few, ["artist"], n_folds=2)
    with pytest.raises(UsageError, match="fewer than 3 groups"):
        _fair(frames[: len(few)], few, table, tmp_path)


def _pairs(n_artists=16, n_clips=2):
    artist = np.repeat(np.arange(n_artists), n_clips)
    n = len(artist)
    return pd.DataFrame(
        {
            "clip_id": [f"c{i:03d}" for i in range(n)],
            "genre": ["AB"[a % 2] for a in artist],
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
    clips = _pairs(n, data.draw(st.integers(1, 3)))
    clips["genre"] = data.draw(st.lists(st.sampled_from("AB"), min_size=n, max_size=n)) * (
        len(clips) // n
    )
    train = np.array(data.draw(st.lists(st.booleans(), min_size=len(clips), max_size=len(clips))))
    seed = data.draw(st.integers(0, 9))
    of_clip = clips["artist"].to_numpy(), clips["genre"].to_numpy(), train
    small, large = (systems.some_artists(*of_clip, size, seed) for size in (0.3, 0.7))
    assert not (small & ~large).any() and not (large & ~train).any()
    assert (systems.some_artists(*of_clip, 1.0, seed) == train).all()
    artists = of_clip[0]
    for kept, size in ((small, 0.3), (large, 0.7)):
        assert (kept == (train & np.isin(artists, artists[kept]))).all()  # whole artists
        first = clips[train].drop_duplicates("artist")
        for _, part in first.groupby("genre"):
            chosen = part["artist"].isin(artists[kept]).sum()
            assert chosen == min(len(part), max(2, round(size * len(part))))


def test_which_artists_is_a_matter_of_the_seed():
    clips = _pairs()
    of_clip = clips["artist"].to_numpy(), clips["genre"].to_numpy(), np.ones(len(clips), bool)
    drawn = [systems.some_artists(*of_clip, 0.5, seed) for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


@pytest.fixture
def stored(tmp_path):
    """Clips, their artist folds, and vectors that tell the genres apart."""
    clips = _pairs()
    folds = splits.make_splits(clips, ["artist"], n_folds=4, seed=0)
    rows = np.random.default_rng(0).normal(size=(len(clips), 5))
    rows[:, 0] += 4 * (clips["genre"] == "A")
    return clips, folds, _stores(tmp_path, clips, {"handcrafted": rows})


def _answers(stored, tmp_path, **how):
    clips, folds, arrays = stored
    inner = {"inner_folds": 2, "inner_seed": 0}
    how |= {"settings": inner, "root": tmp_path / "folds"}
    return systems.with_fewer_artists("handcrafted-svm", arrays, clips, folds, **how)


@pytest.fixture
def searches(monkeypatch):
    """Groups and inner folds of every search."""
    seen, fit = [], Search.fit

    def spy(self, X, y):
        seen.append((set(y), len(set(X["group"])), self.cv.seed))
        return fit(self, X, y)

    monkeypatch.setattr(Search, "fit", spy)
    return seen


@pytest.mark.parametrize("artists", [True, False])
def test_a_published_test_part_is_tested_and_nothing_else(stored, tmp_path, artists):
    clips, _, arrays = stored
    part = np.where(np.arange(len(clips)) % 5 == 0, "test", "train")
    part[1::10] = ""
    clips = clips.assign(part=part, start_s=np.nan, artist=clips["artist"] if artists else "")
    folds = splits.make_splits(clips, ["random", "published"], n_folds=3)
    how = {"settings": {"inner_folds": 2, "inner_seed": 0}, "root": tmp_path / "folds"}
    tested = systems.cross_validate("handcrafted-svm", arrays, clips, folds, **how)[0]
    published = tested[tested["protocol"] == "published"]
    assert set(published["fold"]) == {0}
    assert list(published["clip_id"]) == sorted(clips.loc[part == "test", "clip_id"])
    assert sorted(tested.loc[tested["protocol"] == "random", "clip_id"]) == sorted(clips["clip_id"])
    assert len(list((tmp_path / "folds").glob("*.npz"))) == 4
    four = [tested.assign(system=name) for name in paper.TABLE1]
    every = pd.concat([*four, tested, evaluate.reference_points(clips, folds)], ignore_index=True)
    evaluate.check_predictions(every, folds, list(every["system"].unique()))
    with pytest.raises(GenreUtilsError, match="do not fit"):
        evaluate.check_predictions(every[every["protocol"] == "random"], folds, ["cnn-mel"])
    table = tables.table1(every, clips, n_resamples=20)
    sizes = table.groupby("protocol")["n_clips"].agg(set).to_dict()
    assert sizes == {"random": {len(clips)}, "published": {(part == "test").sum()}}
    said = f"The published split tests {(part == 'test').sum()} of them."
    assert said in tables.markdown(table, "made up")
    beyond = tables.beyond_table(every, clips, n_resamples=20)
    assert "both protocols" in tables.beyond_markdown(beyond, "made up", {})


def test_the_rest_does_not_train_for_a_published_test_part(stored, tmp_path, searches):
    clips, _, arrays = stored
    clips = clips.assign(part=["test", "train", "train", ""] * (len(clips) // 4))
    folds = splits.make_splits(clips, ["published"])
    how = {"settings": {"inner_folds": 2, "inner_seed": 0}, "root": tmp_path / "folds"}
    first = systems.cross_validate("handcrafted-svm", arrays, clips, folds, **how)[0]
    rest = clips[clips["part"] != ""]
    again = systems.cross_validate("handcrafted-svm", arrays, rest, folds, **how)[0]
    assert len(searches) == 2 and len(first) == (clips["part"] == "test").sum()
    pd.testing.assert_frame_equal(first, again)


def test_without_artist_folds_there_is_no_learning_curve(stored, tmp_path):
    clips, folds, arrays = stored
    table = _answers((clips, folds[:0], arrays), tmp_path, train_sizes=(0.5, 1.0))
    table.to_csv(tmp_path / "none.csv", index=False)
    curve = tables.learning_curve(pd.read_csv(tmp_path / "none.csv"), clips)
    assert table.empty and curve.empty
    whole = _answers(stored, tmp_path, train_sizes=(0.5, 1.0))
    assert set(table) <= set(whole)
    assert set(curve) <= set(tables.learning_curve(whole, clips, n_resamples=9))


def test_all_clips_are_tested_and_fewer_artists_trained_on(stored, tmp_path, searches):
    clips = stored[0]
    table = _answers(stored, tmp_path, train_sizes=(0.5, 1.0), draws=2)
    assert len(searches) == 4 * 4
    parts = table.groupby(["draw", "train_size", "fold"], sort=False)
    for (_, part), (_, n_artists, seed) in zip(parts, searches, strict=True):
        tested = clips.set_index("clip_id").loc[part["clip_id"], "artist"].nunique()
        assert set(part["n_artists"]) == {n_artists}
        assert part["train_size"].iloc[0] == 0.5 or n_artists == 16 - tested
        assert part["train_size"].iloc[0] == 1.0 or n_artists <= (16 - tested) / 2 + 1
        assert seed == 100 * part["draw"].iloc[0]  # every draw has seeds of its own
    for _, part in table.groupby(["draw", "train_size"]):
        assert sorted(part["clip_id"]) == sorted(clips["clip_id"])


def test_the_whole_training_part_is_that_of_cross_validation(stored, tmp_path):
    clips, folds, arrays = stored
    table = _answers(stored, tmp_path, train_sizes=(1.0,))
    inner = {"inner_folds": 2, "inner_seed": 0}
    expected, _ = systems.cross_validate(
        "handcrafted-svm", arrays, clips, folds, settings=inner, root=tmp_path / "other"
    )
    found = table.sort_values("clip_id", ignore_index=True)[list(expected)]
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("how", [{"draws": 0, "train_sizes": (0.5,)}, {"train_sizes": ()}])
def test_nothing_to_train_is_a_mistake(stored, tmp_path, how):
    with pytest.raises(UsageError, match="at least one of each"):
        _answers(stored, tmp_path, **how)
