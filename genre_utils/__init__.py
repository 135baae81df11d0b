"""Companion to Uchal and Zhou, "Music Genres Classification Using Deep Neural Network".

The data flow, one package a stage: `data` (clip table) -> `extraction` (features, VGG maps)
-> `models` (predictions) -> `metrics` and `plots` (tables and pictures).
"""

__version__ = "0.1.0"
