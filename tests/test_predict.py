import argparse
import csv
import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from genre_utils.__main__ import Parser
from genre_utils.data import audio
from genre_utils.data import audio as song
from genre_utils.extraction import features, vgg
from genre_utils.extraction import vgg as weights
from genre_utils.models import explain
from genre_utils.own import cli
from genre_utils.own_music import Predictor, SavedModel
from genre_utils.runtime import GenreUtilsError, UsageError

GENRES = ("Ambient", "Hard Rock", "Jazz")


@pytest.fixture(autouse=True)
def _nothing_heard_before(cache):
    """Each test begins with an empty cache."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small head with random weights behind the untrained trunk."""
    rng = np.random.default_rng(0)
    sizes = (512, 512, 256, len(GENRES))
    arrays = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        arrays[f"kernel_{i}"] = rng.normal(0, 0.05, (inputs, outputs)).astype(np.float32)
        arrays[f"bias_{i}"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    digest = weights.load_weights("random").digest
    how = {
        "array": "vgg-mel",
        "offset": 0.0,
        "fill": "repeat",
        "mel_scale": "db",
        "channels": "repeat",
        "preprocessing": "vgg16",
        "precision": "float32",
        "weights": digest,
        "untrained": True,
    }
    data = {
        "title": "a made-up set",
        "synthetic": True,
        "licence": "none",
        "citation": "none",
        "clips": 3,
        "genres": {g: {"clips": 1, "artists": 1} for g in GENRES},
        "refused": {},
    }
    facts = {
        "system": "cnn-mel-small",
        "about": "a test",
        "data": data,
        "features": how,
        "settings": {"seed": 0},
        "estimate": {"none": "a test"},
        "versions": {},
    }
    folder = tmp_path_factory.mktemp("model") / "model"
    SavedModel("head-average", GENRES, arrays, 2.0, facts).save(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model)


def sound(path, seconds, sr=16000, channels=1, level=0.3, **how):
    """Write noise over a tone."""
    n = round(seconds * sr)
    y = np.random.default_rng(1).normal(0, 0.1, (n, channels))
    y += np.sin(2 * np.pi * 440 * np.arange(n) / sr)[:, None]
    soundfile.write(path, level * y / 2, sr, **how)
    return path


# Windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sr", [8000, 16000, 44100, 96000])
@pytest.mark.parametrize("seconds", [3, 20, 20.5, 30, 47.3, 75])
def test_windows_cover_the_file_and_are_cut_from_what_decode_gives(tmp_path, sr, seconds):
    path = sound(tmp_path / "x.wav", seconds, sr, channels=2, subtype="FLOAT")
    whole, found = audio.decode(path), list(song.windows(path))
    heard = np.zeros(len(whole), bool)
    for start, y in found:
        first = round(start * audio.SAMPLE_RATE)
        assert np.allclose(y, whole[first : first + len(y)], atol=1e-6)
        heard[first : first + len(y)] = True
    assert heard.all()
    starts = [start for start, _ in found]
    expected = [0.0, *np.arange(10, seconds - 20 + 1e-9, 10)]
    if seconds > 20 and seconds % 10:
        expected.append(seconds - 20)
    assert starts == pytest.approx(expected, abs=1e-4)
    assert {len(y) for _, y in found} == {min(len(whole), 20 * audio.SAMPLE_RATE)}


def test_a_long_file_is_read_piece_by_piece(tmp_path, monkeypatch):
    path = sound(tmp_path / "x.flac", 300)
    asked = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, **how: asked.append(n) or read(self, n, **how)
    )
    following = song.windows(path)
    assert next(following)[0] == 0
    assert len(asked) == 1  # 30 s for the first window of 300 s
    longest = max(y.base.nbytes for _, y in following)
    assert longest <= 4 * 16000 * (song.PIECE + 30)
    assert set(asked) == {song.PIECE * 16000}


