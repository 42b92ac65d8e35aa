"""The recorded wire is what the clients make of the recorded images, and a hand on the wire does what it says and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_split import record, train
from ssl_split.data import augment
from ssl_split.data.images import normalise
from ssl_split.files import read_tensors
from ssl_split.models.split import build
from tests.train.tiny import brief, tiny

ONE_STEP = {"local_steps": 1, "momentum": 0.0}
"""A round is one step, so that every recorded step is made by the averaged client."""


class Passive:
    """Looks on."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def message(self, kind: str, arrived: Tensor, clients: Tensor, came: Tensor) -> Tensor:
        assert len(arrived) == len(clients) == len(came)
        self.kinds.add(kind)
        return arrived


class Silent(Passive):
    """Sends gradients of zero."""

    def message(self, kind: str, arrived: Tensor, clients: Tensor, came: Tensor) -> Tensor:
        return torch.zeros_like(arrived) if kind == "grad_down" else super().message(kind, arrived, clients, came)


@pytest.mark.parametrize(("settings", "rows"), [
    ({"algorithm": "sfl_v1", **ONE_STEP}, 12), ({"algorithm": "sfl_v2", **ONE_STEP}, 4),
    ({"algorithm": "mocosfl", "syncs_per_round": 10, "ema": 0.0}, 12),
    ({"algorithm": "monacosfl", "syncs_per_round": 10, "symmetric": "stacked"}, 24),
    ({"algorithm": "sfl_v1", **ONE_STEP, "rounds": 8, "loss": {"probability": 0.3, "model_down": 0.0}}, None)])
def test_what_is_recorded_is_what_the_client_makes_of_its_images(settings: dict[str, object], rows: int | None, tmp_path: Path) -> None:
    """In a step after a sync all clients hold the averaged weights, and these are recorded: f(images) = z. (In SFL-V2 clients
    work one after another, and all start with the same weights.) With ema 0 the momentum encoders are the online ones."""
    run = train.run(tiny(tmp_path, arch="vgg11", record_wire=1, **settings))
    found = record.recorded(run.path)
    assert rows is None or len(found["z"]) == rows
    assert len(found["images"]) == len(found["clients"]) == len(found["gradients"]) == len(found["z"]) > 0
    config = run.checkpoint().config
    client = build(config, image_size=16, classes=10 if config.supervised else 0).client.eval()
    client.load_state_dict(read_tensors(run.path / record.FILE, "weights/"))
    dataset = run.checkpoint().dataset()

    def seen(images: Tensor) -> Tensor:
        with torch.no_grad():
            return client(normalise(images, dataset.mean, dataset.std))

    torch.testing.assert_close(seen(found["images"]), found["z"], rtol=1e-3, atol=1e-3)
    remade = augment.views(dataset.train.images[found["sources"]], found["draws"], config.augmentation, mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(remade.clamp(0, 1), found["images"], atol=1e-5, rtol=0)
    assert ("key_draws" in found) == (not config.supervised)
    assert any(name.startswith("momentum/") for name in found) == (config.algorithm == "monacosfl")
    assert found["answered"].any()
    assert (found["gradients"].flatten(1).norm(dim=1) > 0).equal(found["answered"])
    if "ema" in settings:
        torch.testing.assert_close(seen(found["key_images"]), found["key_z"], rtol=1e-3, atol=1e-3)
    if config.supervised:
        assert found["labels"].unique().numel() > 1


def test_recording_changes_nothing(tmp_path: Path) -> None:
    plain, kept = train.run(brief(tmp_path / "a")), train.run(brief(tmp_path / "b", record_wire=3))
    assert plain.path.name == kept.path.name
    assert (plain.path / "metrics.jsonl").read_text() == (kept.path / "metrics.jsonl").read_text()
    assert sorted(record.recorded(kept.path)["steps"].unique().tolist()) == [kept.result["steps"] - 3 + i for i in range(3)]
    with pytest.raises(FileNotFoundError, match="record-wire"):
        record.recorded(plain.path)


@pytest.mark.parametrize("settings", [{"algorithm": "fedavg", "cut": "full", "momentum": 0.0}, {"algorithm": "moco"}])
def test_there_must_be_something_to_record(settings: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no smashed data"):
        train.run(tiny(tmp_path, record_wire=1, **settings))


def test_who_looks_on_changes_nothing(tmp_path: Path) -> None:
    tap = Passive()
    honest, watched = train.run(brief(tmp_path / "a")), train.run(brief(tmp_path / "b"), tamper=tap)
    assert (honest.path / "metrics.jsonl").read_text() == (watched.path / "metrics.jsonl").read_text()
    assert tap.kinds == {"act_up", "key_act_up", "grad_down"}


def test_clients_that_get_no_gradient_stay_where_they_were(tmp_path: Path) -> None:
    run = train.run(brief(tmp_path, algorithm="sfl_v1", momentum=0.0, weight_decay=0.0, rounds=1), tamper=Silent())
    network, untrained = run.checkpoint().network(), run.checkpoint().untrained()
    for name, value in network.client.state_dict().items():
        torch.testing.assert_close(value, untrained.client.state_dict()[name], rtol=1e-6, atol=1e-7)  # an average of equals rounds
    assert any(not v.equal(untrained.server.state_dict()[k]) for k, v in network.server.state_dict().items())


def test_a_tampered_run_has_a_place_of_its_own(tmp_path: Path) -> None:
    train.run(brief(tmp_path, rounds=1))
    with pytest.raises(ValueError, match="folder of its own"):
        train.run(brief(tmp_path, rounds=1), tamper=Passive())
    with pytest.raises(ValueError, match="record_wire"):
        train.run(tiny(tmp_path / "b", record_wire=1), tamper=Passive())
