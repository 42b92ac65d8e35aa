"""Runs side by side: fields, versions and machines in which they differ, and what came out."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_split import runs
from ssl_split.fields import flatten
from ssl_split.list_runs.listing import Row, aligned, note, plain, state
from ssl_split.report import text
from ssl_split.report.collect import Run
from ssl_split.report.rows import RULERS, SCORES
from ssl_split.report.table import interval

ABSENT = "(not known)"
"""Of a field that a run's file does not have, as files of other versions may not."""

TRAINING = ("mib_per_client", "loss", "train_accuracy", "collapse_std", "seconds", "images_per_second", "virtual_seconds",
            "client_parameters", "server_parameters")
VALIDATIONS = ("validation_knn", "validation_accuracy")


def differences(runs_values: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Fields whose values are not the same everywhere, with the value of every run."""
    names = dict.fromkeys(k for values in runs_values for k in values)
    table = {name: [values.get(name, ABSENT) for values in runs_values] for name in names}
    return {name: found for name, found in table.items() if any(v != found[0] for v in found)}


def environment(run: Run) -> dict[str, Any]:
    """Code, versions, machine and images, without the command, which says what the fields say."""
    return {k: v for k, v in flatten(run.environment).items() if k != "command"}


def results(run: Run) -> dict[str, dict[str, float | None]]:
    """Numbers of a run as `value`, `low` and `high`; the ends are None where there is no interval."""
    made = {k: _rate(run.number(k)) for k in TRAINING}
    made |= {k: _rate(run.number(k, "accuracy"), run.number(k, "low"), run.number(k, "high")) for k in VALIDATIONS}
    for probe in run.of("probe"):
        made[f"{probe.label} accuracy"] = _rate(*(probe.number(k) for k in ("accuracy", "low", "high")))
        made |= {f"{probe.label} accuracy, {ruler.replace('_', ' ')}": _rate(*(probe.number(ruler, k) for k in ("accuracy", "low", "high")))
                 for ruler in RULERS}
    for attack in run.of("attack"):
        made |= {f"{attack.label} {score}": _rate(attack.number(score), *(interval(attack.values, score) or ())) for score in SCORES}
        made[f"{attack.label} r2, untrained"] = _rate(attack.number("untrained_r2"))
    for found in runs.leaked(run):
        made[f"{found.outcome.label} {found.measure}"] = _rate(found.value, found.low, found.high)
    return {name: rate for name, rate in made.items() if rate["value"] is not None}


def _rate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def as_json(rows: Sequence[Row]) -> str:
    """The comparison for scripts."""
    compared = [run for run, _ in rows]
    return json.dumps({"runs": [known["directory"] for _, known in rows], "states": [known["state"] for _, known in rows],
                       "configuration": differences([run.config for run in compared]),
                       "environment": differences([environment(run) for run in compared]),
                       "results": [results(run) for run in compared]}, indent=1, default=str)


def as_text(rows: Sequence[Row]) -> str:
    """The comparison for reading: a legend, then three tables whose columns are the runs."""
    letters = [string.ascii_uppercase[i] if i < 26 else f"run {i + 1}" for i in range(len(rows))]
    legend = [[letter, known["directory"], state(known), note(known)] for letter, (_, known) in zip(letters, rows, strict=True)]
    found = [results(run) for run, _ in rows]
    names = dict.fromkeys(name for values in found for name in values)
    shown = {name: [_shown(values.get(name)) for values in found] for name in names}
    sections = (("configuration: fields that differ", _written(differences([run.config for run, _ in rows])), "the same in all fields"),
                ("code, versions and machine: what differs", _written(differences([environment(run) for run, _ in rows])), "the same"),
                ("results [95 % interval]", shown, "none yet"))
    lines = aligned(legend)
    for title, table, nothing in sections:
        lines += ["", *(aligned([[title, *letters], *([name, *cells] for name, cells in table.items())]) if table else
                        [f"{title}: {nothing}"])]
    return "\n".join(lines)


def _written(table: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    return {name: [plain(v) for v in values] for name, values in table.items()}


def _shown(rate: Mapping[str, float | None] | None) -> str:
    if rate is None or rate["value"] is None:
        return text.NOTHING
    ends = "" if rate["low"] is None or rate["high"] is None else f" [{rate['low']:.4g}, {rate['high']:.4g}]"
    return text.large(rate["value"]) + ends
