"""Runs that exist, for whoever looks at many of them: where they are, how they stand, what came out; as tables for notebooks.

    from ssl_split import load_runs
    load_runs("runs", "sweeps/quick").query("algorithm == 'monacosfl'").plot.scatter("mib_per_client", "accuracy")
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_split import events, fields, locks
from ssl_split.files import read_line
from ssl_split.report import collect as collecting
from ssl_split.report import leaks, rows
from ssl_split.report.collect import FINISHED, MISSING, UNFINISHED, Collection, Job, Outcome, Run
from ssl_split.report.table import study

if TYPE_CHECKING:
    from pandas import DataFrame

RUNNING, STOPPED, FAILED = "running", "stopped", "failed"
"""How an unfinished run stands; `failed` is known of runs of a sweep, whose job list says so."""

PARTS = ("env.json", "metrics.jsonl", "ledger.csv", "result.json", "checkpoints")
"""What stands in a run directory beside `config.yaml`; a directory without any of them is none."""

DEPTH = 5
"""Folders below the one that was named in which runs are looked for."""

QUIET_SECONDS = 300.0
"""Where there is no lock, a run whose files have changed more recently may be running."""

TAIL_BYTES = 2**16
"""Of the end of `metrics.jsonl`, to find its last line."""

IDENTITY = ("run", "algorithm", "cut", "seed", "dataset", "state", "round", "rounds", "reason")
OUTCOME = ("accuracy", "accuracy_low", "accuracy_high", "accuracy_of", "mib_per_client", "attack", "attack_measure", "attack_value",
           "attack_low", "attack_high", "mse", "ssim")
DISK = ("bytes_on_disk", "changed", "directory", "problems")
COLUMNS = (*IDENTITY, *OUTCOME, *DISK)
"""What `describe` says of a run."""


def is_run(folder: Path) -> bool:
    """Whether a directory is a run's: its configuration and what goes with it, or, where that is lost, two other parts of one."""
    found = sum((folder / name).exists() for name in PARTS)
    return found >= 2 or (found == 1 and (folder / "config.yaml").is_file())


def find(directories: Sequence[Path]) -> tuple[dict[Path, list[Job]], list[str]]:
    """Run directories in and below directories, each with the jobs of its sweep, if any.

    A link to a run counts as a run; other links are not followed.

    Returns:
        Jobs by run directory, and what is wrong with job lists and folders.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    folders: dict[Path, list[Job]] = {}
    problems: list[str] = []
    for directory in directories:
        if not directory.is_dir():
            raise FileNotFoundError(f"there is no directory {directory}")
        below = list(_walk(directory, DEPTH, problems))
        here = Path(os.path.abspath(directory))
        planned = _planned([here.parent.parent, here.parent, *(p for p, sweep in below if sweep)], problems)
        folders |= {p: planned.pop(_key(p), (p, []))[1] for p, sweep in below if not sweep}
        folders |= {p: jobs for key, (p, jobs) in planned.items() if Path(key).is_relative_to(here) and _failure(jobs) and not p.exists()}
    return folders, problems


def _key(folder: Path) -> str:
    return os.path.abspath(folder)


def _planned(sweeps: Sequence[Path], problems: list[str]) -> dict[str, tuple[Path, list[Job]]]:
    """Jobs of sweeps by the place of their run; a damaged job list is a problem to tell, not to stop at."""
    made: dict[str, tuple[Path, list[Job]]] = {}
    for sweep in sweeps:
        try:
            made |= {_key(p): (p, jobs) for p, jobs in collecting.jobs_by_run(sweep, collecting.read_jobs(sweep)[1]).items()}
        except (ValueError, OSError) as error:
            problems.append(f"{error}; which of its runs failed is not known")
    return made


def _walk(folder: Path, depth: int, problems: list[str]) -> Iterator[tuple[Path, bool]]:
    """Runs, and the directories of sweeps, which are marked, in alphabetical order."""
    try:
        found, sweep = is_run(folder), (folder / "jobs.json").is_file()
        inside = sorted((e for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")), key=lambda e: e.name)
    except PermissionError:
        problems.append(f"{folder} may not be read: its runs are not known")
        return
    if found:
        yield folder, False
        return
    if sweep:
        yield folder, True
    for entry in inside:
        if entry.is_symlink():
            if is_run(folder / entry.name):
                yield folder / entry.name, False
        elif depth:
            yield from _walk(folder / entry.name, depth - 1, problems)


def _failure(jobs: Sequence[Job]) -> str | None:
    """Why the training of a sweep's run failed, or None."""
    return next((j.reason or "no reason was noted" for j in jobs if j.stage is None and j.state == FAILED), None)


