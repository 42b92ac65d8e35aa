"""The search of the two-view attack: an image and how views come from it, moved together until the views' smashed data are those sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks import crops
from attacks.optimise import Search, descend
from attacks.register import register
from attacks.variation import VARIATIONS
from ssl_split.data.augment import Ranges
from ssl_split.display import Bar

BOX_LR = 0.05
"""Adam's rate of boxes and colours, in unconstrained units."""
COLOURLESS = 0.02
"""Mean distance of the channels from the grey value below which a view is taken for grey, where the other view is not."""
SCALES = (1.0, 0.6, 1.4)
"""Of the box of a view alone, by start: times the one where it most likely lies."""


@dataclass(frozen=True)
class Observed:
    """One tensor of the wire.

    Attributes:
        view: Which of the views it is of, from 0.
        encode: Images in [0, 1] -> smashed data, differentiable.
        z: What was sent, `(n, ...)`.
    """

    view: int
    encode: Callable[[Tensor], Tensor]
    z: Tensor

    def part(self, rows: Tensor) -> Observed:
        """Of some of the images."""
        return replace(self, z=self.z[rows])

    def loss(self, images: Tensor) -> Tensor:
        """Relative feature loss of each image `(n,)`; where nothing was sent, the squared length."""
        distance, length = (v.flatten(1).square().sum(1) for v in (self.encode(images) - self.z, self.z))
        return distance / torch.where(length > 0, length, torch.ones_like(length))


@dataclass(frozen=True)
class Scene:
    """What is searched: n images and how V views come from each.

    Attributes:
        x: `(n, 3, S, S)`.
        free: Unconstrained coordinates of the boxes, `(V, n, 4)`; None where views are whole frames.
        tint: Unconstrained colour factors, `(V, n, 3)`.
        mirrored, colourless: bool `(V, n)`, fixed.
    """

    x: Tensor
    free: Tensor | None
    tint: Tensor
    mirrored: Tensor
    colourless: Tensor

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """In the order of the fields."""
        return self.x, self.free, self.tint, self.mirrored, self.colourless

    def boxes(self, ranges: Ranges) -> Tensor:
        """`(V, n, 4)` in pixels."""
        size = self.x.shape[-1]
        if self.free is None:
            return self.x.new_tensor([0, 0, size, size]).expand(*self.tint.shape[:2], -1)
        return crops.legal(self.free, ranges, size=size)

    def views(self, ranges: Ranges) -> list[Tensor]:
        """The V views of each image, `(n, 3, S, S)` each."""
        if self.free is None:
            return [self.x] * len(self.tint)
        factors = 1 + min(ranges.jitter, 1.0) * self.tint.tanh()
        made = zip(self.boxes(ranges), self.mirrored, factors, self.colourless, strict=True)
        return [crops.coloured(crops.show(self.x, box, mirror), factor, grey) for box, mirror, factor, grey in made]


@dataclass(frozen=True)
class Outcome:
    """Where a search ended: the scene, objective and summed feature loss of each image `(n,)`, whether it still improved."""

    scene: Scene
    objective: Tensor
    loss: Tensor
    improving: bool


