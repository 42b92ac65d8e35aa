"""Networks of an attacker who knows neither weights nor shape of the client: a substitute client and a critic of smashed data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_split.models.layers import initialise


@dataclass(frozen=True)
class Scale:
    """Smashed data in units in which they have mean 0 and deviation 1 overall."""

    mean: float
    std: float

    @staticmethod
    def of(z: Tensor) -> Scale:
        """From a sample; data without any spread keep their scale."""
        std = z.float().std().item()
        return Scale(z.float().mean().item(), std if std > 1e-12 else 1.0)

    def apply(self, z: Tensor) -> Tensor:
        """`(B, ...)` -> the same shape."""
        return (z.float() - self.mean) / self.std


class Substitute(nn.Module):
    """Images -> something of the smashed data's shape, by plain 3x3 convolutions in the manner of VGG.

    Args:
        shape: Of one image's smashed data: `(C, H, W)`, `(tokens, d)` or `(d,)`.
        image_size: S.
        width: Channels inside.

    Halves the map while it stays at least as large as the smashed data's; a last resize makes up for sizes no power of two apart.
    """

    def __init__(self, shape: Sequence[int], *, image_size: int, width: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        side = math.isqrt(self.shape[0]) if len(self.shape) == 2 else 0
        square = len(self.shape) == 2 and side * side == self.shape[0]
        small = min(8, image_size)
        map_shape = self.shape if len(self.shape) == 3 else (self.shape[1], side, side) if square else (width, small, small)
        self.places = (map_shape[1], map_shape[2])
        parts: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        now = image_size
        while now // 2 >= max(self.places):
            parts += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU()]
            now = (now + 1) // 2
        self.body = nn.Sequential(*parts, nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(width, map_shape[0], 3, padding=1)
        self.linear = None if len(self.shape) == 3 or square else nn.Linear(math.prod(map_shape), math.prod(self.shape))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, S, S)` -> `(B, *shape)`."""
        out = self.last(self.body(x))
        if tuple(out.shape[2:]) != self.places:
            out = F.interpolate(out, size=self.places, mode="bilinear", antialias=True)
        if self.linear is not None:
            return self.linear(out.flatten(1)).view(-1, *self.shape)
        return out if len(self.shape) == 3 else out.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, tokens, C)


class Critic(nn.Module):
    """Smashed data -> one number each, for a Wasserstein distance with gradient penalty: no normalisation across a batch.

    Args:
        shape: Of one image's smashed data.
        width: Channels, or hidden units for vectors.
    """

    def __init__(self, shape: Sequence[int], *, width: int) -> None:
        super().__init__()
        side = math.isqrt(shape[0]) if len(shape) == 2 else 0
        self.tokens = len(shape) == 2 and side * side == shape[0]
        if len(shape) == 3 or self.tokens:
            channels, now = (shape[1], side) if self.tokens else (shape[0], max(shape[1:]))
            parts: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
            while now > 4:
                parts += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
                now = (now + 1) // 2
            self.body = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 1))
        else:
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4 * width), nn.LeakyReLU(0.2),
                                      nn.Linear(4 * width, 4 * width), nn.LeakyReLU(0.2), nn.Linear(4 * width, 1))

    def forward(self, z: Tensor) -> Tensor:
        """`(B, *shape)` -> `(B,)`."""
        if self.tokens:
            z = z.transpose(1, 2).unflatten(2, (math.isqrt(z.shape[1]), -1))  # (B, tokens, C) -> (B, C, H, W)
        scores: Tensor = self.body(z)
        return scores.flatten()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mean (|| gradient of the critic || - 1)^2 at random points between pairs; the norm is over everything of one example.

    Args:
        real, fake: `(B, *shape)`, no gradient flows into them.
        generator: Of the places between them.

    Source: Gulrajani et al., NeurIPS 2017 (arXiv 1704.00028), eq. 3.
    """
    share = torch.rand(len(real), *[1] * (real.dim() - 1), generator=generator).to(real)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def mk_mmd(real: Tensor, fake: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two equally large batches `(B, d)` under a sum of five Gaussian kernels.

    exp(-|| a - b ||^2 / (2^k s)) for k = -3 ... 1, where s is the mean squared distance of all pairs (it gets no gradient); biased.

    Source: Long et al., ICML 2015 (arXiv 1502.02791); widths as in FORA.
    """
    rows = torch.cat([real, fake])
    squares = rows.square().sum(1)
    distance = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp(min=0)
    count = len(rows)
    scale = distance.detach().sum() / (count * (count - 1))
    kernel = sum((torch.exp(-distance / (2.0**k * scale.clamp(min=1e-12))) for k in range(-3, 2)), torch.zeros_like(distance))
    half = len(real)
    return kernel[:half, :half].mean() + kernel[half:, half:].mean() - 2 * kernel[:half, half:].mean()


def built(network: nn.Module, generator: torch.Generator, device: torch.device) -> nn.Module:
    """The network at weights drawn from the generator, in the memory order of the fastest convolutions."""
    initialise(network, generator)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def channels_last(x: Tensor) -> Tensor:
    """Maps `(B, C, H, W)` in the memory order of the fastest convolutions, anything else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
