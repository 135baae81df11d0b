"""A model for one's own music: training, the saved folder, answers to files of every kind."""

import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_utils import own_music
from genre_utils.data import audio, inputs
from genre_utils.extraction import features, vgg
from genre_utils.models import explain, systems
from genre_utils.models.cnn import HeadClassifier
from genre_utils.own_music import HEAD, Predictor, SavedModel
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Run, Store, file_digest

GENRES = ("Ambient", "Hard Rock", "Jazz")
UNTRAINED = vgg.load_weights("random")
FACTS = {
    "system": "cnn-mel-small",
    "data": {
        "name": "demo",
        "title": "a made-up set",
        "synthetic": True,
        "licence": "none",
        "citation": "nobody",
        "clips": 30,
        "genres": {g: {"clips": 10, "artists": 5} for g in GENRES},
        "refused": {"silent": 2},
    },
    "features": {
        "look": asdict(features.Look()),
        "precision": "float32",
        "weights": UNTRAINED.digest,
    },
    "settings": {"pooling": "average", "epochs": 5, "seed": 0},
    "estimate": {"unknown": "artists are not known"},
    "versions": {"genre_utils": "0.1.0"},
}


@pytest.fixture(autouse=True)
def _empty_cache(cache):
    """Nothing was heard before."""


def planted(n=30, shape=(2, 3, 16), genres=GENRES):
    """Rows in which channel i is loud for genre i."""
    target = np.arange(n) % len(genres)
    rows = np.random.default_rng(0).uniform(0, 1, (n, *shape)).astype(np.float16)
    rows[np.arange(n), ..., target] += 3
    return rows, np.array(genres)[target]


def trained(pooling="average", genres=GENRES):
    settings = {"pooling": pooling, "epochs": 5, "seed": 0}
    rows, y = planted(genres=genres)
    head = HeadClassifier(**settings).fit(rows, y)
    arrays = dict(zip(HEAD, head.weights_, strict=True))
    if pooling == "flatten":
        arrays["kernel_1"] = arrays["kernel_1"].astype(np.float16)
    return head, rows, SavedModel(genres, arrays, 1.7, FACTS | {"settings": settings})


# The folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["flatten", "average"])
@pytest.mark.parametrize("genres", [GENRES, GENRES[:2]])
def test_bit_equal_after_reload_and_as_the_estimator(tmp_path, pooling, genres):
    head, rows, model = trained(pooling, genres)
    model.save(tmp_path / "model")
    again = SavedModel.load(tmp_path / "model")
    proba = again.predict_proba(rows)
    assert np.array_equal(proba, model.predict_proba(rows))
    assert (again.classes, again.temperature, again.facts) == (genres, 1.7, model.facts)
    assert again.digest == model.digest
    by_hand = head.predict_proba(rows).astype(float) ** (1 / 1.7)
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    assert np.allclose(proba, by_hand, atol=2e-3 if pooling == "flatten" else 1e-5)
    assert np.array_equal(again.head.predict(rows), head.predict(rows))


def test_the_folder_holds_no_code_and_the_same_bytes_each_time(tmp_path):
    model = trained()[2]
    for name in ("one", "two"):
        model.save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["README.md", "arrays.npz", "model.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with np.load(tmp_path / "one" / "arrays.npz", allow_pickle=False) as data:
        assert all(data[name].dtype.kind == "f" for name in data)


ESTIMATE = {
    "accuracy": 0.5,
    "accuracy_lo": 0.4,
    "accuracy_hi": 0.6,
    "f_score": 0.48,
    "n_artists": 15,
    "n_folds": 5,
    "recall": {"Ambient": 0.25, "Hard Rock": 0.5, "Jazz": 0.75},
    "sure": {"confidence": 0.5, "share": 0.57, "accuracy": None},
}


def test_card_says_what_it_has_heard(tmp_path):
    model = trained()[2]
    text = own_music.card(model)
    for part in (
        "`cnn-mel-small`",
        "its map averaged",
        "one of: Ambient, Hard Rock, Jazz.",
        "a made-up set: 20 s, from second 0 on, of each of 30 clips",
        "Licence of the audio: none. Source: nobody.",
        "| Jazz | 10 | 5 |",
        "left out:\n\n- 2 × silent\n",
        "Synthesised",
        "Not known: artists are not known",
        "random weights",
        UNTRAINED.digest[:16],
    ):
        assert part in text, part
    assert "\n\n\n" not in text
    known = replace(model, facts=model.facts | {"estimate": ESTIMATE})
    text = own_music.card(known)
    for part in (
        "| genre | clips | artists | found |\n|---|--:|--:|--:|\n| Ambient | 10 | 5 | 0.25 |\n",
        "Accuracy **0.50** (95 % interval 0.40 to 0.60, from a bootstrap over 15 artists)",
        "chance would be 0.33",
        "one temperature, 1.70",
        "0.5 or more: 57% of clips, accuracy among them none",
    ):
        assert part in text, part
    assert own_music.summary(known) == (
        "cnn-mel-small, trained on 30 clips of a made-up set, 3 genres; accuracy on new artists "
        "0.50 (0.40 to 0.60) (it has heard no real music, its VGG-16 is untrained)"
    )


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def _edit(folder, **changes):
    known = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(known | changes))


