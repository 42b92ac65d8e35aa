"""Time and work in the report: the second table, `results.csv`, and curves against bytes and virtual time."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split.report import build, columns, curves, rows
from ssl_split.report.collect import collect
from ssl_split.report.draw import style
from ssl_split.report.table import study


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all curves only those of the validation are drawn."""
    monkeypatch.setattr(curves, "CURVES", tuple(c for c in curves.CURVES if c.metric.startswith("validation")))
    monkeypatch.setattr(curves, "_final", lambda study, folder: None)


def drawn(directory: Path) -> set[str]:
    """Names of the curves against something else than the round."""
    with style():
        curves.draw(study(collect(directory)), directory / "figures")
    return {p.stem for p in (directory / "figures").glob("curve-validation-*.svg")} - {"curve-validation-knn"}


def test_the_second_table_and_the_csv_hold_the_numbers_of_the_files(tmp_path: Path) -> None:
    """Seeds of 2 and 4 virtual seconds a round; only the first came to the target, after 6 rounds of 1.5 MiB."""
    for seed, reached in ((0, True), (1, False)):
        made.add_costs(made.make_run(tmp_path, seed=seed), seconds=2.0 * (1 + seed), mib=1.5, reached=reached)
    (group,) = study(collect(tmp_path)).groups
    assert {name: (value.mean, value.n) for name, value in group.values.items() if name in {c.key for c in columns.COSTS}} == {
        "virtual_seconds": (33.0, 2), "waiting_share_fastest": (0.25, 2), "client_flops_mean": (2.5e9, 2), "server_flops": (4.2e12, 2),
        "reached_rounds": (6.0, 1), "reached_mib": (9.0, 1), "reached_virtual_seconds": (12.0, 1)}
    text = build.write(tmp_path).read_text(encoding="utf-8")
    table = text[text.index('<section id="cost">') : text.index('<section id="figures">')]
    for said in ("fastest client waits", ">25.0 %</a>", ">2.5</a>", ">4,200</a>", ">33</a>", ">9.00</a>", "1 of 2 seeds", "(45.0 %)"):
        assert said in table
    assert sorted(run["reached"]["target"] for run in made.data_of(text)["runs"]) == [0.45, 0.45]
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| Virtual time: seconds | Virtual time: fastest client waits | GFLOPs: client, mean |" in markdown
    assert "(1 of 2 seeds)" in markdown
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == rows.COLUMNS
    expected = {"virtual_seconds": 22.0, "waiting_share_fastest": 0.25, "waiting_share_mean": 0.125, "client_flops_mean": 2.5e9,
                "client_flops_most": 3e9, "server_flops": 4.2e12, "target_accuracy": 0.45, "reached_rounds": 6, "reached_mib": 9,
                "reached_virtual_seconds": 12}
    assert {name: float(first[name]) for name in expected} == expected
    assert (second["target_accuracy"], second["reached_rounds"], second["reached_mib"]) == ("0.45", "", "")


@pytest.mark.usefixtures("undrawn")
def test_columns_without_any_number_are_hidden(tmp_path: Path) -> None:
    """No target, and nobody waits; runs of an earlier version have none of it."""
    run = made.make_run(tmp_path)
    text = build.write(tmp_path).read_text(encoding="utf-8")
    assert 'id="cost"' not in text
    assert "Virtual time" not in made.still(text)
    assert "Time and work" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    made.add_costs(run, seconds=1.0, mib=1.0, waits=None)
    found = study(collect(tmp_path))
    assert [c.key for c in columns.columns(found, columns.COSTS)] == ["virtual_seconds", "client_flops_mean", "server_flops"]
    text = build.write(tmp_path).read_text(encoding="utf-8")
    assert "Target:" not in made.still(text)
    assert columns.TARGET not in made.still(text)


def test_lines_against_bytes_and_time(tmp_path: Path) -> None:
    """Validations after 6 and 11 rounds; the place of a mean over seeds is the mean of their places."""
    for seed in range(2):
        made.add_costs(made.make_run(tmp_path, seed=seed), seconds=2.0 + seed, mib=1.5)
    runs = sorted(collect(tmp_path).runs, key=lambda run: run.seed or 0)
    assert curves.line(runs[0], "validation_knn", curves.SENT) == [(9.0, 0.45), (16.5, 0.5)]
    assert curves.line(runs[1], "validation_knn", curves.TIME) == [(18.0, 0.45), (33.0, 0.5)]
    assert curves.mean_line(runs, "validation_knn", curves.TIME) == ([15.0, 27.5], [0.45, 0.5], [0.45, 0.5], [0.45, 0.5])
    assert curves.line(runs[0], "loss", curves.TIME) == []


@pytest.mark.usefixtures("alone")
def test_without_numbers_in_the_metrics_nothing_is_drawn(tmp_path: Path) -> None:
    for algorithm in ("mocosfl", "monacosfl"):
        made.make_run(tmp_path, algorithm=algorithm)
    assert drawn(tmp_path) == set()
    assert {p.stem for p in (tmp_path / "figures").glob("*.svg")} == {"curve-validation-knn"}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("seconds", "mib", "names"), [
    ((1.0, 1.0), (2.0, 2.0), set()),
    ((1.0, 1.0), (2.0, 3.0), {"curve-validation-knn-mib"}),
    ((1.0, 40.0), (2.0, 2.0), {"curve-validation-knn-seconds"}),
    ((1.0, 2.0), (0.0, 3.0), {"curve-validation-knn-seconds"}),  # centralised training sends nothing: one line is left
])
def test_an_axis_that_is_the_round_in_another_unit_is_not_drawn(
    tmp_path: Path, seconds: tuple[float, float], mib: tuple[float, float], names: set[str]
) -> None:
    """Two algorithms at one cut share a panel."""
    runs = [made.make_run(tmp_path, algorithm=algorithm) for algorithm in ("mocosfl", "monacosfl")]
    for run, time, size in zip(runs, seconds, mib, strict=True):
        made.add_costs(run, seconds=time, mib=size)
    assert drawn(tmp_path) == names
    for name in names:
        svg = (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert "monacosfl" in svg
        assert "cut 13" in svg
