"""The benchmark: both sides compute the same, rows follow from what was measured."""

import itertools
import math

import benchmark
import joblib
import naive
import numpy as np
import pandas as pd
import pytest
import soundfile
from benchmark import Row

from genre_utils.data import audio
from genre_utils.extraction import features, vgg
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Run, Store


@pytest.mark.parametrize(
    ("ours", "against", "target", "rate", "ratio", "met"),
    [
        (2.0, 8.0, "ratio >= 3", False, 4.0, "yes"),
        (8.0, 2.0, "ratio >= 3", True, 4.0, "yes"),
        (2.0, 5.0, "ratio >= 3", False, 2.5, "no"),
        (0.1, math.nan, "ours <= 0.2", False, math.nan, "yes"),
        (0.3, math.nan, "ours <= 0.2", False, math.nan, "no"),
        (math.nan, math.nan, "ours < 60", False, math.nan, ""),
        (1.0, math.nan, "", False, math.nan, ""),
    ],
)
def test_a_row_says_how_many_times_better_and_whether_that_is_enough(
    ours, against, target, rate, ratio, met
):
    row = Row("a", ours, "s", against, target, rate=rate)
    assert row.ratio == pytest.approx(ratio, nan_ok=True)
    assert row.met == met


def test_tasks_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    order = []
    clock = iter([0, 100, 100, 200, 200, 201, 201, 204, 204, 207, 207, 212])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    tasks = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    assert benchmark.alternate(tasks, 2) == {"a": 2, "b": 4}
    assert order == ["a", "b"] * 3


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """25 s of two gliding tones over noise, 22,050 Hz, stereo."""
    rng, t = np.random.default_rng(3), np.arange(25 * 22050) / 22050
    tones = 0.3 * np.sin(2 * np.pi * (220 + 9 * t) * t) + 0.2 * np.sin(2 * np.pi * 1311 * t)
    y = np.stack([tones + 0.05 * rng.normal(size=len(t)), tones], axis=1)
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    soundfile.write(path, y, 22050, "FLOAT")
    return path


def test_plain_librosa_gives_our_features(sound):
    y, plain = audio.load_clip(sound), naive.clip_features(sound)
    assert set(plain) == set(features.EXTRACTORS)
    limits = {name: limit for name, (_, limit) in benchmark.TOLERANCES.items()}
    for name, extractor in features.EXTRACTORS.items():
        assert plain[name].shape == extractor(y).shape
        assert np.abs(plain[name] - extractor(y)).max() <= limits.get(name, 1e-3), name


def test_plain_images_are_ours():
    mel = np.linspace(-80, 0, 60, dtype=np.float32).reshape(1, 6, 10)
    ours = vgg.preprocess(np.stack([features.to_image(mel[0], "mel")]))
    np.testing.assert_allclose(naive.images(mel), ours, atol=1e-3)


