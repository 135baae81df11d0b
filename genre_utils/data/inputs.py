"""What people have on disk: folders of sound files, their tags, tables, and names of all kinds.

Each entry of a folder and each row of a table is used, refused with the reason, or counted.
"""

import csv
import io
import os
import posixpath
import re
import stat
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import mutagen
import pandas as pd

from genre_utils.data import audio
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import WINDOWS, located, shown

LEFT_BY_SYSTEMS = re.compile(r"\.|(__MACOSX|Thumbs\.db|desktop\.ini)$", re.IGNORECASE)
FOLDER = "cannot be read: a folder"
TABLE_CAP = 64 * 2**20  # bytes of a table
SEPARATORS = ",\t;|"
MOST_LINES = 20  # of one row
JOINERS = "\u200c\u200d"  # cannot be seen, but belong to the spelling of some languages
UNSEEN = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
BETWEEN = re.compile(rf"[\s_\-\u2010-\u2015\u2212{JOINERS}]+")
FEATURING = re.compile(r"\s+[(\[]?(feat|ft|featuring)\b.*", re.IGNORECASE)
NOBODY = re.compile(  # of keys made by `same`
    r"[<\[(]?(((various|unknown|diverse|verschiedene|no)(artists?|interpreten))|various|unknown"
    r"|v\W?a|artistesdivers|artistivari|variosartistas)[>\])]?\W?"
)
# A tag's name in its format -> ours. EasyID3 and the like know most; ASF and ID3 in WAV do not.
TAGS = {"wm/albumartist": "albumartist", "author": "artist", "wm/albumtitle": "album"}
TAGS |= {"tpe2": "albumartist", "tpe1": "artist", "talb": "album", "tit2": "title"}
TAGS |= {name: name for name in TAGS.values()}
INFO = {b"IART": "artist", b"IPRD": "album", b"INAM": "title"}


def sound_files(places: Iterable[str | Path]) -> tuple[dict[Path, str], Counter]:
    """List the files that were asked for: path -> "", or why nothing can be read there.

    A place is a file of any name, or a folder: see `below`, also for the counts. UsageError: none.
    """
    found: dict[Path, str] = {}
    passed: Counter = Counter()
    for place in map(Path, places):
        if place.is_dir():
            files, others = below(place)
            found |= files or {place: f"no sound files in it ({' '.join(audio.SOUND)})"}
            passed += others
        else:
            found[place] = unreadable(place)
    if all(found.values()):
        path, why = next(iter(found.items()), ("places", "none named"))
        raise UsageError(f"no sound file to listen to: {path}: {why}{and_passed(passed)}")
    return found, passed


def below(folder: Path) -> tuple[dict[Path, str], Counter]:
    """List a folder's files that are called like sound; count by kind what is passed over.

    In order, path -> "" or why it, or a folder, cannot be read. Links are followed; a folder is
    searched once, whatever leads to it. Hidden files are passed over.
    """
    found: dict[Path, str] = {}
    passed, seen, todo = Counter(), set(), deque([folder])
    while todo:
        place = todo.popleft()
        if (real := os.path.realpath(place)) in seen:
            passed["link to a folder listed already"] += 1
            continue
        seen.add(real)
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            found[place] = f"cannot be read: {error.strerror}"
            continue
        for path in entries:
            why, kind = unreadable(path), path.suffix.lower()
            if LEFT_BY_SYSTEMS.match(path.name):
                passed["hidden"] += 1
            elif why == FOLDER:  # links last: what is here stands under its own name
                (todo.append if path.is_symlink() else todo.appendleft)(path)
            elif kind in audio.SOUND or (why and not kind):
                found[path] = why
            else:
                passed[kind or "without suffix"] += 1
    return dict(sorted(found.items())), passed


