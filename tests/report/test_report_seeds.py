"""What counts as a seed, as a version, and as the end of training: what repeats or came before is named, and never taken for more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split.report import build, curves, published, verdicts
from ssl_split.report.collect import collect
from ssl_split.report.decide import Budget, affordable, first_budget
from ssl_split.report.flags import flags
from ssl_split.report.table import Study, strongest, study

MIDDLE = {"file": "step-00000050.safetensors", "step": 50, "finished": False}
BEST = {"file": "best.safetensors", "step": 50, "finished": False}


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


def test_copies_of_a_run_are_one_seed(tmp_path: Path) -> None:
    """Three copies of one run: n is 1, the interval is that of its images, and nothing is clearer than for the run alone."""
    run = made.make_run(tmp_path, seed=4)
    made.add_probe(run, made.UNTRAINED + 0.015)  # intervals of one per cent to either side overlap
    made.add_attack(run, 0.02)
    (alone,) = read(tmp_path).groups
    for copy in ("b", "c"):
        shutil.copytree(run, tmp_path / f"{run.name}-{copy}")
    found = read(tmp_path)
    (group,) = found.groups
    assert (len(group.runs), group.seeds, group.repeated) == (3, 1, [4])
    for name, value in alone.values.items():
        repeated = group.values[name]
        assert (repeated.mean, repeated.n, repeated.sd, repeated.low, repeated.high) == pytest.approx(
            (value.mean, 1, None, value.low, value.high)), name
        assert len(repeated.parts) == 3
    assert verdicts.accuracy_against(group, "untrained") == verdicts.accuracy_against(alone, "untrained") == verdicts.UNCLEAR
    assert flags(found) == [f"Several runs of one seed stand in one setting: {group.title} (seed 4). They are averaged and count as one "
                            "seed."]


def test_repeats_are_averaged_inside_their_seed(tmp_path: Path) -> None:
    """Seed 0 twice, .5 and .6, and seed 1, .8: two seeds with means .55 and .8, not three runs."""
    for seed, accuracy in ((0, 0.5), (0, 0.6), (1, 0.8)):
        run = made.make_run(tmp_path / "made" / str(accuracy), seed=seed)
        made.add_probe(run, accuracy)
        run.rename(tmp_path / f"run-{accuracy}")
    (group,) = read(tmp_path).groups
    value = group.values["accuracy"]
    assert (value.n, value.mean, value.low) == (2, pytest.approx(0.675), None)
    assert value.sd == pytest.approx(0.25 / 2**0.5)


@pytest.mark.usefixtures("undrawn")
def test_curves_average_repeats_inside_their_seed(tmp_path: Path) -> None:
    """Losses 1 and 3 of seed 0, 6 of seed 1: the mean is 4, and the band goes from 2 to 6; repeats of a single seed have no band."""
    for seed, loss in ((0, 1.0), (0, 3.0), (1, 6.0)):
        run = made.make_run(tmp_path / "made" / str(loss), seed=seed, rounds=4)
        (run / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "round": s, "loss": loss + s}) + "\n" for s in range(4)))
        run.rename(tmp_path / f"run-{loss}")
    (group,) = read(tmp_path).groups
    _, mean, low, high = curves.mean_line(group.runs, "loss")
    assert [(m - s, a - s, b - s) for s, (m, a, b) in enumerate(zip(mean, low, high, strict=True))] == [pytest.approx((4, 2, 6))] * 4
    _, mean, low, high = curves.mean_line(group.runs, "loss", most=2)
    assert (mean, low, high) == (pytest.approx([4.5, 6.5]), pytest.approx([2.5, 4.5]), pytest.approx([6.5, 8.5]))
    assert [len(point) for point in drawn_line(tmp_path)] == [4] * 4
    shutil.rmtree(tmp_path / "run-6.0")
    assert [len(point) for point in drawn_line(tmp_path)] == [2] * 4


def drawn_line(directory: Path) -> list[list[float]]:
    """What the page draws of the only setting's loss."""
    (loss,) = (c for c in made.data_of(build.write(directory).read_text(encoding="utf-8"))["curves"] if c["name"] == "curve-loss")
    line: list[list[float]] = loss["lines"]["0"]
    return line


