"""FedProx: clients are held near the model that they started from.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020 (arXiv 1812.06127): d = g(x) + mu (x - x_r).
Deviations: none known.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.half import Half


class FedProx(FedAvg):
    """mu is `federated.prox`."""

    client_vectors = 1  # x_r

    def direction(self, halves: Sequence[Half]) -> None:
        """d = g + mu (x - x_r)."""
        for h in halves:
            h.gradient.add_(h.weights - h.start, alpha=self.options.prox)
