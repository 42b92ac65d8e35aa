"""Command line of reports: `python -m ssl_split.report DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_split import fields
from ssl_split.report import build

EPILOG = """\
DIR is a sweep's directory, any folder of runs (runs/), or a single run. Written into it: report.html (one file, opens without network),
report.md, results.csv, figures/*.svg and *.png."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ssl_split.report", description="Write a report on the runs in a directory.",
                                   epilog=EPILOG, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("directory", metavar="DIR", nargs="?", default="runs", help="sweep, folder of runs, or run [runs]")
    made.add_argument("--out", metavar="DIR", help="where the report goes [beside the runs]")
    made.error = _refuse  # type: ignore[method-assign, assignment]
    return made


def _refuse(message: str) -> None:
    raise ValueError(f"{message} (usage: python -m ssl_split.report DIR [--out DIR])")


def main(argv: Sequence[str]) -> int:
    """Write a report and say where it is."""
    known = parser().parse_args(list(argv))
    written = build.write(Path(known.directory), out=Path(known.out) if known.out else None)
    print(f"also: {build.MARKDOWN}, {build.CSV}, {build.FIGURES}/ in {written.parent}", file=sys.stderr)
    print(f"report: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(fields.command(main))
