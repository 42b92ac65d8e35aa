"""kNN against a reference that loops, and the monitor that training uses."""

import math

import pytest
import torch
from torch import Tensor

from probes.features import extract
from probes.knn import knn_accuracy, validate
from ssl_split import config
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.models.split import Network, build


def _clusters(count: int, seed: int, *, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes around fixed centres, float64."""
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, 6, generator=generator, dtype=torch.float64), labels


def _reference(bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, k: int, t: float) -> int:
    """Sort all cosines, add exp(s / t) of the first k to their classes, take the largest sum."""
    correct = 0
    for query, label in zip(queries.tolist(), query_labels.tolist(), strict=True):
        pairs = []
        for row, c in zip(bank.tolist(), bank_labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, row, strict=True))
            pairs.append((dot / math.sqrt(sum(a * a for a in query)) / math.sqrt(sum(b * b for b in row)), c))
        votes: dict[int, float] = {}
        for s, c in sorted(pairs, reverse=True)[:k]:
            votes[c] = votes.get(c, 0.0) + math.exp(s / t)
        correct += max(votes, key=lambda c: votes[c]) == label
    return correct


@pytest.mark.parametrize(("k", "temperature"), [(None, 0.1), (1, 0.1), (7, 0.1), (60, 0.5)])
def test_equals_a_brute_force_reference(k: int | None, temperature: float) -> None:
    bank, bank_labels = _clusters(60, 0)
    queries, query_labels = _clusters(40, 1)
    found = knn_accuracy(bank, bank_labels, queries, query_labels, k=k, temperature=temperature)
    wanted = _reference(bank, bank_labels, queries, query_labels, k or 12, temperature)
    assert found.correct == wanted
    assert found.total == 40
    assert 10 < wanted < 40  # the classes overlap, so that a wrong rule would be seen


def test_scale_and_block_size_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, bank_labels = _clusters(60, 0)
    queries, query_labels = _clusters(40, 1)
    whole = knn_accuracy(bank, bank_labels, queries, query_labels)
    assert knn_accuracy(bank * 5, bank_labels, queries * 0.01, query_labels) == whole
    monkeypatch.setattr("probes.knn._BLOCK", 3 * 60)
    assert knn_accuracy(bank, bank_labels, queries, query_labels) == whole


def test_neighbours_by_default_are_a_fifth_and_at_most_200() -> None:
    """A query is nearest to one image of class 0; class 1 holds all further ones: k = 1 says 0, a larger k says 1."""
    def asked(count: int, k: int | None) -> int:
        angles = torch.linspace(0.1, 0.2, count, dtype=torch.float64)
        bank = torch.stack([angles.cos(), angles.sin()], 1)
        labels = torch.ones(count, dtype=torch.int64)
        labels[0] = 0
        query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        return knn_accuracy(bank, labels, query, torch.tensor([0]), k=k).correct

    assert [asked(9, None), asked(4, None), asked(20, None)] == [1, 1, 0]  # k = 1, 1, 4
    with pytest.raises(ValueError, match="k = 10 is more than the 9 images"):
        asked(9, 10)


def test_default_is_capped_at_200() -> None:
    bank, bank_labels = _clusters(1500, 2, spread=2.0)
    queries, query_labels = _clusters(200, 3, spread=2.0)
    default = knn_accuracy(bank, bank_labels, queries, query_labels)
    assert default == knn_accuracy(bank, bank_labels, queries, query_labels, k=200)
    assert default != knn_accuracy(bank, bank_labels, queries, query_labels, k=3)


class _Untouchable:
    """Stands for the test split: any use of it is an error."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"test.{name} was read")

    def __len__(self) -> int:
        raise AssertionError("test was measured")


def _dataset(*, labels: bool = True, validation: int = 20) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    images = torch.randint(0, 20, (60, 3, 16, 16), generator=generator, dtype=torch.uint8)
    for c in range(3):  # each class is bright in a channel of its own
        images[y == c, c] += 150
    part = ImageSet(images[:40], y[:40] if labels else None)
    rest = ImageSet(images[40 : 40 + validation], y[40 : 40 + validation] if labels else None)
    return Dataset("toy", part, rest, _Untouchable(), ("r", "g", "b"), (0.3, 0.3, 0.3), (0.2, 0.2, 0.2))  # type: ignore[arg-type]


def _network() -> Network:
    return build(config.from_dict({"width": 0.125, "cut": 3, "head": {"hidden": 16, "out": 8}}), image_size=16)


def test_validation_reads_train_and_validation_only() -> None:
    """Training images are the bank, validation images the queries; the test split would raise when looked at."""
    network, data = _network().train(), _dataset()
    for kind in ("backbone", "projector", "smashed"):
        rows = [extract(network, part.images, kind=kind, mean=data.mean, std=data.std) for part in (data.train, data.validation)]
        assert data.train.labels is not None
        assert data.validation.labels is not None
        wanted = knn_accuracy(rows[0], data.train.labels, rows[1], data.validation.labels, k=8)
        assert validate(network, data, features=kind) == wanted
        assert wanted.total == 20
        assert wanted.accuracy > 1 / 3
    assert network.training


def test_validation_takes_at_most_so_many_images() -> None:
    found = validate(_network(), _dataset(), images=15)
    assert found is not None
    assert found.total == 15


def test_validation_needs_labels_and_images() -> None:
    assert validate(_network(), _dataset(labels=False)) is None
    assert validate(_network(), _dataset(validation=0)) is None
