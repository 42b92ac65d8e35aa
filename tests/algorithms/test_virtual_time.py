"""Barriers of each algorithm: virtual seconds of a round against the formulas, with unequal clients."""

from __future__ import annotations

import math
from dataclasses import replace

import harness
import pytest
import torch
from supervised import Trial, small

from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.channel import Channel
from ssl_split.clock import Clock

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


@pytest.mark.parametrize(("tau", "server_waits"), [(1, True), pytest.param(4000, False, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize(("algorithm", "client_passes", "server_passes"), [
    ("sfl_v1", 3, 3), ("sfl_v2", 3, 3), ("minibatch_sfl", 3, 3), ("smofi", 3, 3), ("split_learning", 3, 3), ("mu_splitfed", 3, 6)])
def test_work_is_counted_in_passes(algorithm: str, client_passes: int, server_passes: int) -> None:
    """Of two images a step, 4, 1 and 3 steps: forward and backward (two) on both sides; MU-SplitFed with tau = 2 evaluates the server four
    times for its steps and twice for the answer."""
    made = trial(algorithm)
    made.rounds(1)
    expected = [2 * client_passes * CLIENT * steps for steps in (4, 1, 3)] + [2 * server_passes * SERVER * 8]
    torch.testing.assert_close(made.wire.clock.work, torch.tensor(expected, dtype=torch.float64))


def test_gas_counts_the_steps_on_full_buffers_too() -> None:
    """Two client steps each in one round, three gradients and, with Q = 3, two server steps on 3 x 2 images."""
    made = trial("gas", local_steps=2, gas={"generate": False})
    made.rounds(1)
    work = made.state.tensors["flops"]
    assert work[:-1].sum().item() == pytest.approx(6 * 2 * 3 * CLIENT)
    assert work[-1].item() == pytest.approx((6 * 2 + 2 * 6) * 3 * SERVER)


@pytest.mark.parametrize(("symmetric", "views"), [("none", 1), ("stacked", 2)])
def test_mocosfl_waits_twice_in_every_step(symmetric: str, views: int) -> None:
    """max over clients of (two forward passes + two uploads), server (query forward and backward, key forward), max of (gradient +
    backward); a round of 4 steps with 2 syncs: weights come down at its start and at the first sync, and go up at both."""
    made = harness.Trial(harness.small(algorithm="mocosfl", cut=5, network=NETWORK, symmetric=symmetric))
    setup = replace(made.setup, client_flops=CLIENT, server_flops=SERVER)
    made.algorithm = ALGORITHMS["mocosfl"](setup)
    made.state = made.algorithm.init()
    clock = Clock(made.config.network, torch.zeros(3, dtype=torch.float64), seed=0, active=3)
    made.wire = Channel(made.config.wire, made.state.ledger, clock=clock)
    made.run(4)
    images, devices = 2 * views, clock._devices
    smashed = 0.01 + 8 * 4 * images * math.prod(setup.network.smashed_shape) / devices.rate
    model = 0.01 + 8 * 4 * sum(p.numel() for p in setup.network.client.parameters()) / devices.rate
    work = 2 * images * CLIENT / devices.speed
    time = model
    for step in range(4):
        time = (time + work + 2 * smashed).max() + 4 * images * SERVER * 3 / 1e9
        time = (time + smashed + work).max().expand(3)
        if step in (1, 3):
            time = (time + model).max().expand(3)
        if step == 1:
            time = time + model
    assert clock.now == pytest.approx(time.max().item())


def test_nobody_waits_for_who_misses_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniBatch-SFL without its slowest client takes no time of that client's, and the server works for the others alone."""
    made = trial("minibatch_sfl", local_steps=2)
    made.rounds(1)
    slowest = int(made.wire.clock.work[:3].argmax()) if made.wire.clock.work[:3].std() else int(made.wire.clock._devices.speed.argmin())
    monkeypatch.setattr("ssl_split.delivery.Delivery.present", lambda self, clients: clients != slowest)
    without = trial("minibatch_sfl", local_steps=2)
    without.rounds(1)
    assert without.wire.clock.work[slowest] == 0
    assert without.wire.clock.work[-1] == pytest.approx(float(made.wire.clock.work[-1]) * 2 / 3)
    assert without.wire.clock.now < made.wire.clock.now


def test_one_client_costs_the_same_everywhere() -> None:
    times = []
    for algorithm in ("sfl_v1", "sfl_v2", "minibatch_sfl", "smofi", "split_learning"):
        made = trial(algorithm, clients_per_round=1)
        made.rounds(1)
        times.append(made.wire.clock.now)
    assert times == pytest.approx([times[0]] * 5)
