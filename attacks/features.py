"""Smashed data of the attacker's images: held in memory where they fit, computed again where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

HELD_BYTES = int(1.2 * 2**30)
"""Smashed data of one set of images up to this size are kept; 4500 maps of 64x32x32 just fit."""
BLOCK_BYTES = 192 * 2**20
"""Size of a block of smashed data that is worked on at a time."""


class Features:
    """Smashed data of images by index.

    Args:
        query: Images `(n, 3, S, S)` -> `(n, *shape)`.
        images: `(n, 3, S, S)` in [0, 1], at least one.
        held_bytes: Most that is kept.
        block_bytes: Size of a block.
    """

    def __init__(
        self, query: Callable[[Tensor], Tensor], images: Tensor, *, held_bytes: int = HELD_BYTES, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._query, self.images = query, images
        first = self._compute(images[:1])
        self.shape = tuple(first.shape[1:])
        self.dimensions = math.prod(self.shape)
        row = self.dimensions * first.element_size()
        self.block = max(1, min(len(images), block_bytes // row))
        self._held = self._compute(images) if row * len(images) <= held_bytes else None

    def __len__(self) -> int:
        return len(self.images)

    def _compute(self, images: Tensor) -> Tensor:
        z = self._query(images)
        return z if z.dtype == torch.float64 else z.float()

    def __getitem__(self, which: Tensor | slice) -> Tensor:
        """`(k, *shape)`, float32 (float64 where the client computes in it)."""
        return self._compute(self.images[which]) if self._held is None else self._held[which]

    def blocks(self, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Places and flattened rows `(k, d)`, block by block in order, from the image `first` on."""
        for start in range(first, len(self), self.block):
            place = slice(start, min(start + self.block, len(self)))
            yield place, self[place].flatten(1)
