"""Folds keep groups whole; duplicates are found by bytes, name and sound, and stay together."""

import re

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from genre_utils.data import datasets, splits
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import file_digest

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
ALL = [name for name in splits.PROTOCOLS if name != "published"]  # what is drawn
LEVELS = ["artist", "album", "track"]


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
        columns = LEVELS[: LEVELS.index(protocol) + 1]
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


@QUICK
@given(clips=clip_tables(), data=st.data())
def test_published_parts_are_kept_and_nothing_else_changes(clips, data):
    words = st.sampled_from(["train", "test", ""])
    part = data.draw(st.lists(words, min_size=len(clips), max_size=len(clips)))
    parted, protocols = clips.assign(part=part), ["random", "artist", "published"]
    pairs = pd.DataFrame({"clip_id": [clips["clip_id"][0]], "other_id": [clips["clip_id"][1]]})
    how = {"n_folds": 2, "duplicates": pairs}
    try:
        table = splits.make_splits(parted.sample(frac=1, random_state=0), protocols, **how)
    except UsageError:
        assume(False)
    published = table[table["protocol"] == "published"]
    used = parted[(parted["status"] == "ok") & (parted["part"] != "")]
    expected = used.set_index("clip_id")["part"].map({"train": -1, "test": 0})
    assert published.set_index("clip_id")["fold"].to_dict() == expected.to_dict()
    drawn = table[table["protocol"] != "published"]
    assert drawn.to_csv() == splits.make_splits(clips, protocols, **how).to_csv()
    assert drawn.to_csv() == splits.make_splits(parted, protocols[:2], **how).to_csv()
    across = splits.across(pairs, parted)
    assert len(across) == (set(part[:2]) == {"train", "test"})
    one = published.merge(clips[["clip_id", "artist"]], on="clip_id").groupby("artist")["group"]
    assert (one.nunique() == 1).all()


def test_what_a_published_split_lacks_is_one_clear_line():
    clips = _table([("AB"[i % 2], f"a{i}", "al", f"t{i}") for i in range(8)])
    with pytest.raises(UsageError, match="published protocol: no clip has a part"):
        splits.make_splits(clips, ["published"], 2)
    assert splits.across(pd.DataFrame({"clip_id": ["0000"], "other_id": ["0001"]}), clips).empty
    for part, said in (
        (["train"] * 8, "of A, B train, of no genre are tested"),
        (["test"] * 8, "of no genre train, of A, B are tested"),
        (["train", "test"] * 4, "of A train, of B are tested; each tested genre"),
        (["train", ""] * 3 + ["test", ""], "of A train, of A are tested; .* two at least"),
    ):
        with pytest.raises(UsageError, match=said):
            splits.make_splits(clips.assign(part=part), ["random", "published"], 2)


def test_relatives_of_a_published_test_part_by_hand():
    clips = _table([("A", "x", "1", "t"), ("A", "x", "1", "t"), ("B", "y", "1", "t")])
    clips = pd.concat([clips, clips.assign(clip_id=["p", "q", "r"], artist="z", album=list("abc"))])
    fold = [0, -1, 0, -1, -1, -1]
    folds = pd.DataFrame({"protocol": "published", "clip_id": clips["clip_id"], "fold": fold})
    shares = splits.shared_groups(clips, folds).set_index("group")["share"]
    assert shares.to_dict() == {"track": 0.5, "album": 0.5, "artist": 0.5}


