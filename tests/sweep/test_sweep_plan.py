"""A sweep file becomes the jobs it names, and a mistake in it becomes one sentence before anything starts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl_split import config as configuration
from ssl_split import fields
from ssl_split.config import Config
from ssl_split.sweep import plan
from ssl_split.sweep.__main__ import main
from ssl_split.sweep.jobs import finished_run, jobs, stage_result

BASE: dict[str, Any] = {
    "config": "default.yaml",
    "fixed": {"width": 0.125, "rounds": 2, "partition": {"kind": "dirichlet"}},
    "axes": {"seed": [0, 1], "partition.beta": [0.1, 0.5], "algorithm": ["mocosfl", "monacosfl"], "cut": [1, 13, "full"]},
    "stages": [{"probe": "linear", "epochs": 3}, {"probe": "knn"}, {"probe": "knn", "features": "smashed"}],
}


def write(folder: Path, **changes: Any) -> Path:
    """The base sweep with some keys replaced; None removes a key."""
    file = folder / "trial.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in {**BASE, **changes}.items() if v is not None}, sort_keys=False))
    return file


def test_job_list_is_the_product_of_the_axes(tmp_path: Path) -> None:
    """2 seeds x 2 betas x 2 algorithms x 3 cuts, each with 3 stages: 24 trainings, 72 stages, all different."""
    sweep = plan.read(write(tmp_path))
    work = jobs(sweep, tmp_path / "out")
    assert len(sweep.cells) == 24
    assert len(work) == 24 * 4
    assert sum(j.stage is None for j in work) == 24
    assert len({j.key for j in work}) == len({j.command for j in work}) == 96
    assert len({j.run for j in work}) == 24
    assert {j.needs for j in work if j.stage} == {j.key for j in work if not j.stage}


def test_first_axis_turns_slowest(tmp_path: Path) -> None:
    cells = plan.read(write(tmp_path)).cells
    assert [c.place["seed"] for c in cells] == [0] * 12 + [1] * 12
    assert [c.place["cut"] for c in cells[:4]] == [1, 13, "full", 1]


def test_arms_replace_fixed_fields_at_every_place_and_yield_to_flags(tmp_path: Path) -> None:
    arms = {"plain": {}, "1 of 5": {"clients_per_round": 1, "rounds": 10}}
    file = write(tmp_path, axes={"seed": [0, 1], "cut": [1, 13]}, arms=arms)
    cells = plan.read(file).cells
    assert [(c.place["arm"], c.config.rounds, c.config.clients_per_round) for c in cells[:2]] == [("plain", 2, None), ("1 of 5", 10, 1)]
    assert [c.place["cut"] for c in cells] == [1, 1, 13, 13] * 2
    assert {c.config.width for c in cells} == {0.125}
    assert all("arm" not in c.flags for c in cells)
    assert {c.config.rounds for c in plan.read(file, overrides={"rounds": 3}).cells} == {3}
    settings = [j.setting["arm"] for j in jobs(plan.read(file), tmp_path) if j.stage is None]
    assert settings == ["plain", "1 of 5"] * 4


def test_conditions_leave_places_out(tmp_path: Path) -> None:
    """mocosfl at cut 1 alone; an arm with one seed; fields of sections, of the base file and defaults count too."""
    axes = {"seed": [0, 1], "algorithm": ["mocosfl", "monacosfl"], "cut": [1, 13]}
    arms = {"plain": {}, "noise": {"defence": "gaussian", "gaussian.sigma": 2.0}}
    rules = [{"if": {"algorithm": "mocosfl"}, "then": {"cut": 1}}, {"if": {"arm": "noise"}, "then": {"seed": [0]}},
             {"if": {"gaussian.sigma": [2.0], "width": 0.125}, "then": {"cut": [1, 7]}}]
    found = {(c.place["seed"], c.place["algorithm"], c.place["cut"], c.place["arm"])
             for c in plan.read(write(tmp_path, axes=axes, arms=arms, conditions=rules)).cells}
    whole = {(s, a, c, r) for s in (0, 1) for a in axes["algorithm"] for c in (1, 13) for r in arms}
    assert found == {(s, a, c, r) for s, a, c, r in whole if (a != "mocosfl" or c == 1) and (r != "noise" or (s == 0 and c == 1))}
    none = [{"if": {"cut": [1, 13]}, "then": {"dataset": "cifar100"}}]
    with pytest.raises(ValueError, match="leave no run"):
        plan.read(write(tmp_path, axes=axes, conditions=none))


def test_places_are_what_the_run_directory_says(tmp_path: Path) -> None:
    """YAML reads 10 as a whole number and 5e-4 as a text; config.yaml has 10.0 and 0.0005, and so have all seeds of a setting."""
    axes = {"seed": [0, 1], "partition.beta": [0.1, 10], "client_lr": ["5e-4", 0.1], "clients_per_round": [None, 2], "cut": [1]}
    work = [j for j in jobs(plan.read(write(tmp_path, axes=axes)), tmp_path / "out") if j.stage is None]
    cells = plan.read(write(tmp_path, axes=axes)).cells
    for job, cell in zip(work, cells, strict=True):
        held = fields.flatten(cell.config.to_dict())
        assert {k: repr(v) for k, v in job.setting.items()} == {k: repr(held[k]) for k in job.setting}
    assert [j.label for j in work][4] == "train seed=0 partition.beta=10.0 client_lr=0.0005 clients_per_round=None cut=1"
    assert len({j.label for j in work}) == 16


def test_conditions_compare_what_values_mean(tmp_path: Path) -> None:
    """1e-3 is a text in YAML and a number in a configuration, under an axis and in a condition."""
    axes = {"seed": [0, 1], "client_lr": ["1e-3", 0.1], "partition.beta": [1, 0.5], "cut": [1]}
    for small, one in ((0.001, 1.0), ("1e-3", 1)):
        rules = [{"if": {"client_lr": small}, "then": {"seed": 0}}, {"if": {"seed": 0}, "then": {"partition.beta": one}}]
        found = [(c.config.seed, c.config.client_lr, c.config.partition.beta)
                 for c in plan.read(write(tmp_path, axes=axes, conditions=rules)).cells]
        assert found == [(0, 0.001, 1.0), (0, 0.1, 1.0), (1, 0.1, 1.0), (1, 0.1, 0.5)]


def test_a_flag_may_leave_a_condition_without_runs(tmp_path: Path) -> None:
    """With --seed 0 no run has seed 1, as the person wanted; a value that the file itself cannot reach is a mistake."""
    file = write(tmp_path, conditions=[{"if": {"seed": 1}, "then": {"cut": 13}}])
    assert len(plan.read(file, overrides={"seed": 0}).cells) == 12
    with pytest.raises(ValueError, match=r"no run of the sweep has seed = 1 \(there are: 0\)"):
        plan.read(write(tmp_path, axes={"seed": [0], "cut": [1]}, conditions=[{"if": {"seed": 1}, "then": {"cut": 13}}]))


@pytest.mark.parametrize("full", ["full", ["full", 7]])
def test_an_unsplit_algorithm_has_cut_full_in_conditions_too(tmp_path: Path, full: Any) -> None:
    """Without an axis of cuts: FedAvg's cut is full, MocoSFL's the default 13; a cut that none has is still a mistake."""
    axes = {"seed": [0, 1], "algorithm": ["fedavg", "mocosfl"]}
    rules = [{"if": {"cut": "full"}, "then": {"seed": 0}}]
    found = [(c.config.seed, c.config.algorithm, c.config.cut) for c in plan.read(write(tmp_path, axes=axes, conditions=rules,
                                                                                        stages=None)).cells]
    assert found == [(0, "fedavg", "full"), (0, "mocosfl", 13), (1, "mocosfl", 13)]
    rules = [{"if": {"algorithm": "fedavg"}, "then": {"cut": full}}, {"if": {"cut": "13"}, "then": {"seed": 1}}]
    kept = [(c.config.seed, c.config.algorithm) for c in plan.read(write(tmp_path, axes=axes, conditions=rules, stages=None)).cells]
    assert kept == [(0, "fedavg"), (1, "fedavg"), (1, "mocosfl")]
    with pytest.raises(ValueError, match=r"no run of the sweep has cut = 7 \(there are: full, 13\)"):
        plan.read(write(tmp_path, axes=axes, conditions=[{"if": {"cut": 7}, "then": {"seed": 0}}], stages=None))


def test_what_a_condition_leaves_out_may_be_impossible(tmp_path: Path) -> None:
    """A cut that one network has and another has not."""
    file = write(tmp_path, axes={"arch": ["resnet18", "mlp"], "cut": [2, 13]}, fixed={"rounds": 2}, stages=None,
                 conditions=[{"if": {"arch": "mlp"}, "then": {"cut": 2}}, {"if": {"arch": "resnet18"}, "then": {"cut": 13}}])
    assert [(c.config.arch, c.config.cut) for c in plan.read(file).cells] == [("resnet18", 13), ("mlp", 2)]


def test_commands_set_what_the_file_says(tmp_path: Path) -> None:
    """The flags of each command, parsed as the training parses them, give the run directory that the job waits for."""
    work = [j for j in jobs(plan.read(write(tmp_path)), tmp_path / "out") if j.stage is None]
    parser, default = fields.flags(Config, "", ""), fields.read_yaml(configuration.find("default.yaml"))
    for job in work:
        words = shlex.split(job.command)
        assert words[:5] == ["python", "-m", "ssl_split.train", "--config", "default.yaml"]
        made = configuration.from_dict(fields.merge(default, fields.set_flags(Config, parser.parse_args(words[5:]))))
        assert made.run_dir == job.run
    assert len(work) == 24


@pytest.mark.parametrize(("value", "words"), [
    (None, ["--clients-per-round", "none"]), (True, ["--clients-per-round", "true"]), (5e-4, ["--clients-per-round", "0.0005"]),
    ([0.1, 0.2], ["--clients-per-round", "0.1", "0.2"]),
])
def test_values_as_flags(value: Any, words: list[str]) -> None:
    assert plan.flag_words({"clients_per_round": value}) == words


@pytest.mark.parametrize(("changes", "said"), [
    ({"axes": {"algoritm": ["mocosfl"]}}, "did you mean algorithm"),
    ({"axes": {"partition.bet": [0.1]}}, "did you mean partition.beta"),
    ({"fixed": {"widht": 1.0}}, "did you mean width"),
    ({"fixed": {"out": "x"}}, "out cannot be fixed"),
    ({"axes": {"algorithm": ["mocosfll"]}}, "did you mean mocosfl"),
    ({"axes": {"cut": [1, 2]}}, "legal cuts are 0, 1, 3, 5"),
    ({"axes": {"seed": 0}}, "must be a list"),
    ({"axes": {"seed": []}}, "no values"),
    ({"axes": {"seed": [0, 0]}}, "twice"),
    ({"axes": {"width": [0.125]}}, "both fixed and an axis"),
    ({"axes": {"device": ["cpu", "auto"]}}, "one and the same run"),
    ({"arms": {"one": {"widht": 1.0}}}, "field in arm 'one': 'widht', did you mean width"),
    ({"arms": {"one": {"cut": 1}}}, "both an axis and in the arm"),
    ({"arms": {"one": {}, "two": {}}}, "one and the same run"),
    ({"arms": ["one"]}, "arms must hold"),
    ({"conditions": "cut"}, "conditions must be a list"),
    ({"conditions": [{"if": {"cut": 1}}]}, "a condition is {if:"),
    ({"conditions": [{"if": {"cutt": 1}, "then": {"seed": 0}}]}, "under if of a condition: 'cutt', did you mean cut"),
    ({"conditions": [{"if": {"algorithm": "mocosf"}, "then": {"cut": 1}}]}, "algorithm = 'mocosf' does not exist: did you mean mocosfl"),
    ({"conditions": [{"if": {"cut": 1}, "then": {"algorithm": ["mocosfl", "mocosf"]}}]}, "algorithm = 'mocosf' does not exist"),
    ({"conditions": [{"if": {"cut": 1}, "then": {"client_lr": "fast"}}]}, "client_lr must be float, not 'fast'"),
    ({"conditions": [{"if": {"cut": [1, 7]}, "then": {"seed": 0}}]}, "no run of the sweep has cut = 7 (there are: 1, 13, full)"),
    ({"conditions": [{"if": {"cut": 1}, "then": {"arm": "fast"}}], "arms": {"fats": {}}}, "of a condition: 'fast', did you mean"),
    ({"stages": [{"probe": "linaer"}]}, "did you mean linear"),
    ({"stages": [{"prob": "linear"}]}, "a stage is"),
    ({"stages": [{"probe": "linear", "epoch": 3}]}, "did you mean epochs"),
    ({"stages": [{"probe": "linear", "epochs": 0}]}, "at least 1"),
    ({"stages": [{"probe": "knn"}, {"probe": "knn"}]}, "twice"),
    ({"stages": [{"probe": "knn", "checkpoint": "x"}]}, "checkpoint"),
    ({"fixed": {"dataset": "photos", "width": 0.125}}, "probes need labels"),
    ({"stage": []}, "did you mean stages"),
    ({"config": "defualt.yaml"}, "no configuration file"),
])
def test_mistakes_are_one_sentence(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        plan.read(write(tmp_path, **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_flags_replace_fields_and_axes(tmp_path: Path) -> None:
    sweep = plan.read(write(tmp_path), overrides={"seed": 7, "rounds": 1, "partition": {"beta": 0.3}})
    assert len(sweep.cells) == 6
    assert {c.config.seed for c in sweep.cells} == {7}
    assert {c.config.rounds for c in sweep.cells} == {1}
    assert {c.config.partition.beta for c in sweep.cells} == {0.3}


def test_stages_are_told_where_images_and_device_are(tmp_path: Path) -> None:
    work = jobs(plan.read(write(tmp_path), overrides={"data_dir": "some where", "device": "cpu"}), tmp_path)
    stages = [j for j in work if j.stage]
    assert len(stages) == 72
    assert all("--data-dir 'some where' --device cpu" in j.command for j in stages)


def test_a_sweep_needs_neither_axes_nor_stages(tmp_path: Path) -> None:
    work = jobs(plan.read(write(tmp_path, axes=None, stages=None)), tmp_path)
    assert len(work) == 1


def test_list_prints_every_command_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(tmp_path)), "--list", "--out", str(tmp_path / "out"), "--seed", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 48
    assert all(line.startswith("python -m ") and line.endswith("# to do") for line in lines)
    assert not (tmp_path / "out").exists()


def test_unknown_flags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean --seed"):
        main([str(write(tmp_path)), "--sed", "1"])
    with pytest.raises(ValueError, match="unknown argument extra"):
        main([str(write(tmp_path)), "extra"])


def put(folder: Path, **values: Any) -> Path:
    """A result file with these values."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(values))
    return folder / "result.json"


