"""Numbers of the report are the numbers of the files, and seeds are summarised as the closed forms say."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split.report import build, curves, figures, measures, rows, verdicts
from ssl_split.report.collect import DAMAGED, FINISHED, MISSING, UNFINISHED, collect
from ssl_split.report.flags import flags
from ssl_split.report.table import MONITORS, Study, pareto, strongest, study

T_2, T_3 = 12.706204736, 4.302652730
"""Student's t, two-sided 95 %, 1 and 2 degrees of freedom."""


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


def table(directory: Path) -> list[dict[str, str]]:
    """`results.csv`, written and parsed."""
    rows.write(read(directory), directory / "results.csv")
    with (directory / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_holds_the_numbers_of_the_files(tmp_path: Path) -> None:
    """2 algorithms x 3 cuts x 3 seeds, each with a probe and three attacks: 72 rows."""
    made.make_study(tmp_path)
    found = table(tmp_path)
    assert len(found) == 72
    assert tuple(found[0]) == rows.COLUMNS
    for row in found:
        algorithm, cut, seed = row["algorithm"], int(row["cut"]), int(row["seed"])
        assert float(row["mib_per_client"]) == 100 + cut * (20 if algorithm == "monacosfl" else 10)
        assert float(row["mib_per_client_published_formula"]) == float(row["mib_per_client"]) / 2
        assert int(row["client_parameters"]) == 1856 * cut
        if row["kind"] == "probe":
            value = made.accuracy_of(algorithm, cut, seed)
            assert (float(row["accuracy"]), float(row["low"]), float(row["high"])) == (value, value - 0.01, value + 0.01)
            assert (float(row["raw_pixels_accuracy"]), float(row["untrained_accuracy"])) == (made.RAW, made.UNTRAINED)
            assert row["mse"] == ""
        elif row["name"] == "ridge":
            assert float(row["mse"]) == made.mse_of(algorithm, cut, seed)
            assert float(row["r2"]) == 1 - made.mse_of(algorithm, cut, seed) / made.BLIND_MSE
            assert float(row["mse_low"]) == made.mse_of(algorithm, cut, seed) - 0.001
            assert (row["attacker_seeds"], row["strongest"], row["accuracy"]) == ("3", "True", "")
        else:
            assert row["strongest"] == ""
    assert sorted({r["name"] for r in found}) == ["blind", "decoder", "linear", "ridge"]


def test_three_seeds_are_mean_deviation_and_t_interval(tmp_path: Path) -> None:
    """a, a + 0.01, a + 0.02: mean a + 0.01, deviation 0.01, half interval t(2) 0.01 / sqrt 3."""
    made.make_study(tmp_path)
    groups = read(tmp_path).groups
    assert len(groups) == 6
    for group in groups:
        value, first = group.values["accuracy"], made.accuracy_of(group.algorithm, int(group.cut), 0)
        assert value.n == 3
        assert value.mean == pytest.approx(first + 0.01)
        assert value.sd == pytest.approx(0.01)
        half = T_3 * 0.01 / math.sqrt(3)
        assert (value.low, value.high) == pytest.approx((first + 0.01 - half, first + 0.01 + half))
        error = group.values["mse"]  # nested attacker seeds are one number each: n is 3, not 9
        assert error.n == 3
        assert error.mean == pytest.approx(made.mse_of(group.algorithm, int(group.cut), 0) + 0.0005)
        assert error.sd == pytest.approx(0.0005)
        assert group.values["mib_per_client"].sd == 0


def test_one_and_two_seeds(tmp_path: Path) -> None:
    """One: the interval of the run itself. Two: a deviation and no interval."""
    made.make_study(tmp_path / "one", cuts=(1,), seeds=1, algorithms=("mocosfl",))
    (group,) = read(tmp_path / "one").groups
    value, a = group.values["accuracy"], made.accuracy_of("mocosfl", 1, 0)
    assert (value.n, value.sd, value.mean, value.low, value.high) == (1, None, a, a - 0.01, a + 0.01)
    error = group.values["mse"]
    assert (error.low, error.high) == (error.mean - 0.001, error.mean + 0.001)
    made.make_study(tmp_path / "two", cuts=(1,), seeds=2, algorithms=("mocosfl",))
    (group,) = read(tmp_path / "two").groups
    value = group.values["accuracy"]
    assert (value.n, value.low, value.high) == (2, None, None)
    assert value.sd == pytest.approx(0.01 / math.sqrt(2))


def test_the_strongest_attack_is_chosen_on_validation_images(tmp_path: Path) -> None:
    """The decoder is better on the targets and the blind guess on validation images: neither has a say."""
    made.make_study(tmp_path, cuts=(1,), seeds=1, algorithms=("mocosfl",))
    (run,) = read(tmp_path).runs
    assert {o.name for o in run.of("attack")} == {"ridge", "decoder", "blind"}
    chosen = strongest(run)
    assert chosen is not None
    assert chosen.name == "ridge"


def test_attackers_with_other_images_do_not_compete(tmp_path: Path) -> None:
    """Their validation images, or the images that they rebuild, are other ones; alone, another source counts."""
    run = made.make_run(tmp_path)
    apart = {"colluders": {"aux_from": "clients 0, 3"}, "photos": {"aux_from": "data set photos"}, "views": {"truth": "augmented view"}}
    for name, sets in apart.items():
        made.change(made.add_attack(run, 0.01, aux_clients=name), "result.json", sets=sets)
    made.change(made.add_attack(run, 0.005, name="decoder"), "result.json", preset="mocosfl_published")
    assert strongest(read(tmp_path).runs[0]) is None
    made.add_attack(run, 0.03, name="optimise")
    chosen = strongest(read(tmp_path).runs[0])
    assert chosen is not None
    assert chosen.name == "optimise"
    text = " ".join(measures.measured(read(tmp_path)))
    assert "own images come from the test split, which no client holds. In some attacks they come from clients 0, 3 or" in text
    assert "Some attacks rebuilt random views of the images" in text


def test_another_source_of_images_counts_where_it_is_the_only_one(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.change(made.add_attack(run, 0.01), "result.json", sets={"aux_from": "clients 0, 3"})
    chosen = strongest(read(tmp_path).runs[0])
    assert chosen is not None
    assert "In some attacks" not in " ".join(measures.measured(read(tmp_path)))


def test_seeds_and_settings_are_kept_apart(tmp_path: Path) -> None:
    """Another width is another setting; another seed or device is not."""
    for seed, width, device in ((0, 0.25, "cpu"), (1, 0.25, "auto"), (0, 0.5, "cpu")):
        made.make_run(tmp_path, seed=seed, width=width, device=device)
    groups = read(tmp_path).groups
    assert [(g.setting, [r.seed for r in g.runs]) for g in groups] == [("width 0.25", [0, 1]), ("width 0.5", [0])]


def test_variants_of_a_probe_are_named_by_what_differs(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.5, epochs=10)
    made.add_probe(run, 0.6, epochs=100)
    made.add_probe(run, 0.7, name="knn", features="smashed")
    found = read(tmp_path)
    assert set(found.probes) == {"linear (epochs 10)", "linear (epochs 100)", "knn"}
    assert found.accuracy in ("linear (epochs 10)", "linear (epochs 100)")  # never the one on smashed data


def test_smashed_data_is_no_headline(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.7, name="knn", features="smashed")
    assert read(tmp_path).accuracy == MONITORS["validation_knn"]


def test_behind_a_defence_what_the_server_receives_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The headline is the probe behind the defence where both were made; R2 of who knows the defence, and of who does not, stand apart."""
    for defence, accuracy, mse, unaware in (("none", 0.6, 0.01, None), ("gaussian", 0.5, 0.03, 0.045), ("quantise", 0.55, 0.012, 0.6)):
        run = made.make_run(tmp_path, defence=defence)
        made.add_probe(run, 0.6)
        made.add_probe(run, accuracy, features="received")
        made.add_attack(run, mse, unaware=unaware)
    found = read(tmp_path)
    assert found.accuracy == "linear (features received)"
    known = {g.runs[0].config["defence"]: g for g in found.groups}
    assert {k: g.mean("accuracy") for k, g in known.items()} == {"none": 0.6, "gaussian": 0.5, "quantise": 0.55}
    assert known["gaussian"].mean("r2") == pytest.approx(0.5)
    assert known["gaussian"].mean("unaware_r2") == pytest.approx(0.25)
    assert known["none"].mean("unaware_r2") is None
    monkeypatch.setattr(curves, "draw", lambda study, folder: [])
    page = build.write(tmp_path).read_text(encoding="utf-8")
    assert "R2, defence unknown" in page
    assert [g["defended"] for g in made.data_of(page)["groups"]].count(True) == len(known) - 1
    drawn = (tmp_path / "figures" / "defences.svg").read_text(encoding="utf-8")
    assert "cut 13" in drawn
    assert "quantise" in drawn


def test_without_defences_there_is_no_plane_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.6)
    made.add_attack(run, 0.01)
    monkeypatch.setattr(curves, "draw", lambda study, folder: [])
    monkeypatch.setattr(figures, "draw", lambda study, folder: [d for d in [figures.defences(study, folder)] if d])
    (group,) = made.data_of(build.write(tmp_path).read_text(encoding="utf-8"))["groups"]
    assert not group["defended"]
    assert not (tmp_path / "figures" / "defences.svg").exists()


def test_labels_on_the_wire_are_named(tmp_path: Path) -> None:
    """A server that is sent labels needs no attack to know the classes."""
    made.make_run(tmp_path)
    said = [s for s in verdicts.sentences(read(tmp_path)) if "label_up" in s]
    assert said == []
    supervised = made.make_run(tmp_path, algorithm="smofi")
    values = json.loads((supervised / "result.json").read_text(encoding="utf-8"))
    values["bytes"]["up"]["label_up"] = 8000
    made.write_json(supervised / "result.json", values)
    said = [s for s in verdicts.sentences(read(tmp_path)) if "label_up" in s]
    assert len(said) == 1
    assert said[0].startswith("smofi: ")


def test_the_classifiers_own_accuracy_is_a_headline(tmp_path: Path) -> None:
    """On the output of the head, which for other probes is no headline."""
    run = made.make_run(tmp_path, algorithm="smofi")
    made.add_probe(run, 0.6, name="classifier", features="projector")
    made.add_probe(run, 0.9, name="knn", features="smashed")
    assert read(tmp_path).accuracy == "classifier"


def test_states_of_runs(tmp_path: Path) -> None:
    made.make_run(tmp_path, seed=0)
    made.make_run(tmp_path, seed=1, finished=False)
    damaged = made.make_run(tmp_path, seed=2)
    (damaged / "result.json").write_text('{"kind": "run", "fin')
    (tmp_path / "no-run").mkdir()
    found = {r.seed: r for r in collect(tmp_path).runs}
    assert {s: r.state for s, r in found.items()} == {0: FINISHED, 1: UNFINISHED, 2: DAMAGED}
    assert "result.json" in str(found[2].reason)
    assert len(table(tmp_path)) == 3


def jobs_file(directory: Path) -> None:
    """A sweep of two trainings and two probes: one training failed, one probe failed."""
    done = made.make_run(directory / "runs", cut=1)
    entries = []
    for cut, run, state, reason in ((1, done.name, "done", None), (17, "monacosfl-cut17-x", "failed", "loss is nan")):
        setting = {"algorithm": "monacosfl", "cut": cut, "dataset": "cifar10", "seed": 0}
        entries.append({"key": run, "label": f"train cut={cut}", "state": state, "reason": reason, "command": f"python train {cut}",
                        "log": f"logs/{run}.log", "run": f"runs/{run}", "seconds": 1.0, "stage": None, "setting": setting})
        entries.append({"key": run + "p", "label": f"probe linear cut={cut}", "state": "failed" if cut == 1 else "skipped",
                        "reason": "probes need labels" if cut == 1 else "its training failed", "command": "python probe",
                        "log": "logs/p.log", "run": f"runs/{run}", "seconds": None, "setting": setting,
                        "stage": {"kind": "probe", "name": "linear", "options": {}}})
    made.write_json(directory / "jobs.json", {"name": "trial", "question": "Why?", "command": "python -m ssl_split.sweep", "jobs": entries})


@pytest.mark.usefixtures("undrawn")
def test_missing_and_failed_jobs_are_shown_with_reasons(tmp_path: Path) -> None:
    jobs_file(tmp_path)
    found = read(tmp_path)
    assert [(g.cut, [r.state for r in g.runs]) for g in found.groups] == [(1, [FINISHED]), (17, [MISSING])]
    page = build.write(tmp_path).read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for reason in ("failed: loss is nan", "probes need labels"):
        assert reason in page
        assert reason in text
    assert page.count('href="#missing">missing') >= 2
    found_rows = table(tmp_path)
    assert [(r["cut"], r["state"], r["outcome_state"], r["outcome_reason"]) for r in found_rows] == [
        ("1", FINISHED, "failed", "probes need labels"), ("17", MISSING, "skipped", "its training failed")]


def test_arms_are_named_as_in_the_sweep_and_keep_its_order(tmp_path: Path) -> None:
    """And widths, a further axis, are not taken for seeds of one arm."""
    entries = []
    for width, (arm, syncs) in itertools.product((0.5, 1.0), (("ten syncs", 10), ("a single one", 1))):
        run = made.make_run(tmp_path / "runs", syncs_per_round=syncs, width=width)
        setting = {"algorithm": "monacosfl", "cut": 13, "dataset": "cifar10", "seed": 0, "width": width, "arm": arm}
        entries.append({"key": run.name, "label": arm, "state": "done", "reason": None, "command": "python", "log": "logs/x.log",
                        "run": f"runs/{run.name}", "seconds": 1.0, "stage": None, "setting": setting})
    made.write_json(tmp_path / "jobs.json", {"name": "trial", "question": "Why?", "command": "python", "jobs": entries})
    expected = [f"{arm}, width {width}" for width in (0.5, 1.0) for arm in ("ten syncs", "a single one")]
    assert [g.setting for g in read(tmp_path).groups] == expected
    assert [row["setting"] for row in table(tmp_path)] == expected


def test_arms_on_an_axis_inside_a_section_are_kept_apart(tmp_path: Path) -> None:
    """Two partitions of one arm and seed are two settings, not two seeds."""
    entries = []
    for kind in ("shards", "dirichlet"):
        run = made.make_run(tmp_path / "runs", partition={"kind": kind})
        setting = {"algorithm": "monacosfl", "cut": 13, "seed": 0, "partition.kind": kind, "arm": "plain"}
        entries.append({"key": run.name, "label": "plain", "state": "done", "reason": None, "command": "python", "log": "logs/x.log",
                        "run": f"runs/{run.name}", "seconds": 1.0, "stage": None, "setting": setting})
    made.write_json(tmp_path / "jobs.json", {"name": "trial", "question": "Why?", "command": "python", "jobs": entries})
    assert [(g.setting, len(g.runs)) for g in read(tmp_path).groups] == [("plain, partition.kind shards", 1),
                                                                         ("plain, partition.kind dirichlet", 1)]


def test_runs_outside_the_sweep_are_counted_not_shown(tmp_path: Path) -> None:
    jobs_file(tmp_path)
    made.make_run(tmp_path / "runs", cut=9)
    found = read(tmp_path)
    assert {r.cut for r in found.runs} == {1, 17}
    assert "1 other runs in runs/ are not part of this sweep and not shown." in flags(found)


@pytest.mark.parametrize(("gains", "clear", "said"), [
    ([0.1], [True], verdicts.CLEAR), ([0.1], [False], verdicts.UNCLEAR), ([0.0], [False], verdicts.NOT), ([-0.1], [False], verdicts.NOT),
    ([0.1, 0.1], [True, True], verdicts.CLEAR), ([0.1, 0.1], [True, False], verdicts.UNCLEAR), ([0.1, -0.3], [True, False], verdicts.NOT),
    ([0.10, 0.11, 0.12], [False] * 3, verdicts.CLEAR),  # 0.11 - t(2) 0.01 / sqrt 3 = 0.085
    ([0.01, 0.02, 0.03], [True] * 3, verdicts.UNCLEAR),  # 0.02 - 0.0248 < 0: the seeds disagree too much
    ([-0.1, 0.0, 0.05], [True] * 3, verdicts.NOT),
])
def test_words_claim_what_the_intervals_carry(gains: list[float], clear: list[bool], said: str) -> None:
    assert verdicts.relation(gains, clear) == said


def test_rulers_that_are_not_beaten_are_said(tmp_path: Path) -> None:
    """Accuracy 0.36 equals raw pixels and is below the untrained 0.41; MSE 0.062 is above the blind 0.060 and the untrained 0.035."""
    run = made.make_run(tmp_path)
    made.add_probe(run, made.RAW)
    made.add_attack(run, 0.062)
    (group,) = read(tmp_path).groups
    assert verdicts.verdict(group) == [
        "accuracy 36.0 % is no better than raw pixels (36.0 %) and no better than an untrained network (41.0 %)",
        "the strongest attack (ridge, MSE 0.0620) is no better than the blind guess (0.0600) and no better than the same attack on an "
        "untrained client (0.0350)"]


def test_beaten_rulers_need_no_words(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.6)
    made.add_attack(run, 0.01)
    (group,) = read(tmp_path).groups
    assert verdicts.verdict(group) == []


def test_pareto_front(tmp_path: Path) -> None:
    """(accuracy, MSE): 0.5 at 0.05, 0.6 at 0.02, 0.55 at 0.01 (beaten by the second on both), 0.45 at 0.04 (beaten by the first)."""
    for cut, accuracy, mse in ((17, 0.5, 0.05), (13, 0.6, 0.02), (9, 0.55, 0.01), (5, 0.45, 0.04)):
        run = made.make_run(tmp_path, cut=cut)
        made.add_probe(run, accuracy)
        made.add_attack(run, mse)
    assert [g.cut for g in pareto(read(tmp_path).groups)] == [17, 13]


@pytest.mark.usefixtures("undrawn")
def test_mixed_versions_are_flagged(tmp_path: Path) -> None:
    made.make_run(tmp_path, seed=0)
    other = made.make_run(tmp_path, seed=1)
    assert flags(read(tmp_path)) == []
    changed = json.loads((other / "result.json").read_text()) | {"results_version": 2}
    made.write_json(other / "result.json", changed)
    made.write_json(other / "env.json", {"commit": "fffffff-dirty", "packages": {"torch": "2.7"}})
    page = build.write(tmp_path).read_text(encoding="utf-8")
    for said in ("Mixed results_version: 1 (1 run), 2 (1 run)", "fffffff-dirty", "versions of torch"):
        assert said in page


def test_a_ledger_that_differs_from_the_closed_form_is_flagged(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    values = json.loads((run / "result.json").read_text())
    made.write_json(run / "result.json", values | {"mib_per_client_closed_form": values["mib_per_client"] * 1.001})
    (said,) = flags(read(tmp_path))
    assert "differ from the closed form in 1 runs" in said


def test_collapsed_projections_are_flagged(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    values = json.loads((run / "result.json").read_text())
    made.write_json(run / "result.json", values | {"collapsed": True})
    (said,) = flags(read(tmp_path))
    assert said.startswith("The projections of 1 run(s) have collapsed")


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    """10 lines, one a round: x is the round, the mean of two equal seeds is each of them."""
    for seed in range(2):
        made.make_run(tmp_path, seed=seed)
    found = read(tmp_path).runs
    assert curves.line(found[0], "validation_knn") == [(5.0, 0.45), (10.0, 0.5)]
    x, mean, low, high = curves.mean_line(found, "loss")
    assert x == [float(i) for i in range(1, 11)]
    assert mean == low == high == [pytest.approx(6.0 / (1 + 0.2 * i) + 0.65) for i in range(1, 11)]


def test_long_curves_are_thinned_by_averaging(tmp_path: Path) -> None:
    """1,200 values 0 ... 1199 become 120 means of ten: 4.5, 14.5, ..."""
    run = made.make_run(tmp_path)
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": i + 1, "round": 0, "loss": i}) + "\n" for i in range(1200)))
    _, mean, _, _ = curves.mean_line(read(tmp_path).runs, "loss")
    assert mean == [4.5 + 10 * i for i in range(curves.POINTS)]
