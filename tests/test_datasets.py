"""Loaders, clip table, audio check, validation: what is used, what is refused, what is said."""

import dataclasses
import json
import os
from types import MappingProxyType

import mutagen
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_utils.data import audio, datasets, splits
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
    dataset = dataclasses.replace(
        datasets.DATASETS["magnatagatune"],
        name="toy",
        options=(),
        load=lambda _: (clips.sample(frac=1, random_state=0), {"rows": len(clips)}),
    )
    monkeypatch.setattr(datasets, "DATASETS", MappingProxyType({"toy": dataset}))
    return folder


def test_table_has_the_columns_in_order_and_rows_by_clip_id(toy):
    clips, report = datasets.load_clips("toy", toy, jobs=2)
    assert tuple(clips.columns) == datasets.COLUMNS
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


@pytest.mark.parametrize("content", ["{spoiled", "[1]", '{"a": 3}'])
def test_spoiled_cache_is_made_anew(toy, cache, content):
    datasets.load_clips("toy", toy)
    (kept,) = cache.glob("audio-checks-*.json")
    kept.write_text(content)
    _, report = datasets.load_clips("toy", toy)
    assert report["clips_ok"] == 12 and len(json.loads(kept.read_text())) == 12


def test_files_are_decoded_in_other_processes(toy, monkeypatch):
    """Decoding redirects descriptor 2, which the threads of a process share."""
    monkeypatch.setattr(audio, "check", lambda path: (1.0, f"process {os.getpid()}"))
    clips = table({("G", "A", "x"): 4})
    refused = datasets.check_audio(clips, toy, jobs=2)
    assert len(refused) == 8 and f"process {os.getpid()}" not in refused.values()


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
    def chosen(**options):
        clips, _ = datasets.load_clips("toy", toy, max_per_genre=3, **options)
        return tuple(clips.loc[clips["status"] == "ok", "clip_id"])

    assert chosen(seed=1) == chosen(seed=1, jobs=2)
    assert len({chosen(seed=seed) for seed in range(8)}) > 1


def test_spread_is_the_same_on_every_machine():
    clips = table({("G", "A", "x"): 2, ("G", "B", "y"): 1})
    ranks = datasets.spread(clips, 0)
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
    rank = datasets.spread(clips, seed)
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
    paths = ["/etc/passwd", "../b.wav", "a/../../b.wav", "a/b..wav"]
    (tmp_path / "list.csv").write_text("path,genre\n" + "".join(f"{p},Jazz\n" for p in paths))
    *_, clips, _ = datasets.read_table("csv", tmp_path)
    status = dict(zip(clips["path"], clips["status"], strict=True))
    assert status == dict.fromkeys(paths, "path leaves the data folder") | {"a/b..wav": "ok"}


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


SOUND = np.random.default_rng(0).normal(0, 0.1, 2 * 16000)


def sound(path, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, SOUND, 16000)
    if tags:
        file = mutagen.File(path, easy=True)
        if file.tags is None:
            file.add_tags()
        for key, value in tags.items():
            file[key] = value
        file.save()
    return path


def by_path(clips):
    return clips.set_index("path")


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_folder_takes_genres_from_folders_and_names_from_tags(tmp_path, cache, kind):
    folder = tmp_path / "my music"
    tags = {"artist": "Sigur Rós", "album": "()", "title": "Untitled"}
    sound(folder / f"Post Rock/cd 1/01.{kind}", **tags)
    sound(folder / f"Jazz/plain.{kind}")
    clips, report = datasets.load_clips("folder", folder)
    row = by_path(clips).loc[f"Post Rock/cd 1/01.{kind}"]
    assert list(row[["genre", "artist", "album", "track"]]) == ["Post Rock", *tags.values()]
    row = by_path(clips).loc[f"Jazz/plain.{kind}"]
    assert list(row[["artist", "album", "track"]]) == ["", "", f"Jazz/plain.{kind}"]
    assert report["clips_ok"] == 2 and clips["clip_id"].is_unique


def test_wav_has_tags_too(tmp_path, cache):
    path = sound(tmp_path / "m/Jazz/a.wav")
    file = mutagen.File(path)
    file.add_tags()
    file.tags.add(mutagen.id3.TPE1(text="Ann"))
    file.save()
    clips, _ = datasets.load_clips("folder", tmp_path / "m")
    assert clips["artist"].iloc[0] == "Ann"


def test_folder_counts_what_it_does_not_take(tmp_path, cache):
    folder = tmp_path / "m"
    sound(folder / "Jazz/a.WAV")
    sound(folder / "loose.wav")
    sound(folder / ".trash/b.wav")
    (folder / "Jazz/cover.jpg").write_bytes(b"x")
    (folder / "Jazz/text.mp3").write_text("This is no sound.")
    clips, report = datasets.load_clips("folder", folder)
    assert report["passed_over"] == {".jpg": 1, "hidden": 1}
    assert dict(zip(clips["path"], clips["status"] == "ok", strict=True)) == {
        "Jazz/a.WAV": True,
        "Jazz/text.mp3": False,
        "loose.wav": False,
    }


