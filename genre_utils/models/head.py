"""The layers after VGG-16's convolution blocks and their training (sections 2.3 and 2.4)."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from genre_utils import paper
from genre_utils.backend import keras
from genre_utils.errors import UsageError
from genre_utils.models.dense import DenseTraining, predict_proba, sparse_rows

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
        keras.utils.set_random_seed(self.seed)
        initial = build_head(
            X.shape[1:], len(self.classes_), pooling=self.pooling, dropout=self.dropout
        ).get_weights()
        training = DenseTraining(
            initial, l2=self.l2, dropout=self.dropout, learning_rate=self.learning_rate,
            random=np.random.default_rng([self.seed, 1]),
        )  # fmt: skip
        log = training.train(self._rows(X), target, self._batches(len(X)))
        steps = -(-len(X) // self.batch_size)
        self.history_ = log.reshape(self.epochs, steps, 2).sum(axis=1) / len(X)
        self.weights_ = training.weights
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities [n, n_classes] in the order of ``classes_``."""
        check_is_fitted(self)
        return predict_proba(self.weights_, self._rows(X))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable genre of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _rows(self, X: np.ndarray) -> sparse.csr_array:
        """Do what the first layer of `build_head` does, which has no weights."""
        if self.pooling == "average":
            X = X.mean(axis=(1, 2), dtype=np.float32)
        return sparse_rows(X)

    def _batches(self, n: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            rows = order.permutation(n) if self.shuffle else np.arange(n)
            yield from (rows[i : i + self.batch_size] for i in range(0, n, self.batch_size))
