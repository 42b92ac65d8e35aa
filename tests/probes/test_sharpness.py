"""Sharpness against the whole Hessian of a small network, in float64, and as a command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from probes import sharpness
from ssl_split import train
from ssl_split.data.imageset import ImageSet, to_input

sys.path.append(str(Path(__file__).parents[1] / "train"))
from tiny import tiny

REAL = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def landscape() -> sharpness.Landscape:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    generator = torch.Generator().manual_seed(1)
    images = ImageSet(torch.randint(0, 256, (150, 3, 8, 8), dtype=torch.uint8, generator=generator),
                      torch.randint(3, (150,), generator=generator))
    return sharpness.Landscape(network, images, **REAL)


def flat_loss(land: sharpness.Landscape, vector: torch.Tensor) -> torch.Tensor:
    """The loss as a function of all weights in one vector."""
    values, at = {}, 0
    for name, p in land.network.named_parameters():
        values[name] = vector[at : at + p.numel()].view_as(p)
        at += p.numel()
    logits = torch.func.functional_call(land.network, values, (to_input(land.images.images, **REAL, dtype=torch.float64),))
    return functional.cross_entropy(logits, land.images.labels)


def test_it_is_the_largest_eigenvalue_of_the_whole_hessian() -> None:
    land = landscape()
    vector = torch.nn.utils.parameters_to_vector(land.weights).detach()
    hessian = torch.autograd.functional.hessian(lambda v: flat_loss(land, v), vector)
    values = torch.linalg.eigvalsh(hessian)
    expected = values[values.abs().argmax()].item()
    found, change = land.largest_eigenvalue(iterations=500, tolerance=1e-10, seed=0)
    assert found == pytest.approx(expected, rel=1e-5)
    assert change < 1e-9
    v = torch.randn_like(vector)
    parts = [part.view_as(w) for part, w in zip(v.split([w.numel() for w in land.weights]), land.weights, strict=True)]
    torch.testing.assert_close(torch.cat([p.flatten() for p in land.hessian_times(parts)]), hessian @ v)


def test_losses_and_weights_that_stay() -> None:
    land = landscape()
    before = [w.detach().clone() for w in land.weights]
    vector = torch.nn.utils.parameters_to_vector(land.weights).detach()
    gradient = land.gradient()
    flat = torch.cat([g.flatten() for g in gradient])
    assert land.loss() == pytest.approx(flat_loss(land, vector).item())
    assert land.loss_at(gradient, 0.3) == pytest.approx(flat_loss(land, vector + 0.3 * flat / flat.norm()).item())
    assert land.loss_at(gradient, 0.3) > land.loss()
    assert all(torch.equal(w, kept) for w, kept in zip(land.weights, before, strict=True))


def test_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = train.run(tiny(tmp_path, algorithm="fedsam", cut="full", client_lr=0.02, server_lr=0.02))
    sharpness.main(["--checkpoint", str(done.path), "--images", "40", "--iterations", "4", "--directions", "2"])
    assert "largest eigenvalue" in capsys.readouterr().out
    found = sharpness.measure(sharpness.Options(checkpoint=str(done.path), images=40, iterations=4, directions=2))
    assert found["loss_uphill"] > found["loss"] > 0
    assert found["images"] == 40
    assert Path(found["path"]).is_file()
    for damaged in ("{", "[1]", "\xff"):
        Path(found["path"]).write_text(damaged, encoding="latin-1")
        again = sharpness.measure(sharpness.Options(checkpoint=str(done.path), images=40, iterations=4, directions=2))
        assert [again[k] for k in ("loss", "largest_eigenvalue")] == [found[k] for k in ("loss", "largest_eigenvalue")]
        assert Path(found["path"]).read_text().startswith("{\n")
    ssl = train.run(tiny(tmp_path, max_steps=2))
    with pytest.raises(ValueError, match="no classifier"):
        sharpness.measure(sharpness.Options(checkpoint=str(ssl.path)))
