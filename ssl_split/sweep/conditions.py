"""Which places of a sweep are left out: a list of `{if: {field: values}, then: {field: values}}`.

A run to which every field under `if` applies stays only where every field under `then` does too. Fields are dotted names of a run's
configuration, or `arm`; values are one or a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def read(given: Any, *, check: Callable[[Mapping[str, Any], str], None]) -> tuple[Condition, ...]:
    """Read the list.

    Args:
        given: As the file has it.
        check: Raises where a mapping names an unknown field; it is told what the mapping is.

    Raises:
        ValueError: no list of mappings of the two keys, or an unknown field.
    """
    if not isinstance(given, list):
        raise ValueError(f"conditions must be a list, not {given!r}")
    made = []
    for one in given:
        if not isinstance(one, Mapping) or set(one) != {"if", "then"} or not all(isinstance(v, Mapping) and v for v in one.values()):
            raise ValueError(f"a condition is {{if: {{field: values}}, then: {{field: values}}}}, not {one!r}")
        tests = {key: {str(name): _listed(values) for name, values in one[key].items()} for key in ("if", "then")}
        for key, test in tests.items():
            check(test, f"field under {key} of a condition")
        made.append(Condition(tests["if"], tests["then"]))
    return tuple(made)


def _listed(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


def _all(test: _Test, values: Mapping[str, Any]) -> bool:
    return all(values.get(name) in wanted for name, wanted in test.items())
