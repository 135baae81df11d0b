from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
import scipy.signal
import soundfile

from genre_utils.data import audio
from genre_utils.extraction import features as batch
from genre_utils.extraction import musicnn
from genre_utils.extraction.musicnn import PARTS
from genre_utils.runtime import GenreUtilsError

GOLDEN = Path(__file__).parent / "golden" / "musicnn.npz"


@pytest.fixture(scope="module")
def arrays():
    """The real weights, from the kept copy or fetched: a machine without any source fails here."""
    return musicnn.load_weights()


def _sound(seconds, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16000)) / 16000
    tone = np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 2 * t))
    return (0.3 * tone + rng.normal(0, 0.02, len(t))).astype(np.float32)


def test_the_network_gives_what_its_authors_graph_gives(arrays):
    """The golden file comes from that graph, run in TensorFlow: make_golden_musicnn.py."""
    with np.load(GOLDEN) as golden:
        found = musicnn.forward(golden["patch"], arrays)
        assert {name: rows.shape for name, rows in found.items()} == {
            name: golden[name].shape for name in golden.files if name != "patch"
        }
        for name, rows in found.items():
            assert np.allclose(rows, golden[name], rtol=1e-4, atol=1e-4), name
        assert np.ptp(golden["tags"]) > 0.1
        other = musicnn.forward(golden["patch"][::-1], arrays)  # the order of time matters
        assert not np.allclose(other["tags"], golden["tags"], rtol=1e-2)


def test_a_layer_step_by_step(arrays):
    """With SciPy's correlation, one channel after the other, in the published order."""
    x = np.random.default_rng(3).normal(1, 1, (20, 96)).astype(np.float32)
    kernel, bias = arrays["conv2d/kernel"], arrays["conv2d/bias"]
    part = [arrays[f"batch_normalization_1/{n}"] for n in ("gamma", "beta")]
    moving = [arrays[f"batch_normalization_1/moving_{n}"] for n in ("mean", "variance")]
    found = musicnn._layer(x, 0, (3, 3), arrays)
    assert found.shape == (20, 204)
    signs = set()
    for c in range(0, 204, 20):
        padded = np.pad(x.astype(np.float64), ((3, 3), (0, 0)))
        rectified = np.maximum(
            scipy.signal.correlate2d(padded, kernel[:, :, 0, c], mode="valid") + bias[c], 0
        )
        normal = (rectified - moving[0][c]) / np.sqrt(moving[1][c] + 1e-3)
        expected = (part[0][c] * normal + part[1][c]).max(axis=1)
        assert np.allclose(found[:, c], expected, rtol=1e-3, atol=1e-3)
        signs.add(np.sign(part[0][c]))
    assert signs == {-1, 1}  # both ways of taking the extreme were met


def test_patches_are_the_compressed_power_of_hann_frames():
    y = _sound(6.5)
    found = musicnn.patches(y)
    assert found.shape == (2, 187, 96)  # 6.5 s have 407 frames
    padded = np.pad(y.astype(np.float64), 256, mode="reflect")
    window = scipy.signal.get_window("hann", 512)
    frames = [np.fft.rfft(padded[i * 256 : i * 256 + 512] * window) for i in range(2 * 187)]
    power = np.abs(frames) ** 2 @ librosa.filters.mel(sr=16000, n_fft=512, n_mels=96).T
    expected = np.log10(1 + 1e4 * power).reshape(2, 187, 96)
    # Half a unit in the last of float16's 11 bits, through the logarithm; below 2**-14 it is finer.
    assert np.abs(found - expected).max() < 2**-11 / np.log(10) * 1.1


def test_loud_sounds_do_not_overflow():
    loud = musicnn.patches(np.sin(np.arange(48000) / 8).astype(np.float32))
    assert np.isfinite(loud).all()
    assert loud.max() > np.log10(65504)  # more than float16 holds before the logarithm


