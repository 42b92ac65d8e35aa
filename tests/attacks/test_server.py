"""The gradient of the attacked server is the one that crossed the wire in training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.server import Contrastive, Members, Supervised, answering
from ssl_split import run as runs
from ssl_split import train
from ssl_split.channel import Channel
from ssl_split.run import open_checkpoint

sys.path.append(str(Path(__file__).parents[1] / "train"))
from tiny import tiny

Sent = dict[str, Tensor]


def _first_step(out: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> tuple[runs.Checkpoint, Sent]:
    """A run of one step, and what crossed the wire in it."""
    sent: Sent = {}
    send, labels = Channel.send, Channel.send_labels

    def watched(self: Channel, kind: str, payload: Tensor, clients: Tensor, **codec: Any) -> Tensor:
        sent[kind] = arrived = send(self, kind, payload, clients, **codec)
        return arrived

    def watched_labels(self: Channel, payload: Tensor, clients: Tensor) -> Tensor:
        sent["labels"] = payload
        return labels(self, payload, clients)

    monkeypatch.setattr(Channel, "send", watched)
    monkeypatch.setattr(Channel, "send_labels", watched_labels)
    path = train.run(tiny(out, rounds=1, max_steps=1, **changes), on_log=lambda line: None).path
    monkeypatch.undo()
    return open_checkpoint(str(path)), sent


@pytest.mark.parametrize(("algorithm", "norm"), [
    ("sfl_v1", "batch"), pytest.param("gas", "group", marks=pytest.mark.slow), pytest.param("smofi", "group", marks=pytest.mark.slow),
    pytest.param("minibatch_sfl", "group", marks=pytest.mark.slow)])
def test_supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, norm: str) -> None:
    checkpoint, sent = _first_step(tmp_path, monkeypatch, algorithm=algorithm, norm=norm)
    dataset = checkpoint.dataset()
    z, y, g = (sent[k][-1] for k in ("act_up", "labels", "grad_down"))
    whose = 0 if algorithm == "gas" else len(sent["act_up"]) - 1  # gas serves the first
    members = Members(dataset.train.images[: len(y)], torch.full((len(y),), whose), y)
    answer = answering(checkpoint, members, dataset=dataset, device=torch.device("cpu"), trained=False, batch=len(y))
    torch.testing.assert_close(answer(z, torch.arange(len(y)))[1], g, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("symmetric", "scale"), [
    ("stacked", "local_mean"), *(pytest.param(form, "global_mean", marks=pytest.mark.slow) for form in ("original", "none"))])
def test_contrastive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symmetric: str, scale: str) -> None:
    """With the keys that crossed, the same gradient; of `stacked` the first half of the rows."""
    checkpoint, sent = _first_step(tmp_path, monkeypatch, algorithm="mocosfl", symmetric=symmetric, client_grad_scale=scale)
    dataset, size = checkpoint.dataset(), checkpoint.config.batch_size
    images = dataset.train.images[:size]
    answer = answering(checkpoint, Members(images, torch.ones(size, dtype=torch.int64), None), dataset=dataset, device=torch.device("cpu"),
                       trained=False, batch=size)
    inner = answer.__closure__
    assert inner is not None
    (loss,) = [cell.cell_contents for cell in inner if isinstance(cell.cell_contents, Contrastive)]
    known = Contrastive(loss.online, loss.momentum, lambda client: nn.Identity(), sent["key_act_up"][1][:size], loss.clients, loss.queue,
                        loss.temperature, loss.scale)
    torch.testing.assert_close(known(sent["act_up"][1][:size], torch.arange(size)), sent["grad_down"][1][:size], atol=1e-7, rtol=1e-3)


def test_equal_rows_get_equal_gradients_and_a_shift_changes_them() -> None:
    server = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    z, places = torch.rand(2, 6, dtype=torch.float64), torch.arange(2)
    labels, clients = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    plain = Supervised(server, labels, clients)(z, places)
    same = Supervised(server, labels, clients, torch.zeros(1, 3, dtype=torch.float64))(z, places)
    shifted = Supervised(server, labels, clients, torch.tensor([[0.0, -5.0, 0.0]], dtype=torch.float64))(z, places)
    torch.testing.assert_close(plain, same)
    assert not torch.allclose(plain, shifted)
