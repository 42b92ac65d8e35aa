"""Identities of the supervised split algorithms, in float64."""

from __future__ import annotations

import pytest
import torch
from supervised import CLASSES, SIZE, UNEVEN, Trial, draw, fedavg, same, small, train
from torch import Tensor
from torch.nn import functional

from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.models.split import build
from ssl_split.objectives.supervised import cross_entropy
from ssl_split.traffic import supervised_sfl_bytes

SPLIT = ("sfl_v1", "sfl_v2", "minibatch_sfl", "smofi", "mu_splitfed", "split_learning")
"""Those that work in rounds; gas has a file of its own."""
FIRST_ORDER = tuple(name for name in SPLIT if name != "mu_splitfed")
OPTIMISERS = ("sgd", "nesterov", "adam", "adamw")


def test_cross_entropy_is_torchs_with_its_gradient() -> None:
    logits = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (3, 5))
    shift = torch.randn(3, 4, dtype=torch.float64)
    losses, gradient = cross_entropy(logits, labels, adjustment=shift)
    expected = torch.stack([functional.cross_entropy(logits[k] + shift[k], labels[k]) for k in range(3)])
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0])


# --- SFL-V1 is federated averaging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 5, 13, "full"])
def test_sfl_v1_equals_fedavg_at_every_cut(cut: int | str) -> None:
    """Client and server copy of client j step as the two halves of one network do, so the averages are those of FedAvg; uneven T_j."""
    config = small(cut=cut, arch="resnet18")
    trial = Trial(config)
    trial.rounds(2)
    same(trial.weights(), fedavg(config, rounds=2, sizes=UNEVEN, local=trial.local).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("cut", [3, 7, 9, 11, 15, 17])
def test_sfl_v1_equals_fedavg_at_the_other_cuts(cut: int) -> None:
    test_sfl_v1_equals_fedavg_at_every_cut(cut)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_sfl_v1_equals_fedavg_with_every_optimiser(optimiser: str) -> None:
    """An elementwise optimiser does not see the cut."""
    config = small(optimiser=optimiser, local_epochs=2)
    trial = Trial(config)
    trial.rounds(1)
    atol = 1e-8 if optimiser.startswith("adam") else 1e-12  # Adam divides by the root of a square: rounding of tiny gradients grows
    same(trial.weights(), fedavg(config, rounds=1, sizes=UNEVEN, local=trial.local).state_dict(), atol=atol)


@pytest.mark.parametrize("algorithm", ["sfl_v1", "sfl_v2", "split_learning"])
def test_batch_norm_is_averaged_with_the_weights(algorithm: str) -> None:
    """Running statistics are entries of the state: after one round on one client they are that client's."""
    config = small(algorithm=algorithm, arch="resnet18", norm="batch", clients=1)  # no map of one pixel, whose variance rounds
    trial = Trial(config, sizes=[8])
    trial.rounds(1)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    train(config, network, 0, 0, 4)
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    same({k: v for k, v in trial.weights().items() if k in expected}, expected)
    assert any("running_mean" in k for k in expected)


# --- one client is plain SGD --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [*FIRST_ORDER, "centralised"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_one_client_is_sgd(algorithm: str, optimiser: str) -> None:
    """With one client nothing is averaged or fused with another; momentum starts anew in each round."""
    config = small(algorithm=algorithm, clients=1, optimiser=optimiser)
    trial = Trial(config, sizes=[8])
    trial.rounds(2)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    position = train(config, network, 0, 0, 4)
    train(config, network, 0, position, 4)
    same(trial.weights(), network.state_dict(), atol=1e-12 if optimiser == "sgd" else 1e-8)


@pytest.mark.parametrize("algorithm", ["sfl_v1", "sfl_v2", "minibatch_sfl", "split_learning", "centralised"])
def test_kept_momentum_is_sgd_without_a_break(algorithm: str) -> None:
    config = small(algorithm=algorithm, clients=1, optimiser_state="keep")
    trial = Trial(config, sizes=[8])
    trial.rounds(2)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    train(config, network, 0, 0, 8)
    same(trial.weights(), network.state_dict())


def test_clients_without_a_step_size_leave_sequential_sgd_of_the_server() -> None:
    """SFL-V2 with eta_c = 0: W_s sees the clients' batches one after another, in the order of the round."""
    config = small(algorithm="sfl_v2", client_lr=0.0, weight_decay=0.0, momentum=0.0)
    trial = Trial(config)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    for parameter in network.client.parameters():
        parameter.requires_grad_(False)
    trial.algorithm.begin_round(trial.state, trial.cohort(), trial.wire)
    order = trial.state.cohort.tolist()
    trial.state.step_in_round = 0
    trial.rounds(1)
    assert trial.state.cohort.tolist() == order
    made = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=config.server_lr)
    for client in order:
        for step in range(trial.local[client]):
            x, y = draw(client, 2 * step, 2)
            made.zero_grad()
            functional.cross_entropy(network(x), y).backward()
            made.step()
    same(trial.weights(), network.state_dict())


