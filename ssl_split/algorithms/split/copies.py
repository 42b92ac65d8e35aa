"""Copies of one half of a network that are trained: weights, gradients and optimiser state, one row each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_split import tree as trees
from ssl_split.algorithms.api import Setup, State
from ssl_split.clients import Clients, choose_engine
from ssl_split.optim import Optimiser
from ssl_split.tree import Tree


class Copies:
    """`count` copies of a half; all but the gradients is the state's, and in its checkpoints."""

    def __init__(self, half: nn.Module, initial: Tree, state: State, *, name: str, count: int, setup: Setup) -> None:
        """
        Args:
            half: The architecture.
            initial: Weights of all copies, one row.
            state: Gets the trees `name`, `name.velocity`, ... and the tensor `name.steps`. Rows are named `cohort.*`; under any other
                name there is one copy, whose tree has no row axis.
            name: Of the weights in the state.
            count: Copies, P.
            setup: Optimiser, engine and device.
        """
        self.optimiser, self._clip = Optimiser.of(setup.config), setup.config.clip_norm
        self.weights = trees.repeat(initial, count)
        self.gradients = trees.zeros(initial.layout, count, like=initial.flat)
        self.moments = {moment: trees.zeros(initial.layout, count, like=initial.flat) for moment in self.optimiser.moments}
        self.steps = torch.zeros(count, dtype=torch.int64)
        single = not name.startswith("cohort.")
        for key, tree in {name: self.weights, **{f"{name}.{m}": t for m, t in self.moments.items()}}.items():
            state.trees[key] = tree.row(0) if single else tree
        state.tensors[f"{name}.steps"] = self.steps
        engine = choose_engine(setup.config.engine, half, clients=count, device=setup.device)
        self.modules = Clients(half, self.weights, gradients=self.gradients, engine=engine)
        self._name, self._store = name.removeprefix("cohort."), state.store

    def load(self, rows: slice, weights: Tensor) -> None:
        """Give these copies the weights `(P or 1, size)`."""
        self.weights.flat[rows].copy_(weights)

    def reset(self, rows: slice = slice(None)) -> None:
        """Forget the optimiser's state of these copies."""
        for moment in self.moments.values():
            moment.flat[rows] = 0
        self.steps[rows] = 0

    def take_up(self, row: int, client: int) -> None:
        """Give a copy the optimiser state that a client kept, or none."""
        for name, moment in self.moments.items():
            kind = f"{self._name}.{name}"
            moment.flat[row] = self._store.get(kind, client).to(moment.flat.device) if (kind, client) in self._store else 0
        kind = f"{self._name}.steps"
        self.steps[row] = int(self._store.get(kind, client)) if (kind, client) in self._store else 0

    def put_back(self, row: int, client: int) -> None:
        """Keep a copy's optimiser state for a client."""
        for name, moment in self.moments.items():
            self._store.put(f"{self._name}.{name}", client, moment.flat[row])
        self._store.put(f"{self._name}.steps", client, self.steps[row : row + 1])

    def clear(self, rows: slice) -> None:
        """Zero these copies' gradients."""
        self.gradients.flat[rows].zero_()

    @torch.no_grad()
    def step(self, rows: slice, *, lr: float, only: Tensor | None = None) -> None:
        """One optimiser step of these copies, or of those among them for which the mask `only` is true; spends their gradients."""
        if only is not None and not bool(only.all()):
            for row in (torch.arange(rows.start, rows.stop)[only]).tolist():
                self.step(slice(row, row + 1), lr=lr)
            return
        gradients = self.gradients.parameters[rows]
        if self._clip:
            norms = gradients.norm(dim=1, keepdim=True)
            gradients.mul_((self._clip / norms.clamp(min=1e-12)).clamp(max=1.0))
        self.steps[rows] += 1
        count = self.steps[rows].to(gradients.device)
        moments = [moment.parameters[rows] for moment in self.moments.values()]
        self.optimiser.step_(self.weights.parameters[rows], gradients, moments, lr=lr, count=count)
