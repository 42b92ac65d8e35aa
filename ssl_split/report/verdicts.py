"""What the numbers say beside their rulers, in words that claim no more than the intervals carry.

One run: "clearly" needs 95 % intervals that do not overlap. Two seeds: each run by itself must pass. Three and more: the t-interval of
the differences, paired by seed, must exclude zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from probes.statistics import MIN_RUNS, summarise
from ssl_split.report.collect import Outcome
from ssl_split.report.decide import front
from ssl_split.report.summaries import by_seed, interval
from ssl_split.report.table import MONITORS, Group, Study, depth
from ssl_split.report.text import mib, percent, ratio, score

CLEAR, UNCLEAR, NOT = "clearly better than", "not clearly better than", "no better than"
TOYS = ("digits", "photos")
RULERS = {"raw_pixels": "raw pixels", "untrained": "an untrained network"}


def relation(gains: Sequence[float], clear: Sequence[bool]) -> str:
    """How several seeds stand to their rulers.

    Args:
        gains: By seed, its runs minus the ruler, positive when the ruler is beaten.
        clear: Whether each run by itself beats its ruler beyond the intervals.
    """
    made = summarise(gains)
    if made.n >= MIN_RUNS:
        passed = made.low is not None and made.low > 0
    else:
        passed = all(clear)
    return CLEAR if passed else UNCLEAR if made.mean > 0 else NOT


def accuracy_against(group: Group, ruler: str) -> str | None:
    """The headline accuracy against `raw_pixels` or `untrained`; None where either is missing."""
    gains, clear = [], []
    for run, outcome in group.probed:
        own, other = outcome.number("accuracy"), outcome.number(ruler, "accuracy")
        if own is not None and other is not None:
            low, high = outcome.number("low"), outcome.number(ruler, "high")
            gains.append((run, own - other))
            clear.append(low is not None and high is not None and low > high)
    return relation(list(by_seed(gains).values()), clear) if gains else None


def attack_against(group: Group, ruler: str) -> str | None:
    """The strongest attack against `blind` or `untrained`: better means that it sees more, a loss of privacy."""
    gains, clear = [], []
    for run, outcome in group.strongest:
        own, other = outcome.number("mse"), outcome.number(f"{ruler}_mse")
        if own is not None and other is not None:
            gains.append((run, other - own))
            clear.append(_clear(outcome, ruler, other))
    return relation(list(by_seed(gains).values()), clear) if gains else None


def _clear(outcome: Outcome, ruler: str, other: float) -> bool:
    gain = interval(outcome.values, "r2") if ruler == "blind" else None
    if gain is not None:
        return gain[0] > 0
    error = interval(outcome.values, "mse")
    return error is not None and error[1] < other


def sentences(study: Study) -> list[str]:
    """The first screen in words."""
    return [*_best(study), *_rulers(study), *_caveats(study)]


def _best(study: Study) -> list[str]:
    said = []
    accurate = [g for g in study.groups if "accuracy" in g.values]
    if accurate:
        best = max(accurate, key=lambda g: g.values["accuracy"].mean)
        found = [f"{word} {name}" for ruler, name in RULERS.items() if (word := accuracy_against(best, ruler)) in (NOT, UNCLEAR)]
        but = f", which is {' and '.join(found)}" if found else ""
        said.append(f"Most accurate: {best.title}, {percent(best.values['accuracy'].mean)} ({study.accuracy}){but}.")
    attacked = [g for g in study.groups if "r2" in g.values]
    if attacked:
        best = min(attacked, key=lambda g: g.values["r2"].mean)
        said.append(f"Leaks least: {best.title}, R2 {ratio(best.values['r2'].mean)} under its strongest attack ({best.attack}).")
    counted = [g for g in study.groups if "mib_per_client" in g.values]
    if counted:
        best = min(counted, key=lambda g: g.values["mib_per_client"].mean)
        said.append(f"Least traffic: {best.title}, {mib(best.values['mib_per_client'].mean)} MiB per client.")
    best_of_all = front(study.groups)
    if best_of_all:
        said.append("On the Pareto front of accuracy, leakage and MiB per client (no other setting is at least as good in all three and "
                    f"better in one): {_listed(best_of_all)}.")
    return said


def _listed(groups: Sequence[Group]) -> str:
    """Groups by line: monacosfl at cuts 1, 13, 17; mocosfl at cut 1."""
    lines: dict[str, list[int | str]] = {}
    for group in groups:
        lines.setdefault(group.series, []).append(group.cut)
    return "; ".join(f"{series} at {'cut' if len(cuts) == 1 else 'cuts'} {', '.join(map(str, sorted(cuts, key=depth)))}"
                     for series, cuts in lines.items())


def _rulers(study: Study) -> list[str]:
    """How often the rulers are beaten; every setting that does not beat them is named below the table."""
    said = []
    for ruler, name in RULERS.items():
        found = [r for g in study.groups if (r := accuracy_against(g, ruler))]
        if found:
            said.append(f"The accuracy is clearly better than {name} in {found.count(CLEAR)} of {len(found)} settings"
                        f"{_not(found)}.")
    found = [r for g in study.groups if (r := attack_against(g, "blind"))]
    if found:
        said.append(f"The strongest attack is clearly better than the blind guess in {found.count(CLEAR)} of {len(found)} settings"
                    f"{_not(found)}.")
    return said


def _not(found: Sequence[str]) -> str:
    return f" and no better in {found.count(NOT)}" if NOT in found else ""


def _caveats(study: Study) -> list[str]:
    said = []
    if study.accuracy in MONITORS.values():
        said.append(f"No probe was run: the accuracy is {study.accuracy}, as the training measured it, without rulers.")
    elif study.accuracy is None:
        said.append("Nothing was probed, so there is no accuracy (probes need labels).")
    if not any(g.strongest for g in study.groups):
        said.append("Nothing was attacked, so nothing is said about privacy.")
    told = sorted({run.algorithm for run in study.runs if run.number("bytes", "up", "label_up")})
    if told:
        said.append(f"{', '.join(told)}: clients send the label of every training image (label_up), so the server knows the classes "
                    "without any attack.")
    sets = {str(run.config.get("dataset")) for run in study.runs}
    if sets & set(TOYS):
        said.append(f"{' and '.join(sorted(sets & set(TOYS)))}: embedded images only show that everything works; conclusions need "
                    "real data sets.")
    if any(max(v.n for v in g.values.values()) < MIN_RUNS for g in study.groups if g.values):
        said.append("Fewer than three seeds somewhere: nothing there says how much training again would change.")
    return said


def verdict(group: Group) -> list[str]:
    """Where one setting does not clearly beat its rulers: a sentence for the accuracy, one for the strongest attack."""
    found = [(accuracy_against(group, ruler), name, percent(group.mean(ruler))) for ruler, name in RULERS.items()]
    said = _against(f"accuracy {percent(group.mean('accuracy'))}", found)
    rulers = (("blind", "the blind guess"), ("untrained", "the same attack on an untrained client"))
    found = [(attack_against(group, ruler), name, score(group.mean(f"{ruler}_mse"))) for ruler, name in rulers]
    return said + _against(f"the strongest attack ({group.attack}, MSE {score(group.mean('mse'))})", found)


def _against(subject: str, found: Sequence[tuple[str | None, str, str]]) -> list[str]:
    parts = [f"{word} {name} ({value})" for word, name, value in found if word in (NOT, UNCLEAR)]
    return [f"{subject} is {' and '.join(parts)}"] if parts else []
