import dataclasses
import inspect
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_utils import paper
from genre_utils import sensitivity as alternatives
from genre_utils import sensitivity as module
from genre_utils import sensitivity as report
from genre_utils.__main__ import main
from genre_utils.data import splits
from genre_utils.data import splits as duplicates
from genre_utils.data.datasets import audio_digests
from genre_utils.extraction import features, vgg
from genre_utils.metrics import claims
from genre_utils.models.cnn import HeadClassifier
from genre_utils.models.systems import SYSTEMS, cross_validate
from genre_utils.run import NOTEBOOKS
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.sensitivity import Base, Choice
from genre_utils.store import Run, Store

GENRES = ("Classical", "Jazz", "World")
QUICK = {"n_resamples": 200}
CUT = {"offset": 0.0, "fill": "repeat", "mel_scale": "db"}
SETTINGS = {"epochs": 2, "epochs_small": 3, "weights": "stub"}
CHOICES = tuple(
    dataclasses.replace(choice, values=(2, 3)) if choice.name == "n_folds" else choice
    for choice in module.CHOICES
)
REAL_COMPUTE = inspect.signature(vgg.compute_maps)


def _small_maps(*args, **kwargs):
    """Stand for the trunk: rows of 512 numbers that depend on all that it is given."""
    given = REAL_COMPUTE.bind(*args, **kwargs)
    given.apply_defaults()
    features_, name, ids, trunk, root, look, precision, *_ = given.arguments.values()
    channels, how = look.channels, look.preprocessing
    key = [features_.folder.name, name, trunk.digest, look.mel_scale, channels, how]
    assert precision == "bfloat16"  # the run's
    store = Store(root, f"vgg-{name}", {"key": key})
    todo = store.missing(ids)
    if todo:
        rows = features_.load(todo).mean(axis=2)
        rows = np.resize((rows - rows.min()) / np.ptp(rows), (len(rows), 1, 1, 512))
        rows = rows / (2.0 if channels == "colormap" else 1.0) + (how == "scale")
        store.put(todo, rows.astype(np.float16))
    return {f"vgg-{name}": store}


def _clips(folder):
    """24 clips of 21 s, each a melody of its own in its genre's register."""
    rng, rows = np.random.default_rng(0), []
    for i in range(24):
        genre, artist = GENRES[i % 3], f"{GENRES[i % 3]} {i % 12}"
        notes = rng.integers(0, 24, 84) + 45 + 2 * (i % 3)
        pitch = np.repeat(440 * 2 ** ((notes - 69) / 12), 4000)
        tone = np.sin(2 * np.pi * np.cumsum(pitch) / 16000) + 0.05 * rng.normal(size=len(pitch))
        path = folder / f"c{i:02d}.flac"
        soundfile.write(path, 0.3 * tone, 16000)
        rows.append((path.stem, path.name, "made", genre, artist, "al", path.stem, 0.0, 21.0, "ok"))
    columns = "clip_id path dataset genre artist album track start_s duration_s status"
    return pd.DataFrame(rows, columns=columns.split())


