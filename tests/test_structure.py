"""A small package: its size, the direction of its imports, its environment, its style."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "genre_utils"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
# Low to high: a module imports from lower layers and from its own.
LAYERS = (
    {"paper", "runtime", "backend", "store"},
    {"data"},
    {"extraction"},
    {"models", "metrics"},
    {"plots"},
    {"own_music"},
    {"run", "publish", "sensitivity", "benchmark", "naive"},
    {"__main__"},
)
APART = {"models", "metrics"}  # neither imports the other
IMPORT_NAMES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}


def _imports(path):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [name for name in names if _path(name)]
            yield from known or [node.module]


def _path(name):
    """File of a module of the package, or None."""
    path = ROOT / Path(*name.split(".")).with_suffix(".py")
    return path if name.startswith("genre_utils.") and path.is_file() else None


def _name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_the_budget():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES)
    assert len(MODULES) <= 32
    assert lines <= 8500
    assert len((ROOT / "README.md").read_bytes()) <= 12 * 1024


def test_imports_run_one_way():
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for path in MODULES:
        own = _name(path).split(".")[1]
        for imported in _imports(path):
            if imported.startswith("genre_utils."):
                other = imported.split(".")[1]
                assert rank[other] <= rank[own], (_name(path), imported)
                assert {own, other} != APART, (_name(path), imported)


def test_no_circles():
    graph = {_name(path): {n for n in _imports(path) if _path(n)} for path in MODULES}
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


def test_tensorflow_is_imported_where_it_is_used():
    for path in MODULES:
        top = ast.parse(path.read_text(encoding="utf-8")).body
        lines = [ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
        heavy = [line for line in lines if re.search(r"\b(tensorflow|keras|backend)\b", line)]
        assert not heavy or path.stem == "backend", path


def test_ruff_has_nothing_to_say():
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "genre_utils", "tests"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    for path in [*MODULES, *(ROOT / "tests").glob("*.py")]:
        assert "fmt: " + "skip" not in path.read_text(encoding="utf-8"), path


def _project():
    with (ROOT / "pyproject.toml").open("rb") as stream:
        return tomllib.load(stream)


def _direct():
    project = _project()["project"]
    pins = project["dependencies"] + project["optional-dependencies"]["test"]
    return dict(pin.split("==") for pin in pins)


def _environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]


@pytest.mark.parametrize("folder", [PACKAGE, ROOT / "tests"], ids=lambda path: path.name)
def test_every_import_is_declared(folder):
    declared = {IMPORT_NAMES.get(name, name) for name in _direct()}
    tests = {path.stem for path in (ROOT / "tests").glob("*.py")}
    known = declared | tests | set(sys.stdlib_module_names) | {"genre_utils"}
    for path in folder.rglob("*.py"):
        for imported in _imports(path):
            assert imported.partition(".")[0] in known, (path.name, imported)


def test_the_lock_and_the_conda_environment_have_every_pin():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line and not line.startswith("#")]
    lock = {re.sub(r"[-_.]+", "-", pin).lower() for pin in pins}
    pip = next(entry["pip"] for entry in _environment() if isinstance(entry, dict))
    for name, version in _direct().items():
        assert re.sub(r"[-_.]+", "-", f"{name}=={version}").lower() in lock, name
    assert dict(line.split("==") for line in pip if "==" in line) == _direct()
    assert {"-c requirements.lock", "-e ."} <= set(pip)


def test_pythons_agree():
    python = next(entry for entry in _environment() if str(entry).startswith("python="))
    assert _project()["project"]["requires-python"] == ">=3.11,<3.14"
    assert python.split("=")[1] in ("3.11", "3.12", "3.13")
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "run_all.sh").read_text()


def test_each_pin_has_its_reason_and_no_address():
    for file in ("pyproject.toml", "environment.yml"):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if "==" in line]
        assert len(pins) >= len(_direct())
        for pin in pins:
            assert len(pin.partition("#")[2].strip()) > 10, pin
    for file in ("requirements.lock", "environment.yml", "pyproject.toml", "run_all.sh"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert "index" not in text, file
        assert "://" not in text, file


def test_run_all_asks_for_every_direct_package():
    script = (ROOT / "run_all.sh").read_text(encoding="utf-8")
    asked = re.search(r'names = """(.*?)"""', script, re.DOTALL).group(1).split()
    assert sorted(asked) == sorted(["genre_utils", *(IMPORT_NAMES.get(n, n) for n in _direct())])


def test_every_folder_is_packaged():
    named = _project()["tool"]["setuptools"]["packages"]
    folders = [path.parent for path in PACKAGE.rglob("__init__.py")]
    assert sorted(named) == sorted(".".join(f.relative_to(ROOT).parts) for f in folders)
