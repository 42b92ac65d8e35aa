"""Which images are attacked and which the attacker owns.

Targets are training images of the clients, a fixed list. The attacker's images come from the official test split, which no client
holds, or from another pool (`attacks.sources`); an image that is also a member or a target, or that comes twice, is dropped by its
content hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.view import OwnImages
from ssl_split import rng
from ssl_split.data.images import Dataset, ImageSet, to_float

TARGET_SEED = AUX_SEED = 0
"""Seeds of their own: the lists depend on the images and on who holds them, not on the run's or the attacker's seed."""
VALIDATION_SHARE = 0.1
GALLERY = 5000
"""Images of the judge beside the targets, at most."""


@dataclass(frozen=True)
class Sets:
    """Targets and the attacker's images.

    Attributes:
        targets: Attacked member images.
        clients: Client of every target, int64 `(n,)`.
        aux: The attacker's images in random order.
        private: Members that are no targets, as many as the attacker has images.
        gallery: Members that are no targets, for the judge.
        record: Counts for the result file.
        notices: Sentences for the user where something was clipped.
    """

    targets: ImageSet
    clients: Tensor
    aux: ImageSet
    private: ImageSet
    gallery: ImageSet
    record: dict[str, int | str]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Pool:
    """What the attacker's images are drawn from.

    Attributes:
        images: All of them.
        name: For the result file; None for the test split.
        exhausted, free: What messages say where there are too few: "the test split holds no more ...", "test images that ...".
        colluders: Clients whose images are neither attacked nor the judge's.
        members: Whether members that are no targets may be the attacker's.
        kind: `aux_same` or `aux_other`.
        notice: A sentence for the user.
    """

    images: ImageSet
    name: str | None
    exhausted: str
    free: str
    colluders: tuple[int, ...] = ()
    members: bool = False
    kind: str = "aux_same"
    notice: str | None = None


def default_pool(dataset: Dataset) -> Pool:
    """The test split."""
    return Pool(dataset.test, None, "the test split holds no more that no client has", "test images that no client holds")


def choose(dataset: Dataset, parts: Sequence[Tensor], *, targets: int, aux: int, aux_given: bool = True,
           attacked: tuple[Tensor, Tensor] | None = None, pool: Pool | None = None) -> Sets:
    """Draw targets and the attacker's images.

    Args:
        dataset: The run's images.
        parts: Indices into `dataset.train` of every client's images.
        targets: Wanted number of targets.
        aux: Wanted number of the attacker's images.
        aux_given: Whether a person asked for this number, and is told if there are fewer.
        attacked: The targets where they are known, all different: indices into `dataset.train` and clients; None draws them.
        pool: What the attacker's images are drawn from; None for the test split.

    Raises:
        ValueError: too few images to attack or to attack with.
    """
    source = pool or default_pool(dataset)
    order, clients = target_order(dataset.train.labels, parts)
    if attacked is not None:
        rest = ~torch.isin(order, attacked[0])
        order, clients = torch.cat([attacked[0], order[rest]]), torch.cat([attacked[1], clients[rest]])
    innocent = ~torch.isin(clients, torch.tensor(source.colluders, dtype=torch.int64))
    order, clients = order[innocent], clients[innocent]
    digests = dataset.train.select(order).digests()
    keep = distinct(digests, ())
    chosen = order[keep][:targets]
    own = torch.randperm(len(source.images), generator=rng.generator(AUX_SEED, "aux"))
    hashes = source.images.select(own).digests()
    held = {digests[place] for place in (keep[:targets].tolist() if source.members else range(len(digests)))}
    free = distinct(hashes, held)
    shared = sum(digest in held for digest in hashes)
    if len(chosen) < 2 or len(free) < 2:
        raise ValueError(f"{dataset.name} leaves {len(chosen)} images to attack and {len(free)} to attack with ({source.free}): at least "
                         "2 of each are needed")
    notices = [source.notice] if source.notice else []
    if len(chosen) < targets:
        notices.append(f"only {len(chosen)} of the {targets} targets exist: the clients hold no more different images")
    if len(free) < aux and aux_given:
        notices.append(f"only {len(free)} of the {aux} images for the attacker exist: {source.exhausted}")
    found = source.images.select(own[free[:aux]])
    dropped = "aux_dropped_targets" if source.members else "aux_dropped_members"
    record: dict[str, int | str] = {"targets_wanted": targets, "targets": len(chosen), "aux_wanted": aux, "aux": len(found),
                                    "aux_available": len(free), dropped: shared, "aux_dropped_repeated": len(own) - len(free) - shared}
    if source.name is not None:
        record["aux_from"] = source.name
    owned = {hashes[place] for place in free[:aux].tolist()} if source.members else set()
    rest = torch.tensor([place for place in keep[len(chosen):].tolist() if digests[place] not in owned], dtype=torch.int64)
    private = dataset.train.select(order[rest[:aux]])
    gallery = dataset.train.select(order[rest[:GALLERY]])
    return Sets(dataset.train.select(chosen), clients[keep][:targets], found, private, gallery, record, tuple(notices))


def target_order(labels: Tensor | None, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All members, in the order in which they become targets: clients take turns, and a client's classes take turns.

    Args:
        labels: int64 labels of the training images, or None.
        parts: Indices of every client's images.

    Returns:
        Indices into the training images and the client of each, `(members,)`. A prefix of any length is balanced.
    """
    generator = rng.generator(TARGET_SEED, "targets")
    place_of = torch.randperm(len(parts), generator=generator).tolist()
    rows: list[tuple[int, int, int, int]] = []
    for client, part in enumerate(parts):
        mixed = part[torch.randperm(len(part), generator=generator)]
        classes = [0] * len(mixed) if labels is None else labels[mixed].tolist()
        first = torch.randperm(max(classes, default=0) + 1, generator=generator).tolist()
        met: Counter[int] = Counter()
        order = []
        for image, c in zip(mixed.tolist(), classes, strict=True):
            order.append((met[c], first[c], image))  # round, the class's place in a round, image
            met[c] += 1
        rows += [(turn, place_of[client], image, client) for turn, (_, _, image) in enumerate(sorted(order))]
    rows.sort()
    return torch.tensor([r[2] for r in rows], dtype=torch.int64), torch.tensor([r[3] for r in rows], dtype=torch.int64)


