"""Ridge: brute force, another library, primal against dual, blocks, the choice of lambda, clients where it must succeed or fail."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from attacks import ridge
from attacks.api import AttackOptions, Guess, RidgeOptions
from attacks.features import Features
from attacks.judge import score
from attacks.reconstruct import reconstruct
from attacks.ridge import LAMBDAS, Ridge
from attacks.victim import Victim
from attacks.view import OwnImages, View
from ssl_split.defences.api import Defence
from ssl_split.defences.compression import Quantise
from ssl_split.defences.noise import Gaussian

N, SIDE = 40, 4


def _mixing(outputs: int) -> Tensor:
    return torch.randn(3 * SIDE * SIDE, outputs, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def _data(outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images `(N, 48)`, their smashed data with a dead feature and unequal scales, and 6 further images."""
    generator = torch.Generator().manual_seed(0)
    x, more = (torch.rand(n, 3, SIDE, SIDE, generator=generator, dtype=torch.float64) for n in (N, 6))
    return x, more, _mixing(outputs)


def _client(mixing: Tensor) -> Victim:
    scales = torch.logspace(-2, 2, mixing.shape[1], dtype=torch.float64)

    def smash(x: Tensor) -> Tensor:
        z = (x.flatten(1) @ mixing).tanh() * scales + 3
        z[:, 1] = 7.0
        return z

    return Victim(smash)


def _standardised(z: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    """Standardised rows of both, dead features taken out, and how many are left."""
    mean, std = z.mean(0), z.std(0, correction=0)
    alive = std > 1e-9
    return ((z - mean) / std)[:, alive].numpy(), ((other - mean) / std)[:, alive].numpy(), int(alive.sum())


@pytest.mark.parametrize("outputs", [12, 90])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 1e3])
def test_ridge_against_normal_equations_and_sklearn(outputs: int, dual: bool, penalty: float) -> None:
    """With d live features, penalty lambda on rows of norm 1 is alpha = lambda d on standardised rows:
    W = (Z'Z + lambda d)^-1 Z'(Y - mean Y), with the intercept unpenalised. Both forms must give it at d < n and d > n.
    """
    x, more, mixing = _data(outputs)
    victim = _client(mixing)
    z, other, alive = _standardised(victim.release(x), victim.release(more))
    assert alive == outputs - 1
    y = x.flatten(1).numpy()
    brute = other @ np.linalg.solve(z.T @ z + penalty * alive * np.eye(alive), z.T @ (y - y.mean(0))) + y.mean(0)
    theirs = SklearnRidge(alpha=penalty * alive).fit(z, y).predict(other)
    fitted = Ridge(Features(victim.release, x), x.flatten(1), dual=dual)
    ours = fitted.solution.predict(fitted.scores(Features(victim.release, more)), penalty=penalty).numpy()
    np.testing.assert_allclose(ours, brute, atol=1e-8)
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_the_smaller_matrix_is_taken_apart() -> None:
    x, _, _ = _data(12)
    assert [Ridge(Features(_client(_mixing(d)).release, x), x.flatten(1)).dual for d in (12, 90)] == [False, True]


