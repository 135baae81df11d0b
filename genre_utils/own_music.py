"""What is known of a model and goes with it: data, features, and how good it is.

A trained system as a folder: numbers, facts and a model card; nothing in it is executed.

``arrays.npz`` holds plain arrays, ``model.json`` says what they are and has their SHA-256, and
``README.md`` is the model card. No pickle is written or read, so that a folder from elsewhere can
at worst be refused.

The model card: what a saved model is, what it has heard, how good it is, and its limits.

Name the genre of sound files with a saved model, window by window.

What was heard is kept in the cache by content, so that a long list of files goes on where it was
stopped; TensorFlow starts only where there is something new to hear.

Train a system on all usable clips of a data set, for use on other music.

What the model is worth is estimated beforehand, on artists that it was not trained on: folds over
artists give every clip probabilities from a model that has not heard its artist. From these come
the accuracy in the model card and the temperature that calibrates the final model's confidence.
"""

import hashlib
import json
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax
from sklearn.metrics.pairwise import euclidean_distances
from threadpoolctl import threadpool_limits

from genre_utils import __version__, paper
from genre_utils.data import audio, datasets, splits
from genre_utils.data import audio as song
from genre_utils.data import splits as duplicates
from genre_utils.extraction import features, vgg
from genre_utils.extraction.vgg import DIGEST, Weights, load_weights
from genre_utils.metrics import evaluate, intervals
from genre_utils.metrics.confidence import apply_temperature, fit_temperature
from genre_utils.models import systems as registry
from genre_utils.models.estimators import RbfSVM
from genre_utils.runtime import GenreUtilsError, UsageError, progress
from genre_utils.store import (
    Run,
    Store,
    cache_dir,
    digest,
    file_digest,
    remembered,
    source_version,
    versions,
    write_atomic,
    write_json,
    write_text,
)

saved = sys.modules[__name__]
facts = sys.modules[__name__]

# ---- own.facts ----
SURE = 0.5  # the model card says how good answers above this confidence are


def estimate(
    proba: np.ndarray, temperature: float, used: pd.DataFrame, folds: int
) -> dict[str, Any]:
    """Say how good the answers to unknown artists were, with 95 % intervals over artists.

    Parameters
    ----------
    proba : np.ndarray [shape=(n, n_classes)]
        Of each clip, from a model that has not heard its artist.
    temperature : float
        Fitted on them.
    used : pd.DataFrame
        The n clips.
    """
    genres = np.unique(used["genre"].to_numpy(dtype=str))
    calibrated = apply_temperature(proba, temperature)
    answers = used[["clip_id"]].assign(
        system="model",
        protocol="artist",
        y_true=used["genre"],
        y_pred=genres[calibrated.argmax(axis=1)],
    )
    right = (answers["y_true"] == answers["y_pred"]).to_numpy()
    sure = calibrated.max(axis=1) >= SURE
    interval = intervals.cluster_intervals(answers, used).iloc[0]
    return {
        "accuracy": float(right.mean()),
        "accuracy_lo": float(interval["accuracy_lo"]),
        "accuracy_hi": float(interval["accuracy_hi"]),
        "f_score": evaluate.f_score(answers["y_true"], answers["y_pred"]),
        "n_artists": int(interval["n_artists"]),
        "folds": folds,
        "recall": {str(g): float(right[(used["genre"] == g).to_numpy()].mean()) for g in genres},
        "sure": {
            "confidence": SURE,
            "share": float(sure.mean()),
            "accuracy": float(right[sure].mean()) if sure.any() else None,
        },
    }


