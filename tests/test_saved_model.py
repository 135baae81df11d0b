import json
import shutil

import numpy as np
import pandas as pd
import pytest

from genre_utils import own_music as train
from genre_utils.models.cnn import HeadClassifier
from genre_utils.models.estimators import RbfSVM
from genre_utils.own_music import SavedModel, of_head, of_svm
from genre_utils.runtime import UsageError
from genre_utils.store import Run, Store, file_digest

GENRES = ("Ambient", "Hard Rock", "Jazz")
FACTS = {
    "system": "cnn-mel-small",
    "about": "a test",
    "data": {
        "dataset": "demo",
        "title": "a made-up set",
        "synthetic": True,
        "licence": "none",
        "citation": "none",
        "clips": 30,
        "genres": {g: {"clips": 10, "artists": 5} for g in GENRES},
        "refused": {"silent": 2},
    },
    "features": {
        "array": "vgg-mel",
        "offset": 0.0,
        "fill": "repeat",
        "mel_scale": "db",
        "channels": "repeat",
        "preprocessing": "vgg16",
        "precision": "float32",
        "weights": "0" * 64,
        "untrained": True,
    },
    "settings": {"epochs": 3, "seed": 0},
    "estimate": {"none": "artists are not known"},
    "versions": {"genre_utils": "0.1.0"},
}


def planted(n=30, shape=(2, 3, 16), seed=0, genres=GENRES):
    """Rows in which channel i is loud for genre i."""
    rng = np.random.default_rng(seed)
    target = np.arange(n) % len(genres)
    rows = rng.uniform(0, 1, (n, *shape)).astype(np.float16)
    rows[np.arange(n), ..., target] += 3
    return rows, np.array(genres)[target]


def trained(kind, genres=GENRES):
    if kind == "svm":
        rows, y = planted(60, shape=(40,), genres=genres)
        rows[::7] = rows[::-7]  # some clips are not easy: answers of every kind
        estimator = RbfSVM(lambda X: [X.astype(np.float32)]).fit(rows, y)
        return estimator, rows, of_svm(estimator)
    rows, y = planted(genres=genres)
    estimator = HeadClassifier(pooling=kind.removeprefix("head-"), epochs=5).fit(rows, y)
    return estimator, rows, of_head(estimator)


@pytest.mark.parametrize("kind", ["head-flatten", "head-average", "svm"])
@pytest.mark.parametrize("genres", [GENRES, GENRES[:2]])
def test_bit_equal_after_reload_and_as_the_estimator(tmp_path, kind, genres):
    estimator, rows, (found, arrays) = trained(kind, genres)
    assert found == kind
    model = SavedModel(kind, genres, arrays, temperature=1.7, facts=FACTS)
    model.save(tmp_path / "model")
    again = SavedModel.load(tmp_path / "model")
    proba = again.predict_proba(rows)
    assert np.array_equal(proba, model.predict_proba(rows))
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-12)
    assert (again.classes, again.temperature, again.facts) == (genres, 1.7, FACTS)
    # The estimator's own probabilities at that temperature; some arrays are rounded.
    by_hand = estimator.predict_proba(rows).astype(float) ** (1 / 1.7)
    if kind == "svm":  # which has a temperature of its own
        by_hand = by_hand**estimator.temperature_
        assert (again.predict_proba(rows).argmax(axis=1) == by_hand.argmax(axis=1)).all()
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    assert np.allclose(proba, by_hand, atol=2e-3 if kind == "head-flatten" else 1e-5)


def test_the_folder_holds_no_code_and_the_same_bytes_each_time(tmp_path):
    _, _, (kind, arrays) = trained("head-average")
    model = SavedModel(kind, GENRES, arrays, facts=FACTS)
    for name in ("one", "two"):
        model.save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["README.md", "arrays.npz", "model.json"]
    for name in files:
        assert file_digest(tmp_path / "one" / name) == file_digest(tmp_path / "two" / name)
    with np.load(tmp_path / "one" / "arrays.npz", allow_pickle=False) as data:
        assert all(data[name].dtype.kind == "f" for name in data)


def test_card_says_what_it_has_heard(tmp_path):
    _, _, (kind, arrays) = trained("head-average")
    SavedModel(kind, GENRES, arrays, facts=FACTS).save(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in (
        "a made-up set",
        "30 clips",
        "| Jazz | 10 | 5 |",
        "2 × silent",
        "Synthesised",
        "Not known. Artists are not known",
        "random weights",
    ):
        assert part in text, part


def test_head_for_grad_cam():
    estimator, rows, (kind, arrays) = trained("head-average")
    head = SavedModel(kind, GENRES, arrays, facts=FACTS).head()
    assert np.array_equal(head.predict(rows), estimator.predict(rows))
    assert SavedModel("svm", GENRES, {}, facts=FACTS).head() is None


@pytest.fixture
def folder(tmp_path):
    _, _, (kind, arrays) = trained("head-average")
    SavedModel(kind, GENRES, arrays, facts=FACTS).save(tmp_path / "model")
    return tmp_path / "model"


def _edit(folder, **changes):
    known = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(known | changes))


