"""What this attacker may see: capability flags as data, and a view that holds nothing else.

Victim, attack and judge are separate. The victim offers what a position in the system gives (`attacks.victim`); an attack
declares what it needs (`attacks.methods`); the view holds that and nothing else, and asking it for more raises. The truth (the
target images) is never in a view: only the judge has it (`attacks.judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_split.config import Augment
from ssl_split.data.augment import Ranges

CAPABILITIES: dict[str, str] = {
    "smashed": "sees the smashed data z of the targets",
    "query": "can obtain f(x) for own images x (implied by weights)",
    "weights": "knows the averaged client weights W (the server does, at every sync; elsewhere server and averager collude)",
    "momentum_weights": "knows the averaged momentum client (the server does in MonAcoSFL, at every sync)",
    "architecture": "knows the client network's shape, not its weights",
    "server_model": "knows the server's half of the network and its queue",
    "aux_same": "has images of the same distribution, none of them a member or a target",
    "aux_other": "has images of another distribution",
    "aux_labels": "has labels of its own images",
    "labels": "knows labels of the clients' images",
    "server_training": "acts during training with the server's models and gradients",
    "gradient_control": "sends false gradients (malicious)",
    "gradient_view": "sees the gradient returned to the client",
    "weight_deltas": "sees a client's individual update",
    "momentum_view": "sees the momentum encoder's activation of the targets",
    "second_view": "sees activations of a second augmentation of the targets",
    "private_pairs": "has pairs (x, f(x)) of the clients' own images: an upper bound, not an attacker",
}
"""Capability flag -> meaning. Every attack declares those it needs, and every result carries them."""

AUX = "aux"
"""Declared by attacks that take whichever kind of own images there is, `aux_same` or `aux_other`."""


class CapabilityError(ValueError):
    """An attack asked for something that it did not declare, or that this client does not offer."""


@dataclass(frozen=True)
class OwnImages:
    """The attacker's images, floats in [0, 1].

    Attributes:
        fit: `(n, 3, S, S)`, what the attack learns from.
        validation: `(m, 3, S, S)`, what it selects with; disjoint from `fit`.
    """

    fit: Tensor
    validation: Tensor


@dataclass(frozen=True)
class Client:
    """The client half as one who knows its weights has it.

    Attributes:
        module: Normalised images -> smashed data, in eval mode, differentiable. A copy: changing it changes no victim.
        normalise: Images in [0, 1] -> what `module` takes.
        expected: What a defence makes of smashed data in the mean, differentiable; they stay as they are without one.
        guess: The momentum client as one guesses it who has seen several averaged clients; None where only one was seen.
    """

    module: nn.Module
    normalise: Callable[[Tensor], Tensor]
    expected: Callable[[Tensor], Tensor] = lambda z: z
    guess: nn.Module | None = None

    def smashed(self, images: Tensor) -> Tensor:
        """What the client sends of images in [0, 1], in the mean over its defence's randomness."""
        return self.expected(self.module(self.normalise(images)))


@dataclass(frozen=True)
class Architecture:
    """The client half as one who knows its shape, but not its weights, has it.

    Attributes:
        make: Seed -> a client at new initial weights, float32, on the targets' device.
        normalise: Images in [0, 1] -> what a client takes.
        image_shape: `(3, S, S)`.
        defended: Smashed data `(B, ...)` of what a client took `(B, 3, S, S)` -> what a known defence makes of them, differentiable.
        expected: The same in the mean over the defence's randomness.
    """

    make: Callable[[int], nn.Module]
    normalise: Callable[[Tensor], Tensor]
    image_shape: tuple[int, ...]
    defended: Callable[[Tensor, Tensor, torch.Generator], Tensor] = lambda z, x, generator: z
    expected: Callable[[Tensor], Tensor] = lambda z: z


@dataclass(frozen=True)
class SecondView:
    """What whoever sees two random views of each target knows of them.

    Attributes:
        family: How the run's views are made.
        ranges: Between what they vary.
        client, momentum: Where both views go through both encoders (doubled batches): the second view through the client and the first
            through the momentum client, `(n, *shape)`; else None.
    """

    family: Augment
    ranges: Ranges
    client: Tensor | None = None
    momentum: Tensor | None = None


