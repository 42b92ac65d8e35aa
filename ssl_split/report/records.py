"""Runs, their probes and attacks, and the jobs of a sweep, as a report knows them: plain values, whatever of them there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_split.fields import flatten
from ssl_split.traffic import MIB

FINISHED, UNFINISHED, MISSING, DAMAGED = "finished", "unfinished", "missing", "damaged"

REACHED = ("rounds", "mib", "virtual_seconds")
"""What it can take to reach a target accuracy; MiB are those of all clients."""

BEST = "best"
"""Weights that validation chose."""


@dataclass(frozen=True)
class Outcome:
    """One probe or attack on one run."""

    kind: str
    name: str
    label: str
    directory: Path
    values: Mapping[str, Any]

    def number(self, *keys: str) -> float | None:
        """A number of the result, or None where it is absent: `number("raw_pixels", "accuracy")`."""
        return number(self.values, *keys)

    @property
    def weights(self) -> str:
        """Which weights it looked at where those are not the end of a finished run: `best`, or `step 500`; empty for the end."""
        known = self.values.get("checkpoint")
        if not isinstance(known, Mapping):
            return ""
        if str(known.get("file", "")).startswith(BEST):
            return BEST
        return "" if known.get("finished", True) else f"step {known.get('step', '?')}"

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions and machine that computed it, empty where nothing is known."""
        known = self.values.get("environment")
        return known if isinstance(known, Mapping) else {}

    @property
    def options(self) -> dict[str, Any]:
        """What changes its numbers, flat, beside its name and the weights; features and preset lead."""
        known = self.values.get("options")
        lead = {k: self.values[k] for k in ("features", "preset") if self.values.get(k) is not None}
        return {**lead, **flatten(known if isinstance(known, Mapping) else {})}


@dataclass(frozen=True)
class Job:
    """A job of the sweep as `jobs.json` has it."""

    label: str
    state: str
    reason: str | None
    command: str
    log: str
    run: str
    seconds: float | None
    stage: Mapping[str, Any] | None
    setting: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One training run with all that was measured on it."""

    name: str
    anchor: str
    directory: Path
    state: str
    reason: str | None
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    outcomes: tuple[Outcome, ...]
    problems: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()

    @property
    def algorithm(self) -> str:
        """What trained."""
        return str(self.config.get("algorithm", "?"))

    @property
    def cut(self) -> int | str:
        """Where the network was cut."""
        cut = self.config.get("cut", "?")
        return cut if isinstance(cut, int) else str(cut)

    @property
    def arm(self) -> str:
        """Name of the sweep's arm, empty where there is none."""
        return str(self.jobs[0].setting.get("arm", "")) if self.jobs else ""

    @property
    def seed(self) -> Any:
        """Seed of the training."""
        return self.config.get("seed")

    @property
    def results_version(self) -> int | None:
        """Version of the numbers: of the result, or while there is none of the program that began it."""
        found = self.number("results_version")
        found = number(self.environment, "results_version") if found is None else found
        return None if found is None else int(found)

    @property
    def command(self) -> str | None:
        """The command that trains it, if it is known."""
        known = self.result.get("command") or next((j.command for j in self.jobs if j.stage is None), None)
        return None if known is None else str(known)

    @property
    def machine(self) -> str:
        """Its environment in one line, empty where nothing is known."""
        known, packages = self.environment, self.environment.get("packages")
        torch = packages.get("torch") if isinstance(packages, Mapping) else None
        items = (("ssl_split", known.get("ssl_split")), ("commit", known.get("commit")), ("Python", known.get("python")), ("torch", torch),
                 ("", known.get("cuda") or known.get("processor")), ("threads", known.get("threads")))
        return ", ".join(f"{name} {value}".strip() for name, value in items if value)

    def number(self, *keys: str) -> float | None:
        """A number of the run's result."""
        return number(self.result, *keys)

    def reached(self, what: str) -> float | None:
        """One of `REACHED` when validation first came to the target accuracy; None where none was set, or it never did."""
        if what == "mib":
            sent = self.number("reached", "bytes")
            return None if sent is None else sent / MIB
        return self.number("reached", what)

    @cached_property
    def _kept(self) -> dict[tuple[str, ...], Any]:
        return {}

    def kept(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """What was computed of this run before under this key, or is now."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def of(self, kind: str) -> list[Outcome]:
        """Its probes or its attacks."""
        return [o for o in self.outcomes if o.kind == kind]


@dataclass(frozen=True)
class Collection:
    """All runs under a directory, and the sweep they belong to, if any."""

    directory: Path
    name: str
    question: str | None
    command: str | None
    runs: tuple[Run, ...]
    jobs: tuple[Job, ...] = field(default=())


def number(values: Mapping[str, Any], *keys: str) -> float | None:
    """A finite number in nested results, or None."""
    inner: Any = values
    for key in keys:
        # most are dictionaries, and asking for those first is several times as fast: curves have millions of numbers
        inner = inner.get(key) if isinstance(inner, (dict, Mapping)) else None
    if isinstance(inner, bool) or not isinstance(inner, int | float) or not math.isfinite(inner):
        return None
    return float(inner)