def heard(clips: pd.DataFrame) -> dict[str, Any]:
    """Return what a model of this clip table has heard, and what was left out."""
    known = datasets.get(clips["dataset"].iloc[0])
    used, refused = clips[clips["status"] == "ok"], clips[clips["status"] != "ok"]
    by_genre = used.groupby("genre")
    named = used[used["artist"] != ""].groupby("genre")["artist"].nunique()
    return {
        "dataset": known.name,
        "title": known.title,
        "synthetic": known.synthetic,
        "licence": known.licence,
        "citation": known.citation,
        "clips": len(used),
        "genres": {
            str(g): {"clips": len(part), "artists": int(named.get(g, 0))} for g, part in by_genre
        },
        "refused": {str(why): int(n) for why, n in refused["status"].value_counts().items()},
    }


def recipe(store: Store) -> dict[str, Any]:
    """How rows of a store are made from sound: what `Predictor` must repeat with a new file.

    Raises
    ------
    GenreUtilsError
        The store's key, or that of the features it was made from, is gone.
    """
    maps = _key(store.folder)
    mel = _key(store.folder.parent / maps["features"])
    return {
        "array": store.folder.name.rpartition("-")[0],
        **{name: mel["audio"][name] for name in ("offset", "fill")},
        "mel_scale": mel["scale"],
        **{name: maps[name] for name in ("channels", "preprocessing", "precision", "weights")},
        "untrained": maps["weights"] != DIGEST,
    }


def _key(folder: Path) -> dict[str, Any]:
    path = folder / "key.txt"
    if not path.is_file():
        raise GenreUtilsError(f"no {path}; run the earlier notebooks again")
    return json.loads(path.read_text(encoding="utf-8"))


# ---- own.saved ----
if TYPE_CHECKING:
    from genre_utils.models.cnn import HeadClassifier

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
    from genre_utils.models.cnn import HeadClassifier  # TensorFlow

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
            "format": FORMAT,
            "kind": self.kind,
            "classes": list(self.classes),
            "temperature": self.temperature,
            "arrays_sha256": file_digest(folder / ARRAYS),
        }
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
                known["kind"],
                tuple(known["classes"]),
                arrays,
                float(known["temperature"]),
                dict(known["facts"]),
            )
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


# ---- own.card ----
def summary(model: "SavedModel") -> str:
    """Return one line: system, what it has heard, how good it was."""
    facts = model.facts
    data = facts["data"]
    heard = f"{data['clips']:,} clips of {data['title']}, {len(model.classes)} genres"
    return f"{facts['system']}, trained on {heard}; {accuracy(facts['estimate'])}{warning(facts)}"


def accuracy(estimate: dict[str, Any]) -> str:
    """Return the estimated accuracy in words, or why there is none."""
    if "none" in estimate:
        return f"its accuracy on new artists is not known: {estimate['none']}"
    low, high = estimate["accuracy_lo"], estimate["accuracy_hi"]
    return f"accuracy on new artists {estimate['accuracy']:.2f} ({low:.2f} to {high:.2f})"


def warning(facts: dict[str, Any]) -> str:
    """Return what makes the answers meaningless on real music; often nothing."""
    found = []
    if facts["data"]["synthetic"]:
        found.append("it has heard no real music")
    if facts["features"]["untrained"]:
        found.append("its VGG-16 is untrained")
    return f" ({', '.join(found)})" if found else ""


def card(model: "SavedModel") -> str:
    """Return the model card as Markdown."""
    facts = model.facts
    parts = [
        _what(model),
        _heard(facts["data"], facts["features"]["offset"]),
        _how_good(model),
        _limits(facts),
        _files(model),
    ]
    return "\n\n".join(parts) + "\n"


def _what(model: "SavedModel") -> str:
    facts = model.facts
    settings = "".join(f", {name} {value}" for name, value in facts["settings"].items())
    return f"""# A model that names music genres

{facts["about"][0].upper()}{facts["about"][1:]} (`{facts["system"]}`{settings}), \
after {" and ".join(paper.AUTHORS)}, *{paper.TITLE}* (2019). It answers with \
one of: {", ".join(model.classes)}.

```sh
python -m genre_utils predict THIS_FOLDER FILE_OR_FOLDER...
```"""


