"""Decoders that turn smashed data back into images: the `res_normN{N}C{C}` family of ResSFL and MocoSFL.

Source: Li et al., ResSFL, CVPR 2022 (arXiv 2205.04007); MocoSFL attacks with N = 4, C = 64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_split.models.layers import BatchNorm, initialise

SLOTS = 2
"""Places after the blocks that double the size where a doubling is needed; more doublings follow them."""
VECTOR_SIDE = 8
"""Largest map that a vector without places (`(d,)`) is first laid out on."""


class ResBlock(nn.Module):
    """BN-ReLU-conv3-BN-ReLU-conv3 plus a shortcut, which is a 1x1 convolution with BN where the widths differ."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            BatchNorm(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            BatchNorm(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` -> `(B, outputs, H, W)`."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


def _doubling(channels: int) -> list[nn.Module]:
    """Transposed convolution that doubles height and width exactly, BN, ReLU."""
    return [nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1), BatchNorm(channels), nn.ReLU()]


class Layout(nn.Module):
    """Smashed data of any rank as a map `(B, C, H, W)`.

    Maps pass; tokens that fill a square are put back in their places; other tokens and vectors go through one linear layer.
    """

    def __init__(self, shape: tuple[int, ...], *, image_size: int, channels: int) -> None:
        super().__init__()
        self.linear: nn.Linear | None = None
        side = math.isqrt(shape[0])
        if len(shape) == 3:
            self.out: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        elif len(shape) == 2 and side * side == shape[0]:
            self.out = (shape[1], side, side)
        else:
            small = min(VECTOR_SIDE, image_size)
            self.out = (channels, small, small)
            self.linear = nn.Linear(math.prod(shape), math.prod(self.out))

    def forward(self, z: Tensor) -> Tensor:
        """`(B, *shape)` -> `(B, C, H, W)`."""
        if self.linear is not None:
            z = self.linear(z.flatten(1))
        elif z.dim() == 3:
            z = z.transpose(1, 2)  # (B, tokens, dim) -> (B, dim, tokens)
        return z.reshape(-1, *self.out)


class ResNormDecoder(nn.Module):
    """`res_normN{N}C{C}`: a block to C channels, N more, doublings up to the image's size, a block to 3 channels, sigmoid.

    Args:
        shape: One image's smashed data: `(C, H, W)`, `(tokens, dim)` or `(d,)`.
        image_size: Pixels per side, S.
        blocks: N.
        channels: C.

    At sizes that are no power of two apart, one bilinear resize stands before the last block.
    """

    def __init__(self, shape: tuple[int, ...], *, image_size: int, blocks: int = 4, channels: int = 64) -> None:
        super().__init__()
        self.image_size = image_size
        self.layout = Layout(shape, image_size=image_size, channels=channels)
        inputs, *sides = self.layout.out
        doublings = max(0, math.floor(math.log2(image_size / max(sides))))
        parts: list[nn.Module] = [ResBlock(inputs, channels), nn.ReLU()]
        for _ in range(blocks):
            parts += [ResBlock(channels, channels), nn.ReLU()]
        for slot in range(max(SLOTS, doublings)):
            parts += _doubling(channels) if slot < doublings else [ResBlock(channels, channels), nn.ReLU()]
        self.body = nn.Sequential(*parts)
        self.last = ResBlock(channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        """Smashed data `(B, *shape)` -> images `(B, 3, S, S)` in (0, 1)."""
        x = self.body(self.layout(z))
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        return torch.sigmoid(self.last(x))


def build(shape: tuple[int, ...], generator: torch.Generator, *, image_size: int, blocks: int = 4, channels: int = 64) -> ResNormDecoder:
    """A decoder at initial weights that `generator` draws, on the CPU, in float32, in training mode; see `ResNormDecoder`."""
    with torch.device("meta"):
        made = ResNormDecoder(shape, image_size=image_size, blocks=blocks, channels=channels)
    made.to_empty(device="cpu")
    initialise(made, generator)
    return made