def _saved(**changes):
    """Save a model with these arrays or parts in place of its own, and their right digest."""

    def spoil(folder):
        model = SavedModel.load(folder)
        arrays = {n: a for n, a in (model.arrays | changes).items() if n not in FIELDS}
        parts = {name: value for name, value in changes.items() if name in FIELDS}
        model = replace(model, arrays={n: a for n, a in arrays.items() if a is not None}, **parts)
        np.savez(folder / "arrays.npz", **model.arrays)
        known = {"classes": model.classes, "temperature": model.temperature, "facts": model.facts}
        _edit(folder, digest=model.digest, **known)

    return spoil


FIELDS = ("classes", "temperature", "facts")
SPOILERS = {
    "no folder": (shutil.rmtree, "no model here"),
    "no model.json": (lambda f: (f / "model.json").unlink(), "no model here"),
    "no arrays": (lambda f: (f / "arrays.npz").unlink(), "cannot be used"),
    "half": (lambda f: os.truncate(f / "arrays.npz", 999), "cannot be used"),
    "no JSON": (lambda f: (f / "model.json").write_text("{"), "cannot be used"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), "cannot be used"),
    "other version": (lambda f: _edit(f, format=1), "another version: format 1.*train it again"),
    "permuted": (lambda f: _edit(f, classes=GENRES[::-1]), "saved together"),
    "other temperature": (lambda f: _edit(f, temperature=2.5), "saved together"),
    "other facts": (lambda f: _edit(f, facts=FACTS | {"system": "mine"}), "saved together"),
    "pickle": (lambda f: (f / "arrays.npz").write_bytes(pickle.dumps(Evil())), "cannot be used"),
    "object array": (_saved(bias_1=np.array([Evil()], dtype=object)), "cannot be used"),
    "array too many": (_saved(extra=np.zeros(1)), "arrays bias_1, .*extra"),
    "array too few": (_saved(bias_2=None), "arrays bias_1, bias_3"),
    "other shape": (_saved(bias_2=np.zeros(7, np.float32)), "shapes"),
    "whole numbers": (_saved(bias_3=np.zeros(3, int)), "finite"),
    "not finite": (_saved(bias_3=np.full(3, np.nan, np.float32)), "finite"),
    "other classes": (_saved(classes=("a", "b")), "shapes"),
    "no names": (_saved(classes=(1, 2, 3)), "names"),
    "temperature": (_saved(temperature=0), "temperature 0"),
    "pooling": (_saved(facts=FACTS | {"settings": {"pooling": "os.system"}}), "pooling"),
    "look": (_saved(facts=FACTS | {"features": {"look": {"fill": "x"}}}), "cannot be used"),
    "no fact": (_saved(facts={"settings": FACTS["settings"]}), "cannot be used"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "model"
    trained()[2].save(folder)
    return folder


@pytest.mark.parametrize("spoiled", SPOILERS)
def test_a_spoiled_folder_is_refused_in_one_line(good, tmp_path, spoiled, capsys):
    spoil, words = SPOILERS[spoiled]
    folder = shutil.copytree(good, tmp_path / "model")
    spoil(folder)
    with pytest.raises(UsageError, match=words) as caught:
        SavedModel.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_other_peoples_files_are_not_written_over(tmp_path, good):
    model = SavedModel.load(good)
    model.save(good)  # a model may be renewed
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="no model"):
        model.save(tmp_path / "notes")
    with pytest.raises(UsageError, match="is a file"):
        model.save(good / "model.json")
    assert (tmp_path / "notes" / "README.md").read_text() == "mine"


