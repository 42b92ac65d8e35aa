"""Adversarial noise: smashed data moved so that a decoder which the clients trained sees less in them.

One of the comparisons of Li et al., ResSFL, CVPR 2022 (arXiv 2205.04007); the step is the fast gradient sign method of Goodfellow et al.,
ICLR 2015 (arXiv 1412.6572).

Symbols: g the clients' decoder, trained for some passes over the training images on the smashed data of the client half that the run starts
with; epsilon the size of the step. The client sends z - epsilon sign(d SSIM(g(z), x) / dz), where every number moves by epsilon or not at
all; the gradient that comes back passes straight through.

Deviations: one decoder for all clients, before the first step; what they would exchange to train it in common is not counted. It stays as
it is, so a client half that trains on leaves it behind: `--freeze-client` keeps them together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ssl_split import tree as trees
from ssl_split.defence_sections import AdversarialOptions
from ssl_split.defences.api import Place
from ssl_split.defences.opponent import Opponent
from ssl_split.display import Bar
from ssl_split.models import decoder
from ssl_split.rng import generator
from ssl_split.tree import Tree


class Adversarial(Opponent):
    """z - epsilon sign(d SSIM(g(z), x) / dz); nothing is drawn."""

    changes_release = learned = True
    purpose = "adversarial decoder"

    def __init__(self, options: AdversarialOptions) -> None:
        super().__init__(options)
        self.epsilon, self.epochs = options.epsilon, options.epochs

    def begin(self, state: dict[str, Tree], tensors: dict[str, Tensor], place: Place) -> None:
        """The decoder, and the constants that turn normalised images back, which whoever reads a checkpoint needs."""
        super().begin(state, tensors, place)
        constants = nn.Module()
        for name, value in (("mean", place.mean), ("std", place.std)):
            constants.register_buffer(name, torch.tensor(value))
        state["defence.constants"] = trees.gather(constants, dtype=place.dtype, device=place.device)

    def restore(self, tensors: dict[str, Tensor], *, shape: tuple[int, ...], image_size: int) -> None:
        """The decoder of a checkpoint."""
        self.decoder = decoder.build(shape, generator(0, self.purpose), image_size=image_size, **self.architecture)
        weights = {name.removeprefix("decoder/"): value for name, value in tensors.items() if name.startswith("decoder/")}
        self.decoder.load_state_dict(weights)
        mean, std = (tensors[f"constants/{name}"].tolist() for name in ("mean", "std"))
        self.mean, self.std = (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])

    def pretrain(self, batches: Iterable[tuple[Tensor, Tensor]], *, bar: Bar) -> None:
        """Train the decoder.

        Args:
            batches: Smashed data `(B, ...)` and the normalised images behind them `(B, C, H, W)`.
            bar: Advances by one for each batch.
        """
        for z, x in batches:
            bar.advance(ssim=self.fit(z, x, share=0.0).item())

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """One step against the decoder; an image's does not depend on the others."""
        self.decoder.to(z.device, z.dtype).eval()
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            along = torch.autograd.grad(self.similarity(leaf, x), leaf)[0]
        return z - self.epsilon * along.sign()
