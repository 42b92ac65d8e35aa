"""Views against torchvision and kornia one image at a time, and against what each image's own numbers demand."""

from __future__ import annotations

import colorsys
import itertools
import math
from dataclasses import dataclass

import kornia
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from ssl_split.config import Augment
from ssl_split.data import augment
from ssl_split.data.augment import DRAWS, draw, views

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
REAL = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
ORDERS = list(itertools.permutations(range(4)))


def pictures(count: int, size: int = 16) -> Tensor:
    """Noise, with grey images (no hue), half-black and saturated ones among it."""
    made = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    made[1::7] = made[1::7, :1].clone()
    made[2::7, :, : size // 2] = 0
    made[3::7, 1] = 255
    return made


def uniforms(count: int, seed: int = 0) -> Tensor:
    return draw(count, torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Chain:
    """Numbers of a family of views, stated again independently of the code under test."""

    crop: float
    jitter: float
    hue: float
    jitter_p: float
    grey_p: float
    blur_p: float
    flip_p: float
    grey_first: bool = False


CHAINS = {
    "mocov2": Chain(0.08, 0.4, 0.1, 0.8, 0.2, 0.5, 0.5),
    "mocov1": Chain(0.2, 0.4, 0.4, 1.0, 0.2, 0.0, 0.5, grey_first=True),
    "none": Chain(1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0),
}


def reference_box(u: list[float], size: int, smallest: float) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params, fed with given uniforms: ten areas, ten ratios, top, left."""
    for k in range(10):
        area = size * size * (smallest + (1 - smallest) * u[k])
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u[10 + k])
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size and 0 < height <= size:
            return int(u[20] * (size - height + 1)), int(u[21] * (size - width + 1)), height, width
    return 0, 0, size, size


def reference_hue(x: Tensor, turns: float) -> Tensor:
    """torchvision's adjust_hue by Python's colorsys, pixel by pixel (torchvision itself computes in float32)."""
    pixels = []
    for red, green, blue in x.flatten(1).T.tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        pixels.append(colorsys.hsv_to_rgb((hue + turns) % 1.0, saturation, value))
    return torch.tensor(pixels, dtype=x.dtype).T.reshape(x.shape)


def reference_jitter(x: Tensor, u: list[float], chain: Chain) -> Tensor:
    """ColorJitter of torchvision with given uniforms: three factors, hue, order."""
    factors = [1 + chain.jitter * (2 * v - 1) for v in u[23:26]]
    steps = (
        lambda x: tv.adjust_brightness(x, factors[0]),
        lambda x: tv.adjust_contrast(x, factors[1]),
        lambda x: tv.adjust_saturation(x, factors[2]),
        lambda x: reference_hue(x, chain.hue * (2 * u[26] - 1)),
    )
    for step in ORDERS[int(u[27] * 24)]:
        x = steps[step](x)
    return x


def reference_view(image: Tensor, u: list[float], chain: Chain) -> Tensor:
    """One view by torchvision's functions in float64, not normalised."""
    size = image.shape[-1]
    top, left, height, width = reference_box(u, size, chain.crop)
    x = tv.resized_crop(image.double() / 255, top, left, height, width, [size, size], antialias=True)
    for step in ("grey", "jitter") if chain.grey_first else ("jitter", "grey"):
        if step == "jitter" and u[22] < chain.jitter_p:
            x = reference_jitter(x, u, chain)
        if step == "grey" and u[28] < chain.grey_p:
            x = tv.rgb_to_grayscale(x, num_output_channels=3)
    if u[29] < chain.blur_p:
        radius = min(8, size - 1)
        x = tv.gaussian_blur(x, [2 * radius + 1] * 2, [0.1 + 1.9 * u[30]] * 2)
    return tv.horizontal_flip(x) if u[31] < chain.flip_p else x


def reference_views(images: Tensor, u: Tensor, chain: Chain) -> Tensor:
    return torch.stack([reference_view(image, row, chain) for image, row in zip(images, u.double().tolist(), strict=True)])


@pytest.mark.parametrize("kind", ["mocov2", "mocov1", "none"])
@pytest.mark.parametrize("size", [8, 16, 33])
def test_every_view_equals_torchvisions_chain(kind: str, size: int) -> None:
    images, u = pictures(60, size), uniforms(60)
    made = views(images, u, Augment(kind=kind), dtype=torch.float64, **PLAIN)
    wanted = reference_views(images, u, CHAINS[kind])
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["mocov2", "mocov1", "none"])
def test_float32_agrees_with_float64_and_bfloat16_with_both(kind: str) -> None:
    images, u = pictures(40, 32), uniforms(40)
    types = (torch.float64, torch.float32, torch.bfloat16)
    exact, single, half = (views(images, u, Augment(kind=kind), dtype=dtype, **REAL) for dtype in types)
    assert (exact.dtype, single.dtype, half.dtype) == (torch.float64, torch.float32, torch.bfloat16)
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=3e-5)
    assert torch.equal(half, single.bfloat16())