def _defaults(run, clips, folds, maps):
    """Test the four systems as the notebooks do."""
    tables = []
    for name in paper.TABLE1:
        (taken,) = SYSTEMS[name].arrays
        settings = {"volume_threshold": -40.0, "coding": "onevsone"}
        if name.startswith("cnn"):
            epochs = SETTINGS["epochs" if name == "cnn-mel" else "epochs_small"]
            settings = {"epochs": epochs, "pooling": "flatten", "seed": 0}
        tables.append(
            cross_validate(
                name,
                maps[taken].load(list(clips["sha256"])),
                clips,
                folds,
                arrays_key=maps[taken].folder.name,
                settings=settings,
                root=run.cache / "folds",
            )[0]
        )
    return pd.concat(tables)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder as the notebooks would leave it, with a stand-in for the trunk."""
    root = tmp_path_factory.mktemp("sensitivity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENRE_UTILS_CACHE", str(root / "cache"))
        patch.setattr(vgg, "compute_maps", _small_maps)
        trunk = SimpleNamespace(digest="d", is_random=True)
        patch.setattr(alternatives, "load_weights", lambda source: {"stub": trunk}[source])
        (root / "audio").mkdir()
        run, clips = Run(root / "run"), _clips(root / "audio")
        digests = audio_digests(clips, root / "audio")
        pairs = duplicates.find(clips, root / "audio", digests, by_sound=True)
        protocols = ["random", "artist"]
        folds = splits.make_splits(clips, protocols, n_folds=2, duplicates=pairs)
        run.write("clips", clips)
        run.write("splits", folds)
        run.write("audio", pd.DataFrame({"clip_id": digests.keys(), "sha256": digests.values()}))
        used, ids = run.usable_clips(), list(digests.values())
        files = [root / "audio" / p for p in used["path"]]
        stores = features.extract_all(files, ids, run.cache, features.Look(**CUT))
        maps = {}
        for name in paper.SHAPES:
            maps |= _small_maps(stores[name], name, ids, trunk, run.cache, precision="bfloat16")
        run.record_arrays(stores | maps)
        tested = _defaults(run, used, folds, stores | maps)
        fair = tested[tested["system"] == "svm-mfcc"].assign(system="svm-fair")
        run.add_predictions(pd.concat([tested, fair.assign(y_pred=fair["y_true"])]))
        run.record("corpus", {"title": "made up", "note": ""})
        run.record("data_dir", {"path": str(root / "audio")})
        run.record("weights", {"digest": "d", "random": True})
        run.record("precision", {"trunk": "bfloat16"})
        run.record("features", CUT)
        run.record("parameters", {"03_cnn": SETTINGS})
        (run.folder / "notebooks").mkdir()
        for stem in ("01_data", "03_cnn", "04_svm"):
            shutil.copy(NOTEBOOKS / f"{stem}.ipynb", run.folder / "notebooks")
        yield run


@pytest.fixture(scope="module")
def rows(finished):
    return module.sensitivity(finished.folder, choices=CHOICES, **QUICK)


@pytest.fixture
def no_training(monkeypatch):
    def trains(*_):
        raise AssertionError("a finished fold is trained again")

    monkeypatch.setattr(HeadClassifier, "fit", trains)


def test_every_alternative_has_its_rows(finished, rows):
    expected = {
        (choice.name, report.text(value), system)
        for choice in CHOICES
        for value in choice.values[1:]
        for system in choice.systems
        if choice.name != "fill"
    }
    assert set(zip(rows["choice"], rows["alternative"], rows["system"], strict=True)) == expected
    assert list(rows) == report.COLUMNS
    tested = finished.read("predictions").query("protocol == 'artist'")
    right = (tested["y_true"] == tested["y_pred"]).groupby(tested["system"]).mean()
    assert np.allclose(rows["default_accuracy"], right[rows["system"]], atol=1e-6)
    assert np.allclose(rows["accuracy"] - rows["default_accuracy"], rows["difference"], atol=2e-6)
    assert (rows["lo"] <= rows["hi"]).all()
    assert (rows["difference"] != 0).any()
    fair = rows[rows["choice"] == "baseline"].iloc[0]
    assert (fair["alternative"], fair["accuracy"]) == ("svm-fair", 1.0)
    pd.testing.assert_frame_equal(
        pd.read_csv(finished.folder / "sensitivity.csv", dtype={"default": str}).astype(str),
        rows.astype(str),
    )


def test_what_cannot_be_shown_is_said(finished, rows):
    text = (finished.folder / "sensitivity.md").read_text(encoding="utf-8")
    assert "Not computed, fill zeros: no clip is shorter than 20 s." in text
    assert "untrained VGG-16" in text
    assert report.summary(rows) in text
    assert "f_average macro -> weighted: cnn-mel " in text
    assert "Unfinished" not in text
    assert text.count("| seed | 0 | 100 |") == 3


@pytest.mark.parametrize(
    "choice", [c for c in CHOICES if c.name != "baseline"], ids=lambda c: c.name
)
def test_the_runs_own_value_gives_its_own_predictions(finished, rows, no_training, choice):
    base = alternatives.opened(finished.folder, 1, QUICK)
    found = alternatives.predict(base, choice, base.settings[choice.name])
    known = base.predictions[base.predictions["system"].isin(choice.systems)]
    keys = ["system", "clip_id", "fold", "y_true", "y_pred"]
    pd.testing.assert_frame_equal(
        found[keys].reset_index(drop=True), known[keys].reset_index(drop=True), check_dtype=False
    )
    assert set(found["system"]) == set(choice.systems)


def test_each_alternative_changes_what_its_systems_get(finished, rows, monkeypatch):
    seen = []

    def spy(system, arrays, clips, folds, *, arrays_key, settings, root):
        assert len(arrays) == len(clips) == 24
        seen.append((system, arrays_key, settings, folds["fold"].tolist()))
        return pd.DataFrame({"system": [system]}), None

    monkeypatch.setattr(alternatives, "cross_validate", spy)
    base = alternatives.opened(finished.folder, 1, QUICK)
    for choice in CHOICES:
        if choice.name in ("baseline", "fill"):
            continue
        for value in choice.values:
            alternatives.predict(base, choice, value)
        n, m = len(choice.values), len(choice.systems)
        tests = [str(one) for one in seen]
        assert len(set(tests)) == len(tests) == n * m, f"{choice.name}: values tested alike"
        assert [one[0] for one in seen] == list(choice.systems) * n
        for one in seen:
            if choice.name in ("pooling", "seed", "coding", "volume_threshold"):
                assert one[2][choice.name] in choice.values
                assert one[1] == finished.arrays(SYSTEMS[one[0]].arrays[0]).folder.name
        seen.clear()


def test_a_repeated_call_trains_nothing_and_writes_the_same(finished, rows, no_training):
    before = (finished.folder / "sensitivity.csv").read_bytes()
    again = module.sensitivity(finished.folder, choices=CHOICES, **QUICK)
    pd.testing.assert_frame_equal(again, rows)
    assert (finished.folder / "sensitivity.csv").read_bytes() == before


def test_a_stop_keeps_what_is_finished(finished, tmp_path, monkeypatch):
    copy = Run(shutil.copytree(finished.folder, tmp_path / "copy"))
    choices = [choice for choice in CHOICES if choice.name in ("coding", "volume_threshold")]
    real = module.predict

    def stopped(base, choice, value):
        if value == -20.0:
            raise KeyboardInterrupt
        return real(base, choice, value)

    monkeypatch.setattr(module, "predict", stopped)
    with pytest.raises(KeyboardInterrupt):
        module.sensitivity(copy.folder, choices=tuple(choices), **QUICK)
    kept = pd.read_csv(copy.folder / "sensitivity.csv")
    assert list(kept["choice"]) == ["coding", "volume_threshold"]
    text = (copy.folder / "sensitivity.md").read_text(encoding="utf-8")
    assert "Unfinished: 1 alternatives to come." in text


def _made_up(accuracy, n_artists=12):
    """Nine genres of as many artists; each system right on the same share of every artist."""
    made = [(g, f"{g} {a}", k) for g in paper.GENRES for a in range(n_artists) for k in range(10)]
    clips = pd.DataFrame(made, columns=["genre", "artist", "k"]).assign(album="", track="")
    clips = clips.assign(clip_id=[f"{i:04d}" for i in range(len(clips))], status="ok")
    clips = clips.assign(fold=pd.factorize(clips["artist"])[0] % 5)
    other = dict(zip(paper.GENRES, np.roll(paper.GENRES, 1), strict=True))
    tables = [
        pd.DataFrame(
            {
                "system": name,
                "protocol": "artist",
                "fold": clips["fold"],
                "clip_id": clips["clip_id"],
                "y_true": clips["genre"],
                "y_pred": clips["genre"].where(clips["k"] < 10 * share, clips["genre"].map(other)),
            }
        )
        for name, share in accuracy.items()
    ]
    return clips.drop(columns=["k", "fold"]), pd.concat(tables, ignore_index=True)


def test_a_planted_change_of_verdict_is_named(monkeypatch):
    usual = {"cnn-mel": 0.9, "cnn-mfcc": 0.7, "cnn-chroma": 0.7, "svm-mfcc": 0.3}
    clips, known = _made_up(usual)
    _, worse = _made_up({"cnn-mel": 0.1})
    run = SimpleNamespace()
    base = Base(run, clips, None, known, {"mel_scale": "db"}, 1, {"n_resamples": 1500})
    before = module.verdicts(known, base)
    assert before == {1: "holds", 2: "holds", 3: "holds", 4: before[4], 5: "holds"}
    choice = Choice("mel_scale", ("db", "power"), ("cnn-mel",))
    monkeypatch.setattr(module, "predict", lambda *_: worse)
    row = module._rows(base, choice, "power", before).iloc[0]
    for claim in (1, 2, 3, 5):
        assert f"claim {claim}: holds -> does not hold" in row["verdict_changes"]
    assert (row["accuracy"], row["default_accuracy"], row["difference"]) == (0.1, 0.9, -0.8)
    monkeypatch.setattr(module, "predict", lambda *_: known[known["system"] == "cnn-mel"])
    row = module._rows(base, choice, "power", before).iloc[0]
    assert (row["verdict_changes"], row["difference"], row["lo"], row["hi"]) == ("none", 0, 0, 0)


def test_swap_replaces_systems_and_takes_their_folds():
    clips, known = _made_up({"cnn-mel": 0.9, "svm-mfcc": 0.3, "svm-fair": 0.5}, n_artists=2)
    _, new = _made_up({"svm-mfcc": 0.6}, n_artists=2)
    both = module.swap(known, new.assign(fold=new["fold"] + 7))
    assert len(both) == len(known)
    right = (both["y_true"] == both["y_pred"]).groupby(both["system"]).mean().round(3)
    assert right.to_dict() == {"cnn-mel": 0.9, "svm-fair": 0.5, "svm-mfcc": 0.6}
    assert both.groupby("clip_id")["fold"].nunique().eq(1).all()
    assert both["fold"].min() == 7
    table = claims.claims_table(both, clips, "x", n_resamples=50)
    assert set(table["protocol"]) == {"random", "artist"}


def _table(*rows):
    names = ["choice", "alternative", "system", "accuracy", "difference", "verdict_changes"]
    table = pd.DataFrame(rows, columns=names)
    ends = {"lo": table["difference"] - 0.1, "hi": table["difference"] + 0.1}
    return table.assign(default_accuracy=table["accuracy"] - table["difference"], **ends)


def test_summary_counts_choices_apart_from_chance():
    flip = "claim 2: holds -> undecided: interval"
    rows = _table(
        ("mel_scale", "amplitude", "cnn-mel", 0.5, -0.1, "none"),
        ("mel_scale", "power", "cnn-mel", 0.4, -0.2, flip),
        ("coding", "onevsall", "svm-mfcc", 0.4, 0.1, "none"),
        ("seed", "100", "cnn-mel", 0.3, -0.3, "none"),
    )
    said = report.summary(rows)
    assert said.startswith("1 of 2 choices that the paper leaves open changes a verdict")
    assert f"(mel_scale power: {flip})" in said
    assert "is -0.20 (-0.30 to -0.10), of cnn-mel with mel_scale power." in said
    assert said.endswith("accuracies move by up to 0.30; no verdict.")
    assert report.summary(rows[:1]).startswith("None of 1 choices")
    assert report.summary(rows[:0]) == "No alternative was computed."


def test_spread_over_seeds_includes_the_runs_own():
    rows = _table(
        ("seed", "100", "cnn-mel", 0.5, -0.1, "none"),
        ("seed", "200", "cnn-mel", 0.7, 0.1, "none"),
        ("offset", "9", "cnn-mel", 0.1, -0.5, "none"),
    )
    spread = report.seed_spread(rows).iloc[0]
    assert spread["n_seeds"] == 3
    found = spread[["mean", "sd", "lowest", "highest"]].astype(float)
    assert np.allclose(found, [0.6, 0.1, 0.5, 0.7])
    assert report.seed_spread(rows[2:]).empty


def test_short_clips_make_fill_a_question_and_offset_impossible(finished):
    base = alternatives.opened(finished.folder, 1, QUICK)
    clips = base.clips.assign(duration_s=[9.5, 19.0, *[30.0] * 22])
    short = dataclasses.replace(base, clips=clips)
    assert alternatives.not_possible(short, "fill", "zeros") == ""
    assert "1 clips end" in alternatives.not_possible(short, "offset", 9.0)
    assert alternatives.not_possible(base, "offset", 9.0) == ""
    assert "cannot fill 13 folds" in alternatives.not_possible(base, "n_folds", 13)


def test_defaults_are_the_notebooks_own(finished):
    settings = alternatives.opened(finished.folder, 1, QUICK).settings
    assert {key: settings[key] for key in SETTINGS} == SETTINGS
    own = {choice.name: choice.values[0] for choice in module.CHOICES}
    assert {key: settings[key] for key in own if key != "n_folds"} == {
        key: value for key, value in own.items() if key != "n_folds"
    }


def test_wrong_folders_are_refused_in_one_line(finished, tmp_path, monkeypatch, capsys):
    assert main(["sensitivity", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: no finished run (no predictions.csv)\n"
    assert main(["sensitivity", str(tmp_path), "--jobs", "-1"]) == 2
    copy = Run(shutil.copytree(finished.folder, tmp_path / "copy"))
    monkeypatch.setattr(alternatives, "load_weights", lambda _: SimpleNamespace(digest="other"))
    with pytest.raises(GenreUtilsError, match="no longer those of the run"):
        module.sensitivity(copy.folder, choices=(CHOICES[3],), **QUICK)
    (copy.folder / "notebooks" / "03_cnn.ipynb").unlink()
    with pytest.raises(UsageError, match=r"no .*03_cnn.ipynb"):
        module.sensitivity(copy.folder)
    copy.write("splits", copy.read("splits").query("protocol == 'random'"))
    with pytest.raises(UsageError, match="without the artist protocol"):
        module.sensitivity(copy.folder)
