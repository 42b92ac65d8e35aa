"""What attacks found that is no picture: who was among the training images, and of which class an image is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssl_split.report.collect import Outcome, Run, number
from ssl_split.report.table import Group, Study


@dataclass(frozen=True)
class Finding:
    """One membership or label attack on one run.

    Attributes:
        measure: `AUC` or `accuracy`.
        value, low, high: On the targets, with the 95 % interval over them.
        chance: Of a guess that looks at nothing.
        rulers: The same attack on the untrained client and, where it was made, on raw pixels.
        way: How the number came about.
    """

    group: Group
    run: Run
    outcome: Outcome
    measure: str
    value: float
    low: float | None
    high: float | None
    chance: float | None
    rulers: Mapping[str, float | None]
    way: str

    @property
    def needs(self) -> str:
        """What the attacker must have."""
        return ", ".join(map(str, self.outcome.values.get("needs") or []))


def memberships(study: Study) -> list[Finding]:
    """Membership attacks in the order of the table: AUC, chance 0.5."""
    return [found for group, run, o in _attacks(study) if (found := _membership(group, run, o))]


def labels(study: Study) -> list[Finding]:
    """Label attacks: the best of an attack's own ways, which were compared on the targets (an upper envelope)."""
    return [found for group, run, o in _attacks(study) if (found := _label(group, run, o))]


def _attacks(study: Study) -> list[tuple[Group, Run, Outcome]]:
    return [(group, run, o) for group in study.groups for run in group.runs for o in run.of("attack")]


def _membership(group: Group, run: Run, outcome: Outcome) -> Finding | None:
    value = outcome.number("auc")
    if value is None or not outcome.name.startswith("membership-"):
        return None
    at = outcome.number("tpr", "0.01", "value")
    way = (f"{outcome.values.get('members', '?')} members, {outcome.values.get('nonmembers', '?')} others"
           + ("" if at is None else f"; {at:.3f} of the members at 1 % false alarms"))
    return Finding(group, run, outcome, "AUC", value, outcome.number("low"), outcome.number("high"), 0.5,
                   {"untrained": outcome.number("untrained_auc")}, way)


def _label(group: Group, run: Run, outcome: Outcome) -> Finding | None:
    rows = _rows(outcome, "rows")
    if not rows or not outcome.name.startswith("label-"):
        return None
    if (mean := number(rows[-1], "auc")) is not None:  # the last row is the mean over classes
        return Finding(group, run, outcome, "AUC", mean, number(rows[-1], "low"), number(rows[-1], "high"), 0.5,
                       {"untrained": _last(outcome, "untrained", "auc")}, "one class against the rest, mean over classes")
    best = max(rows, key=lambda row: number(row, "accuracy") or 0.0)
    value = number(best, "accuracy")
    if value is None:
        return None
    shots = best.get("shots")
    way = [str(best[key]) for key in ("features", "classifier") if key in best] + [f"{shots} a class" if shots else "all images"]
    return Finding(group, run, outcome, "accuracy", value, number(best, "low"), number(best, "high"), outcome.number("chance"),
                   {name: _best(outcome, name) for name in ("untrained", "pixels")}, ", ".join(way))


def _rows(outcome: Outcome, key: str) -> list[Mapping[str, Any]]:
    found = outcome.values.get(key)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def _best(outcome: Outcome, key: str) -> float | None:
    return max((v for row in _rows(outcome, key) if (v := number(row, "accuracy")) is not None), default=None)


def _last(outcome: Outcome, key: str, name: str) -> float | None:
    rows = _rows(outcome, key)
    return number(rows[-1], name) if rows else None
