"""Images as one uint8 tensor in memory, with labels where there are any, and what a data source hands over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ImageSet:
    """Images and labels of one split.

    Attributes:
        images: uint8 (n, 3, S, S).
        labels: int64 (n,), or None where images have no classes.
    """

    images: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"images must be uint8 (n, 3, S, S), not {self.images.dtype} {shape}")
        if self.labels is not None and (self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape[:1]):
            raise ValueError(f"labels must be int64 ({shape[0]},), not {self.labels.dtype} {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return self.images.shape[0]

    def select(self, indices: Tensor) -> Self:
        """The images at `indices` (int64, in that order), copied."""
        return type(self)(self.images[indices], None if self.labels is None else self.labels[indices])

    def digests(self) -> list[str]:
        """A content hash of every image, for tests that two sets share none."""
        flat = self.images.cpu().contiguous().numpy()
        return [hashlib.blake2b(image.data, digest_size=16).hexdigest() for image in flat]


@dataclass(frozen=True)
class TextSet(ImageSet):
    """Sentences of one split; everything that takes examples by index treats them as it does images.

    Attributes:
        images: Token ids, int32 (n, L), padded on the right.
        labels: int64 (n,).
    """

    def __post_init__(self) -> None:
        if self.images.dtype != torch.int32 or self.images.dim() != 2:
            raise ValueError(f"token ids must be int32 (n, L), not {self.images.dtype} {tuple(self.images.shape)}")


@dataclass(frozen=True)
class Source:
    """What a data set gives before validation images are cut off: its official splits and published constants."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: Triple
    std: Triple


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uint8 images as floats in [0, 1], same shape."""
    return images.to(dtype).div_(255)


def _constants(values: Triple, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def normalise(x: Tensor, mean: Triple, std: Triple) -> Tensor:
    """`(x - mean) / std` per channel of images (..., 3, S, S) in [0, 1]."""
    return (x - _constants(mean, x)) / _constants(std, x)


def denormalise(x: Tensor, mean: Triple, std: Triple) -> Tensor:
    """The inverse of `normalise`; values of a reconstruction may lie outside [0, 1]."""
    return x * _constants(std, x) + _constants(mean, x)


def to_input(images: Tensor, mean: Triple, std: Triple, dtype: torch.dtype) -> Tensor:
    """What a network takes: normalised floats of uint8 images (n, 3, S, S), in the memory order of the fastest convolutions; token ids
    (n, L) as they are, as floats, which hold them exactly."""
    if images.dtype != torch.uint8:
        return images.to(dtype)
    return normalise(to_float(images, dtype), mean, std).contiguous(memory_format=torch.channels_last)


def resize(images: Tensor, size: int, *, chunk: int = 1024) -> Tensor:
    """Bilinear resize of uint8 (n, C, H, W) to (n, C, size, size), area-weighted where it shrinks, rounded."""
    if tuple(images.shape[-2:]) == (size, size):
        return images
    parts = []
    for part in images.split(chunk):
        made = F.interpolate(part.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        parts.append(made.round_().clamp_(0, 255).byte())
    return torch.cat(parts) if parts else images.new_empty((0, images.shape[1], size, size))


def stratified(labels: Tensor | None, total: int, count: int, generator: torch.Generator, *, keep: int = 0) -> Tensor:
    """A random subset that has the class shares of the whole (largest remainders), as sorted indices.

    Args:
        labels: int64 (total,), or None for a plain random subset.
        total: Number of images.
        count: Wanted size of the subset.
        generator: Source of randomness.
        keep: Leave at least so many images of every class outside, even if the subset gets smaller by it.

    Returns:
        int64 (count,), sorted.
    """
    if labels is None:
        return torch.randperm(total, generator=generator)[: max(min(count, total - keep), 0)].sort().values
    sizes = torch.bincount(labels)
    quota = sizes.double() * (count / max(total, 1))
    limit = (sizes - keep).clamp(min=0)
    take = torch.minimum(quota.floor().long(), limit)
    order = (quota - take).argsort(descending=True, stable=True).tolist()
    while (missing := count - int(take.sum())) > 0 and bool((take < limit).any()):
        for c in [c for c in order if take[c] < limit[c]][:missing]:
            take[c] += 1
    chosen = []
    for c, n in enumerate(take.tolist()):
        members = (labels == c).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:n]])
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.int64)


def complement(indices: Tensor, total: int) -> Tensor:
    """The sorted indices below `total` that `indices` lacks."""
    left = torch.ones(total, dtype=torch.bool)
    left[indices] = False
    return left.nonzero().flatten()


def cut_off(images: ImageSet, fraction: float, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    """Split a set into (rest, part), `part` a stratified share of it; no class leaves the rest entirely."""
    part = stratified(images.labels, len(images), round(fraction * len(images)), generator, keep=1)
    return images.select(complement(part, len(images))), images.select(part)
