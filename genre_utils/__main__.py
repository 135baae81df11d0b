"""``python -m genre_utils``: the commands."""

import codecs
import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from genre_utils.runtime import GenreUtilsError, expanded, on_terminal, workers

JOBS = click.option("--jobs", default=0, metavar="N", help="Worker processes (default: all cores).")
DIR = {"type": expanded, "metavar": "DIR"}
DATA_DIR = click.option("--data-dir", default="", **DIR, help="Where its files are.")


@click.group()
def cli() -> None:
    """Companion of Uchal & Zhou: see README.md."""


@cli.command()
@click.option("--profile", default="demo", metavar="NAME", help="Named parameters (default: demo).")
@click.option("--dataset", default="", metavar="NAME", help="Data set (default: the profile's).")
@DATA_DIR
@click.option("--out", default="", **DIR, help="Results: runs/<profile>-<dataset>.")
@JOBS
@click.option("--scheduler", default="", metavar="ADDR", help="Dask, such as tcp://host:8786.")
@click.option("--force", is_flag=True, help="Compute everything anew.")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="Any other parameter.")
def run(**options: Any) -> None:  # noqa: ANN401
    """Run the notebooks 01, 02, ... in order and print Table 1 (./run_all.sh).

    --set epochs=50 goes to each notebook that has such a parameter, over the profile's value.
    Profiles are in genre_utils/profiles.yml: demo, mini, paper, confirm, tiny.
    """
    from genre_utils import run as runner

    print(runner.summary(runner.run(**options)))


@cli.command()
@click.argument("folder", metavar="RUN", type=expanded)
@click.argument("name")
def publish(folder: str, name: str) -> None:
    """Copy a run's figures and tables into figures/NAME and renew the tables made of them.

    NAME demo renews the committed notebooks too.
    """
    from genre_utils import publish as publisher

    written = publisher.publish(Path(folder), name)
    print(f"{len(written)} files in {publisher.FIGURES / name}; the tables are renewed")


@cli.command()
@click.argument("folder", metavar="RUN", type=expanded)
@JOBS
def sensitivity(folder: str, jobs: int) -> None:
    """Replace a run's open choices one by one and say which verdicts change."""
    from genre_utils import sensitivity as study

    on_terminal()
    print(study.summary(study.sensitivity(folder, jobs=workers(jobs))))
    print(f"table      {Path(folder) / 'sensitivity.md'}")


@cli.command()
@click.argument("folder", metavar="RUN", type=expanded)
@click.option("--draws", default=5, type=click.IntRange(2), help="With the run's own (default: 5).")
@JOBS
def seeds(folder: str, draws: int, jobs: int) -> None:
    """Repeat a run's paper systems with other folds and seeds; write means and what flips."""
    from genre_utils import sensitivity as study

    on_terminal()
    print(study.seeds(folder, n=draws, jobs=workers(jobs)))


@cli.group(invoke_without_command=True)
@click.pass_context
def datasets(context: click.Context) -> None:
    """List the data sets; download or validate one."""
    if context.invoked_subcommand is None:
        import pandas as pd

        from genre_utils.data.datasets import DATASETS

        columns = ["name", "clips", "size", "licence", "needs"]
        table = pd.DataFrame([vars(dataset) for dataset in DATASETS.values()], columns=columns)
        print(table.to_markdown(index=False, tablefmt="plain"))


@datasets.command()
@click.argument("name")
@click.option("--data-dir", required=True, **DIR, help="Where it goes.")
@click.option("--mirror", default="", metavar="URL", help="Folder address to try first.")
def download(name: str, data_dir: str, mirror: str) -> None:
    """Say what a release is and under which licence, then fetch and unpack it."""
    from genre_utils.data import datasets as known

    on_terminal()
    dataset, steps = known.get(name), known.download(name, Path(data_dir), mirror)
    print(f"{dataset.title}\n{dataset.citation}\nlicence: {dataset.licence}\nsize: {dataset.size}")
    for line in steps:
        print(line, flush=True)


@datasets.command()
@click.argument("name")
@DATA_DIR
@JOBS
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def validate(name: str, data_dir: str, jobs: int, as_json: bool) -> int:
    """Look at every file; exit code 1 if any is faulty beyond those known to be."""
    from genre_utils.data.datasets import FAULTS, validate

    on_terminal()
    report = validate(name, data_dir or None, jobs=workers(jobs))
    if as_json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        for kind in ("known_bad", *FAULTS):
            for path, reason in report[kind].items():
                print(f"{kind.replace('_', ' ')}: {path}: {reason}")
        for note in report["notes"]:
            print(f"note: {note}")
        bad = sum(len(report[kind]) for kind in FAULTS)
        print(f"{report['clips']} clips: {bad} faulty, {len(report['known_bad'])} known to be so")
    return int(not report["ok"])


@cli.command()
@click.option("--dataset", required=True, metavar="NAME", help="Data set, see `datasets`.")
@DATA_DIR
@click.option("--out", required=True, type=expanded, metavar="MODEL", help="Folder of the model.")
@click.option("--epochs", type=click.IntRange(1), help="Default: 100.")
@JOBS
def train(out: str, epochs: int | None, jobs: int, **data: str) -> None:
    """Train a model on all clips of a data set, save it, and say how good it is."""
    from genre_utils import own_music

    on_terminal()
    model = own_music.train(out=out, epochs=epochs or 0, jobs=workers(jobs), **data)
    print(f"{own_music.summary(model)}\n{out}: see README.md in it")


@cli.command()
@click.argument("model", type=expanded)
@click.argument("places", metavar="FILE_OR_FOLDER...", type=expanded, nargs=-1, required=True)
@click.option("--json", "form", flag_value="json", help="Print JSON, windows included.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, a row a file.")
@JOBS
def predict(model: str, places: tuple[str, ...], form: str | None, jobs: int) -> int:
    """Name the genre of sound files with a saved model; exit code 1 if one is refused."""
    from genre_utils import own_music

    on_terminal()
    return int(own_music.answer(model, places, form=form or "table", jobs=workers(jobs)) > 0)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 failure, 2 usage)."""
    # Where the output's encoding lacks a character it is written as in JSON.
    codecs.register_error("json", lambda e: (json.dumps(e.object[e.start : e.end])[1:-1], e.end))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="json")
    try:
        return cli.main(arguments, prog_name="genre_utils", standalone_mode=False) or 0
    except GenreUtilsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:  # a wrong call
        no_option = isinstance(error, click.NoSuchOption)
        hint = "--help explains" + "; names that begin with a dash come after --" * no_option
        print(f"genre_utils: {error.format_message()}; {hint}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a closed folder
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, click.Abort):
        print("\nstopped; what is finished is kept, the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # ends kernels and workers as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
