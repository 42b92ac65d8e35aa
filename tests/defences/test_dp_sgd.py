"""DP-SGD of the client half: plain training where nothing is clipped, a slow loop where something is, and the accountant."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import harness
import pytest
import supervised
import torch
from opacus.accountants.analysis import rdp
from test_resume import Killed, _assert_same_end, _die_at
from tiny import tiny

from ssl_split import config as configuration
from ssl_split import train
from ssl_split import tree as trees
from ssl_split.clients import Clients
from ssl_split.defence_sections import DpSgdOptions
from ssl_split.defences import local_dp
from ssl_split.defences.dp_sgd import DpSgd, account, epsilon_rdp, squared_uses
from ssl_split.models.split import build
from ssl_split.rng import generator

OFF = {"sigma": 0.0, "clip": 1e9}
CHOSEN: list[Any] = [
    ("sfl_v1", {}), ("sfl_v1", {"engine": "fused"}), ("gas", {}), ("monacosfl", {"symmetric": "stacked"}),
    ("mocosfl", {"engine": "fused", "client_grad_scale": "local_mean"}),
    *(pytest.param(a, {}, marks=pytest.mark.slow) for a in ("sfl_v2", "minibatch_sfl", "smofi", "split_learning")),
    *(pytest.param("sfl_v1", {"arch": a, "cut": 2}, marks=pytest.mark.slow) for a in ("mobilenetv2", "vgg11", "cnn4", "vit")),
]


@pytest.mark.parametrize(("algorithm", "fields"), CHOSEN)
def test_without_clipping_and_noise_it_is_plain_training(algorithm: str, fields: dict[str, Any]) -> None:
    """The mean over images of gradients of single images is the gradient of the mean, for GroupNorm and standardised weights too."""
    found = []
    for defence in ({}, {"defence": "dp_sgd", "dp_sgd": OFF}):
        if algorithm in ("mocosfl", "monacosfl"):
            trial: Any = harness.Trial(harness.small(algorithm=algorithm, **{"cut": 3, **fields, **defence}), steps=2)
            trial.run(2)
        else:
            trial = supervised.Trial(supervised.small(algorithm=algorithm, **{"cut": 3, **fields, **defence}), sizes=[4, 2, 4])
            trial.rounds(1)
        found.append(trial.weights())
    supervised.same(*found, atol=1e-10)


def test_one_step_against_a_loop_over_images() -> None:
    """One client, one step: each image's gradient of its own cross-entropy, one norm over all client weights, C below the
    largest; sigma C n on the sum, n by its key; then the mean. The server's half sees nothing of it."""
    options = {"clip": 0.5, "sigma": 0.3}
    fields = {"defence": "dp_sgd", "dp_sgd": options, "clients": 1, "local_steps": 1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 4}
    trial = supervised.Trial(supervised.small(**fields), sizes=[4])
    network = supervised.build(trial.config, image_size=16, classes=supervised.CLASSES).double()
    parameters = dict(network.client.named_parameters())
    trial.rounds(1)
    x, y = supervised.draw(0, 0, 4)
    total, norms = torch.zeros(sum(p.numel() for p in parameters.values()), dtype=torch.float64), []
    for i in range(4):
        loss = torch.nn.functional.cross_entropy(network(x[i : i + 1]), y[i : i + 1])
        own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])
        norms.append(own.norm().item())
        total += own * min(1.0, 0.5 / norms[-1])
    assert max(norms) > 0.5
    total += 0.3 * 0.5 * torch.randn(len(total), generator=generator(trial.config.seed, "defence update", 0, 0), dtype=torch.float64)
    torch.nn.functional.cross_entropy(network(x), y).backward()
    pieces = total.split([p.numel() for p in parameters.values()])
    expected = {k: p.detach() - 0.05 * g.view_as(p) / 4 for (k, p), g in zip(parameters.items(), pieces, strict=True)}
    expected |= {k: p.detach() - 0.05 * p.grad for k, p in network.server.named_parameters()}  # type: ignore[operator]
    supervised.same({k: v for k, v in trial.weights().items() if k in expected}, expected)


