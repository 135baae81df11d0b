"""Features against formulas written out here, golden arrays stage by stage, and their storage."""

import inspect

import librosa
import make_golden
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import soundfile

from genre_utils import paper
from genre_utils.extraction import features
from genre_utils.extraction import features as batch
from genre_utils.extraction import features as spectra
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import file_digest

SR = 16000
HOW = {"offset": 0.0, "fill": "repeat", "mel_scale": "db"}


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


def test_mel_spectrogram_ends_80_db_under_its_maximum(y):
    faint = np.concatenate([y[:SR], np.zeros(SR, np.float32)])
    mel = features.mel_spectrogram(faint)
    assert (mel.max(), mel.min()) == (0, -80)
    assert np.allclose(features.mel_spectrogram(0.5 * faint), mel, atol=1e-4)


def test_mel_spectrogram_of_amplitudes_is_the_formula(y):
    mel = mel_filters(2048, 216) @ np.sqrt(power_spectrum(y, 2048, 512))
    assert np.allclose(features.mel_spectrogram(y, scale="amplitude"), mel, rtol=1e-3, atol=1e-5)


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
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(3200) / 3200)
    power = np.abs(scipy.fft.rfft(frames * window, axis=1).T) ** 2
    ours = features.svm_frames(y)
    assert ours.dtype == np.float32
    assert ours.shape == (14, 123)
    assert np.allclose(ours[:13], cepstrum(decibel(mel_filters(3200, 24) @ power), 13), atol=0.02)
    assert np.allclose(ours[13], 20 * np.log10(np.sqrt((frames**2).mean(axis=1))), atol=1e-3)


def test_svm_frames_use_the_first_ten_seconds_only(y):
    other = np.concatenate([y[: 10 * SR], y[: 10 * SR] * 0])
    assert np.array_equal(features.svm_frames(other), features.svm_frames(y))


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
    ours = features.svm_frames_long(fading)
    assert ours.dtype == np.float32
    assert ours.shape == (14, 248)
    assert np.allclose(ours, np.hstack(pieces), atol=1e-3)
    assert np.array_equal(ours[:, :123], features.svm_frames(fading))
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


def test_what_features_share_is_what_each_makes_alone(y):
    names = list(features.EXTRACTORS)
    for wanted in (names, *([name] for name in names)):
        made = features.extract(y, wanted, mel_scale="power")
        assert set(wanted) <= set(made)
        for name in wanted:
            extra = {"scale": "power"} if name == "mel" else {}
            assert np.array_equal(made[name], features.EXTRACTORS[name](y, **extra)), name


def test_filter_banks_are_librosa_s_and_made_once():
    bank = spectra.mel_filters(SR, 2048, 216, 8000)
    assert np.array_equal(bank.toarray(), librosa.filters.mel(sr=SR, n_fft=2048, n_mels=216))
    assert spectra.mel_filters(SR, 2048, 216, 8000) is bank
    chroma = spectra.chroma_filters(SR, 1024, 32, 0.25)
    assert np.array_equal(
        chroma, librosa.filters.chroma(sr=SR, n_fft=1024, n_chroma=32, tuning=0.25)
    )
    assert spectra.chroma_filters(SR, 1024, 32, 0.25) is chroma
    assert not np.array_equal(spectra.chroma_filters(SR, 1024, 32, -0.25), chroma)


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


def test_a_constant_feature_makes_a_black_image_without_nan():
    image = features.to_image(np.full((32, 79), 5.0), "mfcc")
    assert (image == 0).all()


def test_colour_map_images_are_rgb_of_magma(y):
    mfcc = features.mfcc(y)
    image = features.to_image(mfcc, "mfcc", channels="colormap")
    darkest, lightest = (np.unravel_index(f(mfcc), mfcc.shape) for f in (np.argmin, np.argmax))
    assert image.shape == (32, 79, 3)
    assert image[darkest] == pytest.approx([0, 0, 4], abs=0.5)  # magma's published ends
    assert image[lightest] == pytest.approx([252, 253, 191], abs=0.5)


def test_unknown_names_are_usage_errors(y):
    with pytest.raises(UsageError, match=r"'log'.*db, amplitude, power"):
        features.mel_spectrogram(y[:SR], scale="log")
    with pytest.raises(UsageError, match=r"'rgb'.*repeat, colormap"):
        features.to_image(np.eye(3), "mel", channels="rgb")
    with pytest.raises(UsageError, match="'melody'"):
        features.to_image(np.eye(3), "melody")
    with pytest.raises(UsageError, match="'dB'"):
        features.to_image(np.eye(3), "mel", scale="dB")


def test_an_unknown_fill_is_not_blamed_on_the_files(tmp_path, files):
    with pytest.raises(UsageError, match="'mirror'"):
        extract(tmp_path, *files, fill="mirror")


# Golden arrays: every stage is fed with the golden array before it, so that the failing test names
# the stage that moved.

TOLERANCE = {"clip": 1e-5, "mel": 0.01, "mfcc": 0.02, "chroma": 1e-3, "svm": 0.02}


