"""Reads what a sweep, or any folder of runs, left on disk; what is missing, damaged or failed is kept with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ssl_split.fields import flatten as flatten
from ssl_split.files import read_json, read_lines
from ssl_split.traffic import MIB

FINISHED, UNFINISHED, MISSING, DAMAGED = "finished", "unfinished", "missing", "damaged"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where PyYAML came with libyaml


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
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    if isinstance(inner, bool) or not isinstance(inner, int | float) or inner != inner or abs(inner) == float("inf"):
        return None
    return float(inner)


def collect(directory: Path) -> Collection:
    """Read a sweep's directory, a folder of runs, or a single run.

    Raises:
        FileNotFoundError: no such directory, or nothing in it.
        ValueError: `jobs.json` is damaged.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    book, jobs = read_jobs(directory)
    planned = jobs_by_run(directory, jobs)
    folders = list(planned)
    if not jobs:
        folders = [directory] if (directory / "config.yaml").is_file() else sorted(
            p.parent for pattern in ("*/config.yaml", "runs/*/config.yaml") for p in directory.glob(pattern))
    if not folders:
        raise FileNotFoundError(f"there is no run in {directory}: a run is a directory with a config.yaml")
    runs = [read_run(folder, planned.get(folder, ())) for folder in folders]
    question, command = book.get("question"), book.get("command")
    return Collection(directory, str(book.get("name") or directory.resolve().name), question, command, identify(runs), jobs)


def read_jobs(directory: Path) -> tuple[dict[str, Any], tuple[Job, ...]]:
    """The job list of a sweep's directory as it stands in its file, and its jobs; empty where there is none.

    Raises:
        ValueError: it is damaged.
    """
    file = directory / "jobs.json"
    values = read_json(file) if file.is_file() else {}
    listed = values.get("jobs", []) if isinstance(values, dict) else None
    if not isinstance(listed, list) or not all(isinstance(j, Mapping) for j in listed):
        raise ValueError(f"{file} is damaged: it holds no list of jobs")
    return values, tuple(_job(j) for j in listed)


def jobs_by_run(directory: Path, jobs: Sequence[Job]) -> dict[Path, list[Job]]:
    """Jobs under the run directory that they are on, in order."""
    made: dict[Path, list[Job]] = {}
    for job in jobs:
        made.setdefault(directory / job.run, []).append(job)
    return made


def _job(values: Mapping[str, Any]) -> Job:
    return Job(str(values.get("label")), str(values.get("state")), values.get("reason"), str(values.get("command")), str(values.get("log")),
               str(values.get("run")), values.get("seconds"), values.get("stage"), values.get("setting") or {})


def read_run(folder: Path, jobs: Sequence[Job] = (), *, metrics: bool = True) -> Run:
    """Whatever of a run can be read.

    Args:
        folder: The run directory.
        jobs: Of the sweep, those on this run.
        metrics: Whether to read what was logged during training too, most of the work.
    """
    problems: list[str] = []
    config = _mapping(folder / "config.yaml", problems) or dict(jobs[0].setting if jobs else {})
    result = _mapping(folder / "result.json", problems)
    outcomes: list[Outcome] = []
    for kind, section in (("probe", "probes"), ("attack", "attacks")):
        for place in sorted((folder / section).glob("*/")):
            values = _mapping(place / "result.json", problems)
            if values:
                name = str(values.get("name", place.name))
                outcomes.append(Outcome(kind, name, name, place, values))
    state, reason = _state(folder, result, jobs, problems)
    environment = _mapping(folder / "env.json", problems)
    return Run(folder.resolve().name, "", folder, state, reason, flatten(config), result, environment,
               tuple(read_lines(folder / "metrics.jsonl")) if metrics else (), tuple(outcomes), tuple(problems), tuple(jobs))


def _state(folder: Path, result: Mapping[str, Any], jobs: Sequence[Job], problems: list[str]) -> tuple[str, str | None]:
    if result.get("finished"):
        return FINISHED, None
    training = next((j for j in jobs if j.stage is None), None)
    reason = f"{training.state}: {training.reason}" if training and training.reason else None
    if problems:
        return DAMAGED, reason or problems[0]
    if (folder / "config.yaml").is_file():
        return UNFINISHED, reason or "the training has not finished"
    return MISSING, reason or "the training has not started"


def _mapping(file: Path, problems: list[str]) -> dict[str, Any]:
    """A YAML or JSON mapping; a damaged file is a problem to show, not to stop at."""
    if not file.is_file():
        return {}
    try:
        values = read_json(file) if file.suffix == ".json" else yaml.load(file.read_text(encoding="utf-8"), _LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        values = None
    if not isinstance(values, dict):
        problems.append(f"{file.name} in {file.parent.name} is damaged")
        return {}
    return values


def identify(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Runs that are looked at together, each with an anchor of its own, variants of a probe or attack named by what differs among them."""
    return tuple(_label(_anchor(list(runs))))


def _anchor(runs: list[Run]) -> list[Run]:
    """Give every run an anchor of its own, whatever its name holds."""
    used: set[str] = set()
    made = []
    for run in runs:
        base = "run-" + (re.sub(r"[^A-Za-z0-9_.-]+", "-", run.name).strip("-") or "unnamed")
        anchor, copy = base, 2
        while anchor in used:
            anchor, copy = f"{base}-{copy}", copy + 1
        used.add(anchor)
        made.append(replace(run, anchor=anchor))
    return made


def _label(runs: list[Run]) -> list[Run]:
    """Name variants of a probe or attack by the options in which they differ anywhere in the collection, and by weights that are not the
    end of the run; of one that was made again by another version of the program, the newest keeps the name."""
    seen: dict[tuple[str, str], dict[str, set[str]]] = {}
    for outcome in (o for run in runs for o in run.outcomes):
        options = seen.setdefault((outcome.kind, outcome.name), {})
        for key, text in option_texts(outcome).items():
            options.setdefault(key, set()).add(text)
    differing = {name: [k for k, texts in options.items() if len(texts) > 1] for name, options in seen.items()}
    made = []
    for run in runs:
        outcomes, used = [], set[str]()
        for o in sorted(run.outcomes, key=_newest):
            own = option_texts(o)
            parts = [f"{k} {own[k].strip(chr(34))}" for k in differing[o.kind, o.name] if k in own] + ([o.weights] if o.weights else [])
            label, copy = f"{o.name} ({', '.join(parts)})" if parts else o.name, 2
            while label in used:
                label, copy = f"{label} [{copy}]", copy + 1
            used.add(label)
            outcomes.append(replace(o, label=label))
        made.append(replace(run, outcomes=tuple(outcomes)))
    return made


def _newest(outcome: Outcome) -> float:
    return -(number(outcome.environment, "results_version") or 0.0)


def option_texts(outcome: Outcome) -> dict[str, str]:
    """Options of a probe or attack as comparable texts."""
    return {k: json.dumps(v, sort_keys=True, default=str) for k, v in outcome.options.items()}
