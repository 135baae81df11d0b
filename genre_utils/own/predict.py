"""Name the genre of sound files with a saved model, window by window.

What was heard is kept in the cache by content, so that a long list of files goes on where it was
stopped; TensorFlow starts only where there is something new to hear.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.errors import GenreUtilsError
from genre_utils.extraction import audio, features, vgg
from genre_utils.extraction.weights import DIGEST, Weights, load_weights
from genre_utils.own import saved, song
from genre_utils.own.saved import SavedModel
from genre_utils.store import cache_dir, digest, file_digest, remembered, source_version

# The code between a file and its probabilities, or its explanation.
MODULES = tuple(
    f"genre_utils.{name}"
    for name in (
        "own.predict", "own.saved", "own.song", "extraction.audio", "extraction.spectra",
        "extraction.features", "extraction.vgg", "models.head", "models.dense", "models.explain",
    )
)  # fmt: skip


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
        key = {"mel": hashlib.sha256(mel.tobytes()).hexdigest(), "genre": genre,
               "patches": list(patches)}  # fmt: skip
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
