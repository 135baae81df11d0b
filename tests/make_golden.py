"""Write golden/stages.npz and golden/musicnn.npz.

The first has what each stage makes of the previous stage's golden array; the second a patch and
what musicnn's own graph makes of it: the inference part of the training graph that its authors left
in the ``.meta`` file, with their checkpoint, run in TensorFlow. Nothing of
`genre_utils.extraction.musicnn` but the wheel's name takes part.

Run ``python tests/make_golden.py stages`` (or ``musicnn``) after a change that is meant to move the
numbers, and say in the commit what moved and why.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import soundfile

from genre_utils.data import audio
from genre_utils.extraction import features

FOLDER = Path(__file__).resolve().parent / "golden"
RATE = 11025
PENULTIMATE = "model/batch_normalization_10/batchnorm/add_1"


def raw():
    """0.7 s in stereo: a harmonic tone that fades, a rising one, clicks and some noise."""
    t = np.arange(round(0.7 * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 6)) * np.exp(-3 * t)
    rising = 0.4 * np.sin(2 * np.pi * (300 * t + 1500 * t**2))
    clicks = 0.8 * (np.arange(len(t)) % 2200 == 0)
    noise = np.random.default_rng(0).normal(0, 0.01, (len(t), 2))
    stereo = 0.25 * (np.stack([tone + clicks, rising + clicks], axis=1) + noise)
    return np.round(stereo * 2**15).astype(np.int16)


def clip(stereo):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw.wav"
        soundfile.write(path, stereo, RATE)
        return audio.load_clip(path, duration=1.2, min_duration=0.5)


# Stage -> (the stage it is fed from, what it does).
STAGES = {
    "clip": ("raw", clip),
    "mel": ("clip", features.mel_spectrogram),
    "mfcc": ("clip", features.mfcc),
    "chroma": ("clip", features.chromagram),
    "svm": ("clip", features.svm_frames),
    "image-mel": ("mel", lambda mel: features.to_image(mel, "mel")[..., 0]),
    "image-mfcc": ("mfcc", lambda mfcc: features.to_image(mfcc, "mfcc")[..., 0]),
    "image-chroma": ("chroma", lambda chroma: features.to_image(chroma, "chroma")[..., 0]),
    "image-colours": ("mfcc", lambda m: features.to_image(m, "mfcc", channels="colormap")),
}


def stages():
    arrays = {"raw": raw()}
    for stage, (source, make) in STAGES.items():
        arrays[stage] = make(arrays[source])
    return arrays


def patch():
    """A seeded patch [187, 96]: bursts of a few bands over noise, like log10(1 + 10000 power)."""
    rng = np.random.default_rng(0)
    bands = np.exp(-np.arange(96) / 40) * rng.uniform(0.2, 1, 96)
    beats = 1 + np.cos(2 * np.pi * np.arange(187) / 31) ** 8
    noise = rng.gamma(1.0, 1.0, (187, 96))
    return np.log10(1 + 1000 * beats[:, None] * bands * noise).astype(np.float32)


def musicnn():
    from genre_utils.extraction.musicnn import WHEEL, WHEEL_SHA256
    from genre_utils.extraction.vgg import fetch_wheel

    with tempfile.TemporaryDirectory() as folder:
        wheel = fetch_wheel(WHEEL, WHEEL_SHA256, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            for name in (".data-00000-of-00001", ".index", ".meta"):
                content = archive.read(f"musicnn/MSD_musicnn/{name}")
                (Path(folder) / f"msd{name}").write_bytes(content)
        return {"patch": patch(), "penultimate": run(Path(folder) / "msd", patch())}


def run(prefix, x):
    from genre_utils.backend import tf

    v1 = tf.compat.v1
    content = v1.MetaGraphDef.FromString(prefix.with_suffix(".meta").read_bytes())
    graph = v1.graph_util.extract_sub_graph(content.graph_def, [PENULTIMATE])
    reader = tf.train.load_checkpoint(str(prefix))
    with tf.Graph().as_default(), v1.Session() as session:
        v1.import_graph_def(graph, name="")
        operations = session.graph.get_operations()
        variables = [op.name for op in operations if op.type in ("VariableV2", "Variable")]
        feed = {f"{name}:0": reader.get_tensor(name) for name in variables}
        for place in (op.outputs[0] for op in operations if op.type == "Placeholder"):
            feed[place] = False if place.dtype == tf.bool else x[None]  # in training; the image
        return session.run(f"{PENULTIMATE}:0", feed).reshape(-1)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        np.savez_compressed(
            FOLDER / f"{name}.npz", **{"stages": stages, "musicnn": musicnn}[name]()
        )
