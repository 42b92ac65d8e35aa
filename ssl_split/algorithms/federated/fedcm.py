"""FedCM: the mean update of the last round mixed into every local step.

Xu et al., "FedCM: Federated Learning with Client-level Momentum", arXiv 2106.10874: d = alpha g(x) + (1 - alpha) m_r,
m_{r+1} = mean G_i over the participants, m_0 = 0.

Deviations: m is divided by the rate of the round in which it was made, and by each client's own number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.half import Half


class FedCM(FedAvg):
    """alpha is `federated.alpha`."""

    shared = ("momentum",)
    gathers = ("momentum",)
    client_vectors = 1  # m

    def downloads(self, half: Half) -> list[Tensor]:
        """m."""
        return [half.shared("momentum")[None]]

    def direction(self, halves: Sequence[Half]) -> None:
        """d = alpha g + (1 - alpha) m."""
        alpha = self.options.alpha
        for h in halves:
            h.gradient.mul_(alpha).add_(h.shared("momentum"), alpha=1 - alpha)

    def collect(self, halves: Sequence[Half], steps: Tensor) -> None:
        """G_i."""
        for h in halves:
            h.gather("momentum", -h.update / (steps * h.lr))

    def conclude(self, halves: Sequence[Half], count: int) -> None:
        """m <- mean G_i."""
        for h in halves:
            h.shared("momentum").copy_(h.gathered("momentum") / count)
