"""What a federated method works with: vectors of one half of the network, for the clients that train side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split import tree as trees
from ssl_split.algorithms.api import State
from ssl_split.algorithms.split.copies import Copies

TINY = 1e-12
"""Added to norms that divide; a vector of norm 0 gives a direction of 0."""


@dataclass(frozen=True)
class Half:
    """One half of the network. Vectors are of its trainable entries d: `(A, d)` one row a client, or `(d,)` common to all.

    Attributes:
        name: client or server.
        copies: Its weights, gradients and optimiser state.
        state: The run's.
        rows: int64 `(A,)` or a slice: which copies.
        lr: eta_l of this round.
        ended: What arrived of the clients' weights at the end of the round, `(A, d)`; None before.
    """

    name: str
    copies: Copies
    state: State
    rows: slice | Tensor
    lr: float
    ended: Tensor | None = None

    @property
    def entries(self) -> int:
        """Numbers in a vector, without the padding of its layout."""
        return self.copies.weights.layout.trainable_numel

    @property
    def start(self) -> Tensor:
        """x_r, the model at the start of the round, `(d,)`."""
        return self.state.trees[f"{self.name}.online"].parameters

    @property
    def weights(self) -> Tensor:
        """x, `(A, d)`, in place."""
        return self.copies.weights.parameters[self.rows]

    @property
    def gradient(self) -> Tensor:
        """g, `(A, d)`, in place."""
        return self.copies.gradients.parameters[self.rows]

    def shared(self, vector: str) -> Tensor:
        """A vector of the server, `(d,)`, in place."""
        return self.state.trees[f"{self.name}.{vector}"].parameters

    def own(self, vector: str) -> Tensor:
        """A vector of each client, `(A, d)`; in place where `rows` is a slice."""
        return self.state.trees[f"cohort.{self.name}.{vector}"].parameters[self.rows]

    def keep(self, vector: str, values: Tensor) -> None:
        """Write a vector of each client."""
        self.state.trees[f"cohort.{self.name}.{vector}"].parameters[self.rows] = values

    def gather(self, vector: str, values: Tensor) -> None:
        """Add `(A, d)`, client by client, to the sum over the participants of the round."""
        self.state.trees[f"{self.name}.{vector}.gathered"].parameters.add_(values.sum(0))

    def gathered(self, vector: str) -> Tensor:
        """That sum, `(d,)`."""
        return self.state.trees[f"{self.name}.{vector}.gathered"].parameters

    @property
    def update(self) -> Tensor:
        """Delta_i = x_i - x_r, `(A, d)`, at the end of a round."""
        assert self.ended is not None
        return self.ended - self.start


def indexed_by_tensor(halves: Sequence[Half], vectors: Sequence[Tensor]) -> list[Tensor]:
    """What the published code of FedLESAM and FedWMSAM makes of a vector: tensor number j of the network is shifted as a whole by entry j
    of the flat vector over the sum of these entries' magnitudes. One `(A, d)` for each half, of which only one may have weights.

    Raises:
        ValueError: the network is split.
    """
    if len(halves) > 1:
        raise ValueError("published_perturbation reads the first entries of the whole network's vector: use cut full or 0")
    (half,), (vector,) = halves, vectors
    layout = half.copies.weights.layout
    tree = trees.zeros(layout, len(vector), like=vector)
    tree.parameters.copy_(vector)
    names = [name for name, offset in zip(layout.names, layout.offsets, strict=True) if offset < layout.trainable]
    first = torch.cat([tree[name].flatten(1) for name in names], 1)[:, : len(names)]
    shifts = first / (first.abs().sum(1, keepdim=True) + TINY)
    for name, shift in zip(names, shifts.unbind(1), strict=True):
        tree[name].copy_(shift.view(-1, *(1 for _ in tree[name].shape[1:])).expand_as(tree[name]))
    return [tree.parameters]


def norm(parts: Sequence[Tensor]) -> Tensor:
    """Joint norm over the halves of `(A, d)` or `(d,)`, with an axis kept to divide by."""
    return torch.stack([part.square().sum(-1, keepdim=True) for part in parts]).sum(0).sqrt()


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Joint inner product over the halves, `(A,)`."""
    return torch.stack([(x * y).sum(-1) for x, y in zip(a, b, strict=True)]).sum(0)
