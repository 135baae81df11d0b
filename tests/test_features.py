"""Features against formulas written out here, golden arrays stage by stage, and their storage."""

import os
import subprocess
import sys
import warnings

import librosa
import make_golden
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import scipy.stats
import soundfile

from genre_utils import paper
from genre_utils.data import audio
from genre_utils.extraction import features
from genre_utils.extraction.features import NAMES, Look, handcrafted, handcrafted_of_file
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import file_digest

SR = 16000


def music(seconds, seed=0):
    """Three fading harmonic tones and noise, peak 1."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * SR)) / SR
    y = rng.normal(0, 0.01, len(t))
    for pitch in rng.uniform(110, 880, 3):
        fade = np.exp(-((5 * t + rng.uniform(0, 1)) % 1))
        y += fade * sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 9))
    return (y / np.abs(y).max()).astype(np.float32)


@pytest.fixture(scope="module")
def y():
    return music(20)


# The features once more, from their definitions.


def power_spectrum(y, n_fft, hop):
    """|STFT|^2 with a periodic Hann window, frame i centred on sample i * hop, zeros outside."""
    window = scipy.signal.get_window("hann", n_fft)
    stft = scipy.signal.ShortTimeFFT(window, hop, SR).stft(y.astype(float), 0, 1 + len(y) // hop)
    return np.abs(stft) ** 2


def slaney_hz(mel):
    """Slaney's mel scale: linear to 1 kHz at 200/3 Hz a mel, then 27 mels for a factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def mel_filters(n_fft, n_mels):
    """Triangles of area 1 between points equally spaced in mel from 0 to 8 kHz."""
    highest = 15 + 27 * np.log(8) / np.log(6.4)
    points = slaney_hz(np.linspace(0, highest, n_mels + 2))
    assert points[-1] == pytest.approx(8000)
    low, middle, high = points[:-2, None], points[1:-1, None], points[2:, None]
    hz = np.arange(n_fft // 2 + 1) * SR / n_fft
    triangle = np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle))
    return np.maximum(triangle, 0) * 2 / (high - low)


def decibel(power, reference=1.0):
    level = 10 * np.log10(np.maximum(power, 1e-10) / reference)
    return np.maximum(level, level.max() - 80)


def cepstrum(mel_db, n):
    return scipy.fft.dct(mel_db, type=2, norm="ortho", axis=0)[:n]


def test_mel_spectrogram_is_the_formula(y):
    mel = mel_filters(2048, 216) @ power_spectrum(y, 2048, 512)
    ours = features.mel_spectrogram(y)
    assert ours.dtype == np.float32
    assert ours.shape == mel.shape == (216, 626)
    assert np.allclose(ours, decibel(mel, mel.max()), atol=0.01)
    assert ours.max() == 0
    assert np.allclose(features.mel_spectrogram(y, scale="power"), mel, rtol=1e-3, atol=1e-6)
    mel = mel_filters(2048, 216) @ np.sqrt(power_spectrum(y, 2048, 512))
    assert np.allclose(features.mel_spectrogram(y, scale="amplitude"), mel, rtol=1e-3, atol=1e-5)


def test_mel_spectrogram_ends_80_db_under_its_maximum(y):
    faint = np.concatenate([y[:SR], np.zeros(SR, np.float32)])
    mel = features.mel_spectrogram(faint)
    assert (mel.max(), mel.min()) == (0, -80)
    assert np.allclose(features.mel_spectrogram(0.5 * faint), mel, atol=1e-4)


def test_mfcc_is_the_formula(y):
    mel = mel_filters(1024, 128) @ power_spectrum(y, 1024, 4096)
    ours = features.mfcc(y)
    assert ours.dtype == np.float32
    assert ours.shape == (32, 79)
    assert np.allclose(ours, cepstrum(decibel(mel), 32), atol=0.02)


