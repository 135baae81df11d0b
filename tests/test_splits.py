import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from genre_utils.data import splits
from genre_utils.runtime import UsageError

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
ALL = list(splits.PROTOCOLS)


def _table(rows):
    clips = pd.DataFrame(rows, columns=["genre", "artist", "album", "track"])
    clips.insert(0, "clip_id", [f"{i:04d}" for i in range(len(clips))])
    return clips.assign(status="ok")


@st.composite
def clip_tables(draw):
    """Two to four genres with 4 to 9 artists of 1 to 3 albums, tracks and clips; some left out."""
    rows = []
    for genre in draw(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=4, unique=True)):
        for artist in range(draw(st.integers(4, 9))):
            name = draw(st.sampled_from([f"{genre}{artist}", f"shared{artist}"]))
            for album in range(draw(st.integers(1, 2))):
                for track in range(draw(st.integers(1, 2))):
                    n = draw(st.integers(1, 3))
                    rows += [(genre, name, f"al{album}", f"t{track}")] * n
    clips = _table(rows)
    refused = draw(st.sets(st.integers(0, len(rows) - 1), max_size=5))
    clips.loc[sorted(refused), "status"] = "empty file"
    return clips


def _folds(clips, protocol, **how):
    try:
        table = splits.make_splits(clips, [protocol], **how)
    except UsageError:
        assume(False)
    return table.set_index("clip_id")["fold"]


@QUICK
@given(
    clips=clip_tables(), protocol=st.sampled_from(ALL), n=st.integers(2, 5), seed=st.integers(0, 9)
)
def test_every_usable_clip_is_tested_once_and_no_group_is_on_two_sides(clips, protocol, n, seed):
    fold = _folds(clips, protocol, n_folds=n, seed=seed)
    used = clips[clips["status"] == "ok"]
    assert fold.index.is_unique
    assert sorted(fold.index) == sorted(used["clip_id"])
    assert set(fold) == set(range(n))
    if protocol != "random":
        columns = splits.LEVELS[: splits.PROTOCOLS[protocol]]
        of_clip = used.set_index("clip_id").join(fold)
        assert (of_clip.groupby(columns)["fold"].nunique() == 1).all()
    for i in range(n):  # whatever is tested can have been learned
        trained = used[used["clip_id"].map(fold) != i]
        assert set(trained["genre"]) == set(used["genre"])


@QUICK
@given(clips=clip_tables(), protocol=st.sampled_from(ALL), seed=st.integers(0, 9))
def test_same_seed_same_folds_in_any_order_of_rows(clips, protocol, seed):
    fold = _folds(clips, protocol, n_folds=3, seed=seed)
    mixed = clips.sample(frac=1, random_state=seed)
    assert fold.sort_index().equals(_folds(mixed, protocol, n_folds=3, seed=seed).sort_index())


@QUICK
@given(clips=clip_tables(), seed=st.integers(0, 9))
def test_random_folds_keep_each_genres_share(clips, seed):
    fold = _folds(clips, "random", n_folds=3, seed=seed)
    used = clips[clips["status"] == "ok"]
    counts = pd.crosstab(used["genre"], used["clip_id"].map(fold))
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_artist_folds_keep_genres_even_where_artists_are_alike():
    rows = [(g, f"{g}{a}", "al", f"t{t}") for g in "ABC" for a in range(20) for t in range(5)]
    clips = _table(rows)
    fold = _folds(clips, "artist", n_folds=10)
    counts = pd.crosstab(clips["genre"], clips["clip_id"].map(fold))
    assert (counts == 10).all(axis=None)


def test_other_seed_other_folds():
    clips = _table([("AB"[i % 2], f"a{i % 14}", "al", f"t{i}") for i in range(140)])
    for protocol in ALL:
        one, two = (_folds(clips, protocol, n_folds=5, seed=s) for s in (0, 1))
        assert (one != two.loc[one.index]).any(), protocol


def test_a_system_that_memorises_artists_is_found_out():
    """The planted leak: it answers an artist's genre if it has met the artist, else guesses."""
    rng = np.random.default_rng(0)
    rows = [(g, f"{g}{a}", "al", f"t{t}") for g in "ABCD" for a in range(15) for t in range(6)]
    clips = _table(rows)
    table = splits.make_splits(clips, ["random", "artist"], n_folds=5)
    accuracy = {}
    for protocol, part in table.groupby("protocol"):
        fold = clips["clip_id"].map(part.set_index("clip_id")["fold"])
        right = []
        for i in range(5):
            train, test = clips[fold != i], clips[fold == i]
            memory = train.groupby("artist")["genre"].first()
            guess = pd.Series(rng.choice(list("ABCD"), len(test)), index=test.index)
            right.append((test["artist"].map(memory).fillna(guess) == test["genre"]).mean())
        accuracy[protocol] = np.mean(right)
    assert accuracy["random"] == 1.0
    assert 0.15 < accuracy["artist"] < 0.35


def test_clips_of_unknown_artists_are_not_one_group():
    rows = [("A", "", "al1", "t1"), ("A", "", "al1", "t2"), ("A", "", "", "t3"), ("A", "", "", "")]
    clips = _table([*rows, ("B", "x", "al1", "t1")])
    artist = splits.groups(clips, "artist")
    assert artist[0] == artist[1]
    assert artist.nunique() == 4
    assert splits.groups(clips, "track").nunique() == 5
    assert splits.groups(clips, "album")[0] == splits.groups(clips, "album")[1]


def test_shared_groups_by_hand():
    clips = _table(
        [("A", "x", "1", "t"), ("A", "x", "1", "t"), ("A", "x", "2", "u"), ("B", "y", "1", "t")]
    )
    folds = pd.DataFrame({"protocol": "random", "clip_id": clips["clip_id"], "fold": [0, 1, 1, 0]})
    shares = splits.shared_groups(clips, folds).set_index("group")["share"]
    assert shares.to_dict() == {"track": 0.5, "album": 0.5, "artist": 0.75}


@pytest.mark.parametrize(
    ("protocols", "n_folds", "said"),
    [
        (["artists"], 3, "unknown protocol 'artists'; one of random, track, album, artist"),
        (["random"], 1, "n_folds=1: at least 2"),
        (["random"], 9, "genre 'B' has 6 clips, 9 needed"),
        (["artist"], 3, "genre 'B' has 1 artists, 2 needed"),
    ],
)
def test_what_cannot_be_is_one_clear_line(protocols, n_folds, said):
    rows = [("A", f"a{i}", "al", "t") for i in range(12)] + [
        ("B", "b", "al", f"t{i}") for i in range(6)
    ]
    with pytest.raises(UsageError, match=said):
        splits.make_splits(_table(rows), protocols, n_folds=n_folds)


def test_more_folds_than_groups_and_no_clip_at_all():
    clips = _table([("AB"[i % 2], f"a{i % 4}", "al", f"t{i}") for i in range(40)])
    with pytest.raises(UsageError, match="4 artists cannot fill 5 folds"):
        splits.make_splits(clips, ["artist"], n_folds=5)
    with pytest.raises(UsageError, match="no usable clip"):
        splits.make_splits(clips.assign(status="silent"), ["random"], n_folds=5)
