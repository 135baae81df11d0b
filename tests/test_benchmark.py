"""The benchmark: its arithmetic, that both sides compute the same, what it writes and refuses."""

import argparse
import json
import math
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_utils.benchmark import child, cli, growth, rivals
from genre_utils.benchmark.rows import COLUMNS, Row, alternate, frame
from genre_utils.runtime import GenreUtilsError, UsageError

MACHINE = {
    "processor": "Abacus",
    "cores": 2,
    "memory_gb": 16.0,
    "flags": ["avx2"],
    "clips": 5,
    "corpus": "demo",
    "repeats": 1,
    "versions": {"numpy": "2"},
    "against": {},
    "date": "today",
}


# Arithmetic.


def test_ratio_says_how_many_times_better_ours_is():
    assert Row("a", 2.0, "s", 10.0).ratio == 5
    assert Row("a", 2.0, "clips/s", 10.0, more_is_better=True).ratio == 0.2
    assert math.isnan(Row("a", 2.0, "s").ratio)


@pytest.mark.parametrize(
    ("ours", "against", "target", "met", "margin"),
    [
        (1.0, 3.0, "ratio >= 3", "yes", 1.0),
        (1.0, 2.7, "ratio >= 3", "no", 0.9),
        (3.9, math.nan, "ours < 4", "yes", 4 / 3.9),
        (4.0, math.nan, "ours < 4", "no", 1.0),
        (0.0, math.nan, "ours <= 0.0001", "yes", math.inf),
        (2e-4, math.nan, "ours <= 0.0001", "no", 0.5),
    ],
)
def test_target_is_met_or_not(ours, against, target, met, margin):
    row = Row("a", ours, "s", against, target)
    assert row.met == met
    assert row.margin == pytest.approx(margin)


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert Row("a", math.nan, "s", target="ours < 30").met == ""
    assert Row("a", 1.0, "s", target="ratio >= 3").met == ""
    assert Row("a", 1.0, "s").met == ""


def test_tasks_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    from genre_utils.benchmark import rows

    order = []
    clock = iter([0, 100, 100, 200, 200, 201, 201, 204, 204, 207, 207, 212])
    monkeypatch.setattr(rows.time, "perf_counter", lambda: next(clock))
    took = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert took == {"a": 2, "b": 4}


# Both sides compute the same.


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
    from genre_utils.benchmark import naive
    from genre_utils.benchmark.stages import TOLERANCES
    from genre_utils.data import audio
    from genre_utils.extraction import features

    y, plain = audio.load_clip(sound), naive.clip_features(sound)
    assert set(plain) == set(features.EXTRACTORS)
    limits = {name: limit for name, (_, limit) in TOLERANCES.items()}
    for name, extractor in features.EXTRACTORS.items():
        assert plain[name].shape == extractor(y).shape
        assert np.abs(plain[name] - extractor(y)).max() <= limits.get(name, 1e-3), name


def test_plain_images_are_ours(sound):
    from genre_utils.benchmark import naive
    from genre_utils.extraction import features, vgg

    mel = np.linspace(-80, 0, 60, dtype=np.float32).reshape(1, 6, 10)
    ours = vgg.preprocess(np.stack([features.to_image(mel[0], "mel")]))
    np.testing.assert_allclose(naive.images(mel), ours, atol=1e-3)
    assert naive.images(mel).flags.c_contiguous  # PyTorch takes no negative strides


@pytest.fixture(scope="module")
def trunk():
    """Random weights, two small images that are not square, and Keras' maps of them."""
    from genre_utils.extraction.vgg import build_trunk, random_arrays

    arrays = random_arrays()
    images = np.random.default_rng(0).normal(0, 50, (2, 32, 64, 3)).astype(np.float32)
    return arrays, images, build_trunk(images.shape[1:], arrays)(images).numpy()


