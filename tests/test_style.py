import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "genre_utils").rglob("*.py"))


def test_ruff_has_nothing_to_say():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "genre_utils", "tests", "notebooks"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_modules_are_short_and_say_what_they_are_for(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 300
    assert lines[0].startswith('"""')


def test_every_module_has_its_place_in_readme():
    """A newcomer finds the file to change within a minute."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in MODULES:
        if not path.stem.startswith("__"):
            assert f"`{path.stem}`" in readme, path.stem