def _arrays(folder, **changes):
    """Put other arrays in, with their right digest."""
    with np.load(folder / "arrays.npz") as data:
        arrays = dict(data) | changes
    np.savez(folder / "arrays.npz", **{k: v for k, v in arrays.items() if v is not None})
    _edit(folder, arrays_sha256=file_digest(folder / "arrays.npz"))


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def _pickle(folder):
    (folder / "arrays.npz").write_bytes(__import__("pickle").dumps(Evil()))
    _edit(folder, arrays_sha256=file_digest(folder / "arrays.npz"))


SPOILERS = {
    "no folder": (lambda f: shutil.rmtree(f), "no model here"),
    "no model.json": (lambda f: (f / "model.json").unlink(), "no model here"),
    "no arrays": (lambda f: (f / "arrays.npz").unlink(), "missing, or not the file"),
    "one byte": (
        lambda f: (f / "arrays.npz").write_bytes((f / "arrays.npz").read_bytes()[:-1] + b"x"),
        "not the file that model.json describes",
    ),
    "no JSON": (lambda f: (f / "model.json").write_text("{"), "no JSON"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), "another version"),
    "other version": (lambda f: _edit(f, format=2), r"another version .*format 2.*train it again"),
    "pickle": (_pickle, "damaged model"),
    "object array": (
        lambda f: _arrays(f, bias_1=np.array([Evil()], dtype=object)),
        "damaged model",
    ),
    "array too many": (lambda f: _arrays(f, extra=np.zeros(1)), "damaged model"),
    "array too few": (lambda f: _arrays(f, bias_2=None), "damaged model"),
    "other shape": (lambda f: _arrays(f, bias_2=np.zeros(7, np.float32)), "shapes"),
    "whole numbers": (lambda f: _arrays(f, bias_3=np.zeros(3, int)), "finite"),
    "not finite": (lambda f: _arrays(f, bias_3=np.full(3, np.nan, np.float32)), "finite"),
    "other classes": (lambda f: _edit(f, classes=["a", "b"]), "shapes"),
    "no names": (lambda f: _edit(f, classes=[1, 2, 3]), "names"),
    "temperature": (lambda f: _edit(f, temperature=0), "temperature"),
    "kind": (lambda f: _edit(f, kind="os.system"), "unknown kind"),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_a_spoiled_folder_is_refused_in_one_line(folder, how, capsys):
    spoil, words = SPOILERS[how]
    spoil(folder)
    with pytest.raises(UsageError, match=words) as caught:
        SavedModel.load(folder)
    assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_other_peoples_files_are_not_written_over(tmp_path, folder):
    model = SavedModel.load(folder)
    model.save(folder)  # a model may be renewed
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="no model"):
        model.save(tmp_path / "notes")
    with pytest.raises(UsageError, match="is a file"):
        model.save(folder / "model.json")
    assert (tmp_path / "notes" / "README.md").read_text() == "mine"


# Training ------------------------------------------------------------------------------------


def _run(folder, artists=True, n=60):
    """A finished run with planted maps: clips.csv, audio.csv, splits.csv, arrays.json."""
    run = Run(folder / "run")
    rows, y = planted(n, shape=(1, 2, 32))
    ids = [f"c{i:02d}" for i in range(n)]
    artist = [f"{g} {i // 3 % 5}" if artists else "" for i, g in enumerate(y)]
    clips = pd.DataFrame({"clip_id": ids, "dataset": "demo", "genre": y, "artist": artist})
    clips = clips.assign(path=clips["clip_id"], album="", track=clips["clip_id"], status="ok")
    clips.loc[len(clips)] = {
        "clip_id": "x",
        "dataset": "demo",
        "genre": "Jazz",
        "artist": "x",
        "path": "x",
        "album": "",
        "track": "",
        "status": "silent",
    }
    run.write("clips", clips)
    run.write("audio", pd.DataFrame({"clip_id": ids, "sha256": ids}))
    fold = {name: i % 10 for i, name in enumerate(sorted(set(artist)))}
    splits = clips.iloc[:n].assign(protocol="artist", fold=[fold[a] for a in artist])
    run.write("splits", splits[["protocol", "clip_id", "fold"]])
    mel = Store(folder, "mel", {"audio": {"offset": 2.0, "fill": "zeros"}, "scale": "power"})
    look = {"channels": "repeat", "preprocessing": "scale", "precision": "float32"}
    maps = Store(folder, "vgg-mel", {"features": mel.folder.name, "weights": "f" * 64, **look})
    maps.put(ids, rows)
    run.record_arrays({"vgg-mel": maps})
    return run, rows, clips


