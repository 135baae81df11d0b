import subprocess
import sys

import librosa
import make_golden
import numpy as np
import pandas as pd
import pytest
import scipy.signal
import soundfile

from genre_utils.data import audio
from genre_utils.extraction import features, musicnn
from genre_utils.runtime import GenreUtilsError

TAGS = {0: "rock", 4: "electronic", 23: "instrumental"}


@pytest.fixture(scope="module")
def arrays():
    """The real weights, from the kept copy or fetched: a machine without any source fails here."""
    return musicnn.load_weights()


@pytest.fixture(scope="module")
def network(arrays):
    return musicnn.build_network(arrays)


def _sound(seconds, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16000)) / 16000
    tone = np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 2 * t))
    return (0.3 * tone + rng.normal(0, 0.02, len(t))).astype(np.float32)


def test_the_network_gives_what_its_authors_graph_gives(network):
    """The golden file comes from that graph, run in TensorFlow: make_golden.py."""
    with np.load(make_golden.FOLDER / "musicnn.npz") as golden:
        patch, expected = golden["patch"], golden["penultimate"]
    ours, backwards = network.predict(np.stack([patch, patch[::-1]]), verbose=0)
    assert ours.shape == expected.shape == (200,)
    assert np.ptp(expected) > 1
    assert np.allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(backwards, expected, rtol=1e-2, atol=1e-2)  # the order of time matters


def test_patches_are_the_compressed_power_of_hann_frames():
    y = _sound(6.5)
    ours = musicnn.patches(y)
    assert ours.shape == (2, 187, 96)  # 6.5 s have 407 frames
    padded = np.pad(y.astype(np.float64), 256, mode="reflect")
    window = scipy.signal.get_window("hann", 512)
    frames = [np.fft.rfft(padded[i * 256 : i * 256 + 512] * window) for i in range(2 * 187)]
    power = np.abs(frames) ** 2 @ librosa.filters.mel(sr=16000, n_fft=512, n_mels=96).T
    expected = np.log10(1 + 1e4 * power).reshape(2, 187, 96)
    # Half a unit in the last of float16's 11 bits, through the logarithm; below 2**-14 it is finer.
    assert np.abs(ours - expected).max() < 2**-11 / np.log(10) * 1.1


def test_loud_sounds_do_not_overflow():
    loud = musicnn.patches(np.sin(np.arange(48000) / 8).astype(np.float32))
    assert np.isfinite(loud).all()
    assert loud.max() > np.log10(65504)  # more than float16 holds before the logarithm


def test_a_short_sound_is_repeated_and_a_rest_left_out():
    y = _sound(2.0)
    (patch,) = musicnn.patches(y)
    twice = np.concatenate([y, y])[: 186 * 256]
    assert np.array_equal(patch, musicnn.patches(twice)[0])
    assert len(musicnn.patches(_sound(3.0))) == 1
    assert len(musicnn.patches(_sound(29.0))) == (1 + 29 * 16000 // 256) // 187


def test_columns_are_means_and_deviations_over_the_patches(network):
    y = _sound(52)
    row, patches = musicnn.embed(y, network), musicnn.patches(y)
    assert row.dtype == np.float32
    assert row.shape == (400,)
    assert len(patches) > musicnn.BATCH
    rows = np.concatenate([network(patch[None]) for patch in patches]).astype(float)
    for part, expected in (("mean", rows.mean(axis=0)), ("std", rows.std(axis=0))):
        ours = row[musicnn.PARTS[f"penultimate_{part}"]]
        assert np.allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_clips_are_embedded_once_and_then_without_tensorflow(tmp_path, network):
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for i, path in enumerate(paths[:2]):
        soundfile.write(path, _sound(3.0, seed=i), 16000)
    paths[2].write_bytes(b"no sound")
    with pytest.raises(GenreUtilsError, match=r"1 clip\(s\) cannot be extracted; first: .*2\.wav"):
        features.stored({"musicnn": {}}, musicnn.embed_file, paths, ["a", "b", "c"], tmp_path)
    code = (
        "import sys; from pathlib import Path; "
        "from genre_utils.extraction import features, musicnn; "
        "store = features.stored({'musicnn': {}}, musicnn.embed_file, [Path('gone')] * 2, "
        f"['a', 'b'], Path({str(tmp_path)!r}))['musicnn']; "
        "print(store.folder, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    folder, started = done.stdout.split()
    assert started == "False"
    (row,) = features.Store(folder).load(["b"])
    assert np.allclose(row, musicnn.embed(audio.decode(paths[1]), network), atol=1e-5)


def _no_wheel(requirement, sha256, folder):
    raise GenreUtilsError("ERROR: no network")


def test_weights_are_kept_and_a_spoiled_copy_is_fetched_again(cache, arrays, monkeypatch):
    kept = cache / "weights" / "musicnn-msd.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"cut off")
    monkeypatch.setattr(musicnn, "fetch_wheel", _no_wheel)
    with pytest.raises(GenreUtilsError, match="no network; they need a network that") as caught:
        musicnn.load_weights()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setenv("GENRE_UTILS_CACHE", str(cache))
    again = musicnn.load_weights()
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())
    monkeypatch.setattr(musicnn, "fetch_wheel", _no_wheel)
    assert len(musicnn.load_weights()) == 64


def test_other_weights_are_refused(cache, arrays, monkeypatch):
    edited = arrays | {"dense_1/bias": arrays["dense_1/bias"] + np.float32(1e-6)}
    with pytest.raises(ValueError, match=r"digest .*, expected"):
        musicnn._proven(edited, "msd")
    monkeypatch.setitem(musicnn.DIGESTS, "msd", musicnn.DIGESTS["mtt"])
    with pytest.raises(GenreUtilsError, match=r"no weights of musicnn: digest"):
        musicnn.load_weights()
    assert not (cache / "weights").exists()


def test_weights_that_have_heard_magnatagatune_are_others(arrays, tmp_path):
    others = musicnn.load_weights("mtt")
    assert {n: a.shape for n, a in others.items() if n in arrays} == {
        n: a.shape for n, a in arrays.items() if n in others
    }
    assert not np.array_equal(others["dense/kernel"], arrays["dense/kernel"])
    path = tmp_path / "a.wav"
    soundfile.write(path, _sound(4), 16000)
    made = musicnn.embed_file(path, "musicnn-mtt")["musicnn-mtt"]
    assert np.allclose(made, musicnn.embed(audio.decode(path), musicnn.build_network(others)))
    assert not np.allclose(made, musicnn.embed_file(path)["musicnn"], rtol=0.1)


def test_real_clips_get_sensible_tags(shared, arrays, network):
    """The network's last layer, which is not used, says what the embedding knows."""
    folder = shared / "data" / "magnatune-mini"
    clips = pd.read_csv(folder / "emotify_manifest.csv").groupby("genre").head(4)
    sounds = [audio.decode(folder / path)[: 6 * 16000] for path in clips["path"]]
    rows = np.stack([musicnn.embed(y, network)[:200] for y in sounds])
    scores = rows @ arrays["dense_1/kernel"] + arrays["dense_1/bias"]
    tags = pd.DataFrame(scores[:, list(TAGS)], columns=TAGS.values(), index=clips["genre"])
    mean = tags.groupby(level=0).mean()
    assert mean["electronic"].idxmax() == "electronic"
    assert mean["rock"].idxmax() == "rock"
    assert mean["instrumental"].idxmax() == "classical"
