"""What the paper states: every constant and every reported number, each with its section.

Uchal and Zhou, University of Rochester, 2019. What the paper leaves open is not here: those are
parameters, named where they are used and listed in the README.
"""

from types import MappingProxyType

import numpy as np


def _fixed(**values: float | str | tuple) -> MappingProxyType:
    return MappingProxyType(values)


TITLE = "Music Genres Classification Using Deep Neural Network"
AUTHORS = ("John Uchal", "Haotian Zhou")

# Section 3: "approximately 5500 audio files in 9 genres"; the authors' course poster says 549 each.
GENRES = (
    "Alt Rock",
    "Ambient",
    "Classical",
    "Electro Rock",
    "Electronica",
    "Hard Rock",
    "Jazz",
    "New Age",
    "World",
)
N_CLIPS = 5500

# Section 2.1.
AUDIO = _fixed(sr=16000, duration=20.0)

# Sections 2.2.1 and 2.2.2, as librosa's arguments.
MEL = _fixed(sr=16000, n_fft=2048, hop_length=512, window="hann", n_mels=216, fmax=8000)
MFCC = _fixed(sr=16000, n_fft=1024, hop_length=4096, window="hann", n_mfcc=32)
CHROMA = _fixed(sr=16000, n_fft=1024, hop_length=2048, window="hann", n_chroma=32)
SHAPES = _fixed(mel=(216, 626), mfcc=(32, 79), chroma=(32, 157))

# Section 2.5: first 10 s, 200 ms Hamming windows every 80 ms, 24 mel filters, 13 MFCC.
SVM = _fixed(duration=10.0, n_fft=3200, hop_length=1280, window="hamming", n_mels=24, n_mfcc=13)

# Sections 2.3 and 2.4: the layers after VGG-16's convolution blocks, and their training.
HEAD = _fixed(units=(512, 256), l2=0.01, dropout=0.5)
TRAINING = _fixed(learning_rate=2e-4, batch_size=64, epochs=200)
TEST_SHARE = 0.1

# Table 1: (accuracy, F-score) on the test set.
TABLE1 = MappingProxyType(
    {
        "cnn-mel": (0.90, 0.90),
        "cnn-mfcc": (0.75, 0.74),
        "cnn-chroma": (0.74, 0.72),
        "svm-mfcc": (0.32, 0.31),
    }
)
SYSTEM_LABELS = MappingProxyType(
    {
        "cnn-mel": "CNN+Mel-spectrogram",
        "cnn-mfcc": "CNN+MFCC",
        "cnn-chroma": "CNN+Chromagram",
        "svm-mfcc": "Baseline SVM",
    }
)

# Not the paper's: rules that never hear a note, and every other system, as tables name them.
REFERENCE_POINTS = MappingProxyType(
    {
        "majority": "Most frequent genre",
        "oracle-track": "Oracle: track known",
        "oracle-album": "Oracle: album known",
        "oracle-artist": "Oracle: artist known",
    }
)
LABELS = MappingProxyType(
    {
        **SYSTEM_LABELS,
        "svm-fair": "SVM, treated fairly",
        "stacking": "Stacking of CNNs and fair SVM",
        "cnn-mel-tuned5": "CNN+Mel, block 5 fine-tuned",
        "cnn-mel-tuned-all": "CNN+Mel, all blocks fine-tuned",
        "cnn-mel-windows": "CNN+Mel, first and last 20 s",
        "cnn-mel-calibrated": "CNN+Mel, calibrated",
        "pooled-svm": "VGG blocks 3-5, SVM",
        "block3-svm": "VGG block 3, SVM",
        "block3-svm-windows": "VGG block 3, SVM, first and last 20 s",
        "pooled-lda": "VGG blocks 3-5, LDA",
        "handcrafted-logreg": "Hand-crafted, logistic regression",
        "handcrafted-forest": "Hand-crafted, forest",
        "handcrafted-svm": "Hand-crafted, SVM",
        "handcrafted-boosting": "Hand-crafted, boosting",
        "musicnn-svm": "musicnn, SVM",
        "musicnn-mtt-svm": "musicnn that has heard the clips, SVM",
        "musicnn-lda": "musicnn, LDA",
        "musicnn+handcrafted": "musicnn + hand-crafted, SVM",
        "musicnn+handcrafted-lda": "musicnn + hand-crafted, LDA",
        "all-features": "All features, SVM",
        "chosen-vgg": "Chosen among VGG only",
        "chosen": "Chosen among all",
        "fusion-cnns": "Mean of the CNNs",
        "fusion-all": "Mean of CNNs and fair SVM",
        "vgg+boosting": "Mean of CNN (mel) and boosting",
        **REFERENCE_POINTS,
    }
)

# Fig. 3: confusion matrix of CNN+Mel-spectrogram, per cent of each true genre (row).
FIG3 = np.array(
    [
        [100, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 96, 4, 0, 0, 0, 0, 0, 0],
        [0, 0, 100, 0, 0, 0, 0, 0, 0],
        [2, 0, 6, 80, 8, 0, 0, 0, 4],
        [0, 0, 4, 0, 92, 0, 2, 0, 2],
        [6, 2, 2, 0, 0, 90, 0, 0, 0],
        [2, 2, 12, 0, 2, 0, 74, 0, 8],
        [6, 8, 2, 0, 0, 0, 0, 80, 4],
        [2, 0, 0, 0, 2, 0, 0, 0, 96],
    ]
)
FIG3.setflags(write=False)

# Our inference: all of Fig. 3 are multiples of 2 %, which takes at least 50 clips a genre.
TEST_CLIPS_PER_GENRE = 50

# Section 3.2: the pairs "more likely to be confused with each other".
CONFUSED_PAIRS = (("Classical", "Jazz"), ("Electro Rock", "Electronica"), ("New Age", "Ambient"))
