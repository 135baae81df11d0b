import ast
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import joblib
import nbformat
import papermill
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genre_utils import run, runtime
from genre_utils.__main__ import main
from genre_utils.extraction import features, vgg
from genre_utils.metrics.evaluate import F_AVERAGES
from genre_utils.models.cnn import POOLING
from genre_utils.runtime import (
    LISTS,
    PROGRESS,
    RANGES,
    GenreUtilsError,
    UsageError,
    check_ranges,
    progress,
)

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = """n_folds: int = 10  # folds
seed: int = 0
rate: float = 0.5
force: bool = False
out: str = ''"""


def _notebook(path, parameters=PARAMETERS, tag="parameters", body="print(n_folds)"):
    cells = [nbformat.v4.new_code_cell(parameters), nbformat.v4.new_code_cell(body)]
    cells[0].metadata["tags"] = [tag]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """Write a profiles.yml of the test's own."""
    path = tmp_path / "profiles.yml"
    monkeypatch.setattr(run, "PROFILES", path)

    def write(**values):
        entries = {name: {"value": value, "why": "test"} for name, value in values.items()}
        path.write_text(
            yaml.safe_dump({"p": {"about": "", "dataset": "demo", "notebooks": {"01_x": entries}}})
        )

    return write


def test_declared_types_are_read(tmp_path):
    declared = run.declared_parameters(_notebook(tmp_path / "01_x.ipynb"))
    assert declared == {"n_folds": int, "seed": int, "rate": float, "force": bool, "out": str}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_fold": 3}, "01_x has no parameter 'n_fold'; it has force, n_folds, out, rate, seed"),
        ({"n_folds": "3"}, "n_folds must be int, not str"),
        ({"n_folds": 3.0}, "n_folds must be int, not float"),
        ({"n_folds": True}, "n_folds must be int, not bool"),
        ({"force": 1}, "force must be bool, not int"),
        ({"rate": "1e-3"}, "rate must be float, not str"),
    ],
)
def test_unknown_names_and_wrong_types_are_refused_before_anything_runs(
    tmp_path, profiles, values, said
):
    _notebook(tmp_path / "01_x.ipynb", body="open('ran', 'w')")
    profiles(**values)
    with pytest.raises(UsageError, match=said):
        run.plan("p", {}, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_int_where_a_float_is_declared_is_no_mistake(tmp_path, profiles):
    _notebook(tmp_path / "01_x.ipynb")
    profiles(rate=1)
    assert run.plan("p", {"seed": 3}, tmp_path)[0][1] == {"rate": 1, "seed": 3}


FREE = {"dataset", "data_dir", "out", "scheduler", "weights", "use_split", "model", "files"}
FREE |= {"other_labels", "title"}


def test_every_parameter_has_a_range_that_its_default_keeps():
    names = set()
    for path in run.notebooks():
        declared = papermill.inspect_notebook(str(path))
        check_ranges({name: ast.literal_eval(p["default"]) for name, p in declared.items()})
        names |= set(declared)
    assert names == RANGES.keys() | LISTS.keys() | FREE
    assert (
        RANGES.items() >= {name: tuple(known) for name, known in features.CHOICES.items()}.items()
    )
    assert RANGES["precision"] == vgg.PRECISIONS
    assert (RANGES["pooling"], RANGES["f_average"]) == (tuple(POOLING), F_AVERAGES)
    assert run.SOURCES == vgg.SOURCES


ANYTHING = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    st.lists(st.one_of(st.integers(-3, 3), st.floats(), st.text(), st.none()), max_size=5),
    *(st.dictionaries(st.text(), st.integers()), st.sampled_from([-1, 0, 1, 2.5, 10**30])),
)


@given(st.sampled_from(sorted(RANGES.keys() | LISTS.keys())), ANYTHING)
def test_a_value_is_in_range_or_refused_in_one_line(name, value):
    try:
        check_ranges({name: value})
    except UsageError as error:
        assert str(error).startswith(f"{name} must be ")
        assert len(str(error).splitlines()) == 1
    else:
        known = RANGES.get(name) or LISTS[name][3]
        for one in value if name in LISTS else [value]:
            assert known[0] <= one <= known[-1] or one in known


