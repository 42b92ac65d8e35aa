"""A small vision transformer (Dosovitskiy et al., arXiv 2010.11929): pre-norm, learned positions, mean of tokens as features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_split.config import Config
from ssl_split.models.layers import channels, sequence
from ssl_split.models.units import Unit

DEPTH, HEADS, HEAD_DIM, MLP_RATIO = 6, 3, 64, 4
PATCH = {"small": 4, "imagenet": 16}


def _draw(module: nn.Module, generator: torch.Generator) -> None:
    """Weights: normal of deviation 0.02, cut at 2; biases 0; normalisation 1 and 0. As in the published vision transformers."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=0.02, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


class PatchEmbedding(nn.Module):
    """One linear map of every patch, plus its learned position."""

    def __init__(self, dim: int, *, patch: int, tokens: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, stride=patch)
        self.positions = nn.Parameter(torch.zeros(tokens, dim))

    def initialise(self, generator: torch.Generator) -> None:
        """Patches as all weights; positions normal of deviation 0.02."""
        _draw(self, generator)
        nn.init.trunc_normal_(self.positions, std=0.02, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, S, S)` -> `(B, tokens, dim)`."""
        return self.patches(x).flatten(2).transpose(1, 2) + self.positions


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, tokens, dim)` -> same."""
        batch, tokens, dim = x.shape
        split = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, dim / heads)
        # Written out: the fused CPU kernel has no second derivative, no rule for stacked clients, and gains nothing on 64 tokens.
        weights = (q @ k.transpose(-1, -2) * (dim // self.heads) ** -0.5).softmax(-1)
        out: Tensor = self.project((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = sequence(nn.Linear(dim, MLP_RATIO * dim), nn.GELU(), nn.Linear(MLP_RATIO * dim, dim))

    def initialise(self, generator: torch.Generator) -> None:
        """See `_draw`."""
        _draw(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, tokens, dim)` -> same."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def vit(config: Config, image_size: int) -> list[Unit]:
    """Patch embedding (cut 1), 6 blocks (cuts 2 to 7) and the final norm, which stays with the head.

    192 channels and 3 heads at width 1. Patches of 4 pixels, or of 16 with the stem option `imagenet`.

    Raises:
        ValueError: the patches do not fill the image.
    """
    patch = PATCH[config.stem]
    if image_size % patch:
        raise ValueError(f"image_size = {image_size} is no multiple of vit's patch of {patch} pixels (stem {config.stem})")
    dim = HEADS * channels(HEAD_DIM, config.width)
    units = [Unit("patch embedding", PatchEmbedding(dim, patch=patch, tokens=(image_size // patch) ** 2), 1)]
    units += [Unit(f"block {i}", Block(dim, HEADS), i + 1) for i in range(1, DEPTH + 1)]
    return [*units, Unit("norm", nn.LayerNorm(dim), None)]
