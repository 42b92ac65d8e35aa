"""What the page's scripts are given: the study as plain values, numbers rounded to what a reader can use, equal parts said once."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_split.report import curves, leaks
from ssl_split.report.collect import Job, Outcome, Run
from ssl_split.report.decide import first_budget
from ssl_split.report.figures import NONE
from ssl_split.report.leaks import Finding
from ssl_split.report.rows import NESTED
from ssl_split.report.summaries import Value
from ssl_split.report.table import MONITORS, Group, Study, strongest

DIGITS = 5
"""Significant digits of numbers in charts; those of tables are formatted from them with no more than four."""

POINTS = 12_000
"""Points of curves in the whole page; with many settings each curve has fewer of them."""

LEAST, MOST = 8, 80
"""Points of one curve."""

SCORES = ("mse", "blind_mse", "untrained_mse", "psnr", "ssim", "blind_ssim", "untrained_ssim", "r2", "untrained_r2", "validation_mse")
PROBE = {"accuracy": ("accuracy",), "low": ("low",), "high": ("high",), "raw_pixels": ("raw_pixels", "accuracy"),
         "untrained": ("untrained", "accuracy")}
TRAINING = ("seconds", "steps", "rounds", "images_per_second", "loss", "collapse_std", "mib_per_client", "mib_per_client_closed_form",
            "mib_per_client_published_formula", "client_parameters", "client_macs_per_image", "server_parameters", "server_macs_per_image",
            "virtual_seconds", "waiting_share_fastest", "waiting_share_mean", "client_flops_mean", "server_flops")


def rounded(value: float | None, digits: int = DIGITS) -> float | None:
    """A number with few digits; a whole one, such as a count of parameters, with all of them."""
    if value is None:
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.{digits}g}")


def payload(study: Study, out: Path) -> dict[str, Any]:
    """Everything the scripts draw, as values that JSON can hold.

    Args:
        study: What was measured.
        out: Where the page will be, for relative paths.
    """
    places = {run.anchor: i for i, group in enumerate(study.groups) for run in group.runs}
    configs, environments, options = _Parts([run.config for run in study.runs]), _Unique(), _Unique()
    return {
        "name": study.collection.name, "accuracy": study.accuracy, "monitor": study.accuracy in MONITORS.values(),
        "series": study.series, "cuts": study.cuts, "settings": list(dict.fromkeys(g.setting for g in study.groups)),
        "attacks": list(study.attacks), "probes": list(study.probes), "budget": rounded(_finite(first_budget(study.groups).leakage)),
        "groups": [_group(g) for g in study.groups],
        "runs": [{**_run(run, places[run.anchor], configs, environments, out), **_outcomes(run, environments, options, out)}
                 for run in study.runs],
        "shared": configs.shared, "environments": environments.values, "options": options.values, "matrix": _matrix(study),
        "memberships": [_finding(f) for f in leaks.memberships(study)], "labels": [_finding(f) for f in leaks.labels(study)],
        "curves": _curves(study),
    }


def packed(values: Any) -> str:
    """Values as gzipped JSON in base64: no character of it can end a script or begin a tag."""
    text = json.dumps(plain(values), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return pack(text.encode("utf-8"))


def pack(data: bytes) -> str:
    """Bytes, gzipped, in base64; equal bytes give equal text."""
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def unpacked(text: str) -> Any:
    """The other way round."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _value(value: Value, *, alone: bool) -> list[Any]:
    """Mean, low, high, standard deviation, seeds, and in a group of several runs the number of each that has one."""
    made: list[Any] = [rounded(value.mean), rounded(value.low), rounded(value.high), rounded(value.sd), value.n]
    return made if alone else [*made, {anchor: rounded(part) for anchor, part in value.parts}]


def _group(group: Group) -> dict[str, Any]:
    return {"anchor": group.anchor, "algorithm": group.algorithm, "cut": group.cut, "setting": group.setting, "series": group.series,
            "title": group.title, "attack": group.attack, "seeds": group.seeds, "defended": _defended(group),
            "values": {name: _value(value, alone=len(group.runs) == 1) for name, value in group.values.items()}}


def _defended(group: Group) -> bool:
    return group.runs[0].config.get("defence", NONE) != NONE


def _run(run: Run, group: int, configs: _Parts, environments: _Unique, out: Path) -> dict[str, Any]:
    made = {
        "anchor": run.anchor, "name": run.name, "group": group, "seed": run.seed, "state": run.state, "reason": run.reason,
        "command": run.command, "directory": Path(os.path.relpath(run.directory, out)).as_posix(),
        "config": configs.own(run.config), "environment": environments.place(run.environment),
        "machine": run.machine, "problems": list(run.problems),
        "training": {k: rounded(v) for k in TRAINING if (v := run.number(k)) is not None},
        "smashed": run.result.get("smashed_shape"), "reached": _reached(run), "bytes": by_kind(run),
        "jobs": [_job(j) for j in run.jobs if j.state != "done"],
    }
    return {k: v for k, v in made.items() if v not in (None, "", [], {})}


def plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite are absent, dates and the like become text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if isinstance(value, int | str) or value is None else str(value)