# Training --------------------------------------------------------------------------------------


def _run(folder, artists=True, n=60):
    """A finished run with planted maps: clips.csv, audio.csv, splits.csv, arrays.json."""
    run = Run(folder / "run")
    rows, y = planted(n, shape=(1, 2, 32))
    ids = [f"c{i:02d}" for i in range(n)]
    artist = [f"{g} {i // 3 % 5}" if artists else "" for i, g in enumerate(y)]
    clips = pd.DataFrame({"clip_id": ids, "genre": y, "artist": artist, "status": "ok"})
    refused = pd.DataFrame({"clip_id": ["x"], "genre": "Jazz", "artist": "x", "status": "silent"})
    clips = pd.concat([clips, refused]).assign(dataset="demo", path="x", album="", track="x")
    run.write("clips", clips)
    run.write("audio", pd.DataFrame({"clip_id": ids, "sha256": ids}))
    fold = {name: i % 10 for i, name in enumerate(sorted(set(artist)))}
    splits = pd.DataFrame({"protocol": "artist", "clip_id": ids, "genre": y})
    splits["group"] = np.unique(artist, return_inverse=True)[1]
    run.write("splits", splits.assign(fold=[fold[name] for name in artist]))
    mel = Store.make(folder, "mel", {"audio": {"offset": 2.0, "fill": "zeros"}, "scale": "power"})
    look = {"channels": "repeat", "preprocessing": "scale", "precision": "float32"}
    maps = Store.make(folder, "vgg-mel", {"features": mel.folder.name, "weights": "f" * 64, **look})
    maps.put(ids, rows)
    run.record_arrays({"vgg-mel": maps})
    run.record("corpus", {"report": {"passed_over": {".jpg": 3}}})
    return run, rows, clips.assign(sha256=clips["clip_id"])


def test_a_run_becomes_a_model(tmp_path, monkeypatch):
    run, rows, _ = _run(tmp_path)
    model = own_music.train_from_run(run)
    again = SavedModel.load(run.folder / "model")
    assert np.array_equal(again.predict_proba(rows), model.predict_proba(rows))
    facts = again.facts
    look = dict(offset=2.0, fill="zeros", mel_scale="power", channels="repeat")
    look = look | {"preprocessing": "scale"}
    assert facts["features"] == {"look": look, "precision": "float32", "weights": "f" * 64}
    assert facts["data"]["clips"] == 60
    assert facts["data"]["refused"] == {"silent": 1}
    text = own_music.card(again)
    assert (
        "out:\n\n- 1 × silent\n\nFiles that were passed over" in text and "\n- 3 × .jpg\n" in text
    )
    assert facts["data"]["genres"]["Jazz"] == {"clips": 20, "artists": 5}
    estimate = facts["estimate"]
    assert estimate["accuracy_lo"] <= estimate["accuracy"] <= estimate["accuracy_hi"]
    assert estimate["accuracy"] > 0.9  # the planted channel is there for unknown artists, too
    assert (estimate["n_artists"], estimate["n_folds"]) == (15, 5)
    mean = np.mean(list(estimate["recall"].values()))  # genres are even
    assert estimate["accuracy"] == pytest.approx(mean)
    with monkeypatch.context() as patch:  # the same run again: nothing is trained
        patch.setattr(HeadClassifier, "fit", lambda *_: pytest.fail("trained again"))
        assert own_music.train_from_run(run).digest == model.digest
        run.write("clips", run.read("clips").replace({"genre": {"Jazz": "Hard Rock"}}))
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            own_music.train_from_run(run)


