"""The commands: what they print, and how they end."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_utils.__main__ import main
from genre_utils.data import datasets


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


def run(*words):
    return main([str(word) for word in words])


def test_the_table_names_every_set_with_its_licence(capsys):
    assert run("datasets") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *datasets.DATASETS]
    for dataset in datasets.DATASETS.values():
        row = next(line for line in lines if line.startswith(dataset.name))
        facts = (dataset.clips, dataset.size, dataset.licence, dataset.needs)
        assert all(fact in row for fact in facts)


@pytest.mark.parametrize(
    "words",
    [
        ["fetch"],
        ["datasets", "download", "gtzan"],
        ["datasets", "validate"],
        ["datasets", "validate", "csv", "--jobs", "two"],
        ["datasets", "validate", "nosuchset", "--data-dir", "x"],
        ["datasets", "validate", "csv", "--jobs", "-1", "--data-dir", "x"],
        ["datasets", "download", "folder", "--data-dir", "x"],
        ["predict", "model"],
        ["predict", "/no/such/model", "/no/such/file"],
        ["train", "--dataset", "demo", "--out", "x", "--epochs", "-1"],
        ["train", "--dataset", "demo", "--out", "x", "--epochs", "0"],
        ["predict", "model", "song.wav", "--jobs", "100000"],
        ["publish", "/no/such/run", "x"],
        ["sensitivity", "/no/such/run"],
    ],
)
def test_a_wrong_call_is_one_line_and_exit_2(words, cache, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_every_command_explains_itself(capsys):
    commands = ("run", "publish", "sensitivity", "datasets", "train", "predict")
    for command in commands:
        assert run(command, "--help") == 0
        assert command in capsys.readouterr().out


def test_validate_says_what_is_wrong_and_leaves_with_1(music, capsys):
    assert run("datasets", "validate", "csv", "--data-dir", music) == 0
    assert "24 clips: 0 faulty, 0 known to be so" in capsys.readouterr().out
    (music / "G 00.wav").unlink()
    assert run("datasets", "validate", "csv", "--data-dir", music) == 1
    assert "missing: G 00.wav: cannot be read" in capsys.readouterr().out
    assert run("datasets", "validate", "csv", "--data-dir", music, "--json") == 1
    assert list(json.loads(capsys.readouterr().out)["missing"]) == ["G 00.wav"]


def test_validate_goes_on_where_nothing_can_be_kept(music, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENRE_UTILS_CACHE", str(tmp_path / "file" / "cache"))
    assert run("datasets", "validate", "csv", "--data-dir", music) == 0


def test_download_says_licence_and_size_before_anything_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "download", lambda *_: iter(["first step"]))
    assert run("datasets", "download", "magnatagatune", "--data-dir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "CC BY-NC-SA" in lines[2]
    assert "3.0 GB" in lines[3]
    assert lines[-1] == "first step"


def test_real_excerpt_is_sound_but_for_the_known_empty_files(shared, cache, capsys):
    folder = shared / "data" / "magnatune-mini"
    words = ("datasets", "validate", "magnatagatune", "--data-dir", folder, "--json")
    assert run(*words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == 588
    assert len(report["known_bad"]) == 3


def test_a_spoiled_copy_of_the_excerpt_fails(shared, cache, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(shared / "data" / "magnatune-mini", folder)
    path = max(folder.glob("mp3/*/*.mp3"), key=lambda path: path.stat().st_size)
    path.chmod(0o644)
    path.write_text("no sound")
    words = ("datasets", "validate", "magnatagatune", "--data-dir", folder)
    assert run(*words) == 1
    assert f"undecodable: mp3/{path.parent.name}/{path.name}" in capsys.readouterr().out
