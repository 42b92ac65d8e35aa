"""The federated methods: identities in float64, each against slow references and against each other, at cut full and split."""

from __future__ import annotations

import functools

import pytest
import torch
from federated import PLAIN, SAM, UNIFORM, flat, trial
from supervised import CLASSES, SIZE, UNEVEN, Trial, draw, fedavg, same, small
from torch import Tensor
from torch.nn import functional

from ssl_split.config import FEDERATED, UNSPLIT
from ssl_split.models.split import build
from ssl_split.traffic import federated_bytes

# --- FedAvg -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_fedavg_is_the_slow_reference_and_sends_weights_only(optimiser: str) -> None:
    made = Trial(small(algorithm="fedavg", cut="full", optimiser=optimiser))
    made.rounds(2)
    expected = fedavg(made.config, rounds=2, sizes=UNEVEN, local=made.local).state_dict()
    same(made.weights(), expected, atol=1e-12 if optimiser == "sgd" else 1e-8)
    sent = made.state.ledger.bytes()
    assert {kind for kinds in sent.values() for kind, number in kinds.items() if number} == {"model_up", "model_down"}


@pytest.mark.parametrize("algorithm", FEDERATED)
def test_one_client_is_sgd_or_sam(algorithm: str) -> None:
    """In its first round a method with one client has no history yet: plain SGD, or SAM; FedCM's kin step with alpha."""
    alpha = 0.1 if algorithm in ("fedcm", "mofedsam", "fedwmsam") else 1.0
    rho = 0.05 if algorithm in SAM else 0.0
    fields = {"federated": {"rho": rho, "prox": 0.0}, "clients": 1}
    made = trial(algorithm, sizes=[8], rounds=1, **fields)
    network = build(made.config, image_size=SIZE, classes=CLASSES).double()
    mu = [torch.zeros_like(p) for p in network.parameters()]
    for step in range(4):
        x, y = draw(0, 2 * step, 2)
        weights = list(network.parameters())
        gradient = torch.autograd.grad(functional.cross_entropy(network(x), y), weights)
        if rho:
            corrected = [g - m for g, m in zip(gradient, mu, strict=True)] if algorithm == "fedsmoo" else gradient
            length = torch.cat([g.flatten() for g in corrected]).norm()
            away = [rho * g / length for g in corrected]
            if algorithm == "fedsmoo":
                mu = [m + e for m, e in zip(mu, away, strict=True)]
            with torch.no_grad():
                for p, e in zip(weights, away, strict=True):
                    p.add_(e)
            gradient = torch.autograd.grad(functional.cross_entropy(network(x), y), weights)
            with torch.no_grad():
                for p, e in zip(weights, away, strict=True):
                    p.sub_(e)
        with torch.no_grad():
            for p, g in zip(weights, gradient, strict=True):
                p.sub_(0.05 * alpha * g)
    if algorithm in ("feddyn", "fedsmoo", "fedlesam_d"):  # x + h with h = Delta: twice as far
        start = build(made.config, image_size=SIZE, classes=CLASSES).double().state_dict()
        same(made.weights(), {k: 2 * v - start[k] for k, v in network.state_dict().items()})
    else:
        same(made.weights(), network.state_dict())


def test_one_local_step_is_sgd_on_the_union() -> None:
    made = trial("fedavg", rounds=1, local_steps=1, weighting="uniform")
    network = build(made.config, image_size=SIZE, classes=CLASSES).double()
    drawn = [draw(c, 0, 2) for c in range(3)]
    loss = functional.cross_entropy(network(torch.cat([x for x, _ in drawn])), torch.cat([y for _, y in drawn]))
    gradient = torch.autograd.grad(loss, list(network.parameters()))
    with torch.no_grad():
        for p, g in zip(network.parameters(), gradient, strict=True):
            p.sub_(0.05 * g)
    same(made.weights(), network.state_dict())


# --- one method is another ----------------------------------------------------------------------------------------------------------

