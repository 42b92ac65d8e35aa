"""`results.csv`: one row per run and probe or attack, tidy, nothing dropped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_split.files import replace_file
from ssl_split.report.collect import REACHED, Job, Outcome, Run
from ssl_split.report.table import Study, strongest

RUN_COLUMNS = ("run", "algorithm", "cut", "seed", "dataset", "setting", "state", "reason")
TRAINING = ("steps", "rounds", "loss", "train_accuracy", "collapse_std", "mib_per_client", "mib_per_client_closed_form",
            "mib_per_client_published_formula", "client_parameters", "server_parameters", "client_macs_per_image", "server_macs_per_image",
            "seconds", "images_per_second", "virtual_seconds", "waiting_share_fastest", "waiting_share_mean", "client_flops_mean",
            "client_flops_most", "server_flops", "results_version")
TARGET = ("target_accuracy", *(f"reached_{name}" for name in REACHED))
DIVERGENCE = ("online_to_mean", "momentum_to_mean", "online_to_momentum")
OUTCOME = ("kind", "name", "label", "outcome_state", "outcome_reason")
PROBE = ("features", "accuracy", "low", "high", "test_images")
RULERS = ("raw_pixels", "untrained")
ATTACK = ("mse", "psnr", "psnr_of_mean_mse", "ssim", "r2", "ssim_gain", "blind_mse", "blind_ssim", "untrained_mse", "untrained_ssim",
          "untrained_r2", "validation_mse", "targets", "aux", "budget", "auc", "untrained_auc", "balanced_accuracy", "verdict")
NESTED = {"unaware_r2": ("unaware", "r2"), "tpr_at_0.01": ("tpr", "0.01", "value"), "tpr_at_0.001": ("tpr", "0.001", "value"),
          "identified_top1": ("identification", "pixels", "top1", "rate"), "identified_chance": ("identification", "chance_top1"),
          "class_told": ("classification", "reconstructions", "rate"), "class_told_of_truth": ("classification", "true_targets", "rate")}
"""Columns of numbers that stand deeper in an attack's result."""
SCORES = ("mse", "ssim", "r2")
COLUMNS = (*RUN_COLUMNS, *TRAINING, *TARGET, *DIVERGENCE, "validation_knn", "validation_accuracy", *OUTCOME, *PROBE,
           *(f"{r}_{k}" for r in RULERS for k in ("accuracy", "low", "high")), *ATTACK,
           *(f"{s}_{end}" for s in SCORES for end in ("low", "high")), *NESTED, "attacker_seeds", "strongest", "options", "directory")


def rows(study: Study) -> list[dict[str, Any]]:
    """All rows; absent numbers are absent keys."""
    made = []
    for group in study.groups:
        for run in group.runs:
            start = _run(run, group.setting)
            best = strongest(run)
            parts = [_outcome(o, strongest=o is best) for o in run.outcomes] + [_job(j) for j in run.jobs if _no_result(j)]
            made += [{**start, **part} for part in parts] or [start]
    return made


def write(study: Study, path: Path) -> None:
    """Write the file."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(study))
    text = buffer.getvalue()
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def _run(run: Run, setting: str) -> dict[str, Any]:
    known: dict[str, Any] = {"run": run.name, "algorithm": run.algorithm, "cut": run.cut, "seed": run.seed,
                             "dataset": run.config.get("dataset"), "setting": setting, "state": run.state, "reason": run.reason}
    known |= {k: run.result.get(k) for k in TRAINING}
    known |= {"target_accuracy": run.config.get("target_accuracy")} | {f"reached_{k}": run.reached(k) for k in REACHED}
    known |= {k: run.number("divergence", k) for k in DIVERGENCE}
    known |= {k: run.number(k, "accuracy") for k in ("validation_knn", "validation_accuracy")}
    return known | {"directory": str(run.directory)}


def _outcome(outcome: Outcome, *, strongest: bool) -> dict[str, Any]:
    values, seeds = outcome.values, outcome.values.get("seeds")
    return {"kind": outcome.kind, "name": outcome.name, "label": outcome.label, "outcome_state": "done", **scores(outcome),
            "attacker_seeds": len(seeds) if isinstance(seeds, list) else None, "strongest": strongest or None,
            "options": json.dumps(values.get("options"), sort_keys=True, default=str), "directory": str(outcome.directory)}


def scores(outcome: Outcome) -> dict[str, Any]:
    """What a probe or attack found, with its intervals and rulers, by column."""
    values = outcome.values
    known = {k: values.get(k) for k in (PROBE if outcome.kind == "probe" else ATTACK)}
    known |= {f"{r}_{k}": outcome.number(r, k) for r in RULERS for k in ("accuracy", "low", "high") if outcome.kind == "probe"}
    known |= {k: outcome.number(*keys) for k, keys in NESTED.items() if outcome.kind == "attack"}
    intervals = values.get("intervals")
    for score in SCORES:
        ends = intervals.get(score) if isinstance(intervals, Mapping) else None
        if isinstance(ends, list) and len(ends) == 2:
            known |= {f"{score}_low": ends[0], f"{score}_high": ends[1]}
    return known


def _no_result(job: Job) -> bool:
    return job.stage is not None and job.state != "done"


def _job(job: Job) -> dict[str, Any]:
    stage = job.stage or {}
    return {"kind": stage.get("kind"), "name": stage.get("name"), "label": job.label, "outcome_state": job.state,
            "outcome_reason": job.reason, "options": json.dumps(stage.get("options"), sort_keys=True, default=str)}
