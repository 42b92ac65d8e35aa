"""PCAT: a pseudo-client that learns from the server's loss alone, and its inverse.

The server puts a client of its own in the clients' place. Only this pseudo-client f~ learns, so that the server, which was trained for
the clients' smashed data, is right about it; what the server understands of f~ it has learnt from f, so the two agree in what the task
needs. Where the run is supervised, each batch has the classes of a batch that the clients have sent ("label-aligned"). Then a decoder is
trained on pairs (f~(x), x) of own images, fine-tuned through f~ until f~(d(z)) is z for the targets' z, and applied to these. The
attack begins late: it uses the server at the checkpoints that are kept, oldest first, an equal share of the iterations at each.

Source: Gao and Zhang, "PCAT: Functionality and Data Stealing from Split Learning by Pseudo-Client Attack", USENIX Security 2023.
Deviations: the published settings of the optimisers are not in the available text, so f~ has those of SDAR's simulator (Adam 1e-3,
batches of 128), and the rate and length of the fine-tuning (Adam 1e-4, batches of 32) are this project's choice; f~ learns between
checkpoints of the run, not along with it; the decoder and its budgets are those of `attacks.decoder`; the form without labels (InfoNCE
against the server's queue) is this project's.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks import decoder
from attacks.api import AttackOptions, Guess
from attacks.simulator import Simulator
from attacks.substitute import channels_last
from attacks.view import OwnImages, ServerLoss, View
from ssl_split.display import progress

BUDGETS = {"quick": 1000, "standard": 5000, "paper": 20_000}
"""Iterations of the pseudo-client."""
RATE = 1e-3
GAIN = 0.01
TUNING_RATE, TUNING_BATCH = 1e-4, 32


def aligned(wanted: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Places of random own images, one of each wanted class.

    Args:
        wanted: Classes int64 `(B,)`, each of which is among `labels`.
        labels: Of own images, int64 `(n,)`.
        generator: Of the choice.

    Returns:
        Int64 `(B,)`.
    """
    order = labels.cpu().argsort(stable=True)
    held = labels.cpu()[order]
    first, end = (torch.searchsorted(held, wanted.cpu(), right=right) for right in (False, True))
    share = torch.rand(len(wanted), generator=generator, dtype=torch.float64)
    return order[first + (share * (end - first)).long()]


def shared_classes(theirs: Tensor, own: Tensor) -> Tensor:
    """The clients' labels `(m,)` of which the attacker has images.

    Raises:
        ValueError: there are none.
    """
    kept = theirs.cpu()[torch.isin(theirs.cpu(), own.cpu())]
    if not len(kept):
        raise ValueError("pcat needs own images of the clients' classes, and there are none: set a larger --aux")
    return kept


class Pseudo:
    """The pseudo-client while it is trained.

    Args:
        simulator: The client.
        own: The attacker's images.
        labels: Of those it fits on and of those of the clients, where the server's loss reads labels.
        batch_size: Own images in a step.
    """

    def __init__(self, simulator: Simulator, own: OwnImages, *, labels: tuple[Tensor, Tensor] | None, batch_size: int) -> None:
        self.simulator, self.own, self.size = simulator, own, batch_size
        self.labels = None if labels is None else labels[0]
        self.theirs = None if labels is None else shared_classes(labels[1], labels[0])

    def _places(self) -> Tensor:
        if self.theirs is None or self.labels is None:
            return self.simulator.places(len(self.own.fit), self.size)
        wanted = self.theirs[self.simulator.places(len(self.theirs), self.size)]
        return aligned(wanted, self.labels, generator=self.simulator.random)

    def iteration(self, server: ServerLoss) -> float:
        """One step of the pseudo-client; returns the server's loss."""
        batch = self.simulator.batch(self.own, self._places(), self.labels)
        return self.simulator.step(server(self.simulator.sent, batch, self.simulator.random))


def cycle_error(made: nn.Module, simulator: Simulator, z: Tensor) -> Tensor:
    """Mean over targets of ||f~(d(z)) - z||^2 / ||z||^2.

    Args:
        made: The decoder d, `(B, ...)` -> `(B, 3, S, S)`.
        simulator: f~.
        z: Smashed data `(B, ...)`.
    """
    again = simulator.send(channels_last(made(channels_last(z)).float()))
    return ((again - z).square().flatten(1).sum(1) / z.square().flatten(1).sum(1).clamp(min=1e-30)).mean()


def fine_tune(made: nn.Module, simulator: Simulator, smashed: Tensor, *, steps: int) -> list[float]:
    """Move the decoder, running statistics apart, so that the pseudo-client makes the targets' smashed data of its images.

    Args:
        made: The decoder; it is left in eval mode.
        simulator: The pseudo-client, which stays as it is.
        smashed: Of the targets, `(n, ...)`.
        steps: Of Adam, each on some of the targets.

    Returns:
        The cycle error of each step.
    """
    made.eval()
    simulator.module.eval()
    weights = list(made.parameters())
    optimiser = torch.optim.Adam(weights, TUNING_RATE, fused=True)
    found = []
    with progress(steps, "pcat, fine-tuning") as bar:
        for _ in range(steps):
            rows = torch.randperm(len(smashed), generator=simulator.random)[:TUNING_BATCH].to(smashed.device)
            loss = cycle_error(made, simulator, smashed[rows].float())
            optimiser.zero_grad()
            loss.backward(inputs=weights)
            optimiser.step()
            found.append(loss.item())
            bar.advance(cycle_error=found[-1])
    simulator.module.train()
    return found


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Train the pseudo-client beside the server, a decoder on what it sends, and decode the targets."""
    server, own, chosen = view.server_model, view.aux, options.pcat
    simulator = Simulator(view.architecture, lr=chosen.speed * RATE, seed=seed, purpose="pcat")
    pseudo = Pseudo(simulator, own, labels=(view.aux_labels, view.labels) if server.supervised else None, batch_size=chosen.batch_size)
    iterations, count = chosen.iterations or BUDGETS[options.budget], len(server.moments)
    history: list[float] = []
    with progress(iterations, f"pcat, seed {seed}") as bar:
        for place, moment in enumerate(server.moments):
            loss = moment()
            for _ in range(place * iterations // count, (place + 1) * iterations // count):
                history.append(pseudo.iteration(loss))
                bar.advance(server_loss=history[-1])
    if not math.isfinite(history[-1]):
        raise ValueError("the pseudo-client diverged: set a lower --pcat.speed")
    training, own_error = decoder.of_outputs(simulator.smashed, own, replace(options, preset="strong"), seed=seed)
    cycle = fine_tune(training.model, simulator, view.smashed, steps=chosen.tune)
    if not all(map(math.isfinite, cycle)):
        raise ValueError("the decoder diverged while it was fine-tuned through the pseudo-client: set --pcat.tune 0")
    tenth = max(1, iterations // 10)
    spans = history[-tenth:], history[-2 * tenth : -tenth] or history
    last, before = (sum(span) / len(span) for span in spans)
    notes = {"iterations": iterations, "server_moments": count, "server_loss": last, "own_error": own_error,
             "cycle_error": [cycle[0], cycle[-1]] if cycle else None, "steps": training.steps,
             "still_improving": last < (1 - GAIN) * before or training.still_improving}
    return Guess(training.images(view.smashed), None, notes)
