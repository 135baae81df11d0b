import json
import re
import shutil
from base64 import b64decode, b64encode
from io import BytesIO

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genre_utils import paper, publish
from genre_utils.runtime import GenreUtilsError, UsageError
from genre_utils.store import ROOT, Run

NAMES = ("demo", "magnatune-emotify", "magnatune-genres")


def test_readme_and_the_page_of_results_say_what_is_stored():
    text = publish.README.read_text(encoding="utf-8")
    table = publish.results_table(publish.FIGURES)
    assert text.partition(publish.BEGIN)[2].partition(publish.END)[0].strip() == table
    assert "demo corpus (synthesised)" in table
    for accuracy, f_score in paper.TABLE1.values():
        assert f"{accuracy:.2f} / {f_score:.2f}" in table
    page = (publish.FIGURES / "README.md").read_text(encoding="utf-8")
    assert page == publish.results_page(publish.FIGURES)
    assert page.count("draws of folds and seeds") == 2  # both real sets


@pytest.mark.parametrize("name", NAMES)
def test_published_results_are_complete(name):
    folder = publish.FIGURES / name
    for figure in ("fig1_mel_spectrograms", "fig2_architecture", "fig3_confusion_matrix"):
        assert (folder / f"{figure}.png").stat().st_size > 20_000
    table = pd.read_csv(folder / "table1.csv")
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert set(table["system"]) >= set(paper.TABLE1)
    assert set(table["n_clips"]) == {facts["corpus"]["n_clips"]}
    assert facts["corpus"]["synthetic"] is name.startswith("demo")
    assert not facts["weights"]["random"]
    for path in folder.glob("*.[cjm]*"):  # no folder of the machine that it was made on
        assert not re.search(r"[\"' ]/\w+/\w+", path.read_text(encoding="utf-8")), path
    said = (folder / "table1.md").read_text(encoding="utf-8")
    assert ("synthesised" in said) is name.startswith("demo")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished run's folder, and copies of README and figures to publish into."""
    run = Run(tmp_path / "run")
    table = pd.read_csv(publish.FIGURES / "demo" / "table1.csv")
    run.write("table1", table.assign(accuracy=0.5))
    for name in (*publish.TABLES[1:], *publish.BEYOND):
        content = (publish.FIGURES / "demo" / name).read_text(encoding="utf-8")
        (run.folder / name).write_text(content.replace("undecided: interval", "planted verdict"))
    shutil.copytree(publish.FIGURES / "demo", run.figures)
    corpus = {"title": "t", "n_clips": 7, "n_genres": 2, "synthetic": False}
    run.record("corpus", corpus)
    run.record("run", {"profile": "mini", "dataset": "magnatagatune", "versions": {}, "out": "/x"})
    for part in ("parameters", "weights", "precision"):
        run.record(part, {})
    for name in ("FIGURES", "README"):
        original = getattr(publish, name)
        copy = tmp_path / original.name
        shutil.copytree(original, copy) if original.is_dir() else shutil.copy(original, copy)
        monkeypatch.setattr(publish, name, copy)
    return run


def test_a_run_that_ended_before_notebook_7_is_published(finished):
    for name in publish.BEYOND:
        (finished.folder / name).unlink()
    publish.publish(finished.folder, "demo-large")
    page = (publish.FIGURES / "README.md").read_text(encoding="utf-8")
    assert "## Large demo corpus" in page
    assert not (publish.FIGURES / "demo-large" / "beyond_table.md").exists()


def test_publishing_another_result_changes_readme_and_page(finished):
    publish.publish(finished.folder, "magnatune-emotify")
    text = publish.README.read_text(encoding="utf-8")
    assert "7 clips, 2 genres" in text
    assert text.count("| 0.50 (") >= 8
    assert "planted verdict" in (publish.FIGURES / "README.md").read_text(encoding="utf-8")
    stored = json.loads((publish.FIGURES / "magnatune-emotify" / "run.json").read_text())
    assert "out" not in stored


@pytest.mark.parametrize("step", ["write_json", "rename"])
def test_a_publication_that_fails_leaves_what_was_there(finished, monkeypatch, step):
    target = publish.FIGURES / "magnatune-emotify"
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    rename = publish.Path.rename

    def full(source, *_):
        if step == "rename" and source.name != "new":
            return rename(source, *_)
        raise OSError("No space left on device")

    place = publish if step == "write_json" else publish.Path
    monkeypatch.setattr(place, step, full)
    with pytest.raises(OSError, match="No space"):
        publish.publish(finished.folder, "magnatune-emotify")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert not list(publish.FIGURES.glob(".publish-*"))


def test_only_the_demo_run_is_called_demo(finished):
    with pytest.raises(UsageError, match="name of the demo profile's run"):
        publish.publish(finished.folder, "demo")


@pytest.mark.parametrize("name", ["../x", "A", "", "a b"])
def test_names_that_leave_the_folder_are_refused(finished, name):
    with pytest.raises(UsageError, match="lower-case letters"):
        publish.publish(finished.folder, name)


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no finished run"):
        publish.publish(tmp_path, "x")


def test_a_readme_without_marks_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(GenreUtilsError, match="marks"):
        publish.renew(tmp_path / "README.md", publish.FIGURES)


