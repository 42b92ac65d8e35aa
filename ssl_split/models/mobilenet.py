"""MobileNetV2 (Sandler et al., arXiv 1801.04381) as in the MocoSFL code, with its omissions mended.

Deviations from that code: GroupNorm in the shortcuts too (there BatchNorm, whose buffers escape averaging), and a ReLU after the
stem and the last convolution. Its own deviations from the paper are kept: ReLU instead of ReLU6, an expansion convolution in the
first stage as well, and a 1x1 shortcut at stride 1 where the width changes.
"""

from __future__ import annotations

from torch import Tensor, nn

from ssl_split.config import Config
from ssl_split.models.layers import channels, conv_norm, conv_norm_relu, sequence
from ssl_split.models.units import Unit

STEM, LAST = 32, 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, width, blocks, stride of the first block for 32x32 images; the ImageNet form has stride 2 at width 24 too."""


class InvertedResidual(nn.Module):
    """1x1 to `expansion * inputs`, depthwise 3x3, 1x1 to `outputs`; added to a shortcut where the stride is 1."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int, norm: str) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.body = sequence(
            conv_norm_relu(inputs, hidden, 1, norm=norm),
            conv_norm_relu(hidden, hidden, 3, stride=stride, groups=hidden, norm=norm),
            conv_norm(hidden, outputs, 1, norm=norm),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity() if inputs == outputs else sequence(conv_norm(inputs, outputs, 1, norm=norm))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` -> `(B, outputs, H / stride, W / stride)`."""
        out: Tensor = self.body(x)
        return out if self.shortcut is None else out + self.shortcut(x)


def mobilenetv2(config: Config, image_size: int) -> list[Unit]:
    """Stem, 7 stages, last 1x1 convolution; the cut counts these, 1 to 9.

    The stem option `imagenet` is the paper's form for large images: stride 2 in the stem and in the 24-wide stage.
    """
    imagenet = config.stem == "imagenet"
    width = channels(STEM, config.width)
    units = [Unit("stem", sequence(conv_norm_relu(3, width, 3, stride=2 if imagenet else 1, norm=config.norm)), 1)]
    for stage, (expansion, base, blocks, first_stride) in enumerate(STAGES, 1):
        outputs = channels(base, config.width)
        stage_blocks: list[nn.Module] = []
        for block in range(blocks):
            stride = 1 if block else 2 if imagenet and base == 24 else first_stride
            stage_blocks.append(InvertedResidual(width, outputs, expansion=expansion, stride=stride, norm=config.norm))
            width = outputs
        units.append(Unit(f"stage {stage}", sequence(stage_blocks), stage + 1))
    last = sequence(conv_norm_relu(width, channels(LAST, config.width), 1, norm=config.norm))
    return [*units, Unit("last 1x1 convolution", last, len(units) + 1)]