def test_mfcc_does_not_see_what_its_hop_skips(y):
    window, hop = paper.MFCC["n_fft"], paper.MFCC["hop_length"]
    skipped = (np.arange(len(y)) + window // 2) % hop >= window
    assert skipped.mean() == pytest.approx(0.75, abs=0.002)
    assert np.array_equal(features.mfcc(np.where(skipped, 0, y)), features.mfcc(y))
    assert not np.allclose(features.mfcc(np.where(skipped, y, 0)), features.mfcc(y))


def chroma_filters(n_fft, n, tuning):
    """Gaussian bumps of a bin's width round each of ``n`` pitch classes, loudest at 5 octaves."""
    hz = np.arange(1, n_fft) * SR / n_fft
    bins = n * np.log2(hz / (27.5 * 2 ** (tuning / n)))  # 0 is the lowest A of the piano
    bins = np.concatenate([[bins[0] - 1.5 * n], bins])
    width = np.append(np.maximum(np.diff(bins), 1), 1)
    away = (bins - np.arange(n)[:, None] + n / 2) % n - n / 2
    bumps = np.exp(-2 * (away / width) ** 2)
    bumps /= np.linalg.norm(bumps, axis=0)
    bumps *= np.exp(-0.5 * ((bins / n - 5) / 2) ** 2)
    return np.roll(bumps, -3 * (n // 12), axis=0)[:, : n_fft // 2 + 1]


def test_chromagram_is_the_formula(y):
    power = power_spectrum(y, 1024, 2048)
    tuning = librosa.estimate_tuning(S=power, sr=SR, bins_per_octave=32)
    chroma = chroma_filters(1024, 32, tuning) @ power
    ours = features.chromagram(y)
    assert ours.dtype == np.float32
    assert ours.shape == (32, 157)
    assert np.allclose(ours, chroma / chroma.max(axis=0), atol=1e-3)
    assert (ours.min() >= 0, ours.max()) == (True, 1)


@pytest.mark.parametrize(("hz", "chroma"), [(261.63, 2), (440.0, 26), (220.0, 26), (1760.0, 26)])
def test_chromagram_puts_octaves_together(hz, chroma):
    tone = np.sin(2 * np.pi * hz * np.arange(2 * SR) / SR).astype(np.float32)
    assert features.chromagram(tone).mean(axis=1).argmax() == chroma


def test_svm_frames_are_the_formula(y):
    frames = np.lib.stride_tricks.sliding_window_view(y[: 10 * SR].astype(float), 3200)[::1280]
    assert len(frames) == features.SVM_FRAMES
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(3200) / 3200)
    power = np.abs(scipy.fft.rfft(frames * window, axis=1).T) ** 2
    ours = features.EXTRACTORS["svm"](y)
    assert ours.dtype == np.float32
    assert ours.shape == (14, 123)
    assert np.allclose(ours[:13], cepstrum(decibel(mel_filters(3200, 24) @ power), 13), atol=0.02)
    assert np.allclose(ours[13], 20 * np.log10(np.sqrt((frames**2).mean(axis=1))), atol=1e-3)


def svm_frames_of_librosa(y):
    """What `librosa.feature.melspectrogram`, mfcc and rms say of a piece."""
    p = paper.SVM
    how = {"hop_length": p["hop_length"], "center": False}
    mel = librosa.feature.melspectrogram(
        y=y, sr=SR, n_fft=p["n_fft"], window=p["window"], n_mels=p["n_mels"], **how
    )
    rms = librosa.feature.rms(y=y, frame_length=p["n_fft"], **how)
    cepstrum = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=p["n_mfcc"])
    return np.vstack([cepstrum, 20 * np.log10(np.maximum(rms, 1e-5))])


def test_long_svm_frames_are_those_of_pieces_of_ten_seconds(y):
    fading = y * np.linspace(1, 0, len(y), dtype=np.float32) ** 8  # the floor differs by piece
    starts = (0, 123 * 1280, 2 * 123 * 1280)
    pieces = [svm_frames_of_librosa(fading[start:][: 10 * SR]) for start in starts]
    ours = features.svm_frames(fading)
    assert ours.dtype == np.float32
    assert ours.shape == (14, 248)
    assert np.allclose(ours, np.hstack(pieces), atol=1e-3)
    only_ten = fading * (np.arange(len(y)) < 10 * SR)
    assert np.array_equal(features.EXTRACTORS["svm"](only_ten), ours[:, :123])
    whole = svm_frames_of_librosa(fading)
    assert np.abs(whole - ours).max() > 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_features_are_librosa_s_to_its_last_digits(seed):
    y = music(20, seed)
    mel = librosa.power_to_db(librosa.feature.melspectrogram(y=y, **paper.MEL), ref=np.max)
    assert np.allclose(features.mel_spectrogram(y), mel, rtol=0, atol=1e-4)
    assert np.allclose(features.mfcc(y), librosa.feature.mfcc(y=y, **paper.MFCC), rtol=0, atol=1e-3)
    chroma = librosa.feature.chroma_stft(y=y, **paper.CHROMA)
    assert np.allclose(features.chromagram(y), chroma, rtol=0, atol=1e-5)


def test_svm_level_of_digital_silence_is_minus_100_db(y):
    quiet = np.concatenate([np.zeros(SR, np.float32), y])
    level = features.svm_frames(quiet)[13]
    assert level[0] == pytest.approx(-100)
    assert np.isfinite(features.svm_frames(quiet)).all()


# Features as images.


@pytest.mark.parametrize("name", ["mel", "mfcc", "chroma"])
def test_image_has_the_feature_s_shape_three_times(y, name):
    feature = features.EXTRACTORS[name](y)
    image = features.to_image(feature, name)
    assert image.shape == (*paper.SHAPES[name], 3)
    assert image.dtype == np.float32
    assert np.ptp(image, axis=2).max() == 0
    assert image.min() >= 0
    assert image.max() <= 255


def test_mel_in_decibels_and_chroma_have_a_fixed_scale():
    mel = np.array([[-80.0, -40, -20]])
    assert features.to_image(mel, "mel")[0, :, 0].tolist() == [0, 127.5, 191.25]
    chroma = np.array([[0.2, 0.4, 0.5]])
    assert features.to_image(chroma, "chroma")[0, :, 0] == pytest.approx([51, 102, 127.5])


@pytest.mark.parametrize(
    ("name", "scale"), [("mfcc", "db"), ("mel", "amplitude"), ("mel", "power")]
)
def test_other_features_are_scaled_between_the_clip_s_extremes(name, scale):
    feature = np.array([[-300.0, -100, 100]])
    image = features.to_image(feature, name, scale=scale)
    assert image[0, :, 0].tolist() == [0, 127.5, 255]
    assert (features.to_image(np.full((32, 79), 5.0), name, scale=scale) == 0).all()  # no NaN


def test_colour_map_images_are_rgb_of_magma(y):
    mfcc = features.mfcc(y)
    image = features.to_image(mfcc, "mfcc", channels="colormap")
    darkest, lightest = (np.unravel_index(f(mfcc), mfcc.shape) for f in (np.argmin, np.argmax))
    assert image.shape == (32, 79, 3)
    assert image[darkest] == pytest.approx([0, 0, 4], abs=0.5)  # magma's published ends
    assert image[lightest] == pytest.approx([252, 253, 191], abs=0.5)


def test_unknown_names_are_usage_errors(y):
    for name in ("mel_scale", "channels", "fill", "preprocessing"):
        words = name.replace("_", " ")
        with pytest.raises(UsageError, match=rf"unknown {words} 'log': one of \w+, \w+"):
            Look(**{name: "log"})
    with pytest.raises(UsageError, match=r"'log'.*db, amplitude, power"):
        features.mel_spectrogram(y[:SR], scale="log")
    with pytest.raises(UsageError, match=r"'rgb'.*repeat, colormap"):
        features.to_image(np.eye(3), "mel", channels="rgb")
    with pytest.raises(UsageError, match="'melody'"):
        features.to_image(np.eye(3), "melody")
    with pytest.raises(UsageError, match="'dB'"):
        features.to_image(np.eye(3), "mel", scale="dB")


# Golden arrays: every stage is fed with the golden array before it, so that the failing test names
# the stage that moved.

TOLERANCE = {"clip": 1e-5, "mel": 0.01, "mfcc": 0.02, "chroma": 1e-3, "svm": 0.02}


@pytest.fixture(scope="module")
def golden():
    with np.load(make_golden.FOLDER / "stages.npz") as arrays:
        return dict(arrays)


def test_golden_arrays_start_from_the_generator_s_signal(golden):
    assert set(golden) == {"raw", *make_golden.STAGES}
    assert np.abs(golden["raw"] - make_golden.raw().astype(int)).max() <= 1


@pytest.mark.parametrize("stage", make_golden.STAGES)
def test_stage_makes_the_golden_array(golden, stage):
    source, make = make_golden.STAGES[stage]
    made, kept = make(golden[source]), golden[stage]
    assert made.dtype == kept.dtype
    assert made.shape == kept.shape
    assert np.allclose(made, kept, rtol=1e-4, atol=TOLERANCE.get(stage, 0.05))
    assert np.ptp(kept) > 0


# Extraction of many files into the stores.


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"clip {i}.wav" for i in range(4)]
    for i, path in enumerate(paths):
        soundfile.write(path, 0.5 * music(1.5, seed=i), SR)
    return paths, [file_digest(path) for path in paths]


