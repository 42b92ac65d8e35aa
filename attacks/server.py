"""What the server sends back: the gradient g_z of its loss with respect to the smashed data of a batch, as the run's algorithm takes it.

Supervised algorithms: of the client's own mean cross-entropy, at the weights before the server's step. MocoSFL, MonAcoSFL, MoCo: of the
InfoNCE loss of the query view against the queue, its key a random second view through the client's momentum encoder; both momentum
networks follow first. Everything is computed in the arithmetic of the weights, in training mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from attacks import rows
from attacks.view import CAPABILITIES, CapabilityError
from ssl_split import rng
from ssl_split.channel import Channel, Ledger
from ssl_split.config import SUPERVISED, Config
from ssl_split.data import augment
from ssl_split.data.images import Dataset
from ssl_split.files import read_tensors
from ssl_split.models.split import Network
from ssl_split.objectives.moco import info_nce_rows, initial_queue
from ssl_split.objectives.supervised import cross_entropy
from ssl_split.run import Checkpoint

Gradient = Callable[[Tensor, Tensor], Tensor]
"""Smashed data of one client's batch `(B, ...)` and the places of its images among the members `(B,)` -> g_z `(B, ...)`."""
Answer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The same, with the codecs of the wire: what the server reads of the smashed data, and what the client reads of g_z."""

CONTRASTIVE = ("mocosfl", "monacosfl", "moco")
CENTRALISED = ("moco", "centralised")
"""Trained in one place; what is attacked is the client that the cut would make."""
JOINT = ("mocosfl", "monacosfl", "minibatch_sfl", *CENTRALISED)
"""Their server sees the images of several clients in one batch."""


@dataclass(frozen=True)
class Members:
    """Images of the clients.

    Attributes:
        images: uint8 `(n, 3, S, S)`.
        clients: Whose they are, int64 `(n,)`.
        labels: int64 `(n,)`; None where there are none.
    """

    images: Tensor
    clients: Tensor
    labels: Tensor | None


def refuse_without_gradient(config: Config, attack: str) -> None:
    """Check that a gradient crosses the wire that this module can compute.

    Raises:
        CapabilityError: it says what is missing.
    """
    reason = None
    if config.cut == 0:
        reason = "at cut 0 clients have no weights, so none is returned to them"
    elif config.algorithm == "mu_splitfed":
        reason = "the server of mu_splitfed returns function values or gradients after steps of its own, not the gradient of one step"
    elif config.algorithm not in (*CONTRASTIVE, *SUPERVISED):
        reason = f"the clients of {config.algorithm} combine gradients of their own, which this attack does not know"
    elif config.norm == "batch" and config.algorithm in JOINT:
        reason = f"with norm batch the server of {config.algorithm} mixes the images of all clients, so g_z is no function of one client's"
    if reason:
        raise CapabilityError(f"the attack {attack} needs gradient_view ({CAPABILITIES['gradient_view']}): {reason}")


def answering(checkpoint: Checkpoint, members: Members, *, dataset: Dataset, device: torch.device, trained: bool, batch: int) -> Answer:
    """The server of a run, at its trained or initial weights.

    Args:
        checkpoint: The run.
        members: The clients' images that may be in a batch.
        dataset: The run's images.
        device: Where it computes.
        trained: Whether at the checkpoint's weights.
        batch: Images of a client in a step, B.

    Raises:
        CapabilityError: no gradient crosses.
        ValueError: labels or rows of single clients are missing.
    """
    config = checkpoint.config
    refuse_without_gradient(config, "on g_z")
    wire = Channel(config.wire, Ledger(config.clients))
    network = checkpoint.network() if trained else checkpoint.untrained()
    make = _contrastive if config.algorithm in CONTRASTIVE else _supervised
    inner = make(checkpoint, network, members, dataset=dataset, device=device, trained=trained, batch=batch)

    def answer(z: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        client = members.clients[places[:1].to(members.clients.device)].cpu()
        read = wire.send("act_up", z[None], client)
        return read[0], wire.send("grad_down", inner(read[0], places)[None], client)[0]

    return answer


def _supervised(checkpoint: Checkpoint, network: Network, members: Members, *, dataset: Dataset, device: torch.device, trained: bool,
                batch: int) -> Gradient:
    if members.labels is None:
        raise ValueError(f"{dataset.name} has no labels, and the loss of {checkpoint.config.algorithm} needs them")
    shift = None
    if checkpoint.config.algorithm == "gas" and checkpoint.config.gas.adjust_logits:
        assert dataset.train.labels is not None
        counts = torch.stack([torch.bincount(dataset.train.labels[part], minlength=len(dataset.classes))
                              for part in checkpoint.parts(dataset)]).double()
        shift = (counts / counts.sum(1, keepdim=True) + 1e-12).log().float().to(device)
    return Supervised(network.server.to(device).train(), members.labels.to(device), members.clients, shift)


@dataclass(frozen=True)
class Supervised:
    """The gradient of a client's own mean cross-entropy.

    Attributes:
        server: Smashed data -> logits, in training mode.
        labels, clients: Of the members, `(n,)`.
        shift: Added to a client's logits inside the loss, `(N, classes)` (logit adjustment of GAS), or None.
    """

    server: nn.Module
    labels: Tensor
    clients: Tensor
    shift: Tensor | None = None

    def __call__(self, z: Tensor, places: Tensor) -> Tensor:
        """g_z `(B, ...)` of a batch; see `Gradient`."""
        inputs = z.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.server(inputs)
        adjustment = None if self.shift is None else self.shift[int(self.clients[places[0]])][None].to(logits.dtype)
        _, gradient = cross_entropy(logits.detach()[None], self.labels[places.to(self.labels.device)][None], adjustment=adjustment)
        (found,) = torch.autograd.grad(logits, inputs, gradient[0])
        return found


def _contrastive(checkpoint: Checkpoint, network: Network, members: Members, *, dataset: Dataset, device: torch.device, trained: bool,
                 batch: int) -> Gradient:
    config = checkpoint.config
    momentum, queue = contrastive_state(checkpoint, network, trained=trained)
    clients = 1 if config.algorithm in CENTRALISED else config.cohort_size
    joined = batch * (2 if config.symmetric == "stacked" else 1) * (1 if config.client_grad_scale == "local_mean" else clients)
    draws = augment.draw(len(members.images), rng.generator(0, "key views"))
    keys = augment.views(members.images.to(device), draws, config.augmentation, mean=dataset.mean, std=dataset.std)
    encoders: dict[int, nn.Module] = {}

    def encoder(client: int) -> nn.Module:
        if client not in encoders:
            encoders[client] = _momentum_client(checkpoint, network, momentum, client, trained=trained).to(device)
        return encoders[client]

    server = copy.deepcopy(momentum.server)
    _follow(server, network.server, config.ema)
    return Contrastive(network.server.to(device).train(), server.to(device).train(), encoder, keys, members.clients,
                       queue.float().to(device), config.temperature, 1 / joined)


def contrastive_state(checkpoint: Checkpoint, network: Network, *, trained: bool) -> tuple[Network, Tensor]:
    """The momentum network of a run, and the queue of its server.

    Args:
        checkpoint: The run.
        network: Its online network.
        trained: Whether at the checkpoint's weights; else both halves are still the online ones.

    Raises:
        ValueError: the checkpoint holds no queue.
    """
    config, momentum = checkpoint.config, copy.deepcopy(network)
    if not trained:
        return momentum, initial_queue(config.queue_size, config.head.out, rng.generator(config.seed, "queue"))
    whole = {**read_tensors(checkpoint.path, "client.momentum/"), **read_tensors(checkpoint.path, "server.momentum/")}
    queue = read_tensors(checkpoint.path, "tensor/queue").get("")
    if queue is None:
        raise ValueError(f"{checkpoint.path.name} holds no queue of keys, which the loss of {config.algorithm} needs: use --which last")
    momentum.load_state_dict({k: v.float() for k, v in whole.items()})
    return momentum, queue


def _momentum_client(checkpoint: Checkpoint, network: Network, momentum: Network, client: int, *, trained: bool) -> nn.Module:
    """The momentum encoder of a client after it has followed the online one."""
    config, made = checkpoint.config, copy.deepcopy(momentum.client)
    row = rows.kept(checkpoint, "momentum", client) if trained and config.algorithm not in CENTRALISED else None
    if row is not None:
        made.load_state_dict({k: v.float() for k, v in rows.by_name(checkpoint, made, row).items()})
    _follow(made, copy.deepcopy(network.client).cpu(), config.ema)
    return made.train()


@torch.no_grad()
def _follow(target: nn.Module, source: nn.Module, decay: float) -> None:
    """target <- decay target + (1 - decay) source, parameters only."""
    for mine, theirs in zip(target.parameters(), source.parameters(), strict=True):
        mine.lerp_(theirs.to(mine), 1 - decay)


@dataclass(frozen=True)
class Contrastive:
    """The gradient of the InfoNCE loss of the query view.

    Attributes:
        online, momentum: Server halves, smashed data -> rows that are normalised here.
        encoder: Client -> its momentum half.
        keys: The members' second views, as the encoder takes them, `(n, 3, S, S)`.
        clients: Of the members, `(n,)`.
        queue: `(K, D)`, or `(P, K, D)` with a queue for each client of a cohort.
        temperature: T.
        scale: 1 / rows in the mean that is the loss.
    """

    online: nn.Module
    momentum: nn.Module
    encoder: Callable[[int], nn.Module]
    keys: Tensor
    clients: Tensor
    queue: Tensor
    temperature: float
    scale: float

    def __call__(self, z: Tensor, places: Tensor) -> Tensor:
        """g_z `(B, ...)` of a batch; see `Gradient`."""
        client = int(self.clients[places[0]])
        with torch.no_grad():
            k = normalize(self.momentum(self.encoder(client)(self.keys[places.to(self.keys.device)])), dim=1)
        inputs = z.detach().requires_grad_()
        with torch.enable_grad():
            q = normalize(self.online(inputs), dim=1)
            queue = self.queue if self.queue.dim() == 2 else self.queue[client % len(self.queue)]
            loss = info_nce_rows(q, k, queue, temperature=self.temperature).sum() * self.scale
        (found,) = torch.autograd.grad(loss, inputs)
        return found