def test_the_plain_network_trains_the_head_alone():
    arrays = vgg.random_arrays()
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 64, 3)).astype(np.float32)
    model = naive.whole_network(images.shape[1:], 2, arrays)
    before = model.trainable_weights[0].numpy()
    naive.fit(model, images, np.array([0, 1]), epochs=1)
    assert len(model.trainable_weights) == 6
    kernel = model.layers[0].get_layer("block1_conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel, arrays["block1_conv1"][0])
    assert not np.array_equal(model.trainable_weights[0].numpy(), before)


@pytest.fixture
def bench(cache, tmp_path, monkeypatch):
    """Eight clips of two genres with mel-spectrograms of 32 x 64, on a bfloat16 machine."""
    used = {"auto": "bfloat16", "float32": "float32", "bfloat16": "bfloat16"}
    monkeypatch.setattr(
        vgg, "trunk_precision", lambda _, precision="auto": vgg.Decision(used[precision], 1.0)
    )
    for name, value in {"FOLDS": 2, "EPOCHS": 2, "HEAD_ROWS": 128, "HEAD_EPOCHS": 2}.items():
        monkeypatch.setattr(benchmark, name, value)
    ids, y = [f"{i:02d}" for i in range(8)], np.arange(8) % 2
    made = benchmark.Bench([], ids, y, tmp_path, 1)
    mel = np.random.default_rng(0).uniform(-80, 0, (8, 32, 64)).astype(np.float32)
    made.weights = vgg.load_weights("random")
    made.plain, made.stores = {"mel": mel}, {"mel": Store.make(tmp_path, "mel", {})}
    made.stores["mel"].put(ids, mel)
    return made


def test_stages_measure_what_they_say(bench):
    measured = [*benchmark.trunk(bench), *benchmark.head(bench)]
    rows = {row.stage: row for row in measured}
    rows["features"] = Row("features", 10.0, "clips/s", 2.0, rate=True)
    whole, same = benchmark.experiment(bench, rows), benchmark.agreement(bench)
    assert rows["trunk"].ours > 0
    assert "ours in bfloat16" in rows["trunk"].detail
    assert 0.9 < rows["trunk: smallest cosine of bfloat16 maps"].ours < 1
    assert 0 <= rows["trunk: predictions that bfloat16 changes"].ours <= 8
    training = 200 * rows["head"].ours / 1000 / 64
    once = (1 / 10 + 1 / rows["trunk"].ours) / 10
    assert whole.ours == pytest.approx(once + training)
    assert rows["cost: head"].ours == pytest.approx(training * joblib.cpu_count())
    assert 0 < float(same.target.split()[-1]) <= 0.5 / math.sqrt(8) + 1e-4


@pytest.mark.parametrize(
    "stage", ["comparing all pairs alone", "Table 1", "head, one fold and epoch"]
)
def test_synthetic_stages_run_at_each_size(stage, cache, tmp_path):
    found = benchmark.measured(stage, tmp_path, [], (40, 60))
    assert [n for n, *_ in found] == [40, 60]
    assert all(took > 0 and memory > 0.05 for _, took, memory in found)


def test_memory_is_extrapolated_and_growth_is_the_time_a_clip():
    found = [(1000, 1.0, 0.5), (2000, 2.1, 0.5), (4000, 5.0, 0.9)]
    memory, growth = benchmark.growth_rows("features", found, "ours <= 1.1")
    assert memory.ours == pytest.approx(0.9 + 1500 * 0.4 / 2000)
    assert growth.ours == pytest.approx(1.25)
    assert growth.met == "no"
    assert len([*benchmark.growth_rows("trunk", [(128, 9.0, 0.5), (384, 27.0, 0.6)], "")]) == 1


def test_fingerprints_of_repeated_files_are_measured(sound, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("GENRE_UTILS_CACHE", str(tmp_path))  # given back after the test
    found = benchmark.measured("duplicates by sound", tmp_path, [sound], (3,))
    assert found[0][1] > 0


def test_a_repeated_run_is_the_sum_of_its_notebooks(tmp_path):
    timings = {path.stem: i + 0.5 for i, path in enumerate(benchmark.notebooks())}
    Run(tmp_path).record("timings", timings)
    assert benchmark.repeated_run(str(tmp_path)).ours == sum(timings.values())
    assert math.isnan(benchmark.repeated_run("").ours)
    Run(tmp_path).record("timings", dict(itertools.islice(timings.items(), 3)))
    with pytest.raises(GenreUtilsError, match="04_svm was not run"):
        benchmark.repeated_run(str(tmp_path))


def test_a_run_of_the_papers_size_in_hours(tmp_path):
    rows = {"whole CNN experiment": Row("", 0.1, "s per clip and fold", 100.0)}
    rows |= {"features": Row("", 0.02, "clips/s"), "trunk": Row("", 0.01, "images/s")}
    assert math.isnan(benchmark.paper_size("", rows).ours)
    run = Run(tmp_path)
    fold = ["random", "random", "artist", "artist"], [0, 1, 0, 1]
    columns = {"clip_id": list("abab"), "protocol": fold[0], "fold": fold[1]}
    run.write("splits", pd.DataFrame(columns).assign(genre="g", group=""))
    run.record("timings", {"01_data": 1800.0, "02_features": 7.0, "03_cnn": 60.0})
    run.record("seconds", {"cnn-mel": 3000.0, "cnn-mfcc": 600.0})  # the run was resumed
    run.record("corpus", {"n_clips": 18})
    run.record("heads", {"epochs": 200})
    run.record("peak_gb", 2.5)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.npy").write_bytes(b"x" * 10**8)
    run.record_arrays({"vgg-mel": Store(tmp_path / "maps")})
    row = benchmark.paper_size(str(tmp_path), rows)
    assert row.ours == pytest.approx(0.5 + 1 + 0.25 + 0.5)
    assert row.against == pytest.approx(100 * 18 * 4 / 3600)
    assert "2.5 GB, arrays 0.1 GB" in row.detail


def test_the_table_is_written_for_people_and_programs(tmp_path):
    rows = [
        Row("head", 2.0, "ms/step", 8.0, "ratio >= 2.5", "a | b"),
        Row("memory", 5.0, "GB", target="ours < 4"),
        Row("storage: maps", 116736, "bytes/clip"),
    ]
    machine = benchmark.describe() | {"clips": 8, "corpus": "demo", "repeats": 1}
    text = benchmark.write(rows, machine, tmp_path)
    assert text.startswith("**Benchmark**: 1 targets met, 1 missed, 0 not measured.")
    assert "116,736" in text
    table = pd.read_csv(tmp_path / "benchmark.csv")
    assert table["met"].fillna("").to_list() == ["yes", "no", ""]
    assert (tmp_path / "benchmark.png").stat().st_size > 5000


def test_too_few_clips_are_refused(tmp_path, cache):
    rng = np.random.default_rng(0)
    for genre, i in itertools.product("GH", range(4)):
        path = tmp_path / "set" / genre / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, 16000), 16000)
    clips, _ = benchmark.choose("folder", str(tmp_path / "set"), 8)
    assert sorted(clips["y"]) == [0] * 4 + [1] * 4
    with pytest.raises(UsageError, match=r"--clips 7 gives a genre .* at least 8"):
        benchmark.choose("folder", str(tmp_path / "set"), 7)
