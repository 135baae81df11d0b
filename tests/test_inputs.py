"""What people have on disk: each file and row is used, refused or passed over, and counted."""

import json
import os
import shutil
import socket
from collections import Counter

import mutagen
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genre_utils.__main__ import main
from genre_utils.data import audio, datasets, inputs, magnatagatune
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Run

NOISE = np.random.default_rng(0).normal(0, 0.1, (40, 16000))
READ = "cannot be read: "


def sound(path, i=0, **options):
    """Write a second of noise, another for each ``i``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:  # by the open file, whatever the name's bytes
        soundfile.write(stream, NOISE[i], 16000, format="wav", **options)
    return path


@pytest.fixture
def odd(tmp_path):
    """A folder with everything that lies about on disks; and what is to become of each entry."""
    root, elsewhere = tmp_path / "music", tmp_path / "elsewhere"
    for i, name in enumerate(["Rock/a.wav", "Rock/live/B.WAV", "Jazz/c.wav"]):
        sound(root / name, i)
    sound(elsewhere / "d.wav", 3)
    for name in ("Rock/._a.wav", "Jazz/.DS_Store", "Rock/cover.jpg", "Rock/a.xyz", "Rock/README"):
        (root / name).write_bytes(b"x")
    sound(root / "__MACOSX/Rock/a.wav")
    (root / "Jazz/linked").symlink_to(elsewhere)
    (root / "Jazz/again").symlink_to(root / "Rock")
    (root / "Jazz/circle").symlink_to(root)
    (root / "Jazz/gone.wav").symlink_to(tmp_path / "nothing")
    (root / "Jazz/loop.wav").symlink_to(root / "Jazz/loop.wav")
    os.mkfifo(root / "Rock/pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(root)  # a socket's whole path may have some 100 characters
        server.bind("Jazz/socket")
    used = {"Rock/a.wav", "Rock/live/B.WAV", "Jazz/c.wav", "Jazz/linked/d.wav"}
    refused = {
        "Jazz/gone.wav": f"{READ}a link to nothing",
        "Jazz/loop.wav": f"{READ}a link to nothing",
        "Rock/pipe.wav": f"{READ}not a regular file",
        "Jazz/socket": f"{READ}not a regular file",
    }
    passed = {".jpg": 1, ".xyz": 1, "without suffix": 1, "hidden": 3}
    return root, used, refused, passed | {"link to a folder listed already": 2}


@pytest.fixture(autouse=True)
def there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_every_command_lists_the_same_files_and_counts_all(odd, cache):
    root, used, refused, passed = odd
    found, others = inputs.sound_files([root])
    by_name = {path.relative_to(root).as_posix(): why for path, why in found.items()}
    assert by_name == dict.fromkeys(used, "") | refused and others == passed
    clips, report = datasets.load_clips("folder", root)
    status = dict(zip(clips["path"], clips["status"], strict=True))
    assert status == dict.fromkeys(used, "ok") | refused and report["passed_over"] == passed
    assert clips.set_index("path").loc["Jazz/linked/d.wav", "genre"] == "Jazz"
    assert report["clips_ok"] + sum(report["clips_refused"].values()) == report["files"] == 8
    report = datasets.validate("folder", root)
    assert report["missing"] == refused and not report["ok"]
    assert any("8 passed over (3 hidden, 2 link" in note for note in report["notes"])


def test_gtzan_lists_so_too(odd, cache):
    root, _, _, passed = odd
    (root / "Rock").rename(root / "rock")
    (root / "Jazz").rename(root / "jazz")
    (root / "blues").mkdir()
    sound(root / "hip hop/x.wav", 5)
    clips, report = datasets.load_clips("gtzan", root)
    assert len(clips) == report["files"] == 9 and (clips["status"] == "ok").sum() == 4
    assert report["passed_over"] == passed | {
        "link to a folder listed already": 1,  # the other's target has moved
        "outside the genres' folders": 1,
    }


def test_a_folder_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    """Also where the tests run as root, who may read everything."""
    sound(tmp_path / "m/Jazz/a.wav")
    (tmp_path / "m/Rock").mkdir()
    true = type(tmp_path).iterdir

    def closed(path):
        if path.name == "Rock":
            raise PermissionError(13, "Permission denied", str(path))
        return true(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", closed)
    *_, clips, _ = datasets.read_table("folder", tmp_path / "m")
    assert dict(zip(clips["path"], clips["status"], strict=True)) == {
        "Jazz/a.wav": "ok",
        "Rock": f"{READ}Permission denied",
    }


def test_nothing_but_other_kinds_is_said(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"x")
    with pytest.raises(GenreUtilsError, match=r"put them in .*; 1 passed over \(1 \.xyz\)"):
        datasets.load_clips("folder", tmp_path)
    with pytest.raises(UsageError, match=r"no sound file.*; 1 passed over \(1 \.xyz\)"):
        inputs.sound_files([tmp_path])


GOOD = [("a.wav", "Rock"), ("b.wav", "Jazz")]
PLAIN = "path,genre\na.wav,Rock\nb.wav,Jazz\n"


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (PLAIN, GOOD),
        (PLAIN.replace(",", ";"), GOOD),
        (PLAIN.replace(",", "\t"), GOOD),
        (PLAIN.replace(",", "|").replace("\n", "\r\n"), GOOD),
        (PLAIN.replace("\n", "\r"), GOOD),
        ("sep=;\n" + PLAIN.replace(",", ";"), GOOD),
        ('"sep=,"\r\n' + PLAIN, GOOD),
        (PLAIN.encode("utf-8-sig"), GOOD),
        (PLAIN.encode("utf-16"), GOOD),
        (PLAIN.encode("utf-16-le"), GOOD),
        (PLAIN.encode("utf-16-be"), GOOD),
        ("path,genre\né.wav,Électro\n".encode("cp1252"), [("é.wav", "Électro")]),
        (PLAIN.replace("Rock", "Rock,").replace("Jazz", "Jazz,"), GOOD),
        (PLAIN.replace("\n", ",,\n"), GOOD),
        ("\n\n" + PLAIN.replace("path,genre", " Path , GENRE\u200b") + "\n,,\n\n", GOOD),
        ('genre,x,path\nRock,"1,\n2",a.wav\nJazz,"",b.wav\n', GOOD),
        ('path,genre,t\na.wav,Rock,"Heroes\nb.wav,Jazz,12" Mix\n', GOOD),
        ('path,genre,t\na.wav,Rock,"Heroes\nb.wav,Jazz,Low"\n', GOOD),
        ('path,genre,t\na.wav,Rock,Say "Hi"\nb.wav,Jazz,"so "" it \\" is"\n', GOOD),
        ("path,genre,t,u\na.wav,Rock\nb.wav, Jazz,x\n", GOOD),
        ("path,genre\na\0.wav,Rock\n", [("a\ufffd.wav", "Rock")]),
        ("path,genre\na.wav,Rock,x\nb.wav\nc.wav,Jazz\n", [("", ""), ("", ""), ("c.wav", "Jazz")]),
    ],
)
def test_tables_as_the_world_writes_them(tmp_path, content, rows):
    path = tmp_path / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table, _ = inputs.read_rows(path, ["path", "genre"])
    assert [*zip(table["path"].str.strip(), table["genre"].str.strip(), strict=True)] == rows
    assert list(table["fault"] != "") == [path == "" for path, _ in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column path, genre; its first line has nothing"),
        ("file;label\na;b\n", "no column path, genre; its first line has file, label"),
        ("path,genre,Path\na,b,c\n", "column path is there twice; keep one of them"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    for place in (tmp_path, tmp_path / "list.csv"):
        with pytest.raises(GenreUtilsError, match=message) as caught:
            datasets.load_clips("csv", place)
        assert "list.csv" in str(caught.value) and "\n" not in str(caught.value)


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.text('a",; \\é'), min_size=1, max_size=4), max_size=6))
def test_rows_in_are_clips_and_refused_rows(tmp_path, cells):
    """Each line that is not empty is a row: by its sound or by its fault; no two share an id."""
    lines = [",".join(line) for line in cells]
    (tmp_path / "list.csv").write_text("\n".join(["path,genre,artist", *lines]), encoding="utf-8")
    rows = sum(any(cell.strip() for cell in line.split(",")) for line in lines)
    swallowed = sum(line.count('"') for line in lines) > 1  # quotes over lines: a row by the rules
    *_, clips, report = datasets.read_table("csv", tmp_path / "list.csv")
    assert len(clips) == report["rows"] and clips["clip_id"].is_unique
    assert len(clips) <= rows and (swallowed or len(clips) == rows or '"' in "".join(lines))


def manifest(folder, rows, header="path,genre"):
    (folder / "list.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    *_, clips, report = datasets.read_table("csv", folder / "list.csv")
    assert len(clips) == report["rows"] == len(rows)
    return clips.set_index("clip_id")["status"].to_dict(), clips, report


def test_paths_of_a_manifest_are_read_where_they_are_plain(tmp_path):
    for i, name in enumerate(["a/1.wav", "a/2.wav", "b\\3.wav", "cafe\u0301.wav"]):
        sound(tmp_path / name, i)
    rows = ["a\\1.wav", f"{tmp_path}/a//2.wav", "b\\3.wav", "caf\u00e9.wav", f"{'x' * 300}.wav"]
    status, clips, _ = manifest(tmp_path, [f"{path},Jazz" for path in [*rows, "/etc/x.wav"]])
    assert status == {
        **dict.fromkeys(["a/1.wav", "a/2.wav", "b\\3.wav", "caf\u00e9.wav", rows[4]], "ok"),
        "/etc/x.wav": datasets.OUTSIDE,
    }
    checked = datasets.check_audio(clips, tmp_path)
    assert checked == {rows[4]: f"{READ}File name too long"}


def test_one_file_in_two_rows_is_counted_once(tmp_path):
    for i in range(3):
        sound(tmp_path / f"{i}.wav", i)
    (tmp_path / "link.wav").symlink_to(tmp_path / "2.wav")
    rows = ["0.wav,Jazz", "./0.wav,jazz", "1.wav,Jazz", "1.wav,Rock", "2.wav,Rock", "link.wav,Rock"]
    status, _, report = manifest(tmp_path, rows)
    twice = {"0.wav line 3": datasets.TWICE, "link.wav": datasets.TWICE}
    twice |= dict.fromkeys(["1.wav", "1.wav line 5"], datasets.TWO_GENRES)
    assert status == {"0.wav": "ok", "2.wav": "ok"} | twice
    assert report["rows_refused"] == twice and datasets.validate("csv", tmp_path)["row"] == twice
    assert any(line.startswith("rows refused: 0.wav line 3") for line in datasets.remarks(report))


def test_the_releases_table_loses_no_row_to_a_quote(tmp_path):
    titles = ['"Heroes', "Low", '12" Mix', 'Say "Hi"', 'End"', "Last"]
    rows = [["clip_id", "title", "artist", "album", "url", "segmentStart", "mp3_path"]]
    rows += [
        [i, t, "A", "B", "http://m/albums/s/", "0", f"0/{i}.mp3"] for i, t in enumerate(titles)
    ]
    lines = ["\t".join(map(str, row)) for row in rows]
    lines += ["6\tcut", "\t".join(f'"{cell}"' for cell in [7, *rows[-1][1:-1], ""])]
    (tmp_path / magnatagatune.CLIP_INFO).write_text("\n".join(lines))
    (tmp_path / "song_info.csv").write_text("albumsku,magnatunegenres\ns,Jazz\n")
    *_, clips, report = datasets.read_table("magnatagatune", tmp_path)
    assert dict(zip(clips["clip_id"], clips["track"], strict=True)) == {
        **{str(i): title for i, title in enumerate(titles)},
        "line 8": "",
    }
    assert report["rows"] == len(clips) + report["rows_without_audio"] == 8
    assert report["rows_refused"] == {"line 8": "row of 2 fields, the header has 7"}
    assert report["clips_matched"] == 6 and report["match_rate"] == 1


@pytest.mark.parametrize(
    "name", ["Hip-Hop", "hip hop", "HIP_HOP", "Hip\u200bHop", "Hip\u2010Hop", " hiphop\u00ad"]
)
def test_spellings_of_a_name_have_one_key(name):
    assert inputs.same(name) == "hiphop"


def test_accents_count_and_their_make_up_does_not():
    assert inputs.same("E\u0301lectro") == inputs.same("\u00c9LECTRO") != inputs.same("Electro")
    different = ["R&B", "RB", "-", "!!!", "演歌", "演歌ー", "हिंदी", "हदी"]
    assert len({inputs.same(name) for name in different}) == len(different)


@pytest.mark.parametrize(
    ("artists", "first"),
    [
        (["Ann feat. Bob"], "Ann"),
        (["Ann (ft. Bob)"], "Ann"),
        (["Ann; Bob"], "Ann"),
        (["  Ann\u200b  Lee "], "Ann Lee"),
        (["Various Artists", "Bob"], "Bob"),
        (["VARIOUS", "V.A.", "[unknown]", "Unknown Artist", "", "Artistes divers"], ""),
        (["Unknown Mortal Orchestra"], "Unknown Mortal Orchestra"),
        (["The Featherweights"], "The Featherweights"),
        (["NA"], "NA"),
        (["!!!"], "!!!"),
    ],
)
def test_who_an_artist_is(artists, first):
    assert inputs.somebody(*artists) == first


def test_spellings_become_the_most_frequent_and_are_told(tmp_path):
    genres = ["Hip-Hop", "Hip-Hop", "hip hop", "HipHop", "\u200b", "E\u0301", "\u00c9", "\u00c9"]
    artists = ["Ann", "ANN", "Ann feat. Bob", "Various Artists", "Bob", "", "Ann", "Cid"]
    both = enumerate(zip(genres, artists, strict=True))
    rows = [f"{i}.wav,{genre},{artist}" for i, (genre, artist) in both]
    status, clips, report = manifest(tmp_path, rows, "path,genre,artist")
    assert Counter(clips["genre"]) == {"Hip-Hop": 4, "\u00c9": 3, "": 1}
    assert list(clips["artist"]) == ["Ann", "Ann", "Ann", "", "Bob", "", "Ann", "Cid"]
    assert status["4.wav"] == "no genre"
    told = {"hip hop": "Hip-Hop", "HipHop": "Hip-Hop", "E\u0301": "\u00c9", "\u200b": ""}
    assert report["merged"] == {"genre": told, "artist": {"ANN": "Ann"}}
    assert "spellings of one artist: 'ANN' is 'Ann'" in datasets.remarks(report)


def test_the_albums_artist_of_a_manifest_is_the_artist(tmp_path):
    rows = ["0.wav,J,Bob,Ann", "1.wav,J,Bob,Various Artists"]
    _, clips, report = manifest(tmp_path, rows, "path,genre,artist,Album Artist")
    assert list(clips["artist"]) == ["Ann", "Bob"] and report["columns_not_used"] == []


def test_names_that_are_no_utf8_or_have_line_ends_come_back(tmp_path, cache):
    root = tmp_path / "m"
    for i, name in enumerate([b"caf\xe9/1.wav", b"caf\xc3\xa9/2.wav", b"Jazz/a\rb\nc.wav"]):
        sound(root / os.fsdecode(name), i)
    for i, name in enumerate(["cafe\u0301.wav", "caf\u00e9.wav"], 3):
        sound(root / "Jazz" / name, i)
    clips, report = datasets.load_clips("folder", root)
    assert report["genres"]["caf\u00e9"]["clips"] == 2 and report["clips_ok"] == 5
    json.dumps(report, ensure_ascii=False).encode()
    run = Run(tmp_path / "run")
    run.write("clips", clips)
    run.record("data_dir", {"path": str(root)})
    again = run.read("clips")
    pd.testing.assert_frame_equal(clips, again, check_dtype=False)
    assert len({file.read_bytes() for file in run.sound_files(again)}) == 5
    assert datasets.audio_digests(again, root).keys() == set(clips["clip_id"])


def tagged(path, tags, kind="flac"):
    path = path.with_suffix(f".{kind}")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, NOISE[0], 16000)
    file = mutagen.File(path, easy=True)
    file.tags is None and file.add_tags()
    file.update(tags)
    file.save()
    return inputs.tags(path)


@pytest.mark.parametrize("kind", ["flac", "mp3", "ogg"])
def test_the_albums_artist_is_the_artist_unless_nobody(tmp_path, kind):
    both = {"albumartist": "Ann", "artist": "Bob", "album": "X", "title": "Y\r\nZ"}
    assert tagged(tmp_path / "a", both, kind) == {"artist": "Ann", "album": "X", "track": "Y Z"}
    assert tagged(tmp_path / "b", both | {"albumartist": "Various"}, kind)["artist"] == "Bob"
    assert tagged(tmp_path / "c", {"artist": ["Cid", "Dee"]}, kind)["artist"] == "Cid"


@pytest.mark.parametrize("name", ["Bj\u00f6rk".encode(), "Bj\u00f6rk".encode("cp1252")])
@pytest.mark.parametrize("behind", [False, True])
def test_wav_files_have_tags_in_their_chunk_info(tmp_path, name, behind):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile(NOISE[0], 6), 16000)
    head, body = path.read_bytes()[:36], path.read_bytes()[36:]
    pairs = [(b"IART", name), (b"INAM", b"Song"), (b"IPRD", b"LP")]
    chunk = b"INFO" + b"".join(
        key + (len(text) + 2 & ~1).to_bytes(4, "little") + text.ljust(len(text) + 2 & ~1, b"\0")
        for key, text in pairs
    )
    chunk = b"LIST" + len(chunk).to_bytes(4, "little") + chunk
    path.write_bytes(head + body + chunk if behind else head + chunk + body)
    assert inputs.tags(path) == {"artist": "Bj\u00f6rk", "album": "LP", "track": "Song"}


@pytest.mark.parametrize("error", [IndexError, MemoryError, RecursionError, UnicodeDecodeError])
def test_damaged_tags_cost_the_tags_of_one_file(tmp_path, cache, monkeypatch, error):
    tagged(tmp_path / "m/Jazz/a", {"artist": "Ann"})
    tagged(tmp_path / "m/Jazz/b", {"artist": "Bob"})
    true = mutagen.File

    def fail(path, **how):
        if path.name == "a.flac":
            raise error(*(["utf-8", b"x", 0, 1, "?"] if error is UnicodeDecodeError else []))
        return true(path, **how)

    monkeypatch.setattr(inputs.mutagen, "File", fail)
    clips, report = datasets.load_clips("folder", tmp_path / "m")
    assert list(clips["artist"]) == ["", "Bob"] and report["clips_ok"] == 2
    assert report["tags_unreadable"] == ["Jazz/a.flac"]
    assert "tags that cannot be read: Jazz/a.flac" in datasets.remarks(report)


def test_a_decoder_that_ends_its_process_costs_one_file(tmp_path, cache, monkeypatch):
    for i in range(6):
        sound(tmp_path / f"m/Jazz/{i}.wav", i)
    monkeypatch.setattr(audio, "check", lambda p: os._exit(9) if p.name == "3.wav" else (1.0, "ok"))
    _, report = datasets.load_clips("folder", tmp_path / "m", jobs=2)
    assert report["clips_ok"] == 5
    assert report["audio_refused"] == {
        "Jazz/3.wav": "cannot be decoded: it ends the decoder's process"
    }


def test_validate_says_what_was_passed_over(odd, cache, capsys):
    shutil.rmtree(odd[0] / "Jazz")
    (odd[0] / "Rock/pipe.wav").unlink()
    assert main(["datasets", "validate", "folder", "--data-dir", str(odd[0])]) == 0
    out = capsys.readouterr().out
    assert "note: files: 5 passed over (2 hidden, 1 " in out