def test_folder_without_sound_is_an_error(tmp_path):
    with pytest.raises(GenreUtilsError, match="no sound files; put them in"):
        datasets.load_clips("folder", tmp_path)


@pytest.mark.parametrize(
    ("below", "kind"), [("", "au"), ("genres", "wav"), ("Data/genres_original", "wav")]
)
def test_gtzan_wherever_its_genres_lie(tmp_path, cache, below, kind):
    root = tmp_path / "g"
    for name in ("blues.00000", "jazz.00053", "jazz.00054"):
        sound(root / below / name.split(".")[0] / f"{name}.{kind}")
    (root / below / "blues/bextract_single.mf").write_text("x")
    clips, report = datasets.load_clips("gtzan", root)
    assert dict(zip(clips["clip_id"], clips["status"], strict=True)) == {
        "blues.00000": "ok",
        "jazz.00053": "ok",
        "jazz.00054": "known broken file",
    }
    assert set(clips["artist"]) == {""} and list(clips["track"]) == list(clips["clip_id"])
    assert report["artists"] == "not in the archive"


def test_all_of_gtzan_by_its_published_split(tmp_path, cache):
    sound(tmp_path / "blues/blues.00000.au")
    content = (tmp_path / "blues/blues.00000.au").read_bytes()
    for genre in datasets.GTZAN_GENRES:
        (tmp_path / genre).mkdir(exist_ok=True)
        for i in range(100):
            (tmp_path / genre / f"{genre}.{i:05d}.au").write_bytes(content)
    clips, report = datasets.load_clips("gtzan", tmp_path)
    gone = {"left out by the published split": 70, "known broken file": 1}
    assert report["clips_refused"] == gone and report["clips_ok"] == 929
    assert not splits.left_out(clips).keys() & {"published"}
    table = splits.make_splits(clips, ["random", "published"])
    published = table[table["protocol"] == "published"]
    assert published["fold"].value_counts().to_dict() == {-1: 443 + 197 - 1, 0: 290}
    fold = published.set_index("clip_id")["fold"]
    assert (fold["blues.00012"], fold["blues.00029"], fold["blues.00000"]) == (0, -1, -1)
    assert "jazz.00054" not in fold and table["protocol"].value_counts()["random"] == 929


def test_gtzan_that_is_not_there_or_there_twice(tmp_path):
    with pytest.raises(GenreUtilsError, match=r"no GTZAN here.*download gtzan"):
        datasets.load_clips("gtzan", tmp_path)
    for kind in ("au", "wav"):
        sound(tmp_path / f"blues/blues.00000.{kind}")
    with pytest.raises(GenreUtilsError, match=r"blues.00000 stands there twice"):
        datasets.load_clips("gtzan", tmp_path)


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "a set"
    for name in ("a b", "ü", "none"):
        sound(folder / f"audio/{name}.wav")
    (folder / "other.csv").write_text("id,tag\n1,x\n")
    path = folder / "list.csv"
    path.write_text(
        'path,genre,artist,track,year\naudio/a b.wav,Jazz,"Ann, Bob",One,1999\n'
        "audio/ü.wav,Jazz,NA,,\naudio/none.wav,,Cid,Two,\n../x.wav,Jazz,,,\ngone.wav,Jazz,,,\n",
        encoding="utf-8-sig",
    )
    return path


def test_manifest_is_found_in_its_folder_or_named(manifest, cache):
    clips, report = datasets.load_clips("csv", manifest)
    again, _ = datasets.load_clips("csv", manifest.parent)
    third, _ = datasets.load_clips("csv", manifest.parent, manifest="list.csv")
    assert clips.equals(again) and clips.equals(third)
    rows = by_path(clips)
    assert dict(rows["status"].str[:20]) == {
        "audio/a b.wav": "ok",
        "audio/ü.wav": "ok",
        "audio/none.wav": "no genre",
        "../x.wav": "path leaves the data",
        "gone.wav": "cannot be read: No s",
    }
    assert list(rows.loc["audio/a b.wav", ["artist", "album", "track"]]) == ["Ann, Bob", "", "One"]
    assert list(rows.loc["audio/ü.wav", ["artist", "track"]]) == ["NA", "audio/ü.wav"]
    assert report["rows"] == 5 and report["columns_not_used"] == ["year"]
    assert datasets.data_folder("csv", manifest) == manifest.parent


def test_tab_separated_manifest(manifest, cache):
    manifest.unlink()
    manifest.with_name("list.tsv").write_text("path\tgenre\naudio/ü.wav\tJazz\n")
    clips, _ = datasets.load_clips("csv", manifest.parent)
    assert list(clips["status"]) == ["ok"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("file,genre\na.wav,Jazz\n", UsageError, "with the columns path and genre .* found none"),
        ("path,genre\n,Jazz\n", GenreUtilsError, "none of 1 clips .* no path"),
        ("path,genre\na,J\na,K\n", GenreUtilsError, "none of 2 .* under two genres"),
        ("path,genre\na,J,K\nb,J,K,L,M\n", GenreUtilsError, "none of 2 .* row of 3 fields"),
        ("path,genre\n", GenreUtilsError, "none of 0 clips can be used"),
    ],
)
def test_bad_manifest_is_one_clear_line(manifest, text, error, message):
    manifest.write_text(text)
    with pytest.raises(error, match=message) as caught:
        datasets.load_clips("csv", manifest.parent)
    assert "\n" not in str(caught.value)


