"""The compared systems: stored arrays and the estimator that takes their rows.

A system is stored arrays (features, VGG maps, embeddings) and a scikit-learn estimator that eats
their rows. A new system is one function and one line in `SYSTEMS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from genre_utils import paper
from genre_utils.models import classic, combine, fair_svm, svm


@dataclass(frozen=True)
class System:
    """One row of the table of results.

    Attributes
    ----------
    arrays : tuple of str
        Names of the stored arrays that the estimator takes.
    make : callable
        Keyword settings -> estimator with ``fit`` and ``predict``. With ``predict_proba`` its
        probabilities are kept, with ``history_`` or ``choice_`` what it learned or chose.
    modules : tuple of str
        Modules of this package that it is written in; their edited source means new results.
        (Names, so that finished folds are read without importing TensorFlow.)
    libraries : tuple of str
        Packages that the results depend on.
    label : str
        Its name in tables and figures.
    grouped : bool
        ``fit`` also takes ``groups``: the training clips' groups of the outer protocol, for inner
        cross-validation.
    """

    arrays: tuple[str, ...]
    make: Callable[..., BaseEstimator]
    modules: tuple[str, ...]
    libraries: tuple[str, ...]
    label: str
    grouped: bool = False


def _head(**settings: Any) -> BaseEstimator:  # noqa: ANN401
    from genre_utils.models.head import HeadClassifier  # TensorFlow

    return HeadClassifier(**settings)


def _windows(**settings: Any) -> BaseEstimator:  # noqa: ANN401
    return combine.Windows(_head(**settings))


def _block3_windows(**how: int) -> BaseEstimator:
    return combine.Windows(classic.svm_of(classic.POOLED[0])(**how))


def _calibrated(*, inner_folds: int, inner_seed: int = 0, **settings: Any) -> BaseEstimator:  # noqa: ANN401
    how = {"inner_folds": inner_folds, "inner_seed": inner_seed}
    return combine.TemperatureScaled(_head(**settings), **how)


def _tuned(**settings: Any) -> BaseEstimator:  # noqa: ANN401
    from genre_utils.models.finetune import FineTuneClassifier  # TensorFlow

    return FineTuneClassifier(**settings)


def _ecoc_svm(*, volume_threshold: float, coding: str) -> BaseEstimator:
    vectors = FunctionTransformer(svm.clip_vectors, kw_args={"threshold": volume_threshold})
    return make_pipeline(vectors, svm.EcocSVM(coding=coding))


def _classic(make: Callable, label: str, *arrays: str, grouped: bool = True) -> System:
    modules = ("models.classic", *NESTED, "models.combine")
    return System(arrays, make, modules, SKLEARN, label, grouped)


HEAD = ("models.head", "models.dense")
TUNED = ("models.finetune", *HEAD, "extraction.vgg", "extraction.features")
NESTED = ("models.nested", "metrics.calibration")
FAIR = ("models.fair_svm", *NESTED, "models.svm")
ALL = ("pooled-mel", "handcrafted", "musicnn")
KERAS = ("keras", "tensorflow", "numba", "numpy", "scipy")
SKLEARN = ("scikit-learn", "numpy", "scipy")
LABELS = paper.SYSTEM_LABELS
SYSTEMS: dict[str, System] = {
    "cnn-mel": System(("vgg-mel",), _head, HEAD, KERAS, LABELS["cnn-mel"]),
    "cnn-mfcc": System(("vgg-mfcc",), _head, HEAD, KERAS, LABELS["cnn-mfcc"]),
    "cnn-chroma": System(("vgg-chroma",), _head, HEAD, KERAS, LABELS["cnn-chroma"]),
    "svm-mfcc": System(("svm",), _ecoc_svm, ("models.svm",), SKLEARN, LABELS["svm-mfcc"]),
    fair_svm.SYSTEM: System(
        ("svm-long",), fair_svm.make, FAIR, (*SKLEARN, "librosa"), "SVM, treated fairly",
        grouped=True,
    ),
    "stacking": System(
        ("vgg-mel", "vgg-mfcc", "vgg-chroma", "svm-long"), combine.stacking,
        (*HEAD, *FAIR, "models.combine"), (*KERAS, "scikit-learn", "librosa"),
        "Stacking of CNNs and fair SVM", grouped=True,
    ),
    "cnn-mel-tuned5": System(
        ("block4-mel",), _tuned, TUNED, KERAS, "CNN+Mel, block 5 fine-tuned"
    ),
    "cnn-mel-tuned-all": System(("mel",), _tuned, TUNED, KERAS, "CNN+Mel, all blocks fine-tuned"),
    "cnn-mel-windows": System(
        ("vgg-mel", "vgg-mel-last"), _windows, (*HEAD, "models.combine"), KERAS,
        "CNN+Mel, first and last 20 s",
    ),
    "cnn-mel-calibrated": System(
        ("vgg-mel",), _calibrated, (*HEAD, *NESTED, "models.combine"), KERAS,
        "CNN+Mel, calibrated", grouped=True,
    ),
    "pooled-svm": _classic(classic.svm_of(*classic.POOLED), "VGG blocks 3-5, SVM", "pooled-mel"),
    "block3-svm": _classic(classic.svm_of(classic.POOLED[0]), "VGG block 3, SVM", "pooled-mel"),
    "block3-svm-windows": _classic(
        _block3_windows, "VGG block 3, SVM, first and last 20 s", "pooled-mel", "pooled-mel-last"
    ),
    "pooled-lda": _classic(
        classic.lda_of(*classic.POOLED, root=True), "VGG blocks 3-5, LDA", "pooled-mel"
    ),
    "handcrafted-logreg": _classic(
        classic.logistic_of("handcrafted"), "Hand-crafted, logistic regression", "handcrafted"
    ),
    "handcrafted-forest": _classic(
        classic.forest, "Hand-crafted, forest", "handcrafted", grouped=False
    ),
    "handcrafted-svm": _classic(classic.svm_of("handcrafted"), "Hand-crafted, SVM", "handcrafted"),
    "handcrafted-boosting": _classic(
        classic.boosting, "Hand-crafted, boosting", "handcrafted", grouped=False
    ),
    "musicnn-svm": _classic(classic.svm_of(*classic.MUSICNN), "musicnn, SVM", "musicnn"),
    "musicnn-lda": _classic(classic.lda_of(*classic.MUSICNN), "musicnn, LDA", "musicnn"),
    "musicnn+handcrafted": _classic(
        classic.svm_of(*classic.MUSICNN, "handcrafted"), "musicnn + hand-crafted, SVM",
        "musicnn", "handcrafted",
    ),
    "musicnn+handcrafted-lda": _classic(
        classic.lda_of(*classic.MUSICNN, "handcrafted"), "musicnn + hand-crafted, LDA",
        "musicnn", "handcrafted",
    ),
    "all-features": _classic(
        classic.svm_of(*classic.MUSICNN, "handcrafted", *classic.POOLED), "All features, SVM",
        *ALL,
    ),
    "chosen-vgg": _classic(
        combine.chosen_of(classic.vgg_candidates), "Chosen among VGG only", "pooled-mel"
    ),
    "chosen": _classic(combine.chosen_of(classic.candidates), "Chosen among all", *ALL),
}  # fmt: skip
