"""MagnaTagATune with Magnatune's genres: addresses and layout of the release, labels by album SKU.

The release (Law et al., ISMIR 2009) has tags but no genres. Each clip's ``url`` ends in its
album's SKU, and Magnatune's catalogue lists the genres of each SKU. Names are never compared.
"""

import csv
import gzip
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from genre_utils.data.download import Dataset, Release, Remote
from genre_utils.data.inputs import TABLE_CAP, read_rows
from genre_utils.paper import GENRES
from genre_utils.runtime import GenreUtilsError, UsageError

CLIP_INFO = "clip_info_final.csv"
CATALOGUES = ("sqlite_normalized.db", "sqlite_normalized.db.gz", "song_info.csv")
CATALOGUE_CAP = 256 * 2**20  # bytes, unpacked; the true one has some ten million
MULTI_GENRE = ("first", "single")
HOW_TO_GET = "`python -m genre_utils datasets download magnatagatune` fetches it"
INFO_COLUMNS = ("clip_id", "title", "artist", "album", "url", "segmentStart", "mp3_path")
SCHEMA = {
    "albums": {"album_id", "sku"},
    "genres": {"genre_id", "name"},
    "genres_albums": {"genre_id", "album_id"},
}
CITY = (
    "https://mirg.city.ac.uk/datasets/magnatagatune/",
    "http://mi.soi.city.ac.uk/datasets/magnatagatune/",
)
HUGGING_FACE = "https://huggingface.co/datasets/confit/magnatagatune/resolve/main/"
INFO_URLS = tuple(base + CLIP_INFO for base in (*CITY, HUGGING_FACE))
MAGNATUNE = "http://he3.magnatune.com/info/"  # plain HTTP only: what comes is capped and checked


def load(folder: Path, *, multi_genre: str = "first") -> tuple[pd.DataFrame, dict]:
    """Read the clip table and label it; return every row that has an ``mp3_path``, and counts.

    ``folder`` holds ``clip_info_final.csv``, one of `CATALOGUES`, and the clips in ``mp3/<0-f>/``
    or ``<0-f>/``. An album with several genres gets the catalogue's first (the order of rows in its
    table ``genres_albums``), or with ``multi_genre="single"`` its clips are refused. ``status``
    tells why a row has no genre of the paper: album not in the catalogue, another genre (Hip Hop),
    several genres. GenreUtilsError: a file is missing, damaged, or not of this layout.
    """
    if multi_genre not in MULTI_GENRE:
        raise UsageError(f"multi_genre={multi_genre!r}: one of {', '.join(MULTI_GENRE)}")
    path = folder / CLIP_INFO
    if not path.is_file():
        raise GenreUtilsError(f"{path} is missing; {HOW_TO_GET}")
    try:
        rows, how = read_rows(path, INFO_COLUMNS)
    except GenreUtilsError as error:
        raise GenreUtilsError(f"{error}; {HOW_TO_GET}") from None
    unfit = rows["fault"] != ""
    rows.loc[unfit, "clip_id"] = "line " + rows.index[unfit].astype(str)
    for clip_id in rows.loc[rows["clip_id"].duplicated(), "clip_id"]:
        raise GenreUtilsError(f"{path}: clip_id {clip_id} stands there twice; {HOW_TO_GET}")
    info = rows[(rows["mp3_path"] != "") | unfit].reset_index(drop=True)
    genres, catalogue = album_genres(folder)
    info["sku"] = info["url"].str.extract(r"/albums/([^/?#]+)/?\s*$", expand=False).fillna("")
    names = info["sku"].map(lambda sku: genres.get(sku, ())).astype(object)
    genre, number = names.str[0].fillna(""), names.str.len()
    status = ("not a genre of the paper: " + genre).mask(genre.isin(GENRES), "ok")
    if multi_genre == "single":
        genre = genre.mask(number > 1, "")
        status = status.mask(number > 1, "several genres: " + names.str.join(", "))
    status = status.mask(number == 0, "no genre: album not in the catalogue")
    below = "mp3/" if (folder / "mp3").is_dir() else ""
    clips = info.rename(columns={"title": "track"}).assign(
        path=(below + info["mp3_path"]).where(info["mp3_path"] != "", ""),
        genre=genre,
        start_s=pd.to_numeric(info["segmentStart"], errors="coerce"),
        status=info["fault"].mask(info["fault"] == "", status),
    )
    clips_of = info.loc[info["fault"] == "", "sku"].value_counts().sort_index()
    lost = [sku for sku in clips_of.index if not genres.get(sku)]
    several = [sku for sku in clips_of.index if len(genres.get(sku, ())) > 1]
    return clips, {
        "rows": len(rows),
        "rows_without_audio": len(rows) - len(info),
        "catalogue": catalogue,
        "multi_genre": multi_genre,
        "clips": len(info),
        "clips_matched": int(clips_of.sum() - clips_of[lost].sum()),
        "match_rate": round(float(1 - clips_of[lost].sum() / max(clips_of.sum(), 1)), 4),
        "albums": len(clips_of),
        "albums_without_genre": lost,
        "albums_with_several_genres": {sku: list(genres[sku]) for sku in several},
        "clips_with_several_genres": int(clips_of[several].sum()),
        **how,
    }


