"""The study of open choices: its words here, its runs in the end-to-end test."""

import ast

import pandas as pd
import papermill
import pytest

from genre_utils import paper, run
from genre_utils.runtime import UsageError
from genre_utils.sensitivity import CHOICES, COLUMNS, markdown, sensitivity, summary


def table(*rows):
    """Rows of (choice, alternative, difference, verdict_changes) of cnn-mel."""
    return pd.DataFrame(
        [
            (c, "d", a, "cnn-mel", 0.5 + d, 0.4, 0.6, 0.5, d, d - 0.1, d + 0.1, v)
            for c, a, d, v in rows
        ],
        columns=COLUMNS,
    )


def test_the_choices_are_parameters_of_the_notebooks_and_begin_with_our_default():
    for choice in CHOICES:
        if choice.notebook:
            declared = papermill.inspect_notebook(str(run.NOTEBOOKS / f"{choice.notebook}.ipynb"))
            default = declared[choice.name]["default"]
            assert choice.values[0] == ast.literal_eval(default)
        assert set(choice.systems) <= set(paper.TABLE1)


def test_readme_lists_every_choice():
    text = (run.ROOT / "README.md").read_text(encoding="utf-8")
    for choice in CHOICES:
        if choice.name != "baseline":
            assert f"`{choice.name}" in text, choice.name


def test_summary_counts_choices():
    rows = table(
        ("offset", "9", 0.04, "claim 3: holds -> undecided: interval"),
        ("pooling", "average", -0.08, "none"),
    )
    said = summary(rows)
    assert said.startswith("1 of 2 choices that the paper leaves open changes a verdict")
    assert "(offset 9: claim 3: holds -> undecided: interval)" in said
    assert "-0.08 (-0.18 to +0.02), of cnn-mel with pooling average" in said
    assert summary(rows.assign(verdict_changes="none")).startswith("None of 2 choices")
    assert summary(rows.iloc[:0]) == "No alternative was computed."


def test_the_page_has_every_row_and_the_notes():
    rows = table(("coding", "onevsall", 0.0, "none"), ("offset", "9", 0.2, "none"))
    page = markdown(rows, ["Not computed, fill zeros: no clip is shorter."], "demo", "synthesised")
    assert "demo, new artists** (synthesised)" in page
    assert page.count("| cnn-mel") == 2
    assert page.endswith("- Not computed, fill zeros: no clip is shorter.\n")


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no finished run"):
        sensitivity(tmp_path)
