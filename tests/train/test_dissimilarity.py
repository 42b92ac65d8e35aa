"""Gradient divergence against gradients computed client by client, and where it must vanish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import brief
from torch.nn import functional

from ssl_split import config as configuration
from ssl_split import train
from ssl_split.data.imageset import ImageSet, normalise, to_float
from ssl_split.dissimilarity import global_gradient, gradient_dissimilarity, gradient_divergence
from ssl_split.models.split import Network, build

REAL = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def network(cut: int | str = 5) -> Network:
    config = configuration.from_dict({"algorithm": "sfl_v1", "arch": "vgg11", "width": 0.125, "cut": cut})
    return build(config, image_size=16, classes=4).double()


def images(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator),
                    torch.randint(4, (count,), generator=generator))


@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_it_is_the_mean_distance_of_the_clients_gradients_to_the_weighted_one(cut: int | str) -> None:
    made, data, parts = network(cut), images(150), [torch.arange(140), torch.arange(140, 144), torch.arange(144, 150)]
    found = gradient_divergence(made, data, parts, count=1000, **REAL)
    assert data.labels is not None
    for half in ("client", "server"):
        weights = list(getattr(made, half).parameters())
        if not weights:
            assert found[f"gradient_divergence_{half}"] == 0
            continue
        each = []
        for part in parts:
            loss = functional.cross_entropy(made(normalise(to_float(data.images[part], torch.float64), **REAL)), data.labels[part])
            each.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
        whole = sum(len(part) / 150 * g for part, g in zip(parts, each, strict=True))
        torch.testing.assert_close(global_gradient(made, data, parts, count=1000, **REAL)[half], whole)
        expected = sum(float((g - whole).norm()) for g in each) / 3
        assert found[f"gradient_divergence_{half}"] == pytest.approx(expected, rel=1e-9)
    assert all(p.grad is None for p in made.parameters())


def test_one_client_and_equal_clients_do_not_diverge() -> None:
    made, data = network(), images(6)
    one = gradient_divergence(made, data, [torch.arange(6)], count=1000, **REAL)
    assert max(one.values()) < 1e-12
    assert data.labels is not None
    twice = ImageSet(torch.cat([data.images, data.images]), torch.cat([data.labels, data.labels]))
    same = gradient_divergence(made, twice, [torch.arange(6), torch.arange(6, 12)], count=1000, **REAL)
    assert max(same.values()) < 1e-12


def test_a_run_logs_it_and_it_changes_nothing(tmp_path: Path) -> None:
    small = {"algorithm": "sfl_v1", "cut": 5, "client_lr": 0.05, "server_lr": 0.05, "partition": {"kind": "classes", "classes": 4}}
    with_it, without = (train.run(brief(tmp_path / name, **small, divergence_every_rounds=every))
                        for name, every in (("with", 1), ("without", 0)))
    lines = [json.loads(line) for line in (with_it.path / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "gradient_divergence_client" in line]
    assert len(found) == 2
    assert all(line["gradient_divergence_client"] > 0 and line["gradient_divergence_server"] > 0 for line in found)
    assert with_it.result["validation_accuracy"] == without.result["validation_accuracy"]
    assert with_it.result["loss"] == without.result["loss"]


def test_dissimilarity_is_the_mean_squared_distance_over_weight_tensors() -> None:
    made, data = network(), images(12)
    server = dict(made.server.named_parameters())
    loss = functional.cross_entropy(made(normalise(to_float(data.images, torch.float64), **REAL)), data.labels)
    real = dict(zip(server, torch.autograd.grad(loss, list(server.values())), strict=True))
    assert gradient_dissimilarity(made, data, real, count=12, **REAL) == pytest.approx(0, abs=1e-20)
    moved = {name: g + 0.5 for name, g in real.items()}
    expected = sum(0.25 * g.numel() for g in real.values()) / len(real)
    assert gradient_dissimilarity(made, data, moved, count=12, **REAL) == pytest.approx(expected, rel=1e-9)
    assert gradient_dissimilarity(network("full"), data, {}, count=12, **REAL) == 0


def test_gas_logs_how_far_its_buffer_is_from_real_data_and_it_changes_nothing(tmp_path: Path) -> None:
    small = {"algorithm": "gas", "cut": 5, "client_lr": 0.05, "server_lr": 0.05, "rounds": 3, "clients": 4, "clients_per_round": 2,
             "local_steps": 5, "gas": {"buffer": 2}, "partition": {"kind": "classes", "classes": 5}}
    with_it, without = (train.run(brief(tmp_path / name, **small, divergence_every_rounds=every))
                        for name, every in (("with", 1), ("without", 0)))
    lines = [json.loads(line) for line in (with_it.path / "metrics.jsonl").read_text().splitlines()]
    found = [(line["gradient_dissimilarity"], line["gradient_dissimilarity_alone"]) for line in lines if "gradient_dissimilarity" in line]
    assert len(found) == 3
    assert all(0 < a < float("inf") and 0 < b < float("inf") for a, b in found)
    assert found[-1][0] != found[-1][1]  # with statistics of every label something is generated
    assert with_it.result["loss"] == without.result["loss"]
    assert with_it.result["validation_accuracy"] == without.result["validation_accuracy"]


def test_a_run_compares_its_perturbations_where_asked(tmp_path: Path) -> None:
    """FedLESAM has none in round 0."""
    small = {"algorithm": "fedlesam", "cut": "full", "momentum": 0.0, "client_lr": 0.05, "server_lr": 0.05, "rounds": 5}
    with_it, without = (train.run(brief(tmp_path / name, **small, perturbation_every_rounds=every))
                        for name, every in (("with", 2), ("without", 0)))
    lines = [json.loads(line) for line in (with_it.path / "metrics.jsonl").read_text().splitlines()]
    found = {line["round"]: line["perturbation_cosine"] for line in lines if "perturbation_cosine" in line}
    assert set(found) == {2, 4}
    assert all(0 < abs(cosine) < 1 for cosine in found.values())
    assert with_it.result["loss"] == without.result["loss"]
