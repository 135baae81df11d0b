"""Composition of the demo corpus: a track's decisions become notes."""

import math

import numpy as np
import pretty_midi

from genre_utils.data.demo_artists import RULES, RULES_FILE, Part, Track, seeded, semitones

FORM = "AABA"
SECTION_S = 12.0  # shortest section in seconds
PHRASE = 4  # bars after which a tune starts again
LOUDNESS = {"X": 1.15, "x": 1.0, "o": 0.75}
STEPS = np.array([-3, -2, -1, -1, 0, 1, 1, 2, 3])  # a tune's moves in scale degrees

Event = tuple[float, float, int, float]  # start and length in sixteenths, pitch, velocity


def compose(track: Track, length: float) -> pretty_midi.PrettyMIDI:
    """Write the notes of at least ``length`` seconds.

    Returns
    -------
    pretty_midi.PrettyMIDI
        One instrument per role of the track, named after it; a role that never plays is absent.
    """
    rng = seeded(track.artist.seed, track.artist.genre, track.artist.name, "notes", track.number)
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
            if not plays[letter]:
                continue
            if part.pattern:
                events = _drum_events(track, part.pattern, bar)
            else:
                events = _tonal_events(track, part, bar, tunes[letter], rng)
            voice.notes += [_note(track, part.level * swell[bar], bar, e, rng) for e in events]
        if voice.notes:
            score.instruments.append(voice)
    return score


def _bar_of(rhythm: str, bar: int, steps: int) -> list[tuple[int, float]]:
    text = rhythm[16 * (bar % (len(rhythm) // 16)) :][:steps]
    return [(step, LOUDNESS[sign]) for step, sign in enumerate(text) if sign != "."]


def _drum_events(track: Track, pattern: dict[str, str], bar: int) -> list[Event]:
    return [
        (step, 1.0, RULES["drums"][piece], loudness)
        for piece, rhythm in pattern.items()
        for step, loudness in _bar_of(rhythm, bar, track.steps)
    ]


def _tonal_events(
    track: Track, part: Part, bar: int, tune: list[int | None], rng: np.random.Generator
) -> list[Event]:
    if part.rhythm == "hold":
        starts = [(0, 1.0)] if bar % track.bars_per_chord == 0 else []
        ends = [track.steps * track.bars_per_chord]
    else:
        starts = _bar_of(part.rhythm, bar, track.steps)
        ends = [step for step, _ in starts[1:]] + [track.steps]
    base = 12 * (part.octave + 1) + track.key
    count = bar % PHRASE * len(starts)  # place of the bar's first note in the phrase
    events: list[Event] = []
    for i, ((step, loudness), end) in enumerate(zip(starts, ends, strict=False)):
        if part.pick == "tune":
            pitches = _tune_pitch(track, bar, step, tune[(count + i) % len(tune)])
        else:
            pitches = _pick(track, part, bar, i, len(starts), rng)
        for pitch in pitches:
            length = (end - step) * part.gate
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
    match part.pick:
        case "block":  # low voices keep the chord's own spacing, high ones stay close together
            return [root + tone - chord[0] for tone in chord] if part.octave < 4 else close
        case "up":
            return [ladder[i % len(ladder)]]
        case "updown":
            return [there_and_back[(bar % 2 * n + i) % len(there_and_back)]]
        case "random":
            return [int(rng.choice(ladder))]
        case "fifth":
            return [root + 7 * (i % 2)]
        case "octave":
            return [root + 12 * (i % 2)]
        case "drone":
            return [0, 7]
        case "walk" if i == n - 1 and n > 1:  # lead into the next chord by a semitone
            return [track.chord(bar + 1)[0] % 12 + int(rng.choice([-1, 1]))]
        case "walk" if i > 0:
            return [int(rng.choice(close))]
        case "walk" | "root":
            return [root]
    raise ValueError(f"unknown pick {part.pick!r} in {RULES_FILE.name}")


def _tune(rest: float, rng: np.random.Generator) -> list[int | None]:
    """Scale degrees of a phrase, None for a rest: a random walk folded into -3..9."""
    walk = np.cumsum(rng.choice(STEPS, 24)) % 24
    silent = rng.random(len(walk)) < rest
    return [None if q else int(min(d, 24 - d)) - 3 for d, q in zip(walk, silent, strict=True)]


def _tune_pitch(track: Track, bar: int, step: int, degree: int | None) -> list[int]:
    if degree is None:
        return []
    pitch = semitones(track.scale, degree)
    if step % 8 == 0:  # strong beats take the nearest note of the chord
        tones = [tone % 12 + octave for tone in track.chord(bar) for octave in (-12, 0, 12)]
        pitch = min(tones, key=lambda tone: (abs(tone - pitch), tone))
    return [pitch]


def _note(
    track: Track, level: float, bar: int, event: Event, rng: np.random.Generator
) -> pretty_midi.Note:
    step, length, pitch, loudness = event
    late = 2 * track.swing if step % 4 == 2 else 0.0
    start = (bar * track.steps + step + late) * track.step_s
    start = max(0.0, start + rng.normal(0, track.artist.looseness))
    velocity = int(np.clip(level * loudness + rng.normal(0, 4), 12, 127))
    return pretty_midi.Note(velocity, pitch, start, start + max(length * track.step_s, 0.05))
