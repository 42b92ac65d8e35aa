"""Which clients take part in a round, and which of their images come next.

Each client draws from an endless stream of shuffled passes over its data; short passes are joined, so that every step has P * B images.
The only state is the position in the stream (spec of uneven clients: MocoSFL with endless streams).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split.rng import generator


def draw_cohort(clients: int, size: int, *, seed: int, round: int) -> Tensor:
    """`size` of `clients` without replacement, int64 `(P,)`; all of them in order when everybody takes part."""
    if size == clients:
        return torch.arange(clients)
    return torch.randperm(clients, generator=generator(seed, "cohort", round))[:size]


def steps_per_round(sizes: list[int], batch_size: int, *, local_epochs: int = 1) -> int:
    """T = floor(mean client size * epochs / B), at least 1, the same in every round."""
    return max(1, int(sum(sizes) * local_epochs / len(sizes) / batch_size))


def local_steps(sizes: list[int], batch_size: int, *, local_epochs: int, steps: int | None = None) -> list[int]:
    """T_j = floor(images of client j * epochs / B), at least 1, or `steps` for everybody."""
    return [steps or max(1, size * local_epochs // batch_size) for size in sizes]


class Streams:
    """The endless streams of all clients; a pass is derived from (seed, client, pass number) and never stored."""

    def __init__(self, parts: list[Tensor], *, seed: int) -> None:
        """
        Args:
            parts: For each client the int64 indices of its images.
            seed: The run's seed.
        """
        self.parts, self.seed = parts, seed
        self._passes: dict[int, tuple[int, Tensor]] = {}

    def take(self, client: int, position: int, count: int) -> Tensor:
        """Indices `(count,)` of the stream's elements from `position` on."""
        size = len(self.parts[client])
        taken = []
        while count > 0:
            number, start = divmod(position, size)
            part = self._pass(client, number)[start : start + count]
            taken.append(part)
            position += len(part)
            count -= len(part)
        return torch.cat(taken)

    def _pass(self, client: int, number: int) -> Tensor:
        held = self._passes.get(client)
        if held is None or held[0] != number:
            part = self.parts[client]
            held = number, part[torch.randperm(len(part), generator=generator(self.seed, "order", client, number))]
            self._passes[client] = held
        return held[1]
