"""Crops as the training's views are made, differentiable in image and box, and back: where a part of an image lies in another frame.

A box is top, left, height, width in pixels. A crop is bilinear (`ssl_split.data.augment`): one pair of (S, S) matrices for each image,
`rows @ x @ columns.T`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_split.data.augment import Ranges

LUMA = (0.2989, 0.587, 0.114)
EDGE = 1e-4
"""How near an unconstrained coordinate's share may come to 0 and 1."""


def legal(free: Tensor, ranges: Ranges, *, size: int) -> Tensor:
    """Boxes of a family of views from unconstrained coordinates, differentiable.

    Args:
        free: `(..., 4)`: logits of area, log ratio, top and left as shares of what is legal.
        ranges: Of the family.
        size: S.

    Returns:
        `(..., 4)` in pixels.
    """
    share = free.sigmoid()
    low, high = (math.log(r) for r in ranges.ratios)
    area = ranges.smallest + (1 - ranges.smallest) * share[..., 0]
    ratio = (low + (high - low) * share[..., 1]).exp() if ranges.smallest < 1 else torch.ones_like(area)
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], -1).clamp(max=1) * size  # height, width
    start = (size - sides + 2 * ranges.padding) * share[..., 2:] - ranges.padding
    return torch.cat([start, sides], -1)


def coordinates(boxes: Tensor, ranges: Ranges, *, size: int) -> Tensor:
    """Unconstrained coordinates of the legal boxes next to these, `(..., 4)`."""
    low, high = (math.log(r) for r in ranges.ratios)
    sides = boxes[..., 2:] / size
    area = (sides.prod(-1) - ranges.smallest) / max(1 - ranges.smallest, EDGE)
    ratio = ((sides[..., 1] / sides[..., 0]).log() - low) / (high - low)
    free = (size - boxes[..., 2:] + 2 * ranges.padding).clamp(min=EDGE)
    start = (boxes[..., :2] + ranges.padding) / free
    return torch.cat([torch.stack([area, ratio], -1), start], -1).clamp(EDGE, 1 - EDGE).logit()


def show(x: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """The part of each image in its box, at full size, mirrored where told.

    Args:
        x: `(n, C, S, S)`.
        boxes: `(n, 4)`.
        mirrored: bool `(n,)`.
    """
    def places(start: Tensor, length: Tensor) -> Tensor:
        at = (_steps(x) + 0.5) * (length / x.shape[-1])[:, None] - 0.5
        return at.clamp(min=0).minimum(length[:, None] - 1) + start[:, None]

    rows, columns = places(boxes[:, 0], boxes[:, 2]), places(boxes[:, 1], boxes[:, 3])
    return sampled(x, rows, torch.where(mirrored[:, None], columns.flip(1), columns))


def paste(view: Tensor, boxes: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Views back in the frames that they were cut from.

    Returns:
        `(n, C, S, S)`, continued beyond the box by its outermost pixels, and which pixels lie in the box, float `(n, 1, S, S)`.
    """
    size = view.shape[-1]

    def places(start: Tensor, length: Tensor) -> Tensor:
        return (_steps(view) + 0.5 - start[:, None]) * (size / length)[:, None] - 0.5

    rows, columns = places(boxes[:, 0], boxes[:, 2]), places(boxes[:, 1], boxes[:, 3])
    inside = [((p >= -0.5) & (p <= size - 0.5)).to(view.dtype) for p in (rows, columns)]
    columns = torch.where(mirrored[:, None], size - 1 - columns, columns)
    return sampled(view, rows.clamp(0, size - 1), columns.clamp(0, size - 1)), (inside[0][:, :, None] * inside[1][:, None, :])[:, None]


def moved(x: Tensor, here: Tensor, there: Tensor, mirrored: Tensor) -> Tensor:
    """Images moved so that what is in the boxes `here` comes to lie in the boxes `there`, mirrored where told; `(n, C, S, S)`."""
    size = x.shape[-1]

    def places(axis: int) -> Tensor:
        share = (_steps(x) + 0.5 - there[:, axis, None]) / there[:, axis + 2, None]
        if axis == 1:
            share = torch.where(mirrored[:, None], 1 - share, share)
        return (here[:, axis, None] + share * here[:, axis + 2, None] - 0.5).clamp(0, size - 1)

    return sampled(x, places(0), places(1))


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes `(..., 4)`: `(...)`."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    return common / (first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - common)


def grey(x: Tensor) -> Tensor:
    """Grey value of `(n, 3, S, S)` as `(n, 1, S, S)`."""
    return (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def coloured(x: Tensor, factors: Tensor, colourless: Tensor) -> Tensor:
    """Brightness, contrast and saturation in this order, then grey where told; clamped to [0, 1] after each.

    Args:
        x: `(n, 3, S, S)` in [0, 1].
        factors: `(n, 3)`, 1 changes nothing.
        colourless: bool `(n,)`.
    """
    b, c, s = (f.view(-1, 1, 1, 1) for f in factors.unbind(1))
    x = (x * b).clamp(0, 1)
    x = (x * c + (1 - c) * grey(x).mean((2, 3), keepdim=True)).clamp(0, 1)
    x = torch.lerp(grey(x).expand_as(x), x, s).clamp(0, 1)
    return torch.where(colourless.view(-1, 1, 1, 1), grey(x), x)


def centred(boxes: Tensor, ranges: Ranges, *, size: int) -> Tensor:
    """Boxes of one image put where they most likely lie in the frame, their places in each other's frames unchanged.

    Smashed data say how views lie to each other, hardly where they lie in the whole. The middle of all boxes goes to the frame's; the
    scale is the mean of those at which every box is legal, weighed by the density with which views are drawn (areas and places uniform).

    Args:
        boxes: `(V, n, 4)` of V views of each image.
        ranges: Of the family.
        size: S.
    """
    low, high = boxes[..., :2].amin(0), (boxes[..., :2] + boxes[..., 2:]).amax(0)
    areas = boxes[..., 2:].prod(-1)  # (V, n)
    most = (size / (high - low).amax(1)).minimum(size / areas.amax(0).sqrt())
    least = (size * math.sqrt(ranges.smallest) / areas.amin(0).sqrt()).minimum(most)
    scale = least + (most - least) * torch.linspace(0.01, 0.99, 33, dtype=boxes.dtype, device=boxes.device)[:, None]  # (33, n)
    room = (size - scale[..., None] * (high - low) + 1).prod(-1)
    each = (size - scale[:, None, :, None] * boxes[..., 2:] + 1).clamp(min=1).prod(-1).prod(1)  # (33, n)
    weight = scale ** (4 * len(boxes) - 3) * room / each
    mean = ((weight * scale).sum(0) / weight.sum(0))[:, None]
    start = (boxes[..., :2] - (low + high) / 2) * mean + size / 2
    return torch.cat([start, boxes[..., 2:] * mean], -1)


def _steps(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)


def sampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values of `(n, C, S, S)` at rows `(n, S)` and columns `(n, S)`; 0 outside."""
    def weights(at: Tensor) -> Tensor:
        return (1 - (at[:, None, :, None] - _steps(x)).abs()).clamp(min=0)  # (n, 1, S, S)

    return weights(rows) @ x @ weights(columns).transpose(2, 3)