def test_a_manifest_may_name_published_parts(manifest, cache):
    manifest.write_text(
        "path,genre, PART \naudio/a b.wav,Jazz, Train\naudio/ü.wav,Rock,TEST \n"
        "audio/none.wav,Rock,\n",
        encoding="utf-8",
    )
    clips, report = datasets.load_clips("csv", manifest)
    parts = by_path(clips)["part"].to_dict()
    assert parts == {"audio/a b.wav": "train", "audio/ü.wav": "test", "audio/none.wav": ""}
    assert list(clips) == [*datasets.COLUMNS, "part"] and report["columns_not_used"] == []
    manifest.write_text("path,genre,part\naudio/a b.wav,Jazz,\n")
    assert list(datasets.load_clips("csv", manifest)[0]) == list(datasets.COLUMNS)
    manifest.write_text("path,genre,part\naudio/a b.wav,Jazz,train\nx.wav,Jazz,Valid.\n")
    said = r"line 3, x.wav: part 'Valid.'; train, test or nothing is allowed$"
    with pytest.raises(GenreUtilsError, match=said):
        datasets.load_clips("csv", manifest)


def test_two_manifests_in_a_folder_must_be_told_apart(manifest):
    manifest.with_name("second.csv").write_text("path,genre\naudio/ü.wav,Jazz\n")
    with pytest.raises(UsageError, match=r"found list.csv, second.csv; name the file itself"):
        datasets.load_clips("csv", manifest.parent)


def test_real_manifest_gives_the_four_genres(shared, cache):
    folder = shared / "data" / "magnatune-mini"
    clips, report = datasets.load_clips("csv", folder, jobs=2)
    lines = (folder / "emotify_manifest.csv").read_text(encoding="utf-8").splitlines()
    assert len(clips) == len(lines) - 1 == report["clips_ok"] == 585
    assert set(report["genres"]) == {"classical", "electronic", "pop", "rock"}


def test_validate_finds_each_kind_of_fault(manifest, cache):
    report = datasets.validate("csv", manifest)
    assert report["outside"] == {"../x.wav": "path leaves the data folder"}
    assert list(report["missing"]) == ["gone.wav"] and report["ok"] is False
    manifest.write_text("path,genre\n" + "".join(f"{n}.wav,Jazz\n" for n in "abcd"))
    for name in "abcd":
        sound(manifest.parent / f"{name}.wav")
    assert datasets.validate("csv", manifest)["ok"] is True
    (manifest.parent / "b.wav").write_text("This is no sound.")
    soundfile.write(manifest.parent / "c.wav", np.ones(4800), 16000)
    soundfile.write(manifest.parent / "d.wav", np.zeros(16000), 16000)
    report = datasets.validate("csv", manifest, jobs=2)
    assert {kind: list(report[kind]) for kind in datasets.FAULTS if report[kind]} == {
        "undecodable": ["b.wav"],
        "too_short": ["c.wav"],
        "silent": ["d.wav"],
    }
    assert report["ok"] is False and report["clips"] == 4
    json.dumps(report)


def test_known_bad_files_do_not_count(tmp_path, cache):
    for name in ("blues/blues.00000.wav", "jazz/jazz.00054.wav", "jazz/jazz.00055.wav"):
        sound(tmp_path / "genres" / name)
    (tmp_path / "genres/jazz/jazz.00054.wav").write_bytes(b"")
    report = datasets.validate("gtzan", tmp_path)
    assert report["ok"] and report["known_bad"] == {"genres/jazz/jazz.00054.wav": "empty file"}
    (tmp_path / "genres/jazz/jazz.00055.wav").write_bytes(b"")
    assert not datasets.validate("gtzan", tmp_path)["ok"]


def test_a_changed_table_is_a_fault_of_a_whole_release_and_a_note_of_an_excerpt(
    shared, cache, monkeypatch
):
    folder = shared / "data" / "magnatune-mini"
    report = datasets.validate("magnatagatune", folder, jobs=2)
    assert report["ok"] and report["clips"] == 588 and len(report["known_bad"]) == 3
    assert any("clip_info_final.csv is not the release's" in note for note in report["notes"])
    dataset = datasets.DATASETS["magnatagatune"]
    whole = dataclasses.replace(dataset.release, n_audio=588)
    whole = {"magnatagatune": dataclasses.replace(dataset, release=whole)}
    monkeypatch.setattr(datasets, "DATASETS", whole)
    report = datasets.validate("magnatagatune", folder)
    assert report["wrong_checksum"] == {"clip_info_final.csv": "not as released"}
    assert not report["ok"]
