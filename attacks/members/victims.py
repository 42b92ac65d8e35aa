"""What a checkpoint, its untrained network or an encoder of the attacker's own offers to a membership attack."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from attacks.members.api import AttackOptions, Method
from attacks.members.embed import Server
from attacks.victim import Victim
from attacks.view import CapabilityError, Client
from ssl_split import rng
from ssl_split import run as runs
from ssl_split.config import Config
from ssl_split.data.imageset import Triple
from ssl_split.defences.api import Defence
from ssl_split.files import read_tensors
from ssl_split.models.split import Network
from ssl_split.objectives.moco import initial_queue
from ssl_split.run import Checkpoint

WITH_QUEUE = ("mocosfl", "monacosfl", "moco")
"""Algorithms whose server holds the queue; in FedMoCo every client keeps its own."""
LABEL_FREE_PARTITIONS = ("iid", "quantity")


def offers(network: Network, config: Config, *, mean: Triple, std: Triple, device: torch.device, defence: Defence, copy: int = 0,
           queue: Tensor | None = None, momentum: Network | None = None, momentum_client: nn.Module | None = None,
           guess: nn.Module | None = None) -> dict[str, Any]:
    """What an honest-but-curious server has of a network.

    Args:
        network: Client and server.
        config: Of the run.
        mean, std: Normalisation of the client's input.
        device: Where it computes.
        defence: What becomes of smashed data before they are sent: of those that are asked for too.
        copy: Which draw of a random defence it is; different networks must not share one, or its noise would cancel between them.
        queue: `(K, D)` keys of the server.
        momentum: Holds the momentum encoder's server half.
        momentum_client: The averaged momentum client where the server knows it.
        guess: The momentum client as one guesses it.
    """
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    victim = Victim(network.client, mean, std, defence=defence)
    out = network.head.out_features if config.supervised and isinstance(network.head, nn.Linear) else config.head.out
    server = Server(network.server, out, config.supervised, None if queue is None else queue.float().to(device),
                    momentum.to(device).eval().server if momentum is not None else None, config.temperature)

    @functools.cache
    def weights() -> Client:
        return Client(deepcopy(network.client).eval(), victim.normalise, victim.known_defence.expected,
                      guess=None if guess is None else guess.to(device).eval())

    found: dict[str, Any] = {"query": lambda images: victim.query(images, copy), "server_model": server, "weights": weights}
    if momentum_client is not None:
        found["momentum_weights"] = momentum_client.to(device).eval()
    return found


def of_checkpoint(checkpoint: Checkpoint, *, mean: Triple, std: Triple, device: torch.device, copy: int = 0) -> dict[str, Any]:
    """What the trained network of a checkpoint offers, through the defence of its run; arguments as in `offers`."""
    config, network, momentum = checkpoint.config, checkpoint.network(), None
    queue = read_tensors(checkpoint.path, "tensor/").get("queue") if config.algorithm in WITH_QUEUE else None
    if queue is not None:
        momentum = _with(network, read_tensors(checkpoint.path, "server.momentum/"))
        queue = queue.flatten(0, -2)  # of per-client queues all keys
    known = checkpoint.momentum_client() if config.algorithm == "monacosfl" else None
    return offers(network, config, mean=mean, std=std, device=device, defence=checkpoint.defence, copy=copy, queue=queue, momentum=momentum,
                  momentum_client=_with(network, known).client if known else None,
                  guess=None if config.supervised else _guess(checkpoint, network))


def of_untrained(network: Network, config: Config, *, mean: Triple, std: Triple, device: torch.device, defence: Defence) -> dict[str, Any]:
    """The same of a network at its initial weights: momentum equal to them, a queue of random keys."""
    queue = None
    if config.algorithm in WITH_QUEUE:
        queue = initial_queue(config.queue_size, config.head.out, rng.generator(config.seed, "queue"))
    same = deepcopy(network)
    known = same.client if config.algorithm == "monacosfl" else None
    return offers(network, config, mean=mean, std=std, device=device, defence=defence, queue=queue, momentum=same, momentum_client=known,
                  guess=same.client)


def _with(network: Network, weights: Mapping[str, Tensor]) -> Network:
    """A copy of the network with some weights replaced."""
    made = deepcopy(network)
    made.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    return made


def _guess(checkpoint: Checkpoint, network: Network) -> nn.Module | None:
    """The momentum client as one guesses it who has seen the averaged clients of all kept checkpoints."""
    seen = []
    for path in runs.checkpoints(checkpoint.run_dir):
        step = int(runs.read_header(path)["step"])
        if step <= checkpoint.step:
            seen.append((step, {k: v.float() for k, v in read_tensors(path, runs.CLIENT).items()}))
    return _with(network, ema_of_path(seen, checkpoint.config.ema)).client if len(seen) > 1 else None


def ema_of_path(seen: list[tuple[int, dict[str, Tensor]]], decay: float) -> dict[str, Tensor]:
    """Exponential moving average of weights that move in straight lines between those seen, started at the first.

    With v the movement in a step, the offset d of the average from the weights follows d <- decay (d - v), so after n steps
    d_n = decay^n d_0 - v decay (1 - decay^n) / (1 - decay).

    Args:
        seen: Step and weights, ascending.
        decay: Of the average, for each step.
    """
    offset = {k: torch.zeros_like(v) for k, v in seen[0][1].items()}
    for (before, old), (after, new) in pairwise(seen):
        steps = after - before
        left = decay**steps
        lag = float(steps) if decay == 1 else decay * (1 - left) / (1 - decay)
        offset = {k: left * offset[k] - lag / steps * (new[k] - old[k]) for k in new}
    return {k: v + offset[k] for k, v in seen[-1][1].items()}


def declared(method: Method, offered: Mapping[str, Any], config: Config, options: AttackOptions) -> list[str]:
    """What an attack reads of this run: what it needs, what it reads where it is offered, and labels where its own encoders need them.

    Raises:
        CapabilityError: it cannot be made on this kind of run.
    """
    if options.method == "momentum-gap" and config.supervised:
        raise CapabilityError(f"the attack momentum-gap needs a momentum encoder, and {config.algorithm} trains none")
    if (method.supervised or (options.method == "lira" and options.score == "loss")) and not config.supervised:
        raise CapabilityError(f"the attack {options.method} needs a classifier as server_model, and {config.algorithm} trains without "
                              "labels")
    everything = config.cut == "full"
    needs = [*method.needs, *(f for f in method.optional if f in offered and (f != "weights" or everything))]
    if options.method == "lira" and config.supervised and options.score in (None, "loss"):
        needs += ["labels", "aux_labels"]
    if method.shadows and (config.supervised or config.partition.kind not in LABEL_FREE_PARTITIONS):
        needs += ["aux_labels", *["labels"] * options.online]
    return list(dict.fromkeys(needs))
