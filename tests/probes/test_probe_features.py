"""Features are the network's own, whatever the batch size, and the network is left as it was."""

import copy

import pytest
import torch
from torch import Tensor

from probes.features import KINDS, PIXEL_SIDE, SMASHED_LIMIT, evaluation, extract, pixels, pool, pooled_shape
from ssl_split import config
from ssl_split.data.images import normalise, to_float
from ssl_split.defences import table as defences
from ssl_split.models.split import Network, build

MEAN, STD = (0.49, 0.48, 0.45), (0.2, 0.21, 0.22)


def _network(**changes: object) -> Network:
    values = {"arch": "resnet18", "width": 0.125, "cut": 5, "head": {"hidden": 24, "out": 12}, **changes}
    return build(config.from_dict(values), image_size=16).double()


def _images(count: int = 7, size: int = 16) -> Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def _direct(network: Network, images: Tensor, kind: str) -> Tensor:
    """The definition of each kind, one image at a time."""
    rows = []
    with torch.no_grad():
        for image in images:
            x = normalise(to_float(image[None], torch.float64), MEAN, STD)
            rows.append({"backbone": network.features, "projector": network, "smashed": network.client,
                         "received": lambda x: network.server.features(network.client(x))}[kind](x).flatten(1))
    return torch.cat(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_features_are_a_direct_forward(kind: str, norm: str) -> None:
    network = _network(norm=norm).eval()
    images = _images()
    wanted = _direct(network, images, kind).float()
    for batch_size in (1, 3, 7, 100):
        found = extract(network, images, kind=kind, mean=MEAN, std=STD, batch_size=batch_size)
        assert found.dtype == torch.float32
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert wanted.shape == {"backbone": (7, 64), "received": (7, 64), "projector": (7, 12), "smashed": (7, 8 * 16 * 16)}[kind]
    assert wanted.std(0).min() > 0 or kind != "projector"  # the images are told apart, so that equality says something


@pytest.mark.parametrize(("arch", "cut"), [("vit", 2), ("mlp", 2), ("mobilenetv2", 3), ("resnet18", 0), ("resnet18", "full")])
def test_features_at_other_cuts_and_of_other_shapes(arch: str, cut: int | str) -> None:
    """Sequences, vectors, images themselves and head outputs are smashed data too."""
    network = _network(arch=arch, cut=cut).eval()
    images = _images(3)
    whole = extract(network, images, kind="smashed", mean=MEAN, std=STD, limit=10**6)
    assert whole.shape == (3, torch.Size(network.smashed_shape).numel())
    torch.testing.assert_close(whole, _direct(network, images, "smashed").float(), rtol=1e-6, atol=1e-6)
    bounded = extract(network, images, kind="smashed", mean=MEAN, std=STD, limit=100)
    assert bounded.shape == (3, torch.Size(pooled_shape(network.smashed_shape, limit=100)).numel())
    backbone = extract(network, images, mean=MEAN, std=STD)
    torch.testing.assert_close(backbone, _direct(network, images, "backbone").float(), rtol=1e-6, atol=1e-6)


def test_kinds_are_complete() -> None:
    assert KINDS == ("backbone", "received", "projector", "smashed")


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_received_features_are_the_backbones_without_a_defence_and_not_with_one(bottleneck: int) -> None:
    network = _network(bottleneck={"channels": bottleneck, "stride": 1}).eval()
    images = _images()
    backbone = extract(network, images, mean=MEAN, std=STD)
    torch.testing.assert_close(extract(network, images, kind="received", mean=MEAN, std=STD), backbone, rtol=0, atol=0)
    coarse = defences.build(config.from_dict({"defence": "quantise", "quantise": {"bits": 2}}))
    with torch.no_grad():
        z = network.client(normalise(to_float(images, torch.float64), MEAN, STD)).float()
        assert coarse.codec is not None
        decoded = coarse.codec.decode(coarse.codec.encode(z[None], 2), z.dtype)[0]
        wanted = network.server.features(decoded.double()).float()
    found = extract(network, images, kind="received", mean=MEAN, std=STD, defence=coarse)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (found - backbone).abs().max() > 1e-3


def test_received_features_need_a_server_with_layers() -> None:
    with pytest.raises(ValueError, match="at cut full the server has no layers"):
        extract(_network(cut="full"), _images(), kind="received", mean=MEAN, std=STD)


def test_extraction_leaves_the_network_as_it_was() -> None:
    """BatchNorm buffers, gradients and the mode of every module (one is frozen on purpose) stay, and features do not change."""
    network = _network(norm="batch").train()
    frozen = next(iter(network.units.values()))
    frozen.eval()
    before = copy.deepcopy(network.state_dict())
    modes = {name: module.training for name, module in network.named_modules()}
    assert len(set(modes.values())) == 2
    found = extract(network, _images(), mean=MEAN, std=STD)
    assert {name: module.training for name, module in network.named_modules()} == modes
    after = network.state_dict()
    assert sum("running" in name for name in before) >= 30
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(found, extract(network.eval(), _images(), mean=MEAN, std=STD))


def test_modes_come_back_after_an_error() -> None:
    network = _network().train()
    seen: list[bool] = []
    with pytest.raises(ZeroDivisionError), evaluation(network):
        seen.append(network.training or 1 / 0 > 0)
    assert seen == []
    assert all(module.training for module in network.modules())


def test_bf16_is_close_and_progress_counts_every_image() -> None:
    network = _network().float()
    seen: list[int] = []
    exact = extract(network, _images(), mean=MEAN, std=STD)
    rough = extract(network, _images(), mean=MEAN, std=STD, precision="bf16", batch_size=3, advance=seen.append)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < 0.05
    assert seen == [3, 3, 1]


def test_smashed_data_are_averaged_over_a_grid() -> None:
    """8x32x32 with room for 8x4x4: every number is the mean of an 8x8 square of its own channel."""
    z = torch.randn(2, 8, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pool(z, limit=8 * 4 * 4 + 5).view(2, 8, 4, 4)
    wanted = torch.stack([torch.stack([z[:, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean((2, 3)) for c in range(4)], -1)
                          for r in range(4)], -2)
    torch.testing.assert_close(found, wanted)


def test_sequences_are_averaged_over_runs_of_tokens() -> None:
    z = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(pool(z, limit=17), z.view(2, 3, 2, 5).mean(2).flatten(1))
    assert torch.equal(pool(z[:, 0], limit=1), z[:, 0])
    assert torch.equal(pool(z), z.flatten(1))


@pytest.mark.parametrize(("shape", "wanted"), [
    ((64, 32, 32), (64, 8, 8)), ((128, 16, 16), (128, 5, 5)), ((256, 8, 8), (256, 4, 4)), ((512, 4, 4), (512, 2, 2)),
    ((3, 32, 32), (3, 32, 32)), ((5000, 2, 2), (5000, 1, 1)), ((65, 192), (21, 192)), ((1024,), (1024,)),
])
def test_pooled_shape_is_bounded(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert pooled_shape(shape) == wanted
    kept = pool(torch.zeros(1, *shape)).shape[1]
    assert kept == torch.Size(wanted).numel()
    assert kept <= max(SMASHED_LIMIT, shape[0])


def test_pixels() -> None:
    images = _images(5)
    assert torch.equal(pixels(images, mean=MEAN, std=STD, batch_size=2), normalise(to_float(images), MEAN, STD).flatten(1))
    large = _images(2, 2 * PIXEL_SIDE)
    blocks = normalise(to_float(large), MEAN, STD).view(2, 3, PIXEL_SIDE, 2, PIXEL_SIDE, 2).mean((3, 5))
    torch.testing.assert_close(pixels(large, mean=MEAN, std=STD), blocks.flatten(1))


def test_bad_input_is_one_sentence() -> None:
    network = _network()
    with pytest.raises(ValueError, match="legal: backbone, received, projector, smashed"):
        extract(network, _images(), kind="logits", mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="no images"):
        extract(network, _images(0), mean=MEAN, std=STD)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="diverged"):
        extract(network, _images(), mean=MEAN, std=STD)
