import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from genre_utils import run
from genre_utils.runtime import PROGRESS, GenreUtilsError, UsageError, progress

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
            assert declared[name]["default"] == repr(entry["value"]), (stem, name)


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


def test_a_defect_in_a_notebook_names_cell_and_file(tmp_path):
    with pytest.raises(
        GenreUtilsError, match=r"cell 3: ZeroDivisionError: .*executed\.ipynb"
    ) as caught:
        _papermill(tmp_path, "1 / 0")
    assert "\n" not in str(caught.value)


def test_values_arrive_with_their_types(tmp_path):
    cells = nbformat.read(_papermill(tmp_path, "print(repr(n_folds), repr(rate))"), 4).cells
    assert cells[-1].outputs[0].text == "4 0.5\n"


def _run_all(*arguments, cwd=None):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [ROOT / "run_all.sh", *arguments],
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
