"""The cache is listed as it is, and pruned of nothing that is needed."""

import argparse
import json
import os
import time

import numpy as np
import pytest

from genre_utils import cache_cli
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Store

DAY = 86400


def _aged(path, days):
    stamp = time.time() - days * DAY
    os.utime(path, (stamp, stamp))


@pytest.fixture
def stored(cache, tmp_path, monkeypatch):
    """Two stores of "mel" (one old), an old one that a run needs, folds, left-over files."""
    monkeypatch.setattr(cache_cli, "RUNS", tmp_path / "runs")
    root, made = cache / "arrays", {}
    for label, name, key, clips, days in (
        ("now", "mel", {"n_mels": 216, "code": "b" * 16}, 5, 0.5),
        ("old", "mel", {"n_mels": 128, "audio": {"n_mels": 1}, "names": ["x"]}, 3, 40),
        ("needed", "vgg-mel", {"features": "mel-x", "precision": "float32"}, 2, 50),
    ):
        store = Store(root, name, key)
        store.put([f"{i}" for i in range(clips)], np.zeros((clips, 1000), np.float32))
        store.put(["more"], np.zeros((1, 1000), np.float32))
        _aged(store.folder / "key.txt", days)
        made[label] = store.folder
    run = tmp_path / "runs" / "demo-demo"
    run.mkdir(parents=True)
    (run / "arrays.json").write_text(json.dumps({"vgg-mel": str(made["needed"])}))
    (root / "folds").mkdir()
    for label, days in (("fold", 35), ("fold now", 1)):
        made[label] = root / "folds" / f"cnn-mel-{len(made):024x}.npz"
        np.savez(made[label], x=np.zeros(10))
        _aged(made[label], days)
    for label, days in (("part", 2), ("part now", 0)):
        made[label] = made["now"] / f".part-{len(made)}.npy"
        made[label].write_bytes(b"half")
        _aged(made[label], days)
    return made


def _cache(*words):
    parser = argparse.ArgumentParser()
    cache_cli.add_parsers(parser.add_subparsers())
    arguments = parser.parse_args(["cache", *words])
    return arguments.func(arguments)


def _there(stored):
    return {label for label, path in stored.items() if path.exists()}


def test_show_lists_name_clips_size_use_run_and_parameters(stored, capsys):
    ages = {label: path.stat().st_mtime for label, path in stored.items()}
    assert _cache() == _cache("show") == 0
    text = capsys.readouterr().out
    lines = text[: len(text) // 2].splitlines()
    assert text == "".join(f"{line}\n" for line in lines) * 2  # a look changes nothing
    assert ages == {label: path.stat().st_mtime for label, path in stored.items()}
    mel = [line.split() for line in lines if line.startswith("mel")]
    assert [(line[1], line[-1]) for line in mel] == [("6", "n_mels=216"), ("4", "n_mels=128")]
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 40 * DAY))
    assert day in mel[1]
    (vgg,) = [line for line in lines if line.startswith("vgg-mel")]
    assert "3 clips" in vgg
    assert "runs/demo-demo" in vgg
    assert any(line.startswith("cnn-mel") and "2 folds" in line for line in lines)
    size = sum(path.stat().st_size for path in stored["old"].iterdir())
    assert f"{size / 1e6:.1f} MB" in " ".join(mel[1])
    assert lines[-1].startswith("3 stores, 0.1 MB in ")


def test_an_empty_cache_is_no_error(cache, capsys):
    assert _cache() == _cache("prune") == 0
    assert "0 stores, 0.0 MB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ([], {"old", "fold", "part"}),
        (["--older-than", "45"], {"part"}),
        (["--older-than", "0"], {"old", "now", "fold", "fold now", "part", "part now"}),
        (["--name", "mel"], {"old"}),
        (["--name", "cnn-mel"], {"fold"}),
        (["--all", "--older-than", "45"], {"needed", "part"}),
        (["--all", "--name", "vgg-mel"], {"needed"}),
        (["--all"], {"old", "now", "needed", "fold", "fold now", "part", "part now"}),
    ],
)
def test_prune_deletes_what_is_asked_for_and_nothing_else(stored, capsys, words, gone):
    before = sum(one.size for one in cache_cli.entries())
    assert _cache("prune", "--dry-run", *words) == 0
    assert _there(stored) == set(stored)
    said = capsys.readouterr().out
    assert "would be freed" in said
    assert _cache("prune", *words) == 0
    assert _there(stored) == set(stored) - gone
    freed = before - sum(one.size for one in cache_cli.entries())
    text = capsys.readouterr().out
    assert f"{freed / 1e6:.1f} MB freed" in text
    assert text.splitlines()[:-1] == said.splitlines()[:-1]


def test_what_stays_is_still_read(stored):
    _cache("prune")
    assert Store.opened(stored["now"]).load(["0", "more"]).shape == (2, 1000)
    assert Store.opened(stored["needed"]).missing(["0", "more"]) == []


def test_a_deletion_broken_off_leaves_something_to_prune(stored, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache_cli.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            _cache("prune", "--name", "mel")
    (left,) = stored["old"].parent.glob(".part-*")
    _aged(left, 2)
    assert _cache("prune", "--older-than", "100") == 0
    assert not left.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "mell"], "nothing named 'mell' is stored; there is cnn-mel, left over, mel"),
        (["--older-than", "-1"], "--older-than -1: 0 days or more"),
        (["--older-than", "nan"], "0 days or more"),
    ],
)
def test_a_wrong_call_is_one_line(stored, words, said):
    with pytest.raises(UsageError, match=said):
        _cache("prune", *words)
    assert _there(stored) == set(stored)


def test_what_cannot_be_deleted_is_one_line(stored, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_cli.Path, "rename", refused)
    with pytest.raises(GenreUtilsError, match=r"^cannot delete .*mel-\w+: Permission denied$"):
        _cache("prune", "--name", "mel")


def test_damaged_files_are_listed_all_the_same(stored, capsys):
    (stored["old"] / "key.txt").write_text("{")
    next(stored["old"].glob("*.json")).write_text("[")
    assert _cache() == 0
    assert "its key is damaged" in capsys.readouterr().out
