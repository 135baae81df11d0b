"""Decoding, cutting and refusing sound files; every file is made here."""

import io
import os
import pickle
import re
import shutil
import socket
import threading
import tracemalloc

import fuzz_audio
import numpy as np
import pytest
import soundfile

from genre_utils.data import audio
from genre_utils.runtime import GenreUtilsError, UsageError, each

SR = 16000
LOSSLESS = ("wav", "flac", "au", "aiff")
LOSSY = ("ogg", "mp3")


def tone(seconds=3.0, hz=440.0, sr=SR, peak=0.5):
    return peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * sr)) / sr)


def write(path, y, sr=SR, **how):
    soundfile.write(path, y, sr, **how)
    return path


def pitch(y):
    return np.abs(np.fft.rfft(y * np.hanning(len(y)))).argmax() * SR / len(y)


# Decoding.


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_samples(tmp_path, kind):
    y = audio.decode(write(tmp_path / f"a.{kind}", tone()))
    assert y.dtype == np.float32
    assert y.shape == (3 * SR,)
    assert np.allclose(y, tone(), atol=2**-15)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_give_the_sound(tmp_path, kind):
    y = audio.decode(write(tmp_path / f"a.{kind}", tone()))
    assert len(y) == pytest.approx(3 * SR, abs=0.05 * SR)
    assert pitch(y[SR : 2 * SR]) == pytest.approx(440, abs=1)
    assert np.abs(y[SR : 2 * SR]).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("name", ["clip.bin", "clip", "clip.mp3", "clip.wav", "clip.raw"])
def test_the_content_counts_not_the_extension(tmp_path, kind, name):
    write(tmp_path / f"a.{kind}", tone())
    shutil.move(tmp_path / f"a.{kind}", tmp_path / name)
    assert pitch(audio.decode(tmp_path / name)[SR : 2 * SR]) == pytest.approx(440, abs=1)


@pytest.mark.parametrize(
    "name", ["Ænima – 夜の歌.wav", "two  spaces .wav", "100% #1;'\".wav", "-a.wav"]
)
def test_unusual_names(tmp_path, name):
    folder = tmp_path / "Größe 音"
    folder.mkdir()
    path = write(folder / name, tone())
    assert audio.check(path) == (3.0, "ok")
    assert audio.check(str(path)) == (3.0, "ok")


def test_channels_are_averaged(tmp_path):
    left, right = tone(), tone(hz=660, peak=0.25)
    y = audio.decode(write(tmp_path / "a.wav", np.stack([left, right], axis=1)))
    assert np.allclose(y, (left + right) / 2, atol=2**-14)


