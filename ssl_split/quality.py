"""How close a reconstruction is to the image: MSE, PSNR, SSIM and weight-free measures of piq, all per image and in [0, 1].

Scale is where reconstruction errors of different papers stop being comparable, so every function refuses images outside [0, 1].
Values of images in [-1, 1] convert with MSE / 4; sums over pixels divide by the number of values; a reconstruction is never
normalised by its own range.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

PSNR_LIMIT = 100.0
"""dB of an MSE of 1e-10 or less: far beyond 8-bit images, and finite, so that a mean over images exists."""
SSIM_SIDE = 11
"""Side of the SSIM window in pixels, and so the smallest image that has an SSIM."""
_SIGMA, _C1, _C2 = 1.5, 0.01**2, 0.03**2
_CHUNK = 32
"""Images that a piq measure works on at a time: VSI enlarges them to 256 pixels, and is twice as fast in pieces that stay in the cache."""


def check(x: Tensor, y: Tensor) -> None:
    """Refuse what cannot be compared.

    Args:
        x, y: Images `(n, 3, S, S)`, floating, in [0, 1].

    Raises:
        ValueError: other shapes, integers, values that are not finite or outside [0, 1].
    """
    if x.shape != y.shape or x.dim() != 4:
        raise ValueError(f"images to compare must have one shape (n, C, H, W), not {tuple(x.shape)} and {tuple(y.shape)}")
    for images in (x, y):
        check_range(images, "images")


def check_range(images: Tensor, name: str) -> None:
    """Refuse images that are not floats in [0, 1], and say what they look like.

    Raises:
        ValueError: one sentence with the range that was found.
    """
    if not images.is_floating_point():
        raise ValueError(f"{name} are {str(images.dtype).removeprefix('torch.')}: give floats in [0, 1] (for 8-bit images: divide by 255)")
    if images.numel() == 0:
        raise ValueError(f"{name} are empty")
    low, high = (v.item() for v in images.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} hold values that are not finite")
    if low < 0 or high > 1:
        looks = "8-bit values: divide by 255" if low >= 0 and high > 2 else "normalised or not clamped: they must be in [0, 1]"
        raise ValueError(f"{name} reach from {low:.3g} to {high:.3g}, which looks like {looks}")


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over the pixels of each image `(n, C, H, W)` -> `(n,)`."""
    check(x, y)
    return (x - y).square().flatten(1).mean(1)


def psnr_of(error: Tensor) -> Tensor:
    """10 log10(1 / MSE) in dB, at most `PSNR_LIMIT`."""
    return -10 * error.clamp(min=10 ** (-PSNR_LIMIT / 10)).log10()


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, `(n,)`; its mean is not the PSNR of the mean MSE."""
    return psnr_of(mse(x, y))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity with an 11x11 Gaussian window, sigma 1.5, in valid places only, mean over channels: `(n,)`.

    Raises:
        ValueError: images smaller than the window.

    Source: Wang et al., IEEE TIP 13(4), 2004; computed by piq.
    """
    check(x, y)
    if min(x.shape[-2:]) < SSIM_SIDE:
        raise ValueError(f"images of {x.shape[-1]} pixels have no SSIM: its window is {SSIM_SIDE} pixels wide")
    import piq  # here and below, because it imports torch's compiler, which takes seconds that no --help should

    found: Tensor = piq.ssim(x, y, kernel_size=SSIM_SIDE, kernel_sigma=_SIGMA, data_range=1.0, reduction="none", downsample=False)
    return found


def ssim_resfl(x: Tensor, y: Tensor) -> Tensor:
    """SSIM as the ResSFL and MocoSFL code computes it, the image's surroundings taken as black: `(n,)`.

    Only to compare with their numbers: the black border agrees in every pair, and lifts a mean image from about .15 to .35.
    """
    check(x, y)
    return zero_padded_ssim(x, y)


def zero_padded_ssim(x: Tensor, y: Tensor) -> Tensor:
    """`ssim_resfl` without its checks, for losses: differentiable, images `(n, C, H, W)` -> `(n,)`."""
    places = torch.arange(SSIM_SIDE, dtype=x.dtype, device=x.device) - SSIM_SIDE // 2
    row = torch.exp(-places.square() / (2 * _SIGMA**2))
    row = row / row.sum()
    window = torch.outer(row, row).expand(x.shape[1], 1, -1, -1).contiguous()

    def smooth(image: Tensor) -> Tensor:
        return F.conv2d(image, window, padding=SSIM_SIDE // 2, groups=x.shape[1])

    mean_x, mean_y = smooth(x), smooth(y)
    variance = smooth(x * x) - mean_x.square() + smooth(y * y) - mean_y.square()
    covariance = smooth(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    return (light * (2 * covariance + _C2) / (variance + _C2)).flatten(1).mean(1)


EXTRAS = ("gmsd", "haarpsi", "fsim", "vsi", "mdsi", "dss")
"""Measures of piq without learned weights that exist at 32x32 (MS-SSIM, IW-SSIM, VIF-p and SR-SIM need larger images). 0 is perfect in GMSD
and MDSI, 1 in the others."""


def extras(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Every measure of `EXTRAS` on each image, `(n,)`; one that does not exist at this size is left out, an undefined value is NaN."""
    import piq

    check(x, y)
    found = {}
    for name in EXTRAS:
        measure = getattr(piq, name)
        try:
            parts = zip(x.split(_CHUNK), y.split(_CHUNK), strict=True)
            value = torch.cat([measure(a, b, data_range=1.0, reduction="none") for a, b in parts])
        except (ValueError, RuntimeError):  # piq's own limits on the size
            continue
        if not bool(value.isnan().all()):
            found[name] = value
    return found


def r2(error: Tensor, blind_error: Tensor) -> Tensor:
    """1 - MSE / MSE of the blind guess: 0 knows nothing, 1 is perfect.

    Args:
        error, blind_error: MSE per image `(..., n)`, or means of them `(..., 1)`.

    Returns:
        `(...)`.

    Raises:
        ValueError: the blind guess is exact, so that there is nothing to explain.
    """
    blind = blind_error.mean(-1)
    if bool((blind <= 0).any()):
        raise ValueError("the blind guess equals every target: on images that are all the same no attack can be judged")
    return 1 - error.mean(-1) / blind


def ssim_gain(found: Tensor, blind: Tensor) -> Tensor:
    """(SSIM - SSIM of the blind guess) / (1 - SSIM of the blind guess), of means over images `(..., n)` -> `(...)`."""
    base = blind.mean(-1)
    return (found.mean(-1) - base) / (1 - base).clamp(min=1e-12)


def bootstrap(
    columns: Tensor, statistic: Callable[[Tensor], Tensor], *, generator: torch.Generator, draws: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a statistic of means over images, the images drawn again with replacement.

    Args:
        columns: `(k, n)`: k values of each of n images; the images are drawn, so values of one image stay together.
        statistic: Means `(k, draws)` -> `(draws,)`.
        generator: Source of randomness, on the CPU.
        draws: Resamplings.
        confidence: Coverage.

    Returns:
        Lower and upper end.
    """
    values = columns.detach().to("cpu", torch.float64)
    n = values.shape[1]
    chosen = torch.randint(n, (draws, n), generator=generator)
    means = torch.stack([column[chosen].mean(1) for column in values])  # (k, draws)
    tail = (1 - confidence) / 2
    low, high = statistic(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
