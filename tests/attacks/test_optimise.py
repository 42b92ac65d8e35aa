"""The search with known weights: where it must succeed, where it must fail, and what it says of itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks import variation
from attacks.invert import reconstruct
from attacks.optimise import BATCH, Search
from attacks.view import CapabilityError, Client
from ssl_split.display import progress


def _smooth(count: int, seed: int, size: int = 16) -> Tensor:
    """Images with neighbours alike, in [0, 1]."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


TARGETS, AUX = _smooth(8, 0), _smooth(60, 1)
QUICK = {"method": "optimise", "budget": "quick"}


class Constant(nn.Module):
    """Sends nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)


def _convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 12, 3, padding=1)


def test_variations_by_hand() -> None:
    """A step of 0.5 between two halves of four columns; rows are alike."""
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    x[..., 2:] = 0.5
    assert variation.tv_l1(x).item() == pytest.approx(0.5 / 3)
    assert variation.tv_sq(x).item() == pytest.approx(0.25 / 3)
    assert variation.tv_iso(x).item() == pytest.approx(0.5 / 3, abs=1e-5)
    diagonal = x + x.transpose(2, 3)  # one of nine places has a step both ways
    assert variation.tv_iso(diagonal).item() == pytest.approx((4 * 0.5 + 0.5 * 2**0.5) / 9, abs=1e-5)
    flat = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    for name in variation.VARIATIONS.values():
        (gradient,) = torch.autograd.grad(name(flat).sum(), flat)
        assert bool(torch.isfinite(gradient).all())


def test_the_identity_gives_everything_away() -> None:
    found = reconstruct(nn.Identity(), TARGETS, AUX, **QUICK, optimise={"tv": 0.0})
    assert found.result["psnr"] > 30
    assert found.result["per_seed"][0]["arrived"] == 1
    assert found.result["r2"] > 0.99


def test_one_convolution_gives_nearly_everything_away_and_the_prior_is_chosen_on_own_images() -> None:
    found = reconstruct(_convolution(), TARGETS, AUX, **QUICK)
    assert found.result["r2"] > 0.9
    notes = found.result["per_seed"][0]
    assert notes["tv"] == float(min(notes["validation_mse_by_tv"], key=lambda k: notes["validation_mse_by_tv"][k]))
    assert set(found.result["needs"]) == {"smashed", "query", "weights", "aux_same"}


def test_a_client_that_sends_nothing_gives_nothing_away() -> None:
    found = reconstruct(Constant(), TARGETS, AUX, **QUICK)
    assert abs(found.result["r2"]) < 0.05
    assert "no better" in found.verdict


def test_images_do_not_see_each_other() -> None:
    """A batch gives what each image gives alone."""
    search = Search(Client(_convolution().double().eval().requires_grad_(False), lambda x: x), "tv_iso", 0.01, 0.0, 0.05)
    x = TARGETS[:3].double()
    z, start = search.client.module(x), torch.full_like(x, 0.5)
    with progress(80, "test") as bar:
        together, objectives, losses, _ = search.run(start, z, steps=20, bar=bar)
        for i in range(3):
            alone, objective, loss, _ = search.run(start[i : i + 1], z[i : i + 1], steps=20, bar=bar)
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(objectives[i : i + 1], objective)
            torch.testing.assert_close(losses[i : i + 1], loss)
    assert together.min() >= 0
    assert together.max() <= 1


def test_of_several_starts_the_lowest_objective_counts_for_each_image() -> None:
    one, three = (reconstruct(_convolution(), TARGETS, AUX, **QUICK, optimise={"starts": n, "steps": 30, "tv": 0.0},
                              decoder={"steps": 20, "channels": 4, "blocks": 1}) for n in (1, 3))
    notes = three.result["per_seed"][0]
    assert notes["starts"] == ["mean of own images", "grey", "decoder"]
    assert sum(notes["best_start"].values()) == len(TARGETS)
    first = one.result["per_seed"][0]["feature_loss"]
    assert all(b <= a * (1 + 1e-4) for a, b in zip(first, notes["feature_loss"], strict=True))


def test_it_needs_the_weights() -> None:
    convolution = _convolution()
    with pytest.raises(CapabilityError, match="optimise needs weights"):
        reconstruct(lambda x: convolution(x), TARGETS, AUX, **QUICK)


def test_more_targets_than_a_batch() -> None:
    many = _smooth(BATCH + 3, 2)
    found = reconstruct(nn.Identity(), many, AUX, **QUICK, optimise={"tv": 0.0, "steps": 40})
    assert found.images[0].shape == many.shape
    assert found.result["r2"] > 0.5


def test_the_oracle_is_the_decoder_on_the_clients_own_images() -> None:
    """With equal images it gives the same numbers; without any it is refused."""
    decoder = {"steps": 30, "channels": 4, "blocks": 1}
    own, bound = (reconstruct(_convolution(), TARGETS, AUX, method=method, budget="quick", decoder=decoder, private=AUX)
                  for method in ("decoder", "oracle"))
    assert bound.result["mse"] == own.result["mse"]
    assert "private_pairs" in bound.result["needs"]
    assert "private_pairs" not in own.result["needs"]
    with pytest.raises(CapabilityError, match="oracle needs private_pairs"):
        reconstruct(_convolution(), TARGETS, AUX, method="oracle", budget="quick", decoder=decoder)
    with pytest.raises(ValueError, match="are targets"):
        reconstruct(_convolution(), TARGETS, AUX, method="oracle", budget="quick", private=torch.cat([AUX, TARGETS[:1]]))
