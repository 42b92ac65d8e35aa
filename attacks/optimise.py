"""The optimisation attack: with the client's weights, search the image whose smashed data are those that were sent.

Minimises || f(x) - z ||^2 / || z ||^2 + w_tv TV(x) + w_2 mean x^2 for every target by itself, many of them side by side, by Adam on the
pixels, which stay in [0, 1]. Several starts; the one with the lowest objective counts. The weight of the total variation is chosen on
the attacker's own images, of which it knows the truth.

The feature loss || f(x) - z ||^2 / || z ||^2 of every image goes into the result: where it stays high the search has not arrived, and the
image is not thereby private.

Sources: Mahendran and Vedaldi, CVPR 2015 (arXiv 1412.0035); He et al., ACSAC 2019; with the priors of Geiping et al., NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks import decoder
from attacks.api import AttackOptions, Guess
from attacks.blind import mean_image
from attacks.variation import VARIATIONS
from attacks.view import Client, View
from ssl_split import rng
from ssl_split.display import Bar, progress

Begin = Callable[[int, Tensor], Tensor]
"""A start: number of images and their smashed data -> images in [0, 1]."""


@dataclass(frozen=True)
class Budget:
    """Steps of a start, and starts."""

    steps: int
    starts: int


BUDGETS = {"quick": Budget(200, 1), "standard": Budget(500, 2), "paper": Budget(2000, 3)}
STARTS = ("mean of own images", "grey", "decoder", "noise")
"""In this order; further ones are noise again."""
WEIGHTS = (0.0, 0.01, 0.1, 0.3, 1.0, 3.0)
"""Tried for the total variation on own images."""
TRIED, TRIED_STEPS = 16, 200
"""Own images on which the weight is chosen, and steps for each."""
SCORED = 32
"""Further own images, for the score by which attacks are compared."""
BATCH = 128
"""Images optimised together."""
ARRIVED = 0.01
"""Feature loss below which a search counts as arrived."""
GAIN = 0.01


@dataclass(frozen=True)
class Search:
    """What the search minimises, and how.

    Attributes:
        client: The client half and its normalisation; its weights get no gradient.
        variation: Name of the total variation.
        tv, l2: Weights of the priors.
        lr: Of Adam, falling by a cosine to 0.
    """

    client: Client
    variation: str
    tv: float
    l2: float
    lr: float

    def feature_loss(self, x: Tensor, z: Tensor) -> Tensor:
        """|| f(x) - z ||^2 / || z ||^2 of each image, `(n,)`; where nothing was sent (z = 0), || f(x) ||^2."""
        distance = (self.client.smashed(x) - z).flatten(1).square().sum(1)
        length = z.flatten(1).square().sum(1)
        return distance / torch.where(length > 0, length, torch.ones_like(length))

    def priors(self, x: Tensor) -> Tensor:
        """Weighted priors of each image, `(n,)`."""
        return self.tv * VARIATIONS[self.variation](x) + self.l2 * x.square().mean((1, 2, 3))

    def run(self, start: Tensor, z: Tensor, *, steps: int, bar: Bar) -> tuple[Tensor, Tensor, Tensor, bool]:
        """From one start.

        Args:
            start: Images in [0, 1], `(n, 3, S, S)`.
            z: Their targets' smashed data, `(n, ...)`.
            steps: Of Adam.
            bar: Advances by a step for each batch.

        Returns:
            Images, objectives `(n,)`, feature losses `(n,)`, and whether the last tenth of the steps still lowered the mean objective by
            more than 1 %.

        Raises:
            ValueError: the objective is not finite.
        """
        found, objectives, losses, improving = [], [], [], False
        for x0, part in zip(start.split(BATCH), z.split(BATCH), strict=True):
            x = x0.clone().contiguous(memory_format=torch.channels_last).requires_grad_()

            def measure(x: Tensor = x, part: Tensor = part) -> tuple[Tensor, Tensor]:
                feature = self.feature_loss(x, part)
                return feature + self.priors(x), feature

            objective, feature, gaining = descend(measure, x, lr=self.lr, steps=steps, bar=bar)
            improving |= gaining
            found.append(x.detach())
            objectives.append(objective)
            losses.append(feature)
        return torch.cat(found), torch.cat(objectives), torch.cat(losses), improving


def descend(measure: Callable[[], tuple[Tensor, Tensor]], x: Tensor, *, lr: float, steps: int, bar: Bar, further: Sequence[Tensor] = (),
            further_lr: float = 0.0) -> tuple[Tensor, Tensor, bool]:
    """Lower the objectives of images side by side, by Adam with rates that fall by a cosine to 0.

    Args:
        measure: Objectives and feature losses of the images as they are now, `(n,)` each.
        x: The images `(n, 3, S, S)`, kept in [0, 1]; changed.
        lr: Their rate.
        steps: Of Adam.
        bar: Advances by a step.
        further: What else is searched for, changed.
        further_lr: Its rate.

    Returns:
        Objectives and feature losses at the end, and whether the last tenth of the steps still lowered the mean objective by more than 1 %.

    Raises:
        ValueError: an objective is not finite.
    """
    groups = [{"params": [x], "rate": lr}]
    if further:
        groups.append({"params": list(further), "rate": further_lr})
    optimiser, before = torch.optim.Adam(groups, lr), math.inf
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * (1 + math.cos(math.pi * step / steps)) / 2
        objective, loss = measure()
        optimiser.zero_grad()
        objective.sum().backward()  # images do not see each other
        optimiser.step()
        with torch.no_grad():
            x.clamp_(0, 1)
        if step == int(0.9 * steps):
            before = objective.mean().item()
        bar.advance(feature_loss=loss.mean().item())
    with torch.no_grad():
        objective, loss = measure()
    if not bool(torch.isfinite(objective).all()):
        raise ValueError("the optimisation diverged: set a lower --optimise.lr")
    return objective, loss, objective.mean().item() < (1 - GAIN) * before


def budget(options: AttackOptions) -> Budget:
    """The budget with the single values that were set."""
    chosen, own = BUDGETS[options.budget], options.optimise
    return Budget(own.steps or chosen.steps, own.starts or chosen.starts)


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Choose the weight of the prior on own images, search from every start, keep each image's best."""
    own, client = view.aux, view.weights
    client.module.requires_grad_(False)
    chosen = options.optimise
    search = Search(client, chosen.variation, chosen.tv or 0.0, chosen.l2, chosen.lr)
    length = budget(options)
    tried, scored = own.validation[:TRIED], own.validation[TRIED : TRIED + SCORED]
    scored = scored if len(scored) else tried
    choosing = chosen.tv is None
    chunks = math.ceil(len(view.smashed) / BATCH)
    total = length.starts * length.steps * (chunks + 1) + choosing * len(WEIGHTS) * TRIED_STEPS
    errors: dict[float, float] = {}
    starts = _starts(view, options, seed, count=length.starts)
    with progress(total, "optimise") as bar:
        if choosing:
            z = view.query(tried)
            for weight in WEIGHTS:
                begin = mean_image(own.fit).expand_as(tried)
                found, *_ = replace(search, tv=weight).run(begin, z, steps=min(TRIED_STEPS, length.steps), bar=bar)
                errors[weight] = (found - tried).square().mean().item()
            search = replace(search, tv=min(errors, key=lambda weight: errors[weight]))
        mine, _, _, _ = _best(search, starts, view.query(scored), length.steps, bar=bar)
        images, losses, best, improving = _best(search, starts, view.smashed, length.steps, bar=bar)
    notes = {
        "steps": length.steps, "starts": [name for name, _ in starts], "tv": search.tv, "variation": search.variation,
        "tv_at_edge": choosing and search.tv == WEIGHTS[-1],
        "validation_mse_by_tv": {f"{k:g}": v for k, v in errors.items()}, "still_improving": improving,
        "feature_loss": losses.tolist(), "feature_loss_mean": losses.mean().item(), "feature_loss_median": losses.median().item(),
        "arrived": (losses < ARRIVED).double().mean().item(),
        "best_start": {name: int((best == i).sum()) for i, (name, _) in enumerate(starts)},
    }
    return Guess(images, (mine - scored).square().mean().item(), notes)