@dataclass(frozen=True)
class Collected:
    """Smashed data of the clients' images that a server has seen in training; no images.

    Attributes:
        count: How many there are.
        take: Places, int64 `(k,)` -> smashed data `(k, *shape)`.
    """

    count: int
    take: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """Own images on their way through a client that an attacker trains.

    Attributes:
        images: `(B, 3, S, S)` in [0, 1].
        smashed: What this client makes of them, with its graph, `(B, *shape)`.
        labels: int64 `(B,)`; None where the server's loss needs none.
    """

    images: Tensor
    smashed: Tensor
    labels: Tensor | None = None


ServerLoss = Callable[[Callable[[Tensor], Tensor], Batch, torch.Generator], Tensor]
"""What an attacker's client sends of images as it takes them, a batch on its way through it and randomness of views -> what the server's
loss says of it, a scalar."""


@dataclass(frozen=True)
class ServerModel:
    """The server's half as one who has it uses it: its loss, at weights that stay as they are.

    Attributes:
        moments: Its loss at every moment of training that is kept, oldest first; called to be loaded.
        supervised: Whether the loss reads labels.
    """

    moments: tuple[Callable[[], ServerLoss], ...]
    supervised: bool


class View:
    """What one attack sees of a victim: exactly the capabilities it declared.

    Args:
        offers: Capability -> what it consists of.
        needs: Capabilities that the attack declares; `aux` stands for whichever kind of own images is offered.
        attack: Name of the attack, for messages.

    Raises:
        CapabilityError: a needed capability is not on offer.
        ValueError: a flag that does not exist.
    """

    def __init__(self, offers: Mapping[str, Any], needs: Iterable[str], *, attack: str) -> None:
        own = "aux_other" if "aux_other" in offers else "aux_same"
        wanted = [own if flag == AUX else flag for flag in needs]
        for flag in (*wanted, *offers):
            if flag not in CAPABILITIES:
                raise ValueError(f"capability {flag!r} does not exist; legal: {', '.join(CAPABILITIES)}")
        missing = [flag for flag in wanted if flag not in offers]
        if missing:
            raise CapabilityError(f"the attack {attack} needs {', '.join(missing)} ({CAPABILITIES[missing[0]]}), and this client "
                                  f"offers only {', '.join(offers)}")
        self.attack = attack
        self.capabilities = tuple(wanted)
        self._seen = {flag: offers[flag] for flag in wanted}  # the rest is not even reachable

    def _get(self, flag: str) -> Any:
        if flag not in self._seen:
            raise CapabilityError(f"the attack {self.attack} asked for {flag}, which it does not declare; it declares "
                                  f"{', '.join(self.capabilities)}")
        return self._seen[flag]

    @property
    def smashed(self) -> Tensor:
        """Smashed data of the targets, `(n, *shape)`."""
        z: Tensor = self._get("smashed")
        return z

    def query(self, images: Tensor, copy: int = 0) -> Tensor:
        """Smashed data of own images: `(n, 3, S, S)` in [0, 1] -> `(n, *shape)`, without gradients. Asked for another `copy`, a
        random defence draws anew."""
        z: Tensor = self._get("query")(images, copy) if copy else self._get("query")(images)
        return z

    @property
    def aux(self) -> OwnImages:
        """The attacker's images."""
        own: OwnImages = self._get("aux_other" if "aux_other" in self._seen else "aux_same")
        return own

    @property
    def weights(self) -> Client:
        """The client half, differentiable."""
        made: Client = self._get("weights")()
        return made

    @property
    def architecture(self) -> Architecture:
        """The client half's shape: new ones can be made."""
        made: Architecture = self._get("architecture")
        return made

    @property
    def collected(self) -> Collected:
        """What the server has seen in training besides the targets' smashed data."""
        made: Collected = self._get("server_training")
        return made

    @property
    def momentum_view(self) -> Tensor:
        """The second view of each target through the momentum client, `(n, *shape)`; `smashed` is of the first through the client."""
        z: Tensor = self._get("momentum_view")
        return z

    @property
    def second(self) -> SecondView:
        """What is known of the two views."""
        known: SecondView = self._get("second_view")
        return known

    @property
    def server_model(self) -> ServerModel:
        """The server's half."""
        made: ServerModel = self._get("server_model")
        return made

    @property
    def aux_labels(self) -> Tensor:
        """Labels of what the attacker's images fit on, int64 `(n,)`."""
        made: Tensor = self._get("aux_labels")
        return made

    @property
    def labels(self) -> Tensor:
        """Labels that the clients have sent, of images that are no targets, int64 `(m,)`."""
        made: Tensor = self._get("labels")
        return made

    def offered(self, flag: str) -> Any:
        """What a declared capability without a property of its own consists of."""
        return self._get(flag)
