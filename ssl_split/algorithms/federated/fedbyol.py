"""FedBYOL (FL-BYOL): BYOL at every client, and federated averaging of the online network.

BYOL: Grill et al., NeurIPS 2020 (arXiv 2006.07733). FL-BYOL: Zhuang et al., ICCV 2021 (FedU, arXiv 2108.06492) and ICLR 2022 (FedEMA);
the published rival of MocoSFL.

Symbols: theta the online network (encoder, projector, predictor), theta' the target (of encoder and projector), p a prediction of a view,
z' a target projection of the other one.

A step of a client: the loss || p / |p| - z' / |z'| ||^2, summed over both orders of the views with `symmetric: stacked`; theta steps;
theta' <- m theta' + (1 - m) theta. Online networks are averaged with their predictors; targets stay with the clients.

Deviations: projector and predictor are normalised as the network is (published: BatchNorm), and of the size `head.*` (BYOL: 4096
hidden units and 256 dimensions).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ssl_split.algorithms.federated.targets import Targets
from ssl_split.objectives.byol import regression


class FedBYOL(Targets):
    """FedBYOL; FedEMA imports it and states the difference."""

    follows_first = False

    def losses(self, online: Tensor, target: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """The sum over the orders of the views of the mean distance; the unit vectors are projections."""
        (p, z), z_target = online.chunk(2, -1), target.chunk(2, -1)[1]
        return self.looks * regression(p, z_target).mean(1), functional.normalize(z.detach(), dim=-1)
