"""Random views of images, a whole batch at once and different for every image.

The chain is that of torchvision's transforms, in this order: RandomResizedCrop, ColorJitter, RandomGrayscale, GaussianBlur,
RandomHorizontalFlip, Normalize (MoCo v2: Chen et al. 2020). In MoCo v1 (He et al. 2020) grey comes before jitter, and there is no
blur. `standard` is the usual chain of supervised training instead: RandomCrop of the padded image, RandomHorizontalFlip, Normalize.

What differs from a chain of torchvision transforms on PIL pictures:

* Values stay floats between the steps; PIL rounds to 8 bits after each.
* The Gaussian has 2 * 8 + 1 taps at any image size (8 is four times the largest sigma; at most S - 1) and mirrors the border.
* All randomness is in `draw`, which runs on the CPU, so that views are the same on every device.

How it gets fast: a crop, its bilinear resize and the flip are one pair of (S, S) matrices per image, `rows @ x @ columns.T`,
and so is the blur. Batched products of such small matrices run near the peak of a CPU core. The colour steps run on planes
(3, n, S, S), and only for the images that drew them. Which images these are is known on the CPU, so a GPU never waits.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssl_split.config import Augment
from ssl_split.data.imageset import Triple

_TRIES = 10  # RandomResizedCrop draws an area and a ratio up to ten times until the box fits
_AREA, _RATIO = slice(0, _TRIES), slice(_TRIES, 2 * _TRIES)
DRAWS = 2 * _TRIES + 12
"""Uniform numbers that make one view."""

_TOP, _LEFT, _JITTER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _ORDER, _GREY, _BLUR, _SIGMA, _FLIP = range(2 * _TRIES, DRAWS)

_RATIOS = (3 / 4, 4 / 3)
_SIGMAS = (0.1, 2.0)
_RADIUS = 8
_LUMA = (0.2989, 0.587, 0.114)  # as in torchvision, not quite summing to 1
_ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # (24, 4): which colour step comes at which place


@dataclass(frozen=True)
class _Strengths:
    """All numbers of a family of views; `grey_first` is MoCo v1's order."""

    crop_scale: float = 1.0
    jitter: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 1.0
    grayscale_probability: float = 0.0
    blur_probability: float = 0.0
    flip_probability: float = 0.0
    grey_first: bool = False
    padding: float = 0.0
    """Share of the side."""


_KINDS = {
    "mocov2": _Strengths(0.08, 0.4, 0.1, 0.8, 0.2, 0.5, 0.5),
    "mocov1": _Strengths(0.2, 0.4, 0.4, 1.0, 0.2, 0.0, 0.5, grey_first=True),
    "standard": _Strengths(flip_probability=0.5, padding=1 / 8),
    "none": _Strengths(),
}


_KINDS["auto"] = _KINDS["mocov2"]  # a configuration resolves it first (`Config.augmentation`)


def draw(count: int, generator: torch.Generator) -> Tensor:
    """The randomness of `count` views: float32 uniforms in [0, 1), (count, DRAWS), on the CPU."""
    return torch.rand(count, DRAWS, generator=generator)


def views(
    images: Tensor, draws: Tensor, options: Augment, *, mean: Triple, std: Triple, dtype: torch.dtype = torch.float32
) -> Tensor:
    """One random view of every image, normalised.

    Image i's view depends on `images[i]` and `draws[i]` alone.

    Args:
        images: uint8 (n, 3, S, S), on any device.
        draws: (n, DRAWS) from `draw`, on the CPU.
        options: The family of views and what replaces its numbers.
        mean, std: Per channel, in [0, 1].
        dtype: Of the result; types shorter than float32 are computed in float32.

    Returns:
        (n, 3, S, S) on the images' device.

    Raises:
        ValueError: shapes that do not belong together.
    """
    n, channels, size, width = images.shape
    if channels != 3 or size != width or tuple(draws.shape) != (n, DRAWS):
        raise ValueError(f"images {tuple(images.shape)} and draws {tuple(draws.shape)} must be (n, 3, S, S) and (n, {DRAWS})")
    s = _strengths(options)
    u = draws.cpu().double()
    inner = torch.float64 if dtype == torch.float64 else torch.float32
    x = images.transpose(0, 1).to(inner, memory_format=torch.contiguous_format).div_(255)
    x = _crop(x, u, s, _padding(options, s, size))  # (3, n, S, S)
    for step in (_grey, _jitter, _blur) if s.grey_first else (_jitter, _grey, _blur):
        step(x, u, s)
    scale = torch.tensor(std, dtype=inner).reciprocal().view(3, 1, 1)
    shift = -torch.tensor(mean, dtype=inner).view(3, 1, 1) * scale
    out = torch.addcmul(_move(shift, x), x.transpose(0, 1), _move(scale, x))
    return out.to(dtype, memory_format=torch.contiguous_format)


