"""How two views of one image lie to each other, by pixels alone: the crop boxes at which what both show agrees best.

Grey values are compared, by correlation, which neither brightness nor contrast of a view changes. A pair of boxes is worth
-N/2 log(1 - r^2) nats: what the correlation r of N common pixels says beyond two unrelated pictures, N counted at the coarser view's
resolution. So a small overlap does not win by chance. The boxes are searched by the cross-entropy method.

Source of the search: Rubinstein, Methodology and Computing in Applied Probability 1(2), 1999.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.crops import grey, legal, sampled
from ssl_split.data.augment import Ranges

SIDE = 16
"""Pixels per side at which views are compared."""
FIRST, LATER, ELITE, ROUNDS = 512, 128, 16, 8
"""Random pairs of boxes in the first round and in later ones, how many the next round starts from, and rounds."""
SHRINK = 0.65
"""The spread of a round's pairs around the best, relative to the last round's."""
FLAT = 1e-4
"""Variance of grey values below which a part of a picture shows nothing to compare."""


def register(first: Tensor, second: Tensor, ranges: Ranges, *, mirrored: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The boxes of two views of each image.

    Args:
        first, second: Views in [0, 1], `(n, 3, S, S)`.
        ranges: Of the family of views.
        mirrored: Whether one view is mirrored and the other is not.
        generator: Source of randomness, on the CPU.

    Returns:
        Boxes `(2, n, 4)` in pixels, and what they are worth in nats, `(n,)`. Only how they lie to each other means anything.
    """
    size, side = first.shape[-1], min(SIDE, first.shape[-1])
    a, b = (F.adaptive_avg_pool2d(grey(v), side) for v in (first, second))
    b = b.flip(3) if mirrored else b
    count = len(a)
    free = torch.rand(count, FIRST, 2, 4, generator=generator).clamp(0.01, 0.99).logit().to(a)
    spread = 1.0
    for _ in range(ROUNDS):
        worth = agreement(a, b, legal(free, ranges, size=side))
        best = worth.topk(ELITE, 1).indices
        elite = free.gather(1, best[:, :, None, None].expand(-1, -1, 2, 4))
        noise = torch.randn(count, LATER, 2, 4, generator=generator).to(a)
        free = torch.cat([elite, elite.repeat(1, LATER // ELITE, 1, 1) + spread * noise], 1)
        spread *= SHRINK
    worth = agreement(a, b, legal(free, ranges, size=side))
    top = worth.argmax(1)
    rows = torch.arange(count, device=a.device)
    return legal(free[rows, top], ranges, size=size).transpose(0, 1), worth[rows, top]


def agreement(a: Tensor, b: Tensor, boxes: Tensor) -> Tensor:
    """What pairs of boxes are worth.

    Args:
        a, b: Grey views `(n, 1, s, s)`.
        boxes: Candidates `(n, m, 2, 4)` in a frame of s pixels.

    Returns:
        Nats `(n, m)`.
    """
    n, m, side = *boxes.shape[:2], a.shape[-1]
    here, there = boxes.flatten(0, 1).unbind(1)  # (n m, 4)
    steps = (torch.arange(side, dtype=a.dtype, device=a.device) + 0.5) / side
    at = [((here[:, i, None] + steps * here[:, i + 2, None] - there[:, i, None]) / there[:, i + 2, None]) * side - 0.5 for i in (0, 1)]
    inside = [((p >= -0.5) & (p <= side - 0.5)).to(a.dtype) for p in at]
    common = (inside[0][:, :, None] * inside[1][:, None]).view(n, m, -1)
    other = sampled(b.repeat_interleave(m, 0), at[0].clamp(0, side - 1), at[1].clamp(0, side - 1)).view(n, m, -1)
    mine = a.view(n, 1, -1)
    total = common.sum(2).clamp(min=1)
    x, y = mine - (common * mine).sum(2, keepdim=True) / total[..., None], other - (common * other).sum(2, keepdim=True) / total[..., None]
    across, xx, yy = ((common * p).sum(2) / total for p in (x * y, x * x, y * y))
    r = (across / ((xx + FLAT) * (yy + FLAT)).sqrt()).clamp(0, 0.999)
    areas = boxes[..., 2:].prod(-1)  # (n, m, 2)
    pixels = common.sum(2) * (areas[..., 0] / areas[..., 1]).clamp(max=1)
    return -0.5 * pixels * (1 - r.square()).log()
