"""FSHA: a server that sends false gradients until the client's smashed data look like those of a network that it can invert.

Source: Pasquini, Ateniese, Bernaschi, "Unleashing the Tiger", CCS 2021 (arXiv 2012.02670), algorithm 1. The published gradient penalty
takes its norm over two of the three axes of an activation; here it is over all of them. The defaults are those with which a critic with
gradient penalty is trained elsewhere (Gulrajani et al. 2017), not the published ones, which need 10,000 steps; each is a flag.

Symbol key: f the attacked client, f~ the attacker's pilot, f~^-1 its inverse, D the critic, x_pub own images, z = f(x_priv).
    f~, f~^-1 <- descend |f~^-1(f~(x_pub)) - x_pub|^2;   D <- descend mean D(f~(x_pub)) - mean D(z) + penalty (|grad D| - 1)^2
    the client gets the gradient of mean D(z) with respect to z
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.substitute import Critic, Substitute, built, gradient_penalty
from ssl_split import fields, rng
from ssl_split.models import decoder

NEEDS = ("smashed", "aux", "gradient_control")


@dataclass(frozen=True)
class HijackOptions:
    """The malicious server."""

    clients: tuple[int, ...] = fields.field((0,), "attacked clients; the others get their true gradients", low=0)
    lr: float = fields.field(1e-3, "Adam's rate of pilot and inverse (published 1e-5, for 10,000 steps)", above=0)
    critic_lr: float = fields.field(2e-3, "Adam's rate of the critic (published 1e-4)", above=0)
    critic_momentum: float = fields.field(0.0, "Adam's first beta of the critic (published 0.9, with which it turns in circles)", low=0,
                                          high=0.999)
    penalty: float = fields.field(10.0, "weight of the gradient penalty (published 500)", low=0)
    width: int = fields.field(64, "channels of its networks", low=2)
    batch_size: int = fields.field(64, "own images a step", low=2)
    inner: int = fields.field(1, "steps of pilot and critic for each step of the client", low=1)
    scale: str = fields.field("honest", "length of the false gradient: honest, that of the true one; none, as it comes",
                              choices=("honest", "none"))
    aux: int = fields.field(5000, "the attacker's images, or all there are", low=20)
    targets: int = fields.field(128, "attacked images of these clients that are rebuilt in the end", low=2)
    seed: int = fields.field(0, "of the attacker", low=0)


@dataclass
class Trace:
    """What happened, one entry a step.

    Attributes:
        cosine: Between the false and the true gradient, mean over images.
        ratio: Length of the false gradient in units of the true one, before scaling.
        inversion: Loss of the pilot.
        distance: mean D(z) - mean D(f~(x_pub)), which the critic makes large and the client small.
    """

    cosine: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    inversion: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float | None]:
        """Means over the first and the last tenth of the steps."""
        last = max(1, len(self.cosine) // 10)

        def mean(values: list[float]) -> float | None:
            return fmean(values) if values else None

        return {"cosine_first": mean(self.cosine[:last]), "cosine_last": mean(self.cosine[-last:]), "cosine": mean(self.cosine),
                "ratio": mean(self.ratio), "inversion_first": mean(self.inversion[:last]), "inversion_last": mean(self.inversion[-last:]),
                "distance_first": mean(self.distance[:last]), "distance_last": mean(self.distance[-last:])}


class FSHA:
    """A hand on the wire (`train.run(tamper=...)`): it sees messages alone.

    Args:
        own: Number of images, generator -> own images `(n, 3, S, S)` as clients feed them in, and the same in [0, 1].
        options: Of the attack.
        image_size: Pixels per side.
        device: Where its networks live.
    """

    def __init__(self, own: Callable[[int, torch.Generator], tuple[Tensor, Tensor]], options: HijackOptions, *, image_size: int,
                 device: torch.device) -> None:
        self.own, self.options, self.device, self.image_size = own, options, device, image_size
        self.trace = Trace()
        self._seen: dict[int, Tensor] = {}
        self._steps = 0
        self.pilot: nn.Module | None = None

    def message(self, kind: str, arrived: Tensor, clients: Tensor, came: Tensor) -> Tensor:
        """Keep what attacked clients send; put false gradients in the place of their true ones."""
        if kind == "act_up":
            self._seen = {c: arrived[i].detach() for i, c in enumerate(clients.tolist()) if c in self.options.clients and bool(came[i])}
        if kind != "grad_down" or not self._seen:
            return arrived
        rows = [i for i, c in enumerate(clients.tolist()) if c in self._seen]
        if not rows:
            return arrived
        z = torch.cat([self._seen[int(clients[i])] for i in rows]).float()
        false = self._step(z).unflatten(0, (len(rows), -1)).to(arrived)
        true = arrived[rows]
        lengths = true.flatten(1).norm(dim=1), false.flatten(1).norm(dim=1).clamp(min=1e-30)
        self.trace.cosine.append(F.cosine_similarity(false.flatten(0, 1).flatten(1), true.flatten(0, 1).flatten(1)).mean().item())
        self.trace.ratio.append((lengths[1] / lengths[0].clamp(min=1e-30)).mean().item())
        if self.options.scale == "honest":
            false = false * (lengths[0] / lengths[1]).view(-1, *[1] * (false.dim() - 1))
        made = arrived.clone()
        made[rows] = false
        return made

    def _build(self, z: Tensor) -> None:
        shape = tuple(z.shape[1:])

        def generator(name: str) -> torch.Generator:
            return rng.generator(self.options.seed, f"hijack {name}")

        size, width = self.image_size, self.options.width
        self.pilot = built(Substitute(shape, image_size=size, width=width), generator("pilot"), self.device)
        self.inverse = decoder.build(shape, generator("inverse"), image_size=size, blocks=2, channels=width).to(self.device)
        self.critic = built(Critic(shape, width=width), generator("critic"), self.device)
        self._pilot_steps = torch.optim.Adam([*self.pilot.parameters(), *self.inverse.parameters()], lr=self.options.lr)
        momentum = self.options.critic_momentum
        betas = (momentum, 0.999 if momentum else 0.9)
        self._critic_steps = torch.optim.Adam(self.critic.parameters(), lr=self.options.critic_lr, betas=betas)

    def _step(self, z: Tensor) -> Tensor:
        """Train pilot, inverse and critic, then the gradient of mean D(z) with respect to z."""
        with torch.enable_grad():
            if self.pilot is None:
                self._build(z)
            for _ in range(self.options.inner):
                self._learn(z)
            seen = z.clone().requires_grad_()
            gradient = torch.autograd.grad(self.critic(seen).mean(), seen)[0]
        return gradient

    def _learn(self, z: Tensor) -> None:
        assert self.pilot is not None
        draws = rng.generator(self.options.seed, "hijack step", self._steps)
        self._steps += 1
        fed, images = self.own(self.options.batch_size, draws)
        made = self.pilot(fed)
        loss = F.mse_loss(self.inverse(made), images)
        self._pilot_steps.zero_grad()
        loss.backward()
        self._pilot_steps.step()
        made = made.detach()
        seen = z[torch.randint(len(z), (len(made),), generator=draws).to(z.device)]
        distance = self.critic(seen).mean() - self.critic(made).mean()
        self._critic_steps.zero_grad()
        (self.options.penalty * gradient_penalty(self.critic, made, seen, generator=draws) - distance).backward()
        self._critic_steps.step()
        self.trace.inversion.append(loss.item())
        self.trace.distance.append(distance.item())

    def reconstruct(self, z: Tensor) -> Tensor:
        """Images `(n, 3, S, S)` in [0, 1] of smashed data `(n, ...)`.

        Raises:
            ValueError: no attacked client was ever seen.
        """
        if self.pilot is None:
            raise ValueError(f"no attacked client (hijack.clients {' '.join(map(str, self.options.clients))}) got a gradient in this "
                             "training: nothing could be hijacked")
        self.inverse.eval()
        with torch.no_grad():
            return torch.cat([self.inverse(part.float()) for part in z.split(64)]).clamp(0, 1)
