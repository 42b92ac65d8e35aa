"""The loss of BYOL: an online network predicts what a slowly following target network makes of the other view.

Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020 (arXiv 2006.07733), eq. 2.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def regression(p: Tensor, z: Tensor) -> Tensor:
    """|| p / |p| - z / |z| ||^2 = 2 - 2 cos(p, z) of every row.

    Args:
        p: Predictions `(..., D)` of the online network.
        z: Projections `(..., D)` of the target network, no gradient.

    Returns:
        `(...)`, from 0 to 4.
    """
    return 2 - 2 * functional.cosine_similarity(p, z, dim=-1)