@pytest.mark.usefixtures("undrawn")
def test_runs_of_an_earlier_version_are_a_setting_of_their_own(tmp_path: Path) -> None:
    """The newest keeps the name of the setting; one that has not started has no version and stays with it."""
    for seed, version in ((0, 1), (1, 2), (2, 2)):
        run = made.make_run(tmp_path, seed=seed)
        made.add_probe(run, 0.5 + 0.1 * seed)
        made.change(run, "result.json", results_version=version)
    made.make_run(tmp_path, seed=3, finished=False)
    begun = made.make_run(tmp_path, seed=4, finished=False)
    made.change(begun, "env.json", results_version=1)
    found = read(tmp_path)
    assert [(g.setting, [r.seed for r in g.runs]) for g in found.groups] == [("", [1, 2, 3]), ("results_version 1", [0, 4])]
    assert [g.values["accuracy"].n for g in found.groups] == [2, 1]
    assert ("Mixed results_version: 2 (2 runs), 1 (1 run). Numbers of different versions may not compare; runs of an earlier one are "
            "settings of their own.") in flags(found)
    page = build.write(tmp_path).read_text(encoding="utf-8")
    assert "results_version 1" in made.still(page)


def test_weights_before_the_end_and_best_ones_are_named(tmp_path: Path) -> None:
    """In whatever order their folders stand, for every seed alike; what changes numbers stands in front."""
    for seed in range(4):
        run = made.make_run(tmp_path, seed=seed)
        for checkpoint, value in ((made.LAST, 0.5), (BEST, 0.6), (MIDDLE, 0.7)):
            made.add_probe(run, value, checkpoint=checkpoint, salt=seed)
            made.add_attack(run, 0.1 * value, checkpoint=checkpoint)
    found = read(tmp_path)
    assert set(found.probes) == {f"linear (salt {seed}{rest})" for seed in range(4) for rest in ("", ", best", ", step 50")}
    assert set(found.attacks) == {"ridge", "ridge (best)", "ridge (step 50)"}
    for run in found.runs:
        for outcome in run.of("attack"):
            assert outcome.number("mse") == pytest.approx(0.1 * {"": 0.5, "best": 0.6, "step 50": 0.7}[outcome.weights])


def test_headline_and_strongest_attack_are_those_at_the_end(tmp_path: Path) -> None:
    """Although more runs have a probe on the best weights, and an unfinished client was easier to attack."""
    for seed in range(3):
        run = made.make_run(tmp_path, seed=seed)
        made.add_probe(run, 0.9, checkpoint=BEST)
        made.add_probe(run, 0.8, checkpoint=MIDDLE)
        made.add_attack(run, 0.01, checkpoint=MIDDLE)
        if seed < 2:
            made.add_probe(run, 0.5 + 0.1 * seed)
            made.add_attack(run, 0.03)
    found = read(tmp_path)
    (group,) = found.groups
    assert found.accuracy == "linear"
    assert (group.mean("accuracy"), group.values["accuracy"].n) == (pytest.approx(0.55), 2)
    assert (group.mean("mse"), group.values["mse"].n, group.attack) == (pytest.approx(0.03), 2, "ridge")
    assert strongest(next(r for r in found.runs if r.seed == 2)) is None


def test_where_only_the_best_weights_were_measured_they_count_and_are_named(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.9, checkpoint=BEST)
    made.add_probe(run, 0.95, checkpoint=MIDDLE)
    made.add_attack(run, 0.03, checkpoint=BEST)
    found = read(tmp_path)
    assert (found.accuracy, found.groups[0].mean("accuracy"), found.groups[0].attack) == ("linear (best)", 0.9, "ridge (best)")


def test_unfinished_weights_stand_beside_no_published_figure(tmp_path: Path) -> None:
    run = made.make_run(tmp_path, algorithm="mocosfl", cut=1, dataset="cifar10")
    made.add_probe(run, 0.5, checkpoint=MIDDLE)
    assert {row.number.measure for row in published.beside(read(tmp_path))} == {"mib"}
    made.add_probe(run, 0.6)
    assert {row.what for row in published.beside(read(tmp_path)) if row.number.measure == "linear"} == {"linear"}


