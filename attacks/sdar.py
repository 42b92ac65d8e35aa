"""SDAR: a simulator of the clients that the server's half understands and a critic cannot tell from them, and its decoder.

The server has its own half g, knows the shape of the clients' network, has collected smashed data z and has images x (labels y where the
run is supervised). It trains a simulator e with weights of its own, two discriminators, and a decoder d, which it applies to the targets.

    e:     server loss of e(x) + l1 BCE(Dis_e(e(x)), 1);  supervised CE(g(e(x)), y), else InfoNCE of two views of x against the queue
    Dis_e: BCE(Dis_e(z), 1) + BCE(Dis_e(e(x)), 0)
    d:     MSE(d(e(x)), x) + l2 BCE(Dis_d(d(z)), 1)
    Dis_d: BCE(Dis_d(x), 1) + BCE(Dis_d(d(z)), 0)

`published`: Adam 1e-3 (e), 5e-4 (d), l1 1e-3 (Dis_e), l2 5e-4 (Dis_d), l1 0.04, l2 1e-5, batches of 128, 20 000 iterations.

`strong` (default): the critic of `attacks.fora` in the place of Dis_e, and its Adam 2e-3 for both, falling to 0 as a cosine:

    e:     server loss of e(x) + mean D(e(x));   D: mean D(z) - mean D(e(x)) + 10 (||slope of D|| - 1)^2

and then the decoder of `attacks.decoder` on pairs (e(x), x), with its budgets.

Source: Zhu et al., "Passive Inference Attacks on Split Learning via Adversarial Regularization", NDSS 2025 (arXiv 2310.10483).
Deviations: the server's half is that of the checkpoint (the published attack trains along with it); discriminators and decoder see no
labels; smashed data are brought to mean 0 and deviation 1 overall before them; the decoder is that of `attacks.decoder`, and has
both kinds in one batch; the form without labels is this project's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import decoder
from attacks.api import AttackOptions, Guess, SdarOptions
from attacks.simulator import Simulator
from attacks.substitute import Critic, Scale, built, channels_last
from attacks.view import Architecture, Batch, Collected, OwnImages, ServerLoss, View
from attacks.wasserstein import BETAS, RATE, Wasserstein, cosine
from ssl_split import rng
from ssl_split.display import progress
from ssl_split.models.decoder import build

BUDGETS = {"quick": 1000, "standard": 5000, "paper": 20_000}
"""Iterations."""
RATES = {"simulator": 1e-3, "decoder": 5e-4}
"""Published. A discriminator's rate is that of what it judges times its weight there."""
MEASURED = 256
"""Collected data from which mean and deviation are taken."""
GAIN = 0.01


def judged_as(logits: Tensor, real: float) -> Tensor:
    """Mean binary cross-entropy of a discriminator's logits `(B,)` against 1 (real) or 0."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))


@dataclass(frozen=True)
class Known:
    """What the attacker has.

    Attributes:
        architecture: Shape of the client.
        server: The server's loss.
        own: The attacker's images.
        labels: Of those it fits on, `(n,)`; None without.
        collected: What the server has seen.
    """

    architecture: Architecture
    server: ServerLoss
    own: OwnImages
    labels: Tensor | None
    collected: Collected

    def scale(self) -> Scale:
        """Units in which the smashed data have mean 0 and deviation 1."""
        return Scale.of(self.collected.take(torch.arange(min(MEASURED, self.collected.count))))

    def batch(self, simulator: Simulator, size: int) -> tuple[Batch, Tensor]:
        """Own images and what the simulator makes of them, and as many collected smashed data."""
        batch = simulator.batch(self.own, simulator.places(len(self.own.fit), size), self.labels)
        return batch, self.collected.take(simulator.places(self.collected.count, size))


class Simulation:
    """The preset `published` while it is trained: simulator, decoder and their discriminators.

    Args:
        known: What the attacker has.
        options: Weights, rates and batch size.
        shape: Of one image's smashed data.
        seed: Of weights and batches.
    """

    def __init__(self, known: Known, options: AttackOptions, *, shape: tuple[int, ...], seed: int) -> None:
        self.known, self.chosen, self.scale = known, options.sdar, known.scale()
        self.simulator = Simulator(known.architecture, lr=self.chosen.speed * RATES["simulator"], seed=seed, purpose="sdar")
        images, device, width = known.own.fit, known.own.fit.device, self.chosen.width
        made = build(shape, rng.generator(seed, "sdar decoder"), image_size=images.shape[-1], blocks=options.decoder.blocks or 0,
                     channels=options.decoder.channels or decoder.PRESETS["strong"].channels)
        self.decoder: nn.Module = made.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.judge_z = built(Critic(shape, width=width), rng.generator(seed, "sdar critic of z"), device)
        self.judge_x = built(Critic(tuple(images.shape[1:]), width=width), rng.generator(seed, "sdar critic of x"), device)
        weights, decoding = self.chosen.smashed_weight, RATES["decoder"]
        rates = {"decoder": decoding, "judge_z": weights * RATES["simulator"], "judge_x": self.chosen.image_weight * decoding}
        self.weights = {name: list(getattr(self, name).parameters()) for name in rates}
        self.optimisers = {name: torch.optim.Adam(self.weights[name], self.chosen.speed * rate, fused=True) for name, rate in rates.items()}

    def _step(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad()
        loss.backward(inputs=self.weights[name])
        self.optimisers[name].step()

    def iteration(self) -> tuple[float, float, float]:
        """One step of each network.

        Returns:
            The server's loss, what the discriminator of smashed data loses (log 4 where it tells nothing apart), and the decoder's error.
        """
        batch, collected = self.known.batch(self.simulator, self.chosen.batch_size)
        z = channels_last(self.scale.apply(collected))
        served = self.known.server(self.simulator.sent, batch, self.simulator.random)
        scaled = self.scale.apply(batch.smashed)
        self.simulator.step(served + self.chosen.smashed_weight * judged_as(self.judge_z(scaled), 1))
        fake = scaled.detach()
        apart = judged_as(self.judge_z(z), 1) + judged_as(self.judge_z(fake), 0)
        if self.chosen.smashed_weight:
            self._step("judge_z", apart)
        return served.item(), apart.item(), self._decode(fake, z, batch.images)

    def _decode(self, fake: Tensor, z: Tensor, x: Tensor) -> float:
        """One step of the decoder and its discriminator; returns the error on own images."""
        if not self.chosen.image_weight:
            error = (self.decoder(fake) - x).square().mean()
            self._step("decoder", error)
            return error.item()
        mine, theirs = self.decoder(torch.cat([fake, z])).chunk(2)  # in one batch: its normalisation is one function of both
        error = (mine - x).square().mean()
        self._step("decoder", error + self.chosen.image_weight * judged_as(self.judge_x(theirs), 1))
        self._step("judge_x", judged_as(self.judge_x(x), 1) + judged_as(self.judge_x(theirs.detach()), 0))
        return error.item()

    def reconstruct(self, z: Tensor) -> Tensor:
        """Images `(n, 3, S, S)` in [0, 1] of smashed data."""
        self.decoder.eval()
        with torch.no_grad():
            images = torch.cat([self.decoder(channels_last(part)) for part in self.scale.apply(z).split(128)])
        self.decoder.train()
        return images.clamp(0, 1)

    def own_error(self) -> float:
        """MSE of what the decoder makes of the simulator's data of own validation images: says nothing about the client."""
        images = self.known.own.validation
        return (self.reconstruct(self.simulator.smashed(images)) - images).square().mean().item()