def test_exported_trunk_computes_kerass_maps(trunk):
    from onnx import load_model_from_string
    from onnx.reference import ReferenceEvaluator

    arrays, images, maps = trunk
    model = ReferenceEvaluator(load_model_from_string(rivals.onnx_model(arrays)))
    found = model.run(None, {"images": images.transpose(0, 3, 1, 2)})[0]
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), maps, atol=1e-4 * maps.max())


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_every_framework_computes_kerass_maps(name, trunk, tmp_path):
    pytest.importorskip(name)
    arrays, images, maps = trunk
    found = rivals.forward(name, arrays, tmp_path)(images)
    np.testing.assert_allclose(found, maps, atol=1e-4 * maps.max())


def test_a_framework_with_other_maps_is_not_timed(trunk):
    from genre_utils.benchmark.trunk import _check_equal

    _, images, maps = trunk
    _check_equal({"tensorflow": lambda _: maps, "same": lambda _: maps}, images)
    with pytest.raises(GenreUtilsError, match=r"^other: maps differ"):
        _check_equal({"tensorflow": lambda _: maps, "other": lambda _: 1.01 * maps}, images)


def test_whole_network_trains_the_head_alone(trunk):
    from genre_utils.benchmark import naive

    arrays, images, _ = trunk
    model = naive.whole_network(images.shape[1:], 2, arrays)
    assert len(model.trainable_weights) == 6
    before = model.trainable_weights[0].numpy()
    naive.fit(model, images, np.array([0, 1]), epochs=1)
    np.testing.assert_array_equal(
        model.layers[0].get_layer("block1_conv1").get_weights()[0], arrays["block1_conv1"][0]
    )
    assert not np.array_equal(model.trainable_weights[0].numpy(), before)


@pytest.fixture
def bench(cache, tmp_path, monkeypatch):
    """Eight clips of two genres with mel-spectrograms of 32 x 64, a probe that says bfloat16."""
    from genre_utils.benchmark import stages, trunk
    from genre_utils.extraction import vgg
    from genre_utils.extraction.vgg import Decision, load_weights
    from genre_utils.store import Store

    given = vgg.trunk_precision
    monkeypatch.setattr(
        vgg,
        "trunk_precision",
        lambda weights, precision="auto": (
            given(weights, "bfloat16") if precision == "auto" else Decision(precision)
        ),
    )
    monkeypatch.setattr(trunk, "FOLDS", 2)
    monkeypatch.setattr(trunk, "EPOCHS", 2)
    monkeypatch.setattr(stages, "HEAD_ROWS", 128)
    monkeypatch.setattr(stages, "HEAD_EPOCHS", 2)
    ids, y = [f"{i:02d}" for i in range(8)], np.arange(8) % 2
    made = stages.Bench([], ids, y, load_weights("random"), tmp_path, [], 1)
    mel = np.random.default_rng(0).uniform(-80, 0, (8, 32, 64)).astype(np.float32)
    made.plain, made.stores = {"mel": mel}, {"mel": Store(tmp_path, "mel", {})}
    made.stores["mel"].put(ids, mel)
    return made


def test_stages_measure_what_they_say(bench):
    from genre_utils.benchmark import stages, trunk

    rows = {row.stage: row for row in [*trunk.trunk(bench), *stages.head(bench)]}
    rows["features"] = Row("features", 10.0, "clips/s", 2.0, more_is_better=True)
    rows |= {row.stage: row for row in [*stages.experiment(bench, rows), *trunk.agreement(bench)]}
    assert rows["trunk"].ours > 0
    assert "ours in bfloat16" in rows["trunk"].detail
    assert 0.9 < rows["trunk: smallest cosine of bfloat16 maps"].ours < 1
    assert 0 <= rows["trunk: predictions that bfloat16 changes"].ours <= 8
    whole, head = rows["whole CNN experiment"], rows["head"]
    once = (1 / 10 + 1 / rows["trunk"].ours) / 10
    assert whole.ours == pytest.approx(once + 200 * head.ours / 1000 / 64)
    assert rows["cost: head"].ours == pytest.approx(
        200 * head.ours / 1000 / 64 * joblib.cpu_count()
    )
    assert whole.against > 0
    error = float(rows["same results: difference of accuracies"].target.split()[-1])
    assert 0 < error <= 0.5 / math.sqrt(8) + 1e-4


# Synthetic clips.


