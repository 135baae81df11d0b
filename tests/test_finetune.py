import pickle

import numpy as np
import pytest
from sklearn.base import clone

from genre_utils import paper
from genre_utils.backend import keras
from genre_utils.extraction import features, vgg
from genre_utils.extraction.vgg import Weights, build_trunk, load_weights
from genre_utils.models import cnn as finetune
from genre_utils.models.cnn import FineTuneClassifier, HeadClassifier, build_head
from genre_utils.runtime import UsageError

CONVOLUTIONS = 13


@pytest.fixture(scope="module")
def arrays():
    return load_weights("random").arrays


@pytest.fixture(autouse=True)
def drawn_once(arrays, monkeypatch):
    """Drawing random weights takes as long as a training here."""
    drawn = {"random": Weights(arrays, "random", "")}
    monkeypatch.setattr(finetune, "load_weights", drawn.__getitem__)


@pytest.fixture(scope="module")
def mels():
    """Spectrograms [32, 64] in dB; of "Jazz" the lower half is loud, of "World" the upper."""
    rng = np.random.default_rng(0)
    y = np.array(["Jazz", "World"])[np.arange(14) % 2]
    X = rng.uniform(-80, -60, (14, 32, 64))
    X[y == "Jazz", :16] += 60
    X[y == "World", 16:] += 60
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def images(mels):
    """Scaled to 0..1: random weights keep an image's scale, and softmax saturates on 255."""
    return vgg.preprocess(np.stack([features.to_image(row, "mel") for row in mels[0]]), "scale")


@pytest.fixture(scope="module")
def maps(images, arrays):
    """Maps of block 4, [2, 4, 512]."""
    trunk = build_trunk((32, 64, 3), arrays)
    return keras.Model(trunk.input, trunk.get_layer("block4_pool").output).predict(
        images, verbose=0
    )


def quick(**settings):
    """Without dropout and shuffling, which Keras' fit draws in another order."""
    how = {"weights": "random", "dropout": 0.0, "shuffle": False, "head_epochs": 0, "epochs": 3}
    return FineTuneClassifier(**how | {"preprocessing": "scale"} | settings)


