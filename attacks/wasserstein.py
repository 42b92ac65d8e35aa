"""A critic that tells smashed data from imitations, trained as in WGAN-GP, and its opponent's share of the loss.

Source: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017 (arXiv 1704.00028).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.substitute import Critic, built, gradient_penalty

RATE, BETAS, PENALTY = 2e-3, (0.0, 0.9), 10.0
"""Adam's rate on either side, its betas (without momentum, with which both sides turn in circles), and the penalty's weight."""


def cosine(done: int, iterations: int) -> float:
    """The share of a rate that falls from 1 to 0."""
    return (1 + math.cos(math.pi * done / iterations)) / 2


class Wasserstein:
    """D, which learns mean D(real) - mean D(imitated) + penalty (||slope of D|| - 1)^2.

    Args:
        shape: Of one image's smashed data.
        width: Channels of the critic.
        generator: Of its initial weights.
        device: Where it computes.
        rate, betas: Adam's.
        penalty: Weight of the gradient penalty.
    """

    def __init__(self, shape: Sequence[int], *, width: int, generator: torch.Generator, device: torch.device, rate: float = RATE,
                 betas: tuple[float, float] = BETAS, penalty: float = PENALTY) -> None:
        self.critic = built(Critic(shape, width=width), generator, device)
        self.weights, self.rate, self.penalty = list(self.critic.parameters()), rate, penalty
        self.optimiser = torch.optim.Adam(self.weights, rate, betas=betas, fused=True)

    def learn(self, real: Tensor, imitated: Tensor, *, generator: torch.Generator, share: float = 1.0) -> float:
        """One step at a share of the rate.

        Args:
            real, imitated: `(B, *shape)`; no gradient flows into them.
            generator: Of the places at which the slope is looked at.
            share: Of the rate.

        Returns:
            mean D(real) - mean D(imitated) before the step; 0 where it tells nothing apart.
        """
        real, imitated = real.detach(), imitated.detach()
        difference = self.critic(real).mean() - self.critic(imitated).mean()
        loss = difference + self.penalty * gradient_penalty(self.critic, real, imitated, generator=generator)
        self.optimiser.param_groups[0]["lr"] = share * self.rate
        self.optimiser.zero_grad()
        loss.backward(inputs=self.weights)
        self.optimiser.step()
        return difference.item()

    def __call__(self, imitated: Tensor) -> Tensor:
        """What the imitator makes small: mean D(imitated)."""
        scores: Tensor = self.critic(imitated)
        return scores.mean()
