"""Learned noise: one step against plain autograd and torch's Adam, the same through every scale, and from a run to its attacker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import supervised
import torch
from test_resume import Killed, _assert_same_end, _die_at
from tiny import tiny

from ssl_split import config as configuration
from ssl_split import train
from ssl_split.defences.api import Place
from ssl_split.defences.release import released
from ssl_split.defences.shredder import Shredder
from ssl_split.rng import generator
from ssl_split.run import Checkpoint

FROZEN: dict[str, Any] = {"defence": "shredder", "client_from": "a", "server_from": "b", "freeze_client": True, "server_lr": 0.0}
OPTIONS = {"tensors": 3, "scale": 0.5, "coefficient": 2.0, "lr": 0.01}


def begun(options: dict[str, Any], shape: tuple[int, ...] = (2, 4, 4)) -> Shredder:
    made = Shredder(configuration.from_dict(FROZEN | {"shredder": options}).shredder)
    made.begin({}, {}, Place(shape, 4, (0.0,) * 3, (1.0,) * 3, 0, torch.float64, torch.device("cpu")))
    return made


def test_the_collection_begins_as_laplace_noise() -> None:
    """Of scale b: E|N| = b and E N = 0; over 80 000 numbers within five standard errors."""
    noise = begun({"tensors": 5, "scale": 3.0}, (10, 40, 40)).collection
    assert noise.shape == (5, 10, 40, 40)
    assert noise.abs().mean().item() == pytest.approx(3.0, abs=5 * 3 / 80_000**0.5)
    assert abs(noise.mean().item()) < 5 * 3 * 2**0.5 / 80_000**0.5


def test_every_tensor_is_drawn_and_the_mean_is_expected() -> None:
    defence, z = begun(OPTIONS), torch.zeros(3000, 2, 4, 4, dtype=torch.float64)
    sent = defence.on_activation(z, z, generator(0, "test"))
    shares = torch.stack([(sent == n).flatten(1).all(1).double().mean() for n in defence.collection])
    assert shares.sum().item() == 1
    assert (shares - 1 / 3).abs().max() < 0.05
    torch.testing.assert_close(sent.mean(0), defence.expected(z)[0], atol=0.1, rtol=0)


def test_one_step_is_the_task_less_the_magnitude() -> None:
    """Three clients of one step against autograd of mean cross-entropy - coefficient mean |N|, and torch's Adam; the network stays."""
    trial = supervised.Trial(supervised.small(**FROZEN, shredder=OPTIONS, local_steps=1, batch_size=4), sizes=[4, 4, 4])
    network = supervised.build(trial.config, image_size=16, classes=supervised.CLASSES).double()
    defence = trial.algorithm.release.defence  # type: ignore[attr-defined]
    noise = torch.nn.Parameter(defence.collection.clone())
    before = trial.weights()
    trial.rounds(1)
    losses = []
    for client in range(3):
        x, y = supervised.draw(client, 0, 4)
        drawn = torch.randint(3, (4,), generator=generator(trial.config.seed, "defence act_up", 0, client, 0))
        losses.append(torch.nn.functional.cross_entropy(network.server(network.client(x) + noise[drawn]), y))
    adam = torch.optim.Adam([noise], lr=0.01)
    (torch.stack(losses).mean() - 2.0 * noise.abs().mean()).backward()
    adam.step()
    torch.testing.assert_close(defence.collection, noise.data, rtol=1e-8, atol=1e-10)
    supervised.same(trial.weights(), before)


@pytest.mark.parametrize("algorithm", ["minibatch_sfl", "gas", pytest.param("mu_splitfed", marks=pytest.mark.slow)])
def test_other_answers_teach_it_too(algorithm: str) -> None:
    """The client stays, and the gradient comes back all the same."""
    fields = {"mu_splitfed": {"estimator": "first_order"}} if algorithm == "mu_splitfed" else {}
    trial = supervised.Trial(supervised.small(**FROZEN, algorithm=algorithm, shredder=OPTIONS, **fields))
    start = trial.algorithm.release.defence.collection.clone()  # type: ignore[attr-defined]
    before = trial.weights()
    trial.rounds(1)
    assert not torch.equal(trial.algorithm.release.defence.collection, start)  # type: ignore[attr-defined]
    supervised.same(trial.weights(), before)
    sent = trial.state.ledger.bytes()
    assert sent["down"]["grad_down"] > 0
    assert sent["up"]["model_up"] == sent["down"]["model_down"] == 0