@pytest.mark.parametrize(
    ("protocols", "n_folds", "said"),
    [
        (["artists"], 3, "unknown protocol 'artists'; one of random, track, album, artist"),
        ([], 3, "no protocol to draw folds by; one of random, "),
        (["random"], 1, "n_folds=1, seed=0: at least 2 and 0"),
        (["random"], 9, "genre 'B' has 6 clips, 9 needed; it can be done with n_folds=6"),
        (["artist"], 3, r"genre 'B' has 1 artist \(copies count once\), 2 needed; it takes more"),
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
    said = "0 genres with usable clips, 2 needed; most others: silent"
    with pytest.raises(UsageError, match=said):
        splits.make_splits(clips.assign(status="silent"), ["random"], n_folds=5)
    with pytest.raises(UsageError, match="1 genres with usable clips, 2 needed"):
        splits.make_splits(clips[clips["genre"] == "A"], ["random"], n_folds=5)


def _many(**artists):
    """Rows of a genre each: numbers of clips of its artists."""
    return _table(
        [(g, f"{g}{i}", "", "") for g, n in artists.items() for i in np.repeat(range(len(n)), n)]
    )


@pytest.mark.parametrize(
    ("clips", "protocol", "n_folds"),
    [
        (_many(A=[9] * 9, B=[1] * 4), "random", 10),
        (_many(A=[9] * 9, B=[30], C=[4] * 3), "artist", 3),
        (_many(A=[2] * 3, B=[2] * 4), "artist", 10),
        (_many(A=[5] * 3, B=[5], C=[5] * 2, D=[1]), "artist", 10),
        (_many(A=[1] * 3, B=[1] * 3), "artist", 5),
    ],
)
def test_the_advice_for_impossible_folds_works(clips, protocol, n_folds):
    with pytest.raises(UsageError, match="; it can be done with") as caught:
        splits.make_splits(clips, [protocol], n_folds)
    way = str(caught.value).split("; ")[-1]
    kept = clips[~clips["genre"].isin(re.findall("'(.)'", way))]
    fewer = re.search(r"n_folds=(\d+)", way)
    folds = splits.make_splits(kept, [protocol], int(fewer[1]) if fewer else n_folds)
    assert sorted(folds["clip_id"]) == sorted(kept["clip_id"])


def test_a_copy_within_the_smallest_genre_is_no_reason_to_give_up():
    clips = _many(A=[1] * 20, B=[1] * 10)
    copies = pd.DataFrame({"clip_id": ["0020"], "other_id": ["0021"]})
    fold = splits.make_splits(clips, ["random"], 10, 0, copies).set_index("clip_id")["fold"]
    assert fold["0020"] == fold["0021"] and fold.nunique() == 10


def _names(kind):
    """Twelve clips as a folder without tags, GTZAN, a half tagged folder, a tagged one has them."""
    clips = _table([("AB"[i % 2], f"a{i % 6}", f"b{i}", f"t{i}") for i in range(12)])
    clips = clips.assign(path=clips["clip_id"] + ".au")
    if kind in ("untagged", "GTZAN"):
        clips = clips.assign(artist="", album="", track=clips["path"])
        return clips.assign(track=clips["clip_id"]) if kind == "GTZAN" else clips
    half = clips.index >= 6
    return clips if kind == "all" else clips.assign(artist=clips["artist"].mask(half, ""), album="")


NONE = "artists, albums, tracks unknown: no such folds or oracles; intervals too narrow"


@pytest.mark.parametrize(
    ("kind", "left", "counts", "note"),
    [
        ("untagged", LEVELS, dict.fromkeys(LEVELS, 12), NONE),
        ("GTZAN", LEVELS, dict.fromkeys(LEVELS, 12), NONE),
        (
            "half",
            ["album"],
            {"artist": 6, "album": 12},
            "albums unknown: no such folds or oracles; artist of 6 of 12 clips unknown",
        ),
        ("all", [], {}, ""),
    ],
)
def test_protocols_whose_names_are_unknown_are_left_out(kind, left, counts, note, tmp_path):
    clips = _names(kind)
    assert splits.left_out(clips) == {level: f"{level}s unknown" for level in left}
    assert (splits.unknown(clips), splits.note(clips)) == (counts, note)
    for level in left:
        with pytest.raises(UsageError, match=f"^{level} protocol: {level}s unknown; name them"):
            splits.make_splits(clips, ["random", level], 3)
    there = [protocol for protocol in ALL if protocol not in left]
    shares = splits.shared_groups(clips, splits.make_splits(clips, there, 3))
    assert set(shares["group"]) == set(LEVELS) - set(left)
    splits.make_splits(_names("all"), ALL, 3).to_csv(tmp_path / "splits.csv")
    assert list(splits.use_split(tmp_path / "splits.csv", clips)[1]["protocol"].unique()) == there
    splits.make_splits(_names("all"), ["album"], 3).to_csv(tmp_path / "splits.csv")
    if "album" in left:
        with pytest.raises(UsageError, match="no protocol can be used: "):
            splits.use_split(tmp_path / "splits.csv", clips)


# Duplicates.


def recordings(*rows):
    """Rows of (clip_id, artist, album, track, start_s)."""
    clips = pd.DataFrame(rows, columns=["clip_id", "artist", "album", "track", "start_s"])
    return clips.assign(path=clips["clip_id"] + ".wav", genre="G", status="ok")


def listed(pairs):
    return list(pairs[["kind", "clip_id", "other_id"]].itertuples(index=False, name=None))


def test_same_bytes_are_exact_duplicates(tmp_path):
    clips = recordings(*((i, "", "", i, 0.0) for i in "cabd"))
    clips.loc[clips["clip_id"] == "c", "genre"] = "H"
    pairs = splits.find_duplicates(clips, tmp_path, {"a": "x", "b": "y", "c": "x", "d": "x"})
    assert listed(pairs) == [("exact", "a", "c"), ("exact", "a", "d")]
    assert list(pairs["similarity"]) == [1, 1]
    assert list(pairs["genre"]) == ["G", "G"] and list(pairs["other_genre"]) == ["H", "G"]


def test_same_artist_and_title_at_the_same_second(tmp_path):
    clips = recordings(
        ("a", "Ann", "x", "My Song!", 30.0),
        ("b", "ann ", "best of", "my song", 30.0),
        ("c", "Ann", "x", "My Song!", 59.0),
        ("d", "Bob", "x", "My Song!", 30.0),
        ("e", "", "x", "Song", 30.0),
        ("f", "", "y", "Song", 30.0),
        ("g", "Ann", "x", "?", 30.0),
        ("h", "Ann", "y", "!", 30.0),
    )
    pairs = splits.find_duplicates(clips, tmp_path, dict.fromkeys(clips["clip_id"]))
    assert listed(pairs) == [("name", "a", "b")]
    assert pairs["similarity"].isna().all()


def test_where_the_second_is_unknown_another_album_decides(tmp_path):
    clips = recordings(
        ("a", "Ann", "x", "Song", np.nan),
        ("b", "Ann", "x", "Song", np.nan),
        ("c", "Bob", "x", "Song", np.nan),
        ("d", "Bob", "y", "Song", np.nan),
        ("e", "Cid", "x", "e.wav", np.nan),
        ("f", "Cid", "y", "e.wav", np.nan),
    )
    pairs = splits.find_duplicates(clips, tmp_path, dict.fromkeys(clips["clip_id"]))
    assert listed(pairs) == [("name", "c", "d")]  # e: no title, the path stands in for it


def test_refused_clips_are_not_looked_at(tmp_path):
    clips = recordings(("a", "Ann", "x", "Song", 0.0), ("b", "Ann", "y", "Song", 0.0))
    clips.loc[1, "status"] = "silent"
    assert splits.find_duplicates(clips, tmp_path, {"a": "x"}, by_sound=False).empty
    assert splits.find_duplicates(clips.assign(status="no"), tmp_path, {}, by_sound=True).empty


def melody(seed, seconds=29, tempo=0.37):
    """A tune of random notes with overtones, for its chromagram to follow."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(tempo * 16000)) / 16000
    notes = [220 * 2 ** (n / 12) for n in rng.integers(0, 24, int(seconds / tempo) + 1)]
    tones = [sum(np.sin(2 * np.pi * f * k * t) / k for k in (1, 2, 3)) for f in notes]
    return np.concatenate(tones)[: seconds * 16000] * 0.2 + rng.normal(0, 1e-3, seconds * 16000)


@pytest.fixture
def sounds(tmp_path, cache):
    """Six tunes; "d" is "a" from 0.7 s on, quieter and with noise; "e" is a's next clip."""
    waves = {name: melody(i) for i, name in enumerate("abc")}
    noise = np.random.default_rng(9).normal(0, 0.01, 29 * 16000)
    waves["d"] = 0.3 * np.roll(waves["a"], -11200) + noise
    waves["e"] = waves["a"] + noise
    waves["f"] = melody(7)
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000)
    rows = [(name, name, "x", name, 0.0) for name in "abcdef"]
    rows[4] = ("e", "a", "x", "a", 29.0)
    clips = recordings(*rows)
    digests = {name: file_digest(tmp_path / f"{name}.wav") for name in waves}
    return clips, tmp_path, digests


def test_the_same_sound_is_found_and_neighbours_are_not(sounds):
    clips, folder, digests = sounds
    assert splits.find_duplicates(clips, folder, digests).empty
    pairs = splits.find_duplicates(clips, folder, digests, by_sound=True)
    assert listed(pairs) == [("sound", "a", "d"), ("sound", "d", "e")]
    assert pairs["similarity"].between(0.7, 1).all()


def test_fingerprints_are_kept(sounds, monkeypatch):
    clips, folder, digests = sounds
    first = splits.find_duplicates(clips, folder, digests, by_sound=True)
    monkeypatch.setattr(splits, "_chromagrams", lambda *what: pytest.fail(f"anew: {what}"))
    assert splits.find_duplicates(clips, folder, digests, by_sound=True).equals(first)


def test_correlation_agrees_with_numpy_and_any_block(monkeypatch):
    prints = np.random.default_rng(0).random((9, 12, 20)).astype(np.float32)
    prints[7, :, 3:] = prints[2, :, :-3] + 0.3
    found = splits.similar(prints, 0.2)
    monkeypatch.setattr(splits, "BLOCK", 2)
    assert [pair[:2] for pair in splits.similar(prints, 0.2)] == [p[:2] for p in found]

    def by_numpy(i, j):
        values = []
        for lag in range(splits.MAX_LAG + 1):
            for a, b in ((i, j), (j, i)):
                late, early = prints[a][:, lag:], prints[b][:, : 20 - lag]
                late, early = (x - x.mean(axis=1, keepdims=True) for x in (late, early))
                values.append(np.corrcoef(late.ravel(), early.ravel())[0, 1])
        return max(values)

    for i in range(9):
        for j in range(i + 1, 9):
            value = {pair[:2]: pair[2] for pair in found}.get((i, j))
            assert (
                value == pytest.approx(by_numpy(i, j), abs=1e-4) if value else by_numpy(i, j) < 0.2
            )
    assert (2, 7) in [pair[:2] for pair in found]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("pqrst"), min_size=10, max_size=10),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=8),
)
def test_merged_groups_are_the_connected_ones(names, links):
    """Against a plain flood over clips: linked, or of one group. Ids 10 and 11 are unknown."""
    ids = pd.Series([f"c{i}" for i in range(10)], index=range(5, 15))
    groups = pd.Series(names, index=ids.index)
    pairs = pd.DataFrame([(f"c{a}", f"c{b}") for a, b in links], columns=["clip_id", "other_id"])
    merged = splits.merge_groups(groups, ids, pairs)
    near = {i: {j for j in range(10) if names[i] == names[j]} for i in range(10)}
    for a, b in links:
        if max(a, b) < 10:
            near[a].add(b)
            near[b].add(a)
    for i in range(10):
        reached, edge = {i}, [i]
        while edge:
            new = near[edge.pop()] - reached
            reached |= new
            edge += new
        assert {j for j in range(10) if merged.iloc[j] == merged.iloc[i]} == reached
    assert merged.index.equals(groups.index) and set(merged) <= set(names)


