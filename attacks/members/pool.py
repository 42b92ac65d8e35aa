"""Which images are asked about, and which the attacker owns.

Members are training images of the clients, balanced over clients and classes. Non-members are from the first half of the official test
split, in the members' class proportions; the attacker's images (shadow, reference, calibration) are the second half. No two of these share
an image by content. Members and non-members lie in one list in random order, so an attack treats both with the same code, and the place
of an image says nothing; only the judge has the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks import sets
from ssl_split import rng
from ssl_split.config import Augment
from ssl_split.data import augment
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.data.images import to_float as to_float

HALVES_SEED = ORDER_SEED = 0
"""Seeds of their own: the sets depend on the images and on who holds them alone."""
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class MemberSets:
    """What is asked about and what the attacker owns.

    Attributes:
        candidates: Members and non-members in random order.
        truth: Which of them are members, bool `(n,)`; for the judge alone.
        own: The attacker's images in random order.
        record: Counts for the result file.
        notices: Sentences for the user where something was clipped.
    """

    candidates: ImageSet
    truth: Tensor
    own: ImageSet
    record: dict[str, int]
    notices: tuple[str, ...]


def choose(dataset: Dataset, parts: Sequence[Tensor], *, members: int, nonmembers: int | None = None) -> MemberSets:
    """Draw members, non-members and the attacker's images.

    Args:
        dataset: The run's images.
        parts: Indices into `dataset.train` of every client's images.
        members: Wanted number of members.
        nonmembers: Wanted number of non-members; None for all that match the members' classes.

    Raises:
        ValueError: too few images on either side.
    """
    held = set(dataset.train.select(torch.cat(list(parts))).digests())
    order, _ = sets.target_order(dataset.train.labels, parts)
    kept = order[sets.distinct(dataset.train.select(order).digests(), ())]
    inside = dataset.train.select(kept[:members])
    mixed = torch.randperm(len(dataset.test), generator=rng.generator(HALVES_SEED, "membership halves"))
    free = mixed[sets.distinct(dataset.test.select(mixed).digests(), held)]
    first, own = free[: len(free) // 2], dataset.test.select(free[len(free) // 2 :])
    matching = first[matched(None if dataset.test.labels is None else dataset.test.labels[first], inside.labels, len(first), nonmembers)]
    outside = dataset.test.select(matching)
    if min(len(inside), len(outside), len(own)) < 2:
        raise ValueError(f"{dataset.name} leaves {len(inside)} members, {len(outside)} non-members of their classes and {len(own)} images "
                         "for the attacker: at least 2 of each are needed")
    notices = []
    if len(inside) < members:
        notices.append(f"only {len(inside)} of the {members} members exist: the clients hold no more different images")
    if nonmembers is not None and len(outside) < nonmembers:
        notices.append(f"only {len(outside)} of the {nonmembers} non-members exist: half of the test split holds no more in the members' "
                       "class proportions")
    record = {"members_wanted": members, "members": len(inside), "nonmembers_wanted": nonmembers or len(outside),
              "nonmembers": len(outside), "own": len(own), "test_dropped": len(mixed) - len(free)}
    candidates, truth = mix(inside, outside)
    return MemberSets(candidates, truth, own, record, tuple(notices))


def matched(labels: Tensor | None, members: Tensor | None, count: int, wanted: int | None) -> Tensor:
    """The places of images whose classes have the proportions of the members', as many as there are or as wanted, ascending.

    Args:
        labels: int64 `(count,)` of the images to choose from.
        members: int64 labels of the members; either None: all images match.
        count: Images to choose from.
        wanted: Most images.
    """
    if labels is None or members is None:
        return torch.arange(count)[:wanted]
    classes = int(torch.cat([labels, members]).max()) + 1
    shares = torch.bincount(members, minlength=classes).double() / len(members)
    held = torch.bincount(labels, minlength=classes).double()
    total = float((held[shares > 0] / shares[shares > 0]).min())
    total = min(total, float(wanted)) if wanted is not None else total
    take = (shares * total + 1e-9).floor().long()
    rank = torch.zeros(count, dtype=torch.int64)
    for c in range(classes):
        here = (labels == c).nonzero().flatten()
        rank[here] = torch.arange(len(here))
    return (rank < take[labels]).nonzero().flatten()


def mix(members: ImageSet, nonmembers: ImageSet) -> tuple[ImageSet, Tensor]:
    """One list in random order, and which of it are members."""
    images = torch.cat([members.images, nonmembers.images])
    labelled = members.labels is not None and nonmembers.labels is not None
    labels = torch.cat([members.labels, nonmembers.labels]) if labelled else None  # type: ignore[list-item]
    order = torch.randperm(len(images), generator=rng.generator(ORDER_SEED, "membership order"))
    return ImageSet(images, labels).select(order), (torch.arange(len(images)) < len(members))[order]


def refuse_sizes(named: dict[str, ImageSet]) -> None:
    """Check that all sets have images of one size.

    Raises:
        ValueError: it says which two differ.
    """
    (first, images), *others = named.items()
    for name, other in others:
        if other.images.shape[1:] != images.images.shape[1:]:
            one, two = ("x".join(map(str, s.images.shape[1:])) for s in (images, other))
            raise ValueError(f"{first} have {one} and {name} {two} numbers: all images must be of one size")


def refuse_shared(named: dict[str, ImageSet]) -> None:
    """Check that no two sets share an image by content.

    Raises:
        ValueError: it says which two do, and how many images.
    """
    names = list(named)
    hashes = {name: set(images.digests()) for name, images in named.items()}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if shared := len(hashes[one] & hashes[other]):
                raise ValueError(f"{shared} image{'s are' if shared > 1 else ' is'} both among the {one} and among the {other}: membership "
                                 "would have two answers")


def views(images: Tensor, options: Augment, *, count: int, seed: int, first: int = 0, purpose: str = "membership views") -> Tensor:
    """Random views; image i's depend on the image, the seed and its place `first + i` alone.

    Args:
        images: uint8 `(n, 3, S, S)`.
        options: The family of views.
        count: m, views of each image.
        seed: Of the views.
        first: Place of the first image in its list.
        purpose: Names the list.

    Returns:
        float32 `(n m, 3, S, S)` in [0, 1], an image's views one after another.
    """
    draws = torch.cat([augment.draw(count, rng.generator(seed, purpose, first + i)) for i in range(len(images))])
    made = augment.views(images.repeat_interleave(count, 0), draws, options, mean=ZERO, std=ONE)
    return made.clamp_(0, 1)


def blocks(count: int, size: int) -> list[slice]:
    """Consecutive places, `size` at a time."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def rows(images: Tensor, compute: Callable[[Tensor, int], dict[str, Tensor]], *, size: int) -> dict[str, Tensor]:
    """`compute(block of images, place of its first)` for all images, joined by name."""
    found = [compute(images[block], block.start) for block in blocks(len(images), size)]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}