@pytest.fixture
def heard(monkeypatch):
    """The files that are decoded in this process, in order."""
    names, decode = [], audio.decode
    monkeypatch.setattr(
        audio, "decode", lambda path, **how: names.append(path.name) or decode(path, **how)
    )
    return names


def test_extraction_stores_every_feature_of_every_clip(tmp_path, files, heard):
    paths, ids = files
    stores = features.extract_all(paths, ids, tmp_path)
    assert heard == [path.name for path in paths]  # one decoding serves all features
    shapes = dict(paper.SHAPES) | {"svm": (14, 123), "svm-long": (14, 248)}
    assert set(stores) == set(shapes)
    for name, shape in shapes.items():
        rows = stores[name].load(ids)
        assert rows.shape == (len(ids), *shape)
        y = audio.load_clip(paths[2])
        assert np.allclose(rows[2], features.EXTRACTORS[name](y), atol=1e-4)  # threads differ
        (alone,) = features.extract_all(paths, ids, tmp_path / name, names=[name]).values()
        assert np.array_equal(alone.load(ids), rows)


def test_extraction_goes_on_where_it_stopped(tmp_path, files, heard):
    paths, ids = files
    mel = features.extract_all(paths[:2], ids[:2], tmp_path)["mel"]
    stamps = {path: path.stat().st_mtime_ns for path in mel.folder.glob("*.npy")}
    for _ in range(2):
        features.extract_all([*paths, paths[0]], [*ids, ids[0]], tmp_path)
        assert heard == [path.name for path in paths]
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert len(mel.index()) == 4


