"""How figures look, and how they become files: an SVG and a PNG each."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ssl_split.files import replace_file

INK, MUTED, GRID, PAPER = "#1f2021", "#6e7072", "#d4d5d6", "#fefefd"
"""Colours of text, rulers, grid and background."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito (2008): told apart with every common colour blindness."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))

_SHORT = 30
"""Letters of a name that fits into half a legend or over a panel."""

_LINE = 0.17
"""Height of a line in a legend, in inches."""

_STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.edgecolor": MUTED, "text.color": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.6,
    "lines.markersize": 5.5, "figure.facecolor": PAPER, "axes.facecolor": "none", "svg.fonttype": "none", "axes.axisbelow": True,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "text.parse_math": False,  # names and options are text, whatever dollars they hold
}


def style() -> AbstractContextManager[None]:
    """The report's settings of matplotlib, for as long as figures are drawn."""
    return mpl.rc_context(_STYLE)


@dataclass(frozen=True)
class Drawing:
    """A figure that was written.

    Attributes:
        name: Of its files, without ending.
        title: What it shows.
        caption: How to read it.
    """

    name: str
    title: str
    caption: str


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of a line."""

    color: str
    marker: str
    dash: Any


def look(index: int) -> Look:
    """The look of the line with this number; colour, marker and dash all differ, so that colour is never alone."""
    return Look(PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)], DASHES[(index // len(PALETTE)) % len(DASHES)])


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for every name."""
    return {name: look(i) for i, name in enumerate(names)}


def shades(count: int) -> list[Any]:
    """Colours in order, for cuts: an even walk through viridis without its palest and darkest ends."""
    ramp = mpl.colormaps["viridis"]
    return [ramp(0.12 + 0.72 * (i / max(count - 1, 1))) for i in range(count)]


def canvas(width: float, height: float, columns: int = 1, *, share_x: bool = False, share_y: bool = False) -> tuple[Figure, list[Any]]:
    """A figure, sizes in inches, and its panels; to be called inside `style()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False, sharex=share_x, sharey=share_y)[0])


def legend(figure: Figure, panels: Sequence[Any], *, columns: int = 2) -> None:
    """One legend above all panels, every name once; long names wrap and take one column, and the figure grows by the rows."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if any(len(name) > _SHORT for name in entries):
        columns = max(1, columns // 2)
    names = ["\n".join(textwrap.wrap(name, 2 * _SHORT)) for name in entries]
    lines = sum(name.count("\n") + 1 for name in names)
    figure.set_figheight(figure.get_figheight() + _LINE * -(-lines // columns))
    figure.legend(list(entries.values()), names, loc="outside upper center", ncols=columns, handlelength=3)


def logarithmic(panel: Any, which: str) -> None:
    """Make one axis of a panel, `x` or `y`, logarithmic with plain numbers: those of matplotlib are formulas, which the style does not
    set."""
    panel.set(**{f"{which}scale": "log"})
    axis = getattr(panel, f"{which}axis")
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def heading(panel: Any, text: str) -> None:
    """The title of one of several panels, wrapped so that it does not run into the next."""
    panel.set_title("\n".join(textwrap.wrap(text, _SHORT)), fontsize=8.5 if len(text) > _SHORT else None)


def finish(figure: Figure, folder: Path, *, name: str, title: str, caption: str) -> Drawing:
    """Write `<name>.svg` and `<name>.png`."""
    with mpl.rc_context({"svg.hashsalt": name}):  # equal numbers give equal files
        buffer = io.BytesIO()
        no_dates = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=no_dates)
        pixels = io.BytesIO()
        figure.savefig(pixels, format="png", dpi=160)
    replace_file(folder / f"{name}.svg", lambda temporary: temporary.write_bytes(buffer.getvalue()))
    replace_file(folder / f"{name}.png", lambda temporary: temporary.write_bytes(pixels.getvalue()))
    return Drawing(name, title, caption)
