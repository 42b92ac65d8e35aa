"""The recommendation in words, for those who read `report.md` or a page without scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split.report import build
from ssl_split.report.advice import advise
from ssl_split.report.collect import collect
from ssl_split.report.decide import Budget, first_budget, front, recommend, rivals
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
    assert ("Its accuracy is not clearly above raw pixels and an untrained network: within this budget nothing shows that more was learned "
            "than they give.") in advice.notes


BLIND = ((1, 0.5, 2.0, 50.0), (5, 0.6, 0.0, 80.0), (7, 0.6, -0.3, 70.0), (9, 0.7, 0.4, 60.0), (11, 0.4, -5.0, 90.0))
"""Cut, accuracy, R2, MiB: no attack, three that see nothing, two of them worse than a guess, and one that sees much."""


def blind_settings(directory: Path) -> None:
    """Runs with these numbers; an R2 of 2 stands for no attack."""
    for cut, accuracy, r2, mib in BLIND:
        run = made.make_run(directory, cut=cut)
        made.add_probe(run, accuracy)
        made.change(run, "result.json", mib_per_client=mib)
        if r2 < 1:
            made.add_attack(run, (1 - r2) * made.BLIND_MSE)


def test_an_attack_that_fails_worse_is_no_more_private(tmp_path: Path) -> None:
    """At R2 0, -.3 and -5 nothing is known: the more accurate leaks least, then who sends less; R2 -5 at 40 % is on no front."""
    blind_settings(tmp_path)
    groups = read(tmp_path).groups
    assert [g.mean("r2") for g in groups if g.cut in (5, 7, 11)] == pytest.approx([0.0, -0.3, -5.0])

    def chosen(goal: str, **limits: float) -> int | str:
        found = recommend(groups, Budget(**limits), goal)
        assert found is not None
        return found.cut

    assert chosen("private") == 7
    assert chosen("private", accuracy=0.65) == 9
    assert chosen("accurate", leakage=0.1) == 7
    assert chosen("cheap") == 9
    assert [g.cut for g in front(groups)] == [9, 7]
    assert first_budget(groups).leakage == pytest.approx(0.2)
    advice = advise(groups)
    assert advice is not None
    assert advice.chosen.cut == 7


@pytest.mark.usefixtures("undrawn")
def test_without_an_attack_there_is_nothing_to_choose_from(tmp_path: Path) -> None:
    made.add_probe(made.make_run(tmp_path), 0.5)
    assert advise(read(tmp_path).groups) is None
    page = build.write(tmp_path).read_text(encoding="utf-8")
    for text in (made.still(page), (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert "There is nothing to choose from yet" in text