def unreadable(path: Path) -> str:
    """Say why a path is no file to read, "" if it is one. Opens nothing: a pipe would wait."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        link = os.path.islink(path)  # noqa: PTH114 (Path's own fails for a name that is too long)
        return f"cannot be read: {'a link to nothing' if link else why}"
    if not stat.S_ISREG(mode):
        return FOLDER if stat.S_ISDIR(mode) else "cannot be read: not a regular file"
    return "" if os.access(path, os.R_OK) else "cannot be read: Permission denied"


def and_passed(passed: dict[str, int], sign: str = "; ") -> str:
    """Say what was passed over, to be put behind a line; "" for nothing."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(passed).most_common())
    return f"{sign}{sum(passed.values())} passed over ({kinds})" if passed else ""


def tags(path: Path) -> dict[str, str] | None:
    """Artist, album and track that a file's tags name; None where they cannot be read.

    The artist is the album's, if that is somebody (`somebody`): whose music it is, whoever sings
    along. Tags of WAV files may be ID3's or stand in their chunk INFO.
    """
    found: dict[str, str] = {}
    try:
        if path.suffix.lower() == ".wav":
            with path.open("rb") as file:  # it stands before the sound or behind it
                content = file.read(2**16)
                file.seek(max(file.tell(), path.stat().st_size - 2**16))
                _, _, chunk = (content + file.read()).partition(b"INFO")
            pairs = re.findall(rb"(IART|IPRD|INAM)....([^\0]+)", chunk, re.DOTALL)
            found = {INFO[key]: shown(text) for key, text in pairs}
        known = getattr(mutagen.File(path, easy=True), "tags", None) or {}
        for key in known.keys():  # noqa: SIM118 (some formats' tags iterate over pairs)
            if field := TAGS.get(key.lower().replace(" ", "")):
                found[field] = str((*known[key], "")[0])  # some have no text
    except Exception:  # damaged tags fail in any way
        return None
    who = somebody(found.get("albumartist", ""), found.get("artist", ""))
    album, track = (clean(found.get(field, "")) for field in ("album", "title"))
    return {"artist": who, "album": album, "track": track}


def clean(name: str) -> str:
    """Return a name as it is shown: accents composed, single blanks, nothing that is not seen."""
    return " ".join(UNSEEN.sub("", unicodedata.normalize("NFC", name)).split())


def same(name: str) -> str:
    """Return the key that spellings of a name share: case, blanks, dashes, the unseen are gone."""
    text = unicodedata.normalize("NFKC", clean(name).casefold())
    return BETWEEN.sub("", text) or text


def somebody(*artists: str) -> str:
    """Return the first artist who is not "Unknown" or the like, or ""; of "A feat. B", "A; B" A."""
    names = (FEATURING.sub("", clean(artist.split(";")[0])) for artist in artists)
    return next((name for name in names if name and not NOBODY.fullmatch(same(name))), "")


