"""Patch shuffling: the parts of every image's smashed data in a fresh random order, which the server does not know.

Yao et al., "Privacy-Preserving Split Learning via Patch Shuffling over Transformers", ICDM 2022. A transformer's blocks do not mind the
order of their tokens, so its features stay what they are. Convolutions mind: for them it is a negative control. It hides where a part
was only as far as the part itself does not tell: learned positions are in the tokens before they are shuffled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split.defences.api import Defence


@dataclass(frozen=True)
class Shuffle(Defence):
    """Tokens `(B, tokens, dim)`, or cells of `cell` x `cell` places of a map `(B, C, H, W)`, in random order; gradients find back."""

    cell: int
    changes_release = random = True

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """A fresh order for every image and release."""
        tokens = self._tokens(z)
        order = torch.rand(tokens.shape[:2], generator=generator).argsort(1).to(z.device)
        return self._back(tokens.gather(1, order[..., None].expand_as(tokens)), z)

    def expected(self, z: Tensor) -> Tensor:
        """The mean over all orders: in every place the mean part."""
        tokens = self._tokens(z)
        return self._back(tokens.mean(1, keepdim=True).expand_as(tokens), z)

    def refuse(self, shape: tuple[int, ...]) -> None:
        """A vector has no parts, and a map has whole cells."""
        if len(shape) == 1:
            raise ValueError(f"defence = 'shuffle' needs tokens or a map: at this cut {shape[0]} numbers without an order are sent")
        if len(shape) == 3 and (shape[1] % self.cell or shape[2] % self.cell):
            raise ValueError(f"shuffle.cell = {self.cell} does not divide the map of {shape[1]}x{shape[2]} that is sent at this cut")

    def _tokens(self, z: Tensor) -> Tensor:
        """`(B, parts, numbers of a part)`."""
        if z.dim() == 3:
            return z
        parts = z.unflatten(3, (-1, self.cell)).unflatten(2, (-1, self.cell))  # (B, C, h, cell, w, cell)
        return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def _back(self, tokens: Tensor, like: Tensor) -> Tensor:
        if like.dim() == 3:
            return tokens
        channels, height, width = like.shape[1:]
        parts = tokens.view(len(like), height // self.cell, width // self.cell, channels, self.cell, self.cell)
        return parts.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)
