"""Features of a set of images, computed once, in batches, with a network that is left as it was found.

| kind      | numbers per image                                                                                             |
|-----------|---------------------------------------------------------------------------------------------------------------|
| backbone  | pooled backbone features: what a downstream task would use                                                    |
| projector | output of the projection head: what the contrastive loss sees                                                 |
| received  | pooled backbone features that the server computes from what it gets: smashed data behind the run's defence.   |
|           | What a defence costs whoever uses the split network; without one the same numbers as backbone                 |
| smashed   | smashed data at the cut: what the server sees. Maps are averaged over a grid until at most `limit` numbers are |
|           | left, sequences over runs of tokens: 50 000 maps of 64x32x32 would fill 13 GB                                  |

Raw pixels are the ruler beside them (`pixels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from ssl_split.data.imageset import Triple, normalise, to_float, to_input
from ssl_split.defences.api import Defence
from ssl_split.defences.release import released
from ssl_split.models.split import Network

KINDS = ("backbone", "received", "projector", "smashed")
BEHIND_DEFENCE = ("received", "smashed")
"""Kinds that depend on what a defence makes of the smashed data."""
SMASHED_LIMIT = 4096
"""Numbers per image kept of smashed data; of ResNet-18's maps that is an 8x8 grid at cut 1 and 4x4 at cut 13."""
PIXEL_SIDE = 64
"""Larger images are averaged to this side before they serve as the raw-pixel ruler."""
BAG = 4096
"""Numbers of a bag of words."""


def extract(
    network: Network,
    images: Tensor,
    *,
    kind: str = "backbone",
    mean: Triple,
    std: Triple,
    batch_size: int = 256,
    precision: str = "fp32",
    limit: int = SMASHED_LIMIT,
    defence: Defence | None = None,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """Features of un-augmented images.

    Args:
        network: On any device, in any mode; it computes in eval mode, and its modes and buffers are as before afterwards.
        images: uint8 `(n, 3, S, S)`, or token ids int32 `(n, L)`.
        kind: One of `KINDS`.
        mean, std: Channel constants of the normalisation in training.
        batch_size: Images per forward pass; it changes speed and memory only.
        precision: bf16 computes under autocast; anything else computes in the dtype of the weights.
        limit: Most numbers per image kept of smashed data.
        defence: What becomes of smashed data before they are sent; `backbone` and `projector` are computed without it.
        advance: Called with the number of images after each batch.

    Returns:
        float32 `(n, d)` on the CPU.

    Raises:
        ValueError: unknown kind, no images, features that are not finite, or `received` where the server has no layers.
    """
    if kind not in KINDS:
        raise ValueError(f"features = {kind!r} do not exist; legal: {', '.join(KINDS)}")
    if len(images) == 0:
        raise ValueError("there are no images to compute features of")
    if kind == "received" and network.cut == "full":
        raise ValueError("features received: at cut full the server has no layers that could compute any; choose backbone")
    device = next(network.parameters()).device
    found = torch.empty(0)
    done = 0
    with evaluation(network), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in images.split(batch_size):
            rows = _forward(network, batch, kind, mean, std, limit, defence or Defence()).float()
            if done == 0:  # one allocation for all: a list of parts would need the memory twice when joined
                found = torch.empty(len(images), rows.shape[1])
            found[done : done + len(batch)] = rows.cpu()
            done += len(batch)
            if advance is not None:
                advance(len(batch))
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"the {kind} features are not finite: the weights of this network have diverged")
    return found


def _forward(network: Network, batch: Tensor, kind: str, mean: Triple, std: Triple, limit: int, defence: Defence
             ) -> Tensor:
    """Features `(B, d)` of one batch of uint8 images."""
    like = next(network.parameters())
    x = to_input(batch.to(like.device), mean, std, like.dtype)
    if kind == "backbone":
        return network.features(x)
    if kind == "projector":
        return network.projections(x)
    z = network.client(x)
    sent = released(defence, z.float(), x, purpose="probe") if defence.changes_release else z
    return network.server.features(sent.to(like.dtype)) if kind == "received" else pool(sent, limit=limit)


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is put back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def pooled_shape(shape: Sequence[int], *, limit: int = SMASHED_LIMIT) -> tuple[int, ...]:
    """Shape that is left of one image's smashed data: `(C, H, W)`, `(tokens, D)` or `(D,)` with at most `limit` numbers.

    The channels are never averaged, so more than `limit` of them all stay.
    """
    if len(shape) == 3:
        channels, height, width = shape
        if channels * height * width <= limit:
            return (channels, height, width)
        side = max(1, math.isqrt(limit // channels))
        return (channels, min(side, height), min(side, width))
    if len(shape) == 2:
        tokens, size = shape
        return (min(tokens, max(1, limit // size)), size)
    return tuple(shape)


def pool(smashed: Tensor, *, limit: int = SMASHED_LIMIT) -> Tensor:
    """Smashed data `(B, C, H, W)`, `(B, tokens, D)` or `(B, D)` as rows of at most `limit` numbers, averages of regions."""
    wanted = pooled_shape(smashed.shape[1:], limit=limit)
    if smashed.ndim == 4 and wanted != smashed.shape[1:]:
        smashed = adaptive_avg_pool2d(smashed, (wanted[1], wanted[2]))
    elif smashed.ndim == 3 and wanted != smashed.shape[1:]:
        smashed = adaptive_avg_pool1d(smashed.transpose(1, 2), wanted[0]).transpose(1, 2)
    return smashed.flatten(1)  # (B, C, g, g) -> (B, C g g)


def bag_of_words(ids: Tensor) -> Tensor:
    """How often each token is in a sentence, `(n, L)` -> float32 `(n, BAG)`: logarithm of 1 + count, ids counted modulo `BAG`."""
    counts = torch.zeros(len(ids), BAG)
    counts.scatter_add_(1, ids.cpu().long() % BAG, torch.ones(ids.shape))
    return counts.log1p_()


def pixels(images: Tensor, *, mean: Triple, std: Triple, batch_size: int = 1024) -> Tensor:
    """Normalised raw pixels, the ruler of all features; of sentences the bag of words.

    Args:
        images: uint8 `(n, 3, S, S)`, or token ids int32 `(n, L)`.
        mean, std: Channel constants.
        batch_size: Images converted at a time.

    Returns:
        float32 `(n, 3 s s)` on the CPU, s = min(S, `PIXEL_SIDE`); of sentences `(n, BAG)`.
    """
    if images.dtype != torch.uint8:
        return bag_of_words(images)
    side = min(images.shape[-1], PIXEL_SIDE)
    found = torch.empty(len(images), 3 * side * side)
    for start in range(0, len(images), batch_size):
        x = normalise(to_float(images[start : start + batch_size].cpu()), mean, std)
        if side < images.shape[-1]:
            x = adaptive_avg_pool2d(x, side)
        found[start : start + batch_size] = x.flatten(1)
    return found