def crops(draws: Tensor, options: Augment, *, size: int) -> tuple[Tensor, Tensor]:
    """Which part of each image a view shows.

    Args:
        draws: `(n, DRAWS)`, those of the views.
        options: The family of views.
        size: S, pixels of a side.

    Returns:
        Boxes float64 `(n, 4)`: top, left, height, width in pixels; and whether the view is mirrored, bool `(n,)`.
    """
    s, u = _strengths(options), draws.cpu().double()
    if s.crop_scale == 1 and s.flip_probability == 0 and not _padding(options, s, size):
        whole = torch.tensor([0.0, 0.0, size, size], dtype=torch.float64)
        return whole.expand(len(u), -1), torch.zeros(len(u), dtype=torch.bool)
    return torch.stack(_boxes(u, size, s.crop_scale, _padding(options, s, size)), 1), u[:, _FLIP] < s.flip_probability


@dataclass(frozen=True)
class Ranges:
    """Between what the views of a family vary, as one knows it who knows the training's settings.

    Attributes:
        smallest: Smallest area of a crop, as a share of the image's.
        ratios: Smallest and largest width / height of a crop.
        jitter: Brightness, contrast and saturation are between 1 - jitter and 1 + jitter.
        flips, greys: Whether a view can be mirrored, or grey.
        padding: Pixels of black around the image, where a crop may lie too.
    """

    smallest: float
    ratios: tuple[float, float]
    jitter: float
    flips: bool
    greys: bool
    padding: int


def ranges(options: Augment, *, size: int) -> Ranges:
    """The ranges of a family of views of images of `size` pixels a side."""
    s = _strengths(options)
    jitter = s.jitter if s.jitter_probability > 0 else 0.0
    return Ranges(s.crop_scale, _RATIOS, jitter, s.flip_probability > 0, s.grayscale_probability > 0, _padding(options, s, size))


def _padding(options: Augment, s: _Strengths, size: int) -> int:
    return options.padding if options.padding is not None else round(s.padding * size)


def _strengths(options: Augment) -> _Strengths:
    """The numbers of the kind with the fields that are set written over them."""
    names = ("crop_scale", "jitter", "hue", "jitter_probability", "grayscale_probability", "blur_probability", "flip_probability")
    chosen = {name: getattr(options, name) for name in names}
    return replace(_KINDS[options.kind], **{name: value for name, value in chosen.items() if value is not None})


def _move(values: Tensor, like: Tensor) -> Tensor:
    """CPU numbers with the dtype and on the device of `like`."""
    return values.to(like.dtype).to(like.device, non_blocking=True)


