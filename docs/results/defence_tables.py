"""The table of defences in docs/results from the sweeps of `defences_short.yaml`, one for each cut; a row is a run.

    python docs/results/defence_tables.py sweeps/defences_cut1 sweeps/defences_cut13
    python docs/results/defence_tables.py sweeps/defences_cut13 --attack decoder

R2 is that of the named attack: of an attacker who knows the defence and learns through it, and of one who does not know it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ssl_split.report.collect import Outcome, collect
from ssl_split.report.table import Group, study


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def accuracy(group: Group) -> str:
    """The mean over the group's runs with its interval."""
    value = group.values.get("accuracy")
    return "-" if value is None else f"{value.mean:.3f}" + ("" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]")


def row(group: Group, found: Outcome) -> list[str]:
    """One line of the table."""
    low, high = (found.values.get("intervals") or {}).get("r2") or (None, None)
    between = "" if low is None else f" [{number(low)}, {number(high)}]"
    traffic = group.values.get("mib_per_client")
    return [str(group.cut), group.setting, accuracy(group), number(None if traffic is None else traffic.mean, 0),
            number(found.number("r2")) + between, number(found.number("ssim")),
            number(found.number("identification", "pixels", "top1", "rate")), number(found.number("unaware", "r2"))]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--attack", default="ridge", help="name as in the results")
    args = parser.parse_args()
    print("| cut | defence | accuracy [95 %] | MiB per client | R2, knows the defence [95 %] | SSIM | identified | R2, does not know it |")
    print("|---|---|---|---|---|---|---|---|")
    for sweep in args.sweeps:
        for group in study(collect(sweep)).groups:
            for found in (o for run in group.runs for o in run.of("attack") if o.name == args.attack):
                print(f"| {' | '.join(row(group, found))} |")


if __name__ == "__main__":
    main()
