"""Bars go where GENRE_UTILS_PROGRESS says and nothing else changes."""

import pytest

from genre_utils.runtime import VARIABLE, progress


@pytest.fixture
def bar(tmp_path, monkeypatch):
    """Stand-in for the terminal that a run draws its bars on."""
    path = tmp_path / "terminal"
    path.touch()
    monkeypatch.setenv(VARIABLE, str(path))
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
    monkeypatch.setenv(VARIABLE, value)
    assert list(progress(range(3), "folds")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_unset_means_a_notebook_bar_that_goes_away(monkeypatch, capfd):
    monkeypatch.delenv(VARIABLE)
    items = progress(range(3), "folds")
    assert items.leave is False
    assert list(items) == [0, 1, 2]
    assert capfd.readouterr().out == ""
