"""Parameters, shapes and multiply-adds against the specification's tables, closed forms and torchvision's networks."""

import math

import pytest
import torch
import torchvision
from tiny_networks import CUTS, images, options, tiny
from torch import nn

from ssl_split import config
from ssl_split.config import Config
from ssl_split.models.count import Cost, cost, costs, macs, parameters
from ssl_split.models.split import ARCHITECTURES, assemble, build

RESNET18 = """
1   64x32x32   65536 1856     11166976
3   64x32x32   65536 75840    11092992
5   64x32x32   65536 149824   11019008
7   128x16x16  32768 379968   10788864
9   128x16x16  32768 675392   10493440
11  256x8x8    16384 1594432  9574400
13  256x8x8    16384 2775104  8393728
15  512x4x4    8192  6448192  4720640
17  512x4x4    8192  11168832 0
"""
MOBILENETV2 = """
1 32x32x32   32768 928     2283184
2 16x32x32   16384 3456    2280656
3 24x32x32   24576 17856   2266256
4 32x16x16   8192  57552   2226560
5 64x8x8     4096  241424  2042688
6 96x8x8     6144  550928  1733184
7 160x4x4    2560  1346192 937920
8 320x4x4    5120  1871952 412160
9 1280x4x4   20480 2284112 0
"""
"""Cut, smashed data, elements, client parameters, server parameters without the head."""


def _line(row: Cost) -> list[str]:
    shape = "x".join(map(str, row.smashed_shape))
    return [str(row.cut), shape, str(row.elements), str(row.client_parameters), str(row.server_parameters - row.head_parameters)]


@pytest.mark.parametrize(("arch", "table", "head", "total"), [("resnet18", RESNET18, 1574912, 11168832),
                                                              ("mobilenetv2", MOBILENETV2, 2361344, 2284112)])
def test_every_row_of_the_specified_tables(arch: str, table: str, head: int, total: int) -> None:
    rows = costs(Config(arch=arch), 32)
    expected = [line.split() for line in table.strip().splitlines()]
    assert len(expected) == 9
    assert [_line(row) for row in rows[1:-1]] == expected
    assert [row.cut for row in rows] == [0, *(int(line[0]) for line in expected), "full"]
    assert {row.head_parameters for row in rows} == {head}
    assert {row.bytes / row.elements for row in rows} == {4}
    nothing, everything = rows[0], rows[-1]
    assert (nothing.smashed_shape, nothing.client_parameters, nothing.server_parameters) == ((3, 32, 32), 0, total + head)
    assert (everything.smashed_shape, everything.client_parameters, everything.server_parameters) == ((1024,), total + head, 0)


def _block(inputs: int, outputs: int) -> int:
    """Two 3x3 convolutions, two affine norms, and a 1x1 shortcut with its norm where the width changes."""
    shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
    return 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs + shortcut


def test_resnet34_by_formula() -> None:
    rows = costs(Config(arch="resnet34"), 32)
    widths = [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3
    expected = [27 * 64 + 128]
    for before, width in zip([64, *widths], widths, strict=False):
        expected.append(expected[-1] + _block(before, width))
    assert [row.client_parameters for row in rows[1:-1]] == expected
    assert len(expected) == 17


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("resnet34", marks=pytest.mark.slow), "resnet50"])
def test_resnets_with_batch_norm_are_torchvisions(arch: str) -> None:
    """With norm batch and the ImageNet stem, torchvision's weights in order give torchvision's features."""
    size = 64
    ours = build(Config(arch=arch, norm="batch", stem="imagenet", cut=1), image_size=size).double()
    theirs = getattr(torchvision.models, arch)(weights=None).double()
    theirs.fc = nn.Identity()
    mine = list(ours.units.parameters())
    yours = list(theirs.parameters())
    assert [p.shape for p in mine] == [p.shape for p in yours]
    with torch.no_grad():
        for a, b in zip(mine, yours, strict=True):
            a.copy_(b)
        x = images(2, size)
        torch.testing.assert_close(ours.features(x), theirs(x))


