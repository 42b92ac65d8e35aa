"""All algorithms by name."""

from __future__ import annotations

from collections.abc import Callable

from ssl_split.algorithms.api import Algorithm, Setup
from ssl_split.algorithms.split.moco import Moco
from ssl_split.algorithms.split.mocosfl import MocoSFL
from ssl_split.algorithms.split.monacosfl import MonAcoSFL

ALGORITHMS: dict[str, Callable[[Setup], Algorithm]] = {
    "mocosfl": MocoSFL,
    "monacosfl": MonAcoSFL,
    "moco": Moco,
}
