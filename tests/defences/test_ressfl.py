"""ResSFL: the penalty of one step against plain autograd, the decoder beside it, and both resumed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import harness
import pytest
import supervised
import torch
from test_resume import Killed, _assert_same_end, _die_at
from tiny import tiny

from ssl_split import quality, train
from ssl_split.algorithms.split.sfl_v1 import SFLV1
from ssl_split.defences.ressfl import ResSFL

OPTIONS = {"weight": 2.0, "threshold": 0.0, "blocks": 0, "channels": 8, "lr": 0.01}
FIELDS: dict[str, Any] = {"defence": "ressfl", "ressfl": OPTIONS, "clients": 1, "local_steps": 1, "momentum": 0.0, "weight_decay": 0.0,
                          "batch_size": 4, "cut": 3}


def bright(client: int, position: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1]."""
    x, y = supervised.draw(client, position, count)
    return x.sigmoid(), y


def test_one_step_is_the_task_and_the_penalty() -> None:
    """One client, one step: the decoder takes its Adam step first, against torch's; then the client's loss is cross-entropy plus
    lambda max(0, SSIM - tau) with that decoder in eval mode."""
    trial = supervised.Trial(supervised.small(**FIELDS), sizes=[4], source=bright)
    algorithm = trial.algorithm
    assert isinstance(algorithm, SFLV1)
    defence = algorithm.release.defence
    assert isinstance(defence, ResSFL)
    decoder = copy.deepcopy(defence.decoder)
    network = supervised.build(trial.config, image_size=16, classes=supervised.CLASSES).double()
    trial.rounds(1)
    x, y = bright(0, 0, 4)
    z = network.client(x)
    adam = torch.optim.Adam(decoder.parameters(), lr=0.01)
    adam.zero_grad()
    (-quality.ssim_resfl(decoder.train()(z.detach()), x).mean()).backward()
    adam.step()
    for name, value in decoder.state_dict().items():
        torch.testing.assert_close(trial.state.trees["defence.decoder"][name], value, rtol=1e-6, atol=1e-9)
    penalty = 2.0 * quality.ssim_resfl(decoder.eval()(z), x).mean().clamp(min=0)
    assert penalty.item() > 0
    (torch.nn.functional.cross_entropy(network.server(z), y) + penalty).backward()
    expected = {k: p.detach() - 0.05 * p.grad for k, p in network.named_parameters()}  # type: ignore[operator]
    supervised.same({k: v for k, v in trial.weights().items() if k in expected}, expected, atol=1e-9)


def test_below_the_threshold_only_the_task_counts() -> None:
    fields = {**FIELDS, "ressfl": {**OPTIONS, "threshold": 1.0}}
    made, plain = (supervised.Trial(supervised.small(**f), sizes=[4], source=bright)
                   for f in (fields, {k: v for k, v in fields.items() if k not in ("defence", "ressfl")}))
    made.rounds(2)
    plain.rounds(2)
    supervised.same(made.weights(), plain.weights(), atol=0)


def test_the_decoder_learns_and_its_rate_falls() -> None:
    trial = supervised.Trial(supervised.small(**FIELDS | {"cut": 0 + 1, "rounds": 40}), sizes=[4], source=bright)
    algorithm = trial.algorithm
    assert isinstance(algorithm, SFLV1)
    defence = algorithm.release.defence
    assert isinstance(defence, ResSFL)
    x = bright(0, 0, 4)[0]
    z = trial.network.double().client(x).detach()
    found = []
    for _ in range(30):
        found.append(defence.similarity(z, x).item())
        defence.learn(z, x, share=0.0)
    assert found[-1] > found[0] + 0.1
    before = defence.weights.flat.clone()
    moved = []
    for share in (0.0, 0.9):
        defence.weights.flat.copy_(before)
        defence.learn(z, x, share=share)
        moved.append((defence.weights.parameters - before[: defence.weights.layout.trainable]).abs().max().item())
    assert moved[1] < 0.02 * moved[0]


def test_without_labels_too() -> None:
    trial = harness.Trial(harness.small(algorithm="monacosfl", cut=1, defence="ressfl", ressfl=OPTIONS, clients=2), steps=1)
    plain = harness.Trial(harness.small(algorithm="monacosfl", cut=1, clients=2), steps=1)
    trial.run(1)
    plain.run(1)
    client = [k for k in trial.setup.network.client.state_dict()]
    assert any(not torch.equal(trial.weights()[k], plain.weights()[k]) for k in client)
    assert all(torch.equal(v, plain.weights()[k]) for k, v in trial.weights().items() if k not in client)


@pytest.mark.slow
def test_the_decoder_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"algorithm": "sfl_v1", "defence": "ressfl", "ressfl": OPTIONS, "validate_every_rounds": 0, "cut": 3,
              "checkpoint_every_seconds": 0}
    whole = train.run(tiny(tmp_path / "whole", **fields))
    with monkeypatch.context() as patch:
        _die_at(patch, "sfl_v1", 7)
        with pytest.raises(Killed):
            train.run(tiny(tmp_path / "killed", **fields))
    _assert_same_end(whole.path, train.run(tiny(tmp_path / "killed", **fields), resume=True).path)
