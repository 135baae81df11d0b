"""The demo corpus: music composed and rendered on the machine, from pip packages alone.

It shows that the pipeline works; it says nothing about real music. The rules are data
(``demo_genres.yml``). An invented artist draws lasting traits from its genre's rules; a track draws
the rest from the artist's habits; then its notes are written, rendered and mixed. Every draw is
seeded by what it is for: a file depends on the seed, its artist and its number alone, and is
bit-identical on repeat on one machine.
"""

import io
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import midirenderer
import numpy as np
import pandas as pd
import pretty_midi
import soundfile
import yaml
from scipy import signal

from genre_utils.data.audio import SAMPLE_RATE
from genre_utils.runtime import GenreUtilsError, UsageError, each
from genre_utils.store import code_digest, digest, read_json, write_atomic, write_json, write_text

RULES = yaml.safe_load(Path(__file__).with_name("demo_genres.yml").read_text(encoding="utf-8"))
GENRES = RULES["genres"]
SIZE = dict(genres=tuple(GENRES), artists_per_genre=5, tracks_per_artist=3, clips_per_track=2)
LARGE = dict(artists_per_genre=61, tracks_per_artist=3, clips_per_track=3)  # the paper's 9 x 549
MOST = 99
ALBUMS = 2
CLIP_S = 29
SLOT_S = 31  # each clip lies somewhere in its own stretch of the track
FORM = "AABA"
SECTION_S = 12.0  # shortest section in seconds
PHRASE = 4  # bars after which a tune starts again
FAVOURITES = 2  # options of each list that an artist uses
LIKELIER = 1.7
BORROWS = 0.35  # chance that an artist has one instrument of a neighbouring genre


def seeded(*what: str | int) -> np.random.Generator:
    """Random numbers that depend on ``what`` they are for alone."""
    return np.random.default_rng(int(digest(list(what))[:16], 16))


@dataclass(frozen=True)
class Artist:
    """Lasting traits: what all tracks of one invented artist share.

    ``programs`` and ``balance`` (velocity) go by role; ``keys`` are semitones from C; ``pace`` is
    a place in the genre's tempo range (0..1); ``looseness`` is in seconds.
    """

    seed: int
    genre: str
    name: str
    programs: dict[str, int]
    balance: dict[str, float]
    keys: tuple[int, ...]
    pace: float
    looseness: float
    mix: dict[str, Any]

    def seeded(self, *what: str | int) -> np.random.Generator:
        """Random numbers for one purpose of this artist."""
        return seeded(self.seed, self.genre, self.name, *what)


@dataclass(frozen=True)
class Part:
    """One role in one track: its instrument and how it plays."""

    role: str
    program: int
    level: float
    presence: float
    pattern: dict[str, str] | None = None
    octave: int = 4
    gate: float = 1.0
    rest: float = 0.0
    grace: float = 0.0
    pick: str = "block"
    rhythm: str = "hold"


