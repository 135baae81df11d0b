"""The demo corpus: music composed and rendered on the machine, from pip packages alone.

It shows that the pipeline works; it says nothing about real music. Every file depends on the seed,
its artist and its number alone, and is bit-identical on repeat on one machine.
"""

import io
import json
import re
import sys
import unicodedata
from functools import cache
from importlib.metadata import version
from pathlib import Path

import librosa
import midirenderer
import numpy as np
import pandas as pd
import pretty_midi
import soundfile
from joblib import Parallel, delayed
from scipy import signal

from genre_utils.data import demo_artists, demo_music
from genre_utils.data.demo_artists import (
    GENRES,
    RULES,
    Artist,
    draw_artist,
    draw_track,
    seeded,
    titles,
)
from genre_utils.errors import GenreUtilsError, UsageError
from genre_utils.extraction.audio import SAMPLE_RATE
from genre_utils.progress import progress
from genre_utils.store import code_version, digest, write_atomic, write_json, write_text

LABEL = "demo corpus (synthesised)"
CLIP_S = 29
SLOT_S = 31  # each clip lies somewhere in its own stretch of the track
ALBUMS = 2
SIZE = {
    "genres": tuple(GENRES), "artists_per_genre": 5, "tracks_per_artist": 3, "clips_per_track": 2,
}  # fmt: skip
BANDS = (0, 60, 150, 350, 800, 1800, 3500, 6000, 8000)  # Hz, corners of an artist's equaliser
LIBRARIES = ("pretty_midi", "midirenderer", "librosa", "soxr", "scipy", "numpy", "soundfile")
KEY_FILE = "made.json"


def load(folder: str | Path) -> pd.DataFrame:
    """Read the clip table of a finished corpus.

    Raises
    ------
    GenreUtilsError
        There is none in ``folder``.
    """
    path = Path(folder) / "clips.csv"
    if not path.is_file():
        raise GenreUtilsError(f"no demo corpus in {folder}; make it with demo.make_corpus(folder)")
    return pd.read_csv(path, keep_default_na=False)


def make_corpus(
    folder: str | Path, seed: int = 0, jobs: int = 2, **size: int | tuple[str, ...]
) -> pd.DataFrame:
    """Compose and render what is not there yet.

    The clip table is written last, so an interrupted corpus is continued; one made by other code,
    another seed or size is made anew.

    Parameters
    ----------
    folder : str or Path
        Where clips.csv and ``<genre>/<artist>/*.flac`` (29 s, 16 kHz, mono, 16 bits) go; new,
        empty, or an earlier demo corpus.
    jobs : int
        Processes that render at once; the result does not depend on it.
    **size
        Any of ``genres``, ``artists_per_genre``, ``tracks_per_artist``, ``clips_per_track`` other
        than in `SIZE`.

    Returns
    -------
    pd.DataFrame
        The clip table, sorted by ``clip_id``.

    Raises
    ------
    GenreUtilsError
        The folder cannot be written, or holds something else.
    UsageError
        A size that is not possible.
    """
    folder, size = Path(folder), _checked(SIZE | size)
    tracks = [
        (artist, number, _rows(artist, number, size))
        for genre in size["genres"]
        for artist in (draw_artist(seed, genre, i) for i in range(size["artists_per_genre"]))
        for number in range(size["tracks_per_artist"])
    ]
    clips = pd.DataFrame([row for *_, rows in tracks for row in rows]).sort_values("clip_id")
    _prepare(folder, {"seed": seed, "size": size, "code": _code(), "libraries": _versions()})
    todo = [
        delayed(_render_track)(folder, artist, number, rows)
        for artist, number, rows in tracks
        if not all((folder / row["path"]).is_file() for row in rows)
    ]
    if todo or not (folder / "clips.csv").is_file():  # a finished one may lie on a read-only disk
        try:
            done = Parallel(n_jobs=jobs, return_as="generator_unordered")(todo)
            for _ in progress(done, "demo corpus", total=len(todo), unit="track"):
                pass
            write_text(folder / "clips.csv", clips.to_csv(index=False, lineterminator="\n"))
        except OSError as error:
            raise _cannot_write(folder, error) from None
    return load(folder)


def render(score: pretty_midi.PrettyMIDI) -> np.ndarray:
    """Sound of a score through pretty_midi's SoundFont.

    Returns
    -------
    np.ndarray [shape=(n,), dtype=float32]
        One channel at 16 kHz, unscaled.
    """
    midi = io.BytesIO()
    score.write(midi)
    wave = midirenderer.render_wave_from(_soundfont(), midi.getvalue())
    y, sr = soundfile.read(io.BytesIO(wave), dtype="float32")
    return librosa.resample(y.mean(axis=1), orig_sr=sr, target_sr=SAMPLE_RATE)


def mix_down(y: np.ndarray, artist: Artist, number: int) -> np.ndarray:
    """Give a rendered track its artist's studio sound.

    Distortion, noise floor, equalisation, reverberation, compression and level, in that order.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]

    Returns
    -------
    np.ndarray [shape=(n,), dtype=float32]
        Peak below 1.
    """
    mix, name = artist.mix, (artist.seed, artist.genre, artist.name)
    y = y / np.sqrt(np.mean(y**2))
    y = np.tanh(mix["drive"] * y) / mix["drive"] if mix["drive"] > 0.05 else y
    hiss = seeded(*name, "hiss", number).normal(0, 10 ** (mix["noise"] / 20), len(y))
    y = signal.fftconvolve(y + hiss, _equaliser(mix["tilt"], mix["bands"]), mode="same")
    y = y + mix["wet"] * signal.fftconvolve(y, _room(mix["reverb"], name))[: len(y)]
    y = _compress(y, mix["ratio"])
    level = seeded(*name, "level").uniform(0.5, 0.97)
    return (level * y / np.abs(y).max()).astype(np.float32)


