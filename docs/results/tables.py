"""The tables of docs/results from the results.csv of a sweep.

    python docs/results/tables.py sweeps/cuts_short           # one row per cut and algorithm
    python docs/results/tables.py sweeps/factors_short        # one row per arm and algorithm

The online-momentum distance is the largest that any sync of the run saw (mean squared difference per parameter): at the end of a
cosine schedule all distances are small.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

Row = Mapping[str, str]


def interval(row: Row | None, name: str, low: str, high: str, digits: int = 3) -> str:
    """`value [low, high]`, a dash where there is none."""
    if row is None or not row.get(name):
        return "-"
    return f"{float(row[name]):.{digits}f} [{float(row[low]):.{digits}f}, {float(row[high]):.{digits}f}]"


def number(row: Row | None, name: str, form: str) -> str:
    """One number, a dash where there is none."""
    return f"{float(row[name]):{form}}" if row is not None and row.get(name) else "-"


def largest_distance(sweep: Path, run: str) -> str:
    """The largest online-momentum distance before a sync."""
    lines = (sweep / "runs" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [value for line in lines if (value := json.loads(line).get("online_to_momentum")) is not None]
    return f"{max(seen):.1e}" if seen else "-"


def main() -> None:
    """Print the table of one sweep as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    args = parser.parse_args()
    with (args.sweep / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "finished"]
    runs = list(dict.fromkeys(row["run"] for row in rows))

    def find(run: str, name: str, label: str = "") -> Row | None:
        return next((r for r in rows if r["run"] == run and r["name"] == name and label in r["label"]), None)

    columns: dict[str, Callable[[str], str]] = {
        "linear [95 %]": lambda run: interval(find(run, "linear"), "accuracy", "low", "high"),
        "kNN": lambda run: number(find(run, "knn", "backbone") or find(run, "knn"), "accuracy", ".3f"),
        "kNN on the wire": lambda run: number(find(run, "knn", "smashed"), "accuracy", ".3f"),
        "loss": lambda run: number(find(run, "linear"), "loss", ".2f"),
        "largest online-momentum distance": lambda run: largest_distance(args.sweep, run),
        "MiB per client": lambda run: number(find(run, "linear"), "mib_per_client", ",.0f"),
        "formula": lambda run: number(find(run, "linear"), "mib_per_client_published_formula", ",.0f"),
        "ridge R2 [95 %]": lambda run: interval(find(run, "ridge"), "r2", "r2_low", "r2_high", 2),
        "untrained": lambda run: number(find(run, "ridge"), "untrained_r2", ".2f"),
        "MSE": lambda run: number(find(run, "ridge"), "mse", ".4f"),
        "SSIM": lambda run: number(find(run, "ridge"), "ssim", ".3f"),
    }
    cells = {name: [cell(run) for run in runs] for name, cell in columns.items()}
    shown = {name: found for name, found in cells.items() if any(c != "-" for c in found)}
    places = [next(r for r in rows if r["run"] == run) for run in runs]
    head = ["setting"] * any(p["setting"] for p in places) + ["cut", "algorithm", *shown]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for i, place in enumerate(places):
        print("| " + " | ".join([place[name] for name in head[: len(head) - len(shown)]] + [found[i] for found in shown.values()]) + " |")


if __name__ == "__main__":
    main()
