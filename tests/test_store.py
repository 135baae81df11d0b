"""Stored arrays are found again by content, survive interruption, and never mix."""

import json
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import types

import numpy as np
import pandas as pd
import pytest

from genre_utils import store
from genre_utils.data import audio
from genre_utils.extraction import features, vgg
from genre_utils.runtime import GenreUtilsError
from genre_utils.store import ROOT, Run, Store, versions

KEY = {"hop_length": 512, "code": "abc"}
ROWS = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
IDS = ["d0", "d1", "d2", "d3"]


@pytest.fixture
def rows(tmp_path):
    return Store.make(tmp_path, "mel", KEY)


def test_rows_come_back_in_the_order_asked_for(rows):
    rows.put(IDS[:2], ROWS[:2])
    rows.put(IDS[2:], ROWS[2:])
    order = [3, 0, 2, 0]
    loaded = rows.load([IDS[i] for i in order])
    assert loaded.dtype == ROWS.dtype
    assert np.array_equal(loaded, ROWS[order])


def test_a_new_process_finds_the_rows(rows, tmp_path):
    rows.put(IDS, ROWS)
    again = Store.make(tmp_path, "mel", dict(reversed(KEY.items())))
    assert again.missing([*IDS, "d9"]) == ["d9"]
    assert np.array_equal(again.load(IDS), ROWS)
    assert np.array_equal(Store(rows.folder).load(IDS), ROWS)


def test_missing_ids_are_listed_once_in_order(rows):
    rows.put(["b"], ROWS[:1])
    assert rows.missing(["c", "a", "b", "c", "a"]) == ["c", "a"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mfcc", KEY),
        ("mel", KEY | {"hop_length": 256}),
        ("mel", KEY | {"code": "abd"}),
        ("mel", {"hop_length": 512}),
    ],
)
def test_other_name_parameter_or_code_is_another_folder(rows, tmp_path, name, key):
    rows.put(IDS, ROWS)
    other = Store.make(tmp_path, name, key)
    assert other.folder != rows.folder
    assert other.missing(IDS) == IDS


def test_the_folder_says_what_it_was_made_with(rows):
    assert json.loads((rows.folder / "key.txt").read_text()) == KEY


def test_plain_numpy_reads_a_shard(rows):
    rows.put(IDS, ROWS)
    (shard,) = rows.folder.glob("*.npy")
    assert np.array_equal(np.load(shard), ROWS)
    assert json.loads(shard.with_suffix(".json").read_text())["ids"] == IDS


def test_an_interrupted_shard_does_not_count(rows, monkeypatch):
    def killed(path, value):
        raise KeyboardInterrupt

    rows.put(IDS[:2], ROWS[:2])
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            rows.put(IDS[2:], ROWS[2:])
    assert len(list(rows.folder.glob("*.npy"))) == 2
    assert rows.missing(IDS) == IDS[2:]
    rows.put(IDS[2:], ROWS[2:])
    assert np.array_equal(rows.load(IDS), ROWS)


def test_an_interrupted_write_leaves_nothing(rows, monkeypatch):
    def killed(path, rows):
        path.write_bytes(b"half a row")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        rows.put(IDS, ROWS)
    assert [path.name for path in rows.folder.iterdir()] == ["key.txt"]


def test_two_writers_of_the_same_rows_agree(rows, tmp_path):
    other = Store.make(tmp_path, "mel", KEY)
    rows.put(IDS[:3], ROWS[:3])
    other.put(IDS[1:], ROWS[1:])
    rows.put(IDS[:3], ROWS[:3])
    assert np.array_equal(rows.load(IDS), ROWS)
    assert np.array_equal(other.load(IDS), ROWS)


def test_many_writers_at_once(tmp_path):
    many = np.arange(200, dtype=np.float32).reshape(100, 2)
    ids = [f"id{i}" for i in range(100)]

    def work(first):
        mine = Store.make(tmp_path, "mel", KEY)
        for i in range(first, 100, 2):  # neighbours write the same shards
            mine.put(ids[i : i + 1], many[i : i + 1])

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = Store.make(tmp_path, "mel", KEY)
    assert np.array_equal(rows.load(ids), many)
    assert not list(rows.folder.glob(".part*"))