class Aligned:
    """The preset `strong` while it is trained: a simulator that satisfies the server, and whose outputs the critic takes for the clients'.

    Args:
        known: What the attacker has.
        chosen: Rates, width and batch size.
        shape: Of one image's smashed data.
        iterations: That there will be.
        seed: Of weights and batches.
    """

    def __init__(self, known: Known, chosen: SdarOptions, *, shape: tuple[int, ...], iterations: int, seed: int) -> None:
        self.known, self.chosen, self.scale, self.iterations, self.done = known, chosen, known.scale(), iterations, 0
        rate = chosen.speed * RATE
        self.simulator = Simulator(known.architecture, lr=rate, betas=BETAS, seed=seed, purpose="sdar")
        self.critic = Wasserstein(shape, width=chosen.width, generator=rng.generator(seed, "sdar critic of z"), device=known.own.fit.device,
                                  rate=rate)

    def iteration(self) -> tuple[float, float, float]:
        """One step of critic and simulator.

        Returns:
            The server's loss, the critic's mean difference, and nan: the decoder learns afterwards.
        """
        share = cosine(self.done, self.iterations)
        batch, collected = self.known.batch(self.simulator, self.chosen.batch_size)
        scaled = self.scale.apply(batch.smashed)
        difference = self.critic.learn(channels_last(self.scale.apply(collected)), scaled, generator=self.simulator.random, share=share)
        served = self.known.server(self.simulator.sent, batch, self.simulator.random)
        self.simulator.step(served + self.critic(scaled), share=share)
        self.done += 1
        return served.item(), difference, math.nan

    def outputs(self, images: Tensor) -> Tensor:
        """Scaled smashed data of images in [0, 1] through the simulator, without gradients."""
        return self.scale.apply(self.simulator.smashed(images))


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Train a simulator and a decoder beside the server, and decode the targets."""
    server, own, collected = view.server_model, view.aux, view.collected
    if collected.count < 2:
        raise ValueError("sdar needs smashed data of clients' images that are no targets, and all are: set a smaller --targets")
    known = Known(view.architecture, server.moments[-1](), own, view.aux_labels if server.supervised else None, collected)
    iterations, shape = options.sdar.iterations or BUDGETS[options.budget], tuple(view.smashed.shape[1:])
    training = (Simulation(known, options, shape=shape, seed=seed) if options.preset == "published" else
                Aligned(known, options.sdar, shape=shape, iterations=iterations, seed=seed))
    history: list[tuple[float, float, float]] = []
    with progress(iterations, f"sdar, seed {seed}") as bar:
        for _ in range(iterations):
            history.append(training.iteration())
            bar.advance(server_loss=history[-1][0], critic=history[-1][1])
    if not all(map(math.isfinite, history[-1][:2])):
        raise ValueError("the simulator diverged: set a lower --sdar.speed")
    tenth = max(1, iterations // 10)
    spans = history[-tenth:], history[-2 * tenth : -tenth] or history
    last, before = (torch.tensor(span, dtype=torch.float64).mean(0).tolist() for span in spans)
    notes = {"iterations": iterations, "collected": collected.count, "server_loss": last[0], "critic_loss": last[1],
             "still_improving": last[0] < (1 - GAIN) * before[0] or last[2] < (1 - GAIN) * before[2]}
    if isinstance(training, Simulation):
        return Guess(training.reconstruct(view.smashed), None, notes | {"own_error": training.own_error()})
    made, own_error = decoder.of_outputs(training.outputs, own, options, seed=seed)
    improving = {"still_improving": notes["still_improving"] or made.still_improving}
    return Guess(made.images(training.scale.apply(view.smashed)), None, made.notes() | notes | improving | {"own_error": own_error})
