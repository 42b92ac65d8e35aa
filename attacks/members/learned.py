"""A small network that learns to tell members from non-members on encoders of the attacker's own.

It is selected on a fifth of the attacker's images, the same for every encoder, none of which it is trained on; never on the images asked
about.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.members import metrics
from attacks.members.api import Shadow
from ssl_split import rng
from ssl_split.models.layers import initialise

EPOCHS, PATIENCE, BATCH, RATE = 60, 8, 128, 1e-3
HELD_OUT = 5
"""Every so many of the attacker's images select."""

Features = Callable[[Shadow], dict[str, Tensor]]


def perceptron(inputs: int, hidden: Sequence[int]) -> nn.Module:
    """Linear layers with ReLU between them, one output, on the meta device."""
    layers: list[nn.Module] = []
    for a, b in pairwise((inputs, *hidden)):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], 1))


class SetNetwork(nn.Module):
    """A function of a set of numbers: each goes through one network, their mean through another (Zaheer et al., NeurIPS 2017)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.all = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, n)` in any order -> `(B, 1)`."""
        out: Tensor = self.all(self.each(x[:, :, None]).mean(1))
        return out


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    Attributes:
        network: Standardised features `(n, d)` -> `(n, 1)`.
        mean, std: Of the features it was trained on, `(d,)` or `()`.
        auc, threshold: On held-out images of the attacker's own.
        epochs: Passes until the best one.
    """

    network: nn.Module
    mean: Tensor
    std: Tensor
    auc: float
    threshold: float
    epochs: int

    def __call__(self, features: Tensor) -> Tensor:
        """Scores of features `(n, d)`, float64 `(n,)`."""
        with torch.no_grad():
            out: Tensor = self.network((features.float() - self.mean) / self.std)
        return out.squeeze(1).double()


def fit(network: nn.Module, x: Tensor, inside: Tensor, held_out: Tensor, *, seed: int, common_scale: bool = False) -> Fitted:
    """Train by Adam on cross-entropy, with the classes weighted equally, until the held-out AUC stops rising; keep the best.

    Args:
        network: Its weights are drawn here.
        x: Features `(n, d)` on the CPU.
        inside: Whether each is of an image that its encoder was trained on, bool `(n,)`.
        held_out: Rows that select, bool `(n,)`.
        seed: Of the weights and of the order.
        common_scale: One mean and deviation for all columns, for a set.

    Raises:
        ValueError: members or non-members are missing on either side.
    """
    for name, rows in (("trains", ~held_out), ("selects", held_out)):
        if len(inside[rows].unique()) < 2:
            raise ValueError("there are too few own images: none that an encoder has seen, or none that it has not, is left for the part "
                             f"that {name} the attack; give a larger --fit")
    initialise(network, rng.generator(seed, "membership network"))
    train, y = x[~held_out].float(), inside[~held_out].float()
    mean, std = (train.mean(), train.std()) if common_scale else (train.mean(0), train.std(0))
    std = std.clamp(min=1e-6)
    weight = (1 - y).sum() / y.sum()
    adam = torch.optim.Adam(network.parameters(), lr=RATE)
    order, best, kept, at = rng.generator(seed, "membership order"), -1.0, copy.deepcopy(network.state_dict()), 0
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(len(train), generator=order).split(BATCH):
            out = network((train[batch] - mean) / std).squeeze(1)
            loss = functional.binary_cross_entropy_with_logits(out, y[batch], pos_weight=weight)
            adam.zero_grad()
            loss.backward()
            adam.step()
        reached = metrics.auc(Fitted(network, mean, std, 0, 0, 0)(x[held_out]), inside[held_out])
        if reached > best:
            best, kept, at = reached, copy.deepcopy(network.state_dict()), epoch
        elif epoch - at >= PATIENCE:
            break
    network.load_state_dict(kept)
    made = Fitted(network, mean, std, best, 0.0, at)
    threshold = metrics.curve(made(x[held_out]), inside[held_out]).best_threshold
    return Fitted(network, mean, std, best, threshold, at)


def gather(shadows: Sequence[Shadow], features: Features) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Features of the attacker's images under all of his encoders.

    Returns:
        Place -> features `(K m, d)`, whether the encoder has seen the image `(K m,)`, whether the image selects `(K m,)`.
    """
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for shadow in shadows:
        for place, x in features(shadow).items():
            held_out = torch.arange(len(x)) % HELD_OUT == HELD_OUT - 1
            found.setdefault(place, []).append((x, shadow.own_in[: len(x)], held_out))
    return {place: (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts]))
            for place, parts in found.items()}
