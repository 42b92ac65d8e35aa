"""What one run needs, derived from its configuration: images, their streams, the network, the algorithm."""

from __future__ import annotations

import torch

from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.config import Config
from ssl_split.data import augment, images
from ssl_split.data.cohort import Streams, draw_cohort, steps_per_round
from ssl_split.data.partition import partition
from ssl_split.models.split import Network, build
from ssl_split.rng import generator

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


class Training:
    """Everything that one run needs, derived from its configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.dtype = DTYPES[config.precision]
        self.dataset = images.load(config)
        self.network = build(config, image_size=self.dataset.size)
        self.parts = partition(self.dataset.train.labels, config.partition, images=len(self.dataset.train), clients=config.clients)
        sizes = [len(p) for p in self.parts]
        self.steps = steps_per_round(sizes, config.batch_size, local_epochs=config.local_epochs)
        if ALGORITHMS[config.algorithm].centralised:
            batch = config.cohort_size * config.batch_size
            self.streams = Streams([torch.cat(self.parts).sort().values], seed=config.seed)
            self.steps = steps_per_round([sum(sizes)], batch, local_epochs=config.local_epochs)
        else:
            batch = config.batch_size
            self.streams = Streams(self.parts, seed=config.seed)
        self.batch = batch
        self.images = self.dataset.train.images.to(self.device)
        self.algorithm = ALGORITHMS[config.algorithm](Setup(config, self.network, sizes, self.steps, self.device, self.dtype))

    @property
    def client_entries(self) -> int:
        """State entries of the client half, c of the traffic formulas; 0 at cut 0 and for centralised training."""
        return 0 if self.algorithm.centralised else trees.layout(self.network.client).numel

    @property
    def total_steps(self) -> int:
        """Steps that this run makes."""
        planned = self.steps * self.config.rounds
        return planned if self.config.max_steps is None else min(planned, self.config.max_steps)

    def cohort(self, round: int) -> torch.Tensor:
        """Clients of a round."""
        if self.algorithm.centralised:
            return torch.arange(1)
        return draw_cohort(self.config.clients, self.config.cohort_size, seed=self.config.seed, round=round)

    def next_batch(self, state: State) -> Batch:
        """Two random views of each member's next B images; moves the members' streams on."""
        config, taken, draws = self.config, [], []
        for client in state.cohort.tolist():
            taken.append(self.streams.take(client, int(state.positions[client]), self.batch))
            draws.append(augment.draw(2 * self.batch, generator(config.seed, "views", state.step, client)))
        state.positions[state.cohort] += self.batch
        picked = self.images[torch.stack(taken).to(self.device)]  # (P, B, C, H, W) uint8
        both = torch.stack([picked, picked]).flatten(0, 2)  # first all first views
        uniforms = torch.stack(draws).unflatten(1, (2, self.batch)).transpose(0, 1).flatten(0, 2)
        made = augment.views(both, uniforms.to(self.device), config.augment, mean=self.dataset.mean, std=self.dataset.std, dtype=self.dtype)
        v1, v2 = made.unflatten(0, (2, len(state.cohort), self.batch)).unbind()
        return Batch((v1, v2))

    def export(self, state: State) -> Network:
        """The network with the averaged client half and the server half, in eval mode."""
        weights = {k: v for name in ("client.online", "server.online") if name in state.trees for k, v in state.trees[name].items()}
        self.network.load_state_dict({k: v.float() for k, v in weights.items()})
        return self.network.to(self.device).eval()


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device = {name!r} does not exist: legal: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name!r} does not exist here: PyTorch finds no CUDA device; use --device cpu")
    return device
