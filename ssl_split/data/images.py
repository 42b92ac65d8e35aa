"""Data sets by name: uint8 tensors in memory, split into training, validation and test images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ssl_split import rng
from ssl_split.config import Config
from ssl_split.data import embedded, folder, sentences, torchvision_sets
from ssl_split.data.imageset import ImageSet as ImageSet
from ssl_split.data.imageset import Source, TextSet, Triple, cut_off, stratified
from ssl_split.data.imageset import denormalise as denormalise
from ssl_split.data.imageset import normalise as normalise
from ssl_split.data.imageset import to_float as to_float


@dataclass(frozen=True)
class Dataset:
    """A data set as an experiment uses it.

    Attributes:
        name: As in the configuration.
        train: Images the clients hold; `validation` was cut off from the same official split, `test` is the official test split.
        validation: Images that select and monitor.
        test: Images the final probe scores and attackers own.
        classes: Class names in label order, empty where there are no labels.
        mean, std: Normalisation constants of training, evaluation and attack alike.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: Triple
    std: Triple

    @property
    def is_text(self) -> bool:
        """Whether the examples are sentences."""
        return isinstance(self.train, TextSet)

    @property
    def size(self) -> int:
        """Pixels per side, S; tokens of a sentence, L."""
        return self.train.images.shape[-1]

    @cached_property
    def digest(self) -> str:
        """A hash of all images and labels."""
        total = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.validation, self.test):
            total.update(repr((tuple(part.images.shape), part.labels is None)).encode())
            total.update(part.images.contiguous().numpy().data)
            if part.labels is not None:
                total.update(part.labels.contiguous().numpy().data)
        return total.hexdigest()


_SOURCES: dict[str, Callable[[Config, int], Source]] = {
    "digits": lambda config, size: embedded.digits(size),
    "photos": lambda config, size: embedded.photos(size),
    "cifar10": torchvision_sets.load,
    "cifar100": torchvision_sets.load,
    "svhn": torchvision_sets.load,
    "stl10": torchvision_sets.load,
    "mnist": torchvision_sets.load,
    "fashion_mnist": torchvision_sets.load,
    "imagefolder": folder.load,
    "tsv": lambda config, size: sentences.load(config),
}


def load(config: Config) -> Dataset:
    """Load the configured data set and cut off its validation images.

    The validation part is a stratified share of the official training split, drawn with a seed of its own, so that every run sees
    the same one. `train_images` then keeps a stratified subset of the rest.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: an unreadable image, an empty class, or more training images wanted than there are.
    """
    public = torchvision_sets.SETS.get(config.dataset)
    source = _SOURCES[config.dataset](config, config.image_size or (public.size if public else 32))
    train, validation = cut_off(source.train, config.validation_fraction, rng.generator(0, "validation split"))
    if config.train_images is not None:
        if config.train_images > len(train):
            raise ValueError(f"train_images = {config.train_images} is more than the {len(train)} images of {config.dataset} "
                             "left for training once validation is cut off")
        chosen = stratified(train.labels, len(train), config.train_images, rng.generator(0, "train_images"))
        train = train.select(chosen)
    mean, std = config.mean or source.mean, config.std or source.std
    return Dataset(config.dataset, train, validation, source.test, source.classes, mean, std)
