"""Zeroth-order gradients against closed forms, MU-SplitFed against a slow reference, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from supervised import CLASSES, SIZE, UNEVEN, Trial, draw, same, small
from torch import Tensor, nn
from torch.nn import functional

from ssl_split import tree as trees
from ssl_split.algorithms.split.mu_splitfed import MuSplitFed
from ssl_split.models.split import build
from ssl_split.objectives.zeroth_order import directions, entries, slopes
from ssl_split.tree import Tree

PLAIN = {"algorithm": "mu_splitfed", "momentum": 0.0, "weight_decay": 0.0, "server_lr": 1e-4, "client_lr": 5e-5}
"""Small rates: a direction has norm sqrt(d), some 400 here, and larger steps would make weights explode and rounding with them."""


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + k) for k in range(count)]


# --- the estimator ------------------------------------------------------------------------------------------------------------------


def test_directions_lie_on_the_sphere_of_radius_root_d_and_outside_the_mask_are_zero() -> None:
    mask = torch.arange(48) % 16 < 5  # 15 parameters among padding
    made = directions(mask, generators(7), like=torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(made.norm(dim=1), torch.full((7,), 15**0.5, dtype=torch.float64))
    assert bool((made[:, ~mask] == 0).all())
    assert torch.equal(made, directions(mask, generators(7), like=made)), "equal seeds give equal directions"


def test_directions_have_the_identity_as_second_moment() -> None:
    """E[u u^T] = I; with n draws an entry deviates by about 1 / sqrt(n)."""
    u = directions(torch.ones(6, dtype=torch.bool), generators(20_000), like=torch.zeros(0, dtype=torch.float64))
    second = u.T @ u / len(u)
    assert (second - torch.eye(6, dtype=torch.float64)).abs().max() < 5 / len(u) ** 0.5


def test_entries_are_the_parameters() -> None:
    network = build(small(norm="batch"), image_size=SIZE, classes=CLASSES)
    mask = entries(trees.layout(network.client))
    assert int(mask.sum()) == sum(p.numel() for p in network.client.parameters())
    assert len(mask) == trees.layout(network.client).trainable


@pytest.mark.parametrize("radius", [1e-3, 1.0, 50.0])
def test_slopes_of_a_quadratic_are_exact_for_any_radius(radius: float) -> None:
    """F(w) = w A w / 2 + b w: the difference of two values is 2 r (grad F . u), whatever r."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    a, b = a + a.T, torch.randn(5, generator=generator, dtype=torch.float64)
    w, u = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    before = w.clone()
    found = slopes(lambda: (0.5 * (w @ a) * w).sum(1) + w @ b, w, u, radius=radius)
    torch.testing.assert_close(found, ((w @ a + b) * u).sum(1))
    assert torch.equal(w, before), "the weights are put back bit for bit"


def test_the_mean_of_the_estimator_is_the_gradient() -> None:
    """Of a small network with tanh (not quadratic): the mean over n directions deviates from the true gradient by a few standard errors."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(2, (8,))
    row = torch.nn.utils.parameters_to_vector(model.parameters()).detach()[None].clone()

    def loss() -> Tensor:
        torch.nn.utils.vector_to_parameters(row[0], model.parameters())
        return functional.cross_entropy(model(x), y)[None]

    true = torch.nn.utils.parameters_to_vector(torch.autograd.grad(loss()[0], list(model.parameters())))
    mask = torch.ones(row.shape[1], dtype=torch.bool)
    samples = []
    for generator in generators(4000):
        u = directions(mask, [generator], like=row)
        samples.append(slopes(loss, row, u, radius=1e-3) * u[0])
    stacked = torch.stack(samples)
    error = stacked.std(0) / len(samples) ** 0.5
    assert ((stacked.mean(0) - true).abs() / error).max() < 4.5
    assert true.norm() > 20 * error.norm() / len(true) ** 0.5, "the gradient is larger than the noise"


# --- the algorithm ------------------------------------------------------------------------------------------------------------------


def reference(trial: Trial, tau: int) -> dict[str, Tensor]:
    """One round, written with whole networks: every client's copy, every evaluation an undivided forward pass."""
    config, algorithm = trial.config, trial.algorithm
    assert isinstance(algorithm, MuSplitFed)
    start = build(config, image_size=SIZE, classes=CLASSES).double()
    radius = config.mu_splitfed.radius
    order = algorithm.order(trial.cohort(), 0).tolist()
    models = {client: copy.deepcopy(start) for client in order}
    for step in range(max(trial.local)):
        for client in [c for c in order if trial.local[c] > step]:
            network = models[client]
            x, y = draw(client, 2 * step, 2)

            def loss(network: nn.Module = network, x: Tensor = x, y: Tensor = y) -> float:
                with torch.no_grad():
                    return functional.cross_entropy(network(x), y).item()

            def along(half: str, *key: int, client: int = client) -> dict[str, Tensor]:
                copies = algorithm.clients if half == "client" else algorithm.servers
                u = algorithm._directions(copies, half, torch.tensor([client]), *key)
                rows = torch.zeros(copies.weights.layout.size, dtype=torch.float64)
                rows[: u.shape[1]] = u[0]
                return dict(Tree(copies.weights.layout, rows))

            def move(u: dict[str, Tensor], by: float, network: nn.Module = network) -> None:
                with torch.no_grad():
                    for name, parameter in network.named_parameters():
                        if name in u:
                            parameter += by * u[name]

            for i in range(tau):
                u = along("server", step, i)
                move(u, radius)
                ahead = loss()
                move(u, -2 * radius)
                behind = loss()
                move(u, radius)
                move(u, -config.server_lr * (ahead - behind) / (2 * radius))
            u = along("client", step)
            move(u, radius)
            ahead = loss()
            move(u, -2 * radius)
            behind = loss()
            move(u, radius)
            move(u, -config.client_lr * (ahead - behind) / (2 * radius))
    average = {k: sum(n / sum(UNEVEN) * models[j].state_dict()[k] for j, n in enumerate(UNEVEN)) for k in start.state_dict()}
    return {k: v + config.mu_splitfed.global_lr * (average[k] - v) for k, v in start.state_dict().items()}


