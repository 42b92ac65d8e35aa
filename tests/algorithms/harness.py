"""Small runs of an algorithm on random images, without data sets or files."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import config as configuration
from ssl_split.algorithms.api import Algorithm, Batch, Setup, State
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.channel import Channel
from ssl_split.config import Config
from ssl_split.delivery import Delivery
from ssl_split.models.split import build

SIZE = 16
SMALL = {"width": 0.125, "batch_size": 2, "queue_size": 24, "head": {"hidden": 16, "out": 8}, "precision": "fp64", "clients": 3,
         "symmetric": "none", "rounds": 2, "syncs_per_round": 2, "partition": {"kind": "iid"}, "name": "test"}


def small(**fields: object) -> Config:
    """A configuration of the smallest useful size."""
    return configuration.from_dict(configuration.fields.merge(SMALL, fields))


class Trial:
    """An algorithm, its state and its wire, fed with reproducible random views."""

    def __init__(self, config: Config, *, steps: int = 4, sizes: list[int] | None = None) -> None:
        network = build(config, image_size=SIZE)
        self.config, self.steps = config, steps
        setup = Setup(config, network, sizes or [steps * config.batch_size] * config.clients, steps, torch.device("cpu"), torch.float64)
        self.setup = setup
        self.algorithm: Algorithm = ALGORITHMS[config.algorithm](setup)
        self.state: State = self.algorithm.init()
        self.delivery = Delivery(config.loss, seed=config.seed)
        self.wire = Channel(config.wire, self.state.ledger, delivery=self.delivery)

    def views(self) -> tuple[Tensor, Tensor]:
        """Two views `(P, B, 3, 16, 16)` that depend on the step alone."""
        generator = torch.Generator().manual_seed(1000 + self.state.step)
        shape = (2, self.config.cohort_size, self.config.batch_size, 3, SIZE, SIZE)
        v1, v2 = torch.randn(shape, generator=generator, dtype=torch.float64)
        return v1, v2

    def step(self) -> dict[str, float]:
        """One step of the current round, beginning and ending rounds where they fall."""
        self.delivery.at(round=self.state.round, step=self.state.step)
        if self.state.step_in_round == 0:
            self.algorithm.begin_round(self.state, self.cohort(), self.wire)
        v1, v2 = self.views()
        if self.algorithm.centralised:
            v1, v2 = v1.flatten(0, 1)[None], v2.flatten(0, 1)[None]
        metrics = self.algorithm.step(self.state, Batch((v1, v2)), self.wire)
        if self.state.step_in_round == self.steps:
            number = self.state.round
            self.algorithm.end_round(self.state, self.wire)
            self.state.ledger.close_round(number)
        return metrics

    def cohort(self) -> Tensor:
        """Clients of this round: all, or P consecutive ones that move on each round."""
        n, p = self.config.clients, self.config.cohort_size
        if self.algorithm.centralised:
            return torch.arange(1)
        return torch.arange(n) if p == n else (torch.arange(p) + self.state.round * p) % n

    def run(self, steps: int) -> list[float]:
        """Losses of so many steps."""
        return [self.step().get("loss", float("nan")) for _ in range(steps)]

    def weights(self) -> dict[str, Tensor]:
        """The averaged network."""
        return {k: v.clone() for name in ("client.online", "server.online") if name in self.state.trees
                for k, v in self.state.trees[name].items()}
