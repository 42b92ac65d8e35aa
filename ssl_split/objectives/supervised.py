"""Cross-entropy of several clients at once, each client's loss a mean of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor, *, adjustment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each client and its gradient, in closed form: (softmax - one-hot) / B.

    Args:
        logits: `(P, B, classes)`.
        labels: int64 `(P, B)`.
        adjustment: `(P, classes)`, added to the logits inside the loss (logit adjustment: log of the client's label shares).

    Returns:
        Losses `(P,)` and the gradient of each client's own mean loss with respect to its logits, `(P, B, classes)`.
    """
    scores = logits.detach() if adjustment is None else logits.detach() + adjustment[:, None]
    log_shares = functional.log_softmax(scores, dim=2)
    losses = -log_shares.gather(2, labels[..., None]).squeeze(2).mean(1)
    gradient = log_shares.exp()
    gradient.scatter_add_(2, labels[..., None], torch.full_like(gradient[..., :1], -1.0))
    return losses, gradient.div_(labels.shape[1])


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many rows have their label on top, int64 scalar."""
    return (logits.argmax(-1) == labels).sum()
