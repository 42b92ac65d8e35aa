"""Virtual time: how long a run would take on given devices and links. Nothing sleeps, and the host's speed plays no part.

A transfer of b bytes on client i takes latency + 8 b / rate_i, a computation FLOPs / speed_i. Every client has the time at which it is
ready; messages and computations move it on, a barrier sets several to the latest
of them. Which barriers there are is the algorithm's matter.

A client is present from when it joins (a round begins for it) until it leaves (the round is over for all who share its barriers), and
busy while it computes or transfers in between. For the rest of that time it waits: for other clients, for its turn, or for the server.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split.config import NetworkOptions
from ssl_split.rng import generator

CELL_HERTZ, CELL_WATT, NOISE_DBM_PER_HERTZ = 10e6, 0.2, -174.0
"""Band, transmission power and noise density of the radio cell (GAS, arXiv 2409.01251, and its code)."""

BUSY, PRESENT, SINCE = range(3)
"""Rows of `Clock.presence`: busy seconds, seconds of rounds that are over, and when a client joined the round it is in."""

OUTSIDE = -1.0
"""Stands for the time of joining of a client that is not present."""


@dataclass(frozen=True)
class Devices:
    """What clients compute and send with.

    Attributes:
        speed: FLOP/s, float64 `(N,)`.
        rate: bit/s in either direction, float64 `(N,)`.
    """

    speed: Tensor
    rate: Tensor


def draw_devices(options: NetworkOptions, clients: int, *, seed: int, active: int, round: int = 0) -> Devices:
    """Speeds and rates of all clients, from seeded distributions with the given means.

    Args:
        options: Distributions and their parameters.
        clients: N.
        seed: The run's seed.
        active: Clients at work together, who share the band of a cell under `share_band`.
        round: Of the draw, where devices change from round to round (`per_round`).
    """
    key = round if options.per_round else 0
    compute, link = (generator(seed, f"network {what}", key) for what in ("compute", "link"))
    if options.compute == "cell":
        speed = 1e9 + 9e9 * torch.rand(clients, generator=compute, dtype=torch.float64)
    else:
        speed = options.compute_flops * _spread(options.compute, options.compute_spread, clients, compute)
    if options.link == "cell":
        rate = cell_rate(0.1 + 0.9 * torch.rand(clients, generator=link, dtype=torch.float64))
        rate = rate / active if options.share_band else rate
    else:
        rate = options.link_bits_per_second * _spread(options.link, options.link_spread, clients, link)
    return Devices(speed, rate)


def cell_rate(kilometres: Tensor) -> Tensor:
    """Shannon rate in bit/s of a client in a radio cell: W log2(1 + P g / (W N0)), path loss 128.1 + 37.6 log10(r) dB."""
    gain = 10 ** (-(128.1 + 37.6 * kilometres.log10()) / 10)
    noise = 10 ** (NOISE_DBM_PER_HERTZ / 10) / 1000 * CELL_HERTZ
    return CELL_HERTZ * torch.log2(1 + CELL_WATT * gain / noise)


def _spread(kind: str, spread: float, count: int, g: torch.Generator) -> Tensor:
    """Positive factors with mean 1, float64 `(count,)`: lognormal with standard deviation `spread` of the logarithm, Pareto with shape
    `spread` (above 1)."""
    if kind == "lognormal":
        return (spread * torch.randn(count, generator=g, dtype=torch.float64) - spread * spread / 2).exp()
    if kind == "pareto":
        uniform = 1 - torch.rand(count, generator=g, dtype=torch.float64)  # in (0, 1]
        return (spread - 1) / spread * uniform ** (-1 / spread)
    return torch.ones(count, dtype=torch.float64)


def absent(clients: int) -> Tensor:
    """What `Clock.presence` starts from: nobody was busy or present, or is now; float64 `(3, N)`."""
    made = torch.zeros(3, clients, dtype=torch.float64)
    made[SINCE] = OUTSIDE
    return made


def waiting_shares(presence: Tensor, ready: Tensor) -> Tensor:
    """1 - busy / present seconds of each client, float64 `(N,)`; nan for one that was never present.

    Args:
        presence: As a clock leaves it. Who is still present counts up to when it is ready.
        ready: When each client is ready.
    """
    present = presence[PRESENT] + torch.where(presence[SINCE] == OUTSIDE, 0.0, ready - presence[SINCE])
    return (1 - presence[BUSY] / present).clamp(min=0)  # 0 / 0 is nan; rounding may leave -1e-16


class Clock:
    """When each client is ready, in virtual seconds, how much was computed, and who waited how long. `ready`, `work` and `presence` are the
    state's, and in checkpoints."""

    def __init__(self, options: NetworkOptions, ready: Tensor, *, seed: int, active: int, work: Tensor | None = None,
                 presence: Tensor | None = None) -> None:
        """
        Args:
            options: Devices, links and server.
            ready: float64 `(N,)`, updated in place.
            seed: The run's seed.
            active: Clients at work together.
            work: FLOPs so far of each client and, last, of the server, float64 `(N + 1,)`; None where nobody asks.
            presence: Busy and present seconds so far, and when who is present joined (see `absent`); None where nobody asks.
        """
        self.options, self.ready = options, ready
        self.work = torch.zeros(len(ready) + 1, dtype=torch.float64) if work is None else work
        self.presence = absent(len(ready)) if presence is None else presence
        self._seed, self._active = seed, active
        self._round, self._devices = 0, self._draw(0)

    def _draw(self, round: int) -> Devices:
        return draw_devices(self.options, len(self.ready), seed=self._seed, active=self._active, round=round)

    def enter(self, round: int) -> None:
        """Take up the devices of a round."""
        if round != self._round:
            self._round, self._devices = round, self._draw(round)

    @property
    def now(self) -> float:
        """When the last client is ready."""
        return float(self.ready.max())

    def transfer(self, clients: Tensor, size_bytes: int, *, times: Tensor | int = 1) -> None:
        """A message of each client, in either direction, sent so many times."""
        self._spend(clients, times * (self.options.latency_seconds + 8 * size_bytes / self._devices.rate[clients]))

    def compute(self, clients: Tensor, flops: float, *, share: float | Tensor) -> None:
        """Work of each client.

        Args:
            clients: int64 `(A,)`.
            flops: Of each.
            share: Which part of a client's work of the round this is, one or `(A,)`. Under `exponential` the whole of it takes a random
                time, whatever its FLOPs.
        """
        self.work[clients] += flops
        if self.options.compute == "exponential" and len(clients):
            drawn = [torch.empty((), dtype=torch.float64).exponential_(generator=generator(self._seed, "network work", self._round, c))
                     for c in clients.tolist()]
            self._spend(clients, torch.stack(drawn) * self.options.compute_seconds * share)
        else:
            self._spend(clients, flops / self._devices.speed[clients])

    def _spend(self, clients: Tensor, seconds: Tensor) -> None:
        """Time in which clients are busy; it counts as such while they are present."""
        self.ready[clients] += seconds
        self.presence[BUSY, clients] += torch.where(self.presence[SINCE, clients] == OUTSIDE, 0.0, seconds)

    def serve(self, clients: Tensor, flops: float) -> None:
        """Work of the server for each of these clients at once, who share it: each waits for all of it."""
        self.work[-1] += len(clients) * flops
        self.ready[clients] += len(clients) * flops / self.options.server_flops

    def serve_since(self, clients: Tensor, start: float, flops: float) -> None:
        """Work that the server began at `start` and shares out; clients that arrive later do not wait."""
        self.work[-1] += len(clients) * flops
        done = start + len(clients) * flops / self.options.server_flops
        self.ready[clients] = self.ready[clients].clamp(min=done)

    def meet(self, clients: Tensor) -> None:
        """A barrier."""
        self.ready[clients] = self.ready[clients].max()

    def follow(self, clients: Tensor, seconds: float) -> None:
        """These clients begin no earlier than that."""
        self.ready[clients] = self.ready[clients].clamp(min=seconds)

    def join(self, clients: Tensor) -> None:
        """These clients are present from when they are ready."""
        self.presence[SINCE, clients] = self.ready[clients]

    def leave(self, clients: Tensor) -> None:
        """Those of these clients who are present are so until the last of all these is ready."""
        here = clients[self.presence[SINCE, clients] != OUTSIDE]
        self.presence[PRESENT, here] += self.ready[clients].max() - self.presence[SINCE, here]
        self.presence[SINCE, here] = OUTSIDE

