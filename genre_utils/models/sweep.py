"""Training of the head's dense layers, each step in one sweep over the first layer's weights.

VGG-16's flattened map has 58,368 inputs, so the layer behind it has 30 million weights, and Adam
keeps two moments for each: 360 MB that every step must read and write. Done operation by operation
a step moves these, the gradient and temporary arrays several times, and waits for the memory. Here
each row of weights is visited once a step: its gradient, Adam's step and its share of the next
batch's output are computed while it is in the cache. Some 90 % of a map's values are 0 (ReLU);
both products leave those out. The formulas are Keras', only the order of the sums is not.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import joblib
import numba
import numpy as np
from scipy import sparse
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from genre_utils.backend import keras

# Adam as in Keras: decay rates of the moments, and epsilon.
BETA_1, BETA_2 = 0.9, 0.999
NEW_1, NEW_2, EPSILON = np.float32(1 - BETA_1), np.float32(1 - BETA_2), np.float32(1e-7)
# The penalty alone drives a weight without data towards 0, in a thousand steps to where floats
# are denormal, which some processors compute a hundred times slower (TensorFlow flushes those).
TINY, ZERO = np.float32(1e-30), np.float32(0)
# Rows of weights that one thread takes at once, and how many such parts at most. Both are fixed,
# so that the order of the sums depends on the data and not on the machine's number of cores.
PART, PARTS = 512, 8

_compiled = numba.njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
_pool = ThreadPoolExecutor(joblib.cpu_count())


@_compiled
def _adam(weights, gradient, m, v, rate):  # noqa: ANN001, ANN202 (numba infers: float32 [n])
    for j in range(len(weights)):
        g = gradient[j]
        m_j = m[j] + (g - m[j]) * NEW_1
        v[j] += (g * g - v[j]) * NEW_2
        w = weights[j] - m_j * rate / (np.sqrt(v[j]) + EPSILON)
        m[j] = ZERO if abs(m_j) < TINY else m_j
        weights[j] = ZERO if abs(w) < TINY else w


@_compiled
def _sweep(begin, end, weights, m, v, decay, rate, delta, batch, following, n_following):  # noqa: ANN001, ANN202
    """Train rows [begin, end) of the weights on ``batch``, then apply them to ``following``."""
    starts, clips, values = batch
    next_starts, next_clips, next_values = following
    output = np.zeros((n_following, weights.shape[1]), np.float32)
    gradient = np.empty(weights.shape[1], np.float32)
    squares = 0.0
    for i in range(begin, end):
        w = weights[i]
        for j in range(len(w)):
            gradient[j] = decay * w[j]
        for k in range(starts[i], starts[i + 1]):
            x, row = values[k], delta[clips[k]]
            for j in range(len(w)):
                gradient[j] += x * row[j]
        _adam(w, gradient, m[i], v[i], rate)
        row_squares = ZERO
        for j in range(len(w)):
            row_squares += w[j] * w[j]
        squares += row_squares
        for k in range(next_starts[i], next_starts[i + 1]):
            x, row = next_values[k], output[next_clips[k]]
            for j in range(len(w)):
                row[j] += x * w[j]
    return output, squares


def sparse_rows(X: np.ndarray) -> sparse.csr_array:
    """Rows X [n, ...] of any float type as a sparse float32 array [n, values]."""
    flat = X.reshape(len(X), -1)
    starts = np.cumsum([0, *(np.count_nonzero(row) for row in flat)])
    index = np.int32 if starts[-1] < 2**31 else np.int64
    columns, values = np.empty(starts[-1], index), np.empty(starts[-1], np.float32)
    for row, (begin, end) in zip(flat, pairwise(starts), strict=True):  # no second copy of it all
        columns[begin:end] = np.flatnonzero(row)
        values[begin:end] = row[columns[begin:end]]
    return sparse.csr_array((values, columns, starts.astype(index)), shape=flat.shape)


def predict_proba(weights: list[np.ndarray], rows: sparse.csr_array) -> np.ndarray:
    """Class probabilities [n, n_classes] of sparse rows [n, inputs] by `DenseTraining.weights`."""
    values = rows.tocsc()
    with threadpool_limits(1, "blas"):
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            values = np.maximum(values @ kernel + bias, 0)
        return np.exp(log_softmax(values @ weights[-2] + weights[-1], axis=1))


class DenseTraining:
    """Training of a Keras model of dense layers, as `keras.Model.fit` would do it.

    ``model`` is compiled with Adam, its rate constant, and is not changed. Of its layers the
    `Dense` and `Dropout` ones count: hidden ones with ReLU, a softmax at the end, an L2 penalty on
    the first kernel or none; ValueError for others. ``random`` draws the dropout. ``weights`` are
    kernel and bias of each layer, float32, in Keras' order.
    """

    def __init__(self, model: "keras.Sequential", random: np.random.Generator) -> None:
        dense = [layer for layer in model.layers if hasattr(layer, "kernel")]
        names = [layer.activation.__name__ for layer in dense]
        if names != ["relu"] * (len(names) - 1) + ["softmax"]:
            raise ValueError(f"dense layers with {', '.join(names)}: not ReLU and softmax last")
        if any(layer.kernel_regularizer for layer in dense[1:]):
            raise ValueError("only the first layer's kernel may have a penalty")
        penalty = dense[0].kernel_regularizer
        self._l2 = np.float32(penalty.l2 if penalty else 0)
        self._learning_rate = np.float32(model.optimizer.learning_rate)
        self._dropout: list[float] = []  # share that is dropped behind each dense layer
        for layer in model.layers:
            if hasattr(layer, "kernel"):
                self._dropout.append(0.0)
            elif hasattr(layer, "rate"):
                self._dropout[-1] = layer.rate
        self._first, *small = model.get_weights()
        self._moments = np.zeros_like(self._first), np.zeros_like(self._first)
        # The small arrays are views of a flat one, so that one call of Adam does for all.
        self._flat = np.concatenate([array.ravel() for array in small])
        self._flat_moments = np.zeros_like(self._flat), np.zeros_like(self._flat)
        ends = np.cumsum([array.size for array in small])[:-1]
        parts = zip(np.split(self._flat, ends), small, strict=True)
        self.weights = [self._first, *(part.reshape(like.shape) for part, like in parts)]
        self._random, self._steps = random, 0

    def train(
        self, rows: sparse.csr_array, target: np.ndarray, batches: Iterable[np.ndarray]
    ) -> np.ndarray:
        """Do one step of Adam for each batch.

        ``rows`` are sparse [n, inputs], ``target`` [n] class numbers, ``batches`` the numbers of
        each batch's rows. The result is [n_batches, 2]: loss before the step, penalty included and
        dropout active, and in how many clips the most probable class was the target; both are sums
        over the batch's clips.
        """
        log, output = [], None
        end = np.array([], int)  # nothing follows the last batch
        loaded = ((rows[batch].tocsc(), target[batch]) for batch in chain(batches, [end]))
        with threadpool_limits(1, "blas"):  # its sums would depend on the number of threads
            for (batch, labels), (following, _) in pairwise(loaded):
                if output is None:
                    output = batch @ self._first
                    penalty = self._l2 * np.square(self._first).sum(dtype=float)
                self._steps += 1
                loss, right, delta = self._small_layers(output, labels)
                log.append((loss + penalty * len(labels), right))
                output, penalty = self._sweep(batch, delta, following)
        return np.array(log).reshape(-1, 2)

    def _sweep(
        self, batch: sparse.csc_array, delta: np.ndarray, following: sparse.csc_array
    ) -> tuple[np.ndarray, float]:
        """Train the first kernel; return the following batch's products with it, and penalty."""
        arrays = [(part.indptr, part.indices, part.data) for part in (batch, following)]
        n = len(self._first)
        edges = np.linspace(0, n, min(max(n // PART, 1), PARTS) + 1).astype(int)
        constant = self._first, *self._moments, 2 * self._l2, self._rate(), delta, *arrays
        jobs = [
            _pool.submit(_sweep, begin, end, *constant, following.shape[0])
            for begin, end in pairwise(edges)
        ]
        outputs, squares = zip(*(job.result() for job in jobs), strict=True)
        return sum(outputs), self._l2 * sum(squares)

    def _small_layers(self, output: np.ndarray, labels: np.ndarray) -> tuple:
        """Train all but the first kernel; return loss, right clips, gradient before it."""
        biases, kernels = self.weights[1::2], self.weights[2::2]
        hidden = []
        for i, kernel in enumerate(kernels):
            hidden.append(self._drop(np.maximum(output + biases[i], 0), self._dropout[i]))
            output = hidden[-1] @ kernel
        log_proba = log_softmax(output + biases[-1], axis=1)
        rows = np.arange(len(labels))
        loss = -log_proba[rows, labels].sum()
        right = (log_proba.argmax(axis=1) == labels).sum()
        delta = np.exp(log_proba)
        delta[rows, labels] -= 1
        delta /= np.float32(len(labels))
        gradients = [delta.sum(axis=0)]
        for i in reversed(range(len(kernels))):
            gradients.append(hidden[i].T @ delta)
            # Positive behind ReLU and dropout: neither was in the way of the gradient.
            delta = delta @ kernels[i].T * (hidden[i] > 0) * _scale(self._dropout[i])
            gradients.append(delta.sum(axis=0))
        gradient = np.concatenate([array.ravel() for array in reversed(gradients)])
        _adam(self._flat, gradient, *self._flat_moments, self._rate())
        return loss, right, delta

    def _drop(self, values: np.ndarray, rate: float) -> np.ndarray:
        kept = self._random.random(values.shape, np.float32) >= rate
        return values * kept * _scale(rate)

    def _rate(self) -> np.float32:
        """Adam's learning rate, corrected for moments that start at 0; in float32 as in Keras."""
        one, step = np.float32(1), np.float32(self._steps)
        second = np.sqrt(one - np.float32(BETA_2) ** step)
        return self._learning_rate * second / (one - np.float32(BETA_1) ** step)


def _scale(rate: float) -> np.float32:
    """Factor of what dropout keeps."""
    return np.float32(1 / (1 - rate))
