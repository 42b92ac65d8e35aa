"""The res_normN{N}C{C} decoder: shapes at every kind of cut, published size, doublings, initialisation."""

import pytest
import torch
from torch import Tensor, nn

from ssl_split import rng
from ssl_split.models.decoder import ResBlock, ResNormDecoder, build

SHAPES = [
    ((3, 32, 32), 32), ((64, 32, 32), 32), ((128, 16, 16), 32), ((256, 8, 8), 32), ((512, 4, 4), 32), ((512, 2, 2), 32), ((8, 1, 1), 32),
    ((4, 16, 16), 32), ((16, 12, 12), 96), ((16, 7, 7), 28), ((16, 3, 3), 28), ((16, 40, 40), 32), ((16, 7, 7), 24),
    ((64, 192), 32), ((65, 24), 32), ((1024,), 32), ((10,), 16),
]


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_any_smashed_data_become_images(shape: tuple[int, ...], size: int) -> None:
    """Maps of any size, tokens with and without a class token, vectors: images of the right size in (0, 1), with a gradient."""
    model = build(shape, rng.generator(0, "test"), image_size=size, blocks=1, channels=8)
    out = model(torch.randn(2, *shape))
    assert out.shape == (2, 3, size, size)
    assert out.min() > 0
    assert out.max() < 1
    out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def _multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Of all convolutions for one image, counted while it runs."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            total += inputs[0][0].numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules()]
    model.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return total


def test_cost_is_the_published_one() -> None:
    """N4C64 takes 102 GFLOP per training step of 32 images at cut 1 of ResNet-18 and about 9 at cut 13 (forward x 2 x 3 x 32)."""
    costs = [_multiply_adds(build(s, rng.generator(0, "t"), image_size=32), s) * 2 * 3 * 32 / 1e9 for s in ((64, 32, 32), (256, 8, 8))]
    assert costs == pytest.approx([102, 9], rel=0.05)


@pytest.mark.parametrize(("side", "transposed", "blocks"), [(32, 0, 4 + 4), (16, 1, 4 + 3), (8, 2, 4 + 2), (4, 3, 4 + 2), (2, 4, 4 + 2)])
def test_doublings_take_the_slots(side: int, transposed: int, blocks: int) -> None:
    """First block, N = 4, two slots (a doubling or a block), further doublings, last block."""
    model = ResNormDecoder((64, side, side), image_size=32)
    kinds = [type(m) for m in model.modules()]
    assert kinds.count(nn.ConvTranspose2d) == transposed
    assert kinds.count(ResBlock) == blocks


def test_shortcut_is_the_identity_only_at_equal_widths() -> None:
    """With its body silenced, a block of equal widths passes its input; another projects it."""
    x = torch.randn(2, 6, 5, 5)
    same, other = ResBlock(6, 6).eval(), ResBlock(6, 4).eval()
    for block in (same, other):
        last = block.body[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)
    torch.testing.assert_close(same(x), x)
    assert other(x).shape == (2, 4, 5, 5)
    assert [type(m).__name__ for m in other.shortcut] == ["Conv2d", "BatchNorm"]  # type: ignore[union-attr]


def test_initial_weights_depend_on_the_generator_alone() -> None:
    """Equal keys give equal decoders, whatever the global generator's state; another seed gives another one."""
    torch.manual_seed(1)
    first = build((8, 4, 4), rng.generator(0, "d"), image_size=16, blocks=1, channels=8).state_dict()
    before = torch.random.get_rng_state()
    second = build((8, 4, 4), rng.generator(0, "d"), image_size=16, blocks=1, channels=8).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    third = build((8, 4, 4), rng.generator(1, "d"), image_size=16, blocks=1, channels=8).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], third[k]) for k in first)


def test_tokens_are_put_back_in_their_places() -> None:
    """Tokens that fill a square are the pixels of a map, in row order."""
    model = ResNormDecoder((4, 3), image_size=16)
    tokens = torch.arange(12.0).view(1, 4, 3)
    laid = model.layout(tokens)
    assert laid.shape == (1, 3, 2, 2)
    assert torch.equal(laid[0, :, 1, 0], tokens[0, 2])
