"""Gradients from two function values: SPSA with directions on a sphere.

G(x) = [F(x + r u) - F(x - r u)] / (2 r) u, u uniform on the sphere of radius sqrt(d), so that E[u u^T] = I: exact in the mean for linear
and quadratic F (Spall 1992; Nesterov and Spokoiny 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssl_split.tree import Layout


def entries(layout: Layout) -> Tensor:
    """Which elements of the trained part of a row are parameters, not padding: bool `(trainable,)`."""
    mask = torch.zeros(layout.trainable, dtype=torch.bool)
    for shape, offset in zip(layout.shapes, layout.offsets, strict=True):
        if offset < layout.trainable:
            mask[offset : offset + shape.numel()] = True
    return mask


def directions(mask: Tensor, generators: Sequence[torch.Generator], *, like: Tensor) -> Tensor:
    """One direction for each generator, uniform on the sphere of radius sqrt(d) over the d elements of the mask.

    Args:
        mask: bool `(size,)` on the CPU.
        generators: Of the CPU; equal generators give equal directions wherever they are drawn.
        like: Gives device and dtype.

    Returns:
        `(len(generators), size)`, zero outside the mask.
    """
    made = torch.stack([torch.randn(len(mask), generator=g, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32) * mask
                        for g in generators])
    return (made * (mask.sum().sqrt() / made.norm(dim=1, keepdim=True).clamp(min=1e-30))).to(like)


@torch.no_grad()
def slopes(loss: Callable[[], Tensor], weights: Tensor, along: Tensor, *, radius: float) -> Tensor:
    """[F(w + r u) - F(w - r u)] / (2 r) of each row.

    Args:
        loss: Values `(P,)` at the weights as they are when it is called.
        weights: `(P, size)`, moved and put back bit for bit.
        along: u, `(P, size)`.
        radius: r.
    """
    start = weights.clone()
    weights.add_(along, alpha=radius)
    ahead = loss()
    torch.add(start, along, alpha=-radius, out=weights)
    behind = loss()
    weights.copy_(start)
    return (ahead - behind) / (2 * radius)