def distinct(digests: Sequence[str], forbidden: Sequence[str] | set[str]) -> Tensor:
    """Places of the first image of every hash that is not forbidden, int64."""
    seen = set(forbidden)
    keep = []
    for place, digest in enumerate(digests):
        if digest not in seen:
            seen.add(digest)
            keep.append(place)
    return torch.tensor(keep, dtype=torch.int64)


def split(aux: Tensor) -> OwnImages:
    """The attacker's images in [0, 1], every tenth (at least one) of them for validation.

    Args:
        aux: `(n, 3, S, S)`, uint8 or floats in [0, 1], n at least 2.
    """
    images = to_float(aux) if aux.dtype == torch.uint8 else aux
    held = held_out(len(images))
    return OwnImages(images[~held], images[held])


def held_out(count: int) -> Tensor:
    """Which of the attacker's images serve for validation, bool `(count,)`; count at least 2."""
    every = max(2, min(round(1 / VALIDATION_SHARE), count))
    return torch.arange(count) % every == every - 1


def shared(first: Tensor, second: Tensor) -> list[int]:
    """Places in `second` of images that `first` contains, by content at 8 bits; floats in [0, 1], `(n, 3, S, S)`."""
    def digests(images: Tensor) -> list[str]:
        return ImageSet((images.detach() * 255).round().byte()).digests()

    known = set(digests(first))
    return [i for i, digest in enumerate(digests(second)) if digest in known]


def refuse_shared(targets: Tensor, aux: Tensor, *, name: str = "auxiliary images") -> None:
    """Check that no image of another set is a target, by content at 8 bits.

    Raises:
        ValueError: it says how many are, and which is the first.
    """
    found = shared(targets, aux)
    if found:
        raise ValueError(f"{len(found)} of the {len(aux)} {name} are targets (the first is image {found[0]}): an attacker "
                         "who owns the target needs no attack; take them out")
