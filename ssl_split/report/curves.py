"""Learning and divergence curves: one panel per algorithm, one line per cut; against bytes or time the other way round where there are
fewer cuts than algorithms, since then it is algorithms that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.ticker import LogLocator

from ssl_split.report.collect import FINISHED, Run, number
from ssl_split.report.draw import DASHES, MARKERS, Drawing, Look, canvas, finish, heading, legend, logarithmic, looks, shades
from ssl_split.report.table import Study, depth
from ssl_split.traffic import MIB

POINTS = 120
"""Most points of a line: more would not be seen."""

PANELS = 4
"""Most panels side by side."""

SAME = 0.01
"""Relative difference up to which bytes or seconds per round count as the same everywhere."""

FAR = 10
"""How many times further one line has to go than another for a logarithmic axis."""


@dataclass(frozen=True)
class Axis:
    """What a curve is drawn against.

    Attributes:
        key: Of the lines of metrics; empty for the round, which follows from the step.
        name: In the names of files.
        label: Beside the axis.
        title: In the figure's title.
        unit: Of the label, in those of the metrics.
    """

    key: str
    name: str
    label: str
    title: str
    unit: float = 1.0


ROUND = Axis("", "round", "round", "during training")
SENT = Axis("bytes", "mib", "MiB sent, all clients", "against MiB sent", MIB)
TIME = Axis("virtual_seconds", "seconds", "virtual seconds", "against virtual time")

VALIDATIONS = (("validation_accuracy", "Accuracy on validation images", "accuracy (%)", "The run's own classifier. "),
               ("validation_knn", "kNN accuracy on validation images", "kNN accuracy (%)", ""))
"""What is also drawn against bytes and time: key, title, label of the axis, how it came about."""


_MEANING = {"round": "", "mib": "Every encoded byte of all clients, up and down, until then (mean over seeds). ",
            "seconds": "Time on the devices and links of the configuration until then (mean over seeds). "}


@dataclass(frozen=True)
class Curve:
    """One metric over training, ready to be drawn.

    Attributes:
        metric: Its name in the lines of metrics.
        title, label, caption: Of the figure, of its vertical axis, below it.
        scale: Factor of the values.
        log: Whether the vertical axis is logarithmic.
        axis: What it is drawn against.
    """

    metric: str
    title: str
    label: str
    caption: str
    scale: float = 1.0
    log: bool = False
    axis: Axis = ROUND

    @property
    def name(self) -> str:
        """Of its files and its place in the page."""
        return f"curve-{self.metric.replace('_', '-')}" + ("" if self.axis is ROUND else f"-{self.axis.name}")


_LOG_CLIENTS = "Before each synchronisation, mean over clients, log scale."

CURVES = (
    Curve("loss", "Training loss", "loss",
          "Mean over seeds, band from lowest to highest seed. Contrastive losses at different queue sizes or symmetric variants do not "
          "compare, nor with cross-entropy."),
    Curve("train_accuracy", "Accuracy on training batches", "accuracy (%)",
          "Of supervised runs, images as trained on (random views), mean since the line before.", 100),
    *(Curve(metric, f"{title} {axis.title}", label,
            f"{origin}{_MEANING[axis.name]}Monitoring only: the accuracy of the table comes from the test images, once.", 100, axis=axis)
      for metric, title, label, origin in VALIDATIONS for axis in (ROUND, SENT, TIME)),
    *(Curve(f"gradient_divergence_{half}", f"Gradient divergence of the {half} half", "gradient divergence",
            "Mean over clients of the distance between a client's gradient and that of all, at the averaged model.")
      for half in ("client", "server")),
    Curve("gradient_dissimilarity", "Gradient dissimilarity of GAS's buffer", "mean squared distance per weight tensor",
          "Gradient of the server on the last full buffer, generated activations included, against that of training images.", log=True),
    Curve("perturbation_cosine", "Cosine of the perturbation with the gradient of all clients", "cosine",
          "Mean over a round's local steps and clients, against the gradient at the model of the round; 1 is uphill."),
    Curve("online_to_momentum", "Divergence: distance of each online client to its own momentum client",
          "mean squared difference per parameter", f"{_LOG_CLIENTS} MonAcoSFL is meant to keep it flat where MocoSFL lets it grow with the "
          "cut.", log=True),
    Curve("online_to_mean", "Divergence: distance of the online clients to their mean", "mean squared difference per parameter",
          _LOG_CLIENTS, log=True),
)


def draw(study: Study, folder: Path) -> list[Drawing]:
    """All curves for which there are numbers."""
    made = [*(_curves(study, folder, curve) for curve in known(study)), _final(study, folder)]
    return [d for d in made if d is not None]


def known(study: Study) -> list[Curve]:
    """Curves for which there are numbers; an axis that is the round in another unit says nothing new and is left out."""
    return [c for c in CURVES if any(line(run, c.metric, c.axis) for run in study.runs)
            and (c.axis is ROUND or not rescaled(study, c.metric, c.axis))]


def line(run: Run, name: str, axis: Axis = ROUND) -> list[tuple[float, float]]:
    """A metric over training: round (fractions where a round has several syncs), or another axis, and value. Empty where the axis stays at
    0, as bytes do without clients."""
    return run.kept(("line", name, axis.name), lambda: _line(run, name, axis))


def _line(run: Run, name: str, axis: Axis) -> list[tuple[float, float]]:
    found = [(m, value) for m in run.metrics if name in m and (value := _metric(m, name)) is not None]
    if not found:
        return []
    if axis.key:
        points = [(at / axis.unit, value) for m, value in found if (at := number(m, axis.key)) is not None]
        return points if any(at > 0 for at, _ in points) else []
    total, rounds = run.kept(("length",), lambda: _length(run))
    return [(step / total * rounds if total else 0.0, value) for m, value in found if (step := number(m, "step")) is not None]


def _length(run: Run) -> tuple[float, float]:
    """Last step, and rounds until then. While the result does not say how many, they follow from the steps of a round: what a line says is
    the number of the round that it is in, from 0 on."""
    steps = [(step, number(m, "round") or 0.0) for m in run.metrics if (step := number(m, "step"))]
    total = max((step for step, _ in steps), default=0.0)
    of_a_round = max((step / (inside + 1) for step, inside in steps), default=1.0)
    return total, run.number("rounds") or total / of_a_round


def _metric(values: Mapping[str, Any], name: str) -> float | None:
    """A number, or the accuracy inside a rate."""
    return number(values, name, "accuracy") if isinstance(values.get(name), dict) else number(values, name)


def mean_line(runs: Sequence[Run], name: str, axis: Axis = ROUND, *,
              most: int = POINTS) -> tuple[list[float], list[float], list[float], list[float]]:
    """Place, mean, lowest and highest over seeds where all of them have a value, thinned to `most` points by averaging neighbours. The
    n-th values of all runs belong together; their place is the mean of theirs. Runs that repeat a seed are averaged inside it. A training
    that stopped early counts only where none has finished: it would cut the others short."""
    known = [(run, found) for run in runs if (found := line(run, name, axis))]
    known = [(run, found) for run, found in known if run.state == FINISHED] or known
    if not known:
        return [], [], [], []
    seeds: dict[Any, list[list[tuple[float, float]]]] = {}
    for run, found in known:
        seeds.setdefault(run.seed, []).append(found)
    length = min(len(found) for _, found in known)
    size = -(-length // most)
    x, mean, low, high = [], [], [], []
    for start in range(0, length, size):
        parts = [[point for repeat in seed for point in repeat[start : min(start + size, length)]] for seed in seeds.values()]
        values = [fmean([v for _, v in part]) for part in parts]
        x.append(fmean([fmean([at for at, _ in part]) for part in parts]))
        mean.append(fmean(values))
        low.append(min(values))
        high.append(max(values))
    return x, mean, low, high


def rescaled(study: Study, name: str, axis: Axis) -> bool:
    """Whether the axis is the round in another unit: as many bytes or seconds to a round in every run and at every time."""
    rates = [at / (ended + 1) for run in study.runs if line(run, name, axis) for m in run.metrics if _metric(m, name) is not None
             and (at := number(m, axis.key)) is not None and (ended := number(m, "round")) is not None]
    return not rates or max(rates) <= (1 + SAME) * min(rates)


def _curves(study: Study, folder: Path, curve: Curve) -> Drawing:
    name, axis, scale = curve.metric, curve.axis, curve.scale
    drawn = [g for g in study.groups if any(line(run, name, axis) for run in g.runs)]
    series, cuts = [s for s in study.series if any(g.series == s for g in drawn)], study.cuts
    across = axis is not ROUND and len(cuts) < len(series)  # panels are cuts, lines are algorithms
    panels_of: list[Any] = [c for c in cuts if any(g.cut == c for g in drawn)] if across else series
    styles: Mapping[Any, Look] = looks(study.series) if across else _looks(cuts)
    shown = panels_of[:PANELS]
    figure, panels = canvas(max(4.4, 3.3 * len(shown)), 3.5, len(shown), share_x=axis is not ROUND, share_y=True)
    ends = []
    for panel, one in zip(panels, shown, strict=True):
        for group in (g for g in drawn if (g.cut if across else g.series) == one):
            x, mean, low, high = mean_line(group.runs, name, axis)
            look = styles[group.series if across else group.cut]
            ends.append(x[-1])
            panel.plot(x, [scale * v for v in mean], color=look.color, linestyle=look.dash, marker=look.marker, markersize=4,
                       markevery=max(len(x) // 6, 1), linewidth=1.3, label=group.series if across else f"cut {group.cut}")
            if group.seeds > 1:
                panel.fill_between(x, [scale * v for v in low], [scale * v for v in high], color=look.color, alpha=0.15, linewidth=0)
        heading(panel, f"cut {one}" if across else one)
        panel.set_xlabel(axis.label)
        if curve.log:
            logarithmic(panel, "y")
    if axis is not ROUND and max(ends) > FAR * min(ends):
        logarithmic(panels[0], "x")
        panels[0].xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panels[0].xaxis.set_major_formatter("{x:g}")
        panels[0].xaxis.set_minor_formatter("")
    panels[0].set_ylabel(curve.label)
    if across:
        legend(figure, panels)
    else:
        _legend(figure, panels)
    left = len(panels_of) - len(shown)
    more = f" {left} further {'cuts' if across else 'settings'} are not drawn." if left else ""
    return finish(figure, folder, name=curve.name, title=curve.title, caption=curve.caption + more)


def _looks(cuts: Sequence[int | str]) -> dict[Any, Look]:
    """A look for every cut."""
    return {cut: Look(color, MARKERS[i % 9], DASHES[i % 4]) for i, (cut, color) in enumerate(zip(cuts, shades(len(cuts)), strict=True))}


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
    logarithmic(panel, "y")
    panel.set_xticks(range(len(study.cuts)), [str(c) for c in study.cuts])
    panel.set_xlim(-0.5, len(study.cuts) - 0.5)
    panel.set_xlabel("cut (deeper: more layers on the client)")
    panel.set_ylabel("online to momentum, last sync")
    legend(figure, [panel])
    return finish(figure, folder, name="divergence", title="Online-momentum distance at the end against the cut", caption=(
        "Mean squared difference per parameter between each online client and its own momentum client, before the last synchronisation."))
