"""FedLESAM: the perturbation of SAM from how the global model has moved, without a second backward pass.

Fan et al., "Locally Estimated Global Perturbations are Better than Local Perturbations for Federated Sharpness-aware Minimization", ICML
2024 (arXiv 2405.18890): d = g(x + e), e = -rho U_i / ||U_i||, U_i = x_r - (the x that client i received when it last took part), 0 at
its first time. The global model went downhill along U_i, so -U_i points uphill. FedLESAM-S adds SCAFFOLD's c - c_i, FedLESAM-D FedDyn's
dual.

Deviations: one norm over all parameters, where the published code indexes a flat vector by the number of a tensor
(`published_perturbation`). `lesam_previous_round`
takes U = x_r - x_{r-1} for everybody, as that code does, and then U is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssl_split.algorithms.api import Setup, State
from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.feddyn import FedDyn
from ssl_split.algorithms.federated.half import Half
from ssl_split.algorithms.federated.scaffold import SCAFFOLD
from ssl_split.channel import Channel


class FedLESAM(FedAvg):
    """`received` is the model that a client got last, or else `previous` x_{r-1} at the server; rho is `federated.rho`."""

    client_vectors = 2  # U, and x while the weights are at x + e

    def __init__(self, setup: Setup) -> None:
        if setup.config.federated.lesam_previous_round:
            self.shared = (*self.shared, "previous")
        else:
            self.own = (*self.own, "received")
        super().__init__(setup)

    def init(self) -> State:
        """Nobody has received anything, and round 0 has none before it."""
        state = super().init()
        if self.options.lesam_previous_round:
            for half in self.halves(state, slice(0, 0)):
                half.shared("previous").copy_(half.start)
        return state

    def _begin_group(self, state: State, group: slice, wire: Channel) -> None:
        super()._begin_group(state, group, wire)
        if self.options.lesam_previous_round:
            return
        for half in self.halves(state, self._rows(group)):
            for row, client in zip(half.own("received"), state.cohort[group].tolist(), strict=True):
                if (f"{half.name}.received", client) not in state.store:  # its first time
                    row.copy_(half.start)

    def downloads(self, half: Half) -> list[Tensor]:
        """U, if it is the same for all; else clients know it."""
        more = [(half.start - half.shared("previous"))[None]] if self.options.lesam_previous_round else []
        return [*super().downloads(half), *more]

    def perturbation(self, halves: Sequence[Half], wire: Channel, members: Tensor) -> list[Tensor]:
        """e = -rho U / ||U||."""
        if self.options.lesam_previous_round:
            back = [(h.shared("previous") - h.start).expand_as(h.weights) for h in halves]
        else:
            back = [h.own("received") - h.start for h in halves]
        return self.radius(back, halves, wire, members)

    def collect(self, halves: Sequence[Half], steps: Tensor) -> None:
        """What they received is x_r."""
        super().collect(halves, steps)
        if not self.options.lesam_previous_round:
            for h in halves:
                h.keep("received", h.start.expand_as(h.weights))

    def end_round(self, state: State, wire: Channel) -> None:
        """Keep x_r as what was before."""
        before = [(h, h.start.clone()) for h in self.halves(state, slice(0, 0))] if self.options.lesam_previous_round else []
        super().end_round(state, wire)
        for half, start in before:
            half.shared("previous").copy_(start)


class FedLESAMS(FedLESAM, SCAFFOLD):
    """FedLESAM-S. `federated.correction_weight` scales c - c_i (the published code: by the prox constant)."""

    client_vectors = FedLESAM.client_vectors + SCAFFOLD.client_vectors

    @property
    def correction_weight(self) -> float:
        """Of c - c_i in the direction."""
        return self.options.correction_weight


class FedLESAMD(FedLESAM, FedDyn):
    """FedLESAM-D."""

    client_vectors = FedLESAM.client_vectors + FedDyn.client_vectors
