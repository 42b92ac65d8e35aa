"""Trees: views share memory, averages and EMA obey their algebra, SGD is torch's."""

import pytest
import torch
from torch import nn

from ssl_split import optim
from ssl_split import tree as trees


def _module() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8), nn.Flatten(), nn.LazyLinear(5)).double()


def _ready() -> nn.Module:
    module = _module()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module(torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    return module


def test_gather_holds_every_parameter_and_ignores_padding() -> None:
    module = _ready()
    tree = trees.gather(module, dtype=torch.float64)
    named = dict(module.named_parameters())
    assert list(tree) == list(named)
    assert len(tree) == 5
    for name, parameter in named.items():
        assert torch.equal(tree[name], parameter)
    assert tree.layout.numel == sum(p.numel() for p in named.values())
    assert tree.layout.size >= tree.layout.numel
    assert all(offset % 16 == 0 for offset in tree.layout.offsets)


def test_stacked_convolutions_are_channels_last_in_every_row() -> None:
    tree = trees.repeat(trees.gather(_ready(), dtype=torch.float64), 3)
    for k in range(3):
        assert tree.row(k)["0.weight"].is_contiguous(memory_format=torch.channels_last)


def test_bound_module_trains_the_tree_and_only_its_row() -> None:
    module = _ready()
    stacked = trees.repeat(trees.gather(module, dtype=torch.float64), 2)
    gradients = trees.zeros(stacked.layout, 2, like=stacked.flat)
    bound = _ready()
    trees.bind(bound, stacked.row(1), gradients.row(1))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bound(x).square().sum().backward()
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(gradients[name][1], parameter.grad, rtol=1e-12, atol=1e-12)
    assert gradients.flat[0].abs().max() == 0
    stacked.flat[1].zero_()
    assert bound(x).abs().max() == 0


def test_weighted_mean_of_equal_rows_is_the_row_and_is_linear() -> None:
    generator = torch.Generator().manual_seed(2)
    base = trees.gather(_ready(), dtype=torch.float64)
    rows = trees.Tree(base.layout, torch.randn(4, base.layout.size, dtype=torch.float64, generator=generator))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = sum(w * r for w, r in zip(weights, rows.flat, strict=True))
    torch.testing.assert_close(trees.weighted_mean(rows, weights).flat, expected)
    torch.testing.assert_close(trees.weighted_mean(trees.repeat(base, 4), weights).flat, base.flat)


def test_mean_of_emas_is_ema_of_means() -> None:
    """EMA is linear, so averaging momentum clients commutes with it: the argument of MonAcoSFL."""
    generator = torch.Generator().manual_seed(3)
    layout = trees.gather(_ready()).layout
    momentum, online = (trees.Tree(layout, torch.randn(3, layout.size, dtype=torch.float64, generator=generator)) for _ in range(2))
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    of_means = trees.weighted_mean(momentum, weights)
    trees.ema_(of_means, trees.weighted_mean(online, weights), 0.99)
    trees.ema_(momentum, online, 0.99)
    torch.testing.assert_close(trees.weighted_mean(momentum, weights).flat, of_means.flat)


def test_ema_leaves_buffers_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    module[1].num_batches_tracked = None
    target, source = trees.gather(module), trees.gather(module)
    source.flat.fill_(1.0)
    trees.ema_(target, source, 0.5)
    assert target["1.running_mean"].abs().max() == 0
    assert target["1.bias"].min() == 0.5
    assert list(target)[-2:] == ["1.running_mean", "1.running_var"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torch_sgd(momentum: float) -> None:
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(50, dtype=torch.float64, generator=generator)
    reference = nn.Parameter(start.clone())
    optimiser = torch.optim.SGD([reference], lr=0.1, momentum=momentum, weight_decay=5e-4)
    w, v = start.clone(), torch.zeros_like(start)
    for _ in range(5):
        gradient = torch.randn(50, dtype=torch.float64, generator=generator)
        reference.grad = gradient.clone()
        optimiser.step()
        optim.sgd_(w, gradient.clone(), v, lr=0.1, momentum=momentum, weight_decay=5e-4)
    torch.testing.assert_close(w, reference.data, rtol=1e-13, atol=1e-13)


def test_cosine_starts_at_the_base_rate_and_ends_at_zero() -> None:
    assert optim.rate(0.06, 0, 100, "cosine") == pytest.approx(0.06)
    assert optim.rate(0.06, 50, 100, "cosine") == pytest.approx(0.03)
    assert optim.rate(0.06, 100, 100, "cosine") == pytest.approx(0.0)
    assert optim.rate(0.06, 70, 100, "constant") == 0.06


def test_fill_names_what_is_missing_or_misshapen() -> None:
    tree = trees.gather(_ready())
    values = {name: tree[name].clone() for name in tree}
    with pytest.raises(ValueError, match=r"1\.bias has shape \(3,\)"):
        trees.fill(tree, {**values, "1.bias": torch.zeros(3)})
    del values["0.weight"]
    with pytest.raises(ValueError, match=r"lack 0\.weight"):
        trees.fill(tree, values)
