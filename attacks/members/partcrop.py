"""PartCrop: how the parts of an image answer to its whole (Zhu et al., CCS 2024).

Symbols: M the feature map of the whole image, one vector for each of L positions; c the mean vector of a crop (area 8 to 20 %) under the
same encoder; p = softmax over positions of M c. Features of an image are KL(u || p) and KL(g || p) of 128 crops, u uniform and g a
Gaussian bell, each list sorted; a perceptron (512, 256, 128) is trained on shadow encoders. It reads maps, so it knows two places: the
smashed data at the cut, and the map before pooling (`pooled`).

Deviations: crops are resized to the full image size, so that networks of a fixed input size work; g is a Gaussian's density at its
own quantiles, where the published code draws normal numbers; every image, member or not, meets the same whole and the same kind of
crops, and the network is selected on the attacker's own images (the published code augments members alone and selects on the evaluation
set).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from attacks.members import pool
from attacks.members.api import Question, Score
from attacks.members.embed import at_places, places, with_own
from attacks.members.learned import fit, gather, perceptron
from attacks.members.scores import own_images
from attacks.view import View
from ssl_split import rng

AREA = (0.08, 0.2)
RATIOS = (3 / 4, 4 / 3)
HIDDEN = (512, 256, 128)
CROPS_AT_ONCE = 512


def crops(images: Tensor, *, count: int, seed: int, first: int = 0, purpose: str = "membership crops") -> Tensor:
    """Random parts of images, bilinear at full size, mirrored half of the time.

    Args:
        images: uint8 `(n, 3, S, S)`.
        count: Of each image.
        seed, first, purpose: As in `pool.views`.

    Returns:
        float32 `(n count, 3, S, S)` in [0, 1].
    """
    u = torch.cat([torch.rand(count, 5, generator=rng.generator(seed, purpose, first + i)) for i in range(len(images))])
    area, ratio = AREA[0] + (AREA[1] - AREA[0]) * u[:, 0], torch.exp(math.log(RATIOS[0]) * (1 - 2 * u[:, 1]))
    height, width = (area / ratio).sqrt(), (area * ratio).sqrt()  # shares of the side
    x, y = (2 * u[:, 2] - 1) * (1 - width), (2 * u[:, 3] - 1) * (1 - height)
    mirror = torch.where(u[:, 4] < 0.5, -1.0, 1.0)
    nothing = torch.zeros_like(x)
    theta = torch.stack([torch.stack([width * mirror, nothing, x], 1), torch.stack([nothing, height, y], 1)], 1)
    source = pool.to_float(images).repeat_interleave(count, 0)
    grid = functional.affine_grid(theta.to(source), list(source.shape), align_corners=False)
    return functional.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False).clamp_(0, 1)


def positions(z: Tensor) -> Tensor | None:
    """Activations as vectors at positions `(B, L, D)`; None where there is only one."""
    if z.dim() == 4:
        z = z.flatten(2).transpose(1, 2)
    return z if z.dim() == 3 and z.shape[1] > 1 else None


def bell(length: int) -> Tensor:
    """A Gaussian's density at its own quantiles, summing to one, `(L,)`: what sorted normal draws give on average."""
    quantiles = torch.special.ndtri((torch.arange(length, dtype=torch.float64) + 0.5) / length)
    return torch.softmax(-0.5 * quantiles.square(), 0).float()


def divergences(whole: Tensor, parts: Tensor) -> Tensor:
    """Sorted KL(u || p) and KL(g || p).

    Args:
        whole: `(B, L, D)`.
        parts: Mean vectors of the crops `(B, N, D)`.

    Returns:
        `(B, 2 N)`: falling divergences to the uniform distribution, then to the bell.
    """
    log_p = functional.log_softmax(parts @ whole.transpose(1, 2), 2)  # (B, N, L)
    length = whole.shape[1]
    found = []
    for q in (torch.full((length,), 1 / length), bell(length)):
        q = q.to(log_p)
        found.append((q * (q.clamp(min=1e-30).log() - log_p)).sum(2).sort(1, descending=True).values)
    return torch.cat(found, 1)


def features(view: View, images: Tensor, *, count: int, seed: int, purpose: str) -> dict[str, Tensor]:
    """Divergences `(n, 2 count)` at each place that has a map, on the CPU; images uint8 `(n, 3, S, S)`."""
    def block(part: Tensor, first: int) -> dict[str, Tensor]:
        small = at_places(view, crops(part, count=count, seed=seed, first=first, purpose=purpose), maps=True)
        found = {}
        for place, z in at_places(view, pool.to_float(part), maps=True).items():
            whole, local = positions(z), positions(small[place])
            if whole is not None and local is not None:
                found[place] = divergences(whole.float(), local.float().mean(1).unflatten(0, (-1, count))).cpu()
        return found

    return pool.rows(images, block, size=max(1, CROPS_AT_ONCE // count))


def attack(view: View, question: Question) -> list[Score]:
    """The perceptron at each place with a map.

    Raises:
        ValueError: this network has none.
    """
    options, count = question.options, question.options.crop_count
    own = own_images(view)[: options.fit]
    reached = places(view)
    probe = features(view, own[:1], count=2, seed=0, purpose="own crops")
    if not probe:
        raise ValueError("the attack partcrop compares positions of a feature map, and this network has none: its activations are vectors")
    learnt = gather(question.shadows, lambda s: features(s.view, own, count=count, seed=options.seed, purpose="own crops"))
    asked = features(view, question.candidates, count=count, seed=options.seed, purpose="membership crops")
    found = []
    for place in probe:
        x, inside, held_out = learnt[place]
        fitted = fit(perceptron(x.shape[1], HIDDEN), x, inside, held_out, seed=options.seed)
        found.append(Score(place, "partcrop", fitted(asked[place]), with_own(view, reached[place]),
                           fitted.threshold, fitted.auc, {"epochs": fitted.epochs}))
    return found