@pytest.mark.parametrize(
    "values",
    [
        *({"epochs": 0}, {"offset": -3}, {"offset": float("nan")}, {"min_artists": -3}),
        *({"max_per_genre": 2.5}, {"tuned_folds": -1}, {"jobs": -1}, {"jobs": 0}, {"seed": -1}),
        *({"dont_know": 7}, {"n_resamples": 0}, {"inner_folds": 1}, {"fill": "zero"}),
        *({"train_sizes": [2]}, {"train_sizes": []}, {"train_sizes": [0.5, 0.5]}),
        *({"patches": [0, 0]}, {"patches": [4]}, {"protocols": ["artists"]}, {"protocols": []}),
        *({"weights": "imagenet"}, {"weights": "/no/such.h5"}, {"use_split": "/no/such.csv"}),
    ],
    ids=str,
)
def test_a_run_refuses_what_makes_no_sense_before_anything_runs(values):
    (name,) = values
    (path, declared) = next(
        (path, known)
        for path in run.notebooks()
        if name in (known := run.declared_parameters(path))
    )
    with pytest.raises(UsageError, match=rf"^{path.stem}: {name}[^\n]*$"):
        run.check_parameters(path, declared, values)


def test_a_notebook_without_the_tag_is_refused(tmp_path, profiles):
    _notebook(tmp_path / "01_x.ipynb", tag="parameter")
    profiles()
    with pytest.raises(GenreUtilsError, match="no cell tagged 'parameters'"):
        run.plan("p", {}, tmp_path)


def test_a_parameter_without_a_type_is_refused(tmp_path, profiles):
    _notebook(tmp_path / "01_x.ipynb", parameters="n_folds = 10")
    profiles()
    with pytest.raises(GenreUtilsError, match="n_folds has no type hint"):
        run.plan("p", {}, tmp_path)


def test_a_profile_for_a_notebook_that_is_not_there_is_refused(tmp_path, profiles):
    _notebook(tmp_path / "02_y.ipynb")
    profiles(seed=1)
    with pytest.raises(UsageError, match="no notebook 01_x"):
        run.plan("p", {}, tmp_path)


@pytest.mark.parametrize("profile", list(run.load_profiles()))
def test_every_profile_fits_the_notebooks_and_gives_reasons(profile):
    steps = run.plan(profile, {"dataset": "demo", "jobs": 1, "out": "", "scheduler": ""})
    assert [path.stem[:2] for path, _ in steps] == sorted(path.stem[:2] for path, _ in steps)
    for entries in run.load_profiles()[profile]["notebooks"].values():
        for name, entry in entries.items():
            assert set(entry) == {"value", "why"}, name
            assert len(entry["why"]) > 10, name


def test_the_demo_profile_repeats_the_notebooks_own_defaults():
    """So a notebook opened alone does what the demo run did."""
    import papermill

    for stem, entries in run.load_profiles()["demo"]["notebooks"].items():
        declared = papermill.inspect_notebook(str(run.NOTEBOOKS / f"{stem}.ipynb"))
        for name, entry in entries.items():
            assert ast.literal_eval(declared[name]["default"]) == entry["value"], (stem, name)


def test_each_notebook_has_a_kernel_of_its_own(tmp_path):
    """Style, dtype policy and names of one notebook do not reach the next."""
    body = "import os, matplotlib\nprint(os.getpid(), matplotlib.rcParams['font.size'])\n"
    source = _notebook(tmp_path / "01_x.ipynb", body=body + "matplotlib.rcParams['font.size'] = 3")
    said = []
    for name in ("a.ipynb", "b.ipynb"):
        run._execute(source, tmp_path / name, {})
        said.append(nbformat.read(tmp_path / name, 4).cells[-1].outputs[0].text.split())
    assert said[0][0] != said[1][0]
    assert said[0][1] == said[1][1]


def test_what_the_user_has_set_does_not_reach_the_kernel(tmp_path, monkeypatch):
    home, jupyter = tmp_path / "home", tmp_path / "jupyter"
    start = home / ".ipython" / "profile_default" / "startup" / "00.py"
    start.parent.mkdir(parents=True)
    start.write_text("n_folds = print = None")
    (home / ".config" / "matplotlib").mkdir(parents=True)
    (home / ".config" / "matplotlib" / "matplotlibrc").write_text("font.size: 33\n")
    (jupyter / "kernels" / "python3").mkdir(parents=True)
    (jupyter / "kernels" / "python3" / "kernel.json").write_text(
        '{"argv": ["/no/such/python", "{connection_file}"], "display_name": "", "language": ""}'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(jupyter))
    monkeypatch.setenv("JUPYTER_PATH", str(jupyter))
    monkeypatch.setenv("MPLBACKEND", "no such backend")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    before = dict(os.environ)
    body = "import sys, matplotlib, genre_utils\n"
    body += "print(sys.executable, matplotlib.rcParams['font.size'], matplotlib.get_backend())"
    with run._own_surroundings():
        cells = nbformat.read(_papermill(tmp_path, body), 4).cells
    python, size, backend = cells[-1].outputs[0].text.split()
    assert (python, size) == (sys.executable, "10.0")
    assert backend.endswith("inline")
    assert dict(os.environ) == before


