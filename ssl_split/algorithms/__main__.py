"""`python -m ssl_split.algorithms`: what each federated method costs a client."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ssl_split import config as configuration
from ssl_split import fields
from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.config import UNSPLIT, Config
from ssl_split.fields import field
from ssl_split.models.__main__ import Backbone, print_table
from ssl_split.models.memory import ClientMemory, client_memory
from ssl_split.models.split import assemble
from ssl_split.models.units import input_shape
from ssl_split.traffic import MIB, federated_bytes

DESCRIPTION = """What each federated method costs a client that holds the whole network: backward passes in a local step, MiB in a round in
either direction, and the memory of a step in float32: weights, gradients, the method's further vectors, what autograd saves (of the
self-supervised ones for both views, and FedMoCo's queue)."""
EPILOG = """examples:
  python -m ssl_split.algorithms
  python -m ssl_split.algorithms --arch cnn4 --batch-size 32"""


@dataclass(frozen=True)
class Options(Backbone):
    """Flags of the command."""

    classes: int = field(10, "outputs of the classifier", low=2)
    batch_size: int = field(50, "images of a local step", low=1)


def rows(options: Options) -> list[tuple[str, ...]]:
    """One row a method: name, backward passes, MiB down and up in a round, vectors in memory, MiB of memory."""
    values = fields.to_dict(options)
    classes = values.pop("classes")
    config = configuration.from_dict({**values, "algorithm": "fedavg"})
    supervised = _memory(options, config, classes)
    made: list[tuple[str, ...]] = []
    for name in UNSPLIT:
        method = ALGORITHMS[name]
        assert isinstance(method, type)
        assert issubclass(method, FedAvg)
        its = config.replace(algorithm=name)
        memory = supervised if its.supervised else _memory(options, its, 0)
        d = memory.parameters // 4
        sent = federated_bytes(its, steps=1, visits=1, h=0, c=d, d=d, apart=False)
        down, up = (sum(sent.get(f"{kind}_{way}", 0) for kind in ("model", "control")) / MIB for way in ("down", "up"))
        queue = 4 * its.queue_size * its.head.out if name == "fedmoco" else 0
        held = (memory.sum + method.client_vectors * memory.parameters + queue) / MIB
        made.append((name, str(1 + method.looks_first), f"{down:,.1f}", f"{up:,.1f}", str(2 + method.client_vectors), f"{held:,.1f}"))
    return made


def _memory(options: Options, config: Config, classes: int) -> ClientMemory:
    """Of a client that takes a step with one vector of weights."""
    network = assemble(config, image_size=options.image_size, classes=classes)
    views = 1 if config.supervised else 2
    x = torch.empty(views * options.batch_size, *input_shape(config, options.image_size), device="meta")
    return client_memory(network.client, x, moments=0)


def main(argv: Sequence[str]) -> None:
    """Parse flags, count, print."""
    options = fields.parse(Options, argv, "python -m ssl_split.algorithms", DESCRIPTION, EPILOG)
    columns = ("method", "backward passes", "MiB down", "MiB up", "vectors held", "client MiB")
    print_table(columns, rows(options), left=1)


if __name__ == "__main__":
    sys.exit(fields.command(main))
