"""FedSAM and its kin: sharpness-aware minimisation at the clients, two backward passes on the same minibatch.

* FedSAM (Qu et al., "Generalized Federated Learning via Sharpness Aware Minimization", ICML 2022, arXiv 2206.02618; Caldarola et al., ECCV
  2022): d = g(x + e), e = rho g(x) / ||g(x)||.
* MoFedSAM (the first of these): d = alpha g(x + e) + (1 - alpha) m_r; m as in FedCM.
* FedGAMMA (Dai et al., IEEE TNNLS 2023): d = g(x + e) + c - c_i; c, c_i as in SCAFFOLD.

Deviations: the norm is over all parameters together; weight decay acts at x, clipping on d.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.fedcm import FedCM
from ssl_split.algorithms.federated.half import Half
from ssl_split.algorithms.federated.scaffold import SCAFFOLD
from ssl_split.channel import Channel


class FedSAM(FedAvg):
    """rho is `federated.rho`."""

    looks_first = True
    client_vectors = 1  # x, while the weights are at x + e

    def perturbation(self, halves: Sequence[Half], wire: Channel, members: Tensor) -> list[Tensor]:
        """e = rho g / ||g||."""
        return self.radius([h.gradient for h in halves], halves, wire, members)


class MoFedSAM(FedSAM, FedCM):
    """FedCM's momentum on FedSAM's gradient."""

    client_vectors = FedSAM.client_vectors + FedCM.client_vectors


class FedGAMMA(FedSAM, SCAFFOLD):
    """SCAFFOLD's variates on FedSAM's gradient."""

    client_vectors = FedSAM.client_vectors + SCAFFOLD.client_vectors
