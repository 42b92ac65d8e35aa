"""Rounds, bytes and virtual seconds to a target accuracy, read off the metrics; and what a lossy run leaves behind."""

import json
from pathlib import Path

import pytest
from tiny import tiny

from ssl_split import train
from ssl_split.summary import late_oscillation

SMALL = {"algorithm": "sfl_v1", "cut": 3, "client_lr": 0.05, "server_lr": 0.05, "rounds": 3, "validate_every_rounds": 1}


def test_the_first_validation_that_reaches_the_target(tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, **SMALL))
    lines = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "validation_accuracy" in line]
    assert len(validated) == 3
    assert done.result["reached"] is None
    times = [line["virtual_seconds"] for line in validated]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] == pytest.approx(done.result["virtual_seconds"])
    assert times[1] == pytest.approx(2 * times[0]), "equal rounds take equal time"
    assert validated[1]["bytes"] == 2 * validated[0]["bytes"]
    best = max(line["validation_accuracy"] for line in validated)
    again = train.run(tiny(tmp_path / "again", **SMALL, target_accuracy=best))
    assert again.path.name == done.path.name, "the target does not make another run"
    first = next(line for line in validated if line["validation_accuracy"] >= best)
    assert again.result["reached"] == {"target": best, "accuracy": best, "rounds": first["round"] + 1, "steps": first["step"],
                                       "bytes": first["bytes"], "virtual_seconds": first["virtual_seconds"]}


def test_a_run_of_which_every_message_is_lost_ends_without_a_loss(tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, **SMALL, loss={"act_up": 1.0}))
    assert done.result["loss"] is None
    assert done.result["bytes"]["up"]["act_up"] > 0
    assert done.result["bytes"]["down"]["grad_down"] == 0


def test_late_oscillation_is_the_deviation_of_the_last_validations() -> None:
    lines = [{"step": i} if i % 2 else {"step": i, "validation_accuracy": 0.5 + (0.1 if i % 4 else -0.1)} for i in range(40)]
    assert late_oscillation(lines) == pytest.approx((5 * 0.01 - 0.1**2 / 5) ** 0.5 / 2)  # .6 three times, .4 twice
    assert late_oscillation(lines[:8]) is None
    assert late_oscillation([{"validation_accuracy": 0.4}] * 5) == 0