@pytest.mark.parametrize("sr", [8000, 11025, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled_to_16_khz(tmp_path, sr):
    y = audio.decode(write(tmp_path / "a.wav", tone(sr=sr), sr))
    assert len(y) == pytest.approx(3 * SR, abs=1)
    middle = slice(SR, 2 * SR)
    assert np.allclose(y[middle], tone()[middle], atol=2e-3)


def test_what_16_khz_cannot_hold_is_filtered_out(tmp_path):
    y = audio.decode(write(tmp_path / "a.wav", tone(hz=11000, sr=44100), 44100))
    assert np.abs(y[SR : 2 * SR]).max() < 0.001  # without a filter: an alias at 5 kHz


def test_16_khz_samples_are_left_alone(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, SR).astype(np.float32)
    path = write(tmp_path / "a.wav", noise, subtype="FLOAT")
    assert np.array_equal(audio.decode(path), noise)


# Cutting.


def test_cut_takes_the_first_twenty_seconds_at_peak_one():
    y = tone(30) * np.linspace(0.1, 0.4, 30 * SR)
    part = audio.cut(y)
    assert part.dtype == np.float32
    assert part.shape == (20 * SR,)
    assert np.allclose(part, y[: 20 * SR] / np.abs(y[: 20 * SR]).max())


def test_cut_scales_by_the_highest_amplitude_of_either_sign():
    assert audio.cut(np.resize([0.1, -0.4], 2 * SR))[:2] == pytest.approx([0.25, -1])


def test_cut_from_an_offset():
    y = np.random.default_rng(0).uniform(-1, 1, 30 * SR)
    part = audio.cut(y, offset=5, duration=2)
    assert len(part) == 2 * SR
    assert np.allclose(part * np.abs(y[5 * SR : 7 * SR]).max(), y[5 * SR : 7 * SR])


def test_a_short_clip_is_repeated():
    y = np.random.default_rng(0).uniform(-1, 1, round(1.5 * SR))
    y[0] = 1
    part = audio.cut(y, duration=4)
    assert np.allclose(part, np.tile(y, 3)[: 4 * SR])
    assert np.array_equal(part[: len(y)], part[len(y) : 2 * len(y)])


def test_a_short_clip_is_followed_by_silence_on_demand():
    y = np.resize([1.0, -1.0], round(1.5 * SR))
    part = audio.cut(y, duration=4, fill="zeros")
    assert len(part) == 4 * SR
    assert np.array_equal(part[: len(y)], y)
    assert (part[len(y) :] == 0).all()


def test_only_the_part_asked_for_decides():
    y = np.concatenate([np.zeros(21 * SR), np.resize([1.0, -1.0], 2 * SR)])
    with pytest.raises(ValueError, match=r"^silent$"):
        audio.cut(y)
    assert np.abs(audio.cut(y, offset=21)).min() == 1
    with pytest.raises(ValueError, match=r"^too short: 0\.5 s after 22\.5 s, 1 s needed$"):
        audio.cut(y, offset=22.5)
    with pytest.raises(ValueError, match=r"^too short: 0\.0 s after 40 s"):
        audio.cut(y, offset=40)


def test_unknown_fill_names_the_choices(tmp_path):
    with pytest.raises(UsageError, match=r"'mirror'.*repeat, zeros"):
        audio.cut(tone(), fill="mirror")
    with pytest.raises(UsageError, match=r"'mirror'"):  # not a fault of the file
        audio.load_clip(write(tmp_path / "a.wav", tone()), fill="mirror")


def test_load_clip_decodes_and_cuts(tmp_path):
    path = write(tmp_path / "a.wav", tone(30))
    y = audio.load_clip(path, offset=1.0, duration=20.0)
    assert y.shape == (20 * SR,)
    assert np.abs(y).max() == 1
    assert np.allclose(y, audio.cut(audio.decode(path), offset=1))


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("sr", [SR, 44100])
def test_what_is_not_needed_is_not_decoded_and_changes_nothing(tmp_path, kind, sr):
    y = np.random.default_rng(0).uniform(-0.5, 0.5, 6 * sr)
    path = write(tmp_path / f"a.{kind}", y, sr)
    whole, part = audio.decode(path), audio.decode(path, duration=3)
    assert len(part) == 3 * SR
    assert np.allclose(part, whole[: 3 * SR], rtol=0, atol=1e-6)
    assert len(audio.decode(path, duration=9)) == len(whole)


# Refusing. Each maker leaves a file that cannot be used.


def empty(path):
    path.touch()


def no_samples(path):
    write(path, np.zeros(0))


def silent(path):
    write(path, np.zeros(3 * SR))


def cancelled(path):
    write(path, np.stack([tone(), -tone()], axis=1), subtype="FLOAT")


def short(path):
    write(path, tone(0.3))


def text(path):
    path.write_text("This is not music.\n" * 500)


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(20000))


def header_only(path):
    write(path, tone())
    path.write_bytes(path.read_bytes()[:20])


def folder(path):
    path.mkdir()


def absent(path):
    pass


def not_a_number(path):
    write(path, np.where(np.arange(3 * SR) == 7, np.nan, tone()), subtype="FLOAT")


def infinite(path):
    write(path, np.where(np.arange(3 * SR) == 7, np.inf, tone()), subtype="FLOAT")


def huge(path):
    write(path, np.where(np.arange(3 * SR) == 7, 1e38, tone()), subtype="FLOAT")


def spike(path):
    write(path, np.where(np.arange(3 * SR) == 7, 1e8, tone()), subtype="FLOAT")


def constant(path):
    write(path, np.full(3 * 44100, 0.3), 44100)


def slow(path):
    write(path, tone(), 1)


def pipe(path):
    os.mkfifo(path)


def listening(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))


