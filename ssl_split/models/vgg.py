"""VGG-11 and VGG-16 (Simonyan and Zisserman, arXiv 1409.1556): the convolutions; a global pool replaces the dense layers."""

from __future__ import annotations

from ssl_split.config import Config
from ssl_split.models.layers import channels, conv_norm_relu, max_pool, sequence
from ssl_split.models.units import Unit

VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the 3x3 convolutions; each group ends with a 2x2 max-pool."""


def _units(config: Config, groups: tuple[tuple[int, ...], ...]) -> list[Unit]:
    inputs, units = 3, list[Unit]()
    for number, group in enumerate(groups, 1):
        for position, base in enumerate(group, 1):
            outputs = channels(base, config.width)
            last = position == len(group)
            module = sequence(conv_norm_relu(inputs, outputs, 3, norm=config.norm), [max_pool()] if last else [])
            name = f"group {number}, convolution {position}{' and pool' if last else ''}"
            units.append(Unit(name, module, len(units) + 1))
            inputs = outputs
    return units


def vgg11(config: Config, image_size: int) -> list[Unit]:
    """8 convolutions; cut = convolutions on the client, a pool going with the one before it."""
    return _units(config, VGG11)


def vgg16(config: Config, image_size: int) -> list[Unit]:
    """13 convolutions; cut = convolutions on the client, a pool going with the one before it."""
    return _units(config, VGG16)
