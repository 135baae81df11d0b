"""``python -m genre_utils datasets``: list, download, validate, and write the clip table."""

import argparse
import json
from pathlib import Path

from genre_utils.data import datasets, magnatagatune
from genre_utils.data import download as releases
from genre_utils.data.splits import PROTOCOLS
from genre_utils.runtime import UsageError, on_terminal, workers


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add ``datasets`` and its commands; each sets ``func``, which returns the exit code."""
    whole = commands.add_parser(
        "datasets", help="data sets: list, download, validate, clip table", allow_abbrev=False
    )
    whole.set_defaults(func=main_list)
    below = whole.add_subparsers(metavar="COMMAND")
    names = f"one of {', '.join(datasets.DATASETS)}"

    one = below.add_parser("download", help="fetch a release and unpack it", allow_abbrev=False)
    one.add_argument("name", metavar="NAME", help=f"one of {', '.join(releases.RELEASES)}")
    one.add_argument("--data-dir", required=True, metavar="DIR", help="where it goes")
    one.add_argument("--mirror", default="", metavar="URL", help="folder address to try first")
    one.set_defaults(func=main_download)

    one = below.add_parser("validate", help="look at every file", allow_abbrev=False)
    _add_place(one, names)
    one.add_argument("--json", action="store_true", help="print the report as JSON")
    one.set_defaults(func=main_validate)

    one = below.add_parser("clips", help="write the clip table", allow_abbrev=False)
    _add_place(one, names)
    add = one.add_argument
    add("--out", required=True, metavar="CSV", help="the clip table to write")
    add(
        "--multi-genre",
        choices=magnatagatune.MULTI_GENRE,
        help="magnatagatune: albums with "
        "several genres get the first listed, or are refused (default: first)",
    )
    add("--max-per-genre", type=int, default=0, metavar="N", help="at most N clips a genre")
    add("--seed", type=int, default=0, help="of the choice of clips and of the folds")
    add("--by-sound", action="store_true", help="look for duplicates by chromagram, too")
    add("--export-split", metavar="CSV", help="draw folds and write them for others to use")
    add("--use-split", metavar="CSV", help="keep to the clips and folds of such a file")
    add("--folds", type=int, default=10, metavar="K", help="of --export-split (default: 10)")
    add(
        "--min-artists",
        type=int,
        default=5,
        metavar="N",
        help="of --export-split: a genre with fewer artists is left out (default: 5)",
    )
    add(
        "--protocols",
        default="random,artist",
        metavar="LIST",
        help=f"of --export-split: some of {','.join(PROTOCOLS)} (default: random,artist)",
    )
    one.set_defaults(func=main_clips)


def _add_place(one: argparse.ArgumentParser, names: str) -> None:
    one.add_argument("name", metavar="NAME", help=names)
    one.add_argument("--data-dir", default="", metavar="DIR", help="where its files are")
    one.add_argument("--jobs", type=int, default=0, metavar="N", help="default: all cores")


def main_list(_arguments: argparse.Namespace) -> int:
    """Print what there is: name, clips, size, licence, what is needed."""
    head = ("name", "clips", "size", "licence", "needs")
    rows = [head, *([getattr(d, key) for key in head] for d in datasets.DATASETS.values())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def main_download(arguments: argparse.Namespace) -> int:
    """Say what it is and under which licence, then fetch it."""
    on_terminal()
    if arguments.name in releases.RELEASES:
        one = datasets.get(arguments.name)
        print(f"{one.title}\n{one.citation}\nlicence: {one.licence}\nsize: {one.size}", flush=True)
    for line in releases.download(arguments.name, Path(arguments.data_dir), arguments.mirror):
        print(line, flush=True)
    return 0


def main_validate(arguments: argparse.Namespace) -> int:
    """Print what is wrong; 1 if anything beyond the known bad files is."""
    from genre_utils.data.datasets import FAULTS, validate

    on_terminal()
    report = validate(arguments.name, arguments.data_dir or None, jobs=workers(arguments.jobs))
    if arguments.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return int(not report["ok"])
    for kind in ("known_bad", *FAULTS):
        for path, reason in report[kind].items():
            print(f"{kind.replace('_', ' ')}: {path}: {reason}")
    for note in report["notes"]:
        print(f"note: {note}")
    bad = sum(len(report[kind]) for kind in FAULTS)
    print(f"{report['clips']} clips: {bad} faulty, {len(report['known_bad'])} known to be so")
    return int(not report["ok"])


def main_clips(arguments: argparse.Namespace) -> int:
    """Write the clip table, and folds where asked for; print the counts as JSON."""
    from genre_utils.data import splits
    from genre_utils.data import splits as duplicates
    from genre_utils.data import splits as split_file
    from genre_utils.store import write_text

    if arguments.export_split and arguments.use_split:
        raise UsageError("--export-split draws folds and --use-split takes given ones: give one")
    on_terminal()
    jobs, place = workers(arguments.jobs), (arguments.name, arguments.data_dir or None)
    own = {"multi_genre": arguments.multi_genre} if arguments.multi_genre else {}
    choice = {"max_per_genre": arguments.max_per_genre, "seed": arguments.seed}
    clips, report = datasets.load_clips(*place, jobs=jobs, **choice, **own)
    folder = datasets.data_folder(*place, jobs=jobs)
    digests = datasets.audio_digests(clips, folder, jobs=jobs)
    pairs = duplicates.find(clips, folder, digests, by_sound=arguments.by_sound, jobs=jobs)
    report["duplicates"] = pairs.astype(object).where(pairs.notna(), None).to_dict("records")
    if arguments.use_split:
        clips, folds = split_file.use_split(arguments.use_split, clips)
        report["split"] = {"clips": folds["clip_id"].nunique(), "file": arguments.use_split}
    if arguments.export_split:
        clips = datasets.leave_out_small_genres(clips, arguments.folds, arguments.min_artists)
        protocols = arguments.protocols.split(",")
        folds = splits.make_splits(clips, protocols, arguments.folds, arguments.seed, pairs)
        split_file.export_split(arguments.export_split, clips, folds)
        report["split"] = {"clips": folds["clip_id"].nunique(), "file": arguments.export_split}
    write_text(arguments.out, clips.to_csv(index=False, lineterminator="\n"))
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return 0
