"""The committed notebooks: shape, prose, links, captions, exercises, cleanliness."""

import ast
import re
from pathlib import Path
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
LINK = re.compile(r"\[([^]\[]+)\]\(([^)\s]+)\)")
EXERCISE = re.compile(r"^\*\*(\d)[. ].*?\((?:\d+ minutes?|an hour)\)", re.MULTILINE)
SOLUTION = re.compile(
    r"<details><summary>Solution</summary>\n.*?^```python\n(.*?)^```\n.*?^</details>",
    re.MULTILINE | re.DOTALL,
)


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
        assert median(map(len, code)) <= (8 if len(code) > 14 else 17)  # few cells are longer
        words = sum(len(c.source.split()) for c in _cells(path, "markdown"))
        assert words > 6 * sum(map(len, code))

    def test_what_a_cell_defines_is_short(self, path):
        """A function that teaches is welcome; what has more lines belongs to the package."""
        for cell in _cells(path, "code"):
            for part in ast.walk(ast.parse(cell.source)):
                assert not isinstance(part, ast.ClassDef)
                if isinstance(part, ast.FunctionDef):
                    assert part.end_lineno - part.lineno < 12, part.name

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


def _text(path):
    return "\n\n".join(c.source for c in _cells(path, "markdown"))


def _anchors(path):
    """Anchors of a Markdown file's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
class TestReader:
    def test_the_way_to_the_notebooks_beside_it(self, path):
        at = PATHS.index(path)
        beside = {PATHS[at - 1].name if at else "../README.md"}
        beside |= {near.name for near in PATHS[at + 1 : at + 2]}
        for cell in (_cells(path)[0], _cells(path)[-1]):
            assert beside <= {to for _, to in LINK.findall(cell.source)}

    def test_links_lead_somewhere(self, path):
        for words, to in LINK.findall(_text(path)):
            if to.startswith("https://"):
                continue
            file, _, anchor = to.partition("#")
            target = (path.parent / file).resolve()
            assert target.is_relative_to(run.ROOT), to
            assert target.is_file(), to
            assert not anchor or anchor in _anchors(target), to
            for name in re.findall(r"`([\w.]+)`", words):  # functions stand in the file beside
                source = target.read_text(encoding="utf-8")
                assert re.search(rf"^(def|class) {name.split('.')[-1]}\b", source, re.M) or (
                    name == f"genre_utils.{to.rpartition('genre_utils/')[2][:-3]}".replace("/", ".")
                ), name

    def test_paper_and_package_are_linked(self, path):
        found = {Path(to).name for _, to in LINK.findall(_text(path))}
        stage = PATHS.index(path) < 4  # each of them is a section of the paper
        assert {"paper.py", "README.md"} <= found or not stage
        assert sum(name.endswith(".py") for name in found) >= (3 if stage else 2)

    def test_each_reference_has_its_doi(self, path):
        text = _text(path)
        lines = text.partition("## References\n")[2].splitlines()
        lines = [line for line in lines if line.startswith("- ")]
        assert lines or PATHS.index(path) >= 4  # the later ones name them where they are used
        for line in lines:
            doi = re.search(r"\[doi:(10\.\d+/\S+)\]\(https://doi\.org/(\S+)\)", line)
            assert "no DOI" in line or doi[1] == doi[2], line
        # An author with a year has a link within the same sentence.
        for line in re.findall(r"\([A-Z][\w ]+(?:and|et al\.)[^()]*?\d{4}[^)]*\)", text):
            assert "](http" in line or "[arXiv" in line or "[doi" in line or "JMLR" in line, line

    def test_pictures_have_a_caption_that_is_their_alternative_text(self, path):
        pictures = 0
        for cell in _cells(path, "code"):
            outputs = [(o.get("data", {}), o.get("metadata", {})) for o in cell.outputs]
            said = " ".join(data.get("text/markdown", "") for data, _ in outputs)
            said = re.sub(r"\\(.)", r"\1", said)
            for data, known in outputs:
                if "image/png" in data:
                    pictures += 1
                    alt = known["image/png"]["alt"]
                    assert re.search(
                        r"Data: .*\bclips?\b|\d+ (\w+ )?(clips|songs)|one clip", alt
                    ), alt
                    assert re.sub(r"\s+", " ", alt) in said, alt
        assert pictures

    def test_exercises_have_minutes_a_starter_and_a_solution(self, path):
        cells = [
            c.source if c.cell_type == "markdown" else f"A cell:\n```python\n{c.source}\n```"
            for c in _cells(path)
        ]
        _, *parts = EXERCISE.split("\n\n".join(cells).partition("## Exercises")[2])
        assert parts[::2] == list("123")
        for part in parts[1::2]:
            starter, solution = part.partition("<details>")[0], SOLUTION.findall(part)
            assert (
                "A cell:" in starter or PATHS.index(path) >= 4
            )  # the later ones are to be filled in
            (starter,) = re.findall(r"```python\n(.*?)\n```", starter, re.DOTALL)
            assert 1 <= len(starter.splitlines()) <= 5
            assert len(solution) == 1

    def test_libraries_are_in_sight(self, path):
        """What a stage is made of is called in the open, and the package must give the same."""
        library = [
            "sklearn",
            "librosa",
            "keras",
            "sklearn",
            "sklearn",
            "seaborn",
            "sklearn",
            "scipy",
        ]
        code = "\n".join(c.source for c in _cells(path, "code"))
        name = [*library, "IPython"][PATHS.index(path)]
        assert re.search(rf"^(import|from) {name}\b|\bimport {name}\b", code, re.MULTILINE)
        if path.stem[:2] != "09":
            assert "assert_allclose" in code or "assert_array_equal" in code


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


@pytest.mark.parametrize(
    ("artists", "protocols"),
    [("", ["random"]), ("a", ["artist"]), ("", ["random", "published"])],
)
def test_results_are_read_off_the_protocols_that_there_are(tmp_path, artists, protocols):
    """Notebooks 5 and 6 on a made-up run whose artists are unknown, or without random folds."""
    results = Run(tmp_path)
    ids = [f"{i:02d}.wav" for i in range(48)]
    clips = pd.DataFrame({"clip_id": ids, "path": ids, "dataset": "folder", "track": ids})
    clips["genre"] = np.repeat(["Classical", "Jazz", "R|B <b>$"], 16)
    clips["artist"] = [artists and f"{artists}{i // 4}" for i in range(48)]
    clips = clips.assign(album="", start_s=np.nan, duration_s=29.0, status="ok")
    if "published" in protocols:
        clips["part"] = ["train", "train", "test", ""] * 12
    folds = splits.make_splits(clips, protocols, 3)
    results.write("clips", clips)
    results.write("audio", pd.DataFrame({"clip_id": ids, "sha256": ids}))
    results.write("splits", folds)
    sizes = {"n_clips": 48, "n_genres": 3, "n_artists": 0}
    results.record("corpus", {"title": "sounds", "note": "", **sizes})
    rng = np.random.default_rng(0)
    for system in [*paper.TABLE1, "svm-fair"]:
        tested = folds[folds["fold"] >= 0].reset_index(drop=True)
        tested = tested.rename(columns={"genre": "y_true"}).drop(columns="group")
        proba = rng.dirichlet(np.ones(3), len(tested))
        proba = pd.DataFrame(proba, columns=sorted(set(clips["genre"])))
        tested = tested.assign(system=system, y_pred=proba.idxmax(axis=1), **proba.add_prefix("p_"))
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