@pytest.mark.parametrize("kind", ["mocov2", "mocov1"])
def test_a_view_depends_on_its_own_image_and_numbers_only(kind: str) -> None:
    images, u, options = pictures(30), uniforms(30), Augment(kind=kind)
    whole = views(images, u, options, dtype=torch.float64, **REAL)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    mixed = views(images[order], u[order], options, dtype=torch.float64, **REAL)
    alone = torch.cat([views(images[i : i + 1], u[i : i + 1], options, dtype=torch.float64, **REAL) for i in range(30)])
    other = views(torch.cat([images[:5], 255 - images[5:]]), torch.cat([u[:5], 1 - u[5:]]), options, dtype=torch.float64, **REAL)
    torch.testing.assert_close(mixed, whole[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(other[:5], whole[:5], rtol=0, atol=1e-12)
    assert not torch.allclose(other[5:], whole[5:], atol=0.1)


def test_views_of_one_image_differ_and_repeat_with_the_numbers() -> None:
    images = pictures(1).expand(50, -1, -1, -1)
    made = views(images, uniforms(50), Augment(), **REAL)
    assert len({view.numpy().tobytes() for view in made}) == 50
    assert torch.equal(made, views(images, uniforms(50), Augment(), **REAL))


def test_draws_come_from_the_given_generator_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    u = uniforms(7)
    views(pictures(7), u, Augment(), **REAL)
    assert torch.get_rng_state().equal(state)
    assert u.shape == (7, DRAWS)
    assert u.dtype == torch.float32
    assert u.equal(torch.rand(7, DRAWS, generator=torch.Generator().manual_seed(0)))


def test_inputs_are_left_alone() -> None:
    images, u = pictures(20), uniforms(20)
    kept, numbers = images.clone(), u.clone()
    for kind in ("mocov2", "none"):
        views(images, u, Augment(kind=kind), dtype=torch.float64, **REAL)
    assert torch.equal(images, kept)
    assert torch.equal(u, numbers)


@pytest.mark.parametrize(("padding", "pixels"), [(None, 2), (0, 0), (5, 5)])
def test_standard_is_a_crop_of_the_padded_picture_and_a_flip(padding: int | None, pixels: int) -> None:
    """RandomCrop(16, padding) and RandomHorizontalFlip with the same numbers: exact, for pixels only move."""
    images, u = pictures(60), uniforms(60)
    found = views(images, u, Augment(kind="standard", padding=padding), **PLAIN)
    corners = set()
    for image, numbers, view in zip(images, u.double(), found, strict=True):
        top, left = ((numbers[k] * (2 * pixels + 1)).floor().int().item() for k in (augment._TOP, augment._LEFT))
        wanted = tv.crop(tv.pad(image, [pixels]), int(top), int(left), 16, 16)
        wanted = tv.horizontal_flip(wanted) if numbers[augment._FLIP] < 0.5 else wanted
        torch.testing.assert_close(view, wanted.float() / 255, atol=1e-6, rtol=0)
        corners.add((top, left))
    assert len(corners) > 15 or pixels == 0


def test_none_is_normalisation_alone() -> None:
    images = pictures(9)
    mean, std = (torch.tensor(REAL[k], dtype=torch.float64).view(3, 1, 1) for k in ("mean", "std"))
    made = views(images, uniforms(9), Augment(kind="none"), dtype=torch.float64, **REAL)
    torch.testing.assert_close(made, (images.double() / 255 - mean) / std, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("field", "value", "image_change"), [
    ("flip_probability", 1.0, lambda x: x.flip(-1)),
    ("grayscale_probability", 1.0, lambda x: tv.rgb_to_grayscale(x, 3)),
    ("crop_scale", 1.0, lambda x: x),
])  # fmt: skip
def test_a_field_replaces_one_number_of_its_kind(field: str, value: float, image_change: object) -> None:
    images = pictures(12)
    made = views(images, uniforms(12), Augment(kind="none", **{field: value}), dtype=torch.float64, **PLAIN)
    torch.testing.assert_close(made, image_change(images.double() / 255), rtol=0, atol=1e-9)  # type: ignore[operator]


def test_all_fields_replace_the_presets() -> None:
    """A MoCo v2 chain with every number replaced is the reference chain of those numbers; a zero is a value, not "unset"."""
    images, u = pictures(40), uniforms(40, 5)
    chains = (
        Chain(0.5, 0.9, 0.3, 0.3, 0.6, 0.9, 0.1),
        Chain(0.5, 0.0, 0.5, 0.9, 0.0, 0.0, 0.0),
        Chain(1.0, 1.0, 0.0, 0.9, 0.0, 0.0, 1.0),
    )
    for chain in chains:
        options = Augment("mocov2", chain.crop, chain.jitter, chain.hue, chain.jitter_p, chain.grey_p, chain.blur_p, chain.flip_p)
        made = views(images, u, options, dtype=torch.float64, **PLAIN)
        torch.testing.assert_close(made, reference_views(images, u, chain), rtol=0, atol=1e-10)


def test_boxes_are_distributed_as_torchvisions() -> None:
    """Two-sample Kolmogorov-Smirnov tests on height, width and place against RandomResizedCrop.get_params."""
    size, count = 32, 3000
    u = uniforms(count, 11).double()
    ours = torch.stack(augment._boxes(u, size, 0.08), 1)
    torch.manual_seed(3)
    image = torch.zeros(3, size, size)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy()).pvalue > 1e-3


def test_boxes_lie_inside_and_fall_back_to_the_whole_image() -> None:
    u = torch.rand(500, DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    top, left, height, width = augment._boxes(u, 16, 0.01)
    assert ((top >= 0) & (left >= 0) & (top + height <= 16) & (left + width <= 16) & (height > 0) & (width > 0)).all()
    never = torch.full((1, DRAWS), 0.999, dtype=torch.float64)  # ten times the largest area with the widest ratio
    assert [int(v) for v in torch.cat(augment._boxes(never, 16, 0.9))] == [0, 0, 16, 16]


def test_hue_agrees_with_kornia() -> None:
    x = pictures(14).double() / 255
    turns = torch.linspace(-0.5, 0.5, 14, dtype=torch.float64)
    made = augment._hue(x.transpose(0, 1).contiguous(), turns.view(-1, 1, 1)).transpose(0, 1)
    wanted = kornia.enhance.adjust_hue(x, 2 * math.pi * turns)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)  # kornia adds 1e-8 to the value before it divides


def test_hue_keeps_value_and_chroma_and_a_full_turn_changes_nothing() -> None:
    x = (pictures(14).double() / 255).transpose(0, 1).contiguous()
    turned = augment._hue(x.clone(), torch.full((14, 1, 1), 0.37, dtype=torch.float64))
    torch.testing.assert_close(turned.amax(0), x.amax(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(turned.amin(0), x.amin(0), rtol=0, atol=1e-12)
    for full in (0.0, 1.0, -1.0):
        same = augment._hue(x.clone(), torch.full((14, 1, 1), full, dtype=torch.float64))
        torch.testing.assert_close(same, x, rtol=0, atol=1e-12)


def test_blur_keeps_constants_and_the_kernel_is_the_gaussian() -> None:
    like = torch.zeros(3, 1, 40, 40, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)
    matrix = augment._gaussian(sigma, like)
    torch.testing.assert_close(matrix.sum(2), torch.ones(3, 40, dtype=torch.float64), rtol=0, atol=1e-12)
    distance = (torch.arange(40) - 20).double()
    wanted = (-0.5 * (distance / sigma[:, None]) ** 2).exp() * (distance.abs() <= 8)
    torch.testing.assert_close(matrix[:, 20], wanted / wanted.sum(1, keepdim=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["mocov2", "mocov1"])
def test_chances_are_those_of_the_preset(kind: str) -> None:
    """Count grey and mirrored views of a picture whose left half is red: both can be seen in the result."""
    count, chain = 2000, CHAINS[kind]
    images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    images[:, 0, :, :4] = 200
    options = Augment(kind=kind, crop_scale=1.0, blur_probability=0.0)
    made = views(images, uniforms(count, 2), options, dtype=torch.float64, **PLAIN)
    grey = ((made[:, 0] - made[:, 1]).abs().amax((1, 2)) < 1e-9).double().mean().item()
    mirrored = (made[:, :, :, 7].sum((1, 2)) > made[:, :, :, 0].sum((1, 2))).double().mean().item()
    assert grey == pytest.approx(chain.grey_p, abs=4 * (0.2 * 0.8 / count) ** 0.5)
    assert mirrored == pytest.approx(chain.flip_p, abs=4 * (0.25 / count) ** 0.5)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 8, 9), (5, 3, 8, 8)])
def test_shapes_that_do_not_belong_together_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(n, 3, S, S\) and \(n, 32\)"):
        views(torch.zeros(shape, dtype=torch.uint8), uniforms(4), Augment(), **REAL)


def test_no_images_give_no_views() -> None:
    assert views(pictures(0), uniforms(0), Augment(), **REAL).shape == (0, 3, 16, 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_on_a_gpu_are_those_on_the_cpu() -> None:
    images, u = pictures(64, 32), uniforms(64)
    made = views(images.cuda(), u, Augment(), dtype=torch.float64, **REAL)
    assert made.is_cuda
    torch.testing.assert_close(made.cpu(), views(images, u, Augment(), dtype=torch.float64, **REAL), rtol=0, atol=1e-10)
