"""SCAFFOLD: control variates against client drift.

Karimireddy et al., ICML 2020 (arXiv 1910.06378): d = g(x) + c - c_i; after the round c_i+ = c_i - c + G_i,
c <- c + (1/N) sum over participants of (c_i+ - c_i). So c is the mean of all c_i, and the corrections sum to zero over all clients.

Deviations: the server derives c_i+ from Delta_i and keeps it, so that one further vector goes down and none up (the paper's clients keep
c_i and send c_i+ - c_i). K_i is the client's own number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.half import Half


class SCAFFOLD(FedAvg):
    """`variate` is c at the server and c_i of each client."""

    shared: tuple[str, ...] = ("variate",)
    own: tuple[str, ...] = ("variate",)
    gathers = ("variate",)
    client_vectors = 1  # c - c_i

    def downloads(self, half: Half) -> list[Tensor]:
        """c - c_i."""
        return [half.shared("variate") - half.own("variate")]

    def direction(self, halves: Sequence[Half]) -> None:
        """d = g + c - c_i."""
        for h in halves:
            h.gradient.add_(h.shared("variate") - h.own("variate"), alpha=self.correction_weight)

    @property
    def correction_weight(self) -> float:
        """Of c - c_i in the direction."""
        return 1.0

    def collect(self, halves: Sequence[Half], steps: Tensor) -> None:
        """c_i <- c_i - c + G_i."""
        for h in halves:
            change = -h.update / (steps * h.lr) - h.shared("variate")
            h.gather("variate", change)
            h.keep("variate", h.own("variate") + change)

    def conclude(self, halves: Sequence[Half], count: int) -> None:
        """c <- c + (1/N) sum (c_i+ - c_i)."""
        for h in halves:
            h.shared("variate").add_(h.gathered("variate"), alpha=1 / self.config.clients)
