"""Gradient matching: the update of one step as a function of the image, and what a search makes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks import gradient, matching
from attacks.gradient import match
from attacks.matched import aligned
from attacks.matching import Evidence, Matching, Plan, first_layer
from attacks.optimise import Search
from attacks.server import Supervised, refuse_without_gradient
from attacks.step import ClientStep, Deltas, Half
from attacks.stepping import Stepping, batches
from attacks.view import CapabilityError, Client, View
from ssl_split import train
from ssl_split.models.layers import BatchNorm, WSConv2d
from ssl_split.optim import Optimiser

sys.path.append(str(Path(__file__).parents[1] / "train"))
from tiny import tiny

SIZE = 8


def _images(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


def _sgd(kind: str = "sgd", momentum: float = 0.0, weight_decay: float = 0.0) -> Optimiser:
    return Optimiser(kind, momentum, 0.999, 1e-8, weight_decay)


def _client(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    inner = BatchNorm(4) if norm else nn.GroupNorm(2, 4)
    return nn.Sequential(WSConv2d(3, 4, 3), inner, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).double()


def _server() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * SIZE * SIZE, 5)).double()


LABELS = torch.tensor([0, 3, 4, 1])


def _stepping(client: nn.Module, optimiser: Optimiser, **known: object) -> Stepping:
    """A client in front of a cross-entropy."""
    server = Supervised(_server(), LABELS, torch.zeros(len(LABELS), dtype=torch.int64))
    return Stepping(client, lambda x: 2 * x - 1, lambda z, places: (z, server(z, places)), ClientStep(optimiser, 0.1),
                    **known)  # type: ignore[arg-type]


def _matching(client: nn.Module, offers: dict[str, object], weight: float = 1.0) -> tuple[Matching, Evidence]:
    half = Half(client, lambda x: 2 * x - 1)
    search = Search(Client(half.module, half.normalise), "tv_iso", 0.0, 0.0, 0.05)
    deltas = offers["weight_deltas"]
    assert isinstance(deltas, Deltas)
    z, g = (offers[k].unflatten(0, (len(deltas.change), -1)) for k in ("smashed", "gradient_view"))  # type: ignore[attr-defined]
    return Matching(half, search, weight), Evidence(z, g, deltas)


@pytest.mark.parametrize(("kind", "momentum", "decay"), [("sgd", 0.0, 0.0), ("nesterov", 0.9, 1e-2), ("adam", 0.9, 1e-2),
                                                         ("adamw", 0.9, 1e-2)])
@pytest.mark.parametrize("norm", [False, True], ids=["group", "batch"])
def test_the_update_is_that_of_end_to_end_training_and_the_truth_explains_it(kind: str, momentum: float, decay: float, norm: bool) -> None:
    """Slow reference: the whole network under one loss, torch.optim, batch by batch; at the true images both losses are 0."""
    images = _images(4).unflatten(0, (2, 2))
    places = torch.arange(4).view(2, 2)
    offers = _stepping(_client(norm), _sgd(kind, momentum, decay)).offers(images, places)
    for row in range(2):
        client, server = _client(norm), _server()
        made = {"sgd": torch.optim.SGD, "nesterov": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
        extra = {"betas": (momentum, 0.999)} if "adam" in kind else {"momentum": momentum, "nesterov": kind == "nesterov"}
        optimiser = made(client.parameters(), lr=0.1, weight_decay=decay, **extra)  # type: ignore[arg-type]
        before = torch.cat([p.detach().flatten().clone() for p in client.parameters()])
        cross_entropy(server(client(2 * images[row] - 1)), LABELS[places[row]]).backward()
        optimiser.step()
        after = torch.cat([p.detach().flatten() for p in client.parameters()])
        # where Adam's gradient is 0 to rounding its step is noise: nothing may depend on it
        torch.testing.assert_close(offers["weight_deltas"].change[row], after - before, atol=2e-2 if "adam" in kind else 1e-12, rtol=1e-8)
    matcher, seen = _matching(_client(norm), offers)
    feature, explained = matcher.losses(images, seen)
    assert feature.max() < 1e-25
    assert explained.max() < 1e-20
    _, wrong = matcher.losses(images.flip(0), seen)
    assert wrong.min() > 1e-2


def test_the_gradient_of_the_match_is_finite_where_units_are_unused() -> None:
    """Adam divides by the root of a square, which has no slope at 0."""
    step = ClientStep(_sgd("adam", 0.9), 0.1)
    g = torch.tensor([[0.0, 1e-3]], dtype=torch.float64, requires_grad=True)
    zeros = (torch.zeros(1, 2, dtype=torch.float64),) * 2
    (slope,) = torch.autograd.grad(step.change(torch.ones(2, dtype=torch.float64), g, zeros, torch.ones(1)).sum(), g)
    assert bool(torch.isfinite(slope).all())


def test_clipping_is_unrolled() -> None:
    step = ClientStep(_sgd(), 0.5, 1.0)
    g = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    found = step.change(torch.zeros(2, dtype=torch.float64), g, (), torch.ones(2))
    torch.testing.assert_close(found, torch.tensor([[-0.3, -0.4], [-0.15, -0.2]], dtype=torch.float64))


def test_a_linear_first_layer_with_bias_gives_its_input_away() -> None:
    """dW_i = db_i x, so x = dW_i / db_i, whatever the label, loss, momentum and weight decay."""
    torch.manual_seed(0)
    client = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 6), nn.Tanh(), nn.Linear(6, 4 * SIZE * SIZE)).double()
    images = _images(4)[:, None]
    offers = _stepping(client, _sgd("nesterov", 0.9, 1e-2)).offers(images, torch.arange(4)[:, None])
    half = Half(client, lambda x: 2 * x - 1)
    found = first_layer(half, offers["weight_deltas"], Plan(1, 1, SIZE, 1, 0))
    assert found is not None
    torch.testing.assert_close(found, images, atol=1e-9, rtol=0)
    assert first_layer(Half(_client(), lambda x: x), offers["weight_deltas"], Plan(1, 1, SIZE, 1, 0)) is None


def test_momentum_that_the_server_does_not_know_makes_it_approximate() -> None:
    velocity = (torch.full((2, sum(p.numel() for p in _client().parameters())), 0.1, dtype=torch.float64),)
    images, places = _images(2)[:, None], torch.arange(2)[:, None]
    for known in (True, False):
        offers = _stepping(_client(), _sgd("sgd", 0.9), moments=velocity, known=known).offers(images, places)
        matcher, seen = _matching(_client(), offers)
        _, explained = matcher.losses(images, seen)
        assert offers["weight_deltas"].exact == known
        assert bool((explained < 1e-20).all()) == known
    assert _stepping(_client(), _sgd("sgd", 0.9), known=False).offers(images, places)["weight_deltas"].exact


def test_the_gradient_adds_what_the_smashed_data_do_not_say() -> None:
    """The client sends one number of an image; the update of its first layer holds the image."""
    torch.manual_seed(0)
    targets, aux = _images(4, 0, 16).float(), _images(20, 1, 16).float()
    client = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1))
    found = match(client, targets, aux, gradients=lambda z, places: torch.ones_like(z), steps=10, starts=1, tv=0.0)
    assert found.result["r2"] > 0.99
    assert found.result["features_alone"]["r2"] < 0.2
    assert found.result["gradient_gain_mse"][0] > 0
    assert "The gradient adds to the smashed data" in found.verdict
    assert found.result["needs"] == list(matching.NEEDS)
    assert found.result["per_seed"][0]["best_start"]["first layer"] == 4
    assert not found.result["approximate"]


def test_batches_hold_one_client_and_are_put_in_order() -> None:
    clients = torch.tensor([0, 1, 0, 2, 1, 0])
    assert batches(clients, 2).tolist() == [[0, 2], [1, 4]]
    assert batches(clients, 1).flatten().tolist() == list(range(6))
    with pytest.raises(ValueError, match="no client has more than 3"):
        batches(clients, 4)
    truth = _images(4)
    torch.testing.assert_close(aligned(truth[[1, 0, 2, 3]], truth, 2), truth)
    swapped = truth[[2, 3, 0, 1]]
    assert not torch.equal(aligned(swapped, truth, 2), truth)  # only inside a batch


def test_it_sees_what_it_declares() -> None:
    offers = _stepping(_client(), _sgd()).offers(_images(2)[:, None], torch.arange(2)[:, None])
    assert set(offers) == set(matching.NEEDS)
    with pytest.raises(CapabilityError, match="needs weight_deltas"):
        View({k: v for k, v in offers.items() if k != "weight_deltas"}, matching.NEEDS, attack="gradient")


@pytest.mark.parametrize(("algorithm", "changes"), [
    ("mocosfl", {"symmetric": "stacked"}),
    pytest.param("sfl_v1", {"optimiser_state": "keep", "norm": "batch", "wire": {"weights": "fp16"}}, marks=pytest.mark.slow),
    pytest.param("monacosfl", {"clients_per_round": 2, "queue": "per_client"}, marks=pytest.mark.slow),
    pytest.param("moco", {}, marks=pytest.mark.slow), pytest.param("gas", {"optimiser": "adam"}, marks=pytest.mark.slow)])
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str, changes: dict[str, object]) -> None:
    """Every kind of run; the second time nothing is computed."""
    run = train.run(tiny(tmp_path, algorithm=algorithm, rounds=1, max_steps=3, **changes), on_log=lambda line: None).path
    batch = "1" if algorithm == "mocosfl" else "2"
    words = ["--checkpoint", str(run), "--targets", "6" if batch == "2" else "4", "--steps", "2", "--starts", "1", "--batch", batch]
    gradient.main(words)
    shown = capsys.readouterr().out
    (file,) = run.glob("attacks/gradient-*/result.json")
    result = json.loads(file.read_text())
    assert result["targets"] == (4 if batch == "1" else 6)
    assert result["approximate"] == (algorithm in ("mocosfl", "monacosfl", "moco", "sfl_v1"))  # gas: momentum starts at zero
    assert ("Approximate" in result["verdict"]) == result["approximate"]
    assert result["features_alone"]["mse"] > 0
    assert result["untrained_mse"] > 0
    assert file.with_name("images.png").is_file()
    gradient.main(words)
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(("changes", "said"), [
    ({"algorithm": "mu_splitfed"}, "function values"), ({"algorithm": "sfl_v1", "cut": 0}, "no weights"),
    ({"algorithm": "mocosfl", "norm": "batch"}, "mixes the images"), ({"algorithm": "scaffold", "cut": 5}, "gradients of their own")])
def test_runs_without_such_a_gradient_are_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(CapabilityError, match=said):
        refuse_without_gradient(tiny(tmp_path, **changes), "gradient")