def _starts(view: View, options: AttackOptions, seed: int, *, count: int) -> list[tuple[str, Begin]]:
    """The first `count` starts, by name."""
    own = view.aux.fit
    mean, shape = mean_image(own), own.shape[1:]

    def noise(number: int) -> Begin:
        def begin(n: int, z: Tensor) -> Tensor:
            generator = rng.generator(seed, "optimise", number)
            return torch.rand(n, *shape, generator=generator).to(own)
        return begin

    made: list[tuple[str, Begin]] = [(STARTS[0], lambda n, z: mean.expand(n, *shape)),
                                     (STARTS[1], lambda n, z: torch.full((n, *shape), 0.5).to(own))]
    if count > 2:
        training, _ = decoder.trained(view, view.aux, replace(options, preset="strong", budget="quick"), seed)
        made.append((STARTS[2], lambda n, z: training.reconstruct(z).clamp(0, 1).to(own)))
    made += [(f"{STARTS[3]} {i + 1}", noise(i)) for i in range(count - 3)]
    return made[:count]


def _best(search: Search, starts: Sequence[tuple[str, Begin]], z: Tensor, steps: int, *, bar: Bar
          ) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Of every image the result with the lowest objective: images, feature losses, which start, whether one was still improving."""
    found = [search.run(begin(len(z), z), z, steps=steps, bar=bar) for _, begin in starts]
    best = torch.stack([objective for _, objective, _, _ in found]).argmin(0)
    rows = torch.arange(len(z), device=best.device)
    images, losses = torch.stack([f[0] for f in found])[best, rows], torch.stack([f[2] for f in found])[best, rows]
    return images, losses, best, any(f[3] for f in found)
