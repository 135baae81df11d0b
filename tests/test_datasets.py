"""The clip table: which clips are used, which are refused, and what the report says of them."""

import dataclasses
import json
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_utils.data import audio, datasets
from genre_utils.data import datasets as clip_table
from genre_utils.runtime import GenreUtilsError, UsageError


def table(sizes):
    """Clips for ``{(genre, artist, album): tracks}``, two a track."""
    rows = [
        (f"{genre}{artist}{album}{track}{half}", genre, artist, album, f"t{track}", 29.0 * half)
        for (genre, artist, album), n in sizes.items()
        for track in range(n)
        for half in range(2)
    ]
    names = ["clip_id", "genre", "artist", "album", "track", "start_s"]
    clips = pd.DataFrame(rows, columns=names)
    clips["path"] = clips["clip_id"] + ".wav"
    return clips.assign(status="ok")


@pytest.fixture
def toy(tmp_path, monkeypatch, cache):
    """A registered data set "toy": genre G of artist A (8 clips) and B (2), genre H of C (2)."""
    folder = tmp_path / "toy"
    folder.mkdir()
    clips = table({("G", "A", "x"): 4, ("G", "B", "x"): 1, ("H", "C", "x"): 1})
    for i, path in enumerate(clips["path"]):
        noise = np.random.default_rng(i).normal(0, 0.1, 16000 + 100 * i)
        soundfile.write(folder / path, noise, 16000)
    one = dataclasses.replace(
        datasets.DATASETS["magnatagatune"],
        name="toy",
        options=(),
        load=lambda _: (clips.sample(frac=1, random_state=0), {"rows": len(clips)}),
    )
    monkeypatch.setattr(datasets, "DATASETS", MappingProxyType({"toy": one}))
    return folder


def test_table_has_the_columns_in_order_and_rows_by_clip_id(toy):
    clips, report = datasets.load_clips("toy", toy, jobs=2)
    assert tuple(clips.columns) == clip_table.COLUMNS
    assert list(clips["clip_id"]) == sorted(clips["clip_id"]) and len(clips) == 12
    assert set(clips["dataset"]) == {"toy"}
    true = [soundfile.info(toy / path).duration for path in clips["path"]]
    assert np.allclose(clips["duration_s"], true, atol=1e-3) and len(set(true)) == 12
    assert report["genres"] == {
        "G": {"clips": 10, "artists": 2},
        "H": {"clips": 2, "artists": 1},
    }
    json.dumps(report)


def test_bad_files_are_refused_by_name_and_stay_in_the_table(toy):
    (toy / "GAx00.wav").write_bytes(b"")
    (toy / "GAx01.wav").write_text("This is no sound.")
    (toy / "GAx10.wav").unlink()
    soundfile.write(toy / "GAx11.wav", np.zeros(16000), 16000)
    soundfile.write(toy / "GAx20.wav", np.ones(4800), 16000)
    clips, report = datasets.load_clips("toy", toy)
    refused = report["audio_refused"]
    assert set(refused) == {f"GAx{n}.wav" for n in ("00", "01", "10", "11", "20")}
    for name, part in [
        ("00", "empty"),
        ("01", "decoded"),
        ("10", "No such file"),
        ("11", "silent"),
        ("20", "too short: 0.3 s"),
    ]:
        assert part in refused[f"GAx{name}.wav"]
    assert report["clips_ok"] == 7 and sum(report["clips_refused"].values()) == 5
    assert len(clips) == report["rows"] == 12
    by_path = clips.set_index("path")
    assert np.isnan(by_path.loc["GAx01.wav", "duration_s"])
    assert by_path.loc["GAx20.wav", "duration_s"] == pytest.approx(0.3)


def test_second_check_decodes_nothing_and_a_changed_file_is_seen(toy, monkeypatch):
    first, _ = datasets.load_clips("toy", toy)
    decoded = []
    true_check = audio.check
    monkeypatch.setattr(audio, "check", lambda p: (decoded.append(p.name), true_check(p))[1])
    again, _ = datasets.load_clips("toy", toy)
    assert decoded == []
    pd.testing.assert_frame_equal(first, again)
    (toy / "HCx01.wav").write_text("This is no sound.")
    _, report = datasets.load_clips("toy", toy)
    assert decoded == ["HCx01.wav"] and list(report["audio_refused"]) == ["HCx01.wav"]


def test_spoiled_cache_is_made_anew(toy, cache):
    datasets.load_clips("toy", toy)
    (kept,) = cache.glob("audio-checks-*.json")
    kept.write_text("{spoiled")
    _, report = datasets.load_clips("toy", toy)
    assert report["clips_ok"] == 12 and len(json.loads(kept.read_text())) == 12


def test_refused_clip_gives_way_to_the_next(toy):
    before, _ = datasets.load_clips("toy", toy, max_per_genre=4)
    chosen = before.loc[before["status"] == "ok", "path"]
    (toy / chosen.iloc[0]).write_bytes(b"")
    clips, report = datasets.load_clips("toy", toy, max_per_genre=4)
    assert report["genres"]["G"]["clips"] == 4 and report["genres_under_max"] == {"H": 2}
    assert report["clips_refused"] == {"not chosen: 4 a genre asked": 5, "empty file": 1}
    assert set(chosen.iloc[1:]) <= set(clips.loc[clips["status"] == "ok", "path"])
    assert report["max_per_genre"] == 4


