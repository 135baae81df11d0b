from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from genre_utils import paper
from genre_utils.backend import keras, tf
from genre_utils.models import cnn as head
from genre_utils.models import sweep as dense
from genre_utils.runtime import UsageError

MAPS = (2, 2, 512)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.array(["Jazz", "Ambient", "World"])[rng.integers(0, 3, 150)]
    X = rng.normal(size=(150, *MAPS)).clip(0) + (y == "Jazz")[:, None, None, None]
    X[..., :50] = 0  # a channel that none of the clips excites, as half of VGG-16's
    return X.astype(np.float16), y


def test_layer_by_layer_as_in_sections_2_3_and_2_4():
    model = head.build_head((6, 19, 512), 9)
    names = [type(layer).__name__ for layer in model.layers]
    assert names == ["Flatten", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    flat, first, drop1, second, drop2, last = model.layers
    assert flat.output.shape == (None, 58368)
    assert (first.units, second.units, last.units) == (512, 256, 9)
    assert [d.activation.__name__ for d in (first, second, last)] == ["relu", "relu", "softmax"]
    assert float(first.kernel_regularizer.l2) == pytest.approx(0.01)
    assert second.kernel_regularizer is last.kernel_regularizer is first.bias_regularizer is None
    assert drop1.rate == drop2.rate == 0.5


def test_defaults_are_the_papers():
    classifier = head.HeadClassifier()
    assert classifier.epochs == paper.TRAINING["epochs"] == 200
    assert classifier.batch_size == 64
    assert classifier.learning_rate == pytest.approx(2e-4)


def test_average_pooling_is_the_other_way():
    assert head.build_head((6, 19, 512), 4, pooling="average").layers[0].output.shape == (None, 512)
    with pytest.raises(UsageError, match="unknown pooling 'max'"):
        head.build_head(MAPS, 4, pooling="max")


def test_sparse_rows_are_the_rows(data):
    X = data[0].copy()
    X[3] = 0  # a clip without any value
    found = dense.sparse_rows(X)
    assert (found.shape, found.dtype) == ((150, 2048), np.float32)
    assert found.nnz == np.count_nonzero(X)
    assert (found.toarray() == X.reshape(150, -1)).all()
    assert dense.sparse_rows(X[3:4]).nnz == 0


@pytest.mark.parametrize("pooling", head.POOLING)
def test_own_training_equals_keras_fit(data, pooling):
    """Without dropout and shuffling (drawn in another order) both must do the same sums."""
    X, y = data
    ours = head.HeadClassifier(epochs=4, dropout=0.0, shuffle=False, seed=3, pooling=pooling)
    ours.fit(X, y)
    keras.utils.set_random_seed(3)
    model = head.build_head(MAPS, 3, dropout=0.0, pooling=pooling)
    model.compile(
        keras.optimizers.Adam(2e-4), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    target = np.searchsorted(ours.classes_, y)
    log = model.fit(
        X.astype("float32"), target, batch_size=64, epochs=4, shuffle=False, verbose=0
    ).history  # the last batch has 22 clips
    assert np.allclose(ours.history_[:, 0], log["loss"], rtol=1e-5)
    assert np.allclose(ours.history_[:, 1], log["accuracy"], atol=1e-6)
    theirs = model.predict(X.astype("float32"), verbose=0)
    assert np.abs(ours.predict_proba(X) - theirs).max() < 1e-5
    for mine, its in zip(ours.weights_, model.get_weights(), strict=True):
        assert mine.dtype == np.float32
        assert np.abs(mine - its).max() < 1e-5
    moved = head.HeadClassifier(epochs=0, dropout=0.0, seed=3, pooling=pooling).fit(X, y).weights_
    assert np.abs(moved[0] - ours.weights_[0]).max() > 1e-3  # 12 steps of 2e-4 were done


def test_one_step_with_dropout_equals_autodiff_with_the_same_masks(data):
    X, y = data
    X, y = X[:64], y[:64]
    ours = head.HeadClassifier(epochs=1, seed=3, shuffle=False).fit(X, y)
    target = np.searchsorted(ours.classes_, y)
    random = np.random.default_rng([3, 1])
    masks = [(random.random((64, n), np.float32) >= 0.5) * np.float32(2) for n in (512, 256)]
    keras.utils.set_random_seed(3)
    model = head.build_head(MAPS, 3)
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


def test_dropout_is_inverted_and_of_the_asked_share(data):
    network = dense.DenseTraining(
        [np.ones((2, 2), np.float32)] * 6,
        l2=0,
        dropout=0.3,
        learning_rate=1,
        random=np.random.default_rng(0),
    )
    dropped = network._drop(np.ones((500, 512), np.float32))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.7)}
    assert (dropped == 0).mean() == pytest.approx(0.3, abs=0.005)
    assert dropped.dtype == np.float32