def test_no_image_moves_the_update_by_more_than_the_norm() -> None:
    """Whatever gradient comes back, in chunks of any size."""
    gradients = 100 * torch.randn(5, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients[1] *= 1e-6
    gradients[2] = 0
    defence, source = DpSgd(2.0, 0.0), torch.Generator()
    whole = defence.client_update([gradients], source)
    torch.testing.assert_close(defence.client_update(gradients.split(2), source), whole)
    for left_out in range(5):
        rest = defence.client_update([torch.cat([gradients[:left_out], gradients[left_out + 1 :]])], source)
        assert (whole - rest).norm() <= 2.0 + 1e-9
    torch.testing.assert_close(defence.clipped(gradients[1:2]), gradients[1])


def test_two_views_are_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows i and i + B; and the chunk has no say."""
    network = build(harness.small(cut=3), image_size=16).double()
    tree = trees.repeat(trees.gather(network.client, dtype=torch.float64), 2)
    x, g = (torch.randn(6, *s, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
            for s in (network.input_shape, network.smashed_shape))
    clients = Clients(network.client, tree, gradients=trees.zeros(tree.layout, 2, like=tree.flat))
    apart = torch.cat(list(clients.image_gradients(x, g, row=1)))
    monkeypatch.setattr("ssl_split.clients.IMAGE_GRADIENT_BYTES", 1)
    together = list(clients.image_gradients(x, g, row=1, looks=2))
    assert [len(part) for part in together] == [1, 1, 1]
    torch.testing.assert_close(torch.cat(together), apart[:3] + apart[3:])


# --- accountant ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "releases"), [(1.5, 1), (1.5, 30), (0.7, 1), (8.0, 400)])
def test_the_accountant_knows_the_gaussian_mechanism(sigma: float, releases: int) -> None:
    """RDP of one Gaussian release of sensitivity 1 is alpha / (2 sigma^2); in epsilon and delta min over alpha of
    rdp + ln((alpha - 1) / alpha) - (ln delta + ln alpha) / (alpha - 1) (Canonne, Kamath and Steinke 2020, proposition 12)."""
    assert rdp.compute_rdp(q=1.0, noise_multiplier=sigma, steps=1, orders=[7])[0] == pytest.approx(7 / (2 * sigma**2))
    slow = min(releases * a / (2 * sigma**2) + math.log((a - 1) / a) - (math.log(1e-5) + math.log(a)) / (a - 1)
               for a in (1 + i / 1000 for i in range(1, 100_000)))
    found = epsilon_rdp(sigma, delta=1e-5, releases=releases)
    assert found == pytest.approx(slow, rel=1e-3)
    exact = local_dp.epsilon_exact(sigma, delta=1e-5, sensitivity=1.0, releases=releases)
    assert exact < found < local_dp.epsilon_rdp(sigma, delta=1e-5, sensitivity=1.0, releases=releases)


def test_what_is_said_of_a_run() -> None:
    found = account(DpSgdOptions(sigma=1.5, clip=10.0, delta=1e-5), releases=4)
    assert found["epsilon_rdp_replaced"] == epsilon_rdp(0.75, delta=1e-5, releases=4) > found["epsilon_rdp"] > found["epsilon_exact"] > 0
    assert "given the gradients that the server sends" in str(found["claim"])
    bare = account(DpSgdOptions(sigma=0.0), releases=4)
    assert bare["epsilon_rdp"] is bare["epsilon_exact"] is None
    assert "not private" in str(bare["claim"])
    assert account(DpSgdOptions(), releases=0)["epsilon_rdp"] == 0


def test_an_image_that_is_twice_in_a_batch_costs_four() -> None:
    assert squared_uses(torch.tensor([0, 1, 2, 2, 0, 1]), 2) == 4  # image 2 is twice in the second batch
    assert squared_uses(torch.tensor([0, 1, 2, 1, 0, 2]), 3) == 2
    order = torch.randint(5, (60,), generator=torch.Generator().manual_seed(0))
    slow = max(sum((order[s : s + 7] == image).sum().item() ** 2 for s in range(0, 60, 7)) for image in range(5))
    assert squared_uses(order, 7) == slow


# --- from configuration to result ----------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_spent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two passes of ten images in batches of 5, which never join two: two releases; views of an image are one."""
    config = tiny(tmp_path, algorithm="monacosfl", defence="dp_sgd", cut=1, train_images=30, batch_size=5, symmetric="stacked",
                  validate_every_rounds=0)
    done = train.run(config)
    assert done.result["privacy"]["releases"] == 2
    assert done.result["privacy"]["epsilon_exact"] == local_dp.epsilon_exact(1.5, delta=1e-5, sensitivity=1.0, releases=2)
    train._report(done, config)
    assert "go up bare" in capsys.readouterr().out


@pytest.mark.slow
def test_the_noise_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"algorithm": "sfl_v1", "defence": "dp_sgd", "validate_every_rounds": 0, "cut": 3, "checkpoint_every_seconds": 0}
    whole = train.run(tiny(tmp_path / "whole", **fields))
    with monkeypatch.context() as patch:
        _die_at(patch, "sfl_v1", 7)
        with pytest.raises(Killed):
            train.run(tiny(tmp_path / "killed", **fields))
    _assert_same_end(whole.path, train.run(tiny(tmp_path / "killed", **fields), resume=True).path)


def test_without_opacus_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(ValueError, match=r"^this needs the package opacus: pip install 'ssl_split\[dp\]'$"):
        train.run(tiny(tmp_path, algorithm="sfl_v1", defence="dp_sgd"))


NORMALISED = """
from torch import nn
def build():
    return [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten()]
"""


@pytest.mark.parametrize("defence", ["dp_sgd", "local_dp"])
def test_a_users_batch_norm_is_refused(tmp_path: Path, defence: str) -> None:
    (tmp_path / "own.py").write_text(NORMALISED)
    with pytest.raises(ValueError, match="has BatchNorm, which mixes"):
        train.run(tiny(tmp_path, algorithm="sfl_v1", defence=defence, arch=f"{tmp_path / 'own.py'}:build", cut=2, width=1.0))


@pytest.mark.parametrize(("fields", "message"), [
    ({"norm": "batch"}, "use --norm group"),
    ({"algorithm": "moco"}, "sends no smashed data"),
    ({"algorithm": "centralised"}, "sends no smashed data"),
    ({"algorithm": "fedavg"}, "sends no smashed data"),
    ({"algorithm": "fedavg", "cut": 3}, "not defined for fedavg"),
    ({"algorithm": "mu_splitfed", "mu_splitfed": {"estimator": "first_order"}}, "not defined for mu_splitfed"),
    ({"freeze_client": True}, "which freeze_client forbids"),
    ({"cut": 0}, "no weights at cut 0"),
])
def test_senseless_settings_are_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configuration.from_dict({"defence": "dp_sgd", **fields})
