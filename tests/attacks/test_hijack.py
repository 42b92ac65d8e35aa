"""The malicious server: its networks, its false gradients, and what it rebuilds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import hijack, judge, sets, substitute
from attacks.api import AttackOptions
from attacks.blind import mean_image
from attacks.fsha import FSHA, HijackOptions
from attacks.reconstruct import same_attack
from attacks.selftest import images
from attacks.victim import Victim
from ssl_split import rng
from ssl_split.data.images import to_float
from ssl_split.defences.api import Defence
from ssl_split.defences.noise import Gaussian
from ssl_split.run import open_checkpoint
from tests.train.tiny import tiny

SHAPES = [(8, 8, 8), (5, 16, 16), (12, 3, 3), (16, 6), (7, 6), (10,)]
CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", SHAPES)
def test_networks_fit_any_smashed_data(shape: tuple[int, ...]) -> None:
    x = torch.rand(3, 3, 16, 16)
    made = substitute.Substitute(shape, image_size=16, width=8)(x)
    assert made.shape == (3, *shape)
    assert substitute.Critic(shape, width=8)(made).shape == (3,)


def test_penalty_of_a_linear_critic_is_a_closed_form() -> None:
    """D(z) = a z has the gradient a everywhere, on every axis: the penalty is (|a| - 1)^2."""
    a = torch.randn(4, 3, 3, dtype=torch.float64)

    class Linear(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z * a).sum((1, 2, 3))

    first, second = torch.randn(2, 5, 4, 3, 3, dtype=torch.float64)
    found = substitute.gradient_penalty(Linear(), first, second, generator=rng.generator(0, "penalty"))
    torch.testing.assert_close(found, (a.norm() - 1) ** 2)


def server(options: HijackOptions) -> FSHA:
    own, _ = images(200, 1)

    def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = own[torch.randint(len(own), (count,), generator=generator)]
        return x, x

    return FSHA(drawn, options, image_size=16, device=CPU)


def exchange(tap: FSHA, z: Tensor, true: Tensor) -> Tensor:
    who, came = torch.arange(len(z)), torch.ones(len(z), dtype=torch.bool)
    assert tap.message("act_up", z, who, came) is z
    return tap.message("grad_down", true, who, came)


@pytest.mark.parametrize("scale", ["honest", "none"])
def test_only_attacked_clients_get_false_gradients_and_they_are_those_of_the_critic(scale: str) -> None:
    tap = server(HijackOptions(clients=(1,), batch_size=4, width=8, scale=scale))
    z, true = torch.randn(2, 3, 4, 8, 4, 4)  # (P, B, C, H, W)
    found = exchange(tap, z, true)
    assert found[[0, 2]].equal(true[[0, 2]])
    seen = z[1].clone().requires_grad_()
    wanted = torch.autograd.grad(tap.critic(seen).mean(), seen)[0]
    if scale == "honest":
        wanted = wanted * true[1].norm() / wanted.norm()
        torch.testing.assert_close(found[1].norm(), true[1].norm())
    torch.testing.assert_close(found[1], wanted)
    assert len(tap.trace.cosine) == 1


def test_without_attacked_clients_everything_passes() -> None:
    tap = server(HijackOptions(clients=(7,)))
    z, true = torch.randn(2, 3, 4, 8, 4, 4)
    assert exchange(tap, z, true) is true
    with pytest.raises(ValueError, match="nothing could be hijacked"):
        tap.reconstruct(z[0])


SHORT: dict[str, Any] = {"rounds": 1, "syncs_per_round": 1}


@pytest.mark.parametrize("settings", [{"algorithm": "monacosfl"}, {"algorithm": "sfl_v1", "validate_every_rounds": 0}])
def test_the_command_compares_with_the_honest_run(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = HijackOptions(clients=(0, 2), batch_size=4, width=8, aux=30, targets=6)
    result = hijack.run(tiny(tmp_path, **SHORT, **settings), options)
    assert result["steps"] == 10
    assert result["blind_mse"] > 0
    assert {"r2", "passive_r2", "needs", "verdict"} <= result.keys()
    assert "gradient_control" in result["needs"]
    assert Path(result["path"]).with_name("images.png").is_file()
    assert Path(result["path"]).parents[2].name == result["run"]
    assert (result["hijacked_accuracy"] is None) == ("validate_every_rounds" in settings)
    assert (tmp_path / ".hijacked" / result["hijacked_run"] / "result.json").is_file()
    assert "passive ridge" in hijack.show(result)
    assert result["defence"] is result["adaptive"] is None
    assert "defence" not in result["options"]
    hijack.run(tiny(tmp_path, **SHORT, **settings), options)
    assert "not computed again" in capsys.readouterr().err


def test_both_attackers_meet_the_defence_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server inverts the hijacked client's smashed data with noise of the run's deviation on them; the ridge regression is the one on
    the honest client behind its noise, computed by hand."""
    seen: list[Tensor] = []
    rebuild = FSHA.reconstruct
    monkeypatch.setattr(FSHA, "reconstruct", lambda self, z: seen.append(z) or rebuild(self, z))  # type: ignore[func-returns-value]
    config = tiny(tmp_path, **SHORT, algorithm="sfl_v1", validate_every_rounds=0, cut=1, max_steps=2, defence="gaussian",
                  gaussian={"sigma": 2.0})
    result = hijack.run(config, HijackOptions(clients=(0,), batch_size=4, width=8, aux=30, targets=6))
    honest, bent = (open_checkpoint(str(folder)) for folder in (config.run_dir, tmp_path / ".hijacked" / result["hijacked_run"]))
    data = honest.dataset()
    chosen = sets.choose(data, honest.parts(data)[:1], targets=6, aux=30)
    targets, own = to_float(chosen.targets.images), sets.split(chosen.aux.images)
    noise = seen[0] - Victim(bent.network().client, data.mean, data.std).release(targets)
    assert noise.std().item() == pytest.approx(2, rel=0.05)
    found = [judge.relative(same_attack(Victim(honest.network().client, data.mean, data.std, defence=defence), targets, own=own,
                                        options=AttackOptions(method="ridge")), judge.score(mean_image(own.fit)[None], targets))["r2"]
             for defence in (Gaussian(2.0), Defence())]
    assert result["passive_r2"] == pytest.approx(found[0], abs=1e-4)
    assert abs(found[1] - found[0]) > 0.05
    assert result["defence"] == result["options"]["defence"] == {"name": "gaussian", "sigma": 2.0}
    assert result["adaptive"] is None
    assert "defence: gaussian (sigma 2); the ridge regression knows it" in hijack.show(result)


@pytest.mark.parametrize(("settings", "clients", "words"), [
    ({"algorithm": "mu_splitfed", "momentum": 0.0}, (0,), "instead of a gradient"), ({"algorithm": "moco"}, (0,), "no client half"),
    ({"algorithm": "fedavg", "cut": "full", "momentum": 0.0}, (0,), "weights alone"), ({"algorithm": "mocosfl"}, (3,), "does not exist")])
def test_what_cannot_be_hijacked_is_said_in_one_sentence(settings: dict[str, Any], clients: tuple[int, ...], words: str,
                                                         tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        hijack.run(tiny(tmp_path, **settings), HijackOptions(clients=clients))
