"""Bytes of a client against closed forms by hand, and the same on the meta device as with real weights."""

import pytest
import torch
from torch import Tensor, nn

from ssl_split import config as configuration
from ssl_split.models.layers import WSConv2d
from ssl_split.models.memory import client_memory, live_bytes, on_meta_device, saved_bytes
from ssl_split.models.split import build

B = 4


def mlp() -> nn.Sequential:
    """6 -> 10 -> 3, 103 weights."""
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))


def test_mlp_saves_its_input_and_its_hidden_layer_once() -> None:
    """The first layer keeps x; ReLU its output, which is also the input of the second; neither weight counts."""
    assert saved_bytes(mlp(), torch.randn(B, 6)) == 4 * (B * 6 + B * 10)
    assert live_bytes(mlp(), torch.randn(B, 6)) == 4 * (B * 6 + 2 * B * 10)  # x, and both sides of ReLU


def test_layers_below_the_first_trainable_one_save_nothing() -> None:
    module = mlp()
    module[0].requires_grad_(False)
    assert saved_bytes(module, torch.randn(B, 6)) == 4 * B * 10
    memory = client_memory(module, torch.randn(B, 6), moments=2)
    assert memory.parameters == 4 * 103
    assert memory.gradients == 4 * 33
    assert memory.optimiser_state == 8 * 33


def test_a_frozen_layer_above_keeps_no_input() -> None:
    """Its weight is enough for the gradient of what comes before."""
    module = mlp()
    module[2].requires_grad_(False)
    assert saved_bytes(module, torch.randn(B, 6)) == 4 * (B * 6 + B * 10)  # ReLU still keeps its output
    module[1] = nn.Identity()
    assert saved_bytes(module, torch.randn(B, 6)) == 4 * B * 6


def test_convolution_with_group_norm() -> None:
    """The convolution keeps x, the norm its input and two numbers for each group of each image, ReLU its output."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
    x = torch.randn(B, 3, 5, 5)
    assert saved_bytes(module, x) == 4 * (x.numel() + 2 * B * 8 * 25 + 2 * B * 2)


def test_standardised_weights_are_no_parameters() -> None:
    """Twice the weights would be wrong, none as well: w_hat and the deviation of each filter are kept."""
    x = torch.randn(B, 3, 5, 5)
    assert saved_bytes(WSConv2d(3, 8, 3), x) == 4 * (x.numel() + 8 * 27 + 8)


class Residual(nn.Module):
    """x + W2 relu(W1 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10, bias=False), nn.Linear(10, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 6)` -> same."""
        out: Tensor = x + self.down(self.up(x).relu())
        return out


def test_what_a_residual_connection_keeps_is_live() -> None:
    module = nn.Sequential(Residual(), Residual())
    x = torch.randn(B, 6)
    assert live_bytes(module, x) == 4 * B * (6 + 6 + 10 + 10)  # of the second block: x, its own input, both sides of ReLU
    assert saved_bytes(module, x) == 4 * B * 2 * (6 + 10)


def test_token_ids_keep_their_size() -> None:
    ids = torch.randint(7, (B, 5))
    module = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 2))
    for dtype in (torch.float16, torch.float32):
        memory = client_memory(module, ids, moments=1, dtype=dtype)
        assert memory.saved_activations == 8 * ids.numel() + dtype.itemsize * B * 5 * 6
        assert memory.parameters == memory.gradients == memory.optimiser_state == dtype.itemsize * (42 + 14)


def test_terms_of_every_kind_of_client() -> None:
    module, x = mlp(), torch.randn(B, 6)
    first = client_memory(module, x, moments=1)
    assert first.to_dict() == {"parameters": 412, "gradients": 412, "optimiser_state": 412, "saved_activations": 256,
                               "live_activations": 416, "sum": 3 * 412 + 256}
    zeroth = client_memory(module, x, moments=0, zeroth_order=True)
    assert (zeroth.sum, zeroth.gradients, zeroth.saved_activations, zeroth.live_activations) == (412, 0, 0, 416)
    assert client_memory(module, x, moments=1, momentum_client=True).sum == first.sum + 412
    assert client_memory(module, x, moments=1, dtype=torch.float16).sum == first.sum / 2
    assert client_memory(nn.Identity(), x, moments=2).to_dict() == dict.fromkeys(first.to_dict(), 0) | {"live_activations": 4 * B * 6}
    assert not any(p.is_meta or p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(("arch", "cut"), [("resnet18", 0), ("resnet18", 5), ("resnet18", "full"), ("mobilenetv2", 5), ("vit", 3),
                                           ("alexnet", 2)])
def test_the_meta_device_counts_what_real_weights_do(arch: str, cut: int | str) -> None:
    config = configuration.from_dict({"arch": arch, "cut": cut, "width": 0.125})
    client = build(config, image_size=32, classes=10).client
    x = torch.randn(2, 3, 32, 32)
    meta = on_meta_device(client, torch.float32)
    assert saved_bytes(meta, x.to("meta")) == saved_bytes(client, x)
    assert live_bytes(meta, x.to("meta")) == live_bytes(client, x)


def test_batch_norm_stays_as_it_is_and_trains_on_the_copy() -> None:
    config = configuration.from_dict({"cut": 3, "width": 0.125, "norm": "batch"})
    client = build(config, image_size=16, classes=10).client.eval()
    before = {name: value.clone() for name, value in client.state_dict().items()}
    x = torch.randn(B, 3, 16, 16)
    assert client_memory(client, x, moments=0).saved_activations == saved_bytes(on_meta_device(client, torch.float32).train(), x.to("meta"))
    assert not client.training
    assert all(torch.equal(before[name], value) for name, value in client.state_dict().items())


def test_tied_weights_count_once() -> None:
    module = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False))
    module[2].weight = module[0].weight
    memory = client_memory(module, torch.randn(B, 6), moments=0)
    assert memory.parameters == 4 * 36
    assert memory.saved_activations == 4 * 2 * B * 6