def test_absent_rows_are_one_clear_error(rows):
    rows.put(IDS[:1], ROWS[:1])
    with pytest.raises(
        GenreUtilsError, match=r"^[^\n]*3 of 4 clips are not stored[^\n]*$"
    ) as caught:
        rows.load(IDS)
    assert str(rows.folder) in str(caught.value)
    assert "run the earlier stage again" in str(caught.value)
    with pytest.raises(GenreUtilsError):
        rows.load([])


def test_a_folder_that_is_gone_is_one_clear_error(tmp_path):
    with pytest.raises(GenreUtilsError, match=r"gone.*earlier stage again"):
        Store(tmp_path / "mel-0123")


def test_each_row_needs_one_id(rows):
    with pytest.raises(ValueError, match="3 ids for 4 rows"):
        rows.put(IDS[:3], ROWS)
    assert rows.missing(IDS) == IDS


def test_atomic_write_replaces_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "folder" / "a.csv"
    store.write_text(path, "old\n")

    def fails(part):
        part.write_text("half")
        assert path.read_text() == "old\n"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.write_atomic(path, fails)
    assert path.read_text() == "old\n"
    store.write_text(path, "new\n")
    assert path.read_text() == "new\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.csv"]


def test_atomic_write_keeps_the_ending_that_writers_look_at(tmp_path):
    store.write_atomic(tmp_path / "a.npz", lambda part: np.savez(part, x=ROWS))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert np.array_equal(np.load(tmp_path / "a.npz")["x"], ROWS)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_written_files_are_readable_by_others(tmp_path):
    store.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(GenreUtilsError, match=r"^cannot write [^\n]*$") as caught:
            store.write_text(path, "x")
        assert str(path) in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    store.write_text(tmp_path / "a.txt", "Größe\n音\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\n音\n".encode()
    store.write_json(tmp_path / "a.json", {"z": "音", "a": [1, None]})
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "z": "音",
        "a": [1, None],
    }


def test_digest_depends_on_values_not_on_order():
    assert store.digest({"a": 1, "b": [2, 3]}) == store.digest({"b": [2, 3], "a": 1})
    values = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"a": None}, {"b": 1}, {}]
    assert len({store.digest(value) for value in values}) == len(values)


