"""Optimiser steps on flat trees, and learning-rate schedules. All state is a tree that the caller keeps."""

from __future__ import annotations

import math

from torch import Tensor


def sgd_(weights: Tensor, gradients: Tensor, velocity: Tensor, *, lr: float, momentum: float, weight_decay: float) -> None:
    """One SGD step in place, as `torch.optim.SGD` computes it: v <- momentum v + g + weight_decay w; w <- w - lr v.

    Args:
        weights, gradients, velocity: Equal shapes; velocity starts at zero. `gradients` is spent.
        lr: Learning rate.
        momentum: 0 leaves `velocity` untouched.
        weight_decay: L2 penalty.
    """
    if weight_decay:
        gradients.add_(weights, alpha=weight_decay)
    if momentum:
        gradients = velocity.mul_(momentum).add_(gradients)
    weights.add_(gradients, alpha=-lr)


def rate(base: float, step: int, total: int, schedule: str) -> float:
    """The learning rate of a step: `cosine` falls from base at step 0 to 0 at `total`; `constant` stays."""
    if schedule == "constant":
        return base
    return 0.5 * base * (1 + math.cos(math.pi * step / total))
