"""PCAT, SDAR and the server's loss that teaches them: slow references, frozen servers, and what they may see."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import decoder, pcat, sdar, sets
from attacks.api import AttackOptions, DecoderOptions, PcatOptions, SdarOptions
from attacks.methods import METHODS
from attacks.reconstruct import guesses, reconstruct
from attacks.served import Classifying, Contrasting, server_model
from attacks.simulator import Simulator
from attacks.victim import Victim, redrawn
from attacks.view import Architecture, Batch, CapabilityError, ServerLoss, ServerModel, View
from ssl_split import train
from ssl_split.config import Augment
from ssl_split.data import augment
from ssl_split.models.decoder import build
from ssl_split.run import open_checkpoint

sys.path.append(str(Path(__file__).parents[1] / "train"))
from tiny import tiny

RANDOM = torch.Generator().manual_seed(0)
TARGETS, AUX, SEEN = (torch.rand(n, 3, 12, 12, generator=RANDOM) for n in (4, 30, 40))
LABELS, THEIRS = torch.arange(30) % 3, torch.arange(40) % 2
SMALL = AttackOptions(method="sdar", sdar=SdarOptions(iterations=3, width=4, batch_size=8),
                      pcat=PcatOptions(iterations=4, batch_size=8, tune=2), decoder=DecoderOptions(blocks=0, channels=4, steps=2))
CLIENT = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.BatchNorm2d(2))


def _server(out: int = 3) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(50, out)).eval().requires_grad_(False)


def _victim(server: ServerModel | None) -> Victim:
    return Victim(CLIENT, fresh=redrawn(CLIENT), seen=SEEN, seen_labels=THEIRS, own_labels=LABELS[~sets.held_out(30)], server=server)


def _contrasting() -> Contrasting:
    queue = F.normalize(torch.randn(7, 5, generator=RANDOM), dim=1)
    return Contrasting(_server(5), _server(5), queue, 0.2, Augment("mocov2"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def test_info_nce_of_two_views_against_a_loop() -> None:
    """Row by row in float64, on the views that the same randomness draws; a query pulls no gradient through its key."""
    loss, pixels = _contrasting(), (TARGETS * 255).round().byte()
    client = nn.Conv2d(3, 2, 3, stride=2)
    found = loss(client, Batch(TARGETS, client(TARGETS)), torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    first, second = (augment.views(pixels, augment.draw(4, draws), loss.augmentation, mean=loss.mean, std=loss.std) for _ in range(2))
    q, k = loss.online(client(first)), loss.momentum(client(second)).detach()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(4):
        query, key = (v / v.norm() for v in (q[i].double(), k[i].double()))
        positive = (query @ key / 0.2).exp()
        total = total - (positive / (positive + sum((query @ n / 0.2).exp() for n in loss.queue.double()))).log() / 4
    assert found.item() == pytest.approx(total.item(), rel=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, list(client.parameters()), retain_graph=True),
                            torch.autograd.grad(total, list(client.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("attacker", ["pcat", "sdar strong", "sdar published"])
def test_the_servers_loss_gets_a_client_that_sends_through_the_known_defence(attacker: str) -> None:
    """What it sends of the batch's own images is the batch's smashed data, and not what the bare network makes of them."""
    known, met = _known(), list[bool]()

    def loss(client: Callable[[Tensor], Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
        torch.testing.assert_close(client(batch.images), batch.smashed)
        met.append(torch.allclose(simulator.module(batch.images), batch.smashed))
        return batch.smashed.square().mean()

    doubled = Architecture(known.architecture.make, known.architecture.normalise, (3, 12, 12), lambda z, x, generator: 2 * z)
    known = dataclasses.replace(known, architecture=doubled, server=loss)
    if attacker == "pcat":
        simulator = Simulator(doubled, lr=1e-3, seed=0, purpose="pcat")
        pcat.Pseudo(simulator, known.own, labels=None, batch_size=8).iteration(loss)
    else:
        made = (sdar.Aligned(known, SMALL.sdar, shape=(2, 5, 5), iterations=2, seed=0) if attacker.endswith("strong") else
                sdar.Simulation(known, SMALL, shape=(2, 5, 5), seed=0))
        simulator = made.simulator
        made.iteration()
    assert met == [False]


def test_both_views_of_the_contrastive_loss_are_sent() -> None:
    """A client behind a defence that doubles says what a client with doubled weights says."""
    loss, client = _contrasting(), nn.Conv2d(3, 2, 3, stride=2)
    found = loss(lambda x: 2 * client(x), Batch(TARGETS, TARGETS), torch.Generator().manual_seed(5))
    with torch.no_grad():
        for p in client.parameters():
            p *= 2
    torch.testing.assert_close(found, loss(client, Batch(TARGETS, TARGETS), torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("improving", [True, False])
def test_a_decoder_of_sdar_that_was_still_improving_is_said_to_be(improving: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One iteration compares with itself, so the simulator never improves: what is said is what the decoder says."""
    monkeypatch.setattr(decoder.Training, "still_improving", property(lambda training: improving))
    offers = _victim(ServerModel((_contrasting,), supervised=False)).offers(TARGETS, sets.split(AUX))
    view = View(offers, METHODS["sdar"].needs, attack="sdar")
    notes = sdar.attack(view, dataclasses.replace(SMALL, sdar=dataclasses.replace(SMALL.sdar, iterations=1)), 0).notes
    assert notes["still_improving"] is improving
    assert notes["iterations"] == 1


