"""Optimiser steps on flat trees, and learning-rate schedules. All state is a tree that the caller keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ssl_split.config import Config


def sgd_(weights: Tensor, gradients: Tensor, velocity: Tensor, *, lr: float, momentum: float, weight_decay: float,
         nesterov: bool = False) -> None:
    """One SGD step in place, as `torch.optim.SGD` computes it: v <- momentum v + g + weight_decay w; w <- w - lr v.

    Args:
        weights, gradients, velocity: Equal shapes; velocity starts at zero. `gradients` is spent.
        lr: Learning rate.
        momentum: 0 leaves `velocity` untouched.
        weight_decay: L2 penalty.
        nesterov: w <- w - lr (g + momentum v) instead.
    """
    if weight_decay:
        gradients.add_(weights, alpha=weight_decay)
    if momentum:
        velocity.mul_(momentum).add_(gradients)
        gradients = gradients.add_(velocity, alpha=momentum) if nesterov else velocity
    weights.add_(gradients, alpha=-lr)


@dataclass(frozen=True)
class Optimiser:
    """An elementwise optimiser, as `torch.optim` computes it, on rows of weights.

    Attributes:
        kind: sgd, nesterov, adam or adamw.
        momentum: Of SGD; beta 1 of Adam.
        second_moment: Beta 2 of Adam.
        epsilon: Added to Adam's denominator.
        weight_decay: L2 penalty; decoupled in adamw.
    """

    kind: str
    momentum: float
    second_moment: float
    epsilon: float
    weight_decay: float

    @classmethod
    def of(cls, config: Config) -> Optimiser:
        """The one that a configuration names."""
        return cls(config.optimiser, config.momentum, config.adam.second_moment, config.adam.epsilon, config.weight_decay)

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of the running averages it keeps for every weight."""
        if self.kind in ("adam", "adamw"):
            return ("velocity", "second")
        return ("velocity",) if self.momentum else ()

    def step_(self, weights: Tensor, gradients: Tensor, moments: Sequence[Tensor], *, lr: float, count: Tensor) -> None:
        """One step in place.

        Args:
            weights, gradients: `(P, size)`; `gradients` is spent.
            moments: As named by `moments`, `(P, size)` each, zero before the first step.
            lr: Learning rate.
            count: Steps of each row since its moments were zero, this one included: int64 `(P,)`, on the weights' device.
        """
        if self.kind in ("sgd", "nesterov"):
            sgd_(weights, gradients, moments[0] if moments else weights, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay,
                 nesterov=self.kind == "nesterov")
            return
        if self.kind == "adam" and self.weight_decay:
            gradients.add_(weights, alpha=self.weight_decay)
        elif self.kind == "adamw":
            weights.mul_(1 - lr * self.weight_decay)
        first, second = moments
        first.lerp_(gradients, 1 - self.momentum)
        second.mul_(self.second_moment).addcmul_(gradients, gradients, value=1 - self.second_moment)
        steps = count.to(weights.dtype)[:, None]
        root = (second / (1 - self.second_moment**steps)).sqrt_() + self.epsilon  # not in place: gradient matching differentiates the step
        weights.addcdiv_(first / (1 - self.momentum**steps), root, value=-lr)


def rate(base: float, step: int, total: int, schedule: str) -> float:
    """The learning rate of a step: `cosine` falls from base at step 0 to 0 at `total`; `constant` stays."""
    if schedule == "constant":
        return base
    return 0.5 * base * (1 + math.cos(math.pi * step / total))
