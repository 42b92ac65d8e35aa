"""A supervised run through training, attack, probes, sweep and report, on embedded images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import TINY, tiny

from attacks import invert
from probes import classifier, knn, linear
from ssl_split import config as configuration
from ssl_split import run as runs
from ssl_split import train
from ssl_split.config import FEDERATED, FEDERATED_SSL, SUPERVISED
from ssl_split.report import build
from ssl_split.summary import collapsed
from ssl_split.sweep import plan
from ssl_split.sweep.jobs import jobs

SMALL = {"client_lr": 0.02, "server_lr": 0.02, "rounds": 2, "validate_every_rounds": 1, "partition": {"kind": "dirichlet", "beta": 0.5}}


@pytest.mark.parametrize("algorithm", SUPERVISED)
def test_bytes_are_the_closed_form_and_labels_are_counted(algorithm: str, tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, algorithm=algorithm, train_images=60, **SMALL))
    result = done.result
    assert result["mib_per_client"] == pytest.approx(result["mib_per_client_closed_form"])
    assert result["validation_knn"] is None
    assert 0 <= result["validation_accuracy"]["low"] <= result["validation_accuracy"]["accuracy"] <= 1
    assert result["virtual_seconds"] > 0
    memory = result["client_memory_bytes"]
    assert (memory is None) == (algorithm == "centralised")
    if memory is not None:
        trained = 0 if algorithm == "mu_splitfed" else 4 * result["client_parameters"]
        assert (memory["parameters"], memory["optimiser_state"]) == (4 * result["client_parameters"],) * 2
        assert memory["gradients"] == trained
        assert (memory["saved_activations"] > 0) == (trained > 0)
    if algorithm == "centralised":
        assert result["waiting_share_fastest"] is result["waiting_share_mean"] is None
    else:
        assert 0 < result["waiting_share_fastest"] < 1
        assert 0 < result["waiting_share_mean"] < 1
        assert result["bytes"]["up"]["label_up"] == 8 * result["bytes"]["up"]["act_up"] / 4 / 8 / 16 / 16  # of 8x16x16 numbers an image


@pytest.mark.parametrize("algorithm", FEDERATED)
def test_federated_runs_send_what_the_closed_form_says(algorithm: str, tmp_path: Path) -> None:
    values = {k: v for k, v in TINY.items() if k not in ("cut", "rounds")} | SMALL | {"algorithm": algorithm, "out": str(tmp_path)}
    done = train.run(configuration.from_dict({**values, "momentum": 0.0, "rounds": 2, "arch": "vgg11", "train_images": 60}))
    result = done.result
    assert result["cut"] == "full"
    assert result["mib_per_client"] == pytest.approx(result["mib_per_client_closed_form"])
    assert not result["bytes"]["up"]["act_up"] + result["bytes"]["up"]["label_up"]
    assert result["client_memory_bytes"]["saved_activations"] > 0
    assert 0 <= result["waiting_share_fastest"] < 1
    assert 0 < result["waiting_share_mean"] < 1
    assert 0 <= result["validation_accuracy"]["low"] <= result["validation_accuracy"]["accuracy"] <= 1


def test_projections_have_collapsed_when_they_are_nearly_one_vector() -> None:
    """Random unit vectors are spread evenly; the same one with little noise is not."""
    vectors = torch.nn.functional.normalize(torch.randn(2000, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(vectors.std(0).mean()) == pytest.approx(64**-0.5, rel=0.02)
    assert collapsed(float(vectors.std(0).mean()), 64) is False
    close = torch.nn.functional.normalize(vectors[:1] + 0.05 * vectors, dim=1)
    assert collapsed(float(close.std(0).mean()), 64) is True
    assert collapsed(None, 64) is None


@pytest.mark.parametrize("algorithm", FEDERATED_SSL)
@pytest.mark.parametrize("cut", [5, "full"])
def test_self_supervised_federated_runs_are_runs_like_any_other(algorithm: str, cut: int | str, tmp_path: Path) -> None:
    values = {k: v for k, v in TINY.items() if k != "rounds"} | {"algorithm": algorithm, "cut": cut, "out": str(tmp_path)}
    done = train.run(configuration.from_dict({**values, "rounds": 3, "clients": 4, "clients_per_round": 2}))
    result = done.result
    assert result["mib_per_client"] == pytest.approx(result["mib_per_client_closed_form"])
    assert (result["bytes"]["up"]["key_act_up"] > 0) == (cut == 5)
    assert not result["bytes"]["up"]["label_up"]
    assert result["train_accuracy"] is None
    assert 0 < result["collapse_std"] < 1
    assert result["collapsed"] == (result["collapse_std"] < 0.1 * configuration.from_dict(values).head.out ** -0.5)
    assert 0 < knn.run(knn.Options(checkpoint=str(done.path), features="projector"))["accuracy"] < 1
    assert linear.run(linear.Options(checkpoint=str(done.path), epochs=2))["accuracy"] > 0.1
    assert "clients send the label" not in build.write(tmp_path).read_text(encoding="utf-8")
    if cut == "full":
        with pytest.raises(ValueError, match="at cut full sends weights alone"):
            invert.run(invert.Options(checkpoint=str(done.path), method="ridge", targets=16, aux=64))


def test_attack_probes_and_report_work_on_it(tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, algorithm="smofi", **SMALL))
    own = classifier.run(classifier.Options(checkpoint=str(done.path)))
    assert own["test_images"] > 300
    assert own["low"] <= own["accuracy"] <= own["high"]
    assert own["untrained"]["accuracy"] < 0.4
    assert linear.run(linear.Options(checkpoint=str(done.path), epochs=2))["accuracy"] > 0.1
    assert knn.run(knn.Options(checkpoint=str(done.path), features="smashed"))["accuracy"] > 0.1
    attacked = invert.run(invert.Options(checkpoint=str(done.path), method="ridge", targets=16, aux=64))
    assert attacked["mse"] < attacked["blind_mse"]
    assert "clients send the label of every training image" in build.write(tmp_path).read_text(encoding="utf-8")


def test_a_sweep_finds_what_its_probes_have_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, probe and attack by their own commands, as a user would type the sweep's; test_sweep_execute starts them as processes."""
    monkeypatch.chdir(Path(__file__).parents[2])
    file = tmp_path / "sweep.yaml"
    fixed = {k: v for k, v in TINY.items() if k not in ("cut",)} | SMALL | {"rounds": 1, "algorithm": "sfl_v1"}
    file.write_text(yaml.safe_dump({"fixed": fixed, "axes": {"cut": [5]}, "stages": [{"probe": "classifier"}, {"attack": "ridge", "aux": 64,
                                                                                                              "targets": 16}]}))
    made = jobs(plan.read(str(file)), tmp_path / "out")
    assert len(made) == 3
    for job in made:
        assert job.result() is None
        assert job.words[0] == "-m"
        assert not importlib.import_module(job.words[1]).main(job.words[2:])
        assert job.result() is not None, job.label


