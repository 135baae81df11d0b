"""Invented artists of the demo corpus and what is decided before a track's first note.

The rules are data (``demo_genres.yml``). An artist draws lasting traits from its genre's rules; a
track draws what is left from the artist's habits. Every draw is seeded by what it is for, so one
track is the same whatever else is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from genre_utils.store import digest

RULES_FILE = Path(__file__).with_name("demo_genres.yml")
RULES = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))
GENRES = RULES["genres"]
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

    def favourites(self, what: str, options: Sequence) -> list:
        """Return the few of ``options`` that this artist ever uses."""
        order = seeded(self.seed, self.genre, self.name, what).permutation(len(options))
        return [options[i] for i in order[:FAVOURITES]]


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
    """Invent the ``index``-th artist of a genre."""
    rules, name = GENRES[genre], GENRES[genre]["artists"][index]
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
    rng = seeded(artist.seed, artist.genre, artist.name, "track", number)
    chances = GENRES[artist.genre]["neighbours"]
    names = [*chances, artist.genre]
    genre = str(rng.choice(names, p=[*chances.values(), 1 - sum(chances.values())]))
    rules = GENRES[genre]

    def one(what: str, options: Sequence) -> Any:  # noqa: ANN401
        usual = artist.favourites(f"{genre} {what}", options)
        return usual[rng.integers(len(usual))]

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
    rng = seeded(artist.seed, artist.genre, artist.name, "titles")
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
