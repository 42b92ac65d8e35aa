"""How far the clients of a cohort have drifted apart, measured before a sync averages them."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split.tree import Tree, weighted_mean


def divergence(online: Tree, momentum: Tree, weights: Tensor) -> dict[str, float]:
    """Distances between clients, their averages and their momentum encoders.

    Args:
        online, momentum: Rows `(P, size)`.
        weights: `(P,)`, of the averages.

    Returns:
        Mean over clients of the mean squared difference per parameter: `online_to_mean`, `momentum_to_mean`, `online_to_momentum`
        (MonAcoSFL), and `online_to_mean_l2`, the sum over tensors of the L2 distance to the mean, averaged over clients
        (MocoSFL eq. 4 at one sync).
    """
    names = [n for n, offset in zip(online.layout.names, online.layout.offsets, strict=True) if offset < online.layout.trainable]
    count = sum(online.row(0)[n].numel() for n in names)
    mean = weighted_mean(online, weights.to(online.flat.device))
    momentum_mean = weighted_mean(momentum, weights.to(online.flat.device))
    sums = torch.zeros(4, dtype=torch.float64)
    for k in range(len(online.flat)):  # client by client: the differences of all at once would double the memory
        gap = Tree(online.layout, online.flat[k] - mean.flat)
        sums[0] += gap.parameters.square().sum().item() / count
        sums[1] += (momentum.flat[k] - momentum_mean.flat)[: online.layout.trainable].square().sum().item() / count
        sums[2] += (online.flat[k] - momentum.flat[k])[: online.layout.trainable].square().sum().item() / count
        sums[3] += sum(gap[n].norm().item() for n in names)
    keys = ("online_to_mean", "momentum_to_mean", "online_to_momentum", "online_to_mean_l2")
    return dict(zip(keys, (sums / len(online.flat)).tolist(), strict=True))
