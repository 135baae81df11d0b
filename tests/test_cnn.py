"""The head, its training in one sweep, and fine-tuning, all beside Keras."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from genre_utils import paper
from genre_utils.backend import keras, tf
from genre_utils.extraction import features, vgg
from genre_utils.extraction.vgg import Weights, build_trunk, load_weights
from genre_utils.models import cnn, sweep
from genre_utils.models.cnn import FineTuneClassifier, HeadClassifier, build_head
from genre_utils.runtime import UsageError

CONVOLUTIONS = 13
MAPS = (2, 2, 512)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.array(["Jazz", "Ambient", "World"])[rng.integers(0, 3, 150)]
    X = rng.normal(size=(150, *MAPS)).clip(0) + (y == "Jazz")[:, None, None, None]
    X[..., :50] = 0  # a channel that none of the clips excites, as half of VGG-16's
    return X.astype(np.float16), y


def test_layer_by_layer_as_in_sections_2_3_and_2_4():
    model = build_head((6, 19, 512), 9)
    names = [type(layer).__name__ for layer in model.layers]
    assert names == ["Flatten", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    flat, first, drop1, second, drop2, last = model.layers
    assert flat.output.shape == (None, 58368)
    assert (first.units, second.units, last.units) == (512, 256, 9)
    assert [d.activation.__name__ for d in (first, second, last)] == ["relu", "relu", "softmax"]
    assert float(first.kernel_regularizer.l2) == pytest.approx(0.01)
    assert second.kernel_regularizer is last.kernel_regularizer is first.bias_regularizer is None
    assert drop1.rate == drop2.rate == 0.5
    defaults = HeadClassifier()
    assert (defaults.epochs, defaults.batch_size) == (200, 64)
    assert defaults.learning_rate == pytest.approx(2e-4)


def test_average_pooling_is_the_other_way():
    assert build_head((6, 19, 512), 4, pooling="average").layers[0].output.shape == (None, 512)
    with pytest.raises(UsageError, match="unknown pooling 'max'"):
        build_head(MAPS, 4, pooling="max")


def test_sparse_rows_are_the_rows(data):
    X = data[0].copy()
    X[3] = 0  # a clip without any value
    found = sweep.sparse_rows(X)
    assert (found.shape, found.dtype) == ((150, 2048), np.float32)
    assert found.nnz == np.count_nonzero(X)
    assert (found.toarray() == X.reshape(150, -1)).all()
    assert sweep.sparse_rows(X[3:4]).nnz == 0


@pytest.mark.parametrize("pooling", cnn.POOLING)
def test_own_training_equals_keras_fit(data, pooling):
    """Without dropout and shuffling (drawn in another order) both must do the same sums."""
    X, y = data
    ours = HeadClassifier(epochs=4, dropout=0.0, shuffle=False, seed=3, pooling=pooling)
    ours.fit(X, y)
    keras.utils.set_random_seed(3)
    model = build_head(MAPS, 3, dropout=0.0, pooling=pooling)
    model.compile(
        keras.optimizers.Adam(2e-4), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    target = np.searchsorted(ours.classes_, y)
    how = {"batch_size": 64, "epochs": 4, "shuffle": False}  # the last batch has 22 clips
    log = model.fit(X.astype("float32"), target, verbose=0, **how).history
    assert np.allclose(ours.history_[:, 0], log["loss"], rtol=1e-5)
    assert np.allclose(ours.history_[:, 1], log["accuracy"], atol=1e-6)
    theirs = model.predict(X.astype("float32"), verbose=0)
    assert np.abs(ours.predict_proba(X) - theirs).max() < 1e-5
    for mine, its in zip(ours.weights_, model.get_weights(), strict=True):
        assert mine.dtype == np.float32
        assert np.abs(mine - its).max() < 1e-5
    moved = HeadClassifier(epochs=0, dropout=0.0, seed=3, pooling=pooling).fit(X, y).weights_
    assert np.abs(moved[0] - ours.weights_[0]).max() > 1e-3  # 12 steps of 2e-4 were done


def test_the_engine_for_gpus_learns_the_same(data):
    """Keras draws order and dropout otherwise: its curve lies among those of the sweep's seeds."""
    X, y = data
    curves = {
        engine: np.array(
            [
                HeadClassifier(epochs=12, seed=seed, engine=engine).fit(X, y).history_
                for seed in range(4)
            ]
        )
        for engine in cnn.ENGINES
    }
    (sweeps, spread), (kerases, _) = (
        (curve.mean(axis=0), curve.std(axis=0, ddof=1)) for curve in curves.values()
    )
    assert np.all(np.abs(kerases - sweeps) < 5 * spread + 0.02 * sweeps)
    assert sweeps[-1, 1] > sweeps[0, 1] + 0.1  # there was something to learn


