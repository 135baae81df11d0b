"""The same stages on a Dask scheduler's workers: two worker processes, on loopback only."""

import os
import signal
import socket
import subprocess
import sys
import time
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from genre_utils import runtime as parallel
from genre_utils.extraction import features, vgg
from genre_utils.extraction import vgg as weights
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import Store, file_digest

distributed = pytest.importorskip(
    "distributed", reason="distributed is not installed: no scheduler to test with"
)


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def _started(log, *words):
    """Run ``dask WORDS`` as a user does; workers find this file, whose functions they run."""
    command = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1", "--no-dashboard"]
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | path)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def _scheduler(folder):
    port = _free_port()
    with (folder / "log").open("w") as log, _started(log, "scheduler", "--port", str(port)):
        address = f"tcp://127.0.0.1:{port}"
        distributed.Client(address, timeout=120).close()
        yield address


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address of a scheduler with two workers of one thread each."""
    folder = tmp_path_factory.mktemp("cluster")
    with _scheduler(folder) as address, (folder / "workers").open("w") as log:
        words = ["--nworkers", "2", "--nthreads", "1", "--local-directory", str(folder)]
        with _started(log, "worker", address, *words):
            with distributed.Client(address, timeout=60) as client:
                client.wait_for_workers(2, timeout=120)
            yield address


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """36 short sounds in three chunks: files and digests."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    files = [folder / f"{i}.wav" for i in range(36)]
    for i, path in enumerate(files):
        tone = np.sin(2 * np.pi * 100 * (i + 1) * np.arange(24000) / 16000)
        soundfile.write(path, 0.3 * tone + 0.1 * rng.normal(size=24000), 16000)
    return files, [file_digest(path) for path in files]


def test_features_are_those_of_this_machine_to_the_last_bit(cluster, clips, tmp_path):
    made = {}
    for scheduler in ("", cluster):
        root = tmp_path / f"by{bool(scheduler)}"
        stores = features.extract_all(*clips, root, scheduler=scheduler)
        made[scheduler] = {name: store.load(clips[1]) for name, store in stores.items()}
    for name, rows in made[""].items():
        assert np.array_equal(rows, made[cluster][name]), name


def test_maps_are_those_of_this_machine(cluster, cache, tmp_path):
    grey = np.random.default_rng(0).normal(size=(70, 32, 64)).astype(np.float32)
    ids = [f"clip{i}" for i in range(70)]  # two shards
    images = Store.make(tmp_path, "mfcc", {})
    images.put(ids, grey)
    how = {"precision": "float32", "keep": ("vgg", "pooled")}
    trunk, made = weights.load_weights("random"), []
    for scheduler in ("", cluster):
        root = tmp_path / f"by{bool(scheduler)}"
        stores = vgg.compute_maps(images, "mfcc", ids, trunk, root, scheduler=scheduler, **how)
        made.append({name: store.load(ids) for name, store in stores.items()})
    assert set(made[0]) == set(made[1]) == {"vgg-mfcc", "pooled-mfcc"}
    for name, rows in made[0].items():
        assert np.ptp(rows) > 0
        assert np.array_equal(rows, made[1][name]), name


def _put_and_die_once(ids, store, flag):
    """The first process that meets the flag takes it away and is killed with half its work."""
    store.put(ids[:1], np.full((1, 4), int(ids[0]), np.float32))
    if flag.exists():
        flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    store.put(ids[1:], np.array([[int(i)] * 4 for i in ids[1:]], np.float32))
    return ids[0]


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_loses_nothing(cluster, tmp_path):
    store, flag = Store.make(tmp_path, "rows", {}), tmp_path / "flag"
    flag.touch()
    ids = [str(i) for i in range(40)]
    tasks = [(ids[i : i + 4], store, flag) for i in range(0, 40, 4)]
    assert parallel.each(_put_and_die_once, tasks, scheduler=cluster) == ids[::4]
    assert not flag.exists()
    assert np.array_equal(store.load(ids)[:, 0], np.arange(40))


def test_a_killed_local_process_is_one_line_and_what_is_stored_stays(tmp_path):
    store, flag = Store.make(tmp_path, "rows", {}), tmp_path / "flag"
    flag.touch()
    ids = [str(i) for i in range(8)]
    tasks = [(ids[i : i + 2], store, flag) for i in range(0, 8, 2)]
    with pytest.raises(GenreUtilsError, match=r"^a worker process was killed[^\n]*$"):
        parallel.each(_put_and_die_once, tasks, jobs=2)
    assert len(store.missing(ids)) < 8
    parallel.each(_put_and_die_once, tasks, jobs=2)
    assert store.missing(ids) == []


def test_a_task_that_kills_every_worker_ends_in_one_line(cluster):
    with pytest.raises(GenreUtilsError, match=r"^[^\n]*one task ended several workers[^\n]*$"):
        parallel.each(_die, [(1,)], scheduler=cluster)


def _refuse(number):
    if number == 2:
        raise GenreUtilsError(f"clip {number} is no clip")
    return number


@pytest.mark.parametrize("jobs", [1, 2, "cluster"])
def test_an_error_of_the_task_comes_through_as_it_is(jobs, request):
    how = {"scheduler": request.getfixturevalue("cluster")} if jobs == "cluster" else {"jobs": jobs}
    with pytest.raises(GenreUtilsError, match=r"^clip 2 is no clip$"):
        parallel.each(_refuse, [(i,) for i in range(4)], **how)
    assert parallel.each(_refuse, [(3,), (1,)], **how) == [3, 1]


def test_an_address_where_nothing_answers_is_one_line(clips, tmp_path):
    address = f"tcp://127.0.0.1:{_free_port()}"
    with pytest.raises(GenreUtilsError, match=r"^no Dask scheduler answers at [^\n]*$") as caught:
        features.extract_all(*clips, tmp_path, scheduler=address)
    assert address in str(caught.value)


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1:1", "tcp://127.0.0.1"])
def test_what_is_no_address_is_a_wrong_call(address):
    with pytest.raises(UsageError, match=rf"^--scheduler {address}: [^\n]*tcp://host:8786$"):
        parallel.each(_refuse, [(1,)], scheduler=address)


def test_a_scheduler_without_workers_is_one_line(tmp_path, monkeypatch):
    with _scheduler(tmp_path) as address:
        monkeypatch.setattr(parallel, "PATIENCE", 5)
        with pytest.raises(GenreUtilsError, match=r"^[^\n]*has no workers; start some[^\n]*$"):
            parallel.each(_refuse, [(1,)], scheduler=address)


def test_workers_that_cannot_import_the_code_are_one_line(cluster, monkeypatch):
    module = types.ModuleType("known_here_only")
    exec("def task(number):\n    return number", vars(module))
    monkeypatch.setitem(sys.modules, "known_here_only", module)
    with pytest.raises(GenreUtilsError, match=r"^[^\n]*another version of this package[^\n]*$"):
        parallel.each(module.task, [(1,)], scheduler=cluster)
