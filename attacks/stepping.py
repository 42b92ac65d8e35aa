"""The victim of gradient matching: a client that makes one local step on a batch of its images, and what is seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks import rows
from attacks.server import CENTRALISED, CONTRASTIVE, Answer
from attacks.step import ClientStep, Deltas, Half, Moments, flat
from attacks.victim import Encoder
from attacks.view import Client
from ssl_split import tree as trees
from ssl_split.channel import Channel, Ledger
from ssl_split.config import Config
from ssl_split.files import read_tensors
from ssl_split.models.split import Network
from ssl_split.optim import Optimiser
from ssl_split.run import Checkpoint
from ssl_split.tree import Tree

MOMENTUM = ("kept", "known", "zero")
CHUNK = 16
"""Batches whose weight gradients are computed side by side."""


@dataclass(frozen=True)
class Stepping:
    """A client and the server that answers it.

    Attributes:
        module: The client half.
        normalise: Images in [0, 1] -> what it takes.
        answer: The server.
        step: The client's optimiser.
        moments, count: Of the optimiser before the step, `(p, d)` and `(p,)`; no moments: all zero, and the step is the first.
        known: Whether the server knows these moments.
        weights: Channel through which the stepped weights are sent; None where they arrive as they are.
    """

    module: nn.Module
    normalise: Encoder
    answer: Answer
    step: ClientStep
    moments: Moments = ()
    count: Tensor | None = None
    known: bool = True
    weights: Channel | None = None

    def offers(self, images: Tensor, places: Tensor) -> dict[str, Any]:
        """Let the client make a step on every batch from the same weights, and collect what the server sees.

        Args:
            images: `(p, B, 3, S, S)` in [0, 1].
            places: Of these images among the members, int64 `(p, B)`.

        Raises:
            ValueError: activations or gradients that are not finite.
        """
        half = Half(self.module, self.normalise)
        with torch.no_grad():
            sent = half.forward(images)
        read = [self.answer(z, at) for z, at in zip(sent, places, strict=True)]
        z, g = (torch.stack(values) for values in zip(*read, strict=True))
        if not (bool(torch.isfinite(z).all()) and bool(torch.isfinite(g).all())):
            raise ValueError("the client's activations or their gradients are not finite: the weights have diverged")
        with torch.no_grad():
            gradients = torch.cat([half.pull(x, part)[1] for x, part in zip(images.split(CHUNK), g.split(CHUNK), strict=True)])
            zeros = tuple(torch.zeros_like(gradients[:, :1]).expand_as(gradients) for _ in self.step.optimiser.moments)
            first = torch.ones(len(images), dtype=torch.int64, device=images.device)
            moments, count = self.moments or zeros, first if self.count is None else self.count.to(images.device)
            change = self.step.change(half.weights, gradients, moments, count)
            change = change if self.weights is None else _as_sent(self.weights, half, change)
        exact = self.weights is None and (self.known or not any(bool(moment.any()) for moment in moments))
        deltas = Deltas(change, self.step, *((moments, count) if exact or self.known else (zeros, first)), exact)
        return {"smashed": z.flatten(0, 1), "gradient_view": g.flatten(0, 1), "weight_deltas": deltas,
                "weights": lambda: Client(Half(self.module, self.normalise).module, self.normalise)}


def _as_sent(wire: Channel, half: Half, change: Tensor) -> Tensor:
    """Changes `(p, d)` of weights that arrive encoded."""
    layout = trees.layout(half.module)
    tree = Tree(layout, torch.zeros(len(change), layout.size, dtype=change.dtype, device=change.device))
    for (name, parameter), part in zip(half.parameters.items(), _split(half, half.weights + change), strict=True):
        tree[name].copy_(part.view(-1, *parameter.shape))
    arrived = wire.send_tree("model_up", tree, torch.zeros(len(change), dtype=torch.int64))
    return torch.cat([arrived[name].flatten(1) for name in half.parameters], 1) - half.weights


def _split(half: Half, rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split([parameter.numel() for parameter in half.parameters.values()], 1)


def batches(clients: Tensor, size: int) -> Tensor:
    """Places of the images of every batch, all of one client: int64 `(p, size)`; what does not fill a batch is left out.

    Raises:
        ValueError: no client has so many images.
    """
    full = []
    for client in dict.fromkeys(clients.tolist()):
        own = (clients == client).nonzero().flatten()
        full += [part for part in own.split(size) if len(part) == size]
    if not full:
        most = int(torch.bincount(clients).max())
        raise ValueError(f"batch = {size} is impossible: no client has more than {most} of the targets; set more --targets")
    return torch.stack(sorted(full, key=lambda part: int(part[0])))


def client_step(config: Config, *, lr: float | None) -> ClientStep:
    """How the clients of a run step.

    Args:
        config: Of the run.
        lr: Learning rate; None for the one at the start of the run's schedule (at its end it is 0, and nothing moves).
    """
    base = config.server_lr if config.algorithm in CENTRALISED else config.client_lr
    return ClientStep(Optimiser.of(config), base if lr is None else lr, 0.0 if config.algorithm in CONTRASTIVE else config.clip_norm)


def encoded_weights(config: Config) -> Channel | None:
    """The channel of the stepped weights, where its codec changes them."""
    return None if config.wire.weights == "fp32" else Channel(config.wire, Ledger(config.clients))


def history(checkpoint: Checkpoint, network: Network, clients: Tensor, device: torch.device) -> tuple[Moments, Tensor | None]:
    """The optimiser's running averages that clients `(p,)` have at the checkpoint: `(p, d)` each, and steps `(p,)` with the next one.

    Returns:
        Empty, None where they are zero: at the start of a round (`optimiser_state: reset`), after a sync (`reset_momentum`).

    Raises:
        ValueError: the checkpoint holds no rows of single clients.
    """
    config, names = checkpoint.config, Optimiser.of(checkpoint.config).moments
    contrastive = config.algorithm in CONTRASTIVE
    if not names or (config.reset_momentum if contrastive else config.optimiser_state == "reset"):
        return (), None
    half, known = network.client, {}
    for client in dict.fromkeys(clients.tolist()):
        known[client] = [_moment(checkpoint, half, name, client) for name in names]
    moments = tuple(torch.stack([known[c][i] for c in clients.tolist()]).to(device) for i in range(len(names)))
    return moments, torch.tensor([_steps(checkpoint, c) + 1 for c in clients.tolist()])


def _moment(checkpoint: Checkpoint, half: nn.Module, name: str, client: int) -> Tensor:
    """One running average of a client, `(d,)`; zero for one that has never taken part."""
    parameters, algorithm = dict(half.named_parameters()), checkpoint.config.algorithm
    if algorithm in CENTRALISED:
        held = read_tensors(checkpoint.path, "server.velocity/" if algorithm == "moco" else f"server.online.{name}/")
    else:
        row = rows.kept(checkpoint, name if algorithm in CONTRASTIVE else f"client.{name}", client)
        held = {} if row is None else rows.by_name(checkpoint, half, row)
    return flat({k: held[k] if held else torch.zeros_like(p) for k, p in parameters.items()}).detach().float()


def _steps(checkpoint: Checkpoint, client: int) -> int:
    """Steps of a client's optimiser so far; only Adam counts them."""
    algorithm = checkpoint.config.algorithm
    if algorithm in CONTRASTIVE:
        return 0
    if algorithm in CENTRALISED:
        found = read_tensors(checkpoint.path, "tensor/server.online.steps").get("")
    else:
        found = rows.kept(checkpoint, "client.steps", client)
    return 0 if found is None else int(found)
