"""A split network is the network: forward, gradients, names, initial weights; and what cannot be cut says so."""

import copy

import pytest
import torch
from tiny_networks import BATCH_NORM, CUTS, EVERY_CUT, THREE_CUTS, images, options, tiny
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ssl_split.models import heads
from ssl_split.models.layers import BatchNorm, WSConv2d
from ssl_split.models.split import ARCHITECTURES, Network, assemble, build, build_units
from ssl_split.models.units import input_shape, pool, trace
from ssl_split.models.vit import Attention, Block


def _split_equals_unsplit(network: Network) -> None:
    """Loss sum(r * out) for fixed random r: backward in one piece, then through a wire that carries values only."""
    whole, x = copy.deepcopy(network), images()
    out = whole(x)
    r = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    (out * r).sum().backward()

    client, server = network.client, network.server
    h = client(x)
    assert tuple(h.shape) == (2, *network.smashed_shape)
    received = h.detach().requires_grad_()
    split_out = server(received)
    (split_out * r).sum().backward()
    assert received.grad is not None
    if h.requires_grad:
        h.backward(received.grad)

    torch.testing.assert_close(split_out, out, rtol=1e-12, atol=1e-12)
    if network.cut != "full":
        features = server.features(h)
        assert features.shape == (2, network.feature_dim)
        torch.testing.assert_close(features, whole.features(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(network.head(features), out, rtol=1e-12, atol=1e-12)
    expected = dict(whole.named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-11, msg=name)
        assert parameter.grad.abs().max() > 0, name
    torch.testing.assert_close(dict(network.named_buffers()), dict(whole.named_buffers()), rtol=1e-12, atol=1e-12)


def test_the_registry_is_what_is_tested() -> None:
    assert list(ARCHITECTURES) == [*CUTS, "opt"]  # which reads sentences, and is tested in a file of its own
    assert len(CUTS) == 10
    assert len(THREE_CUTS) == 30
    assert len(EVERY_CUT) == sum(len(cuts) + 2 for cuts in CUTS.values()) == 111


@pytest.mark.parametrize(("arch", "cut"), THREE_CUTS)
def test_split_equals_unsplit(arch: str, cut: int) -> None:
    _split_equals_unsplit(tiny(arch, cut))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "cut"), EVERY_CUT)
def test_split_equals_unsplit_at_every_cut(arch: str, cut: int | str) -> None:
    _split_equals_unsplit(tiny(arch, cut))


@pytest.mark.parametrize("cut", [0, "full"])
def test_split_equals_unsplit_at_the_ends(cut: int | str) -> None:
    _split_equals_unsplit(tiny("resnet18", cut))


@pytest.mark.parametrize("arch", BATCH_NORM)
def test_split_equals_unsplit_with_batch_norm(arch: str) -> None:
    network = tiny(arch, CUTS[arch][2], size=32 if arch.startswith("vgg") else 16, norm="batch")
    assert not any(isinstance(m, WSConv2d | nn.GroupNorm) for m in network.modules())
    assert {name.split(".")[-1] for name, _ in network.named_buffers()} == {"running_mean", "running_var"}
    assert all(tensor.is_floating_point() for tensor in network.state_dict().values())
    whole, x = copy.deepcopy(network), images(4, 32)
    torch.testing.assert_close(network.server(network.client(x)), whole(x))
    torch.testing.assert_close(network.state_dict(), whole.state_dict())
    assert any(isinstance(m, BatchNorm) and m.running_mean.any() for m in network.modules())


@pytest.mark.parametrize("cut", [1, 9, 17])
def test_split_equals_unsplit_with_a_bottleneck(cut: int) -> None:
    _split_equals_unsplit(tiny("resnet18", cut, bottleneck={"channels": 4, "stride": 2}))


@pytest.mark.parametrize(("arch", "cut"), [*THREE_CUTS[1::3], ("resnet18", 0), ("resnet18", "full"), ("vit", 7), ("vit", "full")])
def test_halves_divide_the_state_without_copies(arch: str, cut: int | str) -> None:
    network = tiny(arch, cut)
    client, server, whole = network.client.state_dict(), network.server.state_dict(), network.state_dict()
    assert not client.keys() & server.keys()
    union = client | server
    assert union.keys() == whole.keys()
    assert len(whole) > 0
    assert all(union[name].data_ptr() == tensor.data_ptr() for name, tensor in whole.items())
    assert (not client) == (cut == 0)
    assert (not server) == (cut == "full")
    assert all(name.split(".")[0] in ("units", "head") for name in whole)