def test_sfl_v2_depends_on_the_order_and_draws_a_new_one_each_round() -> None:
    trial = Trial(small(algorithm="sfl_v2", clients=8), sizes=[2] * 8)
    orders = [trial.algorithm.order(torch.arange(8), round).tolist() for round in range(4)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_split_learning_hands_the_weights_on() -> None:
    """Relay: the whole network trains on one client after another, momentum starting anew with each."""
    config = small(algorithm="split_learning", momentum=0.0)
    trial = Trial(config)
    trial.rounds(1)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    for client in trial.state.cohort.tolist():
        train(config, network, client, 0, trial.local[client])
    same(trial.weights(), network.state_dict())


# --- MiniBatch-SFL ------------------------------------------------------------------------------------------------------------------


def union_step(config: object, clients: int) -> dict[str, Tensor]:
    """One step of plain SGD on the union of all clients' first batches."""
    network = build(config, image_size=SIZE, classes=CLASSES).double()  # type: ignore[arg-type]
    made = torch.optim.SGD(network.parameters(), lr=0.05, weight_decay=5e-4)
    drawn = [draw(c, 0, 2) for c in range(clients)]
    functional.cross_entropy(network(torch.cat([x for x, _ in drawn])), torch.cat([y for _, y in drawn])).backward()
    made.step()
    return network.state_dict()


@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_minibatch_sfl_with_one_local_step_is_sgd_on_the_union(cut: int | str) -> None:
    """Each client steps with its own mean gradient; the average of the steps is a step on the mean of the gradients, equal batches."""
    config = small(algorithm="minibatch_sfl", cut=cut, momentum=0.0, local_steps=1, weighting="uniform")
    trial = Trial(config)
    trial.rounds(1)
    same(trial.weights(), union_step(config, 3))


def test_minibatch_sfl_at_cut_0_is_centralised_sgd() -> None:
    """Everything on the server: batches of P B images, momentum included."""
    config = small(algorithm="minibatch_sfl", cut=0, local_steps=3)
    trial = Trial(config)
    trial.rounds(1)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    made = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        drawn = [draw(c, 2 * step, 2) for c in range(3)]
        made.zero_grad()
        functional.cross_entropy(network(torch.cat([x for x, _ in drawn])), torch.cat([y for _, y in drawn])).backward()
        made.step()
    same(trial.weights(), network.state_dict())


def test_minibatch_server_does_not_see_who_holds_a_sample() -> None:
    """With a common frozen client part the server's trajectory depends on the union of each step alone."""
    def dealt(client: int, position: int, count: int) -> tuple[Tensor, Tensor]:
        """The same union, every step's samples dealt to the other clients, in another order."""
        found = [draw((client + 1) % 3, position, count), draw((client + 2) % 3, position, count)]
        (x1, y1), (x2, y2) = found
        return torch.stack([x1[0], x2[1]]), torch.stack([y1[0], y2[1]])

    config = small(algorithm="minibatch_sfl", client_lr=0.0, local_steps=3)
    trials = [Trial(config), Trial(config, source=dealt)]
    for trial in trials:
        trial.rounds(2)
    same(trials[0].weights(), trials[1].weights())
    start = trials[0].network.server.state_dict()
    assert any(not torch.equal(v, trials[0].weights()[k]) for k, v in start.items())


# --- momentum over rounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fedavgm", "slowmo"])
def test_outer_momentum_of_zero_is_none(kind: str) -> None:
    """FedAvgM(0) = SlowMo(0, a = 1) = FedAvg."""
    trials = [Trial(small(outer=outer)) for outer in ({"kind": kind, "momentum": 0.0}, {"kind": "none"})]
    for trial in trials:
        trial.rounds(2)
    same(trials[0].weights(), trials[1].weights())


def test_slowmo_is_fedavgm_at_a_constant_rate() -> None:
    """u = v / lr and a lr u = v, as long as lr stays; with a cosine they part."""
    constant = [Trial(small(outer={"kind": kind}, rounds=3)) for kind in ("fedavgm", "slowmo")]
    falling = [Trial(small(outer={"kind": kind}, rounds=3, schedule="cosine")) for kind in ("fedavgm", "slowmo")]
    for trial in constant + falling:
        trial.rounds(3)
    same(constant[0].weights(), constant[1].weights())
    assert any((v - falling[1].weights()[k]).abs().max() > 1e-6 for k, v in falling[0].weights().items())


def test_fedavgm_follows_its_equation() -> None:
    """v <- beta v + (w - average), w <- w - eta v, against three averages of SFL-V1 rounds started from the same weights."""
    config = small(outer={"kind": "fedavgm", "momentum": 0.5, "lr": 0.8})
    trial, plain = Trial(config), Trial(small())
    v = {k: torch.zeros_like(w) for k, w in trial.weights().items()}
    for _ in range(3):
        before = trial.weights()
        for name in ("client.online", "server.online"):
            plain.state.trees[name].flat.copy_(trial.state.trees[name].flat)
        plain.rounds(1)
        trial.rounds(1)
        v = {k: 0.5 * v[k] + before[k] - plain.weights()[k] for k in v}
        same(trial.weights(), {k: before[k] - 0.8 * v[k] for k in v})


# --- schedules and traffic ----------------------------------------------------------------------------------------------------------


def test_groups_of_clients_give_the_same_averages() -> None:
    """SFL-V1 does not couple clients inside a round, so they may come in groups."""
    trials = [Trial(small(clients_at_once=count, optimiser_state=kept)) for kept in ("reset", "keep") for count in (3, 2, 1)]
    for trial in trials:
        trial.rounds(2)
    for some in (trials[:3], trials[3:]):
        for trial in some[1:]:
            same(trial.weights(), some[0].weights())
    assert len(trials[2].state.trees["cohort.client"].flat) == 1


@pytest.mark.parametrize("algorithm", ["sfl_v1", "minibatch_sfl", "sfl_v2", "mu_splitfed"])
def test_the_fused_engine_trains_as_the_loop(algorithm: str) -> None:
    """Rows that have finished stay out of both; gradients come back to the smashed data through the server copies."""
    rates = {"client_lr": 1e-4, "server_lr": 1e-4} if algorithm == "mu_splitfed" else {}
    trials = [Trial(small(algorithm=algorithm, engine=engine, **rates)) for engine in ("loop", "fused")]
    for trial in trials:
        trial.rounds(2)
    same(trials[1].weights(), trials[0].weights(), atol=1e-9)


@pytest.mark.parametrize("algorithm", SPLIT)
def test_active_clients_are_logged(algorithm: str) -> None:
    """A line whenever a client has finished, with those at work until then."""
    metrics = Trial(small(algorithm=algorithm)).rounds(1)
    active = [int(m["active_clients"]) for m in metrics if "active_clients" in m]
    assert active == ([1, 1, 1] if algorithm in ("sfl_v2", "split_learning") else [3, 2, 1])
    assert all(0 <= m["train_accuracy"] <= 1 for m in metrics if "train_accuracy" in m)


@pytest.mark.parametrize("algorithm", SPLIT)
@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_ledger_is_the_closed_form(algorithm: str, cut: int | str) -> None:
    """Per client R [K B (h f + 8) + c f] up and R [K B h f + c f] down; at cut 0 nothing comes down; 2 of 3 clients in each round."""
    config = small(algorithm=algorithm, cut=cut, clients_per_round=2)
    trial = Trial(config)
    trial.rounds(2)
    sent = trial.state.ledger.bytes()
    steps = sum(trial.local[c] for cohort in ([0, 1], [2, 0]) for c in cohort)
    images, weights = 2 * steps, 4 * 4 * sum(p.numel() for p in trial.network.client.parameters())
    smashed = 4 * images * torch.Size(trial.network.smashed_shape).numel()
    found = {kind: number for kinds in sent.values() for kind, number in kinds.items() if number}
    expected = {"act_up": smashed, "label_up": 8 * images}
    if weights:
        expected |= {"model_up": weights, "model_down": weights}
        answer = {"pert_act_up": 2 * smashed, "scalar_down": 4 * steps} if algorithm == "mu_splitfed" else {"grad_down": smashed}
        expected |= answer
    assert found == expected
    closed_form = supervised_sfl_bytes(config, steps=steps, visits=4, h=smashed // images // 4, c=weights // 16)
    assert {kind: number for kind, number in closed_form.items() if number} == expected


def test_every_supervised_algorithm_is_tested_here() -> None:
    from ssl_split.config import SUPERVISED

    assert set(SUPERVISED) == {*SPLIT, "gas", "centralised"}
    assert set(SUPERVISED) <= set(ALGORITHMS)
