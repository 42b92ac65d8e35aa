"""FedMoCo, FedBYOL and FedEMA in float64: against a slow reference in plain PyTorch, against each other and against centralised MoCo."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from supervised import SIZE, UNEVEN, Trial, draw, other_view, same, small
from torch import Tensor, nn
from torch.nn import functional

from ssl_split.config import FEDERATED_SSL, Config
from ssl_split.models.split import Network, build
from ssl_split.objectives.byol import regression
from ssl_split.traffic import federated_bytes

SSL = {"cut": "full", "head": {"hidden": 128, "out": 16}, "queue_size": 12, "temperature": 0.5, "ema": 0.9}


def trial(algorithm: str, *, sizes: list[int] | None = None, rounds: int = 3, **fields: object) -> Trial:
    """So many rounds of a method on the whole network."""
    made = Trial(small(algorithm=algorithm, **{**SSL, **fields}), sizes=sizes)
    made.rounds(rounds)
    return made


@functools.cache
def plain(name: str, cut: int | str = "full") -> dict[str, Tensor]:
    """Weights after three rounds of a method as it is."""
    return trial(name, cut=cut).weights()


# --- slow reference -----------------------------------------------------------------------------------------------------------------


def _follow(target: nn.Module, online: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for a, b in zip(target.parameters(), online.parameters(), strict=True):
            a.copy_(decay * a + (1 - decay) * b)


class Client:
    """One client as its paper describes it."""

    def __init__(self, config: Config, queue: Tensor) -> None:
        self.config, self.queue = config, queue.clone()
        self.target: Network | None = None
        self.last: Network | None = None
        self.scale: float | None = None
        self.position = 0

    def train(self, number: int, model: Network, steps: int) -> Network:
        """Local work from the download `model`."""
        config, online = self.config, copy.deepcopy(model)
        self.target = self.target or copy.deepcopy(model)
        if config.algorithm == "fedema" and self.last is not None:
            self._mix(online)
        optimiser = torch.optim.SGD(online.parameters(), lr=config.client_lr, momentum=config.momentum, weight_decay=config.weight_decay)
        for _ in range(steps):
            v1 = draw(number, self.position, config.batch_size)[0]
            v2 = other_view(number, self.position, config.batch_size)
            self.position += config.batch_size
            optimiser.zero_grad()
            if config.algorithm == "fedmoco":
                _follow(self.target, online, config.ema)
                self._contrast(online, v1, v2).backward()
                optimiser.step()
            else:
                self._predict(online, v1, v2).backward()
                optimiser.step()
                _follow(self.target, online, config.ema)
        self.last = copy.deepcopy(online)
        return online

    def _contrast(self, online: Network, v1: Tensor, v2: Tensor) -> Tensor:
        assert self.target is not None
        pairs = [(v1, v2)] if self.config.symmetric == "none" else [(v1, v2), (v2, v1)]
        q = torch.cat([functional.normalize(online(a)) for a, _ in pairs])
        with torch.no_grad():
            k = torch.cat([functional.normalize(self.target(b)) for _, b in pairs])
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.T], 1) / self.config.temperature
        self.queue = torch.cat([self.queue, k])[-len(self.queue):]
        return -logits.log_softmax(1)[:, 0].mean()

    def _predict(self, online: Network, v1: Tensor, v2: Tensor) -> Tensor:
        assert self.target is not None
        pairs = [(v1, v2)] if self.config.symmetric == "none" else [(v1, v2), (v2, v1)]
        loss = torch.zeros((), dtype=torch.float64)
        for a, b in pairs:
            p = online.head.predictor(online.head.projector(online.features(a)))
            with torch.no_grad():
                z = self.target.head.projector(self.target.features(b))
            loss = loss + (p / p.norm(dim=1, keepdim=True) - z / z.norm(dim=1, keepdim=True)).square().sum(1).mean()
        return loss

    def _mix(self, online: Network) -> None:
        assert self.last is not None
        kept = dict(self.last.named_parameters())
        with torch.no_grad():
            far = torch.stack([(kept[n] - p).square().sum() for n, p in online.named_parameters() if "predictor" not in n]).sum().sqrt()
            self.scale = self.scale or (self.config.federated.ema_autoscaler / far).item()
            mu = min(self.scale * far.item(), 1.0)
            for name, p in online.named_parameters():
                p.copy_(mu * kept[name] + (1 - mu) * p)


def reference(made: Trial, rounds: int) -> dict[str, Tensor]:
    """The averaged network after so many rounds, every client trained by itself."""
    model = build(made.config, image_size=SIZE).double()
    queue = made.state.tensors.get("queue", torch.zeros(1, 12, 16, dtype=torch.float64))[0]
    clients, n, p = [Client(made.config, queue) for _ in UNEVEN], made.config.clients, made.config.cohort_size
    for round in range(rounds):
        cohort = range(n) if n == p else [(i + round * p) % n for i in range(p)]
        trained = {c: clients[c].train(c, model, made.local[c]).state_dict() for c in cohort}
        total = sum(UNEVEN[c] for c in cohort)
        model.load_state_dict({k: sum(UNEVEN[c] / total * weights[k] for c, weights in trained.items()) for k in model.state_dict()})
    return model.state_dict()


@pytest.mark.parametrize("symmetric", ["none", "stacked"])
@pytest.mark.parametrize("cohort", [3, 2], ids=["all", "two of three"])
@pytest.mark.parametrize("name", FEDERATED_SSL)
def test_each_method_is_the_slow_reference(name: str, cohort: int, symmetric: str) -> None:
    made = trial(name, rounds=0, symmetric=symmetric, clients_per_round=cohort)
    expected = reference(made, rounds=4)
    made.rounds(4)
    same(made.weights(), expected, atol=1e-10)


# --- identities ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", ["none", "stacked"])
def test_fedmoco_with_one_client_is_centralised_moco(symmetric: str) -> None:
    fields = {"symmetric": symmetric, "clients": 1, "optimiser_state": "keep"}
    federated = trial("fedmoco", sizes=[8], **fields)
    central = trial("moco", sizes=[8], rounds=0, **{k: v for k, v in fields.items() if k != "optimiser_state"})
    central.rounds(3)
    same(federated.weights(), central.weights())
    torch.testing.assert_close(federated.state.tensors["queue"][0], central.state.tensors["queue"])


def test_fedema_without_its_scale_or_its_rivals_is_fedbyol() -> None:
    same(trial("fedema", federated={"ema_autoscaler": 0.0}).weights(), plain("fedbyol"))
    same(trial("fedema", sizes=[8], clients=1).weights(), trial("fedbyol", sizes=[8], clients=1).weights())
    assert any(not torch.equal(a, b) for a, b in zip(plain("fedema").values(), plain("fedbyol").values(), strict=True))


def test_fedema_fixes_its_scale_when_a_client_comes_back() -> None:
    """mu = tau there, whatever the distance; the client starts at tau of its own model and 1 - tau of the download."""
    made = trial("fedema", rounds=1, federated={"ema_autoscaler": 0.4})
    assert ("scale", 0) not in made.state.store
    own, model = made.state.store.get("client.last", 0).clone(), made.state.trees["client.online"].parameters.clone()
    made.algorithm.begin_round(made.state, made.cohort(), made.wire)
    made.algorithm._begin_group(made.state, slice(0, 3), made.wire)
    row = made.state.cohort.tolist().index(0)
    torch.testing.assert_close(made.state.trees["cohort.client"].parameters[row], 0.4 * own + 0.6 * model)
    fixed = made.state.store.get("scale", 0).clone()
    made.rounds(2)
    assert torch.equal(made.state.store.get("scale", 0), fixed)


@pytest.mark.parametrize("name", FEDERATED_SSL)
@pytest.mark.parametrize("cut", [0, 5])
def test_split_is_unsplit(name: str, cut: int) -> None:
    same(plain(name, cut), plain(name), atol=1e-11)


@pytest.mark.parametrize("name", FEDERATED_SSL)
@pytest.mark.parametrize("cut", [5, "full"])
def test_groups_of_clients_give_the_same(name: str, cut: int | str) -> None:
    same(trial(name, cut=cut, clients_at_once=1).weights(), plain(name, cut))


@pytest.mark.parametrize("name", FEDERATED_SSL)
@pytest.mark.parametrize("cut", [5, "full"])
def test_the_fused_engine_trains_as_the_loop(name: str, cut: int | str) -> None:
    same(trial(name, cut=cut, engine="fused").weights(), plain(name, cut), atol=1e-9)


def test_a_key_that_is_reset_starts_as_the_model() -> None:
    """With a target that never moves by itself, so that the difference shows; in the first round there is none."""
    kept, reset = (trial("fedmoco", rounds=1, ema=1.0, federated={"reset_key": value}) for value in (False, True))
    same(kept.weights(), reset.weights())
    initial, model = build(kept.config, image_size=SIZE).double().state_dict(), kept.weights()
    for made, expected in ((kept, initial), (reset, model)):
        made.rounds(1)
        target = made.state.trees["cohort.client.target"]
        for row in range(3):
            same(dict(target.row(row)), expected)


@pytest.mark.parametrize("name", FEDERATED_SSL)
def test_batch_statistics_are_averaged_and_the_target_has_its_own(name: str) -> None:
    made = trial(name, norm="batch", batch_size=4, rounds=2)
    running = made.state.trees["client.online"]["head.projector.1.running_mean" if name != "fedmoco" else "units.0.1.running_mean"]
    assert bool(running.abs().max() > 0)
    assert bool(torch.isfinite(torch.cat([w.flatten() for w in made.weights().values()])).all())


# --- wire ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", ["none", "stacked"])
@pytest.mark.parametrize("name", FEDERATED_SSL)
@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_ledger_is_the_closed_form(name: str, cut: int | str, symmetric: str) -> None:
    """Three clients take part in four visits, so that FedEMA compares once."""
    made = trial(name, rounds=2, cut=cut, clients_per_round=2, symmetric=symmetric)
    found = {kind: number for kinds in made.state.ledger.bytes().values() for kind, number in kinds.items() if number}
    steps = sum(made.local[c] for cohort in ([0, 1], [2, 0]) for c in cohort)
    d = sum(p.numel() for p in made.network.client.parameters())
    expected = federated_bytes(made.config, steps=steps, visits=4, h=torch.Size(made.network.smashed_shape).numel(), c=d, d=d,
                               apart=cut == 5, clients=3)
    assert found == {kind: number for kind, number in expected.items() if number}
    assert ("scalar_up" in found) == (name == "fedema" and cut == 5)
    if cut == "full":
        assert set(found) == {"model_up", "model_down"}


# --- loss and head --------------------------------------------------------------------------------------------------------------------


def test_the_distance_of_directions() -> None:
    p = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    z = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(regression(p, z), torch.tensor([0.0, 2.0, 4.0, 2 - 2**0.5], dtype=torch.float64))
    torch.testing.assert_close(regression(3 * p, 0.1 * z), regression(p, z))


def test_the_head_gives_predictions_and_projections() -> None:
    network = build(small(algorithm="fedbyol", **SSL), image_size=SIZE)
    x = torch.randn(5, 3, SIZE, SIZE)
    p, z = network(x).chunk(2, 1)
    torch.testing.assert_close(network.projections(x), z)
    torch.testing.assert_close(network.head.predictor(z), p)
    assert p.shape == z.shape == (5, 16)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="how MocoSFL divides two terms, not fedbyol"):
        small(algorithm="fedbyol", symmetric="original", cut="full")
    with pytest.raises(ValueError, match="queue is not read by fedmoco"):
        small(algorithm="fedmoco", queue="per_client", cut="full")
    with pytest.raises(ValueError, match="fedema with lost messages is not defined"):
        trial("fedema", rounds=0, loss={"dropout": 0.1})