def test_classifier_needs_a_classifier(tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, max_steps=2))
    with pytest.raises(ValueError, match="trains without labels"):
        classifier.run(classifier.Options(checkpoint=str(done.path)))


def test_a_sweep_refuses_the_classifier_probe_of_a_run_without_one(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("axes: {algorithm: [smofi, mocosfl]}\nstages: [{probe: classifier}]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="mocosfl trains no classifier"):
        plan.read(str(file))
    assert len(plan.read(str(file), overrides={"algorithm": "smofi"}).cells) == 1


def test_the_same_images_get_the_same_views_under_every_algorithm(tmp_path: Path) -> None:
    """The views depend on client and place in its stream: with frozen weights the first round's losses have one mean."""
    losses = []
    for algorithm in ("sfl_v1", "sfl_v2", "minibatch_sfl", "split_learning"):
        frozen = {**SMALL, "client_lr": 0.0, "server_lr": 0.0, "rounds": 1, "weight_decay": 0.0, "precision": "fp64"}
        done = train.run(tiny(tmp_path, algorithm=algorithm, **frozen))
        lines = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
        weights = _images_of_lines(done.path)
        found = [line["train_loss"] for line in lines if "train_loss" in line]
        losses.append(sum(w * loss for w, loss in zip(weights, found, strict=True)) / sum(weights))
    assert losses == pytest.approx([losses[0]] * 4)


def _images_of_lines(path: Path) -> list[int]:
    """Images between the lines of metrics, from the steps and the clients at work."""
    lines = [line for line in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if "train_loss" in line]
    steps = [0] + [line["step"] for line in lines]
    return [(b - a) * line["active_clients"] for a, b, line in zip(steps, steps[1:], lines, strict=False)]


def test_the_checkpoint_knows_its_classes(tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, algorithm="sfl_v1", **SMALL))
    checkpoint = runs.open_checkpoint(str(done.path))
    assert checkpoint.header["classes"] == 10
    assert checkpoint.network().head.out_features == 10
