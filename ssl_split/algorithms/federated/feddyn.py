"""FedDyn and FedSMOO: a dual vector of each client makes the local optima agree with the global one.

* FedDyn (Acar et al., ICLR 2021, arXiv 2111.04263): d = g(x) + lambda (x - x_r + h_i); after the round h_i <- h_i + Delta_i,
  x_{r+1} = mean over participants of x_i + mean over all clients of h_i.
* FedSMOO (Sun et al., "Dynamic Regularized Sharpness Aware Minimization in Federated Learning", ICML 2023, arXiv 2305.11584): the same
  with g(x + e), e = rho u / ||u||, u = g(x) - mu_i - s; mu_i <- mu_i + e - s in every local step; after the round
  s = rho mean mu_i / ||mean mu_i||.

Deviations: the server keeps h_i, which goes down (it needs nothing further from the client); s by the published code's simplification of
the paper's problem at the server.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.half import TINY, Half, norm
from ssl_split.channel import Channel


class FedDyn(FedAvg):
    """`dual` is h_i of each client, and its mean over all clients at the server; lambda is `federated.prox`."""

    shared: tuple[str, ...] = ("dual",)
    own: tuple[str, ...] = ("dual",)
    gathers: tuple[str, ...] = ("dual",)
    client_vectors = 2  # x_r and h_i

    def downloads(self, half: Half) -> list[Tensor]:
        """h_i."""
        return [half.own("dual")]

    def direction(self, halves: Sequence[Half]) -> None:
        """d = g + lambda (x - x_r + h_i)."""
        for h in halves:
            h.gradient.add_(h.weights - h.start + h.own("dual"), alpha=self.options.prox)

    def collect(self, halves: Sequence[Half], steps: Tensor) -> None:
        """h_i <- h_i + Delta_i."""
        for h in halves:
            h.gather("dual", h.update)
            h.keep("dual", h.own("dual") + h.update)

    def conclude(self, halves: Sequence[Half], count: int) -> None:
        """x <- mean x_i + mean h over all clients."""
        for h in halves:
            h.shared("dual").add_(h.gathered("dual"), alpha=1 / self.config.clients)
            h.start.add_(h.shared("dual"))


class FedSMOO(FedDyn):
    """`tilt` is mu_i of each client and s at the server; rho is `federated.rho`."""

    shared = ("dual", "tilt")
    own = ("dual", "tilt")
    gathers = ("dual", "tilt")
    client_vectors = 5  # those, mu_i, s, and x while the weights are at x + e
    looks_first = True

    def downloads(self, half: Half) -> list[Tensor]:
        """h_i, mu_i and s."""
        return [half.own("dual"), half.own("tilt"), half.shared("tilt")[None]]

    def uploads(self, half: Half) -> list[Tensor]:
        """mu_i."""
        return [half.own("tilt")]

    def perturbation(self, halves: Sequence[Half], wire: Channel, members: Tensor) -> list[Tensor]:
        """e = rho u / ||u||; mu_i follows."""
        corrected = [h.gradient - h.own("tilt") - h.shared("tilt") for h in halves]
        scale = self.config.rho / (self.joint_norm(corrected, wire, members) + TINY)
        away = [u * scale for u in corrected]
        for h, e in zip(halves, away, strict=True):
            h.own("tilt").add_(e - h.shared("tilt"))
        return away

    def collect(self, halves: Sequence[Half], steps: Tensor) -> None:
        """h_i, and the sum of mu_i."""
        super().collect(halves, steps)
        for h in halves:
            h.gather("tilt", h.own("tilt"))

    def conclude(self, halves: Sequence[Half], count: int) -> None:
        """x, and s = rho mean mu / ||mean mu||."""
        super().conclude(halves, count)
        scale = self.config.rho / (norm([h.gathered("tilt") for h in halves]) + TINY)
        for h in halves:
            h.shared("tilt").copy_(h.gathered("tilt") * scale)
