"""ResSFL: a client trained against an inversion model that is trained beside it.

Li et al., "ResSFL: A Resistance Transfer Framework for Defending Model Inversion Attack in Split Federated Learning", CVPR 2022
(arXiv 2205.04007).

Symbols: g a decoder (`res_normN{N}C{C}`), trained by Adam to raise SSIM(g(z), x); the client adds lambda max(0, SSIM(g(z), x) - tau), with
the SSIM of zero-padded images in which the published thresholds are stated.

Deviations: one decoder learns from all clients of a step instead of one for each client, and its rate falls to a fifth at 30, 60 and 80 %
of the rounds (published: epochs 60, 120, 160 of 200). What clients would exchange to train it in common is not counted. TAResSFL is a run
of this on a source data set, whose client then starts another run and stays as it is: `--client-from RUN --freeze-client`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import quality
from ssl_split import tree as trees
from ssl_split.defence_sections import RessflOptions
from ssl_split.defences.api import Defence, Place
from ssl_split.models import decoder
from ssl_split.optim import Optimiser
from ssl_split.rng import generator
from ssl_split.tree import Tree

MILESTONES = (0.3, 0.6, 0.8)
"""Shares of the rounds after which the decoder's rate is divided by five."""


class ResSFL(Defence):
    """lambda max(0, SSIM(g(z), x) - tau) of each client's batch beside its task."""

    has_loss = True

    def __init__(self, options: RessflOptions) -> None:
        self.options = options
        self.adam = Optimiser("adam", 0.9, 0.999, 1e-8, 0.0)

    def begin(self, state: dict[str, Tree], tensors: dict[str, Tensor], place: Place) -> None:
        """The decoder at its initial weights."""
        made = decoder.build(place.smashed_shape, generator(place.seed, "ressfl decoder"), image_size=place.image_size,
                             blocks=self.options.blocks, channels=self.options.channels)
        self.place, self.weights = place, trees.gather(made, dtype=place.dtype, device=place.device)
        names = ("first", "second", "gradients")
        self.first, self.second, self.gradients = (trees.zeros(self.weights.layout, like=self.weights.flat) for _ in names)
        self.steps = torch.zeros(1, dtype=torch.int64)
        trees.bind(made, self.weights, self.gradients)
        self.decoder = made
        state |= {"defence.decoder": self.weights, "defence.decoder.first": self.first, "defence.decoder.second": self.second}
        tensors["defence.decoder.steps"] = self.steps

    def learn(self, z: Tensor, x: Tensor, *, share: float) -> None:
        """One step of the decoder towards a higher SSIM."""
        self.gradients.flat.zero_()
        self.decoder.train()
        with torch.enable_grad():
            (-self.similarity(z, x)).backward()
        self.steps += 1
        rate = self.options.lr * 0.2 ** sum(share >= at for at in MILESTONES)
        rows = [t.parameters[None] for t in (self.weights, self.gradients, self.first, self.second)]
        with torch.no_grad():
            self.adam.step_(rows[0], rows[1], rows[2:], lr=rate, count=self.steps.to(z.device))

    def client_loss(self, z: Tensor, x: Tensor) -> Tensor:
        """Of one client's batch, with the decoder's running statistics."""
        self.decoder.eval()
        return self.options.weight * (self.similarity(z, x) - self.options.threshold).clamp(min=0)

    def similarity(self, z: Tensor, x: Tensor) -> Tensor:
        """Mean SSIM of what the decoder makes of z and the images in [0, 1]."""
        mean, std = (torch.tensor(c, dtype=x.dtype, device=x.device).view(-1, 1, 1) for c in (self.place.mean, self.place.std))
        return quality.zero_padded_ssim(self.decoder(z), (x * std + mean).clamp(0, 1)).mean()
