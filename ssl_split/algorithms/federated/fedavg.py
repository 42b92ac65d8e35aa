"""FedAvg, and the local training that all federated methods share.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017 (arXiv 1602.05629).

Symbols: x_r the model at round r; client i of the S participants makes K_i steps x <- x - eta_l d from x_r, d in units of a gradient;
Delta_i = x_i - x_r points downhill; G_i = -Delta_i / (K_i eta_l) is in units of a gradient; g(x) the gradient of a minibatch;
x_{r+1} = x_r + eta_g mean Delta_i.

A method is what it changes of this: `perturbation` (where the gradient is taken), `direction` (d), `collect` (what a client's end of the
round gives) and `conclude` (what the server makes of that). Their vectors are `shared` (the server's), `own` (kept for each client between
rounds), `scratch` (of a client inside a round) and `gathers` (sums over participants).

At cut `full` the client holds the network, its head and its loss, and only weights cross. At any other cut the same method is split as
SFL-V1: halves step by themselves, norms are taken over both (the squared norm of the client half goes up, the whole comes down), and the
result is the same.

Deviations: averages weighted by data (FedAvg, FedProx, FedAvgM, SlowMo), as published; `weighting: uniform` for all others by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.federated.half import TINY, Half, dot, indexed_by_tensor, norm
from ssl_split.algorithms.split.sfl_v1 import SFLV1
from ssl_split.channel import Channel
from ssl_split.objectives.supervised import cross_entropy


class FedAvg(SFLV1):
    """Federated averaging; the other methods import it and state the difference."""

    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    gathers: tuple[str, ...] = ()
    client_vectors = 0
    """Vectors of the size of the weights that a client holds in a step beside its weights and their gradient."""
    looks_first = False
    """Whether the gradient at x is needed to know where the gradient is taken: a second backward pass."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = self.config.federated
        self.whole = self.config.cut == "full"
        self.is_split = self.has_weights and not self.whole
        if self.lossy and (self.shared or self.own or not self.whole):
            raise ValueError(f"{self.config.algorithm} with lost messages is not defined: what a client does without its vectors, or a "
                             "split method without one of its messages, is open; use loss.retransmit (FedAvg split with losses: sfl_v1)")

    # --- what a method may change ------------------------------------------------------------------------------------------------

    def perturbation(self, halves: Sequence[Half], wire: Channel, members: Tensor) -> list[Tensor] | None:
        """e of each half, `(A, d)`, at whose distance from x the gradient is taken; None for x itself."""
        return None

    def direction(self, halves: Sequence[Half]) -> None:
        """Turn the gradients into d, in place."""

    def downloads(self, half: Half) -> list[Tensor]:
        """Further vectors that clients get with the model, `(A, d)`, or `(1, d)` for all."""
        return []

    def uploads(self, half: Half) -> list[Tensor]:
        """Further vectors that clients send with their weights, `(A, d)`."""
        return []

    def collect(self, halves: Sequence[Half], steps: Tensor) -> None:
        """What the end of their round says of some clients.

        Args:
            halves: With `ended`.
            steps: K_i, `(A, 1)`.
        """

    def conclude(self, halves: Sequence[Half], count: int) -> None:
        """Server vectors of the next round, after the average has become the model; `count` clients were heard."""

    # --- state -------------------------------------------------------------------------------------------------------------------

    def init(self) -> State:
        """SFL-V1's, and the method's vectors at 0."""
        state = super().init()
        for half in ("client", "server"):
            like = state.trees[f"{half}.online"]
            for name in (*self.shared, *(f"{name}.gathered" for name in self.gathers)):
                state.trees[f"{half}.{name}"] = trees.zeros(like.layout, like=like.flat)
            for name in (*self.own, *self.scratch):
                state.trees[f"cohort.{half}.{name}"] = trees.zeros(like.layout, self.at_once, like=like.flat)
        state.tensors["taken"] = torch.zeros(self.at_once, dtype=torch.int64)  # steps of the group's clients in this round
        state.tensors["heard"] = torch.zeros((), dtype=torch.int64)
        if self.config.perturbation_every_rounds:
            for half in ("client", "server"):
                like = state.trees[f"{half}.online"]
                state.trees[f"{half}.uphill"] = trees.zeros(like.layout, like=like.flat)
            state.tensors["cosines"] = torch.zeros(2, dtype=torch.float64)  # sum over steps and clients, and their number
        return state

    def halves(self, state: State, rows: slice | Tensor) -> list[Half]:
        """Those that have weights."""
        rates = {"client": self._client_lr(state), "server": self._rate(self.config.server_lr, state)}
        copies = {"client": self.clients, "server": self.servers}
        return [Half(name, copies[name], state, rows, rates[name]) for name in rates if copies[name].weights.layout.trainable]

    # --- round -------------------------------------------------------------------------------------------------------------------

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """Nothing is gathered yet."""
        super().begin_round(state, cohort, wire)
        state.tensors["heard"].zero_()
        if self.config.perturbation_every_rounds:
            state.tensors["cosines"].zero_()
        for half in self.halves(state, slice(0, 0)):
            for name in self.gathers:
                half.gathered(name).zero_()

    def _begin_group(self, state: State, group: slice, wire: Channel) -> None:
        super()._begin_group(state, group, wire)
        rows, members = self._rows(group), state.cohort[group]
        state.tensors["taken"].zero_()
        for half in self.halves(state, rows):
            for name in self.scratch:
                half.own(name).zero_()
            for name in self.own:
                kept = f"{half.name}.{name}"
                for row, client in zip(half.own(name), members.tolist(), strict=True):
                    row.copy_(state.store.get(kept, client)) if (kept, client) in state.store else row.zero_()
            if half.name == "client":
                for vector in self.downloads(half):
                    wire.send_vectors("control_down", vector, members, entries=half.entries)

    def _end_group(self, state: State, group: slice, wire: Channel) -> None:
        rows, members = self._rows(group), state.cohort[group]
        super()._end_group(state, group, wire)
        for half in self.halves(state, rows):
            if half.name == "client":
                for vector in self.uploads(half):
                    wire.send_vectors("control_up", vector, members, entries=half.entries)
            for name in self.own:
                for row, client in zip(half.own(name), members.tolist(), strict=True):
                    state.store.put(f"{half.name}.{name}", client, row)

    def _ended(self, state: State, rows: slice, weights: dict[str, Tensor], heard: Tensor) -> None:
        """The group's weights have arrived at the server, from those who were `heard`."""
        index = torch.arange(rows.start, rows.stop)[heard]
        state.tensors["heard"] += len(index)
        if len(index):
            steps = state.tensors["taken"][index].clamp(min=1)[:, None]
            halves = [replace(half, ended=weights[half.name][heard][:, : half.start.numel()]) for half in self.halves(state, index)]
            self.collect(halves, steps.to(halves[0].start))

    def end_round(self, state: State, wire: Channel) -> None:
        """The average becomes the model, and the method's vectors follow."""
        halves = self.halves(state, slice(0, 0))
        super().end_round(state, wire)
        if count := int(state.tensors["heard"]):
            self.conclude(halves, count)

    def _adopt(self, state: State, half: str, lr: float) -> None:
        """x <- x + eta_g (average - x), or momentum over rounds."""
        if self.outer.kind != "none" or self.options.global_lr == 1:
            super()._adopt(state, half, lr)
        elif entered := state.tensors[f"{half}.entered"].item():
            shared = state.trees[f"{half}.online"]
            shared.flat.lerp_(state.trees[f"{half}.sum"].flat / entered, self.options.global_lr)

    # --- step --------------------------------------------------------------------------------------------------------------------

    def _exchange(self, state: State, batch: Batch, wire: Channel) -> tuple[Tensor, Tensor, Tensor]:
        """One local step of every client that has not finished: x <- x - eta_l d."""
        members, rows = state.cohort[batch.places], self._rows(batch.places)
        halves = self.halves(state, rows)
        came = wire.delivery.present(members)
        if self.looks_first:
            *_, came = self._gradients(state, batch, wire, members, rows, came)
        away = self.perturbation(halves, wire, members)
        if away is not None:
            self._compare(state, halves, away, came)
            kept = [half.weights.clone() for half in halves]
            for half, e in zip(halves, away, strict=True):
                half.weights.add_(e)
        losses, logits, labels, came = self._gradients(state, batch, wire, members, rows, came, again=self.looks_first)
        if away is not None:
            for half, weights in zip(halves, kept, strict=True):
                half.weights.copy_(weights)
        self.direction(halves)
        for half in halves:
            half.copies.step(rows, lr=half.lr, only=came)
        state.tensors["taken"][rows] += came
        return losses[came], logits[came], labels[came]

    def measures(self, state: State) -> bool:
        """Whether perturbations are compared in this round with the gradient of all clients at x_r, which the caller puts into the trees
        `client.uphill` and `server.uphill` once the round has begun."""
        every = self.config.perturbation_every_rounds
        return bool(every) and state.round % every == 0

    def _compare(self, state: State, halves: Sequence[Half], away: list[Tensor], came: Tensor) -> None:
        """Add the cosines of these clients' perturbations, as far as they have one."""
        if not self.measures(state):
            return
        uphill = [half.shared("uphill")[None] for half in halves]
        lengths = (norm(away) * norm(uphill)).squeeze(-1)
        counts = (lengths > 0) & came.to(lengths.device)
        cosines = (dot(away, uphill) / lengths)[counts]
        state.tensors["cosines"] += torch.tensor([float(cosines.sum()), len(cosines)], dtype=torch.float64)

    def _advance(self, state: State, losses: Tensor, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """SFL-V1's, and what was measured in the round."""
        metrics = super()._advance(state, losses, logits, labels)
        if self.measures(state) and state.step_in_round == self.round_steps(state.cohort):
            total, count = state.tensors["cosines"].tolist()
            metrics |= {"perturbation_cosine": total / count} if count else {}
        return metrics

    def _gradients(self, state: State, batch: Batch, wire: Channel, members: Tensor, rows: slice, came: Tensor, *, again: bool = False
                   ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of each client's mean loss into the gradients of both halves.

        Returns:
            Losses `(A,)`, logits `(A, B, classes)`, labels and of whom all messages have arrived `(A,)`.
        """
        assert batch.labels is not None
        self.clients.clear(rows)
        with self._autocast():
            outputs = self.clients.modules.forward(batch.views[0], rows=rows)
        self._client_work(wire, members, passes=1, of=3 * (1 + self.looks_first))
        outputs = self.release(outputs, batch.views[0], members, kind="act_up", step=state.step, number=int(again))
        joined = torch.cat([o.detach().to(self.setup.dtype) for o in outputs]).unflatten(0, (len(members), -1))
        if self.whole:
            losses, gradient = cross_entropy(joined, batch.labels)
            self.clients.modules.backward(outputs, gradient.flatten(0, 1).to(outputs[0].dtype), rows=rows)
            self._client_work(wire, members, passes=2, of=3 * (1 + self.looks_first))
            return losses, joined, batch.labels, came
        h = wire.send("act_up", joined, members, codec=self.release.codec)
        came = came & wire.came
        labels = batch.labels if again else wire.send_labels(batch.labels, members)  # the server keeps them for a second look
        came = came & wire.came
        inputs = [row.requires_grad_(self.has_weights) for row in h.detach().unbind()]
        losses, logits = self._differentiate(inputs, labels, rows)
        wire.clock.serve(members[came], 3 * self.config.batch_size * self.setup.server_flops)
        if self.has_weights:
            answer = wire.send("grad_down", torch.stack([row.grad for row in inputs if row.grad is not None]), members)
            came = came & wire.came
            if (own := self.release.gradient(outputs, batch.views[0], round=state.round)) is not None:
                answer = answer + own
            self.clients.modules.backward(outputs, answer.flatten(0, 1).to(outputs[0].dtype), rows=rows)
            self._client_work(wire, members, passes=2, of=3 * (1 + self.looks_first))
        return losses, logits, labels, came

    def radius(self, vectors: Sequence[Tensor], halves: Sequence[Half], wire: Channel, members: Tensor) -> list[Tensor]:
        """rho v / ||v||, one norm over all weights (or what the published code makes of v)."""
        if self.config.published_perturbation:
            return [self.config.rho * e for e in indexed_by_tensor(halves, vectors)]
        scale = self.config.rho / (self.joint_norm(vectors, wire, members) + TINY)
        return [v * scale for v in vectors]

    def joint_norm(self, parts: Sequence[Tensor], wire: Channel, members: Tensor) -> Tensor:
        """Norm over both halves, `(A, 1)`; where they are apart, the client's part goes up and the whole comes down."""
        found = norm(parts)
        if self.is_split and len(parts) > 1:
            wire.send("scalar_up", parts[0].square().sum(-1, keepdim=True).expand(len(members), 1), members)
            wire.send("scalar_down", found.expand(len(members), 1), members)
        return found
