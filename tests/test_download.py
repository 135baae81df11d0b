"""From nothing to a clip table against a local server, and all that breaks on the way."""

import contextlib
import csv
import gzip
import hashlib
import io
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import soundfile

from genre_utils.data import datasets, download
from genre_utils.data import download as archives
from genre_utils.data import download as releases
from genre_utils.data.download import Remote, Source, fetch
from genre_utils.runtime import GenreUtilsError, UsageError

HTML = b"<html><body>This service has moved.</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.cuts`` says after how many bytes to hang up, by name."""

    def do_GET(self):
        site, name = self.server, self.path.lstrip("/")
        asked = self.headers.get("Range")
        site.log.append((name, asked))
        content = site.files.get(name)
        if content is None:
            self.send_error(404)
            return
        start, end = 0, len(content) - 1
        if asked and site.ranges:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            start, end = int(first), min(int(last or end), end)
            if start > end:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start : end + 1]
        if name not in site.no_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cuts = site.cuts.get(name)
        if cuts:
            body = body[: cuts.pop(0)]
        for i in range(0, len(body), 4096):
            site.sent += len(body[i : i + 4096])
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body[i : i + 4096])
            time.sleep(site.pause)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(files):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    for name, value in {
        "files": dict(files),
        "cuts": {},
        "log": [],
        "ranges": True,
        "sent": 0,
        "pause": 0.0,
        "no_length": set(),
    }.items():
        setattr(server, name, value)
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


DATA = np.random.default_rng(1).bytes(300_000)


@pytest.fixture
def server():
    with serving({"data.bin": DATA}) as one:
        yield one


def md5(content):
    return hashlib.md5(content).hexdigest()


def remote(*urls, name="data.bin", content=DATA, size=True):
    sources = tuple(Source(f"{url}{name}") for url in urls)
    return Remote(name, sources, len(content) if size else None, md5(content))


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_once(server, tmp_path):
    for _ in range(2):
        assert fetch(remote(server.url), tmp_path).read_bytes() == DATA
    assert server.log == [("data.bin", None)] and left(tmp_path) == ["data.bin"]


@pytest.mark.parametrize("size", [True, False])
def test_a_cut_connection_is_resumed_from_where_it_broke(server, tmp_path, size):
    server.cuts["data.bin"] = [100_000, 50_000]
    assert fetch(remote(server.url, size=size), tmp_path).read_bytes() == DATA
    end = len(DATA) - 1 if size else ""
    asked = [None, f"bytes=100000-{end}", f"bytes=150000-{end}"]
    assert server.log == [("data.bin", one) for one in asked]
    assert server.sent == len(DATA)


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    server.cuts["data.bin"] = [100_000]
    assert fetch(remote(server.url), tmp_path).read_bytes() == DATA
    assert server.sent == 100_000 + len(DATA)


def test_a_server_that_always_cuts_leaves_the_part_for_the_next_run(server, tmp_path):
    server.cuts["data.bin"] = [10_000] * download.TRIES
    with pytest.raises(GenreUtilsError, match=r"broke off.*run the same command again"):
        fetch(remote(server.url), tmp_path)
    assert left(tmp_path) == ["data.bin.part"]
    assert fetch(remote(server.url), tmp_path).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_wrong_checksum_is_deleted_and_the_next_mirror_asked(server, tmp_path):
    wrong = DATA[:-1] + b"?"
    with serving({"data.bin": wrong}) as first:
        assert fetch(remote(first.url, server.url), tmp_path).read_bytes() == DATA
        assert len(first.log) == 1 and server.log == [("data.bin", None)]
        with pytest.raises(GenreUtilsError, match="wrong checksum, deleted"):
            fetch(remote(first.url, name="data.bin", content=DATA + b"x", size=False), tmp_path)
    assert left(tmp_path) == ["data.bin"]


def test_a_wrong_file_alone_is_never_left_behind(server, tmp_path):
    server.files["data.bin"] = DATA[::-1]
    with pytest.raises(GenreUtilsError, match="wrong checksum, deleted"):
        fetch(remote(server.url), tmp_path)
    assert left(tmp_path) == []


