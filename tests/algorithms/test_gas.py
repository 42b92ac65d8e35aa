"""Label statistics against closed forms, GAS against MiniBatch-SFL and its own bookkeeping, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from supervised import CLASSES, SIZE, Trial, draw, same, small
from torch import Tensor

from ssl_split.algorithms.split.gas import GAS
from ssl_split.models.split import build
from ssl_split.objectives.activations import KEPT, LabelStatistics
from ssl_split.traffic import supervised_sfl_bytes

PLAIN = {"algorithm": "gas", "local_steps": 3}
BARE = {**PLAIN, "gas": {"generate": False, "adjust_logits": False}}


# --- statistics ---------------------------------------------------------------------------------------------------------------------


def filled(kind: str, count: int, *, size: int = 4) -> tuple[LabelStatistics, Tensor, Tensor]:
    """Statistics of one label, its rows and weights."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5, 3.0]) + 1
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    made = LabelStatistics(kind, LabelStatistics.begin(kind, classes=2, size=size, like=rows))
    for row, weight in zip(rows, weights.tolist(), strict=True):
        made.add(row[None], torch.tensor([1]), weight)
    return made, rows, weights


def batch_moments(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    shares = weights / weights.sum()
    mean = shares @ rows
    return mean, ((rows - mean) * shares[:, None]).T @ (rows - mean)


@pytest.mark.parametrize(("kind", "count"), [("full", 700), ("diagonal", 700), ("kept", 40), ("kept", KEPT)])
def test_statistics_are_the_weighted_mean_and_covariance(kind: str, count: int) -> None:
    """The recursion equals the batch formula; so do the kept activations while there are at most 512."""
    made, rows, weights = filled(kind, count)
    mean, spread = made.moments(1)
    expected_mean, expected = batch_moments(rows, weights)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(spread, expected.diagonal() if kind == "diagonal" else expected)


def test_kept_activations_are_the_last_ones() -> None:
    made, rows, weights = filled("kept", KEPT + 100)
    mean, _ = made.moments(1)
    torch.testing.assert_close(mean, batch_moments(rows[-KEPT:], weights[-KEPT:])[0])


def test_equal_weights_are_ordinary_running_statistics() -> None:
    rows = torch.randn(50, 4, dtype=torch.float64)
    made = LabelStatistics("full", LabelStatistics.begin("full", classes=1, size=4, like=rows))
    made.add(rows, torch.zeros(50, dtype=torch.int64), 1.0)
    mean, spread = made.moments(0)
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(spread, rows.T.cov(correction=0))


@pytest.mark.parametrize("kind", ["kept", "full", "diagonal"])
def test_draws_have_those_moments(kind: str) -> None:
    made, _, _ = filled(kind, 300)
    drawn = made.draw(1, 40_000, torch.Generator().manual_seed(0))
    mean, spread = made.moments(1)
    scale = (spread if kind == "diagonal" else spread.diagonal()).sqrt()
    assert ((drawn.mean(0) - mean).abs() / scale).max() < 5 / 200
    found = drawn.T.cov(correction=0)
    wanted = torch.diag(spread) if kind == "diagonal" else spread
    assert ((found - wanted).abs() / (scale[:, None] * scale)).max() < 0.04
    assert torch.equal(made.draw(1, 5, torch.Generator().manual_seed(1)), made.draw(1, 5, torch.Generator().manual_seed(1)))


def test_a_singular_covariance_gets_jitter() -> None:
    """Two activations in four dimensions."""
    made, rows, _ = filled("full", 2)
    drawn = made.draw(1, 2000, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(drawn).all())
    across = drawn @ torch.linalg.svd(rows[1:] - rows[:1])[2][1:].T  # directions in which the two do not differ
    assert across.std(0).max() < 0.05


def test_complete_needs_every_label() -> None:
    made, rows, _ = filled("kept", 3)
    assert not made.complete
    made.add(rows[:1], torch.tensor([0]), 1.0)
    assert made.complete


# --- the algorithm ------------------------------------------------------------------------------------------------------------------


def test_without_its_parts_gas_is_minibatch_sfl() -> None:
    """Equal clients, Q = P, no generation, no adjustment: everybody is served in turn at the same W_s, the full buffer is the union batch,
    and after E steps all models are in."""
    trials = [Trial(small(**BARE)), Trial(small(algorithm="minibatch_sfl", local_steps=3))]
    for trial in trials:
        trial.rounds(1)
    assert trials[0].state.step == 9
    assert trials[1].state.step == 3
    same(trials[0].weights(), trials[1].weights())


def test_one_client_is_sgd() -> None:
    config = small(**BARE, clients=1)
    trial = Trial(config, sizes=[6])
    trial.rounds(2)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    server = torch.optim.SGD(network.server.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)  # never leaves
    for joined in range(2):
        client = torch.optim.SGD(network.client.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        for step in range(3):
            x, y = draw(0, 2 * (3 * joined + step), 2)
            server.zero_grad()
            client.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            server.step()
            client.step()
    same(trial.weights(), network.state_dict())


def test_the_fastest_client_is_served_most() -> None:
    """Steps per client follow their speeds, and virtual time never runs backwards."""
    trial = Trial(small(**BARE, network={"compute": "lognormal", "link": "lognormal"}, rounds=6))
    object.__setattr__(trial.setup, "client_flops", 1e9)
    served = torch.zeros(3)
    times = []
    for _ in range(54):
        if trial.state.step_in_round == 0:
            trial.algorithm.begin_round(trial.state, trial.cohort(), trial.wire)
        batch = trial.batch_of()
        served[int(trial.state.cohort[batch.places])] += 1
        trial.algorithm.step(trial.state, batch, trial.wire)
        times.append(float(trial.state.tensors["server_free"]))
        if trial.state.step_in_round == 9:
            trial.algorithm.end_round(trial.state, trial.wire)
    assert times == sorted(times)
    speed = trial.wire.clock._devices.speed
    assert served.argmax() == speed.argmax()
    assert served.argmin() == speed.argmin()
    assert served.max() > served.min()


def test_idle_clients_take_the_places_of_those_who_leave() -> None:
    trial = Trial(small(**BARE, clients=6, clients_per_round=2, rounds=8), sizes=[6] * 6)
    seen: set[int] = set()
    while trial.state.round < 8:
        trial.step()
        cohort = trial.state.cohort.tolist()
        assert len(set(cohort)) == 2, "nobody is at work twice"
        seen |= set(cohort)
    assert seen == set(range(6))
    assert trial.state.counters["handed_in"] == 8 * 2
    assert trial.state.counters["versions"] == 8


def test_a_full_buffer_is_balanced_and_then_empty() -> None:
    """Every label is topped up to B once every label has statistics; before, nothing is generated."""
    trial = Trial(small(**PLAIN, batch_size=4), sizes=[12, 12, 12])
    algorithm = trial.algorithm
    assert isinstance(algorithm, GAS)
    lengths: list[tuple[bool, Tensor]] = []
    original = algorithm._balanced

    def watched(state: object, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found = original(state, rows, labels)  # type: ignore[arg-type]
        assert torch.equal(found[0][: len(rows)], rows), "what was sent stays"
        lengths.append((algorithm.statistics.complete, torch.bincount(found[1], minlength=CLASSES)))
        return found

    algorithm._balanced = watched  # type: ignore[method-assign]
    trial.rounds(2)
    assert len(lengths) == 6
    assert any(complete for complete, _ in lengths)
    for complete, counts in lengths:
        assert bool((counts >= 4).all()) if complete else counts.sum() == 12


def test_equal_to_max_makes_all_labels_as_frequent_as_the_most_frequent() -> None:
    trial = Trial(small(**PLAIN, gas={"balance": "equal_to_max"}))
    algorithm = trial.algorithm
    assert isinstance(algorithm, GAS)
    rows = torch.randn(9, math.prod(trial.network.smashed_shape), dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 3])
    algorithm.statistics.add(rows, labels, 1.0)
    _, named = algorithm._balanced(trial.state, rows, labels)
    assert torch.bincount(named).tolist() == [4, 4, 4, 4]


def test_logits_are_shifted_by_the_label_shares() -> None:
    trial = Trial(small(**PLAIN))
    algorithm = trial.algorithm
    assert isinstance(algorithm, GAS)
    counts = trial.setup.label_counts[1].double()
    torch.testing.assert_close(algorithm._log_shares(1)[0], (counts / counts.sum() + 1e-12).log())
    assert algorithm._log_shares(1).min() < -20, "a label that the client does not have"


def test_later_activations_weigh_more() -> None:
    """n = t E + e, from 1."""
    trial = Trial(small(**PLAIN, clients=1, rounds=2), sizes=[6])
    trial.rounds(2)
    weights = trial.state.tensors["statistics.weights"]
    assert sorted(set(weights[weights > 0].tolist())) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_ledger_is_the_closed_form(cut: int | str) -> None:
    config = small(**PLAIN, cut=cut)
    trial = Trial(config)
    trial.rounds(2)
    found = {kind: n for kinds in trial.state.ledger.bytes().values() for kind, n in kinds.items()}
    h, c = math.prod(trial.network.smashed_shape), sum(p.numel() for p in trial.network.client.parameters())
    counters = trial.state.counters
    assert (counters["joined"], counters["handed_in"]) == (9, 6)
    expected = supervised_sfl_bytes(config, steps=18, visits=6, h=h, c=c) | {"model_down": 4 * c * 9}
    assert {k: n for k, n in found.items() if n} == {k: n for k, n in expected.items() if n}


def test_rounds_without_barriers_refuse_what_needs_them() -> None:
    with pytest.raises(ValueError, match="outer.kind"):
        Trial(small(**PLAIN, outer={"kind": "slowmo"}))
    with pytest.raises(ValueError, match="optimiser_state"):
        Trial(small(**PLAIN, optimiser_state="keep"))
