"""Figures against the cut, and the privacy-utility plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.ticker import EngFormatter

from ssl_split.report.draw import INK, MUTED, Drawing, Look, canvas, finish, heading, legend, looks
from ssl_split.report.table import MONITORS, Group, Study, pareto, ruler

NONE = "none"
"""Of the field `defence`."""

FAR_LEFT = -0.3
"""R2 from which on points of the plane of defences are drawn at its edge."""

LOADS = (("client_parameters", "parameters on the client"), ("client_macs_per_image", "multiply-adds per image"))
REACHED = (("reached_virtual_seconds", "virtual seconds"), ("reached_mib", "MiB, all clients"), ("reached_rounds", "rounds"))

ERROR_BARS = "Bars: 95 % interval over images for one seed, standard deviation for two, t-interval from three seeds on."


def draw(study: Study, folder: Path) -> list[Drawing]:
    """All figures for which there are numbers."""
    makers = (accuracy, leakage, traffic, client, reconstruction, plane, defences, reached)
    return [made for make in makers if (made := make(study, folder)) is not None]


def has(study: Study, *names: str) -> bool:
    """Whether any group has all of these numbers."""
    return any(all(name in g.values for name in names) for g in study.groups)


def _positions(study: Study) -> dict[int | str, int]:
    return {cut: i for i, cut in enumerate(study.cuts)}


def _axis(panel: Any, study: Study, label: str) -> None:
    panel.set_xticks(range(len(study.cuts)), [str(c) for c in study.cuts])
    panel.set_xlim(-0.5, len(study.cuts) - 0.5)
    panel.set_xlabel("cut (deeper: more layers on the client)")
    panel.set_ylabel(label)
    panel.grid(axis="x", visible=False)


def _line(panel: Any, study: Study, series: str, name: str, look: Look, *, scale: float = 1.0, label: str | None = None,
          dash: Any = None, shift: float = 0.0) -> None:
    """One algorithm's number against the cut, with error bars."""
    places = _positions(study)
    rows = [(places[g.cut] + shift, g.values[name]) for g in study.groups if g.series == series and name in g.values]
    if not rows:
        return
    rows.sort(key=lambda row: row[0])
    x, means = [r[0] for r in rows], [scale * r[1].mean for r in rows]
    below, above = [], []
    for _, value in rows:
        low, high = value.ends
        below.append(scale * max(value.mean - low, 0.0))
        above.append(scale * max(high - value.mean, 0.0))
    bars = [below, above] if any(below) or any(above) else None
    panel.errorbar(x, means, yerr=bars, color=look.color, marker=look.marker, linestyle=dash or look.dash, capsize=2.5, elinewidth=1,
                   label=label or series)


def _ruler(panel: Any, study: Study, name: str, *, label: str, dash: Any, scale: float = 1.0) -> None:
    """A ruler as a grey line over the cuts where it was measured."""
    places, known = _positions(study), ruler(study.groups, name)
    if not known:
        return
    x = [float(places[cut]) for cut in known]
    y = [scale * v for v in known.values()]
    if len(x) == 1:  # a line of one point is not seen
        x, y = [x[0] - 0.4, x[0] + 0.4], [y[0], y[0]]
    panel.plot(x, y, color=MUTED, linestyle=dash, linewidth=1.4, label=label, zorder=1)


def _shifts(study: Study) -> dict[str, float]:
    """Small horizontal shifts, so that error bars of different lines do not hide each other."""
    count = len(study.series)
    return {series: (i - (count - 1) / 2) * min(0.09, 0.5 / max(count, 1)) for i, series in enumerate(study.series)}


def accuracy(study: Study, folder: Path) -> Drawing | None:
    """Accuracy against the cut."""
    if not has(study, "accuracy"):
        return None
    figure, (panel,) = canvas(6.2, 3.6)
    shifts = _shifts(study)
    for series, style in looks(study.series).items():
        _line(panel, study, series, "accuracy", style, scale=100, shift=shifts[series])
    _ruler(panel, study, "raw_pixels", label="ruler: raw pixels", dash=":", scale=100)
    _ruler(panel, study, "untrained", label="ruler: untrained network", dash="--", scale=100)
    _axis(panel, study, f"accuracy (%), {study.accuracy}")
    legend(figure, [panel])
    judged = study.accuracy not in MONITORS.values()
    rulers = " A network that does not beat both grey rulers has learned nothing of use." if judged else ""
    return finish(figure, folder, name="accuracy", title="Accuracy against the cut", caption=ERROR_BARS + rulers)