def _heard(data: dict[str, Any], offset: float) -> str:
    rows = "\n".join(
        f"| {genre} | {n['clips']} | {n['artists'] or 'not known'} |"
        for genre, n in data["genres"].items()
    )
    refused = sum(data["refused"].values())
    left = "".join(f"\n- {n} × {why}" for why, n in data["refused"].items())
    synthetic = "**Synthesised: no real music, no real artists.** " if data["synthetic"] else ""
    return f"""## What it has heard

{data["title"]}: 20 s, from second {offset:g} on, of each of {data["clips"]:,} clips. \
{synthetic}Licence of the \
audio: {data["licence"]}. Source: {data["citation"]}.

| genre | clips | artists |
|---|--:|--:|
{rows}

{f"{refused} clips of the data set were left out:{left}" if refused else "Nothing was left out."}"""


def _how_good(model: "SavedModel") -> str:
    estimate = model.facts["estimate"]
    if "none" in estimate:
        return f"""## How good it is

Not known. {estimate["none"][0].upper()}{estimate["none"][1:]}, so it could not be tested on \
artists that it had not heard. Its confidence is not calibrated."""
    sure = estimate["sure"]
    rows = "\n".join(f"| {genre} | {value:.2f} |" for genre, value in estimate["recall"].items())
    right = "none" if sure["accuracy"] is None else f"{sure['accuracy']:.2f}"
    low, high = estimate["accuracy_lo"], estimate["accuracy_hi"]
    return f"""## How good it is

Accuracy **{estimate["accuracy"]:.2f}** (95 % interval {low:.2f} to {high:.2f}, from a bootstrap \
over {estimate["n_artists"]} artists), macro F-score {estimate["f_score"]:.2f}; chance would be \
{1 / len(model.classes):.2f} if genres were even. Estimated on its own data set in \
{estimate["folds"]} folds over artists: each clip was named by a model that had not heard its \
artist. This model was then trained on all clips.

| genre | found |
|---|--:|
{rows}

Confidence is calibrated with one temperature, {model.temperature:.2f}, fitted on those same \
answers. Answers with a confidence of {sure["confidence"]:g} or more: {sure["share"]:.0%} of \
clips, accuracy among them {right}."""


def _limits(facts: dict[str, Any]) -> str:
    untrained = (
        "\n- Its VGG-16 has random weights: a model for tests, whose answers mean nothing."
        if facts["features"]["untrained"]
        else ""
    )
    return f"""## Limits

- Whatever it hears, speech or noise too, it answers with one of its genres.
- Music of other places, times or recording techniques than its data set's was never tested.
- The figures above are for clips of 20 s of that data set, and for nothing else; a whole song's \
answer is the mean over windows of 20 s.
- Whether a model may be shared depends on the licence of the audio that it was trained \
on.{untrained}"""


def _files(model: "SavedModel") -> str:
    facts = model.facts
    size = sum(array.nbytes for array in model.arrays.values()) / 1e6
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"""## Files

`arrays.npz` ({size:.1f} MB of plain arrays, no code), `model.json` (what they are, and their \
SHA-256). VGG-16's own weights are not in it: they are fetched where they are needed and must have \
the digest {facts["features"]["weights"][:16]}... Made with {versions}."""


