"""``python -m genre_utils``: the commands."""

import argparse
import os
import sys
from typing import NoReturn

from genre_utils.runtime import GenreUtilsError, UsageError


class Parser(argparse.ArgumentParser):
    """argparse with one line for a wrong call."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with 2."""
        self.exit(2, f"{self.prog}: {message}; --help explains\n")


def parser() -> Parser:
    """Return the command line."""
    whole = Parser(prog="genre_utils", description="Companion of Uchal & Zhou: see README.md")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_publish(commands)
    _add_sensitivity(commands)
    from genre_utils import cache_cli
    from genre_utils.benchmark import cli as benchmark_cli
    from genre_utils.data import datasets_cli
    from genre_utils.own import cli as own_cli

    for part in (datasets_cli, own_cli, cache_cli, benchmark_cli):
        part.add_parsers(commands)
    return whole


def _add_run(commands: argparse._SubParsersAction) -> None:
    from genre_utils.run import load_profiles, main_run

    profiles = "".join(f"\n  {name:<8}{p['about']}" for name, p in load_profiles().items())
    command = commands.add_parser(
        "run",
        help="run the notebooks in order",
        prog="run_all.sh",
        description="Runs the notebooks 01, 02, ... in order and prints Table 1.",
        epilog=f"profiles (genre_utils/profiles.yml):{profiles}\n\n./run_all.sh test: all tests",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = command.add_argument
    add("--profile", default="demo", help="named set of parameters (default: demo)")
    add("--dataset", default="", metavar="NAME", help="data set (default: the profile's)")
    add("--data-dir", default="", metavar="DIR", help="where its audio and tables are")
    add("--out", default="", metavar="DIR", help="results (default: runs/<profile>-<dataset>)")
    add("--jobs", type=int, default=0, metavar="N", help="worker processes (default: all cores)")
    add("--scheduler", default="", metavar="ADDR", help="Dask scheduler, such as tcp://host:8786")
    add("--force", action="store_true", help="compute everything anew")
    command.set_defaults(func=main_run)


def _add_publish(commands: argparse._SubParsersAction) -> None:
    from genre_utils.publish import main_publish

    command = commands.add_parser(
        "publish",
        help="copy a run's figures and tables into figures/NAME and renew README's table",
        allow_abbrev=False,
    )
    command.add_argument("run", help="folder of the run")
    command.add_argument("name", help="folder below figures/; 'demo' renews the notebooks too")
    command.set_defaults(func=main_publish)


def _add_sensitivity(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "sensitivity",
        help="replace a run's open choices one by one: does a verdict change?",
        allow_abbrev=False,
    )
    command.add_argument("run", help="folder of a finished run with the artist protocol")
    jobs = "worker processes (default: all cores)"
    command.add_argument("--jobs", type=int, default=0, metavar="N", help=jobs)
    command.set_defaults(func=_sensitivity)


def _sensitivity(arguments: argparse.Namespace) -> int:
    from genre_utils.sensitivity import main_sensitivity  # loads TensorFlow

    return main_sensitivity(arguments)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 failure, 2 usage)."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.func(arguments)
    except GenreUtilsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # the reader of a pipe (head, say) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept, the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
