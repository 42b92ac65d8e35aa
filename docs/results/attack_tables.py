"""The attack tables of docs/results from a folder of runs.

    python docs/results/attack_tables.py runs                      # every attack on every run, by cut
    python docs/results/attack_tables.py runs --attacks ridge decoder

A cell is the mean over the attacker's seeds with the 95 % interval over the targets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ssl_split.report import leaks
from ssl_split.report.collect import Outcome, collect
from ssl_split.report.table import Group, Study, study


def number(value: float | None, digits: int = 3) -> str:
    """A number, a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def span(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """`value [low, high]`."""
    return number(value, digits) + ("" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def reconstructions(made: Study, names: list[str]) -> str:
    """One row a run and attack that rebuilds images."""
    def row(group: Group, o: Outcome) -> list[str]:
        ends = (o.values.get("intervals") or {}).get("r2") or [None, None]
        return [str(group.cut), group.setting, o.label, span(o.number("r2"), *ends), number(o.number("untrained_r2"), 2),
                number(o.number("unaware", "r2"), 2), number(o.number("mse"), 4), number(o.number("ssim")),
                number(o.number("identification", "pixels", "top1", "rate")),
                number(o.number("classification", "reconstructions", "rate")), str(len(o.values.get("seeds") or []) or "-"),
                number(o.number("seconds"), 0)]

    found = [row(group, o) for group in made.groups for run in group.runs for o in run.of("attack")
             if o.number("mse") is not None and (not names or o.name in names)]
    head = ["cut", "setting", "attack", "R2 [95 %]", "untrained", "defence unknown", "MSE", "SSIM", "identified", "class told", "seeds"]
    return table([*head, "seconds"], found)


def others(rows: list[leaks.Finding], names: list[str]) -> str:
    """Membership or label attacks."""
    return table(["cut", "attack", "measure", "value [95 %]", "guessing", "untrained", "raw pixels", "how", "seconds"],
                 [[str(f.run.cut), f.outcome.label, f.measure, span(f.value, f.low, f.high, 3), number(f.chance),
                   number(f.rulers["untrained"]), number(f.rulers.get("pixels")), f.way, number(f.outcome.number("seconds"), 0)]
                  for f in rows if not names or f.outcome.name in names])


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--attacks", nargs="*", default=[], help="names as in the results: ridge, membership-norm, label-fewshot, ...")
    args = parser.parse_args()
    made = study(collect(args.runs))
    print(reconstructions(made, args.attacks), *(others(found, args.attacks) for found in (leaks.memberships(made), leaks.labels(made))),
          sep="\n\n")


if __name__ == "__main__":
    main()
