"""Companion to Uchal and Zhou, "Music Genres Classification Using Deep Neural Network".

The data flow, one module a stage: ``datasets`` (clip table) -> ``features`` -> ``vgg`` (maps)
-> ``systems`` (predictions) -> ``evaluate`` and ``figures`` (tables and pictures).
"""

__version__ = "0.1.0"