def test_without_labels_and_whatever_the_scale_of_the_answer() -> None:
    found = []
    for scale in ("global_mean", "local_mean"):
        trial = harness.Trial(harness.small(**FROZEN, algorithm="monacosfl", cut=3, shredder=OPTIONS, client_grad_scale=scale), steps=2)
        start, before = trial.algorithm.release.defence.collection.clone(), trial.weights()  # type: ignore[attr-defined]
        trial.run(2)
        found.append(trial.algorithm.release.defence.collection)  # type: ignore[attr-defined]
        assert (found[-1] - start).abs().max() > 0.001
        supervised.same(trial.weights(), before)
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


def test_one_tensor_is_a_constant_shift() -> None:
    """Images and purposes draw the same: it hides nothing from whoever has seen it."""
    defence = begun({**OPTIONS, "tensors": 1})
    z = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sent = released(defence, z, z, purpose="targets")
    assert torch.equal(sent, released(defence, z, z, purpose="query"))
    assert torch.equal(sent, defence.expected(z))


def of_a_source(folder: Path) -> tuple[train.Run, dict[str, Any]]:
    """A short run, and the fields of one that learns noise on its network."""
    fields: dict[str, Any] = {"algorithm": "sfl_v1", "validate_every_rounds": 0, "cut": 1, "train_images": 30}
    source = train.run(tiny(folder / "source", **fields, max_steps=1))
    return source, fields | FROZEN | {"client_from": str(source.path), "server_from": str(source.path), "shredder": OPTIONS}


def test_from_a_run_to_its_attacker(tmp_path: Path) -> None:
    """Trained on another run's network, which stays; a checkpoint's defence releases with what was learned."""
    source, fields = of_a_source(tmp_path)
    done = train.run(tiny(tmp_path, **fields))
    for name, value in source.checkpoint().network().state_dict().items():
        torch.testing.assert_close(done.checkpoint().network().state_dict()[name], value, rtol=1e-6, atol=1e-7)
    assert done.result["mib_per_client_closed_form"] == pytest.approx(done.result["mib_per_client"], rel=1e-9)
    _check_restored(done.checkpoint())


@pytest.mark.slow
def test_the_noise_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = of_a_source(tmp_path)[1]
    whole = train.run(tiny(tmp_path / "whole", **fields))
    with monkeypatch.context() as patch:
        _die_at(patch, "sfl_v1", 3)
        with pytest.raises(Killed):
            train.run(tiny(tmp_path / "killed", **fields, checkpoint_every_seconds=0))
    _assert_same_end(whole.path, train.run(tiny(tmp_path / "killed", **fields), resume=True).path)


def _check_restored(checkpoint: Checkpoint) -> None:
    """What is released is what the client half computes, and a tensor of the collection that is not the initial one."""
    defence = checkpoint.defence
    assert isinstance(defence, Shredder)
    shape = checkpoint.untrained().smashed_shape
    initial = begun(OPTIONS, shape).collection.float()
    assert 0 < (defence.collection - initial).abs().max() < 6 * 0.011  # six steps of Adam at most
    z = torch.zeros(2, *shape)
    for row in released(defence, z, z, purpose="targets"):
        assert any(torch.equal(row, n) for n in defence.collection)


@pytest.mark.parametrize(("fields", "message"), [
    ({"defence": "shredder"}, "use --client-from RUN "),
    (FROZEN | {"server_lr": 0.1}, "set it to 0"),
    (FROZEN | {"norm": "batch"}, "use --norm group"),
    (FROZEN | {"algorithm": "mu_splitfed"}, "first_order"),
    (FROZEN | {"algorithm": "fedavg", "cut": 3}, "freeze_client is not defined for fedavg"),
])
def test_senseless_settings_are_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configuration.from_dict(fields)


def test_a_server_of_another_kind_is_refused(tmp_path: Path) -> None:
    fields = {"validate_every_rounds": 0, "cut": 3, "train_images": 30}
    source = train.run(tiny(tmp_path / "source", algorithm="sfl_v1", max_steps=1, **fields))
    with pytest.raises(ValueError, match="the same classes or head"):
        train.run(tiny(tmp_path, algorithm="monacosfl", server_from=str(source.path), **fields))
