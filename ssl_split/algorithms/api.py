"""What an algorithm is: four functions over one explicit state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_split.channel import Channel, Ledger
from ssl_split.clients import ClientStore
from ssl_split.config import Config
from ssl_split.data.imageset import Triple
from ssl_split.defences.api import Place
from ssl_split.models.layers import BatchNorm
from ssl_split.models.split import Network
from ssl_split.tree import Tree


@dataclass(frozen=True)
class Setup:
    """What an algorithm is built from.

    Attributes:
        config: The run's configuration.
        network: The initial network, cut at `config.cut`.
        sizes: Training images of each client.
        steps: T, steps per round of the self-supervised algorithms.
        device: Where tensors live.
        dtype: Arithmetic of weights; activations may be autocast.
        local_steps: T_j of each client in a round of the supervised algorithms.
        label_counts: Training images of each client by label, int64 `(N, classes)`; empty without labels.
        client_flops, server_flops: F, of one image's forward pass through either half, for the virtual clock; a backward pass is 2 F.
        mean, std: Constants of the images' normalisation.
    """

    config: Config
    network: Network
    sizes: list[int]
    steps: int
    device: torch.device
    dtype: torch.dtype
    local_steps: list[int] = field(default_factory=list)
    label_counts: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    client_flops: float = 0.0
    server_flops: float = 0.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    @property
    def place(self) -> Place:
        """Where a defence is at work."""
        network = self.network
        coupled = any(isinstance(part, BatchNorm | _BatchNorm) for part in network.client.modules())
        return Place(network.smashed_shape, network.input_shape[-1], self.mean, self.std, self.config.seed, self.dtype, self.device,
                     coupled)

    @property
    def channels_last(self) -> bool:
        """Memory order of convolutions. GroupNorm's CPU kernel for bf16 is several times slower on channels_last tensors."""
        return not (self.device.type == "cpu" and self.config.precision == "bf16")

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, the period of the learning-rate schedules."""
        return self.steps * self.config.rounds


@dataclass
class State:
    """Everything a step reads; updated in place, written to checkpoints.

    Attributes:
        round, step, step_in_round: Rounds begun before this one, steps done in all, steps done in this round.
        cohort: Clients of this round, int64 `(P,)`.
        positions: Each client's place in its data stream, int64 `(N,)`.
        trees: Weights and optimiser state by name. `client.*` and `server.*` have no client axis, `cohort.*` have rows `(P, size)`.
        tensors: Further tensors, e.g. the queue.
        counters: Further whole numbers, e.g. the queue's head.
        store: Rows that single clients keep between rounds.
        ledger: Bytes so far.
        gathered: Whether the rows of `cohort.*` matter: inside a round, and between rounds if everybody always takes part and keeps them.
    """

    ledger: Ledger
    store: ClientStore
    cohort: Tensor
    positions: Tensor
    trees: dict[str, Tree] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    round: int = 0
    step: int = 0
    step_in_round: int = 0
    gathered: bool = False


@dataclass(frozen=True)
class Batch:
    """What the clients of one step feed in.

    Attributes:
        views: One or two views `(A, B, C, H, W)` of each participant's images, normalised.
        labels: int64 `(A, B)`, for supervised algorithms.
        places: Of the A participants in the cohort.
        indices: Of the images behind the views among the training images, int64 `(A, B)`; None where nobody asks.
        draws: What each view was made with, `(A, B, DRAWS)` for each of them (`data.augment.draw`); empty for sentences.
    """

    views: tuple[Tensor, ...]
    labels: Tensor | None = None
    places: slice = field(default_factory=lambda: slice(None))
    indices: Tensor | None = None
    draws: tuple[Tensor, ...] = ()


class Algorithm(Protocol):
    """A training algorithm. `step` counts itself and synchronises when its schedule says so.

    Attributes:
        centralised: Whether all images lie in one place; the cohort is then one client with batch P * B.
        views: Random views of each image that a step reads.
        setup: What it was built from.
    """

    centralised: bool
    views: int
    setup: Setup

    def init(self) -> State:
        """The state before the first step."""
        ...

    def round_steps(self, cohort: Tensor) -> int:
        """Steps of a round with this cohort."""
        ...

    def participants(self, state: State) -> slice:
        """Places in the cohort of those who take part in the next step."""
        ...

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """Draw the cohort's rows together."""
        ...

    def step(self, state: State, batch: Batch, wire: Channel) -> dict[str, float]:
        """One step; returns `loss`, and divergence metrics where it ended with a sync."""
        ...

    def end_round(self, state: State, wire: Channel) -> None:
        """Put private rows back."""
        ...
