"""Tables of docs/results over seeds: mean ± standard deviation (seeds) of whatever a sweep measured, one field across.

    python docs/results/seeds.py sweeps/minibatch_short --across partition.ratio                   # test accuracy of the runs' classifiers
    python docs/results/seeds.py sweeps/minibatch_short --across partition.ratio --show gradient_divergence_client
    python docs/results/seeds.py sweeps/gas_short --across partition.kind --show after:60          # validation after 60 virtual seconds
    python docs/results/seeds.py sweeps/smofi_short --across partition.kind --show rounds:0.3      # rounds until validation reached 0.3
    python docs/results/seeds.py sweeps/federated_short --across partition.kind --show within_passes:40

Rows are the fields in which the runs differ, the seed apart. `rounds:0.3`, `seconds:0.3` (virtual), `mib:0.3` (of all clients) and
`passes:0.3` (backward passes over the minibatches of a round: two a round for methods that look twice) say what it took to reach a
validation accuracy; `within_rounds:20` and so on is the last one within such a budget, `after:S` the same as `within_seconds:S`, `tail:5`
the mean of the last five. A metric of the run's metrics.jsonl is its mean over training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from ssl_split.traffic import MIB, TWICE

BUDGETS = ("rounds", "seconds", "mib", "passes")
IGNORED = ("seed", "data_dir", "out", "threads", "name")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        made |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return made


class Run:
    """One finished run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fields = flat(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        self.lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    def spent(self, line: dict[str, Any], what: str) -> float:
        """Rounds, virtual seconds, MiB or backward passes until a validation."""
        rounds: float = line["round"] + 1
        twice = self.fields["algorithm"] in TWICE
        return {"rounds": rounds, "seconds": line["virtual_seconds"], "mib": line["bytes"] / MIB, "passes": rounds * (1 + twice)}[what]

    def shown(self, what: str) -> float | None:
        """A number of the run; None where it has none."""
        kind, _, value = what.partition(":")
        if kind in ("classifier", "linear", "knn"):
            found = [json.loads(p.read_text(encoding="utf-8")) for p in self.folder.glob(f"probes/{kind}-*/result.json")]
            return found[0]["accuracy"] if found else None
        validated = [line for line in self.lines if "validation_accuracy" in line]
        if kind == "tail":
            return fmean(line["validation_accuracy"] for line in validated[-int(value) :])
        if kind == "after" or kind.startswith("within_"):
            spent = "seconds" if kind == "after" else kind.removeprefix("within_")
            before = [line["validation_accuracy"] for line in validated if self.spent(line, spent) <= float(value)]
            return before[-1] if before else None
        if kind in BUDGETS:
            first = next((line for line in validated if line["validation_accuracy"] >= float(value)), None)
            return None if first is None else self.spent(first, kind)
        if kind == "end":
            return json.loads((self.folder / "result.json").read_text(encoding="utf-8")).get(value)
        seen = [line[kind] for line in self.lines if kind in line]
        return fmean(seen) if seen else None


def cell(runs: list[Run], what: str, digits: int) -> str:
    """mean ± deviation (n), or what is missing."""
    found = [value for run in runs if (value := run.shown(what)) is not None]
    if not found:
        return "never" if what.startswith(BUDGETS) and runs else "-"
    missing = f" of {len(runs)}" if len(found) < len(runs) else ""
    spread = f" ± {stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{fmean(found):,.{digits}f}{spread} ({len(found)}{missing})"


def main() -> None:
    """Print one table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="+", help="sweep directories, or folders of runs")
    parser.add_argument("--across", help="field whose values are the columns")
    parser.add_argument("--show", default="classifier", help="classifier, linear, knn, a metric, rounds:A, within_rounds:N (or seconds, "
                                                             "mib, passes), tail:N, end:KEY")
    parser.add_argument("--digits", type=int, default=3)
    args = parser.parse_args()
    found = [path.parent for folder in args.sweep for path in sorted(folder.rglob("result.json"))]
    runs = [Run(folder) for folder in found if (folder / "config.yaml").is_file()]
    if not runs:
        raise SystemExit(f"error: no finished run in {' '.join(map(str, args.sweep))}")
    differ = [name for name in runs[0].fields if name not in IGNORED and len({json.dumps(run.fields.get(name)) for run in runs}) > 1]
    rows = [name for name in differ if name != args.across]
    columns = sorted({run.fields[args.across] for run in runs}) if args.across else [None]
    print(f"| {' | '.join([*rows, *(f'{args.across} {c}' if args.across else args.show for c in columns)])} |")
    print("|" + "---|" * (len(rows) + len(columns)))
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(str(run.fields[name]) for name in rows), []).append(run)
    for key, members in sorted(groups.items()):
        cells = [cell([r for r in members if not args.across or r.fields[args.across] == c], args.show, args.digits) for c in columns]
        print(f"| {' | '.join([*key, *cells])} |")


if __name__ == "__main__":
    main()