@pytest.mark.parametrize("outputs", [12, 90])
def test_memory_limits_change_nothing(outputs: int) -> None:
    """Smashed data held or computed again, in one block or in blocks of 7 images: the same prediction."""
    x, more, mixing = _data(outputs)
    calls = 0

    def query(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return _client(mixing).release(images)

    found = []
    for held, block in ((10**9, 10**9), (10**9, 7 * outputs * 8), (0, 7 * outputs * 8)):
        calls = 0
        features = Features(query, x, held_bytes=held, block_bytes=block)
        fitted = Ridge(features, x.flatten(1))
        found.append(fitted.solution.predict(fitted.scores(Features(query, more, block_bytes=block)), penalty=0.1))
    assert calls > 10
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_blocks_cover_all_rows_in_order() -> None:
    x = torch.rand(10, 3, 2, 2)
    features = Features(lambda images: images, x, block_bytes=3 * 12 * 4)
    places = [(place.start, len(rows)) for place, rows in features.blocks()]
    assert places == [(0, 3), (3, 3), (6, 3), (9, 1)]
    assert torch.equal(torch.cat([rows for _, rows in features.blocks()]), x.flatten(1))
    assert [place.start for place, _ in features.blocks(6)] == [6, 9]


def test_lambda_is_the_one_with_the_lowest_validation_error() -> None:
    """Against a search with another library over the same grid, on clamped predictions; heavy noise wants a heavy penalty."""
    chosen = []
    for noise in (0.0, 30.0):
        generator = torch.Generator().manual_seed(3)
        mixing = _mixing(30)
        x = torch.rand(80, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        z = x.flatten(1) @ mixing + noise * torch.randn(80, 30, generator=generator, dtype=torch.float64)
        fit, held = slice(0, 60), slice(60, 80)
        a, b, alive = _standardised(z[fit], z[held])
        y = x.flatten(1)
        errors = []
        for penalty in LAMBDAS:
            guess = SklearnRidge(alpha=penalty * alive).fit(a, y[fit].numpy()).predict(b).clip(0, 1)
            errors.append(float(((guess - y[held].numpy()) ** 2).mean()))
        fitted = Ridge(Features(lambda rows: rows, z[fit]), y[fit])
        found, ours = ridge.choose(fitted, fitted.scores(Features(lambda rows: rows, z[held])), y[held])
        assert list(ours.values()) == pytest.approx(errors)
        assert found == LAMBDAS[int(np.argmin(errors))]
        chosen.append(found)
    assert chosen[1] > 10 * chosen[0]


def test_grid_is_the_documented_one() -> None:
    assert LAMBDAS[0] == pytest.approx(1e-3)
    assert LAMBDAS[-1] == pytest.approx(1e3)
    assert len(LAMBDAS) == 13


def test_edge_of_the_grid_is_told_only_where_it_matters() -> None:
    flat = {p: 0.01 - 1e-6 * i for i, p in enumerate(LAMBDAS)}
    steep = {p: 0.01 * 0.9**i for i, p in enumerate(LAMBDAS)}
    inner = {p: abs(i - 5) + 1.0 for i, p in enumerate(LAMBDAS)}
    assert [ridge.at_edge(errors) for errors in (flat, steep, inner)] == [False, True, False]


def _photos(count: int, seed: int) -> Tensor:
    """Smooth random images, as correlated as pictures are."""
    small = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=(12, 12), mode="bilinear").clamp(0, 1)


def test_identity_client_is_read_completely() -> None:
    """z = x with more images than features: R2 > .99, also where the client normalises."""
    found = reconstruct(torch.nn.Identity(), _photos(16, 0), _photos(500, 1), method="ridge", mean=(0.4,) * 3, std=(0.2,) * 3)
    assert found.result["r2"] > 0.99
    assert found.result["intervals"]["r2"][0] > 0.99
    assert found.result["ssim"] > 0.98


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_constant_client_gives_nothing_away(constant: float) -> None:
    """z = c: ridge can only guess the mean image, so R2 = 0 up to the validation images that the blind guess does not use either."""
    found = reconstruct(lambda x: torch.full((len(x), 40), constant), _photos(16, 0), _photos(100, 1), method="ridge")
    assert found.result["r2"] == pytest.approx(0, abs=1e-6)
    assert "No better than the blind guess" in found.verdict


def test_pure_noise_gives_nothing_away() -> None:
    """z that does not depend on x: the chosen penalty is the heaviest, R2 <= 0 within noise."""
    generator = torch.Generator().manual_seed(5)
    found = reconstruct(lambda x: torch.randn(len(x), 30, generator=generator), _photos(32, 0), _photos(300, 1), method="ridge")
    assert found.result["r2"] < 0.02
    assert found.result["intervals"]["r2"][0] <= 0


def test_attack_reports_its_choice() -> None:
    own = OwnImages(_photos(60, 1), _photos(8, 2))
    victim = Victim(torch.nn.Identity())
    targets = _photos(5, 0)
    guess = ridge.attack(View(victim.offers(targets, own), ("smashed", "query", "aux"), attack="ridge"), AttackOptions(method="ridge"), 0)
    assert guess.images.shape == targets.shape
    assert guess.images.dtype == torch.float32
    assert guess.notes["lambda"] in LAMBDAS
    assert guess.validation_mse == min(guess.notes["validation_mse_by_lambda"].values())
    assert score(guess.images, targets).mse.mean() < 0.01


@pytest.mark.parametrize(("defence", "copies"), [(Gaussian(0.5), 8), (Quantise(4), 1)])
def test_under_a_random_defence_several_releases_are_averaged(defence: Defence, copies: int) -> None:
    """Fewer images than numbers: a regression on one noisy release of each learns the noise; the mean of several does better. A defence
    without randomness is asked once."""
    own, targets = OwnImages(_photos(120, 1), _photos(40, 2)), _photos(30, 0)

    def attacked(options: RidgeOptions) -> tuple[Guess, float]:
        view = View(Victim(torch.nn.Identity(), defence=defence).offers(targets, own), ("smashed", "query", "aux"), attack="ridge")
        guess = ridge.attack(view, AttackOptions(method="ridge", ridge=options), 0)
        return guess, float(score(guess.images, targets).mse.mean())

    found, error = attacked(RidgeOptions())
    assert found.notes["copies"] == copies
    _, once = attacked(RidgeOptions(copies=1))
    assert error < 0.9 * once if copies > 1 else error == once
