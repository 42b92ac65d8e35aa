"""The user's own pictures in a folder."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_split import rng
from ssl_split.config import Config
from ssl_split.data import cache
from ssl_split.data.decode import EXTENSIONS, decode
from ssl_split.data.imageset import ImageSet, Source, cut_off
from ssl_split.display import progress
from ssl_split.locks import once

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PATIENCE_SECONDS = 2.0
"""Decoding that takes longer shows its progress."""
_BLOCK = 64
"""Pictures that one task of a thread decodes."""


@dataclass(frozen=True)
class Listing:
    """Picture files of one split, in name order.

    Attributes:
        files: All pictures.
        classes: Class names, sorted; empty for a flat folder.
        labels: Class index of every file; empty for a flat folder.
    """

    files: tuple[Path, ...]
    classes: tuple[str, ...]
    labels: tuple[int, ...]


def load(config: Config, size: int) -> Source:
    """Pictures from `train/<class>/` and, where there is one, `test/<class>/` under `data_dir`.

    Without `test/`, a fixed fifth of every class is set aside. Without `train/`, the folder itself is the training split.
    Pictures that lie in no class folder make a set without labels.

    Args:
        config: `data_dir` is the folder, `threads` the number of decoding threads (0: all cores).
        size: Pixels per side.

    Raises:
        FileNotFoundError: no such folder, or no pictures in it.
        ValueError: an empty class, classes only the test split has, or an unreadable picture.
    """
    if config.data_dir is None:
        raise ValueError("dataset imagefolder needs --data-dir DIR with pictures in DIR/train/<class>/ and, if you like, "
                         "in DIR/test/<class>/")
    root = Path(config.data_dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"the data directory {root} does not exist")
    train = scan(root / "train" if (root / "train").is_dir() else root)
    test = scan(root / "test") if (root / "train").is_dir() and (root / "test").is_dir() else None
    images = _pixels(root, [*train.files, *(test.files if test else ())], size, threads=config.threads)
    whole = _image_set(images[: len(train.files)], train.labels)
    if test is None:
        whole, rest = cut_off(whole, 0.2, rng.generator(0, "imagefolder test split"))
    else:
        rest = _image_set(images[len(train.files) :], _relabel(root / "test", train, test))
    return Source(whole, rest, train.classes, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def scan(folder: Path) -> Listing:
    """The pictures of one split; hidden files and files that are no pictures are passed over.

    Raises:
        FileNotFoundError: no pictures at all.
        ValueError: a class folder without pictures, or pictures beside class folders.
    """
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    loose = [p for p in entries if p.is_file() and p.suffix.lower() in EXTENSIONS]
    folders = [p for p in entries if p.is_dir()]
    if not folders:
        if not loose:
            raise FileNotFoundError(f"there are no pictures in {folder} (endings that count: {' '.join(sorted(EXTENSIONS))})")
        return Listing(tuple(loose), (), ())
    if loose:
        raise ValueError(f"{folder} has class folders and also pictures beside them, such as {loose[0].name}: move them")
    files: list[Path] = []
    labels: list[int] = []
    for label, inner in enumerate(folders):
        found = _pictures(inner)
        if not found:
            raise ValueError(f"the class folder {inner} has no pictures: remove it or fill it")
        files += found
        labels += [label] * len(found)
    return Listing(tuple(files), tuple(p.name for p in folders), tuple(labels))


def _pictures(folder: Path) -> list[Path]:
    """All pictures below a class folder, sub-folders included (Tiny-ImageNet has `images/` in every class)."""
    found: list[Path] = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in EXTENSIONS]
    return sorted(found)


def _relabel(folder: Path, train: Listing, test: Listing) -> tuple[int, ...]:
    """Test labels as indices into the training classes."""
    if bool(train.classes) != bool(test.classes):
        flat, deep = ("train", "test") if test.classes else ("test", "train")
        raise ValueError(f"in {folder.parent}, {deep} has class folders and {flat} has none: both splits need the same layout")
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise ValueError(f"{folder} has classes that train lacks: {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}")
    index = {name: i for i, name in enumerate(train.classes)}
    return tuple(index[test.classes[label]] for label in test.labels)


def _image_set(images: Tensor, labels: Sequence[int]) -> ImageSet:
    return ImageSet(images, torch.tensor(labels, dtype=torch.int64) if labels else None)


def _pixels(root: Path, files: Sequence[Path], size: int, *, threads: int) -> Tensor:
    """Pictures as uint8 (n, 3, size, size), from the cache where they have not changed."""
    name = cache.key(root, files, size)

    def make() -> Tensor:
        images = decode_all(files, size, threads=threads)
        cache.write(name, images)
        return images

    return once(cache.path(name), lambda: cache.read(name, (len(files), 3, size, size)), make)


def decode_all(files: Sequence[Path], size: int, *, threads: int = 0) -> Tensor:
    """Decode pictures in parallel (Pillow releases the interpreter's lock), uint8 (n, 3, size, size)."""
    images = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
    pixels = images.numpy()

    def decode_some(first: int) -> int:
        some = files[first : first + _BLOCK]
        for i, file in enumerate(some, first):
            pixels[i] = decode(file, size).transpose(2, 0, 1)
        return len(some)

    start = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # damaged metadata does not harm the pixels
        bar, done = None, 0
        for count in pool.map(decode_some, range(0, len(files), _BLOCK)):
            done += count
            if bar is not None:
                bar.advance(count)
            elif time.monotonic() - start > _PATIENCE_SECONDS:
                bar = stack.enter_context(progress(len(files), "decoding pictures"))
                bar.advance(done)
    return images
