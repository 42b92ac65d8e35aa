"""FedMoCo: MoCo-v2 at every client, and federated averaging of the online network.

MoCo-v2: Chen et al. 2020 (arXiv 2003.04297). Its federated form is a baseline of MocoSFL (Li et al., ICLR 2023) and of FedEMA (Zhuang et
al., ICLR 2022, arXiv 2204.04385).

Symbols: theta, theta' online and momentum network, both with the projection head; q, k unit vectors of a view and of the other one; K
queued keys of the client, T temperature.

A step of a client: theta' <- m theta' + (1 - m) theta; InfoNCE of q against k and the client's own queue; the keys enter the queue;
theta steps. Momentum network and queue stay with the client (`reset_key`: the momentum network starts every round as a copy of the model).

Deviations: none. One client is centralised MoCo-v2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ssl_split.algorithms.api import State
from ssl_split.algorithms.federated.targets import Targets
from ssl_split.channel import Channel
from ssl_split.objectives.moco import enqueue, info_nce_rows, initial_queue
from ssl_split.rng import generator


class FedMoCo(Targets):
    """FedMoCo: a queue for each client."""

    def init(self) -> State:
        """Every client begins with the same random keys."""
        state, config = super().init(), self.config
        like = state.trees["client.online"].flat
        self.first = initial_queue(config.queue_size, config.head.out, generator(config.seed, "queue")).to(like)
        self.queues = state.tensors["queue"] = self.first.repeat(self.at_once, 1, 1)  # (A, K, D)
        self.heads = state.tensors["queue_head"] = torch.zeros(self.at_once, dtype=torch.int64)
        return state

    def losses(self, online: Tensor, target: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """InfoNCE against each client's own queue."""
        q, k = functional.normalize(online, dim=-1), functional.normalize(target, dim=-1)
        losses = info_nce_rows(q.flatten(0, 1), k.flatten(0, 1), self.queues[rows], temperature=self.config.temperature)
        return losses.view(len(q), -1).mean(1), q

    def remember(self, target: Tensor, rows: slice) -> None:
        """The keys enter the queues."""
        for keys, row in zip(functional.normalize(target, dim=-1), range(rows.start, rows.stop), strict=True):
            self.heads[row] = enqueue(self.queues[row], int(self.heads[row]), keys)

    def _begin_group(self, state: State, group: slice, wire: Channel) -> None:
        super()._begin_group(state, group, wire)
        for row, client in enumerate(state.cohort[group].tolist(), self._rows(group).start):
            known = ("queue", client) in state.store
            self.queues[row] = state.store.get("queue", client).view_as(self.first).to(self.first) if known else self.first
            self.heads[row] = int(state.store.get("queue.head", client)) if known else 0

    def _end_group(self, state: State, group: slice, wire: Channel) -> None:
        super()._end_group(state, group, wire)
        for row, client in enumerate(state.cohort[group].tolist(), self._rows(group).start):
            state.store.put("queue", client, self.queues[row].flatten())
            state.store.put("queue.head", client, self.heads[row : row + 1])