def test_child_measures_each_size(tmp_path):
    found = growth.child("pairs", tmp_path, (40, 80))
    assert [n for n, _, _ in found] == [40, 80]
    assert all(took > 0 for _, took, _ in found)
    if sys.platform == "linux":
        assert 0.05 < found[0][2] <= found[1][2] < 4


def test_child_that_fails_is_one_line(tmp_path):
    with pytest.raises(GenreUtilsError, match=r"measuring features failed: .*files\.json"):
        growth.child("features", tmp_path / "nowhere", (1,))


def test_synthetic_maps_are_as_sparse_as_asked(tmp_path):
    store = child.synthetic(tmp_path, "vgg-mel", 130, (4, 5, 8), zeros=0.9)
    rows = store.load(list(child.clip_table(130)["sha256"]))
    assert rows.shape == (130, 4, 5, 8)
    assert (rows == 0).mean() == pytest.approx(0.9, abs=0.02)


def test_memory_is_extrapolated_from_the_slope():
    row = growth.memory_row("trunk", [[1000, 9.0, 1.0], [3000, 9.0, 1.5]])
    assert row.ours == pytest.approx(1.5 + 2500 * 0.5 / 2000)
    exact = growth.memory_row("head", [[4000, 9.0, 1.0], [5500, 9.0, 4.5]])
    assert (exact.ours, exact.met) == (4.5, "no")


def test_growth_is_the_time_per_clip():
    linear = [[n, n / 100, 1.0] for n in growth.SIZES]
    square = [[n, (n / 1000) ** 2, 1.0] for n in growth.SIZES]
    assert growth.growth_row("tables", linear).ours == pytest.approx(1)
    assert growth.growth_row("tables", linear).met == "yes"
    assert growth.growth_row("tables", square).ours == pytest.approx(4)
    assert growth.growth_row("tables", square).met == "no"
    assert growth.growth_row("pairs", square).met == ""


def test_imports_of_a_notebook(tmp_path):
    import nbformat

    cells = [
        nbformat.v4.new_code_cell("import os\nfrom a import (\n    b,\n)\nx = 1"),
        nbformat.v4.new_markdown_cell("from here on"),
        nbformat.v4.new_code_cell("from pathlib import Path"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    expected = "import os\nfrom a import (\n    b,\n)\nfrom pathlib import Path"
    assert growth.imports(tmp_path / "a.ipynb") == expected


def test_repeated_run_is_the_sum_of_its_notebooks(tmp_path):
    timings = {path.stem: 2.5 for path in growth.notebooks()}
    (tmp_path / "run.json").write_text(json.dumps({"timings": timings}))
    row = growth.repeated_run(str(tmp_path))
    assert row.ours == 2.5 * len(timings)
    assert growth.repeated_run("").met == ""
    (tmp_path / "run.json").write_text(json.dumps({"timings": {}}))
    with pytest.raises(GenreUtilsError, match="was not run"):
        growth.repeated_run(str(tmp_path))
    with pytest.raises(GenreUtilsError, match=r"no run\.json"):
        growth.repeated_run(str(tmp_path / "nowhere"))


# What is written.


def table():
    from genre_utils.benchmark import scaling

    rows = [Row(stage, 0.5, "core-s/clip") for stage in (*scaling.COSTS.values(), "cost: head")]
    rows += [Row(stage, 100_000.0, "bytes/clip") for stage in scaling.STORED.values()]
    rows += [Row(f"memory: {growth.LABELS['head']}", 2.5, "GB", target="ours < 4")]
    return [*rows, Row(f"growth: {growth.LABELS['pairs']}", 1.5, "", target="ours <= 1.1")]


def test_report_says_what_is_met(tmp_path):
    from genre_utils.benchmark import report

    rows = [*table(), Row("repeated", math.nan, "s", target="ours < 30", detail="a|b")]
    text = report.write(rows, MACHINE, tmp_path)
    assert "1 of 3 targets met, 1 missed, 1 not measured" in text
    assert text == (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert all(len(line) == len(COLUMNS) for line in lines)
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "benchmark.json").read_text()) == MACHINE
    read = pd.read_csv(tmp_path / "benchmark.csv", keep_default_na=False)
    assert list(read.columns) == list(COLUMNS)
    assert list(read["met"]) == [row.met for row in rows]


def test_page_on_scale_follows_from_the_table():
    from genre_utils.benchmark import scaling

    def cells(costs, name):
        page = scaling.page(costs, MACHINE)
        line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        return [float(cell.replace(",", "")) for cell in line.strip("| ").split(" | ")[1:]]

    costs = frame(table())
    assert cells(costs, "trunk") == pytest.approx(
        [0.5, 0.5 * 5500 / 3600, 0.5 * 106_574 / 3600, 0.5 * 1e8 / 3600], rel=1e-2
    )
    assert cells(costs, "maps")[-1] == pytest.approx(100_000 * 1e8 / 1e12)
    costs.loc[costs["stage"] == "cost: trunk", "ours"] *= 2
    assert cells(costs, "trunk")[-1] == pytest.approx(2 * 0.5 * 1e8 / 3600, rel=1e-3)
    assert cells(costs, "features")[-1] == pytest.approx(0.5 * 1e8 / 3600, rel=1e-3)


# Command line.


def parsed(*arguments):
    whole = argparse.ArgumentParser()
    cli.add_parsers(whole.add_subparsers())
    return whole.parse_args(["benchmark", *arguments])


def test_unknown_rival_is_a_wrong_call():
    arguments = parsed("--against", "naive,mxnet")
    with pytest.raises(UsageError, match="--against mxnet: one of naive, onnxruntime"):
        arguments.func(arguments)


def test_rival_that_is_not_installed_names_its_package(monkeypatch):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenreUtilsError, match="not installed; pip install onnxruntime"):
        rivals.chosen("onnxruntime")
    assert rivals.chosen("naive") == []


