"""Figures as files: what the issue asks for against the cut is there, and no name can be taken for a formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split.report import curves, figures
from ssl_split.report.collect import collect
from ssl_split.report.draw import Drawing, style
from ssl_split.report.table import Study, study


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


def drawn(found: Study, directory: Path, *makers: str) -> dict[str, Drawing]:
    """Figures by name, some or all."""
    with style():
        known = [getattr(figures, name)(found, directory) for name in makers] if makers else figures.draw(found, directory)
    return {one.name: one for one in known if one is not None}


def test_load_leakage_and_the_way_to_the_target_are_drawn(tmp_path: Path) -> None:
    """Each with its unit and its settings; PNG and SVG."""
    for cut in (1, 9):
        run = made.make_run(tmp_path / "runs", cut=cut)
        made.add_attack(run, 0.02)
        made.add_costs(run, seconds=2.0, mib=1.0, reached=True)
    names = drawn(read(tmp_path), tmp_path, "client", "leakage", "reached")
    assert set(names) == {"client", "leakage", "reached"}
    said = {"client": ("parameters on the client", "multiply-adds per image", "monacosfl"),
            "leakage": ("R2 of the strongest attack", "blind guess", "untrained client"),
            "reached": ("virtual seconds", "MiB, all clients", "rounds", "monacosfl at cut 9")}
    for name, texts in said.items():
        svg = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert (tmp_path / f"{name}.png").is_file()
        for text in texts:
            assert text in svg


def test_what_has_no_number_is_not_drawn(tmp_path: Path) -> None:
    made.make_run(tmp_path / "runs")
    assert set(drawn(read(tmp_path), tmp_path, "client", "leakage", "reached")) == {"client"}


@pytest.mark.parametrize("arm", ["costs $x_{ and $y", "$\\frac$", "a_b ^ \\alpha $1$"])
def test_no_name_is_taken_for_a_formula(tmp_path: Path, arm: str) -> None:
    """Dollars in an arm's name are printed; numbers of logarithmic axes are, too, and as plain text."""
    entries = []
    for cut in (1, 9):
        run = made.make_run(tmp_path / "runs", cut=cut)
        made.add_probe(run, 0.5)
        made.add_attack(run, 0.01)
        made.add_costs(run, seconds=cut, mib=1.0, reached=True)
        entries.append({"run": f"runs/{run.name}", "label": "train", "state": "done", "stage": None, "setting": {"arm": arm, "seed": 0}})
    made.write_json(tmp_path / "jobs.json", {"name": "arms", "jobs": entries})
    found = read(tmp_path)
    assert {"accuracy", "leakage", "traffic", "client", "reconstruction", "plane", "reached"} == set(drawn(found, tmp_path))
    with style():
        curves.draw(found, tmp_path)
    for file in tmp_path.glob("*.svg"):
        text = file.read_text(encoding="utf-8")
        assert "mathdefault" not in text, file
        if file.stem != "curve-online-to-mean":
            assert arm.split()[0] in text, file
    assert "1e" in (tmp_path / "divergence.svg").read_text(encoding="utf-8")
