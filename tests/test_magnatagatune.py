"""MagnaTagATune's layout and Magnatune's catalogue: made by hand here, and the real excerpt."""

import csv
import gzip
import shutil
import sqlite3

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_utils.data import datasets, magnatagatune
from genre_utils.runtime import GenreUtilsError, UsageError

COLUMNS = [
    "clip_id",
    "track_number",
    "title",
    "artist",
    "album",
    "url",
    "segmentStart",
    "segmentEnd",
    "original_url",
    "mp3_path",
]
GENRES = ["Classical", "New Age", "Electronica", "World", "Ambient", "Jazz", "Hip Hop"]
# SKU -> genres in the catalogue's order; "lost" is not in the catalogue.
ALBUMS = {
    "jazz-a": ["Jazz"],
    "two-b": ["Electronica", "Ambient"],
    "hop-c": ["Hip Hop"],
    "world-d": ["World"],
    "hop-e": ["Hip Hop", "Jazz"],
}
CLIPS = [  # clip_id, title, artist, SKU, mp3_path
    ("7", 'Say "Hi", twice', "Børn & Ånd", "jazz-a", "0/børn ånd-01-say hi-0-29.wav"),
    ("8", 'Say "Hi", twice', "Børn & Ånd", "jazz-a", ""),
    ("10", "Drift", "None", "two-b", "1/none-drift-0-29.wav"),
    ("11", "Beat", "MC", "hop-c", "2/mc-beat-0-29.wav"),
    ("12", "Lost", "Nobody", "lost", "3/nobody-lost-0-29.wav"),
    ("13", "Empty", "Void", "world-d", "4/void-empty-0-29.wav"),
    ("14", "Tune", "Void", "world-d", "4/void-tune-0-29.wav"),
    ("15", "Both", "MC", "hop-e", "2/mc-both-0-29.wav"),
]


def write_clip_info(path, rows=CLIPS, columns=COLUMNS):
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        out.writerow(columns)
        for number, title, artist, sku, mp3 in rows:
            url = f"http://www.magnatune.com/artists/albums/{sku}/"
            out.writerow([number, 1, title, artist, sku, url, 30, 59, "", mp3][: len(columns)])


def write_catalogue(path, albums=ALBUMS):
    with sqlite3.connect(path) as base:
        base.executescript(
            "CREATE TABLE albums(album_id integer primary key, sku text);"
            "CREATE TABLE genres(genre_id integer primary key, name text);"
            "CREATE TABLE genres_albums(genre_id integer, album_id integer);"
        )
        base.executemany("INSERT INTO genres VALUES (?, ?)", list(enumerate(GENRES)))
        for i, (sku, genres) in enumerate(albums.items()):
            base.execute("INSERT INTO albums VALUES (?, ?)", (i, sku))
            for genre in genres:
                base.execute("INSERT INTO genres_albums VALUES (?, ?)", (GENRES.index(genre), i))
    base.close()


@pytest.fixture
def mini(shared):
    return shared / "data" / "magnatune-mini"


@pytest.fixture
def release(tmp_path, cache):
    folder = tmp_path / "a release"
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * 16000)
    for number, _, _, _, mp3 in CLIPS:
        if mp3:
            path = folder / "mp3" / mp3
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.roll(noise, int(number)), 16000)
    (folder / "mp3/4/void-empty-0-29.wav").write_bytes(b"")
    write_clip_info(folder / "clip_info_final.csv")
    write_catalogue(folder / "sqlite_normalized.db")
    return folder


def statuses(clips):
    return dict(zip(clips["clip_id"], clips["status"], strict=True))


def test_first_rule_takes_the_genre_listed_first(release):
    clips, report = datasets.load_clips("magnatagatune", release)
    assert statuses(clips) == {
        "10": "ok",
        "11": "not a genre of the paper: Hip Hop",
        "12": "no genre: album not in the catalogue",
        "13": "empty file",
        "14": "ok",
        "15": "not a genre of the paper: Hip Hop",
        "7": "ok",
    }
    assert list(clips["clip_id"]) == sorted(clips["clip_id"])
    assert clips.set_index("clip_id").loc["10", "genre"] == "Electronica"  # id order says Ambient
    assert report["rows"] == 8 and report["rows_without_audio"] == 1
    assert report["clips_matched"] == 6 and report["match_rate"] == round(6 / 7, 4)
    assert report["albums_without_genre"] == ["lost"]
    assert report["albums_with_several_genres"] == {k: ALBUMS[k] for k in ("two-b", "hop-e")}
    assert report["clips_ok"] + sum(report["clips_refused"].values()) == report["clips"] == 7


