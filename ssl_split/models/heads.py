"""Heads on pooled features, and the CxSy bottleneck at the cut."""

from __future__ import annotations

from lightly.models.modules.heads import MoCoProjectionHead
from torch import nn


def projection_head(features: int, hidden: int, out: int) -> nn.Module:
    """Linear-ReLU-Linear without normalisation (MoCo v2; MocoSFL: 1024 hidden units, keys of 1024).

    Args:
        features: Pooled features, the head's input is `(B, features)`.
        hidden: Hidden units.
        out: Dimensions of a key, the head's output is `(B, out)`.
    """
    head: nn.Module = MoCoProjectionHead(features, hidden, out)
    return head


def classifier(features: int, classes: int) -> nn.Module:
    """One linear layer `(B, features)` -> `(B, classes)`."""
    return nn.Linear(features, classes)


def bottleneck_down(width: int, channels: int, stride: int) -> nn.Module:
    """The client's side of a CxSy bottleneck: 3x3 convolution to `channels` with stride y, ReLU (MocoSFL, section 4; ResSFL).

    `(B, width, H, W)` -> `(B, channels, ceil(H / stride), ceil(W / stride))`.
    """
    return nn.Sequential(nn.Conv2d(width, channels, 3, stride=stride, padding=1), nn.ReLU())


def bottleneck_up(width: int, channels: int, stride: int, size: tuple[int, int]) -> nn.Module:
    """The server's side: 3x3 transposed convolution back to exactly `(B, width, *size)`, ReLU."""
    # A transposed convolution returns (h - 1) * stride + 1 rows for h = (H - 1) // stride + 1; the rest has to be asked for.
    missing = ((size[0] - 1) % stride, (size[1] - 1) % stride)
    return nn.Sequential(nn.ConvTranspose2d(channels, width, 3, stride=stride, padding=1, output_padding=missing), nn.ReLU())