def traffic(study: Study, folder: Path) -> Drawing | None:
    """MiB per client against the cut, as counted and by the published formula."""
    if not has(study, "mib_per_client"):
        return None
    figure, (panel,) = canvas(6.2, 3.6)
    for series, style in looks(study.series).items():
        _line(panel, study, series, "mib_per_client", style, dash="-", label=f"{series}: counted")
        _line(panel, study, series, "mib_per_client_published_formula", style, dash=":", label=f"{series}: published formula")
    _axis(panel, study, "MiB per client, up and down")
    panel.set_ylim(bottom=0)
    legend(figure, [panel])
    return finish(figure, folder, name="traffic", title="Traffic against the cut", caption=(
        "Solid: every encoded byte that crossed the wire. Dotted: the published MocoSFL formula, which leaves out momentum activations, "
        "momentum weights and one direction of the weights. Where the two have their minimum at different cuts, trust the solid line."))


def leakage(study: Study, folder: Path) -> Drawing | None:
    """R2 of the strongest attack against the cut."""
    if not has(study, "r2"):
        return None
    figure, (panel,) = canvas(6.2, 3.6)
    shifts = _shifts(study)
    for series, style in looks(study.series).items():
        _line(panel, study, series, "r2", style, shift=shifts[series])
    panel.axhline(0, color=MUTED, linestyle=":", linewidth=1.4, label="ruler: blind guess (R2 = 0)", zorder=1)
    _ruler(panel, study, "untrained_r2", label="ruler: untrained client", dash="--")
    _axis(panel, study, "R2 of the strongest attack")
    legend(figure, [panel])
    return finish(figure, folder, name="leakage", title="Leakage against the cut", caption=(
        "R2 of the attack with the lowest error on the attacker's own validation images. 0: no better than the mean image; 1: perfect; "
        "lower: less is seen. " + ERROR_BARS))


def client(study: Study, folder: Path) -> Drawing | None:
    """What the client holds and computes, against the cut."""
    shown = [(key, label) for key, label in LOADS if has(study, key)]
    if not shown:
        return None
    figure, panels = canvas(4.7 * len(shown), 3.4, len(shown))
    for panel, (key, label) in zip(panels, shown, strict=True):
        for series, style in looks(study.series).items():
            _line(panel, study, series, key, style)
        _axis(panel, study, label)
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(EngFormatter())
    legend(figure, panels, columns=4)
    return finish(figure, folder, name="client", title="Load of the client against the cut", caption=(
        "Parameters of the client half, and its multiply-adds in one forward pass over one image (two FLOPs each). Algorithms whose client "
        "halves are equal have equal lines."))


def reached(study: Study, folder: Path) -> Drawing | None:
    """What it took to the target accuracy: one panel a unit, one row a setting."""
    shown = [(key, label) for key, label in REACHED if has(study, key)]
    if not shown:
        return None
    groups = [g for g in study.groups if any(key in g.values for key, _ in shown)]
    words = 0.07 * max(len(g.title) for g in groups)
    figure, panels = canvas(1.0 + words + 2.7 * len(shown), 1.1 + 0.24 * len(groups), len(shown), share_y=True)
    styles = looks(study.series)
    for panel, (key, label) in zip(panels, shown, strict=True):
        for place, g in enumerate(groups):
            if key in g.values:
                look, value = styles[g.series], g.values[key]
                panel.hlines(place, 0, value.mean, color=look.color, linewidth=1)
                panel.plot([value.mean], [place], linestyle="none", marker=look.marker, color=look.color)
        panel.set_xlim(left=0)
        panel.set_xlabel(label)
        panel.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(groups)), [g.title for g in groups])
    panels[0].invert_yaxis()
    return finish(figure, folder, name="reached", title="To the target accuracy", caption=(
        "What it took until validation first came to the target accuracy that was set, mean over the seeds that did; settings that never "
        "did are not drawn."))


def reconstruction(study: Study, folder: Path) -> Drawing | None:
    """Error and similarity of the strongest attack's reconstructions against the cut."""
    if not has(study, "mse"):
        return None
    figure, (left, right) = canvas(9.4, 3.6, 2)
    shifts = _shifts(study)
    for series, style in looks(study.series).items():
        _line(left, study, series, "mse", style, shift=shifts[series])
        _line(right, study, series, "ssim", style, shift=shifts[series])
    for panel, score in ((left, "mse"), (right, "ssim")):
        _ruler(panel, study, f"blind_{score}", label="ruler: blind guess", dash=":")
        _ruler(panel, study, f"untrained_{score}", label="ruler: untrained client", dash="--")
    _axis(left, study, "MSE (higher: less is seen)")
    left.set_ylim(bottom=0)
    _axis(right, study, "SSIM (lower: less is seen)")
    legend(figure, [left], columns=4)
    return finish(figure, folder, name="reconstruction", title="Reconstruction by the strongest attack against the cut", caption=(
        "Images in [0, 1]; the attack with the lowest error on the attacker's own validation images is shown. At or above the blind guess "
        "(the mean of the attacker's images) the attack has learned nothing from the wire. " + ERROR_BARS))


