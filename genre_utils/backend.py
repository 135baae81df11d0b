"""TensorFlow and Keras, imported without their start-up lines and with their own defaults.

TensorFlow writes those lines before any setting of its own applies. What KERAS_* variables and
keras.json say is for the user's other work.
"""

import os

from genre_utils.runtime import GenreUtilsError, quiet_stderr

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}
for name in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"):
    os.environ.pop(name, None)
with quiet_stderr():
    import keras
    import tensorflow as tf

    tf.constant(0.0)  # starts the runtime, which has lines of its own
tf.get_logger().setLevel("ERROR")  # its advice on retracing is for training loops
if keras.backend.backend() != "tensorflow":  # imported before this module
    raise GenreUtilsError("Keras runs on another backend already; restart this Python or kernel")

__all__ = ["keras", "tf"]
