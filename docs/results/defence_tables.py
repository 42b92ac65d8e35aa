"""The table of defences in docs/results from the sweeps of `defences_short.yaml`, one for each cut.

    python docs/results/defence_tables.py sweeps/defences_cut1 sweeps/defences_cut13

R2 is that of the ridge regression: of an attacker who knows the defence and learns through it, and of one who does not know it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ssl_split.report.collect import collect
from ssl_split.report.table import Group, study


def cell(group: Group, name: str, digits: int = 2, *, ends: bool = False) -> str:
    """A number, with its interval where it is wanted, or a dash."""
    value = group.values.get(name)
    if value is None:
        return "-"
    between = f" [{value.low:.{digits}f}, {value.high:.{digits}f}]" if ends and value.low is not None and value.high is not None else ""
    return f"{value.mean:.{digits}f}{between}"


def identified(group: Group) -> str:
    """Share of targets that are told from their reconstructions."""
    found = [rate for _, o in group.strongest if (rate := o.number("identification", "pixels", "top1", "rate")) is not None]
    return f"{found[0]:.2f}" if found else "-"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+")
    args = parser.parse_args()
    print("| cut | defence | accuracy [95 %] | MiB per client | R2, knows the defence [95 %] | SSIM | identified | R2, does not know it |")
    print("|---|---|---|---|---|---|---|---|")
    for sweep in args.sweeps:
        for group in study(collect(sweep)).groups:
            if "r2" in group.values:
                print(f"| {group.cut} | {group.setting} | {cell(group, 'accuracy', 3, ends=True)} | {cell(group, 'mib_per_client', 0)} | "
                      f"{cell(group, 'r2', ends=True)} | {cell(group, 'ssim')} | {identified(group)} | {cell(group, 'unaware_r2')} |")


if __name__ == "__main__":
    main()