def test_single_rule_refuses_albums_with_several_genres(release):
    clips, report = datasets.load_clips("magnatagatune", release, multi_genre="single")
    found = statuses(clips)
    assert found["10"] == "several genres: Electronica, Ambient"
    assert found["15"] == "several genres: Hip Hop, Jazz"
    assert set(report["genres"]) == {"Jazz", "World"}
    with pytest.raises(UsageError, match=r"multi_genre='second': one of first, single"):
        datasets.load_clips("magnatagatune", release, multi_genre="second")


def test_names_come_through_as_they_are(release):
    clips, _ = datasets.load_clips("magnatagatune", release)
    row = clips.set_index("clip_id").loc["7"]
    assert row["artist"] == "Børn & Ånd" and row["track"] == 'Say "Hi", twice'
    assert row["path"] == "mp3/0/børn ånd-01-say hi-0-29.wav"
    assert row["start_s"] == 30 and row["duration_s"] == 2
    assert clips.set_index("clip_id").loc["10", "artist"] == "None"


def test_clips_may_lie_beside_the_tables(release):
    for shard in (release / "mp3").iterdir():
        shutil.move(shard, release / shard.name)
    (release / "mp3").rmdir()
    clips, _ = datasets.load_clips("magnatagatune", release)
    assert (clips["status"] == "ok").sum() == 3
    assert not clips["path"].str.startswith("mp3/").any()


def test_packed_catalogue_gives_the_same_labels(release):
    plain, _ = magnatagatune.album_genres(release)
    path = release / "sqlite_normalized.db"
    (release / "sqlite_normalized.db.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert magnatagatune.album_genres(release) == (plain, "sqlite_normalized.db.gz")
    assert plain == {sku: tuple(genres) for sku, genres in ALBUMS.items()}


def test_catalogue_is_not_changed_by_reading(release):
    path = release / "sqlite_normalized.db"
    path.chmod(0o444)
    before = path.read_bytes()
    magnatagatune.album_genres(release)
    assert path.read_bytes() == before
    assert {p.name for p in release.iterdir()} == {"mp3", path.name, "clip_info_final.csv"}


def test_song_info_serves_where_there_is_no_database(release):
    (release / "sqlite_normalized.db").unlink()
    (release / "song_info.csv").write_text(
        'artist,desc,mp3genre,magnatunegenres,albumsku\n"A","x","Other","Jazz","jazz-a"\n'
        '"A","a "broken", "quote","Other","Jazz","two-b"\n'
        '"B","y","Metal","Electronica,Ambient","two-b"\n"C","z","Other","World","world-d"\n'
    )
    genres, source = magnatagatune.album_genres(release)
    assert source == "song_info.csv"
    assert genres == {
        "jazz-a": ("Jazz",),
        "two-b": ("Electronica", "Ambient"),
        "world-d": ("World",),
    }


def damage(path, fault):
    """Spoil one file; the messages expected stand beside in the test below."""
    content = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "html":
        path.write_bytes(b"<html><body>404 Not Found</body></html>")
    elif fault == "no column":
        write_clip_info(path, columns=COLUMNS[:9])
    elif fault == "twice":
        write_clip_info(path, rows=[*CLIPS, CLIPS[0]])
    else:
        path.unlink()
        with sqlite3.connect(path) as base:
            base.execute(fault)
        base.close()


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("clip_info_final.csv", "missing", "clip_info_final.csv is missing"),
        ("clip_info_final.csv", "html", "no column clip_id"),
        ("clip_info_final.csv", "no column", "no column mp3_path"),
        ("clip_info_final.csv", "twice", "clip_id 7 stands there twice"),
        ("sqlite_normalized.db", "missing", "has no catalogue sqlite_normalized.db or"),
        ("sqlite_normalized.db", "truncated", "damaged catalogue"),
        ("sqlite_normalized.db", "html", "damaged catalogue"),
        ("sqlite_normalized.db", "CREATE TABLE songs(name)", "no table albums"),
        ("sqlite_normalized.db", "CREATE TABLE albums(name)", "no column album_id, sku"),
        ("sqlite_normalized.db", "CREATE VIEW albums AS SELECT 1 AS sku", "no table albums"),
    ],
)
def test_damaged_release_is_one_clear_line(release, name, fault, message):
    damage(release / name, fault)
    with pytest.raises(GenreUtilsError, match=message) as caught:
        datasets.load_clips("magnatagatune", release)
    assert str(release) in str(caught.value) and "download magnatagatune" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [lambda data: data[:60], lambda data: b"no gzip at all"])
