"""Where the sharpness-aware federated methods take their gradient, and how it is measured."""

from __future__ import annotations

import pytest
import torch
from federated import flat, trial
from supervised import CLASSES, SIZE, draw, small
from torch import Tensor
from torch.nn import functional

from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.fedwmsam import FedWMSAM
from ssl_split.algorithms.federated.half import Half, indexed_by_tensor
from ssl_split.config import PERTURBED
from ssl_split.models.split import build
from ssl_split.tree import Tree


@pytest.mark.parametrize("name", PERTURBED)
@pytest.mark.parametrize("cut", ["full", 5])
def test_the_perturbation_has_norm_rho_over_all_weights_and_is_taken_back(name: str, cut: int | str, monkeypatch: pytest.MonkeyPatch
                                                                          ) -> None:
    made = trial(name, rounds=0, cut=cut, federated={"rho": 0.3})
    assert isinstance(made.algorithm, FedAvg)
    seen: list[Tensor] = []
    original, direction = made.algorithm.perturbation, made.algorithm.direction
    before: list[list[Tensor]] = []

    def watched(halves: list[Half], *rest: object) -> list[Tensor] | None:
        before.append([h.weights.clone() for h in halves])
        found = original(halves, *rest)
        assert found is not None
        seen.append(torch.stack([e.square().sum(1) for e in found]).sum(0).sqrt())
        return found

    def after(halves: list[Half]) -> None:
        assert all(torch.equal(h.weights, kept) for h, kept in zip(halves, before[-1], strict=True))
        direction(halves)

    monkeypatch.setattr(made.algorithm, "perturbation", watched)
    monkeypatch.setattr(made.algorithm, "direction", after)
    made.rounds(2)
    lengths = torch.cat(seen)
    assert torch.all(((lengths - 0.3).abs() < 1e-6) | (lengths == 0))
    assert (lengths > 0).sum() >= len(lengths) / 3


def test_fedlesam_looks_uphill_from_where_the_model_came() -> None:
    """e is parallel to x_received - x_r, over all parameters, for a client that took part in round 0."""
    made = trial("fedlesam", rounds=1, federated={"rho": 0.3})
    assert isinstance(made.algorithm, FedAvg)
    start = flat(build(made.config, image_size=SIZE, classes=CLASSES).double().state_dict())
    found: list[Tensor] = []
    original = made.algorithm.perturbation

    def watched(halves: list[Half], *rest: object) -> list[Tensor] | None:
        e = original(halves, *rest)
        assert e is not None
        tree = made.state.trees["client.online"]
        found.append(torch.cat([type(tree)(tree.layout, e[0][:1].clone()[0])[name].flatten() for name in sorted(tree)]))
        return e

    made.algorithm.perturbation = watched  # type: ignore[method-assign]
    now = flat(made.weights())
    made.step()
    expected = 0.3 * (start - now) / (start - now).norm()
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-9)


def test_fedwmsam_points_at_where_the_momentum_leads() -> None:
    """Steps along m^k alone end b eta m^k below x_r, so delta is 2 b eta m^k: e = rho m^k / ||m^k||, and 0 in the first step."""
    made = trial("fedwmsam", rounds=1, federated={"rho": 0.3})
    assert isinstance(made.algorithm, FedWMSAM)
    made.algorithm.begin_round(made.state, made.cohort(), made.wire)
    made.algorithm._begin_group(made.state, slice(0, 3), made.wire)
    half = made.algorithm.halves(made.state, slice(0, 3))[0]
    first = made.algorithm.perturbation([half], made.wire, made.state.cohort)
    assert first is not None
    assert not first[0].any()
    momentum = made.algorithm.momentum_of(half)
    for b in (1, 2):
        half.weights.sub_(0.05 * momentum)
        made.state.tensors["taken"].fill_(b)
        away = made.algorithm.perturbation([half], made.wire, made.state.cohort)
        assert away is not None
        torch.testing.assert_close(away[0], 0.3 * momentum / momentum.norm(dim=1, keepdim=True), rtol=1e-6, atol=1e-9)


def test_fedwmsam_personalised_momentum_is_a_correction_of_the_gradient() -> None:
    """alpha g + (1 - alpha) m^k = alpha (g + c - c_k) + (1 - alpha) m."""
    made = trial("fedwmsam", rounds=2, clients_per_round=2)
    assert isinstance(made.algorithm, FedWMSAM)
    half = made.algorithm.halves(made.state, slice(0, 2))[0]
    alpha, g = made.state.tensors["alpha"].item(), torch.randn_like(half.weights)
    half.gradient.copy_(g)
    made.algorithm.direction([half])
    expected = alpha * (g + half.shared("variate") - half.own("variate")) + (1 - alpha) * half.shared("momentum")
    torch.testing.assert_close(half.gradient, expected)


