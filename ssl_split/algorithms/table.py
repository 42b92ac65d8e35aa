"""All algorithms by name."""

from __future__ import annotations

from typing import Protocol

from ssl_split.algorithms.api import Algorithm, Setup
from ssl_split.algorithms.split.moco import Moco
from ssl_split.algorithms.split.mocosfl import MocoSFL
from ssl_split.algorithms.split.monacosfl import MonAcoSFL


class Factory(Protocol):
    """An algorithm's class."""

    centralised: bool

    def __call__(self, setup: Setup) -> Algorithm:
        """The algorithm for one run."""
        ...


ALGORITHMS: dict[str, Factory] = {
    "mocosfl": MocoSFL,
    "monacosfl": MonAcoSFL,
    "moco": Moco,
}
