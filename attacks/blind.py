"""Guesses that hardly use the wire: the mean of the attacker's images, and the yardsticks that stand beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.api import AttackOptions, Guess
from attacks.features import Features
from attacks.view import View
from ssl_split import rng
from ssl_split.models import decoder


def mean_image(own: Tensor) -> Tensor:
    """The best constant guess in MSE, the mean of images `(n, 3, S, S)`: `(3, S, S)`."""
    return own.mean(0, dtype=torch.float64).to(own.dtype)


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Guess the mean of the attacker's images for every target, without looking at z."""
    guess = mean_image(view.aux.fit)
    return Guess(guess[None], (view.aux.validation - guess).square().mean().item(), {})


def grey(view: View, options: AttackOptions, seed: int) -> Guess:
    """Grey 0.5 for every target."""
    return Guess(torch.full_like(view.aux.fit[:1], 0.5), (view.aux.validation - 0.5).square().mean().item(), {})


def nearest(view: View, options: AttackOptions, seed: int) -> Guess:
    """For every target that image of the attacker's whose smashed data is nearest (Euclidean)."""
    targets = view.smashed.flatten(1)
    features = Features(view.query, view.aux.fit, held_bytes=0)
    best = torch.full((len(targets),), float("inf"), dtype=torch.float64, device=targets.device)
    found = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
    for place, rows in features.blocks():
        distance, index = torch.cdist(targets.to(rows.dtype), rows).double().min(1)
        found = torch.where(distance < best, index + place.start, found)
        best = torch.minimum(distance, best)
    return Guess(view.aux.fit[found], None, {})


def random_decoder(view: View, options: AttackOptions, seed: int) -> Guess:
    """What the decoder says before it has learned anything."""
    z = view.smashed.float()
    size = view.aux.fit.shape[-1]
    made = decoder.build(tuple(z.shape[1:]), rng.generator(seed, "random decoder"), image_size=size).to(z.device).eval()
    with torch.no_grad():
        images = torch.cat([made(part) for part in z.split(64)])
    return Guess(images, None, {})
