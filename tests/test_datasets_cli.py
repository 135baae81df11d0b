"""``datasets``: the table, validation, clip tables, and splits that others reuse."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_utils.__main__ import parser
from genre_utils.data import datasets, splits
from genre_utils.data import datasets as validation
from genre_utils.data import download as releases
from genre_utils.data import splits as split_file
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import write_json


def run(*words):
    arguments = parser().parse_args(["datasets", *map(str, words)])
    return arguments.func(arguments)


@pytest.fixture
def music(tmp_path, cache):
    """Two genres of three artists with four files each; tags as a manifest."""
    folder, rows = tmp_path / "my set", []
    for i in range(24):
        genre, artist = "GH"[i % 2], "ABC"[i // 2 % 3]
        path = folder / f"{genre} {i:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.random.default_rng(i).normal(0, 0.1, 16000 + 160 * i), 16000)
        rows.append({"path": path.name, "genre": genre, "artist": genre + artist})
    pd.DataFrame(rows).to_csv(folder / "list.csv", index=False)
    return folder


def test_the_table_names_every_set_with_its_licence(capsys):
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *datasets.DATASETS]
    for one in datasets.DATASETS.values():
        row = next(line for line in lines if line.startswith(one.name))
        assert all(text in row for text in (one.clips, one.size, one.licence, one.needs))


def test_clips_are_written_and_counted(music, tmp_path, capsys):
    (music / "G 00.wav").write_bytes(b"")
    shutil.copy(music / "G 02.wav", music / "H 23.wav")
    assert run("clips", "csv", "--data-dir", music, "--out", tmp_path / "clips.csv") == 0
    table = pd.read_csv(tmp_path / "clips.csv")
    report = json.loads(capsys.readouterr().out)
    assert tuple(table.columns[:4]) == ("clip_id", "path", "dataset", "genre") and len(table) == 24
    assert dict(table["status"].value_counts()) == {"ok": 23, "empty file": 1}
    assert report["clips_ok"] == 23 and report["audio_refused"] == {"G 00.wav": "empty file"}
    assert report["duplicates"] == [
        {
            "kind": "exact",
            "clip_id": "G 02.wav",
            "other_id": "H 23.wav",
            "similarity": 1.0,
            "genre": "G",
            "other_genre": "H",
        }
    ]


def export(music, path, *words):
    made = ("clips", "csv", "--data-dir", music, "--out", path.with_suffix(".table"))
    return run(*made, "--export-split", path, "--folds", 3, "--min-artists", 2, *words)


def test_exported_split_comes_back_as_it_was(music, tmp_path, capsys):
    path, out = tmp_path / "split.csv", tmp_path / "clips.csv"
    assert export(music, path, "--max-per-genre", 9) == 0
    assert json.loads(capsys.readouterr().out)["split"] == {"clips": 18, "file": str(path)}
    assert run("clips", "csv", "--data-dir", music, "--out", out, "--use-split", path) == 0
    used = pd.read_csv(out)
    assert dict(used["status"].value_counts()) == {"ok": 18, split_file.NOT_IN_IT: 6}
    clips, _ = datasets.load_clips("csv", music)
    clips, folds = split_file.use_split(path, clips)
    true = splits.make_splits(clips, ["random", "artist"], 3, 0)
    same = [part.sort_values(["protocol", "clip_id"], ignore_index=True) for part in (folds, true)]
    pd.testing.assert_frame_equal(*same)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(music, tmp_path, capsys):
    files = [tmp_path / f"{i}.csv" for i in range(3)]
    for path, seed in zip(files, (1, 1, 2), strict=True):
        export(music, path, "--seed", seed, "--max-per-genre", 9)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    header, first = files[0].read_text().splitlines()[:2]
    assert header == "dataset,clip_id,path,genre,fold_random,fold_artist"
    assert first.startswith("csv,G ")


def test_duplicates_stay_together_in_an_exported_split(music, tmp_path, capsys):
    for i in (2, 8, 14):
        shutil.copy(music / f"G {i:02d}.wav", music / f"H {i + 1:02d}.wav")
    export(music, tmp_path / "split.csv", "--protocols", "random")
    fold = pd.read_csv(tmp_path / "split.csv").set_index("clip_id")["fold_random"]
    pairs = json.loads(capsys.readouterr().out)["duplicates"]
    assert len(pairs) == 3
    assert all(fold[pair["clip_id"]] == fold[pair["other_id"]] for pair in pairs)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            "G 02.wav,G 02.wav",
            "G 99.wav,G 99.wav",
            GenreUtilsError,
            r"1 of 24 clips cannot be used here; first: G 99.wav: no such clip",
        ),
        ("G 02.wav,G,", "G 02.wav,H,", GenreUtilsError, "1 of 24 clips have another genre here"),
        ("csv,", "gtzan,", UsageError, "splits gtzan, not csv"),
        ("fold_artist", "fold_label", GenreUtilsError, "is no split file"),
        (",genre", ",label", GenreUtilsError, "is no split file"),
        ("csv,G 02.wav,", "csv,G 00.wav,", GenreUtilsError, "is no split file"),
        ("fold_random,fold_artist", "a,b", GenreUtilsError, "is no split file"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(music, tmp_path, capsys, old, new, error, message):
    path = tmp_path / "split.csv"
    export(music, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    clips, _ = datasets.load_clips("csv", music)
    with pytest.raises(error, match=message) as caught:
        split_file.use_split(path, clips)
    assert type(caught.value) is error and "\n" not in str(caught.value)


def test_a_split_with_a_spoiled_clip_names_the_reason(music, tmp_path, capsys):
    export(music, tmp_path / "split.csv")
    (music / "G 02.wav").write_bytes(b"")
    clips, _ = datasets.load_clips("csv", music)
    with pytest.raises(GenreUtilsError, match=r"first: G 02.wav: empty file"):
        split_file.use_split(tmp_path / "split.csv", clips)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--use-split", "a", "--export-split", "b"], "give one"),
        (["--use-split", "none.csv"], "no split file none.csv"),
        (["--jobs", "-1"], "--jobs must be 0 or more"),
        (["--max-per-genre", "-1"], "max_per_genre=-1"),
        (["--multi-genre", "first"], "csv has no option multi_genre"),
        (["--export-split", "x", "--protocols", "random,artists"], "unknown protocol 'artists'"),
    ],
)
def test_wrong_calls(music, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        run("clips", "csv", "--data-dir", music, "--out", "clips.csv", *words)
    assert not (tmp_path / "clips.csv").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["clips", "csv"],
        ["download", "gtzan"],
        ["clips", "csv", "--out", "x", "--outt", "y"],
        ["clips", "csv", "--out", "x", "--multi-genre", "second"],
        ["fetch"],
    ],
)
def test_unknown_words_and_missing_options_leave_with_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_validate_finds_each_kind_of_fault(music, capsys):
    assert run("validate", "csv", "--data-dir", music) == 0
    assert "24 clips: 0 faulty, 0 known to be so" in capsys.readouterr().out
    (music / "G 00.wav").unlink()
    (music / "H 01.wav").write_text("This is no sound.")
    soundfile.write(music / "G 02.wav", np.ones(4800), 16000)
    soundfile.write(music / "H 03.wav", np.zeros(16000), 16000)
    with (music / "list.csv").open("a") as stream:
        stream.write("../x.wav,G,GA\n")
    assert run("validate", "csv", "--data-dir", music, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    found = {kind: list(report[kind]) for kind in (*validation.FAULTS, "known_bad")}
    assert found == {
        "missing": ["G 00.wav"],
        "undecodable": ["H 01.wav"],
        "too_short": ["G 02.wav"],
        "silent": ["H 03.wav"],
        "outside": ["../x.wav"],
        "wrong_checksum": [],
        "known_bad": [],
    }
    assert report["ok"] is False and report["clips"] == 25
    assert run("validate", "csv", "--data-dir", music) == 1
    assert "missing: G 00.wav: cannot be read" in capsys.readouterr().out


def test_validate_compares_with_what_was_downloaded(music, capsys):
    shutil.copy(music / "G 00.wav", music / "G 02.wav")  # sound, but not what was released
    released = {path.name: list(validation._size_and_crc(path)) for path in music.glob("*.wav")}
    released["G 02.wav"][1] += 1
    write_json(music / releases.RECEIPT, {"files": released})
    assert run("validate", "csv", "--data-dir", music) == 1
    assert "wrong checksum: G 02.wav: not as released" in capsys.readouterr().out


def test_known_bad_files_do_not_count(tmp_path, cache, capsys):
    for name in ("blues/blues.00000.wav", "jazz/jazz.00054.wav", "jazz/jazz.00055.wav"):
        (tmp_path / "genres" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "genres" / name, np.ones(32000), 16000)
    (tmp_path / "genres/jazz/jazz.00054.wav").write_bytes(b"")
    assert run("validate", "gtzan", "--data-dir", tmp_path) == 0
    assert "known bad: genres/jazz/jazz.00054.wav: empty file" in capsys.readouterr().out
    (tmp_path / "genres/jazz/jazz.00055.wav").write_bytes(b"")
    assert run("validate", "gtzan", "--data-dir", tmp_path) == 1


def test_download_says_licence_and_size_before_anything_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(releases, "download", lambda *_: iter(["first step"]))
    assert run("download", "magnatagatune", "--data-dir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "CC BY-NC-SA" in lines[2] and "3.0 GB" in lines[3] and lines[-1] == "first step"
    monkeypatch.undo()
    with pytest.raises(UsageError, match="nothing to fetch for 'folder'"):
        run("download", "folder", "--data-dir", tmp_path)


def test_real_excerpt_is_sound_but_for_the_known_empty_files(shared, cache, capsys):
    folder = shared / "data" / "magnatune-mini"
    assert run("validate", "magnatagatune", "--data-dir", folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == 588 and len(report["known_bad"]) == 3
    assert any("clip_info_final.csv is not the release's" in note for note in report["notes"])