def test_folders_are_searched_and_nothing_is_passed_over(tmp_path):
    (tmp_path / "a" / "b c").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    names = ["a/1.wav", "a/b c/Ünï 日本.MP3", "a/b c/x.opus", "a/notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "circle").symlink_to(tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.ogg").write_bytes(b"x")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    places = [tmp_path / "a", tmp_path / "a/1.wav", tmp_path / "empty", tmp_path / "gone.wav"]
    found = song.sound_files(places)
    usable = [path.relative_to(tmp_path).as_posix() for path, why in found.items() if not why]
    assert usable == sorted([*names[:3], "a/link/2.ogg"])
    refused = {path.name: why for path, why in found.items() if why}
    assert refused.keys() == {"empty", "gone.wav"}
    assert refused["gone.wav"] == "no such file or folder"
    assert song.sound_files([tmp_path / "a/notes.txt"])  # named: tried, whatever it is called
    with pytest.raises(UsageError, match=r"no sound file to listen to.*no such file"):
        song.sound_files([tmp_path / "gone.wav"])
    with pytest.raises(UsageError, match="no sound files in it"):
        song.sound_files([tmp_path / "empty"])


# Files that can be used ----------------------------------------------------------------------


def test_probabilities_are_those_of_the_stages_done_by_hand(tmp_path, predictor):
    path = sound(tmp_path / "x.wav", 25)
    found = predictor.predict_file(path)
    assert list(found.windows) == ["start_s", *GENRES]
    assert list(found.windows["start_s"]) == [0.0, 5.0]
    trunk = weights.build_trunk((216, 626, 3), weights.load_weights("random").arrays)
    model = predictor.model
    for _, row in found.windows.iterrows():
        y = audio.load_clip(path, offset=row["start_s"])
        image = features.to_image(features.mel_spectrogram(y), "mel")
        maps = trunk.predict(vgg.preprocess(image[None]), verbose=0)
        hidden = maps.mean(axis=(0, 1, 2))
        for i in (1, 2):
            hidden = np.maximum(0, hidden @ model.arrays[f"kernel_{i}"] + model.arrays[f"bias_{i}"])
        logits = (hidden @ model.arrays["kernel_3"] + model.arrays["bias_3"]) / 2  # temperature
        by_hand = np.exp(logits) / np.exp(logits).sum()
        assert np.allclose(row[list(GENRES)].astype(float), by_hand, atol=1e-3)
    mean = found.windows[list(GENRES)].mean()
    assert found.probabilities.sum() == pytest.approx(1)
    assert found.probabilities.to_dict() == pytest.approx(mean.to_dict())
    assert (found.genre, found.confidence) == (mean.idxmax(), pytest.approx(mean.max()))
    again = predictor.predict_file(path)
    assert again.windows.equals(found.windows)


def test_a_song_is_heard_once(model, predictor, tmp_path, monkeypatch):
    path = sound(tmp_path / "x.wav", 25)
    found = predictor.predict_file(path)
    heard, hear = [], Predictor._hear
    monkeypatch.setattr(Predictor, "_hear", lambda self, p: heard.append(p.name) or hear(self, p))
    moved = path.rename(tmp_path / "another name.wav")
    again = predictor.predict_file(moved)
    assert again.windows.equals(found.windows)
    assert heard == []
    other = sound(tmp_path / "other.wav", 25, level=0.2)
    assert not predictor.predict_file(other).windows.equals(found.windows)
    known = json.loads((model / "model.json").read_text())
    folder = tmp_path / "cooler"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(known | {"temperature": 4.0}))
    (folder / "arrays.npz").write_bytes((model / "arrays.npz").read_bytes())
    assert Predictor(folder).predict_file(moved).confidence < found.confidence
    (tmp_path / "empty.wav").touch()
    for _ in range(2):
        assert predictor.predict_file(tmp_path / "empty.wav").refused == "empty file"
    assert heard == ["other.wav", "another name.wav", "empty.wav", "empty.wav"]