def endless(path):
    path.symlink_to("/dev/zero")


def unreadable(path):
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("no file is unreadable for this user (root, or not POSIX)")
    write(path, tone())
    path.chmod(0)


BAD = [
    (empty, "a.mp3", "empty file"),
    (empty, "a.wav", "empty file"),
    (no_samples, "a.wav", "cannot be decoded: no samples in it"),
    (silent, "a.flac", "silent"),
    (cancelled, "a.wav", "silent"),
    (short, "a.wav", "too short: 0.3 s, 1 s needed"),
    (text, "a.mp3", "cannot be decoded: Format not recognised"),
    (text, "a.wav", "cannot be decoded: Format not recognised"),
    (text, "a.raw", "cannot be decoded: Format not recognised"),
    (noise, "a.mp3", "cannot be decoded: "),
    (header_only, "a.wav", "cannot be decoded: "),
    (header_only, "a.flac", "cannot be decoded: "),
    (header_only, "a.mp3", "cannot be decoded: "),
    (folder, "a.wav", "cannot be read: Is a directory"),
    (absent, "a.wav", "cannot be read: No such file or directory"),
    (not_a_number, "a.wav", "cannot be decoded: samples that are not finite"),
    (infinite, "a.wav", "cannot be decoded: samples that are not finite"),
    (huge, "a.wav", "cannot be decoded: samples of 1e+38"),
    (spike, "a.wav", "silent"),
    (constant, "a.wav", "silent"),
    (constant, "a.ogg", "silent"),
    (constant, "a.mp3", "silent"),
    (slow, "a.wav", "cannot be decoded: 1 samples a second"),
    (pipe, "a.wav", "cannot be read: not a regular file"),
    (listening, "a.wav", "cannot be read: not a regular file"),
    (endless, "a.wav", "cannot be read: not a regular file"),
    (absent, "a\0.wav", "cannot be read: embedded null byte"),
    (absent, 300 * "a" + ".wav", "cannot be read: File name too long"),
    (unreadable, "a.wav", "cannot be read: Permission denied"),
]


@pytest.mark.parametrize(("make", "name", "reason"), BAD)
def test_a_bad_file_is_refused_with_a_true_reason(tmp_path, make, name, reason):
    path = tmp_path / name
    make(path)
    duration, status = audio.check(path)
    assert status.startswith(reason)
    assert "\n" not in status
    assert "does not exist" not in status
    assert np.isnan(duration) or duration == pytest.approx(len(audio.decode(path)) / SR)
    with pytest.raises(audio.AudioError) as caught:
        audio.load_clip(path)
    assert isinstance(caught.value, GenreUtilsError)
    assert caught.value.reason == status
    assert str(caught.value).startswith(f"{path}: {status}; ")


# What a file claims, and what is in it.


def patched(content, at, value, order="little"):
    """Write a number of 4 bytes over those that stand ``at`` a place, or behind a name."""
    at = content.index(at) + len(at) if isinstance(at, bytes) else at
    return content[:at] + value.to_bytes(4, order) + content[at + 4 :]


def without(content, size=3000):
    return content[: len(content) // 2] + content[len(content) // 2 + size :]


def made(kind, seconds=4.0, sr=44100):
    noise = np.random.default_rng(0).normal(0, 0.02, round(seconds * sr))
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, sr=sr) + noise, sr, format=kind.upper())
    return file.getvalue()


