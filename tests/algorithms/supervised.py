"""Small supervised runs on random labelled images, and slow references written in plain PyTorch."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_split import config as configuration
from ssl_split.algorithms.api import Algorithm, Batch, Setup, State
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.channel import Channel
from ssl_split.clock import Clock, absent
from ssl_split.config import Config
from ssl_split.delivery import Delivery
from ssl_split.models.split import Network, build

SIZE, CLASSES = 16, 4
SMALL = {"algorithm": "sfl_v1", "arch": "vgg11", "cut": 5, "width": 0.125, "batch_size": 2, "precision": "fp64", "clients": 3, "rounds": 2,
         "partition": {"kind": "iid"}, "name": "test", "client_lr": 0.05, "server_lr": 0.05, "schedule": "constant", "local_epochs": 1}
UNEVEN = [8, 2, 6]
"""Images of three clients: 4, 1 and 3 local steps of two images."""


def small(**fields: object) -> Config:
    """A configuration of the smallest useful size."""
    return configuration.from_dict(configuration.fields.merge(SMALL, fields))


def draw(client: int, position: int, count: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a client at a place in its stream; they depend on nothing else."""
    images, labels = [], []
    for i in range(position, position + count):
        generator = torch.Generator().manual_seed(100_000 * client + i)
        images.append(torch.randn(3, SIZE, SIZE, generator=generator, dtype=torch.float64))
        labels.append(torch.randint(CLASSES, (), generator=generator))
    return torch.stack(images), torch.stack(labels)


def other_view(client: int, position: int, count: int) -> Tensor:
    """A second view of each of these images."""
    return draw(client, position, count)[0] + 0.3 * draw(client + 500, position, count)[0]


class Trial:
    """An algorithm, its state and its wire, fed from reproducible streams."""

    def __init__(self, config: Config, *, sizes: list[int] | None = None, source: object = None) -> None:
        self.config, self.source = config, source or draw
        self.network = build(config, image_size=SIZE, classes=CLASSES if config.supervised else 0)
        sizes = sizes or UNEVEN
        centralised = ALGORITHMS[config.algorithm].centralised
        if centralised:
            sizes = [sum(sizes)]
        self.batch = config.batch_size * (config.cohort_size if centralised else 1)
        local = [config.local_steps or max(1, n * config.local_epochs // self.batch) for n in sizes]
        counts = torch.stack([torch.bincount(draw(c, 0, n)[1], minlength=CLASSES) for c, n in enumerate(sizes)])
        setup = Setup(config, self.network, sizes, max(local), torch.device("cpu"), torch.float64, local, counts)
        self.setup, self.local = setup, local
        self.algorithm: Algorithm = ALGORITHMS[config.algorithm](setup)
        self.begin()

    def begin(self) -> None:
        """A fresh state and wire."""
        self.state: State = self.algorithm.init()
        ready = self.state.tensors.setdefault("clock", torch.zeros(len(self.state.positions), dtype=torch.float64))
        work = self.state.tensors.setdefault("flops", torch.zeros(len(ready) + 1, dtype=torch.float64))
        presence = self.state.tensors.setdefault("presence", absent(len(ready)))
        clock = Clock(self.config.network, ready, seed=self.config.seed, active=self.config.cohort_size, work=work, presence=presence)
        self.delivery = Delivery(self.config.loss, seed=self.config.seed)
        self.wire = Channel(self.config.wire, self.state.ledger, clock=clock, delivery=self.delivery)

    def cohort(self) -> Tensor:
        """Clients of this round: all, or P consecutive ones that move on each round."""
        n, p = self.config.clients, self.config.cohort_size
        if self.algorithm.centralised:
            return torch.arange(1)
        return torch.arange(n) if p == n else (torch.arange(p) + self.state.round * p) % n

    def batch_of(self) -> Batch:
        """The next batch of those who take part."""
        places = self.algorithm.participants(self.state)
        clients = self.state.cohort[places]
        drawn = [self.source(c, int(self.state.positions[c]), self.batch) for c in clients.tolist()]
        views = [torch.stack([x for x, _ in drawn])]
        if self.algorithm.views == 2:
            views.append(torch.stack([other_view(c, int(self.state.positions[c]), self.batch) for c in clients.tolist()]))
        self.state.positions[clients] += self.batch
        return Batch(tuple(views), torch.stack([y for _, y in drawn]), places)

    def step(self) -> dict[str, float]:
        """One step, beginning and ending rounds where they fall."""
        self.delivery.at(round=self.state.round, step=self.state.step)
        if self.state.step_in_round == 0:
            self.algorithm.begin_round(self.state, self.cohort(), self.wire)
        metrics = self.algorithm.step(self.state, self.batch_of(), self.wire)
        if self.state.step_in_round == self.algorithm.round_steps(self.state.cohort):
            number = self.state.round
            self.algorithm.end_round(self.state, self.wire)
            self.state.ledger.close_round(number)
        return metrics

    def rounds(self, count: int) -> list[dict[str, float]]:
        """Metrics of every step of so many rounds."""
        found, end = [], self.state.round + count
        while self.state.round < end:
            found.append(self.step())
        return found

    def weights(self) -> dict[str, Tensor]:
        """The averaged network."""
        return {k: v.clone() for name in ("client.online", "server.online") if name in self.state.trees
                for k, v in self.state.trees[name].items()}


def optimiser(config: Config, network: nn.Module) -> torch.optim.Optimizer:
    """PyTorch's own optimiser for a whole network (one learning rate)."""
    decay, betas = config.weight_decay, (config.momentum, config.adam.second_moment)
    if config.optimiser in ("adam", "adamw"):
        kind = torch.optim.Adam if config.optimiser == "adam" else torch.optim.AdamW
        return kind(network.parameters(), lr=config.client_lr, betas=betas, eps=config.adam.epsilon, weight_decay=decay)
    return torch.optim.SGD(network.parameters(), lr=config.client_lr, momentum=config.momentum, weight_decay=decay,
                           nesterov=config.optimiser == "nesterov")


def fedavg(config: Config, *, rounds: int, sizes: list[int], local: list[int]) -> Network:
    """Federated averaging of the whole network, written the slow way: all clients, a new optimiser in every round."""
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    positions = [0] * len(sizes)
    for _ in range(rounds):
        average = {k: torch.zeros_like(v) for k, v in network.state_dict().items()}
        for client, steps in enumerate(local):
            copied = copy.deepcopy(network)
            positions[client] = train(config, copied, client, positions[client], steps)
            for key, value in copied.state_dict().items():
                average[key] += sizes[client] / sum(sizes) * value
        network.load_state_dict(average)
    return network


def train(config: Config, network: nn.Module, client: int, position: int, steps: int) -> int:
    """Plain training steps on a client's stream; returns the position after them."""
    made = optimiser(config, network)
    for _ in range(steps):
        x, y = draw(client, position, config.batch_size)
        made.zero_grad()
        functional.cross_entropy(network(x), y).backward()
        made.step()
        position += config.batch_size
    return position


def same(found: dict[str, Tensor], expected: dict[str, Tensor], *, atol: float = 1e-12) -> None:
    """Equal up to float64 rounding."""
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=atol)
