"""The recommendation in words, for those who read `report.md` or a page without scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split.report import build
from ssl_split.report.advice import advise
from ssl_split.report.collect import collect
from ssl_split.report.decide import first_budget, recommend, rivals
from ssl_split.report.table import Study, study


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


@pytest.mark.usefixtures("undrawn")
def test_report_and_page_recommend_at_the_first_budget(tmp_path: Path) -> None:
    """R2 from -.06 to .87: budget .45; its setting, numbers, rivals, and what the budget is."""
    made.make_study(tmp_path)
    made.make_run(tmp_path / "runs", cut=5)
    groups = read(tmp_path).groups
    advice, budget = advise(groups), first_budget(groups)
    assert advice is not None
    assert budget.leakage == pytest.approx(0.45)
    assert advice.lead == "Most accurate with R2 at most 0.450"
    assert advice.chosen is recommend(groups, budget)
    (rival,) = rivals(groups, budget, advice.chosen)
    page = build.write(tmp_path).read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", "")
    close = f"Not clearly less accurate, within the budget: {rival.title}."
    for said in ("monacosfl at cut 9", "accuracy 59.4 % ± 1.0 [56.9, 61.9]", close,
                 "1 setting has no accuracy or no attack", "a place to start from, not advice"):
        assert said.lower() in text.lower(), said
        assert said.lower() in made.still(page).lower(), said
    assert f"**{advice.lead}: [monacosfl at cut 9](#{advice.chosen.anchor}).**" in text


def test_a_choice_that_learned_nothing_is_called_so(tmp_path: Path) -> None:
    """37 % within a per cent of raw pixels, and below the untrained network."""
    run = made.make_run(tmp_path)
    made.add_probe(run, made.RAW + 0.01)
    made.add_attack(run, 0.03)
    advice = advise(read(tmp_path).groups)
    assert advice is not None
    assert ("Its accuracy is not clearly above raw pixels and an untrained network: within this budget nothing was learned that they do "
            "not give.") in advice.notes


@pytest.mark.usefixtures("undrawn")
def test_without_an_attack_there_is_nothing_to_choose_from(tmp_path: Path) -> None:
    made.add_probe(made.make_run(tmp_path), 0.5)
    assert advise(read(tmp_path).groups) is None
    page = build.write(tmp_path).read_text(encoding="utf-8")
    for text in (made.still(page), (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert "There is nothing to choose from yet" in text
