"""SFL-V2: split federated learning with one server part, which serves one client after another.

Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022 (arXiv 2004.12088).

Symbols: as in SFL-V1. In each round the clients come in a random order; each runs all its local steps against the one W_s, which steps with
every batch and is not averaged. The client parts are averaged as in SFL-V1.

Deviations: those of SFL-V1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split.algorithms.api import Setup, State
from ssl_split.algorithms.split.sfl_v1 import SFLV1
from ssl_split.channel import Channel
from ssl_split.rng import generator


class SFLV2(SFLV1):
    """SFL-V1 with groups of one client and a server that keeps what it has learnt."""

    shared_server = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.at_once = 1

    def _begin_group(self, state: State, group: slice, wire: Channel) -> None:
        """The next client begins when the last one is through."""
        wire.clock.follow(state.cohort[group], float(wire.clock.ready[state.cohort[: group.start]].max()) if group.start else 0.0)
        super()._begin_group(state, group, wire)

    def order(self, cohort: Tensor, round: int) -> Tensor:
        """A new random order in each round."""
        return cohort[torch.randperm(len(cohort), generator=generator(self.config.seed, "client order", round))]