def test_a_stage_is_done_by_the_result_with_its_options(tmp_path: Path) -> None:
    """Name, every recorded option (defaults included) and the weights must agree; other results do not count."""
    stages = plan.read(write(tmp_path)).stages
    linear, knn, smashed = stages
    run, end = tmp_path / "run", {"file": "step-00000010.safetensors", "finished": True}
    put(run / "probes" / "knn-1", name="knn", options={"features": "smashed", "k": None, "seed": 0}, checkpoint=end)
    assert stage_result(run, smashed) == run / "probes" / "knn-1" / "result.json"
    assert stage_result(run, knn) is None
    assert stage_result(run, linear) is None
    put(run / "probes" / "knn-2", name="knn", options={"features": "backbone", "k": 7, "seed": 0}, checkpoint=end)
    put(run / "probes" / "knn-3", name="knn", options={"features": "backbone", "k": None, "seed": 0}, checkpoint={**end, "finished": False})
    put(run / "probes" / "knn-4", name="knn", options={"features": "backbone", "k": None, "seed": 0},
        checkpoint={"file": "best.safetensors", "finished": True})
    assert stage_result(run, knn) is None
    wanted = put(run / "probes" / "knn-5", name="knn", options={"features": "backbone", "k": None, "seed": 0}, checkpoint=end)
    assert stage_result(run, knn) == wanted


