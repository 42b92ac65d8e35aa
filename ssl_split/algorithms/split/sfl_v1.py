"""SFL-V1: split federated learning with one server copy per client.

Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022 (arXiv 2004.12088).

Symbols: W_c, W_s client and server part; W_c,j, W_s,j the copies of client j; h smashed data; p_j = |D_j| / sum over the cohort; T_j local
steps of client j in the round.

One step of every client that has not finished: it sends h_j = f(W_c,j; x_j) and its labels; the server computes the mean loss of the
client, returns its gradient with respect to h_j, taken at W_s,j before the server's step, and steps W_s,j; the client steps W_c,j. After
the round W_c <- sum p_j W_c,j and W_s <- sum p_j W_s,j: federated averaging of the whole network, whatever the cut.

Deviations: one optimiser per copy and round (the authors' code makes a new Adam for every server batch), averages weighted by data
(the code: uniform). Beyond the paper: `outer`, momentum over rounds at the server (FedAvgM, SlowMo), and `clients_at_once`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, State
from ssl_split.algorithms.split.copies import Copies
from ssl_split.algorithms.split.course import Course
from ssl_split.channel import Channel, Ledger
from ssl_split.clients import ClientStore
from ssl_split.objectives.supervised import cross_entropy
from ssl_split.tree import Tree

WHOLE = slice(0, 1)
"""The row of a server that all clients share."""


class SFLV1(Course):
    """SFL-V1; the other supervised algorithms import it and state the difference."""

    # --- state -------------------------------------------------------------------------------------------------------------------

    def init(self) -> State:
        """The initial network, and copies of its halves for a group of clients."""
        config, network = self.config, self.setup.network
        halves = {"client": network.client, "server": network.server}
        shared = {half: trees.gather(module, dtype=self.setup.dtype, device=self.setup.device, channels_last=self.setup.channels_last)
                  for half, module in halves.items()}
        state = State(Ledger(config.clients), ClientStore(folder=config.run_dir / "rows"), torch.arange(config.cohort_size),
                      torch.zeros(config.clients, dtype=torch.int64))
        state.trees["client.online"] = shared["client"]
        self.clients = Copies(halves["client"], shared["client"], state, name="cohort.client", count=self.at_once, setup=self.setup)
        if self.shared_server:
            self.servers = Copies(halves["server"], shared["server"], state, name="server.online", count=1, setup=self.setup)
        else:
            state.trees["server.online"] = shared["server"]
            self.servers = Copies(halves["server"], shared["server"], state, name="cohort.server", count=self.at_once, setup=self.setup)
        for half, tree in shared.items():
            state.trees[f"{half}.sum"] = trees.zeros(tree.layout, like=tree.flat)
            state.tensors[f"{half}.entered"] = torch.zeros((), dtype=torch.float64)  # sum of the shares in the average so far
            if self.outer.kind != "none":
                state.trees[f"{half}.outer"] = trees.zeros(tree.layout, like=tree.flat)
                state.trees[f"{half}.start"] = trees.zeros(tree.layout, like=tree.flat)
        state.tensors["since_logged"] = torch.zeros(3, dtype=torch.float64)  # loss times images, correct answers, images
        if self.lossy:
            state.trees["client.initial"] = shared["client"].clone()
        self.release.begin(state.trees, state.tensors)
        return state

    # --- round -------------------------------------------------------------------------------------------------------------------

    def begin_round(self, state: State, cohort: Tensor, wire: Channel) -> None:
        """Order the cohort; nothing is averaged yet."""
        state.cohort, state.step_in_round, state.gathered = self.order(cohort, state.round), 0, True
        wire.clock.follow(cohort, wire.clock.now)
        wire.clock.join(cohort[wire.delivery.present(cohort)])
        for half in ("client", "server"):
            state.trees[f"{half}.sum"].flat.zero_()
            state.tensors[f"{half}.entered"].zero_()
            if self.outer.kind != "none":
                state.trees[f"{half}.start"].flat.copy_(state.trees[f"{half}.online"].flat)
        if self.shared_server and self.config.optimiser_state == "reset":
            self.servers.reset()

    def end_round(self, state: State, wire: Channel) -> None:
        """The averages become the next model."""
        wire.clock.meet(state.cohort)
        wire.clock.leave(state.cohort)
        if self.has_weights:
            self._adopt(state, "client", self._client_lr(state))
        self._adopt(state, "server", self._rate(self.config.server_lr, state))
        state.round += 1
        state.step_in_round, state.gathered = 0, False

    def _begin_group(self, state: State, group: slice, wire: Channel) -> None:
        """Members fetch the model, and the server makes their copies."""
        rows, members = self._rows(group), state.cohort[group]
        if self.has_weights:
            shared = state.trees["client.online"]
            receivers = torch.arange(self.config.clients if group.start == 0 else 0)  # who is told of the model when it is broadcast
            receivers = receivers if self.config.wire.model_traffic == "broadcast" else members
            arrived = wire.send_tree("model_down", Tree(shared.layout, shared.flat[None]), receivers)
            self.clients.load(rows, arrived.flat)
            if self.lossy:
                self._go_on_with_own(state, rows, members, wire.came)
        if not self.shared_server:
            self.servers.load(rows, state.trees["server.online"].flat[None])
        mine = (self.clients,) if self.shared_server else (self.clients, self.servers)
        for copies in mine:
            if self.config.optimiser_state == "reset":
                copies.reset()
            else:
                for row, client in enumerate(members.tolist()):
                    copies.take_up(row, client)

    def _end_group(self, state: State, group: slice, wire: Channel) -> None:
        """Members send their weights, which enter the averages."""
        rows, members = self._rows(group), state.cohort[group]
        shares = self.shares(state)[group].to(state.trees["client.sum"].flat)
        came, weights = wire.delivery.present(members), {"server": self.servers.weights.flat[rows]}
        if self.has_weights:
            arrived = wire.send_tree("model_up", Tree(self.clients.weights.layout, self.clients.weights.flat[rows]), members)
            came, weights["client"] = wire.came, arrived.flat
            heard = shares * wire.came.to(shares)
            if bool(wire.came.any()):
                self._enter(state, arrived, heard)
            state.tensors["client.entered"] += heard.sum().item()
            if self.lossy:
                for row, client in enumerate(members.tolist()):
                    state.store.put("own", client, self.clients.weights.flat[row])
        if not self.shared_server:
            shares = shares * wire.delivery.present(members).to(shares)  # of who misses the round there is no copy
            state.trees["server.sum"].flat.add_(shares @ self.servers.weights.flat[rows])
            state.tensors["server.entered"] += shares.sum().item()
        self._ended(state, rows, weights, came)
        if self.config.optimiser_state == "keep":
            for row, client in enumerate(members.tolist()):
                self.clients.put_back(row, client)
                if not self.shared_server:
                    self.servers.put_back(row, client)

    def _ended(self, state: State, rows: slice, weights: dict[str, Tensor], heard: Tensor) -> None:
        """What else an algorithm makes of a group's weights `(P, size)` of either half; `heard` `(P,)` are those whose arrived."""

    def _go_on_with_own(self, state: State, rows: slice, members: Tensor, came: Tensor) -> None:
        """Members whose download was lost keep the weights that they had."""
        for row, client in enumerate(members.tolist()):
            if not bool(came[row]):
                kept = state.store.get("own", client) if ("own", client) in state.store else state.trees["client.initial"].flat
                self.clients.weights.flat[rows.start + row] = kept.to(self.clients.weights.flat)

    def _enter(self, state: State, arrived: Tree, shares: Tensor) -> None:
        """Add what a group sent, `(P, size)`, to the average."""
        state.trees["client.sum"].flat.add_(trees.weighted_mean(arrived, shares).flat)

    def _adopt(self, state: State, half: str, lr: float) -> None:
        """w <- average; or momentum over rounds: FedAvgM (Hsu et al. 2019) v <- beta v + (w - average), w <- w - eta v; SlowMo (Wang et
        al. 2020) u <- beta u + (w - average) / lr, w <- w - eta lr u. Running statistics are averaged in any case."""
        shared, outer = state.trees[f"{half}.online"], self.outer
        entered = state.tensors[f"{half}.entered"].item()
        if entered and (half == "client" or not self.shared_server):  # nobody may have been heard
            torch.div(state.trees[f"{half}.sum"].flat, entered, out=shared.flat)
        if outer.kind == "none":
            return
        start, momentum = state.trees[f"{half}.start"].parameters, state.trees[f"{half}.outer"].parameters
        unit = lr if outer.kind == "slowmo" else 1.0
        momentum.mul_(outer.momentum).add_((start - shared.parameters) / unit if unit else 0)
        torch.add(start, momentum, alpha=-outer.lr * unit, out=shared.parameters)

    # --- step --------------------------------------------------------------------------------------------------------------------

    def step(self, state: State, batch: Batch, wire: Channel) -> dict[str, float]:
        """One local step of every client that has not finished."""
        group, steps, step = self._place(state)
        if step == 0:
            self._begin_group(state, group, wire)
        metrics = self._advance(state, *self._exchange(state, batch, wire))
        if step + 1 == max(steps) or state.step == self.config.max_steps:  # a trial ends averaged
            self._end_group(state, group, wire)
        return metrics

    def _exchange(self, state: State, batch: Batch, wire: Channel) -> tuple[Tensor, Tensor, Tensor]:
        """What the participants send, what the server does with it, and what they make of its answer.

        Returns:
            Losses `(A,)`, logits `(A, B, classes)` and labels `(A, B)` of those whose messages arrived.
        """
        members, rows = state.cohort[batch.places], self._rows(batch.places)
        assert batch.labels is not None
        with self._autocast():
            outputs = self.clients.modules.forward(batch.views[0], rows=rows)
        self._client_work(wire, members, passes=1, of=3)
        outputs = self.release(outputs, batch.views[0], members, kind="act_up", step=state.step)
        joined = torch.cat([o.detach().to(self.setup.dtype) for o in outputs])
        h = wire.send("act_up", joined.unflatten(0, (len(members), -1)), members, codec=self.release.codec)  # (A, B, C', H', W')
        came = wire.came
        labels = wire.send_labels(batch.labels, members)
        came = came & wire.came
        losses, logits, gradient = self._serve(state, h, labels, batch.places, came)
        self._server_work(state, wire, members, came, passes=3)
        if self.is_answered and bool(came.any()):
            answer = torch.zeros_like(gradient)
            answer[came] = wire.send("grad_down", gradient[came], members[came])
            answered = came.clone()
            answered[came] = wire.came
            if (own := self.release.gradient(outputs, batch.views[0], round=state.round)) is not None:
                answer = answer + own
            self.clients.clear(rows)
            self.release.backward(self.clients.modules, outputs, batch.views[0], answer, members, answered, rows=rows,
                                  step=state.step)
            if self.has_weights:
                self.clients.step(rows, lr=self._client_lr(state), only=answered)
                self._client_work(wire, members[answered], passes=2, of=3)
        if self.couples_clients:
            wire.clock.meet(members)
        return losses, logits, labels[came]

    def _serve(self, state: State, h: Tensor, labels: Tensor, places: slice, came: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The server's part of a step.

        Args:
            state: The run.
            h: What was sent, `(A, B, ...)`.
            labels: int64 `(A, B)`.
            places: Of the senders in the cohort.
            came: Whose messages arrived, bool `(A,)`.

        Returns:
            Of those that arrived: losses and logits `(., B, classes)`. Of all senders: the gradient of each client's own loss with respect
            to h, at the weights before the step (zero where clients have no weights).
        """
        if not bool(came.any()):
            return h.new_zeros(0), h.new_zeros(0, labels.shape[1], 1), torch.zeros_like(h)
        rows = WHOLE if self.shared_server else self._rows(places)
        gradient = torch.zeros_like(h)
        if self.shared_server:
            inputs = [h[came].detach().flatten(0, 1).requires_grad_(self.is_answered)]
            losses, logits = self._differentiate(inputs, labels[came], rows)
            if inputs[0].grad is not None:
                gradient[came] = inputs[0].grad.view(-1, *h.shape[1:])
        else:
            inputs = [row.requires_grad_(self.is_answered) for row in h.detach().unbind()]
            losses, logits = self._differentiate(inputs, labels, rows)
            if self.is_answered:
                gradient = torch.stack([row.grad for row in inputs if row.grad is not None])
            losses, logits = losses[came], logits[came]
        self._step_servers(state, rows, places, came)
        return losses, logits, gradient

    def _differentiate(self, inputs: list[Tensor], labels: Tensor, rows: slice, *, adjustment: Tensor | None = None
                       ) -> tuple[Tensor, Tensor]:
        """Gradients of each client's mean loss, into the server rows and the inputs that require them; `adjustment` `(A, classes)` shifts
        the logits inside the loss."""
        with self._autocast():
            outputs = self.servers.modules.forward(inputs, rows=rows)
        logits = torch.cat([o.detach().to(self.setup.dtype) for o in outputs]).unflatten(0, tuple(labels.shape))
        losses, gradient = cross_entropy(logits, labels, adjustment=adjustment)
        self.servers.clear(rows)
        self.servers.modules.backward(outputs, gradient.flatten(0, 1).to(outputs[0].dtype), rows=rows,
                                      inputs=[x for x in inputs if x.requires_grad])
        return losses, logits

    def _step_servers(self, state: State, rows: slice, places: slice, came: Tensor) -> None:
        """The optimiser step of the server, or of the copies of those who were heard."""
        self.servers.step(rows, lr=self._rate(self.config.server_lr, state), only=None if self.shared_server else came)
