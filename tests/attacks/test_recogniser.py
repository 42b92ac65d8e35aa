"""The judge's classifier: it is trained once for equal images, survives damaged files, and knows degraded images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attacks import recogniser

LABELS = torch.tensor([3, 7, 11])


def _bars(count: int, seed: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """A bright bar on a black ground, lying, standing or sloping, somewhere near the middle."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ways = torch.stack([rows, columns, (rows + columns) // 2]).float() - (size - 1) / 2
    kinds = torch.arange(count) % 3
    offsets = 6 * torch.rand(count, 1, 1, generator=generator) - 3
    images = (1 - ((ways[kinds] - offsets).abs() / 2)).clamp(0, 1)
    return images[:, None].expand(-1, 3, -1, -1).contiguous(), LABELS[kinds]


def test_noise_that_nobody_sees_is_no_matter_because_of_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    (images, labels), (others, truth) = _bars(60, 0), _bars(60, 1)
    noise = 0.05 * torch.randn(others.shape, generator=torch.Generator().manual_seed(2))
    noisy = (others + noise).clamp(0, 1)
    known = recogniser.trained(images, labels)
    assert (known.says(others) == truth).float().mean() > 0.95
    assert (known.says(noisy) == truth).float().mean() > 0.9
    monkeypatch.setattr(recogniser, "COPIES", 0)
    plain = recogniser.trained(images, labels)
    assert (plain.says(others) == truth).float().mean() > 0.95
    assert (plain.says(noisy) == truth).float().mean() < 0.8


def test_two_classes_under_their_own_names() -> None:
    images, labels = _bars(30, 0)
    two = labels != 11
    known = recogniser.trained(images[two], labels[two])
    assert torch.equal(known.says(images[two]), labels[two])
    assert torch.equal(known.classes, LABELS[:2])


def test_copies_are_drawn_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shift and blur leave a constant what it is; the noise has at most its deviation."""
    images, _ = _bars(6, 0)
    first, second = (recogniser.degraded(images, number=i) for i in range(2))
    assert torch.equal(first, recogniser.degraded(images, number=0))
    assert not torch.equal(first, second)
    assert 0 <= first.min() <= first.max() <= 1
    grey = torch.full((6, 3, 16, 16), 0.5)
    assert (recogniser.degraded(grey, number=0) - 0.5).flatten(1).std(1).max() < 1.1 * recogniser.NOISE
    monkeypatch.setattr(recogniser, "NOISE", 0.0)
    torch.testing.assert_close(recogniser.degraded(grey, number=0), grey)
    assert not torch.allclose(recogniser.degraded(images, number=0), images, atol=0.05)


@pytest.mark.parametrize(("damage", "trainings"), [("none", 1), ("torn", 2), ("version", 2), ("images", 2), ("labels", 2)])
def test_a_classifier_is_kept_and_a_damaged_one_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, trainings: int
) -> None:
    images, labels = _bars(30, 0)
    monkeypatch.setattr(recogniser, "PENALTIES", [0.1, 1.0])
    calls = []
    original = recogniser.trained

    def counted(images: Tensor, labels: Tensor) -> recogniser.Recogniser:
        calls.append(1)
        return original(images, labels)

    monkeypatch.setattr(recogniser, "trained", counted)
    first = recogniser.kept(tmp_path, images, labels)
    (path,) = tmp_path.iterdir()
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-40])
    if damage == "version":
        monkeypatch.setattr(recogniser, "RESULTS_VERSION", recogniser.RESULTS_VERSION + 1)
    if damage == "images":
        images = images.flip(3)
    if damage == "labels":
        labels = labels.roll(1)
    again = recogniser.kept(tmp_path, images, labels)
    assert len(calls) == trainings
    if damage in ("none", "torn", "version"):
        for name in ("mean", "scale", "weights", "bias", "classes"):
            assert torch.equal(getattr(first, name), getattr(again, name))
    recogniser.kept(tmp_path, images, labels)
    assert len(calls) == trainings
