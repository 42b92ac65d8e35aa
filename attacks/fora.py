"""FORA: a substitute client whose outputs look like the clients' smashed data, and its inverse.

The server collects smashed data of the clients' images in training. Without weights, shape or answers of the client it trains, on images of
its own, a substitute f~ (of another architecture) whose outputs have the distribution of what it collected, and an inverse of f~, which it
then applies to the smashed data of the targets. No labels are used.

    f~:      (1 - a) mean D(f~(x)) + a MK-MMD(z, f~(x)),  a = 0.8
    D:       mean D(z) - mean D(f~(x)) + 1000 gradient penalty
    inverse: MSE(f~^-1(f~(x)), x), images in [-1, 1]

Adam 1e-4, 3e-4 and 1e-4, batches of 64; 40 000 iterations are published. The targets are never among the collected data that is trained on.

Source: Xu et al., "A Stealthy Wrongdoer: Feature-Oriented Reconstruction Attack against Split Learning", CVPR 2024 (arXiv 2405.04115).
Deviations: smashed data are divided by their overall deviation after their mean is taken off; the substitute is a plain stack of
convolutions; the inverse is the decoder of `attacks.decoder`, and learns at the same time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attacks import decoder
from attacks.api import AttackOptions, Guess
from attacks.substitute import Critic, Scale, Substitute, built, channels_last, gradient_penalty, mk_mmd
from attacks.view import Collected, OwnImages, View
from ssl_split import rng
from ssl_split.display import progress
from ssl_split.models.decoder import build

BUDGETS = {"quick": 1000, "standard": 5000, "paper": 40_000}
"""Iterations."""
ALIGNMENT = 0.8
"""a: share of MK-MMD in the substitute's loss."""
PENALTY = 1000.0
RATES = {"substitute": 1e-4, "critic": 3e-4, "inverse": 1e-4}
MEASURED = 256
"""Collected data from which mean and deviation are taken."""
GAIN = 0.01


class Alignment:
    """Substitute, critic and inverse while they are trained.

    Args:
        own: The attacker's images.
        collected: What the server has seen.
        options: Widths, rates and batch size.
        shape: Of one image's smashed data.
        seed: Of weights and batches.
    """

    def __init__(self, own: OwnImages, collected: Collected, options: AttackOptions, *, shape: tuple[int, ...], seed: int) -> None:
        size, width, device = own.fit.shape[-1], options.fora.width, own.fit.device
        chosen = decoder.recipe(options)
        self.own, self.collected, self.options = own, collected, options
        self.random = rng.generator(seed, "fora batches")
        first = collected.take(torch.arange(min(MEASURED, collected.count)))
        self.scale = Scale.of(first)
        self.substitute = built(Substitute(shape, image_size=size, width=width), rng.generator(seed, "fora substitute"), device)
        self.critic = built(Critic(shape, width=width), rng.generator(seed, "fora critic"), device)
        inverse = build(shape, rng.generator(seed, "fora inverse"), image_size=size, blocks=chosen.blocks, channels=chosen.channels)
        self.inverse: nn.Module = inverse.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = {name: list(getattr(self, name).parameters()) for name in RATES}
        self.optimisers = {name: torch.optim.Adam(self.weights[name], options.fora.speed * rate, fused=True)
                           for name, rate in RATES.items()}

    def _places(self, count: int) -> Tensor:
        return torch.randint(count, (self.options.fora.batch_size,), generator=self.random)

    def _step(self, name: str, loss: Tensor) -> float:
        self.optimisers[name].zero_grad()
        loss.backward(inputs=self.weights[name])  # the substitute's loss goes through the critic, whose own slopes nobody needs
        self.optimisers[name].step()
        return loss.item()

    def iteration(self) -> tuple[float, float, float]:
        """One step of the critic, the substitute and the inverse.

        Returns:
            MK-MMD, the critic's mean difference, and the inverse's error in [0, 1].
        """
        x = channels_last(self.own.fit[self._places(len(self.own.fit)).to(self.own.fit.device)])
        z = channels_last(self.scale.apply(self.collected.take(self._places(self.collected.count))))
        fake = self.substitute(2 * x - 1)
        difference = self.critic(z).mean() - self.critic(fake.detach()).mean()
        self._step("critic", difference + PENALTY * gradient_penalty(self.critic, z, fake.detach(), generator=self.random))
        apart = mk_mmd(z.flatten(1), fake.flatten(1))
        self._step("substitute", (1 - ALIGNMENT) * self.critic(fake).mean() + ALIGNMENT * apart)
        error = (self.inverse(fake.detach()) - x).square().mean()
        self._step("inverse", 4 * error)  # four times the error of [0, 1] is that of [-1, 1]
        return apart.item(), difference.item(), error.item()

    def reconstruct(self, z: Tensor) -> Tensor:
        """Images `(n, 3, S, S)` in [0, 1] of smashed data."""
        return self._inverted(self.scale.apply(z))

    def own_error(self) -> float:
        """MSE on own validation images of what the inverse makes of the substitute's outputs: says nothing about the client."""
        with torch.no_grad():
            fake = torch.cat([self.substitute(channels_last(2 * part - 1)) for part in self.own.validation.split(128)])
        return (self._inverted(fake) - self.own.validation).square().mean().item()

    def _inverted(self, z: Tensor) -> Tensor:
        self.inverse.eval()
        with torch.no_grad():
            images = torch.cat([self.inverse(channels_last(part)) for part in z.split(128)])
        self.inverse.train()
        return images.clamp(0, 1)


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Align a substitute with what was collected, and invert the targets by its inverse."""
    collected = view.collected
    if collected.count < 2:
        raise ValueError("fora needs smashed data of clients' images that are no targets, and all are: set a smaller --targets")
    training = Alignment(view.aux, collected, options, shape=tuple(view.smashed.shape[1:]), seed=seed)
    iterations = options.fora.iterations or BUDGETS[options.budget]
    history: list[tuple[float, float, float]] = []
    with progress(iterations, f"fora, seed {seed}") as bar:
        for _ in range(iterations):
            history.append(training.iteration())
            bar.advance(mk_mmd=history[-1][0], own_error=history[-1][2])
    if not all(map(math.isfinite, history[-1])):
        raise ValueError("the substitute diverged: set a lower --fora.speed")
    tenth = max(1, iterations // 10)
    spans = history[-tenth:], history[-2 * tenth : -tenth] or history
    last, before = (torch.tensor(span, dtype=torch.float64).mean(0).tolist() for span in spans)
    notes = {"iterations": iterations, "collected": collected.count, "mk_mmd": last[0], "critic_difference": last[1],
             "own_error": training.own_error(), "still_improving": last[0] < (1 - GAIN) * before[0] or last[2] < (1 - GAIN) * before[2]}
    return Guess(training.reconstruct(view.smashed), None, notes)
