"""AlexNet for small images, CNN-4 and MLP: the networks of the supervised split-learning papers. Biases, no normalisation."""

from __future__ import annotations

from torch import nn

from ssl_split.config import Config
from ssl_split.models.layers import channels, max_pool, sequence
from ssl_split.models.units import Unit

ALEXNET = ((32, True), (64, True), (128, False), (256, False), (256, True))
"""Width of each 3x3 convolution, and whether a 2x2 max-pool follows (after the first, second and last, as in AlexNet)."""

CNN4 = (32, 64)
CNN4_DENSE = 512
MLP_DENSE = (512, 512, 512)


def _conv(inputs: int, outputs: int, kernel: int, *, pooled: bool) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return sequence(conv, nn.ReLU(), [max_pool()] if pooled else [])


def alexnet(config: Config, image_size: int) -> list[Unit]:
    """Five convolutions; cut = convolutions on the client.

    The GAS paper and code give three facts about the client at cut 2: smashed data 64x8x8, 620 544 bits of weights (19 392
    parameters) and 5 603 328 multiply-adds. Kernels of 3x3 with bias and without normalisation, stride 1, and a pool after the
    first and the second convolution agree with all three: (27 + 1) 32 + (288 + 1) 64 parameters and 32^2 27 32 + 16^2 288 64
    multiply-adds. The place of the last pool is this project's choice.
    """
    inputs, units = 3, list[Unit]()
    for number, (base, pooled) in enumerate(ALEXNET, 1):
        outputs = channels(base, config.width)
        name = f"convolution {number}{' and pool' if pooled else ''}"
        units.append(Unit(name, _conv(inputs, outputs, 3, pooled=pooled), number))
        inputs = outputs
    return units


def cnn4(config: Config, image_size: int) -> list[Unit]:
    """conv-conv-fc-fc; cut 1 to 3, the last layer is the head.

    Layer sizes are those of the CNN of McMahan et al., arXiv 1602.05629: 5x5 convolutions of 32 and 64 channels, each with a 2x2
    max-pool, and 512 units.
    """
    inputs, side, units = 3, image_size, list[Unit]()
    for number, base in enumerate(CNN4, 1):
        outputs = channels(base, config.width)
        units.append(Unit(f"convolution {number} and pool", _conv(inputs, outputs, 5, pooled=True), number))
        inputs, side = outputs, -(-side // 2)
    dense = nn.Linear(inputs * side * side, channels(CNN4_DENSE, config.width))
    return [*units, Unit("dense 1", sequence(nn.Flatten(), dense, nn.ReLU()), 3)]


def mlp(config: Config, image_size: int) -> list[Unit]:
    """Four dense layers, 512 hidden units each; cut 1 to 3, the last layer is the head."""
    inputs, units = 3 * image_size * image_size, list[Unit]()
    for number, base in enumerate(MLP_DENSE, 1):
        outputs = channels(base, config.width)
        flatten = [] if units else [nn.Flatten()]
        units.append(Unit(f"dense {number}", sequence(flatten, nn.Linear(inputs, outputs), nn.ReLU()), number))
        inputs = outputs
    return units