def test_a_clip_lacking_in_one_store_is_extracted_again(tmp_path, files):
    paths, ids = files[0][:1], files[1][:1]
    mfcc = features.extract_all(paths, ids, tmp_path)["mfcc"]
    for path in mfcc.folder.glob("*.json"):
        path.unlink()
    assert features.extract_all(paths, ids, tmp_path)["mfcc"].load(ids).shape == (1, 32, 79)


def test_bad_files_are_named_and_the_others_are_stored(tmp_path, files):
    paths, ids = files
    bad = [tmp_path / f"{name}.wav" for name in ("text", "short", "silent")]
    bad[0].write_text("certainly not music")
    soundfile.write(bad[1], music(0.3), SR)
    soundfile.write(bad[2], np.zeros(2 * SR), SR)
    reasons = ("cannot be decoded", "too short: 0.3 s, 1 s needed", "silent")
    calls = {
        "mel": lambda *clips: features.extract_all(*clips, tmp_path)["mel"],
        "handcrafted": lambda *clips: _described(*clips, tmp_path),
    }
    for call in calls.values():
        for path, reason in zip(bad, reasons, strict=True):
            with pytest.raises(GenreUtilsError, match=rf"1 clip\(s\).*{path.name}: {reason}"):
                call([paths[0], path, paths[1]], [ids[0], "bad", ids[1]])
        assert call([], []).missing([ids[0], "bad", ids[1]]) == ["bad"]


