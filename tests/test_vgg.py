import numpy as np
import pytest

from genre_utils import paper
from genre_utils.backend import keras
from genre_utils.errors import UsageError
from genre_utils.extraction import features, vgg, weights
from genre_utils.store import Store


@pytest.fixture(scope="module")
def trunk():
    return weights.load_weights()


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


def _stored(folder, n=11):
    rng = np.random.default_rng(1)
    store = Store(folder, "chroma", {"test": 1})
    ids = [f"clip{i}" for i in range(n)]
    store.put(ids, rng.uniform(0, 1, (n, *paper.SHAPES["chroma"])).astype(np.float32))
    return store, ids


def test_maps_equal_one_straight_pass_through_keras(tmp_path, trunk):
    store, ids = _stored(tmp_path)
    maps = vgg.compute_maps(store, "chroma", ids, trunk, tmp_path).load(ids)
    images = np.stack([features.to_image(f, "chroma") for f in store.load(ids)])
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=images.shape[1:])
    for name, pair in trunk.arrays.items():
        model.get_layer(name).set_weights(list(pair))
    straight = model.predict(keras.applications.vgg16.preprocess_input(images), verbose=0)
    assert maps.shape == (11, 1, 4, 512)
    assert maps.dtype == np.float16
    assert straight.max() > 10  # the trunk does something with these images
    assert np.allclose(maps, straight, rtol=2e-3, atol=2e-3)


def test_only_missing_clips_are_run_and_parameters_part_the_stores(tmp_path, trunk, monkeypatch):
    store, ids = _stored(tmp_path)
    first = vgg.compute_maps(store, "chroma", ids[:3], trunk, tmp_path)
    before = first.load(ids[:3])
    run = []
    forward = vgg._forward
    monkeypatch.setattr(
        vgg, "_forward", lambda f, images: run.append(len(images)) or forward(f, images)
    )
    again = vgg.compute_maps(store, "chroma", ids, trunk, tmp_path)
    assert run == [8]
    assert np.array_equal(again.load(ids[:3]), before)
    vgg.compute_maps(store, "chroma", ids, trunk, tmp_path)
    assert run == [8]
    other = vgg.compute_maps(store, "chroma", ids[:1], trunk, tmp_path, preprocessing="scale")
    assert other.folder != first.folder
    vgg.compute_maps(store, "chroma", ids[:2], trunk, tmp_path, fresh=True)
    assert run == [8, 1, 2]