def test_normalising_drops_what_runs_and_jupyterlab_change():
    """A notebook that was run again and saved in JupyterLab is the same after publishing."""
    path = ROOT / "notebooks" / "01_data.ipynb"
    expected = nbformat.writes(publish.normalise(nbformat.read(path, 4)))
    notebook = nbformat.read(path, 4)
    injected = nbformat.v4.new_code_cell("out = '/x'", metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(3, injected)
    notebook.metadata["papermill"] = {"duration": 3.2}
    notebook.metadata["language_info"] = {"name": "python", "version": "3.13.1"}
    for i, cell in enumerate(notebook.cells):
        cell.id = f"a-random-id-{i}"
        cell.metadata["execution"] = {"iopub.execute_input": "2026"}
        if cell.cell_type == "code":
            cell.execution_count = 20 + i
    assert nbformat.writes(publish.normalise(notebook)) == expected


def _pixels(text):
    return np.asarray(Image.open(BytesIO(b64decode(text))).convert("RGB")).astype(int)


def test_pictures_in_notebooks_are_made_small_and_keep_rare_colours():
    noisy = np.random.default_rng(0).integers(0, 256, (300, 300, 1)) * np.array([1, 0.3, 0.6])
    noisy[100:104, 100:104] = 255, 255, 0  # one yellow place
    stream = BytesIO()
    Image.fromarray(noisy.astype(np.uint8)).convert("RGBA").save(stream, "PNG")
    text = b64encode(stream.getvalue()).decode()
    output = nbformat.v4.new_output("display_data", {"image/png": text})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    small = publish.normalise(notebook).cells[0].outputs[0].data["image/png"]
    assert len(small) < len(text) / 1.5
    assert abs(_pixels(small) - _pixels(text)).max() < 10
    assert publish.normalise(notebook).cells[0].outputs[0].data["image/png"] == small


def test_the_committed_pictures_have_been_made_small():
    for path in publish.notebooks():
        for cell in nbformat.read(path, 4).cells:
            for output in cell.get("outputs", []):
                if picture := output.get("data", {}).get("image/png"):
                    assert Image.open(BytesIO(b64decode(picture))).mode == "P", path


def test_the_confirmatory_test_is_told_as_it_came_out():
    folder = publish.FIGURES / "magnatune-confirm"
    table = pd.read_csv(folder / "table.csv").set_index("system")
    page = (folder / "README.md").read_text(encoding="utf-8")
    for row in table.itertuples():
        known = f"{row.accuracy:.2f} ({row.accuracy_lo:.2f} to {row.accuracy_hi:.2f})"
        lines = [line for line in page.splitlines() if f"| {paper.LABELS[row.Index]} " in line]
        assert len(lines) == 1
        assert known in lines[0]
        assert f"{row.song_accuracy:.2f} (" in lines[0]
    sure = table[table["song_lead_p"] <= 0.05]
    assert list(sure.index) == ["all-features"]
    mel, best = table.loc["cnn-mel"], sure.iloc[0]
    said = (
        f"on 208 clips of {mel['n_artists']} further artists: the paper's CNN "
        f"{mel['accuracy']:.2f} ({mel['accuracy_lo']:.2f} to {mel['accuracy_hi']:.2f}); only an "
        f"SVM on all features leads it surely, by song {best['song_lead']:+.2f} "
        f"({best['song_lead_lo']:.2f} to {best['song_lead_hi']:.2f}), "
        f"p {best['song_lead_p']:.2f} after Holm"
    )
    assert said in publish.README.read_text(encoding="utf-8")
    answers = pd.read_csv(folder / "predictions.csv")
    right = answers["y_true"] == answers["y_pred"]
    again = right.groupby(answers["system"]).mean()
    assert np.allclose(again[table.index], table["accuracy"], atol=1e-6)


def test_what_readme_says_of_results_is_what_the_tables_say():
    text = publish.README.read_text(encoding="utf-8")
    confirmed = pd.read_csv(publish.FIGURES / "magnatune-confirm" / "table.csv")
    lead = confirmed.set_index("system")["song_lead_p"]
    means = [f"fusion-{which}" for which in ("cnns", "all")]
    assert (lead[["cnn-mel-tuned5", "stacking", *means]] > 0.05).all()  # "no sure gain"
    folder = publish.FIGURES / "magnatune-emotify"
    best = pd.read_csv(folder / "beyond_table.csv").query("protocol == 'artist'")
    best = best.loc[best["song_accuracy"].idxmax()]
    lead = f"{best['song_lead']:.2f} ({best['song_lead_lo']:.2f} to {best['song_lead_hi']:.2f})"
    assert f"{paper.LABELS[best['system']]}) leads it by {lead} by song" in text
    gain = pd.read_csv(folder / "learning_curve.csv").set_index("system")["gain"]
    assert f"number of training artists brings about {gain['cnn-mel'].iloc[0]:.2f}" in text
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    n = facts["parameters"]["01_data"]["n_folds"]
    song = pd.read_csv(folder / "seeds.csv").set_index(["system", "protocol"])["song_accuracy"]
    cost = gain["cnn-mel"].iloc[0] * np.log2(n / (n - 1))
    drop = song["cnn-mel", "random"] - song["cnn-mel", "artist"]
    assert f"explains about {cost:.2f} of the {drop:.2f} that new artists cost" in text
    choices = pd.read_csv(folder / "sensitivity.csv")
    changing = set(choices.loc[choices["verdict_changes"] != "none", "choice"])
    assert changing == {"mel_scale", "channels", "baseline"}
    assert "the image's scale, its channels and a fair SVM change some" in text
    large = pd.read_csv(publish.FIGURES / "demo-large" / "table1.csv").set_index("system")
    mel = large.loc["cnn-mel"]
    ends = f"{mel['accuracy_lo']:.2f} to {mel['accuracy_hi']:.2f}"
    assert f"the paper's CNN has {mel['accuracy']:.2f} ({ends})" in text