def test_two_runs_at_once_do_not_share_a_folder(tmp_path):
    with (tmp_path / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(GenreUtilsError, match=r"^[^\n]*another run is at work there[^\n]*$"):
            run.run("tiny", out=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_run_left_half_goes(tmp_path):
    (tmp_path / "figures" / ".part-x").mkdir(parents=True)
    with run._alone(tmp_path):
        assert list((tmp_path / "figures").iterdir()) == []


def test_a_scheduler_that_does_not_answer_is_said_first(tmp_path):
    with pytest.raises(GenreUtilsError, match="no Dask scheduler answers"):
        run.run("tiny", out=str(tmp_path / "out"), scheduler="tcp://127.0.0.1:9")
    assert not (tmp_path / "out").exists()


def test_parameters_of_the_command_line_go_over_the_profiles(tmp_path, monkeypatch):
    split = tmp_path / "~splits.csv"
    split.touch()
    monkeypatch.chdir(tmp_path)
    executed = []
    monkeypatch.setattr(run, "execute", lambda steps, _: executed.extend(steps))
    given = ["epochs=7", "protocols=[random]", "offset=3", "use_split=~splits.csv", "seed=5"]
    run.run("tiny", out=str(tmp_path / "out"), given=given)
    values = {path.stem: own for path, own in executed}
    assert values["03_cnn"]["epochs"] == 7
    assert values["03_cnn"]["epochs_small"] == 2  # the profile's
    assert values["01_data"]["protocols"] == ["random"]
    assert values["02_features"]["offset"] == 3
    assert values["01_data"]["use_split"] == str(split)
    declared = {path.stem: run.declared_parameters(path) for path in run.notebooks()}
    assert {stem for stem, own in values.items() if own.get("seed") == 5} == {
        stem for stem, names in declared.items() if "seed" in names
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("epochs", "write NAME=VALUE"),
        ("=3", "write NAME=VALUE"),
        ("epochs=[", "no value that YAML can read"),
        ("epochs=many", "03_cnn: epochs must be int, not str"),
        ("epochs=0", "03_cnn: epochs must be"),
        ("epoch=3", "no notebook has such a parameter"),
        ("jobs=2", "--set jobs: use --jobs"),
        ("data_dir=/x", "--set data_dir: use --data-dir"),
        ("other_labels=/nowhere.csv", "other_labels: '/nowhere.csv' is no file"),
    ],
)
def test_a_wrong_parameter_of_the_command_line_is_one_line(tmp_path, given, said):
    with pytest.raises(UsageError, match=f"^[^\n]*{re.escape(said)}[^\n]*$"):
        run.run("tiny", out=str(tmp_path / "out"), given=[given])
    assert not (tmp_path / "out").exists()


def test_a_kernel_that_is_killed_is_one_line(tmp_path):
    with pytest.raises(GenreUtilsError, match=r"^01_x: its process was killed[^\n]*$"):
        _papermill(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def _papermill(tmp_path, body):
    source = _notebook(tmp_path / "01_x.ipynb", body=body)
    target = tmp_path / "executed.ipynb"
    run._execute(source, target, {"n_folds": 4})
    return target


def test_a_users_mistake_in_a_notebook_is_one_line_and_the_notebook_stays(tmp_path):
    body = "from genre_utils.runtime import UsageError\n"
    body += "raise UsageError('no such genre; see clips.csv')"
    with pytest.raises(UsageError) as caught:
        _papermill(tmp_path, body)
    assert str(caught.value) == "01_x: no such genre; see clips.csv"
    cells = nbformat.read(tmp_path / "executed.ipynb", 4).cells
    assert "no such genre" in str(cells)
    assert "Traceback" not in str([c.get("outputs") for c in cells][-1])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        # NumPy's message begins with an empty line
        ("import numpy as np; np.testing.assert_allclose(1, 2)", "AssertionError: Not equal"),
    ],
)
def test_a_defect_in_a_notebook_names_cell_and_file(tmp_path, body, said):
    with pytest.raises(GenreUtilsError, match=rf"cell 3: {said}.*executed\.ipynb") as caught:
        _papermill(tmp_path, body)
    assert "\n" not in str(caught.value)


