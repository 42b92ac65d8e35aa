"""SMoFi: step-wise momentum fusion over the server copies of SFL-V1.

"SMoFi: Step-wise Momentum Fusion for Split Federated Learning on Heterogeneous Data", AAAI 2026 (arXiv 2511.09828).

Symbols: as in SFL-V1; tau the server step of the round, T_j client j's last; m_j the momentum of server copy j, m the fused one (0 at the
start of a round); beta the momentum coefficient; s_alpha(tau, j) = (tau - T_j + 1)^alpha.

Server step tau of an active client: m_j <- beta m + grad (eq. 4), W_s,j <- W_s,j - eta m_j. Then (eq. 5)
m <- sum over active p_j m_j + sum over finished p_j s_alpha(tau, j) m_j; the denominator of p_j stays that of the whole cohort. Clients
keep ordinary local momentum.

Deviations: none known. Open in the paper, decided here: nothing is renormalised (`renormalise` does), Adam fuses both moments under one
step counter (`moments: first` fuses one), Nesterov looks ahead with the fused buffer. Beyond the paper: `history: adaptive`, a finished
client counts by max(0, cos(m_j, mean of the active)).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ssl_split import tree as trees
from ssl_split.algorithms.api import Setup, State
from ssl_split.algorithms.split.sfl_v1 import SFLV1
from ssl_split.channel import Channel


class SMoFi(SFLV1):
    """SFL-V1 with one momentum for all server copies."""

    couples_clients = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if self.config.optimiser_state != "reset":
            raise ValueError("optimiser_state = keep has no meaning in smofi, whose clients share one momentum: use --smofi.carry true")

    def init(self) -> State:
        """SFL-V1's state and the fused moments."""
        state = super().init()
        names = list(self.servers.moments)
        self.fused = names[:1] if self.config.smofi.moments == "first" else names
        for name in self.fused:
            state.trees[f"server.fused_{name}"] = trees.zeros(state.trees["server.online"].layout, like=state.trees["server.online"].flat)
        state.counters["fused_steps"] = 0
        return state

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """History is cleared."""
        super().begin_round(state, cohort, wire)
        if not self.config.smofi.carry:
            state.counters["fused_steps"] = 0
            for name in self.fused:
                state.trees[f"server.fused_{name}"].flat.zero_()

    def _step_servers(self, state: State, rows: slice, places: slice, came: Tensor) -> None:
        """Every active copy steps from the fused moments, which are then fused anew."""
        for name in self.fused:
            self.servers.moments[name].flat[rows] = state.trees[f"server.fused_{name}"].flat
        self.servers.steps[rows] = state.counters["fused_steps"]
        super()._step_servers(state, rows, places, came)
        state.counters["fused_steps"] += 1
        if self.fused:
            shares = self._fusion(state, places.stop).to(self.servers.weights.flat)
            for name in self.fused:
                state.trees[f"server.fused_{name}"].flat.copy_(shares @ self.servers.moments[name].flat[: len(shares)])

    def _fusion(self, state: State, active: int) -> Tensor:
        """Weight of every copy's momentum in the fused one, float64 `(P,)`; the first `active` are at work."""
        options, step = self.config.smofi, state.step_in_round
        uniform = torch.full((len(state.cohort),), 1 / len(state.cohort), dtype=torch.float64)
        shares = self.shares(state) if options.weights == "data" else uniform
        last = torch.tensor([self.setup.local_steps[c] for c in state.cohort.tolist()], dtype=torch.float64)
        ages = step - last[active:] + 1  # 1 in the first fusion after a client's last step
        if options.history == "aligned":
            kept = ages**options.alpha
        elif options.history == "ignored":
            kept = torch.zeros_like(ages)
        else:
            kept = self._agreement(shares, active)
        weights = torch.cat([shares[:active], shares[active:] * kept])
        return weights / weights.sum() if options.renormalise else weights

    def _agreement(self, shares: Tensor, active: int) -> Tensor:
        """Cosine of each finished copy's last momentum to the active copies' mean, 0 where it is negative."""
        momentum = self.servers.moments["velocity"].parameters
        working = shares[:active].to(momentum) @ momentum[:active]
        return functional.cosine_similarity(momentum[active : len(shares)], working[None], dim=1).clamp(min=0).cpu().double()
