"""Virtual time against hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch

from ssl_split import config as configuration
from ssl_split.clock import BUSY, PRESENT, Clock, cell_rate, draw_devices, waiting_shares
from ssl_split.config import NetworkOptions

EVERYBODY = torch.arange(2)


def clock(**options: object) -> Clock:
    return Clock(NetworkOptions(**options), torch.zeros(2, dtype=torch.float64), seed=0, active=2)  # type: ignore[arg-type]


def test_two_clients_by_hand() -> None:
    """1000 bytes at 1000 bit/s and half a second of latency: 8.5 s; 4e6 FLOP at 2e6 FLOP/s: 2 s; the server divides 1e6 FLOP/s."""
    made = clock(link_bits_per_second=1000.0, latency_seconds=0.5, compute_flops=2e6, server_flops=1e6)
    made.compute(EVERYBODY[:1], 4e6, share=1.0)
    assert made.ready.tolist() == [2.0, 0.0]
    made.transfer(EVERYBODY, 1000)
    assert made.ready.tolist() == [10.5, 8.5]
    made.meet(EVERYBODY)
    made.serve(EVERYBODY, 1e6)
    assert made.ready.tolist() == [12.5, 12.5]
    made.follow(EVERYBODY[1:], 20.0)
    made.serve_since(EVERYBODY[:1], 0.0, 13e6)
    assert made.ready.tolist() == [13.0, 20.0]
    assert made.now == 20.0


def test_a_server_that_is_done_before_the_clients_costs_nothing() -> None:
    made = clock(server_flops=1e6)
    made.ready[:] = 5.0
    made.serve_since(EVERYBODY, 1.0, 1e6)  # 2 clients x 1 s from second 1 on
    assert made.ready.tolist() == [5.0, 5.0]


def test_busy_and_present_seconds_by_hand() -> None:
    """The first joins at second 0, the second at 4; both leave when the later one is ready, and nobody is charged before or after."""
    made = clock(latency_seconds=1.0, link_bits_per_second=8.0, compute_flops=2.0, server_flops=1.0)
    made.transfer(EVERYBODY[1:], 3)  # 4 s, before it joins
    made.join(EVERYBODY)
    made.compute(EVERYBODY, 4.0, share=1.0)  # 2 s: ready at 2 and 6
    made.transfer(EVERYBODY, 0, times=torch.tensor([3, 0]))  # three attempts of 1 s, and none: ready at 5 and 6
    made.meet(EVERYBODY)
    made.serve(EVERYBODY[:1], 4.0)  # the first waits for the server until second 10
    torch.testing.assert_close(waiting_shares(made.presence, made.ready), torch.tensor([1 - 5 / 10, 1 - 2 / 2], dtype=torch.float64))
    made.leave(EVERYBODY)
    made.transfer(EVERYBODY, 100)
    made.leave(EVERYBODY)  # who is not present does not leave
    assert made.presence[[BUSY, PRESENT]].tolist() == [[5.0, 2.0], [10.0, 6.0]]
    torch.testing.assert_close(waiting_shares(made.presence, made.ready), torch.tensor([1 / 2, 2 / 3], dtype=torch.float64))
    assert bool(waiting_shares(clock().presence, clock().ready).isnan().all())


def test_random_times_of_nobody() -> None:
    made = clock(compute="exponential")
    made.compute(EVERYBODY[:0], 1.0, share=1.0)
    assert made.now == 0.0


def test_speeds_and_rates_of_different_clients() -> None:
    made = clock(compute="lognormal", link="lognormal")
    devices = draw_devices(NetworkOptions(compute="lognormal", link="lognormal"), 2, seed=0, active=2)
    made.compute(EVERYBODY, 1e9, share=1.0)
    made.transfer(EVERYBODY, 10**6)
    torch.testing.assert_close(made.ready, 1e9 / devices.speed + 8e6 / devices.rate)
    assert made.ready[0] != made.ready[1]


@pytest.mark.parametrize(("kind", "spread"), [("lognormal", 0.5), ("pareto", 4.0), ("constant", 1.0)])
def test_distributions_have_the_mean_they_are_given(kind: str, spread: float) -> None:
    options = NetworkOptions(compute=kind, compute_spread=spread, link=kind, link_spread=spread)
    devices = draw_devices(options, 200_000, seed=1, active=1)
    assert devices.speed.mean().item() == pytest.approx(options.compute_flops, rel=0.02)
    assert devices.rate.mean().item() == pytest.approx(options.link_bits_per_second, rel=0.02)
    assert bool((devices.speed > 0).all())


def test_pareto_has_its_tail() -> None:
    """P(X > x) = (smallest / x)^shape."""
    speed = draw_devices(NetworkOptions(compute="pareto", compute_spread=2.0), 200_000, seed=2, active=1).speed
    smallest = speed.min()
    assert (speed > 3 * smallest).double().mean().item() == pytest.approx(1 / 9, rel=0.05)


def test_the_exponential_time_of_a_round_has_its_mean_and_falls_into_its_steps() -> None:
    many = Clock(NetworkOptions(compute="exponential", compute_seconds=3.0), torch.zeros(5000, dtype=torch.float64), seed=0, active=5000)
    for _ in range(2):
        many.compute(torch.arange(5000), 1e20, share=0.5)
    assert many.ready.mean().item() == pytest.approx(3.0, rel=0.05)
    once = Clock(NetworkOptions(compute="exponential", compute_seconds=3.0), torch.zeros(5000, dtype=torch.float64), seed=0, active=5000)
    once.compute(torch.arange(5000), 0.0, share=1.0)
    torch.testing.assert_close(once.ready, many.ready)
    once.enter(1)
    once.compute(torch.arange(5000), 0.0, share=1.0)
    assert not torch.allclose(once.ready, 2 * many.ready), "another round, other times"


def test_the_radio_cell_by_hand() -> None:
    """At 1 km the path loss is 128.1 dB, the noise in 10 MHz -104 dBm, the signal 23 dBm: an SNR of -1.1 dB."""
    signal = 10 * math.log10(200) - 128.1
    snr = 10 ** ((signal - (-174 + 70)) / 10)
    rate = cell_rate(torch.tensor([1.0], dtype=torch.float64)).item()
    assert rate == pytest.approx(10e6 * math.log2(1 + snr))
    assert 8e6 < rate < 8.5e6
    assert cell_rate(torch.tensor([0.1], dtype=torch.float64)).item() > 10 * rate


def test_a_shared_band_is_divided() -> None:
    whole, shared = (draw_devices(NetworkOptions(link="cell", share_band=share), 10, seed=0, active=5).rate for share in (False, True))
    torch.testing.assert_close(whole, 5 * shared)


def test_devices_stay_unless_told_otherwise() -> None:
    for per_round in (False, True):
        options = NetworkOptions(compute="cell", link="cell", per_round=per_round)
        first, later = (draw_devices(options, 4, seed=0, active=4, round=round) for round in (0, 7))
        assert torch.equal(first.speed, later.speed) is not per_round
        assert torch.equal(first.rate, later.rate) is not per_round


def test_a_pareto_without_a_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="network.link_spread = 1 is impossible with pareto"):
        configuration.from_dict({"network": {"link": "pareto", "link_spread": 1.0}})
