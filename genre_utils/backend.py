"""TensorFlow and Keras, imported without their start-up lines.

TensorFlow writes those to file descriptor 2 before any setting of its own applies, and a notebook
would keep them as error output.
"""

import os
from contextlib import contextmanager


@contextmanager
def _quiet_stderr():  # noqa: ANN202
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with _quiet_stderr():
    import keras
    import tensorflow as tf

    tf.constant(0.0)  # starts the runtime, which has lines of its own

__all__ = ["keras", "tf"]