def by_kind(run: Run) -> list[tuple[str, str, float]]:
    """Encoded bytes by direction and kind of message."""
    known = run.result.get("bytes")
    rows = []
    for direction, kinds in (known if isinstance(known, Mapping) else {}).items():
        if isinstance(kinds, Mapping):
            rows += [(str(direction), str(kind), float(b)) for kind, b in kinds.items() if isinstance(b, int | float)]
    return rows


def _reached(run: Run) -> dict[str, Any] | None:
    target = run.config.get("target_accuracy")
    if not isinstance(target, int | float):
        return None
    return {"target": target, **{name: rounded(run.reached(name)) for name in ("rounds", "mib", "virtual_seconds")}}


def _job(job: Job) -> dict[str, Any]:
    return {"label": job.label, "state": job.state, "reason": job.reason, "command": job.command, "log": job.log}


def _outcomes(run: Run, environments: _Unique, options: _Unique, out: Path) -> dict[str, Any]:
    """Probes and attacks, each with the places of its options and its environment."""
    best, made = strongest(run), []
    for o in run.outcomes:
        places = {"options": options.place(o.options), "environment": environments.place(o.environment)}
        made.append({**_outcome(o, out, strongest=o is best), **{k: v for k, v in places.items() if v is not None}})
    return {"outcomes": made} if made else {}


def _outcome(outcome: Outcome, out: Path, *, strongest: bool) -> dict[str, Any]:
    """A probe or an attack: its scores, and how to do it again."""
    values = outcome.values
    keys = {k: (k,) for k in SCORES} | NESTED | {"auc": ("auc",), "low": ("low",), "high": ("high",), "untrained_auc": ("untrained_auc",)}
    scores = {k: rounded(v) for k, path in (PROBE if outcome.kind == "probe" else keys).items() if (v := outcome.number(*path)) is not None}
    seeds = values.get("seeds")
    made = {
        "kind": outcome.kind, "name": outcome.name, "label": outcome.label, "scores": scores, "features": values.get("features"),
        "test_images": values.get("test_images"), "targets": values.get("targets"), "aux": values.get("aux"),
        "seeds": len(seeds) if isinstance(seeds, list) else None, "needs": values.get("needs"), "verdict": values.get("verdict"),
        "budget": values.get("budget"), "wire": bool(values.get("wire")) or None, "seconds": rounded(outcome.number("seconds"), 3),
        "command": values.get("command"), "directory": Path(os.path.relpath(outcome.directory, out)).as_posix(),
        "strongest": strongest or None,
    }
    return {k: v for k, v in made.items() if v is not None}


def _finding(found: Finding) -> dict[str, Any]:
    return {"group": found.group.anchor, "run": found.run.anchor, "label": found.outcome.label, "measure": found.measure,
            "value": rounded(found.value), "low": rounded(found.low), "high": rounded(found.high), "chance": rounded(found.chance),
            "rulers": {k: rounded(v) for k, v in found.rulers.items()}, "way": found.way, "needs": found.needs}


def _matrix(study: Study) -> list[dict[str, Any]]:
    """One entry an attack: its measure, and by place of their group the mean, how far that is from a guess to everything, and seeds."""
    return [{"label": column.label, "measure": column.measure,
             "cells": {str(i): [rounded(c.value.mean), rounded(c.share, 2), c.value.n] for i, g in enumerate(study.groups)
                       if (c := column.cells.get(g.anchor))}} for column in leaks.matrix(study)]


def _curves(study: Study) -> list[dict[str, Any]]:
    """One entry per curve; `lines` by place of their group."""
    shown = curves.known(study)
    most = max(LEAST, min(MOST, POINTS // max(1, len(shown) * len(study.groups))))
    return [{"name": c.name, "title": c.title, "label": c.label, "caption": c.caption, "x": c.axis.label, "log": c.log,
             "lines": {str(i): found for i, g in enumerate(study.groups) if (found := _line(g, c, most))}} for c in shown]


def _line(group: Group, curve: curves.Curve, most: int) -> list[list[float | None]]:
    """Place, mean, and with several seeds lowest and highest."""
    x, mean, low, high = curves.mean_line(group.runs, curve.metric, curve.axis, most=most)
    scaled = [[rounded(at, 4), *(rounded(curve.scale * v, 4) for v in ends)] for at, *ends in zip(x, mean, low, high, strict=True)]
    return scaled if group.seeds > 1 else [point[:2] for point in scaled]


class _Parts:
    """Configurations as what all have in common, and what each has of its own."""

    def __init__(self, all_of_them: Sequence[Mapping[str, Any]]) -> None:
        first = all_of_them[0] if all_of_them else {}
        self.shared = {k: v for k, v in first.items() if all(k in c and c[k] == v for c in all_of_them)}

    def own(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of one configuration that not all share."""
        return {k: v for k, v in config.items() if k not in self.shared}


class _Unique:
    """Values that many runs share, kept once and known by their place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Mapping[str, Any]) -> int | None:
        """Where it is kept; None for nothing."""
        if not value:
            return None
        key = json.dumps(value, sort_keys=True, default=str)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]
