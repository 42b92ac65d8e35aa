"""SMoFi in float64: where it is SFL-V1, and what its fusion computes where it is not."""

from __future__ import annotations

import pytest
import torch
from supervised import CLASSES, SIZE, UNEVEN, Trial, draw, same, small
from torch import Tensor
from torch.nn import functional

from ssl_split.algorithms.split.smofi import SMoFi
from ssl_split.models.split import build

OPTIMISERS = ("sgd", "nesterov", "adam", "adamw")


@pytest.mark.parametrize("fields", [{"clients": 1}, {"momentum": 0.0}, {"local_steps": 1}, {"local_steps": 1, "optimiser": "adam"},
                                    {"clients": 1, "optimiser": "nesterov"}], ids=str)
def test_smofi_is_sfl_v1_where_there_is_nothing_to_fuse(fields: dict[str, object]) -> None:
    """One client; no momentum; one step a round (the fused momentum is 0 in it)."""
    sizes = UNEVEN[: int(fields.get("clients", 3))]  # type: ignore[call-overload]
    trials = [Trial(small(algorithm=name, **fields), sizes=sizes) for name in ("smofi", "sfl_v1")]
    for trial in trials:
        trial.rounds(2)
    same(trials[0].weights(), trials[1].weights())


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_smofi_is_sfl_v1_on_identical_data(optimiser: str) -> None:
    """All buffers are equal, so their weighted mean is each of them."""
    def source(client: int, position: int, count: int) -> tuple[Tensor, Tensor]:
        return draw(0, position, count)

    trials = [Trial(small(algorithm=name, optimiser=optimiser), sizes=[6, 6, 6], source=source) for name in ("smofi", "sfl_v1")]
    for trial in trials:
        trial.rounds(2)
    same(trials[0].weights(), trials[1].weights(), atol=1e-12 if optimiser[0] != "a" else 1e-7)


def test_smofi_differs_from_sfl_v1_otherwise() -> None:
    trials = [Trial(small(algorithm=name)) for name in ("smofi", "sfl_v1")]
    for trial in trials:
        trial.rounds(1)
    assert any((v - trials[1].weights()[k]).abs().max() > 1e-6 for k, v in trials[0].weights().items())


def test_staleness_has_no_effect_on_even_clients() -> None:
    trials = [Trial(small(algorithm="smofi", smofi=options), sizes=[6, 6, 6])
              for options in ({"alpha": 0.0}, {"alpha": -3.0}, {"history": "ignored"}, {"history": "adaptive"})]
    for trial in trials:
        trial.rounds(1)
    for trial in trials[1:]:
        same(trial.weights(), trials[0].weights(), atol=0)


@pytest.mark.parametrize(("options", "kept"), [
    ({"alpha": -0.1}, lambda age: age**-0.1), ({"alpha": 0.0}, lambda age: 1.0), ({"history": "ignored"}, lambda age: 0.0)],
    ids=["aligned", "in full", "ignored"])
def test_smofi_follows_equations_4_and_5(options: dict[str, object], kept: object) -> None:
    """A slow reference on the server's gradients alone: m_j = beta m + g_j; m = sum p_j m_j + sum p_j (tau - T_j + 1)^alpha m_j."""
    config = small(algorithm="smofi", cut=0, smofi=options, weight_decay=0.0)
    trial = Trial(config)
    trial.rounds(1)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    start = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    weights = [start.clone() for _ in UNEVEN]
    momentum, fused = [torch.zeros_like(start) for _ in UNEVEN], torch.zeros_like(start)
    shares = [n / sum(UNEVEN) for n in UNEVEN]
    for tau in range(4):
        for j, steps in enumerate(trial.local):
            if tau < steps:
                torch.nn.utils.vector_to_parameters(weights[j], network.parameters())
                x, y = draw(j, 2 * tau, 2)
                gradient = torch.autograd.grad(functional.cross_entropy(network(x), y), list(network.parameters()))
                momentum[j] = 0.9 * fused + torch.nn.utils.parameters_to_vector(gradient)
                weights[j] = weights[j] - 0.05 * momentum[j]
        fused = sum((shares[j] * (1.0 if tau < steps else kept(tau - steps + 1)) * momentum[j]  # type: ignore[operator, misc]
                     for j, steps in enumerate(trial.local)), torch.zeros_like(start))
    average = sum((shares[j] * weights[j] for j in range(3)), torch.zeros_like(start))
    torch.nn.utils.vector_to_parameters(average, network.parameters())
    same(trial.weights(), network.state_dict())


def test_fusion_weights() -> None:
    """T = (4, 3, 1) after sorting: in the third fusion the last client finished two steps ago, in the fourth the second has just."""
    trial = Trial(small(algorithm="smofi", smofi={"alpha": -1.0}))
    assert isinstance(trial.algorithm, SMoFi)
    trial.algorithm.begin_round(trial.state, trial.cohort(), trial.wire)
    assert trial.state.cohort.tolist() == [0, 2, 1]
    p = torch.tensor([8, 6, 2], dtype=torch.float64) / 16
    trial.state.step_in_round = 2
    torch.testing.assert_close(trial.algorithm._fusion(trial.state, 2), p * torch.tensor([1, 1, 1 / 2], dtype=torch.float64))
    trial.state.step_in_round = 3
    torch.testing.assert_close(trial.algorithm._fusion(trial.state, 1), p * torch.tensor([1, 1, 1 / 3], dtype=torch.float64))


def test_renormalised_fusion_weights_sum_to_one() -> None:
    trial = Trial(small(algorithm="smofi", smofi={"alpha": -1.0, "renormalise": True}))
    assert isinstance(trial.algorithm, SMoFi)
    trial.algorithm.begin_round(trial.state, trial.cohort(), trial.wire)
    trial.state.step_in_round = 3
    assert trial.algorithm._fusion(trial.state, 1).sum().item() == pytest.approx(1)


def test_adaptive_history_keeps_what_points_the_same_way() -> None:
    trial = Trial(small(algorithm="smofi", smofi={"history": "adaptive"}))
    assert isinstance(trial.algorithm, SMoFi)
    trial.algorithm.begin_round(trial.state, trial.cohort(), trial.wire)
    trial.state.step_in_round = 3
    rows = trial.algorithm.servers.moments["velocity"].flat
    rows[0], rows[1], rows[2] = 1.0, 2.0, -1.0  # at work; finished, parallel; finished, opposite
    p = torch.tensor([8, 6, 2], dtype=torch.float64) / 16
    torch.testing.assert_close(trial.algorithm._fusion(trial.state, 1), p * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))


def test_smofi_fuses_the_first_moment_alone_if_told_to() -> None:
    trials = [Trial(small(algorithm="smofi", optimiser="adam", smofi={"moments": moments})) for moments in ("all", "first")]
    for trial in trials:
        trial.rounds(1)
    assert "server.fused_second" in trials[0].state.trees
    assert "server.fused_second" not in trials[1].state.trees
    assert any((v - trials[1].weights()[k]).abs().max() > 1e-6 for k, v in trials[0].weights().items())


def test_smofi_refuses_to_keep_momentum_per_client() -> None:
    with pytest.raises(ValueError, match="smofi.carry"):
        Trial(small(algorithm="smofi", optimiser_state="keep"))
