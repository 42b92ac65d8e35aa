"""Reads what a sweep, or any folder of runs, left on disk; what is missing, damaged or failed is kept with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ssl_split.fields import flatten as flatten
from ssl_split.files import read_json, read_lines
from ssl_split.report.records import BEST as BEST
from ssl_split.report.records import DAMAGED as DAMAGED
from ssl_split.report.records import FINISHED as FINISHED
from ssl_split.report.records import MISSING as MISSING
from ssl_split.report.records import REACHED as REACHED
from ssl_split.report.records import UNFINISHED as UNFINISHED
from ssl_split.report.records import Collection as Collection
from ssl_split.report.records import Job as Job
from ssl_split.report.records import Outcome as Outcome
from ssl_split.report.records import Run as Run
from ssl_split.report.records import number as number

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where PyYAML came with libyaml


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
