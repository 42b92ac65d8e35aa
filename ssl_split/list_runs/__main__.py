"""Command line: `python -m ssl_split.list_runs [DIR ...]`."""

from __future__ import annotations

import argparse
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from ssl_split import fields

USAGE = "python -m ssl_split.list_runs [DIR ...] [flags]"
DESCRIPTION = """List, compare and remove runs: in folders of runs, in sweeps, and in folders of either.

Accuracy is the headline probe's (linear, else fine-tuned, the run's own classifier, kNN, else what validation said); MiB are what crossed
the wire per client; the attack is the strongest on its own validation images, with its R2 (1: perfect, 0: the blind guess), and where
no image was rebuilt the membership attack with the highest AUC, else the label attack with the highest accuracy."""
EPILOG = """examples:
  python -m ssl_split.list_runs                                            # below runs/
  python -m ssl_split.list_runs runs sweeps --where algorithm=monacosfl cut=1,13 --sort accuracy --reverse
  python -m ssl_split.list_runs --where state!=finished --json
  python -m ssl_split.list_runs sweeps/quick --compare monacosfl-digits-cut1-0a1b2c3d4e mocosfl-digits-cut1-5f6a7b8c9d
  python -m ssl_split.list_runs --remove --where state=stopped
  python -m ssl_split.list_runs --tensorboard && tensorboard --logdir runs"""


class Parser(argparse.ArgumentParser):
    """argparse that reports one sentence."""

    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(f"{message} (usage: {USAGE})")


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="python -m ssl_split.list_runs", usage=USAGE, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
                  formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("directories", metavar="DIR", nargs="*", help="where to look for runs, at any depth to five [runs]")
    made.add_argument("--where", metavar="FIELD=VALUE", nargs="+", default=[],
                      help="only runs of which all this is true: = or !=, any field of the configuration (partition.beta=0.5) or of --csv; "
                           "several values with commas, * stands for anything (run=quick*)")
    made.add_argument("--sort", metavar="FIELD", help="order by a field of the configuration or of --csv [directory by directory]")
    made.add_argument("--reverse", action="store_true", help="highest first")
    made.add_argument("--show", metavar="FIELD", nargs="+", default=[], help="further columns: fields of the configuration")
    made.add_argument("--json", action="store_true", help="a JSON list for scripts (of --compare: an object)")
    made.add_argument("--csv", action="store_true", help="CSV for scripts")
    does = made.add_mutually_exclusive_group()
    does.add_argument("--compare", metavar="RUN", nargs="+", help="which fields of the configuration, versions and machines of two or more "
                      "runs differ, and their results side by side; a run is a directory, or a part of a name that only it has")
    does.add_argument("--remove", metavar="RUN", nargs="*", help="remove these runs, or those that --where leaves; says which and asks")
    does.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard from the runs' files, again at any time")
    made.add_argument("--yes", action="store_true", help="--remove without asking")
    return made


def main(argv: Sequence[str]) -> int:
    """List runs, or do with them what was asked for."""
    known = parser().parse_args(list(argv))
    if known.json and known.csv:
        raise ValueError("--json or --csv, not both")
    if known.yes and known.remove is None:
        raise ValueError("--yes goes with --remove")
    if known.remove == [] and not known.where:
        raise ValueError("--remove needs runs, by name or by --where: nothing was removed")
    if known.compare is not None and (len(known.compare) < 2 or known.csv):
        raise ValueError("--compare needs two runs or more, and writes text or --json")
    from ssl_split.list_runs import compare, listing, remove  # not for --help

    chosen = listing.select([Path(d) for d in known.directories], names=known.compare or known.remove or [], where=known.where,
                            sort=known.sort, reverse=known.reverse)
    if known.compare is not None:
        print(compare.as_json(chosen) if known.json else compare.as_text(chosen))
    elif known.remove is not None:
        return remove.command(chosen, yes=known.yes)
    elif known.tensorboard:
        return listing.tensorboard(chosen)
    else:
        listing.show(chosen, form="json" if known.json else "csv" if known.csv else "text", more=known.show)
    return 0


if __name__ == "__main__":
    sys.exit(fields.command(main))
