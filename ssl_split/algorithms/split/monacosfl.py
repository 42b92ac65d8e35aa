"""MonAcoSFL: MocoSFL that also averages the momentum clients, which keeps online and momentum networks aligned at deep cuts.

Przewiezlikowski et al., "A Deep Cut Into Split Federated Self-Supervised Learning", ECML PKDD 2024 (arXiv 2406.08267).

Symbols: as in MocoSFL. By linearity the average momentum client is the EMA of the averaged online trajectory.

Deviations: those of MocoSFL. Options beyond the paper: `align: online` copies the averaged online client instead (no extra bytes), and
`every_syncs: k` aligns at every k-th sync (between those, momentum clients are private as in MocoSFL).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split.algorithms.api import State
from ssl_split.algorithms.split.mocosfl import MocoSFL
from ssl_split.channel import Channel
from ssl_split.tree import Tree


class MonAcoSFL(MocoSFL):
    """MocoSFL plus one averaged tree."""

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """Members without a private momentum encoder fetch the aligned one."""
        super().begin_round(state, cohort, wire)
        if self.all_join:
            fetching = cohort if self._aligned(state) else cohort[:0]
        else:
            fetching = torch.tensor([c for c in cohort.tolist() if ("momentum", c) not in state.store], dtype=torch.int64)
            if self.lossy:  # what they have if the download is lost
                for k in torch.isin(cohort, fetching).nonzero().flatten().tolist():
                    self._take_up(state, k, int(cohort[k]), "momentum", state.trees["client.initial"].flat, kept="own_momentum")
        broadcast = self.config.wire.model_traffic == "broadcast"
        self._receive_momentum(state, wire, rows=fetching, receivers=fetching[:0] if broadcast else fetching)

    def end_round(self, state: State, wire: Channel) -> None:
        """After an aligned last sync nobody has a momentum encoder of its own."""
        aligned = self._aligned(state)
        super().end_round(state, wire)
        if self.lossy and not self.all_join:
            for k, client in enumerate(state.cohort.tolist()):
                state.store.put("own_momentum", client, state.trees["cohort.momentum"].flat[k])
        if aligned:
            state.store.drop("momentum")

    def _sync(self, state: State, wire: Channel) -> dict[str, float]:
        measured = super()._sync(state, wire)
        if self.has_weights and self._due(state):
            shared, rows = state.trees["client.momentum"], state.trees["cohort.momentum"]
            if self.config.monacosfl.align == "online":
                shared.flat.copy_(state.trees["client.online"].flat)
            else:
                arrived = wire.send_tree("ema_up", rows, state.cohort)
                state.counters["unheard"] = int(not bool(wire.came.any()))
                if state.counters["unheard"]:
                    return measured
                shared.flat.copy_(self._average(state, arrived, shared, wire.came).flat)
            state.store.drop("momentum")  # the average is every client's momentum encoder, also of those outside the cohort
            self._receive_momentum(state, wire, rows=state.cohort, receivers=self._receivers(state, at_start=False))
        return measured

    def _aligned(self, state: State) -> bool:
        """Whether the last sync aligned the momentum clients (before the first one all are equal)."""
        return self._due(state) and not state.counters.get("unheard", 0)

    def _due(self, state: State) -> bool:
        return state.counters["syncs"] % self.config.monacosfl.every_syncs == 0

    def _receive_momentum(self, state: State, wire: Channel, *, rows: Tensor, receivers: Tensor) -> None:
        """Write the shared momentum client into the cohort rows of the clients in `rows`; `receivers` pay for it."""
        if not self.has_weights or len(rows) == 0 or (self.lossy and len(receivers) == 0):
            return
        shared = state.trees["client.momentum"]
        if self.config.monacosfl.align == "online" and self._aligned(state):  # a copy of the online weights just received
            arrived = state.trees["cohort.online"].flat[:1]
        else:
            arrived = wire.send_tree("ema_down", Tree(shared.layout, shared.flat[None]), receivers).flat
        at = torch.isin(state.cohort, rows).nonzero().squeeze(1).to(arrived.device)
        if self.lossy:
            at = at[wire.came]
        state.trees["cohort.momentum"].flat[at] = arrived
