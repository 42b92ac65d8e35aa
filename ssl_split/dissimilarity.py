"""Gradient divergence: how differently the clients pull at the common model; how far GAS's buffer pulls from real data; and where the
gradient of all clients points, to which perturbations are compared.

This project's definition, because the papers that plot it do not give theirs: mean over clients of || grad F_j(W) - grad F(W) ||_2 at the
averaged model W, for either half by itself, with F_j the mean cross-entropy of client j on un-augmented images and F = sum_j p_j F_j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_split import rng
from ssl_split.data.imageset import ImageSet, Triple, to_input
from ssl_split.models.split import Network

BATCH = 128
"""Images per forward pass."""


def gradient_divergence(network: Network, images: ImageSet, parts: Sequence[Tensor], *, mean: Triple, std: Triple, count: int
                        ) -> dict[str, float]:
    """Divergence of the client half and of the server half.

    Args:
        network: At the averaged weights, on its device; its gradients and mode are left as they were.
        images: The training images, labelled.
        parts: Indices of each client's images.
        mean, std: Constants of the normalisation.
        count: At most this many images of a client, always the same ones; p_j stays the share of all its images.

    Returns:
        `gradient_divergence_client` and `gradient_divergence_server`; a half without parameters has 0.
    """
    chosen, halves = _chosen(parts, count), _halves(network)

    def gradients(indices: Tensor) -> dict[str, Tensor]:
        return _gradients(network, halves, images.select(indices), mean=mean, std=std)

    whole = global_gradient(network, images, parts, mean=mean, std=std, count=count)
    distances: dict[str, float] = dict.fromkeys(halves, 0.0)
    for indices in chosen:  # twice through: the gradients of many clients would not fit in memory
        for half, gradient in gradients(indices).items():
            distances[half] += float((gradient - whole[half]).norm()) / len(chosen)
    return {f"gradient_divergence_{half}": distance for half, distance in distances.items()}


def global_gradient(network: Network, images: ImageSet, parts: Sequence[Tensor], *, mean: Triple, std: Triple, count: int
                    ) -> dict[str, Tensor]:
    """grad F(W) of `gradient_divergence`, with the same arguments: flat, for the client half and the server half."""
    whole: dict[str, Tensor] = {}
    for indices, part in zip(_chosen(parts, count), parts, strict=True):
        share = len(part) / sum(map(len, parts))
        for half, gradient in _gradients(network, _halves(network), images.select(indices), mean=mean, std=std).items():
            whole[half] = whole[half].add_(gradient, alpha=share) if half in whole else gradient * share
    return whole


def _halves(network: Network) -> dict[str, list[nn.Parameter]]:
    return {"client": list(network.client.parameters()), "server": list(network.server.parameters())}


def _chosen(parts: Sequence[Tensor], count: int) -> list[Tensor]:
    """At most `count` images of each client, always the same ones."""
    return [part[torch.randperm(len(part), generator=rng.generator(0, "divergence", j))[:count]] for j, part in enumerate(parts)]


def gradient_dissimilarity(network: Network, images: ImageSet, gradients: Mapping[str, Tensor], *, mean: Triple, std: Triple, count: int
                           ) -> float:
    """How far the server's gradient is from that of real data: mean over its weight tensors of || g - g_real ||^2.

    The measure of the GAS code (arXiv 2409.01251), which takes g_real from ten batches of test images; here they are training images.

    Args:
        network: At the averaged weights.
        images: The training images, labelled.
        gradients: g of each weight of the server half, by its name.
        mean, std: Constants of the normalisation.
        count: Images of g_real, drawn once for all runs.
    """
    chosen = images.select(torch.randperm(len(images), generator=rng.generator(0, "dissimilarity"))[:count])
    server = dict(network.server.named_parameters())
    if not server:
        return 0.0
    found = _gradients(network, {"client": [], "server": list(server.values())}, chosen, mean=mean, std=std)["server"]
    parts = found.split([p.numel() for p in server.values()])
    distances = [float((gradients[name].flatten().to(part) - part).square().sum()) for name, part in zip(server, parts, strict=True)]
    return sum(distances) / len(distances)


def _gradients(network: nn.Module, halves: dict[str, list[nn.Parameter]], images: ImageSet, *, mean: Triple, std: Triple
               ) -> dict[str, Tensor]:
    """Flat gradient of the mean loss for each half."""
    weights = [p for parameters in halves.values() for p in parameters]
    found = [torch.zeros_like(p) for p in weights]
    assert images.labels is not None
    for start in range(0, len(images), BATCH):
        x = to_input(images.images[start : start + BATCH].to(weights[0].device), mean, std, weights[0].dtype)
        labels = images.labels[start : start + BATCH].to(weights[0].device)
        with torch.enable_grad():
            loss = functional.cross_entropy(network(x), labels, reduction="sum") / len(images)
            for total, part in zip(found, torch.autograd.grad(loss, weights), strict=True):
                total.add_(part)
    first = len(halves["client"])
    flat = {"client": found[:first], "server": found[first:]}
    return {half: torch.cat([g.flatten() for g in parts]) if parts else torch.zeros(0) for half, parts in flat.items()}
