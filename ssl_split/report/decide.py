"""Which setting to choose: budgets, the Pareto front over accuracy, leakage and traffic, and a recommendation.

`static/decide.js` says the same in the page while the reader moves the sliders; tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ssl_split.report.table import Group

STEP = 0.05
"""To which the first leakage budget is rounded up."""


@dataclass(frozen=True)
class Budget:
    """What a setting may cost.

    Attributes:
        leakage: Largest R2 of the strongest attack.
        mib: Most MiB per client, up and down.
        macs: Most multiply-adds of the client on one image.
        accuracy: Least accuracy.
    """

    leakage: float = math.inf
    mib: float = math.inf
    macs: float = math.inf
    accuracy: float = -math.inf


GOALS = ("accurate", "private", "cheap")
"""What is to be best inside the budget: highest accuracy, lowest leakage, least traffic."""


_Objectives: TypeAlias = tuple[float | None, ...]


def placed(groups: Iterable[Group]) -> list[Group]:
    """Settings with an accuracy and a leakage: only they can be recommended."""
    return [g for g in groups if "accuracy" in g.values and "r2" in g.values]


def leakage(group: Group) -> float:
    """R2 of the strongest attack, 0 where it is below: an attack that fails worse than a guess is as blind as one that only guesses."""
    return max(group.values["r2"].mean, 0.0)


def affordable(groups: Iterable[Group], budget: Budget) -> list[Group]:
    """Settings inside a budget. A number that is missing is not inside a limit, unless there is none."""
    limits = (("r2", budget.leakage), ("mib_per_client", budget.mib), ("client_macs_per_image", budget.macs))
    return [g for g in placed(groups) if g.values["accuracy"].mean >= budget.accuracy
            and all(limit == math.inf or (key in g.values and g.values[key].mean <= limit) for key, limit in limits)]


def recommend(groups: Iterable[Group], budget: Budget, goal: str = "accurate") -> Group | None:
    """The best setting inside the budget by one of `GOALS`; of equals the more accurate, then the one that leaks less, then the one that
    sends less. One without a number for the goal comes last."""
    def rank(group: Group) -> tuple[float, float, float, float]:
        accuracy, leaks, sent = group.values["accuracy"].mean, leakage(group), group.mean("mib_per_client")
        traffic = math.inf if sent is None else sent
        return {"accurate": accuracy, "private": -leaks, "cheap": -traffic}[goal], accuracy, -leaks, -traffic

    return max(affordable(groups, budget), key=rank, default=None)


def rivals(groups: Iterable[Group], budget: Budget, chosen: Group) -> list[Group]:
    """Further settings inside the budget whose accuracy is not clearly lower: intervals overlap, or there is none to tell."""
    low = chosen.values["accuracy"].ends[0]
    return [g for g in affordable(groups, budget) if g is not chosen and g.values["accuracy"].ends[1] >= low]


def front(groups: Iterable[Group]) -> list[Group]:
    """Settings that no other dominates: at least as accurate, at most as leaky and as costly in MiB per client, and better in one. Where a
    setting has no traffic, that part is left out of its comparisons. Most accurate first."""
    known = [(g, _objectives(g)) for g in placed(groups)]
    kept = [g for g, own in known if not any(_dominates(other, own) for _, other in known)]
    return sorted(kept, key=lambda g: -g.values["accuracy"].mean)


def _dominates(ours: _Objectives, theirs: _Objectives) -> bool:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _objectives(group: Group) -> _Objectives:
    """All to be small."""
    return -group.values["accuracy"].mean, leakage(group), group.mean("mib_per_client")


def first_budget(groups: Sequence[Group]) -> Budget:
    """Where the sliders stand before they are moved: leakage half-way between the least and the most leaking setting, rounded up; no limit
    of traffic and work. It is a place to start from, not advice."""
    leaks = [leakage(g) for g in placed(groups)]
    if not leaks:
        return Budget()
    return Budget(leakage=round(math.ceil((min(leaks) + max(leaks)) / 2 / STEP - 1e-9) * STEP, 10))