@pytest.mark.parametrize(("gpus", "engine"), [([], "sweep"), (["GPU:0"], "keras")])
def test_keras_trains_where_there_is_a_gpu(gpus, engine, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    assert cnn.head_engine() == engine
    assert [cnn.head_engine(name) for name in cnn.ENGINES] == list(cnn.ENGINES)
    with pytest.raises(UsageError, match="unknown engine 'gpu': one of auto, sweep, keras"):
        HeadClassifier(engine="gpu").fit(np.ones((4, *MAPS)), np.array(["a", "b"] * 2))


def test_one_step_with_dropout_equals_autodiff_with_the_same_masks(data):
    X, y = data
    X, y = X[:64], y[:64]
    ours = HeadClassifier(epochs=1, seed=3, shuffle=False).fit(X, y)
    target = np.searchsorted(ours.classes_, y)
    random = np.random.default_rng([3, 1])
    masks = [(random.random((64, n), np.float32) >= 0.5) * np.float32(2) for n in (512, 256)]
    keras.utils.set_random_seed(3)
    model = build_head(MAPS, 3)
    with tf.GradientTape() as tape:
        hidden = X.astype("float32")
        for layer in model.layers:
            is_dropout = isinstance(layer, keras.layers.Dropout)
            hidden = hidden * masks.pop(0) if is_dropout else layer(hidden)
        each = keras.losses.sparse_categorical_crossentropy(target, hidden)
        loss = tf.reduce_mean(each) + tf.add_n(model.losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    keras.optimizers.Adam(2e-4).apply(gradients, model.trainable_variables)
    assert ours.history_[0, 0] == pytest.approx(float(loss), rel=1e-5)
    for mine, gradient, its in zip(ours.weights_, gradients, model.get_weights(), strict=True):
        sure = np.abs(gradient) > 1e-6  # Adam's first step is the gradient's sign: 0 has none
        assert sure.mean() > 0.1
        assert np.abs(mine - its)[sure].max() < 1e-6
        assert np.abs(mine - its).max() < 4.1e-4


def test_dropout_is_inverted_and_of_the_asked_share():
    model = build_head((2,), 3, dropout=0.3)
    model.compile(keras.optimizers.Adam(1.0))
    dropped = sweep.DenseTraining(model, np.random.default_rng(0))._drop(np.ones((500, 512)), 0.3)
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.7)}
    assert (dropped == 0).mean() == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("units", [(), (20,), (40, 30, 20)])
