"""The wire: what is counted is what is sent, and what is decoded is what training sees."""

import pytest
import torch
from torch import nn

from ssl_split import tree as trees
from ssl_split.channel import CODECS, KINDS, Channel, Ledger
from ssl_split.config import Wire

NUMBERS = torch.randn(3, 4, 5, 6, 6, generator=torch.Generator().manual_seed(0))  # (P, B, C, H, W)
WHO = torch.tensor([0, 2, 7])


@pytest.mark.parametrize(("codec", "expected"), [
    ("fp32", 4 * 720), ("fp16", 2 * 720), ("bf16", 2 * 720), ("int8", 720 + 8), ("int8_channel", 720 + 8 * 5)])
def test_bytes_of_each_codec(codec: str, expected: int) -> None:
    """One client's message has 4 * 5 * 6 * 6 = 720 numbers in 5 channels."""
    ledger = Ledger(8)
    Channel(Wire(activations=codec), ledger).send("act_up", NUMBERS, WHO)
    row = ledger.current[KINDS.index("act_up")]
    assert row[WHO].tolist() == [[1, 4 * 720, expected]] * 3
    assert row.sum() == 3 * (1 + 4 * 720 + expected)


def test_set_of_codecs() -> None:
    assert sorted(CODECS) == ["bf16", "fp16", "fp32", "int8", "int8_channel"]


@pytest.mark.parametrize("codec", ["int8", "int8_channel"])
def test_int8_error_is_at_most_half_a_code(codec: str) -> None:
    arrived = Channel(Wire(activations=codec), Ledger(8)).send("act_up", NUMBERS, WHO)
    over = (1, 2, 3, 4) if codec == "int8" else (1, 3, 4)
    half = (NUMBERS.amax(over, keepdim=True) - NUMBERS.amin(over, keepdim=True)) / 255 / 2
    assert ((arrived - NUMBERS).abs() <= half * 1.001).all()
    assert (arrived - NUMBERS).abs().max() > 0


def test_constant_and_nan_survive_int8() -> None:
    channel = Channel(Wire(activations="int8"), Ledger(1))
    constant = torch.full((1, 2, 3, 2, 2), 0.7)
    assert torch.equal(channel.send("act_up", constant, torch.tensor([0])), constant)
    constant[0, 0, 0, 0, 0] = float("nan")
    assert channel.send("act_up", constant, torch.tensor([0])).isnan().any()


def test_bf16_values_are_really_rounded() -> None:
    arrived = Channel(Wire(activations="bf16"), Ledger(8)).send("act_up", NUMBERS, WHO)
    assert torch.equal(arrived, NUMBERS.bfloat16().float())


def test_nothing_that_arrives_has_a_graph() -> None:
    leaf = NUMBERS.clone().requires_grad_()
    assert not Channel(Wire(), Ledger(8)).send("act_up", leaf * 2, WHO).requires_grad


@pytest.mark.parametrize(("codec", "expected"), [("fp32", 4 * 224), ("bf16", 2 * 224), ("int8", 224 + 4 * 8),
                                                 ("int8_channel", 224 + 8 * (8 + 1 + 1 + 1))])
def test_weights_cost_their_entries_without_padding(codec: str, expected: int) -> None:
    """Convolution 1 -> 8 of 5x5 with bias: 200 + 8; GroupNorm: 8 + 8. Per channel, vectors still have a single scale."""
    module = nn.Sequential(nn.Conv2d(1, 8, 5), nn.GroupNorm(2, 8))
    tree = trees.repeat(trees.gather(module), 3)
    ledger = Ledger(8)
    arrived = Channel(Wire(weights=codec), ledger).send_tree("model_up", tree, WHO)
    assert ledger.current[KINDS.index("model_up"), 2].tolist() == [1, 4 * 224, expected]
    torch.testing.assert_close(arrived.flat, tree.flat, rtol=1e-2, atol=2e-3)


def test_header_and_rounds() -> None:
    ledger = Ledger(8)
    channel = Channel(Wire(header_bytes=16), ledger)
    channel.send("grad_down", NUMBERS, WHO)
    channel.send("grad_down", NUMBERS, WHO)
    rows = ledger.close_round(5)
    assert rows == [(5, c, "down", "grad_down", 2, 2 * (2880 + 16), 2 * (2880 + 16)) for c in (0, 2, 7)]
    assert ledger.close_round(6) == []
    assert ledger.bytes()["down"]["grad_down"] == 3 * 2 * (2880 + 16)