def test_a_stage_is_not_done_by_an_attack_on_other_images(tmp_path: Path) -> None:
    """Results of earlier versions do not record whose images they are; of `wire` they record the steps that were attacked."""
    given: list[dict[str, Any]] = [{}, {"aux_clients": [0, 2]}, {"wire": True}, {"target_views": True}, {"aux_dataset": "photos"}]
    stages = plan.read(write(tmp_path, stages=[{"attack": "ridge", **options} for options in given])).stages
    run, end = tmp_path / "run", {"file": "step-00000010.safetensors", "finished": True}
    recorded: list[dict[str, Any]] = [*given[:2], {"wire": [6, 9]}, *given[3:]]
    files = []
    for i, (stage, options) in enumerate(zip(stages, recorded, strict=True)):
        assert stage_result(run, stage) is None
        files.append(put(run / "attacks" / f"ridge-{i}", name="ridge", options={"method": "ridge", **options}, checkpoint=end))
    assert [stage_result(run, stage) for stage in stages] == files


def test_an_unfinished_or_damaged_run_is_not_done(tmp_path: Path) -> None:
    assert finished_run(tmp_path) is None
    (tmp_path / "result.json").write_text('{"finished": fal')
    assert finished_run(tmp_path) is None
    (tmp_path / "result.json").write_text('{"finished": true}')
    assert finished_run(tmp_path) == tmp_path / "result.json"


