"""A trained system as a folder: numbers, facts and a model card; nothing in it is executed.

``arrays.npz`` holds plain arrays, ``model.json`` says what they are and has their SHA-256, and
``README.md`` is the model card. No pickle is written or read, so that a folder from elsewhere can
at worst be refused.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.metrics.pairwise import euclidean_distances
from threadpoolctl import threadpool_limits

from genre_utils.errors import UsageError
from genre_utils.models.nested import RbfSVM
from genre_utils.own.card import card
from genre_utils.store import file_digest, write_atomic, write_json, write_text

if TYPE_CHECKING:
    from genre_utils.models.head import HeadClassifier

FORMAT = 1
ARRAYS, FACTS, CARD = "arrays.npz", "model.json", "README.md"
SMALLEST = 1e-12  # under it a probability counts as this; its logarithm would be infinite
HEAD = ("kernel_1", "bias_1", "kernel_2", "bias_2", "kernel_3", "bias_3")
SVM = ("mean", "factor", "vectors", "gamma", "kernel", "bias")

Arrays = dict[str, np.ndarray]


def of_head(head: "HeadClassifier") -> tuple[str, Arrays]:
    """Kind and arrays of a trained `HeadClassifier`.

    The first kernel of a flattened map is kept as float16, half of its 120 MB: `SavedModel`
    predicts with the rounded numbers before and after saving alike.
    """
    arrays = dict(zip(HEAD, head.weights_, strict=True))
    if head.pooling == "flatten":
        arrays["kernel_1"] = arrays["kernel_1"].astype(np.float16)
    return f"head-{head.pooling}", arrays


def of_svm(svm: RbfSVM) -> tuple[str, Arrays]:
    """Kind and arrays of a trained `RbfSVM`: support vectors, and each one's part in each pair.

    The vectors are kept as float32; rows are computed from float16 ones.
    """
    machine, n_classes = svm.svc_, len(svm.classes_)
    owner = np.repeat(np.arange(n_classes), machine.n_support_)
    dual, pairs = machine.dual_coef_, list(combinations(range(n_classes), 2))
    sign = -1 if n_classes == 2 else 1  # scikit-learn turns the one pair of two classes round
    columns = [sign * (dual[j - 1] * (owner == i) + dual[i] * (owner == j)) for i, j in pairs]
    return "svm", {
        "mean": svm.scaler_.mean_,
        "factor": svm.weights_ / svm.scaler_.scale_,
        "vectors": svm.vectors_[machine.support_].astype(np.float32),
        "gamma": np.array([svm.gamma_], float),
        "kernel": np.column_stack(columns),
        "bias": sign * machine.intercept_,
    }


def _head(arrays: Arrays, pooling: str) -> "HeadClassifier":
    from genre_utils.models.head import HeadClassifier  # TensorFlow

    head = HeadClassifier(pooling=pooling)
    head.weights_ = [arrays[name].astype(np.float32) for name in HEAD]
    head.classes_ = np.arange(len(arrays["bias_3"]))
    return head


def _log_head(arrays: Arrays, rows: np.ndarray, pooling: str) -> np.ndarray:
    proba = _head(arrays, pooling).predict_proba(rows)
    return np.log(np.maximum(proba.astype(float), SMALLEST))


def _log_svm(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """Softmax of votes of the pairwise machines, a tie decided by their distances.

    As `SVC.decision_function` with ``decision_function_shape="ovr"``.
    """
    standard = ((rows - arrays["mean"]) * arrays["factor"]).astype(np.float32)
    with threadpool_limits(1, "blas"):  # last bits must not depend on the number of threads
        squares = euclidean_distances(standard, arrays["vectors"], squared=True).astype(float)
        distances = np.exp(-arrays["gamma"] * squares) @ arrays["kernel"] + arrays["bias"]
    pairs = list(combinations(range(_classes_of(arrays["bias"])), 2))
    votes, sums = np.zeros((2, len(rows), pairs[-1][1] + 1))
    for (i, j), distance in zip(pairs, distances.T, strict=True):
        votes[:, i] += distance >= 0
        votes[:, j] += distance < 0
        sums[:, i] += distance
        sums[:, j] -= distance
    if len(pairs) == 1:
        return log_softmax(sums, axis=1)
    return log_softmax(votes + sums / (3 * (np.abs(sums) + 1)), axis=1)


def _classes_of(bias: np.ndarray) -> int:
    """Return k from the number of pairs, k (k - 1) / 2."""
    return round((1 + np.sqrt(1 + 8 * len(bias))) / 2)


def _head_fits(arrays: Arrays, n_classes: int) -> bool:
    kernels, biases = ([arrays[name] for name in HEAD[i::2]] for i in (0, 1))
    outputs = [*(kernel.shape[0] for kernel in kernels[1:]), n_classes]
    triples = zip(kernels, biases, outputs, strict=True)
    return all(k.ndim == 2 and (n,) == b.shape == k.shape[1:] for k, b, n in triples)


def _svm_fits(arrays: Arrays, n_classes: int) -> bool:
    vectors, pairs = arrays["vectors"], n_classes * (n_classes - 1) // 2
    return (
        vectors.ndim == 2
        and arrays["mean"].shape == arrays["factor"].shape == vectors.shape[1:]
        and arrays["kernel"].shape == (len(vectors), pairs)
        and arrays["bias"].shape == (pairs,)
        and arrays["gamma"].shape == (1,)
    )


@dataclass(frozen=True)
class Kind:
    """Names of the arrays, whether they fit n classes, and rows -> log-probabilities."""

    names: tuple[str, ...]
    fits: Callable[[Arrays, int], bool]
    log_proba: Callable[[Arrays, np.ndarray], np.ndarray]


KINDS = MappingProxyType(
    {
        "head-flatten": Kind(HEAD, _head_fits, lambda a, rows: _log_head(a, rows, "flatten")),
        "head-average": Kind(HEAD, _head_fits, lambda a, rows: _log_head(a, rows, "average")),
        "svm": Kind(SVM, _svm_fits, _log_svm),
    }
)


@dataclass(frozen=True)
class SavedModel:
    """A trained system that predicts from its arrays alone.

    Attributes
    ----------
    kind : str
        A key of `KINDS`.
    classes : tuple of str
        Genres in the order of the probabilities' columns.
    arrays : dict
        Floating-point arrays by name.
    temperature : float
        Divides the log-probabilities (Guo et al. 2017), so that a confidence of 0.8 is right in
        about 80 % of cases; 1 leaves them as they are.
    facts : dict
        JSON-able: what it has heard, how, and how good it is; see `train`.
    """

    kind: str
    classes: tuple[str, ...]
    arrays: Arrays
    temperature: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of rows of the stored array that the system was trained on.

        Returns
        -------
        np.ndarray [shape=(n, n_classes), dtype=float64]
        """
        log_proba = KINDS[self.kind].log_proba(self.arrays, rows)
        return softmax(log_proba / self.temperature, axis=1)

    def head(self) -> "HeadClassifier | None":
        """Return the head as an estimator, for Grad-CAM; None if the system has no head."""
        if not self.kind.startswith("head-"):
            return None
        head = _head(self.arrays, self.kind.removeprefix("head-"))
        head.classes_ = np.array(self.classes)
        return head

    def save(self, folder: str | Path) -> None:
        """Write the folder; model.json comes last, so that half a model is never taken for one.

        Raises
        ------
        UsageError
            The folder has files in it and is no model folder.
        """
        folder = check_target(folder)
        write_atomic(folder / ARRAYS, self._write_arrays)
        write_text(folder / CARD, card(self))
        facts = {
            "format": FORMAT, "kind": self.kind, "classes": list(self.classes),
            "temperature": self.temperature, "arrays_sha256": file_digest(folder / ARRAYS),
        }  # fmt: skip
        write_json(folder / FACTS, {**facts, "facts": self.facts})

    def _write_arrays(self, path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, **self.arrays)

    @classmethod
    def load(cls, folder: str | Path) -> "SavedModel":
        """Read a folder that `save` wrote.

        Raises
        ------
        UsageError
            There is none, another version made it, or its files were changed or lost.
        """
        folder = Path(folder)
        known = _read_facts(folder)
        path = folder / ARRAYS
        if not path.is_file() or file_digest(path) != known.get("arrays_sha256"):
            raise _damaged(path, "missing, or not the file that model.json describes")
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = dict(data)
            model = cls(
                known["kind"], tuple(known["classes"]), arrays, float(known["temperature"]),
                dict(known["facts"]),
            )  # fmt: skip
            _check(model)
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path, str(error).splitlines()[0][:80]) from None
        return model