def test_what_was_heard_needs_no_tensorflow(model, predictor, tmp_path):
    found = predictor.predict_file(sound(tmp_path / "x.wav", 3))
    code = (
        "import sys; from genre_utils.own import predict; "
        "predict._weights = lambda wanted: None; "  # TensorFlow draws the untrained ones
        f"found = predict.Predictor({str(model)!r}).predict_file({str(tmp_path / 'x.wav')!r}); "
        "print(repr(found.confidence), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [repr(found.confidence), "False"]


def test_a_window_is_explained_once(model, predictor, tmp_path, monkeypatch):
    mel = features.mel_spectrogram(audio.load_clip(sound(tmp_path / "x.wav", 20)))
    gradient, occlusion = predictor.explain(mel, "Jazz", (1, 2))
    head, arrays = predictor.model.head(), weights.load_weights("random").arrays
    network, image = explain.Network(arrays, head), features.to_image(mel, "mel")
    assert np.array_equal(gradient, explain.grad_cam(network, image, "Jazz"))
    assert np.array_equal(occlusion, explain.occlusion(network, image, "Jazz", (1, 2)))
    monkeypatch.setattr(Predictor, "_explained", None)
    again = Predictor(model).explain(mel, "Jazz", (1, 2))
    assert np.array_equal(again, [gradient, occlusion])
    with pytest.raises(TypeError):  # another question is another computation
        predictor.explain(mel, "Ambient", (1, 2))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("stereo 96 kHz.wav", {"sr": 96000, "channels": 2}),
        ("8 kHz.au", {"sr": 8000}),
        ("Ünï 日本.ogg", {}),
        ("x.mp3", {"sr": 44100}),
        ("really a wav.mp3", {"format": "WAV"}),
        ("no extension", {"format": "FLAC"}),
        ("x.aiff", {}),
    ],
)
def test_formats_and_names(tmp_path, predictor, name, how):
    found = predictor.predict_file(sound(tmp_path / name, 2, **how))
    assert found.refused == ""
    assert found.genre in GENRES
    assert len(found.windows) == 1


def test_a_silent_window_has_no_say(tmp_path, predictor):
    path = sound(tmp_path / "x.wav", 20)
    y, sr = soundfile.read(path)
    soundfile.write(tmp_path / "late.wav", np.concatenate([np.zeros(20 * sr), y]), sr)
    found = predictor.predict_file(tmp_path / "late.wav")
    assert list(found.windows["start_s"]) == [0, 10, 20]
    assert found.windows["Jazz"].isna().tolist() == [True, False, False]
    assert found.probabilities.sum() == pytest.approx(1)


# Files that cannot ---------------------------------------------------------------------------