def test_fedwmsam_alpha_follows_the_clipped_similarity() -> None:
    made = trial("fedwmsam", rounds=1, federated={"wmsam_adapt": 0.25})
    assert made.state.tensors["alpha"].item() == pytest.approx(0.75 * 0.1 + 0.25 * 0.1)  # no momentum yet: similarity 0, clipped to 0.1
    made.rounds(1)
    similarity = made.state.tensors["similarity"].item() / 3
    assert -1 <= similarity <= 1
    assert made.state.tensors["alpha"].item() == pytest.approx(0.75 * 0.1 + 0.25 * min(max(similarity, 0.1), 0.9))


def test_alpha_may_follow_the_similarity_of_the_personalised_momentum() -> None:
    """Without variates m^k is m, so they agree from the round on in which there is one: 0.9 after clipping."""
    options = {"wmsam_adapt": 0.25, "wmsam_similarity": "personalised", "wmsam_personalised": False}
    made = trial("fedwmsam", rounds=2, federated=options)
    assert made.state.tensors["similarity"].item() / 3 == pytest.approx(1)
    assert made.state.tensors["alpha"].item() == pytest.approx(0.75 * 0.1 + 0.25 * 0.9)


# --- measured on the way --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 5, "full"])
def test_the_cosine_of_perturbations_is_the_mean_over_steps_and_clients(cut: int | str) -> None:
    """FedSAM's are along the gradients of its minibatches: one step of three clients, by hand."""
    made = trial("fedsam", rounds=0, cut=cut, local_steps=1, perturbation_every_rounds=2, federated={"rho": 0.05})
    network = build(made.config, image_size=SIZE, classes=CLASSES).double()
    names = [name for name, _ in network.named_parameters()]
    generator = torch.Generator().manual_seed(0)
    uphill = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in network.named_parameters()}
    made.algorithm.begin_round(made.state, made.cohort(), made.wire)
    for half in ("client", "server"):
        tree = made.state.trees[f"{half}.uphill"]
        for name in tree:
            tree[name].copy_(uphill[name])
    metrics = made.algorithm.step(made.state, made.batch_of(), made.wire)
    expected = []
    for client in range(3):
        x, y = draw(client, 0, 2)
        gradient = torch.autograd.grad(functional.cross_entropy(network(x), y), list(network.parameters()))
        expected.append(functional.cosine_similarity(torch.cat([g.flatten() for g in gradient]),
                                                     torch.cat([uphill[n].flatten() for n in names]), dim=0))
    assert metrics["perturbation_cosine"] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-9)
    made.algorithm.end_round(made.state, made.wire)
    assert all("perturbation_cosine" not in line for line in made.rounds(1))  # measured in every second round


def test_what_the_published_code_makes_of_a_perturbation() -> None:
    """Tensor j moves as a whole, by the j-th number of the flat vector over the sum of such numbers' magnitudes."""
    made = trial("fedlesam", rounds=1, published_perturbation=True, federated={"rho": 0.05})
    halves = made.algorithm.halves(made.state, slice(0, 2))
    vector = torch.randn(2, halves[0].weights.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found,) = indexed_by_tensor(halves, [vector])
    layout = halves[0].copies.weights.layout
    first = Tree(layout, torch.nn.functional.pad(vector, (0, layout.size - vector.shape[1])))["units.0.0.weight"].flatten(1)
    tensors = sum(1 for _ in made.network.parameters())
    assert tensors < first.shape[1]
    moved = Tree(layout, torch.nn.functional.pad(found, (0, layout.size - found.shape[1])))
    for j, (name, _) in enumerate(made.network.named_parameters()):
        expected = first[:, j] / first[:, :tensors].abs().sum(1)
        torch.testing.assert_close(moved[name].flatten(1), expected[:, None].expand(2, moved[name][0].numel()))
    assert not torch.equal(flat(made.weights()), flat(trial("fedlesam", rounds=0).weights()))
    with pytest.raises(ValueError, match="use cut full or 0"):
        trial("fedwmsam", cut=5, published_perturbation=True)
    with pytest.raises(ValueError, match="published_perturbation is not read by fedsam"):
        small(algorithm="fedsam", published_perturbation=True)


def test_alpha_is_logged_and_follows_the_similarity() -> None:
    made = trial("fedwmsam", rounds=0)
    alphas = [line["alpha"] for line in made.rounds(4) if "alpha" in line]
    assert alphas[0] == pytest.approx(0.1)
    assert alphas[-1] != alphas[0]
