"""Damaged sound files beside good ones: each is used or refused, whatever is in it.

`python tests/fuzz_audio.py --mutants 1200 --seed 1` prints what became of them; exit code 1 if one
ended or held up its process, took more than 2 GB, or was given an answer that is no sound.
"""

import argparse
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile

SECONDS = 4.0
LIMIT = 30.0  # seconds that one file may take
MEMORY = 2**31  # bytes
CLAIMS = (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 2**64 - 1)


def sound(rate: int = 16000, channels: int = 1) -> np.ndarray:
    """Make a tone in noise, float32 [n, channels]."""
    t = np.arange(round(SECONDS * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.05, t.size)
    y = 0.3 * np.sin(2 * np.pi * 440 * t) * (1 + np.sin(2 * np.pi * 3 * t)) / 2 + noise
    return np.repeat(y.astype(np.float32)[:, None], channels, axis=1)


def with_ffmpeg(name: str, codec: str, *, rate: int = 44100, form: str = "", **how: str) -> bytes:
    """Encode `sound` with ffmpeg; ``form`` or ``name`` tells the container, ``how`` its options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        with av.open(str(path), "w", format=form or None, options=how) as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            stream.bit_rate = 128_000
            y = np.ascontiguousarray(sound(rate).T)
            frame = av.AudioFrame.from_ndarray(y, format="fltp", layout="mono")
            frame.sample_rate = rate
            size = stream.codec_context.frame_size or 4096
            parts = av.AudioResampler(stream.format.name, "mono", rate, size)
            for part in [*parts.resample(frame), *parts.resample(None)]:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        return path.read_bytes()


def with_libsndfile(
    format: str, subtype: str, rate: int = 16000, y: np.ndarray | None = None
) -> bytes:
    """Encode `sound`, or ``y``, with libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, sound(rate) if y is None else y, rate, format=format, subtype=subtype)
    return file.getvalue()


def originals() -> dict[str, bytes]:
    """Return good files: name -> content."""
    return {
        "pcm.wav": with_libsndfile("WAV", "PCM_16"),
        "float.wav": with_libsndfile("WAV", "FLOAT", 44100),
        "a.flac": with_libsndfile("FLAC", "PCM_16", 44100),
        "a.ogg": with_libsndfile("OGG", "VORBIS", 44100),
        "a.opus": with_libsndfile("OGG", "OPUS", 48000),
        "xing.mp3": with_libsndfile("MP3", "MPEG_LAYER_III", 44100),
        "plain.mp3": with_ffmpeg("a.mp3", "libmp3lame", write_xing="0"),
        "aac.m4a": with_ffmpeg("a.m4a", "aac"),
        "front.m4a": with_ffmpeg("a.m4a", "aac", movflags="faststart"),
        "a.au": with_libsndfile("AU", "PCM_16"),
        "a.aiff": with_libsndfile("AIFF", "PCM_16", 44100),
    }


