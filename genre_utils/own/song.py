"""Sound files of any length as windows of 20 s, read piece by piece."""

import os
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile
import soxr

from genre_utils import paper
from genre_utils.data.local_sets import SOUND
from genre_utils.errors import UsageError
from genre_utils.extraction.audio import SAMPLE_RATE, AudioError
from genre_utils.quiet import quiet_stderr

HOP = 10.0  # seconds from window to window
PIECE = 30  # seconds decoded at a time


def sound_files(places: Iterable[str | Path]) -> dict[Path, str]:
    """List the files that were asked for.

    Parameters
    ----------
    places : iterable of str or Path
        Files of any name, and folders, in which every file that is called like a sound file is
        found, links followed.

    Returns
    -------
    dict
        Path -> "", or why nothing can be read there; each path once, in order.

    Raises
    ------
    UsageError
        There is no file at all.
    """
    found: dict[Path, str] = {}
    for place in map(Path, places):
        if place.is_dir():
            found |= _below(place) or {place: f"no sound files in it ({' '.join(SOUND)})"}
        else:
            found[place] = "" if os.path.lexists(place) else "no such file or folder"
    if all(found.values()):
        first = "; ".join(f"{path}: {why}" for path, why in list(found.items())[:1])
        raise UsageError(f"no sound file to listen to: {first}")
    return found


def _below(folder: Path) -> dict[Path, str]:
    files, closed, seen = [], {}, set()

    def refuse(error: OSError) -> None:
        closed[Path(error.filename)] = f"cannot be read: {error.strerror}"

    for name, below, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:  # links in a circle
            below.clear()
            continue
        seen.add(real)
        files += [Path(name) / n for n in names if n.lower().endswith(SOUND)]
    return dict.fromkeys(sorted(files), "") | closed


def windows(path: str | Path, *, hop: float = HOP) -> Iterator[tuple[float, np.ndarray]]:
    """Cut a file into windows as long as the training clips, with about a minute in memory.

    Windows start every ``hop`` seconds; one more ends with the file, so that all of it is heard.
    A file that is shorter than a window is one window.

    Yields
    ------
    start : float
        In seconds.
    y : np.ndarray [dtype=float32]
        One channel at 16 kHz, not scaled, of 20 s or (a shorter file) less.

    Raises
    ------
    AudioError
        As `audio.decode`, also in the middle of the file.
    """
    size, step = round(paper.AUDIO["duration"] * SAMPLE_RATE), round(hop * SAMPLE_RATE)
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
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise AudioError(path, "cannot be read: not a regular file")
        with path.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                raise AudioError(path, "empty file")
            yield from _resampled(path, stream.fileno())
    except OSError as error:
        raise AudioError(path, f"cannot be read: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError(path, f"cannot be decoded: {reason}") from None


def _resampled(path: Path, descriptor: int) -> Iterator[np.ndarray]:
    empty = np.empty(0, np.float32)
    with quiet_stderr():  # the mp3 decoder's remarks on damaged frames
        sound = soundfile.SoundFile(descriptor, closefd=False)
    with sound:
        resample = None
        if sound.samplerate != SAMPLE_RATE:  # librosa's default resampler, as a stream
            stream = soxr.ResampleStream(sound.samplerate, SAMPLE_RATE, 1, "float32", "HQ")
            resample = stream.resample_chunk
        heard = False
        for y in chain(_channels_averaged(path, sound), [empty]):
            heard = heard or len(y) > 0
            yield resample(y, last=not len(y)) if resample else y
    if not heard:
        raise AudioError(path, "cannot be decoded: no samples in it")


def _channels_averaged(path: Path, sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while True:
        with quiet_stderr():
            y = sound.read(PIECE * sound.samplerate, dtype="float32", always_2d=True)
        if not len(y):
            return
        if not np.isfinite(y).all():
            raise AudioError(path, "cannot be decoded: samples that are not finite")
        yield y.mean(axis=1, dtype=np.float64).astype(np.float32)