def _boxes(u: Tensor, size: int, smallest: float, padding: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crop boxes of torchvision's RandomResizedCrop: the first of ten tries that fits, else the whole image.

    Args:
        u: float64 (n, DRAWS).
        size: S.
        smallest: Smallest area of a box as a share of the image.
        padding: Black pixels around the image, where a box may lie too.

    Returns:
        top, left, height, width in whole pixels, float64 (n,).
    """
    area = size * size * (smallest + (1 - smallest) * u[:, _AREA])
    low, high = map(math.log, _RATIOS)
    ratio = (low + (high - low) * u[:, _RATIO]).exp()
    sides = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()])  # (2, n, tries): height, width
    fits = ((sides > 0) & (sides <= size)).all(0)
    first = fits.byte().argmax(1, keepdim=True)
    height, width = torch.where(fits.any(1), sides.gather(2, first.expand(2, -1, -1)).squeeze(2), float(size))
    top = (u[:, _TOP] * (size - height + 1 + 2 * padding)).floor() - padding
    left = (u[:, _LEFT] * (size - width + 1 + 2 * padding)).floor() - padding
    return top, left, height, width


def _interpolation(start: Tensor, length: Tensor, like: Tensor, flip: Tensor | None = None) -> Tensor:
    """Bilinear resize of `length` pixels from `start` to S pixels as matrices (n, S, S); flipped images run backwards.

    Pixel centres lie at half-integers and the box ends at its outermost pixels (`align_corners=False` of the cropped picture).
    """
    size = like.shape[-1]
    place = torch.arange(size, dtype=torch.float64)
    target = place.expand(len(start), -1) if flip is None else torch.where(flip[:, None], size - 1 - place, place)
    source = ((target + 0.5) * (length / size)[:, None] - 0.5).clamp(min=0).minimum(length[:, None] - 1)  # (n, S), in the box
    distance = _move(source + start[:, None], like)[:, :, None] - _move(place, like)
    return distance.abs_().neg_().add_(1).clamp_(min=0)


def _crop(x: Tensor, u: Tensor, s: _Strengths, padding: int) -> Tensor:
    """Crop, resize and flip (3, n, S, S), with so many black pixels around it."""
    size = x.shape[-1]
    if s.crop_scale == 1 and s.flip_probability == 0 and padding == 0:
        return x
    top, left, height, width = _boxes(u, size, s.crop_scale, padding)
    rows = _interpolation(top, height, x)
    columns = _interpolation(left, width, x, u[:, _FLIP] < s.flip_probability)
    return _product(rows, x, columns)


def _product(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """`rows[i] @ x[c, i] @ columns[i].T` for (n, S, S), (3, n, S, S) and (n, S, S)."""
    out = torch.empty_like(x)
    across = columns.transpose(1, 2)
    for channel in range(3):
        torch.bmm(torch.bmm(rows, x[channel]), across, out=out[channel])
    return out


def _luma(x: Tensor) -> Tensor:
    """Grey value of (3, ...) as (...)."""
    return (x[0] * _LUMA[0]).add_(x[1], alpha=_LUMA[1]).add_(x[2], alpha=_LUMA[2])


def _grey(x: Tensor, u: Tensor, s: _Strengths) -> None:
    """Replace the channels of the images that drew it by their grey value, in place."""
    chosen = (u[:, _GREY] < s.grayscale_probability).nonzero().flatten()
    if len(chosen):
        index = chosen.to(x.device, non_blocking=True)
        x.index_copy_(1, index, _luma(x.index_select(1, index)).expand(3, -1, -1, -1))


def _jitter(x: Tensor, u: Tensor, s: _Strengths) -> None:
    """Brightness, contrast, saturation and hue in an order drawn for each image, in place."""
    if s.jitter_probability == 0 or (s.jitter == 0 and s.hue == 0):
        return
    drawn = u[:, _JITTER] < s.jitter_probability
    order = _ORDERS[(u[:, _ORDER] * len(_ORDERS)).long()]  # (n, 4)
    low = max(0.0, 1 - s.jitter)
    factors = low + (1 + s.jitter - low) * u[:, _BRIGHTNESS:_HUE]  # (n, 3)
    turns = s.hue * (2 * u[:, _HUE] - 1)
    for place, step in itertools.product(range(4), range(4)):
        if (s.hue if step == 3 else s.jitter) == 0:
            continue
        chosen = (drawn & (order[:, place] == step)).nonzero().flatten()
        if len(chosen) == 0:
            continue
        amount = _move((turns if step == 3 else factors[:, step])[chosen], x).view(-1, 1, 1)
        index = chosen.to(x.device, non_blocking=True)
        x.index_copy_(1, index, _STEPS[step](x.index_select(1, index), amount))


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey value of the image."""
    grey = _luma(x.mean((2, 3), keepdim=True))
    return x.mul_(factor).add_((1 - factor) * grey).clamp_(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey picture."""
    return torch.lerp(_luma(x), x, factor).clamp_(0, 1)


def _hue(x: Tensor, turns: Tensor) -> Tensor:
    """Add to the hue of HSV, in full turns.

    Value V and chroma C stay, so with the hue H in sixths of a turn the channels n = 5, 3, 1 (red, green, blue) become
    `V - C clamp(2 - |((n + H) mod 6) - 2|, 0, 1)`; the distance is taken on the circle, which agrees wherever the clamp is not 0.
    """
    red, green, blue = x
    top = torch.maximum(torch.maximum(red, green), blue)
    chroma = top - torch.minimum(torch.minimum(red, green), blue)
    # lerp with weights 0 and 1 selects as `where` does, several times faster
    is_red, is_green = (red - top).sign_().add_(1), (green - top).sign_().add_(1)
    hue = torch.lerp((red - green).add_(chroma, alpha=4), (blue - red).add_(chroma, alpha=2), is_green)
    hue.lerp_(green - blue, is_red)
    hue.div_(chroma.clamp(min=1e-12)).mul_(1 / 6).add_(turns)  # in turns; chroma 0 gives hue 0
    offset = torch.tensor([3 / 6, 1 / 6, -1 / 6], dtype=x.dtype, device=x.device).view(3, 1, 1, 1)
    turned = hue + offset
    share = torch.rsub(turned.sub_(turned.round()).abs_(), 2, alpha=6).clamp_(0, 1)
    return torch.addcmul(top, share, chroma, value=-1)


_STEPS = (_brightness, _contrast, _saturation, _hue)


def _blur(x: Tensor, u: Tensor, s: _Strengths) -> None:
    """Gaussian blur of the images that drew it, each with its own sigma in pixels, in place."""
    chosen = (u[:, _BLUR] < s.blur_probability).nonzero().flatten()
    if len(chosen) == 0:
        return
    index = chosen.to(x.device, non_blocking=True)
    sigma = _SIGMAS[0] + (_SIGMAS[1] - _SIGMAS[0]) * u[chosen, _SIGMA]
    matrix = _gaussian(sigma, x)
    x.index_copy_(1, index, _product(matrix, x.index_select(1, index), matrix))


def _gaussian(sigma: Tensor, like: Tensor) -> Tensor:
    """Blur along one axis as matrices (n, S, S); the border is mirrored without repeating the edge pixel."""
    size = like.shape[-1]
    radius = min(_RADIUS, size - 1)
    tap = torch.arange(-radius, radius + 1)
    weights = (-0.5 * (tap / sigma[:, None]) ** 2).exp()
    weights[weights < 1e-20] = 0  # denormal numbers would slow the products down
    weights /= weights.sum(1, keepdim=True)  # (n, taps)
    source = (torch.arange(size) + tap[:, None]).abs()  # (taps, S)
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    place = torch.nn.functional.one_hot(source, size).view(len(tap), size * size)  # (taps, S S)
    return (_move(weights, like) @ _move(place, like)).view(-1, size, size)
