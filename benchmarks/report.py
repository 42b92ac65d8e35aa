"""Time and size of a report, by the number of runs.

    python benchmarks/report.py                       # 10, 100 and 1000 runs
    python benchmarks/report.py --runs 500 --browser  # also: seconds until the page is ready in Chromium

Runs are synthetic (two algorithms, ten cuts, temperatures, two seeds), each with a probe, two attacks with pictures, and curves of 1000
lines; reading them, drawing the figures and writing the page are timed apart, in one process. The browser is Chromium driven by Playwright.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "report"))
import synthetic_runs as made

from ssl_split.report import build, collect, curves, figures, page, paper, table
from ssl_split.report.draw import style

CUTS = tuple(range(1, 20, 2))
LINES = 1000


def make(directory: Path, count: int) -> None:
    """Synthetic runs: two seeds of each setting, further settings at other temperatures."""
    every = ((t, c, a, s) for t in itertools.count(1) for c in CUTS for a in ("mocosfl", "monacosfl") for s in (0, 1))
    places = itertools.islice(every, count)
    for warmth, cut, algorithm, seed in places:
        run = made.make_run(directory / "runs", algorithm=algorithm, cut=cut, seed=seed, temperature=0.1 * warmth)
        made.add_probe(run, made.accuracy_of(algorithm, cut, 0))
        made.add_attack(run, made.mse_of(algorithm, cut, 0))
        made.add_attack(run, made.mse_of(algorithm, cut, 0), name="decoder")
        lines = [{"step": s, "round": s // 10, "loss": 6.0 / (1 + 0.02 * s), "online_to_momentum": 1e-6 * s} for s in range(1, LINES + 1)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def seconds_in_browser(file: Path) -> float:
    """From navigation until the page says that it is ready."""
    from playwright.sync_api import sync_playwright

    found = made.chromium()
    if found is None:
        raise SystemExit("error: --browser needs Chromium on the path, or named by the variable CHROMIUM")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page()
        shown.goto("about:blank")
        start = time.perf_counter()
        shown.goto(file.resolve().as_uri())
        shown.wait_for_selector("html.ready", state="attached")
        taken = time.perf_counter() - start
        browser.close()
    return taken


def measure(count: int, *, browser: bool) -> dict[str, float]:
    """Seconds of each part, MiB of the page."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        make(directory, count)
        start = time.perf_counter()
        study = table.study(collect.collect(directory))
        read = time.perf_counter()
        with style():
            drawings = figures.draw(study, directory / build.FIGURES) + curves.draw(study, directory / build.FIGURES)
        drawn = time.perf_counter()
        shown, texts = page.context(study, drawings, directory), paper.texts(study)
        text = page.html(shown, study, directory, texts=texts)
        (directory / build.HTML).write_text(text, encoding="utf-8")
        written = time.perf_counter()
        bare = len(page.html(shown, study, directory, images=0, texts=texts))
        known = {"runs": count, "read": read - start, "figures": drawn - read, "page": written - drawn, "MiB": len(text) / 2**20,
                 "MiB without pictures": bare / 2**20}
        return known | ({"browser": seconds_in_browser(directory / build.HTML)} if browser else {})


def main() -> None:
    """Print one line per number of runs."""
    made_parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made_parser.add_argument("--runs", type=int, nargs="+", default=[10, 100, 1000], help="numbers of runs [10 100 1000]")
    made_parser.add_argument("--browser", action="store_true", help="also load the page in Chromium")
    known = made_parser.parse_args()
    rows = [measure(count, browser=known.browser) for count in known.runs]
    print("  ".join(f"{name:>20}" if " " in name else f"{name:>8}" for name in rows[0]) + "   (seconds, but runs and MiB)")
    for row in rows:
        cells = (f"{value:>20.2f}" if " " in name else f"{value:>8.{0 if name == 'runs' else 2}f}" for name, value in row.items())
        print("  ".join(cells))


if __name__ == "__main__":
    main()
