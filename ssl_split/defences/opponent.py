"""What defences share that keep a decoder of their own: its weights in the run's state, its training, and how much it sees."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ssl_split import quality
from ssl_split import tree as trees
from ssl_split.data.imageset import Triple
from ssl_split.defence_sections import AdversarialOptions, RessflOptions
from ssl_split.defences.api import Defence, Place
from ssl_split.models import decoder
from ssl_split.models.decoder import ResNormDecoder
from ssl_split.optim import Optimiser
from ssl_split.rng import generator
from ssl_split.tree import Tree


class Opponent(Defence):
    """A decoder g (`res_normN{N}C{C}`), trained by Adam to raise SSIM(g(z), x), with the SSIM of zero-padded images.

    Attributes:
        purpose: Names the randomness of its initial weights.
    """

    purpose: ClassVar[str]
    decoder: ResNormDecoder
    mean: Triple
    std: Triple

    def __init__(self, options: RessflOptions | AdversarialOptions) -> None:
        self.architecture = {"blocks": options.blocks, "channels": options.channels}
        self.lr = options.lr
        self.adam = Optimiser("adam", 0.9, 0.999, 1e-8, 0.0)

    def begin(self, state: dict[str, Tree], tensors: dict[str, Tensor], place: Place) -> None:
        """The decoder at its initial weights."""
        made = decoder.build(place.smashed_shape, generator(place.seed, self.purpose), image_size=place.image_size, **self.architecture)
        self.mean, self.std, self.weights = place.mean, place.std, trees.gather(made, dtype=place.dtype, device=place.device)
        names = ("first", "second", "gradients")
        self.first, self.second, self.gradients = (trees.zeros(self.weights.layout, like=self.weights.flat) for _ in names)
        self.steps = torch.zeros(1, dtype=torch.int64)
        trees.bind(made, self.weights, self.gradients)
        self.decoder = made
        state |= {"defence.decoder": self.weights, "defence.decoder.first": self.first, "defence.decoder.second": self.second}
        tensors["defence.decoder.steps"] = self.steps

    def learn(self, z: Tensor, x: Tensor, *, share: float) -> None:
        """One step of the decoder towards a higher SSIM."""
        self.fit(z, x, share=share)

    def fit(self, z: Tensor, x: Tensor, *, share: float) -> Tensor:
        """The same; returns the SSIM before it, a number."""
        self.gradients.flat.zero_()
        self.decoder.train()
        with torch.enable_grad():
            similarity = self.similarity(z, x)
            (-similarity).backward()
        self.steps += 1
        rows = [t.parameters[None] for t in (self.weights, self.gradients, self.first, self.second)]
        with torch.no_grad():
            self.adam.step_(rows[0], rows[1], rows[2:], lr=self.rate(share), count=self.steps.to(z.device))
        return similarity.detach()

    def rate(self, share: float) -> float:
        """Adam's rate when a share of the rounds is over."""
        return self.lr

    def similarity(self, z: Tensor, x: Tensor) -> Tensor:
        """Mean SSIM of what the decoder makes of z and the images in [0, 1]."""
        mean, std = (torch.tensor(c, dtype=x.dtype, device=x.device).view(-1, 1, 1) for c in (self.mean, self.std))
        return quality.zero_padded_ssim(self.decoder(z), (x * std + mean).clamp(0, 1)).mean()