@pytest.mark.parametrize("arch", ["vgg11", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_vggs_with_batch_norm_are_torchvisions(arch: str) -> None:
    """As above; torchvision's convolutions have biases, which a batch norm behind them makes useless: zero here."""
    ours = build(Config(arch=arch, norm="batch", cut=1), image_size=32).double()
    theirs = getattr(torchvision.models, f"{arch}_bn")(weights=None).features.double()
    biases = [m.bias for m in theirs.modules() if isinstance(m, nn.Conv2d)]
    assert len(biases) == CUTS[arch][-1]
    for bias in biases:
        nn.init.zeros_(bias)
    kept = [p for p in theirs.parameters() if all(p is not b for b in biases)]
    assert [p.shape for p in ours.units.parameters()] == [p.shape for p in kept]
    with torch.no_grad():
        for a, b in zip(ours.units.parameters(), kept, strict=True):
            a.copy_(b)
        x = images(2, 32)
        torch.testing.assert_close(ours.features(x), theirs(x).mean((2, 3)))


def test_alexnet_at_cut_2_is_the_published_one() -> None:
    """GAS code: 620 544 bits of client weights, 131 072 bits of smashed data, 5 603 328 multiply-adds."""
    row = next(row for row in costs(Config(arch="alexnet"), 32) if row.cut == 2)
    assert row.smashed_shape == (64, 8, 8)
    assert row.client_parameters == 19392 == 620544 // 32
    assert 8 * row.bytes == 131072
    assert row.client_macs == 5603328


@pytest.mark.parametrize(("arch", "shapes"), [
    ("cnn4", [(32, 16, 16), (64, 8, 8), (512,)]),
    ("mlp", [(512,), (512,), (512,)]),
    ("vit", [(64, 192)] * 7),
    ("vgg11", [(64, 16, 16), (128, 8, 8), (256, 8, 8), (256, 4, 4), (512, 4, 4), (512, 2, 2), (512, 2, 2), (512, 1, 1)]),
    ("alexnet", [(32, 16, 16), (64, 8, 8), (128, 8, 8), (256, 8, 8), (256, 4, 4)]),
])
def test_shapes_at_32_pixels(arch: str, shapes: list[tuple[int, ...]]) -> None:
    assert [row.smashed_shape for row in costs(Config(arch=arch), 32)][1:-1] == shapes


def test_parameters_of_the_small_networks_in_closed_form() -> None:
    """Dense: in x out + out. ViT: patches 48 d + d, positions 64 d, blocks 12 d^2 + 13 d, final norm 2 d."""
    d = 192
    expected = {
        "cnn4": 75 * 32 + 32 + 25 * 32 * 64 + 64 + 64 * 8 * 8 * 512 + 512,
        "mlp": 3072 * 512 + 512 + 2 * (512 * 512 + 512),
        "vit": 49 * d + 64 * d + 6 * (12 * d * d + 13 * d) + 2 * d,
    }
    assert {arch: parameters(assemble(Config(arch=arch, cut=1), image_size=32).units) for arch in expected} == expected


@pytest.mark.parametrize("arch", CUTS)
def test_every_cut_divides_the_same_work(arch: str) -> None:
    rows = costs(options(arch), 16)
    assert len(rows) == len(CUTS[arch]) + 2
    assert len({row.client_parameters + row.server_parameters for row in rows}) == 1
    assert len({row.client_macs + row.server_macs for row in rows}) == 1
    assert [row.client_macs for row in rows] == sorted(row.client_macs for row in rows)
    assert [len(row.client_units) for row in rows] == sorted(len(row.client_units) for row in rows)


@pytest.mark.parametrize(("changes", "cuts"), [({}, 10), ({"bottleneck": {"channels": 4, "stride": 2}}, 8), ({"norm": "batch"}, 10)])
def test_one_network_costs_what_the_table_says(changes: dict[str, object], cuts: int) -> None:
    rows = costs(options("vgg11", **changes), 16)
    assert len(rows) == cuts
    for row in rows:
        network = tiny("vgg11", row.cut, **changes)  # in float64: the precision does not matter
        before = {k: v.clone() for k, v in network.state_dict().items()}
        assert cost(network) == row
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_multiply_adds_in_closed_form() -> None:
    assert macs(nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10)) == 100 * 8 * 27
    assert macs(nn.Conv2d(12, 12, 3, padding=1, stride=2, groups=12), (12, 10, 10)) == 25 * 12 * 9
    assert macs(nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1), (4, 5, 5)) == 25 * 4 * 8 * 9
    assert macs(nn.Linear(7, 5), (7,)) == 35
    assert macs(nn.Identity(), (3, 8, 8)) == 0
    vit = assemble(Config(arch="vit", cut=1), image_size=32)
    tokens, d = 64, 192
    assert macs(vit.units["1"], (tokens, d)) == 12 * tokens * d * d + 2 * tokens * tokens * d


def test_resnet50_for_imagenet_has_the_known_multiply_adds() -> None:
    """4.09 G with the linear classifier of 1000 classes (torchvision's documentation)."""
    network = assemble(Config(arch="resnet50", stem="imagenet", cut=0), image_size=224, classes=1000)
    assert cost(network).server_macs == pytest.approx(4.09e9, rel=2e-3)


@pytest.mark.parametrize("size", [28, pytest.param(8, marks=pytest.mark.slow), pytest.param(33, marks=pytest.mark.slow)])
def test_odd_and_small_images_fit_every_architecture(size: int) -> None:
    fits = [arch for arch in ARCHITECTURES if arch != "opt" and (arch != "vit" or size % 4 == 0)]
    assert len(fits) == (9 if size == 33 else 10)
    for arch in fits:
        network = tiny(arch, CUTS[arch][-1], size=size)
        h = network.client(images(2, size))
        assert tuple(h.shape[1:]) == network.smashed_shape
        assert network.server(h).shape == (2, 8)


@pytest.mark.parametrize(("arch", "first", "last"), [("resnet18", (64, 56, 56), (512, 7, 7)), ("mobilenetv2", (32, 112, 112), (1280, 7, 7)),
                                                     ("vit", (196, 192), (196, 192))])
def test_imagenet_stems(arch: str, first: tuple[int, ...], last: tuple[int, ...]) -> None:
    rows = costs(Config(arch=arch, stem="imagenet"), 224)
    assert rows[1].smashed_shape == first
    assert rows[-2].smashed_shape == last


def test_width_changes_every_stage() -> None:
    shapes = [row.smashed_shape[0] for row in costs(config.from_dict({"arch": "mobilenetv2", "width": 0.5}), 32)[1:-1]]
    assert shapes == [16, 8, 16, 16, 32, 48, 80, 160, 640]  # 24 / 2 = 12 lies between 8 and 16 and goes up
    assert all(math.gcd(c, 8) == 8 for c in shapes)
