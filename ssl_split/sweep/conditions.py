"""Which places of a sweep are left out: a list of `{if: {field: values}, then: {field: values}}`.

A run to which every field under `if` applies stays only where every field under `then` does too. Fields are dotted names of a run's
configuration, or `arm`; values are one or a list, and mean what they would mean in a configuration (`1e-3` is 0.001).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_Test = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Condition:
    """One entry of the list."""

    when: _Test
    then: _Test

    def keeps(self, values: Mapping[str, Any]) -> bool:
        """Whether a run with these values (dotted names, and `arm`) stays."""
        return not _all(self.when, values) or _all(self.then, values)


def read(given: Any, *, convert: Callable[[str, Any, str], Any]) -> tuple[Condition, ...]:
    """Read the list.

    Args:
        given: As the file has it.
        convert: A field's value as a configuration has it, from its name, the value in the file, and what the two are part of; raises
            where there is no such field or value.

    Raises:
        ValueError: no list of mappings of the two keys, or an unknown field or value.
    """
    if not isinstance(given, list):
        raise ValueError(f"conditions must be a list, not {given!r}")
    made = []
    for one in given:
        if not isinstance(one, Mapping) or set(one) != {"if", "then"} or not all(isinstance(v, Mapping) and v for v in one.values()):
            raise ValueError(f"a condition is {{if: {{field: values}}, then: {{field: values}}}}, not {one!r}")
        tests = {key: {str(name): tuple(convert(str(name), value, f"under {key} of a condition") for value in _listed(values))
                       for name, values in one[key].items()} for key in ("if", "then")}
        made.append(Condition(tests["if"], tests["then"]))
    return tuple(made)


def refuse_idle(rules: Sequence[Condition], places: Sequence[Mapping[str, Any]], *, fixed: Collection[str]) -> None:
    """Refuse a value under `if` that no run has: the condition would leave nothing out, without a word.

    Args:
        rules: The conditions.
        places: Values of all runs, those that are left out included.
        fixed: Fields that flags have set to a single value, which a file's conditions cannot know of.

    Raises:
        ValueError: it names the value and those that there are.
    """
    for name, wanted in (item for rule in rules for item in rule.when.items() if item[0] not in fixed):
        held: list[Any] = []
        held += (value for place in places if (value := place.get(name)) not in held)
        for value in wanted:
            if value not in held:
                there = ", ".join(map(str, held))
                raise ValueError(f"a condition never applies: no run of the sweep has {name} = {value} (there are: {there})")


def _listed(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


def _all(test: _Test, values: Mapping[str, Any]) -> bool:
    return all(values.get(name) in wanted for name, wanted in test.items())