def test_file_digest_is_sha256_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert store.file_digest(tmp_path / "a") == known


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its own: ``top`` imports ``low``, and ``other`` stands alone."""
    folder = tmp_path / "genre_utils"
    folder.mkdir()
    for name, text in {
        "top": "from genre_utils import low\n\ndef work():\n    import numpy\n    return low.x\n",
        "low": '"""Said."""\nx = 1\n',
        "other": "y = 1\n",
    }.items():
        (folder / f"{name}.py").write_text(text)
    spec = types.SimpleNamespace
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(
        store, "find_spec", lambda name: spec(origin=folder / f"{name.split('.')[1]}.py")
    )

    def digest():
        store._parsed.cache_clear()
        return store.code_digest(types.SimpleNamespace(__module__="genre_utils.top"))

    yield folder, digest
    store._parsed.cache_clear()


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("top", "from genre_utils import low\n\ndef work():\n    return low.x + 1\n", False),
        ("low", "x = 2\n", False),
        ("low", '"""Other words."""\n# A comment.\nx = 1\n', True),
        ("other", "y = 2\n", True),
    ],
)
def test_code_is_known_by_what_it_does_and_what_it_imports(package, name, text, same):
    """A recipe that is edited anywhere below makes a new key; words do not."""
    folder, digest = package
    before = digest()
    (folder / f"{name}.py").write_text(text)
    assert (digest() == before) is same


def test_code_is_known_by_the_versions_of_other_packages(package, monkeypatch):
    _, digest = package
    before = digest()
    monkeypatch.setattr(store, "version", lambda name: f"another {name}")
    assert digest() != before


def test_the_code_of_real_stages_differs():
    stages = (audio.decode, features.mel_spectrogram, vgg.build_blocks)
    assert len({store.code_digest(stage) for stage in stages}) == 3


def test_cache_lies_where_the_variable_or_the_system_says(cache, monkeypatch, tmp_path):
    assert store.cache_dir() == cache
    monkeypatch.delenv("GENRE_UTILS_CACHE")
    system = tmp_path / "system" / "genre-utils"
    monkeypatch.setattr(store, "user_cache_path", lambda *_: system)
    assert store.cache_dir() == system


@pytest.mark.parametrize("how", ["empty", "cut", "no text", "gone"])
def test_damaged_remembered_arrays_are_made_anew(tmp_path, how):
    path, made = tmp_path / "a.npz", []

    def make():
        made.append(1)
        return {"x": ROWS}

    store.remembered(path, make)
    assert np.array_equal(store.remembered(path, make)["x"], ROWS)
    assert len(made) == 1
    _damage(path, how)
    assert np.array_equal(store.remembered(path, make)["x"], ROWS)
    assert len(made) == 2


def _damage(path, how):
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        short = content[: content.rstrip(b"\n").rfind(b"\n") + 1]
        ways = {"empty": b"", "cut": content[:-5], "no text": b"\xff\xfe", "flipped": flipped}
        path.write_bytes((ways | {"a line short": short})[how])


def test_no_flipped_bit_of_remembered_arrays_is_used(tmp_path):
    path = tmp_path / "a.npz"
    made = {"proba": np.arange(7.0), "predicted": np.array(["Jazz", "Rock"])}
    store.remembered(path, lambda: made)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ (1 << i % 8)]) + content[i + 1 :])
        read = store.read_npz(path)
        if read is not None:  # a date or the like
            assert read.keys() == made.keys(), i
            assert all(np.array_equal(read[name], made[name]) for name in made), i


def test_arrays_that_cannot_be_kept_are_made_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    made = store.remembered(tmp_path / "file" / "a.npz", lambda: {"x": ROWS})
    assert np.array_equal(made["x"], ROWS)


@pytest.mark.parametrize("ending", [".npy", ".json"])
@pytest.mark.parametrize("how", ["empty", "cut", "no text", "gone", "flipped"])
def test_a_damaged_shard_is_made_anew(rows, ending, how):
    rows.put(IDS[:2], ROWS[:2])
    rows.put(IDS[2:], ROWS[2:])
    shard, _ = rows.index()["d2"]
    _damage(rows.folder / f"{shard}{ending}", how)
    again = Store(rows.folder)
    assert again.missing(IDS) == IDS[2:]
    again.put(IDS[3:], ROWS[3:])  # other shards than before
    again.put(IDS[2:3], ROWS[2:3])
    assert np.array_equal(again.load(IDS), ROWS)
    assert np.array_equal(Store(rows.folder).load(IDS), ROWS)


def _reversed(shard):
    known = json.loads(shard.with_suffix(".json").read_text())
    store.write_json(shard.with_suffix(".json"), known | {"ids": known["ids"][::-1]})


ALTERED = {
    "ids reversed": _reversed,
    "another type": lambda shard: np.save(shard, np.load(shard).view(np.int32)),
    "another shape": lambda shard: np.save(shard, np.load(shard).swapaxes(1, 2)),
    "another value": lambda shard: np.save(shard, np.load(shard) + 1),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_shard_is_noticed_by_who_reads_it_and_made_anew(rows, how):
    rows.put(IDS, ROWS)
    held, reader = rows.rows(IDS), Store(rows.folder)
    (shard,) = rows.folder.glob("*.npy")
    ALTERED[how](shard)
    for read in (lambda: held[:], lambda: reader.load(IDS)):
        with pytest.raises(
            GenreUtilsError, match=r"\.npy is damaged; run the earlier stage again$"
        ):
            read()
    assert Store(rows.folder).missing(IDS) == IDS
    rows.put(IDS, ROWS)
    assert np.array_equal(rows.load(IDS), ROWS)


def test_a_damaged_shard_does_not_hide_a_sound_one(rows):
    rows.put(IDS[:2], ROWS[:2])
    rows.put(IDS[:3], ROWS[:3])
    for shard in rows.folder.glob("*.npy"):
        if len(np.load(shard)) == 3:
            ALTERED["another value"](shard)
    assert rows.missing(IDS[:3]) == IDS[2:3]
    assert np.array_equal(rows.load(IDS[:2]), ROWS[:2])


def test_a_shard_is_compared_once_a_process(rows, monkeypatch):
    rows.put(IDS, ROWS)
    compared = []
    crc = store.zlib.crc32
    monkeypatch.setattr(store.zlib, "crc32", lambda *a: compared.append(a) or crc(*a))
    for _ in range(3):
        assert Store(rows.folder).missing(IDS) == []
        rows.load(IDS)
    assert len(compared) == 2  # ids and rows


def test_a_damaged_key_is_written_anew(rows):
    (rows.folder / store.KEY).write_text("")
    with pytest.raises(GenreUtilsError, match=r"key\.txt is damaged; run the earlier stage"):
        _ = rows.key
    assert Store.make(rows.folder.parent, "mel", KEY).key == KEY


def test_a_shard_that_goes_while_it_is_in_use_is_one_clear_error(rows):
    rows.put(IDS, ROWS)
    held = rows.rows(IDS)
    for path in rows.folder.glob("*.*"):
        path.unlink()
    with pytest.raises(
        GenreUtilsError, match=r"^[^\n]*\.npy is gone since; run the earlier stage again$"
    ):
        held[:]
    assert rows.missing(IDS) == IDS


def test_each_shard_is_read_once_and_only_those_asked_for_are_opened(rows, monkeypatch):
    many = np.arange(60, dtype=np.float32).reshape(30, 2)
    ids = [f"id{i}" for i in range(30)]
    for start in range(0, 30, 3):
        rows.put(ids[start : start + 3], many[start : start + 3])
    again = Store(rows.folder)
    texts, arrays = [], []
    load, loads = np.load, json.loads
    monkeypatch.setattr(json, "loads", lambda text: texts.append(text) or loads(text))
    for start in range(0, 30, 2):
        assert np.array_equal(again.load(ids[start : start + 2]), many[start : start + 2])
    assert len(texts) == 20  # once for the ids, once for the checksum
    texts.clear()
    monkeypatch.setattr(np, "load", lambda path, **how: arrays.append(path) or load(path, **how))
    again.load(ids[4:8])
    assert len({path.name for path in arrays}) == 2
    rows.put(["new"], many[:1])
    assert again.missing([*ids, "new"]) == []
    assert len(texts) == 2


@pytest.mark.parametrize(
    "which",
    [
        slice(None),
        slice(1, 3),
        slice(None, None, -2),
        [2, 0, 0],
        np.array([], int),
        np.array([True, False, True, False]),
    ],
)
def test_rows_left_on_disk_are_indexed_like_an_array(rows, which):
    rows.put(IDS[:3], ROWS[:3])
    rows.put(IDS[3:], ROWS[3:])
    lazy = rows.rows(IDS[::-1])
    assert (len(lazy), lazy.shape, lazy.dtype) == (4, (4, 2, 3), np.float32)
    assert np.array_equal(lazy[which], ROWS[::-1][which])


def test_rows_are_read_in_parts_without_the_whole_in_memory(rows):
    block = np.ones((64, 25_000), np.float16)  # 3.2 MB
    for start in range(0, 1024, 64):
        rows.put([f"id{i}" for i in range(start, start + 64)], block)
    lazy = rows.rows([f"id{i}" for i in range(1024)])
    tracemalloc.start()
    total = sum(lazy[start : start + 32].sum(dtype=float) for start in range(0, 1024, 32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 1024 * 25_000
    assert peak < block.nbytes * 2 < 1024 * 25_000 * 2 / 4


WRITER = """
import sys
import numpy as np
from genre_utils.store import Store
mine, first = Store(sys.argv[1]), int(sys.argv[2])
for row in range(first, first + 60):
    mine.put([f"id{row % 80}"], np.full((1, 1000), row % 80, np.float32))
