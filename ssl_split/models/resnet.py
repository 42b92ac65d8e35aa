"""ResNet-18, -34 and -50 (He et al., arXiv 1512.03385) with GroupNorm and weight standardisation or with BatchNorm."""

from __future__ import annotations

from torch import Tensor, nn

from ssl_split.config import Config
from ssl_split.models.layers import channels, conv_norm, conv_norm_relu, sequence
from ssl_split.models.units import Unit

STAGE_WIDTHS = (64, 128, 256, 512)
STAGE_STRIDES = (1, 2, 2, 2)


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)); the shortcut is a 1x1 convolution where stride or width changes, else the identity."""

    def __init__(self, body: nn.Module, inputs: int, outputs: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.body = body
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else sequence(conv_norm(inputs, outputs, 1, stride=stride, norm=norm))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` -> `(B, outputs, H / stride, W / stride)`."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def basic_block(inputs: int, width: int, *, stride: int, norm: str) -> Residual:
    """Two 3x3 convolutions of `width` channels; counts as two in the cut index."""
    body = sequence(conv_norm_relu(inputs, width, 3, stride=stride, norm=norm), conv_norm(width, width, 3, norm=norm))
    return Residual(body, inputs, width, stride=stride, norm=norm)


def bottleneck_block(inputs: int, width: int, *, stride: int, norm: str) -> Residual:
    """1x1 to `width`, 3x3 (which carries the stride), 1x1 to four times `width`; counts as one in the cut index."""
    body = sequence(
        conv_norm_relu(inputs, width, 1, norm=norm),
        conv_norm_relu(width, width, 3, stride=stride, norm=norm),
        conv_norm(width, 4 * width, 1, norm=norm),
    )
    return Residual(body, inputs, 4 * width, stride=stride, norm=norm)


def stem(width: int, config: Config) -> nn.Module:
    """`small`: 3x3 stride 1. `imagenet`: 7x7 stride 2 and a 3x3 max-pool of stride 2, which belongs to the stem."""
    if config.stem == "small":
        return sequence(conv_norm_relu(3, width, 3, norm=config.norm))
    return sequence(conv_norm_relu(3, width, 7, stride=2, norm=config.norm), nn.MaxPool2d(3, stride=2, padding=1))


def _units(config: Config, blocks: tuple[int, ...], *, bottleneck: bool) -> list[Unit]:
    width = channels(STAGE_WIDTHS[0], config.width)
    units = [Unit("stem", stem(width, config), 1)]
    for stage, (base, first_stride, count) in enumerate(zip(STAGE_WIDTHS, STAGE_STRIDES, blocks, strict=True), 1):
        inner = channels(base, config.width)
        for block in range(1, count + 1):
            stride = first_stride if block == 1 else 1
            make = bottleneck_block if bottleneck else basic_block
            module = make(width, inner, stride=stride, norm=config.norm)
            width = 4 * inner if bottleneck else inner
            units.append(Unit(f"stage {stage}, block {block}", module, 1 + len(units) * (1 if bottleneck else 2)))
    return units


def resnet18(config: Config, image_size: int) -> list[Unit]:
    """Stem and 8 blocks; cut = 1 + 2 x whole blocks on the client."""
    return _units(config, (2, 2, 2, 2), bottleneck=False)


def resnet34(config: Config, image_size: int) -> list[Unit]:
    """Stem and 16 blocks; cut = 1 + 2 x whole blocks on the client."""
    return _units(config, (3, 4, 6, 3), bottleneck=False)


def resnet50(config: Config, image_size: int) -> list[Unit]:
    """Stem and 16 bottleneck blocks; cut = 1 + whole blocks on the client."""
    return _units(config, (3, 4, 6, 3), bottleneck=True)
