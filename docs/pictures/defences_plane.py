"""The privacy-utility plane of the defences, from the tables of docs/results/attacks.md.

    python docs/pictures/defences_plane.py docs/results/attacks.md --out docs/pictures/defences.png

Every table with the columns `cut`, `defence`, `accuracy ...`, `R2, knows ...` and `R2, does not ...` is drawn, a panel for each cut:
filled, the attacker who knows the defence; hollow, the one who does not. Crowded names stand at the right, in the order of accuracy.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ssl_split.report.draw import PALETTE, style

LEAST = -0.3
"""Lower R2 are drawn here: all of them see nothing."""


@dataclass(frozen=True)
class Point:
    """A defence at a cut; accuracy in percent."""

    cut: str
    name: str
    accuracy: float
    knows: float
    does_not: float | None


def number(cell: str) -> float | None:
    """The first number of a cell, nothing where it holds none."""
    found = re.match(r"\**(-?\d*\.?\d+)", cell)
    return float(found[1]) if found else None


def rows(text: str) -> Iterator[dict[str, str]]:
    """Rows of all Markdown tables by the names of their columns."""
    head: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            head = None
            continue
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if head is None:
            head = cells
        elif not line.startswith("|---") and len(cells) == len(head):
            yield dict(zip(head, cells, strict=True))


def points(text: str) -> list[Point]:
    """The defences of a page's tables."""
    made = []
    for row in rows(text):
        column = {key: name for name in row for key in ("accuracy", "R2, knows", "R2, does not") if name.startswith(key)}
        if len(column) == 3 and "defence" in row:
            accuracy, knows = number(row[column["accuracy"]]), number(row[column["R2, knows"]])
            if accuracy is not None and knows is not None:
                made.append(Point(row["cut"], row["defence"], 100 * accuracy, knows, number(row[column["R2, does not"]])))
    return made


def alone(point: Point, found: list[Point]) -> bool:
    """Whether a name fits beside its point."""
    return all(p is point or abs(p.accuracy - point.accuracy) > 1.2 or abs(p.knows - point.knows) > 0.09 for p in found)


def left(point: Point, found: list[Point]) -> bool:
    """Whether its name stands at its left, because another point is close at its right."""
    return any(0 < p.knows - point.knows < 0.25 and abs(p.accuracy - point.accuracy) < 0.8 for p in found)


def panel(axes: Axes, found: list[Point], *, low: float, high: float) -> None:
    """One cut."""
    axes.axvline(0, color="0.5", linestyle=":")
    order = sorted(found, key=lambda p: -p.accuracy)
    crowd = [point for point in order if not alone(point, found)]
    gap = (high - low) / 20
    for i, point in enumerate(order):
        color = PALETTE[i % len(PALETTE)]
        x = max(point.knows, LEAST)
        if point.does_not is not None:
            hollow = max(point.does_not, LEAST)
            axes.plot([hollow, x], [point.accuracy] * 2, color=color, linewidth=1.2)
            axes.plot(hollow, point.accuracy, "o", color=color, markerfacecolor="white", markersize=6)
        axes.plot(x, point.accuracy, "o", color=color, markersize=7)
        if point in crowd:
            at = (1.05, high - (crowd.index(point) + 0.5) * gap)
            axes.annotate(point.name, (x, point.accuracy), at, color=color, va="center", fontsize=8.5, annotation_clip=False,
                          arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3})
        else:
            side, offset = ("right", (-7, 0)) if left(point, found) else ("left", (7, 0))
            axes.annotate(point.name, (x, point.accuracy), offset, textcoords="offset points", color=color, ha=side, va="center",
                          fontsize=8.5)
    axes.set(xlim=(LEAST - 0.05, 1.0), ylim=(low, high), xlabel="R2 of a ridge regression, one seed", title=f"cut {found[0].cut}")
    axes.grid(color="0.9")


def main() -> None:
    """Read the page and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("defences.png"))
    args = parser.parse_args()
    found = points(args.page.read_text(encoding="utf-8"))
    if not found:
        parser.error(f"{args.page} holds no table of defences")
    cuts = sorted({p.cut for p in found}, key=float)
    with style():
        figure, panels = plt.subplots(1, len(cuts), figsize=(6.6 * len(cuts), 6.4), squeeze=False)
        for axes, cut in zip(panels[0], cuts, strict=True):
            panel(axes, [p for p in found if p.cut == cut], low=8, high=max(p.accuracy for p in found) + 2)
        panels[0][0].set_ylabel("accuracy (%), linear probe on what the server computes")
        figure.suptitle("Filled: the attacker knows the defence. Hollow: he does not (below -0.3 drawn there). Dotted: blind guess",
                        fontsize=10)
        figure.tight_layout(w_pad=4)
        figure.savefig(args.out, dpi=100, metadata={"Software": None}, bbox_inches="tight")
    print(f"{len(found)} defences at cuts {', '.join(cuts)}: {args.out}")


if __name__ == "__main__":
    main()
