"""Embedded data sets, splits, subsets, constants and hashes."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets
import torch
from torch import Tensor

from ssl_split.config import Config
from ssl_split.data import embedded, images
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.data.imageset import complement, cut_off, resize, stratified


def load(**changes: object) -> Dataset:
    return images.load(Config(**changes))  # type: ignore[arg-type]


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_set(count: int, *, classes: int | None) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=source(count))
    return ImageSet(pixels, None if classes is None else torch.arange(count) ** 2 % classes)


def test_digits_are_split_by_class_and_no_image_is_lost() -> None:
    data = load(dataset="digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)
    assert data.classes == tuple("0123456789")
    assert data.size == 32
    parts = [p.labels.bincount() for p in (data.train, data.validation, data.test) if p.labels is not None]
    assert len(parts) == 3
    whole = sum(parts)
    assert whole.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (parts[2] - 0.2 * whole).abs().max() < 1
    assert (parts[1] - 0.1 * 0.8 * whole).abs().max() < 2


def test_digits_are_the_published_pixels() -> None:
    """Every digit of scikit-learn appears once, recovered by shrinking the enlarged image back to 8x8."""
    data = load(dataset="digits", image_size=8)
    found = torch.cat([part.images for part in (data.train, data.validation, data.test)])
    assert found.shape == (1797, 3, 8, 8)
    assert torch.equal(found[:, 0], found[:, 2])
    wanted = (torch.from_numpy(sklearn.datasets.load_digits().images) * 255 / 16).round().byte()
    assert sorted(i.numpy().tobytes() for i in found[:, 0]) == sorted(i.numpy().tobytes() for i in wanted)


@pytest.mark.parametrize("dataset", ["digits", "photos"])
def test_training_validation_and_test_images_are_disjoint(dataset: str) -> None:
    data = load(dataset=dataset)
    train, validation, test = (set(part.digests()) for part in (data.train, data.validation, data.test))
    assert min(len(train), len(validation), len(test)) > 100
    assert not train & validation
    assert not (train | validation) & test


@pytest.mark.parametrize("size", [16, 32, 96])
def test_photo_crops_of_training_and_test_share_no_pixel(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """In pictures that are black up to the border and white after it, training crops are black and test crops white."""
    fake = np.zeros((427, 640, 3), dtype=np.uint8)
    fake[:, embedded._TEST_COLUMN :] = 255
    monkeypatch.setattr(sklearn.datasets, "load_sample_images", lambda: SimpleNamespace(images=[fake, fake]))
    made = embedded.photos(size)
    assert len(made.train) > len(made.test) > 0
    assert int(made.train.images.max()) == 0
    assert int(made.test.images.min()) == 255


def test_photos_are_a_few_thousand_colour_crops_without_labels() -> None:
    data = load(dataset="photos", validation_fraction=0.0)
    assert (len(data.train), len(data.validation), len(data.test)) == (3466, 0, 1258)
    assert data.train.labels is None
    assert data.classes == ()
    assert (data.train.images[:, 0] != data.train.images[:, 2]).float().mean() > 0.5
    first = sklearn.datasets.load_sample_images().images[0][:32, 16:48]
    assert torch.equal(data.train.images[1], torch.from_numpy(first.copy()).permute(2, 0, 1))


def test_photos_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size = 193 is too large for photos: at most 192"):
        load(dataset="photos", image_size=193)


@pytest.mark.parametrize("dataset", ["digits", "photos"])
def test_published_constants_are_those_of_the_training_pixels_or_as_set(dataset: str) -> None:
    data = load(dataset=dataset, validation_fraction=0.0)
    x = images.to_float(data.train.images)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.tensor(data.mean), rtol=0, atol=0.005)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.tensor(data.std), rtol=0, atol=0.005)
    other = load(dataset=dataset, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (other.mean, other.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_validation_images_do_not_depend_on_the_runs_seed_or_the_subset() -> None:
    data = load(dataset="digits", seed=0)
    for other in (load(dataset="digits", seed=7), load(dataset="digits", train_images=50)):
        assert torch.equal(other.validation.images, data.validation.images)
        assert torch.equal(other.test.images, data.test.images)


def test_train_images_are_a_stratified_subset() -> None:
    whole, part = load(dataset="digits"), load(dataset="digits", train_images=100)
    assert len(part.train) == 100
    assert set(part.train.digests()) <= set(whole.train.digests())
    assert part.train.labels is not None
    assert part.train.labels.bincount().tolist() == [10] * 10
    assert len(load(dataset="digits", train_images=1294).train) == 1294
    with pytest.raises(ValueError, match="train_images = 1295 is more than the 1294 images of digits"):
        load(dataset="digits", train_images=1295)


def test_digest_changes_with_pixels_labels_and_splits() -> None:
    data = load(dataset="digits", train_images=40)
    assert data.digest == load(dataset="digits", train_images=40).digest
    others = [load(dataset="digits", train_images=41), load(dataset="digits", train_images=40, image_size=16),
              load(dataset="digits", train_images=40, validation_fraction=0.2)]  # fmt: skip
    assert data.train.labels is not None
    relabelled = ImageSet(data.train.images, (data.train.labels + 1) % 10)
    others.append(Dataset(data.name, relabelled, data.validation, data.test, data.classes, data.mean, data.std))
    others.append(Dataset(data.name, ImageSet(data.train.images), data.validation, data.test, (), data.mean, data.std))
    assert len({data.digest, *(other.digest for other in others)}) == 6


def test_image_digests_are_those_of_the_pixels() -> None:
    some = random_set(6, classes=None)
    wanted = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest() for image in some.images]
    assert some.digests() == wanted
    assert len(set(wanted)) == 6
    assert some.select(torch.tensor([4, 1])).digests() == [wanted[4], wanted[1]]


def test_select_copies_images_with_their_labels() -> None:
    some = random_set(6, classes=3)
    chosen = some.select(torch.tensor([5, 0]))
    assert some.labels is not None
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [int(some.labels[5]), int(some.labels[0])]
    kept = some.images.clone()
    chosen.images.zero_()
    assert torch.equal(some.images, kept)


@pytest.mark.parametrize(("pixels", "labels"), [
    (torch.zeros(2, 3, 8, 8), None),
    (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None),
    (torch.zeros(2, 3, 8, 9, dtype=torch.uint8), None),
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2)),
])  # fmt: skip
def test_image_sets_of_wrong_shape_or_type_are_refused(pixels: Tensor, labels: Tensor | None) -> None:
    with pytest.raises(ValueError, match="must be"):
        ImageSet(pixels, labels)


def test_normalisation_and_its_inverse() -> None:
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    x = images.to_float(random_set(5, classes=None).images, torch.float64)
    assert 0 <= x.min() < x.max() <= 1
    normal = images.normalise(x, mean, std)
    torch.testing.assert_close(normal[:, 1], (x[:, 1] - 0.5) / 0.3, rtol=0, atol=1e-12)
    torch.testing.assert_close(images.denormalise(normal, mean, std), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 13, 50, 99, 100])
def test_stratified_counts_are_within_one_of_the_class_shares(count: int) -> None:
    labels = torch.tensor([0] * 7 + [1] * 60 + [2] * 33)[torch.randperm(100, generator=source(0))]
    chosen = stratified(labels, 100, count, source(1))
    assert len(chosen) == count
    assert len(chosen.unique()) == count
    taken = torch.bincount(labels[chosen], minlength=3)
    assert (taken - torch.bincount(labels) * count / 100).abs().max() < 1
    assert torch.equal(complement(chosen, 100), torch.tensor(sorted(set(range(100)) - set(chosen.tolist())), dtype=torch.int64))


def test_stratified_draws_at_random() -> None:
    labels = torch.arange(100) % 2
    assert not stratified(labels, 100, 20, source(1)).equal(stratified(labels, 100, 20, source(2)))
    assert not stratified(None, 100, 20, source(1)).equal(stratified(None, 100, 20, source(2)))
    assert len(stratified(None, 100, 20, source(1)).unique()) == 20


def test_cutting_off_never_takes_the_last_image_of_a_class() -> None:
    rare = ImageSet(torch.zeros(12, 3, 8, 8, dtype=torch.uint8), torch.tensor([0] * 10 + [1, 2]))
    rest, part = cut_off(rare, 0.9, source(0))
    assert rest.labels is not None
    assert part.labels is not None
    assert (rest.labels.bincount().tolist(), part.labels.tolist()) == ([1, 1, 1], [0] * 9)


def test_resize_of_a_constant_and_of_nothing() -> None:
    enlarged = resize(torch.full((3, 1, 5, 9), 77, dtype=torch.uint8), 12)
    assert torch.equal(enlarged, torch.full((3, 1, 12, 12), 77, dtype=torch.uint8))
    assert resize(torch.zeros(0, 3, 5, 5, dtype=torch.uint8), 8).shape == (0, 3, 8, 8)
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255  # a chessboard shrinks to grey, it is not sampled
    shrunk = resize(board.byte()[None, None], 4)
    assert (shrunk.float() - 127.5).abs().max() < 3
