"""``python -m genre_utils train`` and ``predict``: a model of one's own, and answers to files."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genre_utils.runtime import UsageError, on_terminal, progress, workers

if TYPE_CHECKING:
    from genre_utils.own_music import Prediction

Predictions = Iterable["Prediction"]


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add ``train`` and ``predict``; each sets ``func``, which returns the exit code."""
    jobs = {"type": int, "default": 0, "metavar": "N"}
    one = commands.add_parser(
        "train", help="train a system on all clips of a data set and save it", allow_abbrev=False
    )
    add = one.add_argument
    add("--dataset", required=True, metavar="NAME", help="data set, see `datasets`")
    add("--data-dir", default="", metavar="DIR", help="where its files are")
    systems = "cnn-mel-small (default), cnn-mel, pooled-svm"
    add("--system", default="", metavar="NAME", help=systems)
    add("--out", required=True, metavar="MODEL", help="folder of the model")
    add("--epochs", type=int, default=0, metavar="N", help="default: the system's own number")
    add("--jobs", **jobs, help="worker processes (default: all cores)")
    one.set_defaults(func=main_train)

    one = commands.add_parser(
        "predict", help="name the genre of sound files with a saved model", allow_abbrev=False
    )
    add = one.add_argument
    add("model", metavar="MODEL", help="folder that `train` or a run made")
    add("places", metavar="FILE_OR_FOLDER", nargs="+", help="sound files; folders are searched")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, windows included")
    form.add_argument("--csv", action="store_true", help="print CSV, a row a file")
    add("--jobs", **jobs, help="files at a time (default: all cores)")
    one.set_defaults(func=main_predict)


def main_train(arguments: argparse.Namespace) -> int:
    """Train, save, and say how good the model is."""
    from genre_utils import own_music as train  # loads TensorFlow
    from genre_utils.own_music import summary

    if arguments.epochs < 0:
        raise UsageError(f"--epochs must be 0 or more, not {arguments.epochs}")
    on_terminal()
    model = train.train(
        arguments.dataset,
        arguments.data_dir,
        arguments.out,
        system=arguments.system or train.DEFAULT,
        epochs=arguments.epochs,
        jobs=workers(arguments.jobs),
    )
    print(summary(model))
    print(f"{arguments.out}: see README.md in it")
    return 0


def main_predict(arguments: argparse.Namespace) -> int:
    """Print the answers; 1 if a file was refused."""
    from genre_utils.data.audio import sound_files
    from genre_utils.own_music import Predictor, summary

    on_terminal()
    jobs, files = workers(arguments.jobs), sound_files(arguments.places)
    predictor = Predictor(arguments.model)
    print(f"model: {summary(predictor.model)}", file=sys.stderr)
    counts = {"predicted": 0, "refused": 0}
    answers = _counted(predictor.predict(files, jobs), counts, len(files))
    if sys.stdout.isatty():
        answers = list(answers)  # until then the bar has the terminal
    form = _json if arguments.json else _csv if arguments.csv else _table
    form(answers, predictor.model.classes, max(len(_text(path)) for path in files))
    total = " + ".join(f"{n} {word}" for word, n in counts.items())
    print(f"{len(files)} file{'s' * (len(files) > 1)} = {total}", file=sys.stderr)
    return int(counts["refused"] > 0)


def _counted(answers: Predictions, counts: dict[str, int], n: int) -> Iterator["Prediction"]:
    for answer in progress(answers, "listening", n, "file"):
        counts["refused" if answer.refused else "predicted"] += 1
        yield answer


def _text(path: Path) -> str:
    """Return a path as one line that any terminal prints, whatever bytes its name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _table(answers: Predictions, classes: tuple[str, ...], width: int) -> None:
    genre = max(map(len, classes))
    for answer in answers:
        if answer.refused:
            line = f"refused: {answer.refused}"
        else:
            _, second = answer.probabilities.nlargest(2).items()
            line = f"{answer.genre:<{genre}}  {answer.confidence:.2f}  "
            line += f"(then {second[0]} {second[1]:.2f})"
        print(f"{_text(answer.path):<{width}}  {line}", flush=True)


def _csv(answers: Predictions, classes: tuple[str, ...], _width: int) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["path", "genre", "confidence", *(f"p_{c}" for c in classes), "refused"])
    for answer in answers:
        if answer.refused:
            numbers = [""] * (1 + len(classes))
        else:
            numbers = [f"{p:.6f}" for p in (answer.confidence, *answer.probabilities[[*classes]])]
        rows.writerow([_text(answer.path), answer.genre, *numbers, answer.refused])
        sys.stdout.flush()


def _json(answers: Predictions, _classes: tuple[str, ...], _width: int) -> None:
    print(json.dumps([_record(answer) for answer in answers], indent=1, ensure_ascii=False))


def _record(answer: "Prediction") -> dict[str, Any]:
    if answer.refused:
        return {"path": _text(answer.path), "refused": answer.refused}
    windows = answer.windows.round(6).astype(object)
    return {
        "path": _text(answer.path),
        "genre": answer.genre,
        "confidence": round(answer.confidence, 6),
        "probabilities": answer.probabilities.round(6).to_dict(),
        "windows": windows.where(windows.notna(), None).to_dict("records"),
    }
