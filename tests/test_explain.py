"""Saliency maps on networks whose reasons are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from genre_utils.extraction.vgg import build_trunk, preprocess, random_arrays
from genre_utils.models import explain
from genre_utils.models.cnn import HeadClassifier
from genre_utils.models.sweep import predict_proba, sparse_rows
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Run, Store

GENRES = np.array(["Classical", "Jazz", "World"])
SHAPE = (70, 134)  # 2 x 4 places after the last pooling, 6 pixels left over on both sides
LOOK = {"weights": "random", "mel_scale": "db", "channels": "repeat", "preprocessing": "vgg16"}
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
        heat = explain.grad_cam(network, image, genre)
        assert heat.shape == SHAPE
        assert heat[:64, :128] == pytest.approx(expected, abs=1e-4)
        assert (heat[64:] == heat[63]).all() and (heat[:, 128:] == heat[:, 127:128]).all()


def test_the_network_is_trunk_and_head():
    network, images = _averaging(), np.stack([_noise(i) for i in range(9)])  # more than a batch
    maps = build_trunk((*SHAPE, 3), ARRAYS)(preprocess(images)).numpy()
    proba = predict_proba(network.head.weights_, sparse_rows(maps.mean(axis=(1, 2))))
    odds = proba[:, 1] / (1 - proba[:, 1])
    assert network.log_odds(images, "Jazz") == pytest.approx(np.log(odds), abs=1e-3)


def test_grad_cam_lies_where_the_image_has_what_the_genre_is_made_of():
    image = np.broadcast_to(MEAN, (*SHAPE, 3)).copy()
    image[:, :32] = _noise()[:, :32]
    last = np.zeros((256, 3))
    last[:, 1] = 1
    network = explain.Network(ARRAYS, _head("average", np.eye(512), last), SHAPE)
    heat = explain.grad_cam(network, image, "Jazz")
    assert heat[:, :67].sum() > 0.8 * heat.sum()  # half of it would be no finding


def test_occlusion_finds_the_planted_place():
    network, image = _corner(), _noise()
    heat = explain.occlusion(network, image, "World", (2, 4))
    assert heat.shape == SHAPE and len(np.unique(heat)) == 8
    assert np.unravel_index(heat.argmax(), SHAPE) >= (35, 100)
    covered = image.copy()
    covered[35:, 100:] = image.mean()
    drop = network.log_odds(image[None], "World") - network.log_odds(covered[None], "World")
    assert heat[-1, -1] == pytest.approx(drop[0], rel=1e-3)
    against = explain.occlusion(network, image, "Jazz", (2, 4))  # what speaks for one speaks
    assert against[-1, -1] < 0  # against the other


def _maps(**seed):
    networks = explain.stages(_averaging(), **seed)
    return {name: explain.grad_cam(part, _noise(), "Jazz") for name, part in networks.items()}


def test_random_weights_change_the_map():
    maps = _maps(seed=1)
    assert list(maps) == ["trained", "head random", "head and block 5 random", "all random"]
    alike = explain.rank_correlations(maps)
    assert alike["trained"] == pytest.approx(1)
    assert (alike.drop("trained").abs() < 0.7).all()


def test_a_map_that_does_not_look_at_the_weights_is_found_out(monkeypatch):
    def edges(_, image, __):
        return np.abs(np.gradient(image.mean(axis=-1))[0])

    monkeypatch.setattr(explain, "grad_cam", edges)
    alike = explain.rank_correlations(_maps())
    assert alike.to_numpy() == pytest.approx(np.ones(4))


def test_only_the_layers_named_are_random(monkeypatch):
    network, made = _averaging(), []
    monkeypatch.setattr(explain, "Network", lambda arrays, head, *_: made.append((arrays, head)))
    explain.stages(network, seed=3)
    for (arrays, head), start in zip(made, ("none", "block5", "block"), strict=True):
        for name, (kernel, _) in arrays.items():
            assert (kernel == ARRAYS[name][0]).all() == (not name.startswith(start))
        assert not (head.weights_[0] == network.head.weights_[0]).all()
    assert (network.head.weights_[0] == np.eye(512)).all()  # the original is as it was


def test_a_flat_map_has_no_correlation():
    alike = explain.rank_correlations({"a": np.arange(6.0), "b": np.zeros(6), "c": -np.arange(6)})
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
    return table.drop(columns="confidence").assign(system="cnn-mel", protocol="artist", fold=0)


def test_examples_are_the_surest_of_each_kind():
    chosen = explain.examples(_predictions().sample(frac=1, random_state=1), [("Jazz", "World")])
    columns = ["pair", "kind", "clip_id", "y_true", "y_pred", "confidence"]
    assert chosen[columns].to_numpy().tolist() == [
        ["Jazz/World", "right", "c0", "Jazz", "Jazz", 0.9],
        ["Jazz/World", "right", "c3", "World", "World", 0.6],
        ["Jazz/World", "wrong", "c5", "Jazz", "World", 0.8],
    ]
    assert explain.examples(_predictions(), []).empty


def test_examples_of_several_systems_or_without_probabilities_are_refused():
    table = _predictions()
    with pytest.raises(GenreUtilsError, match="one system under one protocol"):
        explain.examples(pd.concat([table, table.assign(system="b")]), [("Jazz", "World")])
    with pytest.raises(GenreUtilsError, match="cnn-mel has no probabilities"):
        explain.examples(table.drop(columns="p_World"), [("Jazz", "World")])


def test_the_pair_that_is_confused_most():
    true = ["A"] * 10 + ["B"] * 10 + ["C"] * 4
    answer = ["B"] * 2 + ["A"] * 8 + ["B"] * 9 + ["C"] + ["B", "B", "C", "C"]
    table = pd.DataFrame({"y_true": true, "y_pred": answer})
    assert explain.most_confused(table) == [("B", "C")]  # 3 of 14; A and B are 2 of 20
    assert explain.most_confused(table, 2) == [("B", "C"), ("A", "B")]


def test_each_clip_is_explained_by_the_head_that_was_not_trained_on_it(cache, monkeypatch):
    """Folds under the examples' protocol, the run's own look, and nothing is computed twice."""
    rng, run = np.random.default_rng(1), Run(cache / "run")
    table = _predictions().assign(fold=[0, 1, 0, 2, 2, 1, 0])
    ids = list(table["clip_id"])
    clips = table[["clip_id"]].assign(genre=table["y_true"], status="ok")
    run.write("clips", clips)
    run.write("audio", pd.DataFrame({"clip_id": ids, "sha256": [f"sha {i}" for i in ids]}))
    other = table.assign(protocol="random", fold=9)
    run.write("splits", pd.concat([other, table])[["protocol", "clip_id", "fold"]])
    run.record("look", LOOK)
    stores = {name: Store.make(cache, name, {}) for name in ("mel", "vgg-mel")}
    shas = [f"sha {i}" for i in ids]
    stores["mel"].put(shas, rng.uniform(-80, 0, (len(ids), 64, 64)).astype(np.float32))
    stores["vgg-mel"].put(shas, rng.random((len(ids), 2, 2, 512)).astype(np.float16))
    run.record_arrays(stores)
    chosen = explain.examples(table, [("Jazz", "World")])
    trained, fit = [], HeadClassifier.fit

    def counted(self, X, y):
        trained.append((len(X), self.seed))
        return fit(self, X, y)

    monkeypatch.setattr(HeadClassifier, "fit", counted)
    how = {"settings": {"epochs": 1, "seed": 5}, "patches": (1, 2)}
    maps = explain.explained(run, chosen, **how)
    assert sorted(chosen["fold"]) == [1, 1, 2]
    assert trained == [(5, 5 + 1), (5, 5 + 2)]
    assert maps["gradient"].shape == maps["occlusion"].shape == (3, 64, 64)
    assert all(len(np.unique(values)) <= 2 for values in maps["occlusion"])
    again = explain.explained(run, chosen, **how)
    assert len(trained) == 2
    assert np.array_equal(again["occlusion"], maps["occlusion"])
    explain.explained(run, chosen, **how | {"patches": (2, 1)})
    assert len(trained) == 4
    checked = explain.sanity_check(run, chosen, settings=how["settings"])
    assert checked.pop("alike").shape == (3, 4)
    assert list(checked) == ["trained", *explain.RANDOM]
    assert np.array_equal(checked["trained"], maps["gradient"][0])
    alike = explain.sanity_check(run, chosen, settings=how["settings"])["alike"]
    assert alike[0] == pytest.approx(explain.rank_correlations(checked), nan_ok=True)
    assert len(trained) == 6
