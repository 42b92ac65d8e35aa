"""FedWMSAM: personalised momentum, a perturbation guided by it with a single backward pass, and a weight that adapts.

"Fast and Flat Federated Learning via Weighted Momentum and Sharpness-Aware Minimization", NeurIPS 2025 (arXiv 2511.22080).

Symbols: m_r momentum and alpha_r its weight, c and c_k control variates, b the local step, all but e in units of a gradient.

1. m^k = m_r + alpha_r / (1 - alpha_r) (c - c_k)                                                  personalised momentum
2. delta_b = (x_r + b eta_l m^k) - x_b; e = rho delta_b / ||delta_b|| (0 at b = 0); g_b = g(x_b + e)
3. x_{b+1} = x_b - eta_l v_b, v_b = alpha_r g_b + (1 - alpha_r) m^k = alpha_r (g_b + c - c_k) + (1 - alpha_r) m_r
4. m_{r+1} = mean G_k; x_{r+1} = x_r + eta_g mean Delta_k
5. c_k+ = c_k - c + G_k; c <- c + (1/N) sum (c_k+ - c_k)
6. alpha_{r+1} = (1 - l) alpha_r + l clip(mean cos(G_k, m_r), 0.1, 0.9)

Deviations, each where paper, poster and published code disagree: the server descends (the poster's step ascends); G divided by K; the
correction is c - c_k; delta in units of parameters, so that e points uphill (`wmsam_perturbation: away` and `unit_step` are the other
readings); the similarity of G_k without the code's + 1 (`wmsam_similarity: personalised`: of m^k, as the poster says). The published code
indexes a flat vector by the number of a tensor, so its perturbation is not the paper's: here it is (`published_perturbation: true` measures
the other).

Switches: `wmsam_momentum` (off: alpha is 1), `wmsam_personalised` (off: no variates), `rho: 0` (no perturbation), `wmsam_adapt: 0`
(alpha stays).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_split.algorithms.api import Setup, State
from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.half import TINY, Half, dot, norm
from ssl_split.channel import Channel

CLIP = (0.1, 0.9)
"""Bounds of the similarity."""


class FedWMSAM(FedAvg):
    """`momentum` is m, `variate` c at the server and c_k of each client, which the server keeps."""

    shared = ("momentum", "variate")
    own = ("variate",)
    gathers = ("momentum", "variate")
    client_vectors = 3  # x_r, m^k, and x while the weights are at x + e

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if self.options.alpha == 1 and self.options.wmsam_momentum:
            raise ValueError("federated.alpha = 1 leaves nothing to FedWMSAM's momentum: use --federated.wmsam-momentum false")

    @property
    def scratch(self) -> tuple[str, ...]:  # type: ignore[override]
        """The sum of raw gradients, where c_k is their mean."""
        return ("raw",) if self.options.wmsam_mean_gradient else ()

    def init(self) -> State:
        """alpha_0."""
        state = super().init()
        begin = self.options.alpha if self.options.wmsam_momentum else 1.0
        state.tensors["alpha"] = torch.tensor(begin, dtype=torch.float64)
        state.tensors["similarity"] = torch.zeros((), dtype=torch.float64)  # sum over participants
        return state

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """The sums start anew."""
        super().begin_round(state, cohort, wire)
        state.tensors["similarity"].zero_()

    def momentum_of(self, h: Half) -> Tensor:
        """m^k, `(A, d)`; without momentum the correction alone, as if in the gradient."""
        if not self.options.wmsam_personalised:
            return h.shared("momentum").expand_as(h.weights)
        alpha = h.state.tensors["alpha"].item()
        return h.shared("momentum") + alpha / (1 - alpha) * (h.shared("variate") - h.own("variate"))

    def downloads(self, half: Half) -> list[Tensor]:
        """m^k."""
        return [self.momentum_of(half)] if self.options.wmsam_momentum else [half.shared("variate") - half.own("variate")]

    def uploads(self, half: Half) -> list[Tensor]:
        """The mean of raw gradients, where c_k is that."""
        return [half.own("raw")] if self.options.wmsam_mean_gradient else []

    def perturbation(self, halves: Sequence[Half], wire: Channel, members: Tensor) -> list[Tensor] | None:
        """e = rho delta / ||delta||."""
        if not self.config.rho or not self.options.wmsam_momentum:
            return None
        taken = halves[0].state.tensors["taken"][halves[0].rows].to(halves[0].weights)[:, None]
        sign = -1.0 if self.options.wmsam_perturbation == "away" else 1.0
        away = []
        for h in halves:
            step = 1.0 if self.options.wmsam_perturbation == "unit_step" else h.lr
            away.append(sign * (h.start + sign * taken * step * self.momentum_of(h) - h.weights))
        return self.radius(away, halves, wire, members)

    def _log(self, state: State, active: int) -> dict[str, float]:
        """SFL-V1's, and the alpha of this round."""
        return super()._log(state, active) | {"alpha": state.tensors["alpha"].item()}

    def direction(self, halves: Sequence[Half]) -> None:
        """v = alpha g + (1 - alpha) m^k."""
        for h in halves:
            alpha = h.state.tensors["alpha"].item()
            if self.options.wmsam_mean_gradient:
                h.own("raw").add_(h.gradient)
            if self.options.wmsam_momentum:
                h.gradient.mul_(alpha).add_(self.momentum_of(h), alpha=1 - alpha)
            elif self.options.wmsam_personalised:
                h.gradient.add_(h.shared("variate") - h.own("variate"))

    def collect(self, halves: Sequence[Half], steps: Tensor) -> None:
        """G_k, c_k+ and the similarity."""
        found = [-h.update / (steps * h.lr) for h in halves]
        momentum = [h.shared("momentum")[None] for h in halves]
        compared = [self.momentum_of(h) for h in halves] if self.options.wmsam_similarity == "personalised" else found
        lengths = (norm(compared) * norm(momentum)).squeeze(-1)
        cosine = torch.where(lengths > 0, dot(compared, momentum) / (lengths + TINY), 0.0)
        halves[0].state.tensors["similarity"] += cosine.sum().cpu()
        for h, g in zip(halves, found, strict=True):
            h.gather("momentum", g)
            estimate = h.own("raw") / steps if self.options.wmsam_mean_gradient else h.own("variate") - h.shared("variate") + g
            h.gather("variate", estimate - h.own("variate"))
            h.keep("variate", estimate)

    def conclude(self, halves: Sequence[Half], count: int) -> None:
        """m, c and alpha."""
        for h in halves:
            h.shared("momentum").copy_(h.gathered("momentum") / count)
            h.shared("variate").add_(h.gathered("variate"), alpha=1 / self.config.clients)
        tensors, rate = halves[0].state.tensors, self.options.wmsam_adapt
        if self.options.wmsam_momentum and rate:
            tensors["alpha"].lerp_((tensors["similarity"] / count).clamp(*CLIP), rate)
