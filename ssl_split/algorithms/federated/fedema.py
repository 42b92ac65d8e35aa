"""FedEMA: FedBYOL whose clients keep some of their own model where it is far from the average.

Zhuang et al., "Divergence-aware Federated Self-Supervised Learning", ICLR 2022 (arXiv 2204.04385).

Symbols: W_i what client i trained in its last round, W the download; |W - W_i| the distance of the encoders (with projector, without
predictor); lambda_i, tau as below.

On download W_i <- mu W_i + (1 - mu) W with mu = min(lambda_i |W - W_i|, 1), of the predictor with the same mu. lambda_i = tau / |W - W_i|
is fixed when client i first comes back ("autoscaler"), so that mu = tau there. A client that takes part for the first time loads W.

Deviations: none. tau = 0 is FedBYOL, and so is one client alone.
"""

from __future__ import annotations

import torch

from ssl_split.algorithms.api import State
from ssl_split.algorithms.federated.fedbyol import FedBYOL
from ssl_split.algorithms.federated.half import Half
from ssl_split.channel import Channel


class FedEMA(FedBYOL):
    """FedEMA."""

    client_vectors = 2

    def _begin_group(self, state: State, group: slice, wire: Channel) -> None:
        """Members mix the download with what they had."""
        super()._begin_group(state, group, wire)
        first = self._rows(group).start
        members = [(row, client) for row, client in enumerate(state.cohort[group].tolist(), first)
                   if any((f"{name}.last", client) in state.store for name in ("client", "server"))]
        if not members:
            return
        clients = torch.tensor([client for _, client in members])
        halves = self.halves(state, torch.tensor([row for row, _ in members]))
        own = [torch.stack([state.store.get(f"{half.name}.last", c) for c in clients.tolist()]).to(half.start) for half in halves]
        far = [(mine - half.weights)[:, : _encoder(half)] for half, mine in zip(halves, own, strict=True)]
        distance = self.joint_norm(far, wire, clients)  # (A, 1)
        mu = (self._scales(state, clients, distance) * distance).clamp(max=1)
        for half, mine in zip(halves, own, strict=True):
            half.copies.weights.parameters[half.rows] = half.weights.lerp(mine, mu)

    def _scales(self, state: State, clients: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """lambda_i `(A, 1)`, fixed where it was not; 0 as long as there is no distance to scale."""
        found = []
        for client, far in zip(clients.tolist(), distance[:, 0].tolist(), strict=True):
            if ("scale", client) not in state.store and far > 0:
                state.store.put("scale", client, torch.tensor([self.options.ema_autoscaler / far], dtype=torch.float64))
            found.append(float(state.store.get("scale", client)) if ("scale", client) in state.store else 0.0)
        return torch.tensor(found, dtype=distance.dtype, device=distance.device)[:, None]

    def _end_group(self, state: State, group: slice, wire: Channel) -> None:
        super()._end_group(state, group, wire)
        rows = self._rows(group)
        for half in self.halves(state, rows):
            for weights, client in zip(half.weights, state.cohort[group].tolist(), strict=True):
                state.store.put(f"{half.name}.last", client, weights)


def _encoder(half: Half) -> int:
    """Where the predictor begins among the half's weights; it is the last of them."""
    layout = half.copies.weights.layout
    starts = [offset for name, offset in zip(layout.names, layout.offsets, strict=True)
              if name.startswith("head.predictor.") and offset < layout.trainable]
    return min(starts, default=layout.trainable)