def test_losses_of_classes_and_discriminators_against_formulas() -> None:
    """Cross-entropy and -log D, -log(1 - D), in float64."""
    server, z = nn.Flatten(), torch.randn(5, 3, 1, 1, dtype=torch.float64, generator=RANDOM)
    y = torch.tensor([0, 2, 1, 1, 0])
    expected = -sum(float((z[i, y[i], 0, 0].exp() / z[i].exp().sum()).log()) for i in range(5)) / 5
    assert Classifying(server)(nn.Identity(), Batch(z, z, y), RANDOM).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="needs labels"):
        Classifying(server)(nn.Identity(), Batch(z, z), RANDOM)
    logits = z[:, 0, 0, 0]
    share = 1 / (1 + (-logits).exp())
    assert sdar.judged_as(logits, 1).item() == pytest.approx(-share.log().mean().item(), rel=1e-12)
    assert sdar.judged_as(logits, 0).item() == pytest.approx(-(1 - share).log().mean().item(), rel=1e-12)


def test_label_aligned_batches() -> None:
    """Every image has the wanted class, each of a class is drawn, and classes without own images are left out."""
    labels = torch.tensor([4, 1, 4, 7, 1, 4])
    wanted = torch.tensor([1, 4, 7, 4] * 50)
    places = pcat.aligned(wanted, labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(labels[places], wanted)
    assert set(places.tolist()) == set(range(6))
    assert pcat.shared_classes(torch.tensor([1, 2, 7, 1]), labels).tolist() == [1, 7, 1]
    with pytest.raises(ValueError, match="own images of the clients' classes"):
        pcat.shared_classes(torch.tensor([2, 3]), labels)


@pytest.mark.parametrize(("method", "preset"), [("pcat", "strong"), ("sdar", "strong"), ("sdar", "published")])
@pytest.mark.parametrize("make", [lambda: Classifying(_server()), _contrasting])
def test_server_and_clients_stay_as_they_are_and_only_the_declared_is_read(method: str, preset: str, make: Callable[[], Any]) -> None:
    """Weights and running statistics are bitwise the same after an attack; its view holds what it declares for this kind of run."""
    loss: Any = make()
    supervised = isinstance(loss, Classifying)
    halves = [CLIENT] + ([loss.server] if supervised else [loss.online, loss.momentum])
    before = [{k: v.clone() for k, v in half.state_dict().items()} for half in halves]
    model = ServerModel((lambda: loss, lambda: loss), supervised)
    view, ((found, _),) = guesses(_victim(model), TARGETS, own=sets.split(AUX), seeds=[0],
                                  options=dataclasses.replace(SMALL, method=method, preset=preset))
    assert found.images.shape == TARGETS.shape
    assert found.validation_mse is None
    for half, values in zip(halves, before, strict=True):
        assert all(torch.equal(v, values[k]) for k, v in half.state_dict().items())
        assert all(p.grad is None for p in half.parameters())
    labels = {"pcat": {"aux_labels", "labels"}, "sdar": {"aux_labels"}}[method]
    common = {"smashed", "architecture", "server_model", "aux_same"} | ({"server_training"} if method == "sdar" else set())
    assert set(view.capabilities) == (common | labels if supervised else common)
    with pytest.raises(CapabilityError, match="asked for weights"):
        _ = view.weights


def test_a_client_without_a_server_says_what_is_missing() -> None:
    with pytest.raises(CapabilityError, match=r"pcat needs server_model \(knows the server's half.*offers only smashed"):
        reconstruct(CLIENT, TARGETS, AUX, method="pcat", fresh=redrawn(CLIENT))
    model = ServerModel((_contrasting,), supervised=False)
    with pytest.raises(CapabilityError, match="sdar needs server_training"):
        reconstruct(CLIENT, TARGETS, AUX, method="sdar", fresh=redrawn(CLIENT), server=model)
    assert METHODS["sdar"].declared((), supervised=False) == METHODS["sdar"].needs


def test_fine_tuning_through_the_true_client_finds_better_images_of_the_targets() -> None:
    """Where the pseudo-client is the client, a decoder that was hardly trained gains much; nothing but its own weights moves."""
    client = nn.Conv2d(3, 12, 3, padding=1)
    simulator = Simulator(Architecture(lambda seed: client, lambda x: x, lambda z, x, random: z), lr=1e-3, seed=0, purpose="pcat")
    z = simulator.smashed(TARGETS)
    made = build((12, 12, 12), torch.Generator().manual_seed(1), image_size=12, blocks=0, channels=16)
    kept = {k: v.clone() for k, v in [*client.state_dict().items(), *made.named_buffers()]}
    error = []
    for steps in (0, 400):
        cycle = pcat.fine_tune(made, simulator, z, steps=steps)
        error.append((made(z) - TARGETS).square().mean().item())
    assert cycle[-1] < 0.5 * cycle[0]
    assert error[1] < 0.5 * error[0]
    assert all(torch.equal(v, kept[k]) for k, v in [*client.state_dict().items(), *made.named_buffers()])
    with torch.no_grad():
        again = client(made(z))
        slow = sum(((again[i] - z[i]).double().norm() / z[i].double().norm()).item() ** 2 for i in range(4)) / 4
        assert pcat.cycle_error(made, simulator, z).item() == pytest.approx(slow, rel=1e-5)


def test_pcat_meets_the_kept_servers_oldest_first() -> None:
    """Equal shares of the iterations; each is loaded once."""
    loaded: list[int] = []
    steps: list[int] = []

    def moment(place: int) -> ServerLoss:
        loaded.append(place)

        def loss(client: Callable[[Tensor], Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
            steps.append(place)
            return batch.smashed.square().mean()

        return loss

    model = ServerModel((lambda: moment(0), lambda: moment(1)), supervised=False)
    view = View(_victim(model).offers(TARGETS, sets.split(AUX)), METHODS["pcat"].needs, attack="pcat")
    found = pcat.attack(view, SMALL, 0)
    assert (loaded, steps) == ([0, 1], [0, 0, 1, 1])
    assert found.notes["server_moments"] == 2


def test_the_strong_sdar_teaches_critic_and_simulator() -> None:
    """Both move, at the cosine's share of the rate, and the outputs that the decoder learns from are in the units of what was collected."""
    made = sdar.Aligned(_known(), SMALL.sdar, shape=(2, 5, 5), iterations=2, seed=0)
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in _parts(made).items()}
    first, second = made.iteration(), made.iteration()
    assert first[:2] != second[:2]
    assert made.critic.optimiser.param_groups[0]["lr"] == pytest.approx(made.critic.rate / 2)
    assert made.simulator.optimiser is not None
    assert made.simulator.optimiser.param_groups[0]["lr"] == pytest.approx(made.simulator.lr / 2)
    for name, part in _parts(made).items():
        assert sum(not torch.equal(p, q) for p, q in zip(part.parameters(), before[name], strict=True)) >= len(before[name]) - 1, name
    torch.testing.assert_close(made.outputs(AUX), made.scale.apply(made.simulator.smashed(AUX)))


def _known() -> sdar.Known:
    """What an attacker on `CLIENT` has."""
    own, offers = sets.split(AUX), _victim(None).offers(TARGETS, sets.split(AUX))
    return sdar.Known(offers["architecture"], Classifying(_server()), own, LABELS[~sets.held_out(30)], offers["server_training"])


def _parts(made: sdar.Aligned) -> dict[str, nn.Module]:
    return {"simulator": made.simulator.module, "critic": made.critic.critic}


def test_every_network_of_sdar_learns_and_the_simulator_has_a_known_defence() -> None:
    """Each moves by its own loss; what the simulator sends goes through the defence that the architecture names."""
    known = _known().architecture
    options = AttackOptions(sdar=SdarOptions(width=4, batch_size=8, image_weight=1.0), decoder=SMALL.decoder)
    made = sdar.Simulation(_known(), options, shape=(2, 5, 5), seed=0)
    networks = {"simulator": made.simulator.module, **{name: getattr(made, name) for name in made.weights}}
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in networks.items()}
    for _ in range(3):
        made.iteration()
    for name, values in before.items():
        assert not any(torch.equal(p, q) for p, q in zip(networks[name].parameters(), values, strict=True)), name
    doubled = Architecture(known.make, known.normalise, known.image_shape, lambda z, x, generator: 2 * z)
    plain, twice = (Simulator(a, lr=1e-3, seed=0, purpose="test").smashed(AUX) for a in (known, doubled))
    torch.testing.assert_close(2 * plain, twice)


@pytest.mark.parametrize("algorithm", ["mocosfl", pytest.param("sfl_v1", marks=pytest.mark.slow)])
def test_the_server_of_a_run(tmp_path: Path, algorithm: str) -> None:
    """Loss of a run's own half at each checkpoint that is kept, in eval mode; before training one moment at the initial weights."""
    changes = {"checkpoint_every_seconds": 0.0} if algorithm == "sfl_v1" else {}
    checkpoint = open_checkpoint(str(train.run(tiny(tmp_path, algorithm=algorithm, max_steps=2, **changes), on_log=lambda line: None).path))
    dataset = checkpoint.dataset()
    model = server_model(checkpoint, dataset, device=torch.device("cpu"), trained=True)
    assert model.supervised is (algorithm == "sfl_v1")
    loss, network = model.moments[-1](), checkpoint.network()
    own = loss.server if isinstance(loss, Classifying) else loss.online if isinstance(loss, Contrasting) else None
    assert own is not None
    for name, value in network.server.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value)
    assert not any(m.training for m in own.modules())
    if isinstance(loss, Contrasting):
        assert loss.queue.shape == (64, 8)
    untrained = server_model(checkpoint, dataset, device=torch.device("cpu"), trained=False)
    assert len(untrained.moments) == 1
    x = torch.rand(4, 3, 16, 16, generator=RANDOM)
    y = torch.zeros(4, dtype=torch.int64) if model.supervised else None
    for each in (model, untrained):
        value = each.moments[0]()(network.client, Batch(x, network.client(x), y), torch.Generator().manual_seed(0))
        assert bool(torch.isfinite(value))