def test_a_spoiled_file_in_place_is_fetched_anew(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(DATA[:-1] + b"?")
    assert fetch(remote(server.url), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("part", [b"?" * 1000, b"?" * len(DATA), b"?" * (len(DATA) + 1)])
@pytest.mark.parametrize("size", [True, False])
def test_a_spoiled_part_costs_one_more_try(server, tmp_path, part, size):
    (tmp_path / "data.bin.part").write_bytes(part)
    assert fetch(remote(server.url, size=size), tmp_path).read_bytes() == DATA
    assert left(tmp_path) == ["data.bin"]


def test_404_an_error_page_and_a_dead_address_pass_to_the_next(server, tmp_path):
    with serving({}) as empty, serving({"data.bin": HTML}) as page:
        dead = "http://127.0.0.1:9/"
        urls = (dead, empty.url, page.url)
        with pytest.raises(GenreUtilsError) as caught:
            fetch(remote(*urls), tmp_path)
        text = str(caught.value)
        assert "refused" in text and "HTTP 404" in text and f"{len(HTML)} bytes, not the" in text
        assert all(url in text for url in urls) and "--mirror" in text and "\n" not in text
        assert left(tmp_path) == []
        assert fetch(remote(*urls, server.url), tmp_path).read_bytes() == DATA


def test_no_more_than_the_cap_is_taken(server, tmp_path):
    for length_known in (True, False):
        server.no_length = set() if length_known else {"data.bin"}
        capped = Remote("data.bin", (Source(server.url + "data.bin"),), cap=50_000)
        with pytest.raises(GenreUtilsError, match="more than the 50000"):
            fetch(capped, tmp_path)
        assert all((tmp_path / name).stat().st_size <= 50_000 for name in left(tmp_path))


def test_parts_come_as_ranges_of_the_whole(server, tmp_path):
    pieces = [DATA[:120_000], DATA[120_000:]]
    server.cuts["data.bin"] = [70_000]
    for i, (offset, piece) in enumerate(zip((0, 120_000), pieces, strict=True)):
        one = Remote(f"p{i}", (Source(server.url + "data.bin", offset),), len(piece), md5(piece))
        assert fetch(one, tmp_path).read_bytes() == piece
    assert [asked for _, asked in server.log] == [
        "bytes=0-119999",
        "bytes=70000-119999",
        "bytes=120000-299999",
    ]
    server.ranges = False
    one = Remote("p9", (Source(server.url + "data.bin", 120_000),), 180_000, md5(pieces[1]))
    with pytest.raises(GenreUtilsError, match="300000 bytes, not the 180000"):
        fetch(one, tmp_path)


def test_a_full_disk_is_one_line_and_what_came_is_kept(server, tmp_path):
    """A quota on file size, in a process of its own, stands for the full disk."""
    code = f"""
        import resource, signal, sys
        from pathlib import Path
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        from genre_utils.data.download import Remote, Source, fetch
        from genre_utils.errors import GenreUtilsError
        try:
            one = Source({server.url + "data.bin"!r})
            fetch(Remote("data.bin", (one,), {len(DATA)}, {md5(DATA)!r}), Path({str(tmp_path)!r}))
        except GenreUtilsError as error:
            sys.exit(str(error))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"cannot write .*data.bin.part: .*; what is fetched is kept.*\n", done.stderr
    )
    assert (tmp_path / "data.bin.part").read_bytes() == DATA[:100_000]
    assert fetch(remote(server.url), tmp_path).read_bytes() == DATA
    assert server.log[-1] == ("data.bin", f"bytes=100000-{len(DATA) - 1}")


# A whole release: six clips in a zip cut in three, clip table, catalogue.

CLIPS = [  # clip_id, artist, SKU, mp3_path
    ("1", "Ann", "a", "0/ann-a-01-one-0-29.wav"),
    ("2", "Ann", "a", "0/ann-a-01-one-29-58.wav"),
    ("3", "Bob", "b", "1/bob-b-01-zwölf-0-29.wav"),
    ("4", "Bob", "b", "1/bob-b-01-empty-0-29.wav"),
    ("5", "Cid", "c", "2/cid-c-01-hop-0-29.wav"),
    ("6", "Dee", "d", "3/dee-d-01-lost-0-29.wav"),
    ("7", "Dee", "d", ""),
]
GENRES = {"a": ["Jazz"], "b": ["Ambient", "New Age"], "c": ["Hip Hop"]}


def clip_info():
    text = io.StringIO()
    out = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    out.writerow(["clip_id", "title", "artist", "album", "url", "segmentStart", "mp3_path"])
    for number, artist, sku, path in CLIPS:
        url = f"http://www.magnatune.com/artists/albums/{sku}/"
        out.writerow([number, f"title {number}", artist, sku, url, 0, path])
    return text.getvalue().encode()


def catalogue(genres):
    with contextlib.closing(sqlite3.connect(":memory:")) as base:
        base.executescript(
            "CREATE TABLE albums(album_id integer, sku text);"
            "CREATE TABLE genres(genre_id integer, name text);"
            "CREATE TABLE genres_albums(genre_id integer, album_id integer);"
        )
        names = sorted({name for listed in genres.values() for name in listed})
        base.executemany("INSERT INTO genres VALUES (?, ?)", list(enumerate(names)))
        for i, (sku, listed) in enumerate(genres.items()):
            base.execute("INSERT INTO albums VALUES (?, ?)", (i, sku))
            links = [(names.index(name), i) for name in listed]
            base.executemany("INSERT INTO genres_albums VALUES (?, ?)", links)
        base.commit()
        return gzip.compress(base.serialize())


def zipped(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def sounds():
    rng = np.random.default_rng(0)
    for _, _, _, path in CLIPS:
        if path:
            out = io.BytesIO()
            soundfile.write(out, rng.normal(0, 0.1, 20_000), 16000, format="WAV")
            yield path, b"" if "empty" in path else out.getvalue()


def in_three(archive):
    third = len(archive) // 3
    return [archive[:third], archive[third : 2 * third], archive[2 * third :]]


@pytest.fixture(scope="module")
def files():
    """Everything a mirror holds."""
    parts = in_three(zipped(dict(sounds())))
    named = {f"mp3.zip.{i:03d}": part for i, part in enumerate(parts, 1)}
    tables = {"clip_info_final.csv": clip_info(), "sqlite_normalized.db.gz": catalogue(GENRES)}
    return named | tables


def fake_release(files, *bases):
    """The release as the module has it, with the sizes and checksums of ``files``."""
    true = releases.RELEASES["magnatagatune"]

    def sized(one):
        return replace(one, size=len(files[one.name]), md5=md5(files[one.name]))

    return replace(
        true,
        bases=bases,
        wholes=(),
        parts=tuple(sized(one) for one in true.parts),
        files=tuple(replace(one, md5=md5(files[one.name])) for one in true.files),
        catalogue=tuple(
            replace(one, sources=tuple(Source(base + one.name) for base in bases))
            for one in true.catalogue
        ),
        size=sum(len(files[one.name]) for one in true.parts),
        cap=2**20,
    )


@pytest.fixture
def site(files, monkeypatch, tmp_path, cache):
    with serving(files) as server:

        def use(content, *bases):
            fake = MappingProxyType({"magnatagatune": fake_release(content, *bases)})
            monkeypatch.setattr(releases, "RELEASES", fake)

        use(files, server.url)
        yield SimpleNamespace(server=server, use=use, folder=tmp_path / "data dir")


def get(folder, mirror=""):
    return list(releases.download("magnatagatune", folder, mirror))


def test_from_nothing_to_the_clip_table(site):
    lines = get(site.folder)
    assert lines[-1] == "audio: 6 files there"
    assert left(site.folder) == [
        "0",
        "1",
        "2",
        "3",
        "clip_info_final.csv",
        "download.json",
        "sqlite_normalized.db.gz",
    ]
    clips, report = datasets.load_clips("magnatagatune", site.folder)
    assert dict(zip(clips["clip_id"], clips["status"], strict=True)) == {
        "1": "ok",
        "2": "ok",
        "3": "ok",
        "4": "empty file",
        "5": "not a genre of the paper: Hip Hop",
        "6": "no genre: album not in the catalogue",
    }
    assert dict(zip(clips["clip_id"], clips["genre"], strict=True))["3"] == "Ambient"
    assert report["rows_without_audio"] == 1
    for path, content in sounds():
        assert (site.folder / path).read_bytes() == content


def test_a_finished_download_is_never_fetched_again(site):
    get(site.folder)
    asked = len(site.server.log)
    assert asked == 5  # clip table, catalogue, three parts
    assert get(site.folder)[-1] == "audio: 6 files there"
    assert len(site.server.log) == asked


def test_lost_audio_is_fetched_again_and_the_rest_left_alone(site):
    get(site.folder)
    kept, lost = site.folder / CLIPS[0][3], site.folder / CLIPS[1][3]
    content, before = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    get(site.folder)
    assert lost.read_bytes() == content and kept.stat().st_mtime_ns == before


def test_mirror_stands_in_front_and_may_hold_the_whole_archive(site, files, monkeypatch):
    whole = b"".join(files[f"mp3.zip.{i:03d}"] for i in (1, 2, 3))
    rest = {name: content for name, content in files.items() if ".zip." not in name}
    site.use(files, "http://127.0.0.1:9/")
    with serving(rest | {"mp3.zip": whole}) as mirror:
        true = releases.RELEASES["magnatagatune"]
        wholes = replace(true, wholes=("http://127.0.0.1:9/mp3.zip",))
        monkeypatch.setattr(releases, "RELEASES", {"magnatagatune": wholes})
        assert get(site.folder, mirror.url.rstrip("/"))[-1] == "audio: 6 files there"
    assert site.server.log == []


def test_wrong_checksum_on_the_first_mirror_of_every_file(site, files):
    spoiled = {name: content[:-1] + b"?" for name, content in files.items()}
    with serving(spoiled) as first:
        site.use(files, first.url, site.server.url)
        assert get(site.folder)[-1] == "audio: 6 files there"
        assert {name for name, _ in first.log} == set(files)
    datasets.load_clips("magnatagatune", site.folder)


def test_an_error_page_in_place_of_everything(site, files):
    with serving(dict.fromkeys([*files, "song_info.csv"], HTML)) as page:
        site.use(files, page.url)
        with pytest.raises(GenreUtilsError, match=r"clip_info_final\.csv could not be fetched"):
            get(site.folder)
        assert left(site.folder) == []


def test_song_info_stands_in_for_a_catalogue_that_is_an_error_page(site):
    site.server.files["sqlite_normalized.db.gz"] = HTML
    site.server.files["song_info.csv"] = b"albumsku,magnatunegenres\na,Jazz\nb,Ambient\n"
    site.folder.mkdir()
    (site.folder / "sqlite_normalized.db.gz").write_bytes(b"left by an earlier attempt")
    assert "song_info.csv: there, schema right" in get(site.folder)
    assert "sqlite_normalized.db.gz" not in left(site.folder)


def test_audio_comes_even_when_the_catalogue_is_gone_and_the_error_says_so(site):
    del site.server.files["sqlite_normalized.db.gz"]
    with pytest.raises(GenreUtilsError, match=r"song_info\.csv could not be fetched"):
        get(site.folder)
    assert (site.folder / CLIPS[0][3]).is_file()
    site.server.files["sqlite_normalized.db.gz"] = catalogue(GENRES)
    asked = len(site.server.log)
    get(site.folder)
    assert [name for name, _ in site.server.log[asked:]] == ["sqlite_normalized.db.gz"]


def test_a_sound_catalogue_of_the_users_own_stays(site):
    site.folder.mkdir()
    (site.folder / "song_info.csv").write_text("albumsku,magnatunegenres\na,World\n")
    get(site.folder)
    assert "sqlite_normalized.db.gz" not in left(site.folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../evil.wav", b"x"),
        ("/tmp/evil.wav", b"x"),
        ("a/../../evil", b"x"),
        ("C:\\evil.wav", b"x"),
        ("0\\..\\..\\evil", b"x"),
    ],
)
def test_a_zip_that_reaches_outside_is_refused_whole(tmp_path, name, content):
    archive = tmp_path / "in" / "mp3.zip.001"
    archive.parent.mkdir()
    archive.write_bytes(zipped({"0/good.wav": b"good", name: content}))
    with pytest.raises(GenreUtilsError, match="leaves the target folder; nothing was unpacked"):
        archives.unpack([archive], tmp_path / "out", cap=10**6)
    assert not (tmp_path / "out").exists() and left(tmp_path) == ["in"]


def tarred(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_tar_is_unpacked_and_one_with_a_link_refused_whole(tmp_path):
    good = tarfile.TarInfo("genres/blues/blues.00000.au")
    link = tarfile.TarInfo("genres/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tarred(tmp_path / "genres.tar.gz", (good, b"sound"), (link, b""))
    with pytest.raises(GenreUtilsError, match="genres/link is no plain file"):
        archives.unpack([tmp_path / "genres.tar.gz"], tmp_path, cap=10**6)
    assert left(tmp_path) == ["genres.tar.gz"]
    tarred(tmp_path / "genres.tar.gz", (good, b"sound"))
    files = archives.unpack([tmp_path / "genres.tar.gz"], tmp_path, cap=10**6)
    assert list(files) == [good.name] and (tmp_path / good.name).read_bytes() == b"sound"


def test_absurd_sizes_and_damage_are_refused(tmp_path):
    bomb = tmp_path / "mp3.zip.001"
    bomb.write_bytes(zipped({"0/a.wav": bytes(2 * 10**6)}))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(GenreUtilsError, match=r"more than the 0\.0 GB that this archive can hold"):
        archives.unpack([bomb], tmp_path / "out", cap=10**6)
    bomb.write_bytes(HTML)
    with pytest.raises(GenreUtilsError, match="damaged archive"):
        archives.unpack([bomb], tmp_path / "out", cap=10**6)
    packed = bytearray(zipped({"0/a.wav": DATA}))
    packed[1000:1010] = b"?" * 10
    bomb.write_bytes(packed)
    with pytest.raises(GenreUtilsError, match="damaged archive"):
        archives.unpack([bomb], tmp_path / "out", cap=10**6)
    assert not (tmp_path / "out/0/a.wav").exists()


def test_parts_are_read_as_one_file(tmp_path):
    paths = []
    for i, piece in enumerate([DATA[:7], DATA[7:8], b"", DATA[8:1000], DATA[1000:]]):
        paths.append(tmp_path / f"p{i}")
        paths[-1].write_bytes(piece)
    with io.BufferedReader(archives.Joined(paths), 100) as joined:
        assert joined.read() == DATA
        for at, n in [(0, 10), (6, 3), (990, 50), (len(DATA) - 5, 50), (len(DATA) + 5, 1)]:
            joined.seek(at)
            assert joined.read(n) == DATA[at : at + n]
        assert joined.seek(-10, io.SEEK_END) == len(DATA) - 10 and joined.read() == DATA[-10:]
        with pytest.raises(OSError, match="before the start"):
            joined.seek(-1)


def test_too_small_a_disk_is_refused_before_anything_is_fetched(site, monkeypatch):
    free = SimpleNamespace(free=download.SPARE + 1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: free)
    with pytest.raises(GenreUtilsError, match=r"data dir: 0.\d GB needed, 0.1 GB free; make room"):
        get(site.folder)
    assert site.server.log == []


def test_killed_and_started_again(site, files, tmp_path):
    """The process is killed in the middle of a part; the next one asks for the rest alone."""
    held = tmp_path / "release.pickle"
    held.write_bytes(pickle.dumps(releases.RELEASES["magnatagatune"]))
    code = f"""
        import pickle
        from pathlib import Path
        from types import MappingProxyType
        from genre_utils.data import download, releases
        download.CHUNK = 4096
        one = pickle.loads(Path({str(held)!r}).read_bytes())
        releases.RELEASES = MappingProxyType({{"magnatagatune": one}})
        list(releases.download("magnatagatune", Path({str(site.folder)!r})))
    """
    site.server.pause = 0.05
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    part = site.folder / "mp3.zip.002.part"
    while process.poll() is None and not (part.is_file() and part.stat().st_size > 8192):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(files["mp3.zip.002"])
    site.server.pause, asked = 0.0, len(site.server.log)
    assert get(site.folder)[-1] == "audio: 6 files there"
    end = len(files["mp3.zip.002"]) - 1
    assert site.server.log[asked:] == [
        ("mp3.zip.002", f"bytes={kept}-{end}"),
        ("mp3.zip.003", None),
    ]


def test_stopped_while_unpacking_goes_on(site, monkeypatch):
    true, written = archives._write, []

    def stopping(member, folder):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(member.name)
        return true(member, folder)

    monkeypatch.setattr(archives, "_write", stopping)
    with pytest.raises(KeyboardInterrupt):
        get(site.folder)
    assert not (site.folder / releases.RECEIPT).exists()
    first = site.folder / written[0]
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(archives, "_write", true)
    asked = len(site.server.log)
    assert get(site.folder)[-1] == "audio: 6 files there"
    assert len(site.server.log) == asked and first.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "mirror", "message"),
    [
        ("demo", "", "nothing to fetch for 'demo': one of magnatagatune"),
        ("magnatagatune", "file:///etc/", "must start with http"),
    ],
)
def test_wrong_calls(site, name, mirror, message):
    with pytest.raises(UsageError, match=message):
        list(releases.download(name, site.folder, mirror))
    assert not site.folder.exists()


def test_the_known_release_is_described_as_published():
    one = releases.RELEASES["magnatagatune"]
    assert sum(part.size for part in one.parts) == one.size == 2_972_769_864
    sourced = releases._with_mirror(one, "")
    for part, offset in zip(sourced.parts, (0, 1_100_000_000, 2_200_000_000), strict=True):
        assert part.sources[0].url == f"https://mirg.city.ac.uk/datasets/magnatagatune/{part.name}"
        assert part.sources[-1].url.endswith("/mp3.zip") and part.sources[-1].offset == offset
        assert len(part.md5) == 32 and part.cap >= part.size