def end_to_end(arrays, images, y, *, trainable, seed, **fitting):
    """Fine-tune as Keras' guide does: one model from the image on, its lower layers frozen."""
    trunk = build_trunk((32, 64, 3), arrays)
    for layer in trunk.layers:
        layer.trainable = layer.name.startswith(trainable)
    keras.utils.set_random_seed(seed)
    head = build_head(trunk.output_shape[1:], 2, dropout=0.0)
    model = keras.Sequential([keras.layers.Input((32, 64, 3)), *trunk.layers[1:], *head.layers])
    model.compile(
        keras.optimizers.Adam(2e-5), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    target = np.unique(y, return_inverse=True)[1]
    log = model.fit(images, target, shuffle=False, verbose=0, **fitting).history
    return model, np.stack([log["loss"], log["accuracy"]], axis=1)


def assert_same_training(ours, model, history, n_weights):
    assert np.allclose(ours.history_, history, rtol=1e-4)
    theirs = [v.numpy() for v in model.trainable_variables]
    assert len(ours.weights_) == len(theirs) == n_weights
    for mine, its in zip(ours.weights_, theirs, strict=True):
        assert mine.dtype == np.float32
        # Adam's step is the gradient's sign where that is all rounding: a few weights may differ.
        assert (np.abs(mine - its) > 1e-6).mean() < 1e-3
        assert np.abs(mine - its).max() < 2e-5


def test_block5_on_stored_maps_equals_end_to_end_fine_tuning(
    arrays, images, maps, mels, monkeypatch
):
    monkeypatch.setitem(finetune.PARTS, "block5", 3)  # a batch of 8 in three parts, the last of 2
    y = mels[1]
    ours = quick(learning_rate=2e-5, batch_size=8, seed=4).fit(maps, y)
    model, history = end_to_end(
        arrays, images, y, trainable="block5", seed=4, batch_size=8, epochs=3
    )
    assert_same_training(ours, model, history, 6 + 6)
    assert np.allclose(ours.predict_proba(maps), model.predict(images, verbose=0), atol=1e-4)
    for name, (kernel, bias) in arrays.items():
        now = model.get_layer(name).get_weights()
        moved = np.abs(now[0] - kernel).max() > 2e-5 and np.abs(now[1] - bias).max() > 2e-5
        assert moved == name.startswith("block5")
        assert moved or np.array_equal(now[0], kernel)


def test_all_blocks_equal_fit_of_the_whole_network(arrays, images, mels, monkeypatch):
    monkeypatch.setitem(finetune.PARTS, "all", 8)
    X, y = mels
    ours = quick(blocks="all", learning_rate=2e-5, seed=4, epochs=1).fit(X, y)
    model, history = end_to_end(
        arrays, images, y, trainable="block", seed=4, batch_size=14, epochs=1
    )
    assert_same_training(ours, model, history, 2 * CONVOLUTIONS + 6)
    assert np.allclose(ours.predict_proba(X), model.predict(images, verbose=0), atol=1e-4)
    assert np.abs(ours.weights_[0] - arrays["block1_conv1"][0]).max() > 1e-5  # a step is 2e-5


def test_without_fine_tuning_it_is_transfer_learning(arrays, images, maps, mels):
    y = mels[1]
    settings = {"dropout": 0.5, "shuffle": True, "batch_size": 8, "seed": 2}
    ours = quick(head_epochs=3, epochs=0, **settings).fit(maps, y)
    stored = build_trunk((32, 64, 3), arrays).predict(images, verbose=0).astype(np.float16)
    head = HeadClassifier(epochs=3, **settings).fit(stored, y)
    assert np.allclose(ours.history_, head.history_, rtol=1e-3)
    assert np.allclose(ours.predict_proba(maps), head.predict_proba(stored), atol=1e-3)
    for name, start in zip(("block5_conv1", "block5_conv2"), (0, 2), strict=True):
        assert np.array_equal(ours.weights_[start], arrays[name][0])


def test_fine_tuning_goes_on_from_the_trained_head(maps, mels):
    y = mels[1]
    head_only = quick(head_epochs=3, epochs=0).fit(maps, y)
    both = quick(head_epochs=3, epochs=2, learning_rate=1e-9).fit(maps, y)
    assert both.history_.shape == (5, 2)
    assert np.array_equal(both.history_[:3], head_only.history_)
    for before, after in zip(head_only.weights_, both.weights_, strict=True):
        assert np.allclose(before, after, atol=1e-7)
    proba = head_only.predict_proba(maps)
    loss = -np.log(proba[np.arange(len(y)), np.unique(y, return_inverse=True)[1]]).mean()
    penalty = paper.HEAD["l2"] * np.square(head_only.weights_[6].astype(float)).sum()
    assert both.history_[3, 0] == pytest.approx(loss + penalty, rel=1e-3)
    assert both.history_[3, 1] == pytest.approx((head_only.predict(maps) == y).mean())


def test_it_learns_and_its_probabilities_are_such(maps, mels):
    X, y = maps.astype(np.float16), mels[1]
    fitted = FineTuneClassifier(weights="random", head_epochs=5, epochs=5, seed=1).fit(X, y)
    proba = fitted.predict_proba(X)
    assert list(fitted.classes_) == ["Jazz", "World"]
    assert proba.shape == (14, 2)
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (fitted.predict(X) == fitted.classes_[proba.argmax(axis=1)]).all()
    assert (fitted.predict(X) == y).mean() > 0.9
    assert fitted.history_.shape == (10, 2)
    assert fitted.history_[-1, 0] < fitted.history_[0, 0]


def test_same_seed_same_result_and_another_seed_another(maps, mels):
    fits = [
        FineTuneClassifier(weights="random", head_epochs=1, epochs=1, batch_size=8, seed=seed)
        for seed in (5, 6, 5)
    ]
    first, other, again = (f.fit(maps, mels[1]).predict_proba(maps) for f in fits)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bfloat16_is_close_and_keeps_float32_weights(maps, mels):
    full, half = (
        quick(precision=precision, epochs=2).fit(maps, mels[1]) for precision in finetune.PRECISIONS
    )
    assert {w.dtype for w in half.weights_} == {np.dtype("float32")}
    assert not np.array_equal(full.weights_[0], half.weights_[0])
    start = load_weights("random").arrays["block5_conv1"][0]
    steps = [(fit.weights_[0] - start).ravel() for fit in (full, half)]
    assert np.corrcoef(steps)[0, 1] > 0.9
    assert np.allclose(full.history_[0], half.history_[0], rtol=0.02)


@pytest.mark.parametrize(
    "look",
    [
        {"channels": "colormap", "preprocessing": "vgg16"},
        {"mel_scale": "amplitude", "preprocessing": "scale"},
    ],
)
def test_spectrograms_become_images_as_for_the_frozen_trunk(mels, look):
    made = quick(blocks="all", **look)._input(mels[0][:3]).numpy()
    scale, channels = look.get("mel_scale", "db"), look.get("channels", "repeat")
    pictures = [features.to_image(m, "mel", scale=scale, channels=channels) for m in mels[0][:3]]
    assert np.array_equal(made, vgg.preprocess(np.stack(pictures), look["preprocessing"]))


def test_scikit_learns_conventions(maps, mels):
    fitted = quick(epochs=1, seed=3).fit(maps, mels[1])
    copy = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copy.predict_proba(maps), fitted.predict_proba(maps))
    assert clone(fitted).get_params() == fitted.get_params()
    assert FineTuneClassifier().batch_size == paper.TRAINING["batch_size"]


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"blocks": "block4"}, (2, 4, 4, 512), "unknown blocks 'block4': one of block5, all"),
        ({"precision": "float16"}, (2, 4, 4, 512), "unknown precision 'float16'"),
        ({"epochs": -1, "head_epochs": 3}, (2, 4, 4, 512), "neither may be negative"),
        ({"epochs": 0}, (2, 4, 4, 512), "one must be positive"),
        ({"learning_rate": 0.0}, (2, 4, 4, 512), "learning_rate=0.0: both must be positive"),
        ({"batch_size": 0}, (2, 4, 4, 512), "batch_size=0"),
        ({}, (2, 32, 64), r"maps of block 4, \[n, height, width, 512\], not \(2, 32, 64\)"),
        ({"blocks": "all"}, (2, 4, 4, 512), "takes mel-spectrograms"),
    ],
)
def test_wrong_use_is_one_clear_line(settings, shape, message):
    with pytest.raises(UsageError, match=message) as caught:
        quick(**settings).fit(np.zeros(shape, np.float32), np.array(["Jazz", "World"]))
    assert "\n" not in str(caught.value)
