"""A pre-trained client that stays as it is (TAResSFL): only smashed data and labels are sent, and only the server learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny

from ssl_split import config as configuration
from ssl_split import train

FIELDS: dict[str, Any] = {"validate_every_rounds": 0, "cut": 3, "rounds": 1, "train_images": 30, "bottleneck": {"channels": 4, "stride": 2}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> train.Run:
    return train.run(tiny(tmp_path_factory.mktemp("source"), algorithm="sfl_v1", max_steps=2, **FIELDS))


@pytest.mark.parametrize("algorithm", ["sfl_v1", "monacosfl", pytest.param("gas", marks=pytest.mark.slow)])
def test_a_frozen_client_is_the_source_runs(source: train.Run, tmp_path: Path, algorithm: str) -> None:
    config = tiny(tmp_path, algorithm=algorithm, client_from=str(source.path), freeze_client=True, seed=5, **FIELDS)
    done = train.run(config)
    found, given = done.checkpoint().network(), source.checkpoint().network()
    for name, value in given.client.state_dict().items():
        assert torch.equal(found.client.state_dict()[name], value), name
    before = done.checkpoint().untrained().server.state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in found.server.state_dict().items())
    sent = {k: v for kinds in done.result["bytes"].values() for k, v in kinds.items() if v}
    assert set(sent) == ({"act_up", "key_act_up"} if algorithm == "monacosfl" else {"act_up", "label_up"})
    assert done.result["mib_per_client_closed_form"] == pytest.approx(done.result["mib_per_client"], rel=1e-9)


def test_the_fingerprint_follows_the_weights_not_their_place(source: train.Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(sorted((source.path / "checkpoints").glob("step-*"))[-1].read_bytes())
    prints = [tiny(tmp_path, client_from=str(p)).fingerprint for p in (source.path, moved)]
    assert prints[0] == prints[1] != tiny(tmp_path).fingerprint


def test_another_network_is_refused(source: train.Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use the same --arch"):
        train.run(tiny(tmp_path, client_from=str(source.path), **FIELDS | {"bottleneck": {"channels": 2, "stride": 2}}))
    with pytest.raises(FileNotFoundError):
        train.run(tiny(tmp_path, client_from=str(tmp_path / "nowhere"), **FIELDS))


@pytest.mark.parametrize(("fields", "message"), [
    ({"freeze_client": True, "algorithm": "fedavg"}, "freeze_client is not defined for fedavg"),
    ({"freeze_client": True, "defence": "nopeek"}, "which freeze_client forbids"),
])
def test_senseless_settings_are_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configuration.from_dict(fields)