def test_the_estimate_is_the_cross_validation_of_all_other_systems(tmp_path):
    """Each clip is answered by a head that has not heard its artist; the temperature fits that."""
    run, _, clips = _run(tmp_path)
    folds = run.read("splits")
    store, used = run.arrays("vgg-mel"), clips[clips["status"] == "ok"]
    model = own_music.fit(clips, store, folds, epochs=2)
    settings = own_music.SETTINGS | {"epochs": 2}
    tested, _ = systems.cross_validate(
        "cnn-mel", run.arrays, used, folds, settings=settings, root=tmp_path / "others"
    )
    right = tested["y_true"] == tested["y_pred"]
    assert model.facts["estimate"]["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert model.facts["estimate"]["n_folds"] == 10
    assert model.facts["settings"]["epochs"] == 2


def test_names_that_are_unknown_or_odd_stand_in_the_card(tmp_path):
    run, _, clips = _run(tmp_path)
    clips["artist"] = clips["artist"].where(clips.index % 2 == 0, "")
    clips["genre"] = clips["genre"].replace("Jazz", "R|B <b>$")
    store, folds = run.arrays("vgg-mel"), run.read("splits")
    text = own_music.card(own_music.fit(clips, store, folds, epochs=2))
    assert "\n\nNot known: artist of 30, album of 60, track of 60, of 60 clips.\n\n#" in text
    assert "bootstrap over 15 artists and the clips of unknown ones, which count as new)" in text
    assert "one of: Ambient, Hard Rock, R\\|B \\<b\\>\\$." in text
    assert "\n| R\\|B \\<b\\>\\$ | 20 | " in text


def test_without_artists_there_is_no_estimate(tmp_path):
    run, _, clips = _run(tmp_path, artists=False)
    store, folds = run.arrays("vgg-mel"), run.read("splits")
    model = own_music.fit(clips, store, folds, epochs=2)
    # The artist of the refused clip does not count.
    assert model.facts["estimate"] == {"unknown": "the data set does not name its artists"}
    assert model.temperature == 1


def test_a_data_set_becomes_a_model_that_hears_as_in_training(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(vgg, "load_weights", lambda _="": UNTRAINED)
    rows = []
    for i in range(10):
        genre = GENRES[i % 2]
        path = sound(tmp_path / f"{i}.wav", 2, level=0.1 + i / 20)
        rows.append((path.name, genre, f"artist {i}"))
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    rows.append(("bad.wav", "Jazz", "artist 1"))
    table = pd.DataFrame(rows, columns=["path", "genre", "artist"])
    table.to_csv(tmp_path / "table.csv", index=False)
    out = tmp_path / "model"
    model = own_music.train("csv", str(tmp_path), out, epochs=2)
    facts = SavedModel.load(out).facts
    assert (facts["data"]["clips"], sum(facts["data"]["refused"].values())) == (10, 1)
    assert facts["features"]["look"] == asdict(features.Look())
    assert facts["estimate"]["n_artists"] == 10
    assert facts["settings"] == own_music.SETTINGS | {"epochs": 2}
    predictor = Predictor(out)
    answers = list(predictor.predict(dict.fromkeys((tmp_path / row[0] for row in rows[:4]), "")))
    assert [answer.path.name for answer in answers] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    maps = Store(next((cache / "arrays").glob("vgg-mel-*")))
    expected = model.predict_proba(maps.load([file_digest(answer.path) for answer in answers]))
    assert np.allclose([answer.probabilities for answer in answers], expected, atol=1e-3)


def test_wrong_calls_of_train(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no model"):
        own_music.train("demo", "", tmp_path)
    with pytest.raises(UsageError, match="unknown data set"):
        own_music.train("nothing", "", tmp_path / "m")
    run, _, clips = _run(tmp_path / "there")
    with pytest.raises(UsageError, match="1 genre"):
        jazz = clips[clips["genre"] == "Jazz"]
        own_music.fit(jazz, run.arrays("vgg-mel"), "")


# Files that can be used ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a small head with random weights behind the untrained trunk."""
    rng = np.random.default_rng(0)
    arrays = {}
    for i, (n_in, outputs) in enumerate(pairwise((512, 512, 256, len(GENRES))), 1):
        arrays[f"kernel_{i}"] = rng.normal(0, 0.05, (n_in, outputs)).astype(np.float32)
        arrays[f"bias_{i}"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    folder = tmp_path_factory.mktemp("model") / "model"
    SavedModel(GENRES, arrays, 2.0, FACTS).save(folder)
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


@pytest.mark.parametrize("sr", [8000, 16000, 44100, 96000])
@pytest.mark.parametrize("seconds", [3, 20, 20.5, 30, 47.3, 75])
def test_windows_cover_the_file_and_are_cut_from_what_decode_gives(tmp_path, sr, seconds):
    path = sound(tmp_path / "x.wav", seconds, sr, channels=2, subtype="FLOAT")
    whole, found = audio.decode(path), list(audio.windows(path))
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
    spy = lambda self, n, **how: asked.append(n) or read(self, n, **how)  # noqa: E731
    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    longest = max(y.base.nbytes for _, y in audio.windows(path))
    assert longest <= 4 * 16000 * (audio.BLOCK + 30)
    assert max(asked) <= audio.BLOCK * 16000


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
    found, passed = inputs.sound_files(places)
    usable = [path.relative_to(tmp_path).as_posix() for path, why in found.items() if not why]
    assert usable == sorted([*names[:3], "a/link/2.ogg"])
    refused = {path.name: why for path, why in found.items() if why}
    assert refused.keys() == {"empty", "gone.wav"}
    assert refused["gone.wav"] == "cannot be read: No such file or directory"
    assert passed == {".txt": 1, "link to a folder listed already": 1}
    assert inputs.sound_files([tmp_path / "a/notes.txt"])  # named: tried, whatever it is called
    with pytest.raises(UsageError, match=r"no sound file to listen to.*No such file"):
        inputs.sound_files([tmp_path / "gone.wav"])
    with pytest.raises(UsageError, match="no sound files in it"):
        inputs.sound_files([tmp_path / "empty"])


def test_probabilities_are_those_of_the_stages_done_by_hand(tmp_path, predictor):
    path = sound(tmp_path / "x.wav", 25)
    said = predictor.predict_file(path)
    assert list(said.windows) == ["start_s", *GENRES]
    assert list(said.windows["start_s"]) == [0.0, 5.0]
    trunk, model = vgg.build_trunk((216, 626, 3), UNTRAINED.arrays), predictor.model
    for _, row in said.windows.iterrows():
        y = audio.load_clip(path, offset=row["start_s"])
        image = features.to_image(features.mel_spectrogram(y), "mel")
        maps = trunk.predict(vgg.preprocess(image[None]), verbose=0)
        hidden = maps.mean(axis=(0, 1, 2))
        for i in (1, 2):
            hidden = np.maximum(0, hidden @ model.arrays[f"kernel_{i}"] + model.arrays[f"bias_{i}"])
        logits = (hidden @ model.arrays["kernel_3"] + model.arrays["bias_3"]) / 2  # temperature
        by_hand = np.exp(logits) / np.exp(logits).sum()
        assert np.allclose(row[list(GENRES)].astype(float), by_hand, atol=1e-3)
    mean = said.windows[list(GENRES)].mean()
    assert said.probabilities.sum() == pytest.approx(1)
    assert said.probabilities.to_dict() == pytest.approx(mean.to_dict())
    assert (said.genre, said.confidence) == (mean.idxmax(), pytest.approx(mean.max()))


def test_a_song_is_heard_once(model, predictor, tmp_path, monkeypatch):
    path = sound(tmp_path / "x.wav", 25)
    said = predictor.predict_file(path)
    heard, windows = [], audio.windows
    monkeypatch.setattr(audio, "windows", lambda p: heard.append(p.name) or windows(p))
    moved = path.rename(tmp_path / "another name.wav")
    again = Predictor(model).predict_file(moved)
    assert again.windows.equals(said.windows)
    assert heard == []
    other = sound(tmp_path / "other.wav", 25, level=0.2)
    assert not predictor.predict_file(other).windows.equals(said.windows)
    replace(SavedModel.load(model), temperature=4.0).save(tmp_path / "cooler")
    assert Predictor(tmp_path / "cooler").predict_file(moved).confidence < said.confidence
    (tmp_path / "empty.wav").touch()
    for _ in range(2):
        assert predictor.predict_file(tmp_path / "empty.wav").refused == "empty file"
    assert heard == ["other.wav", "another name.wav", "empty.wav", "empty.wav"]


def test_what_was_heard_needs_no_tensorflow(model, predictor, tmp_path):
    said = predictor.predict_file(sound(tmp_path / "x.wav", 3))
    code = (
        "import sys; from genre_utils import own_music; "
        "from genre_utils.extraction import vgg; from types import SimpleNamespace; "
        # TensorFlow draws the untrained weights.
        f"vgg.load_weights = lambda _: SimpleNamespace(digest={UNTRAINED.digest!r}); "
        f"said = own_music.Predictor({str(model)!r}).predict_file({str(tmp_path / 'x.wav')!r}); "
        "print(repr(said.confidence), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [repr(said.confidence), "False"]


def test_a_window_is_explained_once(model, predictor, tmp_path, monkeypatch):
    mel = features.mel_spectrogram(audio.load_clip(sound(tmp_path / "x.wav", 20)))
    gradient, occlusion = predictor.explain(mel, "Jazz", (1, 2))
    network = explain.Network(UNTRAINED.arrays, predictor.model.head)
    image = features.to_image(mel, "mel")
    assert np.array_equal(gradient, explain.grad_cam(network, image, "Jazz"))
    assert np.array_equal(occlusion, explain.occlusion(network, image, "Jazz", (1, 2)))
    monkeypatch.setattr(explain, "Network", None)
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
    said = predictor.predict_file(sound(tmp_path / name, 2, **how))
    assert said.refused == ""
    assert said.genre in GENRES
    assert len(said.windows) == 1


def test_a_silent_window_has_no_say(tmp_path, predictor):
    path = sound(tmp_path / "x.wav", 20)
    y, sr = soundfile.read(path)
    soundfile.write(tmp_path / "late.wav", np.concatenate([np.zeros(20 * sr), y]), sr)
    said = predictor.predict_file(tmp_path / "late.wav")
    assert list(said.windows["start_s"]) == [0, 10, 20]
    assert said.windows["Jazz"].isna().tolist() == [True, False, False]
    assert said.probabilities.sum() == pytest.approx(1)


def test_a_real_clip(shared, predictor):
    folder = shared / "data" / "magnatune-mini" / "mp3"
    path = next(path for path in sorted(folder.rglob("*.mp3")) if path.stat().st_size)
    said = predictor.predict_file(path)
    assert list(said.windows["start_s"]) == pytest.approx([0, 9.1], abs=0.5)


# Files that cannot, and the printed answers ----------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with two good files and every kind of bad one, with the reason."""
    folder = tmp_path_factory.mktemp("mixed")
    sound(folder / "good, with comma.wav", 3)
    sound(folder / "über.flac", 25)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("not music at all\n" * 100)
    soundfile.write(folder / "silent.wav", np.zeros(30 * 16000), 16000)
    sound(folder / "short.wav", 0.5)
    soundfile.write(folder / "headers only.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.full(32000, np.nan), 16000, subtype="FLOAT")
    (folder / "dangling.wav").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe.wav")
    return folder, {
        "empty.wav": "empty file",
        "text.mp3": "cannot be decoded",
        "silent.wav": "silent",
        "short.wav": "too short: 0.5 s",
        "headers only.wav": "no samples",
        "nan.wav": "not finite",
        "dangling.wav": "cannot be read: a link to nothing",
        "pipe.wav": "not a regular file",
    }


def _json(out):
    rows = {Path(row["path"]).name: row for row in json.loads(out)}
    flac = rows["über.flac"]
    assert [window["start_s"] for window in flac["windows"]] == [0, 5]
    assert sum(flac["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    mean = np.mean([window["Jazz"] for window in flac["windows"]])
    assert flac["probabilities"]["Jazz"] == pytest.approx(mean, abs=1e-5)
    return {name: row.get("genre", row.get("refused")) for name, row in rows.items()}


def _csv(out):
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "genre", "confidence", *(f"p_{g}" for g in GENRES), "refused"]
    for row in (row for row in rows if row["genre"]):
        p = [float(row[f"p_{genre}"]) for genre in GENRES]
        assert sum(p) == pytest.approx(1, abs=1e-5)
        assert float(row["confidence"]) == max(p)
    return {Path(row["path"]).name: row["genre"] or row["refused"] for row in rows}


def _table(out):
    lines = {line.split("  ")[0].rpartition("/")[2]: line for line in out.splitlines()}
    return {
        name: next((g for g in GENRES if f"  {g}" in line), line.partition("refused: ")[2])
        for name, line in lines.items()
    }


@pytest.mark.parametrize(("form", "read"), [("json", _json), ("csv", _csv), ("table", _table)])
def test_every_file_is_answered_or_refused_with_the_reason(model, mixed, form, read, capfd):
    folder, bad = mixed
    (folder / "cover.jpg").write_bytes(b"x")
    assert own_music.answer(model, [folder], form=form) == 8
    out, err = capfd.readouterr()
    assert "11 files = 2 predicted + 8 refused + 1 passed over (1 .jpg)" in err
    assert "it has heard no real music, its VGG-16 is untrained" in err
    said = read(out)
    assert list(said) == sorted(said)
    assert said.keys() == bad.keys() | {"good, with comma.wav", "über.flac"}
    for name, words in said.items():
        assert bad.get(name, words) in words, name
        assert (words in GENRES) == (name not in bad)


def test_silent_windows_and_refused_files_alone_can_be_printed(model, mixed, tmp_path, capfd):
    y, sr = soundfile.read(mixed[0] / "good, with comma.wav")
    soundfile.write(tmp_path / "late.wav", np.concatenate([np.zeros(20 * sr), y]), sr)
    assert own_music.answer(model, [tmp_path], form="json") == 0
    windows = json.loads(capfd.readouterr().out)[0]["windows"]
    assert (windows[0]["Jazz"], windows[-1]["Jazz"] is None) == (None, False)
    for form in ("csv", "table", "json"):
        assert own_music.answer(model, [mixed[0] / "silent.wav"], form=form) == 1
        assert "silent" in capfd.readouterr().out


def test_the_number_of_jobs_changes_nothing(model, tmp_path, capfd, monkeypatch):
    for i, seconds in enumerate((2, 3, 21)):
        sound(tmp_path / f"{i}.wav", seconds)
    outputs = []
    for jobs in (1, 3):
        monkeypatch.setenv("GENRE_UTILS_CACHE", str(tmp_path / f".cache{jobs}"))
        assert own_music.answer(model, [tmp_path], form="json", jobs=jobs) == 0
        outputs.append(capfd.readouterr().out)
    assert outputs[0] == outputs[1]
    assert [Path(row["path"]).name for row in json.loads(outputs[0])] == ["0.wav", "1.wav", "2.wav"]


def test_wrong_calls_of_predict(model, mixed, tmp_path, capfd):
    nowhere = tmp_path / "nothing"
    with pytest.raises(UsageError, match=r"no model here \(no model.json\); `python -m genre_ut"):
        own_music.answer(nowhere, [mixed[0]])
    with pytest.raises(UsageError, match="No such file or directory"):
        own_music.answer(model, [nowhere])
    saved = SavedModel.load(model)
    facts = saved.facts | {"features": saved.facts["features"] | {"weights": "e" * 64}}
    replace(saved, facts=facts).save(tmp_path / "other")
    with pytest.raises(GenreUtilsError, match="neither the published ones"):
        own_music.answer(tmp_path / "other", [mixed[0]])
    assert capfd.readouterr().out == ""


def test_names_are_printed_on_one_line():
    assert own_music.printable(Path("a\nb\x1b[31m")) == "a\\nb\\x1b[31m"
    assert own_music.printable(Path(os.fsdecode(b"caf\xe9.mp3"))) == "caf\\xe9.mp3"
    assert own_music.printable(Path("日本 über.mp3")) == "日本 über.mp3"


# The commands ----------------------------------------------------------------------------------


def _command(*words):
    command = [sys.executable, "-m", "genre_utils", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exit_codes(model, mixed):
    done = _command("predict", model, mixed[0], "--csv")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 11)
    wrong = _command("predict", model)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    good = _command("predict", model, mixed[0] / "über.flac")
    assert good.returncode == 0
    assert "Traceback" not in done.stderr + wrong.stderr + good.stderr


def test_help_names_the_number_of_epochs():
    assert f"Default: {own_music.SETTINGS['epochs']}." in _command("train", "--help").stdout


def test_a_closed_pipe_ends_quietly(model, mixed):
    command = [sys.executable, "-m", "genre_utils", "predict", str(model), str(mixed[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
    assert "Traceback" not in err
    assert "Error" not in err
