"""Duplicates are found by bytes, name and sound, and stay on one side of a split."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_utils.data import datasets, splits
from genre_utils.store import file_digest


def table(*rows):
    """Rows of (clip_id, artist, album, track, start_s)."""
    clips = pd.DataFrame(rows, columns=["clip_id", "artist", "album", "track", "start_s"])
    return clips.assign(path=clips["clip_id"] + ".wav", genre="G", status="ok")


def listed(pairs):
    return list(pairs[["kind", "clip_id", "other_id"]].itertuples(index=False, name=None))


def test_same_bytes_are_exact_duplicates(tmp_path):
    clips = table(*((i, "", "", i, 0.0) for i in "cabd"))
    clips.loc[clips["clip_id"] == "c", "genre"] = "H"
    pairs = splits.find_duplicates(clips, tmp_path, {"a": "x", "b": "y", "c": "x", "d": "x"})
    assert listed(pairs) == [("exact", "a", "c"), ("exact", "a", "d")]
    assert list(pairs["similarity"]) == [1, 1]
    assert list(pairs["genre"]) == ["G", "G"] and list(pairs["other_genre"]) == ["H", "G"]


def test_same_artist_and_title_at_the_same_second(tmp_path):
    clips = table(
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
    clips = table(
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
    clips = table(("a", "Ann", "x", "Song", 0.0), ("b", "Ann", "y", "Song", 0.0))
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
    clips = table(*rows)
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
    monkeypatch.setattr(splits, "_chromagrams", lambda files: pytest.fail(f"anew: {files}"))
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


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=3), st.integers(0, 5))
def test_duplicates_are_never_on_both_sides(links, seed):
    rows = [(f"c{i:02d}", f"a{i // 4}", f"b{i // 2}", f"t{i}", 0.0) for i in range(60)]
    clips = table(*rows).assign(genre=["GHI"[i // 4 % 3] for i in range(60)])
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
    rows = [(f"c{i:02d}", f"a{i // 4}", f"b{i // 2}", f"t{i}", 0.0) for i in range(60)]
    clips = table(*rows).assign(genre=["GHI"[i // 4 % 3] for i in range(60)])
    empty = pd.DataFrame(columns=["kind", "clip_id", "other_id"])
    plain = splits.make_splits(clips, list(splits.PROTOCOLS), 3, 1)
    assert splits.make_splits(clips, list(splits.PROTOCOLS), 3, 1, empty).equals(plain)
