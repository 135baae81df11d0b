"""The committed notebooks state what the published tables of the same run say: as numbers.

Outputs and tables come from one run, so a printed number may differ from its table by rounding
alone: half a unit of its last digit. What another machine may change is in test_demo_run.py.
"""

import ast
import html
import json
import re
import shutil
from decimal import Decimal

import nbformat
import pandas as pd
import pytest

from genre_utils import paper, publish, run
from genre_utils.metrics.tables import plain
from genre_utils.store import Run

NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e-\d+)?"
QUIET = ("run.", "soundfile.", "evaluate.check")  # calls that return nothing to show
SCORES = ["accuracy", "accuracy_lo", "accuracy_hi"]
SONG = [f"song_{name}" for name in SCORES]
CELL = r"<(t[hd])[^>]*>(.*?)</t"  # of an HTML table
LEAD = ["song_lead", "song_lead_lo", "song_lead_hi", "song_lead_p"]
# What a printed line counts, by notebook; the names are those of `facts`.
COUNTS = {
    "01_data": {
        r"(\d+) clips in the table = (\d+) used \+ (\d+) refused": ["clips", "clips", "none"],
        r"(\d+) clips, (\d+) digests, (\d+) rows of folds": ["clips", "clips", "tests"],
    },
    "03_cnn": {
        r"(\d+) clips, (\d+) genres, (\d+) folds": ["clips", "genres", "folds"],
        r"kernel \((\d+), (\d+), (\d+), (\d+)\) bias \((\d+)": [*("side",) * 2, "rgb", *("k",) * 2],
    },
    "04_svm": {
        r"(\d+) clips, each (\d+) rows": ["clips", "rows"],
        r"(\d+) genres, (\d+) two-class SVMs": ["genres", "pairs"],
    },
    "05_results": {r"(\d+) clips, (\d+) genres, (\d+) artists": ["clips", "genres", "artists"]},
    "06_what_it_measures": {r"(\d+) clips, (\d+) artists": ["clips", "artists"]},
    "07_beyond_the_paper": {r"(\d+) clips, (\d+) genres": ["clips", "genres"]},
    "08_trust": {r"(\d+) clips, (\d+) genres": ["clips", "genres"]},
    "09_your_own_music": {r"trained on (\d+) clips of .*, (\d+) genres": ["clips", "genres"]},
}


