"""NoPeek: smashed data that are as little correlated with the images as the task allows.

Vepakomma et al., "NoPeek: Information leakage reduction to share activations in distributed deep learning", ICDM workshops 2020
(arXiv 2008.09161): the client adds alpha dCor(x, z), with the distance correlation of Szekely, Rizzo and Bakirov (2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split.defences.api import Defence


def distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """Sample distance correlation of paired rows, a scalar in [0, 1]: dCor = sqrt(dCov^2(x, z) / sqrt(dCov^2(x, x) dCov^2(z, z))).

    Args:
        x, z: `(B, ...)`, B at least 2; if all rows of either are equal it is 0.
    """
    a, b = centred_distances(x.to(z.dtype)), centred_distances(z)
    own = (a.square().mean() * b.square().mean()).clamp(min=1e-30).sqrt()
    return ((a * b).mean() / own).clamp(min=1e-12).sqrt()  # the root has no gradient at 0


def centred_distances(rows: Tensor) -> Tensor:
    """Euclidean distances of rows `(B, ...)` less the means of their row and column, plus the mean of all: `(B, B)`."""
    flat = rows.flatten(1)
    d = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return d - d.mean(0, keepdim=True) - d.mean(1, keepdim=True) + d.mean()


@dataclass(frozen=True)
class NoPeek(Defence):
    """alpha dCor(x, z) of each client's batch beside its task."""

    alpha: float
    has_loss = True

    def client_loss(self, z: Tensor, x: Tensor) -> Tensor:
        """Of one client's batch."""
        return self.alpha * distance_correlation(x, z)
