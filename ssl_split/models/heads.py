"""Heads on pooled features, and the CxSy bottleneck at the cut."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssl_split.models.layers import BatchNorm


def projection_head(features: int, hidden: int, out: int) -> nn.Module:
    """Linear-ReLU-Linear without normalisation (MoCo v2; MocoSFL: 1024 hidden units, keys of 1024).

    Args:
        features: Pooled features, the head's input is `(B, features)`.
        hidden: Hidden units.
        out: Dimensions of a key, the head's output is `(B, out)`.
    """
    from lightly.models.modules.heads import MoCoProjectionHead  # here, because it imports torch's compiler, which takes seconds

    head: nn.Module = MoCoProjectionHead(features, hidden, out)
    return head


class PredictingHead(nn.Module):
    """Projector and predictor of BYOL (arXiv 2006.07733), each Linear-norm-ReLU-Linear, as one head.

    The norm is that of the network: batch statistics, or groups of units without any (arXiv 2010.10241: BYOL needs some normalisation,
    but not of the batch).
    """

    def __init__(self, features: int, hidden: int, out: int, *, norm: str) -> None:
        """
        Args:
            features: Pooled features, the head's input is `(B, features)`.
            hidden: Hidden units of either part.
            out: Dimensions of a projection and of a prediction.
            norm: group or batch.
        """
        super().__init__()
        self.projector = _perceptron(features, hidden, out, norm=norm)
        self.predictor = _perceptron(out, hidden, out, norm=norm)  # last, so that everything before it is the encoder

    def forward(self, x: Tensor) -> Tensor:
        """`(B, features)` -> predictions and projections side by side, `(B, 2 out)`."""
        z = self.projector(x)
        return torch.cat([self.predictor(z), z], 1)


def _perceptron(inputs: int, hidden: int, out: int, *, norm: str) -> nn.Module:
    between = BatchNorm(hidden) if norm == "batch" else nn.GroupNorm(math.gcd(16, hidden), hidden)
    return nn.Sequential(nn.Linear(inputs, hidden), between, nn.ReLU(), nn.Linear(hidden, out))


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
