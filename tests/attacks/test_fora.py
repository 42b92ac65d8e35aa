"""FORA's parts: closed forms and slow references, shapes, and what it may see."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from attacks import decoder, fora, sets
from attacks.api import AttackOptions, DecoderOptions, ForaOptions
from attacks.reconstruct import reconstruct
from attacks.substitute import Critic, Substitute, gradient_penalty, mk_mmd
from attacks.victim import Victim
from attacks.view import CapabilityError, View

RANDOM = torch.Generator().manual_seed(0)
TARGETS, AUX, SEEN = (torch.rand(n, 3, 12, 12, generator=RANDOM) for n in (4, 30, 40))
SMALL = AttackOptions(method="fora", fora=ForaOptions(iterations=3, width=4, batch_size=8, starts=2),
                      decoder=DecoderOptions(blocks=0, channels=4, steps=2))
PUBLISHED = dataclasses.replace(SMALL, preset="published")


def test_mmd_against_a_loop() -> None:
    """Pair by pair, kernel by kernel."""
    a, b = (torch.randn(5, 3, generator=RANDOM, dtype=torch.float64) + shift for shift in (0, 1))
    rows = torch.cat([a, b])
    scale = sum(float((p - q).square().sum()) for p in rows for q in rows) / (10 * 9)

    def kernel(p: Tensor, q: Tensor) -> float:
        return sum(math.exp(-float((p - q).square().sum()) / (2.0**k * scale)) for k in (-3, -2, -1, 0, 1))

    def mean(left: Tensor, right: Tensor) -> float:
        return sum(kernel(p, q) for p in left for q in right) / 25

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert mk_mmd(a, b).item() == pytest.approx(expected, rel=1e-9)
    assert mk_mmd(a, a).item() == pytest.approx(0, abs=1e-12)
    assert mk_mmd(a, a + 3).item() > mk_mmd(a, a + 1).item() > 0


def test_gradient_penalty_in_closed_form() -> None:
    """A linear critic w has slope w everywhere: (||w|| - 1)^2, over all numbers of an example at once."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((2, 3, 3), 0.5, dtype=torch.float64))

        def forward(self, z: Tensor) -> Tensor:
            return (z * self.weight).flatten(1).sum(1)

    critic = Linear()
    real, fake = (torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=RANDOM) for _ in range(2))
    found = gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(1))
    norm = math.sqrt(18 * 0.25)
    assert found.item() == pytest.approx((norm - 1) ** 2)
    found.backward()
    assert critic.weight.grad is not None
    torch.testing.assert_close(critic.weight.grad, 2 * (norm - 1) * critic.weight.detach() / norm)


@pytest.mark.parametrize("shape", [(5, 12, 12), (5, 6, 6), (5, 4, 4), (5, 1, 1), (9, 6), (7, 6), (10,)])
def test_networks_have_the_shape_of_the_smashed_data(shape: tuple[int, ...]) -> None:
    """Maps, tokens in a square and not, vectors; the critic gives one number each and mixes no examples."""
    z = Substitute(shape, image_size=12, width=4)(TARGETS)
    assert z.shape == (4, *shape)
    critic = Critic(shape, width=4)
    assert critic(z).shape == (4,)
    torch.testing.assert_close(critic(z)[:1], critic(z[:1]))


@pytest.mark.parametrize("options", [SMALL, PUBLISHED])
def test_units_of_smashed_data_do_not_matter(options: AttackOptions) -> None:
    """z and 1000 z + 5 are one attack."""
    images = []
    for client in (lambda x: x, lambda x: 1000 * x + 5):
        own = sets.split(AUX)
        offers = Victim(client, seen=SEEN).offers(TARGETS, own)
        images.append(fora.attack(View(offers, ("smashed", "aux", "server_training"), attack="fora"), options, 0).images)
    torch.testing.assert_close(images[0], images[1], atol=1e-3, rtol=0)


def test_it_sees_smashed_data_of_others_and_no_client() -> None:
    """No query, no weights; what was collected are the smashed data of the clients' other images; without any it says what is missing."""
    client = nn.Conv2d(3, 2, 3)
    view = View(Victim(client, seen=SEEN).offers(TARGETS, sets.split(AUX)), ("smashed", "aux", "server_training"), attack="fora")
    with pytest.raises(CapabilityError, match="asked for query"):
        view.query(AUX)
    with torch.no_grad():
        torch.testing.assert_close(view.collected.take(torch.tensor([3, 1])), client(SEEN)[[3, 1]])
    assert view.collected.count == 40
    found = fora.attack(view, SMALL, 0)
    assert found.images.shape == TARGETS.shape
    assert found.validation_mse is None
    assert found.notes["collected"] == 40
    distances = found.notes["mk_mmd_of_starts"]
    assert len(set(distances)) == 2
    assert found.notes["mk_mmd"] == distances[found.notes["start"]] == min(distances)
    with pytest.raises(CapabilityError, match="fora needs server_training"):
        reconstruct(client, TARGETS, AUX, method="fora")
    with pytest.raises(ValueError, match="private images are targets"):
        reconstruct(client, TARGETS, AUX, method="fora", private=torch.cat([SEEN, TARGETS]))


@pytest.mark.parametrize("improving", [True, False])
def test_a_decoder_that_was_still_improving_is_said_to_be(improving: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One iteration compares with itself, so the substitute never improves: what is said is what the decoder says."""
    monkeypatch.setattr(decoder.Training, "still_improving", property(lambda training: improving))
    offers = Victim(nn.Identity(), seen=SEEN).offers(TARGETS, sets.split(AUX))
    once = dataclasses.replace(SMALL, fora=dataclasses.replace(SMALL.fora, iterations=1))
    notes = fora.attack(View(offers, ("smashed", "aux", "server_training"), attack="fora"), once, 0).notes
    assert notes["still_improving"] is improving
    assert notes["iterations"] == 1


@pytest.mark.parametrize("options", [SMALL, PUBLISHED])
def test_every_network_learns(options: AttackOptions) -> None:
    """Each moves by its own loss at its rate, which is constant or a cosine, and the error of an inverse that learns along falls."""
    own = sets.split(AUX)
    offers = Victim(nn.Identity(), seen=SEEN).offers(TARGETS, own)
    made = fora.Alignment(own, offers["server_training"], options, shape=(3, 12, 12), iterations=21, seed=0)
    parts = {"substitute": made.substitute, "critic": made.critic.critic} | ({} if made.inverse is None else {"inverse": made.inverse})
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    first, chosen = made.iteration(), fora.PRESETS[options.preset]
    assert (made.optimiser.param_groups[0]["lr"], made.critic.optimiser.param_groups[0]["lr"]) == (chosen.rate, chosen.critic_rate)
    for _ in range(20):
        last = made.iteration()
    share = (1 + math.cos(math.pi * 20 / 21)) / 2 if options is SMALL else 1
    assert made.critic.optimiser.param_groups[0]["lr"] == pytest.approx(share * chosen.critic_rate)
    assert (options is PUBLISHED) == (made.inverse is not None) == (last[2] < first[2])
    for name, values in before.items():
        moved = [not torch.equal(p, q) for p, q in zip(parts[name].parameters(), values, strict=True)]
        assert moved.count(False) <= (name == "critic"), name  # a constant added to a critic changes no difference
