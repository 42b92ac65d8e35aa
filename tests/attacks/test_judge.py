"""The judge: seeds averaged first, intervals, the words for the numbers, and the cached ruler."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attacks import judge, rulers
from attacks.judge import Scores
from ssl_split import quality


def _scores(mse: Tensor, ssim: Tensor) -> Scores:
    mse, ssim = mse.double(), ssim.double()
    return Scores(mse, quality.psnr_of(mse), ssim, ssim, {})


def _spread(mean: float, count: int = 64) -> Tensor:
    """Values around a mean, the same relative spread for every mean."""
    generator = torch.Generator().manual_seed(0)
    return mean * (0.8 + 0.4 * torch.rand(count, generator=generator, dtype=torch.float64))


BLIND = _scores(_spread(0.06), _spread(0.14))


def test_scores_of_known_images() -> None:
    """A difference of .1 on one image and none on the other: MSE .005, PSNR of the mean 23.01 dB, mean PSNR (20 + 100) / 2."""
    targets = torch.full((2, 3, 16, 16), 0.5)
    images = targets.clone()
    images[0] += 0.1
    found = judge.score(images, targets).to_dict()
    assert found["mse"] == pytest.approx(0.005)
    assert found["psnr_of_mean_mse"] == pytest.approx(23.0103, abs=1e-4)
    assert found["psnr"] == pytest.approx(60, abs=1e-4)


def test_one_guess_for_all_is_compared_with_each() -> None:
    targets = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    guess = targets.mean(0, keepdim=True)
    assert torch.equal(judge.score(guess, targets).mse, judge.score(guess.expand_as(targets), targets).mse)


def test_mean_colour_keeps_each_images_colour_alone() -> None:
    targets = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flat = judge.mean_colour(targets)
    torch.testing.assert_close(flat.mean((2, 3)), targets.mean((2, 3)))
    assert flat.var((2, 3)).max() < 1e-12


def test_seeds_are_averaged_per_image() -> None:
    first, second = _scores(torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.4])), _scores(torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.0]))
    both = judge.mean_over_seeds([first, second])
    torch.testing.assert_close(both.mse, torch.tensor([0.2, 0.4], dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(both.ssim, torch.tensor([0.3, 0.2], dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(both.psnr, (first.psnr + second.psnr) / 2)


def test_intervals_hold_the_means() -> None:
    mine = _scores(_spread(0.03), _spread(0.4))
    found = judge.intervals(mine, BLIND)
    means = mine.to_dict() | judge.relative(mine, BLIND)
    assert set(found) == {"mse", "psnr", "ssim", "r2"}
    for name, (low, high) in found.items():
        assert low <= means[name] <= high, name
    assert found["mse"][1] - found["mse"][0] > 0.0005


@pytest.mark.parametrize(("mse", "ssim", "said"), [
    (0.06, 0.14, "No better than the blind guess (R2 0.00"),
    (0.09, 0.50, "No better than the blind guess (R2 -0.50"),
    (0.04, 0.13, "Nearer in colour, but no better in structure than the blind guess (R2 0.33"),
    (0.04, 0.149, "Little but colour is visible"),
    (0.04, 0.25, "Colour and layout of the targets are visible"),
    (0.02, 0.45, "The gist of the targets is visible"),
    (0.005, 0.80, "The targets are clearly recognisable (R2 0.92"),
])
def test_verdict(mse: float, ssim: float, said: str) -> None:
    """The scale of the project: .15, .3 and .6 of valid SSIM, below the two blind guesses."""
    found = judge.verdict(_scores(_spread(mse), _spread(ssim)), BLIND, None)
    assert found.startswith(said)
    assert found.endswith(").")


def test_verdict_of_an_uncertain_r2_is_no_better() -> None:
    """A gain on the mean whose interval reaches 0 is no gain."""
    noise = torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine = _scores(BLIND.mse - 0.002 + 0.015 * (noise - noise.mean()), _spread(0.5))
    assert 0 < judge.relative(mine, BLIND)["r2"] < 0.1
    assert judge.verdict(mine, BLIND, None).startswith("No better than the blind guess")


@pytest.mark.parametrize(("untrained", "said"), [
    (0.01, "an untrained client gives away more than this one (R2 0.83)"),
    (0.02, "an untrained client gives away about as much as this one (R2 0.67)"),
    (0.05, "an untrained client gives away less than this one (R2 0.17)"),
])
def test_verdict_names_the_untrained_client(untrained: float, said: str) -> None:
    found = judge.verdict(_scores(_spread(0.02), _spread(0.45)), BLIND, _scores(_spread(untrained), _spread(0.4)))
    assert found.endswith(said + ".")


def test_ruler_is_computed_once_per_key(tmp_path: Path) -> None:
    """Read back bit for bit; another key, and a damaged file, are computed."""
    calls = []

    def compute() -> Scores:
        calls.append(1)
        return BLIND

    key = {"attack": "ridge", "aux": 500}
    first = rulers.cached(tmp_path, key, compute)
    again = rulers.cached(tmp_path, key, compute)
    assert len(calls) == 1
    assert torch.equal(first.mse, again.mse)
    assert torch.equal(first.ssim, again.ssim)
    rulers.cached(tmp_path, key | {"aux": 5000}, compute)
    assert len(calls) == 2
    for file in tmp_path.iterdir():
        file.write_text("{")
    rulers.cached(tmp_path, key, compute)
    assert len(calls) == 3
    assert len(list(tmp_path.iterdir())) == 2