@dataclass(frozen=True)
class Track:
    """Everything decided before the first note; ``rules`` names the genre it follows."""

    artist: Artist
    number: int
    rules: str
    tempo: float
    steps: int
    swing: float
    key: int
    scale: list[int]
    harmony: list[int]
    voicing: list[int]
    progression: list[int]
    bars_per_chord: int
    dynamics: tuple[float, float]
    parts: tuple[Part, ...]

    @property
    def step_s(self) -> float:
        """Length of a sixteenth in seconds."""
        return 15.0 / self.tempo

    def chord(self, bar: int) -> list[int]:
        """Chord of a bar, in semitones above the key note."""
        root = self.progression[bar // self.bars_per_chord % len(self.progression)]
        return [semitones(self.harmony, root + step) for step in self.voicing]


def draw_artist(seed: int, genre: str, index: int) -> Artist:
    """Invent the ``index``-th artist of a genre; behind the list's end its names are numbered."""
    rules, names = GENRES[genre], GENRES[genre]["artists"]
    name = names[index % len(names)] + f" {index // len(names) + 1}" * (index >= len(names))
    rng = seeded(seed, genre, name)
    programs = {}
    for other in [*rules["neighbours"], genre]:  # a neighbour's where the genre lacks the role
        parts = GENRES[other]["parts"]
        programs |= {role: _program(part, rng) for role, part in parts.items()}
    if rng.random() < BORROWS:
        parts = GENRES[str(rng.choice(list(rules["neighbours"])))]["parts"]
        role = str(rng.choice(list(parts)))
        programs[role] = _program(parts[role], rng)
    mix = {name: float(rng.uniform(low, high)) for name, (low, high) in rules["mix"].items()}
    return Artist(
        seed=seed,
        genre=genre,
        name=name,
        programs=programs,
        balance={role: float(rng.normal(0, 6)) for role in programs},
        keys=tuple(int(key) for key in rng.choice(np.arange(-6, 6), 3, replace=False)),
        pace=float(rng.uniform(0.1, 0.9)),
        looseness=float(rng.uniform(0.001, 0.018)),
        mix=mix | {"bands": rng.normal(0, 1.2, 8).tolist()},
    )


def draw_track(artist: Artist, number: int) -> Track:
    """Decide the ``number``-th track: mostly the artist's genre, sometimes a neighbouring one."""
    rng = artist.seeded("track", number)
    chances = GENRES[artist.genre]["neighbours"]
    names = [*chances, artist.genre]
    genre = str(rng.choice(names, p=[*chances.values(), 1 - sum(chances.values())]))
    rules = GENRES[genre]

    def one(what: str, options: Sequence) -> Any:  # noqa: ANN401
        usual = artist.seeded(f"{genre} {what}").permutation(len(options))[:FAVOURITES]
        return options[usual[rng.integers(len(usual))]]

    low, high = rules["tempo"]
    mode = one("modes", rules["modes"])
    return Track(
        artist=artist,
        number=number,
        rules=genre,
        tempo=low + (high - low) * float(np.clip(artist.pace + rng.normal(0, 0.08), 0, 1)),
        steps=round(4 * one("metre", rules["metre"])),
        swing=one("swing", rules["swing"]),
        key=artist.keys[rng.integers(len(artist.keys))],
        scale=RULES["scales"][mode],
        harmony=RULES["scales"][RULES["harmony"].get(mode, mode)],
        voicing=RULES["chords"][one("chords", rules["chords"])],
        progression=one("progressions", rules["progressions"]),
        bars_per_chord=one("bars_per_chord", rules["bars_per_chord"]),
        dynamics=tuple(rules["dynamics"]),
        parts=tuple(_part(artist, role, part, one) for role, part in rules["parts"].items()),
    )


def titles(artist: Artist, n: int) -> list[str]:
    """Invent ``n`` different titles for an artist's tracks and albums."""
    first, second = RULES["titles"]["first"], RULES["titles"]["second"]
    rng = artist.seeded("titles")
    picked = rng.choice(len(first) * len(second), n, replace=False)
    return [f"{first[i // len(second)]} {second[i % len(second)]}" for i in picked]


def _program(part: dict, rng: np.random.Generator) -> int:
    """Draw an instrument; each is `LIKELIER` times as likely as the next in the list."""
    weights = LIKELIER ** -np.arange(float(len(part["programs"])))
    return int(rng.choice(part["programs"], p=weights / weights.sum()))


def _part(artist: Artist, role: str, rules: dict, one: Any) -> Part:  # noqa: ANN401
    lists = {name: rules[name] for name in ("pick", "rhythm") if name in rules}
    drawn = {name: one(f"{role} {name}", options) for name, options in lists.items()}
    if "patterns" in rules:
        drawn["pattern"] = RULES["patterns"][one("patterns", rules["patterns"])]
    fixed = {name: rules[name] for name in ("octave", "gate", "rest", "grace") if name in rules}
    level = rules["level"] + artist.balance[role]
    return Part(role, artist.programs[role], level, rules["presence"], **fixed, **drawn)


def semitones(scale: list[int], degree: int) -> int:
    """Semitones from the key note to a scale degree, which may lie in any octave."""
    return scale[degree % len(scale)] + 12 * (degree // len(scale))


def compose(track: Track, length: float) -> pretty_midi.PrettyMIDI:
    """Write the notes of at least ``length`` seconds, an instrument for each role that plays."""
    rng = track.artist.seeded("notes", track.number)
    bars = math.ceil(length / (track.steps * track.step_s)) + 1
    section = len(track.progression) * track.bars_per_chord
    section *= math.ceil(SECTION_S / (section * track.steps * track.step_s))
    letters = [FORM[bar // section % len(FORM)] for bar in range(bars)]
    marks = rng.uniform(*track.dynamics, bars // section + 2)
    swell = np.interp(np.arange(bars), section * np.arange(len(marks)), marks)
    ever_present = max(track.parts, key=lambda part: part.presence)
    score = pretty_midi.PrettyMIDI()
    for part in track.parts:
        plays = {x: part is ever_present or rng.random() < part.presence for x in "AB"}
        tunes = {x: _tune(part.rest, rng) for x in "AB"}
        voice = pretty_midi.Instrument(part.program, part.role == "drums", part.role)
        for bar, letter in enumerate(letters):
            events = _events(track, part, bar, tunes[letter], rng) if plays[letter] else []
            for step, lasts, pitch, loudness in events:
                late = 2 * track.swing if step % 4 == 2 else 0.0
                start = (bar * track.steps + step + late) * track.step_s
                start = max(0.0, start + rng.normal(0, track.artist.looseness))
                end = start + max(lasts * track.step_s, 0.05)
                velocity = part.level * swell[bar] * loudness + rng.normal(0, 4)
                velocity = int(np.clip(velocity, 12, 127))
                voice.notes.append(pretty_midi.Note(velocity, pitch, start, end))
        if voice.notes:
            score.instruments.append(voice)
    return score


def _bar_of(rhythm: str, bar: int, steps: int) -> list[tuple[int, float]]:
    text = rhythm[16 * (bar % (len(rhythm) // 16)) :][:steps]
    return [(step, RULES["loudness"][sign]) for step, sign in enumerate(text) if sign != "."]


def _events(
    track: Track, part: Part, bar: int, tune: list[int | None], rng: np.random.Generator
) -> list[tuple[float, float, int, float]]:
    """Start and length in sixteenths, pitch, velocity of a bar's notes."""
    if part.pattern:
        return [
            (step, 1.0, RULES["drums"][piece], loudness)
            for piece, rhythm in part.pattern.items()
            for step, loudness in _bar_of(rhythm, bar, track.steps)
        ]
    if part.rhythm == "hold":
        starts = [(0, 1.0)] if bar % track.bars_per_chord == 0 else []
        ends = [track.steps * track.bars_per_chord]
    else:
        starts = _bar_of(part.rhythm, bar, track.steps)
        ends = [step for step, _ in starts[1:]] + [track.steps]
    base = 12 * (part.octave + 1) + track.key
    count = bar % PHRASE * len(starts)  # place of the bar's first note in the phrase
    events = []
    for i, ((step, loudness), end) in enumerate(zip(starts, ends, strict=False)):
        length = (end - step) * part.gate
        if part.pick != "tune":
            pitches = _pick(track, part, bar, i, len(starts), rng)
        elif (degree := tune[(count + i) % len(tune)]) is None:
            continue
        else:
            pitch = semitones(track.scale, degree)
            if step % 8 == 0:  # strong beats take the nearest note of the chord
                tones = [tone % 12 + octave for tone in track.chord(bar) for octave in (-12, 0, 12)]
                _, pitch = min((abs(tone - pitch), tone) for tone in tones)
            pitches = [pitch]
        for pitch in pitches:
            events.append((step, length, base + pitch, loudness))
            if rng.random() < part.grace:
                events.append((step - 0.5, 0.5, base + pitch + track.scale[1], 0.8 * loudness))
    return events


def _pick(
    track: Track, part: Part, bar: int, i: int, n: int, rng: np.random.Generator
) -> list[int]:
    """Pitches of the ``i``-th of a bar's ``n`` onsets, in semitones above the part's base."""
    chord = track.chord(bar)
    root = chord[0] % 12
    close = sorted({tone % 12 for tone in chord})
    ladder = close + [tone + 12 for tone in close]
    there_and_back = ladder + ladder[-2:0:-1]
    if part.pick == "random":
        return [int(rng.choice(ladder))]
    if part.pick == "walk" and i == n - 1 and n > 1:  # lead into the next chord by a semitone
        return [track.chord(bar + 1)[0] % 12 + int(rng.choice([-1, 1]))]
    if part.pick == "walk" and i > 0:
        return [int(rng.choice(close))]
    return {
        # Low voices keep the chord's own spacing, high ones stay close together.
        "block": [root + tone - chord[0] for tone in chord] if part.octave < 4 else close,
        "up": [ladder[i % len(ladder)]],
        "updown": [there_and_back[(bar % 2 * n + i) % len(there_and_back)]],
        "fifth": [root + 7 * (i % 2)],
        "octave": [root + 12 * (i % 2)],
        "drone": [0, 7],
        "root": [root],
        "walk": [root],
    }[part.pick]


def _tune(rest: float, rng: np.random.Generator) -> list[int | None]:
    """Scale degrees of a phrase, None for a rest: a random walk folded into -3..9."""
    walk = np.cumsum(rng.choice(RULES["tune_moves"], 24)) % 24
    silent = rng.random(len(walk)) < rest
    return [None if q else int(min(d, 24 - d)) - 3 for d, q in zip(walk, silent, strict=True)]


def load(folder: str | Path) -> pd.DataFrame:
    """Read the clip table of a finished corpus; `GenreUtilsError` where there is none."""
    path = Path(folder) / "clips.csv"
    if not path.is_file():
        raise GenreUtilsError(f"no demo corpus in {folder}; make it with demo.make_corpus(folder)")
    return pd.read_csv(path, keep_default_na=False)


def make_corpus(
    folder: str | Path, seed: int = 0, jobs: int = 2, **size: int | tuple[str, ...]
) -> pd.DataFrame:
    """Compose and render what is not there yet; return the clip table, sorted by ``clip_id``.

    An interrupted corpus is continued; one made by other code, another seed or size is made anew.
    ``folder``, where clips.csv and ``<genre>/<artist>/*.flac`` (29 s, 16 kHz, mono, 16 bits) go,
    is new, empty or an earlier demo corpus. The result does not depend on ``jobs``, the processes
    that render at once. ``size`` are values other than those of `SIZE`; UsageError where one is
    not possible. GenreUtilsError: the folder cannot be written, or holds something else.
    """
    folder, size = Path(folder), SIZE | size
    unknown = [*(size.keys() - SIZE.keys()), *(set(size["genres"]) - GENRES.keys())]
    if unknown:
        raise UsageError(f"demo corpus: unknown {unknown[0]!r}; sizes are {', '.join(SIZE)}")
    for name in ("artists_per_genre", "tracks_per_artist"):
        if not 1 <= size[name] <= MOST:
            raise UsageError(f"demo corpus: {name}={size[name]}; choose 1 to {MOST}")
    size["genres"] = list(size["genres"])
    tracks = [
        (artist, number, _rows(artist, index, number, size))
        for genre in size["genres"]
        for index in range(size["artists_per_genre"])
        for artist in [draw_artist(seed, genre, index)]
        for number in range(size["tracks_per_artist"])
    ]
    clips = pd.DataFrame([row for *_, rows in tracks for row in rows]).sort_values("clip_id")
    key = {"seed": seed, "size": size, "rules": digest(RULES), "code": code_digest(make_corpus)}
    try:
        _prepare(folder, key)
        todo = [
            (folder, artist, number, rows)
            for artist, number, rows in tracks
            if not all((folder / row["path"]).is_file() for row in rows)
        ]
        text = clips.to_csv(index=False, lineterminator="\n")
        table = folder / "clips.csv"
        # A finished corpus may lie on a read-only disk. The table comes last: it says finished.
        if todo or not (table.is_file() and table.read_bytes() == text.encode()):
            each(_render_track, todo, jobs=jobs, desc="demo corpus", unit="track")
            write_text(table, text)
    except OSError as error:
        raise GenreUtilsError(
            f"cannot write the demo corpus into {folder}: {error.strerror or error}; "
            "name another folder"
        ) from None
    return load(folder)


def render(score: pretty_midi.PrettyMIDI) -> np.ndarray:
    """Sound of a score through pretty_midi's SoundFont: float32 [n], 16 kHz, not scaled."""
    midi = io.BytesIO()
    score.write(midi)
    soundfont = Path(pretty_midi.__file__).with_name("TimGM6mb.sf2").read_bytes()
    wave = midirenderer.render_wave_from(soundfont, midi.getvalue())
    y, sr = soundfile.read(io.BytesIO(wave), dtype="float32")
    return librosa.resample(y.mean(axis=1), orig_sr=sr, target_sr=SAMPLE_RATE)


def mix_down(y: np.ndarray, artist: Artist, number: int) -> np.ndarray:
    """Give a rendered track y [n] its artist's studio sound: float32 [n], peak below 1.

    Distortion, noise floor, equalisation, reverberation, compression and level, in that order.
    """
    mix = artist.mix
    y = y / np.sqrt(np.mean(y**2))
    y = np.tanh(mix["drive"] * y) / mix["drive"] if mix["drive"] > 0.05 else y
    hiss = artist.seeded("hiss", number).normal(0, 10 ** (mix["noise"] / 20), len(y))
    # Gains of the equaliser in dB: ``tilt`` an octave around 800 Hz, plus one for each band.
    edges = np.array(RULES["bands"])
    gains = mix["tilt"] * np.log2(edges / 800) + np.array(mix["bands"])
    gains = 10 ** (np.concatenate([gains[:1], gains]) / 20)
    equaliser = signal.firwin2(1023, [0, *edges], gains, fs=SAMPLE_RATE)
    y = signal.fftconvolve(y + hiss, equaliser, mode="same")
    # The room's impulse response, of unit energy, falls by 60 dB in ``reverb`` seconds.
    t = np.arange(round(mix["reverb"] * SAMPLE_RATE)) / SAMPLE_RATE
    tail = artist.seeded("room").normal(size=len(t)) * 10 ** (-3 * t / mix["reverb"])
    y = y + mix["wet"] * signal.fftconvolve(y, tail / np.sqrt(np.sum(tail**2)))[: len(y)]
    # The loudness followed over 0.1 s is held back, by ``ratio`` in dB, and the peaks rounded off.
    pole = np.exp(-1 / (0.1 * SAMPLE_RATE))
    power = signal.lfilter([1 - pole], [1, -pole], y**2)
    y = y * np.maximum(power / power.mean(), 1e-3) ** ((1 / mix["ratio"] - 1) / 2)
    ceiling = 8 / np.sqrt(mix["ratio"]) * np.sqrt(np.mean(y**2))
    y = ceiling * np.tanh(y / ceiling)
    level = artist.seeded("level").uniform(0.5, 0.97)
    return (level * y / np.abs(y).max()).astype(np.float32)


def _prepare(folder: Path, key: dict) -> None:
    """Leave ``folder`` holding files of this key only; touch nothing that is not a demo corpus."""
    marker = folder / "made.json"
    if marker.is_file():
        if read_json(marker) == key:
            return
        (folder / "clips.csv").unlink(missing_ok=True)
        for path in [p for genre in GENRES for p in (folder / _slug(genre)).glob("*/*.flac")]:
            path.unlink()
    elif folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something else; name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, key)


def _rows(artist: Artist, index: int, number: int, size: dict) -> list[dict]:
    """Rows of the clip table for one track."""
    n_tracks, n_clips = size["tracks_per_artist"], size["clips_per_track"]
    names = titles(artist, ALBUMS + n_tracks)
    albums = [i * ALBUMS // n_tracks for i in range(n_tracks)]
    album, title = names[albums[number]], names[ALBUMS + number]
    place = albums[: number + 1].count(albums[number])
    where = f"{_slug(artist.genre)}/{_slug(artist.name)}/{album}-{place:02d}-{title}"
    shift = artist.seeded("cut", number)
    starts = [SLOT_S * i + int(shift.integers(SLOT_S - CLIP_S + 1)) for i in range(n_clips)]
    return [
        {
            "clip_id": f"{_slug(artist.genre)}-a{index + 1}-t{number + 1}-c{i}",
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
    y = render(compose(draw_track(artist, number), length))
    y = mix_down(y[: length * SAMPLE_RATE], artist, number)
    for row in rows:
        start = int(row["start_s"]) * SAMPLE_RATE
        content = io.BytesIO()
        clip = y[start : start + CLIP_S * SAMPLE_RATE]
        soundfile.write(content, clip, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        write_atomic(folder / row["path"], lambda p, c=content: p.write_bytes(c.getbuffer()))


def _slug(text: str) -> str:
    """Lower-case ASCII with underscores, for folder names that every file system takes."""
    plain = unicodedata.normalize("NFKD", text.replace("ø", "o").replace("æ", "ae"))
    return re.sub(r"[^a-z0-9]+", "_", plain.encode("ascii", "ignore").decode().lower()).strip("_")
