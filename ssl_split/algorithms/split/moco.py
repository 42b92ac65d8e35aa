"""Centralised MoCo-v2: all images in one place, one network. The ceiling of the split methods.

Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020 (arXiv 2003.04297).

Symbols: w, w' online and momentum network; a batch has P * B images, as the server of the split methods sees.

Deviations: keys are not shuffled over devices (there is one), and the head, queue and temperature are those of MocoSFL.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_split import optim
from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.channel import Channel, Ledger
from ssl_split.clients import Clients, ClientStore, in_order
from ssl_split.objectives.moco import enqueue, info_nce, initial_queue
from ssl_split.rng import generator
from ssl_split.tree import Tree


class Moco:
    """MoCo-v2 on the undivided network."""

    centralised = True
    views = 2

    def __init__(self, setup: Setup) -> None:
        self.setup, self.config = setup, setup.config

    def init(self) -> State:
        """Two copies of the initial network, and a queue of random unit vectors."""
        config = self.config
        network = trees.gather(self.setup.network, dtype=self.setup.dtype, device=self.setup.device,
                               channels_last=self.setup.channels_last)
        state = State(Ledger(1), ClientStore(), torch.arange(1), torch.zeros(1, dtype=torch.int64))
        state.trees = {"server.online": network, "server.momentum": network.clone(),
                       "server.velocity": trees.zeros(network.layout, like=network.flat)}
        state.tensors["queue"] = initial_queue(config.queue_size, config.head.out, generator(config.seed, "queue")).to(network.flat)
        state.counters = {"queue_head": 0}
        self._gradients = trees.zeros(network.layout, like=network.flat)
        self._online = self._bind(network, self._gradients)
        self._momentum = self._bind(state.trees["server.momentum"], None)
        return state

    def _bind(self, weights: Tree, gradients: Tree | None) -> nn.Module:
        rows = Tree(weights.layout, weights.flat[None])
        return Clients(self.setup.network, rows, gradients=Tree(gradients.layout, gradients.flat[None]) if gradients else None).module(0)

    def round_steps(self, cohort: Tensor) -> int:
        """T."""
        return self.setup.steps

    def participants(self, state: State) -> slice:
        """The only one."""
        return slice(0, 1)

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """Nothing is distributed."""
        state.cohort, state.step_in_round = cohort, 0

    def end_round(self, state: State, wire: Channel) -> None:
        """Nothing is collected."""
        state.round += 1
        state.step_in_round = 0

    def step(self, state: State, batch: Batch, wire: Channel) -> dict[str, float]:
        """w' <- EMA; loss of view 1 (and, unless `symmetric` is none, of view 2) against the queue; enqueue; step."""
        config, w, queue = self.config, state.trees, state.tensors["queue"]
        v1, v2 = (in_order(v.flatten(0, 1), w["server.online"]) for v in batch.views)  # (P * B, C, H, W)
        if config.symmetric == "stacked":
            v1, v2 = torch.cat([v1, v2]), torch.cat([v2, v1])
        self._gradients.flat.zero_()
        trees.ema_(w["server.momentum"], w["server.online"], config.ema)
        q, k = self._project(self._online, v1), self._keys(v2)
        loss, new = info_nce(q, k, queue, temperature=config.temperature), [k]
        if config.symmetric == "original":
            k2 = self._keys(v1)
            loss = loss + info_nce(self._project(self._online, v2), k2, queue, temperature=config.temperature)
            new.append(k2)
        loss.backward()
        for rows in new:  # after the backward pass, whose graph holds the queue
            state.counters["queue_head"] = enqueue(queue, state.counters["queue_head"], rows)
        whole, passes = self.setup.client_flops + self.setup.server_flops, 8 if config.symmetric == "original" else 4
        wire.clock.serve(state.cohort, passes * len(v1) * whole)
        lr = optim.rate(config.server_lr, state.step, self.setup.total_steps, config.schedule)
        with torch.no_grad():
            optim.sgd_(w["server.online"].parameters, self._gradients.parameters, w["server.velocity"].parameters, lr=lr,
                       momentum=config.momentum, weight_decay=config.weight_decay)
        state.step += 1
        state.step_in_round += 1
        metrics = {"loss": loss.item()}
        if state.step_in_round == self.setup.steps:
            metrics |= {"server_lr": lr, "collapse_std": q.detach().std(0).mean().item()}
        return metrics

    def _keys(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._project(self._momentum, images)

    def _project(self, network: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(self.setup.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            out = network(images)
        return functional.normalize(out.to(self.setup.dtype), dim=1)