def test_bits_do_not_depend_on_the_number_of_threads(data, monkeypatch):
    results = []
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as pool:
            monkeypatch.setattr(dense, "_pool", pool)
            results.append(head.HeadClassifier(epochs=2, seed=5).fit(*data))
    one, three = results
    assert np.array_equal(one.history_, three.history_)
    for a, b in zip(one.weights_, three.weights_, strict=True):
        assert np.array_equal(a, b)
    assert np.prod(MAPS) >= 2 * dense.PART  # the work was divided


def test_weights_fit_into_a_keras_model(data):
    X, y = data
    fitted = head.HeadClassifier(epochs=2, seed=5).fit(X, y)
    model = head.build_head(MAPS, 3)
    model.set_weights(fitted.weights_)
    theirs = model.predict(X.astype("float32"), verbose=0)
    assert np.abs(fitted.predict_proba(X) - theirs).max() < 1e-5


def test_weights_without_data_fall_to_exactly_zero():
    """The penalty alone acts on them; left to themselves they would end as denormal floats."""
    start = np.random.default_rng(0).uniform(-0.01, 0.01, 512)
    expected, first, second = start.copy(), np.zeros(512), np.zeros(512)
    w, m, v = start.astype(np.float32), np.zeros(512, np.float32), np.zeros(512, np.float32)
    for step in range(1, 6001):
        rate = 2e-4 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        dense._adam(w, np.float32(0.02) * w, m, v, np.float32(rate))
        first += (0.02 * expected - first) * 0.1
        second += ((0.02 * expected) ** 2 - second) * 0.001
        expected -= rate * first / (np.sqrt(second) + 1e-7)
        if step == 200:
            assert np.allclose(w, expected, atol=1e-7) and np.abs(w).max() > 1e-7
    for values in (w, m):
        assert (values == 0).mean() > 0.9
        assert np.abs(values[values != 0]).min(initial=1) >= dense.TINY


def test_same_seed_same_result_after_another_training(data):
    X, y = data
    first = head.HeadClassifier(epochs=2, seed=5).fit(X, y)
    before = first.predict_proba(X)
    other = head.HeadClassifier(epochs=2, seed=6).fit(X, y)
    again = head.HeadClassifier(epochs=2, seed=5).fit(X, y)
    assert np.array_equal(again.predict_proba(X), before)
    assert np.array_equal(first.predict_proba(X), before)  # not overwritten by the later ones
    assert not np.array_equal(other.predict_proba(X), before)


def test_dropout_acts_in_training_only(data):
    X, y = data
    with_it = head.HeadClassifier(epochs=2, seed=5).fit(X, y)
    without = head.HeadClassifier(epochs=2, seed=5, dropout=0.0).fit(X, y)
    assert not np.allclose(with_it.history_, without.history_)
    assert np.array_equal(with_it.predict_proba(X), with_it.predict_proba(X))


def test_it_learns_and_its_probabilities_are_such(data):
    X, y = data
    fitted = head.HeadClassifier(epochs=15, seed=1).fit(X, y)
    proba = fitted.predict_proba(X)
    assert list(fitted.classes_) == ["Ambient", "Jazz", "World"]
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (fitted.predict(X) == fitted.classes_[proba.argmax(axis=1)]).all()
    jazz = y == "Jazz"
    assert (fitted.predict(X)[jazz] == "Jazz").mean() > 0.95
    assert fitted.history_[-1, 0] < fitted.history_[0, 0]
