"""The solutions of the notebooks' exercises are run, behind all cells of their notebook."""

import shutil

import nbformat
import pytest
from test_notebooks import SOLUTION

from genre_utils import run
from genre_utils.runtime import GenreUtilsError
from genre_utils.store import Run


def with_solutions(path, folder):
    """Write a copy of a notebook that ends with its solutions; return it and how many it has."""
    notebook = nbformat.read(path, 4)
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    solutions = [text for source in texts for text in SOLUTION.findall(source)]
    notebook.cells += [nbformat.v4.new_code_cell(text) for text in solutions]
    target = folder / path.name
    nbformat.write(notebook, target)
    return target, len(solutions)


@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_the_solutions_hold_on_the_demo_run(path, tmp_path):
    folder = Run().folder
    if not (folder / "table1.csv").is_file():
        pytest.skip(f"no finished {folder}: make it with ./run_all.sh")
    copy = shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("lab"))
    notebook, n = with_solutions(path, tmp_path)
    if not n:
        pytest.skip("no exercises with solutions")
    run.execute([(notebook, {"out": str(copy)})], Run(copy))


SOLVED = """<details><summary>Solution</summary>

Two and two.

```python
assert 2 + 2 == {}
```

</details>"""


@pytest.mark.parametrize("answer", [4, 5])
def test_a_wrong_solution_is_found(tmp_path, answer):
    cells = [nbformat.v4.new_code_cell("out: str = ''  # folder")]
    cells[0].metadata.tags = ["parameters"]
    cells.append(nbformat.v4.new_markdown_cell(SOLVED.format(answer)))
    path = tmp_path / "01_sums.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (tmp_path / "copy").mkdir()
    notebook, n = with_solutions(path, tmp_path / "copy")
    assert n == 1
    results = Run(tmp_path / "run")
    results.folder.mkdir()
    if answer == 4:
        run.execute([(notebook, {})], results)
    else:
        with pytest.raises(GenreUtilsError, match="01_sums, cell 2: AssertionError"):
            run.execute([(notebook, {})], results)
