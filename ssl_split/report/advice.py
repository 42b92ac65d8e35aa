"""The recommended setting in words, at the budget with which the page begins: for readers of `report.md`, and of a page without scripts.

`static/decide.js` says the same while the reader moves the sliders; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_split.report.decide import Budget, first_budget, placed, recommend, rivals
from ssl_split.report.table import Group
from ssl_split.report.text import FORMATS, ratio, spread

MOST = 6
"""Settings that are named as not clearly less accurate."""

FACTS = (("accuracy", "accuracy", "percent"), ("R2", "r2", "ratio"), ("MiB per client", "mib_per_client", "mib"),
         ("client parameters", "client_parameters", "count"), ("client MACs per image", "client_macs_per_image", "count"))
RULERS = {"raw_pixels": "raw pixels", "untrained": "an untrained network"}


@dataclass(frozen=True)
class Advice:
    """What to choose.

    Attributes:
        lead: What was asked for, and the budget.
        chosen: The setting.
        notes: Its numbers, what speaks against it, and what else might be chosen, a sentence each.
    """

    lead: str
    chosen: Group
    notes: tuple[str, ...]


def advise(groups: Sequence[Group]) -> Advice | None:
    """The most accurate setting within the first budget; None where no setting has both an accuracy and an attack."""
    budget = first_budget(groups)
    chosen = recommend(groups, budget)
    if chosen is None:
        return None
    notes = (_facts(chosen), *_unlearned(chosen), *_close(groups, budget, chosen),
             f"Leakage is R2 of the strongest attack that was run ({chosen.attack or 'none'}); a stronger one may see more.",
             *_without(groups), "The budget is half-way between the least and the most leaking setting: a place to start from, not advice.")
    return Advice(f"Most accurate with R2 at most {ratio(budget.leakage)}", chosen, notes)


def _facts(group: Group) -> str:
    known = [(name, group.values[key], style) for name, key, style in FACTS if key in group.values]
    said = ", ".join(" ".join([name, FORMATS[style](value.mean), *spread(value, style)]) for name, value, style in known)
    return f"{said[0].upper()}{said[1:]}."


def _unlearned(group: Group) -> list[str]:
    low = group.values["accuracy"].ends[0]
    below = [name for ruler, name in RULERS.items() if ruler in group.values and low <= group.values[ruler].ends[1]]
    if not below:
        return []
    return [f"Its accuracy is not clearly above {' and '.join(below)}: within this budget nothing shows that more was learned than they "
            "give."]


def _close(groups: Sequence[Group], budget: Budget, chosen: Group) -> list[str]:
    names = [g.title for g in rivals(groups, budget, chosen)]
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return [f"Not clearly less accurate, within the budget: {'; '.join(names[:MOST])}{more}."] if names else []


def _without(groups: Sequence[Group]) -> list[str]:
    count = len(groups) - len(placed(groups))
    return [f"{count} {'setting has' if count == 1 else 'settings have'} no accuracy or no attack and cannot be chosen."] if count else []