@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_a_round_is_the_slow_reference(tau: int, cut: int | str) -> None:
    """tau = 1 is zeroth-order SplitFed: one server and one client step a batch. Uneven clients."""
    trial = Trial(small(**PLAIN, cut=cut, mu_splitfed={"tau": tau}))
    expected = reference(trial, tau)
    trial.rounds(1)
    same(trial.weights(), expected, atol=1e-9)  # differences of nearly equal losses, divided by 2 r


def test_with_a_resting_server_tau_has_no_effect() -> None:
    trials = [Trial(small(**{**PLAIN, "server_lr": 0.0}, mu_splitfed={"tau": tau})) for tau in (1, 4)]
    for trial in trials:
        trial.rounds(1)
    same(trials[0].weights(), trials[1].weights(), atol=0)


def test_one_client_with_a_whole_step_over_rounds_is_its_own_model() -> None:
    """M = 1, eta_g = 1: nothing is averaged."""
    trial = Trial(small(**PLAIN, clients=1, mu_splitfed={"global_lr": 1.0}), sizes=[8])
    trial.rounds(1)
    assert isinstance(trial.algorithm, MuSplitFed)
    torch.testing.assert_close(trial.state.trees["client.online"].flat, trial.algorithm.clients.weights.flat[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(trial.state.trees["server.online"].flat, trial.algorithm.servers.weights.flat[0], rtol=0, atol=1e-15)


def test_only_one_number_a_step_comes_down() -> None:
    trial = Trial(small(**PLAIN))
    trial.rounds(1)
    down = trial.state.ledger.bytes()["down"]
    assert down["scalar_down"] == 4 * sum(trial.local)
    assert down["grad_down"] == 0


def test_coupled_rates() -> None:
    trials = [Trial(small(**{**PLAIN, "client_lr": lr}, mu_splitfed={"tau": 3, "coupled": coupled}))
              for lr, coupled in ((3e-4, False), (7, True))]
    for trial in trials:
        trial.rounds(1)
    same(trials[0].weights(), trials[1].weights(), atol=0)


@pytest.mark.parametrize("tau", [1, 3])
def test_first_order_is_the_same_schedule_with_gradients(tau: int) -> None:
    """One client: tau SGD steps of the server on one h, then the client's step with the gradient at the server's new weights."""
    config = small(**{**PLAIN, "server_lr": 0.05, "client_lr": 0.05}, clients=1,
                   mu_splitfed={"tau": tau, "estimator": "first_order", "global_lr": 1.0})
    trial = Trial(config, sizes=[6])
    trial.rounds(1)
    network = build(config, image_size=SIZE, classes=CLASSES).double()
    client, server = network.client, network.server
    for step in range(3):
        x, y = draw(0, 2 * step, 2)
        h = client(x)
        for _ in range(tau):
            found = torch.autograd.grad(functional.cross_entropy(server(h.detach()), y), list(server.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(server.parameters(), found, strict=True):
                    parameter -= 0.05 * gradient
        found = torch.autograd.grad(functional.cross_entropy(server(h), y), list(client.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(client.parameters(), found, strict=True):
                parameter -= 0.05 * gradient
    same(trial.weights(), network.state_dict())


def test_momentum_over_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="global-lr"):
        Trial(small(**PLAIN, outer={"kind": "slowmo"}))
