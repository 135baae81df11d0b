"""What several test modules share: the real data where it is there, a private cache, quiet bars."""

import os
from pathlib import Path

import pytest

os.environ["GENRE_UTILS_PROGRESS"] = ""
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest: of two processes one would wait for it at the end."""
    items.sort(key=lambda item: "test_end_to_end" not in item.nodeid)


@pytest.fixture(scope="session")
def shared():
    """The optional folder with the paper's text and real clips, beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(
            f"{folder} is not there: no paper text and no real Magnatune clips to test with"
        )
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    monkeypatch.setenv("GENRE_UTILS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
