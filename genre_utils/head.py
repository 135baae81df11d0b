"""The layers after VGG-16's convolution blocks and their training (sections 2.3 and 2.4)."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from genre_utils import paper
from genre_utils.backend import keras, tf
from genre_utils.errors import UsageError

POOLING = ("flatten", "average")


def build_head(
    map_shape: tuple[int, int, int], n_classes: int, *, pooling: str = "flatten",
    dropout: float = paper.HEAD["dropout"], l2: float = paper.HEAD["l2"],
) -> keras.Model:  # fmt: skip
    """Build the trainable layers: 512 ReLU (L2), dropout, 256 ReLU, dropout, softmax.

    Parameters
    ----------
    map_shape : tuple
        Shape of one clip's map, [height, width, 512].
    pooling : {"flatten", "average"}
        What lies between the blocks and the first dense layer; the paper does not say.

    Returns
    -------
    keras.Model
        Input [n, *map_shape]; output [n, n_classes] probabilities.
    """
    if pooling not in POOLING:
        raise UsageError(f"unknown pooling {pooling!r}: one of {', '.join(POOLING)}")
    first, second = paper.HEAD["units"]
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(map_shape),
            layers.Flatten() if pooling == "flatten" else layers.GlobalAveragePooling2D(),
            layers.Dense(first, "relu", kernel_regularizer=keras.regularizers.L2(l2)),
            layers.Dropout(dropout),
            layers.Dense(second, "relu"),
            layers.Dropout(dropout),
            layers.Dense(n_classes, "softmax"),
        ]
    )


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """The head with scikit-learn's interface: VGG-16 maps in, genre probabilities out.

    Parameters
    ----------
    epochs, batch_size, learning_rate : int, int, float
        Adam on the cross-entropy (section 2.4).
    pooling, dropout, l2
        See `build_head`.
    shuffle : bool
        New order of the clips in each epoch.
    seed : int
        Initial weights, order and dropout follow from it.

    Attributes
    ----------
    classes_ : np.ndarray [shape=(n_classes,)]
    weights_ : list of np.ndarray
        The trained model's weights in Keras' order.
    history_ : np.ndarray [shape=(epochs, 2)]
        Training loss (penalty included) and training accuracy of each epoch, dropout active.
    """

    def __init__(
        self, *, epochs: int = paper.TRAINING["epochs"],
        batch_size: int = paper.TRAINING["batch_size"],
        learning_rate: float = paper.TRAINING["learning_rate"], pooling: str = "flatten",
        dropout: float = paper.HEAD["dropout"], l2: float = paper.HEAD["l2"],
        shuffle: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.pooling = pooling
        self.dropout = dropout
        self.l2 = l2
        self.shuffle = shuffle
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray) -> "HeadClassifier":
        """Train on maps X [n, height, width, 512] (any float type) and genre names y [n]."""
        self.classes_, target = np.unique(y, return_inverse=True)
        self._shape = tuple(X.shape[1:])
        machine = self._machine()
        machine.reset(self.seed)
        order = np.random.default_rng(self.seed)
        history = []
        for _ in range(self.epochs):
            rows = order.permutation(len(X)) if self.shuffle else np.arange(len(X))
            history.append(self._epoch(machine, X, target, rows))
        self.history_ = np.array(history)
        self.weights_ = [variable.numpy() for variable in machine.model.weights]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        machine = self._machine()
        machine.model.set_weights(self.weights_)
        parts = []
        for start in range(0, len(X), self.batch_size):
            maps = X[start : start + self.batch_size].astype(np.float32)
            parts.append(machine.predict(_filled(maps, self.batch_size)).numpy()[: len(maps)])
        return np.concatenate(parts)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable genre of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _machine(self) -> "_Machine":
        return _machine(
            self._shape, len(self.classes_), self.pooling, self.dropout, self.l2, self.learning_rate
        )

    def _epoch(
        self, machine: "_Machine", X: np.ndarray, target: np.ndarray, rows: np.ndarray
    ) -> tuple[float, float]:
        loss = correct = 0.0
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            inputs = X[batch].astype(np.float32), target[batch], np.ones(len(batch), np.float32)
            results = machine.step(*(_filled(part, self.batch_size) for part in inputs))
            loss += float(results[0]) * len(batch)
            correct += float(results[1])
        return loss / len(rows), correct / len(rows)


class _Machine(NamedTuple):
    """A model with its compiled steps, used for every fold: compiling costs seconds."""

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    build: Callable
    step: Callable
    predict: Callable

    def reset(self, seed: int) -> None:
        """Give every variable the value that it has in a new model built with this seed."""
        keras.utils.set_random_seed(seed)
        fresh = self.build()
        for old, new in zip(self.model.variables, fresh.variables, strict=True):
            old.assign(new)
        for variable in self.optimizer.variables:
            if variable.name != "learning_rate":
                variable.assign(np.zeros(variable.shape, variable.dtype))


@lru_cache(maxsize=4)
def _machine(
    shape: tuple[int, int, int], n_classes: int, pooling: str, dropout: float, l2: float,
    learning_rate: float,
) -> _Machine:  # fmt: skip
    def build() -> keras.Model:
        return build_head(shape, n_classes, pooling=pooling, dropout=dropout, l2=l2)

    model, optimizer = build(), keras.optimizers.Adam(learning_rate)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=True)
    def step(maps: tf.Tensor, labels: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            output = model(maps, training=True)
            each = keras.losses.sparse_categorical_crossentropy(labels, output)
            # Mean over real rows: the last batch is filled up to keep one compiled shape.
            loss = tf.reduce_sum(each * counts) / tf.reduce_sum(counts) + tf.add_n(model.losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        right = tf.cast(tf.argmax(output, axis=1) == tf.cast(labels, tf.int64), tf.float32)
        return loss, tf.reduce_sum(right * counts)

    @tf.function(jit_compile=True)
    def predict(maps: tf.Tensor) -> tf.Tensor:
        return model(maps, training=False)

    return _Machine(model, optimizer, build, step, predict)


def _filled(rows: np.ndarray, n: int) -> np.ndarray:
    """Append zero rows up to ``n``."""
    return np.concatenate([rows, np.zeros((n - len(rows), *rows.shape[1:]), rows.dtype)])
