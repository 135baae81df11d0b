"""A small package: its size, the direction of its imports, its environment, its style."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
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
    {"run", "publish", "sensitivity"},
    {"__main__"},
)
APART = {"models", "metrics"}  # neither imports the other
OURS = "genre_utils"
IMPORT_NAMES = {
    "ipython": "IPython",
    "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
    "pyyaml": "yaml",
}
IMPORT_NAMES |= {"pillow": "PIL"}


def _imports(text):
    """Modules and folders that Python text imports, anywhere in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"write the whole name: {ast.unparse(node)}"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if _is_ours(name) else node.module


def _is_ours(name):
    """Whether a name is a module or a folder of the package."""
    path = ROOT.joinpath(*name.split("."))
    return name.startswith("genre_utils.") and (path.is_dir() or path.with_suffix(".py").is_file())


def _imports_of(path):
    return list(_imports(path.read_text(encoding="utf-8")))


def _name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_there_are_few_modules():
    assert len(MODULES) <= 32


def test_there_are_few_lines():
    """The goal is 8,500; the limit falls with the code and never rises."""
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    assert sum(len(text.splitlines()) for text in texts) <= 9_200


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 12 * 1024


def _against_the_layers(own, text):
    """Imports of a module ``own`` that lead to a higher layer, or between models and metrics."""
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    others = {name: name.split(".")[1] for name in _imports(text) if name.startswith(f"{OURS}.")}
    return [n for n, other in others.items() if rank[other] > rank[own] or {own, other} == APART]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_run_one_way(path):
    own = _name(path).split(".")[1]
    assert _against_the_layers(own, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ("data", "from genre_utils.extraction import vgg"),
        ("data", "from genre_utils import paper, extraction"),
        ("models", "import genre_utils.metrics.evaluate"),
        ("metrics", "from genre_utils.models.systems import cross_validate"),
        ("run", "def f():\n    from genre_utils.__main__ import main"),
    ],
)
def test_an_import_of_a_higher_layer_is_seen(own, line):
    assert len(_against_the_layers(own, line)) == 1


def test_no_circles():
    graph = {_name(path): set(_imports_of(path)) for path in MODULES}
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


def _ruff(*words):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_ruff_has_nothing_to_say_of_the_notebooks():
    _ruff("check", "notebooks")


def test_ruff_has_nothing_to_say():
    _ruff("check", "genre_utils", "tests")
    _ruff("format", "--check", "genre_utils", "tests")
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


@pytest.mark.parametrize("folder", ["genre_utils", "tests", "notebooks"])
def test_every_import_is_declared(folder):
    declared = {IMPORT_NAMES.get(name, name) for name in _direct()}
    tests = {path.stem for path in (ROOT / "tests").glob("*.py")}
    known = declared | tests | set(sys.stdlib_module_names) | {OURS}
    if folder == "tests":  # two scripts that are no tests
        extras = _project()["project"]["optional-dependencies"]
        known |= {pin.split("==")[0] for pin in extras["browser"] + extras["benchmark"]}
    paths = [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".ipynb")]
    assert paths
    for path in paths:
        for text in _code(path):
            for imported in _imports(text):
                assert imported.partition(".")[0] in known, (path.name, imported)


def _code(path):
    """Python text of a module, or of a notebook's code cells."""
    if path.suffix == ".py":
        return [path.read_text(encoding="utf-8")]
    return [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


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