def _bad(folder):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("not music at all\n" * 100)
    soundfile.write(folder / "silent.wav", np.zeros(30 * 16000), 16000)
    sound(folder / "short.wav", 0.5)
    soundfile.write(folder / "headers only.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.full(32000, np.nan), 16000, subtype="FLOAT")
    (folder / "dangling.wav").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe.wav")
    return {
        "empty.wav": "empty file",
        "text.mp3": "cannot be decoded",
        "silent.wav": "silent",
        "short.wav": "too short: 0.5 s",
        "headers only.wav": "no samples",
        "nan.wav": "not finite",
        "dangling.wav": "cannot be read: No such file",
        "pipe.wav": "not a regular file",
    }


def _main(*argv):
    """Run the command as ``__main__.main`` does; returns exit code, and what an error says."""
    whole = Parser()
    cli.add_parsers(whole.add_subparsers(dest="command", required=True))
    try:
        arguments = whole.parse_args([str(word) for word in argv])
        return arguments.func(arguments), ""
    except GenreUtilsError as error:
        return (2 if isinstance(error, UsageError) else 1), str(error)
    except SystemExit as leave:
        return leave.code, "usage"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with every kind of bad file and two good ones."""
    folder = tmp_path_factory.mktemp("mixed")
    bad = _bad(folder)
    sound(folder / "good, with comma.wav", 3)
    sound(folder / "über.flac", 25)
    return folder, bad


@pytest.mark.parametrize("form", ["--json", "--csv", ""])
def test_refused_files_are_listed_and_the_others_answered(model, mixed, form, capfd):
    folder, bad = mixed
    code, said = _main("predict", model, folder, *filter(None, [form]))
    assert (code, said) == (1, "")
    out, err = capfd.readouterr()
    assert "10 files = 2 predicted + 8 refused" in err
    assert "it has heard no real music, its VGG-16 is untrained" in err
    if form == "--json":
        rows = {Path(row["path"]).name: row for row in json.loads(out)}
        refused = {name: row["refused"] for name, row in rows.items() if "refused" in row}
        good = {name: row["genre"] for name, row in rows.items() if "genre" in row}
        two = rows["über.flac"]["windows"]
        assert [window["start_s"] for window in two] == [0, 5]
        assert sum(rows["über.flac"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        mean = np.mean([window["Jazz"] for window in two])
        assert rows["über.flac"]["probabilities"]["Jazz"] == pytest.approx(mean, abs=1e-5)
    elif form == "--csv":
        table = list(csv.DictReader(io.StringIO(out)))
        assert len(table) == 10
        refused = {Path(row["path"]).name: row["refused"] for row in table if row["refused"]}
        good = {Path(row["path"]).name: row["genre"] for row in table if row["genre"]}
        for row in (row for row in table if row["genre"]):
            p = [float(row[f"p_{genre}"]) for genre in GENRES]
            assert sum(p) == pytest.approx(1, abs=1e-5)
            assert float(row["confidence"]) == max(p)
    else:
        lines = {line.split("  ")[0].rpartition("/")[2]: line for line in out.splitlines()}
        refused = {n: line.split("refused: ")[1] for n, line in lines.items() if "refused" in line}
        good = {n: line for n, line in lines.items() if "refused" not in line}
    assert good.keys() == {"good, with comma.wav", "über.flac"}
    assert refused.keys() == bad.keys()
    for name, words in bad.items():
        assert words in refused[name], (name, refused[name])


def test_all_good_is_0_and_the_number_of_jobs_changes_nothing(model, tmp_path, capfd, monkeypatch):
    for i, seconds in enumerate((2, 3, 21)):
        sound(tmp_path / f"{i}.wav", seconds)
    outputs = []
    for jobs in (1, 3):
        monkeypatch.setenv("GENRE_UTILS_CACHE", str(tmp_path / f".cache{jobs}"))
        assert _main("predict", model, tmp_path, "--json", "--jobs", jobs) == (0, "")
        outputs.append(capfd.readouterr().out)
    assert outputs[0] == outputs[1]
    assert [Path(row["path"]).name for row in json.loads(outputs[0])] == ["0.wav", "1.wav", "2.wav"]


def test_wrong_calls(model, mixed, tmp_path, capfd):
    folder, _ = mixed
    nowhere = tmp_path / "nothing"
    assert _main("predict", nowhere, folder) == (
        2,
        f"{nowhere}: no model here (no model.json); `python -m genre_utils train` makes one",
    )
    code, said = _main("predict", model, nowhere)
    assert (code, "\n" in said) == (2, False)
    assert "no such file or folder" in said
    assert _main("predict", model) == (2, "usage")
    assert _main("predict", model, folder, "--json", "--csv") == (2, "usage")
    assert _main("predict", model, folder, "--jobs", "-1")[0] == 2
    assert _main("train", "--dataset", "demo", "--out", tmp_path / "m", "--epochs", "-1")[0] == 2
    assert capfd.readouterr().out == ""


def test_a_trunk_that_cannot_be_had(model, mixed, tmp_path):
    known = json.loads((model / "model.json").read_text())
    known["facts"]["features"]["weights"] = "e" * 64
    (tmp_path / "model.json").write_text(json.dumps(known))
    (tmp_path / "arrays.npz").write_bytes((model / "arrays.npz").read_bytes())
    code, said = _main("predict", tmp_path, mixed[0])
    assert code == 1
    assert "neither the published ones" in said


def test_names_are_printed_on_one_line(tmp_path):
    assert cli._text(Path("a\nb\x1b[31m")) == "a\\nb\\x1b[31m"
    assert cli._text(Path(os.fsdecode(b"caf\xe9.mp3"))) == "caf\\xe9.mp3"
    assert cli._text(Path("日本 über.mp3")) == "日本 über.mp3"


def test_help_names_every_system():
    from genre_utils.own_music import SYSTEMS

    whole = argparse.ArgumentParser()
    commands = whole.add_subparsers()
    cli.add_parsers(commands)
    text = commands.choices["train"].format_help()
    assert all(name in text for name in SYSTEMS)


def test_a_closed_pipe_is_no_error(model, mixed):
    command = [sys.executable, "-m", "genre_utils", "predict", str(model), str(mixed[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
        process.wait()
    assert "Traceback" not in err
    assert "Error" not in err
    assert process.returncode == 0


def test_a_real_clip(shared, predictor):
    folder = shared / "data" / "magnatune-mini" / "mp3"
    path = next(path for path in sorted(folder.rglob("*.mp3")) if path.stat().st_size)
    found = predictor.predict_file(path)
    assert list(found.windows["start_s"]) == pytest.approx([0, 9.1], abs=0.5)
