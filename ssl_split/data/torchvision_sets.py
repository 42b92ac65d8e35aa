"""Public benchmark sets through torchvision."""

from __future__ import annotations

from ssl_split.config import Config
from ssl_split.data.imageset import Source


def load(config: Config, size: int) -> Source:
    raise NotImplementedError