def merge(names: pd.Series) -> tuple[pd.Series, dict[str, str]]:
    """Give all spellings of a name (`same`) its most frequent one, cleaned; and {old: new}."""
    counts, best = Counter(names), {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        best.setdefault(same(name), clean(name))
    changed = {n: best[same(n)] for n in sorted(counts) if n != best[same(n)]}
    return names.map(lambda name: changed.get(name, name)), changed


def below_folder(folder: Path, written: str) -> str:
    """Return the path below ``folder`` that a table means; as it is written if it leads out.

    Without ``./``, ``//`` and the folder's own name; a backslash in no file's name is a slash.
    """
    for way in (written, written.replace("\\", "/")):
        path = PurePosixPath(posixpath.normpath(way))
        for root in (folder.absolute(), folder.resolve()):
            path = path.relative_to(root) if path.is_relative_to(root) else path
        if not leaves(path) and os.path.lexists(located(folder, path)):
            break
    return written if leaves(path) else str(path)


def leaves(path: str | PurePosixPath) -> bool:
    """Whether a path leads, or may lead, out of its folder."""
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts


def read_rows(
    path: Path, needed: Iterable[str], others: Iterable[str] = ()
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table of texts as the world writes them; and say, if it is unusual, ``read_as`` what.

    UTF-8, UTF-16 or Windows-1252; separated by commas, semicolons, tabs or bars, which a first
    line ``sep=`` may tell; quotes may be unpaired. ``needed`` columns and ``others`` are found
    whatever their case and blanks. The index is the line; a row that does not fit the header has
    empty texts, and why in the column ``fault``. GenreUtilsError: no table, or not these columns.
    """
    why = unreadable(path)
    if why or path.stat().st_size > TABLE_CAP:
        raise GenreUtilsError(f"{path}: {why or f'over {TABLE_CAP >> 20} MiB, no table of clips'}")
    encoding, content = "UTF-8", path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or content[:99].count(0) > len(content[:99]) / 3:
        encoding = "UTF-16-BE" if content[:1] == b"\0" else "UTF-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        encoding, text = "Windows-1252", content.decode("utf-8", WINDOWS)
    text = text.removeprefix("\ufeff").replace("\0", "\ufffd")
    lines = [pair for pair in enumerate(io.StringIO(text, newline=""), 1) if pair[1].strip()]
    told = re.match('"?sep=(.)', lines[0][1]) if lines else None
    lines = lines[bool(told) :]
    ours = {same(name): name for name in (*needed, *others)}
    headers = {}
    for sign in (told[1] if told else "") + SEPARATORS:
        headers[sign] = [ours.get(same(name), clean(name)) for name in _fields(lines[:1], sign)]
    sign, header = max(headers.items(), key=lambda h: (len({*needed} & {*h[1]}), len(h[1])))
    if absent := [name for name in needed if name not in header]:
        found = ", ".join(header)[:80] or "nothing"
        raise GenreUtilsError(f"{path}: no column {', '.join(absent)}; its first line has {found}")
    if twice := [name for name, n in Counter(header).items() if name and n > 1]:
        raise GenreUtilsError(f"{path}: column {twice[0]} is there twice; keep one of them")
    least, width = 1 + max(map(header.index, needed)), len(header)
    records = {}
    for line, fields in _records(lines[1:], sign, least, width):
        fits = least <= len(fields) <= width
        fault = "" if fits else f"row of {len(fields)} fields, the header has {width}"
        texts = [" ".join(field.splitlines()) for field in fields * fits]
        records[line] = [*(texts + [""] * width)[:width], fault]
    rows = pd.DataFrame.from_dict(records, "index", dtype=str, columns=[*header, "fault"])
    how = [encoding] * (encoding != "UTF-8") + [f"separated by {sign!r}"] * (sign not in ",\t")
    said = {"read_as": f"{path.name} is {', '.join(how)}"} if how else {}
    return rows.drop(columns="", errors="ignore"), said


def _records(
    lines: list[tuple[int, str]], sign: str, least: int, width: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of each row that is not empty; some have fewer or more than asked."""
    at = 0
    while at < len(lines):
        end, fields = at + 1, _fields(lines[at : at + 1], sign, width)
        if not least <= len(fields) <= width:
            # Quotes that are not paired belong to the text; or a line ends between two, unless
            # what follows are rows by themselves.
            fields = plain = _plain(lines[at], sign)
            for last in range(at + 1, min(at + MOST_LINES, len(lines))):
                longer = _fields(lines[at : last + 1], sign, width)
                alone = len(_plain(lines[last], sign)) == width
                if least <= len(longer) <= width and not (alone and len(plain) == width):
                    fields, end = longer, last + 1
                if alone or end > at + 1:
                    break
        if any(field.strip() for field in fields):
            yield lines[at][0], fields
        at = end


def _plain(line: tuple[int, str], sign: str) -> list[str]:
    fields = (field.strip(" \r\n") for field in line[1].split(sign))
    return [re.sub('^"(.*)"$', r"\1", f).replace('""', '"').replace('\\"', '"') for f in fields]


def _fields(lines: list[tuple[int, str]], sign: str, width: int = 0) -> list[str]:
    """Fields of one row by the rules of CSV, without empty ones behind ``width``; [] if broken."""
    part = (line for _, line in lines)
    try:
        (fields,) = csv.reader(part, delimiter=sign, skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):  # not one row
        return []
    while len(fields) > width and not fields[-1].strip():
        fields.pop()
    return fields
