"""Weight standardisation against its definition, normalisation, widths, initial distributions."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from ssl_split.models.layers import (
    BatchNorm,
    WSConv2d,
    channels,
    group_norm,
    initialise,
    max_pool,
    sequence,
    standardise,
    standardise_stack,
)

SHAPES = [(4, 3, 3, 3), (5, 1, 3, 3), (6, 4, 1, 1), (2, 2, 7, 7)]


def _weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.1 + 0.02


def _definition(weight: Tensor) -> Tensor:
    """(w - mean) / (std + 1e-5) filter by filter, std with n - 1, in differentiable operations."""
    filters = []
    for w in weight:
        mean = w.sum() / w.numel()
        std = ((w - mean).square().sum() / (w.numel() - 1)).sqrt()
        filters.append((w - mean) / (std + 1e-5))
    return torch.stack(filters)


@pytest.mark.parametrize("shape", SHAPES)
def test_standardisation_and_its_gradient_follow_the_definition(shape: tuple[int, ...]) -> None:
    w, g = _weights(*shape).requires_grad_(), _weights(*shape, seed=1)
    ours, slow = standardise(w), _definition(w)
    torch.testing.assert_close(ours, slow, rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad(slow, w, g)
    torch.testing.assert_close(torch.autograd.grad(ours, w, g)[0], expected, rtol=1e-10, atol=1e-10)


def test_the_epsilon_is_added_to_the_deviation() -> None:
    """Weights +-a have mean 0 and unbiased deviation a sqrt(n / (n - 1)); at a = 1e-5 the epsilon counts as much as the weight."""
    w = 1e-5 * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).view(1, 4, 1, 1)
    expected = 1 / (math.sqrt(4 / 3) + 1)
    torch.testing.assert_close(standardise(w).flatten().abs(), torch.full((4,), expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_standardisation_can_be_differentiated_twice(shape: tuple[int, ...]) -> None:
    w = _weights(2, *shape[1:]).requires_grad_()
    assert torch.autograd.gradcheck(standardise, w)
    assert torch.autograd.gradgradcheck(standardise, w)


@pytest.mark.parametrize("shape", SHAPES)
def test_stacked_clients_are_standardised_like_each_alone(shape: tuple[int, ...]) -> None:
    stack, target = _weights(3, *shape), _weights(*shape, seed=2)

    def loss(w: Tensor) -> Tensor:
        return (standardise(w).pow(3) * target).sum()

    each = torch.stack([grad(loss)(w) for w in stack])
    torch.testing.assert_close(vmap(grad(loss))(stack), each, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(standardise(stack), torch.stack([standardise(w) for w in stack]))


@pytest.mark.parametrize("clients", [(), (3,)])
def test_memory_order_changes_nothing_and_is_kept(clients: tuple[int, ...]) -> None:
    w = _weights(*clients, 6, 5, 3, 3)
    last = w.movedim(-3, -1).contiguous().movedim(-1, -3)
    assert last.stride() != w.stride()
    assert standardise(last).stride() == last.stride()
    torch.testing.assert_close(standardise(last), standardise(w), rtol=1e-12, atol=1e-12)


def test_float32_is_accurate() -> None:
    """Also with a mean ten times the deviation, where a one-pass variance would lose digits."""
    w = _weights(8, 16, 3, 3) + 1
    torch.testing.assert_close(standardise(w.float()).double(), _definition(w.float().double()), rtol=1e-4, atol=1e-4)


def test_a_filter_of_one_weight_is_used_as_it_is() -> None:
    w = _weights(3, 1, 1, 1)
    assert torch.equal(standardise(w), w)


def test_a_constant_filter_is_zero_with_a_finite_gradient() -> None:
    w = torch.full((2, 3, 3, 3), 0.7, dtype=torch.float64, requires_grad=True)
    out = standardise(w)
    out.square().sum().backward()
    assert out.abs().max() < 1e-8
    assert w.grad is not None
    assert w.grad.isfinite().all()


def test_scale_and_offset_of_a_filter_do_not_matter() -> None:
    conv, x = WSConv2d(3, 4, 3).double(), _weights(2, 3, 8, 8)
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(50).add_(0.3)
    torch.testing.assert_close(conv(x), before, rtol=1e-3, atol=1e-3)  # to the epsilon
    assert conv.bias is None


def test_convolution_uses_standardised_weights() -> None:
    conv, x = WSConv2d(4, 8, 3, stride=2, groups=4).double(), _weights(2, 4, 9, 9)
    expected = torch.nn.functional.conv2d(x, _definition(conv.weight), stride=2, padding=1, groups=4)
    torch.testing.assert_close(conv(x), expected)


def test_batch_norm_is_pytorchs_without_the_counter() -> None:
    ours, theirs = BatchNorm(6).double(), nn.BatchNorm2d(6).double()
    for seed in range(3):
        x = _weights(4, 6, 3, 3, seed=seed)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))
    assert list(ours.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    ours.load_state_dict(dict(ours.state_dict()))  # a plain dictionary, as from a checkpoint, with strict keys


@pytest.mark.parametrize(("base", "width", "expected"), [(64, 1, 64), (64, 0.125, 8), (24, 0.125, 8), (64, 0.3, 16), (160, 0.35, 56),
                                                         (24, 0.5, 16), (512, 2, 1024), (1280, 0.25, 320)])
def test_widths_are_multiples_of_eight(base: int, width: float, expected: int) -> None:
    assert channels(base, width) == expected


def test_group_norm_has_four_channels_per_group() -> None:
    assert [group_norm(c).num_groups for c in (8, 24, 64, 512)] == [2, 6, 16, 128]


def test_max_pool_is_the_usual_one_at_even_sizes_and_never_empty() -> None:
    x = _weights(1, 2, 8, 8)
    assert torch.equal(max_pool()(x), nn.functional.max_pool2d(x, 2))
    assert max_pool()(_weights(1, 2, 1, 1)).shape == (1, 2, 1, 1)
    assert max_pool()(_weights(1, 2, 7, 7)).shape == (1, 2, 4, 4)


def test_initial_distributions() -> None:
    """Uniform on (-a, a): deviation a / sqrt(3). WS: a = 1 / sqrt(fan_in). Xavier: a = sqrt(6 / (fan_in + fan_out))."""
    net = sequence(WSConv2d(32, 64, 3), group_norm(64), nn.Linear(200, 300), nn.Conv2d(8, 40, 3), nn.ConvTranspose2d(40, 8, 3),
                   BatchNorm(8))
    for tensor in (*net.parameters(), *net.buffers()):
        nn.init.constant_(tensor, math.nan)
    initialise(net, torch.Generator().manual_seed(0))
    expected = {0: 1 / math.sqrt(288), 2: math.sqrt(6 / 500), 3: math.sqrt(6 / (72 + 360)), 4: math.sqrt(6 / (360 + 72))}
    for index, bound in expected.items():
        weight = net[index].weight
        assert 0.98 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(weight.mean().item()) < 0.05 * bound
    for index in (2, 3, 4):
        assert not net[index].bias.any()
    for index in (1, 5):
        assert (net[index].weight == 1).all()
        assert not net[index].bias.any()
    assert not net[5].running_mean.any()
    assert (net[5].running_var == 1).all()


def test_an_unknown_layer_is_not_left_uninitialised() -> None:
    with pytest.raises(TypeError, match="Bilinear has parameters and no rule"):
        initialise(sequence(nn.Bilinear(2, 2, 2)), torch.Generator())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [s for s in SHAPES if math.prod(s[1:]) > 1])
def test_a_stack_of_clients_adds_each_ones_gradient_to_its_buffer(shape: tuple[int, ...], last: bool) -> None:
    """Rows of a wider buffer, in either memory order; what the buffer held stays."""
    def rows(seed: int) -> Tensor:
        wide = torch.zeros(3, math.prod(shape) + 5, dtype=torch.float64)
        out, inner, height, width = shape
        part = wide[:, : math.prod(shape)]
        view = part.view(3, out, height, width, inner).permute(0, 1, 4, 2, 3) if last else part.view(3, *shape)
        return view.copy_(_weights(3, *shape, seed=seed))

    w, buffer, g = rows(0), rows(1), _weights(3, *shape, seed=2)
    made = standardise_stack(w, buffer, dtype=torch.float64)
    torch.autograd.backward(made, list(g))
    leaf = w.clone().requires_grad_()
    expected = standardise(leaf)
    expected.backward(g)
    assert leaf.grad is not None
    torch.testing.assert_close(torch.stack(made), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(buffer, rows(1) + leaf.grad, rtol=1e-10, atol=1e-10)
    assert not any(part.requires_grad for part in standardise_stack(w, None, dtype=torch.float64))
