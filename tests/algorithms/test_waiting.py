"""Waiting shares of two clients against times worked out by hand.

Every message takes one second. A forward pass of a batch takes the fast client one second and the slow one two, a backward pass twice
that, and a pass through the server half one second for each client that shares the server.
"""

from __future__ import annotations

from dataclasses import replace

import harness
import pytest
import torch
from supervised import Trial, small

from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.channel import Channel
from ssl_split.clock import BUSY, OUTSIDE, PRESENT, SINCE, Clock, Devices, absent, waiting_shares
from ssl_split.summary import waiting

NETWORK = {"latency_seconds": 1.0, "server_flops": 2.0}
FAST_AND_SLOW = Devices(speed=torch.tensor([2.0, 1.0], dtype=torch.float64), rate=torch.full((2,), torch.inf, dtype=torch.float64))


def trial(algorithm: str, sizes: list[int], **fields: object) -> Trial:
    """A run of two clients on those devices; a batch is two images."""
    made = Trial(small(algorithm=algorithm, clients=2, network=NETWORK, momentum=0.0, **fields), sizes=sizes)
    made.setup = replace(made.setup, client_flops=1.0, server_flops=1.0)
    made.algorithm = ALGORITHMS[algorithm](made.setup)
    made.begin()
    made.wire.clock._devices = FAST_AND_SLOW
    return made


def shares(made: Trial | harness.Trial) -> list[float]:
    """Of both clients."""
    return waiting_shares(made.state.tensors["presence"], made.state.tensors["clock"]).tolist()


def test_sfl_v1_waits_for_the_server_and_at_the_end_of_the_round() -> None:
    """Fast, two steps: 2 weights, 2 (3 messages + 3 s), server 6 s beside the slow one and 3 s alone: busy 14 of 23 s. Slow, one step:
    2 + 3 + 6, server 6 s: through after 17 s, busy 11 of 23 s. The fast one is the faster, 7 s a step against 11 s, though it ends last."""
    made = trial("sfl_v1", [4, 2])
    made.rounds(1)
    assert made.state.tensors["presence"][[BUSY, PRESENT]].tolist() == [[14, 11], [23, 23]]
    assert made.state.tensors["presence"][SINCE].tolist() == [OUTSIDE, OUTSIDE]
    assert waiting(made.state) == {"waiting_share_fastest": pytest.approx(9 / 23), "waiting_share_mean": pytest.approx((9 + 12) / 46)}
    made.rounds(1)
    assert made.state.tensors["presence"][[BUSY, PRESENT]].tolist() == [[28, 22], [46, 46]]


def test_minibatch_sfl_waits_twice_in_every_step() -> None:
    """A step: uploads are in after 3 s and 4 s, server 6 s, answer and backward pass 3 s and 5 s: 15 s, of which 6 and 9 are busy. Two
    steps and the weights down and up: 32 s."""
    made = trial("minibatch_sfl", [4, 4])
    made.rounds(1)
    assert made.state.tensors["presence"][[BUSY, PRESENT]].tolist() == [[14, 20], [32, 32]]
    assert waiting(made.state) == {"waiting_share_fastest": pytest.approx(18 / 32), "waiting_share_mean": pytest.approx((18 + 12) / 64)}


def test_sfl_v2_waits_for_its_turn_and_for_those_after_it() -> None:
    """Fast, two steps: busy 2 + 2 x 6, server 2 x 3 s. Slow, one step: busy 11, server 3 s. One after the other: 20 + 14 s, in which both
    take part from the first second to the last, whoever comes first."""
    made = trial("sfl_v2", [4, 2])
    made.rounds(1)
    assert made.state.tensors["presence"][[BUSY, PRESENT]].tolist() == [[14, 11], [34, 34]]
    assert waiting(made.state) == {"waiting_share_fastest": pytest.approx(20 / 34), "waiting_share_mean": pytest.approx((20 + 23) / 68)}


def test_mocosfl_waits_twice_in_every_step() -> None:
    """A step: two forward passes and two uploads, 4 s and 6 s, server 2 x 4 s, answer and backward pass 3 s and 5 s: 19 s, of which 7 and
    11 are busy. Two steps and the weights down and up: 40 s."""
    made = harness.Trial(harness.small(algorithm="mocosfl", cut=5, clients=2, network=NETWORK, syncs_per_round=1), steps=2)
    made.algorithm = ALGORITHMS["mocosfl"](replace(made.setup, client_flops=1.0, server_flops=1.0))
    made.state = made.algorithm.init()
    made.state.tensors |= {"clock": torch.zeros(2, dtype=torch.float64), "presence": absent(2)}
    clock = Clock(made.config.network, made.state.tensors["clock"], seed=0, active=2, presence=made.state.tensors["presence"])
    clock._devices = FAST_AND_SLOW
    made.wire = Channel(made.config.wire, made.state.ledger, clock=clock)
    made.run(2)
    made.state.positions += 2 * made.config.batch_size  # which the training loop does
    assert made.state.tensors["presence"][[BUSY, PRESENT]].tolist() == [[16, 24], [40, 40]]
    assert waiting(made.state) == {"waiting_share_fastest": pytest.approx(24 / 40), "waiting_share_mean": pytest.approx(0.5)}


def test_gas_waits_for_the_server_alone() -> None:
    """Both join with 1 s of weights. The fast one is served at 4 s for 3 s, and has handed in at 11 s: busy 8 of 11. The slow one arrives
    at 5 s, finds the server at work until 7 s and then for 6 s on the full buffer, is served until 16 s, and has handed in at 22 s: busy
    11 of 22. Both join again, 1 s, and are at work when training ends."""
    made = trial("gas", [2, 2], gas={"generate": False})
    made.algorithm.clock._devices = FAST_AND_SLOW  # type: ignore[attr-defined]
    made.rounds(1)
    assert made.state.tensors["presence"].tolist() == [[9, 12], [11, 22], [11, 22]]
    assert shares(made) == pytest.approx([3 / 12, 11 / 23])
    assert waiting(made.state)["waiting_share_fastest"] == pytest.approx(3 / 12)


def test_who_misses_the_round_neither_works_nor_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow one alone: 2 + 3 + 6 s and 3 s for the server."""
    monkeypatch.setattr("ssl_split.delivery.Delivery.present", lambda self, clients: clients == 1)
    made = trial("sfl_v1", [2, 2])
    made.rounds(1)
    assert made.state.tensors["presence"][[BUSY, PRESENT]].tolist() == [[0, 11], [0, 14]]
    assert waiting(made.state) == {"waiting_share_fastest": pytest.approx(3 / 14), "waiting_share_mean": pytest.approx(3 / 14)}


def test_nobody_waits_where_there_are_no_clients() -> None:
    made = Trial(small(algorithm="centralised", clients=2))
    made.rounds(1)
    assert waiting(made.state) == {"waiting_share_fastest": None, "waiting_share_mean": None}
