"""The demo corpus: same files on every repeat, continued when interrupted, music in every clip."""

import itertools

import numpy as np
import pytest
import soundfile

from genre_utils import paper
from genre_utils.data import datasets, demo, inputs
from genre_utils.data.demo import (
    BORROWS,
    GENRES,
    LARGE,
    RULES,
    compose,
    draw_artist,
    draw_track,
    titles,
)
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import file_digest

SIZE = {"genres": ("Jazz", "World"), "artists_per_genre": 1, "tracks_per_artist": 2}
PICKS = {"block", "drone", "fifth", "octave", "random", "root", "tune", "up", "updown", "walk"}


def digests(folder):
    return {str(p.relative_to(folder)): file_digest(p) for p in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo.make_corpus(folder, jobs=2, **SIZE)


def test_the_table_tells_the_files(corpus):
    folder, clips = corpus
    assert ",".join(clips) == (
        "clip_id,path,dataset,genre,artist,album,track,start_s,duration_s,status"
    )
    assert len(clips) == 2 * 1 * 2 * 2
    assert clips["clip_id"].is_unique and clips["clip_id"].is_monotonic_increasing
    assert {str(p.relative_to(folder).as_posix()) for p in folder.rglob("*.flac")} == set(
        clips["path"]
    )
    assert set(clips["genre"]) == set(SIZE["genres"])
    assert clips.groupby(["artist", "album", "track"]).size().eq(2).all()
    assert (clips.groupby("artist")["album"].nunique() == demo.ALBUMS).all()
    assert demo.load(folder).equals(clips)


def test_clips_are_29_s_of_sound_at_16_khz_and_all_differ(corpus):
    folder, clips = corpus
    sounds = []
    for path in clips["path"]:
        info = soundfile.info(folder / path)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, 29 * 16000)
        assert info.subtype == "PCM_16"
        y, _ = soundfile.read(folder / path)
        seconds = np.sqrt(np.mean(y.reshape(29, -1) ** 2, axis=1))
        assert 0.1 < np.abs(y).max() < 0.999, "neither silent nor clipped"
        assert seconds.min() > 1e-3 * np.abs(y).max()
        sounds.append(y)
    pairs = itertools.combinations(sounds, 2)
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 0.5 for a, b in pairs)
    for _, track in clips.groupby(["artist", "track"]):
        gaps = np.diff(np.sort(track["start_s"]))
        assert (gaps >= demo.CLIP_S).all(), "clips of one track do not overlap"


def test_one_process_makes_the_same_bytes_as_two(corpus, tmp_path):
    folder, _ = corpus
    demo.make_corpus(tmp_path, jobs=1, **SIZE)
    assert digests(tmp_path) == digests(folder)


def test_an_interrupted_corpus_is_continued(corpus, tmp_path):
    demo.make_corpus(tmp_path, **SIZE)
    before = digests(tmp_path)
    kept, lost = sorted(tmp_path.rglob("*.flac"))[:: len(before) // 2][:2]
    written = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "clips.csv").unlink()
    with pytest.raises(GenreUtilsError, match="make_corpus"):
        demo.load(tmp_path)
    demo.make_corpus(tmp_path, **SIZE)
    assert digests(tmp_path) == before
    assert kept.stat().st_mtime_ns == written, "what was there is not rendered again"


def test_another_seed_makes_the_corpus_anew(tmp_path):
    size = SIZE | {"genres": ("Jazz",), "tracks_per_artist": 1}
    demo.make_corpus(tmp_path, seed=0, **size)
    first = set(digests(tmp_path).values())
    demo.make_corpus(tmp_path, seed=1, **size)
    second = digests(tmp_path)
    assert not first & set(second.values())
    assert sum(name.endswith(".flac") for name in second) == 2, "no clip of the old seed is left"


