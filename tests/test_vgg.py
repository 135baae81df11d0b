import os
import subprocess
import sys

import numpy as np
import pytest

from genre_utils import paper
from genre_utils.extraction import features, vgg
from genre_utils.extraction import vgg as precision
from genre_utils.extraction import vgg as weights
from genre_utils.runtime import UsageError
from genre_utils.store import Store

ALL = ("vgg", "block4", "pooled")


@pytest.fixture(scope="module")
def trunk():
    return weights.load_weights()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    rng = np.random.default_rng(1)
    store = Store(tmp_path_factory.mktemp("features"), "chroma", {"test": 1})
    ids = [f"clip{i}" for i in range(11)]
    store.put(ids, rng.uniform(0, 1, (11, *paper.SHAPES["chroma"])).astype(np.float32))
    return store, ids


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory, trunk, stored):
    store, ids = stored
    root = tmp_path_factory.mktemp("maps")
    made = vgg.compute_maps(store, "chroma", ids, trunk, root, precision="float32", keep=ALL)
    return {name: (rows.folder, rows.load(ids)) for name, rows in made.items()}


@pytest.fixture
def runs(monkeypatch):
    """How many images each pass through the trunk had."""
    counted, forward = [], vgg._forward
    monkeypatch.setattr(
        vgg, "_forward", lambda f, images: counted.append(len(images)) or forward(f, images)
    )
    return counted


def _compute(stored, trunk, root, n=11, **how):
    store, ids = stored
    return vgg.compute_maps(store, "chroma", ids[:n], trunk, root, **{"precision": "float32"} | how)


