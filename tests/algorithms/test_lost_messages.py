"""What lost messages do to each algorithm, against runs in which nothing is lost, in float64."""

from __future__ import annotations

import functools
from typing import Any

import harness
import pytest
import supervised
import torch
from supervised import same

SPLIT = ("sfl_v1", "sfl_v2", "minibatch_sfl", "smofi", "mu_splitfed", "split_learning", "gas")
SSL = ("mocosfl", "monacosfl")
ALL = SPLIT + SSL
UP_FIRST = {"mu_splitfed": "pert_act_up", "mocosfl": "key_act_up", "monacosfl": "key_act_up"}
ANSWER = {"mu_splitfed": "scalar_down"}


def run(algorithm: str, loss: dict[str, object], *, rounds: int = 2, **fields: object) -> Any:
    """A trial after two rounds."""
    if algorithm in SSL:
        made = harness.Trial(harness.small(algorithm=algorithm, arch="vgg11", cut=5, loss=loss, **fields))
        made.run(4 * rounds)
        return made
    trial = supervised.Trial(supervised.small(algorithm=algorithm, loss=loss, client_lr=0.01, server_lr=0.01,
                                              **({"momentum": 0.0} if algorithm == "mu_splitfed" else {}), **fields))
    trial.rounds(rounds)
    return trial


@functools.cache
def clean(algorithm: str) -> Any:
    """A trial in which nothing is lost, to be read only."""
    return run(algorithm, {})


def start(made: Any) -> dict[str, torch.Tensor]:
    network = made.setup.network
    return {k: v.double() for k, v in network.state_dict().items()}


@pytest.mark.parametrize("algorithm", ALL)
def test_a_probability_of_nothing_is_no_loss_bit_for_bit(algorithm: str) -> None:
    """The lossy code path with messages that all arrive."""
    same(run(algorithm, {"probability": 1e-300}).weights(), clean(algorithm).weights(), atol=0)


@pytest.mark.parametrize("algorithm", ALL)
def test_without_answers_client_weights_never_change(algorithm: str) -> None:
    made = run(algorithm, {ANSWER.get(algorithm, "grad_down"): 1.0})
    before, after = start(made), made.weights()
    client = set(made.setup.network.client.state_dict())
    torch.testing.assert_close({k: after[k] for k in client}, {k: before[k] for k in client}, rtol=0, atol=1e-15)
    assert any((after[k] - before[k]).abs().max() > 1e-6 for k in after if k not in client)


@pytest.mark.parametrize("algorithm", ALL)
def test_without_smashed_data_nothing_is_learnt(algorithm: str) -> None:
    made = run(algorithm, {UP_FIRST.get(algorithm, "act_up"): 1.0})
    torch.testing.assert_close(made.weights(), start(made), rtol=0, atol=1e-15)


@pytest.mark.parametrize("algorithm", ALL)
def test_weights_that_never_reach_the_server_leave_its_client_part_alone(algorithm: str) -> None:
    made = run(algorithm, {"model_up": 1.0})
    before, after = start(made), made.weights()
    client = set(made.setup.network.client.state_dict())
    assert all(torch.equal(after[k], before[k]) for k in client)
    assert any(not torch.equal(after[k], before[k]) for k in before if k not in client)


@pytest.mark.parametrize("algorithm", ALL)
def test_retransmission_trains_as_without_loss_and_costs_more(algorithm: str) -> None:
    """p = 0.3: 1 / (1 - p) = 1.43 times the messages in the mean. GAS goes by the clock, which repeated messages move; with equal
    clients the order may change, so only its count is compared."""
    repeated = run(algorithm, {"probability": 0.3, "retransmit": True})
    if algorithm != "gas":
        same(repeated.weights(), clean(algorithm).weights(), atol=0)
    counts = [int(made.state.ledger.total[:, :, 0].sum()) for made in (repeated, clean(algorithm))]
    assert 1.2 < counts[0] / counts[1] < 1.75


@pytest.mark.parametrize("algorithm", ALL)
def test_a_fifth_of_all_messages_lost(algorithm: str) -> None:
    """Training goes on with finite weights that differ from those without loss; sent bytes count, arrived or not."""
    lossy = run(algorithm, {"probability": 0.2})
    assert all(bool(torch.isfinite(v).all()) for v in lossy.weights().values())
    assert any(not torch.equal(v, clean(algorithm).weights()[k]) for k, v in lossy.weights().items())
    assert lossy.state.ledger.bytes()["up"]["act_up"] == clean(algorithm).state.ledger.bytes()["up"]["act_up"]
    answers = ANSWER.get(algorithm, "grad_down")
    assert lossy.state.ledger.bytes()["down"][answers] < clean(algorithm).state.ledger.bytes()["down"][answers]


@pytest.mark.parametrize("algorithm", ["sfl_v1", "minibatch_sfl", "smofi", "mocosfl", "monacosfl"])
def test_a_client_that_misses_every_round_is_as_if_it_were_not_there(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 2 absent: neither the average, nor the server's mean, nor the queue notice it."""
    from ssl_split.delivery import Delivery

    monkeypatch.setattr(Delivery, "present", lambda self, clients: clients != 2)
    absent = run(algorithm, {"dropout": 0.5})
    monkeypatch.undo()
    assert int(absent.state.ledger.total[:, 2, 0].sum()) == 0
    if algorithm in SSL:  # the harness draws views for a cohort of three: compare with what two clients of it would do
        assert absent.state.ledger.bytes()["up"]["act_up"] > 0
        return
    fewer = supervised.Trial(supervised.small(algorithm=algorithm, clients=2, client_lr=0.01, server_lr=0.01), sizes=[8, 2])
    fewer.rounds(2)
    # one of two in the fusion of SMoFi: shares keep the denominator of the whole cohort, so only its other rules coincide
    if algorithm != "smofi":
        same(absent.weights(), fewer.weights())


@pytest.mark.parametrize("algorithm", ["sfl_v1", "gas"])
def test_a_client_whose_download_is_lost_goes_on_with_its_own_weights(algorithm: str) -> None:
    """SFL-V1 without any download is three clients who never hear of each other, averaged at the server only."""
    made = run(algorithm, {"model_down": 1.0}, local_steps=2)
    rows = made.state.store
    assert all(("own", c) in rows for c in range(3))
    if algorithm == "sfl_v1":
        mean = sum(n / 16 * rows.get("own", c) for c, n in enumerate(supervised.UNEVEN))
        torch.testing.assert_close(made.state.trees["client.online"].flat, mean)
        once = run(algorithm, {"model_down": 1.0}, local_steps=2, rounds=1)
        assert any(not torch.equal(once.state.store.get("own", c), rows.get("own", c)) for c in range(3))


def test_mocosfl_without_downloads_keeps_what_every_client_has_learnt() -> None:
    made = run("mocosfl", {"model_down": 1.0})
    rows = made.state.trees["cohort.online"].flat
    assert not torch.equal(rows[0], rows[1])
    torch.testing.assert_close(made.state.trees["client.online"].flat, rows.mean(0))


def test_monacosfl_without_momentum_exchange_is_mocosfl() -> None:
    """No ema_up arrives: momentum encoders stay private."""
    same(run("monacosfl", {"ema_up": 1.0}).weights(), clean("mocosfl").weights())
    same(run("monacosfl", {"ema_down": 1.0}).weights(), clean("mocosfl").weights())
