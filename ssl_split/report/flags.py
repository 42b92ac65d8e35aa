"""What a reader must know before comparing numbers: mixed versions, numbers that disagree, runs that are not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ssl_split.report.collect import FINISHED, Run
from ssl_split.report.table import Study


def flags(study: Study) -> list[str]:
    """One sentence for every reason to be careful."""
    finished = [run for run in study.runs if run.state == FINISHED]
    said = []
    others = _others(study)
    if others:
        said.append(f"{others} other runs in runs/ are not part of this sweep and not shown.")
    absent = len(study.runs) - len(finished)
    if absent:
        said.append(f"{absent} of {len(study.runs)} trainings have no result; they are listed under Missing and failed.")
    stages = Counter(j.state for j in study.collection.jobs if j.stage is not None and j.state != "done")
    if stages:
        said.append(f"{sum(stages.values())} probes or attacks have no result ({', '.join(f'{n} {s}' for s, n in stages.items())}).")
    for name, get in _VERSIONS.items():
        seen = Counter(str(value) for run in finished if (value := get(run)) is not None)
        if len(seen) > 1:
            ranked = sorted(seen.items(), key=_frequent)
            shown = ", ".join(f"{value} ({count} {'run' if count == 1 else 'runs'})" for value, count in ranked)
            said.append(f"Mixed {name}: {shown}. Numbers of different versions may not compare.")
    wrong = [run.name for run in finished if _differs(run)]
    if wrong:
        said.append(f"The counted bytes differ from the closed form in {len(wrong)} runs ({wrong[0]}): one of the two is wrong, or "
                    "messages were lost or ran short.")
    collapsed = [run.name for run in finished if run.result.get("collapsed")]
    if collapsed:
        said.append(f"The projections of {len(collapsed)} run(s) have collapsed to nearly one vector ({collapsed[0]}): their features "
                    "are of little use.")
    trials = [run.name for run in finished if run.config.get("max_steps") is not None]
    if trials:
        said.append(f"{len(trials)} runs are trials that stopped early (max_steps).")
    return said


def _others(study: Study) -> int:
    """Runs in a sweep's directory that its list of jobs does not name, left from an earlier version of its file."""
    if not study.collection.jobs:
        return 0
    shown = {run.directory.resolve() for run in study.runs}
    return sum(p.parent.resolve() not in shown for p in (study.collection.directory / "runs").glob("*/config.yaml"))


def _frequent(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _package(run: Run, name: str) -> Any:
    packages = run.environment.get("packages")
    return packages.get(name) if isinstance(packages, Mapping) else None


_VERSIONS = {
    "results_version": lambda run: run.result.get("results_version"),
    "code versions (commit)": lambda run: run.environment.get("commit"),
    "versions of ssl_split": lambda run: run.environment.get("ssl_split"),
    "versions of torch": lambda run: _package(run, "torch"),
}


def _differs(run: Run) -> bool:
    counted, closed = run.number("mib_per_client"), run.number("mib_per_client_closed_form")
    return counted is not None and closed is not None and abs(counted - closed) > 1e-6 * max(abs(closed), 1e-9)