def test_a_run_becomes_a_model(tmp_path, monkeypatch):
    run, rows, _ = _run(tmp_path)
    model = train.train_from_run(run)
    again = SavedModel.load(run.folder / "model")
    assert np.array_equal(again.predict_proba(rows), model.predict_proba(rows))
    facts = again.facts
    with monkeypatch.context() as patch:  # the same run again: read; another clip table: trained
        patch.setattr(train, "fit", lambda *_, **__: pytest.fail("trained again"))
        assert train.train_from_run(run).facts == facts
        run.write("clips", run.read("clips").replace("silent", "too quiet"))
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            train.train_from_run(run)
    assert facts["features"] == {
        "array": "vgg-mel",
        "offset": 2.0,
        "fill": "zeros",
        "mel_scale": "power",
        "channels": "repeat",
        "preprocessing": "scale",
        "precision": "float32",
        "weights": "f" * 64,
        "untrained": True,
    }
    assert facts["data"]["clips"] == 60
    assert facts["data"]["refused"] == {"silent": 1}
    assert facts["data"]["genres"]["Jazz"] == {"clips": 20, "artists": 5}
    estimate = facts["estimate"]
    assert estimate["accuracy_lo"] <= estimate["accuracy"] <= estimate["accuracy_hi"]
    assert estimate["accuracy"] > 0.9  # the planted channel is there for unknown artists, too
    mean = np.mean(list(estimate["recall"].values()))  # genres are even
    assert estimate["accuracy"] == pytest.approx(mean)


def test_the_estimate_comes_from_models_that_have_not_heard_the_artist(monkeypatch):
    """A learner that knows its training clips by heart must not be rewarded for it."""
    rows = np.random.default_rng(0).uniform(0, 1, (60, 4))
    y = np.array(GENRES)[np.arange(60) % 3]
    fold = np.arange(60) // 3 % 5
    seen = []

    def memorise(_recipe, rows, y, _group):
        seen.append(rows)
        return _Memory(rows, y)

    monkeypatch.setattr(train, "_trained", memorise)
    proba = train._out_of_fold(None, rows, y, fold, fold)
    assert (proba == 1 / 3).all()
    assert [len(part) for part in seen] == [48] * 5
    assert (_Memory(rows, y).predict_proba(rows).max(axis=1) == 1).all()


class _Memory:
    classes = GENRES

    def __init__(self, rows, y):
        self.known = {row.tobytes(): GENRES.index(label) for row, label in zip(rows, y)}  # noqa: B905

    def predict_proba(self, rows):
        known = (self.known.get(row.tobytes()) for row in rows)
        return np.array([np.full(3, 1 / 3) if k is None else np.eye(3)[k] for k in known])


def test_without_artists_there_is_no_estimate(tmp_path):
    run, _, clips = _run(tmp_path, artists=False)
    clips = clips.assign(sha256=clips["clip_id"])
    clips.loc[clips["status"] != "ok", "artist"] = "known"  # of a refused clip alone
    folds = run.read("splits").set_index("clip_id")["fold"]
    model = train.fit("cnn-mel-small", clips, run.arrays("vgg-mel"), folds=folds, epochs=2)
    assert model.facts["estimate"] == {"none": "the data set does not name its artists"}
    assert model.temperature == 1
    assert model.facts["settings"]["epochs"] == 2


def test_wrong_calls(tmp_path):
    with pytest.raises(UsageError, match=r"unknown system 'svm'.*cnn-mel-small"):
        train.train("demo", "", tmp_path / "m", system="svm")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no model"):
        train.train("demo", "", tmp_path)
    run, _, _ = _run(tmp_path / "there")
    used = run.read("clips").assign(sha256=lambda c: c["clip_id"])
    with pytest.raises(UsageError, match="not trained in epochs"):
        train.fit("pooled-svm", used, run.arrays("vgg-mel"), folds="", epochs=3)
    with pytest.raises(UsageError, match="1 genre"):
        one = used[used["genre"] == "Jazz"]
        train.fit("cnn-mel", one, run.arrays("vgg-mel"), folds="")
    with pytest.raises(UsageError, match="not trained in epochs"):
        train.train("demo", "", tmp_path / "m", system="pooled-svm", epochs=3)
    with pytest.raises(UsageError, match="unknown data set"):
        train.train("nothing", "", tmp_path / "m")
