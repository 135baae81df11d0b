"""From a sound file to the paper's waveform: mono, 16 kHz, 20 s, peak 1 (section 2.1).

What a header says is a claim: files are read block by block, and one is used where its sound was
heard to the end, or else refused.
"""

import io
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import TypeVar

import av
import librosa
import numpy as np
import soundfile
import soxr

from genre_utils import paper
from genre_utils.runtime import GenreUtilsError, UsageError

SAMPLE_RATE = 16000
HOP = 10.0  # seconds from window to window
BLOCK = 5  # seconds decoded at a time, of many channels less
RATES = range(4000, 768_001)  # Hz that a sound can have
LONGEST = 12 * 3600  # seconds that are decoded of a file; fewer if they weigh more than stereo
LOUDEST = 1e10  # more than 32-bit integers that were written as floats
SOUND = (".aac", ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mp2", ".mp3")
SOUND += (".mp4", ".oga", ".ogg", ".opus", ".snd", ".w64", ".wav", ".webm", ".wma")
# Of ffmpeg's formats those that hold sound themselves: no playlist, which names other files.
FORMATS = "aac,aiff,asf,au,caf,flac,matroska,mov,mp3,ogg,w64,wav"
OPTIONS = {"format_whitelist": FORMATS, "ignore_length": "1"}  # wav's: it is asked if that is wrong
FFMPEG = {"options": OPTIONS, "metadata_errors": "replace"}
SLOPPY = 256  # bytes that a size may be too large, where a writer counted the header
SLACK = 0.04  # seconds that may lack: a frame of mp3 at 16 kHz
LOOSE = 0.25  # the same where times are rounded, or count an encoder's delay
ROUNDED = ("asf", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2")
TAIL = 0.5  # seconds' worth of bytes behind the sound that are no reason to doubt it
UNKNOWN = "Format not recognised, or cut off"  # libsndfile's codes 1 and 7
MALFORMED = 3  # its code where a header's sizes make no sense, which ffmpeg would not mind
TAG = re.compile(rb"\0?(TAG|APETAGEX|LYRICSBEGIN|ID3)")
# Kilobits a second of an mp3, by its header: MPEG 2 and 2.5, MPEG 1.
KBPS = ((0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),)
KBPS += ((0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),)
XING = re.compile(rb"(Xing|Info)\0\0\0[\1\3\5\7\11\13\15\17]|VBRI")  # the mp3's length is stated
STREAMED = (range(0x7FFFFF00, 0x80000100), range(0xFFFFFF00, 0x100000000))  # "length unknown"

T = TypeVar("T")
Blocks = Iterator[tuple[int, np.ndarray]]  # rate (Hz) and samples: [n, channels], later [n]


class AudioError(GenreUtilsError):
    """A sound file that cannot be used; ``reason`` says why in a few words."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}; replace the file or take it out of the clip table")

    def __reduce__(self) -> tuple:
        """Travel between worker processes, which pickle an error by its arguments."""
        return type(self), (self.path, self.reason)


class _DoubtError(Exception):
    """libsndfile cannot read a file, or not to its end."""


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into an `AudioError`."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: NUL in a name
        why = getattr(error, "strerror", None) or error
        raise AudioError(path, f"cannot be read: {why}") from None


def _listen(path: str | Path, use: Callable[[Callable[[], Blocks]], T]) -> T:
    """Return what ``use`` makes of a file, given a function that returns its blocks.

    libsndfile decodes it, or else ffmpeg, whose numbers differ by 4e-6 and take 2.6 times as long.
    """
    path = Path(path)
    with _reasons(path):
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError("Is a directory" if path.is_dir() else "not a regular file")
        if not path.stat().st_size:
            raise AudioError(path, "empty file")
    try:
        return use(lambda: _checked(path, _libsndfile(path)))
    except _DoubtError as error:
        doubt = str(error)
    return use(lambda: _checked(path, _batches(_ffmpeg(path, doubt))))


def _checked(path: Path, blocks: Blocks) -> Blocks:
    """Average the channels, to float32 [n]; refuse what no sound has."""
    seconds = weight = 0.0
    with _reasons(path):
        for rate, y in blocks:
            if rate not in RATES:
                raise AudioError(path, f"cannot be decoded: {rate} samples a second")
            if not (peak := np.abs(y).max()) < LOUDEST:
                what = f"of {peak:.0e}" if np.isfinite(peak) else "that are not finite"
                raise AudioError(path, f"cannot be decoded: samples {what}")
            seconds, weight = seconds + len(y) / rate, weight + y.size / 96000
            if max(seconds, weight) > LONGEST:
                raise AudioError(path, f"longer than {LONGEST // 3600} h: cut it into pieces")
            yield rate, y.mean(axis=1, dtype=np.float64).astype(np.float32)
    if not seconds:
        raise AudioError(path, "cannot be decoded: no samples in it")


def _block(rate: int, channels: int) -> int:
    """Count the samples of a block: whole frames of mp3, or its last bits depend on them."""
    return 1152 * max(1, min(BLOCK * rate, 2**22 // channels) // 1152)


class _Sips(io.FileIO):
    """A file that gives 1 KB at a time: its position tells how far a decoder has come."""

    def readinto(self, buffer: memoryview) -> int:
        return super().readinto(memoryview(buffer)[:1024])


def _libsndfile(path: Path) -> Blocks:
    """Decode with libsndfile, and compare what it heard with what the file holds and claims."""
    start, head = _head(path)
    with path.open("rb", 0) as raw, _Sips(raw.fileno(), closefd=False) as stream:
        size = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        try:  # by the content alone, whatever the name's extension says
            source = stream if head[:4] == b"fLaC" else raw.fileno()  # flac is read 64 KB ahead
            with soundfile.SoundFile(source, closefd=False) as file:
                rate, kind, frames, heard = file.samplerate, file.format, file.frames, 0
                block, here = _block(rate, file.channels), -1
                if not 0 <= frames < 2**63 - 1:
                    raise _DoubtError("length unknown")
                while len(y := file.read(block, dtype="float32", always_2d=True)):
                    heard, before, here = heard + len(y), here, raw.tell()
                    if kind == "MP3" and before == here < size:  # it repeats what it has
                        raise _DoubtError("its form changes")
                    yield rate, y
                here, log = raw.tell(), file.extra_info
        except soundfile.LibsndfileError as error:
            why = error.error_string.rstrip(".")
            if error.code == MALFORMED:
                raise AudioError(path, f"cannot be decoded: {why}") from None
            raise _DoubtError(UNKNOWN if error.code in (1, 7) else why) from None
    seconds = heard / rate
    if kind == "MP3":
        here, n = _chain(path, start)
        if abs(n - heard) > LOOSE * rate:  # the encoder's delay is cut off, or is not
            raise _DoubtError("header and content do not agree")
    if kind != "MP3" or XING.search(head):  # else ``frames`` is a guess
        _all_there(path, seconds, frames / rate)
    # Its log tells what it set right in silence: sizes in bytes, and the frames of aiff.
    for claim, true in re.findall(r"(\d+)(?: \(should be (\d+)|\) not equal)", log):
        if int(claim) > int(true or 0) + SLOPPY and not any(int(claim) in r for r in STREAMED):
            claimed = seconds * int(claim) / max(1, int(true)) if true else int(claim) / rate
            _all_there(path, seconds, claimed, 0)
    if re.search("end-of-stream|junk after", log, re.I):  # of ogg; tags behind the end are junk
        with path.open("rb") as raw:  # its last page: the number of samples so far; marked as last?
            raw.seek(max(0, size - 2**17))
            page = raw.read().rpartition(b"OggS")[2]
        n, ended = int.from_bytes(page[2:10], "little", signed=True), page[1:2] >= b"\4"
        _all_there(path, seconds, n / (48000 if file.subtype == "OPUS" else rate))
        log += "" if ended else "reports a hole"
    if "reports a hole" in log:
        raise AudioError(path, f"cut off or damaged: no more than {seconds:.2f} s are there")
    if _rest(path, here, seconds, chunks=kind not in ("MP3", "OGG", "FLAC")):
        raise _DoubtError("header and content do not agree")


def _all_there(path: Path, seconds: float, claim: float, slack: float = SLACK) -> None:
    if claim > seconds + slack:
        raise AudioError(path, f"cut off or damaged: {seconds:.2f} s of {claim:.2f} s are there")


def _head(path: Path) -> tuple[int, bytes]:
    """Where the sound begins, behind an ID3 tag, and its first bytes."""
    with path.open("rb") as file:
        start, head = 0, file.read(10)
        if head[:3] == b"ID3":
            start = 10 + sum(byte << 7 * i for i, byte in enumerate(reversed(head[6:])))
        file.seek(start)
        return start, file.read(1024)


def _chain(path: Path, at: int) -> tuple[int, int]:
    """Where the frames of an mp3 that follow each other from ``at`` on end, and their samples."""
    with path.open("rb") as file:
        file.seek(at)
        form, n = int.from_bytes(file.read(4), "big") & 0xFFFE0C00, 0
        version, layer, rate = form >> 19 & 3, form >> 17 & 3, form >> 10 & 3
        if form >> 21 != 0x7FF or version == 1 or layer != 1 or rate == 3:
            return at, 0
        hz, slots = (44100, 48000, 32000)[rate] >> (2, 0, 1, 0)[version], 72 << (version == 3)
        while file.seek(at) == at and len(head := file.read(4)) == 4:
            bits = int.from_bytes(head, "big")
            kbps = KBPS[version == 3][bits >> 12 & 15]
            if bits & 0xFFFE0C00 != form or not kbps:
                break
            at, n = at + slots * 1000 * kbps // hz + (bits >> 9 & 1), n + 8 * slots
    return at, n


def _rest(path: Path, end: int, seconds: float, *, chunks: bool = False) -> int:
    """Bytes from ``end`` on, where ``seconds`` of sound end, if they may be more sound.

    Tags, padding, ``chunks`` of a container and what is too little to matter are none.
    """
    with path.open("rb") as file:
        left = file.seek(0, io.SEEK_END) - file.seek(end)
        head = file.read(64)
        chunk = chunks and re.match(rb"(?!RIFF|FORM|caff|\.snd)[ -~]{4}", head)
        sizes = [int.from_bytes(head[4:8], order) for order in ("little", "big")]
        few = left <= 0 or (seconds and left * seconds <= TAIL * end)
        if few or TAG.match(head) or (chunk and min(sizes) <= left):
            return 0
        parts = chain([head], iter(lambda: file.read(2**16), b""))
        return left if any(part.strip(head[:1]) for part in parts) else 0


def _ffmpeg(path: Path, doubt: str) -> Iterator[av.AudioFrame]:
    """Decode with ffmpeg; refuse holes, damage, and less than the file claims."""
    seconds, claim, slack, end, due, name = 0.0, 0.0, SLACK, 0, None, ""
    try:
        with path.open("rb") as file, av.open(file, **FFMPEG) as container:
            if not container.streams.audio:
                raise AudioError(path, "cannot be decoded: no sound in it")
            sound = container.streams.audio[0]
            sound.codec_context.options = {"err_detect": "crccheck+explode"}
            name = container.format.name
            slack = LOOSE if name in ROUNDED else SLACK
            guess = name in ("aac", "wav") or (name == "mp3" and not XING.search(_head(path)[1]))
            if sound.duration and not guess:
                claim = float(sound.duration * sound.time_base)
            elif container.duration and name in ROUNDED and len(container.streams) == 1:
                claim = container.duration / av.time_base
            for packet in container.demux(sound):
                for frame in packet.decode():
                    length = frame.samples / frame.sample_rate
                    at = due if frame.pts is None else float(frame.pts * frame.time_base)
                    if due is not None and at > due + slack:
                        raise AudioError(path, f"damaged: a hole after {seconds:.1f} s")
                    due, seconds = (at or 0.0) + length, seconds + length
                    yield frame
                end = max(end, (packet.pos or 0) + packet.size)
    except AudioError:
        raise
    except Exception as error:
        if not seconds:
            raise AudioError(path, f"cannot be decoded: {doubt}") from None
        if _rest(path, end, seconds):
            why = f"stops after {seconds:.1f} s" + f" of {claim:.1f} s" * (claim > seconds)
            why += f" ({getattr(error, 'strerror', '') or error})"
            raise AudioError(path, f"cannot be decoded: {why}") from None
    _all_there(path, seconds, claim, slack)
    if name not in (*ROUNDED, "ogg") and (rest := _rest(path, end, seconds, chunks=True)):
        why = f"the sound ends after {seconds:.1f} s, but {rest:,} bytes follow"
        raise AudioError(path, f"cannot be decoded: {why}")


def _batches(frames: Iterator[av.AudioFrame]) -> Blocks:
    """Join frames of one form to blocks of floats."""
    forms = groupby(frames, lambda f: (f.sample_rate, f.layout.nb_channels, f.format.name))
    for (rate, channels, _), run in forms:
        # Packed: of planes PyAV 18.1 reads no more than 8, and ends the process at the ninth.
        joined = av.AudioResampler("flt", frame_size=_block(rate, channels))
        for frame in chain(run, [None]):
            for block in joined.resample(frame):
                yield rate, block.to_ndarray().reshape(-1, channels)


def _resampled(blocks: Blocks) -> Iterator[np.ndarray]:
    """Bring blocks to 16 kHz: the numbers of `librosa.resample` for all blocks of one rate."""
    for rate, run in groupby(blocks, lambda block: block[0]):
        if rate == SAMPLE_RATE:
            yield from (y for _, y in run)
        else:
            stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
            due = 0
            for _, y in run:
                part = stream.resample_chunk(y)
                due += len(y) * SAMPLE_RATE - len(part) * rate
                yield part
            last = stream.resample_chunk(np.empty(0, np.float32), last=True)
            yield librosa.util.fix_length(last, size=max(0, -(-due // rate)))  # as `resample` does


def _first(blocks: Blocks, duration: float | None) -> np.ndarray:
    """First ``duration`` seconds (None: all) at 16 kHz, float32 [n]; no further blocks are read."""
    wanted = round((LONGEST + 1 if duration is None else duration) * SAMPLE_RATE)
    parts, n = [], 0
    for part in _resampled(blocks):
        parts.append(part)
        if (n := n + len(part)) >= wanted:
            break
    return np.concatenate(parts)[:wanted]


def decode(path: str | Path, duration: float | None = None) -> np.ndarray:
    """Read a file as one channel at 16 kHz, float32 [n]: channels averaged, then resampled (soxr).

    What lies behind ``duration`` seconds is neither decoded nor checked. AudioError: the file is
    missing, empty, unreadable, not audio, cut off, damaged, or holds values that no sound has.
    """
    return _listen(path, lambda blocks: _first(blocks(), duration))


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
    (``fill="repeat"``, our reading of "concatenate") or followed by silence (``"zeros"``). ``y`` is
    [n] at 16 kHz, the result float32 [duration * 16000]. ValueError: less than ``min_duration`` (s)
    is left, or silence (a constant is); its text says. UsageError: ``fill``.
    """
    n, y = round(duration * SAMPLE_RATE), y[round(offset * SAMPLE_RATE) :]
    if len(y) < min_duration * SAMPLE_RATE:
        left = f"{len(y) / SAMPLE_RATE:.1f} s" + f" after {offset:g} s" * bool(offset)
        raise ValueError(f"too short: {left}, {min_duration:g} s needed")
    if fill == "repeat":
        y = np.resize(y, n) if len(y) < n else y[:n]
    elif fill == "zeros":
        y = librosa.util.fix_length(y, size=n)
    else:
        raise UsageError(f"unknown fill {fill!r}: one of repeat, zeros")
    peak = max(y.max(), -y.min())
    # Under -100 dB: less than one step of 16 bits. And what moves by less than 5 peaks a second
    # makes no tone: a constant, a step, a click (20 s of real clips: 1,800 peaks and more).
    if peak < 1e-5 or np.abs(np.diff(y)).sum() < 5 * peak * duration:
        raise ValueError("silent")
    return (y / peak).astype(np.float32, copy=False)


def load_clip(
    path: str | Path, *, offset: float = 0.0, duration: float = 20.0, **how: float | str
) -> np.ndarray:
    """Decode what is needed of a file and `cut` it (``how``); `AudioError` where either refuses."""
    y = decode(path, duration=offset + duration)
    try:
        return cut(y, offset=offset, duration=duration, **how)
    except ValueError as error:
        raise AudioError(path, str(error)) from None


def check(path: str | Path) -> tuple[float, str]:
    """Decode all of a file: the seconds heard (NaN: none), and "ok" or why it cannot be used."""

    def use(decode: Callable[[], Blocks]) -> tuple[float, np.ndarray]:
        heard: Counter[int] = Counter()  # samples of each rate

        def counted() -> Blocks:
            for rate, y in decode():
                heard[rate] += len(y)
                yield rate, y

        blocks = counted()
        start = _first(blocks, paper.AUDIO["duration"])
        deque(blocks, 0)
        return sum(n / rate for rate, n in heard.items()), start

    try:
        seconds, start = _listen(path, use)
    except AudioError as error:
        return float("nan"), error.reason
    try:
        cut(start)
    except ValueError as error:
        return seconds, str(error)
    return seconds, "ok"


def windows(path: str | Path) -> Iterator[tuple[float, np.ndarray]]:
    """Cut a file into windows as long as the training clips, with about a minute in memory.

    Windows start every `HOP` seconds; one more ends with the file, so that all of it is heard.
    Yields each window's start (s) and sound: one channel at 16 kHz, not scaled, float32, of 20 s or
    (all of a shorter file) less. AudioError as from `decode`, also in the middle of the file.
    """

    def heard(blocks: Callable[[], Blocks]) -> Callable[[], Blocks]:
        deque(blocks(), 0)  # all of it, before any is used
        return blocks

    size, step = round(paper.AUDIO["duration"] * SAMPLE_RATE), round(HOP * SAMPLE_RATE)
    kept, start = np.empty(0, np.float32), 0  # start: of what is kept; kept: what is still needed
    following = 0  # start of the next window
    for part in _resampled(_listen(path, heard)()):
        kept = np.concatenate([kept, part])
        end = start + len(kept)
        for at in range(following, end - size + 1, step):
            yield at / SAMPLE_RATE, kept[at - start : at - start + size]
            following = at + step
        # The next window begins before the last full one ends; that end may be the file's.
        drop = max(0, min(following - step, end - size) - start)
        kept, start = kept[drop:], start + drop
    last = max(0, end - size)
    if following == 0 or last > following - step:
        yield last / SAMPLE_RATE, kept[last - start :]