def read(*directories: str | Path, metrics: bool = False) -> tuple[Run, ...]:
    """All runs in and below directories, whatever of them can be read.

    Args:
        directories: Run directories, folders of them, sweeps.
        metrics: Whether to read what was logged during training too, most of the work.

    Raises:
        FileNotFoundError: there is no such directory, or no run in it.
    """
    places = [Path(d) for d in directories or ("runs",)]
    folders, problems = find(places)
    for problem in problems:
        warnings.warn(problem, stacklevel=3)
    if not folders:
        raise FileNotFoundError(f"there is no run in {', '.join(map(str, places))}")
    return collecting.identify([collecting.read_run(folder, jobs, metrics=metrics) for folder, jobs in folders.items()])


def describe(run: Run) -> dict[str, Any]:
    """What a list of runs says of one: `COLUMNS`, plain values, None where something is not known."""
    size, changed = disk(run.directory)
    return {"run": run.name, "algorithm": run.algorithm, "cut": run.cut, "seed": run.seed, "dataset": run.config.get("dataset"),
            **standing(run, changed), **outcome(run), "bytes_on_disk": size, "changed": changed or None, "directory": str(run.directory),
            "problems": "; ".join(run.problems) or None}


def standing(run: Run, changed: float) -> dict[str, Any]:
    """How a run stands: `state`, the round it is in or ended with, of how many, and the reason where it has not finished.

    Args:
        run: The run.
        changed: When one of its files last changed, in seconds since 1970.
    """
    rounds, failure = run.config.get("rounds"), _failure(run.jobs)
    if run.state == FINISHED:
        return {"state": FINISHED, "round": run.result.get("rounds"), "rounds": rounds, "reason": None}
    last = _last_line(run.directory / "metrics.jsonl")
    at = last.get("round") if last else None
    known = {"round": at + 1 if isinstance(at, int) else 0, "rounds": rounds}
    if is_training(run.directory, changed):
        return {"state": RUNNING, **known, "reason": None}
    if failure or run.state == MISSING:
        return {"state": FAILED, **known, "reason": failure or run.reason}
    return {"state": STOPPED if run.state == UNFINISHED else run.state, **known,
            "reason": None if run.state == UNFINISHED else run.reason}


def is_training(folder: Path, changed: float) -> bool:
    """Whether somebody trains in a run directory: by its lock, or, where there is none, because an unfinished run has just changed."""
    lock = folder / locks.FILE
    if lock.exists():
        return locks.is_held(lock)
    return not (folder / "result.json").exists() and time.time() - changed < QUIET_SECONDS


def outcome(run: Run) -> dict[str, Any]:
    """The headline accuracy, the traffic and the strongest attack: by R2 where pictures were rebuilt, else the AUC of the strongest
    membership attack, else the accuracy of the strongest label attack."""
    made = study(Collection(run.directory, run.name, None, None, (run,)))
    values = made.groups[0].values
    known: dict[str, Any] = dict.fromkeys(OUTCOME)
    for name in ("accuracy", "mib_per_client", "mse", "ssim"):
        known[name] = values[name].mean if name in values else None
    if "accuracy" in values:
        known |= {"accuracy_low": values["accuracy"].low, "accuracy_high": values["accuracy"].high, "accuracy_of": made.accuracy}
    if "r2" in values:
        r2, attack = values["r2"], made.groups[0].attack
        return known | {"attack": attack, "attack_measure": "R2", "attack_value": r2.mean, "attack_low": r2.low, "attack_high": r2.high}
    findings = leaks.memberships(made) or leaks.labels(made)
    if findings:
        best = max(findings, key=lambda f: f.value)
        known |= {"attack": best.outcome.label, "attack_measure": best.measure, "attack_value": best.value, "attack_low": best.low,
                  "attack_high": best.high}
    return known


