"""MocoSFL the plain way: deep-copied modules, one torch optimiser each, no stacking, no wire. A slow reference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_split.config import Config
from ssl_split.models.split import Network


def _ema(target: nn.Module, source: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for a, b in zip(target.parameters(), source.parameters(), strict=True):
            a.mul_(decay).add_(b, alpha=1 - decay)


class Plain:
    """All clients take part in every round."""

    def __init__(self, config: Config, network: Network, queue: Tensor, *, total_steps: int) -> None:
        self.config, self.queue, self.total = config, queue.clone(), total_steps
        network = copy.deepcopy(network).double()
        self.online = [copy.deepcopy(network.client) for _ in range(config.clients)]
        self.momentum = [copy.deepcopy(network.client) for _ in range(config.clients)]
        self.server, self.momentum_server = copy.deepcopy(network.server), copy.deepcopy(network.server)
        self.optimisers = [self._sgd(c) for c in self.online]
        self.server_optimiser = self._sgd(self.server)
        self.steps = 0

    def _sgd(self, module: nn.Module) -> torch.optim.SGD | None:
        parameters = list(module.parameters())
        if not parameters:
            return None
        return torch.optim.SGD(parameters, lr=0.0, momentum=self.config.momentum, weight_decay=self.config.weight_decay)

    def step(self, v1: Tensor, v2: Tensor) -> float:
        """One step on `(P, B, C, H, W)` views."""
        config = self.config
        if config.symmetric == "stacked":
            v1, v2 = torch.cat([v1, v2], 1), torch.cat([v2, v1], 1)
        h = [f(x) for f, x in zip(self.online, v1, strict=True)]
        for f, g in zip(self.momentum, self.online, strict=True):
            _ema(f, g, config.ema)
        with torch.no_grad():
            h_k = torch.cat([f(x) for f, x in zip(self.momentum, v2, strict=True)])
        h_q = torch.cat([x.detach() for x in h]).requires_grad_()
        _ema(self.momentum_server, self.server, config.ema)
        loss, keys = self._term(h_q, h_k)
        if config.symmetric == "original":
            second, more = self._term(h_k, h_q.detach())
            loss, keys = loss + second, torch.cat([keys, more])
        loss.backward()
        self._descend(self.server_optimiser)
        scale = len(h) if config.client_grad_scale == "local_mean" else 1
        for k, x in enumerate(h):
            if x.requires_grad:
                x.backward(h_q.grad[k * len(x) : (k + 1) * len(x)] * scale)
                self._descend(self.optimisers[k])
        self.queue = torch.cat([self.queue, keys])[-len(self.queue) :]  # oldest first: the ring's content, in another rotation
        self.steps += 1
        return loss.item()

    def _term(self, h_q: Tensor, h_k: Tensor) -> tuple[Tensor, Tensor]:
        q = functional.normalize(self.server(h_q), dim=1)
        with torch.no_grad():
            k = functional.normalize(self.momentum_server(h_k), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.T], 1) / self.config.temperature
        return -logits.log_softmax(1)[:, 0].mean(), k

    def _descend(self, optimiser: torch.optim.SGD | None) -> None:
        if optimiser is None:
            return
        optimiser.param_groups[0]["lr"] = 0.5 * self.config.client_lr * (1 + torch.cos(torch.tensor(
            torch.pi * self.steps / self.total, dtype=torch.float64)).item())
        optimiser.step()
        optimiser.zero_grad()

    def sync(self, *, momentum: bool) -> None:
        """Average the online clients, and the momentum clients too."""
        for clients in (self.online, self.momentum) if momentum else (self.online,):
            with torch.no_grad():
                for parameters in zip(*(c.parameters() for c in clients), strict=True):
                    mean = torch.stack(list(parameters)).mean(0)
                    for p in parameters:
                        p.copy_(mean)
