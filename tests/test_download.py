"""From nothing to a clip table against a local server, and all that breaks on the way."""

import contextlib
import functools
import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from test_magnatagatune import write_catalogue, write_clip_info

from genre_utils.data import datasets, download
from genre_utils.data.download import Remote, fetch, unpack
from genre_utils.runtime import GenreUtilsError, UsageError

HTML = b"<html><body>This service has moved.</body></html>"
DATA = np.random.default_rng(1).bytes(300_000)
DEAD = "http://127.0.0.1:9/"


class Handler(SimpleHTTPRequestHandler):
    """Serves ``server.files``; those in ``server.cut`` break off, ``server.log`` has the names."""

    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.log.append(name)
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        if asked := self.headers.get("Range"):
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            content = content[first : last + 1]
        self.send_response(206 if asked else 200)
        if name not in self.server.no_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[:1000] if name in self.server.cut else content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(files):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.log, server.cut, server.no_length = dict(files), [], set(), set()
        server.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server():
    with serving({"data.bin": DATA}) as site:
        yield site


def md5(content):
    return hashlib.md5(content).hexdigest()


def remote(*urls, content=DATA):
    return Remote("data.bin", tuple(url + "data.bin" for url in urls), len(content), md5(content))


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_once_and_a_spoiled_one_anew(server, tmp_path):
    for _ in range(2):
        assert fetch(remote(server.url), tmp_path).read_bytes() == DATA
    assert server.log == ["data.bin"] and left(tmp_path) == ["data.bin"]
    (tmp_path / "data.bin").write_bytes(DATA[:-1] + b"?")
    assert fetch(remote(server.url), tmp_path).read_bytes() == DATA


def test_all_mirrors_are_tried_and_each_failure_has_its_reason(server, tmp_path):
    with (
        serving({}) as empty,
        serving({"data.bin": HTML}) as page,
        serving({"data.bin": DATA}) as broken,
    ):
        broken.cut.add("data.bin")
        urls = (DEAD, empty.url, page.url, broken.url)
        with pytest.raises(GenreUtilsError) as caught:
            fetch(remote(*urls), tmp_path)
        text = str(caught.value)
        for url, reason in zip(
            urls, ("refused", "HTTP 404 Not Found", "wrong checksum", "Incomplete"), strict=True
        ):
            assert reason in text.split(f"{url}data.bin: ")[1].split(";")[0]
        assert "--mirror" in text and "\n" not in text and left(tmp_path) == []
        assert fetch(remote(*urls), tmp_path, server.url).read_bytes() == DATA
        assert fetch(remote(*urls, server.url), tmp_path).read_bytes() == DATA
    assert server.log == ["data.bin"]


@pytest.mark.parametrize("length_known", [True, False])
def test_no_more_than_the_cap_is_taken(server, tmp_path, length_known):
    server.no_length = set() if length_known else {"data.bin"}
    with pytest.raises(GenreUtilsError, match="more than the 50000 bytes allowed"):
        fetch(replace(remote(server.url), cap=50_000), tmp_path)
    assert left(tmp_path) == []


def test_parts_come_as_ranges_of_the_whole(server, tmp_path):
    for first, last in ((0, 119_999), (120_000, 299_999)):
        part = DATA[first : last + 1]
        url = f"{server.url}data.bin#bytes={first}-{last}"
        assert fetch(Remote("p", (url,), len(part), md5(part)), tmp_path).read_bytes() == part