def test_a_probe_made_again_by_a_newer_version_keeps_the_name(tmp_path: Path) -> None:
    """The folder's name, a hash, has no say."""
    for seed in range(4):
        run = made.make_run(tmp_path, seed=seed)
        for version in (1, 2):
            made.add_probe(run, 0.1 * version, environment={"results_version": version, "salt": seed})
    found = read(tmp_path)
    assert found.accuracy == "linear"
    assert {value for group in found.groups for _, value in group.values["accuracy"].parts} == {0.2}


@pytest.mark.usefixtures("undrawn")
def test_of_two_seeds_one_that_was_probed_keeps_its_number(tmp_path: Path) -> None:
    """The page's table of seeds reads the number of each run; only a run that stands alone needs none."""
    runs = [made.make_run(tmp_path, seed=seed) for seed in (0, 1)]
    made.add_probe(runs[0], 0.6)
    lone = made.make_run(tmp_path, seed=0, cut=1)
    made.add_probe(lone, 0.5)
    data = made.data_of(build.write(tmp_path).read_text(encoding="utf-8"))
    values = {group["cut"]: group["values"]["accuracy"] for group in data["groups"]}
    assert values[13] == [0.6, pytest.approx(0.59), pytest.approx(0.61), None, 1, {f"run-{runs[0].name}": 0.6}]
    assert len(values[1]) == 5


def test_a_training_that_stopped_does_not_cut_the_mean_of_the_others(tmp_path: Path) -> None:
    """Ten lines of two seeds, two of a third: ten points of the two; without finished ones the two that all have."""
    runs = [made.make_run(tmp_path, seed=seed, finished=seed < 2) for seed in range(3)]
    file = runs[2] / "metrics.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text(encoding="utf-8").splitlines()[:2]), encoding="utf-8")
    found = read(tmp_path).runs
    x, mean, low, high = curves.mean_line(found, "loss")
    assert x == [float(i) for i in range(1, 11)]
    assert mean == low == high
    for run in runs[:2]:
        (run / "result.json").unlink()
    assert len(curves.mean_line(read(tmp_path).runs, "loss")[0]) == 2


@pytest.mark.parametrize(("lines", "places"), [
    ([(10, 0), (20, 1), (30, 2)], [1.0, 2.0, 3.0]),  # rounds of ten steps, each told at its end
    ([(5, 0), (10, 0), (15, 1)], [0.5, 1.0, 1.5]),  # stopped in the middle of the second
])
def test_rounds_of_an_unfinished_run_are_counted_from_one(tmp_path: Path, lines: list[tuple[int, int]], places: list[float]) -> None:
    """Lines name the round that they are in, from 0 on; after the first of them one round has passed, as in a finished run."""
    run = made.make_run(tmp_path, finished=False)
    text = "".join(json.dumps({"step": step, "round": inside, "loss": 1.0}) + "\n" for step, inside in lines)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    (found,) = read(tmp_path).runs
    assert [at for at, _ in curves.line(found, "loss")] == pytest.approx(places)


@pytest.mark.parametrize(("errors", "budget"), [((0.18, 0.006), 0.45), ((0.06, 0.006), 0.45), ((0.18, 0.12), 0.0)])
def test_an_r2_below_zero_leaks_no_less_than_nothing(tmp_path: Path, errors: tuple[float, ...], budget: float) -> None:
    """R2 of -2 or 0 beside 0.9: half-way from 0 to 0.9; nobody who leaks nothing is outside."""
    for cut, error in zip((17, 1), errors, strict=True):
        run = made.make_run(tmp_path, cut=cut)
        made.add_probe(run, 0.5)
        made.add_attack(run, error)
    groups = read(tmp_path).groups
    assert first_budget(groups).leakage == pytest.approx(budget)
    private = [g for g in groups if g.values["r2"].mean <= 0]
    assert private
    assert set(map(id, private)) <= set(map(id, affordable(groups, Budget(leakage=first_budget(groups).leakage))))


def test_what_computed_probes_and_attacks_is_flagged_too(tmp_path: Path) -> None:
    """The training by one commit, its probe by another."""
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.6, environment={"commit": "fffffff", "ssl_split": "0.1.0", "packages": {"torch": "2.6"}})
    assert flags(read(tmp_path)) == ["Mixed code versions (commit): abc1234 (1 run), fffffff (1 probe or attack). Numbers of different "
                                     "versions may not compare."]
    made.change(run, "env.json", commit="fffffff")
    assert flags(read(tmp_path)) == []
