"""From a sound file to the paper's waveform: mono, 16 kHz, 20 s, peak 1 (section 2.1).

Sound files of any length as windows of 20 s, read piece by piece.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr

from genre_utils import paper
from genre_utils.runtime import GenreUtilsError, UsageError

SAMPLE_RATE = 16000
HOP = 10.0  # seconds from window to window
PIECE = 30  # seconds decoded at a time
SOUND = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")


class AudioError(GenreUtilsError):
    """A sound file that cannot be used; ``reason`` says why in a few words."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}; replace the file or take it out of the clip table")

    def __reduce__(self) -> tuple:
        """Travel between worker processes, which pickle an error by its arguments."""
        return type(self), (self.path, self.reason)


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file into an `AudioError`."""
    try:
        yield
    except OSError as error:
        raise AudioError(path, f"cannot be read: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        unknown = error.code == 7  # "file does not exist": of an open file it cannot be true
        reason = "Format not recognised" if unknown else error.error_string.rstrip(".")
        raise AudioError(path, f"cannot be decoded: {reason}") from None


def _mono(path: Path, y: np.ndarray) -> np.ndarray:
    """Average the channels of y [n, channels]; refuse NaN and infinity."""
    if not np.isfinite(y).all():
        raise AudioError(path, "cannot be decoded: samples that are not finite")
    return y.mean(axis=1, dtype=np.float64).astype(np.float32)


def decode(path: str | Path, duration: float | None = None) -> np.ndarray:
    """Read a file as one channel at 16 kHz, float32 [n]: channels averaged, then resampled (soxr).

    libsndfile decodes it: wav, flac, ogg, mp3, au, aiff and others. What lies behind ``duration``
    seconds is neither decoded nor checked. AudioError: the file is missing, empty, unreadable, not
    audio, or holds values that are not finite.
    """
    path = Path(path)
    with _reasons(path):
        content = path.read_bytes()
        if not content:
            raise AudioError(path, "empty file")
        # From memory: by the content alone, whatever the name's extension says.
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            ahead = file.samplerate != SAMPLE_RATE  # 1 s: the resampling filter looks ahead
            frames = -1 if duration is None else round((duration + ahead) * file.samplerate)
            y = file.read(frames, dtype="float32", always_2d=True)
    if not len(y):
        raise AudioError(path, "cannot be decoded: no samples in it")
    y = _mono(path, y)
    if file.samplerate != SAMPLE_RATE:
        y = librosa.resample(y, orig_sr=file.samplerate, target_sr=SAMPLE_RATE)
    return y if duration is None else y[: round(duration * SAMPLE_RATE)]


def cut(
    y: np.ndarray,
    *,
    offset: float = 0.0,
    duration: float = 20.0,
    fill: str = "repeat",
    min_duration: float = 1.0,
) -> np.ndarray:
    """Take ``duration`` seconds from ``offset`` on and scale them to a peak of 1 (section 2.1).

    The paper does not say which 20 s; the default is the first. A shorter clip is repeated
    (``fill="repeat"``, our reading of "concatenate") or followed by silence (``"zeros"``).

    ``y`` is [n] at 16 kHz, the result float32 [duration * 16000]. ValueError: less than
    ``min_duration`` (s) is left, or silence; the text is the reason. UsageError: unknown ``fill``.
    """
    n, y = round(duration * SAMPLE_RATE), y[round(offset * SAMPLE_RATE) :]
    if len(y) < min_duration * SAMPLE_RATE:
        after = f" after {offset:g} s" if offset else ""
        raise ValueError(
            f"too short: {len(y) / SAMPLE_RATE:.1f} s{after}, {min_duration:g} s needed"
        )
    if fill == "repeat":
        y = np.resize(y, n) if len(y) < n else y[:n]
    elif fill == "zeros":
        y = librosa.util.fix_length(y, size=n)
    else:
        raise UsageError(f"unknown fill {fill!r}: one of repeat, zeros")
    peak = max(y.max(), -y.min())
    if peak < 1e-5:  # under -100 dB: less than one step of 16 bits
        raise ValueError("silent")
    return (y / peak).astype(np.float32, copy=False)


def load_clip(
    path: str | Path, *, offset: float = 0.0, duration: float = 20.0, **how: float | str
) -> np.ndarray:
    """Decode what is needed of a file and `cut` it to float32 [duration * 16000].

    ``how`` are `cut`'s other arguments. `AudioError` as from `decode`, and where `cut` refuses.
    """
    y = decode(path, duration=offset + duration)
    try:
        return cut(y, offset=offset, duration=duration, **how)
    except ValueError as error:
        raise AudioError(path, str(error)) from None


def check(path: str | Path) -> tuple[float, str]:
    """Tell whether a file can be used: the seconds decoded (NaN: none), and "ok" or why not."""
    try:
        y = decode(path)
    except AudioError as error:
        return float("nan"), error.reason
    try:
        cut(y)
    except ValueError as error:
        return len(y) / SAMPLE_RATE, str(error)
    return len(y) / SAMPLE_RATE, "ok"


def windows(path: str | Path) -> Iterator[tuple[float, np.ndarray]]:
    """Cut a file into windows as long as the training clips, with about a minute in memory.

    Windows start every `HOP` seconds; one more ends with the file, so that all of it is heard.
    A file that is shorter than a window is one window. Yields each window's start (s) and sound:
    one channel at 16 kHz, not scaled, float32, of 20 s or (a shorter file) less. AudioError as
    from `decode`, also in the middle of the file.
    """
    size, step = round(paper.AUDIO["duration"] * SAMPLE_RATE), round(HOP * SAMPLE_RATE)
    kept, start = np.empty(0, np.float32), 0  # start: of what is kept; kept: what is still needed
    following = 0  # start of the next window
    for part in _pieces(Path(path)):
        kept = np.concatenate([kept, part])
        while following + size <= start + len(kept):
            at = following - start
            yield following / SAMPLE_RATE, kept[at : at + size]
            following += step
        # The next window begins before the last full one ends; that end may be the file's.
        drop = max(0, min(following - step, start + len(kept) - size) - start)
        kept, start = kept[drop:], start + drop
    end = start + len(kept)
    last = max(0, end - size)
    if following == 0 or last > following - step:
        yield last / SAMPLE_RATE, kept[last - start :]


def _pieces(path: Path) -> Iterator[np.ndarray]:
    """Decode a file piece by piece: channels averaged, resampled to 16 kHz."""
    with _reasons(path):
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise AudioError(path, "cannot be read: not a regular file")
        if not path.stat().st_size:
            raise AudioError(path, "empty file")
        with path.open("rb") as f, soundfile.SoundFile(f.fileno(), closefd=False) as file:
            resample = None
            if file.samplerate != SAMPLE_RATE:  # librosa's default resampler, as a stream
                stream = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, "float32", "HQ")
                resample = stream.resample_chunk
            heard, piece = False, PIECE * file.samplerate
            while len(y := file.read(piece, dtype="float32", always_2d=True)):
                y, heard = _mono(path, y), True
                yield resample(y) if resample else y
            if not heard:
                raise AudioError(path, "cannot be decoded: no samples in it")
            if resample:
                yield resample(np.empty(0, np.float32), last=True)
