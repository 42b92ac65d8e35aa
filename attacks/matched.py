"""Gradient matching from beginning to end on any client: run it, run it without the gradient, compare with the truth and the rulers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor, nn

from attacks import judge, matching, sets
from attacks.api import BUDGETS, Guess
from attacks.blind import mean_image
from attacks.judge import Scores
from attacks.matching import Matching, Plan
from attacks.optimise import BUDGETS as LENGTHS
from attacks.optimise import Search
from attacks.reconstruct import numbers
from attacks.server import Gradient
from attacks.step import ClientStep, Half
from attacks.stepping import Stepping, batches
from attacks.view import View
from ssl_split import fields, quality
from ssl_split.data.images import normalise
from ssl_split.data.imageset import Triple
from ssl_split.fields import field
from ssl_split.optim import Optimiser

APPROXIMATE = "Approximate: what else moved the client's weights (momentum of earlier steps, the codec of the weights) is unknown to the " \
              "server."


@dataclass(frozen=True)
class MatchOptions:
    """How gradient matching is run."""

    targets: int = field(32, "attacked images, a fixed list over clients and classes", low=2, section="attack")
    batch: int = field(1, "images of one client in the local step; larger ones are searched jointly", low=1)
    budget: str = field("standard", "quick 200 steps, standard 500 from 2 starts, paper 2000 from 3", choices=BUDGETS)
    steps: int | None = field(None, "steps of a start (by budget)", low=1)
    starts: int | None = field(None, "starts: grey, then noise (by budget)", low=1)
    weight: float = field(0.1, "weight of the gradient beside the smashed data", above=0)
    lr: float = field(0.05, "Adam's rate, in units of pixel values", above=0)
    variation: str = field("tv_iso", "total variation: tv_iso length of the gradient, tv_l1, tv_sq", choices=("tv_iso", "tv_l1", "tv_sq"))
    tv: float = field(0.01, "its weight", low=0)
    l2: float = field(0.0, "weight of mean x^2", low=0)
    seed: int = field(0, "of the noise", low=0)

    def plan(self, size: int) -> Plan:
        """How long and from where, for images of this side."""
        length = LENGTHS[self.budget]
        return Plan(self.steps or length.steps, self.starts or length.starts, size, self.batch, self.seed)


@dataclass(frozen=True)
class Matched:
    """What gradient matching achieved, with its rulers.

    Attributes:
        images: Reconstructions `(n, 3, S, S)` in [0, 1], in the order of `places`.
        alone: The same search without the gradient.
        blind: The blind guess `(3, S, S)`.
        places: Of the attacked images among the targets, `(n,)`: those that fill a batch.
        result: The numbers, under the keys of the result file.
    """

    images: Tensor
    alone: Tensor
    blind: Tensor
    places: Tensor
    result: dict[str, Any]

    @property
    def verdict(self) -> str:
        """What the numbers mean."""
        return str(self.result["verdict"])


def match(
    client: nn.Module, targets: Tensor, aux: Tensor, *, gradients: Gradient, step: ClientStep | None = None,
    untrained: nn.Module | None = None, untrained_gradients: Gradient | None = None, mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0), **options: Any,
) -> Matched:
    """Attack any client: no run directory and no training code of this project is needed.

    Args:
        client: Normalised images `(B, 3, S, S)` -> smashed data `(B, ...)`; it steps in training mode.
        targets: The client's images, floats `(n, 3, S, S)` in [0, 1].
        aux: Other images `(m, 3, S, S)` in [0, 1], for the blind guess alone: the attack does not see them.
        gradients: The server: smashed data of a batch `(B, ...)` and places of its images among the targets `(B,)` -> g_z `(B, ...)`.
        step: The client's optimiser; default SGD at rate 0.1.
        untrained, untrained_gradients: Client and server before training, as a ruler.
        mean, std: Constants with which the client's input is normalised.
        **options: Fields of `MatchOptions`, e.g. `budget="quick"`, `batch=2`.

    Raises:
        ValueError: images out of range or of different sizes, a target among `aux`, values that are not finite.
    """
    chosen = fields.build(MatchOptions, {"targets": len(targets), **options})
    for name, images in (("targets", targets), ("auxiliary images", aux)):
        quality.check_range(images, name)
        if images.dim() != 4 or images.shape[1:] != targets.shape[1:] or images.shape[1] != 3 or len(images) < 2:
            raise ValueError(f"{name} have shape {tuple(images.shape)}: at least two images (n, 3, S, S), all of one size, are needed")
    sets.refuse_shared(targets, aux)
    plain = step or ClientStep(Optimiser("sgd", 0.0, 0.0, 0.0, 0.0), 0.1)

    def stepping(module: nn.Module, server: Gradient) -> Stepping:
        return Stepping(module, lambda images: normalise(images, mean, std), lambda z, places: (z, server(z, places)), plain)

    places = batches(torch.zeros(len(targets), dtype=torch.int64), chosen.batch)
    ruler: Callable[[], Scores] | None = None
    if untrained is not None and untrained_gradients is not None:
        before, theirs = untrained, untrained_gradients
        ruler = lambda: scored(stepping(before, theirs), targets, places, options=chosen)[1]  # noqa: E731
    return judged(stepping(client, gradients), targets, places, options=chosen, blind=mean_image(aux), untrained=ruler)


def guess(victim: Stepping, targets: Tensor, places: Tensor, *, options: MatchOptions, weights: tuple[float, ...]
          ) -> tuple[View, list[Guess]]:
    """The attack at each of these weights of the gradient, on the same step; it sees what it declares."""
    offers = victim.offers(targets[places.to(targets.device)], places)
    view = View(offers, matching.NEEDS, attack="gradient")
    known = view.weights
    half, priors = Half(known.module, known.normalise), Search(known, options.variation, options.tv, options.l2, options.lr)
    return view, [matching.attack(view, Matching(half, priors, weight), options.plan(targets.shape[-1])) for weight in weights]


def aligned(images: Tensor, truth: Tensor, batch: int) -> Tensor:
    """Reconstructions `(n, ...)` put in the order of the truth inside each batch, by the assignment with the lowest error."""
    if batch == 1:
        return images
    ordered = []
    for found, real in zip(images.split(batch), truth.split(batch), strict=True):
        cost = (found[:, None] - real[None]).square().flatten(2).mean(2)  # (B, B)
        mine, theirs = linear_sum_assignment(cost.cpu().double().numpy())
        ordered.append(found[torch.from_numpy(mine[theirs.argsort()]).to(found.device)])
    return torch.cat(ordered)


def scored(victim: Stepping, targets: Tensor, places: Tensor, *, options: MatchOptions) -> tuple[Tensor, Scores]:
    """Reconstructions and their scores: how rulers are measured."""
    _, (found,) = guess(victim, targets, places, options=options, weights=(options.weight,))
    truth = targets[places.flatten().to(targets.device)]
    images = aligned(found.images, truth, options.batch)
    return images, judge.score(images, truth)


def judged(victim: Stepping, targets: Tensor, places: Tensor, *, options: MatchOptions, blind: Tensor,
           untrained: Callable[[], Scores] | None) -> Matched:
    """Attack with and without the gradient, compare with the truth and the rulers, and say what it means."""
    begin = time.monotonic()
    view, (found, alone) = guess(victim, targets, places, options=options, weights=(options.weight, 0.0))
    seconds = time.monotonic() - begin
    truth = targets[places.flatten().to(targets.device)]
    images, plain = (aligned(g.images, truth, options.batch) for g in (found, alone))
    mine, without = judge.score(images, truth, extras=True), judge.score(plain, truth)
    blind_scores = judge.score(blind[None], truth)
    before = None if untrained is None else untrained()
    exact = view.offered("weight_deltas").exact
    low, high = judge.difference(without.mse, mine.mse)
    result = numbers(mine, blind_scores, before) | {
        "verdict": " ".join([judge.verdict(mine, blind_scores, before), adds(mine, without, low=low, high=high),
                             *([] if exact else [APPROXIMATE])]),
        "targets": len(truth), "batch": options.batch, "needs": list(view.capabilities), "approximate": not exact, "seeds": [options.seed],
        "features_alone": {**without.to_dict(), **judge.relative(without, blind_scores)}, "gradient_gain_mse": [low, high],
        "still_improving": bool(found.notes["still_improving"]), "validation_mse": None,
        "per_seed": [{"seed": options.seed, **mine.to_dict(), **judge.relative(mine, blind_scores), **found.notes, "seconds": seconds}],
        "features_alone_notes": dict(alone.notes),
    }
    return Matched(images, plain, blind, places.flatten(), result)


def adds(mine: Scores, without: Scores, *, low: float, high: float) -> str:
    """What the gradient adds to the smashed data, from the interval of the difference of the errors."""
    said = f"MSE {mine.mse.mean():.4f} with it, {without.mse.mean():.4f} by the smashed data alone"
    relation = "adds to" if low > 0 else "misleads the search, and does worse than" if high < 0 else "adds nothing measurable to"
    return f"The gradient {relation} the smashed data at equal steps and starts ({said})."