def test_damaged_tables_of_a_corpus_are_written_anew(corpus):
    folder, clips = corpus
    for name in ("clips.csv", "made.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-40])
        assert demo.make_corpus(folder, **SIZE).equals(clips)
        assert (folder / name).read_bytes() == content


def test_a_finished_corpus_is_not_rendered_again(corpus, monkeypatch):
    folder, clips = corpus
    for name in ("each", "write_json", "write_text"):  # works on a read-only disk, too
        monkeypatch.setattr(demo, name, None)
    assert demo.make_corpus(folder, **SIZE).equals(clips)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        demo.make_corpus(tmp_path, **SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GenreUtilsError, match="cannot write the demo corpus") as caught:
        demo.make_corpus(tmp_path / "file" / "demo", **SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "size",
    [
        {"artists": 3},
        {"genres": ("Polka",)},
        {"artists_per_genre": 100},
        {"artists_per_genre": 0},
        {"tracks_per_artist": 0},
    ],
)
def test_sizes_that_are_not_possible(tmp_path, size):
    with pytest.raises(UsageError):
        demo.make_corpus(tmp_path / "new", **size)
    assert not (tmp_path / "new").exists()


def test_the_large_corpus_is_as_large_as_the_papers_set():
    plays = LARGE["artists_per_genre"] * LARGE["tracks_per_artist"] * LARGE["clips_per_track"]
    assert plays == 549  # clips a genre (the authors' poster)
    artists = [demo.draw_artist(0, genre, i) for genre in GENRES for i in range(61)]
    assert len({inputs.same(artist.name) for artist in artists}) == 9 * 61
    assert datasets.get("demo-large").clips == f"{9 * plays:,}"
    first = demo.draw_artist(0, "Jazz", 6)
    assert first.name == f"{GENRES['Jazz']['artists'][0]} 2"
    assert first != demo.draw_artist(0, "Jazz", 0)


def test_every_genre_of_the_paper_has_rules():
    assert set(GENRES) == set(paper.GENRES)
    names = [name for rules in GENRES.values() for name in rules["artists"]]
    assert len(names) == len(set(names))
    assert min(len(rules["artists"]) for rules in GENRES.values()) >= 5


def test_the_rules_are_well_formed():
    lines = [line for p in RULES["patterns"].values() for line in p.values()]
    for genre, rules in GENRES.items():
        assert sum(rules["neighbours"].values()) < 0.5, genre
        assert set(rules["neighbours"]) < set(GENRES)
        assert set(rules["modes"]) <= set(RULES["scales"])
        assert set(rules["chords"]) <= set(RULES["chords"])
        assert set(rules["parts"]["drums"]["patterns"]) <= set(RULES["patterns"])
        lines += [line for part in rules["parts"].values() for line in part.get("rhythm", ["hold"])]
        assert {pick for part in rules["parts"].values() for pick in part.get("pick", [])} <= PICKS
    for line in lines:
        assert line == "hold" or (len(line) in (16, 32) and set(line) <= set("Xxo.")), line


@pytest.mark.parametrize("genre", paper.GENRES)
def test_an_artist_keeps_its_instruments_and_keys(genre):
    artist = draw_artist(0, genre, 0)
    heard = set()
    for number in range(6):
        track = draw_track(artist, number)
        assert track.key in artist.keys
        low, high = GENRES[track.rules]["tempo"]
        assert low <= track.tempo <= high
        score = compose(track, 62)
        assert score.get_end_time() >= 62
        assert len(score.instruments) >= 2
        for voice in score.instruments:
            assert voice.program == artist.programs[voice.name]
            assert all(21 <= note.pitch <= 108 for note in voice.notes)
        heard |= {voice.name for voice in score.instruments}
    assert len(heard) >= 5, "over a few tracks nearly every role is played"
    assert draw_artist(0, genre, 1).programs != artist.programs


def test_genres_overlap_but_not_entirely():
    """Tracks cross over to neighbours and artists borrow instruments, both the lesser part."""
    tracks = [
        draw_track(draw_artist(seed, genre, i), number)
        for seed in range(3)
        for genre in GENRES
        for i in range(5)
        for number in range(3)
    ]
    crossed = np.mean([track.rules != track.artist.genre for track in tracks])
    assert 0.05 < crossed < 0.3
    assert all(
        track.rules in {track.artist.genre, *GENRES[track.artist.genre]["neighbours"]}
        for track in tracks
    )
    assert 0 < BORROWS < 1


def test_titles_differ_within_an_artist():
    names = titles(draw_artist(0, "World", 2), 12)
    assert len(set(names)) == 12
    assert not set('/\\:*?"<>|') & set("".join(names)), "every file system takes them"
