"""Targets and the attacker's images: fixed, balanced, disjoint by content, clipped budgets told."""

import pytest
import torch
from torch import Tensor

from attacks import sets
from ssl_split.data.images import Dataset, ImageSet


def _images(count: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _dataset(train: Tensor, test: Tensor, *, classes: int = 4) -> Dataset:
    labels = torch.arange(len(train)) // 10 % classes  # runs of one class, so that the order of images balances nothing
    empty = ImageSet(train[:0])
    return Dataset("made", ImageSet(train, labels), empty, ImageSet(test), (), (0.5,) * 3, (0.25,) * 3)


def _parts(total: int, clients: int) -> list[Tensor]:
    return list(torch.arange(total).split(total // clients))


def test_targets_are_balanced_over_clients_and_classes() -> None:
    """4 clients with 4 classes each: any number of targets differs by at most one between clients, and 64 fill every cell with 4."""
    data = _dataset(_images(160, 0), _images(20, 1))
    parts = _parts(160, 4)
    for wanted in (5, 10, 64):
        chosen = sets.choose(data, parts, targets=wanted, aux=10)
        held = torch.bincount(chosen.clients, minlength=4)
        assert held.sum() == wanted
        assert held.max() - held.min() <= 1
    assert chosen.targets.labels is not None
    cells = torch.bincount(chosen.clients * 4 + chosen.targets.labels)
    assert cells.tolist() == [4] * 16


def test_targets_are_the_clients_own_images() -> None:
    data = _dataset(_images(40, 0), _images(20, 1))
    parts = [torch.tensor([3, 5, 8]), torch.tensor([1, 30, 39, 2])]
    chosen = sets.choose(data, parts, targets=128, aux=10)
    digests = data.train.digests()
    held = [{digests[i] for i in part.tolist()} for part in parts]
    assert len(chosen.targets) == 7
    assert all(d in held[c] for d, c in zip(chosen.targets.digests(), chosen.clients.tolist(), strict=True))
    assert any("only 7 of the 128 targets exist" in notice for notice in chosen.notices)


def test_lists_are_fixed_and_budgets_nested() -> None:
    """Drawn twice they are the same; fewer targets or images are the beginning of more."""
    data = _dataset(_images(80, 0), _images(60, 1))
    large = sets.choose(data, _parts(80, 4), targets=20, aux=50)
    again = sets.choose(data, _parts(80, 4), targets=20, aux=50)
    small = sets.choose(data, _parts(80, 4), targets=8, aux=15)
    assert torch.equal(large.targets.images, again.targets.images)
    assert torch.equal(large.aux.images, again.aux.images)
    assert torch.equal(large.targets.images[:8], small.targets.images)
    assert torch.equal(large.aux.images[:15], small.aux.images)


def test_members_targets_and_repeats_are_dropped_by_content() -> None:
    """Planted: 3 test images equal members (one of them twice), 2 equal each other."""
    train, test = _images(40, 0), _images(30, 1)
    test[4], test[9], test[20], test[21] = train[7], train[39], train[0], train[0]
    test[12] = test[11]
    chosen = sets.choose(_dataset(train, test), _parts(40, 2), targets=10, aux=1000)
    assert chosen.record == {"targets_wanted": 10, "targets": 10, "aux_wanted": 1000, "aux": 25, "aux_available": 25,
                             "aux_dropped_members": 4, "aux_dropped_repeated": 1}
    members = set(ImageSet(train).digests())
    aux = chosen.aux.digests()
    assert len(set(aux)) == len(aux) == 25
    assert not members & set(aux)
    assert set(chosen.targets.digests()) <= members
    assert chosen.notices == ("only 25 of the 1000 images for the attacker exist: the test split holds no more that no client has",)


def test_default_budget_is_clipped_without_a_word() -> None:
    chosen = sets.choose(_dataset(_images(40, 0), _images(30, 1)), _parts(40, 2), targets=10, aux=5000, aux_given=False)
    assert chosen.notices == ()
    assert chosen.record["aux"] == 30


def test_repeated_members_are_attacked_once() -> None:
    train = _images(10, 0)
    train[5:] = train[:5]
    chosen = sets.choose(_dataset(train, _images(9, 1)), _parts(10, 2), targets=10, aux=5)
    assert len(chosen.targets) == 5
    assert len(set(chosen.targets.digests())) == 5


def test_nothing_to_attack_with_is_one_sentence() -> None:
    train = _images(10, 0)
    with pytest.raises(ValueError, match="leaves 10 images to attack and 0 to attack with"):
        sets.choose(_dataset(train, train[:4]), _parts(10, 2), targets=10, aux=5)


@pytest.mark.parametrize(("count", "validation"), [(500, 50), (5000, 500), (359, 35), (10, 1), (5, 1), (2, 1)])
def test_a_tenth_is_for_validation(count: int, validation: int) -> None:
    images = torch.arange(count, dtype=torch.float32).div(count).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    own = sets.split(images)
    assert (len(own.fit), len(own.validation)) == (count - validation, validation)
    together = torch.cat([own.fit, own.validation])[:, 0, 0, 0]
    assert len(together.unique()) == count


def test_shared_images_are_refused() -> None:
    """Also when the copy went through float arithmetic."""
    targets, aux = _images(4, 0).float() / 255, _images(6, 1).float() / 255
    sets.refuse_shared(targets, aux)
    aux[3] = targets[2] + 1e-7
    with pytest.raises(ValueError, match=r"1 of the 6 auxiliary images are targets \(the first is image 3\)"):
        sets.refuse_shared(targets, aux)


def test_colluders_own_what_no_other_client_holds() -> None:
    """Planted: two images of the colluder equal members of others, one comes twice; these are dropped, and the rest is all they share."""
    train = _images(60, 0)
    train[1], train[2], train[4] = train[30], train[59], train[3]  # client 0 has the first 20
    data = _dataset(train, _images(9, 1))
    pool = sets.Pool(data.train.select(torch.arange(20)), "client 0", "none", "none", colluders=(0,))
    chosen = sets.choose(data, _parts(60, 3), targets=10, aux=1000, pool=pool)
    assert chosen.record == {"targets_wanted": 10, "targets": 10, "aux_wanted": 1000, "aux": 17, "aux_available": 17,
                             "aux_dropped_members": 2, "aux_dropped_repeated": 1, "aux_from": "client 0"}
    own, others = set(chosen.aux.digests()), set(data.train.select(torch.arange(20, 60)).digests())
    assert not own & others
    assert set(chosen.clients.tolist()) == {1, 2}
    rest = set(chosen.private.digests()) | set(chosen.gallery.digests())
    assert set(chosen.targets.digests()) | rest == others
    assert not set(chosen.targets.digests()) & rest


def test_a_pool_of_members_leaves_targets_and_judge_apart() -> None:
    """Planted: a target comes twice in the training split, and is dropped both times."""
    train = _images(40, 0)
    data = _dataset(train, _images(9, 1))
    target = int(sets.target_order(data.train.labels, _parts(40, 2))[0][0])
    train[(target + 1) % 40] = train[target]
    pool = sets.Pool(data.train, "the training split", "none left", "none", members=True, notice="as published")
    chosen = sets.choose(data, _parts(40, 2), targets=5, aux=12, pool=pool)
    parts = [set(part.digests()) for part in (chosen.targets, chosen.aux, chosen.gallery)]
    assert [len(part) for part in parts] == [5, 12, 39 - 5 - 12]
    assert not parts[0] & parts[1]
    assert not parts[2] & (parts[0] | parts[1])
    assert chosen.record["aux_dropped_targets"] in (5, 6)
    assert chosen.notices == ("as published",)
    short = sets.choose(data, _parts(40, 2), targets=5, aux=100, pool=pool)
    assert short.notices[-1] == "only 34 of the 100 images for the attacker exist: none left"
