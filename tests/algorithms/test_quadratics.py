"""The federated methods on a convex quadratic, where signs and fixed points show."""

from __future__ import annotations

import pytest
import torch
from federated import PLAIN, UNIFORM
from supervised import CLASSES, Trial, small
from torch import Tensor

from ssl_split.algorithms.api import State
from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.config import FEDERATED


class Quadratic:
    """F_i(x) = sum of c_i (x - b_i)^2 / 2 in the place of the network's loss, elementwise, with another curvature for each client."""

    def __init__(self, made: Trial) -> None:
        assert isinstance(made.algorithm, FedAvg)
        self.made, self.algorithm = made, made.algorithm
        self.size = made.algorithm.clients.weights.parameters.shape[1]
        generator = torch.Generator().manual_seed(0)
        self.curvature = 0.5 + torch.rand(3, self.size, generator=generator, dtype=torch.float64)
        self.centre = torch.randn(3, self.size, generator=generator, dtype=torch.float64)
        self.algorithm._gradients = self.gradients  # type: ignore[method-assign, assignment]

    def gradients(self, state: State, batch: object, wire: object, members: Tensor, rows: slice, came: Tensor, *, again: bool = False
                  ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Instead of a backward pass."""
        x = self.algorithm.clients.weights.parameters[rows]
        self.algorithm.clients.gradients.parameters[rows] = self.curvature[members] * (x - self.centre[members])
        return torch.ones(len(members)), torch.zeros(len(members), 2, CLASSES), torch.zeros(len(members), 2, dtype=torch.int64), came

    @property
    def x(self) -> Tensor:
        """The model."""
        return self.made.state.trees["client.online"].parameters

    def loss(self) -> float:
        """Mean over clients."""
        return float((self.curvature * (self.x - self.centre).square()).sum(1).mean() / 2)

    @property
    def best(self) -> Tensor:
        """The global minimum."""
        return (self.curvature * self.centre).sum(0) / self.curvature.sum(0)


@pytest.mark.parametrize("name", FEDERATED)
def test_every_method_lowers_a_convex_quadratic_from_round_one(name: str) -> None:
    """With a small step; catches a wrong sign."""
    bowl = Quadratic(Trial(small(algorithm=name, **{**PLAIN, "client_lr": 0.01, "server_lr": 0.01, "arch": "cnn4"}), sizes=[6, 6, 6]))
    found = [bowl.loss()]
    for _ in range(3):
        bowl.made.rounds(1)
        found.append(bowl.loss())
    assert found[0] > found[1] > found[2] > found[3]


@pytest.mark.parametrize("fields", [{}, {"clients_per_round": 2}], ids=["all", "two of three"])
@pytest.mark.parametrize("name", ["feddyn", pytest.param("fedlesam_d", marks=pytest.mark.slow)])
def test_feddyn_comes_to_rest_at_the_global_minimum(name: str, fields: dict[str, object]) -> None:
    """Long local work on quadratics: x at the minimum of the mean, lambda h_i = -grad F_i there, which FedAvg misses."""
    options = {**PLAIN, "client_lr": 0.3, "server_lr": 0.3, "local_steps": 40, "arch": "cnn4", "federated": {"prox": 1.0, "rho": 0.0}}
    bowl = Quadratic(Trial(small(algorithm=name, **options, **fields), sizes=[6, 6, 6]))
    bowl.made.rounds(80)
    torch.testing.assert_close(bowl.x, bowl.best, rtol=1e-6, atol=1e-6)
    for c in range(3):
        dual = bowl.made.state.store.get("client.dual", c)[: bowl.size]
        torch.testing.assert_close(dual, -bowl.curvature[c] * (bowl.x - bowl.centre[c]), rtol=1e-5, atol=1e-5)
    plain = Quadratic(Trial(small(algorithm="fedavg", **options, **UNIFORM), sizes=[6, 6, 6]))
    plain.made.rounds(20)
    assert (plain.x - plain.best).abs().max() > 1e-2