def test_a_short_sound_is_repeated_and_a_rest_left_out():
    y = _sound(2.0)
    (one,) = musicnn.patches(y)
    twice = np.concatenate([y, y])[: 186 * 256]
    assert np.array_equal(one, musicnn.patches(twice)[0])
    assert len(musicnn.patches(_sound(3.0))) == 1
    assert len(musicnn.patches(_sound(29.0))) == (1 + 29 * 16000 // 256) // 187


def test_columns_are_means_and_deviations_over_the_patches(arrays):
    y = _sound(9.1)
    row = musicnn.embed(y, arrays)
    assert row.shape == (1956,)
    assert row.dtype == np.float32
    each = [musicnn.forward(patch, arrays) for patch in musicnn.patches(y)]
    assert len(each) == 3
    for part, name, how in (
        ("penultimate_mean", "penultimate", np.mean),
        ("penultimate_std", "penultimate", np.std),
        ("max_pool", "max_pool", np.mean),
        ("mean_pool", "mean_pool", np.mean),
        ("tags", "tags", np.mean),
    ):
        values = how(np.array([one[name] for one in each], np.float64), axis=0)
        assert np.allclose(row[PARTS[part]], values, rtol=1e-5, atol=1e-5)
    stops = [part.stop for part in PARTS.values()]
    assert [part.start for part in PARTS.values()] == [0, *stops[:-1]]
    assert stops[-1] == len(row)
    assert len(musicnn.TAGS) == len(set(musicnn.TAGS)) == 50


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(5)]
    for i, path in enumerate(paths):
        soundfile.write(path, _sound(3.0, seed=i), 16000)
    return paths


def test_stored_rows_resume_and_do_not_depend_on_workers(files, tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(batch, "CHUNK", 2)
    ids = [path.name for path in files]
    store = musicnn.stored(files[:3], ids[:3], tmp_path)
    embedded, embed = [], musicnn.embed
    monkeypatch.setattr(musicnn, "embed", lambda y, a: embedded.append(1) or embed(y, a))
    rows = musicnn.stored(files, ids, tmp_path).load(ids)
    assert len(embedded) == 2
    musicnn.stored(files, ids, tmp_path)
    assert len(embedded) == 2
    assert store.folder.name.startswith("musicnn-")
    assert np.allclose(rows[4], embed(audio.decode(files[4]), arrays), atol=1e-5)
    parallel = musicnn.stored(files, ids, tmp_path / "other", jobs=2)
    assert np.array_equal(parallel.load(ids), rows)


def test_a_broken_clip_is_named_and_the_others_are_stored(files, tmp_path):
    files[1].write_bytes(b"no sound")
    ids = [path.name for path in files]
    with pytest.raises(GenreUtilsError, match=r"1 clip\(s\) cannot be extracted; first: .*1\.wav"):
        musicnn.stored(files, ids, tmp_path)
    good = ids[:1] + ids[2:]
    assert musicnn.stored(files[:1] + files[2:], good, tmp_path).load(good).shape == (4, 1956)


def _no_wheel(requirement, sha256, folder):
    raise GenreUtilsError("ERROR: no network")


def test_weights_are_kept_and_a_spoiled_copy_is_fetched_again(cache, arrays, monkeypatch):
    kept = cache / "weights" / "musicnn-msd.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"cut off")
    again = musicnn.load_weights()
    assert {n: a.tolist() for n, a in again.items()} == {n: a.tolist() for n, a in arrays.items()}
    monkeypatch.setattr(musicnn, "fetch_wheel", _no_wheel)
    assert len(musicnn.load_weights()) == 64


def test_other_weights_are_refused(cache, arrays, monkeypatch):
    edited = arrays | {"dense_1/bias": arrays["dense_1/bias"] + np.float32(1e-6)}
    with pytest.raises(ValueError, match=r"digest .*, expected"):
        musicnn._proven(edited)
    monkeypatch.setattr(musicnn, "CHECKPOINT", "musicnn/MTT_musicnn/")  # has heard these clips
    with pytest.raises(GenreUtilsError, match=r"no weights of musicnn: digest"):
        musicnn.load_weights()
    assert not (cache / "weights").exists()


def test_without_the_wheel_there_is_one_clear_line(cache, monkeypatch):
    monkeypatch.setattr(musicnn, "fetch_wheel", _no_wheel)
    with pytest.raises(GenreUtilsError, match="no network; they need a network that") as caught:
        musicnn.load_weights()
    assert "\n" not in str(caught.value)


def test_real_clips_get_sensible_tags(shared, arrays):
    folder = shared / "data" / "magnatune-mini"
    clips = pd.read_csv(folder / "emotify_manifest.csv").groupby("genre").head(4)
    rows = np.stack(
        [musicnn.embed(audio.decode(folder / path)[: 6 * 16000], arrays) for path in clips["path"]]
    )
    tags = pd.DataFrame(rows[:, PARTS["tags"]], columns=musicnn.TAGS, index=clips["genre"])
    mean = tags.groupby(level=0).mean()
    assert mean["electronic"].idxmax() == "electronic"
    assert mean["rock"].idxmax() == "rock"
    assert mean["instrumental"].idxmax() == "classical"