def plane(study: Study, folder: Path) -> Drawing | None:
    """Accuracy against leakage, one point per setting, Pareto front drawn."""
    if not has(study, "accuracy", "r2"):
        return None
    figure, (panel,) = canvas(6.2, 4.0)
    for series, style in looks(study.series).items():
        points = [g for g in study.groups if g.series == series and "accuracy" in g.values and "r2" in g.values]
        panel.plot([g.values["r2"].mean for g in points], [100 * g.values["accuracy"].mean for g in points], linestyle="none",
                   marker=style.marker, color=style.color, label=series, zorder=3)
        _name_points(panel, points)
    front = pareto(study.groups)
    panel.step([g.values["r2"].mean for g in front], [100 * g.values["accuracy"].mean for g in front], where="post", color=INK,
               linewidth=1, linestyle=(0, (4, 2)), label="Pareto front", zorder=2)
    panel.axvline(0, color=MUTED, linestyle=":", linewidth=1.2, label="blind guess (R2 = 0)")
    for name, text in (("raw_pixels", "raw pixels"), ("untrained", "untrained network")):
        known = ruler(study.groups, name)
        if known:
            panel.axhline(100 * fmean(known.values()), color=MUTED, linewidth=1.2, linestyle="--" if name == "untrained" else ":",
                          label=f"accuracy of {text}")
    panel.set_xlabel("leakage: R2 of the strongest attack (0: knows nothing, 1: perfect)")
    panel.set_ylabel(f"accuracy (%), {study.accuracy}")
    legend(figure, [panel])
    return finish(figure, folder, name="plane", title="Privacy-utility plane", caption=(
        "Each point is a setting, its number the cut; better is up and to the left. No point on the front is beaten in accuracy by "
        "one that leaks less."))


def defences(study: Study, folder: Path) -> Drawing | None:
    """Accuracy against leakage with one panel a cut: attackers who know the defence, and the same without that knowledge."""
    shown = [g for g in study.groups if "accuracy" in g.values and "r2" in g.values]
    if not any(g.runs[0].config.get("defence", NONE) != NONE for g in shown):
        return None
    cuts = [c for c in study.cuts if any(g.cut == c for g in shown)]
    figure, panels = canvas(1.2 + 3.6 * len(cuts), 4.0, len(cuts), share_y=True)
    one = len({g.algorithm for g in shown}) == 1
    for panel, cut in zip(panels, cuts, strict=True):
        for series, style in looks(study.series).items():
            for g in (g for g in shown if g.series == series and g.cut == cut):
                _defended(panel, g, style, label=g.setting if one and g.setting else series)
        panel.axvline(0, color=MUTED, linestyle=":", linewidth=1.2, label="blind guess (R2 = 0)")
        panel.set_xlim(FAR_LEFT - 0.03, 1.03)
        panel.set_xlabel("leakage: R2 of the strongest attack")
        heading(panel, f"cut {cut}")
    panels[0].set_ylabel(f"accuracy (%), {study.accuracy}")
    legend(figure, panels, columns=2 + 2 * len(cuts) if len(cuts) < 3 else 8)
    return finish(figure, folder, name="defences", title="Defences in the privacy-utility plane", caption=(
        "Full markers: the attacker knows the defence and learns through it. Hollow: the same attack by one who does not know it, which is "
        f"no measure of privacy. Better is up and to the left. Points at the left edge lie at R2 = {FAR_LEFT:g} or below."))


def _defended(panel: Any, group: Group, style: Look, *, label: str) -> None:
    """One defence: where it stands against who knows it, and against who does not."""
    y, known = 100 * group.values["accuracy"].mean, max(group.values["r2"].mean, FAR_LEFT)
    panel.plot([known], [y], linestyle="none", marker=style.marker, color=style.color, label=label, zorder=3)
    if "unaware_r2" in group.values:
        unaware = max(group.values["unaware_r2"].mean, FAR_LEFT)
        panel.plot([unaware], [y], linestyle="none", marker=style.marker, markerfacecolor="none", color=style.color, zorder=3)
        panel.plot([unaware, known], [y, y], color=style.color, linewidth=0.8, zorder=2)


def _name_points(panel: Any, points: Sequence[Group]) -> None:
    for group in points:
        panel.annotate(str(group.cut), (group.values["r2"].mean, 100 * group.values["accuracy"].mean), xytext=(5, 4),
                       textcoords="offset points", fontsize=7.5, color=INK)
