"""Image quality: closed forms, slow references, other libraries, invariances, refusals."""

import math

import kornia
import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_split import quality


def _images(count: int = 3, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pairs in float64: smooth random images and noisy copies."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    x = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")
    y = (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    return x, y


def test_mse_and_psnr_closed_form() -> None:
    """A constant difference d has MSE d^2 and PSNR -20 log10 d: .1 gives .01 and 20 dB, .01 gives .0001 and 40 dB."""
    x = torch.full((2, 3, 16, 16), 0.5, dtype=torch.float64)
    y = x + torch.tensor([0.1, 0.01], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(quality.mse(x, y), torch.tensor([0.01, 0.0001], dtype=torch.float64))
    torch.testing.assert_close(quality.psnr(x, y), torch.tensor([20.0, 40.0], dtype=torch.float64))


def test_mean_psnr_is_not_psnr_of_the_mean() -> None:
    """MSE .01 and .0001: the mean of the PSNR is 30 dB, the PSNR of the mean MSE .00505 is 22.97 dB."""
    error = torch.tensor([0.01, 0.0001], dtype=torch.float64)
    assert quality.psnr_of(error).mean().item() == pytest.approx(30)
    assert quality.psnr_of(error.mean()).item() == pytest.approx(10 * math.log10(1 / 0.00505))


def test_psnr_of_equal_images_is_finite() -> None:
    x, _ = _images()
    assert quality.psnr(x, x).tolist() == [quality.PSNR_LIMIT] * 3


def test_conversions_of_other_scales() -> None:
    """Images in [-1, 1] have four times the MSE; a loss summed over values is divided by their number."""
    x, y = _images()
    wide = ((2 * x - 1) - (2 * y - 1)).square().flatten(1).mean(1)
    torch.testing.assert_close(wide / 4, quality.mse(x, y))
    torch.testing.assert_close((x - y).square().sum() / x.numel(), quality.mse(x, y).mean())


def test_normalising_a_reconstruction_by_its_range_changes_the_score() -> None:
    """Why it is forbidden: a flat, almost grey guess becomes a contrasty one with another error."""
    x, _ = _images()
    flat = 0.5 + 0.1 * (x - 0.5)
    stretched = (flat - flat.min()) / (flat.max() - flat.min())
    assert (quality.mse(stretched, x) < 0.5 * quality.mse(flat, x)).all()


def _slow_ssim(x: Tensor, y: Tensor, *, pad: int) -> list[float]:
    """SSIM by its definition: weighted moments of every window, with two-pass variances, in loops."""
    places = np.arange(11) - 5
    row = np.exp(-(places**2) / (2 * 1.5**2))
    weights = np.outer(row, row) / row.sum() ** 2
    found = []
    for one, other in zip(x.numpy(), y.numpy(), strict=True):
        values = []
        for a, b in zip(one, other, strict=True):
            a, b = np.pad(a, pad), np.pad(b, pad)
            for i in range(a.shape[0] - 10):
                for j in range(a.shape[1] - 10):
                    u, v = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                    mu, mv = (weights * u).sum(), (weights * v).sum()
                    su, sv = (weights * (u - mu) ** 2).sum(), (weights * (v - mv) ** 2).sum()
                    suv = (weights * (u - mu) * (v - mv)).sum()
                    values.append((2 * mu * mv + 1e-4) * (2 * suv + 9e-4) / ((mu**2 + mv**2 + 1e-4) * (su + sv + 9e-4)))
        found.append(float(np.mean(values)))
    return found


def test_ssim_against_its_definition_in_valid_windows() -> None:
    x, y = _images(2, 13)
    assert quality.ssim(x, y).tolist() == pytest.approx(_slow_ssim(x, y, pad=0), abs=1e-9)


def test_ssim_resfl_against_its_definition_with_zero_padding() -> None:
    x, y = _images(2, 13)
    assert quality.ssim_resfl(x, y).tolist() == pytest.approx(_slow_ssim(x, y, pad=5), abs=1e-9)


def test_ssim_agrees_with_kornia() -> None:
    x, y = _images(3, 32)
    theirs = kornia.metrics.ssim(x, y, 11, max_val=1.0, padding="valid").flatten(1).mean(1)
    torch.testing.assert_close(quality.ssim(x, y), theirs, atol=1e-6, rtol=0)


def test_zero_padding_flatters_a_mean_image() -> None:
    """The black surroundings agree in every pair, so the published SSIM of a mean image is far above the valid one."""
    x, _ = _images(8, 32)
    guess = x.mean(0, keepdim=True).expand_as(x)
    assert (quality.ssim_resfl(guess, x).mean() - quality.ssim(guess, x).mean()).item() > 0.05


def test_ssim_is_symmetric_and_perfect_on_equal_images() -> None:
    x, y = _images()
    for measure in (quality.ssim, quality.ssim_resfl):
        torch.testing.assert_close(measure(x, y), measure(y, x))
        torch.testing.assert_close(measure(x, x), torch.ones(3, dtype=torch.float64))
        assert (measure(x, y) < 0.999).all()


@pytest.mark.parametrize("measure", [quality.mse, quality.psnr, quality.ssim, quality.ssim_resfl])
def test_images_are_scored_one_by_one(measure: object) -> None:
    """Reordering the images reorders the scores, and mirroring both sides changes nothing."""
    assert callable(measure)
    x, y = _images(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(measure(x[order], y[order]), measure(x, y)[order])
    torch.testing.assert_close(measure(x.flip(-1), y.flip(-1)), measure(x, y))
    assert measure(x, y).shape == (4,)


def test_extras_exist_at_32_pixels() -> None:
    """All six are there, are perfect on equal images and imperfect on others."""
    x, y = _images(2, 32)
    same, other = quality.extras(x.float(), x.float()), quality.extras(x.float(), y.float())
    assert set(same) == set(other) == {"gmsd", "haarpsi", "fsim", "vsi", "mdsi", "dss"}
    for name, value in same.items():
        perfect = 0.0 if name in ("gmsd", "mdsi") else 1.0
        torch.testing.assert_close(value, torch.full_like(value, perfect), atol=1e-4, rtol=0)
        assert ((other[name] - perfect).abs() > 0.003).all(), name


def test_extras_that_do_not_exist_at_a_size_are_left_out() -> None:
    x, y = _images(2, 16)
    assert set(quality.extras(x.float(), y.float())) == {"gmsd", "haarpsi", "fsim", "vsi", "mdsi"}


@pytest.mark.parametrize(("change", "message"), [
    (lambda x: (x * 255).byte(), "uint8.*divide by 255"),
    (lambda x: x * 255, "8-bit values: divide by 255"),
    (lambda x: (x - 0.5) / 0.25, "normalised or not clamped"),
    (lambda x: x * float("nan"), "not finite"),
    (lambda x: x[:2], "one shape"),
])
@pytest.mark.parametrize("measure", [quality.mse, quality.psnr, quality.ssim, quality.ssim_resfl, quality.extras])
def test_images_outside_the_range_are_refused(measure: object, change: object, message: str) -> None:
    assert callable(measure)
    assert callable(change)
    x, y = _images()
    with pytest.raises(ValueError, match=message):
        measure(change(x), y)
    with pytest.raises(ValueError, match=message):
        measure(y, change(x))


def test_small_images_have_no_ssim() -> None:
    x, y = _images(2, 8)
    with pytest.raises(ValueError, match="images of 8 pixels have no SSIM"):
        quality.ssim(x, y)


def test_r2_and_ssim_gain_closed_forms() -> None:
    """0 for the blind guess itself, 1 for a perfect one, half for half the error; more error than the blind guess is negative."""
    blind = torch.tensor([0.02, 0.06], dtype=torch.float64)
    assert quality.r2(blind, blind).item() == 0
    assert quality.r2(0 * blind, blind).item() == 1
    assert quality.r2(torch.tensor([0.04, 0.0], dtype=torch.float64), blind).item() == pytest.approx(0.5)
    assert quality.r2(2 * blind, blind).item() == pytest.approx(-1)
    similar = torch.tensor([0.1, 0.3], dtype=torch.float64)
    assert quality.ssim_gain(similar, similar).item() == 0
    assert quality.ssim_gain(torch.ones(2, dtype=torch.float64), similar).item() == pytest.approx(1)
    assert quality.ssim_gain(similar + 0.4, similar).item() == pytest.approx(0.5)


def test_r2_needs_something_to_explain() -> None:
    with pytest.raises(ValueError, match="equals every target"):
        quality.r2(torch.zeros(3), torch.zeros(3))


def test_bootstrap_of_a_mean_matches_the_normal_interval() -> None:
    """For n = 400 values the percentile interval is mean +- 1.96 s / sqrt(n), up to the resampling's own noise."""
    values = torch.randn(1, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = quality.bootstrap(values, lambda m: m[0], generator=torch.Generator().manual_seed(2), draws=4000)
    half = 1.96 * values.std().item() / 20
    assert (low, high) == pytest.approx((values.mean().item() - half, values.mean().item() + half), abs=0.1 * half)


def test_bootstrap_keeps_the_values_of_one_image_together() -> None:
    """An attack whose error is half the blind one on every image has R2 = 0.5 in every resampling."""
    blind = torch.rand(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    columns = torch.stack([blind / 2, blind])
    ends = quality.bootstrap(columns, lambda m: quality.r2(m[0, :, None], m[1, :, None]), generator=torch.Generator().manual_seed(4))
    assert ends == pytest.approx((0.5, 0.5))
