"""Capabilities: an attack sees what it declares and nothing else."""

import pytest
import torch
from torch import nn

from attacks.methods import METHODS, YARDSTICKS, table
from attacks.victim import Victim
from attacks.view import CAPABILITIES, CapabilityError, OwnImages, View


def _victim(client: nn.Module | None = None) -> tuple[dict[str, object], torch.Tensor]:
    targets = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    own = OwnImages(torch.rand(4, 3, 8, 8), torch.rand(2, 3, 8, 8))
    return Victim(client or nn.Conv2d(3, 2, 3)).offers(targets, own), targets


def test_weights_need_the_weights_capability() -> None:
    """The victim offers its weights; an attack that declares only queries cannot reach them, nor momentum weights."""
    offers, _ = _victim()
    assert "weights" in offers
    view = View(offers, ("smashed", "query", "aux"), attack="decoder")
    with pytest.raises(CapabilityError, match="decoder asked for weights, which it does not declare; it declares smashed, query, aux_same"):
        _ = view.weights
    with pytest.raises(CapabilityError, match="asked for momentum_weights"):
        view.offered("momentum_weights")
    assert not any(isinstance(value, nn.Module) for value in vars(view).values())
    assert set(view._seen) == {"smashed", "query", "aux_same"}


def test_declared_weights_are_a_copy() -> None:
    """What an attack does to the weights it was given does not change the victim."""
    client = nn.Conv2d(3, 2, 3)
    before = client.weight.detach().clone()
    offers, _ = _victim(client)
    given = View(offers, ("weights",), attack="optimise").weights.module
    assert isinstance(given, nn.Conv2d)
    torch.testing.assert_close(given.weight, before)
    nn.init.zeros_(given.weight)
    torch.testing.assert_close(client.weight.detach(), before)


def test_missing_capability_is_named() -> None:
    """A plain callable has no weights to offer: the message names what is missing and what there is."""
    own = OwnImages(torch.rand(4, 3, 8, 8), torch.rand(2, 3, 8, 8))
    offers = Victim(lambda x: x).offers(torch.rand(2, 3, 8, 8), own)
    with pytest.raises(CapabilityError, match=r"optimise needs weights \(knows the averaged client weights.*offers only smashed, query"):
        View(offers, ("smashed", "weights"), attack="optimise")


def test_unknown_flags_do_not_exist() -> None:
    with pytest.raises(ValueError, match="capability 'sight' does not exist"):
        View({}, ("sight",), attack="seer")


def test_aux_stands_for_the_kind_on_offer() -> None:
    own = OwnImages(torch.rand(4, 3, 8, 8), torch.rand(2, 3, 8, 8))
    for kind in ("aux_same", "aux_other"):
        offers = Victim(lambda x: x).offers(torch.rand(2, 3, 8, 8), own, aux=kind)
        view = View(offers, ("aux",), attack="blind")
        assert view.capabilities == (kind,)
        assert view.aux is own
    with pytest.raises(CapabilityError, match="needs aux_same"):
        View({}, ("aux",), attack="blind")


def test_truth_is_in_no_view() -> None:
    """Whatever an attack declares of what is offered, the target images themselves are not among it."""
    offers, targets = _victim()
    view = View(offers, tuple(offers), attack="greedy")
    seen = [value for value in view._seen.values() if isinstance(value, torch.Tensor)]
    assert len(seen) == 1
    assert seen[0].shape == (3, 2, 6, 6)
    assert not any(t.data_ptr() == targets.data_ptr() for t in seen)


def test_table_declares_known_capabilities_and_every_row_is_printed() -> None:
    assert len(METHODS) == 10
    assert len(YARDSTICKS) == 3
    for method in (*METHODS.values(), *YARDSTICKS.values()):
        assert set(method.declared(CAPABILITIES, supervised=True)) <= {*CAPABILITIES, "aux"}
    assert all(name in table() for name in METHODS)
    assert "smashed" not in METHODS["blind"].needs


def test_release_is_in_eval_mode_and_puts_modes_back() -> None:
    """Batch statistics of the targets neither shape what is released nor stay in the client."""
    client = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    client.train()
    client[1].eval()
    x = torch.rand(5, 3, 4, 4)
    z = Victim(client).release(x)
    assert [client.training, client[0].training, client[1].training] == [True, True, False]
    assert int(client[0].num_batches_tracked) == 0  # type: ignore[arg-type]
    torch.testing.assert_close(z[:1], Victim(client).release(x[:1]))
    assert not z.requires_grad


def test_release_normalises_with_the_training_constants() -> None:
    x = torch.rand(2, 3, 4, 4)
    z = Victim(nn.Identity(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2)).release(x)
    torch.testing.assert_close(z[:, 1], (x[:, 1] - 0.2) / 0.25)


@pytest.mark.parametrize(("client", "message"), [
    (lambda x: x * float("nan"), "activations are not finite"),
    (lambda x: x.sum(), "must return one tensor"),
    (lambda x: (x, x), "returns tuple"),
])
def test_bad_clients_are_named(client: object, message: str) -> None:
    assert callable(client)
    with pytest.raises(ValueError, match=message):
        Victim(client).release(torch.rand(3, 3, 4, 4))
