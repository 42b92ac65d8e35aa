"""Learning and divergence curves, one panel per algorithm, one line per cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ssl_split.report.collect import Run, number
from ssl_split.report.draw import DASHES, MARKERS, Drawing, canvas, finish, heading, legend, looks, shades
from ssl_split.report.table import Study, depth

POINTS = 120
"""Most points of a line: more would not be seen."""

PANELS = 4
"""Most panels side by side."""


def draw(study: Study, folder: Path) -> list[Drawing]:
    """All curves for which there are numbers."""
    made = [
        _curves(study, folder, "loss", title="Training loss", label="loss", caption=(
            "Mean over seeds, band from lowest to highest seed. Contrastive losses at different queue sizes or symmetric variants do not "
            "compare, nor with cross-entropy.")),
        _curves(study, folder, "train_accuracy", title="Accuracy on training batches", label="accuracy (%)", scale=100, caption=(
            "Of supervised runs, images as trained on (random views), mean since the line before.")),
        _curves(study, folder, "validation_accuracy", title="Accuracy on validation images during training", label="accuracy (%)",
                scale=100, caption=(
                    "The run's own classifier. Monitoring only: the accuracy of the table comes from the test images, once.")),
        _curves(study, folder, "validation_knn", title="kNN accuracy on validation images during training",
                label="kNN accuracy (%)", scale=100,
                caption="Monitoring only: the accuracy of the table comes from the test images, once."),
        *(_curves(study, folder, f"gradient_divergence_{half}", title=f"Gradient divergence of the {half} half",
                  label="gradient divergence", caption=(
                      "Mean over clients of the distance between a client's gradient and that of all, at the averaged model."))
          for half in ("client", "server")),
        _curves(study, folder, "online_to_momentum", title="Divergence: distance of each online client to its own momentum client",
                label="mean squared difference per parameter", log=True, caption=(
                    "Before each synchronisation, mean over clients, log scale. MonAcoSFL is meant to keep it flat where MocoSFL lets it "
                    "grow with the cut.")),
        _curves(study, folder, "online_to_mean", title="Divergence: distance of the online clients to their mean",
                label="mean squared difference per parameter", log=True,
                caption="Before each synchronisation, mean over clients, log scale."),
        _final(study, folder),
    ]
    return [d for d in made if d is not None]


def line(run: Run, name: str) -> list[tuple[float, float]]:
    """A metric over training: round (fractions where a round has several syncs) and value."""
    steps = [(m, value) for m in run.metrics if (value := _metric(m, name)) is not None and number(m, "step") is not None]
    total = max((number(m, "step") or 0.0 for m in run.metrics), default=0.0)
    rounds = run.number("rounds") or max((number(m, "round") or 0.0 for m in run.metrics), default=0.0) or 1.0
    return [((number(m, "step") or 0.0) / total * rounds if total else 0.0, value) for m, value in steps]


def _metric(values: Mapping[str, Any], name: str) -> float | None:
    """A number, or the accuracy inside a rate."""
    return number(values, name) if not isinstance(values.get(name), Mapping) else number(values, name, "accuracy")


def mean_line(runs: Sequence[Run], name: str) -> tuple[list[float], list[float], list[float], list[float]]:
    """Mean, lowest and highest over seeds where all of them have a value, thinned to `POINTS` by averaging neighbours."""
    lines = [found for run in runs if (found := line(run, name))]
    if not lines:
        return [], [], [], []
    length = min(map(len, lines))
    size = -(-length // POINTS)
    x, mean, low, high = [], [], [], []
    for start in range(0, length, size):
        parts = [seed[start : min(start + size, length)] for seed in lines]
        values = [fmean(v for _, v in part) for part in parts]
        x.append(fmean(at for at, _ in parts[0]))
        mean.append(fmean(values))
        low.append(min(values))
        high.append(max(values))
    return x, mean, low, high


def _curves(study: Study, folder: Path, name: str, *, title: str, label: str, caption: str, scale: float = 1.0,
            log: bool = False) -> Drawing | None:
    series = [s for s in study.series if any(line(run, name) for g in study.groups if g.series == s for run in g.runs)]
    if not series:
        return None
    cuts = sorted({g.cut for g in study.groups}, key=depth)
    colors = dict(zip(cuts, shades(len(cuts)), strict=True))
    shown = series[:PANELS]
    figure, panels = canvas(max(4.4, 3.3 * len(shown)), 3.5, len(shown), share_y=True)
    for panel, one in zip(panels, shown, strict=True):
        for group in (g for g in study.groups if g.series == one):
            x, mean, low, high = mean_line(group.runs, name)
            if not x:
                continue
            index, color = cuts.index(group.cut), colors[group.cut]
            panel.plot(x, [scale * v for v in mean], color=color, linestyle=DASHES[index % 4], marker=MARKERS[index % 9], markersize=4,
                       markevery=max(len(x) // 6, 1), linewidth=1.3, label=f"cut {group.cut}")
            if len(group.runs) > 1:
                panel.fill_between(x, [scale * v for v in low], [scale * v for v in high], color=color, alpha=0.15, linewidth=0)
        heading(panel, one)
        panel.set_xlabel("round")
        if log:
            panel.set_yscale("log")
    panels[0].set_ylabel(label)
    _legend(figure, panels)
    more = f" {len(series) - PANELS} further settings are not drawn." if len(series) > PANELS else ""
    return finish(figure, folder, name=f"curve-{name.replace('_', '-')}", title=title, caption=caption + more)


def _legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend for all panels, every cut once."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    names = sorted(entries, key=lambda text: depth(int(text[4:]) if text[4:].isdigit() else text[4:]))
    figure.legend([entries[n] for n in names], names, loc="outside right center", handlelength=3)


def _final(study: Study, folder: Path) -> Drawing | None:
    """Online-momentum distance at the last synchronisation against the cut, algorithms side by side."""
    if not any("online_to_momentum" in g.values for g in study.groups):
        return None
    figure, (panel,) = canvas(6.2, 3.5)
    places = {cut: i for i, cut in enumerate(study.cuts)}
    for series, style in looks(study.series).items():
        rows = sorted((places[g.cut], g.values["online_to_momentum"].mean) for g in study.groups
                      if g.series == series and "online_to_momentum" in g.values)
        panel.plot([x for x, _ in rows], [y for _, y in rows], color=style.color, marker=style.marker, linestyle=style.dash, label=series)
    panel.set_yscale("log")
    panel.set_xticks(range(len(study.cuts)), [str(c) for c in study.cuts])
    panel.set_xlim(-0.5, len(study.cuts) - 0.5)
    panel.set_xlabel("cut (deeper: more layers on the client)")
    panel.set_ylabel("online to momentum, last sync")
    legend(figure, [panel])
    return finish(figure, folder, name="divergence", title="Online-momentum distance at the end against the cut", caption=(
        "Mean squared difference per parameter between each online client and its own momentum client, before the last synchronisation."))
