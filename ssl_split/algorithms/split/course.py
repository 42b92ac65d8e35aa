"""What supervised algorithms share beside their mathematics: who works in which step, its cost in virtual time, what is logged."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import optim
from ssl_split import tree as trees
from ssl_split.algorithms.api import Setup, State
from ssl_split.algorithms.split.groups import Groups
from ssl_split.channel import Channel
from ssl_split.defences.table import release
from ssl_split.objectives.supervised import correct


class Course:
    """The course of a round. A cohort works in groups of `at_once` clients, one after another; the clients of a group work side by side,
    longest first, so that those which have not finished are always the first rows."""

    centralised = False
    views = 1
    shared_server = False
    """Whether there is one server part, instead of a copy for each client."""
    couples_clients = False
    """Whether clients meet in every step, so that all of a cohort have to work side by side."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.config = setup, setup.config
        self.outer = self.config.outer
        self.at_once = min(self.config.clients_at_once or self.config.cohort_size, self.config.cohort_size)
        self.has_weights = trees.layout(setup.network.client).numel > 0 and not self.config.freeze_client
        self.lossy = self.config.loss.happens
        self.release = release(self.config, setup.place)
        self.is_answered = self.has_weights or self.release.defence.learns_from_answer
        self._groups: Groups | None = None

    def order(self, cohort: Tensor, round: int) -> Tensor:
        """The cohort in the order in which it works: longest first, equals as drawn."""
        return cohort[torch.tensor([-self.setup.local_steps[c] for c in cohort.tolist()]).argsort(stable=True)]

    def round_steps(self, cohort: Tensor) -> int:
        """Steps of a round: groups work one after another, each as long as its longest client."""
        return Groups(self.order(cohort, 0), self.setup.local_steps, at_once=self.at_once).ends[-1]

    def participants(self, state: State) -> slice:
        """Places in the cohort of those who take part in the next step."""
        group, steps, step = self._place(state)
        return slice(group.start, group.start + sum(t > step for t in steps))

    def _place(self, state: State) -> tuple[slice, list[int], int]:
        """The group at work, its T_j, and its step."""
        if self._groups is None or not torch.equal(self._groups.cohort, state.cohort):  # derived: asked for three times a step
            self._groups = Groups(state.cohort, self.setup.local_steps, at_once=self.at_once)
        return self._groups.at(state.step_in_round)

    def _rows(self, places: slice) -> slice:
        """Rows of the copies of neighbours in the cohort."""
        start = places.start % self.at_once
        return slice(start, start + places.stop - places.start)

    def shares(self, state: State) -> Tensor:
        """p_j of the average, float64 `(P,)`."""
        if not self.config.weighs_by_data:
            return torch.full((len(state.cohort),), 1 / len(state.cohort), dtype=torch.float64)
        sizes = torch.tensor(self.setup.sizes, dtype=torch.float64)[state.cohort]
        return sizes / sizes.sum()

    # --- virtual time ------------------------------------------------------------------------------------------------------------

    def _client_work(self, wire: Channel, members: Tensor, *, passes: int, of: int) -> None:
        """Forward passes (a backward pass counts as two) of a batch, out of so many in a step, of those who do not miss the round."""
        members = members[wire.delivery.present(members)]
        flops = passes * self.config.batch_size * self.setup.client_flops
        wire.clock.compute(members, flops, share=passes / of / self._local(members))

    def _server_work(self, state: State, wire: Channel, members: Tensor, came: Tensor, *, passes: int) -> None:
        """Forward passes for each of those who were heard and share the server; where clients meet in every step, all wait for the
        slowest."""
        if self.couples_clients:
            wire.clock.meet(members)
        wire.clock.serve(members[came], passes * self.config.batch_size * self.setup.server_flops)

    def _local(self, members: Tensor) -> Tensor:
        """T_j, float64 `(A,)`."""
        return torch.tensor([self.setup.local_steps[c] for c in members.tolist()], dtype=torch.float64)

    # --- steps and rates ---------------------------------------------------------------------------------------------------------

    def _advance(self, state: State, losses: Tensor, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Count the step; a line of metrics whenever a client has finished."""
        active = self._finishing(state)
        seen, metrics = labels.numel(), {}
        if seen:
            metrics = {"loss": losses.mean().item()}
            state.tensors["since_logged"] += torch.tensor([metrics["loss"] * seen, correct(logits, labels).item(), seen])
        state.step += 1
        state.step_in_round += 1
        if active or state.step == self.config.max_steps:
            metrics |= self._log(state, active)
        return metrics

    def _finishing(self, state: State) -> int:
        """How many are at work in this step, if it is the last one of any of them; else 0."""
        _, steps, step = self._place(state)
        return sum(t > step for t in steps) if step + 1 in steps else 0

    def _log(self, state: State, active: int) -> dict[str, float]:
        """What happened since the last line, and how many clients were still at work."""
        loss, right, images = state.tensors["since_logged"].tolist()
        state.tensors["since_logged"].zero_()
        learnt = {"train_loss": loss / images, "train_accuracy": right / images} if images else {}
        return {**learnt, "active_clients": active, "client_lr": self._client_lr(state),
                "server_lr": self._rate(self.config.server_lr, state)}

    def _client_lr(self, state: State) -> float:
        return self._rate(self.config.client_lr, state)

    def _rate(self, base: float, state: State) -> float:
        if self.config.schedule == "exponential":
            return base * self.config.decay**state.round
        return optim.rate(base, state.round, self.config.rounds, self.config.schedule)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.setup.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")
