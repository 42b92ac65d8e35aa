"""What an encoder makes of images at the three places: the smashed data at the cut, pooled features, the head's output.

The smashed data need `query`, the rest the server's model too. Where the whole network is the client's (cut full) the query itself
gives the head's output, and pooled features need the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.victim import evaluation
from attacks.view import CapabilityError, View
from ssl_split.models.split import Half

PLACES = ("cut", "pooled", "projector")
NEEDS = {"cut": ("query",), "pooled": ("query", "server_model"), "projector": ("query", "server_model")}
"""Place -> capabilities where the network is cut."""


@dataclass(frozen=True)
class Server:
    """The server's part as it, or who colludes with it, has it.

    Attributes:
        half: Smashed data -> head's output, in eval mode; the identity where the client has everything.
        out: Dimensions of the head's output that are projections or logits, counted from its end (BYOL predicts as well).
        supervised: Whether the head is a classifier.
        queue: Keys of the contrastive loss, unit length `(K, D)`.
        momentum: The momentum encoder's server part.
        temperature: T of the contrastive loss.
    """

    half: Half
    out: int
    supervised: bool = False
    queue: Tensor | None = None
    momentum: Half | None = None
    temperature: float = 0.1


def places(view: View) -> dict[str, tuple[str, ...]]:
    """The places that this view reaches, and what each needs."""
    declared = view.capabilities
    if "weights" in declared and _everything(view):
        return {"projector": ("query",), "pooled": ("query", "weights")}
    return {place: needs for place, needs in NEEDS.items() if set(needs) <= set(declared)}


def with_own(view: View, needs: tuple[str, ...]) -> tuple[str, ...]:
    """What a score needs that reads a place and whatever else the attack declares: own images, labels."""
    return (*needs, *(flag for flag in view.capabilities if flag not in ("query", "server_model", "weights")))


def _everything(view: View) -> bool:
    """Whether the client holds the whole network."""
    module = view.weights.module
    return isinstance(module, Half) and module.head is not None


def server(view: View) -> Server:
    """The server's model, which the view declares."""
    held: Server = view.offered("server_model")
    return held


def at_places(view: View, x: Tensor, *, maps: bool = False) -> dict[str, Tensor]:
    """Activations of images by place.

    Args:
        view: Of the attacked client, or of one of the attacker's own.
        x: `(B, 3, S, S)` in [0, 1].
        maps: Give the maps before pooling in place of pooled features, and no projections.

    Returns:
        Place -> `(B, ...)`, in the order of `places`.
    """
    reached, z = places(view), view.query(x)
    if "cut" not in reached:
        client = view.weights
        assert isinstance(client.module, Half)
        with torch.no_grad():
            inner = client.module.maps(client.normalise(x)) if maps else client.module.features(client.normalise(x))
        held = view.offered("server_model") if "server_model" in view.capabilities else None
        return {"pooled": inner} if maps else {"projector": z if held is None else z[:, -held.out :], "pooled": inner}
    found = {"cut": z}
    if "pooled" in reached:
        held = server(view)
        with evaluation(held.half):
            if maps:
                return found | {"pooled": held.half.maps(z)}
            found["pooled"] = held.half.features(z)
            assert held.half.head is not None
            found["projector"] = held.half.head(found["pooled"])[:, -held.out :]
    return found


def outputs(view: View, x: Tensor, *, momentum: bool = False) -> Tensor:
    """The head's output `(B, out)` for images in [0, 1]: projections, or logits of a supervised run.

    Args:
        view: Declares `query` and `server_model`.
        x: `(B, 3, S, S)`.
        momentum: Through the server's momentum half where it has one.
    """
    held = server(view)
    half: nn.Module = held.momentum if momentum and held.momentum is not None else held.half
    z = view.query(x)
    with evaluation(half):
        out: Tensor = half(z)[:, -held.out :]
    return out


def need_classifier(view: View) -> None:
    """Check that the head is a classifier.

    Raises:
        CapabilityError: the run was trained without labels.
    """
    if not server(view).supervised:
        raise CapabilityError(f"the attack {view.attack} needs a classifier, and this run was trained without labels: its server_model "
                              "is a projection head")
