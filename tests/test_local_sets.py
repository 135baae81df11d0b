"""GTZAN, a folder a genre, and a manifest as data sets."""

import mutagen
import numpy as np
import pytest
import soundfile

from genre_utils.data import datasets
from genre_utils.runtime import GenreUtilsError, UsageError

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


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
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
    assert report["files_of_other_kinds"] == {".jpg": 1, ".wav": 1}
    assert dict(zip(clips["path"], clips["status"] == "ok", strict=True)) == {
        "Jazz/a.WAV": True,
        "Jazz/text.mp3": False,
    }


def test_folder_without_sound_is_an_error(tmp_path):
    with pytest.raises(GenreUtilsError, match="no sound files; put them in"):
        datasets.load_clips("folder", tmp_path)


@pytest.mark.parametrize("below", ["", "genres", "genres_original", "Data/genres_original"])
@pytest.mark.parametrize("kind", ["au", "wav"])
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
        "audio/none.wav": "no genre in the mani",
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
        ("path,genre\n,Jazz\n", GenreUtilsError, "list.csv: line 2 has no path"),
        ("path,genre\na,J\na,K\n", GenreUtilsError, "list.csv: a stands there twice"),
        ("path,genre\na,J,K\nb,J,K,L,M\n", GenreUtilsError, "list.csv: no table"),
        ("path,genre\n", GenreUtilsError, "none of 0 clips can be used"),
    ],
)
def test_bad_manifest_is_one_clear_line(manifest, text, error, message):
    manifest.write_text(text)
    with pytest.raises(error, match=message) as caught:
        datasets.load_clips("csv", manifest.parent)
    assert "\n" not in str(caught.value)


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
