"""The server's loss as an attack in the server's place uses it: on smashed data of a client of its own, at weights that stay as they are.

Supervised algorithms: cross-entropy of the server's logits. MocoSFL, MonAcoSFL, MoCo: InfoNCE of one random view against the server's
queue, its key a second view through the same client (no gradient) and the server's momentum half; either view is sent as the client sends,
through a defence that it has. The halves are in eval mode, so that neither weights nor running statistics move.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.server import CONTRASTIVE, contrastive_state
from attacks.view import CAPABILITIES, Batch, CapabilityError, ServerLoss, ServerModel
from ssl_split import run as runs
from ssl_split.config import Augment
from ssl_split.data import augment
from ssl_split.data.images import Dataset
from ssl_split.data.imageset import Triple
from ssl_split.objectives.moco import info_nce
from ssl_split.run import Checkpoint


def frozen(half: nn.Module) -> nn.Module:
    """A copy in eval mode whose weights take no gradient; its inputs do."""
    return copy.deepcopy(half).eval().requires_grad_(False)


@dataclass(frozen=True)
class Classifying:
    """Mean cross-entropy of the server's logits.

    Attributes:
        server: Smashed data -> logits, frozen.
    """

    server: nn.Module

    def __call__(self, client: Callable[[Tensor], Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
        """See `attacks.view.ServerLoss`."""
        if batch.labels is None:
            raise ValueError("cross-entropy needs labels")
        return F.cross_entropy(self.server(batch.smashed), batch.labels)


@dataclass(frozen=True)
class Contrasting:
    """Mean InfoNCE of a random view of own images against the server's queue.

    Attributes:
        online, momentum: Server halves, frozen.
        queue: Negative keys `(K, D)`.
        temperature: T.
        augmentation: The random views.
        mean, std: Constants of the normalisation.
    """

    online: nn.Module
    momentum: nn.Module
    queue: Tensor
    temperature: float
    augmentation: Augment
    mean: Triple
    std: Triple

    def __call__(self, client: Callable[[Tensor], Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
        """See `attacks.view.ServerLoss`."""
        pixels = (batch.images * 255).round().byte()
        first, second = (augment.views(pixels, augment.draw(len(pixels), generator), self.augmentation, mean=self.mean, std=self.std)
                         .contiguous(memory_format=torch.channels_last) for _ in range(2))
        with torch.no_grad():
            k = F.normalize(self.momentum(client(second)), dim=1)
        q = F.normalize(self.online(client(first)), dim=1)
        return info_nce(q, k, self.queue, temperature=self.temperature)


def server_model(checkpoint: Checkpoint, dataset: Dataset, *, device: torch.device, trained: bool) -> ServerModel:
    """The server of a run at every checkpoint that is kept, this one being the last; or before training.

    Args:
        checkpoint: The attacked one.
        dataset: The run's images.
        device: Where the server computes.
        trained: Whether at the checkpoints' weights, or once at the initial ones.

    Raises:
        CapabilityError: the algorithm's loss needs more than the server's half.
    """
    config = checkpoint.config
    if not (config.supervised or config.algorithm in CONTRASTIVE):
        raise CapabilityError(f"server_model ({CAPABILITIES['server_model']}) is not enough for the loss of {config.algorithm}: its "
                              "clients combine gradients of their own, which this attack does not know")
    older = [runs.open_checkpoint(str(path)) for path in runs.checkpoints(checkpoint.run_dir)] if trained else []
    moments = [c for c in older if c.step < checkpoint.step] + [checkpoint]
    return ServerModel(tuple(_opener(c, dataset, device=device, trained=trained) for c in moments), config.supervised)


def server_key(checkpoint: Checkpoint) -> dict[str, Any]:
    """What identifies the server before training beside its network, plain values."""
    config = checkpoint.config
    given = {"supervised": config.supervised}
    if config.supervised:
        return given
    return {**given, "queue": config.queue_size, "seed": config.seed, "temperature": config.temperature,
            "views": dataclasses.asdict(config.augmentation)}


def _opener(checkpoint: Checkpoint, dataset: Dataset, *, device: torch.device, trained: bool) -> Callable[[], ServerLoss]:
    """Loads one checkpoint when it is called."""
    config = checkpoint.config

    def opened() -> ServerLoss:
        network = checkpoint.network() if trained else checkpoint.untrained()
        online = frozen(network.server).to(device)
        if config.supervised:
            return Classifying(online)
        momentum, queue = contrastive_state(checkpoint, network, trained=trained)
        negatives = queue.float().flatten(0, -2).to(device)  # queues of single clients (P, K, D) are one queue to the server
        return Contrasting(online, frozen(momentum.server).to(device), negatives, config.temperature, config.augmentation, dataset.mean,
                           dataset.std)

    return opened
