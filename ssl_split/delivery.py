"""Which messages arrive: lost messages, repeated ones, and clients that miss a round, all seeded."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from ssl_split.config import LossOptions
from ssl_split.rng import generator


class Delivery:
    """Draws the fate of every message by its step, kind, client and place among equal ones; nothing has to be stored."""

    def __init__(self, options: LossOptions, *, seed: int) -> None:
        self.options, self._seed = options, seed
        self._round = self._step = 0
        self._sent: Counter[str] = Counter()

    def at(self, *, round: int, step: int) -> None:
        """A new step begins."""
        self._round, self._step = round, step
        self._sent.clear()

    def present(self, clients: Tensor) -> Tensor:
        """Who does not miss this round, bool `(A,)`."""
        if not self.options.dropout:
            return torch.ones(len(clients), dtype=torch.bool)
        drawn = [torch.rand((), generator=generator(self._seed, "dropout", self._round, c)).item() for c in clients.tolist()]
        return torch.tensor(drawn) >= self.options.dropout

    def attempts(self, kind: str, clients: Tensor) -> tuple[Tensor, Tensor]:
        """What becomes of one message of each client.

        Args:
            kind: Of the message.
            clients: int64 `(A,)`.

        Returns:
            How often it is sent, int64 `(A,)` (0 by a client that misses the round, more than once only with `retransmit`), and whether it
            arrives, bool `(A,)`.
        """
        present, p = self.present(clients), self.options.of(kind)
        number = self._sent[kind]
        self._sent[kind] += 1
        if not p:
            return present.long(), present
        drawn = torch.tensor([torch.rand((), generator=generator(self._seed, f"loss {kind}", self._step, c, number)).item()
                              for c in clients.tolist()], dtype=torch.float64)
        if not self.options.retransmit:
            return present.long(), present & (drawn >= p)
        times = (drawn.clamp(min=1e-300).log() / math.log(p)).floor().long() + 1  # geometric: P(more than n) = p^n
        return times * present, present