EQUAL = {
    "FedProx(0) = FedAvg": (("fedprox", {"federated": {"prox": 0.0}}), ("fedavg", {})),
    "FedAvgM(0) = FedAvg": (("fedavgm", {"outer": {"momentum": 0.0}}), ("fedavg", {})),
    "SlowMo(0) = FedAvg": (("slowmo", {"outer": {"momentum": 0.0}}), ("fedavg", {})),
    "SlowMo = FedAvgM at a constant rate": (("slowmo", {"outer": {"momentum": 0.5}}), ("fedavgm", {"outer": {"momentum": 0.5}})),
    "FedAvgM = FedAvg on SFL-V1": (("fedavgm", {"outer": {"momentum": 0.5, "lr": 0.7}}),
                                   ("sfl_v1", {"outer": {"kind": "fedavgm", "momentum": 0.5, "lr": 0.7}})),
    "FedSAM(0) = FedAvg": (("fedsam", {"federated": {"rho": 0.0}}), ("fedavg", UNIFORM)),
    "MoFedSAM(0) = FedCM": (("mofedsam", {"federated": {"rho": 0.0}}), ("fedcm", {})),
    "FedGAMMA(0) = SCAFFOLD": (("fedgamma", {"federated": {"rho": 0.0}}), ("scaffold", {})),
    "FedSMOO(0) = FedDyn": (("fedsmoo", {"federated": {"rho": 0.0}}), ("feddyn", {})),
    "FedCM(1) = FedAvg": (("fedcm", {"federated": {"alpha": 1.0}}), ("fedavg", UNIFORM)),
    "FedLESAM(0) = FedAvg": (("fedlesam", {"federated": {"rho": 0.0}}), ("fedavg", UNIFORM)),
    "FedLESAM-S(0) = SCAFFOLD": (("fedlesam_s", {"federated": {"rho": 0.0}}), ("scaffold", {})),
    "FedLESAM-D(0) = FedDyn": (("fedlesam_d", {"federated": {"rho": 0.0}}), ("feddyn", {})),
    "FedLESAM = previous round": (("fedlesam", {}), ("fedlesam", {"federated": {"lesam_previous_round": True}})),
    "FedWMSAM without its parts = FedCM": (
        ("fedwmsam", {"federated": {"rho": 0.0, "wmsam_adapt": 0.0, "wmsam_personalised": False}}), ("fedcm", {})),
    "FedWMSAM with variates alone = SCAFFOLD": (("fedwmsam", {"federated": {"rho": 0.0, "wmsam_momentum": False}}), ("scaffold", {})),
}


@pytest.mark.parametrize("name", EQUAL)
def test_identities(name: str) -> None:
    made = [trial(algorithm, rounds=3, **fields) for algorithm, fields in EQUAL[name]]
    same(made[0].weights(), made[1].weights())


@pytest.mark.parametrize("name", ["scaffold", "fedlesam"])
def test_the_first_round_is_fedavgs(name: str) -> None:
    same(trial(name, rounds=1).weights(), trial("fedavg", rounds=1, **UNIFORM).weights())


def test_fedcm_begins_with_a_smaller_rate() -> None:
    """m_0 = 0, so round 0 is FedAvg with alpha eta_l."""
    slow = trial("fedavg", rounds=1, client_lr=0.005, server_lr=0.005, **UNIFORM)
    same(trial("fedcm", rounds=1).weights(), slow.weights())


@functools.cache
def uniform() -> Tensor:
    """FedAvg's weights after three rounds with equal shares."""
    return flat(trial("fedavg", rounds=3, **UNIFORM).weights())


@pytest.mark.parametrize("name", [n for n in FEDERATED if n not in ("fedavg", "fedavgm", "slowmo")])
def test_each_method_differs_from_fedavg_in_the_end(name: str) -> None:
    assert (flat(trial(name, rounds=3).weights()) - uniform()).abs().max() > 1e-9


# --- split ----------------------------------------------------------------------------------------------------------------------------


@functools.cache
def whole(name: str) -> dict[str, Tensor]:
    """Weights after two rounds at cut full, all clients at once, in the loop."""
    return trial(name, federated={"rho": 0.05}, clients_at_once=3, engine="loop").weights()


@pytest.mark.parametrize("name", FEDERATED)
def test_split_is_unsplit(name: str) -> None:
    same(trial(name, cut=5, federated={"rho": 0.05}).weights(), whole(name), atol=1e-11)


@pytest.mark.parametrize("name", FEDERATED)
@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_ledger_is_the_closed_form(name: str, cut: int | str) -> None:
    made = trial(name, rounds=2, cut=cut, clients_per_round=2)
    found = {kind: number for kinds in made.state.ledger.bytes().values() for kind, number in kinds.items() if number}
    steps = sum(made.local[c] for cohort in ([0, 1], [2, 0]) for c in cohort)
    d = sum(p.numel() for p in made.network.client.parameters())
    expected = federated_bytes(made.config, steps=steps, visits=4, h=torch.Size(made.network.smashed_shape).numel(), c=d, d=d,
                               apart=cut == 5)
    assert found == {kind: number for kind, number in expected.items() if number}


