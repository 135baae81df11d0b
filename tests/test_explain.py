"""Saliency maps on networks whose reasons are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from genre_utils.extraction.vgg import build_trunk, preprocess, random_arrays
from genre_utils.models import explain
from genre_utils.models import explain as saliency
from genre_utils.models.sweep import predict_proba, sparse_rows
from genre_utils.runtime import GenreUtilsError, UsageError

GENRES = np.array(["Classical", "Jazz", "World"])
SHAPE = (70, 134)  # 2 x 4 places after the last pooling, 6 pixels left over on both sides
ARRAYS = random_arrays(1)
MEAN = np.float32([123.68, 116.779, 103.939])  # ImageNet's: zero for the trunk


def _noise(seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (*SHAPE, 3)).astype(np.float32)


def _head(pooling, kernel, last):
    """A head that is linear in its non-negative input: logits = input @ kernel @ last."""
    weights = [kernel, np.zeros(512), np.eye(512, 256), np.zeros(256), last, np.zeros(3)]
    weights = [array.astype(np.float32) for array in weights]
    return SimpleNamespace(classes_=GENRES, pooling=pooling, weights_=weights)


def _averaging():
    last = np.random.default_rng(2).normal(0, 1e-3, (256, 3))
    return explain.Network(ARRAYS, _head("average", np.eye(512), last), SHAPE)


def _corner(sign=1.0):
    """World is what the lowest, last place shows, whatever the rest of the image does."""
    kernel = np.zeros((2, 4, 512, 512))
    kernel[1, 3] = np.eye(512)
    last = np.zeros((256, 3))
    last[:, 2] = sign * 0.01
    return explain.Network(ARRAYS, _head("flatten", kernel.reshape(-1, 512), last), SHAPE)


def _values(image):
    trunk = build_trunk((*SHAPE, 3), ARRAYS)
    layers = [layer.name for layer in trunk.layers]
    x = preprocess(image[None])
    for layer in trunk.layers[1 : layers.index("block5_conv3") + 1]:
        x = layer(x)
    return x.numpy()[0]


def _bilinear(places):
    for axis in (0, 1):
        pixels = (np.arange(16 * places.shape[axis]) + 0.5) / 16 - 0.5
        places = np.apply_along_axis(
            lambda line, pixels=pixels: np.interp(pixels, range(len(line)), line), axis, places
        )
    return places


def test_with_an_averaging_linear_head_it_is_the_class_activation_map():
    network, image = _averaging(), _noise()
    for number, genre in enumerate(GENRES):
        last = network.head.weights_[4][:, number]
        expected = _bilinear(np.maximum(_values(image)[..., :256] @ last, 0))
        expected /= expected.max()
        found = explain.grad_cam(network, image, genre)
        assert found.shape == SHAPE
        assert found[:64, :128] == pytest.approx(expected, abs=1e-4)
        assert (found[64:] == found[63]).all() and (found[:, 128:] == found[:, 127:128]).all()


def test_the_network_is_trunk_and_head():
    network, images = _averaging(), np.stack([_noise(i) for i in range(9)])  # more than a batch
    maps = build_trunk((*SHAPE, 3), ARRAYS)(preprocess(images)).numpy()
    proba = predict_proba(network.head.weights_, sparse_rows(maps.mean(axis=(1, 2))))
    logits = network.logits(images)
    assert softmax(logits, axis=1) == pytest.approx(proba, abs=1e-4)
    odds = proba[:, 1] / (1 - proba[:, 1])
    assert network.log_odds(images, "Jazz") == pytest.approx(np.log(odds), abs=1e-3)


def test_grad_cam_lies_where_the_image_has_what_the_genre_is_made_of():
    image = np.broadcast_to(MEAN, (*SHAPE, 3)).copy()
    image[:, :32] = _noise()[:, :32]
    last = np.zeros((256, 3))
    last[:, 1] = 1
    network = explain.Network(ARRAYS, _head("average", np.eye(512), last), SHAPE)
    found = explain.grad_cam(network, image, "Jazz")
    assert found[:, :67].sum() > 0.8 * found.sum()  # half of it would be no finding


def test_occlusion_finds_the_planted_place():
    network, image = _corner(), _noise()
    found = explain.occlusion(network, image, "World", (2, 4))
    assert found.shape == SHAPE and len(np.unique(found)) == 8
    assert np.unravel_index(found.argmax(), SHAPE) >= (35, 100)
    covered = image.copy()
    covered[35:, 100:] = image.mean()
    drop = network.log_odds(image[None], "World") - network.log_odds(covered[None], "World")
    assert found[-1, -1] == pytest.approx(drop[0], rel=1e-3)
    against = explain.occlusion(network, image, "Jazz", (2, 4))  # what speaks for one speaks
    assert against[-1, -1] < 0  # against the other


def test_random_weights_change_the_map():
    maps = explain.randomised(_averaging(), _noise(), "Jazz", seed=1)
    assert list(maps) == ["trained", "head random", "head and block 5 random", "all random"]
    alike = saliency.rank_correlations(maps)
    assert alike["trained"] == pytest.approx(1)
    assert (alike.drop("trained").abs() < 0.7).all()


def test_a_map_that_does_not_look_at_the_weights_is_found_out(monkeypatch):
    def edges(_, image, __):
        return np.abs(np.gradient(image.mean(axis=-1))[0])

    monkeypatch.setattr(explain, "grad_cam", edges)
    alike = saliency.rank_correlations(explain.randomised(_averaging(), _noise(), "Jazz"))
    assert alike.to_numpy() == pytest.approx(np.ones(4))


def test_only_the_parts_named_are_random():
    network = _averaging()
    part = network.randomised(("block5",), seed=3)
    for name, (kernel, _) in part.arrays.items():
        assert (kernel == ARRAYS[name][0]).all() == (not name.startswith("block5"))
    assert part.head is network.head
    head, again = (network.randomised(("head",), seed=3) for _ in range(2))
    pairs = zip(head.head.weights_, again.head.weights_, strict=True)
    assert all((one == two).all() for one, two in pairs)
    assert head.arrays is network.arrays
    assert not (head.head.weights_[0] == network.head.weights_[0]).all()
    assert (network.head.weights_[0] == np.eye(512)).all()  # the original is as it was


def test_a_flat_map_has_no_correlation():
    alike = saliency.rank_correlations({"a": np.arange(6.0), "b": np.zeros(6), "c": -np.arange(6)})
    assert alike[["a", "c"]].to_numpy() == pytest.approx([1, -1])
    assert np.isnan(alike["b"])


def test_what_does_not_fit_is_refused():
    network = _averaging()
    with pytest.raises(UsageError, match="unknown genre 'Rock': one of Classical, Jazz, World"):
        explain.grad_cam(network, _noise(), "Rock")
    with pytest.raises(UsageError, match=r"\(50, 50, 3\) where \(70, 134, 3\)"):
        explain.grad_cam(network, np.zeros((50, 50, 3), np.float32), "Jazz")


def _predictions():
    rows = [
        ("c1", "Jazz", "Jazz", 0.7),
        ("c0", "Jazz", "Jazz", 0.9),
        ("c2", "Jazz", "Jazz", 0.9),
        ("c3", "World", "World", 0.6),
        ("c4", "Jazz", "World", 0.5),
        ("c5", "Jazz", "World", 0.8),
        ("c6", "World", "Classical", 0.99),
    ]
    table = pd.DataFrame(rows, columns=["clip_id", "y_true", "y_pred", "confidence"])
    for genre in GENRES:
        rest = (1 - table["confidence"]) / 2
        table[f"p_{genre}"] = table["confidence"].where(table["y_pred"] == genre, rest)
    where = {"system": "cnn-mel", "protocol": "artist", "fold": 0}
    return table.drop(columns="confidence").assign(**where)


def test_examples_are_the_surest_of_each_kind():
    found = saliency.examples(_predictions().sample(frac=1, random_state=1), [("Jazz", "World")])
    columns = ["pair", "kind", "clip_id", "y_true", "y_pred", "confidence"]
    assert found[columns].to_numpy().tolist() == [
        ["Jazz/World", "right", "c0", "Jazz", "Jazz", 0.9],
        ["Jazz/World", "right", "c3", "World", "World", 0.6],
        ["Jazz/World", "wrong", "c5", "Jazz", "World", 0.8],
    ]
    assert saliency.examples(_predictions(), []).empty


def test_examples_of_several_systems_or_without_probabilities_are_refused():
    table = _predictions()
    with pytest.raises(GenreUtilsError, match="one system under one protocol"):
        saliency.examples(pd.concat([table, table.assign(system="b")]), [("Jazz", "World")])
    with pytest.raises(GenreUtilsError, match="cnn-mel has no probabilities"):
        saliency.examples(table.drop(columns="p_World"), [("Jazz", "World")])