@pytest.mark.parametrize("changed", [{"offset": 0.25}, {"fill": "zeros"}, {"mel_scale": "power"}])
def test_other_parameters_have_stores_of_their_own(tmp_path, files, changed):
    clips = files[0][:1], files[1][:1]
    first = features.extract_all(*clips, tmp_path)
    second = features.extract_all(*clips, tmp_path, Look(**changed))
    same = {name for name in first if first[name].folder == second[name].folder}
    assert same == (set(first) - {"mel"} if "mel_scale" in changed else set())
    assert not np.array_equal(*(stores["mel"].load(clips[1]) for stores in (first, second)))


def _described(paths, ids, root, **work):
    return features.stored({"handcrafted": {}}, handcrafted_of_file, paths, ids, root, **work)[
        "handcrafted"
    ]


def test_two_workers_store_what_one_stores(tmp_path, files):
    stores = []
    for jobs in (1, 2):
        root = tmp_path / str(jobs)
        made = features.extract_all(*files, root, jobs=jobs)
        stores.append(made | {"handcrafted": _described(*files, root, jobs=jobs)})
    for one, two in zip(*(made.values() for made in stores), strict=True):
        assert len(list(two.folder.glob("*.npy"))) == 2  # each worker had its share
        assert np.array_equal(one.load(files[1]), two.load(files[1]))


# Hand-crafted features.


