"""A picture of the first screen of a report, as a reader sees it.

    python docs/pictures/page.py sweeps/tradeoff_short/report.html --out docs/pictures/report.png

Needs Playwright (extra `dev`) and Chromium, on the path or named by the variable CHROMIUM.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html of a sweep or of a folder of runs")
    parser.add_argument("--out", type=Path, default=Path("report.png"), help="the picture [report.png]")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 900), metavar=("WIDTH", "HEIGHT"), help="of the window, in pixels")
    parser.add_argument("--section", help="id of a section to be shown whole instead of the first screen, such as matrix or pictures")
    args = parser.parse_args()
    if not args.report.is_file():
        raise SystemExit(f"error: there is no report {args.report}")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("error: no Chromium on the path; name one by the variable CHROMIUM")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": args.size[0], "height": args.size[1]})
        page.goto(args.report.resolve().as_uri())
        page.wait_for_selector("html.ready", state="attached")
        if args.section is None:
            page.screenshot(path=args.out)
        else:
            section = page.locator(f"#{args.section}")
            section.scroll_into_view_if_needed()
            page.wait_for_timeout(1000)  # charts and tables are drawn when they are seen
            section.screenshot(path=args.out)
        browser.close()


if __name__ == "__main__":
    main()
