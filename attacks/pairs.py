"""Two random views of every target, as MoCo-type clients send them: the victim that offers both, and the judge of who puts them together.

Smashed data of crops do not say where in the whole they lie, and nothing says whether the whole is mirrored. So the judge measures
three things: the image as it was found; what is inside both crops after the crop of the query view was moved to where it is in truth
(`aligned`); and the views themselves as the attack makes them from its image (`view`), beside the attack on the query view alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks import crops, judge
from attacks.victim import Victim
from attacks.view import Client, OwnImages, SecondView
from ssl_split import quality, rng
from ssl_split.config import Augment
from ssl_split.data import augment
from ssl_split.data.augment import Ranges

WITH_TWO_VIEWS = ("mocosfl", "monacosfl")
"""Algorithms whose clients send two views of every image."""


@dataclass(frozen=True)
class Pair:
    """The truth about the views.

    Attributes:
        views: In [0, 1], `(2, n, 3, S, S)`: of the query, of the key.
        boxes, mirrored: Their crops in pixels `(2, n, 4)`, and whether they are mirrored, bool `(2, n)`.
        family: How they are made, and between what they vary.
    """

    views: Tensor
    boxes: Tensor
    mirrored: Tensor
    family: Augment

    @property
    def ranges(self) -> Ranges:
        """Between what the views vary."""
        return augment.ranges(self.family, size=self.views.shape[-1])


def pair(images: Tensor, draws: Tensor, options: Augment) -> Pair:
    """Two views of images.

    Args:
        images: uint8 `(n, 3, S, S)`.
        draws: `(2, n, DRAWS)`.
        options: The family of views.
    """
    size, both = images.shape[-1], draws.flatten(0, 1)
    made = augment.views(images.repeat(2, 1, 1, 1), both, options, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).clamp(0, 1)
    boxes, mirrored = augment.crops(both, options, size=size)
    return Pair(made.unflatten(0, (2, -1)), boxes.to(made).unflatten(0, (2, -1)), mirrored.to(made.device).unflatten(0, (2, -1)), options)


def drawn(images: Tensor, options: Augment) -> Pair:
    """Two views of images uint8 `(n, 3, S, S)`, drawn with a seed of their own."""
    count = len(images)
    return pair(images, augment.draw(2 * count, rng.generator(0, "two views")).unflatten(0, (2, count)), options)


@dataclass(frozen=True)
class TwoViews(Victim):
    """A client that sends two views of each target.

    Attributes:
        pair: The views.
        sent: What arrived: the first view through the client, the second through the momentum client, and of doubled batches the second
            through the client and the first through the momentum client.
        averaged: The momentum client where the server averages it.
        guess: The momentum client as the server guesses it.
    """

    pair: Pair | None = None
    sent: tuple[Tensor, ...] = ()
    averaged: nn.Module | None = None
    guess: nn.Module | None = None

    def offers(self, targets: Tensor, own: OwnImages, *, aux: str = "aux_same") -> dict[str, Any]:
        """As of any victim, with what arrived of both views."""
        assert self.pair is not None
        found = {**super().offers(targets, own, aux=aux), "smashed": self.sent[0], "momentum_view": self.sent[1],
                 "second_view": SecondView(self.pair.family, self.pair.ranges, *self.sent[2:])}
        if (averaged := self.averaged) is not None:
            found["momentum_weights"] = lambda: copy.deepcopy(averaged).eval()
        return found

    def _weights(self) -> Client:
        return replace(super()._weights(), guess=None if self.guess is None else copy.deepcopy(self.guess).eval())

    def further(self, found: Sequence[Mapping[str, Tensor]], targets: Tensor, blind: Tensor) -> dict[str, Any]:
        """Of the first seed, what is said beside the scores of the image."""
        assert self.pair is not None
        return {"two_views": compared(found[0], self.pair, targets, blind)} if found[0] else {}


def sending(victim: Victim, shown: Pair, encoders: Sequence[nn.Module], *, averaged: nn.Module | None, guess: nn.Module | None) -> TwoViews:
    """A victim that sends these views now.

    Args:
        victim: The client half.
        shown: The views of the targets.
        encoders: The momentum client of each target, or one for all.
        averaged, guess: See `TwoViews`.
    """
    known = {f.name: getattr(victim, f.name) for f in fields(Victim)}
    queries = victim.release(shown.views[0])
    whose = list(encoders) * (len(queries) if len(encoders) == 1 else 1)
    keys = torch.empty_like(queries)
    for encoder in {id(e): e for e in whose}.values():
        rows = torch.tensor([e is encoder for e in whose], device=queries.device)
        keys[rows] = replace(victim, client=encoder).release(shown.views[1][rows], purpose="keys")
    return TwoViews(**known, pair=shown, sent=(queries, keys), averaged=averaged, guess=guess)


def compared(found: Mapping[str, Tensor], truth: Pair, targets: Tensor, blind: Tensor) -> dict[str, Any]:
    """What the judge says of the joint search, of the same with one view, and of the query view alone.

    Args:
        found: `NAME/x`, `/boxes`, `/mirrored`, `/views` of the searches `joint`, `one_view`, `plain`.
        truth: The views.
        targets: The images behind them, `(n, 3, S, S)` in [0, 1].
        blind: The blind guess `(3, S, S)`.
    """
    size = targets.shape[-1]
    masks = torch.stack([crops.paste(v, b, m)[1] for v, b, m in zip(truth.views, truth.boxes, truth.mirrored, strict=True)])
    union = masks.amax(0)
    best = judge.score(blind[None], targets)
    result: dict[str, Any] = {"coverage": union.mean().item(), "query_coverage": masks[0].mean().item(),
                              "overlap_of_crops": crops.overlap(*truth.boxes).mean().item(),
                              "blind_inside_mse": _inside(blind.expand_as(targets), targets, union).mean().item()}
    for name in ("joint", "one_view"):
        x, boxes = found[f"{name}/x"], found[f"{name}/boxes"]
        other = found[f"{name}/mirrored"][0] ^ truth.mirrored[0]
        aligned = crops.moved(x, boxes[0], truth.boxes[0], other)
        scores = judge.score(x, targets)
        result[name] = {"mse": scores.mse.mean().item(), "ssim": scores.ssim.mean().item(), "r2": judge.relative(scores, best)["r2"],
                        "inside": _error(x, targets, union, blind), "aligned": _error(aligned, targets, union, blind),
                        "aligned_query_crop": _error(aligned, targets, masks[0], blind),
                        "box_iou": [crops.overlap(b, t).median().item() for b, t in zip(boxes, truth.boxes, strict=False)]}
    boxes, turned = found["joint/boxes"], found["joint/mirrored"]
    result["joint"] |= {"relative_box_iou": relative_overlap(boxes, turned[0], truth, size=size).median().item(),
                        "mirrored_right": ((turned[0] ^ turned[1]) == (truth.mirrored[0] ^ truth.mirrored[1])).double().mean().item()}
    blank = judge.score(blind[None], truth.views[0])
    for name in ("joint", "one_view", "plain"):
        scores = judge.score(found[f"{name}/views"][0].clamp(0, 1), truth.views[0])
        seen = {"mse": scores.mse.mean().item(), "ssim": scores.ssim.mean().item(), "r2": judge.relative(scores, blank)["r2"]}
        result.setdefault(name, {})["view"] = seen
    return result


def relative_overlap(boxes: Tensor, mirrored: Tensor, truth: Pair, *, size: int) -> Tensor:
    """Intersection over union of the second box with the true one, once the first was moved to its true place, `(n,)`.

    Args:
        boxes: Found, `(2, n, 4)`.
        mirrored: Whether the first view was taken for mirrored, bool `(n,)`.
        truth: The views.
        size: S.
    """
    turned = torch.stack([boxes[..., 0], size - boxes[..., 1] - boxes[..., 3], boxes[..., 2], boxes[..., 3]], -1)
    now = torch.where((mirrored ^ truth.mirrored[0])[None, :, None], turned, boxes)
    scale = truth.boxes[0, :, 2:] / now[0, :, 2:]
    second = torch.cat([(now[1, :, :2] - now[0, :, :2]) * scale + truth.boxes[0, :, :2], now[1, :, 2:] * scale], -1)
    return crops.overlap(second, truth.boxes[1])


def _inside(x: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of each image within a mask `(n, 1, S, S)`, `(n,)`."""
    return ((x - targets).square() * mask).double().sum((1, 2, 3)) / (3 * mask.double().sum((1, 2, 3))).clamp(min=1)


def _error(x: Tensor, targets: Tensor, mask: Tensor, blind: Tensor) -> dict[str, float]:
    """Error within a mask, and R2 against the blind guess there."""
    mine, guess = _inside(x, targets, mask), _inside(blind.expand_as(targets), targets, mask)
    return {"mse": mine.mean().item(), "r2": quality.r2(mine, guess).item()}
