"""The experiment as most people would write it: librosa's calls in a loop, Keras' ``fit``.

Nothing here is slowed down on purpose: these are the calls of the libraries' own tutorials, on all
the cores that they take by themselves.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import librosa
import numpy as np

from genre_utils import paper
from genre_utils.extraction.vgg import Arrays, build_trunk
from genre_utils.models.cnn import build_head

if TYPE_CHECKING:
    from genre_utils.backend import keras


def clip_features(path: str | Path) -> dict[str, np.ndarray]:
    """Features of one file, as named in `features.EXTRACTORS`, by librosa alone (2.1, 2.2, 2.5)."""
    sr, duration = paper.AUDIO["sr"], paper.AUDIO["duration"]
    y, _ = librosa.load(path, sr=sr)
    y = np.resize(y, round(sr * duration)) if len(y) < sr * duration else y[: round(sr * duration)]
    y = y / np.abs(y).max()
    mel = librosa.feature.melspectrogram(y=y, **paper.MEL)
    ten_seconds = y[: round(sr * paper.SVM["duration"])]
    return {
        "mel": librosa.power_to_db(mel, ref=np.max),
        "mfcc": librosa.feature.mfcc(y=y, **paper.MFCC),
        "chroma": librosa.feature.chroma_stft(y=y, **paper.CHROMA),
        "svm": svm_frames(ten_seconds),
        "svm-long": svm_frames(y),
    }


def svm_frames(y: np.ndarray) -> np.ndarray:
    """13 MFCC and the level in dB of each whole frame (section 2.5), shape=(14, t)."""
    p, sr = paper.SVM, paper.AUDIO["sr"]
    frames = {"hop_length": p["hop_length"], "center": False}
    mel = librosa.feature.melspectrogram(
        y=y, sr=sr, n_fft=p["n_fft"], window=p["window"], n_mels=p["n_mels"], **frames
    )
    mfcc = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=p["n_mfcc"])
    rms = librosa.feature.rms(y=y, frame_length=p["n_fft"], **frames)
    return np.vstack([mfcc, 20 * np.log10(np.maximum(rms, 1e-5))])


def all_features(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Loop over the files; name -> rows [n, height, width]."""
    clips = [clip_features(path) for path in files]
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def images(mel: np.ndarray) -> np.ndarray:
    """Mel-spectrograms [n, 216, 626] in dB as VGG-16's input: 0..255, three times, Keras' way."""
    from genre_utils.backend import keras

    grey = 255 * (mel + 80) / 80
    colour = np.repeat(grey[..., None].astype(np.float32), 3, axis=-1)
    # It turns RGB round by negative strides, which not every framework takes.
    return np.ascontiguousarray(keras.applications.vgg16.preprocess_input(colour))


def whole_network(shape: tuple[int, int, int], n_classes: int, arrays: Arrays) -> "keras.Model":
    """Frozen VGG-16 and the head in one model, as in Keras' guide to transfer learning."""
    from genre_utils.backend import keras

    trunk = build_trunk(shape, arrays)
    model = keras.Sequential([trunk, build_head(trunk.output_shape[1:], n_classes)])
    return compiled(model)


def compiled(model: "keras.Model") -> "keras.Model":
    """Adam on the cross-entropy with the paper's learning rate (section 2.4)."""
    from genre_utils.backend import keras

    model.compile(
        optimizer=keras.optimizers.Adam(paper.TRAINING["learning_rate"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def fit(model: "keras.Model", X: np.ndarray, y: np.ndarray, epochs: int, batch: int = 64) -> None:
    """Keras' own training loop on class numbers ``y``."""
    model.fit(X, y, batch_size=batch, epochs=epochs, verbose=0)


def fitted_head(X: np.ndarray, y: np.ndarray, epochs: int, seed: int = 0) -> "keras.Model":
    """Train the head on stored maps X [n, height, width, 512] with Keras' ``fit``."""
    from genre_utils.backend import keras

    keras.utils.set_random_seed(seed)
    model = compiled(build_head(X.shape[1:], int(y.max()) + 1))
    fit(model, X, y, epochs)
    return model