def test_any_stack_of_dense_layers_is_trained_as_by_keras(data, units):
    X, y = data[0].astype("float32").reshape(150, -1), np.unique(data[1], return_inverse=True)[1]
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(n, "relu") for n in units]
    layers = [keras.layers.Input((2048,)), *hidden, keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    training = sweep.DenseTraining(model, np.random.default_rng(0))
    training.train(sweep.sparse_rows(X), y, [np.arange(75), np.arange(75, 150)])
    model.fit(X, y, batch_size=75, shuffle=False, verbose=0)
    for mine, its in zip(training.weights, model.get_weights(), strict=True):
        assert np.abs(mine - its).max() < 1e-5


def test_other_layers_are_refused():
    layers = keras.layers
    for last, message in ((layers.Dense(3), "softmax last"), (None, "penalty")):
        penalty = keras.regularizers.L2(0.1)
        last = last or layers.Dense(3, "softmax", kernel_regularizer=penalty)
        model = keras.Sequential([layers.Input((4,)), layers.Dense(5, "relu"), last])
        model.compile("adam")
        with pytest.raises(ValueError, match=message):
            sweep.DenseTraining(model, np.random.default_rng(0))


def test_importing_the_networks_starts_no_tensorflow():
    code = "import sys, genre_utils.models.cnn, genre_utils.models.systems as s; "
    code += "s.SYSTEMS['stacking'].make(epochs=1, epochs_small=1); "
    code += "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _float32(_):
    """The one check that takes no account of float32; the test below asks the same of it."""
    return {"check_methods_sample_order_invariance": "tolerance of 1e-7, which float64 needs"}


# A network without convolutions takes any rows; what fine-tuning takes, no common check has.
@parametrize_with_checks(
    [HeadClassifier(epochs=12, learning_rate=1e-2, dropout=0.0), FineTuneClassifier()],
    expected_failed_checks=_float32,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_answers_do_not_depend_on_the_order_of_the_clips(data):
    X, y = data
    head, order = HeadClassifier(epochs=2).fit(X, y), np.random.default_rng(0).permutation(len(y))
    expected = head.predict_proba(X)[order]
    np.testing.assert_allclose(head.predict_proba(X[order]), expected, rtol=1e-5)


def test_bits_do_not_depend_on_the_number_of_threads(data, monkeypatch):
    results = []
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as pool:
            monkeypatch.setattr(sweep, "_pool", pool)
            results.append(HeadClassifier(epochs=2, seed=5).fit(*data))
    one, three = results
    assert np.array_equal(one.history_, three.history_)
    for a, b in zip(one.weights_, three.weights_, strict=True):
        assert np.array_equal(a, b)
    assert np.prod(MAPS) >= 2 * sweep.PART  # the work was divided


def test_weights_without_data_fall_to_exactly_zero():
    """The penalty alone acts on them; left to themselves they would end as denormal floats."""
    start = np.random.default_rng(0).uniform(-0.01, 0.01, 512)
    expected, first, second = start.copy(), np.zeros(512), np.zeros(512)
    w, m, v = start.astype(np.float32), np.zeros(512, np.float32), np.zeros(512, np.float32)
    for step in range(1, 6001):
        rate = 2e-4 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        sweep._adam(w, np.float32(0.02) * w, m, v, np.float32(rate))
        first += (0.02 * expected - first) * 0.1
        second += ((0.02 * expected) ** 2 - second) * 0.001
        expected -= rate * first / (np.sqrt(second) + 1e-7)
        if step == 200:
            assert np.allclose(w, expected, atol=1e-7) and np.abs(w).max() > 1e-7
    for values in (w, m):
        assert (values == 0).mean() > 0.9
        assert np.abs(values[values != 0]).min(initial=1) >= sweep.TINY


@pytest.mark.parametrize("tuned", [False, True])
def test_same_seed_same_result_after_another_training(data, maps, mels, tuned):
    X, y = (maps, mels[1]) if tuned else data
    model = FineTuneClassifier(head_epochs=1, weights="random") if tuned else HeadClassifier()
    model.set_params(epochs=1, batch_size=8)
    fits = [clone(model).set_params(seed=5).fit(X, y)]
    before = fits[0].predict_proba(X)
    fits += [clone(model).set_params(seed=seed).fit(X, y) for seed in (6, 5)]
    equal = [np.array_equal(fitted.predict_proba(X), before) for fitted in fits]
    assert equal == [True, False, True]  # the first is not overwritten by the later ones
    again = pickle.loads(pickle.dumps(fits[0]))
    assert np.array_equal(again.predict_proba(X), before)


def test_it_learns_and_its_probabilities_are_such(data):
    X, y = data
    fitted = HeadClassifier(epochs=15, seed=1).fit(X, y)
    proba = fitted.predict_proba(X)
    assert list(fitted.classes_) == ["Ambient", "Jazz", "World"]
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (fitted.predict(X) == fitted.classes_[proba.argmax(axis=1)]).all()
    jazz = y == "Jazz"
    assert (fitted.predict(X)[jazz] == "Jazz").mean() > 0.95
    assert fitted.history_[-1, 0] < fitted.history_[0, 0]


@pytest.fixture(scope="module")
def arrays():
    return load_weights("random").arrays


@pytest.fixture(autouse=True)
def drawn_once(arrays, monkeypatch):
    """Drawing random weights takes as long as a training here."""
    drawn = {"random": Weights(arrays, "random", "")}
    monkeypatch.setattr(cnn, "load_weights", drawn.__getitem__)


@pytest.fixture(scope="module")
def mels():
    """Spectrograms [32, 64] in dB; of "Jazz" the lower half is loud, of "World" the upper."""
    rng = np.random.default_rng(0)
    y = np.array(["Jazz", "World"])[np.arange(16) % 2]
    X = rng.uniform(-80, -60, (16, 32, 64))
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
    lower = keras.Model(trunk.input, trunk.get_layer("block4_pool").output)
    return lower.predict(images, verbose=0)


def quick(**settings):
    """Without dropout and shuffling, which Keras' fit draws in another order."""
    how = {"weights": "random", "dropout": 0.0, "shuffle": False, "head_epochs": 0, "epochs": 3}
    return FineTuneClassifier(**how | {"look": features.Look(preprocessing="scale")} | settings)


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
    monkeypatch.setitem(cnn.PARTS, "block5", 4)  # a batch of 8 in two parts
    y = mels[1]
    ours = quick(learning_rate=2e-5, batch_size=8, seed=4).fit(maps, y)
    how = {"batch_size": 8, "epochs": 3}
    model, history = end_to_end(arrays, images, y, trainable="block5", seed=4, **how)
    assert_same_training(ours, model, history, 6 + 6)
    assert np.allclose(ours.predict_proba(maps), model.predict(images, verbose=0), atol=1e-4)
    for name, (kernel, bias) in arrays.items():
        now = model.get_layer(name).get_weights()
        moved = np.abs(now[0] - kernel).max() > 2e-5 and np.abs(now[1] - bias).max() > 2e-5
        assert moved == name.startswith("block5")
        assert moved or np.array_equal(now[0], kernel)


def test_all_blocks_equal_fit_of_the_whole_network(arrays, images, mels, monkeypatch):
    monkeypatch.setitem(cnn.PARTS, "all", 8)
    X, y = mels
    ours = quick(blocks="all", learning_rate=2e-5, seed=4, epochs=1).fit(X, y)
    how = {"batch_size": 16, "epochs": 1}
    model, history = end_to_end(arrays, images, y, trainable="block", seed=4, **how)
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


def test_fine_tuning_learns_and_its_probabilities_are_such(maps, mels):
    X, y = maps.astype(np.float16), mels[1]
    fitted = FineTuneClassifier(weights="random", head_epochs=5, epochs=5, seed=1).fit(X, y)
    assert list(fitted.classes_) == ["Jazz", "World"]
    assert fitted.predict_proba(X).sum(axis=1) == pytest.approx(np.ones(16), abs=1e-5)
    assert (fitted.predict(X) == y).mean() > 0.9
    assert fitted.history_.shape == (10, 2)
    assert fitted.history_[-1, 0] < fitted.history_[0, 0]


def test_bfloat16_is_close_and_keeps_float32_weights(maps, mels):
    full, half = (
        quick(precision=precision, epochs=2).fit(maps, mels[1]) for precision in cnn.PRECISIONS
    )
    assert {w.dtype for w in half.weights_} == {np.dtype("float32")}
    assert not np.array_equal(full.weights_[0], half.weights_[0])
    start = load_weights("random").arrays["block5_conv1"][0]
    steps = [(fit.weights_[0] - start).ravel() for fit in (full, half)]
    assert np.corrcoef(steps)[0, 1] > 0.9
    assert np.allclose(full.history_[0], half.history_[0], rtol=0.02)


def test_fewer_clips_than_a_batch_are_one_step(maps, mels, monkeypatch):
    """Of 16 clips a batch of 64 never is full: without care Adam would wait for ever."""
    monkeypatch.setitem(cnn.PARTS, "block5", 4)
    parts = quick(epochs=1, batch_size=64).fit(maps, mels[1])
    monkeypatch.setitem(cnn.PARTS, "block5", 16)
    whole = quick(epochs=1, batch_size=64).fit(maps, mels[1])
    start = load_weights("random").arrays["block5_conv1"][0]
    assert np.abs(parts.weights_[0] - start).max() > 1e-5
    assert (np.abs(parts.weights_[0] - whole.weights_[0]) > 1e-6).mean() < 1e-3


@pytest.mark.parametrize(
    "look",
    [
        features.Look(channels="colormap", preprocessing="vgg16"),
        features.Look(mel_scale="amplitude", preprocessing="scale"),
    ],
)
def test_spectrograms_become_images_as_for_the_frozen_trunk(mels, look):
    made = quick(blocks="all", look=look)._input(mels[0][:3])
    how = {"scale": look.mel_scale, "channels": look.channels}
    pictures = [features.to_image(mel, "mel", **how) for mel in mels[0][:3]]
    assert np.array_equal(made, vgg.preprocess(np.stack(pictures), look.preprocessing))


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
