"""Membership and label attacks in the report: their own tables, their numbers in the CSV, the rulers beside them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as made

from ssl_split.report import build, leaks
from ssl_split.report.collect import collect
from ssl_split.report.table import Study, study


def add(run: Path, name: str, **values: Any) -> None:
    """A result of an attack that rebuilds nothing."""
    made.write_json(run / "attacks" / f"{name}-1" / "result.json", {
        "kind": "attack", "name": name, "options": {}, "seconds": 3.0, "checkpoint": {"finished": True}, "environment": {},
        "verdict": "A sentence.", "command": f"python -m attacks.{name.split('-')[0]}", **values})


def member(run: Path) -> None:
    """AUC .61 where guessing is .5, untrained .52."""
    add(run, "membership-alignment", auc=0.61, low=0.58, high=0.64, untrained_auc=0.52, members=1000, nonmembers=900,
        tpr={"0.01": {"value": 0.031, "low": 0.02, "high": 0.04}, "0.001": {"value": None, "reason": "too few"}}, needs=["query"])


def fewshot(run: Path) -> None:
    """45 % with neighbours, 40 % by a line; untrained 30, pixels 35 %."""
    def row(features: str, classifier: str, shots: int | None, accuracy: float) -> dict[str, Any]:
        return {"features": features, "classifier": classifier, "shots": shots, "accuracy": accuracy, "low": accuracy - 0.03,
                "high": accuracy + 0.03}

    add(run, "label-fewshot", chance=0.11, needs=["smashed", "aux_labels"],
        untrained=[row("flat", "line", 5, 0.3), row("flat", "line", 1, 0.2)],
        rows=[row("flat", "line", 5, 0.40), row("pooled", "neighbours", None, 0.45)], pixels=[row("pixels", "line", None, 0.35)])


def norm(run: Path) -> None:
    """Rows of classes, and their mean as the last one."""
    add(run, "label-norm", chance=0.5, needs=["gradient_view"],
        rows=[{"class": 0, "auc": 0.9, "low": 0.8, "high": 1.0}, {"class": None, "auc": 0.7, "low": 0.65, "high": 0.75}],
        untrained=[{"class": 0, "auc": 0.5}, {"class": None, "auc": 0.55}])


def read(directory: Path) -> Study:
    """The study of a folder."""
    return study(collect(directory))


def test_findings_hold_the_numbers_of_the_files(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.add_attack(run, 0.02)
    for attack in (member, fewshot, norm):
        attack(run)
    (found,) = leaks.memberships(read(tmp_path))
    assert (found.measure, found.value, found.low, found.high, found.chance) == ("AUC", 0.61, 0.58, 0.64, 0.5)
    assert found.rulers == {"untrained": 0.52}
    assert found.way == "1000 members, 900 others; 0.031 of the members at 1 % false alarms"
    shots, gradient = leaks.labels(read(tmp_path))
    assert (shots.measure, shots.value, shots.chance, dict(shots.rulers)) == ("accuracy", 0.45, 0.11, {"untrained": 0.3, "pixels": 0.35})
    assert shots.way == "pooled, neighbours, all images, best of its ways on the targets: an upper envelope"  # a result from before
    assert (gradient.measure, gradient.value, gradient.chance, dict(gradient.rulers)) == ("AUC", 0.7, 0.5, {"untrained": 0.55})


@pytest.mark.parametrize(("chosen", "said"), [("the attacker's own images", ""), (
    "the targets: an upper envelope", ", best of its ways on the targets: an upper envelope")])
def test_the_way_that_an_attack_chose_counts(tmp_path: Path, chosen: str, said: str) -> None:
    """Not the best of them; its rulers are those that were chosen in the same manner."""
    run = made.make_run(tmp_path)
    fewshot(run)
    file = run / "attacks" / "label-fewshot-1" / "result.json"
    values = made.json.loads(file.read_text(encoding="utf-8"))
    made.write_json(file, values | {"headline": 0, "headline_from": chosen, "untrained_accuracy": 0.2, "pixels_accuracy": 0.34})
    (found,) = leaks.labels(read(tmp_path))
    assert (found.value, found.low, dict(found.rulers)) == (0.40, pytest.approx(0.37), {"untrained": 0.2, "pixels": 0.34})
    assert found.way == "flat, line, 5 a class" + said


@pytest.mark.usefixtures("undrawn")
def test_pages_and_csv_show_them_beside_their_rulers(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.add_attack(run, 0.02)
    for attack in (member, fewshot, norm):
        attack(run)
    data = made.data_of(build.write(tmp_path).read_text(encoding="utf-8"))
    (shown,) = [row for row in data["labels"] if row["label"] == "label-fewshot"]
    assert [shown[k] for k in ("value", "low", "high", "chance")] == [0.45, 0.42, 0.48, 0.11]
    assert shown["rulers"] == {"untrained": 0.3, "pixels": 0.35}
    (shown,) = data["memberships"]
    assert "query" in shown["needs"]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| 0.610 \\[0.580, 0.640\\] | 0.500 | 0.520 | – |" in text
    table = list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))
    (row,) = [r for r in table if r["name"] == "membership-alignment"]
    assert (row["auc"], row["untrained_auc"], row["tpr_at_0.01"], row["tpr_at_0.001"]) == ("0.61", "0.52", "0.031", "")


@pytest.mark.usefixtures("undrawn")
def test_identification_stands_beside_the_reconstruction(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    folder = made.add_attack(run, 0.02)
    values = made.json.loads((folder / "result.json").read_text(encoding="utf-8"))
    made.write_json(folder / "result.json", values | {
        "identification": {"gallery": 1128, "chance_top1": 0.00089, "pixels": {"top1": {"rate": 0.953, "low": 0.9, "high": 1.0}}},
        "classification": {"reconstructions": {"rate": 0.31}, "true_targets": {"rate": 0.52}, "chance": 0.1}})
    data = made.data_of(build.write(tmp_path).read_text(encoding="utf-8"))
    scores = data["runs"][0]["outcomes"][0]["scores"]
    names = ("identified_top1", "identified_chance", "class_told", "class_told_of_truth")
    assert [scores[k] for k in names] == [0.953, 0.00089, 0.31, 0.52]
    assert data["groups"][0]["values"]["identified"][:3] == [0.953, 0.9, 1.0]


@pytest.mark.usefixtures("undrawn")
def test_damaged_results_are_left_out(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    add(run, "membership-norm", auc="high")
    add(run, "label-fewshot", rows=[])
    add(run, "label-norm", rows=["no mapping"])
    assert leaks.memberships(read(tmp_path)) == leaks.labels(read(tmp_path)) == []
    data = made.data_of(build.write(tmp_path).read_text(encoding="utf-8"))
    assert data["memberships"] == data["labels"] == []
