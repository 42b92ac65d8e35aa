"""The ROC as a picture, both axes logarithmic: the left end is where an attacker is sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attacks.members.metrics import Curve
from ssl_split.files import replace_file

INK, MUTED = "#1f2021", "#6e7072"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito (2008): told apart with every common colour blindness."""
DASHES = ("-", "--", ":", "-.")


def draw(curves: dict[str, Curve], *, title: str, smallest: float) -> Figure:
    """Curves by name.

    Args:
        curves: Name -> ROC.
        title: Above the picture.
        smallest: Left and lower end of the axes, one image of the smaller side.
    """
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for i, (name, found) in enumerate(curves.items()):
        color, dash = PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]
        panel.plot(np.maximum(found.fpr, smallest), np.maximum(found.tpr, smallest), drawstyle="steps-post", color=color, linestyle=dash,
                   linewidth=1.6, label=name)
    line = np.geomspace(smallest, 1)
    panel.plot(line, line, color=MUTED, linestyle=":", linewidth=1, label="guessing")
    panel.set(xscale="log", yscale="log", xlim=(smallest, 1), ylim=(smallest, 1), xlabel="false positive rate (non-members called members)",
              ylabel="true positive rate (members found)")
    panel.set_title(title, fontsize=10, color=INK)
    panel.grid(visible=True, color="#d4d5d6", linewidth=0.6)
    panel.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; the file is either absent, old or whole."""
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
