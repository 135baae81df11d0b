"""Write golden/stages.npz: what each stage makes of the previous stage's golden array.

Run ``python tests/make_golden.py`` after a change that is meant to move the numbers, and say in
the commit what moved and why.
"""

import tempfile
from pathlib import Path

import numpy as np
import soundfile

from genre_utils.data import audio
from genre_utils.extraction import features

GOLDEN = Path(__file__).resolve().parent / "golden" / "stages.npz"
RATE = 11025


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


def main():
    arrays = {"raw": raw()}
    for stage, (source, make) in STAGES.items():
        arrays[stage] = make(arrays[source])
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)
    for name, array in arrays.items():
        print(f"{name:14} {array.dtype!s:8} {array.shape}")
    print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
