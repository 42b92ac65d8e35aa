"""FORA: a substitute client whose outputs look like the clients' smashed data, and its inverse.

The server collects smashed data of the clients' images in training. Without weights, shape or answers of the client it trains, on images of
its own, a substitute f~ (of another architecture) whose outputs have the distribution of what it collected, and an inverse of f~, which it
then applies to the smashed data of the targets. No labels are used.

    f~:      (1 - a) mean D(f~(x)) + a MK-MMD(z, f~(x))
    D:       mean D(z) - mean D(f~(x)) + penalty (||slope of D|| - 1)^2
    inverse: MSE(f~^-1(f~(x)), x)

| | `published` | `strong` (default) |
|---|---|---|
| starts | 1 | 3, of which the one counts whose outputs are nearest to what was collected |
| a, penalty | 0.8, 1000 | 0, 10: the critic alone, as WGAN-GP is trained (Gulrajani et al. 2017) |
| Adam | 1e-4 (f~), 3e-4 (D), momentum 0.9 | 2e-3, 2e-3, momentum 0, falling to 0 as a cosine |
| inverse | learns along, Adam 1e-4, on [-1, 1] | `attacks.decoder` after f~ is done, with its budgets |

Batches of 64; 40 000 iterations are published. The targets are never among the collected data that is trained on.

Why `strong`: with MK-MMD of batches of 64, or with momentum, the substitute of a client of one convolution ends at the negatives of
images, or circles; without them most starts rebuild what such a client sends within minutes. Which did is told by the MK-MMD of larger
samples, so there are three.

Source: Xu et al., "A Stealthy Wrongdoer: Feature-Oriented Reconstruction Attack against Split Learning", CVPR 2024 (arXiv 2405.04115).
Deviations: smashed data are divided by their overall deviation after their mean is taken off; the substitute is a plain stack of
convolutions; the inverse is the decoder of `attacks.decoder`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks import decoder
from attacks.api import AttackOptions, Guess
from attacks.substitute import Scale, Substitute, built, channels_last, mk_mmd
from attacks.view import Collected, OwnImages, View
from attacks.wasserstein import BETAS, PENALTY, RATE, Wasserstein, cosine
from ssl_split import rng
from ssl_split.display import progress
from ssl_split.models.decoder import build

BUDGETS = {"quick": 1000, "standard": 5000, "paper": 40_000}
"""Iterations."""
INVERSE_RATE = 1e-4
"""Of the inverse that learns along, Adam's."""


@dataclass(frozen=True)
class Recipe:
    """A preset.

    Attributes:
        alignment: a, the share of MK-MMD in the substitute's loss.
        penalty: Weight of the critic's gradient penalty.
        rate, critic_rate: Adam's, of substitute and critic.
        betas: Adam's, of both.
        cosine: Whether their rates fall to 0.
        along: Whether the inverse learns along, and not afterwards.
        starts: Substitutes that are trained.
    """

    alignment: float
    penalty: float
    rate: float
    critic_rate: float
    betas: tuple[float, float]
    cosine: bool
    along: bool
    starts: int


PRESETS = {"strong": Recipe(0.0, PENALTY, RATE, RATE, BETAS, cosine=True, along=False, starts=3),
           "published": Recipe(0.8, 1000.0, 1e-4, 3e-4, (0.9, 0.999), cosine=False, along=True, starts=1)}
MEASURED = 256
"""Collected data from which mean and deviation are taken."""
JUDGED = 512
"""Collected data, and own images, by which the best of several starts is told."""
GAIN = 0.01