def test_halves_of_a_network_with_bottleneck() -> None:
    network = tiny("resnet18", 5, bottleneck={"channels": 4, "stride": 2}, norm="batch")
    client, server = network.client.state_dict(), network.server.state_dict()
    assert {name.split(".")[0] for name in client} == {"units", "bottleneck_down"}
    assert {name.split(".")[0] for name in server} == {"units", "bottleneck_up", "head"}
    assert client.keys() | server.keys() == network.state_dict().keys()
    network.client.load_state_dict(dict(client))
    network.server.load_state_dict(dict(server))


def test_at_the_ends_one_half_is_the_identity() -> None:
    x = images()
    assert tiny("resnet18", 0).client(x) is x
    full = tiny("resnet18", "full")
    assert full.smashed_shape == (8,)
    assert torch.equal(full.client(x), full(x))
    assert full.server(x) is x
    assert torch.equal(full.client.features(x), full.features(x))
    with pytest.raises(ValueError, match="in the half that holds the head"):
        full.server.features(x)


def test_pooling_is_the_mean_over_space_or_tokens() -> None:
    maps, tokens, flat = torch.rand(2, 3, 4, 5), torch.rand(2, 7, 3), torch.rand(2, 3)
    torch.testing.assert_close(pool(maps), sum(maps[:, :, i, j] for i in range(4) for j in range(5)) / 20)
    torch.testing.assert_close(pool(tokens), sum(tokens[:, i] for i in range(7)) / 7)
    assert pool(flat) is flat


def test_halves_carry_the_mode_of_the_network() -> None:
    network = tiny("resnet18", 5, norm="batch")
    network.eval()
    assert not any(module.training for half in (network.client, network.server) for module in half.modules())
    network.train()
    assert all(module.training for half in (network.client, network.server) for module in half.modules())


@pytest.mark.parametrize("arch", CUTS)
def test_one_seed_is_one_function_at_every_cut(arch: str) -> None:
    x, cuts = images(), (0, CUTS[arch][1], CUTS[arch][-1], "full")
    outputs = [tiny(arch, cut)(x) for cut in cuts]
    assert all(torch.equal(out, outputs[0]) for out in outputs)
    assert not torch.equal(tiny(arch, cuts[0], seed=1)(x), outputs[0])