def test_attacks_of_one_name_are_told_apart_by_their_kind(tmp_path: Path) -> None:
    """`norm` is an attack on labels and one on membership: other modules, other jobs, other result files."""
    stages = [{"label": "norm"}, {"membership": "norm", "members": 100}, {"attack": "gradient", "budget": "quick"}, {"attack": "unsplit"}]
    sweep = plan.read(write(tmp_path, axes={"seed": [0]}, stages=stages))
    work = [j for j in jobs(sweep, tmp_path / "out") if j.stage is not None]
    said = [(j.stage.module, j.stage.result_name, j.stage.label) for j in work if j.stage]
    assert said == [("attacks.label", "label-norm", "label norm"), ("attacks.membership", "membership-norm", "membership norm members=100"),
                    ("attacks.gradient", "gradient", "attack gradient budget=quick"), ("attacks.invert", "unsplit", "attack unsplit")]
    assert len({j.key for j in work}) == 4
    assert ["--method" in j.words for j in work] == [True, True, False, True]


def test_every_method_of_every_attack_command_is_a_stage() -> None:
    from attacks import label
    from attacks.api import METHODS
    from attacks.members.table import METHODS as MEMBERSHIP

    assert set(plan.STAGES["attack"]) == {*METHODS, "gradient"}
    assert set(plan.STAGES["label"]) == set(label.METHODS)
    assert set(plan.STAGES["membership"]) == set(MEMBERSHIP)