def facts(tables):
    """Count what the notebooks count, from run.json and Table 1."""
    corpus = json.loads((tables / "run.json").read_text(encoding="utf-8"))["corpus"]
    table1 = pd.read_csv(tables / "table1.csv")
    clips, genres = corpus["n_clips"], corpus["n_genres"]
    found = {"clips": clips, "genres": genres, "artists": corpus["n_artists"], "none": 0}
    found |= {"tests": clips * table1["protocol"].nunique(), "folds": int(table1["n_folds"].max())}
    found |= {"pairs": genres * (genres - 1) // 2, "rows": paper.SVM["n_mfcc"] + 1}
    return found | {"side": 3, "rgb": 3, "k": 64}  # VGG-16's first kernels


def unclean(notebooks):
    """Cells that did not run, show nothing where they should, or show an error or stderr."""
    found = []
    for path in run.notebooks(notebooks):
        code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        for i, cell in enumerate(code, 1):
            kinds = [output.get("name", output.output_type) for output in cell.outputs]
            wrong = [kind for kind in kinds if kind in ("stderr", "error")]
            wrong += ["did not run"] * (cell.execution_count is None)
            wrong += ["no output"] * (_shows(cell.source) and not kinds)
            found += [f"{path.stem}, cell {i}: {what}" for what in wrong]
    return found


def _shows(source):
    """Whether a cell prints, displays, or ends with a value."""
    lines = [(type(part), ast.unparse(part)) for part in ast.parse(source).body]
    said = any(line.startswith(("print(", "display(")) for _, line in lines)
    return said or (lines[-1][0] is ast.Expr and not lines[-1][1].startswith(QUIET))


def _outputs(notebooks, stem, marker):
    """Everything that the one cell with ``marker`` shows: texts, Markdown, HTML."""
    cells = nbformat.read(notebooks / f"{stem}.ipynb", 4).cells
    (cell,) = (c for c in cells if c.cell_type == "code" and marker in c.source)
    data = [output.get("data", {}) for output in cell.outputs]
    texts = [output.get("text", "") for output in cell.outputs]
    return "".join([*texts, *(d.get(f"text/{k}", "") for k in ("markdown", "html") for d in data)])


def _markdown(text):
    """Rows of a Markdown table, each a list of its cells' texts."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]


def _html(text):
    """Rows of a pandas table in HTML: texts of its index, and of its columns by name."""
    rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    names = [name for _, name in re.findall(CELL, rows[0], re.DOTALL)]
    for index, values in _rows_of(text):
        yield index, dict(zip(names[-len(values) :], values, strict=True))


def _rows_of(text):
    """Rows of pandas tables in HTML: texts of the index, and of the values in order."""
    assert "rowspan" not in text, "sort the table otherwise"
    cells = [
        re.findall(CELL, row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    ]
    bodies = [row for row in cells if row[-1][0] == "td"]
    assert bodies, text[:100]
    for row in bodies:
        yield tuple([text for k, text in row if k == kind] for kind in ("th", "td"))


def _differs(said, known):
    """Whether a printed number is not the rounded one; the tables have six decimals."""
    unit = float(Decimal(1).scaleb(Decimal(said).as_tuple().exponent))
    return not abs(float(said) - known) <= unit / 2 + 1e-6


def untrue(notebooks, tables):
    """Numbers and verdicts that the notebooks show and the tables do not say."""
    checks = _counted, _table1, _comparisons, _claims, _beyond, _shapes
    return [fault for check in checks for fault in check(notebooks, tables)]


def _wrong(where, said, known):
    """Compare printed numbers with known ones, one by one, and their number."""
    if len(said) != len(known):
        return [f"{where}: {len(said)} numbers, not {len(known)}"]
    pairs = zip(said, known, strict=True)
    return [f"{where}: {s}, not {k:g}" for s, k in pairs if _differs(s, float(k))]


def _counted(notebooks, tables):
    known, found = facts(tables), []
    for stem, patterns in COUNTS.items():
        code = [c for c in nbformat.read(notebooks / f"{stem}.ipynb", 4).cells if "outputs" in c]
        text = "".join(output.get("text", "") for cell in code for output in cell.outputs)
        for pattern, names in patterns.items():
            said = re.search(pattern, text)
            said = said.groups() if said else ()
            found += _wrong(f"{stem}, {pattern}", said, [known[name] for name in names])
    genres = json.loads((tables / "run.json").read_text(encoding="utf-8"))["corpus"]["report"]
    for stem, marker in (("01_data", "in_paper="), ("09_your_own_music", "train_from_run")):
        shown = {
            i[0]: row for i, row in _html(_outputs(notebooks, stem, marker)) if i[0] != "genre"
        }
        for genre, counts in genres["genres"].items():
            said = [shown.get(genre, {}).get(name, "nan") for name in counts]
            found += _wrong(f"{stem}, {genre}", said, list(counts.values()))
    return found


def _system(label):
    """Key of a system by its label in tables."""
    return {plain(name): key for key, name in paper.LABELS.items()}[plain(html.unescape(label))]


def _table1(notebooks, tables):
    """Compare Table 1 and what is taken from it in notebooks 5 and 6."""
    table, found = pd.read_csv(tables / "table1.csv"), []
    known = table.set_index(["system", "protocol"])
    shown = list(_html(_outputs(notebooks, "05_results", "first[columns]")))
    for system, ((label,), row) in zip(paper.TABLE1, shown, strict=True):
        expected = list(known.loc[(system, "random"), list(row)])
        found += _wrong(f"05, Table 1, {label}", list(row.values()), expected)
    wide = known["accuracy"].unstack()
    wide["drop"] = wide["random"] - wide["artist"]
    for stem, marker in (
        ("05_results", 'wide["drop"]'),
        ("06_what_it_measures", "paper.REFERENCE_POINTS if"),
    ):
        for (label,), row in _html(_outputs(notebooks, stem, marker)):
            expected = [wide.loc[_system(label), column] for column in row]
            found += _wrong(f"{stem[:2]}, {label}", list(row.values()), expected)
    said = re.findall(r"alone scores (\d\.\d+)", _outputs(notebooks, "05_results", "per_artist"))
    found += _wrong("05, artist oracle", said, [wide.loc["oracle-artist", "random"]])
    stem = "06_what_it_measures"
    for index, values in _rows_of(_outputs(notebooks, stem, "trained =")):
        if index[0] in paper.LABELS.values():  # the run's two protocols stand first
            said = re.findall(NUMBER, " ".join(values[:2]))
            rows = [known.loc[(_system(index[0]), protocol)] for protocol in ("random", "artist")]
            expected = [row[name] for row in rows for name in SCORES]
            found += _wrong(f"06, intervals, {index[0]}", said, expected)
    for _, row in _html(_outputs(notebooks, stem, '"n_songs"]]')):
        key = _system(row.pop("system")), row.pop("protocol")
        found += _wrong(f"06, songs, {key}", list(row.values()), list(known.loc[key, list(row)]))
    return found


def _comparisons(notebooks, tables):
    known = pd.read_csv(tables / "comparisons.csv").set_index(["protocol", "first", "second"])
    found, seen = [], 0
    for _, row in _html(_outputs(notebooks, "06_what_it_measures", "compared[columns]")):
        of = {plain(label): system for system, label in paper.LABELS.items()}
        names = [html.unescape(row.pop(name)) for name in known.index.names]
        key = tuple(of.get(plain(name), name) for name in names)
        if key in known.index:  # others are with chance, a pair of genres or a mean of systems
            seen += 1
            found += _wrong(f"06, {key}", list(row.values()), list(known.loc[key, list(row)]))
    corrected = known["p_artist_holm"].notna() & known.index.isin(["random", "artist"], level=0)
    return found + _wrong("06, comparisons", [str(seen)], [corrected.sum()])


def _claims(notebooks, tables):
    rows = _markdown(_outputs(notebooks, "06_what_it_measures", "claims_markdown"))
    known = pd.read_csv(tables / "claims.csv")
    found = _wrong("06, claims", [str(len(rows))], [len(known)])
    for (claim, _, _, figure, verdict, _), row in zip(rows, known.itertuples(), strict=False):
        where = f"06, claim {row.claim}, {row.protocol}"
        said = re.findall(NUMBER, figure.rpartition(": ")[2])
        found += _wrong(where, said, [x for x in (row.figure, row.low, row.high) if pd.notna(x)])
        if (claim.partition(".")[0], verdict) != (str(row.claim), f"**{plain(row.verdict)}**"):
            found.append(f"{where}: {claim}: {verdict}, not {row.verdict}")
    return found


def _beyond(notebooks, tables):
    """Compare the tables of notebooks 7 and 8: systems, learning curve, calibration."""
    stem, found = "07_beyond_the_paper", []
    table = pd.read_csv(tables / "beyond_table.csv").query("protocol == 'artist'")
    table = table.set_index("system")
    for (label,), row in _html(_outputs(notebooks, stem, "tables.beyond_markdown")):
        given = {column: value for column, value in row.items() if value != "NaN"}
        expected = list(table.loc[_system(label), list(given)])
        found += _wrong(f"07, {label}", list(given.values()), expected)
    last = pd.read_csv(tables / "learning_curve.csv").groupby("system").last()
    for _, row in _html(_outputs(notebooks, stem, "tables.learning_curve")):
        if "demo" in row.pop("data"):
            system = _system(row.pop("system"))
            expected = [last.loc[system, column] for column in row]
            found += _wrong(f"07, curve, {system}", list(row.values()), expected)
    known = pd.read_csv(tables / "calibration.csv").set_index("system")
    for (label,), values in _rows_of(_outputs(notebooks, "08_trust", "calibration_table")):
        expected = known.loc[_system(label), ["n_clips", "accuracy", "confidence", "ece"]]
        found += _wrong(f"08, calibration, {label}", values[:4], list(expected))
    return found


def _shapes(notebooks, tables):
    """Compare the shapes of images and of stored arrays with the paper's."""
    clips, found = facts(tables)["clips"], []
    for marker, before in (("paper.SHAPES)", ()), ("store.rows(", (clips,))):
        shown = {i[0]: row for i, row in _html(_outputs(notebooks, "02_features", marker))}
        for name, shape in paper.SHAPES.items():
            said = re.findall(r"\d+", next(iter(shown[name].values())))
            found += _wrong(f"02, {name}", said, [*before, *shape])
    maps = {i[0]: row for i, row in _html(_outputs(notebooks, "03_cnn", "stored of one clip"))}
    height, width = paper.SHAPES["mel"]
    said = re.findall(r"\d+", maps["vgg-mel"]["stored of one clip"])
    return found + _wrong("03, vgg-mel", said, [height // 32, width // 32, 512])


@pytest.fixture(params=["committed", "this machine's"])
def pair(request):
    """Notebooks and tables of one run: the committed one, or the demo run here."""
    if request.param == "committed":
        return run.NOTEBOOKS, publish.FIGURES / "demo"
    folder = Run().folder
    if not (folder / "notebooks" / "09_your_own_music.ipynb").is_file():
        pytest.skip(f"no finished {folder}: make it with ./run_all.sh")
    return folder / "notebooks", folder


def test_notebooks_are_clean_and_state_what_the_tables_say(pair):
    assert unclean(pair[0]) == []
    assert untrue(*pair) == []


def test_the_papers_rows_are_all_looked_at():
    """The checks above are not vacuous: each protocol's four rows stand in notebook 5."""
    rows = dict(
        (index[0], row) for index, row in _html(_outputs(run.NOTEBOOKS, "05_results", '"drop"]'))
    )
    assert set(paper.LABELS[system] for system in paper.TABLE1) <= set(rows)
    assert {"random", "artist"} <= set(rows[paper.LABELS["cnn-mel"]])


PLANTED = {  # the first such number (or verdict) in a notebook's text, whatever it is
    "accuracy": ("05_results", r"<th>CNN\+Mel-spectrogram</th>[^<]*<td>(\d\.\d\d)"),
    "F-score": ("05_results", r"<th>Baseline SVM</th>(?:.*?<td>){3}(\d\.\d\d)"),
    "drop": ("05_results", r"<th>SVM, treated fairly</th>(?:.*?<td>){3}(\d\.\d\d)"),
    "oracle": ("05_results", r"artist alone scores (\d\.\d\d)"),
    "clips": ("05_results", r"(\d+) clips, \d+ genres, \d+ artists\\n"),
    "reference": ("06_what_it_measures", r"<th>Oracle: album known</th>.*?<td>(\d\.\d\d)"),
    "interval": ("06_what_it_measures", r"<th>CNN\+MFCC</th>.*?–(\d\.\d\d)\)"),
    "songs": ("06_what_it_measures", r"<td>CNN\+Mel-spectrogram</td>(?:.*?<td>){3}(\d\.\d\d)"),
    "p": (
        "06_what_it_measures",
        r"<td>CNN\+Mel-spectrogram</td>[^<]*<td>CNN\+MFCC(?:.*?<td>){4}(\d\.\d+)",
    ),
    "claim": ("06_what_it_measures", r"over [\w+ -]+: ([+-]\d\.\d\d)"),
    "verdict": ("06_what_it_measures", r"\*\*(does not hold|holds|undecided: \w+)\*\*"),
    "lead": ("07_beyond_the_paper", r"<th>CNN\+MFCC</th>(?:.*?<td>){5}(-?\d\.\d+)"),
    "curve": ("07_beyond_the_paper", r"<td>VGG blocks 3-5, LDA</td>(?:.*?<td>){2}(\d\.\d\d)"),
    "calibration": ("08_trust", r"<th>CNN\+Mel-spectrogram</th>(?:.*?<td>){4}(\d\.\d\d)"),
    "digests": ("01_data", r"\d+ clips, (\d+) digests"),
    "clips of a genre": ("01_data", r"<th>Jazz</th>[^<]*<td>(\d+)</td>[^<]*<td>\d"),
    "image": ("02_features", r"<th>mfcc</th>.*?, (\d+)\)"),
    "stored": ("02_features", r"<th>chroma</th>[^<]*<td>\(\d+, 32, (\d+)\)"),
    "folds": ("03_cnn", r"genres, (\d+) folds"),
    "map": ("03_cnn", r"<th>vgg-mel</th>[^<]*<td>\((\d+), \d+, 512\)"),
    "classifiers": ("04_svm", r"genres, (\d+) two-class"),
    "heard": ("09_your_own_music", r"trained on (\d+) clips"),
}


def _other(text):
    """Another verdict, or a number two units of its last digit higher."""
    if not text[-1].isdigit():
        return {"holds": "does not hold"}.get(text, "holds")
    return f"{Decimal(text) + 2 * Decimal(1).scaleb(Decimal(text).as_tuple().exponent)}"


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_number_is_found(tmp_path, what):
    stem, pattern = PLANTED[what]
    shutil.copytree(run.NOTEBOOKS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"{stem}.ipynb"
    text = path.read_text(encoding="utf-8")
    match = re.search(pattern, text, re.DOTALL)
    other = _other(match[1])
    start, end = match.span(1)
    path.write_text(text[:start] + other + text[end:], encoding="utf-8")
    assert untrue(run.NOTEBOOKS, publish.FIGURES / "demo") == []
    (found,) = untrue(tmp_path, publish.FIGURES / "demo")
    assert found.startswith(stem[:2])
    assert other in found
    assert unclean(tmp_path) == []


def _stream(name):
    return nbformat.v4.new_output("stream", name=name, text="a warning")


DIRT = {
    "did not run": lambda cell: cell.update(execution_count=None),
    "no output": lambda cell: cell.update(outputs=[]),
    "stderr": lambda cell: cell.outputs.append(_stream("stderr")),
    "error": lambda cell: cell.outputs.append(nbformat.v4.new_output("error", ename="KeyError")),
}


@pytest.mark.parametrize("what", DIRT)
def test_a_planted_fault_of_a_cell_is_found(tmp_path, what):
    shutil.copytree(run.NOTEBOOKS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "06_what_it_measures.ipynb"
    notebook = nbformat.read(path, 4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    DIRT[what](code[5])
    nbformat.write(notebook, path)
    assert unclean(tmp_path) == [f"06_what_it_measures, cell 6: {what}"]


@pytest.mark.parametrize("table", ["table1", "claims", "comparisons", "beyond_table"])
def test_a_table_of_another_run_is_found(tmp_path, table):
    """The committed outputs and the published tables were not made together."""
    shutil.copytree(publish.FIGURES / "demo", tmp_path, dirs_exist_ok=True)
    known = pd.read_csv(tmp_path / f"{table}.csv")
    column = {"claims": "figure", "comparisons": "difference", "table1": "accuracy"}
    row = known.index[known["protocol"] == "artist"][0]  # which all of them show
    known.loc[row, column.get(table, "song_accuracy")] += 0.02
    known.to_csv(tmp_path / f"{table}.csv", index=False)
    assert untrue(run.NOTEBOOKS, tmp_path)


@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_is_under_a_megabyte(path):
    assert path.stat().st_size < 1_000_000