def test_command_writes_all_and_keeps_what_a_stopped_run_measured(tmp_path, monkeypatch, capsys):
    clips = pd.DataFrame({"path": ["a"]})
    monkeypatch.setattr(cli, "choose", lambda *_: (clips, tmp_path))

    def stopped(*_):
        yield table()[:2]
        raise KeyboardInterrupt

    arguments = parsed("--out", str(tmp_path / "out"))
    monkeypatch.setattr(cli, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        arguments.func(arguments)
    assert len(pd.read_csv(tmp_path / "out" / "benchmark.csv")) == 2 + 1  # and the repeated run
    monkeypatch.setattr(cli, "_measure", lambda *_: iter([table()[:2], table()]))
    assert arguments.func(arguments) == 0
    stages = list(pd.read_csv(tmp_path / "out" / "benchmark.csv")["stage"])
    assert stages[:3] == [
        "memory: head, one fold and epoch",
        "growth: comparing all pairs alone",
        "repeated run, nothing changed",
    ]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"benchmark.{end}" for end in ("csv", "json", "md", "png")} | {"scaling.md"}
    assert "1 of 3 targets met" in capsys.readouterr().out


def test_no_rounds_are_a_wrong_call():
    arguments = parsed("--repeats", "0")
    with pytest.raises(UsageError, match="--repeats must be 1 or more"):
        arguments.func(arguments)


def test_clips_are_spread_over_genres_and_too_few_are_refused(tmp_path):
    t = np.arange(3 * 16000) / 16000
    for genre in ("a", "b"):
        (tmp_path / genre).mkdir()
        for i in range(4):
            pitch = 200 + 10 * i + 5 * (genre == "b")
            soundfile.write(tmp_path / genre / f"{i}.wav", np.sin(2 * np.pi * pitch * t), 16000)
    clips, folder = cli.choose("folder", str(tmp_path), 6, folds=3)
    assert list(clips.groupby("genre").size()) == [3, 3]
    assert list(clips["y"]) == [int(genre == "b") for genre in clips["genre"]]
    assert clips["sha256"].is_unique
    assert folder == tmp_path
    with pytest.raises(UsageError, match=r"--clips 4 .* fewer than 3 clips; at least 6"):
        cli.choose("folder", str(tmp_path), 4, folds=3)