"""


def test_two_processes_at_once_do_not_spoil_each_others_rows(rows):
    command = [sys.executable, "-c", WRITER, str(rows.folder)]
    writers = [subprocess.Popen([*command, first]) for first in ("0", "30")]
    ids = [f"id{i}" for i in range(80)]
    while any(writer.poll() is None for writer in writers):  # a reader meets no half-written shard
        there = sorted(set(ids) - set(rows.missing(ids)))
        if there:
            assert [f"id{int(value)}" for value in rows.load(there)[:, -1]] == there
    assert [writer.returncode for writer in writers] == [0, 0]
    assert rows.missing(ids) == []
    assert np.array_equal(rows.load(ids)[:, 0], np.arange(80))
    assert not list(rows.folder.glob(".part*"))


def test_a_store_travels_between_processes_by_its_folder(rows):
    rows.put(IDS, ROWS)
    rows.load(IDS)
    text = pickle.dumps(rows)
    assert len(text) < 500
    assert np.array_equal(pickle.loads(text).load(IDS), ROWS)


def test_another_parameter_makes_anew_only_what_depends_on_it(tmp_path):
    def names(**other):
        made = features.extract_all([], [], tmp_path, features.Look(**other))
        return {name: store.folder.name for name, store in made.items()}

    first = names()
    assert names() == first
    changed = {name for name, folder in names(mel_scale="power").items() if folder != first[name]}
    assert changed == {"mel"}
    for other in ({"offset": 5.0}, {"fill": "zeros"}):
        assert not set(names(**other).items()) & set(first.items())


def test_maps_follow_their_features_and_the_look_of_the_images_alone(cache, tmp_path):
    trunk = vgg.load_weights("random")

    def folder(keep=("vgg", "pooled"), **changed):
        look = features.Look(**changed)
        mfcc = features.extract_all([], [], tmp_path, look)["mfcc"]
        how = {"precision": "float32", "keep": keep}
        made = vgg.compute_maps(mfcc, "mfcc", [], trunk, tmp_path, look, **how)
        return made["vgg-mfcc"].folder.name

    first = folder()
    assert folder(mel_scale="power") == folder(keep=("vgg",)) == first
    others = {folder(offset=5.0), folder(channels="colormap"), folder(preprocessing="scale")}
    assert len(others | {first}) == 4


@pytest.fixture
def run(tmp_path, cache):
    return Run(tmp_path / "a run")


def test_the_default_folder_lies_in_the_checkout():
    assert Run(dataset="demo").folder == ROOT / "runs" / "demo-demo"


def test_text_stays_text_and_empty_stays_empty(run):
    names = ["0012", "NA", "nan", ""]
    clips = pd.DataFrame({"clip_id": names, "artist": names, "start_s": [0, 1.5, np.nan, 2]})
    run.write("clips", clips)
    back = run.read("clips")
    assert back["artist"].tolist() == names
    assert back["clip_id"].tolist() == names
    assert back["start_s"].isna().tolist() == [False, False, True, False]


def test_what_is_missing_names_the_notebook_to_run(run):
    with pytest.raises(GenreUtilsError, match=r"no .*splits\.csv; run notebook 01_data first"):
        run.read("splits")
    with pytest.raises(GenreUtilsError, match=r"run\.json has no 'corpus'; run the earlier"):
        run.recorded("corpus")
    with pytest.raises(GenreUtilsError, match=r"arrays\.json has no 'vgg-mel'; run the earlier"):
        run.arrays("vgg-mel")


def _rows(system, folds, answer="Jazz"):
    n = len(folds)
    table = pd.DataFrame({"system": system, "protocol": "random", "fold": folds})
    table["clip_id"] = [f"c{i}" for i in range(n)]
    table["y_true"], table["y_pred"] = "Jazz", answer
    return table


def test_a_systems_new_rows_replace_its_old_ones_and_stale_rows_go(run):
    splits = pd.DataFrame({"protocol": "random", "clip_id": ["c0", "c1"], "fold": [0, 1]})
    run.write("splits", splits)
    run.add_predictions(_rows("svm-mfcc", [0, 1]))
    both = run.add_predictions(_rows("cnn-mel", [0, 1]))
    assert both["system"].tolist() == ["cnn-mel", "cnn-mel", "svm-mfcc", "svm-mfcc"]
    again = run.add_predictions(_rows("cnn-mel", [0, 1], answer="World"))
    assert (again[again["system"] == "cnn-mel"]["y_pred"] == "World").all()
    assert len(again) == 4
    run.write("splits", splits.assign(fold=[1, 0]))
    renewed = run.add_predictions(_rows("cnn-mel", [1, 0]))
    assert renewed["system"].unique().tolist() == ["cnn-mel"]  # svm's rows are of other folds


def test_an_oracle_that_cannot_be_asked_any_more_goes(run):
    run.write("splits", pd.DataFrame({"protocol": "random", "clip_id": ["c0"], "fold": [0]}))
    rows = [_rows(system, [0]) for system in ("majority", "oracle-artist")]
    assert len(run.add_predictions(pd.concat(rows))) == 2
    assert len(run.add_predictions(_rows("svm-mfcc", [0]))) == 3
    assert list(run.add_predictions(rows[0])["system"]) == ["svm-mfcc", "majority"]


def test_the_file_does_not_depend_on_what_was_there_before(run):
    run.write("splits", pd.DataFrame({"protocol": "random", "clip_id": ["c0"], "fold": [0]}))
    proba = np.float32([0.1])
    for system in ("majority", "svm-fair", "svm-mfcc", "cnn-mel"):
        run.add_predictions(
            _rows(system, [0]).assign(p_Jazz=proba if system == "cnn-mel" else np.nan)
        )
    first = (run.folder / "predictions.csv").read_bytes()
    assert b",0.1\n" in first
    run.add_predictions(_rows("svm-mfcc", [0]).assign(p_Jazz=np.nan))
    assert (run.folder / "predictions.csv").read_bytes() == first
    order = run.read("predictions")["system"].tolist()
    assert order == ["cnn-mel", "svm-mfcc", "svm-fair", "majority"]


def test_parts_of_run_json_do_not_disturb_each_other(run):
    run.record("corpus", {"note": "demo corpus (synthesised)", "n": np.int64(3)})
    run.record("weights", {"random": False})
    assert run.note() == "demo corpus (synthesised)"
    run.record("weights", {"random": True})
    assert run.note() == "demo corpus (synthesised); untrained VGG-16"
    assert run.recorded("corpus")["n"] == 3


@pytest.mark.parametrize("how", ["empty", "cut", "no text", "flipped", "a line short"])
def test_an_altered_table_is_not_read_and_can_be_written_anew(run, how):
    run.record("corpus", {"note": ""})
    splits = pd.DataFrame({"protocol": "random", "clip_id": ["c0", "c1"], "fold": [0, 1]})
    run.write("splits", splits)
    rows = _rows("svm-mfcc", [0, 1])
    run.add_predictions(rows)
    for name, notebook in {"splits": "01_data", "predictions": "03_cnn and 04_svm"}.items():
        _damage(run.folder / f"{name}.csv", how)
        said = rf"{name}\.csv is not as it was written; run notebook {notebook} again$"
        with pytest.raises(GenreUtilsError, match=said):
            run.read(name)
    run.write("splits", splits)
    assert run.add_predictions(rows)["clip_id"].tolist() == ["c0", "c1"]


@pytest.mark.parametrize("how", ["empty", "cut", "no text"])
@pytest.mark.parametrize("name", ["run.json", "arrays.json"])
def test_damaged_facts_are_said_until_the_first_stage_writes_them_anew(run, cache, name, how):
    made = {"mel": Store.make(run.cache, "mel", {"x": 1})}
    run.record("corpus", {"note": "synthesised"})
    run.record_arrays(made)
    _damage(run.folder / name, how)
    with pytest.raises(GenreUtilsError, match=rf"{name} is damaged; run the notebooks again"):
        run.note() if name == "run.json" else run.arrays("mel")
    run.record("corpus", {"note": "synthesised"})
    run.record_arrays(made)
    assert run.note() == "synthesised"
    assert run.arrays("mel").folder == made["mel"].folder


def test_arrays_are_found_again(run):
    store = Store.make(run.cache, "mel", {"x": 1})
    store.put(["a"], np.ones((1, 2)))
    run.record_arrays({"mel": store})
    assert np.array_equal(run.arrays("mel").load(["a"]), np.ones((1, 2)))


def test_a_forced_run_leaves_what_others_share(run, cache):
    """A run with a cache of its own reads and writes there, not in the common one."""
    assert run.cache == cache / "arrays"
    Store.make(run.cache, "mel", KEY).put(IDS, ROWS)
    (run.folder / "cache").mkdir(parents=True)
    forced = Run(run.folder)
    assert forced.cache == run.folder / "cache"
    assert Store.make(forced.cache, "mel", KEY).missing(IDS) == IDS
    assert Store.make(run.cache, "mel", KEY).missing(IDS) == []


def test_usable_clips_carry_their_digest(run):
    clips = pd.DataFrame({"clip_id": ["1", "2"], "status": ["ok", "silent"]})
    run.write("clips", clips)
    run.write("audio", pd.DataFrame({"clip_id": ["1"], "sha256": ["ab"]}))
    used = run.usable_clips()
    assert used["clip_id"].tolist() == ["1"]
    assert used["sha256"].tolist() == ["ab"]


def test_versions_name_what_numbers_depend_on():
    assert {"tensorflow", "librosa", "soundfile"} <= set(versions())
