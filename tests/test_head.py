import numpy as np
import pytest

from genre_utils import head, paper
from genre_utils.backend import keras
from genre_utils.errors import UsageError

MAPS = (2, 2, 512)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.array(["Jazz", "Ambient", "World"])[rng.integers(0, 3, 150)]
    X = rng.normal(size=(150, *MAPS)).clip(0) + (y == "Jazz")[:, None, None, None]
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


def test_own_step_equals_keras_fit(data):
    """Without dropout and shuffling (drawn in another order) both must do the same sums."""
    X, y = data
    ours = head.HeadClassifier(epochs=4, dropout=0.0, shuffle=False, seed=3).fit(X, y)
    keras.utils.set_random_seed(3)
    model = head.build_head(MAPS, 3, dropout=0.0)
    model.compile(
        keras.optimizers.Adam(2e-4), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    target = np.searchsorted(ours.classes_, y)
    log = model.fit(
        X.astype("float32"), target, batch_size=64, epochs=4, shuffle=False, verbose=0
    ).history  # the last batch has 22 clips: filled up in our step
    assert np.allclose(ours.history_[:, 0], log["loss"], rtol=1e-5)
    assert np.allclose(ours.history_[:, 1], log["accuracy"], atol=1e-6)
    theirs = model.predict(X.astype("float32"), verbose=0)
    assert np.abs(ours.predict_proba(X) - theirs).max() < 1e-5


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
