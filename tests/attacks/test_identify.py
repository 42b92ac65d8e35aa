"""Identification and classification: closed forms, ties, and the rates that chance gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks import identify
from attacks.identify import Gallery
from attacks.reconstruct import reconstruct


def _images(count: int, seed: int, size: int = 12) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


TARGETS, OTHERS = _images(20, 0), _images(60, 1)


def test_ranks_by_hand() -> None:
    """On a line: targets at 0, 1, 2, distractors at 10; guesses at 0.1, 1.6, 9 have ranks 1, 2 and 2 (10, then 2)."""
    gallery = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    guesses = torch.tensor([[0.1], [1.6], [9.0]])
    assert identify.rank_hits(guesses, gallery, 1).tolist() == [1, 0, 0]
    assert identify.rank_hits(guesses, gallery, 2).tolist() == [1, 1, 1]


def test_ties_get_what_guessing_gets() -> None:
    """All rows equal: each of the 40 is first with probability 1/40, among the first five with 5/40."""
    same = torch.ones(40, 3)
    assert identify.rank_hits(same[:4], same, 1).tolist() == pytest.approx([1 / 40] * 4)
    assert identify.rank_hits(same[:4], same, 5).tolist() == pytest.approx([5 / 40] * 4)


def test_the_truth_is_found_and_one_guess_for_all_is_not() -> None:
    found = identify.identification([TARGETS], TARGETS, Gallery(OTHERS), features=lambda x: x)
    assert found["gallery"] == 80
    assert found["chance_top1"] == 1 / 80
    assert found["chance_top5"] == 5 / 80
    assert found["pixels"]["top1"]["rate"] == found["features"]["top1"]["rate"] == 1
    assert found["pixels"]["top1"]["low"] > 0.8
    mean = OTHERS.mean(0).expand_as(TARGETS)
    guess = identify.identification([mean], TARGETS, Gallery(OTHERS), features=lambda x: x)
    assert guess["pixels"]["top1"]["rate"] <= 1 / 20
    assert guess["pixels"]["top5"]["rate"] <= 5 / 20
    both = identify.identification([TARGETS, mean], TARGETS, Gallery(OTHERS), features=lambda x: x)
    assert both["pixels"]["top1"]["rate"] == pytest.approx((1 + guess["pixels"]["top1"]["rate"]) / 2)


def test_features_of_a_client_that_sees_brightness_alone() -> None:
    """Permuted pixels keep the mean colour: lost by pixels, found by a client whose features are means; scale of channels is no matter."""
    order = torch.randperm(144, generator=torch.Generator().manual_seed(2))
    mixed = TARGETS.flatten(2)[..., order].view_as(TARGETS)
    found = identify.identification([mixed], TARGETS, Gallery(OTHERS), features=lambda x: x * torch.tensor([1.0, 100, 0.01]).view(3, 1, 1))
    assert found["features"]["top1"]["rate"] == 1
    assert found["pixels"]["top1"]["rate"] < 1


def _labelled(count: int, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 3
    images = 0.5 * torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    images[torch.arange(count), labels] += 0.3
    return images, labels


def test_classes_are_seen_in_the_truth_and_not_in_noise() -> None:
    (targets, truth), (others, labels) = _labelled(30, 0), _labelled(150, 1)
    noise = torch.rand(30, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    found = identify.classification([noise], targets, Gallery(others, labels, truth))
    assert found is not None
    assert found["true_targets"]["rate"] == 1
    assert found["reconstructions"]["rate"] < 0.7
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["trained_on"] == 150
    assert identify.classification([targets], targets, Gallery(others)) is None
    assert identify.classification([targets], targets, Gallery(others[:0], labels[:0], truth)) is None


def test_in_the_result_of_an_attack() -> None:
    """The identity gives its images away; what the judge knows reaches no attack, and labels need not be there."""
    aux = _images(60, 4)
    (targets, truth), (others, labels) = _labelled(9, 0), _labelled(60, 1)
    found = reconstruct(nn.Identity(), targets, aux, method="ridge", gallery=others, labels=truth, gallery_labels=labels).result
    assert found["identification"]["gallery"] == 69
    assert found["classification"]["true_targets"]["rate"] == 1
    alone = reconstruct(nn.Identity(), TARGETS, aux, method="blind").result
    assert alone["identification"]["gallery"] == 20
    assert alone["classification"] is None


def test_what_does_not_fit_is_refused() -> None:
    aux = _images(30, 4)
    with pytest.raises(ValueError, match="gallery images are targets"):
        reconstruct(nn.Identity(), TARGETS, aux, method="blind", gallery=torch.cat([OTHERS, TARGETS[:1]]))
    with pytest.raises(ValueError, match="1 of the 30 auxiliary images are in the judge's gallery"):
        reconstruct(nn.Identity(), TARGETS, aux, method="blind", gallery=torch.cat([OTHERS, aux[3:4]]))
    with pytest.raises(ValueError, match="20 targets and 3 labels"):
        reconstruct(nn.Identity(), TARGETS, aux, method="blind", labels=torch.tensor([0, 1, 2]))
