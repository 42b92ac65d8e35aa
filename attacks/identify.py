"""What a reconstruction gives away besides its pixels: whose it is among many, and what it shows.

Identification: the nearest neighbour of a reconstruction is looked for in a gallery of its target and G distractors (the other targets, and
images that neither the attack nor the targets contain). By pixels, and by what the attacked client itself makes of images, averaged over
places. Guessing finds the target once in G + 1.

Classification: a classifier that the judge trains on other real images with labels (`recogniser.py`) is asked what the reconstructions
show, beside what it says of the true targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks import recogniser, sets
from probes.statistics import wilson

DISTRACTORS = 1000
"""Gallery images beside the targets, at most."""
JUDGED_WITH = 5000
"""Images that train the judge's classifier, at most."""
RANKS = (1, 5)
_BLOCK = 256

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gallery:
    """What the judge has besides the targets; no attack sees it.

    Attributes:
        images: Further images in [0, 1], `(g, 3, S, S)`, none of them a target or the attacker's; g may be 0.
        labels: Of these images, int64 `(g,)`, or None.
        target_labels: Of the targets, int64 `(n,)`, or None.
        folder: Where the judge keeps its classifier of these images; None trains it anew.
    """

    images: Tensor
    labels: Tensor | None = None
    target_labels: Tensor | None = None
    folder: Path | None = None

    def check(self, targets: Tensor, aux: Tensor) -> None:
        """Check that images and labels belong together and that the attacker has none of the gallery.

        Raises:
            ValueError: they do not, or it has.
        """
        for name, labels, images in (("gallery images", self.labels, self.images), ("targets", self.target_labels, targets)):
            if labels is not None and len(labels) != len(images):
                raise ValueError(f"there are {len(images)} {name} and {len(labels)} labels of them")
        if len(self.images):
            shared = sets.shared(self.images, aux)
            if shared:
                raise ValueError(f"{len(shared)} of the {len(aux)} auxiliary images are in the judge's gallery (the first is image "
                                 f"{shared[0]}): the attacker must not have them; take them out of one")


@dataclass(frozen=True)
class Rate:
    """A share of the targets with its Wilson 95 % interval; several attacker seeds count as their mean."""

    share: float
    low: float
    high: float

    @staticmethod
    def of(hits: Tensor) -> Rate:
        """From hits in [0, 1], `(n,)`."""
        share = hits.double().mean().item()
        low, high = wilson(round(share * len(hits)), len(hits))
        return Rate(share, min(low, share), max(high, share))

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"rate": self.share, "low": self.low, "high": self.high}


def identification(found: Sequence[Tensor], targets: Tensor, gallery: Gallery, *, features: Features) -> dict[str, Any]:
    """How often a reconstruction is nearest to its own target.

    Args:
        found: Reconstructions `(n, 3, S, S)`, one tensor for every attacker seed.
        targets: The truth, `(n, 3, S, S)`.
        gallery: Distractors.
        features: Images -> smashed data of the attacked client.

    Returns:
        `gallery` (its size, G + 1), `chance_top1`, `chance_top5`, and under `pixels` and `features` the rates `top1` and `top5`.
    """
    everybody = torch.cat([targets, gallery.images[:DISTRACTORS].to(targets)])
    seeds = [images.to(targets) for images in found]
    result: dict[str, Any] = {"gallery": len(everybody)} | {f"chance_top{k}": min(1.0, k / len(everybody)) for k in RANKS}
    for name, space in (("pixels", small), ("features", lambda images: pooled(features(images)))):
        rows, *mine = (torch.cat([space(part) for part in images.split(_BLOCK)]) for images in (everybody, *seeds))
        if name == "features":  # channels differ in scale, pixels do not
            std = rows.std(0)
            scale = torch.where(std > 1e-6 * std.max(), std, torch.inf)
            rows, mine = rows / scale, [values / scale for values in mine]
        hits = {k: torch.stack([rank_hits(values, rows, k) for values in mine]).mean(0) for k in RANKS}
        result[name] = {f"top{k}": Rate.of(values).to_dict() for k, values in hits.items()}
    return result


def small(images: Tensor) -> Tensor:
    """Pixels as rows, averaged to at most 32x32 places."""
    return F.adaptive_avg_pool2d(images, min(recogniser.SIDE, images.shape[-1])).flatten(1)


def pooled(z: Tensor) -> Tensor:
    """Smashed data `(n, ...)` as rows `(n, d)`, averaged over places: maps `(n, C, H, W)`, tokens `(n, tokens, d)`, vectors as they are."""
    return z.float().flatten(2).mean(2) if z.dim() == 4 else z.float().mean(1) if z.dim() == 3 else z.float().flatten(1)


def rank_hits(rows: Tensor, gallery: Tensor, k: int) -> Tensor:
    """Whether row i of `rows` has row i of `gallery` among its k nearest (Euclidean), `(n,)`.

    Several at one distance share the places: a client that says the same of every image gets what guessing gets.
    """
    distance = torch.cdist(rows.double(), gallery.double(), compute_mode="donot_use_mm_for_euclid_dist")  # (n, G + 1)
    own = distance.diagonal()[:, None]
    slack = 1e-9 * distance.max()
    nearer = (distance < own - slack).sum(1)
    level = ((distance - own).abs() <= slack).sum(1)  # with the target itself
    return ((k - nearer) / level).clamp(0, 1).double().cpu()


def classification(found: Sequence[Tensor], targets: Tensor, gallery: Gallery) -> dict[str, Any] | None:
    """What a classifier says of reconstructions.

    Args:
        found: Reconstructions `(n, 3, S, S)`, one tensor for every attacker seed.
        targets: The truth.
        gallery: Labels of the targets and labelled images for training.

    Returns:
        `reconstructions` and `true_targets` (each `rate`, `low`, `high`), `chance` (share of the commonest class among the targets),
        `trained_on`, `classes`; None without labels or with fewer than two classes of images to train on.
    """
    if gallery.labels is None or gallery.target_labels is None:
        return None
    labels, truth = gallery.labels[:JUDGED_WITH].cpu(), gallery.target_labels.cpu()
    classes = len(labels.unique())
    if classes < 2 or len(labels) < 10:
        return None
    judge = recogniser.kept(gallery.folder, gallery.images[:JUDGED_WITH], labels)
    said = [judge.says(images) for images in (targets, *found)]
    hits = torch.stack([guess == truth for guess in said[1:]]).double().mean(0)
    return {
        "reconstructions": Rate.of(hits).to_dict(), "true_targets": Rate.of((said[0] == truth).double()).to_dict(),
        "chance": (torch.bincount(truth).max() / len(truth)).item(), "trained_on": len(labels), "classes": classes,
    }
