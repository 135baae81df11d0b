"""TensorFlow and Keras, imported without their start-up lines.

TensorFlow writes those before any setting of its own applies.
"""

import os

from genre_utils.runtime import quiet_stderr

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with quiet_stderr():
    import keras
    import tensorflow as tf

    tf.constant(0.0)  # starts the runtime, which has lines of its own

__all__ = ["keras", "tf"]
