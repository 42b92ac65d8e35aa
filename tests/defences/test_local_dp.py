"""The accountant against published closed forms, numerical integration and the specification's values."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from ssl_split.defences.local_dp import LocalDp, account, delta_of, epsilon_exact, epsilon_rdp, sigma_of


@pytest.mark.parametrize(("epsilon", "sigma"), [(1, 7.461), (4, 2.162), (8, 1.200), (16, 0.688)])
def test_sigma_of_one_release(epsilon: float, sigma: float) -> None:
    assert sigma_of(epsilon, delta=1e-5, sensitivity=2) == pytest.approx(sigma, abs=5e-4)


@pytest.mark.parametrize(("epsilon", "noise"), [(0.5, 1.0), (2.0, 0.7), (0.0, 3.0)])
def test_delta_is_the_hockey_stick_divergence(epsilon: float, noise: float) -> None:
    """The integral over y of max(0, p(y) - e^epsilon q(y)) for two unit steps apart; p exceeds e^epsilon q where y is above a point."""
    above = epsilon * noise**2 + 0.5
    expected = quad(lambda y: norm.pdf(y, 1, noise) - math.exp(epsilon) * norm.pdf(y, 0, noise), above, above + 40 * noise)[0]
    assert delta_of(epsilon, noise=noise) == pytest.approx(expected, rel=1e-6)


def test_four_hundred_releases() -> None:
    sigma = sigma_of(1, delta=1e-5, sensitivity=2)
    assert epsilon_rdp(sigma, delta=1e-5, sensitivity=2, releases=400) == pytest.approx(40.1, abs=0.05)
    assert epsilon_exact(sigma, delta=1e-5, sensitivity=2, releases=400) == pytest.approx(36.5, abs=0.05)


def test_rdp_is_the_minimum_over_orders() -> None:
    rho = 7 * 4 / (2 * 3.0**2)
    slow = min(rho * a + math.log(1e5) / (a - 1) for a in (1 + i / 1000 for i in range(1, 20000)))
    assert epsilon_rdp(3.0, delta=1e-5, sensitivity=2, releases=7) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 50.0])
def test_epsilon_grows_with_releases_and_rdp_is_never_below_exact(sigma: float) -> None:
    spent = [(epsilon_rdp(sigma, delta=1e-5, sensitivity=2, releases=k), epsilon_exact(sigma, delta=1e-5, sensitivity=2, releases=k))
             for k in (1, 2, 10, 1000)]
    assert all(rdp >= exact for rdp, exact in spent)
    for column in zip(*spent, strict=True):
        assert list(column) == sorted(column)
        assert column[0] < column[-1]


def test_one_release_spends_what_it_was_made_for() -> None:
    found = account(epsilon=4, delta=1e-5, clip=0.5, passes=1, per_pass=1)
    assert found["epsilon_exact"] == pytest.approx(4, abs=1e-6)
    assert found["sigma"] == pytest.approx(2.162 / 2, abs=5e-4)
    assert "covers the activations only, given the client's weights at each release" in str(found["claim"])
    assert "unconditional only with a client that is not trained on the images (--freeze-client" in str(found["claim"])
    assert account(epsilon=4, delta=1e-5, clip=0.5, passes=3, per_pass=4)["releases"] == 12


def test_clipping_bounds_every_image_and_leaves_small_ones() -> None:
    z = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[0] *= 0.01
    z[3] = 0
    clipped = LocalDp(clip=1.0, sigma=0.3).expected(z)
    norms = clipped.flatten(1).norm(dim=1)
    assert norms.max() <= 1 + 1e-12
    assert torch.equal(clipped[0], z[0])
    assert torch.equal(clipped[3], z[3])
    torch.testing.assert_close(clipped[1], z[1] / z[1].norm())


def test_noise_has_the_deviation_that_is_claimed() -> None:
    """Over 40 000 numbers the sample deviation is within 2 % (5 standard errors)."""
    z = torch.zeros(4, 10_000)
    sent = LocalDp(clip=1.0, sigma=1.2).on_activation(z, z, torch.Generator().manual_seed(1))
    assert sent.std().item() == pytest.approx(1.2, rel=0.02)