def test_a_full_disk_is_one_line(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(GenreUtilsError, match=r"cannot write .*data.bin: No space left.*make room"):
        fetch(remote(server.url), tmp_path)


# A whole release: clips in a zip cut in three, clip table, catalogue.

CLIPS = [  # clip_id, title, artist, SKU, mp3_path
    ("1", "One", "Ann", "a", "0/ann-a-01-one-0-29.wav"),
    ("2", "One", "Ann", "a", "0/ann-a-01-one-29-58.wav"),
    ("3", "Two", "Bob", "b", "1/bob-b-01-zwölf-0-29.wav"),
    ("4", "Empty", "Bob", "b", "1/bob-b-01-empty-0-29.wav"),
    ("5", "Lost", "Dee", "d", ""),
]
GENRES = {"a": ["Jazz"], "b": ["Ambient", "New Age"]}
SONG_INFO = b"albumsku,magnatunegenres\na,World\nb,Ambient\n"


def zipped(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def site(tmp_path, monkeypatch, cache):
    """A mirror with a small release, which `datasets` now knows as MagnaTagATune."""
    write_clip_info(tmp_path / "info.csv", CLIPS)
    write_catalogue(tmp_path / "catalogue.db", GENRES)
    rng, sounds = np.random.default_rng(0), {}
    for *_, path in CLIPS[:-1]:
        soundfile.write(out := io.BytesIO(), rng.normal(0, 0.1, 20_000), 16000, format="WAV")
        sounds[path] = b"" if "empty" in path else out.getvalue()
    whole = zipped(sounds)
    third = len(whole) // 3 + 1
    files = {f"mp3.zip.{i + 1:03d}": whole[i * third : (i + 1) * third] for i in range(3)} | {
        "clip_info_final.csv": (tmp_path / "info.csv").read_bytes(),
        "sqlite_normalized.db.gz": gzip.compress((tmp_path / "catalogue.db").read_bytes()),
    }

    def use(*bases):
        def local(true, proven=True):
            urls = tuple(base + true.name for base in bases)
            return replace(true, urls=urls, md5=md5(files[true.name]) if proven else "")

        dataset = datasets.magnatagatune.DATASET
        release = replace(
            dataset.release,
            parts=tuple(local(part) for part in dataset.release.parts),
            tables=tuple(local(table) for table in dataset.release.tables),
            catalogue=tuple(local(name, False) for name in dataset.release.catalogue),
            audio="*.wav",
            n_audio=4,
        )
        release = replace(release, parts=tuple(replace(p, cap=2**18) for p in release.parts))
        known = {"magnatagatune": replace(dataset, release=release)}
        monkeypatch.setattr(datasets, "DATASETS", known)

    with serving(files) as server:
        use(server.url)
        yield SimpleNamespace(
            server=server, use=use, folder=tmp_path / "data dir", files=files, sounds=sounds
        )


def get(folder, mirror=""):
    return list(datasets.download("magnatagatune", folder, mirror))


def test_from_nothing_to_the_clip_table_and_never_again(site):
    assert get(site.folder)[-1] == "audio: 4 files there"
    tables = ["clip_info_final.csv", "sqlite_normalized.db.gz"]
    assert left(site.folder) == ["0", "1", *tables]
    clips, report = datasets.load_clips("magnatagatune", site.folder)
    assert list(clips["status"]) == ["ok", "ok", "ok", "empty file"]
    assert list(clips["genre"]) == ["Jazz", "Jazz", "Ambient", "Ambient"]
    assert report["rows_without_audio"] == 1
    for path, content in site.sounds.items():
        assert (site.folder / path).read_bytes() == content
    asked = len(site.server.log)
    assert asked == 5 and get(site.folder)[-1] == "audio: 4 files there"
    assert len(site.server.log) == asked


def test_lost_audio_is_fetched_again_and_the_rest_left_alone(site):
    get(site.folder)
    kept, lost = (site.folder / CLIPS[i][4] for i in (0, 1))
    content, before = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    get(site.folder)
    assert lost.read_bytes() == content and kept.stat().st_mtime_ns == before


def test_parts_that_are_there_are_not_fetched_again(site):
    site.server.cut.add("mp3.zip.003")
    with pytest.raises(GenreUtilsError, match=r"mp3.zip.003 could not be fetched"):
        get(site.folder)
    site.server.cut.clear()
    site.server.log.clear()
    get(site.folder)
    assert site.server.log == ["mp3.zip.003"]


def test_stopped_while_unpacking_goes_on(site, monkeypatch):
    true = download._copy

    def stopping(sources, target):
        if len(list(site.folder.rglob("[!.]*.wav"))) == 2:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        true(sources, target)

    monkeypatch.setattr(download, "_copy", stopping)
    with pytest.raises(KeyboardInterrupt):
        get(site.folder)
    written = list(site.folder.rglob("*.wav"))
    assert len(written) == 2
    before = written[0].stat().st_mtime_ns
    monkeypatch.setattr(download, "_copy", true)
    site.server.log.clear()
    assert get(site.folder)[-1] == "audio: 4 files there" and site.server.log == []
    assert written[0].stat().st_mtime_ns == before


def test_a_spoiled_mirror_in_front_of_a_sound_one(site):
    spoiled = {name: content[:-1] + b"?" for name, content in site.files.items()}
    with serving(spoiled | {"sqlite_normalized.db.gz": HTML}) as first:
        site.use(DEAD, site.server.url)
        assert get(site.folder, first.url)[-1] == "audio: 4 files there"
        assert set(first.log) == set(site.files)
    datasets.load_clips("magnatagatune", site.folder)


def test_song_info_stands_in_for_a_catalogue_that_is_an_error_page(site):
    site.server.files |= {"sqlite_normalized.db.gz": HTML, "song_info.csv": SONG_INFO}
    site.folder.mkdir()
    (site.folder / "sqlite_normalized.db.gz").write_bytes(b"left by an earlier attempt")
    assert "song_info.csv: there, schema right" in get(site.folder)
    assert "sqlite_normalized.db.gz" not in left(site.folder)


def test_audio_comes_even_when_the_catalogue_is_gone_and_the_error_says_so(site):
    catalogue = site.server.files.pop("sqlite_normalized.db.gz")
    with pytest.raises(GenreUtilsError, match=r"song_info\.csv could not be fetched"):
        get(site.folder)
    assert (site.folder / CLIPS[0][4]).is_file()
    site.server.files["sqlite_normalized.db.gz"] = catalogue
    site.server.log.clear()
    get(site.folder)
    assert site.server.log == ["sqlite_normalized.db.gz"]


def test_a_sound_catalogue_of_the_users_own_stays(site):
    site.folder.mkdir()
    (site.folder / "song_info.csv").write_bytes(SONG_INFO)
    get(site.folder)
    assert "sqlite_normalized.db.gz" not in left(site.folder)


def test_too_small_a_disk_is_refused_before_anything_is_fetched(site, monkeypatch):
    free = SimpleNamespace(free=download.SPARE + 1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: free)
    with pytest.raises(GenreUtilsError, match=r"data dir: 0.\d GB needed, 0.1 GB free; make room"):
        get(site.folder)
    assert site.server.log == []


@pytest.mark.parametrize(
    ("name", "mirror", "message"),
    [
        ("demo", "", "nothing to fetch for 'demo': one of magnatagatune, gtzan"),
        ("magnatagatune", "file:///etc/", "must start with http"),
    ],
)
def test_wrong_calls(tmp_path, name, mirror, message):
    with pytest.raises(UsageError, match=message):
        list(datasets.download(name, tmp_path / "new", mirror))
    assert not (tmp_path / "new").exists()


refused = functools.partial(pytest.raises, GenreUtilsError)


@pytest.mark.parametrize(
    "name", ["../evil.wav", "/tmp/evil.wav", "a/../../evil", "C:\\evil.wav", "0\\..\\..\\evil"]
)
def test_a_zip_that_reaches_outside_is_refused_whole(tmp_path, name):
    (tmp_path / "mp3.zip").write_bytes(zipped({"0/good.wav": b"good", name: b"x"}))
    with refused(match="leaves the target folder; nothing unpacked"):
        unpack(tmp_path / "mp3.zip", tmp_path / "out", cap=10**6)
    assert left(tmp_path) == ["mp3.zip"]


def test_a_tar_is_unpacked_and_one_with_a_link_refused_whole(tmp_path):
    archive = tmp_path / "genres.tar.gz"
    good, link = tarfile.TarInfo("genres/blues/blues.00000.au"), tarfile.TarInfo("genres/link")
    link.type, link.linkname, good.size = tarfile.SYMTYPE, "/etc/passwd", 5
    for members in ([good, link], [good]):
        with tarfile.open(archive, "w:gz") as tar:
            for member in members:
                tar.addfile(member, io.BytesIO(b"sound"))
        if link in members:
            with refused(match="genres/link is no plain file"):
                unpack(archive, tmp_path, cap=10**6)
            assert left(tmp_path) == ["genres.tar.gz"]
    unpack(archive, tmp_path, cap=10**6)
    assert (tmp_path / good.name).read_bytes() == b"sound"


def test_absurd_sizes_and_damage_are_refused(tmp_path):
    bomb, damaged = tmp_path / "bomb.zip", bytearray(zipped({"0/a.wav": DATA}))
    bomb.write_bytes(zipped({"0/a.wav": bytes(2 * 10**6)}))
    with refused(match=r"more than the 0\.0 GB that this archive can hold"):
        unpack(bomb, tmp_path / "out", cap=10**6)
    damaged[1000:1010] = b"?" * 10
    for content in (HTML, bytes(damaged)):
        bomb.write_bytes(content)
        with refused(match="damaged archive"):
            unpack(bomb, tmp_path / "out", cap=10**6)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_the_known_release_is_described_as_published():
    parts = datasets.DATASETS["magnatagatune"].release.parts
    assert sum(part.cap for part in parts) == 2_972_769_864
    for part, first in zip(parts, (0, 1_100_000_000, 2_200_000_000), strict=True):
        assert part.urls[0] == f"https://mirg.city.ac.uk/datasets/magnatagatune/{part.name}"
        assert part.urls[-1].endswith(f"/mp3.zip#bytes={first}-{first + part.cap - 1}")
        assert len(part.md5) == 32
