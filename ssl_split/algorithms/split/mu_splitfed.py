"""MU-SplitFed: zeroth-order split federated learning whose server makes tau steps while it waits for stragglers.

"Towards Straggler-Resilient Split Federated Learning: An Unbalanced Update Approach", NeurIPS 2025 (arXiv 2510.21155).

Symbols: x_c, x_s client and server part, copies x_c,m and x_s,m of client m; h = h(x_c) smashed data; u directions on spheres of radius
sqrt(d); r (the paper's lambda) the smoothing radius; F the mean loss of the batch; eta_c, eta_s, eta_g step sizes of client, server and
round.

One step of client m: it sends h and h+- = h(x_c +- r u_c) with its labels. The server steps tau times on the unperturbed h,
x_s <- x_s - eta_s [F(x_s + r u_s; h) - F(x_s - r u_s; h)] / (2 r) u_s, then returns the one number F(x_s; h+) - F(x_s; h-); the client
draws u_c again from its seed and steps. After the round x <- x + eta_g sum p_m (x_m - x), for both parts.

Deviations: averages weighted by data (the paper: uniform). Published step sizes do not fulfil its theory, eta_c = tau eta_s; `coupled`
does. Beyond the paper: `estimator: first_order`, the same schedule with true gradients (tau SGD steps, then the gradient with respect
to h).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.split.copies import Copies
from ssl_split.algorithms.split.sfl_v1 import SFLV1
from ssl_split.channel import Channel
from ssl_split.objectives.supervised import cross_entropy
from ssl_split.objectives.zeroth_order import directions, entries, slopes
from ssl_split.rng import generator


class MuSplitFed(SFLV1):
    """SFL-V1 with an unbalanced, gradient-free step and a step size over rounds."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = self.config.mu_splitfed
        if self.config.outer.kind != "none":
            raise ValueError(f"outer.kind = {self.config.outer.kind!r} has no place in mu_splitfed, which has its own step size over "
                             "rounds: --mu-splitfed.global-lr")

    def _exchange(self, state: State, batch: Batch, wire: Channel) -> tuple[Tensor, Tensor, Tensor]:
        """One step of every client that has not finished; see the top of this file."""
        if self.options.estimator == "first_order":
            return super()._exchange(state, batch, wire)
        members, rows = state.cohort[batch.places], self._rows(batch.places)
        assert batch.labels is not None
        images = batch.views[0]
        begin = float(wire.clock.ready[members].max())
        self._client_work(wire, members, passes=3, of=3)
        h = wire.send("act_up", self._released(self._smashed(images, rows), batch, members, state), members, codec=self.release.codec)
        came = wire.came
        labels = wire.send_labels(batch.labels, members)
        came = came & wire.came
        along = self._directions(self.clients, "client", members, state.step)
        sides = []
        for number, side in enumerate(self._perturbed(images, rows, along) if self.has_weights else ()):
            sent = self._released(side, batch, members, state, perturbed=number)
            sides.append(wire.send("pert_act_up", sent, members, codec=self.release.codec))
            came = came & wire.came
        losses, logits = self._evaluate(h, labels, rows)
        for step in range(self.options.tau):
            self._server_step(state, h, labels, rows, self._directions(self.servers, "server", members, state.step, step), came)
        # the server works while it waits: max(slowest client and its uploads, tau steps), then two more evaluations
        pair = 2 * self.config.batch_size * self.setup.server_flops
        wire.clock.meet(members)
        wire.clock.serve_since(members[came], begin, self.options.tau * pair)
        if self.has_weights and bool(came.any()):
            wire.clock.serve(members[came], pair)
            ahead, behind = (self._evaluate(side, labels, rows)[0] for side in sides)
            answer = torch.zeros_like(ahead)[:, None]  # (A, 1)
            answer[came] = wire.send("scalar_down", (ahead - behind)[came, None], members[came])
            answered = came.clone()
            answered[came] = wire.came
            self.clients.gradients.parameters[rows] = answer / (2 * self.options.radius) * along
            self.clients.step(rows, lr=self._client_lr(state), only=answered)
        return losses[came], logits[came], labels[came]

    def _serve(self, state: State, h: Tensor, labels: Tensor, places: slice, came: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First order: tau steps of the server on the same h, then the gradient at where it has come to."""
        first: tuple[Tensor, Tensor] | None = None
        for _ in range(self.options.tau):
            losses, logits, _ = super()._serve(state, h, labels, places, came)
            first = first or (losses, logits)
        assert first is not None
        if not self.is_answered:
            return *first, torch.zeros_like(h)
        inputs = [row.requires_grad_() for row in h.detach().unbind()]
        self._differentiate(inputs, labels, self._rows(places))
        return *first, torch.cat([row.grad for row in inputs if row.grad is not None]).view_as(h)

    @torch.no_grad()
    def _smashed(self, images: Tensor, rows: slice) -> Tensor:
        """`(A, B, C', H', W')`."""
        with self._autocast():
            outputs = self.clients.modules.forward(images, rows=rows)
        return torch.cat([o.to(self.setup.dtype) for o in outputs]).unflatten(0, (len(images), -1))

    def _released(self, h: Tensor, batch: Batch, members: Tensor, state: State, *, perturbed: int | None = None) -> Tensor:
        """What is sent in place of h `(A, B, ...)`; `perturbed` numbers the two perturbed ones."""
        kind = "act_up" if perturbed is None else "pert_act_up"
        return torch.stack(self.release(list(h.unbind()), batch.views[0], members, kind=kind, step=state.step, number=perturbed or 0))

    @torch.no_grad()
    def _perturbed(self, images: Tensor, rows: slice, along: Tensor) -> tuple[Tensor, Tensor]:
        """h(x_c + r u) and h(x_c - r u)."""
        weights = self.clients.weights.parameters[rows]
        start = weights.clone()
        weights.add_(along, alpha=self.options.radius)
        ahead = self._smashed(images, rows)
        torch.add(start, along, alpha=-self.options.radius, out=weights)
        behind = self._smashed(images, rows)
        weights.copy_(start)
        return ahead, behind

    @torch.no_grad()
    def _evaluate(self, h: Tensor, labels: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Loss `(A,)` of each client and logits `(A, B, classes)` at the server copies as they are."""
        with self._autocast():
            outputs = self.servers.modules.forward(h, rows=rows)
        logits = torch.cat([o.to(self.setup.dtype) for o in outputs]).unflatten(0, tuple(labels.shape))
        return cross_entropy(logits, labels)[0], logits

    def _server_step(self, state: State, h: Tensor, labels: Tensor, rows: slice, along: Tensor, came: Tensor) -> None:
        weights = self.servers.weights.parameters[rows]
        if weights.shape[1] == 0:  # cut full: the server only computes the loss
            return
        found = slopes(lambda: self._evaluate(h, labels, rows)[0], weights, along, radius=self.options.radius)
        self.servers.gradients.parameters[rows] = found[:, None] * along
        self.servers.step(rows, lr=self._rate(self.config.server_lr, state), only=came)

    def _directions(self, copies: Copies, half: str, members: Tensor, *key: int) -> Tensor:
        """u of each member, `(A, size)`: whoever knows the key can draw it again."""
        made = [generator(self.config.seed, f"direction {half}", client, *key) for client in members.tolist()]
        return directions(entries(copies.weights.layout), made, like=copies.weights.flat)

    def _client_lr(self, state: State) -> float:
        base = self.config.server_lr * self.options.tau if self.options.coupled else self.config.client_lr
        return self._rate(base, state)

    def _adopt(self, state: State, half: str, lr: float) -> None:
        """x <- x + eta_g (average - x)."""
        shared = state.trees[f"{half}.online"].flat
        entered = state.tensors[f"{half}.entered"].item()
        if entered:  # nobody may have been heard
            shared.lerp_(state.trees[f"{half}.sum"].flat / entered, self.options.global_lr)
