"""GAS: asynchronous split federated learning with generated activations.

"GAS: Generative Activation-Aided Asynchronous Split Federated Learning", AAAI 2025 (arXiv 2409.01251).

Symbols: P clients at work out of N; E local steps; W_c, W_s client and server part; Q batches or models that a buffer holds; P_k(y) the
shares of labels at client k; mu_y, Sigma_y mean and covariance of label y's activations; s(n) the weight of an activation of progress n.

The client whose batch arrives first by the virtual clock is served: its activations go into the activation buffer and into the label
statistics; it gets its gradient at once from the current W_s, with logits shifted by log P_k(y), and steps. When the buffer holds Q
batches, activations are drawn from the statistics until every label has B of them, and the server takes one step on all, with plain
cross-entropy. After E steps a client hands in W_c,k and an idle one takes its place, starting from W_c; when Q models are in,
W_c <- sum |D_k| W_c,k / sum |D_k|.

Deviations: covariance of the last 512 activations of a label instead of a full matrix (`covariance`), momentum of a client starts at zero
when it joins (the authors' code: one optimiser for all), models weighted by data (their code: uniform), n = t E + e with t the version of
W_c that the client started from. Open in the paper: Q is P by default.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.split.sfl_v1 import SFLV1, WHOLE
from ssl_split.channel import Channel, message_bytes
from ssl_split.clock import Clock
from ssl_split.objectives.activations import LabelStatistics
from ssl_split.rng import generator
from ssl_split.tree import Tree


class GAS(SFLV1):
    """Clients come and go one by one; a round is as many client steps as a synchronous one would have."""

    shared_server = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = self.config.gas
        self.capacity = self.options.buffer or self.config.cohort_size
        self.at_once = self.config.cohort_size
        batch = (self.config.batch_size, *setup.network.smashed_shape)
        self._sizes = (message_bytes(self.config.wire, "act_up", batch, codec=self.release.codec),
                       self.config.batch_size * self.config.wire.label_bytes + self.config.wire.header_bytes)
        fixed = (("outer.kind", self.config.outer.kind, "none"), ("optimiser_state", self.config.optimiser_state, "reset"))
        for name, value, legal in fixed:
            if value != legal:
                raise ValueError(f"{name} = {value!r} has no place in gas, whose clients do not meet in rounds: use {legal}")

    # --- state -------------------------------------------------------------------------------------------------------------------

    def init(self) -> State:
        """Empty buffers and statistics; nobody has begun."""
        state = super().init()
        places, network, like = self.config.cohort_size, self.setup.network, state.trees["server.online"].flat
        size, rows = math.prod(network.smashed_shape), self.capacity * self.config.batch_size
        self.classes = self.setup.label_counts.shape[1]
        statistics = LabelStatistics.begin(self.options.covariance, classes=self.classes, size=size, like=like)
        self.statistics = LabelStatistics(self.options.covariance, statistics)
        state.tensors |= {f"statistics.{k}": v for k, v in statistics.items()} | {
            "buffer": torch.zeros(rows, size, dtype=like.dtype, device=like.device),
            "buffer.labels": torch.zeros(rows, dtype=torch.int64, device=like.device),
            "local": torch.zeros(places, dtype=torch.int64),  # steps of each client since it joined
            "version": torch.zeros(places, dtype=torch.int64),  # of W_c that it joined with
            "server_free": torch.zeros((), dtype=torch.float64),
        }
        state.tensors["clock"] = torch.zeros(self.config.clients, dtype=torch.float64)
        state.tensors["flops"] = torch.zeros(self.config.clients + 1, dtype=torch.float64)
        state.counters |= {"buffered": 0, "models": 0, "versions": 0, "joined": 0, "handed_in": 0, "server_steps": 0}
        self.clock = Clock(self.config.network, state.tensors["clock"], seed=self.config.seed, active=places)
        return state

    # --- schedule ----------------------------------------------------------------------------------------------------------------

    def round_steps(self, cohort: Tensor) -> int:
        """P E, with E the mean over all clients."""
        return len(cohort) * max(1, round(sum(self.setup.local_steps) / len(self.setup.local_steps)))

    def participants(self, state: State) -> slice:
        """The place of the client whose batch arrives first; of equals the first."""
        self.clock.enter(state.round)
        place = int(self._arrivals(state).argmin())
        return slice(place, place + 1)

    def _arrivals(self, state: State) -> Tensor:
        """When the next batch of each client at work will have arrived, `(P,)`."""
        ready, work = self.clock.ready.clone(), self.config.batch_size * self.setup.client_flops
        self.clock.compute(state.cohort, work, share=1 / 3 / self._local(state.cohort))
        for size in self._sizes:
            self.clock.transfer(state.cohort, size)
        found = self.clock.ready[state.cohort]
        self.clock.ready.copy_(ready)
        return found

    # --- round -------------------------------------------------------------------------------------------------------------------

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """In the first round the cohort joins; later the clients at work go on."""
        state.step_in_round = 0
        if state.round == 0:
            state.cohort, state.gathered = cohort, True
            for place in range(len(cohort)):
                self._join(state, place, wire)

    def end_round(self, state: State, wire: Channel) -> None:
        """Nothing ends: buffers and clients stay as they are."""
        state.round += 1
        state.step_in_round = 0

    def _join(self, state: State, place: int, wire: Channel) -> None:
        """The client at a place takes up the current W_c."""
        row, shared = slice(place, place + 1), state.trees["client.online"]
        wire.clock.join(state.cohort[row])
        if self.has_weights:
            self.clients.load(row, wire.send_tree("model_down", Tree(shared.layout, shared.flat[None]), state.cohort[row]).flat)
            if self.lossy:
                self._go_on_with_own(state, row, state.cohort[row], wire.came)
        self.clients.reset(row)
        state.tensors["local"][place] = 0
        state.tensors["version"][place] = state.counters["versions"]
        state.counters["joined"] += 1

    def _leave(self, state: State, place: int, wire: Channel) -> None:
        """A client hands in its part; an idle one, drawn at random, takes its place."""
        row = slice(place, place + 1)
        client = int(state.cohort[place])
        if self.has_weights:
            arrived = wire.send_tree("model_up", Tree(self.clients.weights.layout, self.clients.weights.flat[row]), state.cohort[row])
            if self.lossy:
                state.store.put("own", client, arrived.flat[0])
            if bool(wire.came):
                share = float(self.setup.sizes[client]) if self.config.weighs_by_data else 1.0
                state.trees["client.sum"].flat.add_(arrived.flat[0], alpha=share)
                state.tensors["client.entered"] += share
                state.counters["models"] += 1
            if state.counters["models"] == self.capacity:
                torch.div(state.trees["client.sum"].flat, state.tensors["client.entered"].item(), out=state.trees["client.online"].flat)
                state.trees["client.sum"].flat.zero_()
                state.tensors["client.entered"].zero_()
                state.counters["models"] = 0
                state.counters["versions"] += 1
        state.counters["handed_in"] += 1
        wire.clock.leave(state.cohort[row])
        working = set(state.cohort.tolist())
        idle = [c for c in range(self.config.clients) if c not in working]
        if idle:
            drawn = torch.randint(len(idle), (), generator=generator(self.config.seed, "replacement", state.step))
            state.cohort[place] = idle[int(drawn)]
        wire.clock.follow(state.cohort[row], float(wire.clock.ready[client]))
        self._join(state, place, wire)

    def _finishing(self, state: State) -> int:
        """A line at the end of each round; all are at work."""
        return len(state.cohort) if state.step_in_round + 1 == self.round_steps(state.cohort) else 0

    # --- step --------------------------------------------------------------------------------------------------------------------

    def step(self, state: State, batch: Batch, wire: Channel) -> dict[str, float]:
        """One batch of the client that is served next."""
        place = batch.places.start
        metrics = self._advance(state, *self._exchange(state, batch, wire))
        state.tensors["local"][place] += 1
        if int(state.tensors["local"][place]) == self.setup.local_steps[int(state.cohort[place])]:
            self._leave(state, place, wire)
        return metrics

    def _serve(self, state: State, h: Tensor, labels: Tensor, places: slice, came: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The client's gradient at the current W_s, then the buffer, and a server step when it is full."""
        if not bool(came.any()):
            return super()._serve(state, h, labels, places, came)
        client = int(state.cohort[places.start])
        inputs = [h.detach().flatten(0, 1).requires_grad_(self.is_answered)]
        adjustment = self._log_shares(client) if self.options.adjust_logits else None
        losses, logits = self._differentiate(inputs, labels, WHOLE, adjustment=adjustment)
        self._buffer(state, h.flatten(0, 1).flatten(1), labels.flatten(), place=places.start)
        gradient = inputs[0].grad
        return losses, logits, torch.zeros_like(h) if gradient is None else gradient.view_as(h)

    def _log_shares(self, client: int) -> Tensor:
        """log(P_k(y) + 1e-12), `(1, classes)`."""
        counts = self.setup.label_counts[client].to(self.setup.dtype)
        return (counts / counts.sum() + 1e-12).log()[None].to(self.setup.device)

    def _buffer(self, state: State, rows: Tensor, labels: Tensor, *, place: int) -> None:
        filled, size = state.counters["buffered"], self.config.batch_size
        at = slice(filled * size, (filled + 1) * size)
        state.tensors["buffer"][at], state.tensors["buffer.labels"][at] = rows, labels
        if self.options.generate:
            begun = int(state.tensors["version"][place]) * self.setup.local_steps[int(state.cohort[place])]
            progress = begun + int(state.tensors["local"][place]) + 1
            self.statistics.add(rows, labels, float(progress) if self.options.weight == "linear" else 1.0)
        state.counters["buffered"] = (filled + 1) % self.capacity
        if state.counters["buffered"] == 0:
            self._server_step(state)

    def _server_step(self, state: State) -> None:
        """One step on what is in the buffer and what is drawn to balance it."""
        rows, labels = self._balanced(state, state.tensors["buffer"], state.tensors["buffer.labels"])
        shape = self.setup.network.smashed_shape
        self._differentiate([rows.unflatten(1, shape)], labels[None], WHOLE)
        self.servers.step(WHOLE, lr=self._rate(self.config.server_lr, state))
        flops = 3 * len(rows) * self.setup.server_flops
        state.tensors["flops"][-1] += flops
        state.tensors["server_free"] += flops / self.config.network.server_flops
        state.counters["server_steps"] += 1

    def buffer_gradients(self, state: State) -> dict[str, dict[str, Tensor]]:
        """What the server would step along now, by parameter: on the last Q batches with what is generated for them, and on those batches
        `alone`. Nothing before the buffer was first full."""
        if not state.counters["server_steps"]:
            return {}
        buffer, labels = state.tensors["buffer"], state.tensors["buffer.labels"]
        found = {}
        for name, (rows, named) in {"": self._balanced(state, buffer, labels), "alone": (buffer, labels)}.items():
            self._differentiate([rows.unflatten(1, self.setup.network.smashed_shape)], named[None], WHOLE)
            found[name] = {key: self.servers.gradients[key][0].clone() for key in self.servers.gradients}
        self.servers.clear(WHOLE)
        return found

    def _balanced(self, state: State, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and labels topped up, once every label has statistics."""
        if not self.options.generate or not self.statistics.complete:
            return rows, labels
        counts = torch.bincount(labels.cpu(), minlength=self.classes)
        wanted = int(counts.max()) if self.options.balance == "equal_to_max" else self.config.batch_size
        made, named = [rows], [labels]
        for label, count in enumerate((wanted - counts).clamp(min=0).tolist()):
            if count:
                g = generator(self.config.seed, "generated activations", state.counters["server_steps"], label)
                made.append(self.statistics.draw(label, count, g))
                named.append(torch.full((count,), label, dtype=torch.int64, device=labels.device))
        return torch.cat(made), torch.cat(named)

    def _server_work(self, state: State, wire: Channel, members: Tensor, came: Tensor, *, passes: int) -> None:
        """One server: a client waits until those before it, and full buffers, are done with."""
        arrived = torch.maximum(wire.clock.ready[members].max(), state.tensors["server_free"])
        wire.clock.follow(members, float(arrived))
        wire.clock.serve(members[came], passes * self.config.batch_size * self.setup.server_flops)
        state.tensors["server_free"].copy_(wire.clock.ready[members].max())
