"""Adversarial noise: the step against single images and autograd, and from a run to its attacker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import Killed, _assert_same_end, _die_at
from tiny import tiny

from ssl_split import config as configuration
from ssl_split import quality, train
from ssl_split.data.images import normalise
from ssl_split.defences.adversarial import Adversarial
from ssl_split.defences.api import Place
from ssl_split.defences.release import released
from ssl_split.display import progress

OPTIONS = {"epsilon": 0.1, "epochs": 2, "blocks": 0, "channels": 4, "lr": 0.01}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def trained() -> tuple[Adversarial, torch.Tensor, torch.Tensor]:
    """A defence whose decoder has learned from eight images and their halved copies, and these; SSIM needs 11 pixels."""
    made = Adversarial(configuration.from_dict({"defence": "adversarial", "client_from": "a", "adversarial": OPTIONS}).adversarial)
    made.begin({}, {}, Place((3, 8, 8), 16, MEAN, STD, 0, torch.float64, torch.device("cpu")))
    x = normalise(torch.nn.functional.interpolate(draw(8, 3, 4, 4), size=16, mode="bilinear").sigmoid(), MEAN, STD)
    z = torch.nn.functional.avg_pool2d(x, 2)
    before = made.similarity(z, x).item()
    with progress(30, "decoder") as bar:
        made.pretrain([(z, x)] * 30, bar=bar)
    assert made.similarity(z, x).item() > before + 0.1
    return made, z, x


def test_every_image_moves_against_its_own_similarity(trained: tuple[Adversarial, torch.Tensor, torch.Tensor]) -> None:
    """Image by image, against the SSIM that the metrics use; each number moves by epsilon, and the decoder sees less."""
    defence, z, x = trained
    sent = defence.on_activation(z, x, torch.Generator())
    for i in range(8):
        leaf = z[i : i + 1].clone().requires_grad_()
        truth = x[i : i + 1] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        quality.ssim_resfl(defence.decoder.eval()(leaf), truth.clamp(0, 1)).sum().backward()
        assert leaf.grad is not None
        torch.testing.assert_close(sent[i : i + 1], z[i : i + 1] - 0.1 * leaf.grad.sign(), rtol=0, atol=1e-12)
    assert defence.similarity(sent, x) < defence.similarity(z, x) - 0.02
    torch.testing.assert_close(defence.on_activation(z[:3], x[:3], torch.Generator()), sent[:3], rtol=0, atol=1e-12)


def test_gradients_pass_straight_through(trained: tuple[Adversarial, torch.Tensor, torch.Tensor]) -> None:
    defence, z, x = trained
    leaf = z.clone().requires_grad_()
    weights = draw(*z.shape, seed=1)
    (defence.on_activation(leaf, x, torch.Generator()) * weights).sum().backward()
    torch.testing.assert_close(leaf.grad, weights, rtol=0, atol=0)
    assert all(p.grad is None or not p.grad.isnan().any() for p in defence.decoder.parameters())


def test_from_a_run_to_its_attacker(tmp_path: Path) -> None:
    """The decoder is trained before the first step and stays; what a checkpoint's defence releases is the step against it."""
    fields: dict[str, Any] = {"algorithm": "sfl_v1", "validate_every_rounds": 0, "cut": 1, "train_images": 30, "max_steps": 1}
    source = train.run(tiny(tmp_path / "source", **fields))
    fields |= {"defence": "adversarial", "client_from": str(source.path), "freeze_client": True}
    runs = {epochs: train.run(tiny(tmp_path, **fields, adversarial={**OPTIONS, "epochs": epochs})) for epochs in (0, 3)}
    network, dataset = runs[3].checkpoint().network(), runs[3].checkpoint().dataset()
    x = normalise(dataset.train.images.float() / 255, dataset.mean, dataset.std)
    with torch.no_grad():
        z = network.client(x)
    seen = {}
    for epochs, done in runs.items():
        defence = done.checkpoint().defence
        assert isinstance(defence, Adversarial)
        sent = released(defence, z, x, purpose="targets")
        assert (sent - z).abs().max().item() == pytest.approx(0.1, rel=1e-3)
        assert torch.equal(sent, released(defence, z, x, purpose="query"))
        seen[epochs] = defence.similarity(z, x).item()
        assert defence.similarity(sent, x).item() < seen[epochs]
    assert seen[3] > seen[0]


@pytest.mark.slow
def test_it_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"algorithm": "monacosfl", "validate_every_rounds": 0, "cut": 3}
    source = train.run(tiny(tmp_path / "source", **fields, max_steps=2))
    fields |= {"defence": "adversarial", "client_from": str(source.path), "adversarial": OPTIONS, "checkpoint_every_seconds": 0}
    whole = train.run(tiny(tmp_path / "whole", **fields))
    with monkeypatch.context() as patch:
        _die_at(patch, "monacosfl", 7)
        with pytest.raises(Killed):
            train.run(tiny(tmp_path / "killed", **fields))
    _assert_same_end(whole.path, train.run(tiny(tmp_path / "killed", **fields), resume=True).path)


def test_without_a_trained_client_it_is_refused() -> None:
    with pytest.raises(ValueError, match="use --client-from RUN"):
        configuration.from_dict({"defence": "adversarial"})
