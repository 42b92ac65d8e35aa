"""The job list on disk: `jobs.json` in the sweep's directory says what every job is, how it stands and how long it took.

Sweeps that share the directory share the file: each writes the states that it has set, and keeps those of the others.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from ssl_split import locks
from ssl_split.config import RESULTS_VERSION
from ssl_split.files import read_json, write_json
from ssl_split.sweep.jobs import Job

FILE = "jobs.json"
WAITING, RUNNING, DONE, FAILED, SKIPPED = "waiting", "running", "done", "failed", "skipped"


class Book:
    """States of all jobs, written to disk at every change.

    Args:
        directory: The sweep's directory.
        plan: Its jobs, in order.
        header: What else the report needs: name and question of the sweep, its axes.
    """

    def __init__(self, directory: Path, plan: Sequence[Job], header: dict[str, Any]) -> None:
        self.directory, self.header = directory, header
        self.entries = {job.key: _entry(job, directory) for job in plan}
        self.failed_before = dict.fromkeys(self.entries, 0)
        """How often jobs had failed when this sweep began."""

    def restore(self) -> None:
        """Take durations and numbers of failures over from an earlier start; states are judged anew by the files that exist."""
        earlier = self._written()
        for key, entry in self.entries.items():
            entry["seconds"] = earlier.get(key, {}).get("seconds")
            entry["failures"] = self.failed_before[key] = earlier.get(key, {}).get("failures", 0)

    def _written(self) -> dict[str, dict[str, Any]]:
        """What the file says, by key."""
        file = self.directory / FILE
        try:
            return {e["key"]: e for e in read_json(file)["jobs"]} if file.is_file() else {}
        except (ValueError, KeyError, TypeError):
            return {}

    def failures(self, job: Job) -> tuple[int, str | None]:
        """How often a job has failed since this sweep began, here and in other sweeps that share the directory, and the last reason."""
        entry, elsewhere = self.entries[job.key], self._written().get(job.key, {})
        entry["failures"] = max(entry["failures"], elsewhere.get("failures", 0))
        return entry["failures"] - self.failed_before[job.key], elsewhere.get("reason")

    def fail(self, job: Job, state: str, *, reason: str, seconds: float | None, noted: bool = False) -> None:
        """Note one more failure of a job, and how it stands now; `noted`: who ran it has counted the failure."""
        self.entries[job.key]["failures"] += not noted
        self.set(job, state, reason=reason, seconds=seconds)

    def set(self, job: Job, state: str, *, reason: str | None = None, seconds: float | None = None, pid: int | None = None) -> None:
        """Note how a job stands, and write the file."""
        self.note(job, state, reason=reason, seconds=seconds, pid=pid)
        self.write({job.key})

    def note(self, job: Job, state: str, *, reason: str | None = None, seconds: float | None = None, pid: int | None = None) -> None:
        """Note how a job stands; `write` puts it on disk."""
        entry = self.entries[job.key]
        entry.update(state=state, reason=reason, pid=pid)
        if seconds is not None:
            entry["seconds"] = round(seconds, 3)
        result = job.result() if state == DONE else None
        entry["result"] = relative(result, self.directory) if result else None

    def write(self, changed: Collection[str]) -> None:
        """Write `jobs.json`: this sweep's jobs, then those of others that are in it.

        Args:
            changed: Keys of jobs that stand as this sweep says; of all others the file may know more, from another sweep.
        """
        with _alone(self.directory / ".jobs.lock"):
            written, jobs = self._written(), []
            for key, entry in self.entries.items():
                elsewhere = written.get(key, {})
                if key not in changed:
                    entry = {**entry, **_standing(elsewhere)}
                seconds = elsewhere.get("seconds") if entry["seconds"] is None else entry["seconds"]
                jobs.append({**entry, "seconds": seconds, "failures": max(entry["failures"], elsewhere.get("failures", 0))})
            jobs += [entry for key, entry in written.items() if key not in self.entries]
            write_json(self.directory / FILE, {**self.header, "results_version": RESULTS_VERSION, "jobs": jobs})

    def state(self, key: str) -> str:
        """How a job stands."""
        return str(self.entries[key]["state"])

    def count(self) -> Counter[str]:
        """How many jobs stand how."""
        return Counter(e["state"] for e in self.entries.values())

    def _measured(self) -> dict[str, list[float]]:
        """Seconds of the jobs that are done, by sort."""
        measured: dict[str, list[float]] = {}
        for e in self.entries.values():
            if e["state"] == DONE and e["seconds"] is not None:
                measured.setdefault(e["sort"], []).append(e["seconds"])
        return measured

    def forecast(self) -> dict[str, float | None]:
        """Seconds that each job takes: as it did before, else the mean of its sort, else of all; None before anything was measured."""
        means = {sort: fmean(group) for sort, group in self._measured().items()}
        overall = fmean(means.values()) if means else None
        return {key: e["seconds"] if e["seconds"] is not None else means.get(e["sort"], overall) for key, e in self.entries.items()}

    def expected(self) -> dict[str, float]:
        """The forecast, 1 before anything was measured."""
        return {key: 1.0 if seconds is None else seconds for key, seconds in self.forecast().items()}

    def seconds_left(self, elapsed: Mapping[str, float] = MappingProxyType({})) -> float | None:
        """Time for the jobs that are left, one after another, from the mean duration of their sort; None before anything was measured.

        Args:
            elapsed: Key of a job that runs -> seconds since it began, which are no longer left.
        """
        measured = self._measured()
        if not measured:
            return None
        overall = fmean([s for group in measured.values() for s in group])
        left = [e for e in self.entries.values() if e["state"] in (WAITING, RUNNING)]
        means = {sort: fmean(group) for sort, group in measured.items()}
        return sum(max(0.0, means.get(e["sort"], overall) - elapsed.get(e["key"], 0.0)) for e in left)


def note_failure(directory: Path, key: str, reason: str) -> bool:
    """Count a failure of a job whose log is held here, on a machine that has no `Book`: no other sweep may take the job before.

    Returns:
        Whether it was counted; if not, whose job it is has to do it.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), _alone(directory / ".jobs.lock"):
        values = read_json(directory / FILE)
        entry = next((e for e in values["jobs"] if e["key"] == key), None)
        if entry is not None:
            entry.update(failures=entry.get("failures", 0) + 1, reason=reason)
            write_json(directory / FILE, values)
            return True
    return False


def _standing(entry: dict[str, Any]) -> dict[str, Any]:
    """Of an entry what changes while a job runs."""
    return {k: entry[k] for k in ("state", "reason", "seconds", "pid", "result") if k in entry}


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other sweeps from writing the job list."""
    with file.open("w") as lock:
        locks.take(lock, wait=True)
        yield


def _entry(job: Job, directory: Path) -> dict[str, Any]:
    stage = {"kind": job.stage.kind, "name": job.stage.name, "options": dict(job.stage.given)} if job.stage else None
    return {"key": job.key, "label": job.label, "sort": job.sort, "setting": dict(job.setting), "stage": stage,
            "run": relative(job.run, directory), "command": job.command, "needs": job.needs, "log": f"logs/{job.key}.log",
            "state": WAITING, "reason": None, "seconds": None, "failures": 0, "pid": None, "result": None}


def relative(path: Path, directory: Path) -> str:
    """A path as seen from the sweep's directory, so that the directory can be moved."""
    return Path(os.path.relpath(path, directory)).as_posix()