def odd_ones() -> dict[str, bytes]:
    """Return files that are whole and cannot be used."""
    y = sound()
    values = {"nan": np.nan, "inf": np.inf, "huge": 1e38, "spike": 1e8}
    odd = {
        f"{name}.{kind}": with_libsndfile(
            kind.upper(), "FLOAT", 16000, np.where(np.arange(len(y))[:, None] == 9, value, y)
        )
        for name, value in values.items()
        for kind in ("wav", "aiff", "au")
    }
    odd |= {
        "dc.wav": with_libsndfile("WAV", "FLOAT", 44100, 0 * sound(44100) + 0.5),
        "empty.wav": b"",
    }
    odd |= {f"{rate} Hz.wav": with_libsndfile("WAV", "PCM_16", rate, y) for rate in (1, 2**31 - 1)}
    return odd


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``n`` damaged files: a name that tells what was done, and the content."""
    rng, whole = np.random.default_rng(seed), originals()
    names, others = list(whole), [b"<html>not a song</html>", bytes(200), b"ID3\4\0\0\0\0\0\x7f"]
    damages = (
        "cut",
        "bits",
        "head",
        "claim",
        "lost",
        "zeros",
        "again",
        "swap",
        "front",
        "tail",
        "two",
    )
    for i in range(n):
        name, damage = names[i % len(names)], damages[i // len(names) % len(damages)]
        content = whole[name]
        a, b = sorted(int(v) for v in rng.integers(0, len(content), 2))
        size = int(rng.integers(200, 5000))
        if damage == "cut":
            content = content[:b]
        elif damage in ("bits", "head"):
            flipped = bytearray(content)
            last = len(content) if damage == "bits" else 100
            for at in rng.integers(0, last, int(rng.integers(1, 12))):
                flipped[at] ^= 1 << int(rng.integers(8))
            content = bytes(flipped)
        elif damage == "claim":
            at, width = int(rng.integers(4, 80)), int(rng.choice([2, 4, 8]))
            value = CLAIMS[rng.integers(len(CLAIMS))] % 2 ** (8 * width)
            order = "big" if rng.integers(2) else "little"
            content = content[:at] + value.to_bytes(width, order) + content[at + width :]
        elif damage == "lost":
            content = content[:a] + content[a + size :]
        elif damage == "zeros":
            content = content[:a] + bytes(len(content[a : a + size])) + content[a + size :]
        elif damage == "again":
            content = content[: a + size] + content[a:]
        elif damage == "swap":
            content = content[:a] + content[b : b + size] + content[a:b] + content[b + size :]
        else:
            other = others[rng.integers(3)] * int(rng.integers(1, 20))
            other = rng.bytes(size) if rng.integers(2) else other
            if damage == "two":
                other, content = whole[names[rng.integers(len(names))]][b:], content[:a]
            content = other + content if damage == "front" else content + other
        yield f"{i:05d} {damage} {name}", content


def judge(path: Path) -> tuple[str, float]:
    """Listen to a file in all ways there are: what became of it, and the seconds heard.

    ValueError: an answer that is no sound, or a refusal without a reason.
    """
    from genre_utils.data import audio

    seconds, status = audio.check(path)
    heard, refusal = [], ""
    try:
        heard = [y for _, y in audio.windows(path)]
    except audio.AudioError as error:
        refusal = error.reason
    if status == "ok":
        clip, expected = audio.load_clip(path), max(1, np.ceil((seconds - 20) / 10) + 1)
        if refusal or len(heard) != expected or not all(np.isfinite(y).all() for y in heard):
            raise ValueError(f"{path.name}: two answers: {seconds} s, {len(heard)}, {refusal}")
        if clip.shape != (320000,) or not np.isfinite(clip).all() or np.abs(clip).max() != 1:
            raise ValueError(f"{path.name}: no sound")
    elif refusal not in ("", status) or not status or "\n" in status:
        raise ValueError(f"{path.name}: {status!r}, {refusal!r}")
    return status, seconds


def _work(tasks: multiprocessing.SimpleQueue, answers: multiprocessing.SimpleQueue) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while path := tasks.get():
        began = time.monotonic()
        try:
            status, seconds = judge(path)
        except Exception as error:
            status, seconds = f"wrong: {type(error).__name__}: {error}", 0.0
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.put((status, seconds, time.monotonic() - began, memory))


def listen(paths: list[Path]) -> list[tuple[str, float, float, int]]:
    """`judge` each file in a process apart: status, seconds heard, seconds taken, peak bytes."""
    context, results, worker = multiprocessing.get_context("spawn"), [], None
    for path in paths:
        if worker is None:
            tasks, answers = context.SimpleQueue(), context.SimpleQueue()
            worker = context.Process(target=_work, args=(tasks, answers), daemon=True)
            worker.start()
        tasks.put(path)
        began = time.monotonic()
        limit = LIMIT * (1 if results else 3)  # the first waits for the imports
        while answers.empty() and worker.is_alive() and time.monotonic() - began < limit:
            time.sleep(0.001)
        if not answers.empty():
            results.append(answers.get())
            continue
        fault = "hang" if worker.is_alive() else f"crash ({worker.exitcode})"
        results.append((f"wrong: {fault}", 0.0, time.monotonic() - began, 0))
        worker.kill()
        worker = None
    if worker:
        tasks.put(None)
        worker.join()
    return results


def fuzz(folder: Path, n: int, seed: int) -> tuple[list[str], list[tuple[str, str, float]], str]:
    """Listen to ``n`` mutants, the odd ones and the good ones: faults, answers, a summary."""
    good = originals()
    files = {f"good {i} {name}": c for i in range(2) for name, c in good.items()}
    files |= {f"odd {name}": c for name, c in odd_ones().items()} | dict(mutants(seed, n))
    files |= {"good many.wav": with_libsndfile("WAV", "PCM_16", 16000, sound(channels=64))}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    results = listen([folder / name for name in files])
    answers = [(name, *result[:2]) for name, result in zip(files, results, strict=True)]
    faults = [f"{name}: {status}" for name, status, _ in answers if status.startswith("wrong")]
    for name, status, seconds in answers:
        if name.startswith("good") and (status != "ok" or abs(seconds - SECONDS) > 0.1):
            faults.append(f"{name}: {status}, {seconds:.2f} s")
        if name.startswith("odd") and status == "ok":
            faults.append(f"{name}: used")
    memory = max(result[3] for result in results)
    slowest = max(result[2] for result in results)
    if memory > MEMORY:
        faults.append(f"{memory / 2**30:.1f} GB of memory")
    used = Counter(name.split()[1] for name, status, _ in answers if status == "ok")
    tried = Counter(name.split()[1] for name, *_ in answers if name[0].isdigit())
    table = ", ".join(f"{damage} {used[damage]}/{n}" for damage, n in tried.items())
    return (
        faults,
        answers,
        (
            f"{len(files)} files ({n} mutants, seed {seed}): {len(faults)} faults, "
            f"{sum(status == 'ok' for _, status, _ in answers)} used, slowest {slowest:.2f} s, "
            f"{memory / 2**20:.0f} MB; used of each damage: {table}"
        ),
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="every answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults, answers, summary = fuzz(Path(folder), options.mutants, options.seed)
    if options.show:
        print(*(f"{seconds:8.3f}  {name}: {status}" for name, status, seconds in answers), sep="\n")
    print(*faults, summary, sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
