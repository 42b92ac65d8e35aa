"""Shredder: noise that is learned on a trained network, so that the task suffers little from much of it.

Mireshghallah et al., "Shredder: Learning Noise Distributions to Protect Inference Privacy", ASPLOS 2020 (arXiv 1905.11814).

Symbols: N_1 .. N_M noise tensors of the shape of an image's smashed data, drawn from Laplace(scale) at first; m(i) the one drawn for
image i, each as likely as any other. The client sends z_i + N_m(i); Adam lowers task - coefficient * mean |N| over the entries of all
tensors, along the gradient that comes back, while the weights of both halves stay as they are. What crosses the wire is enough for it, so
it needs no labels and works with every algorithm that returns a gradient.

Deviations: the tensors of one collection learn side by side from the images that they were drawn for (published: one after another); the
coefficient weighs the mean magnitude, not the sum, so that it does not depend on the size of z, and stays what it is (published: it falls
once the noise is large enough); all clients share one collection, and what they would exchange for that is not counted.

Nothing is hidden from whoever knows the collection but which of M tensors was drawn: a collection of one is a constant shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_split import tree as trees
from ssl_split.defence_sections import ShredderOptions
from ssl_split.defences.api import Defence, Place, exponential
from ssl_split.optim import Optimiser
from ssl_split.rng import generator
from ssl_split.tree import Tree

NAME = "noise"


class Shredder(Defence):
    """z + N_m, m drawn for every image and release."""

    changes_release = random = learns_from_answer = learned = True

    def __init__(self, options: ShredderOptions) -> None:
        self.options = options
        self.adam = Optimiser("adam", 0.9, 0.999, 1e-8, 0.0)
        self.noise: Tensor | None = None

    def begin(self, state: dict[str, Tree], tensors: dict[str, Tensor], place: Place) -> None:
        """The collection at its initial values, rows `(M, numbers of z)`."""
        module = nn.Module()
        module.register_parameter(NAME, nn.Parameter(torch.zeros(self.options.tensors, torch.Size(place.smashed_shape).numel())))
        self.weights = trees.gather(module, dtype=place.dtype, device=place.device)
        drawn, source = self.weights[NAME], generator(place.seed, "shredder noise")
        drawn.copy_(self.options.scale * (exponential(drawn, source) - exponential(drawn, source)))
        self.first, self.second = (trees.zeros(self.weights.layout, like=self.weights.flat) for _ in range(2))
        self.steps = torch.zeros(1, dtype=torch.int64)
        self.noise = drawn.unflatten(1, place.smashed_shape)
        state |= {"defence.collection": self.weights, "defence.collection.first": self.first, "defence.collection.second": self.second}
        tensors["defence.collection.steps"] = self.steps

    def restore(self, tensors: dict[str, Tensor], *, shape: tuple[int, ...], image_size: int) -> None:
        """The collection of a checkpoint."""
        self.noise = tensors[f"collection/{NAME}"].unflatten(1, shape)

    @property
    def collection(self) -> Tensor:
        """N, `(M, ...)`.

        Raises:
            ValueError: it was neither begun nor restored.
        """
        if self.noise is None:
            raise ValueError("defence = 'shredder' has no noise before a run has begun to learn it")
        return self.noise

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """A fresh draw for every image; gradients pass."""
        return z + self.collection.to(z)[self._drawn(len(z), generator).to(z.device)]

    def expected(self, z: Tensor) -> Tensor:
        """z and the mean tensor."""
        return z + self.collection.to(z).mean(0)

    @torch.no_grad()
    def on_answer(self, gradient: Tensor, generators: Sequence[torch.Generator]) -> None:
        """One step of Adam on task - coefficient * mean |N|, the task being the mean over these clients."""
        clients, images = gradient.shape[:2]
        drawn = torch.cat([self._drawn(images, source) for source in generators]).to(gradient.device)
        picked = functional.one_hot(drawn, self.options.tensors).to(gradient)  # (A B, M); a product, because sums by index depend on order
        noise = self.weights[NAME]
        along = picked.T @ gradient.flatten(0, 1).flatten(1) / clients - self.options.coefficient / noise.numel() * noise.sign()
        gradients = trees.zeros(self.weights.layout, like=self.weights.flat)
        gradients[NAME].copy_(along)
        self.steps += 1
        rows = [t.parameters[None] for t in (self.weights, gradients, self.first, self.second)]
        self.adam.step_(rows[0], rows[1], rows[2:], lr=self.options.lr, count=self.steps.to(gradient.device))

    def _drawn(self, images: int, generator: torch.Generator) -> Tensor:
        """Which tensor each image gets, int64 `(B,)`."""
        return torch.randint(self.options.tensors, (images,), generator=generator)
