"""The sections of a configuration that belong to one defence each; `--defence NAME` reads the section of its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssl_split.fields import field
from ssl_split.names import UNSPLIT

DEFENCES = ("none", "gaussian", "laplace", "local_dp", "dropout", "topk", "quantise", "nopeek", "shuffle", "ressfl",
            "shredder", "adversarial", "dp_sgd")
WITH_CLIENT_LOSS = ("nopeek", "ressfl")
BITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class GaussianOptions:
    """Gaussian noise on smashed data, which are not clipped: not differentially private."""

    sigma: float = field(0.5, "standard deviation of the noise on every number", above=0)


@dataclass(frozen=True)
class LaplaceOptions:
    """Laplace noise on smashed data, which are not clipped: not differentially private (ResSFL's comparison)."""

    epsilon: float = field(10.0, "the scale of the noise is 1 / epsilon", above=0)


@dataclass(frozen=True)
class LocalDpOptions:
    """Clipped smashed data with Gaussian noise: local differential privacy of the activations, given the client's weights."""

    epsilon: float = field(8.0, "of one release of one image", above=0)
    delta: float = field(1e-5, "of one release, and of all of one image together", above=0, high=0.5)
    clip: float = field(1.0, "largest norm C of an image's smashed data; choose it without client data", above=0)


@dataclass(frozen=True)
class DropoutOptions:
    """Zeros at random places of smashed data."""

    p: float = field(0.2, "share of the numbers that become 0; the others stay as they are", above=0, high=0.99)


@dataclass(frozen=True)
class TopkOptions:
    """Only the largest numbers of an image's smashed data are sent."""

    drop: float = field(0.6, "share of each image's numbers, the smallest by magnitude, that is not sent", above=0, high=0.999)


@dataclass(frozen=True)
class QuantiseOptions:
    """Smashed data in few bits, uniform between an image's smallest and largest number."""

    bits: int = field(4, "of each number: 8, 4, 2 or 1", low=1, high=8)


@dataclass(frozen=True)
class NopeekOptions:
    """A loss on the distance correlation between images and smashed data (NoPeek)."""

    alpha: float = field(1.0, "weight of the distance correlation beside the task's loss", above=0)


@dataclass(frozen=True)
class ShuffleOptions:
    """Parts of an image's smashed data in random order: tokens of a transformer, or cells of a map."""

    cell: int = field(1, "side of the cells of a map, in numbers; it must divide the side of the map", low=1)


@dataclass(frozen=True)
class RessflOptions:
    """A loss on how well a decoder, trained beside the client, rebuilds the images (ResSFL)."""

    weight: float = field(0.5, "lambda, of the loss beside the task's", above=0)
    threshold: float = field(0.5, "tau, the zero-padded SSIM up to which nothing is lost", low=0, high=1)
    blocks: int = field(4, "residual blocks N of the decoder", low=0)
    channels: int = field(64, "channels C of the decoder", low=1)
    lr: float = field(1e-3, "Adam's rate of the decoder", above=0)


@dataclass(frozen=True)
class ShredderOptions:
    """Noise tensors that are learned on a trained network whose weights stay as they are (Shredder)."""

    tensors: int = field(10, "noise tensors M in the collection that each image's noise is drawn from", low=1)
    scale: float = field(3.0, "of the Laplace noise that they begin as", above=0)
    coefficient: float = field(0.1, "of the noise's mean magnitude, which is taken off the task's loss", low=0)
    lr: float = field(1e-3, "Adam's rate of the noise", above=0)


@dataclass(frozen=True)
class AdversarialOptions:
    """A step of every number of smashed data against a decoder that the clients trained before the run (adversarial noise)."""

    epsilon: float = field(0.05, "size of the step", above=0)
    epochs: int = field(30, "passes over the training images in which the decoder is trained", low=0)
    blocks: int = field(4, "residual blocks N of the decoder", low=0)
    channels: int = field(64, "channels C of the decoder", low=1)
    lr: float = field(1e-3, "Adam's rate of the decoder", above=0)


@dataclass(frozen=True)
class DpSgdOptions:
    """DP-SGD of the client half: of every update each image's part is clipped, and Gaussian noise is added. Hides no smashed data."""

    sigma: float = field(1.5, "noise multiplier: the deviation of the noise on a sum of clipped gradients is sigma C; 0 clips alone", low=0)
    clip: float = field(10.0, "largest norm C of an image's gradient of all client weights, of its own loss, not of the batch's mean",
                        above=0, high=1e9)
    delta: float = field(1e-5, "of all updates together, given the gradients that the server sent", above=0, high=0.5)


def check(config: Any, *, known: Any) -> None:
    """Refuse a defence where it has nothing to defend, and options of another one.

    Args:
        config: A `Config`.
        known: One with default values.

    Raises:
        ValueError: one sentence.
    """
    name = config.defence
    for other in DEFENCES[1:]:
        if other != name and getattr(config, other) != getattr(known, other):
            raise ValueError(f"{other}.* is read with --defence {other} alone, not with {name}")
    if name == "none":
        return
    if config.algorithm in ("centralised", "moco") or not config.sends_smashed_data:
        raise ValueError(f"defence = {name!r} has nothing to defend: {config.algorithm} at cut {config.cut} sends no smashed data")
    if config.dataset == "tsv":
        raise ValueError(f"defence = {name!r} is not defined for sentences, where rows of zeros are padding: use none")
    if config.wire.activations != "fp32" and name in ("topk", "quantise"):
        raise ValueError(f"defence = {name!r} has an encoding of its own: leave wire.activations at fp32")
    if config.quantise.bits not in BITS:
        raise ValueError(f"quantise.bits = {config.quantise.bits} does not exist; legal: {', '.join(map(str, BITS))}")
    if name == "local_dp" and config.norm == "batch":
        raise ValueError("local_dp needs smashed data that depend on one image alone, which BatchNorm's do not: use --norm group")
    if name in WITH_CLIENT_LOSS:
        _check_client_loss(config, name)
    if name == "shredder":
        _check_shredder(config)
    if name == "adversarial" and config.client_from is None:
        raise ValueError("defence = 'adversarial' moves smashed data against a decoder of a trained client: use --client-from RUN (and "
                         "--freeze-client, or the client leaves the decoder behind)")
    if name == "dp_sgd":
        _check_dp_sgd(config)


def _check_client_loss(config: Any, name: str) -> None:
    """Refuse a loss of the client's own where nothing could follow its gradient."""
    _check_client_learns(config, name)
    if config.algorithm == "mu_splitfed" and config.mu_splitfed.estimator == "spsa":
        raise ValueError(f"defence = {name!r} needs gradients, which mu_splitfed does without: use --mu-splitfed.estimator first_order")
    if config.batch_size < 2:
        raise ValueError(f"defence = {name!r} compares the images of a batch: set --batch-size to 2 or more")


def _check_shredder(config: Any) -> None:
    """Refuse learned noise where the network would learn beside it, or where no gradient teaches it."""
    if not (config.client_from and config.server_from and config.freeze_client):
        raise ValueError("defence = 'shredder' learns noise on a trained network that stays as it is: use --client-from RUN "
                         "--server-from RUN --freeze-client --server-lr 0")
    if config.server_lr != 0:
        raise ValueError(f"server_lr = {config.server_lr:g} would train the server that shredder's noise is learned against: set it to 0")
    if config.norm == "batch":
        raise ValueError("shredder needs a network that stays as it is, and BatchNorm's running statistics do not: use --norm group")
    if config.algorithm == "mu_splitfed" and config.mu_splitfed.estimator == "spsa":
        raise ValueError("defence = 'shredder' needs gradients, which mu_splitfed does without: use --mu-splitfed.estimator first_order")


def _check_dp_sgd(config: Any) -> None:
    """Refuse private updates where there are none, or where an image's gradient is not its own."""
    _check_client_learns(config, "dp_sgd")
    if config.algorithm == "mu_splitfed" or config.algorithm in UNSPLIT:
        raise ValueError(f"defence = 'dp_sgd' is not defined for {config.algorithm}: use a split algorithm whose clients follow the "
                         "gradient that comes back (mocosfl, monacosfl, sfl_v1, sfl_v2, minibatch_sfl, smofi, gas, split_learning)")
    if config.norm == "batch":
        raise ValueError("dp_sgd needs gradients that depend on one image alone, which BatchNorm's do not: use --norm group")


def _check_client_learns(config: Any, name: str) -> None:
    """Refuse a client that stays as it is."""
    if config.freeze_client:
        raise ValueError(f"defence = {name!r} trains the client, which freeze_client forbids: defend the run that client_from names")
    if config.cut == 0:
        raise ValueError(f"defence = {name!r} trains the client, which has no weights at cut 0: choose a deeper cut")
