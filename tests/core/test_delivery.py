"""Which messages arrive: shares, independence, repetition, and what they cost."""

from __future__ import annotations

import pytest
import torch

from ssl_split import config as configuration
from ssl_split.channel import Channel, Ledger
from ssl_split.clock import Clock
from ssl_split.config import LossOptions, NetworkOptions, Wire
from ssl_split.delivery import Delivery

MANY = torch.arange(4000)


def delivery(**options: object) -> Delivery:
    made = Delivery(LossOptions(**options), seed=0)  # type: ignore[arg-type]
    made.at(round=0, step=0)
    return made


def test_shares_by_kind() -> None:
    made = delivery(probability=0.2, grad_down=0.0, model_up=1.0)
    assert made.attempts("act_up", MANY)[1].double().mean().item() == pytest.approx(0.8, abs=0.025)
    assert bool(made.attempts("grad_down", MANY)[1].all())
    assert not bool(made.attempts("model_up", MANY)[1].any())


def test_messages_are_lost_each_by_itself_and_the_same_again() -> None:
    """Two of a kind in one step, two kinds, two steps differ; the same step drawn again does not."""
    made = delivery(probability=0.5)
    first, second, other = (made.attempts(kind, MANY)[1] for kind in ("act_up", "act_up", "label_up"))
    made.at(round=0, step=1)
    later = made.attempts("act_up", MANY)[1]
    for found in (second, other, later):
        assert (found == first).double().mean().item() == pytest.approx(0.5, abs=0.03)
    made.at(round=0, step=0)
    assert torch.equal(made.attempts("act_up", MANY)[1], first)
    made.at(round=0, step=0)
    assert torch.equal(made.attempts("act_up", MANY[17:18])[1], first[17:18]), "whoever else sends"


def test_repeated_messages_arrive_and_cost_1_over_1_minus_p_in_the_mean() -> None:
    times, came = delivery(probability=0.25, retransmit=True).attempts("act_up", MANY)
    assert bool(came.all())
    assert times.min() == 1
    assert times.double().mean().item() == pytest.approx(1 / 0.75, rel=0.03)
    assert (times > 1).double().mean().item() == pytest.approx(0.25, abs=0.02)


def test_who_misses_a_round_sends_nothing_in_it() -> None:
    made = delivery(dropout=0.3)
    times, came = made.attempts("act_up", MANY)
    assert torch.equal(times, came.long())
    assert came.double().mean().item() == pytest.approx(0.7, abs=0.025)
    made.at(round=0, step=9)
    assert torch.equal(made.attempts("model_up", MANY)[1], came), "the whole round"
    made.at(round=1, step=10)
    assert not torch.equal(made.attempts("act_up", MANY)[1], came)


def test_lost_messages_cost_and_repeated_ones_cost_again() -> None:
    """Bytes and virtual seconds of every attempt, arrived or not; none of clients that are absent."""
    for options in ({"probability": 1.0}, {"probability": 0.5, "retransmit": True}, {"dropout": 0.5}):
        made = delivery(**options)
        ledger, ready = Ledger(50), torch.zeros(50, dtype=torch.float64)
        clock = Clock(NetworkOptions(link_bits_per_second=320.0), ready, seed=0, active=50)
        channel = Channel(Wire(), ledger, clock=clock, delivery=made)
        channel.send("act_up", torch.zeros(50, 10), torch.arange(50))
        made.at(round=0, step=0)
        times, came = made.attempts("act_up", torch.arange(50))
        assert torch.equal(channel.came, came)
        assert torch.equal(ledger.current[0, :, 2], 40 * times)
        torch.testing.assert_close(ready, times.double())


@pytest.mark.parametrize(("values", "message"), [
    ({"loss": {"probability": 1.0, "retransmit": True}}, "never ends"),
    ({"loss": {"probability": 0.1}, "wire": {"model_traffic": "broadcast"}}, "wire.model_traffic"),
    ({"loss": {"dropout": 0.1}, "queue": "per_client"}, "queue"),
    ({"loss": {"act_up": 1.5}}, "act_up"),
])
def test_what_is_not_defined_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configuration.from_dict(values)