def album_genres(folder: Path) -> tuple[dict[str, tuple[str, ...]], str]:
    """Genres of each album, ``{sku: (genre, ...)}``, in the catalogue's order, and its file's name.

    The first of `CATALOGUES` there is read. It comes over plain HTTP and is not trusted: its
    unpacked size is capped, a copy of the database opened read-only, and only plain tables of the
    known schema read. GenreUtilsError: no catalogue, a damaged, too large or otherwise built one.
    """
    path = next((folder / name for name in CATALOGUES if (folder / name).is_file()), None)
    if path is None:
        raise GenreUtilsError(f"{folder} has no catalogue {' or '.join(CATALOGUES)}; {HOW_TO_GET}")
    read = _read_song_info if path.suffix == ".csv" else _read_database
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            content = stream.read(CATALOGUE_CAP + 1)
        if len(content) > CATALOGUE_CAP:
            raise ValueError(f"over {CATALOGUE_CAP} bytes")
        genres: dict[str, tuple[str, ...]] = {}
        for sku, *names in (map(str.strip, row) for row in read(content)):
            genres[sku] = tuple(dict.fromkeys((*genres.get(sku, ()), *names)))
    except (sqlite3.Error, OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
        why = str(error).splitlines()[0][:80]
        raise GenreUtilsError(f"{path}: damaged catalogue ({why}); {HOW_TO_GET}") from None
    if not genres:
        raise GenreUtilsError(f"{path}: a catalogue without genres; {HOW_TO_GET}")
    return genres, path.name


def _read_database(content: bytes) -> list[tuple[str, str]]:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "catalogue.db"
        path.write_bytes(content)
        uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            for table, columns in SCHEMA.items():
                kind = base.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,))
                if kind.fetchone() != ("table",):
                    raise ValueError(f"no table {table}")
                there = {row[1] for row in base.execute(f"PRAGMA table_info({table})")}
                if absent := columns - there:
                    raise ValueError(f"table {table} has no column {', '.join(sorted(absent))}")
            return base.execute(
                "SELECT albums.sku, genres.name FROM genres_albums AS link"
                " JOIN albums USING (album_id) JOIN genres USING (genre_id)"
                " WHERE typeof(albums.sku) = 'text' AND typeof(genres.name) = 'text'"
                " ORDER BY link.rowid"
            ).fetchall()


def _read_song_info(content: bytes) -> Iterator[list[str]]:
    """Read a line a song; one that does not fit the header, by broken quotes, is passed over."""
    lines = content.decode(errors="replace").split("\n")
    rows = (next(csv.reader([line]), []) for line in lines)
    if not {"albumsku", "magnatunegenres"} <= set(header := next(rows)):
        raise ValueError("no column albumsku or magnatunegenres")
    for row in rows:
        if len(row) == len(header):
            song = dict(zip(header, row, strict=True))
            names = re.split("[,;]", song["magnatunegenres"])
            yield [song["albumsku"], *(name for name in names if name.strip())]


PIECES = (  # of mp3.zip: the first byte, their number, MD5
    ("mp3.zip.001", 0, 1_100_000_000, "179c91c8c2a6e9b3da3d4e69d306fd3b"),
    ("mp3.zip.002", 1_100_000_000, 1_100_000_000, "acf8265ff2e35c6ff22210e46457a824"),
    ("mp3.zip.003", 2_200_000_000, 772_769_864, "582dc649cabb8cd991f09e14b99349a5"),
)
WHOLE = HUGGING_FACE + "mp3.zip#bytes={}-{}"  # a range of it, where only the whole is left
DATASET = Dataset(
    name="magnatagatune",
    title="Magnatune clips (MagnaTagATune)",
    clips="25,863",
    size="3.0 GB to fetch, 3.0 GB unpacked",
    licence="CC BY-NC-SA 3.0 (tracks 1.0)",
    citation="E. Law, K. West, M. Mandel, M. Bay and J. S. Downie: Evaluation of Algorithms Using "
    "Games: The Case of Music Tagging. ISMIR 2009",
    needs="a folder: mp3/, clip_info_final.csv, Magnatune's catalogue",
    load=load,
    options=("multi_genre",),
    known_bad=(  # of zero bytes in the release itself
        "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
        "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
        "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
        "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
    ),
    release=Release(
        tables=(Remote(CLIP_INFO, INFO_URLS, TABLE_CAP, "03ef3cb8ddcfe53fdcdb8e0cda005be2"),),
        parts=tuple(
            Remote(name, (*(base + name for base in CITY), WHOLE.format(at, at + n - 1)), n, md5)
            for name, at, n, md5 in PIECES
        ),
        audio="*.mp3",
        n_audio=25_863,
        cap=4 * 10**9,
        catalogue=tuple(Remote(name, (MAGNATUNE + name,), TABLE_CAP) for name in CATALOGUES[1:]),
        check=lambda folder: album_genres(folder)[1],
    ),
)
