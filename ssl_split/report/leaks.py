"""What attacks found that is no picture: who was among the training images, and of which class an image is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssl_split.report.collect import Outcome, Run, number
from ssl_split.report.summaries import Value, summary
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


@dataclass(frozen=True)
class Cell:
    """What one attack sees in one setting.

    Attributes:
        value: R2, AUC or accuracy over seeds.
        share: How far that is from what a guess gets (0) to everything (1); below 0 for less than a guess.
    """

    value: Value
    share: float


@dataclass(frozen=True)
class Column:
    """One attack in the matrix.

    Attributes:
        label: Of the attack.
        measure: `R2`, `AUC` or `accuracy`; empty where it has no number.
        cells: By anchor of the group; absent where there is no number.
        made: Anchors of the groups where it was made, with or without a number.
    """

    label: str
    measure: str
    cells: Mapping[str, Cell]
    made: frozenset[str]

    @property
    def head(self) -> str:
        """Attack and measure."""
        return f"{self.label}: {self.measure}" if self.measure else self.label


def matrix(study: Study) -> list[Column]:
    """Every attack on every setting."""
    found = {(f.run.anchor, f.outcome.label): f for f in (*memberships(study), *labels(study))}
    return [_column(study, label, found) for label in study.attacks]


def _column(study: Study, label: str, found: Mapping[tuple[str, str], Finding]) -> Column:
    cells, measure, tried = {}, "", set[str]()
    for group in study.groups:
        seen, chance = [], 0.0
        made = [(run, o) for run in group.runs for o in run.of("attack") if o.label == label]
        for run, outcome in made:
            other = found.get((run.anchor, label))
            if (r2 := outcome.number("r2")) is not None:
                seen.append((run, r2, None))
                measure = "R2"
            elif other is not None:
                seen.append((run, other.value, None))
                measure, chance = other.measure, other.chance or 0.0
        tried |= {group.anchor} if made else set()
        if (value := summary(seen)) is not None:
            cells[group.anchor] = Cell(value, (value.mean - chance) / (1 - chance) if chance < 1 else 0.0)
    return Column(label, measure, cells, frozenset(tried))


def memberships(study: Study) -> list[Finding]:
    """Membership attacks in the order of the table: AUC, chance 0.5."""
    return [found for group, run, o in _attacks(study) if (found := _membership(group, run, o))]


def labels(study: Study) -> list[Finding]:
    """Label attacks: of an attack's own ways the one that it chose on the attacker's images, else the best on the targets, said to be an
    upper envelope."""
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
    place = outcome.number("headline")
    best = max(rows, key=lambda row: number(row, "accuracy") or 0.0) if place is None or place >= len(rows) else rows[int(place)]
    value = number(best, "accuracy")
    if value is None:
        return None
    shots = best.get("shots")
    way = [str(best[key]) for key in ("features", "classifier") if key in best] + [f"{shots} a class" if shots else "all images"]
    if len(rows) > 1 and (place is None or "upper envelope" in str(outcome.values.get("headline_from"))):
        way.append("best of its ways on the targets: an upper envelope")
    rulers = {name: _best(outcome, name) if place is None else outcome.number(f"{name}_accuracy") for name in ("untrained", "pixels")}
    return Finding(group, run, outcome, "accuracy", value, number(best, "low"), number(best, "high"), outcome.number("chance"), rulers,
                   ", ".join(way))


def _rows(outcome: Outcome, key: str) -> list[Mapping[str, Any]]:
    found = outcome.values.get(key)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def _best(outcome: Outcome, key: str) -> float | None:
    return max((v for row in _rows(outcome, key) if (v := number(row, "accuracy")) is not None), default=None)


def _last(outcome: Outcome, key: str, name: str) -> float | None:
    rows = _rows(outcome, key)
    return number(rows[-1], name) if rows else None
