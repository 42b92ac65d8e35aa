"""Command line of reports: `python -m ssl_split.report DIR`."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ssl_split import fields
from ssl_split.report import build
from ssl_split.report.page import IMAGES
from ssl_split.report.paper import FOLDER

EPILOG = """\
DIR is a sweep's directory, any folder of runs (runs/), or a single run. Written into it: report.html (one file, opens without network),
report.md, results.csv (and .parquet, with the extra analysis), figures/*.svg and *.png, and paper/: a methods paragraph, BibTeX, and every
table in LaTeX."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ssl_split.report", description="Write a report on the runs in a directory.",
                                   epilog=EPILOG, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("directory", metavar="DIR", nargs="?", default="runs", help="sweep, folder of runs, or run [runs]")
    made.add_argument("--out", metavar="DIR", help="where the report goes [beside the runs]")
    made.add_argument("--compare", metavar="OTHER", help="a second sweep: settings side by side, differences with intervals")
    made.add_argument("--pictures", metavar="N", type=int, default=IMAGES,
                      help=f"reconstructed images per run in the page; 0 leaves them out [{IMAGES}]")
    made.add_argument("--open", action="store_true", help="show the report in the browser when it is written")
    made.error = _refuse  # type: ignore[method-assign, assignment]
    return made


def _refuse(message: str) -> None:
    raise ValueError(f"{message} (usage: python -m ssl_split.report DIR [--out DIR] [--compare OTHER])")


def main(argv: Sequence[str]) -> int:
    """Write a report and say where it is."""
    known = parser().parse_args(list(argv))
    if known.pictures < 0:
        raise ValueError(f"--pictures {known.pictures}: a number of images from 0 on")
    out, other = (None if text is None else Path(text) for text in (known.out, known.compare))
    written = build.write(Path(known.directory), out=out, other=other, images=known.pictures)
    print(f"also: {build.MARKDOWN}, {build.CSV}, {build.FIGURES}/, {FOLDER}/ in {written.parent}", file=sys.stderr)
    print(f"report: {written}")
    if known.open and not webbrowser.open(written.resolve().as_uri()):
        print("no browser could be started; open the report by hand", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(fields.command(main))