def test_no_pairs_change_nothing():
    groups = pd.Series(list("abca"))
    empty = pd.DataFrame(columns=["kind", "clip_id", "other_id"])
    assert splits.merge_groups(groups, pd.Series(list("1234")), empty).equals(groups)


def test_real_near_duplicates_are_found(shared, cache):
    """The pairs that a look into the clip table shows, and one more that only the sound gives."""
    folder = shared / "data" / "magnatune-mini"
    clips, _ = datasets.load_clips("magnatagatune", folder, jobs=2)
    digests = datasets.audio_digests(clips, folder, jobs=2)
    pairs = splits.find_duplicates(clips, folder, digests, by_sound=True, jobs=2)
    tracks = clips.set_index("clip_id")["track"]
    titles = {kind: set(part["clip_id"].map(tracks)) for kind, part in pairs.groupby("kind")}
    assert titles["name"] == {"Give Me Love", "Wounded Little Bird", "Hideaway", "Karma Dogs"}
    assert "Sunset (Endless Night Journey remix)" in titles["sound"]
    assert len(pairs) < 15


def sixty_clips():
    """Three genres in turn, four clips an artist, two an album."""
    rows = [(f"c{i:02d}", f"a{i // 4}", f"b{i // 2}", f"t{i}", 0.0) for i in range(60)]
    return recordings(*rows).assign(genre=["GHI"[i // 4 % 3] for i in range(60)])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=3), st.integers(0, 5))
def test_duplicates_are_never_on_both_sides(links, seed):
    clips = sixty_clips()
    pairs = pd.DataFrame(
        [(f"c{a:02d}", f"c{b:02d}") for a, b in links], columns=["clip_id", "other_id"]
    )
    folds = splits.make_splits(clips, list(splits.PROTOCOLS), 3, seed, pairs)
    for protocol, part in folds.groupby("protocol"):
        fold = part.set_index("clip_id")["fold"]
        assert len(fold) == 60 and fold.index.is_unique
        assert (pairs["clip_id"].map(fold) == pairs["other_id"].map(fold)).all(), protocol
        if protocol == "artist":
            assert (fold.groupby(clips.set_index("clip_id")["artist"]).nunique() == 1).all()


def test_without_duplicates_the_folds_are_as_before():
    clips = sixty_clips()
    empty = pd.DataFrame(columns=["kind", "clip_id", "other_id"])
    plain = splits.make_splits(clips, list(splits.PROTOCOLS), 3, 1)
    assert splits.make_splits(clips, list(splits.PROTOCOLS), 3, 1, empty).equals(plain)


# A split of another run.


@pytest.fixture
def given_split(tmp_path):
    """The folds of a run without the last artist, whose four clips this data set has as well."""
    clips = sixty_clips()
    drawn = splits.make_splits(clips[clips["artist"] != "a14"], ["random", "artist"], 3)
    drawn.to_csv(tmp_path / "splits.csv", index=False)
    return tmp_path / "splits.csv", clips, drawn


def test_a_split_of_another_run_is_taken_up(given_split):
    path, clips, drawn = given_split
    before = clips.copy()
    kept, folds = splits.use_split(str(path), clips)
    assert folds.equals(drawn) and clips.equals(before)
    unnamed = clips["artist"] == "a14"
    assert unnamed.sum() == 4
    assert set(kept.loc[unnamed, "status"]) == {"not in the split file"}
    assert kept[~unnamed].equals(clips[~unnamed])
    refused = clips.assign(status=clips["status"].mask(unnamed, "silent"))
    assert splits.use_split(path, refused)[0].equals(refused)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.drop(columns="group"),
        lambda table: table.assign(fold="first"),
        lambda table: table.assign(protocol="alphabet"),
        lambda table: table.head(0),
        lambda table: pd.concat([table, table.head(1)]),
    ],
    ids=["no column group", "fold no number", "unknown protocol", "empty", "clip twice"],
)
def test_what_is_no_split_file_is_refused(given_split, spoil):
    path, clips, drawn = given_split
    spoil(drawn).to_csv(path, index=False)
    with pytest.raises(GenreUtilsError, match=r"splits.csv is no split file; it is the splits.csv"):
        splits.use_split(path, clips)


def test_a_split_file_that_is_not_there_or_empty(given_split):
    path, clips, _ = given_split
    path.write_text("")
    with pytest.raises(GenreUtilsError, match="is no split file"):
        splits.use_split(path, clips)
    path.unlink()
    with pytest.raises(UsageError, match=r"no split file .*splits.csv"):
        splits.use_split(path, clips)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda clips: clips.replace({"genre": {"G": "Jazz"}}),
            "20 .* c00: its genre here is Jazz",
        ),
        (lambda clips: clips.drop(index=7), "1 of 56 .* c07: no such clip"),
        (lambda clips: clips.assign(status=["silent"] + ["ok"] * 59), "1 of 56 .* c00: silent"),
    ],
    ids=["another genre", "clip not there", "clip refused"],
)
def test_a_split_that_does_not_fit_the_clips_is_refused(given_split, change, reason):
    path, clips, _ = given_split
    with pytest.raises(GenreUtilsError, match=f"splits.csv: {reason}; read the data set with"):
        splits.use_split(path, change(clips))
