"""Every architecture small enough for float64, and its legal cuts as the project's specification lists them."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import config
from ssl_split.config import Config
from ssl_split.models.split import Network, build

CUTS: dict[str, list[int]] = {
    "resnet18": list(range(1, 18, 2)),
    "resnet34": list(range(1, 34, 2)),
    "resnet50": list(range(1, 18)),
    "mobilenetv2": list(range(1, 10)),
    "vgg11": list(range(1, 9)),
    "vgg16": list(range(1, 14)),
    "alexnet": list(range(1, 6)),
    "cnn4": [1, 2, 3],
    "mlp": [1, 2, 3],
    "vit": list(range(1, 8)),
}
BATCH_NORM = ("resnet18", "resnet34", "resnet50", "mobilenetv2", "vgg11", "vgg16")
EVERY_CUT = [(arch, cut) for arch, cuts in CUTS.items() for cut in (0, *cuts, "full")]
THREE_CUTS = [(arch, cut) for arch, cuts in CUTS.items() for cut in (cuts[0], cuts[len(cuts) // 2], cuts[-1])]


def options(arch: str, cut: int | str = 1, **changes: object) -> Config:
    """Width 1/8 and a small head."""
    return config.from_dict({"arch": arch, "cut": cut, "width": 0.125, "head": {"hidden": 12, "out": 8}, **changes})


def tiny(arch: str, cut: int | str = 1, *, size: int = 16, classes: int = 0, **changes: object) -> Network:
    """A network in float64."""
    return build(options(arch, cut, **changes), image_size=size, classes=classes).double()


def images(count: int = 2, size: int = 16, seed: int = 0) -> Tensor:
    """Normal pixels `(count, 3, size, size)` in float64."""
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
