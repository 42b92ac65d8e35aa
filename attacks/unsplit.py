"""UnSplit: search images and client weights at once, from the smashed data and the shape of the client's network alone.

Alternates, for so many outer rounds, between 100 steps on the images for MSE(f~(x), z) + w_tv tv_sq(x) + w_2 mean x^2 and 100 steps on a
clone f~ of its own initial weights for MSE(f~(x), z); Adam 1e-3 with amsgrad on either side, whose state persists from round to round.
Images begin at 0.5 and are brought into [0, 1] at the end; up to 64 targets share the clone, which carries over to the next ones.

Against a known defence both searches go through its expectation, as those of `attacks.optimise` do.

Weights and images explain the smashed data together, so brightness, contrast and colour are known up to what the first layer may undo,
and the prior w_2 draws images towards black. Expect it to fail beyond the first cuts.

Source: Erdogan, Kupcu and Cicek, WPES 2022 (arXiv 2108.09033). Deviations: targets share a clone, and the clone is in eval mode, as the
client is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.api import AttackOptions, Guess
from attacks.variation import tv_sq
from attacks.view import Architecture, View
from ssl_split import rng
from ssl_split.display import progress

BUDGETS = {"quick": 10, "standard": 50, "paper": 1000}
"""Outer rounds."""
GROUP = 64
"""Targets that share the clone at a time."""
GAIN = 0.01


@dataclass(frozen=True)
class Recipe:
    """Steps and weights of the priors."""

    rounds: int
    steps: int
    tv: float
    l2: float
    lr: float


class Search:
    """A clone and the images of one group of targets after another.

    Args:
        known: Shape of the client.
        recipe: Lengths and weights.
        seed: Of the clone's initial weights.
    """

    def __init__(self, known: Architecture, recipe: Recipe, *, seed: int) -> None:
        self.known, self.recipe = known, recipe
        self.clone: nn.Module = known.make(rng.generator(seed, "unsplit clone").initial_seed() % 2**31).eval()
        self.weights = [p for p in self.clone.parameters() if p.requires_grad]
        self.optimiser = self._adam(self.weights) if self.weights else None

    def _adam(self, tensors: Sequence[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(tensors, self.recipe.lr, amsgrad=True)

    def distance(self, x: Tensor, z: Tensor) -> Tensor:
        """MSE of what the clone sends of the images, in the mean over the randomness of a known defence."""
        out: Tensor = self.known.expected(self.clone(self.known.normalise(x)))
        return (out - z).square().mean()

    def begin(self, z: Tensor) -> tuple[Tensor, torch.optim.Optimizer]:
        """Grey images for these smashed data, and their optimiser."""
        x = torch.full((len(z), *self.known.image_shape), 0.5, device=z.device).requires_grad_()
        return x, self._adam([x])

    def outer_round(self, x: Tensor, z: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """Steps on the images, then on the clone; returns the distance in the end."""
        self._train_clone(False)
        for _ in range(self.recipe.steps):
            objective = self.distance(x, z) + self.recipe.tv * tv_sq(x).mean() + self.recipe.l2 * x.square().mean()
            optimiser.zero_grad()
            objective.backward()
            optimiser.step()
        self._train_clone(True)
        if self.optimiser is not None:
            for _ in range(self.recipe.steps):
                self.optimiser.zero_grad()
                self.distance(x.detach(), z).backward()
                self.optimiser.step()
        with torch.no_grad():
            return self.distance(x, z).item()

    def _train_clone(self, on: bool) -> None:
        for p in self.weights:
            p.requires_grad_(on)


def recipe(options: AttackOptions) -> Recipe:
    """The budget with the single values that were set."""
    own = options.unsplit
    return Recipe(own.rounds or BUDGETS[options.budget], own.steps, own.tv, own.l2, own.lr)


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Search the images of one group of targets after another, with one clone."""
    chosen, smashed = recipe(options), view.smashed.float()
    search = Search(view.architecture, chosen, seed=seed)
    found, distances, improving = [], [], False
    groups = smashed.split(GROUP)
    with progress(chosen.rounds * len(groups), f"unsplit, seed {seed}") as bar:
        for z in groups:
            x, optimiser = search.begin(z)
            history = []
            for _ in range(chosen.rounds):
                history.append(search.outer_round(x, z, optimiser))
                bar.advance(distance=history[-1])
            if not torch.isfinite(x).all():
                raise ValueError("the search diverged: set a lower --unsplit.lr")
            before = history[max(0, int(0.9 * len(history)) - 1)]
            improving |= history[-1] < (1 - GAIN) * before
            found.append(x.detach().clamp(0, 1))
            distances.append(history)
    notes = {"rounds": chosen.rounds, "steps": chosen.steps, "tv": chosen.tv, "l2": chosen.l2, "still_improving": improving,
             "distance": [history[-1] for history in distances], "spread_of_z": smashed.var().item()}
    return Guess(torch.cat(found), None, notes)