@pytest.fixture(scope="module")
def golden():
    with np.load(make_golden.GOLDEN) as arrays:
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
        soundfile.write(path, music(1.5, seed=i), SR)
    return paths, [file_digest(path) for path in paths]


def extract(root, files, ids, jobs=1, **changed):
    how = HOW | changed
    targets = features.stores(root, **how, fresh=False)
    return targets, features.extract_all(files, ids, targets, jobs=jobs, **how)


def test_extraction_stores_every_feature_of_every_clip(tmp_path, files):
    paths, ids = files
    targets, done = extract(tmp_path, paths, ids)
    assert done == len(ids)
    shapes = dict(paper.SHAPES) | {"svm": (14, 123), "svm-long": (14, 248)}
    assert set(targets) == set(shapes)
    for name, shape in shapes.items():
        rows = targets[name].load(ids)
        assert rows.shape == (len(ids), *shape)
        y = features.audio.load_clip(paths[2])
        assert np.allclose(rows[2], features.EXTRACTORS[name](y), atol=1e-4)


def test_extraction_goes_on_where_it_stopped(tmp_path, files):
    paths, ids = files
    targets, done = extract(tmp_path, paths[:2], ids[:2])
    stamps = {path: path.stat().st_mtime_ns for path in targets["mel"].folder.glob("*.npy")}
    assert done == 2
    assert extract(tmp_path, paths, ids)[1] == 2
    assert extract(tmp_path, paths, ids)[1] == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert len(targets["mel"].load(ids)) == 4


def test_a_clip_lacking_in_one_store_is_extracted_again(tmp_path, files):
    paths, ids = files
    targets, _ = extract(tmp_path, paths[:1], ids[:1])
    for path in targets["mfcc"].folder.glob("*.json"):
        path.unlink()
    assert extract(tmp_path, paths[:1], ids[:1])[1] == 1
    assert targets["mfcc"].load(ids[:1]).shape == (1, 32, 79)


def test_one_bad_file_is_named_and_the_others_are_stored(tmp_path, files):
    paths, ids = files
    bad = tmp_path / "not audio.mp3"
    bad.write_text("certainly not music")
    with pytest.raises(GenreUtilsError, match=r"1 clip\(s\).*not audio\.mp3: cannot be decoded"):
        extract(tmp_path, [paths[0], bad, paths[1]], [ids[0], "0" * 64, ids[1]])
    targets = features.stores(tmp_path, **HOW, fresh=False)
    assert [targets[name].missing([ids[0], "0" * 64, ids[1]]) for name in targets] == [
        ["0" * 64]
    ] * len(targets)


@pytest.mark.parametrize("changed", [{"offset": 0.25}, {"fill": "zeros"}, {"mel_scale": "power"}])
def test_other_parameters_have_stores_of_their_own(tmp_path, files, changed):
    paths, ids = files
    first, _ = extract(tmp_path, paths[:1], ids[:1])
    second, done = extract(tmp_path, paths[:1], ids[:1], **changed)
    assert done == 1
    same = {name for name in first if first[name].folder == second[name].folder}
    assert same == (set(first) - {"mel"} if "mel_scale" in changed else set())
    assert not np.array_equal(first["mel"].load(ids[:1]), second["mel"].load(ids[:1]))


def test_one_clip_given_twice_is_stored_once(tmp_path, files):
    paths, ids = files
    targets, done = extract(tmp_path, [paths[0], paths[0]], [ids[0], ids[0]])
    assert done == 1
    assert len(targets["mel"].index()) == 1


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_workers_get_as_much_each(jobs):
    for n in (0, 1, 7, 36, 330):
        chunks = batch._chunks(list(range(n)), jobs)
        assert [row for chunk in chunks for row in chunk] == list(range(n))
        assert all(0 < len(chunk) <= batch.CHUNK for chunk in chunks)
        if n >= jobs:
            shares = [sum(map(len, chunks[i::jobs])) for i in range(jobs)]
            assert max(shares) - min(shares) <= len(chunks) / jobs


def test_two_workers_store_what_one_stores(tmp_path, files, monkeypatch):
    paths, ids = files
    monkeypatch.setattr(batch, "CHUNK", 2)
    one, _ = extract(tmp_path / "one", paths, ids, jobs=1)
    two, done = extract(tmp_path / "two", paths, ids, jobs=2)
    assert done == len(ids)
    for name in one:
        assert len(list(two[name].folder.glob("*.npy"))) == 2
        assert np.array_equal(one[name].load(ids), two[name].load(ids))


def test_forced_stores_are_empty_again(tmp_path, files):
    paths, ids = files
    extract(tmp_path, paths[:1], ids[:1])
    fresh = features.stores(tmp_path, **HOW, fresh=True)
    assert all(store.missing(ids[:1]) == ids[:1] for store in fresh.values())


def test_stores_take_the_arguments_that_extraction_takes():
    ours = set(inspect.signature(features.extract_all).parameters) - {"files", "ids", "targets"}
    assert (
        ours - {"jobs", "scheduler"}
        == set(HOW)
        == set(inspect.signature(features.stores).parameters)
        - {
            "root",
            "fresh",
        }
    )