def flac_of_unknown_length():
    content = bytearray(made("flac"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


WAV, MP3, FLAC, OGG, AIFF = (made(kind) for kind in ("wav", "mp3", "flac", "ogg", "aiff"))
PLAIN = fuzz_audio.with_ffmpeg("a.mp3", "libmp3lame", write_xing="0")  # no length in it
XING = MP3.index(b"Xing" if b"Xing" in MP3 else b"Info") + 8
ART = b"ID3\4\0\0\0\0\x7f\x7f" + bytes(range(256)) * 63 + bytes(127 * 129 - 256 * 63)
CONTENTS = [
    ("wav, size 0", lambda: patched(WAV, b"data", 0), 4),
    ("wav, size of a stream", lambda: patched(WAV, b"data", 2**32 - 1), 4),
    ("wav, half its size", lambda: patched(WAV, b"data", len(WAV) // 2), 4),
    ("wav, 3 GB", lambda: patched(WAV, b"data", 3 * 10**9), "of 34013"),
    (
        "wav, a chunk behind",
        lambda: WAV + b"LIST" + (10**5).to_bytes(4, "little") + bytes(10**5),
        4,
    ),
    (
        "aiff, 10 times the frames",
        lambda: patched(AIFF, AIFF.index(b"COMM") + 10, 1764000, "big"),
        "of 40.00 s",
    ),
    ("mp3, no length", lambda: PLAIN, 4),
    ("mp3, a length of 1", lambda: patched(MP3, XING, 1, "big"), 4),
    ("mp3, half its length", lambda: patched(MP3, XING, 77, "big"), 4),
    ("mp3, 2**31 frames", lambda: patched(MP3, XING, 2**31, "big"), "cut off"),
    ("mp3, two in one", lambda: MP3 + MP3, 8),
    ("mp3, zeros in front", lambda: bytes(3000) + MP3, 4),
    ("mp3, a page in front", lambda: b"<html>moved</html>" * 50 + PLAIN, 4),
    ("mp3, a picture in front", lambda: ART + PLAIN, 4),
    ("mp3, a tag behind", lambda: PLAIN + b"APETAGEX" + bytes(range(256)) * 200, 4),
    ("mp3, zeros behind", lambda: PLAIN + bytes(10**5), 4),
    ("mp3, another rate behind", lambda: PLAIN + made("mp3", sr=16000), 8),
    ("flac, length unknown", flac_of_unknown_length, 4),
    ("flac, half its length", lambda: patched(FLAC, 22, 88200, "big"), 4),
    ("flac, another rate behind", lambda: FLAC + made("flac", sr=16000), 8),
    ("ogg, two in one", lambda: OGG + OGG, 8),
    ("ogg, zeros behind", lambda: OGG + bytes(10**5), 4),
    ("ogg, a lost block", lambda: without(OGG), "cut off or damaged"),
    ("wav, a lost block", lambda: without(WAV), "cut off or damaged: 3.97 s of 4.00 s are there"),
    ("mp3, a lost block", lambda: without(MP3), "cannot be decoded: stops after"),
    ("mp3, no length, a lost block", lambda: without(PLAIN), "cannot be decoded: stops after"),
    ("flac, a lost block", lambda: without(FLAC, 20000), "damaged: a hole after"),
]


@pytest.mark.parametrize(("make", "result"), [pytest.param(*c[1:], id=c[0]) for c in CONTENTS])
def test_all_of_a_file_is_heard_whatever_its_header_says_or_it_is_refused(tmp_path, make, result):
    path = tmp_path / "a.bin"
    path.write_bytes(make())
    duration, status = audio.check(path)
    if isinstance(result, str):
        assert result in status
        with pytest.raises(audio.AudioError, match=re.escape(status)):
            list(audio.windows(path))
        return
    assert status == "ok"
    assert duration == pytest.approx(result, abs=0.2)
    y = audio.decode(path)
    assert len(y) == pytest.approx(duration * SR, abs=2)
    assert pitch(y[SR : 2 * SR]) == pytest.approx(440, abs=1)
    assert pitch(y[-SR * 3 // 2 : -SR // 2]) == pytest.approx(440, abs=1)
    assert np.array_equal(np.concatenate([part for _, part in audio.windows(path)]), y)
    clip = audio.load_clip(path, duration=2)  # needs less, perhaps from the other decoder
    assert np.allclose(clip, audio.cut(y, duration=2), rtol=0, atol=1e-4)


def test_twenty_channels_that_only_ffmpeg_reads_end_no_process(tmp_path):
    path = write(tmp_path / "a.wav", tone(), subtype="FLOAT")
    content = bytearray(path.read_bytes())
    content[22] = 20  # the chunk PEAK does not fit this
    path.write_bytes(content)
    assert audio.check(tmp_path / "a.wav")


OTHERS = [
    ("a.m4a", "aac", {}),
    ("a.m4a", "alac", {}),
    ("a.mp4", "aac", {}),
    ("a.aac", "aac", {}),
    ("a.wma", "wmav2", {}),
    ("a.webm", "libopus", {"rate": 48000}),
    ("a.mp2", "mp2", {}),
    ("a.caf", "pcm_s16be", {}),
    ("a.w64", "pcm_s16le", {}),
    ("a.aifc", "pcm_mulaw", {}),
    ("a.snd", "pcm_s16be", {"form": "au"}),
]


@pytest.mark.parametrize(("name", "codec", "how"), OTHERS)
def test_other_formats_are_heard(tmp_path, name, codec, how):
    path = tmp_path / name
    assert path.suffix in audio.SOUND
    path.write_bytes(fuzz_audio.with_ffmpeg(name, codec, **how))
    duration, status = audio.check(path)
    assert status == "ok"
    assert duration == pytest.approx(4, abs=0.1)
    assert pitch(audio.decode(path)[SR : 2 * SR]) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY, "caf", "w64"])
def test_a_cut_file_is_refused_and_says_so(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", tone(4))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    duration, status = audio.check(path)
    assert np.isnan(duration)
    assert re.search(r"cut off|malformed", status)


def test_a_file_that_is_too_long_is_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "LONGEST", 7200)
    path = write(tmp_path / "a.flac", np.zeros(3 * 3600 * 4000), 4000)
    assert audio.check(path)[1] == "longer than 2 h: cut it into pieces"


def test_a_long_file_is_heard_in_little_memory(tmp_path):
    path = write(tmp_path / "a.flac", np.tile(tone(10), 120))
    tracemalloc.start()
    assert audio.check(path) == (1200, "ok")
    assert sum(1 for _ in audio.windows(path)) == 119
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # all of it: 77 MB


def test_damaged_files_are_used_or_refused_and_good_ones_unaffected(tmp_path):
    """More of them: ``python tests/fuzz_audio.py --mutants 1200 --seed 1``."""
    faults, _, summary = fuzz_audio.fuzz(tmp_path, 231, seed=0)
    assert not faults, summary


def test_decoders_remarks_stay_in_the_workers_and_this_process_is_left_alone(tmp_path, capfd):
    """Other threads' words on descriptor 2 are never lost while a file is decoded."""
    paths = [write(tmp_path / name, tone(4)) for name in ("a.mp3", "b.mp3")]
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content[:1500] + bytes(400) + content[1900 : len(content) // 2])
    each(audio.check, [(path,) for path in paths], jobs=2)
    assert capfd.readouterr() == ("", "")
    before, seen = os.fstat(2), []
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            seen.append(os.path.samestat(os.fstat(2), before))

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(50):
        audio.check(paths[0])
    stop.set()
    thread.join()
    assert all(seen)


def test_samples_that_overflow_raise_no_warning(tmp_path, recwarn):
    loud = np.full((2 * SR, 2), 3e38, np.float32)
    audio.check(write(tmp_path / "loud.wav", loud, subtype="FLOAT"))
    assert not recwarn.list


def test_good_files_have_their_length(tmp_path):
    assert audio.check(write(tmp_path / "a.wav", tone(2.5, sr=44100), 44100)) == (2.5, "ok")
    assert audio.check(write(tmp_path / "b.wav", tone(1.0))) == (1.0, "ok")
    with pytest.raises(audio.AudioError, match=r"too short: 2\.5 s, 3 s needed"):
        audio.load_clip(tmp_path / "a.wav", min_duration=3)


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(audio.AudioError("b/a.wav", "silent")))
    assert (error.path.parts, error.reason) == (("b", "a.wav"), "silent")
    assert re.search("silent; replace the file", str(error))


def test_real_clips_decode(shared):
    folder = shared / "data" / "magnatune-mini" / "mp3"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: no real clips to decode")
    clips = sorted(path for path in folder.glob("*/*.mp3") if path.stat().st_size)[::100]
    assert clips
    for path in clips:
        duration, status = audio.check(path)
        assert status == "ok"
        assert duration == pytest.approx(29, abs=0.5)