@dataclass(frozen=True)
class Joint:
    """The search.

    Attributes:
        ranges: Of the run's views.
        search: Names total variation, its weight and Adam's rate of the pixels.
    """

    ranges: Ranges
    search: Search

    def run(self, scene: Scene, seen: Sequence[Observed], *, steps: int, bar: Bar) -> Outcome:
        """Search from a scene.

        Raises:
            ValueError: the objective is not finite.
        """
        x, free, tint = (None if t is None else t.detach().clone().requires_grad_() for t in (scene.x, scene.free, scene.tint))
        assert x is not None
        assert tint is not None
        now = replace(scene, x=x, free=free, tint=tint)
        objective, loss, improving = descend(lambda: self.objective(now, seen), x, lr=self.search.lr, steps=steps, bar=bar,
                                             further=() if free is None else (free, tint), further_lr=BOX_LR)
        done = replace(now, x=x.detach(), free=None if free is None else free.detach(), tint=tint.detach())
        return Outcome(done, objective, loss, improving)

    def objective(self, scene: Scene, seen: Sequence[Observed]) -> tuple[Tensor, Tensor]:
        """Objective and summed feature loss of each image, `(n,)`."""
        views = scene.views(self.ranges)
        loss = torch.stack([o.loss(views[o.view]) for o in seen]).sum(0)
        return loss + self.search.tv * VARIATIONS[self.search.variation](scene.x), loss

    def alone(self, seen: Sequence[Observed], view: int, mean: Tensor, *, steps: int, bar: Bar) -> Tensor:
        """One view by itself, from the mean of own images: `(n, 3, S, S)`."""
        own = [replace(o, view=0) for o in seen if o.view == view]
        return self.run(whole(mean.expand(len(own[0].z), -1, -1, -1)), own, steps=steps, bar=bar).scene.x

    def from_views(self, pictures: Sequence[Tensor], mean: Tensor, *, start: int, generator: torch.Generator) -> Scene:
        """The scene in which a start continues: boxes, mirroring, grey views, and the pictures of the views pasted.

        Args:
            pictures: Of one or two views, `(n, 3, S, S)` each.
            mean: Mean of own images `(3, S, S)`, where no picture lies.
            start: 0 takes the way of mirroring that agrees best, 1 the other one, further ones boxes that know nothing of each other.
            generator: Of the search for boxes.
        """
        size, count = mean.shape[-1], len(pictures[0])
        boxes = mean.new_tensor([0, 0, size, size]).expand(len(pictures), count, 4)
        mirrored = torch.zeros(len(pictures), count, dtype=torch.bool, device=mean.device)
        if len(pictures) == 2 and start < 2 and self.ranges.smallest < 1:
            ways = (False, True) if self.ranges.flips else (False,)
            found = [register(pictures[0], pictures[1], self.ranges, mirrored=way, generator=generator) for way in ways]
            best = torch.stack([worth for _, worth in found]).argmax(0)
            best = len(ways) - 1 - best if start == 1 else best
            boxes = torch.stack([box for box, _ in found])[best, :, torch.arange(count, device=mean.device)].transpose(0, 1)
            mirrored[1] = best == 1
        boxes = crops.centred(boxes, self.ranges, size=size)
        if len(pictures) == 1:
            boxes = _scaled(boxes, SCALES[start % len(SCALES)], size=size)
        free = crops.coordinates(boxes, self.ranges, size=size)
        pasted = [crops.paste(*v) for v in zip(pictures, crops.legal(free, self.ranges, size=size), mirrored, strict=True)]
        weight = torch.stack([mask for _, mask in pasted]).sum(0)
        x = torch.stack([v * mask for v, mask in pasted]).sum(0) / weight.clamp(min=1)
        tint = mean.new_zeros(len(pictures), count, 3)
        return Scene(torch.where(weight > 0, x, mean), free, tint, mirrored, self._colourless(pictures))

    def _colourless(self, pictures: Sequence[Tensor]) -> Tensor:
        """Which views were made grey: without colours beside one with colours, bool `(V, n)`."""
        distance = torch.stack([(v - crops.grey(v)).abs().mean((1, 2, 3)) for v in pictures])
        return (distance < COLOURLESS) & (distance.amax(0) > 2 * COLOURLESS) & self.ranges.greys


def whole(x: Tensor) -> Scene:
    """Images of which the only view is the whole."""
    no = torch.zeros(1, len(x), dtype=torch.bool, device=x.device)
    return Scene(x, None, x.new_zeros(1, len(x), 3), no, no)


def _scaled(boxes: Tensor, by: float, *, size: int) -> Tensor:
    """Boxes enlarged around their middle, within the frame."""
    sides = (boxes[..., 2:] * by).clamp(max=size)
    start = (boxes[..., :2] + (boxes[..., 2:] - sides) / 2).clamp(min=0).minimum(size - sides)
    return torch.cat([start, sides], -1)
