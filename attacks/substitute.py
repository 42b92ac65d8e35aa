"""Networks of attacks that put a client of their own in the place of the attacked one, and a critic between the two.

The substitute need not have the attacked client's architecture; it makes smashed data of the same shape. The critic is trained as in
Wasserstein GANs with a gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3), its norm over all axes but the images'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_split.models.decoder import Layout
from ssl_split.models.layers import initialise

CHANNELS = 64


class Block(nn.Module):
    """ReLU-conv3-ReLU-conv3 plus a shortcut, optionally at half the size; no normalisation, so that a critic may use it."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ReLU(),
                                  nn.Conv2d(outputs, outputs, 3, padding=1))
        plain = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` -> `(B, outputs, ceil(H / stride), ceil(W / stride))`."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class Substitute(nn.Module):
    """Images to smashed data of a given shape.

    Args:
        shape: `(C, H, W)`, `(tokens, dim)` or `(d,)`.
        image_size: Pixels per side.
        channels: Width.
    """

    def __init__(self, shape: tuple[int, ...], *, image_size: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.shape = shape
        side = math.isqrt(shape[0]) if len(shape) == 2 else 0
        self.map = shape if len(shape) == 3 else (shape[1], side, side) if side and side * side == shape[0] else None
        goal = self.map[-1] if self.map is not None else min(8, image_size)
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), Block(channels, channels)]
        now = image_size
        while -(-now // 2) >= goal:
            parts.append(Block(channels, channels, stride=2))
            now = -(-now // 2)
            if now == 1:
                break
        self.body = nn.Sequential(*parts, Block(channels, channels), nn.ReLU())
        self.goal = goal
        self.last: nn.Module = nn.Conv2d(channels, self.map[0], 3, padding=1) if self.map is not None else \
            nn.Linear(channels * goal * goal, math.prod(shape))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, S, S)` -> `(B, *shape)`."""
        h = F.adaptive_avg_pool2d(self.body(x), self.goal)
        if self.map is None:
            vector: Tensor = self.last(h.flatten(1))
            return vector.unflatten(1, self.shape)
        made: Tensor = self.last(h)
        return made if len(self.shape) == 3 else made.flatten(2).transpose(1, 2)


class Critic(nn.Module):
    """One number for the smashed data of each image; see `Substitute` for shapes."""

    def __init__(self, shape: tuple[int, ...], *, image_size: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.layout = Layout(shape, image_size=image_size, channels=channels)
        inputs, side = self.layout.out[0], max(self.layout.out[1:])
        parts: list[nn.Module] = [nn.Conv2d(inputs, channels, 1), Block(channels, channels)]
        while side > 4:
            parts.append(Block(channels, channels, stride=2))
            side = -(-side // 2)
        self.body = nn.Sequential(*parts, Block(channels, channels), nn.ReLU())
        self.last = nn.Linear(channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """`(B, *shape)` -> `(B,)`."""
        scores: Tensor = self.last(self.body(self.layout(z)).mean((2, 3)))
        return scores[:, 0]


def substitute(shape: tuple[int, ...], generator: torch.Generator, *, image_size: int) -> Substitute:
    """A substitute at initial weights that `generator` draws, on the CPU, in float32, in training mode."""
    made = Substitute(shape, image_size=image_size)
    initialise(made, generator)
    return made


def critic(shape: tuple[int, ...], generator: torch.Generator, *, image_size: int) -> Critic:
    """A critic at initial weights that `generator` draws, as `substitute`."""
    made = Critic(shape, image_size=image_size)
    initialise(made, generator)
    return made


def penalty(scores: nn.Module, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Mean (||grad D(u)|| - 1)^2 at points u between pairs of `first` and `second`, `(B, ...)` each."""
    shares = torch.rand(len(first), generator=generator).to(first).view(-1, *[1] * (first.dim() - 1))
    between = (shares * first.detach() + (1 - shares) * second.detach()).requires_grad_()
    gradient = torch.autograd.grad(scores(between).sum(), between, create_graph=True)[0]
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
