"""The contrastive loss of MoCo and its queue of negative keys.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, eq. 1 and algorithm 1; in MocoSFL all clients
share the queue ("feature sharing").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Mean InfoNCE loss of normalised queries against their keys and the queue, a scalar; see `info_nce_rows`."""
    return info_nce_rows(q, k, queue, temperature=temperature).mean()


def info_nce_rows(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE loss of each normalised query against its key and the queue.

    Args:
        q: Queries `(R, D)`, unit length.
        k: Positive keys `(R, D)`, unit length, no gradient.
        queue: Negative keys `(K, D)` shared by all rows, or `(P, K, D)` with one queue for each R / P rows in order.
        temperature: T.

    Returns:
        `(R,)`: cross-entropy of the logits [q.k, q.n_1, ..., q.n_K] / T with target 0.
    """
    positive = (q * k).sum(1, keepdim=True)  # (R, 1)
    if queue.dim() == 2:
        negative = q @ queue.T  # (R, K)
    else:
        negative = torch.einsum("prd,pkd->prk", q.view(len(queue), -1, q.shape[1]), queue).flatten(0, 1)
    logits = torch.cat([positive, negative], 1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device), reduction="none")


def initial_queue(size: int, dim: int, generator: torch.Generator, *, queues: int = 0) -> Tensor:
    """Random unit vectors `(K, D)`, or `(queues, K // queues, D)` for queues of single clients."""
    shape = (queues, size // queues, dim) if queues else (size, dim)
    return functional.normalize(torch.randn(shape, generator=generator), dim=-1)


def enqueue(queue: Tensor, head: int, keys: Tensor) -> int:
    """Write keys over the oldest ones, in place, wrapping around.

    Args:
        queue: `(K, D)` or `(P, K, D)`.
        head: Place of the oldest key.
        keys: `(R, D)`, or `(P, R, D)` with one row of keys for each queue.

    Returns:
        The new head. After n steps the queue holds the last min(n R, K) keys.
    """
    size = queue.shape[-2]
    count = keys.shape[-2]
    kept = keys[..., max(count - size, 0) :, :]
    at = (head + count - kept.shape[-2] + torch.arange(kept.shape[-2], device=queue.device)) % size
    queue[..., at, :] = kept
    return (head + count) % size
