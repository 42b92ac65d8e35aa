"""Partitions: every image dealt once, no client empty, and the shape that each rule promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ssl_split.config import Partition
from ssl_split.data.partition import class_histogram, describe, partition

KINDS = ("iid", "shards", "classes", "dirichlet", "dirichlet_balanced", "ratio", "quantity", "longtail")


def equal_classes(classes: int, each: int) -> Tensor:
    """Balanced labels in mixed order."""
    return torch.arange(classes * each) % classes


def uneven_classes() -> Tensor:
    """Ten classes of 31 ... 157 images, in mixed order."""
    labels = torch.cat([torch.full((31 + 14 * c,), c) for c in range(10)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


def deal(labels: Tensor, clients: int, **options: object) -> list[Tensor]:
    return partition(labels, Partition(**options), images=len(labels), clients=clients)  # type: ignore[arg-type]


def assert_exact_cover(parts: list[Tensor], images: int, clients: int) -> None:
    assert len(parts) == clients
    assert min(len(part) for part in parts) >= 1
    assert all(part.dtype == torch.int64 for part in parts)
    assert torch.cat(parts).sort().values.equal(torch.arange(images))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [equal_classes(10, 60), uneven_classes()], ids=["equal", "uneven"])
def test_every_image_goes_to_exactly_one_client_and_no_client_is_empty(kind: str, labels: Tensor) -> None:
    done = 0
    for seed, clients, classes in itertools.product(range(3), (5, 10, 13, 100), (2, 3)):
        parts = deal(labels, clients, kind=kind, classes=classes, seed=seed, ratio=0.4, beta=0.1)
        assert_exact_cover(parts, len(labels), clients)
        done += 1
    assert done == 24


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_clients_as_images_leaves_one_image_each(kind: str) -> None:
    labels = equal_classes(4, 6)
    parts = deal(labels, 24, kind=kind, classes=1, beta=0.01)
    assert [len(part) for part in parts] == [1] * 24
    assert_exact_cover(parts, 24, 24)


@pytest.mark.parametrize("kind", ["iid", "quantity"])
def test_rules_that_ignore_labels_work_without_them(kind: str) -> None:
    parts = partition(None, Partition(kind=kind), images=97, clients=7)
    assert_exact_cover(parts, 97, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_parts_and_other_seeds_other_parts(kind: str) -> None:
    labels = uneven_classes()
    first, again, other = (deal(labels, 10, kind=kind, seed=seed, ratio=0.4) for seed in (3, 3, 4))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_global_generator_is_neither_read_nor_moved(kind: str) -> None:
    labels = uneven_classes()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = deal(labels, 5, kind=kind, ratio=0.4)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(1)
    assert all(a.equal(b) for a, b in zip(first, deal(labels, 5, kind=kind, ratio=0.4), strict=True))


def test_iid_sizes_differ_by_at_most_one() -> None:
    sizes = [len(part) for part in deal(uneven_classes(), 13, kind="iid")]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["shards", "classes"])
def test_five_clients_with_two_of_ten_equal_classes_share_no_class(kind: str, seed: int) -> None:
    """Ten shards of ten equal classes are the classes themselves (published fact: disjoint between clients)."""
    labels = equal_classes(10, 50)
    owned = class_histogram(deal(labels, 5, kind=kind, classes=2, seed=seed), labels)
    assert (owned > 0).sum(1).tolist() == [2] * 5
    assert (owned > 0).sum(0).tolist() == [1] * 10
    assert owned.sum(1).tolist() == [100] * 5


@pytest.mark.parametrize(("clients", "classes"), [(20, 2), (200, 2), (50, 4)])
def test_equal_shards_hold_one_class_each_and_double_draws_are_as_frequent_as_chance(clients: int, classes: int) -> None:
    """A client draws c of cN shards without replacement, so it has fewer than c classes with a known probability.

    With m = cN / C shards of each class, the chance that c draws hit c classes is prod_i (cN - i m) / (cN - i).
    """
    labels = equal_classes(10, 200)
    count, each = classes * clients, classes * clients // 10
    distinct = 1.0
    for i in range(classes):
        distinct *= (count - i * each) / (count - i)
    seeds = 20
    fewer = 0
    for seed in range(seeds):
        owned = (class_histogram(deal(labels, clients, kind="shards", classes=classes, seed=seed), labels) > 0).sum(1)
        assert int(owned.max()) <= classes
        fewer += int((owned < classes).sum())
    expected = seeds * clients * (1 - distinct)
    assert abs(fewer - expected) < 4 * expected**0.5


def test_shard_boundaries_are_the_floors_of_equal_shares() -> None:
    """One shard per client: client histograms are those of the sorted labels cut at floor(j n / N), in some order."""
    labels, clients = uneven_classes(), 23
    ordered = labels.sort().values
    edges = [j * len(labels) // clients for j in range(clients + 1)]
    wanted = sorted(torch.bincount(ordered[a:b], minlength=10).tolist() for a, b in itertools.pairwise(edges))
    assert sorted(class_histogram(deal(labels, clients, kind="shards", classes=1), labels).tolist()) == wanted


@pytest.mark.parametrize("clients", [200, 1000])
def test_cifar100_shards_use_all_images_and_sizes_differ_by_at_most_c(clients: int) -> None:
    labels = equal_classes(100, 500)
    parts = deal(labels, clients, kind="shards", classes=20)
    sizes = [len(part) for part in parts]
    assert sum(sizes) == 50_000
    assert max(sizes) - min(sizes) <= 20


@pytest.mark.parametrize(("clients", "classes", "labels"), [
    (5, 2, equal_classes(10, 40)), (7, 3, equal_classes(10, 40)), (20, 2, uneven_classes()), (13, 9, uneven_classes()),
    (4, 10, uneven_classes()), (200, 1, equal_classes(10, 40)), (30, 7, equal_classes(100, 40)),
])  # fmt: skip
def test_exact_classes(clients: int, classes: int, labels: Tensor) -> None:
    total = int(labels.max()) + 1
    for seed in range(3):
        amounts = class_histogram(deal(labels, clients, kind="classes", classes=classes, seed=seed), labels)
        assert (amounts > 0).sum(1).tolist() == [classes] * clients
        owners = (amounts > 0).sum(0)
        assert set(owners.tolist()) <= {clients * classes // total, -(-clients * classes // total)}
        for column in amounts.T:
            held = column[column > 0]
            assert int(held.max() - held.min()) <= 1


def test_exact_classes_mix_pairs_between_seeds() -> None:
    """The deal is random: over seeds, one client meets many different pairs of classes."""
    labels = equal_classes(10, 40)
    drawn = [class_histogram(deal(labels, 20, kind="classes", seed=seed), labels)[0] for seed in range(40)]
    assert len({tuple(amounts.nonzero().flatten().tolist()) for amounts in drawn}) > 20


def test_classes_that_do_not_occur_are_no_classes() -> None:
    labels = equal_classes(3, 20) * 2  # 0, 2 and 4
    amounts = class_histogram(deal(labels, 3, kind="classes", classes=1), labels)
    assert amounts.shape == (3, 5)
    assert (amounts > 0).sum(0).tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_dirichlet_shares_have_the_moments_of_the_distribution(beta: float) -> None:
    """A share of Dirichlet(beta) over N clients has mean 1/N and variance (1/N)(1 - 1/N) / (N beta + 1)."""
    clients, each = 4, 2000
    labels = equal_classes(10, each)
    dealt = [deal(labels, clients, kind="dirichlet", beta=beta, seed=seed) for seed in range(40)]
    shares = torch.cat([class_histogram(parts, labels) for parts in dealt], 1) / each
    assert shares.shape == (clients, 400)
    variance = (1 / clients) * (1 - 1 / clients) / (clients * beta + 1)
    assert (shares.mean(1) - 1 / clients).abs().max() < 4 * (variance / 400) ** 0.5
    assert shares.var().item() == pytest.approx(variance, rel=0.15)


def test_tiny_beta_gives_each_class_to_one_client_without_underflow() -> None:
    labels = equal_classes(10, 50)
    amounts = class_histogram(deal(labels, 3, kind="dirichlet", beta=1e-4), labels)
    assert ((amounts == 50).sum(0) + (amounts == 49).sum(0)).min() >= 1


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_quantity_sizes_have_the_moments_of_the_distribution(beta: float) -> None:
    clients, images, seeds = 5, 4005, 300
    options = [Partition(kind="quantity", beta=beta, seed=seed) for seed in range(seeds)]
    sizes = torch.tensor([[len(part) for part in partition(None, o, images=images, clients=clients)] for o in options])
    shares = (sizes - 1) / (images - clients)
    variance = (1 / clients) * (1 - 1 / clients) / (clients * beta + 1)
    assert shares.mean().item() == pytest.approx(1 / clients, rel=1e-5)
    assert shares.var().item() == pytest.approx(variance, rel=0.15)


def test_quantity_labels_are_those_of_the_whole_in_expectation() -> None:
    labels = equal_classes(2, 4000)
    parts = deal(labels, 3, kind="quantity", beta=5.0)
    for part in parts:
        assert labels[part].float().mean().item() == pytest.approx(0.5, abs=2.5 / len(part) ** 0.5)


@pytest.mark.parametrize(("clients", "ratio"), [(10, 0.0), (10, 0.5), (10, 0.95), (10, 1.0), (20, 0.8), (5, 0.5), (5, 0.3)])
def test_ratio_gives_each_client_its_share_of_one_main_class(clients: int, ratio: float) -> None:
    """The rest is drawn from what is left: with N >= C, (1 - rho) of every class, so the main share is rho + (1 - rho) / C."""
    labels = equal_classes(10, 1000)
    amounts = class_histogram(deal(labels, clients, kind="ratio", ratio=ratio), labels)
    sizes = amounts.sum(1)
    assert int(sizes.max() - sizes.min()) <= 2
    left_in_main = 1000 - ratio * 10_000 / min(clients, 10)
    expected = ratio + (1 - ratio) * left_in_main / (10_000 * (1 - ratio)) if ratio < 1 else 1.0
    shares = amounts.max(1).values / sizes
    assert (shares - expected).abs().max() < 0.06
    if ratio > 0.4:
        assert len(set(amounts.argmax(1).tolist())) == min(clients, 10)
    assert shares.min() >= ratio - 1e-3


def test_ratio_with_clients_that_share_classes_unevenly_keeps_the_share_by_unequal_sizes() -> None:
    labels = equal_classes(10, 300)
    amounts = class_histogram(deal(labels, 15, kind="ratio", ratio=0.9), labels)
    assert (amounts.max(1).values / amounts.sum(1)).min() >= 0.895
    assert sorted(round(n / 150) for n in amounts.sum(1).tolist()) == [1] * 10 + [2] * 5


@pytest.mark.parametrize("labels", [equal_classes(10, 60), uneven_classes()], ids=["equal", "uneven"])
def test_ratio_up_to_n_over_c_is_possible_with_few_clients_and_more_is_refused(labels: Tensor) -> None:
    for seed in range(5):
        deal(labels, 5, kind="ratio", ratio=0.5, seed=seed)
    with pytest.raises(ValueError, match=r"partition.ratio = 0.9 is impossible: the main classes of 5 clients hold only 0"):
        deal(labels, 5, kind="ratio", ratio=0.9)


@pytest.mark.parametrize("imbalance", [1.0, 10.0, 100.0])
def test_long_tail_of_every_client_has_the_set_imbalance(imbalance: float) -> None:
    """N a multiple of C and equal classes: the rotation is balanced, rank r has a share of imbalance^(-r / (C - 1))."""
    labels = equal_classes(10, 10_000)
    amounts = class_histogram(deal(labels, 10, kind="longtail", imbalance=imbalance), labels)
    weights = imbalance ** (-torch.arange(10, dtype=torch.float64) / 9)
    wanted = 10_000 * weights / weights.sum()
    assert (amounts.sort(1, descending=True).values - wanted).abs().max() <= 1
    if imbalance > 1:
        assert sorted(amounts.argmax(1).tolist()) == list(range(10))


@pytest.mark.parametrize(("labels", "clients"), [(uneven_classes(), 7), (uneven_classes(), 90), (equal_classes(100, 50), 200)])
@pytest.mark.parametrize("kind", ["longtail", "iid"])
def test_long_tail_clients_are_equally_large(kind: str, labels: Tensor, clients: int) -> None:
    sizes = [len(part) for part in deal(labels, clients, kind=kind, imbalance=20.0)]
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 100.0])
@pytest.mark.parametrize(("labels", "clients"), [(uneven_classes(), 7), (uneven_classes(), 90), (equal_classes(100, 50), 200)])
def test_balanced_dirichlet_clients_are_equally_large_to_one_image(beta: float, labels: Tensor, clients: int) -> None:
    sizes = [len(part) for part in deal(labels, clients, kind="dirichlet_balanced", beta=beta)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("beta", "low", "high"), [(0.05, 0.52, 0.70), (0.5, 0.22, 0.26), (1e4, 0.10, 0.106)])
def test_balanced_dirichlet_shares_are_as_concentrated_as_the_draws(beta: float, low: float, high: float) -> None:
    """E sum p^2 = (beta + 1) / (C beta + 1): .70, .25, .10; classes that run out lower it where beta is small (here to .57)."""
    labels = equal_classes(10, 4000)
    amounts = class_histogram(deal(labels, 200, kind="dirichlet_balanced", beta=beta), labels).double() / 200
    assert low < float(amounts.square().sum(1).mean()) < high


@pytest.mark.parametrize(("clients", "classes"), [(20, 2), (50, 3), (200, 20)])
def test_exact_classes_of_equal_size_make_clients_of_equal_size(clients: int, classes: int) -> None:
    """Odd images go to the owners that have least, so fractions of several classes do not pile up in one client."""
    labels = equal_classes(100 if clients > 100 else 10, 57)
    sizes = [len(part) for part in deal(labels, clients, kind="classes", classes=classes)]
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize(("options", "clients", "message"), [
    ({"kind": "iid"}, 101, "clients = 101 is more than the 100 training images"),
    ({"kind": "shards", "classes": 26}, 4, "partition.classes = 26 shards for each of 4 clients are more than the 100"),
    ({"kind": "classes", "classes": 11}, 4, "partition.classes = 11 is more than the 10 classes"),
    ({"kind": "classes", "classes": 2}, 4, "partition.classes must be at least 3"),
    ({"kind": "classes", "classes": 2}, 60, "a class of 10 images cannot be split between 12 owners"),
    ({"kind": "ratio", "ratio": 0.31}, 3, "partition.ratio = 0.31 is impossible"),
])  # fmt: skip
def test_impossible_combinations_are_refused_in_one_sentence(options: dict, clients: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        deal(equal_classes(10, 10), clients, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"iid", "quantity"}))
def test_rules_that_need_labels_refuse_images_without(kind: str) -> None:
    with pytest.raises(ValueError, match=f"partition.kind = {kind} needs class labels .* iid, quantity"):
        partition(None, Partition(kind=kind), images=100, clients=5)


def test_histogram_and_log_text() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    parts = [torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([3, 4, 5])]
    assert class_histogram(parts, labels).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 3]]
    text = describe(parts, labels)
    assert text.splitlines()[0] == ("3 clients with 1 to 3 images (median 2); classes per client: 1 (2 clients), 2 (1 client); "
                                    "largest class of a client: 83% of its images on average")
    assert text.splitlines()[1:] == ["  client  0:  1  1  0", "  client  1:  1  0  0", "  client  2:  0  0  3"]
    assert describe(parts, None) == "3 clients with 1 to 3 images (median 2)"