def _checked(size: dict) -> dict:
    unknown = [*(size.keys() - SIZE.keys()), *(set(size["genres"]) - GENRES.keys())]
    if unknown:
        raise UsageError(f"demo corpus: unknown {unknown[0]!r}; sizes are {', '.join(SIZE)}")
    most = min(len(GENRES[genre]["artists"]) for genre in GENRES)
    for name, limit in (("artists_per_genre", most), ("tracks_per_artist", 99)):
        if not 1 <= size[name] <= limit:
            raise UsageError(f"demo corpus: {name}={size[name]}; choose 1 to {limit}")
    return size | {"genres": list(size["genres"])}


def _code() -> str:
    return digest([code_version(sys.modules[__name__], demo_artists, demo_music), RULES])[:16]


def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _prepare(folder: Path, key: dict) -> None:
    """Leave ``folder`` holding files of this key only; touch nothing that is not a demo corpus."""
    marker = folder / KEY_FILE
    try:
        if marker.is_file():
            if json.loads(marker.read_text(encoding="utf-8")) == key:
                return
            (folder / "clips.csv").unlink(missing_ok=True)
            for genre in GENRES:
                for path in (folder / _slug(genre)).glob("*/*.flac"):
                    path.unlink()
        elif folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} holds something else; name a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(marker, key)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _cannot_write(folder: Path, error: OSError) -> GenreUtilsError:
    reason = error.strerror or error
    return GenreUtilsError(
        f"cannot write the demo corpus into {folder}: {reason}; name another folder"
    )


def _rows(artist: Artist, number: int, size: dict) -> list[dict]:
    """Rows of the clip table for one track."""
    n_tracks, n_clips = size["tracks_per_artist"], size["clips_per_track"]
    names = titles(artist, ALBUMS + n_tracks)
    albums = [i * ALBUMS // n_tracks for i in range(n_tracks)]
    album, title = names[albums[number]], names[ALBUMS + number]
    place = albums[: number + 1].count(albums[number])
    index = GENRES[artist.genre]["artists"].index(artist.name) + 1
    where = f"{_slug(artist.genre)}/{_slug(artist.name)}/{album}-{place:02d}-{title}"
    shift = seeded(artist.seed, artist.genre, artist.name, "cut", number)
    starts = [SLOT_S * i + int(shift.integers(SLOT_S - CLIP_S + 1)) for i in range(n_clips)]
    return [
        {
            "clip_id": f"{_slug(artist.genre)}-a{index}-t{number + 1}-c{i}",
            "path": f"{where}-{start}-{start + CLIP_S}.flac",
            "dataset": "demo",
            "genre": artist.genre,
            "artist": artist.name,
            "album": album,
            "track": title,
            "start_s": float(start),
            "duration_s": float(CLIP_S),
            "status": "ok",
        }
        for i, start in enumerate(starts, 1)
    ]


def _render_track(folder: Path, artist: Artist, number: int, rows: list[dict]) -> None:
    length = len(rows) * SLOT_S
    y = render(demo_music.compose(draw_track(artist, number), length))
    y = mix_down(y[: length * SAMPLE_RATE], artist, number)
    for row in rows:
        start = int(row["start_s"]) * SAMPLE_RATE
        content = io.BytesIO()
        clip = y[start : start + CLIP_S * SAMPLE_RATE]
        soundfile.write(content, clip, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        write_atomic(folder / row["path"], lambda p, c=content: p.write_bytes(c.getbuffer()))


@cache
def _soundfont() -> bytes:
    return Path(pretty_midi.__file__).with_name("TimGM6mb.sf2").read_bytes()


def _equaliser(tilt: float, bands: list[float]) -> np.ndarray:
    """Finite impulse response from gains in dB: ``tilt`` an octave around 800 Hz plus ``bands``."""
    edges = np.array(BANDS[1:])
    gains = tilt * np.log2(edges / 800) + np.array(bands)
    gains = np.concatenate([gains[:1], gains])
    return signal.firwin2(1023, BANDS, 10 ** (gains / 20), fs=SAMPLE_RATE)


def _room(seconds: float, name: tuple) -> np.ndarray:
    """Impulse response of unit energy that falls by 60 dB in ``seconds``."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = seeded(*name, "room").normal(size=len(t)) * 10 ** (-3 * t / seconds)
    return tail / np.sqrt(np.sum(tail**2))


def _compress(y: np.ndarray, ratio: float) -> np.ndarray:
    """Hold back the loudness followed over 0.1 s, by ``ratio`` in dB; round off the peaks."""
    pole = np.exp(-1 / (0.1 * SAMPLE_RATE))
    power = signal.lfilter([1 - pole], [1, -pole], y**2)
    gain = np.maximum(power / power.mean(), 1e-3) ** ((1 / ratio - 1) / 2)
    y = y * gain
    ceiling = 8 / np.sqrt(ratio) * np.sqrt(np.mean(y**2))
    return ceiling * np.tanh(y / ceiling)


def _slug(text: str) -> str:
    """Lower-case ASCII with underscores, for folder names that every file system takes."""
    plain = unicodedata.normalize("NFKD", text.replace("ø", "o").replace("æ", "ae"))
    return re.sub(r"[^a-z0-9]+", "_", plain.encode("ascii", "ignore").decode().lower()).strip("_")
