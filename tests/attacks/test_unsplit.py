"""UnSplit: its minimiser in closed form, what it knows, and that it never starts from the client's own weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.api import AttackOptions, UnsplitOptions
from attacks.reconstruct import reconstruct
from attacks.unsplit import attack
from attacks.victim import Victim, redrawn
from attacks.view import CapabilityError, OwnImages, View
from ssl_split.defences.noise import Dropout

TARGETS = nn.functional.interpolate(torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)), size=12, mode="bilinear")
OWN = OwnImages(torch.zeros(2, 3, 12, 12), torch.zeros(2, 3, 12, 12))


def _options(**changes: float) -> AttackOptions:
    return AttackOptions(method="unsplit", unsplit=UnsplitOptions(**{"rounds": 10, "steps": 30, "lr": 0.01, "tv": 0.0, **changes}))


def _view(client: nn.Module, fresh: object) -> View:
    assert callable(fresh)
    return View(Victim(client, fresh=fresh).offers(TARGETS, OWN), ("smashed", "architecture"), attack="unsplit")


def test_the_prior_darkens_the_identity_by_half() -> None:
    """Minimum of (x - z)^2 + w x^2, pixel by pixel: z / (1 + w)."""
    view = _view(nn.Identity(), lambda seed: nn.Identity())
    torch.testing.assert_close(attack(view, _options(l2=1.0), 0).images, TARGETS / 2, atol=2e-3, rtol=0)
    torch.testing.assert_close(attack(view, _options(l2=0.0), 0).images, TARGETS, atol=2e-3, rtol=0)


def test_the_search_goes_through_the_expectation_of_a_known_defence() -> None:
    """Dropout with p = 1/2 sends x / 2 in the mean. Minimum of (x / 2 - z)^2 + w x^2: (z / 2) / (1 / 4 + w), at w = 1 0.4 z; who does not
    know it finds z / 2."""
    for adaptive, factor in ((True, 0.4), (False, 0.5)):
        victim = Victim(nn.Identity(), defence=Dropout(0.5), adaptive=adaptive, fresh=lambda seed: nn.Identity())
        view = View(victim.offers(TARGETS, OWN), ("smashed", "architecture"), attack="unsplit")
        torch.testing.assert_close(attack(view, _options(l2=1.0), 0).images, factor * view.smashed, atol=2e-3, rtol=0)


def test_both_sides_are_searched() -> None:
    """A clone of its own weights comes near the smashed data; without steps for it the images alone do not."""
    client = nn.Conv2d(3, 6, 3, padding=1)
    nn.init.normal_(client.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    before, made = client.weight.detach().clone(), list[nn.Module]()

    def fresh(seed: int) -> nn.Module:
        made.append(redrawn(client)(seed))
        return made[-1]

    found = attack(_view(client, fresh), _options(l2=0.0), 3)
    assert found.notes["distance"][-1] < 0.05 * found.notes["spread_of_z"]
    assert found.validation_mse is None
    (clone,) = made
    assert not torch.allclose(next(clone.parameters()), client.weight)
    assert not torch.allclose(next(clone.parameters()), next(redrawn(client)(0).parameters()))
    assert torch.equal(client.weight, before)


def test_redrawn_weights_are_the_same_numbers_in_another_order() -> None:
    untrained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    one, again, other = redrawn(untrained)(1), redrawn(untrained)(1), redrawn(untrained)(2)
    for p, a, b, c in zip(untrained.parameters(), one.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.flatten().sort().values, a.flatten().sort().values)
        assert torch.equal(a, b)
        assert len(p.unique()) == 1 or not (torch.equal(p, a) or torch.equal(a, c))


def test_needs_the_architecture_and_nothing_else() -> None:
    """No query, no weights, no images of its own; a plain callable has no architecture to offer."""
    view = _view(nn.Identity(), lambda seed: nn.Identity())
    with pytest.raises(CapabilityError, match="asked for weights"):
        _ = view.weights
    with pytest.raises(CapabilityError, match="needs architecture"):
        reconstruct(lambda x: x, TARGETS, torch.rand(4, 3, 12, 12), method="unsplit")


def test_no_validation_score_is_not_a_perfect_one() -> None:
    """An attack without images of its own has no validation error: None, never 0, which would make it the strongest."""
    seen: Tensor = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(8))
    found = reconstruct(nn.Identity(), TARGETS, seen, method="unsplit", untrained=nn.Identity(), seeds=1, unsplit={"rounds": 1, "steps": 2})
    assert found.result["validation_mse"] is None
    assert found.result["needs"] == ["smashed", "architecture"]
