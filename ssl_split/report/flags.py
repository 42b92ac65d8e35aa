"""What a reader must know before comparing numbers: mixed versions, numbers that disagree, runs that are not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ssl_split.report.collect import FINISHED, Run
from ssl_split.report.table import Study

RESULTS = "results_version"

MOST = 4
"""Settings that a sentence names."""


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
    said += [*_mixed(finished), *_repeated(study)]
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


def _mixed(runs: Sequence[Run]) -> list[str]:
    """Versions in which runs, or their probes and attacks, differ."""
    said = []
    for name, get in _VERSIONS.items():
        trained = Counter(str(v) for run in runs if (v := get({**run.environment, "results_version": run.results_version})) is not None)
        measured = Counter(str(v) for run in runs for o in run.outcomes if (v := get(o.environment)) is not None)
        seen = trained + measured
        if len(seen) > 1:
            ranked = sorted(seen, key=lambda value: (-trained[value], -seen[value], value))
            shown = ", ".join(f"{v} ({_counted(trained[v], measured[v])})" for v in ranked)
            apart = "; runs of an earlier one are settings of their own" if name == RESULTS and len(trained) > 1 else ""
            said.append(f"Mixed {name}: {shown}. Numbers of different versions may not compare{apart}.")
    return said


def _counted(runs: int, measured: int) -> str:
    parts = ((runs, "run", "runs"), (measured, "probe or attack", "probes or attacks"))
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in parts if count)


def _repeated(study: Study) -> list[str]:
    """Settings that hold several runs of one seed."""
    found = [f"{group.title} (seed {', '.join(map(str, group.repeated))})" for group in study.groups if group.repeated]
    if not found:
        return []
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return [f"Several runs of one seed stand in one setting: {'; '.join(found[:MOST])}{more}. They are averaged and count as one seed."]


def _others(study: Study) -> int:
    """Runs in a sweep's directory that its list of jobs does not name, left from an earlier version of its file."""
    if not study.collection.jobs:
        return 0
    shown = {run.directory.resolve() for run in study.runs}
    return sum(p.parent.resolve() not in shown for p in (study.collection.directory / "runs").glob("*/config.yaml"))


def _package(environment: Mapping[str, Any], name: str) -> Any:
    packages = environment.get("packages")
    return packages.get(name) if isinstance(packages, Mapping) else None


_VERSIONS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    RESULTS: lambda known: known.get("results_version"),
    "code versions (commit)": lambda known: known.get("commit"),
    "versions of ssl_split": lambda known: known.get("ssl_split"),
    "versions of torch": lambda known: _package(known, "torch"),
}


def _differs(run: Run) -> bool:
    counted, closed = run.number("mib_per_client"), run.number("mib_per_client_closed_form")
    return counted is not None and closed is not None and abs(counted - closed) > 1e-6 * max(abs(closed), 1e-9)