def test_choice_depends_on_the_seed_and_on_nothing_else(toy):
    def chosen(**how):
        clips, _ = datasets.load_clips("toy", toy, max_per_genre=3, **how)
        return tuple(clips.loc[clips["status"] == "ok", "clip_id"])

    assert chosen(seed=1) == chosen(seed=1, jobs=2)
    assert len({chosen(seed=seed) for seed in range(8)}) > 1


def test_spread_is_the_same_on_every_machine():
    clips = table({("G", "A", "x"): 2, ("G", "B", "y"): 1})
    ranks = clip_table.spread(clips, 0)
    assert dict(zip(clips["clip_id"], ranks, strict=True)) == {
        "GAx01": 0,
        "GBy00": 1,
        "GAx11": 2,
        "GBy01": 3,
        "GAx00": 4,
        "GAx10": 5,
    }


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("GH"), st.sampled_from("ABC"), st.sampled_from("xyz")),
        st.integers(1, 4),
        min_size=1,
    ),
    st.integers(0, 9),
)
def test_spread_goes_round_artists_then_albums_then_tracks(sizes, seed):
    clips = table(sizes)
    rank = clip_table.spread(clips, seed)
    for _, genre in clips.groupby("genre"):
        assert sorted(rank[genre.index]) == list(range(len(genre)))
        for n in range(1, len(genre) + 1):
            first = genre[rank[genre.index] < n]
            for depth in range(3):
                levels = ["artist", "album", "track"][: depth + 1]
                assert is_level(first, genre, levels, levels[:-1])


def is_level(first, genre, inner, outer):
    """No group of ``inner`` is two ahead of a sibling that still has clips to give."""
    taken, there = first.groupby(inner).size(), genre.groupby(inner).size()
    counts = pd.DataFrame({"taken": taken.reindex(there.index, fill_value=0), "there": there})
    families = counts.groupby(level=outer) if outer else [(0, counts)]
    return all(
        rows["taken"].max() - rows.loc[rows["taken"] < rows["there"], "taken"].min() <= 1
        for _, rows in families
        if (rows["taken"] < rows["there"]).any()
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"name": "tory"}, UsageError, "unknown data set 'tory': one of toy"),
        ({"multi_genre": "first"}, UsageError, "toy has no option multi_genre"),
        ({"max_per_genre": -1}, UsageError, "max_per_genre=-1: at least 1"),
        ({"data_dir": None}, UsageError, "toy needs --data-dir DIR"),
        ({"data_dir": "/no/such/folder"}, UsageError, "/no/such/folder is not a folder"),
    ],
)
def test_wrong_call_is_one_clear_line(toy, call, error, message):
    with pytest.raises(error, match=message) as caught:
        datasets.load_clips(**{"name": "toy", "data_dir": toy, **call})
    assert type(caught.value) is error and "\n" not in str(caught.value)


def test_no_usable_clip_is_an_error(toy):
    for path in toy.glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(GenreUtilsError, match=r"none of 12 clips can be used; first: .*empty"):
        datasets.load_clips("toy", toy)


def test_path_out_of_the_folder_is_refused_unread(tmp_path):
    clips = table({("G", "A", "x"): 2})
    clips["path"] = ["/etc/passwd", "a/../../b.wav", "..", "a/b..wav"]
    done = clip_table.completed(clips, "toy")
    assert list(done["status"]) == ["path leaves the data folder"] * 3 + ["ok"]


def test_small_genres_are_left_out_with_their_count():
    clips = table({("G", a, "x"): 2 for a in "ABCDE"} | {("H", "C", "x"): 9, ("I", "C", "x"): 2})
    done = datasets.leave_out_small_genres(clips, n_folds=5, min_artists=5)
    assert dict(done.groupby("genre")["status"].first()) == {
        "G": "ok",
        "H": "genre left out: 1 artist, 5 needed",
        "I": "genre left out: 4 clips, 5 needed",
    }
    assert (clips["status"] == "ok").all() and len(done) == len(clips)


def test_refused_clips_and_unknown_artists_do_not_count():
    clips = table({("G", "A", "x"): 5, ("G", "", "x"): 5, ("H", "B", "x"): 5})
    clips.loc[clips["genre"].eq("H") & (clips["start_s"] > 0), "status"] = "empty file"
    done = datasets.leave_out_small_genres(clips, n_folds=6, min_artists=1)
    assert set(done.loc[done["genre"] == "G", "status"]) == {"ok"}
    assert set(done.loc[done["genre"] == "H", "status"]) == {
        "empty file",
        "genre left out: 5 clips, 6 needed",
    }
    two = datasets.leave_out_small_genres(clips, n_folds=2, min_artists=2)
    assert not (two["status"] == "ok").any()
    unknown = datasets.leave_out_small_genres(clips.assign(artist=""), n_folds=5, min_artists=2)
    assert (unknown["status"] == "ok").sum() == 25