def chords(seconds, seed=0):
    """Chords that change every half second, each with an attack, and noise; peak 1."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * SR)) / SR
    y = rng.normal(0, 0.01, len(t))
    pitch = rng.choice(440 * 2 ** (np.arange(-24, 12) / 12), (3, round(2 * seconds) + 1))
    for voice in pitch:
        hz = voice[(2 * t).astype(int)]
        y += np.exp(-6 * (t % 0.5)) * sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 6))
    return (y / np.abs(y).max()).astype(np.float32)


@pytest.fixture(scope="module")
def song():
    return chords(6)


@pytest.fixture(scope="module")
def numbers(song):
    return dict(zip(NAMES, handcrafted(song).astype(float), strict=True))


def column(numbers, series, statistic, rows=1):
    names = [f"{series}[{i}] {statistic}" for i in range(rows)]
    return [numbers[name] for name in (names if rows > 1 else [f"{series} {statistic}"])]


def test_every_feature_has_one_name_and_bahuleyan_s_are_among_them(song):
    row = handcrafted(song)
    assert row.dtype == np.float32
    assert row.shape == (len(NAMES),) == (len(set(NAMES)),)
    series = {name.split()[0].split("[")[0] for name in NAMES}
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
    both = {name for name in NAMES if name.endswith(" std")}
    assert {"mfcc[0] std", "mfcc[19] std", "chroma[11] std", "spectral_contrast[6] std"} <= both


def test_moments_of_the_waveform_are_scipy_s(song, numbers):
    wide = song.astype(float)
    assert numbers["waveform mean"] == pytest.approx(wide.mean(), abs=1e-7)
    assert numbers["waveform std"] == pytest.approx(wide.std(), rel=1e-5)
    assert numbers["waveform skewness"] == pytest.approx(scipy.stats.skew(wide), abs=1e-5)
    assert numbers["waveform kurtosis"] == pytest.approx(scipy.stats.kurtosis(wide), rel=1e-5)


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


@pytest.mark.parametrize("name", features.SERIES)
def test_series_are_librosa_s(song, numbers, name):
    rows, statistics = features.SERIES[name]
    series = OF_SAMPLES[name](song).astype(float)
    assert series.shape == (rows, 1 + len(song) // 512)
    scale = np.abs(series).max()
    by_hand = {
        "mean": series.sum(axis=1) / series.shape[1],
        "std": np.sqrt(((series - series.mean(axis=1, keepdims=True)) ** 2).mean(axis=1)),
        "10%": np.quantile(series, 0.1, axis=1),
        "90%": np.quantile(series, 0.9, axis=1),
    }
    assert np.ptp(series) > 0
    for statistic in statistics:
        ours = column(numbers, name, statistic, rows)
        assert np.allclose(ours, by_hand[statistic], rtol=1e-4, atol=1e-5 * scale), statistic


def test_tempo_is_librosa_s_and_the_clicks():
    clicks = np.zeros(12 * SR, np.float32)
    clicks[:: SR // 2] = 1  # 120 a minute
    row = dict(zip(NAMES, handcrafted(clicks), strict=True))
    assert row["tempo"] == pytest.approx(librosa.feature.tempo(y=clicks, sr=SR)[0], rel=1e-6)
    assert row["tempo"] == pytest.approx(120, rel=0.05)


def test_a_tone_has_its_own_frequency_and_no_change():
    tone = np.sin(2 * np.pi * 1000 * np.arange(4 * SR) / SR).astype(np.float32)
    row = dict(zip(NAMES, handcrafted(tone), strict=True))
    assert row["zero_crossing_rate mean"] == pytest.approx(2 * 1000 / SR, rel=0.02)
    assert row["rms 90%"] == pytest.approx(np.sqrt(0.5), rel=1e-3)
    assert row["spectral_centroid 10%"] == pytest.approx(1000, rel=0.01)
    assert row["spectral_rolloff 10%"] == pytest.approx(1000, abs=SR / 2048 * 2)
    assert row["waveform kurtosis"] == pytest.approx(-1.5, abs=1e-3)  # arcsine distribution
    assert row["waveform skewness"] == pytest.approx(0, abs=1e-3)
    noise = np.random.default_rng(0).uniform(-1, 1, 4 * SR).astype(np.float32)
    other = dict(zip(NAMES, handcrafted(noise), strict=True))
    assert row["spectral_flatness mean"] < 0.01 < 0.4 < other["spectral_flatness mean"]


def click(n):
    return np.eye(1, n, n // 2, dtype=np.float32)[0]


EDGE = {
    "one click in silence": click(3 * SR),
    "silence": np.zeros(3 * SR, np.float32),
    "almost silence": np.full(3 * SR, 1e-7, np.float32),
    "a constant": np.ones(3 * SR, np.float32),
    "a constant tone": np.sin(np.arange(3 * SR) * 0.2).astype(np.float32),
    "one second": chords(1),
    "one second of a click": click(SR),
    "full scale square": np.where(np.arange(2 * SR) % 100 < 50, 1, -1).astype(np.float32),
}


@pytest.mark.parametrize("name", EDGE)
def test_odd_clips_have_finite_features(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        row = handcrafted(EDGE[name])
    assert row.shape == (len(NAMES),)
    assert np.isfinite(row).all()


def test_thirty_seconds_of_the_file_are_heard_at_peak_one(tmp_path, song):
    for y in (song, chords(32)):
        soundfile.write(tmp_path / "a.wav", 0.5 * y, SR, subtype="FLOAT")
        row = handcrafted_of_file(tmp_path / "a.wav")["handcrafted"]
        part = y[: 30 * SR]  # neither repeated nor cut, where there is less
        assert np.allclose(row, handcrafted(part / np.abs(part).max()), rtol=1e-4, atol=1e-6)
    assert not np.allclose(row, handcrafted(y), rtol=1e-4, atol=1e-6)


FIRST_USE = """
import os, sys
from pathlib import Path
import numpy as np
from genre_utils.extraction import features
from genre_utils.runtime import each

cache = Path(os.environ["NUMBA_CACHE_DIR"])
seen = each(os.listdir, [(cache,), (cache,)], jobs=2)
before = sorted(path.name for path in cache.rglob("*.nbi"))
assert before and all(set(names) == set(os.listdir(cache)) for names in seen)
y = np.random.default_rng(0).normal(size=20 * 16000).astype(np.float32)
features.mel_spectrogram(y), features.mfcc(y), features.chromagram(y), features.handcrafted(y)
assert before == sorted(path.name for path in cache.rglob("*.nbi"))
"""


def test_librosa_is_compiled_before_workers_start(tmp_path):
    """Workers that compile at the same moment leave numba's cache damaged: segfaults for ever."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", FIRST_USE], env=environment, check=True)
