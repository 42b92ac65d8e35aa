"""The benchmark of what inversion attacks cost runs every one of them, with an untrained server beside the client."""

from __future__ import annotations

import dataclasses
import math
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from attacks import decoder, fora, optimise, pcat, sdar, unsplit
from attacks.api import METHODS
from attacks.view import Batch
from ssl_split import config as configuration
from ssl_split import rng
from ssl_split.models.split import build
from ssl_split.objectives.moco import initial_queue

_FILE = Path(__file__).parents[2] / "benchmarks" / "inversion.py"
_SPEC = spec_from_file_location("inversion", _FILE)  # a package that is installed has the name benchmarks too
assert _SPEC is not None
assert _SPEC.loader is not None
inversion = module_from_spec(_SPEC)
_SPEC.loader.exec_module(inversion)

WORDS = ["--width", "0.0625", "--image-size", "16", "--targets", "4", "--aux", "24", "--cut", "1"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets of a step or two, and the smallest decoders."""
    monkeypatch.setitem(decoder.BUDGETS, "quick", decoder.Budget(2))
    monkeypatch.setitem(decoder.PRESETS, "strong", dataclasses.replace(decoder.PRESETS["strong"], blocks=0, channels=4))
    monkeypatch.setitem(optimise.BUDGETS, "quick", optimise.Budget(1, 1))
    for module in (fora, pcat, sdar, unsplit):
        monkeypatch.setitem(module.BUDGETS, "quick", 1)
    tune = pcat.fine_tune
    monkeypatch.setattr(pcat, "fine_tune", lambda made, simulator, z, *, steps: tune(made, simulator, z, steps=1))


@pytest.mark.usefixtures("small")
def test_without_only_every_method_runs(capsys: pytest.CaptureFixture[str]) -> None:
    inversion.main(WORDS)
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert "resnet18 x0.0625 cut 1, 4 targets, 24 own images, quick, fp32" in head
    assert columns.split() == ["method", "seconds", "images/s", "to", "ridge"]
    assert [row.split()[0] for row in rows] == ["ridge", *(name for name in METHODS if name != "ridge")]
    assert rows[0].endswith("1.0x")
    assert all(row.endswith("x") for row in rows)


@pytest.mark.usefixtures("small")
def test_without_ridge_there_is_no_unit(capsys: pytest.CaptureFixture[str]) -> None:
    inversion.main([*WORDS, "--only", "blind"])
    assert capsys.readouterr().out.splitlines()[-1].split()[0::3] == ["blind", "-"]


def test_the_loss_of_the_untrained_server_in_closed_form() -> None:
    """Both halves are one, so a view that is its own key has logit 1 / T, and InfoNCE is the mean of log(1 + sum exp((q k - 1) / T)) over
    the random keys."""
    config = configuration.from_dict({"width": 0.0625, "cut": 1, "algorithm": "mocosfl", "augment": {"kind": "none"}})
    network = build(config, image_size=16, classes=0).eval()
    (moment,) = inversion.server(network, config, torch.device("cpu")).moments
    x = (inversion.smooth(3, 16, 0) * 255).round() / 255
    found = moment()(network.client, Batch(x, x), torch.Generator())
    with torch.no_grad():
        q = normalize(network.server(network.client(x)), dim=1).double()
    keys = initial_queue(config.queue_size, config.head.out, rng.generator(config.seed, "queue")).double()
    expected = sum(math.log(1 + sum(math.exp((float(row @ key) - 1) / config.temperature) for key in keys)) for row in q) / 3
    assert found.item() == pytest.approx(expected, rel=1e-5)