def disk(folder: Path) -> tuple[int, float]:
    """Bytes of the files in a directory, and when one of them last changed, but for event files, which say nothing new; links are not
    followed."""
    size, changed = 0, 0.0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # a temporary file that has got its name since
                continue
            size += found.st_size
            if os.path.basename(place) != events.FOLDER:
                changed = max(changed, found.st_mtime)
    return size, changed


def _last_line(file: Path) -> Mapping[str, Any] | None:
    """The last whole line of a log."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log.read().splitlines()
    except OSError:
        return None
    return next((values for line in reversed(lines) if (values := read_line(line)) is not None), None)


def load_runs(*directories: str | Path) -> DataFrame:
    """One row for each run.

    Columns are those of the list of runs (`COLUMNS`), every field of the configuration under its own dotted name (`partition.beta`), what
    the training counted (`result.mib_per_client`), every probe and attack (`probe.linear.accuracy`, `attack.ridge.r2`, intervals as
    `..._low` and `..._high`) and where it ran (`environment.commit`).

    Args:
        directories: Run directories, folders of them, sweeps [runs].

    Raises:
        FileNotFoundError: there is no such directory, or no run in it.
        ValueError: pandas is not installed.
    """
    pandas = fields.extra("pandas", "analysis")
    made: DataFrame = pandas.DataFrame([_flat(run) for run in read(*directories)])
    made["changed"] = pandas.to_datetime(made["changed"], unit="s", utc=True)
    return made


def load_curves(*directories: str | Path) -> DataFrame:
    """What was logged during training, in long form: `run`, `directory`, `algorithm`, `cut`, `seed`, `step`, `round`, `metric`, `value`.

    Raises:
        FileNotFoundError, ValueError: as of `load_runs`.
    """
    pandas = fields.extra("pandas", "analysis")
    lines = []
    for run in read(*directories, metrics=True):
        start = (run.name, str(run.directory), run.algorithm, run.cut, run.seed)
        for line in run.metrics:
            plain = fields.flatten(line)
            lines += [(*start, line.get("step"), line.get("round"), k, float(v)) for k, v in plain.items()
                      if k not in ("step", "round") and isinstance(v, int | float)]
    made: DataFrame = pandas.DataFrame(lines, columns=["run", "directory", "algorithm", "cut", "seed", "step", "round", "metric", "value"])
    return made


def load_outcomes(*directories: str | Path) -> DataFrame:
    """One row for each run and probe or attack, as in the report's `results.csv`.

    Raises:
        FileNotFoundError, ValueError: as of `load_runs`.
    """
    pandas = fields.extra("pandas", "analysis")
    runs = read(*directories)
    name = ", ".join(map(str, directories or ("runs",)))
    made: DataFrame = pandas.DataFrame(rows.rows(study(Collection(Path(), name, None, None, runs))), columns=list(rows.COLUMNS))
    return made


def _flat(run: Run) -> dict[str, Any]:
    """A row of `load_runs`."""
    made = {**describe(run), **{k: v for k, v in run.config.items() if k not in IDENTITY}}
    parts = {"result": run.result, "environment": run.environment}
    made |= {f"{part}.{k}": v for part, values in parts.items() for k, v in fields.flatten(values).items()}
    for found in run.outcomes:
        made |= {f"{found.kind}.{found.label}.{k}": v for k, v in numbers(found).items()}
    return made | {f"attack.{f.outcome.label}.{f.measure.lower()}{end}": value for f in leaked(run)
                   for end, value in (("", f.value), ("_low", f.low), ("_high", f.high))}


def leaked(run: Run) -> list[leaks.Finding]:
    """What attacks found that rebuild nothing."""
    made = study(Collection(run.directory, run.name, None, None, (run,)))
    return leaks.memberships(made) + leaks.labels(made)


def numbers(found: Outcome) -> dict[str, float]:
    """The numbers of a probe or attack, under the names that they have in `results.csv`."""
    return {k: v for k, v in rows.scores(found).items() if isinstance(v, int | float) and not isinstance(v, bool)}