def test_vectors_on_the_wire_by_hand() -> None:
    """Per participant and round: FedSMOO 4 d down and 2 d up, SCAFFOLD and FedWMSAM 2 d down, FedLESAM d."""
    expected = {"fedsmoo": (4, 2), "scaffold": (2, 1), "fedwmsam": (2, 1), "fedlesam": (1, 1), "fedsam": (1, 1), "fedcm": (2, 1)}
    for name, (down, up) in expected.items():
        made = trial(name, rounds=1)
        d, sent = 4 * 3 * sum(p.numel() for p in made.network.parameters()), made.state.ledger.bytes()
        assert (sum(sent["down"].values()), sum(sent["up"].values())) == (down * d, up * d), name


# --- state ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scaffold", "fedgamma", "fedlesam_s", "fedwmsam"])
@pytest.mark.parametrize("fields", [{}, {"clients_per_round": 2}, {"clip_norm": 0.1}], ids=["all", "two of three", "clipped"])
def test_c_is_the_mean_of_all_c_i(name: str, fields: dict[str, object]) -> None:
    made = trial(name, rounds=0, **fields)
    for _ in range(4):
        made.rounds(1)
        kept = [made.state.store.get("client.variate", c) if ("client.variate", c) in made.state.store else 0 * made.state.trees[
            "client.variate"].flat for c in range(3)]
        torch.testing.assert_close(made.state.trees["client.variate"].flat, torch.stack(kept).mean(0), rtol=1e-9, atol=1e-12)
    assert made.state.trees["client.variate"].flat.abs().max() > 1e-6


def test_scaffold_keeps_the_mean_of_raw_gradients() -> None:
    """c_i+ = c_i - c + G_i is the mean of g along the way: seen through FedWMSAM's option, which counts them, without its momentum."""
    options = {"rho": 0.0, "wmsam_momentum": False, "wmsam_mean_gradient": True}
    same(trial("scaffold", rounds=3).weights(), trial("fedwmsam", rounds=3, federated=options).weights())


def test_identical_clients_need_no_correction() -> None:
    def source(client: int, position: int, count: int) -> tuple[Tensor, Tensor]:
        return draw(0, position, count)

    for name in ("scaffold", "fedlesam_s"):
        made = Trial(small(algorithm=name, **PLAIN), sizes=[6, 6, 6], source=source)
        made.rounds(3)
        for c in range(3):
            torch.testing.assert_close(made.state.store.get("client.variate", c), made.state.trees["client.variate"].flat)


@pytest.mark.parametrize("name", FEDERATED)
def test_groups_of_clients_give_the_same(name: str) -> None:
    same(trial(name, clients_at_once=1, federated={"rho": 0.05}).weights(), whole(name))


@pytest.mark.parametrize("name", FEDERATED)
def test_the_fused_engine_trains_as_the_loop(name: str) -> None:
    same(trial(name, engine="fused", federated={"rho": 0.05}).weights(), whole(name), atol=1e-9)


@pytest.mark.parametrize(("name", "cut"), [("scaffold", "full"), ("fedwmsam", "full"), ("fedsam", 5), ("fedavg", 0)])
def test_lost_messages_are_refused_where_nobody_has_said_what_they_mean(name: str, cut: int | str) -> None:
    with pytest.raises(ValueError, match="with lost messages is not defined"):
        trial(name, rounds=0, cut=cut, loss={"probability": 0.1})


# --- costs ----------------------------------------------------------------------------------------------------------------------------


def test_the_table_of_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """Relative to the size of the weights; the memory beyond FedAvg's is the vectors that a client holds."""
    from ssl_split.algorithms.__main__ import main

    main(["--arch", "mlp", "--image-size", "16", "--batch-size", "4"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: [float(word) for word in line[1:]] for line in lines[1:]}
    assert set(rows) == set(UNSPLIT)
    size = rows["fedavg"][1]
    assert {name for name, row in rows.items() if row[0] == 2} == set(SAM)
    for name, factor in (("fedsmoo", 4), ("fedwmsam", 2), ("scaffold", 2), ("fedlesam", 1)):
        assert rows[name][1] == pytest.approx(factor * size, abs=0.2)
    for row in (rows[name] for name in FEDERATED):
        assert row[4] - rows["fedavg"][4] == pytest.approx((row[3] - 2) * size, abs=0.4)
