"""Barriers of each algorithm: virtual seconds of a round against the formulas, with unequal clients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from supervised import Trial, small

from ssl_split.algorithms.table import ALGORITHMS

CLIENT, SERVER = 3e6, 5e6
"""FLOPs of an image's forward pass."""

NETWORK = {"compute": "lognormal", "link": "lognormal", "latency_seconds": 0.01, "server_flops": 1e9}


def trial(algorithm: str, **fields: object) -> Trial:
    """A run whose halves cost round numbers, on unequal devices."""
    made = Trial(small(algorithm=algorithm, network=NETWORK, momentum=0.0, **fields), sizes=[8, 2, 6])
    made.setup = replace(made.setup, client_flops=CLIENT, server_flops=SERVER)
    made.algorithm = ALGORITHMS[algorithm](made.setup)
    made.begin()
    return made


class Parts:
    """Seconds of the parts of one client's step, `(3,)` over clients."""

    def __init__(self, made: Trial) -> None:
        devices, latency = made.wire.clock._devices, 0.01
        h = 4 * 2 * math.prod(made.network.smashed_shape)  # bytes of two images
        c = 4 * sum(p.numel() for p in made.network.client.parameters())
        self.forward, self.backward = 2 * CLIENT / devices.speed, 4 * CLIENT / devices.speed
        self.act = latency + 8 * h / devices.rate
        self.label = latency + 8 * 16 / devices.rate
        self.scalar = latency + 8 * 4 / devices.rate
        self.model = latency + 8 * c / devices.rate
        self.server = 2 * SERVER / 1e9
        """Of one forward pass of a batch, alone on the server."""


def test_sfl_v1_has_no_barrier_between_steps() -> None:
    """max over clients of the sum of their own steps; the server is shared by those who still work: 3, then 2, 2 and 1."""
    made = trial("sfl_v1")
    made.rounds(1)
    p = Parts(made)
    own = []
    for j, steps in enumerate([4, 1, 3]):
        served = sum(3 * p.server * working for working in [3, 2, 2, 1][:steps])
        own.append(2 * p.model[j] + steps * (p.forward + p.act + p.label + p.act + p.backward)[j] + served)
    assert made.wire.clock.now == pytest.approx(max(own).item())


def test_sfl_v2_adds_up_where_sfl_v1_takes_the_maximum() -> None:
    made = trial("sfl_v2")
    made.rounds(1)
    p = Parts(made)
    own = 2 * p.model + torch.tensor([4, 1, 3]) * (p.forward + 2 * p.act + p.label + p.backward + 3 * p.server)
    assert made.wire.clock.now == pytest.approx(own.sum().item())


@pytest.mark.parametrize("algorithm", ["smofi", "minibatch_sfl"])
def test_a_barrier_in_every_step(algorithm: str) -> None:
    """max over those at work of (forward + uploads), server, max of (answer + backward), step by step; then the model exchange."""
    made = trial(algorithm)
    made.rounds(1)
    p = Parts(made)
    time = p.model.clone()
    for working in ([0, 1, 2], [0, 2], [0, 2], [0]):
        time[working] = (time + p.forward + p.act + p.label)[working].max() + 3 * p.server * len(working)
        time[working] = (time + p.act + p.backward)[working].max()
    assert made.wire.clock.now == pytest.approx((time + p.model).max().item())


@pytest.mark.parametrize(("tau", "server_waits"), [(1, True), (4000, False)])
def test_mu_splitfed_hides_the_server_behind_the_slowest_client(tau: int, server_waits: bool) -> None:
    """max(max_m(three forward passes and uploads), tau server steps), the two evaluations of the answer, one number down; one step."""
    made = trial("mu_splitfed", local_steps=1, server_lr=0.0, client_lr=0.0, mu_splitfed={"tau": 1})
    made.algorithm.options = replace(made.algorithm.options, tau=tau)  # type: ignore[attr-defined]
    if tau > 1:  # the arithmetic of so many steps is of no interest here
        made.algorithm._server_step = lambda *a: None  # type: ignore[attr-defined]
    made.rounds(1)
    p = Parts(made)
    waiting = (p.model + 3 * p.forward + 3 * p.act + p.label).max()
    server = p.model.max() + tau * 2 * p.server * 3
    assert (waiting > server) == server_waits
    end = (torch.maximum(waiting, server) + 3 * 2 * p.server + p.scalar + p.model).max()
    assert made.wire.clock.now == pytest.approx(end.item())


def test_one_client_costs_the_same_everywhere() -> None:
    times = []
    for algorithm in ("sfl_v1", "sfl_v2", "minibatch_sfl", "smofi", "split_learning"):
        made = trial(algorithm, clients_per_round=1)
        made.rounds(1)
        times.append(made.wire.clock.now)
    assert times == pytest.approx([times[0]] * 5)
