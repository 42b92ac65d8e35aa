"""FedAvgM: FedAvg with momentum over rounds at the server.

Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", arXiv 1909.06335:
v <- beta v - mean Delta_i; x_{r+1} = x_r - eta_g v. Deviations: none known.
"""

from __future__ import annotations

from dataclasses import replace

from ssl_split.algorithms.api import Setup
from ssl_split.algorithms.federated.fedavg import FedAvg


class FedAvgM(FedAvg):
    """Momentum `outer.momentum` and step size `outer.lr` over rounds."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.outer = replace(self.config.outer, kind="fedavgm")