def test_values_arrive_with_their_types(tmp_path):
    cells = nbformat.read(_papermill(tmp_path, "print(repr(n_folds), repr(rate))"), 4).cells
    assert cells[-1].outputs[0].text == "4 0.5\n"


def _run_all(*arguments, cwd=None, shell=(), **variables):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= variables
    return subprocess.run(
        [*shell, ROOT / "run_all.sh", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profil", "demo"], "No such option"),
        (["--profile", "big"], "unknown profile 'big'; one of demo, mini, paper, tiny"),
        (["--dataset", "gtsan"], "unknown data set 'gtsan'"),
        (["--jobs", "two"], "'two' is not a valid integer"),
        (["--jobs", "-1"], "jobs must be 0 or more"),
        (["--dataset", "magnatagatune"], "needs --data-dir"),
        (["--data-dir", "/no/such/folder", "--dataset", "magnatagatune"], "/no/such/folder"),
        (["test", "--force"], "takes no options"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_2(tmp_path, arguments, said):
    done = _run_all(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_help_from_another_folder_explains_every_option(tmp_path):
    done = _run_all("--help", cwd=tmp_path)
    assert done.returncode == 0
    options = ("--profile", "--dataset", "--data-dir", "--out", "--jobs", "--force")
    for word in (*options, *run.load_profiles()):
        assert word in done.stdout


def test_the_script_runs_whatever_is_set(tmp_path):
    (tmp_path / "numpy.py").write_text("1 / 0")
    hostile = {"CDPATH": str(ROOT.parent), "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/no"}
    for shell in ((), ("sh",)):
        done = _run_all("--help", cwd=tmp_path, shell=shell, **hostile)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["import sys; print('ó 演 😀')", "print('\\udcff')"])
def test_an_encoding_that_lacks_characters_stops_nothing(line):
    code = "from genre_utils import __main__ as m\n"
    code += f"m.main(['datasets'])\n{line}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith(b"\\u")


def test_home_and_dashes_in_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["publish", "~/nothing", "x"]) == 2
    assert f"{tmp_path}/nothing: no finished run" in capsys.readouterr().err
    assert main(["predict", "model", "-a.wav"]) == 2
    assert "names that begin with a dash come after --" in capsys.readouterr().err
    assert main(["predict", "~no_such_user", "~a.wav"]) == 2
    assert "~a.wav: cannot be read: No such file" in capsys.readouterr().err


def test_a_disk_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", "--profile", "tiny", "--out", str(tmp_path / "file" / "out")]) == 1
    printed = capsys.readouterr().err
    assert str(tmp_path / "file") in printed
    assert len(printed.splitlines()) == 1

    def full(*_, **__):
        raise OSError(28, "No space left on device", "kernels.log")

    monkeypatch.setattr(run, "quiet_stderr", full)
    assert main(["run", "--profile", "tiny", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "error: No space left on device: kernels.log\n"


def test_a_worker_for_each_processor_that_may_be_used():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from genre_utils.runtime import workers; print(workers(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"1\n"


def test_without_locks_between_processes_one_does_all(monkeypatch):
    monkeypatch.setattr(joblib.parallel, "BACKENDS", {})  # as joblib leaves it: no /dev/shm
    assert runtime.each(abs, [(-1,), (-2,)], jobs=2) == [1, 2]


def test_a_terminal_without_a_name_has_no_bars(monkeypatch):
    def nameless(_):
        raise OSError(19, "No such device")

    monkeypatch.delenv(PROGRESS, raising=False)
    monkeypatch.setattr(os, "ttyname", nameless)
    runtime.on_terminal()
    assert os.environ[PROGRESS] == ""
    monkeypatch.delenv(PROGRESS)


WORK = """
import os, sys, time
from genre_utils.runtime import each
def work(i):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    time.sleep(60)
each(work, [(i,) for i in range(2)], jobs=2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_who_started_them(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", WORK, tmp_path])
    until = time.monotonic() + 60
    while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(number)
    process.wait()
    while any(Path(f"/proc/{pid}/stat").exists() for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("variable", [True, False])
def test_keras_is_as_it_came_whatever_is_set(tmp_path, variable):
    (tmp_path / "keras.json").write_text('{"floatx": "float64", "backend": "jax"}')
    code = (
        "from genre_utils.backend import keras as k; print(k.backend.backend(), k.config.floatx())"
    )
    environment = os.environ | {"KERAS_HOME": str(tmp_path)}
    environment |= {"KERAS_BACKEND": "torch", "KERAS_MAX_EPOCHS": "1"} if variable else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout == b"tensorflow float32\n"


@pytest.fixture
def bar(tmp_path, monkeypatch):
    """Stand-in for the terminal that a run draws its bars on."""
    path = tmp_path / "terminal"
    path.touch()
    monkeypatch.setenv(PROGRESS, str(path))
    return path


def test_bar_is_drawn_on_the_named_terminal_only(bar, capfd):
    assert list(progress("abc", "mel features", unit="song")) == ["a", "b", "c"]
    assert "mel features" in bar.read_text()
    assert "song" in bar.read_text()
    assert capfd.readouterr() == ("", "")


def test_generators_have_the_total_that_is_given(bar):
    assert list(progress((i for i in range(3)), "folds", total=3)) == [0, 1, 2]
    assert "/3" in bar.read_text()


def test_where_nothing_is_to_do_there_is_no_bar(bar, monkeypatch, capfd):
    """A notebook's outputs are the same whatever was stored before, also in a plain kernel."""
    assert list(progress(iter(()), "folds", total=0)) == []
    monkeypatch.delenv(PROGRESS)
    assert list(progress(iter(()), "folds", total=0)) == []
    assert bar.read_text() == ""
    assert capfd.readouterr() == ("", "")


def test_a_loop_left_early_and_an_error_close_the_bar(bar):
    for item in progress(range(5), "folds"):
        if item == 2:
            break

    def failing():
        yield 1
        raise ValueError("inside the loop")

    with pytest.raises(ValueError, match="inside the loop"):
        list(progress(failing(), "folds"))


@pytest.mark.parametrize("value", ["", "/no/such/terminal"])
def test_quiet_when_empty_or_gone(value, monkeypatch, capfd):
    monkeypatch.setenv(PROGRESS, value)
    assert list(progress(range(3), "folds")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of the script, the package and the notebooks, and a home with a false kernel."""
    place, home = tmp_path / "a checkout", tmp_path / "home"
    shutil.copytree(run.NOTEBOOKS, place / "notebooks")
    shutil.copy(ROOT / "run_all.sh", place)
    (place / "genre_utils").symlink_to(ROOT / "genre_utils")
    false = home / "kernels" / "python3" / "kernel.json"
    false.parent.mkdir(parents=True)
    false.write_text('{"argv": ["/no/such"], "display_name": "", "language": ""}')
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    for name in ("IPYTHONDIR", "JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home))
    return place


def _lab(checkout, *options):
    command = [checkout / "run_all.sh", "lab", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)


def test_lab_opens_copies_and_keeps_those_that_were_changed(checkout):
    done = _lab(checkout, "--version")  # an option of JupyterLab's own
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [version("jupyterlab")]
    folder, originals = checkout / "runs" / "demo-demo" / "lab", checkout / "notebooks"
    names = [path.name for path in run.notebooks(originals)]
    assert sorted(path.name for path in folder.glob("*.ipynb")) == names
    tried, gone, renewed, *_ = names
    (folder / tried).write_text("mine")
    (folder / gone).unlink()
    for name in (tried, renewed):  # later versions
        with (originals / name).open("a") as stream:
            stream.write("\n")
    for _ in range(2):
        done = _lab(checkout, "--version")
        assert done.returncode == 0
        assert f"kept as you changed them: {tried} (" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (folder / tried).read_text() == "mine"
    for name in (gone, renewed):
        assert (folder / name).read_bytes() == (originals / name).read_bytes()


def _asked(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def test_lab_has_this_pythons_kernel_and_leaves_the_home_alone(checkout):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url, known = f"http://127.0.0.1:{port}/api", None
    options = ["--no-browser", "--port", port, "--IdentityProvider.token=", "--allow-root"]
    command = [checkout / "run_all.sh", "lab", *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        for _ in range(300):
            with suppress(OSError):
                known = _asked(f"{url}/kernelspecs")
                break
            time.sleep(0.2)
        cells = _asked(f"{url}/contents/02_features.ipynb")["content"]["cells"]
        server.terminate()
    assert all(c["metadata"]["trusted"] for c in cells if c["cell_type"] == "code")
    assert known["default"] == "python3"
    python = known["kernelspecs"]["python3"]["spec"]["argv"][0]
    assert Path(python).parent == Path(sys.executable).parent
    # JupyterLab looks for language servers by npm, where there is one.
    home = {path.name for path in (checkout.parent / "home").iterdir()} - {".npm"}
    assert home == {"kernels"}
