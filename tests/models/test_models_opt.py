"""The transformer of sentences: equal to the library's own, cut anywhere, and pretrained folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_split import config as configuration
from ssl_split.config import Config
from ssl_split.models.count import costs
from ssl_split.models.split import build

transformers = pytest.importorskip("transformers")
L = 7


def options(cut: int | str = 2, **text: object) -> Config:
    return configuration.from_dict({"algorithm": "sfl_v1", "dataset": "tsv", "arch": "opt", "cut": cut, "text": {
        "tokens": L, "vocabulary": 50, "hidden": 16, "layers": 2, "heads": 2, "feed_forward": 24, **text}})


def sentences() -> Tensor:
    """Token ids `(3, L)`: full, short, and the shortest there is."""
    return torch.tensor([[2, 5, 9, 4, 8, 20, 49], [2, 7, 7, 30, 1, 1, 1], [2, 1, 1, 1, 1, 1, 1]])


def saved(folder: Path, **changes: object) -> transformers.OPTForSequenceClassification:
    torch.manual_seed(0)
    made = transformers.OPTForSequenceClassification(transformers.OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32,
        num_labels=2, **{"word_embed_proj_dim": 16, **changes})).eval()
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize("changes", [{}, {"word_embed_proj_dim": 8}, {"do_layer_norm_before": False}],
                         ids=["opt", "narrow embeddings", "norm behind"])
def test_the_pretrained_network_is_the_librarys(changes: dict[str, object], tmp_path: Path) -> None:
    theirs = saved(tmp_path, **changes).double()
    mine = build(options(pretrained=str(tmp_path)), image_size=L, classes=2).double().eval()
    ids = sentences()
    mask = ids != 1
    with torch.no_grad():
        hidden = theirs.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        last = mask.sum(1) - 1
        torch.testing.assert_close(mine.features(ids.double()), hidden[torch.arange(3), last])
        mine.head.weight.copy_(theirs.score.weight)
        mine.head.bias.zero_()
        torch.testing.assert_close(mine(ids.double()), theirs(input_ids=ids, attention_mask=mask.long()).logits)


@pytest.mark.parametrize("cut", [0, 1, 2, 3, "full"])
def test_both_halves_are_the_network_and_padding_is_zero_on_the_wire(cut: int | str) -> None:
    network = build(options(cut), image_size=L, classes=2).double().eval()
    ids = sentences().double()
    with torch.no_grad():
        smashed = network.client(ids)
        torch.testing.assert_close(network.server(smashed), network(ids), rtol=0, atol=0)
    if cut not in (0, "full"):
        assert smashed.shape == (3, L, 16)
        assert torch.equal((smashed != 0).any(-1), sentences() != 1)


def test_no_token_sees_what_comes_behind_it() -> None:
    client = build(options(3), image_size=L, classes=2).double().eval().client
    changed = sentences().double()
    changed[0, 4] = 11
    with torch.no_grad():
        before, after = client(sentences().double()), client(changed)
    assert torch.equal(before[0, :4], after[0, :4])
    assert not torch.equal(before[0, 4:], after[0, 4:])


def test_one_seed_is_one_network_at_every_cut_and_the_padding_token_stays_zero() -> None:
    first, second = (build(options(cut), image_size=L, classes=2) for cut in (1, 3))
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert not first.state_dict()["units.0.tokens.weight"][1].any()


def test_costs_by_hand() -> None:
    rows = {row.cut: row for row in costs(options(), L)}
    assert rows[1].smashed_shape == (L, 16)
    assert rows[1].client_parameters == 50 * 16 + (128 + 2) * 16
    assert rows[2].client_parameters - rows[1].client_parameters == 4 * (16 * 16 + 16) + 2 * 16 * 24 + 24 + 16 + 4 * 16
    assert rows[2].client_macs - rows[1].client_macs == L * (4 * 16 * 16 + 2 * 16 * 24) + 2 * L * L * 16


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="legal cuts are 0, 1, 2, 3, full"):
        build(options(4), image_size=L, classes=2)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        build(options(pretrained=str(tmp_path)), image_size=L, classes=2)
    saved(tmp_path)
    with pytest.raises(ValueError, match="more than the 32 positions"):
        build(options(pretrained=str(tmp_path), tokens=40), image_size=40, classes=2)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read"):
        build(options(pretrained=str(tmp_path)), image_size=L, classes=2)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(ValueError, match="of type gpt2, not opt"):
        build(options(pretrained=str(tmp_path)), image_size=L, classes=2)


def test_a_folder_without_weights_gives_random_ones(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    first, second = (build(options(pretrained=str(tmp_path)), image_size=L, classes=2) for _ in range(2))
    assert torch.equal(first.state_dict()["units.1.layer.fc1.weight"], second.state_dict()["units.1.layer.fc1.weight"])