def test_a_bottleneck_leaves_the_other_initial_weights() -> None:
    plain = tiny("resnet18", 5).state_dict()
    with_it = tiny("resnet18", 5, bottleneck={"channels": 2, "stride": 1}).state_dict()
    assert len(with_it) == len(plain) + 4
    assert all(torch.equal(with_it[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("arch", CUTS)
def test_building_touches_no_global_generator(arch: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = build(options(arch), image_size=16)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    second = build(options(arch), image_size=16)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    for tensor in first.parameters():
        assert (tensor.device.type, tensor.dtype, tensor.requires_grad) == ("cpu", torch.float32, True)
        assert tensor.isfinite().all()


def test_vit_weights_are_normal_with_deviation_002() -> None:
    network = build(options("vit", 1, width=1.0), image_size=32)
    weights = [network.units["0"].positions, network.units["0"].patches.weight, network.units["3"].attention.qkv.weight]
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not network.units["3"].attention.qkv.bias.any()
    assert (network.units["7"].weight == 1).all()


def test_a_classifier_replaces_the_projection_head() -> None:
    network = tiny("resnet18", 17, classes=10)
    assert network(images()).shape == (2, 10)
    assert network.server.state_dict()["head.weight"].shape == (10, 64)
    assert tiny("resnet18", "full", classes=10).smashed_shape == (10,)


@pytest.mark.parametrize("arch", [arch for arch in CUTS if arch not in ("alexnet", "cnn4", "mlp", "vit")])
def test_all_norms_have_groups_of_four(arch: str) -> None:
    norms = [m for m in tiny(arch).modules() if isinstance(m, nn.GroupNorm)]
    convolutions = [m for m in tiny(arch).modules() if isinstance(m, nn.Conv2d)]
    assert len(norms) == len(convolutions) >= 8
    assert {m.num_channels / m.num_groups for m in norms} == {4}
    assert all(isinstance(m, WSConv2d) for m in convolutions)


def _vmap_equals_loop(arch: str, cut: int) -> None:
    """Three clients with weights of their own, in one vectorised call and one after another: outputs and gradients."""
    clients = [tiny(arch, cut, seed=seed).client for seed in range(3)]
    stacked = {name: torch.stack([dict(c.named_parameters())[name] for c in clients]).detach()
               for name, _ in clients[0].named_parameters()}
    x = torch.stack([images(seed=seed) for seed in range(3)])

    def loss(weights: dict[str, Tensor], batch: Tensor) -> Tensor:
        return functional_call(clients[0], weights, (batch,)).pow(2).mean()

    gradients = vmap(grad(loss))(stacked, x)
    for k, client in enumerate(clients):
        client(x[k]).pow(2).mean().backward()
        for name, parameter in client.named_parameters():
            torch.testing.assert_close(gradients[name][k], parameter.grad, rtol=1e-8, atol=1e-10, msg=name)
    assert len(gradients) > 0


def test_stacked_clients_vectorise() -> None:
    _vmap_equals_loop("resnet18", 13)


@pytest.mark.slow
@pytest.mark.parametrize("arch", CUTS)
def test_stacked_clients_of_every_architecture_vectorise(arch: str) -> None:
    _vmap_equals_loop(arch, CUTS[arch][-1])


def test_attention_can_be_differentiated_twice() -> None:
    attention = Attention(6, 2).double()
    x = torch.randn(1, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradgradcheck(attention, x)


def test_attention_is_the_frameworks() -> None:
    attention = Attention(12, 3).double()
    x = images(2, 12)[:, 0]  # (2, 12 tokens, 12)
    q, k, v = (t.unflatten(-1, (3, 4)).transpose(1, 2) for t in attention.qkv(x).chunk(3, -1))
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), attention.project(expected))


def test_a_transformer_block_is_the_frameworks_pre_norm_layer() -> None:
    block, d = Block(12, 3).double(), 12
    reference = nn.TransformerEncoderLayer(d, 3, 4 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
                                           dtype=torch.float64)
    pairs = {block.norm1: reference.norm1, block.norm2: reference.norm2, block.mlp[0]: reference.linear1, block.mlp[2]: reference.linear2,
             block.attention.project: reference.self_attn.out_proj}
    with torch.no_grad():
        for ours, theirs in pairs.items():
            theirs.load_state_dict(ours.state_dict())
        reference.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        reference.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
    x = images(2, 12)[:, 0]
    torch.testing.assert_close(block(x), reference(x))


def test_mobilenet_has_a_relu_where_the_specification_says() -> None:
    """Behind stem and last convolution and twice inside each of the 17 blocks, but not behind a block: stages may be negative."""
    assert sum(isinstance(m, nn.ReLU) for m in tiny("mobilenetv2").units.modules()) == 2 + 2 * 17
    x = images()
    lowest = {cut: tiny("mobilenetv2", cut).client(x).min().item() for cut in CUTS["mobilenetv2"]}
    assert [cut for cut, value in lowest.items() if value >= 0] == [1, 9]


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_c4s2_sends_1024_numbers_from_cuts_1_to_5(cut: int) -> None:
    network = build(options("resnet18", cut, width=1.0, bottleneck={"channels": 4, "stride": 2}), image_size=32)
    assert network.smashed_shape == (4, 16, 16)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_a_bottleneck_gives_back_the_exact_size(stride: int) -> None:
    for side in range(1, 12):
        for channels in (1, 8):
            x = torch.randn(2, 6, side, side + 1)
            z = heads.bottleneck_down(6, channels, stride)(x)
            assert z.shape == (2, channels, -(-side // stride), -(-(side + 1) // stride))
            assert heads.bottleneck_up(6, channels, stride, (side, side + 1))(z).shape == x.shape


@pytest.mark.parametrize(("cut", "size"), [(1, 15), (9, 18), (17, 33)])
def test_bottlenecks_fit_odd_maps(cut: int, size: int) -> None:
    network = tiny("resnet18", cut, size=size, bottleneck={"channels": 2, "stride": 2})
    h = network.client(images(2, size))
    assert tuple(h.shape[1:]) == network.smashed_shape
    assert h.min() >= 0
    torch.testing.assert_close(network.server(h), network(images(2, size)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arch", [*CUTS])
def test_shapes_that_a_process_knows_are_those_that_would_be_traced(arch: str) -> None:
    """Networks alike but for image size or width, one after another and again, at the deepest cut."""
    cut = CUTS[arch][-1]
    for size, width in ((32, 0.25), (64, 0.25), (32, 0.5), (32, 0.25)):
        config = options(arch, cut, width=width)
        units = build_units(config, size)
        shapes = trace(units, input_shape(config, size))
        made = assemble(config, image_size=size)
        assert made.smashed_shape == shapes[1 + next(i for i, unit in enumerate(units) if unit.cut == cut)]
        assert made.input_shape == shapes[0]