# ---- own.predict ----
# The code between a file and its probabilities, or its explanation.
MODULES = tuple(
    f"genre_utils.{name}"
    for name in (
        "own.predict",
        "own.saved",
        "own.song",
        "extraction.audio",
        "extraction.spectra",
        "extraction.features",
        "extraction.vgg",
        "models.head",
        "models.dense",
        "models.explain",
    )
)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file.

    Attributes
    ----------
    path : Path
    windows : pd.DataFrame
        start_s and a column a genre: calibrated probabilities of each window of 20 s; NaN where a
        window is silent. Empty when the file is refused.
    refused : str
        Why the file cannot be used; "" when it can.
    """

    path: Path
    windows: pd.DataFrame = field(default_factory=pd.DataFrame)
    refused: str = ""

    @property
    def probabilities(self) -> pd.Series:
        """Mean over the windows that are not silent, by genre."""
        return self.windows.drop(columns="start_s", errors="ignore").mean()

    @property
    def genre(self) -> str:
        """The most probable genre; "" when the file is refused."""
        return "" if self.refused else str(self.probabilities.idxmax())

    @property
    def confidence(self) -> float:
        """Probability of that genre; NaN when the file is refused."""
        return float(self.probabilities.max())


class Predictor:
    """A saved model with the trunk that it needs.

    Parameters
    ----------
    folder : str or Path
        The model, see `SavedModel.load`.

    Raises
    ------
    UsageError
        No model that this version can read.
    GenreUtilsError
        VGG-16's weights cannot be had, or are not those that the model was trained on.
    """

    def __init__(self, folder: str | Path) -> None:
        self.model = SavedModel.load(folder)
        self.how = self.model.facts["features"]
        self.weights = _weights(self.how["weights"])
        self._model_digest = file_digest(Path(folder) / saved.FACTS)  # it has the arrays' digest
        self._one_at_a_time = threading.Lock()  # what limits BLAS' threads holds for the process

    def predict_file(self, path: str | Path) -> Prediction:
        """Listen to a whole file; one that cannot be used comes back refused, with the reason."""
        path = Path(path)
        try:
            heard = self._heard(path)
        except audio.AudioError as error:
            return Prediction(path, refused=error.reason)
        except ValueError as error:  # too short: then it is the only window
            return Prediction(path, refused=str(error))
        table = pd.DataFrame(heard["proba"], columns=list(self.model.classes))
        if table.isna().all(axis=None):
            return Prediction(path, refused="silent")
        table.insert(0, "start_s", heard["start_s"])
        return Prediction(path, table)

    def predict(self, files: dict[Path, str], jobs: int = 1) -> Iterator[Prediction]:
        """Listen to ``jobs`` files at a time; the answers come in order.

        ``files`` are from `song.sound_files`: those that have a reason beside them are refused.
        """
        work = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
        return work(joblib.delayed(self._one)(path, why) for path, why in files.items())

    def explain(
        self, mel: np.ndarray, genre: str, patches: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Say what in a window speaks for a genre; None if the system has no head.

        Parameters
        ----------
        mel : np.ndarray [shape=(216, 626)]
            Mel-spectrogram, on the scale of ``how``.
        genre : str
        patches : (rows, columns)
            Of `explain.occlusion`.

        Returns
        -------
        gradient, occlusion : np.ndarray [shape=(216, 626)]
            `explain.grad_cam` and `explain.occlusion`.
        """
        if not self.model.kind.startswith("head-"):
            return None
        key = {
            "mel": hashlib.sha256(mel.tobytes()).hexdigest(),
            "genre": genre,
            "patches": list(patches),
        }
        found = self._kept("explained", key, lambda: self._explained(mel, genre, patches))
        return found["gradient"], found["occlusion"]

    def _explained(
        self, mel: np.ndarray, genre: str, patches: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        from genre_utils.models import explain  # TensorFlow

        arrays, preprocessing = self.weights.arrays, self.how["preprocessing"]
        network = explain.Network(arrays, self.model.head(), mel.shape, preprocessing)
        image = _image(mel, self.how)
        return {
            "gradient": explain.grad_cam(network, image, genre),
            "occlusion": explain.occlusion(network, image, genre, patches),
        }

    def _kept(
        self, name: str, key: dict, make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return what was made of the same by this model and code, or make it."""
        whole = key | {"model": self._model_digest, "code": source_version(MODULES)}
        path = cache_dir() / "arrays" / "folds" / f"{name}-{digest(whole)[:24]}.npz"
        return remembered(path, make)

    def _heard(self, path: Path) -> dict[str, np.ndarray]:
        """Start [n] and probabilities [n, n_classes] of each window."""
        try:
            sound = file_digest(path) if path.is_file() else ""
        except OSError:
            sound = ""
        if not sound:  # it cannot be read: that says why
            return self._hear(path)
        return self._kept("heard", {"sound": sound}, lambda: self._hear(path))

    def _hear(self, path: Path) -> dict[str, np.ndarray]:
        found = {start: self._window(y) for start, y in song.windows(path)}
        return {"start_s": np.array(list(found)), "proba": np.array(list(found.values()))}

    @cached_property
    def _row(self) -> Callable[[np.ndarray], np.ndarray]:
        return _trunk(self.weights, self.how)

    def _one(self, path: Path, why: str) -> Prediction:
        return Prediction(path, refused=why) if why else self.predict_file(path)

    def _window(self, y: np.ndarray) -> np.ndarray:
        """Probabilities [n_classes] of one window; NaN if it is silent."""
        try:
            y = audio.cut(y, fill=self.how["fill"])
        except ValueError as error:
            if str(error) != "silent":
                raise
            return np.full(len(self.model.classes), np.nan)
        mel = features.mel_spectrogram(y, scale=self.how["mel_scale"])
        with self._one_at_a_time:
            trunk = self._row  # built by the first
        row = trunk(mel)
        with self._one_at_a_time:
            return self.model.predict_proba(row)[0]


def _weights(wanted: str) -> Weights:
    """Return the weights with the digest ``wanted``."""
    weights = load_weights("auto" if wanted == DIGEST else "random")
    if weights.digest != wanted:
        raise GenreUtilsError(
            f"the model was trained on VGG-16 weights {wanted[:12]}..., which are neither the "
            "published ones nor the untrained ones of the tests; train it again"
        )
    return weights


def _trunk(weights: Weights, how: dict) -> Callable[[np.ndarray], np.ndarray]:
    """Return mel-spectrogram [216, 626] -> its row [1, ...] of the array that was trained on.

    One window at a time: its numbers do not depend on what else is in a batch, and an image is
    large enough to keep all processors busy.
    """
    asked = "float32" if how["precision"] == "float32" else "auto"  # bfloat16 is slow in places
    precision = vgg.trunk_precision(weights, asked).precision
    blocks = vgg.build_blocks((*paper.SHAPES["mel"], 3), weights.arrays, precision)

    def row(mel: np.ndarray) -> np.ndarray:
        maps = blocks(vgg.preprocess(_image(mel, how)[None], how["preprocessing"]))
        return (vgg.pooled(maps) if how["array"] == "pooled-mel" else maps[-1]).astype(np.float16)

    return row


def _image(mel: np.ndarray, how: dict) -> np.ndarray:
    return features.to_image(mel, "mel", scale=how["mel_scale"], channels=how["channels"])


# ---- own.train ----
FOLDS = 5
MIN_ARTISTS = 2  # of a genre: one to train on, one to test on


@dataclass(frozen=True)
class Recipe:
    """A registered system with settings of its own, and how its estimator is saved."""

    registered: str
    settings: dict[str, Any]
    saved: Callable[[Any], tuple[str, Arrays]]
    about: str

    @property
    def array(self) -> str:
        """Name of the stored array that it takes."""
        return registry.SYSTEMS[self.registered].arrays[0]


SYSTEMS = MappingProxyType(
    {
        "cnn-mel-small": Recipe(
            "cnn-mel",
            {"pooling": "average", "epochs": 100, "seed": 0},
            of_head,
            "frozen VGG-16 on mel-spectrograms, its map averaged, and the paper's dense layers",
        ),
        "cnn-mel": Recipe(
            "cnn-mel",
            {"pooling": "flatten", "epochs": 25, "seed": 0},
            of_head,
            "the paper's best system: frozen VGG-16 on mel-spectrograms and its dense layers",
        ),
        "pooled-svm": Recipe(
            "pooled-svm",
            {},
            of_svm,
            "a support vector machine on means and maxima of three blocks of a frozen VGG-16",
        ),
    }
)
DEFAULT = "cnn-mel-small"


def train(
    dataset: str,
    data_dir: str,
    out: str | Path,
    *,
    system: str = DEFAULT,
    epochs: int = 0,
    jobs: int = 1,
) -> SavedModel:
    """Read a data set, train on all its usable clips and write the model's folder.

    Parameters
    ----------
    dataset, data_dir : str
        Name in `datasets.DATASETS` and its folder.
    out : str or Path
        The model's folder.
    system : str
        A key of `SYSTEMS`.
    epochs : int
        Of the network's training; 0: the system's own number.
    jobs : int
        Workers that read audio.

    Raises
    ------
    UsageError
        As `fit`; an unknown system or data set, or a folder that is not to be written to.
    """
    chosen = _with_epochs(_recipe(system), system, epochs)
    check_target(out)
    clips, _ = datasets.load_clips(dataset, data_dir or None, jobs=jobs)
    clips = datasets.leave_out_small_genres(clips, FOLDS, MIN_ARTISTS)
    folder = datasets.data_folder(dataset, data_dir or None, jobs=jobs)
    digests = datasets.audio_digests(clips, folder, jobs=jobs)
    clips = clips.assign(sha256=clips["clip_id"].map(digests))
    used = clips[clips["status"] == "ok"]
    pairs = duplicates.find(used, folder, digests, jobs=jobs)
    store = _stored(chosen.array, used, folder, jobs)
    model = fit(system, clips, store, epochs=epochs, folds=_folds(used, pairs))
    model.save(out)
    return model


def train_from_run(run: Run, out: str | Path = "", *, system: str = DEFAULT) -> SavedModel:
    """Train on the arrays of a finished run, on its clips and with its artist folds.

    ``out`` is the model's folder, ``model`` in the run's when empty. Takes a minute or less; a
    model there that was made of the same is read instead.
    """
    out = check_target(out or run.folder / "model")
    clips = run.read("clips").merge(run.read("audio"), on="clip_id", how="left")
    drawn = run.read("splits")
    folds = drawn[drawn["protocol"] == "artist"].set_index("clip_id")["fold"] % FOLDS
    store = run.arrays(_recipe(system).array)
    made_of = _made_of(system, clips, folds, store)
    with suppress(UsageError):  # no model yet, or one of another version
        known = SavedModel.load(out)
        if known.facts.get("made_of") == made_of:
            return known
    model = fit(system, clips, store, folds="the run has no artist folds" if folds.empty else folds)
    model = replace(model, facts={**model.facts, "made_of": made_of})
    model.save(out)
    return model


def _made_of(system: str, clips: pd.DataFrame, folds: pd.Series, store: Store) -> str:
    """Return a digest of everything that a model of a run depends on."""
    known = _recipe(system)
    own = ("own.train", "own.saved", "own.facts", "own.card")
    names = (*own, *registry.SYSTEMS[known.registered].modules)
    return digest(
        {
            "system": [system, known.registered, known.settings],
            "store": store.folder.name,
            "clips": clips[["clip_id", "sha256", "genre", "status"]].astype(str).values.tolist(),
            "folds": folds.to_dict(),
            "versions": versions(),
            "code": source_version(f"genre_utils.{name}" for name in names),
        }
    )


def _recipe(name: str) -> Recipe:
    if name not in SYSTEMS:
        raise UsageError(f"unknown system {name!r}: one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def _stored(array: str, used: pd.DataFrame, folder: Path, jobs: int) -> Store:
    """Extract what the cache lacks; the features' defaults are the paper's and README's."""
    root, ids = cache_dir() / "arrays", list(used["sha256"])
    how = {"offset": 0.0, "fill": "repeat", "mel_scale": "db"}
    mel = features.stores(root, **how, fresh=False)["mel"]
    features.extract_all([folder / p for p in used["path"]], ids, {"mel": mel}, jobs=jobs, **how)
    keep = (array.removesuffix("-mel"),)
    return vgg.compute_maps(mel, "mel", ids, load_weights(), root, keep=keep)[array]


def _folds(used: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series | str:
    """Fold of each clip by artist, or why there can be none."""
    try:
        drawn = splits.make_splits(used, ["artist"], FOLDS, 0, pairs)
    except UsageError as error:
        return str(error)
    return drawn.set_index("clip_id")["fold"]


def fit(
    system: str, clips: pd.DataFrame, store: Store, *, folds: pd.Series | str, epochs: int = 0
) -> SavedModel:
    """Estimate by artist folds, calibrate, then train on all usable clips.

    Parameters
    ----------
    system : str
        A key of `SYSTEMS`.
    clips : pd.DataFrame
        The whole clip table, refused rows included, with sha256 of the audio.
    store : Store
        Rows of the system's array.
    folds : pd.Series or str
        Fold by clip_id; a text says why there are none.

    Raises
    ------
    UsageError
        Clips of fewer than two genres; or epochs for a system that has none.
    """
    chosen, used = _with_epochs(_recipe(system), system, epochs), clips[clips["status"] == "ok"]
    if used["genre"].nunique() < 2:
        raise UsageError(f"{used['genre'].nunique()} genre with usable clips; two are needed")
    rows, y = store.load(list(used["sha256"])), used["genre"].to_numpy(dtype=str)
    group = splits.groups(used, "artist").to_numpy()
    if not (used["artist"] != "").any():
        folds = "the data set does not name its artists"
    if isinstance(folds, str):
        temperature, worth = 1.0, {"none": folds}
    else:
        fold = used["clip_id"].map(folds).to_numpy()
        proba = _out_of_fold(chosen, rows, y, group, fold)
        temperature = fit_temperature(proba, np.unique(y, return_inverse=True)[1])
        worth = facts.estimate(proba, temperature, used, FOLDS)
    model = _trained(chosen, rows, y, group)
    known = {
        "system": system,
        "about": chosen.about,
        "data": facts.heard(clips),
        "features": facts.recipe(store),
        "settings": chosen.settings,
        "estimate": worth,
        "versions": {"genre_utils": __version__, **versions()},
    }
    return SavedModel(model.kind, model.classes, model.arrays, temperature, known)


def _with_epochs(chosen: Recipe, name: str, epochs: int) -> Recipe:
    if not epochs:
        return chosen
    if "epochs" not in chosen.settings:
        raise UsageError(f"{name} is not trained in epochs; leave --epochs out")
    return replace(chosen, settings={**chosen.settings, "epochs": epochs})


def _trained(chosen: Recipe, rows: np.ndarray, y: np.ndarray, group: np.ndarray) -> SavedModel:
    system = registry.SYSTEMS[chosen.registered]
    extra = {"groups": group} if system.grouped else {}
    estimator = system.make(**chosen.settings).fit(rows, y, **extra)
    kind, arrays = chosen.saved(estimator)
    return SavedModel(kind, tuple(str(genre) for genre in estimator.classes_), arrays)


def _out_of_fold(
    chosen: Recipe, rows: np.ndarray, y: np.ndarray, group: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Probabilities [n, n_classes] of each clip from a model that has not heard its artist."""
    genres = np.unique(y)
    proba = np.zeros((len(y), len(genres)))
    for i in progress(np.unique(fold), "artist folds", unit="fold"):
        test = fold == i
        model = _trained(chosen, rows[~test], y[~test], group[~test])
        columns = np.searchsorted(genres, model.classes)
        proba[np.ix_(test, columns)] = model.predict_proba(rows[test])
    return proba
