"""The attacked client half and what it releases; it knows the images, and hands out nothing but capabilities."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attacks.features import Features
from attacks.view import Architecture, Client, Collected, OwnImages, ServerModel
from ssl_split import rng
from ssl_split.config import Config
from ssl_split.data.images import normalise
from ssl_split.data.imageset import Triple
from ssl_split.defences.api import Defence
from ssl_split.defences.release import released


def refuse_without_wire(config: Config) -> None:
    """Check that smashed data leave the client at all.

    Raises:
        ValueError: only weights do.
    """
    if not config.sends_smashed_data:
        raise ValueError(f"{config.algorithm} at cut full sends weights alone, so there are no smashed data to attack; train it split, "
                         "with a number as --cut")


Encoder = Callable[[Tensor], Tensor]
BATCH = 128
"""Images per forward pass of the client."""


@contextmanager
def evaluation(client: Encoder) -> Iterator[None]:
    """Eval mode without gradients for a module; every part's own mode is put back afterwards."""
    parts = list(client.modules()) if isinstance(client, nn.Module) else []
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


@dataclass(frozen=True)
class Victim:
    """A client half, trained or not.

    Attributes:
        client: Normalised images `(B, 3, S, S)` -> smashed data `(B, ...)`, on their device. A module computes in eval mode.
        mean, std: Constants of the normalisation in training; (0, 0, 0) and (1, 1, 1) for a client that takes images in [0, 1].
        private: Images of the clients themselves, no target among them: for the bound that trains on them.
        defence: What becomes of smashed data before they are sent.
        adaptive: Whether the attacker knows the defence: what he obtains for his own images went through it too, with randomness of its
            own, and he searches through its expectation. Else he has the client half alone.
        fresh: Seed -> the client half at new initial weights: for attacks that know its shape.
        seen: Images of the clients, no target among them, whose smashed data the server has seen in training, `(m, 3, S, S)`.
        seen_labels: Labels that came with them, int64 `(m,)`.
        own_labels: Of what the attacker's images fit on, int64 `(n,)`.
        server: The server's half.
    """

    client: Encoder
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    private: OwnImages | None = None
    defence: Defence = field(default_factory=Defence)
    adaptive: bool = True
    fresh: Callable[[int], nn.Module] | None = None
    seen: Tensor | None = None
    seen_labels: Tensor | None = None
    own_labels: Tensor | None = None
    server: ServerModel | None = None

    @property
    def supervised(self) -> bool:
        """Whether the server's loss reads labels."""
        return self.server is not None and self.server.supervised

    @property
    def known_defence(self) -> Defence:
        """The defence as the attacker knows it."""
        return self.defence if self.adaptive else Defence()

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the client takes them."""
        return normalise(images, self.mean, self.std)

    def query(self, images: Tensor, copy: int = 0) -> Tensor:
        """Smashed data that the attacker obtains for images of his own; as `release`. Under a random defence another `copy` is another draw
        for the same images."""
        return self.release(images, purpose=(f"query {copy}" if copy else "query") if self.adaptive else None)

    def release(self, images: Tensor, *, purpose: str | None = "targets") -> Tensor:
        """Smashed data of images in [0, 1] as they are sent, batch by batch.

        Args:
            images: `(n, 3, S, S)`.
            purpose: Names the defence's randomness; None for what the client half computes, without the defence.

        Raises:
            ValueError: activations that are no tensor with the batch in front, or not finite.
        """
        found: Tensor | None = None
        with evaluation(self.client):
            for start in range(0, len(images), BATCH):
                x = self.normalise(images[start : start + BATCH]).contiguous(memory_format=torch.channels_last)
                z = self.client(x)
                if not isinstance(z, Tensor) or z.dim() < 2 or len(z) != len(x):
                    got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
                    raise ValueError(f"the client returns {got} for {len(x)} images: it must return one tensor (B, ...)")
                if not bool(torch.isfinite(z).all()):
                    raise ValueError("the client's activations are not finite: its weights have diverged")
                if found is None:  # one allocation: a list of parts would need the memory twice when joined
                    found = z.new_empty(len(images), *z.shape[1:])
                found[start : start + len(z)] = z if purpose is None else released(self.defence, z, x, purpose=purpose)
        if found is None:
            raise ValueError("there are no images to send through the client")
        return found

    def offers(self, targets: Tensor, own: OwnImages, *, aux: str = "aux_same") -> dict[str, Any]:
        """What an honest-but-curious server has: z of the targets, the client to query and, of a module, its weights.

        Args:
            targets: Images in [0, 1], `(n, 3, S, S)`; only their smashed data leave.
            own: The attacker's images.
            aux: `aux_same` or `aux_other`.
        """
        offers: dict[str, Any] = {"smashed": self.release(targets), "query": self.query, aux: own}
        if self.private is not None:
            offers["private_pairs"] = self.private
        if (fresh := self.fresh) is not None:
            offers["architecture"] = Architecture(lambda seed: fresh(seed).to(targets.device, torch.float32), self.normalise,
                                                  tuple(targets.shape[1:]), self._as_sent, self.known_defence.expected)
        further = {"server_model": self.server, "aux_labels": self.own_labels, "labels": self.seen_labels}
        offers |= {flag: what for flag, what in further.items() if what is not None}
        if (seen := self.seen) is not None:
            offers["server_training"] = self._collected(seen)
        if isinstance(self.client, nn.Module):
            offers["weights"] = self._weights
        return offers

    def further(self, found: Sequence[Mapping[str, Tensor]], targets: Tensor, blind: Tensor) -> dict[str, Any]:
        """What the judge says of this kind of victim beside the scores; nothing here.

        Args:
            found: What each attacker seed found besides its images (`Guess.further`).
            targets: `(n, 3, S, S)` in [0, 1].
            blind: The blind guess `(3, S, S)`.
        """
        return {}

    def _as_sent(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """What the server reads of z `(B, ...)`, made of x, as far as the attacker knows; gradients pass straight through encodings."""
        defence = self.known_defence
        sent = defence.on_activation(z, x, generator)
        if defence.codec is None:
            return sent
        read = defence.codec.decode(defence.codec.encode(sent.detach()[None], 2), sent.dtype)[0]
        return sent + (read - sent).detach()

    def _collected(self, seen: Tensor) -> Collected:
        """What was seen in training: of a defence, whose randomness is new in every batch, computed when it is asked for; else kept."""
        if self.defence.changes_release:
            return Collected(len(seen), lambda places: self.release(seen[places]))
        held: list[Features] = []

        def take(places: Tensor) -> Tensor:
            if not held:
                held.append(Features(self.release, seen))
            return held[0][places]

        return Collected(len(seen), take)

    def _weights(self) -> Client:
        assert isinstance(self.client, nn.Module)
        return Client(copy.deepcopy(self.client).eval(), self.normalise, self.known_defence.expected)


def redrawn(untrained: nn.Module) -> Callable[[int], nn.Module]:
    """New initial weights for a network of which one untrained copy is there: the numbers of every tensor in a random order.

    An order is as likely as any other where numbers are drawn independently from one distribution, as initial weights are; constant
    tensors stay what they are.
    """
    def make(seed: int) -> nn.Module:
        made = copy.deepcopy(untrained)
        generator = rng.generator(seed, "redrawn weights")
        with torch.no_grad():
            for p in made.parameters():
                order = torch.randperm(p.numel(), generator=generator).to(p.device)
                p.copy_(p.flatten()[order].view_as(p))
        return made

    return make
