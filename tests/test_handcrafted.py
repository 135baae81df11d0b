"""Hand-crafted features against librosa's own calls and against formulas, and their storage."""

import warnings

import librosa
import numpy as np
import pytest
import scipy.stats
import soundfile

from genre_utils.data import audio
from genre_utils.extraction import features as batch
from genre_utils.extraction import features as handcrafted
from genre_utils.runtime import GenreUtilsError
from genre_utils.store import file_digest

SR = 16000


def music(seconds, seed=0):
    """Chords that change every half second, each with an attack, and noise; peak 1."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * SR)) / SR
    y = rng.normal(0, 0.01, len(t))
    pitch = rng.choice(440 * 2 ** (np.arange(-24, 12) / 12), (3, round(2 * seconds) + 1))
    for voice in pitch:
        hz = voice[(2 * t).astype(int)]
        y += np.exp(-6 * (t % 0.5)) * sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 6))
    return (y / np.abs(y).max()).astype(np.float32)


@pytest.fixture(scope="module")
def y():
    return music(6)


@pytest.fixture(scope="module")
def found(y):
    return dict(zip(handcrafted.NAMES, handcrafted.handcrafted(y).astype(float), strict=True))


def column(found, series, statistic, rows=1):
    names = [f"{series}[{i}] {statistic}" for i in range(rows)]
    return [found[name] for name in (names if rows > 1 else [f"{series} {statistic}"])]


def test_every_feature_has_one_name_and_one_number(y):
    row = handcrafted.handcrafted(y)
    assert row.dtype == np.float32
    assert row.shape == (len(handcrafted.NAMES),)
    assert len(set(handcrafted.NAMES)) == len(handcrafted.NAMES)


def test_bahuleyan_s_features_are_among_them():
    series = {name.split()[0].split("[")[0] for name in handcrafted.NAMES}
    assert series >= {
        "waveform",
        "zero_crossing_rate",
        "rms",
        "tempo",
        "mfcc",
        "chroma",
        "spectral_centroid",
        "spectral_bandwidth",
        "spectral_contrast",
        "spectral_rolloff",
    }
    both = {name for name in handcrafted.NAMES if name.endswith(" std")}
    assert {"mfcc[0] std", "mfcc[19] std", "chroma[11] std", "spectral_contrast[6] std"} <= both


def test_moments_of_the_waveform_are_scipy_s(y, found):
    wide = y.astype(float)
    assert found["waveform mean"] == pytest.approx(wide.mean(), abs=1e-7)
    assert found["waveform std"] == pytest.approx(wide.std(), rel=1e-5)
    assert found["waveform skewness"] == pytest.approx(scipy.stats.skew(wide), abs=1e-5)
    assert found["waveform kurtosis"] == pytest.approx(scipy.stats.kurtosis(wide), rel=1e-5)


# Each series by librosa from the samples alone: its own spectrum, its own filters.
OF_SAMPLES = {
    "zero_crossing_rate": lambda y: librosa.feature.zero_crossing_rate(y),
    "rms": lambda y: librosa.feature.rms(y=y),
    "mfcc": lambda y: librosa.feature.mfcc(y=y, sr=SR, n_mfcc=20),
    "chroma": lambda y: librosa.feature.chroma_stft(y=y, sr=SR),
    "spectral_centroid": lambda y: librosa.feature.spectral_centroid(y=y, sr=SR),
    "spectral_bandwidth": lambda y: librosa.feature.spectral_bandwidth(y=y, sr=SR),
    "spectral_contrast": lambda y: librosa.feature.spectral_contrast(y=y, sr=SR),
    "spectral_rolloff": lambda y: librosa.feature.spectral_rolloff(y=y, sr=SR),
    "spectral_flatness": lambda y: librosa.feature.spectral_flatness(y=y),
    "tonnetz": lambda y: librosa.feature.tonnetz(chroma=librosa.feature.chroma_stft(y=y, sr=SR)),
    "onset_strength": lambda y: librosa.onset.onset_strength(y=y, sr=SR)[None],
    "mfcc_delta": lambda y: librosa.feature.delta(OF_SAMPLES["mfcc"](y)),
    "mfcc_delta2": lambda y: librosa.feature.delta(OF_SAMPLES["mfcc"](y), order=2),
}


def test_all_series_are_compared():
    assert set(OF_SAMPLES) == set(handcrafted.SERIES)


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_series_are_librosa_s(y, found, name):
    rows, statistics = handcrafted.SERIES[name]
    series = OF_SAMPLES[name](y).astype(float)
    assert series.shape == (rows, 1 + len(y) // 512)
    scale = np.abs(series).max()
    by_hand = {
        "mean": series.sum(axis=1) / series.shape[1],
        "std": np.sqrt(((series - series.mean(axis=1, keepdims=True)) ** 2).mean(axis=1)),
        "10%": np.quantile(series, 0.1, axis=1),
        "90%": np.quantile(series, 0.9, axis=1),
    }
    assert np.ptp(series) > 0
    for statistic in statistics:
        ours = column(found, name, statistic, rows)
        assert np.allclose(ours, by_hand[statistic], rtol=1e-4, atol=1e-5 * scale), statistic


def test_tempo_is_librosa_s_and_the_clicks():
    clicks = np.zeros(12 * SR, np.float32)
    clicks[:: SR // 2] = 1  # 120 a minute
    row = dict(zip(handcrafted.NAMES, handcrafted.handcrafted(clicks), strict=True))
    assert row["tempo"] == pytest.approx(librosa.feature.tempo(y=clicks, sr=SR)[0], rel=1e-6)
    assert row["tempo"] == pytest.approx(120, rel=0.05)


def test_a_tone_has_its_own_frequency_and_no_change():
    tone = np.sin(2 * np.pi * 1000 * np.arange(4 * SR) / SR).astype(np.float32)
    row = dict(zip(handcrafted.NAMES, handcrafted.handcrafted(tone), strict=True))
    assert row["zero_crossing_rate mean"] == pytest.approx(2 * 1000 / SR, rel=0.02)
    assert row["rms 90%"] == pytest.approx(np.sqrt(0.5), rel=1e-3)
    assert row["spectral_centroid 10%"] == pytest.approx(1000, rel=0.01)
    assert row["spectral_rolloff 10%"] == pytest.approx(1000, abs=SR / 2048 * 2)
    assert row["waveform kurtosis"] == pytest.approx(-1.5, abs=1e-3)  # arcsine distribution
    assert row["waveform skewness"] == pytest.approx(0, abs=1e-3)
    noise = np.random.default_rng(0).uniform(-1, 1, 4 * SR).astype(np.float32)
    other = dict(zip(handcrafted.NAMES, handcrafted.handcrafted(noise), strict=True))
    assert row["spectral_flatness mean"] < 0.01 < 0.4 < other["spectral_flatness mean"]


def click(n):
    return np.eye(1, n, n // 2, dtype=np.float32)[0]


EDGE = {
    "one click in silence": click(3 * SR),
    "silence": np.zeros(3 * SR, np.float32),
    "almost silence": np.full(3 * SR, 1e-7, np.float32),
    "a constant": np.ones(3 * SR, np.float32),
    "a constant tone": np.sin(np.arange(3 * SR) * 0.2).astype(np.float32),
    "one second": music(1),
    "one second of a click": click(SR),
    "full scale square": np.where(np.arange(2 * SR) % 100 < 50, 1, -1).astype(np.float32),
}


@pytest.mark.parametrize("name", EDGE)
def test_odd_clips_have_finite_features(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        row = handcrafted.handcrafted(EDGE[name])
    assert row.shape == (len(handcrafted.NAMES),)
    assert np.isfinite(row).all()


# Storage.


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"clip {i}.wav" for i in range(3)]
    for i, path in enumerate(paths):
        soundfile.write(path, 0.5 * music(1.5 + i, seed=i), SR)
    return paths, [file_digest(path) for path in paths]


def test_stored_rows_are_those_of_the_whole_clip_at_peak_one(tmp_path, files):
    paths, ids = files
    store = handcrafted.stored(paths, ids, tmp_path)
    assert store.folder.name.startswith("handcrafted-")
    for path, row in zip(paths[::-1], store.load(ids[::-1]), strict=True):
        y = audio.decode(path)  # neither repeated nor cut
        alone = handcrafted.handcrafted(y / np.abs(y).max())  # with as many threads as there are
        assert np.allclose(row, alone, rtol=1e-4, atol=1e-6)


def test_thirty_seconds_at_most_are_heard(tmp_path):
    y = 0.5 * music(32)
    soundfile.write(tmp_path / "long.wav", y, SR, subtype="FLOAT")
    row = handcrafted.stored([tmp_path / "long.wav"], ["a"], tmp_path).load(["a"])[0]
    part = y[: 30 * SR]
    alone, longer = (handcrafted.handcrafted(s / np.abs(s).max()) for s in (part, y))
    assert np.allclose(row, alone, rtol=1e-4, atol=1e-6)
    assert not np.allclose(row, longer, rtol=1e-4, atol=1e-6)


def test_clips_are_extracted_once_unless_forced(tmp_path, files, monkeypatch):
    paths, ids = files
    first = handcrafted.stored(paths[:1], ids[:1], tmp_path)
    assert first.missing(ids) == ids[1:]
    calls = []
    monkeypatch.setattr(
        handcrafted, "handcrafted", lambda y: calls.append(len(y)) or np.zeros(2, np.float32)
    )
    handcrafted.stored(paths[:1], ids[:1], tmp_path)
    assert not calls
    handcrafted.stored(paths[:1], ids[:1], tmp_path, fresh=True)
    assert calls == [round(1.5 * SR)]


def test_two_workers_store_what_one_stores(tmp_path, files, monkeypatch):
    paths, ids = files
    monkeypatch.setattr(batch, "CHUNK", 2)
    one = handcrafted.stored(paths, ids, tmp_path / "one")
    two = handcrafted.stored(paths, ids, tmp_path / "two", jobs=2)
    assert len(list(two.folder.glob("*.npy"))) == 2
    assert np.array_equal(one.load(ids), two.load(ids))


def test_a_bad_file_is_named_and_the_others_are_stored(tmp_path, files):
    paths, ids = files
    short, silent = tmp_path / "short.wav", tmp_path / "silent.wav"
    soundfile.write(short, music(0.3), SR)
    soundfile.write(silent, np.zeros(2 * SR), SR)
    for bad, reason in ((short, "too short: 0.3 s, 1 s needed"), (silent, "silent")):
        with pytest.raises(GenreUtilsError, match=rf"1 clip\(s\).*{bad.name}: {reason}"):
            handcrafted.stored([bad, paths[0]], ["b", ids[0]], tmp_path)
    assert handcrafted.stored([], [], tmp_path).missing(["b", ids[0]]) == ["b"]
