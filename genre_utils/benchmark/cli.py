"""``python -m genre_utils benchmark``: measure, print, store the table and the page on scale."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from genre_utils.benchmark import rivals
from genre_utils.benchmark.rows import Row, seconds
from genre_utils.runtime import UsageError, on_terminal, workers
from genre_utils.store import ROOT

# Beginnings of the stages' names, in the order of the report.
ORDER = (
    "whole",
    "features",
    "mel",
    "mfcc",
    "chroma",
    "trunk",
    "head",
    "memory",
    "growth",
    "start-up",
    "repeated",
    "same",
    "cost",
    "storage",
)


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add ``benchmark``; it sets ``func``, which returns the exit code."""
    command = commands.add_parser(
        "benchmark",
        help="time this package against plain scripts and other frameworks",
        allow_abbrev=False,
    )
    add = command.add_argument
    add("--clips", type=int, default=72, metavar="N", help="clips to time with (default: 72)")
    add(
        "--against",
        default="naive",
        metavar="LIST",
        help=f"some of {','.join(rivals.CHOICES)}; naive is always measured",
    )
    add("--out", default="", metavar="DIR", help="results (default: figures/benchmark)")
    add("--repeats", type=int, default=3, metavar="R", help="timed rounds (default: 3)")
    add("--dataset", default="demo", metavar="NAME", help="data set (default: demo)")
    add("--data-dir", default="", metavar="DIR", help="where its audio and tables are")
    add("--run", default="", metavar="DIR", help="a run that was repeated: its time is reported")
    command.set_defaults(func=main_benchmark)


def main_benchmark(arguments: argparse.Namespace) -> int:
    """Measure everything; print and store it, also after each stage."""
    asked = rivals.chosen(arguments.against)
    if arguments.repeats < 1:
        raise UsageError(f"--repeats must be 1 or more, not {arguments.repeats}")
    on_terminal()
    from genre_utils.benchmark import growth, machine, report, scaling, trunk  # TensorFlow
    from genre_utils.store import write_text

    last = growth.repeated_run(arguments.run)
    clips, folder = choose(arguments.dataset, arguments.data_dir, arguments.clips, trunk.FOLDS)
    facts = machine.describe() | {
        "clips": len(clips),
        "corpus": arguments.dataset,
        "repeats": arguments.repeats,
        "against": rivals.versions(asked),
    }
    out, text = Path(arguments.out or ROOT / "figures" / "benchmark"), ""
    with tempfile.TemporaryDirectory(prefix="genre-utils-benchmark-") as root:
        # Written after each stage: a run that is stopped leaves what it has measured.
        for rows in _measure(clips, folder, Path(root), asked, arguments.repeats):
            text = report.write(sorted([*rows, last], key=_place), facts, out)
    print(text)
    table = pd.read_csv(out / "benchmark.csv")
    write_text(out / "scaling.md", scaling.page(table, facts))
    print(f"written to {out}")
    return 0


def _place(row: Row) -> int:
    return [row.stage.startswith(name) for name in ORDER].index(True)


def choose(name: str, data_dir: str, n: int, folds: int) -> tuple[pd.DataFrame, Path]:
    """Take ``n`` usable clips, spread over genres and artists; add sha256 and class numbers.

    Raises
    ------
    UsageError
        Too few for ``folds`` folds of every genre.
    """
    from genre_utils.data import datasets
    from genre_utils.data.datasets import spread

    jobs = workers(0)
    clips, _ = datasets.load_clips(name, data_dir or None, jobs=jobs)
    folder = datasets.data_folder(name, data_dir or None, jobs=jobs)
    clips = clips[clips["status"] == "ok"]
    clips = clips.loc[spread(clips).sort_values(kind="stable").index].head(max(n, 0))
    needed = folds * clips["genre"].nunique()
    if clips.empty or clips["genre"].value_counts().min() < folds:
        raise UsageError(
            f"--clips {n} gives a genre of {name} fewer than {folds} clips; at least {needed}"
        )
    digests = datasets.audio_digests(clips, folder, jobs=jobs)
    clips = clips.assign(
        sha256=clips["clip_id"].map(digests), y=np.unique(clips["genre"], return_inverse=True)[1]
    ).drop_duplicates("sha256")
    return clips.reset_index(drop=True), folder


def _measure(
    clips: pd.DataFrame, folder: Path, root: Path, asked: list[str], repeats: int
) -> Iterator[list[Row]]:
    from genre_utils.benchmark import growth, stages, trunk
    from genre_utils.extraction.vgg import load_weights

    files = [folder / path for path in clips["path"]]
    bench = stages.Bench(
        files, list(clips["sha256"]), clips["y"].to_numpy(), load_weights(), root, asked, repeats
    )
    parts: dict[str, Callable[[], list[Row]]] = {
        "features": lambda: stages.extraction(bench),
        "trunk": lambda: trunk.trunk(bench),
        "head": lambda: stages.head(bench),
        "whole experiment": lambda: stages.experiment(bench, {row.stage: row for row in rows}),
        "same results": lambda: trunk.agreement(bench),
        "memory and growth": lambda: growth.synthetic(files, root / "synthetic"),
        "start-up": lambda: [growth.start_up(repeats)],
    }
    rows: list[Row] = []
    for name, part in parts.items():
        took = seconds(lambda part=part: rows.extend(part()))
        print(f"{name:<20}{took:8.1f} s", flush=True)
        yield rows
