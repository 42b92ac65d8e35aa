"""A client of the attacker's own: it has the shape of the clients' network, its own initial weights, and learns in their place."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.substitute import channels_last
from attacks.view import Architecture, Batch, OwnImages
from ssl_split import rng


class Simulator:
    """A client in training.

    Args:
        known: Shape of the client.
        lr: Adam's rate.
        betas: Adam's.
        seed: Of the initial weights, of batches and of a known defence's randomness.
        purpose: Names the attack, whose randomness is its own.

    Attributes:
        module: The network, in training mode.
        weights: What is learnt; empty where the client has no weights (cut 0).
    """

    def __init__(self, known: Architecture, *, lr: float, seed: int, purpose: str, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.known, self.lr = known, lr
        self.random = rng.generator(seed, f"{purpose} batches")
        made = known.make(rng.generator(seed, f"{purpose} client").initial_seed() % 2**31)
        self.module = made.to(memory_format=torch.channels_last).train()
        self.weights = [p for p in self.module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.weights, lr, betas=betas) if self.weights else None

    def places(self, count: int, batch: int) -> Tensor:
        """Random places below `count`, int64 `(batch,)`."""
        return torch.randint(count, (batch,), generator=self.random)

    def batch(self, own: OwnImages, places: Tensor, labels: Tensor | None) -> Batch:
        """Own images at these places, and what the client makes of them, through a defence that the attacker knows."""
        at = places.to(own.fit.device)
        images = channels_last(own.fit[at])
        return Batch(images, self.send(images), None if labels is None else labels[at])

    def send(self, images: Tensor) -> Tensor:
        """Smashed data of images `(B, 3, S, S)` in [0, 1], with their graph."""
        return self.sent(self.known.normalise(images))

    def sent(self, x: Tensor) -> Tensor:
        """Smashed data of images as a client takes them `(B, 3, S, S)`, through a defence that the attacker knows, with their graph."""
        out: Tensor = self.module(x)
        return self.known.defended(out, x, self.random)

    def step(self, loss: Tensor, *, share: float = 1.0) -> float:
        """One step of the client alone, at a share of its rate: nothing else that the loss goes through gets a gradient."""
        if self.optimiser is not None:
            self.optimiser.param_groups[0]["lr"] = share * self.lr
            self.optimiser.zero_grad()
            loss.backward(inputs=self.weights)
            self.optimiser.step()
        return loss.item()

    def smashed(self, images: Tensor) -> Tensor:
        """As `send`, in eval mode and without gradients, in parts."""
        self.module.eval()
        with torch.no_grad():
            found = torch.cat([self.send(channels_last(part)) for part in images.split(128)])
        self.module.train()
        return found