class Alignment:
    """Substitute and critic while they are trained, and the inverse where it learns along.

    Args:
        own: The attacker's images.
        collected: What the server has seen.
        options: Preset, widths, rates and batch size.
        shape: Of one image's smashed data.
        iterations: That there will be.
        seed: Of weights and batches.
        start: Number of this beginning; others have other weights and batches.
    """

    def __init__(self, own: OwnImages, collected: Collected, options: AttackOptions, *, shape: tuple[int, ...], iterations: int, seed: int,
                 start: int = 0) -> None:
        size, width, device, speed = own.fit.shape[-1], options.fora.width, own.fit.device, options.fora.speed
        self.own, self.collected, self.size, self.chosen = own, collected, options.fora.batch_size, PRESETS[options.preset]
        self.random, self.iterations, self.done = rng.generator(seed, "fora batches", start), iterations, 0
        self.scale = Scale.of(collected.take(torch.arange(min(MEASURED, collected.count))))
        self.substitute = built(Substitute(shape, image_size=size, width=width), rng.generator(seed, "fora substitute", start), device)
        self.critic = Wasserstein(shape, width=width, generator=rng.generator(seed, "fora critic", start), device=device,
                                  rate=speed * self.chosen.critic_rate, betas=self.chosen.betas, penalty=self.chosen.penalty)
        self.rate, self.weights = speed * self.chosen.rate, list(self.substitute.parameters())
        self.optimiser = torch.optim.Adam(self.weights, self.rate, betas=self.chosen.betas, fused=True)
        self.inverse: nn.Module | None = None
        if self.chosen.along:
            made = decoder.recipe(options)
            inverse = build(shape, rng.generator(seed, "fora inverse", start), image_size=size, blocks=made.blocks, channels=made.channels)
            self.inverse = inverse.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.inverse_optimiser = torch.optim.Adam(self.inverse.parameters(), speed * INVERSE_RATE, fused=True)

    def _places(self, count: int) -> Tensor:
        return torch.randint(count, (self.size,), generator=self.random)

    def iteration(self) -> tuple[float, float, float]:
        """One step of the critic, the substitute and, where it learns along, the inverse.

        Returns:
            MK-MMD, the critic's mean difference, and the inverse's error in [0, 1] (nan where it learns afterwards).
        """
        x = channels_last(self.own.fit[self._places(len(self.own.fit)).to(self.own.fit.device)])
        z = channels_last(self.scale.apply(self.collected.take(self._places(self.collected.count))))
        fake, a = self.substitute(2 * x - 1), self.chosen.alignment
        share = cosine(self.done, self.iterations) if self.chosen.cosine else 1.0
        difference = self.critic.learn(z, fake, generator=self.random, share=share)
        apart = mk_mmd(z.flatten(1), (fake if a else fake.detach()).flatten(1))
        self.optimiser.param_groups[0]["lr"] = share * self.rate
        self.optimiser.zero_grad()
        ((1 - a) * self.critic(fake) + a * apart).backward(inputs=self.weights)  # through the critic, whose own slopes nobody needs
        self.optimiser.step()
        self.done += 1
        return apart.item(), difference, self._invert(fake.detach(), x)

    def _invert(self, fake: Tensor, x: Tensor) -> float:
        """One step of the inverse that learns along."""
        if self.inverse is None:
            return math.nan
        error = (self.inverse(fake) - x).square().mean()
        self.inverse_optimiser.zero_grad()
        (4 * error).backward()  # four times the error of [0, 1] is that of [-1, 1]
        self.inverse_optimiser.step()
        return error.item()

    def distance(self) -> float:
        """MK-MMD of what was collected and what the substitute makes of own images, as many of each as are judged."""
        count = min(JUDGED, self.collected.count, len(self.own.fit))
        z = self.scale.apply(self.collected.take(torch.arange(count)))
        return mk_mmd(z.flatten(1), self.outputs(self.own.fit[:count]).flatten(1)).item()

    def outputs(self, images: Tensor) -> Tensor:
        """What the substitute makes of images in [0, 1], without gradients."""
        with torch.no_grad():
            return torch.cat([self.substitute(channels_last(2 * part - 1)) for part in images.split(128)])

    def inverted(self, z: Tensor) -> Tensor:
        """What the inverse that learns along makes of scaled smashed data, images `(n, 3, S, S)` in [0, 1]."""
        assert self.inverse is not None
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
    iterations = options.fora.iterations or BUDGETS[options.budget]
    shape, found = tuple(view.smashed.shape[1:]), []
    for start in range(options.fora.starts or PRESETS[options.preset].starts):
        training = Alignment(view.aux, collected, options, shape=shape, iterations=iterations, seed=seed, start=start)
        history = aligned(training, iterations, title=f"fora, seed {seed}, start {start}")
        found.append((training.distance(), start, training, history))
    distance, start, training, history = min(found, key=lambda one: one[0])
    invert, notes, improving = training.inverted, {}, False
    if training.inverse is None:
        made, _ = decoder.of_outputs(training.outputs, view.aux, options, seed=seed)
        invert, notes, improving = made.images, made.notes(), made.still_improving
    images = view.aux.validation
    own_error = (invert(training.outputs(images)) - images).square().mean().item()
    tenth = max(1, iterations // 10)
    spans = history[-tenth:], history[-2 * tenth : -tenth] or history
    last, before = (torch.tensor(span, dtype=torch.float64).mean(0).tolist() for span in spans)
    notes = notes | {"iterations": iterations, "collected": collected.count, "mk_mmd": distance, "start": start,
                     "mk_mmd_of_starts": [one[0] for one in found], "critic_difference": last[1], "own_error": own_error,
                     "still_improving": last[0] < (1 - GAIN) * before[0] or last[2] < (1 - GAIN) * before[2] or improving}
    return Guess(invert(training.scale.apply(view.smashed)), None, notes)


def aligned(training: Alignment, iterations: int, *, title: str) -> list[tuple[float, float, float]]:
    """Run all iterations and give what each returned.

    Raises:
        ValueError: it diverged.
    """
    history = []
    with progress(iterations, title) as bar:
        for _ in range(iterations):
            history.append(training.iteration())
            bar.advance(mk_mmd=history[-1][0], critic=history[-1][1])
    if not all(map(math.isfinite, history[-1][:2])):
        raise ValueError("the substitute diverged: set a lower --fora.speed")
    return history
