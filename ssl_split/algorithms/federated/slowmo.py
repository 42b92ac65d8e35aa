"""SlowMo: FedAvg with slow momentum over rounds, in units of a gradient.

Wang et al., "SlowMo: Improving Communication-Efficient Distributed SGD with Slow Momentum", ICLR 2020 (arXiv 1910.00643):
u <- beta u - (1/eta_l) mean Delta_i; x_{r+1} = x_r - a eta_l u. With a constant rate and a = 1 it is FedAvgM with eta_g = 1.
Deviations: none known.
"""

from __future__ import annotations

from dataclasses import replace

from ssl_split.algorithms.api import Setup
from ssl_split.algorithms.federated.fedavg import FedAvg


class SlowMo(FedAvg):
    """Momentum `outer.momentum` and step size a = `outer.lr` over rounds."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.outer = replace(self.config.outer, kind="slowmo")