def check_target(folder: str | Path) -> Path:
    """Make sure that a model may be written to a folder; UsageError if other files are there."""
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the model")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FACTS).is_file():
        raise UsageError(f"{folder} has files in it that are no model; name a new folder")
    return folder


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    if not path.is_file():
        raise UsageError(
            f"{folder}: no model here (no {FACTS}); `python -m genre_utils train` makes one"
        )
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _damaged(path, "no JSON") from None
    made = known.get("format") if isinstance(known, dict) else None
    if made != FORMAT:
        raise UsageError(
            f"{folder}: made by another version of genre_utils (format {made!r}, this one reads "
            f"{FORMAT}); train it again"
        )
    return known


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"{path}: damaged model ({why}); train it again or fetch a new copy")


def _check(model: SavedModel) -> None:
    """Raise ValueError unless the arrays fit the kind, each other and the classes."""
    if model.kind not in KINDS:
        raise ValueError(f"unknown kind {model.kind!r}")
    kind, arrays = KINDS[model.kind], model.arrays
    if set(arrays) != set(kind.names):
        raise ValueError(f"arrays {', '.join(sorted(arrays))}")
    if not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in arrays.values()):
        raise ValueError("values that are no finite numbers")
    if len(set(model.classes)) < 2 or not all(isinstance(c, str) for c in model.classes):
        raise ValueError("classes that are no two different names")
    if not kind.fits(arrays, len(model.classes)):
        raise ValueError("shapes that do not fit")
    if not 0 < model.temperature < np.inf:
        raise ValueError(f"temperature {model.temperature}")
