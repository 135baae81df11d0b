import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def _project():
    with (ROOT / "pyproject.toml").open("rb") as stream:
        return tomllib.load(stream)["project"]


def _direct():
    project = _project()
    return dict(
        p.split("==") for p in project["dependencies"] + project["optional-dependencies"]["test"]
    )


def _name(text):
    return re.sub(r"[-_.]+", "-", text).lower()


def _lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line and not line.startswith("#")]
    return [(_name(pin.split("==")[0]), pin.split("==")[1]) for pin in pins]


def test_every_direct_pin_is_in_the_lock_with_the_same_version():
    lock = _lock()
    for name, version in _direct().items():
        assert (_name(name), version) in lock, name


def test_the_conda_environment_repeats_the_direct_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    pins = dict(line.split("==") for line in pip if "==" in line)
    assert pins == _direct()
    assert "-c requirements.lock" in pip
    assert "-e ." in pip


def test_pythons_agree():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert _project()["requires-python"] == ">=3.11,<3.14"
    assert python.split("=")[1] in ("3.11", "3.12", "3.13")
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "run_all.sh").read_text()


def test_each_pin_has_its_reason():
    for file in ("pyproject.toml", "environment.yml"):
        pins = [line for line in (ROOT / file).read_text().splitlines() if "==" in line]
        assert len(pins) >= len(_direct())
        for line in pins:
            assert len(line.partition("#")[2].strip()) > 10, line


def test_run_all_asks_for_every_direct_package():
    script = (ROOT / "run_all.sh").read_text()
    modules = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
    asked = re.search(r'names = """(.*?)"""', script, re.DOTALL).group(1).split()
    assert sorted(asked) == sorted(["genre_utils", *(modules.get(n, n) for n in _direct())])


def test_no_address_of_a_package_index():
    for file in ("requirements.lock", "environment.yml", "pyproject.toml", "run_all.sh"):
        text = (ROOT / file).read_text()
        assert "index" not in text, file
        assert "://" not in text, file


def test_every_package_is_installed():
    with (ROOT / "pyproject.toml").open("rb") as stream:
        named = tomllib.load(stream)["tool"]["setuptools"]["packages"]
    found = [p.parent for p in (ROOT / "genre_utils").rglob("__init__.py")]
    assert sorted(named) == sorted(".".join(p.relative_to(ROOT).parts) for p in found)
