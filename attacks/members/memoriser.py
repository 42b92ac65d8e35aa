"""A small encoder that has learnt its training images by heart, on which membership attacks must find them: for `attacks.selftest`.

Every training image has a random code, a map of 16 channels at 4x4 places. The encoder is trained to give it for all brightnesses of the
image, for its mirror image and for its parts, and nothing for other images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.members import partcrop, pool
from attacks.members.infer import Inference, OwnEncoder, infer
from attacks.members.shadows import halves
from attacks.victim import Encoder
from ssl_split import rng
from ssl_split.config import Augment
from ssl_split.models.layers import initialise

MILD = Augment(kind="mocov2", crop_scale=1.0, jitter=0.2, hue=0.0, grayscale_probability=0.0, blur_probability=0.0)
SIZE, CHANNELS, SIDE, WIDTH = 16, 16, 4, 128
STEPS, BATCH = 150, 64
MEMBERS, OWN = 40, 120
METHODS = ("norm", "alignment", "encodermi", "partcrop", "lira")
"""Those that need nothing but a client to query, and encoders of the attacker's own."""
SMALL: dict[str, Any] = {"views": 4, "crops": 8}
HALF = (0.5, 0.5, 0.5)


class Memoriser(nn.Module):
    """Pixels through two linear layers to a map."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CHANNELS * SIDE * SIDE))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, 16, 16)` -> `(B, 16, 4, 4)`."""
        out: Tensor = self.layers(x).unflatten(1, (CHANNELS, SIDE, SIDE))
        return out


def memorise(images: Tensor, *, seed: int) -> Memoriser:
    """Train an encoder on these images, uint8 `(n, 3, 16, 16)`; the seed is of weights, codes and views."""
    made = Memoriser()
    initialise(made, rng.generator(seed, "memoriser"))
    codes = torch.randn(len(images), CHANNELS, SIDE, SIDE, generator=rng.generator(seed, "memoriser codes"))
    adam = torch.optim.Adam(made.parameters(), lr=2e-3)
    for step in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=rng.generator(seed, "memoriser order", step))
        at: dict[str, Any] = {"count": 1, "seed": seed, "first": step * BATCH}
        whole = pool.views(images[chosen], MILD, **at, purpose="memoriser views")
        parts = partcrop.crops(images[chosen], **at, purpose="memoriser crops")
        others = pool.to_float(random_images(BATCH, seed=seed, number=step))
        wanted = torch.cat([codes[chosen], codes[chosen], torch.zeros_like(codes[chosen])])
        loss = functional.mse_loss(made(2 * torch.cat([whole, parts, others]) - 1), wanted)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return made.eval()


def random_images(count: int, *, seed: int, number: int = -1) -> Tensor:
    """Random colours in 4x4 blocks, uint8 `(count, 3, 16, 16)`; `number` tells batches with one seed apart."""
    coarse = torch.randint(256, (count, 3, 4, 4), generator=rng.generator(seed, "memoriser images", number), dtype=torch.uint8)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


def own_encoders(own: Tensor, *, count: int = 2) -> list[OwnEncoder]:
    """Memorisers of random halves of the attacker's images."""
    return [OwnEncoder(memorise(own[seen], seed=1 + k), seen) for k, seen in enumerate(halves(len(own), count))]


def cases() -> tuple[list[tuple[str, Encoder, Tensor, Tensor]], Tensor, list[OwnEncoder]]:
    """Clients with members and other images, the attacker's images and his encoders.

    `memoriser` has learnt the members; in `random members` a draw decides who is called one, whatever the client has learnt.
    """
    asked, own = random_images(2 * MEMBERS, seed=0), random_images(OWN, seed=1)
    members, others = asked[:MEMBERS], asked[MEMBERS:]
    client = memorise(members, seed=0)
    drawn = asked[torch.randperm(len(asked), generator=rng.generator(0, "random members"))]
    return ([("memoriser", client, members, others), ("random members", client, drawn[:MEMBERS], drawn[MEMBERS:])], own,
            own_encoders(own))


def attacks(client: Encoder, members: Tensor, others: Tensor, own: Tensor, shadows: list[OwnEncoder]) -> Iterator[tuple[str, Inference]]:
    """Every attack on one client, by name."""
    for method in METHODS:
        yield method, infer(client, members, others, own, method=method, shadows=shadows, augment=MILD, mean=HALF, std=HALF,
                            **SMALL)