def test_damaged_packed_catalogue(release, spoil):
    path = release / "sqlite_normalized.db"
    (release / f"{path.name}.gz").write_bytes(spoil(gzip.compress(path.read_bytes())))
    path.unlink()
    with pytest.raises(GenreUtilsError, match="damaged catalogue"):
        magnatagatune.album_genres(release)


@pytest.mark.parametrize("packed", [False, True])
def test_catalogue_over_the_cap_is_refused(release, monkeypatch, packed):
    path = release / "sqlite_normalized.db"
    if packed:  # the packed file alone is far under the cap
        (release / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        monkeypatch.setattr(magnatagatune, "CATALOGUE_CAP", path.stat().st_size - 1)
        assert (release / f"{path.name}.gz").stat().st_size < path.stat().st_size / 4
        path.unlink()
    else:
        monkeypatch.setattr(magnatagatune, "CATALOGUE_CAP", 1000)
    with pytest.raises(GenreUtilsError, match=r"damaged catalogue \(over"):
        magnatagatune.album_genres(release)


def count_by_other_means(mini, single):
    """Clips and artists of each genre, by SQL in one go on the table and the catalogue."""
    base = sqlite3.connect(":memory:")
    base.deserialize(gzip.decompress((mini / "sqlite_normalized.db.gz").read_bytes()))
    with (mini / "clip_info_final.csv").open(encoding="utf-8", newline="") as stream:
        rows = [
            (r["clip_id"], r["artist"], r["url"].rstrip("/").split("/")[-1])
            for r in csv.DictReader(stream, delimiter="\t")
            if r["mp3_path"] and (mini / "mp3" / r["mp3_path"]).stat().st_size
        ]
    base.execute("CREATE TABLE clip(id, artist, sku)")
    base.executemany("INSERT INTO clip VALUES (?, ?, ?)", rows)
    first = """SELECT a.sku, g.name, count(*) AS n, min(ga.rowid) FROM genres_albums ga
               JOIN albums a USING (album_id) JOIN genres g USING (genre_id) GROUP BY a.sku"""
    found = base.execute(
        f"SELECT l.name, count(*), count(DISTINCT artist) FROM clip JOIN ({first}) l USING (sku)"
        f" WHERE l.n = 1 OR NOT {int(single)} GROUP BY l.name"
    )
    return {genre: {"clips": n, "artists": m} for genre, n, m in found}


@pytest.mark.parametrize("multi_genre", ["first", "single"])
def test_real_excerpt_agrees_with_a_count_by_other_means(mini, cache, multi_genre):
    clips, report = datasets.load_clips("magnatagatune", mini, jobs=2, multi_genre=multi_genre)
    info = pd.read_csv(mini / "clip_info_final.csv", sep="\t")
    assert report["rows"] == len(info) == 706
    assert len(clips) == info["mp3_path"].notna().sum() == 588
    assert report["genres"] == count_by_other_means(mini, multi_genre == "single")
    assert ("Ambient" in report["genres"]) == (multi_genre == "first")
    assert report["match_rate"] == 1
    assert report["clips_ok"] + sum(report["clips_refused"].values()) == len(clips)
    ok = clips[clips["status"] == "ok"]
    assert ok["duration_s"].between(28.5, 29.5).all()
    assert len(datasets.audio_digests(clips, mini, jobs=2)) == len(ok)


def test_the_three_empty_files_are_refused_by_name(mini, cache):
    _, report = datasets.load_clips("magnatagatune", mini, jobs=2)
    empty = {str(p.relative_to(mini)) for p in mini.rglob("*.mp3") if not p.stat().st_size}
    assert report["audio_refused"] == dict.fromkeys(empty, "empty file")
    assert {name.split("/")[-1] for name in empty} == {
        "norine_braun-now_and_zen-08-gently-117-146.mp3",
        "jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
        "american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
        "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
    }
