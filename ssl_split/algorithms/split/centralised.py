"""Centralised supervised training: all images in one place, one network. The ceiling of the split methods.

Symbols: W the undivided network; a batch has P * B images, as the server of MiniBatch-SFL sees.

Deviations: none. The optimiser's state is reset at each round (an epoch) under `optimiser_state: reset`, as in the split methods.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.split.copies import Copies
from ssl_split.algorithms.split.sfl_v1 import SFLV1, WHOLE
from ssl_split.channel import Channel, Ledger
from ssl_split.clients import ClientStore


class Centralised(SFLV1):
    """One network, one optimiser; nothing crosses a wire."""

    centralised = True
    shared_server = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.at_once, self.has_weights, self.is_answered = 1, False, False

    def init(self) -> State:
        """The initial network."""
        state = State(Ledger(1), ClientStore(), torch.arange(1), torch.zeros(1, dtype=torch.int64))
        network = trees.gather(self.setup.network, dtype=self.setup.dtype, device=self.setup.device,
                               channels_last=self.setup.channels_last)
        self.servers = Copies(self.setup.network, network, state, name="server.online", count=1, setup=self.setup)
        state.tensors["since_logged"] = torch.zeros(3, dtype=torch.float64)
        return state

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """Nothing is distributed."""
        state.cohort, state.step_in_round = cohort, 0
        if self.config.optimiser_state == "reset":
            self.servers.reset()

    def end_round(self, state: State, wire: Channel) -> None:
        """Nothing is averaged."""
        state.round += 1
        state.step_in_round = 0

    def step(self, state: State, batch: Batch, wire: Channel) -> dict[str, float]:
        """One step on P * B images."""
        assert batch.labels is not None
        losses, logits, _ = self._serve(state, batch.views[0], batch.labels, WHOLE, torch.ones(1, dtype=torch.bool))
        whole = self.setup.client_flops + self.setup.server_flops
        wire.clock.serve(state.cohort, 3 * batch.labels.numel() * whole)
        return self._advance(state, losses, logits, batch.labels)
