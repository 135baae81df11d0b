"""The committed notebooks: shape, prose, cleanliness."""

import re
from statistics import median

import nbformat
import numpy as np
import pandas as pd
import pytest

from genre_utils import paper, run
from genre_utils.data import splits
from genre_utils.store import Run

PATHS = run.notebooks()
ABSOLUTE = re.compile(r"(?<![\w.:/~}])/(?!proc/)\w[\w.-]*/\w")  # a folder of the machine


def _cells(path, kind=None):
    return [c for c in nbformat.read(path, 4).cells if kind in (None, c.cell_type)]


def test_they_are_numbered_without_gaps():
    assert [path.stem[:2] for path in PATHS] == [f"{i:02d}" for i in range(1, len(PATHS) + 1)]
    names = [path.stem[3:] for path in PATHS[:5]]
    assert names == ["data", "features", "cnn", "svm", "results"]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
class TestShape:
    def test_opening(self, path):
        first = _cells(path)[0]
        assert first.cell_type == "markdown"
        assert first.source.startswith(f"# {int(path.stem[:2])} · ")
        for word in ("**Aim.**", "**Reads.**", "**Writes.**", "**Run time.**"):
            assert word in first.source

    def test_one_cell_of_parameters_each_with_type_and_comment(self, path):
        tagged = [c for c in _cells(path, "code") if "parameters" in c.metadata.get("tags", [])]
        assert len(tagged) == 1
        for line in tagged[0].source.splitlines():
            assert re.fullmatch(r"\w+: (int|float|str|bool|list) = .+?  # .+", line), line

    def test_prose_first(self, path):
        code = [c.source.splitlines() for c in _cells(path, "code")]
        assert len(_cells(path, "markdown")) >= len(code)
        assert max(map(len, code)) <= 25
        assert median(map(len, code)) <= 8
        for line in (line for cell in code for line in cell):
            assert not re.match(r"\s*(def|class) ", line)

    def test_every_cell_was_executed_in_order_and_clean(self, path):
        code = _cells(path, "code")
        counts = [c.execution_count for c in code]
        assert None not in counts
        assert counts == sorted(counts)
        for cell in code:
            for output in cell.outputs:
                assert output.output_type != "error"
                assert output.get("name") != "stderr", output
                text = str(output.get("text", "")) + str(
                    output.get("data", {}).get("text/plain", "")
                )
                assert "it/s" not in text
                assert not ABSOLUTE.search(text), text

    def test_some_outputs_are_compared(self, path):
        tags = [tag for c in _cells(path, "code") for tag in c.metadata.get("tags", [])]
        assert set(tags) <= {"parameters", "nbval-check-output"}
        assert "nbval-check-output" in tags

    def test_demo_results_are_labelled(self, path):
        pictures = sum(
            "image/png" in output.get("data", {})
            for cell in _cells(path, "code")
            for output in cell.outputs
        )
        assert pictures
        assert "demo" in " ".join(c.source for c in _cells(path, "markdown")).lower()


def test_the_project_speaks_of_itself_alone():
    words = re.compile(r"\b(session(?!options)|(?<!import )helper|issue #?\d)", re.IGNORECASE)
    package = [p for p in (run.ROOT / "genre_utils").rglob("*") if p.suffix in (".py", ".yml")]
    files = [*PATHS, *package, run.ROOT / "README.md"]
    for path in files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join(c.source for c in _cells(path))
        assert not words.search(text), (path, words.search(text))
        assert not ABSOLUTE.search(text), (path, ABSOLUTE.search(text))


@pytest.mark.parametrize(("artists", "protocols"), [("", ["random"]), ("a", ["artist"])])
def test_results_are_read_off_the_protocols_that_there_are(tmp_path, artists, protocols):
    """Notebooks 5 and 6 on a made-up run whose artists are unknown, or without random folds."""
    results = Run(tmp_path)
    ids = [f"{i:02d}.wav" for i in range(48)]
    clips = pd.DataFrame({"clip_id": ids, "path": ids, "dataset": "folder", "track": ids})
    clips["genre"] = np.repeat(["Classical", "Jazz", "R|B <b>$"], 16)
    clips["artist"] = [artists and f"{artists}{i // 4}" for i in range(48)]
    clips = clips.assign(album="", start_s=np.nan, duration_s=29.0, status="ok")
    folds = splits.make_splits(clips, protocols, 3)
    results.write("clips", clips)
    results.write("audio", pd.DataFrame({"clip_id": ids, "sha256": ids}))
    results.write("splits", folds)
    sizes = {"n_clips": 48, "n_genres": 3, "n_artists": 0}
    results.record("corpus", {"title": "sounds", "note": "", **sizes})
    rng = np.random.default_rng(0)
    for system in [*paper.TABLE1, "svm-fair"]:
        tested = folds[["protocol", "fold", "clip_id"]].assign(system=system, y_true=folds["genre"])
        proba = pd.DataFrame(rng.dirichlet(np.ones(3), 48), columns=sorted(set(clips["genre"])))
        tested = tested.assign(y_pred=proba.idxmax(axis=1), **proba.add_prefix("p_"))
        results.add_predictions(tested)
    given = {"dataset": "folder", "out": str(tmp_path), "n_resamples": 100}
    run.execute([(path, given) for path in PATHS[4:6]], results)
    assert results.read("table1")["protocol"].unique().tolist() == protocols
    oracles = {"oracle-artist"} if artists else set()
    assert set(results.read("table1")["system"]) - set(paper.TABLE1) == {
        "majority",
        "svm-fair",
        *oracles,
    }
    judged = results.read("claims")
    untested = judged[(judged["verdict"] == "not tested") & (judged["claim"] < 4)]
    reason = "no system was tested under the random protocol" if artists else "artists unknown"
    assert set(untested["why"]) == {reason}
