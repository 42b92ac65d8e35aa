"""MocoSFL: split federated MoCo-v2 with a shared queue.

Li et al., "MocoSFL: Enabling Cross-Client Collaborative Self-Supervised Learning", ICLR 2023.

Symbols: theta, theta' client part (online, momentum); phi, phi' server part with the projection head; P clients in the cohort; B images per
client and step; T steps and S syncs per round; K queued keys.

One step: each client sends h_q = f_theta(v1) and h_k = f_theta'(v2), having moved theta' towards theta first; the server moves phi' towards
phi, computes the InfoNCE loss of all clients' rows against the shared queue, enqueues the keys, steps, and returns each client its slice
of the gradient. Syncs average the online clients; momentum clients stay private.

Deviations: exactly the cohort is averaged, shuffled passes are joined instead of restarted, exactly S syncs, one learning-rate clock
(the published code differs in each; the switches `published_*` bring two of its defects back). Keys are not shuffled: without BatchNorm
it changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_split import optim
from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.split.divergence import divergence
from ssl_split.channel import Channel, Ledger
from ssl_split.clients import Clients, ClientStore, choose_engine
from ssl_split.defences.table import release
from ssl_split.objectives.moco import enqueue, info_nce, initial_queue
from ssl_split.rng import generator
from ssl_split.tree import Tree


def sync_steps(steps: int, syncs: int) -> set[int]:
    """Steps of a round that end with a sync: floor(j T / S) for j = 1..S, with S at most T."""
    syncs = min(syncs, steps)
    return {j * steps // syncs for j in range(1, syncs + 1)}


class MocoSFL:
    """MocoSFL; MonAcoSFL imports it and adds one averaged tree."""

    centralised = False
    views = 2

    def __init__(self, setup: Setup) -> None:
        self.setup, self.config = setup, setup.config
        self.syncs = sync_steps(setup.steps, self.config.syncs_per_round)
        self.all_join = self.config.cohort_size == self.config.clients
        self.has_weights = trees.layout(setup.network.client).numel > 0 and not self.config.freeze_client
        self.lossy = self.config.loss.happens
        self.release = release(self.config, setup.place)
        self.is_answered = self.has_weights or self.release.defence.learns_from_answer

    # --- state -------------------------------------------------------------------------------------------------------------------

    def init(self) -> State:
        """Online and momentum copies of one initial network, an initial queue of random unit vectors, empty streams."""
        config, device, dtype = self.config, self.setup.device, self.setup.dtype
        order = self.setup.channels_last
        client = trees.gather(self.setup.network.client, dtype=dtype, device=device, channels_last=order)
        server = trees.gather(self.setup.network.server, dtype=dtype, device=device, channels_last=order)
        cohort = config.cohort_size
        state = State(Ledger(config.clients), ClientStore(folder=config.run_dir / "rows"), torch.arange(cohort),
                      torch.zeros(config.clients, dtype=torch.int64))
        state.trees = {
            "client.online": client, "client.momentum": client.clone(),
            "server.online": server, "server.momentum": server.clone(), "server.velocity": trees.zeros(server.layout, like=server.flat),
            "cohort.online": trees.repeat(client, cohort), "cohort.momentum": trees.repeat(client, cohort),
            "cohort.velocity": trees.zeros(client.layout, cohort, like=client.flat),
        }
        queues = cohort if config.queue == "per_client" else 0
        state.tensors["queue"] = initial_queue(config.queue_size, config.head.out, generator(config.seed, "queue"), queues=queues
                                               ).to(device, dtype)
        state.counters = {"queue_head": 0, "syncs": 0}
        state.gathered = self.all_join
        if self.lossy:
            state.trees["client.initial"] = client.clone()
        self.release.begin(state.trees, state.tensors)
        self._bind(state)
        return state

    def _bind(self, state: State) -> None:
        """Modules that share memory with the state; they hold nothing of their own."""
        engine = choose_engine(self.config.engine, self.setup.network.client, clients=self.config.cohort_size, device=self.setup.device)
        online, server = state.trees["cohort.online"], state.trees["server.online"]
        self._gradients = trees.zeros(online.layout, len(online.flat), like=online.flat)
        self._server_gradients = trees.zeros(server.layout, like=server.flat)
        self.clients = Clients(self.setup.network.client, online, gradients=self._gradients, engine=engine)
        self.momentum_clients = Clients(self.setup.network.client, state.trees["cohort.momentum"], engine=engine)
        self.server = _module(self.setup.network.server, server, self._server_gradients)
        self.momentum_server = _module(self.setup.network.server, state.trees["server.momentum"], None)

    # --- round -------------------------------------------------------------------------------------------------------------------

    def round_steps(self, cohort: Tensor) -> int:
        """T."""
        return self.setup.steps

    def participants(self, state: State) -> slice:
        """Everybody, in every step."""
        return slice(0, len(state.cohort))

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """Members fetch the averaged online client and take up their private rows."""
        state.cohort, state.step_in_round, state.gathered = cohort, 0, True
        wire.clock.follow(cohort, wire.clock.now)
        wire.clock.join(cohort[wire.delivery.present(cohort)])
        if self.lossy and not self.all_join:  # what they have if the download is lost
            for k, client in enumerate(cohort.tolist()):
                self._take_up(state, k, client, "online", state.trees["client.initial"].flat)
        self._receive_online(state, wire, self._receivers(state, at_start=True))
        if not self.all_join:
            for k, client in enumerate(cohort.tolist()):
                self._take_up(state, k, client, "momentum", state.trees["client.momentum"].flat)
                self._take_up(state, k, client, "velocity", None)

    def end_round(self, state: State, wire: Channel) -> None:
        """Members keep their momentum encoder and SGD momentum."""
        wire.clock.leave(state.cohort)
        if not self.all_join:
            for k, client in enumerate(state.cohort.tolist()):
                state.store.put("momentum", client, state.trees["cohort.momentum"].flat[k])
                state.store.put("velocity", client, state.trees["cohort.velocity"].flat[k])
                if self.lossy:
                    state.store.put("online", client, state.trees["cohort.online"].flat[k])
        state.round += 1
        state.step_in_round, state.gathered = 0, self.all_join

    def _take_up(self, state: State, row: int, client: int, kind: str, otherwise: Tensor | None, *, kept: str | None = None) -> None:
        """Fill a row of `cohort.kind` with what the client keeps (in the store as `kept`, else `kind`), or with something else."""
        target, name = state.trees[f"cohort.{kind}"].flat[row], kept or kind
        if (name, client) in state.store:
            target.copy_(state.store.get(name, client))
        elif otherwise is None:
            target.zero_()
        else:
            target.copy_(otherwise)

    def _receivers(self, state: State, *, at_start: bool) -> Tensor:
        """Who gets weights now. lazy: members, at the start of a round and at every sync but the last; broadcast: all, at syncs."""
        last = state.step_in_round == self.setup.steps
        if self.config.wire.model_traffic == "broadcast":
            return torch.arange(0 if at_start else self.config.clients)
        return state.cohort if at_start or not last else torch.arange(0)

    def _receive_online(self, state: State, wire: Channel, receivers: Tensor) -> None:
        if not self.has_weights or (self.lossy and len(receivers) == 0):
            return
        shared = state.trees["client.online"]
        arrived = wire.send_tree("model_down", Tree(shared.layout, shared.flat[None]), receivers)
        if self.lossy:
            state.trees["cohort.online"].flat[wire.came.to(arrived.flat.device)] = arrived.flat
        else:
            state.trees["cohort.online"].flat.copy_(arrived.flat)

    # --- step --------------------------------------------------------------------------------------------------------------------

    def step(self, state: State, batch: Batch, wire: Channel) -> dict[str, float]:
        """Steps 1 to 10 of the method, in its order."""
        config, w = self.config, state.trees
        self._gradients.flat.zero_()
        self._server_gradients.flat.zero_()
        v1, v2 = batch.views
        if config.symmetric == "stacked":
            v1, v2 = torch.cat([v1, v2], 1), torch.cat([v2, v1], 1)  # (P, 2B, C, H, W)
        with self._autocast():
            outputs = self.clients.forward(v1)
            trees.ema_(w["cohort.momentum"], w["cohort.online"], config.ema)
            with torch.no_grad():
                keys = self.momentum_clients.forward(v2)
        rows = v1.shape[1]
        at_work = state.cohort[wire.delivery.present(state.cohort)]
        wire.clock.compute(at_work, 2 * rows * self.setup.client_flops, share=0.5 / self.setup.steps)
        outputs = self.release(outputs, v1, state.cohort, kind="act_up", step=state.step)
        keys = self.release(keys, v2, state.cohort, kind="key_act_up", step=state.step)
        h_q, came = self._up("act_up", outputs, state, wire), wire.came  # (P * R, C', H', W')
        h_k = self._up("key_act_up", keys, state, wire)
        came = came & wire.came
        wire.clock.meet(state.cohort)
        client_lr, server_lr = self._rates(state.step)
        metrics: dict[str, float] = {}
        if bool(came.any()):
            wire.clock.serve(state.cohort[came], (8 if config.symmetric == "original" else 4) * rows * self.setup.server_flops)
            h_q, h_k = (_of_senders(h, came) for h in (h_q, h_k))
            loss, q, new_keys = self._server_loss(state, h_q.requires_grad_(self.is_answered), h_k)
            loss.backward()
            self._enqueue(state, new_keys)
            self._sgd(w["server.online"], self._server_gradients, w["server.velocity"], server_lr)
            if self.is_answered:
                answered = self._down(outputs, v1, h_q, state, wire, came)
            if self.has_weights:
                self._step_clients(state, answered, client_lr)
                wire.clock.compute(state.cohort[answered], 2 * rows * self.setup.client_flops, share=0.5 / self.setup.steps)
            metrics = {"loss": loss.item()}
        wire.clock.meet(state.cohort)
        state.step += 1
        state.step_in_round += 1
        if state.step_in_round in self.syncs or state.step == self.config.max_steps:  # a trial ends synchronised
            metrics |= {"client_lr": client_lr, "server_lr": server_lr}
            metrics |= {"collapse_std": q.detach().std(0).mean().item()} if bool(came.any()) else {}
            metrics |= self._sync(state, wire)
        return metrics

    def _step_clients(self, state: State, answered: Tensor, lr: float) -> None:
        """SGD of those who got their gradient."""
        weights, velocity = state.trees["cohort.online"], state.trees["cohort.velocity"]
        if bool(answered.all()):
            self._sgd(weights, self._gradients, velocity, lr)
            return
        for k in answered.nonzero().flatten().tolist():
            self._sgd(weights.row(k), self._gradients.row(k), velocity.row(k), lr)

    def _server_loss(self, state: State, h_q: Tensor, h_k: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """InfoNCE against the queue as it was before this step.

        Returns:
            The loss, the queries `(rows, D)`, and the keys to be enqueued.
        """
        config, queue = self.config, state.tensors["queue"]
        trees.ema_(state.trees["server.momentum"], state.trees["server.online"], config.ema)
        q, k = self._project(self.server, h_q), self._keys(h_k)
        loss = info_nce(q, k, queue, temperature=config.temperature)
        if config.symmetric != "original":
            return loss, q, [k]
        # the roles exchanged; neither h_k as query nor h_q as key carries a graph to a client
        k2 = self._keys(h_q.detach())
        return loss + info_nce(self._project(self.server, h_k), k2, queue, temperature=config.temperature), q, [k, k2]

    def _enqueue(self, state: State, keys: list[Tensor]) -> None:
        """After the backward pass, whose graph holds the queue; the loss has used the old keys either way."""
        queue = state.tensors["queue"]
        for rows in keys:
            shaped = rows.view(len(queue), -1, rows.shape[1]) if queue.dim() == 3 else rows
            state.counters["queue_head"] = enqueue(queue, state.counters["queue_head"], shaped)

    def _keys(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            return self._project(self.momentum_server, h)

    def _project(self, server: nn.Module, h: Tensor) -> Tensor:
        with self._autocast():
            out = server(h)
        return functional.normalize(out.to(self.setup.dtype), dim=1)

    def _up(self, kind: str, outputs: list[Tensor], state: State, wire: Channel) -> Tensor:
        """What the server reads of all clients' smashed data, `(P * R, ...)`, rows in cohort order."""
        joined = torch.cat([o.detach().to(self.setup.dtype) for o in outputs])
        return wire.send(kind, joined.unflatten(0, (len(state.cohort), -1)), state.cohort, codec=self.release.codec).flatten(0, 1)

    def _down(self, outputs: list[Tensor], images: Tensor, h_q: Tensor, state: State, wire: Channel, came: Tensor) -> Tensor:
        """Each client's slice of the gradient of the mean over those who were heard (`came`), and of its own loss at the same scale, back
        through its own part.

        Returns:
            Who got it, bool `(P,)`.
        """
        assert h_q.grad is not None
        heard = state.cohort[came]
        gradient = h_q.grad * len(heard) if self.config.client_grad_scale == "local_mean" else h_q.grad
        arrived = wire.send("grad_down", gradient.unflatten(0, (len(heard), -1)), heard)
        answered = came.clone()
        answered[came] = wire.came
        if len(heard) < len(came):
            everybody = arrived.new_zeros(len(came), *arrived.shape[1:])
            everybody[came] = arrived
            arrived = everybody
        scale = 1.0 if self.config.client_grad_scale == "local_mean" else 1 / len(heard)
        if (own := self.release.gradient(outputs, images, round=state.round)) is not None:
            arrived = arrived + own * scale
        self.release.backward(self.clients, outputs, images, arrived, state.cohort, answered, rows=slice(0, len(came)), step=state.step,
                              scale=scale, looks=2 if self.config.symmetric == "stacked" else 1)
        return answered

    def _sgd(self, weights: Tree, gradients: Tree, velocity: Tree, lr: float) -> None:
        with torch.no_grad():
            optim.sgd_(weights.parameters, gradients.parameters, velocity.parameters, lr=lr, momentum=self.config.momentum,
                       weight_decay=self.config.weight_decay)

    def _rates(self, step: int) -> tuple[float, float]:
        config, total = self.config, self.setup.total_steps
        client_step, client_total = (step, config.rounds) if config.published_client_schedule else (step, total)
        return (optim.rate(config.client_lr, client_step, client_total, config.schedule),
                optim.rate(config.server_lr, step, total, config.schedule))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.setup.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    # --- sync --------------------------------------------------------------------------------------------------------------------

    def _sync(self, state: State, wire: Channel) -> dict[str, float]:
        """Average the online clients and send the average back.

        Returns:
            Divergence before the averaging.
        """
        if not self.has_weights:
            return {}
        w = state.trees
        state.counters["syncs"] += 1
        measured = divergence(w["cohort.online"], w["cohort.momentum"], self._weights(state))
        arrived = wire.send_tree("model_up", w["cohort.online"], state.cohort)
        came = wire.came
        wire.clock.meet(state.cohort)
        if bool(came.any()):
            w["client.online"].flat.copy_(self._average(state, arrived, w["client.online"], came).flat)
            self._receive_online(state, wire, self._receivers(state, at_start=False))
        if self.config.reset_momentum:
            w["cohort.velocity"].flat.zero_()
        return measured

    def _weights(self, state: State) -> Tensor:
        """p_k of the average, `(P,)`."""
        if not self.config.weighs_by_data:
            return torch.full((len(state.cohort),), 1 / len(state.cohort), dtype=torch.float64)
        sizes = torch.tensor(self.setup.sizes, dtype=torch.float64)[state.cohort]
        return sizes / sizes.sum()

    def _average(self, state: State, rows: Tree, last: Tree, came: Tensor) -> Tree:
        """The weighted mean over those of the cohort who were heard; `last` is what a client outside it holds."""
        if self.config.published_pool_average:
            members = state.cohort.tolist()
            stale = rows.flat[members.index(0)] if 0 in members else last.flat
            rows = Tree(rows.layout, torch.cat([stale[None], rows.flat[1:]]))
        heard = self._weights(state) * came
        return trees.weighted_mean(rows, (heard / heard.sum() if self.lossy else heard).to(rows.flat.device))


def _of_senders(h: Tensor, came: Tensor) -> Tensor:
    """Rows `(P * R, ...)` of those who were heard."""
    return h if bool(came.all()) else h.unflatten(0, (len(came), -1))[came.to(h.device)].flatten(0, 1)


def _module(half: nn.Module, weights: Tree, gradients: Tree | None) -> nn.Module:
    """The server half on the given weights."""
    bound = Clients(half, Tree(weights.layout, weights.flat[None]),
                    gradients=Tree(gradients.layout, gradients.flat[None]) if gradients else None)
    return bound.module(0)