@pytest.mark.parametrize(
    ("name", "expected"), [("mel", (6, 19, 512)), ("mfcc", (1, 2, 512)), ("chroma", (1, 4, 512))]
)
def test_output_shapes_of_the_three_inputs(name, expected):
    model = weights.build_trunk((*paper.SHAPES[name], 3))
    assert model.output_shape == (None, *expected)
    assert not model.trainable_weights
    # Five poolings halve and round down.
    height, width = paper.SHAPES[name]
    assert expected[:2] == (height // 2**5, width // 2**5)


def test_preprocessing_is_keras_own():
    image = np.random.default_rng(0).uniform(0, 255, (2, 4, 5, 3)).astype(np.float32)
    by_hand = image[..., ::-1] - np.float32([103.939, 116.779, 123.68])
    assert np.allclose(vgg.preprocess(image), by_hand, atol=1e-4)
    assert np.allclose(vgg.preprocess(image, "scale"), image / 255)
    with pytest.raises(UsageError, match="unknown preprocessing"):
        vgg.preprocess(image, "imagenet")


def _straight(stored, trunk, layer):
    """One pass through Keras' own model, up to a layer."""
    from genre_utils.backend import keras

    store, ids = stored
    images = np.stack([features.to_image(f, "chroma") for f in store.load(ids)])
    whole = keras.applications.VGG16(weights=None, include_top=False, input_shape=images.shape[1:])
    for name, pair in trunk.arrays.items():
        whole.get_layer(name).set_weights(list(pair))
    model = keras.Model(whole.input, whole.get_layer(layer).output)
    return model.predict(keras.applications.vgg16.preprocess_input(images), verbose=0)


@pytest.mark.parametrize(
    ("kind", "layer", "shape"),
    [("vgg", "block5_pool", (1, 4, 512)), ("block4", "block4_pool", (2, 9, 512))],
)
def test_maps_equal_one_straight_pass_through_keras(one_pass, trunk, stored, kind, layer, shape):
    _, maps = one_pass[f"{kind}-chroma"]
    straight = _straight(stored, trunk, layer)
    assert maps.shape == (11, *shape)
    assert maps.dtype == np.float16
    assert straight.max() > 10  # the trunk does something with these images
    assert np.allclose(maps, straight, rtol=2e-3, atol=2e-3)


def test_pooled_values_are_means_and_maxima_of_the_three_blocks(one_pass, trunk, stored):
    _, rows = one_pass["pooled-chroma"]
    for layer, bands in (("block3_pool", 4), ("block4_pool", 2), ("block5_pool", 1)):
        maps = _straight(stored, trunk, layer).astype(np.float64)
        height = maps.shape[1]
        assert height % bands == 0
        # [n, band, rows of the band and columns together, channel]
        cut = maps.reshape(11, bands, -1, maps.shape[3])
        expected = np.stack([cut.mean(axis=2), cut.max(axis=2)], axis=2).reshape(11, -1)
        columns = vgg.pooled_slices("chroma")[layer]
        assert np.allclose(rows[:, columns], expected, rtol=2e-3, atol=2e-3)
    assert columns.stop == rows.shape[1]


def test_bands_of_the_mel_maps():
    rng = np.random.default_rng(2)
    maps = [rng.uniform(0, 9, shape) for shape in ((2, 27, 78, 256), (2, 13, 39, 512))]
    maps.append(rng.uniform(0, 9, (2, 6, 19, 512)))
    rows, slices = vgg.pooled(maps), vgg.pooled_slices("mel")
    assert rows.shape == (2, 10240)
    assert list(slices.values()) == [slice(0, 4096), slice(4096, 8192), slice(8192, 10240)]
    # 27 rows in 8 bands: the first three have 4 rows, the others 3; the fourth begins at row 12.
    block3 = rows[:, slices["block3_pool"]].reshape(2, 8, 2, 256)
    assert np.allclose(block3[:, 3, 0], maps[0][:, 12:15].mean(axis=(1, 2)))
    assert np.array_equal(block3[:, 7, 1], maps[0][:, 24:27].max(axis=(1, 2)))
    block5 = rows[:, slices["block5_pool"]].reshape(2, 2, 2, 512)
    assert np.array_equal(block5[:, 1, 1], maps[2][:, 3:6].max(axis=(1, 2)))


def test_one_pass_equals_separate_passes(one_pass, trunk, stored, tmp_path):
    for kind in ALL:
        ((name, store),) = _compute(stored, trunk, tmp_path, keep=(kind,)).items()
        folder, rows = one_pass[name]
        assert store.folder.name == folder.name
        assert np.array_equal(store.load(stored[1]), rows)


def test_a_kind_asked_for_later_is_added_and_no_row_twice(one_pass, trunk, stored, tmp_path, runs):
    _compute(stored, trunk, tmp_path, n=3)
    both = _compute(stored, trunk, tmp_path, n=5, keep=("vgg", "pooled"))
    assert runs == [3, 5]
    shards = both["vgg-chroma"].folder.glob("*.npy")
    assert sorted(len(np.load(path)) for path in shards) == [2, 3]
    assert np.array_equal(both["vgg-chroma"].load(stored[1][:5]), one_pass["vgg-chroma"][1][:5])
    rows = both["pooled-chroma"].load(stored[1][:5])
    assert np.array_equal(rows, one_pass["pooled-chroma"][1][:5])


def test_only_missing_clips_are_run_and_parameters_part_the_stores(trunk, stored, tmp_path, runs):
    _, ids = stored
    first = _compute(stored, trunk, tmp_path, n=3)["vgg-chroma"]
    before = first.load(ids[:3])
    again = _compute(stored, trunk, tmp_path)["vgg-chroma"]
    assert runs == [3, 8]
    assert np.array_equal(again.load(ids[:3]), before)
    _compute(stored, trunk, tmp_path)
    assert runs == [3, 8]
    other = _compute(stored, trunk, tmp_path, n=1, preprocessing="scale")["vgg-chroma"]
    assert other.folder != first.folder
    _compute(stored, trunk, tmp_path, n=2, fresh=True)
    assert runs == [3, 8, 1, 2]


def test_shards_in_worker_processes_give_the_same_rows(
    one_pass, trunk, stored, tmp_path, monkeypatch
):
    monkeypatch.setattr(vgg, "SHARD", 4)
    made = _compute(stored, trunk, tmp_path, keep=ALL, jobs=2)
    assert len(list(made["vgg-chroma"].folder.glob("*.npy"))) == 3
    for name, store in made.items():
        assert np.array_equal(store.load(stored[1]), one_pass[name][1])


def test_bfloat16_gives_nearly_the_same_maps_in_another_store(one_pass, trunk, stored, tmp_path):
    short = _compute(stored, trunk, tmp_path, keep=ALL, precision="bfloat16")
    for name, store in short.items():
        folder, exact = one_pass[name]
        assert store.folder.name != folder.name
        rows = store.load(stored[1])
        assert 0.999 < precision.smallest_cosine(exact, rows) < 1
        assert not np.array_equal(rows, exact)


def test_auto_takes_what_the_measurement_says(trunk, stored, tmp_path, cache, monkeypatch):
    by_name = {
        kind: _compute(stored, trunk, tmp_path, n=1, precision=kind)["vgg-chroma"].folder
        for kind in ("float32", "bfloat16")
    }
    seconds = {"float32": 4.0, "bfloat16": 1.0}
    monkeypatch.setattr(vgg, "_timed_pass", lambda arrays, kind: (seconds[kind], np.ones((4, 9))))
    assert vgg.trunk_precision(trunk) == precision.Decision("bfloat16", 4.0, 1.0)
    taken = _compute(stored, trunk, tmp_path, n=1, precision="auto")["vgg-chroma"].folder
    assert taken == by_name["bfloat16"] != by_name["float32"]


def test_the_measurement_runs_the_trunk_itself(trunk):
    seconds, maps = vgg._timed_pass(trunk.arrays, "float32")
    assert seconds > 0
    assert maps.shape == (4, 6, 4, 512)  # four clips of 5 s
    assert maps.max() > 10
    assert not np.allclose(maps[0], maps[3], rtol=0.1)


def test_unknown_names_are_one_clear_line(trunk, stored, tmp_path):
    with pytest.raises(UsageError, match="unknown keep 'block3': one of vgg, block4, pooled"):
        _compute(stored, trunk, tmp_path, keep=("vgg", "block3"))
    with pytest.raises(UsageError, match="unknown precision"):
        _compute(stored, trunk, tmp_path, precision="half")


def test_a_repeated_run_does_not_start_tensorflow(trunk, stored, tmp_path):
    made = _compute(stored, trunk, tmp_path)["vgg-chroma"]
    code = (
        "import sys; from genre_utils.extraction import vgg, weights; "
        "from genre_utils.store import Store; "
        f"store = Store.opened({str(stored[0].folder)!r}); "
        f"made = vgg.compute_maps(store, 'chroma', {stored[1]!r}, weights.load_weights(), "
        f"{str(tmp_path)!r}, precision='float32'); "
        "print(made['vgg-chroma'].folder, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.split() == [str(made.folder), "False"]
