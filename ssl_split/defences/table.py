"""All defences by name."""

from __future__ import annotations

from collections.abc import Callable

from ssl_split.config import Config
from ssl_split.defences.adversarial import Adversarial
from ssl_split.defences.api import Defence, Place
from ssl_split.defences.compression import Quantise, TopK
from ssl_split.defences.dp_sgd import DpSgd
from ssl_split.defences.local_dp import LocalDp, sigma_of
from ssl_split.defences.noise import Dropout, Gaussian, Laplace
from ssl_split.defences.nopeek import NoPeek
from ssl_split.defences.release import Release
from ssl_split.defences.ressfl import ResSFL
from ssl_split.defences.shredder import Shredder
from ssl_split.defences.shuffle import Shuffle


def _local_dp(config: Config) -> Defence:
    own = config.local_dp
    return LocalDp(own.clip, sigma_of(own.epsilon, delta=own.delta, sensitivity=2 * own.clip))


DEFENCES: dict[str, Callable[[Config], Defence]] = {
    "none": lambda config: Defence(),
    "gaussian": lambda config: Gaussian(config.gaussian.sigma),
    "laplace": lambda config: Laplace(1 / config.laplace.epsilon),
    "local_dp": _local_dp,
    "dropout": lambda config: Dropout(config.dropout.p),
    "topk": lambda config: TopK(config.topk.drop),
    "quantise": lambda config: Quantise(config.quantise.bits),
    "nopeek": lambda config: NoPeek(config.nopeek.alpha),
    "shuffle": lambda config: Shuffle(config.shuffle.cell),
    "ressfl": lambda config: ResSFL(config.ressfl),
    "shredder": lambda config: Shredder(config.shredder),
    "adversarial": lambda config: Adversarial(config.adversarial),
    "dp_sgd": lambda config: DpSgd(config.dp_sgd.clip, config.dp_sgd.sigma),
}


def build(config: Config) -> Defence:
    """The defence of a run."""
    return DEFENCES[config.defence](config)


def release(config: Config, place: Place) -> Release:
    """The defence of a run at work.

    Raises:
        ValueError: it is not defined for smashed data of this shape, or for a client that mixes images.
    """
    defence = build(config)
    defence.refuse(place.smashed_shape)
    if place.couples_images and config.defence in ("local_dp", "dp_sgd"):
        raise ValueError(f"defence = {config.defence!r} counts each image alone, and the client half of {config.arch} has BatchNorm, which "
                         "mixes those of a batch: use another normalisation")
    return Release(defence, place, rounds=config.rounds)
