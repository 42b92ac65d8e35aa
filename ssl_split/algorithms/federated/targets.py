"""What the self-supervised federated methods share: every client trains by itself on two views of its images, with a second copy of the
network that follows the first, its target (MoCo's momentum encoder), which stays with it between rounds and never enters an average.

Symbols: theta the client's network, theta' its target, m the decay (`ema`); v1, v2 two random views of B images; R rows of a loss: B, or
2 B with `symmetric: stacked`, where both views take both parts.

At cut `full` only the averaged weights cross, and that is what the papers do. At any other cut the server holds each client's server part
with its target (and queue); the smashed data of theta and of theta' go up and the gradient of the former comes down. The result is the
same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.channel import Channel
from ssl_split.clients import Clients, choose_engine


class Targets(FedAvg):
    """FedAvg without labels; methods state their loss and when theta' follows."""

    views = 2
    client_vectors = 1
    follows_first = True
    """Whether theta' moves towards theta before the step that looks at it, or after each step."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if self.lossy:
            raise ValueError(f"{self.config.algorithm} with lost messages is not defined: use loss.retransmit")
        self.looks = 2 if self.config.symmetric == "stacked" else 1

    # --- what a method states ----------------------------------------------------------------------------------------------------

    def losses(self, online: Tensor, target: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """The losses `(A,)` of these clients from outputs `(A, R, O)` of their networks and targets, and unit vectors `(A, R, D)` whose
        spread tells whether the representation has collapsed."""
        raise NotImplementedError

    def remember(self, target: Tensor, rows: slice) -> None:
        """What is kept of the targets' outputs `(A, R, O)` once the gradient is known."""

    # --- state -------------------------------------------------------------------------------------------------------------------

    def init(self) -> State:
        """FedAvg's, and the targets of a group of clients."""
        state = super().init()
        self.targets: dict[str, Clients] = {}
        for name, half in (("client", self.setup.network.client), ("server", self.setup.network.server)):
            tree = trees.repeat(state.trees[f"{name}.online"], self.at_once)
            state.trees[f"cohort.{name}.target"] = tree
            engine = choose_engine(self.config.engine, half, clients=self.at_once, device=self.setup.device)
            self.targets[name] = Clients(half, tree, engine=engine)
        return state

    def _begin_group(self, state: State, group: slice, wire: Channel) -> None:
        """Members go on with their targets; a new one, or one told to `reset_key`, begins with a copy of the model."""
        super()._begin_group(state, group, wire)
        for half in self.halves(state, self._rows(group)):
            kept = f"{half.name}.target"
            for row, client in enumerate(state.cohort[group].tolist(), self._rows(group).start):
                target = state.trees[f"cohort.{kept}"].flat[row]
                if (kept, client) in state.store and not self.options.reset_key:
                    target.copy_(state.store.get(kept, client))
                else:
                    target.copy_(half.copies.weights.flat[row])

    def _end_group(self, state: State, group: slice, wire: Channel) -> None:
        super()._end_group(state, group, wire)
        for half in self.halves(state, self._rows(group)):
            for row, client in enumerate(state.cohort[group].tolist(), self._rows(group).start):
                state.store.put(f"{half.name}.target", client, state.trees[f"cohort.{half.name}.target"].flat[row])

    # --- step --------------------------------------------------------------------------------------------------------------------

    def _exchange(self, state: State, batch: Batch, wire: Channel) -> tuple[Tensor, Tensor, Tensor]:
        rows = self._rows(batch.places)
        if self.follows_first:
            self._follow(state, rows)
        made = super()._exchange(state, batch, wire)
        if not self.follows_first:
            self._follow(state, rows)
        return made

    def _follow(self, state: State, rows: slice) -> None:
        """theta' <- m theta' + (1 - m) theta."""
        for half in self.halves(state, rows):
            half.own("target").lerp_(half.weights, 1 - self.config.ema)

    def _gradients(self, state: State, batch: Batch, wire: Channel, members: Tensor, rows: slice, came: Tensor, *, again: bool = False
                   ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of each client's mean loss into those of both halves.

        Returns:
            Losses `(A,)`, unit vectors `(A, R, D)`, rows of each client's loss `(A,)` and who took part `(A,)`.
        """
        v1, v2 = batch.views
        if self.looks == 2:
            v1, v2 = torch.cat([v1, v2], 1), torch.cat([v2, v1], 1)  # (A, 2B, C, H, W)
        self.clients.clear(rows)
        with self._autocast():
            outputs = self.clients.modules.forward(v1, rows=rows)
            with torch.no_grad():
                seen = self.targets["client"].forward(v2, rows=rows)
        self._client_work(wire, members, passes=2 * self.looks, of=4 * self.looks)
        outputs = self.release(outputs, v1, members, kind="act_up", step=state.step)
        seen = self.release(seen, v2, members, kind="key_act_up", step=state.step)
        h, h_target = self._joined(outputs, members), self._joined(seen, members)
        if self.whole:
            losses, units, gradient = self._differentiate_pair(h, h_target, rows)
            self.clients.modules.backward(outputs, gradient.flatten(0, 1).to(outputs[0].dtype), rows=rows)
            self._client_work(wire, members, passes=2 * self.looks, of=4 * self.looks)
            return losses, units, self._rows_of(units), came
        h, h_target = (wire.send(kind, sent, members, codec=self.release.codec) for kind, sent in (("act_up", h), ("key_act_up", h_target)))
        inputs = [row.requires_grad_(self.has_weights) for row in h.detach().unbind()]
        self.servers.clear(rows)
        with self._autocast():
            served = self.servers.modules.forward(inputs, rows=rows)
            with torch.no_grad():
                target = self.targets["server"].forward(list(h_target.unbind()), rows=rows)
        losses, units, gradient = self._differentiate_pair(self._joined(served, members), self._joined(target, members), rows)
        self.servers.modules.backward(served, gradient.flatten(0, 1).to(served[0].dtype), rows=rows,
                                      inputs=[x for x in inputs if x.requires_grad])
        wire.clock.serve(members, 4 * self.looks * self.config.batch_size * self.setup.server_flops)
        if self.has_weights:
            answer = wire.send("grad_down", torch.stack([row.grad for row in inputs if row.grad is not None]), members)
            if (own := self.release.gradient(outputs, v1, round=state.round)) is not None:
                answer = answer + own
            self.clients.modules.backward(outputs, answer.flatten(0, 1).to(outputs[0].dtype), rows=rows)
            self._client_work(wire, members, passes=2 * self.looks, of=4 * self.looks)
        return losses, units, self._rows_of(units), came

    def _joined(self, outputs: list[Tensor], members: Tensor) -> Tensor:
        """Outputs of all these clients `(A, R, ...)`, in the arithmetic of weights, without a graph."""
        return torch.cat([o.detach().to(self.setup.dtype) for o in outputs]).unflatten(0, (len(members), -1))

    def _differentiate_pair(self, online: Tensor, target: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, unit vectors, and the gradient of each client's loss with respect to the output of its network `(A, R, O)`."""
        online.requires_grad_()
        losses, units = self.losses(online, target, rows)
        gradient = torch.autograd.grad(losses.sum(), online)[0]
        self.remember(target, rows)
        return losses.detach(), units.detach(), gradient

    @staticmethod
    def _rows_of(units: Tensor) -> Tensor:
        return torch.full((len(units),), units.shape[1], device=units.device)

    def _advance(self, state: State, losses: Tensor, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Count the step; a line of metrics whenever a client has finished. Arguments: as `_gradients` returns them."""
        active, seen = self._finishing(state), int(labels.sum())
        metrics = {"loss": losses.mean().item()}
        state.tensors["since_logged"] += torch.tensor([metrics["loss"] * seen, 0, seen])
        state.step += 1
        state.step_in_round += 1
        if active or state.step == self.config.max_steps:
            line = self._log(state, active)
            del line["train_accuracy"]
            metrics |= {**line, "collapse_std": logits.flatten(0, 1).std(0).mean().item()}
        return metrics
