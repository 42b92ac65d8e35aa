"""One local step of a client as a differentiable function: images and the gradient sent back -> the change of its weights.

A client that got g_z back-propagates it, G = sum_b J_W(x_b)^T g_z,b, and moves with its own optimiser (`ssl_split.optim`), unrolled here:
plain SGD gives dW = -lr G. Weight decay, momentum, Nesterov, clipping and Adam are the same code that trains.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from attacks.victim import Encoder
from ssl_split.optim import Optimiser

Moments = tuple[Tensor, ...]
"""Running averages of the optimiser, `(p, d)` each."""
TINY = 1e-15
"""Adam's step has no slope at a gradient of exactly 0, which the unused units of a network have; smaller ones are replaced by this."""


@dataclass(frozen=True)
class ClientStep:
    """How a client moves its weights; the server sets it, and knows it.

    Attributes:
        optimiser: Of the clients.
        lr: Learning rate of the step.
        clip_norm: Largest norm of the gradient; 0 for any.
    """

    optimiser: Optimiser
    lr: float
    clip_norm: float = 0.0

    def change(self, weights: Tensor, gradients: Tensor, moments: Moments, count: Tensor) -> Tensor:
        """Weights after the step minus weights before.

        Args:
            weights: `(d,)`.
            gradients: G of every client, `(p, d)`; may require gradients.
            moments: As `optimiser.moments` names them, `(p, d)` each.
            count: Steps since the moments were zero, this one included, int64 `(p,)`.

        Returns:
            `(p, d)`.
        """
        if self.clip_norm:
            norms = gradients.norm(dim=1, keepdim=True)
            gradients = gradients * (self.clip_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
        if self.optimiser.kind in ("adam", "adamw"):
            gradients = torch.where(gradients.abs() < TINY, TINY, gradients)
        moved = weights.expand_as(gradients).clone()
        self.optimiser.step_(moved, gradients.clone(), [moment.clone() for moment in moments], lr=self.lr, count=count)
        return moved - weights


class Half:
    """A client half on flat weights, problem by problem: `p` batches of `B` images, each with weight gradients of its own."""

    def __init__(self, module: nn.Module, normalise: Encoder) -> None:
        """Take a copy of the module, in training mode: a step is made in it."""
        self.module = copy.deepcopy(module).train().requires_grad_(False)
        self.normalise = normalise
        self.parameters: dict[str, Tensor] = dict(self.module.named_parameters())
        self.buffers = dict(self.module.named_buffers())
        self.weights = flat(self.parameters) if self.parameters else torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        """f of `(p, B, 3, S, S)` in [0, 1], `(p, B, ...)`."""
        found: Tensor = vmap(lambda images: self._apply(self.parameters, images), randomness="different")(x)
        return found

    def pull(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and G, both differentiable in x.

        Args:
            x: `(p, B, 3, S, S)` in [0, 1].
            g: g_z, `(p, B, ...)`.

        Returns:
            `(p, B, ...)` and `(p, d)`.
        """
        if not self.parameters:
            return self.forward(x), x.new_zeros(len(x), 0)

        def one(images: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
            found = vjp(lambda weights: self._apply(weights, images), self.parameters)
            return found[0], flat(found[1](gradient)[0])

        z, gradients = vmap(one, randomness="different")(x, g)
        return z, gradients

    def _apply(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        # a batch of its own for running statistics, which BatchNorm moves in place
        buffers = {name: buffer + 0 * images.detach().sum().to(buffer.dtype) for name, buffer in self.buffers.items()}
        z: Tensor = functional_call(self.module, {**weights, **buffers}, (self.normalise(images),))
        return z


def flat(tensors: dict[str, Tensor]) -> Tensor:
    """Named tensors as one vector, in their order."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


@dataclass(frozen=True)
class Deltas:
    """What is known of one local step of every client: the capability `weight_deltas`.

    Attributes:
        change: Weights after minus before, `(p, d)`, in the order of the client half's parameters.
        step: The optimiser.
        moments: Its running averages before the step, as far as they are known: zero where they are not, `(p, d)` each.
        count: Steps since these were zero, this one included, int64 `(p,)`.
        exact: Whether all of this is so; else the reconstruction works with an approximation.
    """

    change: Tensor
    step: ClientStep
    moments: Moments
    count: Tensor
    exact: bool

    def part(self, rows: slice) -> Deltas:
        """Some of the clients."""
        return Deltas(self.change[rows], self.step, tuple(m[rows] for m in self.moments), self.count[rows], self.exact)

    def explained(self, weights: Tensor, gradients: Tensor) -> Tensor:
        """|| dW' - dW ||^2 / || dW - dW_0 ||^2 for the change dW' that these gradients `(p, d)` would make and dW_0 without any: `(p,)`."""
        made = self.step.change(weights, gradients, self.moments, self.count)
        distance = (made - self.change).square().sum(1)
        length = (self.change - self.idle(weights)).square().sum(1)
        return distance / torch.where(length > 0, length, torch.ones_like(length))

    @torch.no_grad()
    def idle(self, weights: Tensor) -> Tensor:
        """dW_0: what weight decay and momentum would do by themselves, `(p, d)`."""
        return self.step.change(weights, torch.zeros_like(self.change), self.moments, self.count)


