"""The two-view attack: what MoCo-type training sends of one image are two crops of it, through two encoders; rebuild the image behind both.

    min over x, boxes, colours of  sum_k || f_k(T_k(x)) - z_k ||^2 / || z_k ||^2 + w_tv TV(x)

T_k cuts a box out of the image x (whole frame, in [0, 1]) and enlarges it, mirrors it, changes brightness, contrast and saturation, and may
take the colours away. f_k is the client, of the other view its momentum encoder. One start has three parts:

1. A quarter of its steps: each view by itself, as `optimise` does.
2. No steps: the boxes by comparing these two pictures (`attacks.register`), for either way of mirroring one against the other; grey views
   by their colours. The best pair of boxes is put where it most likely lies in the frame (`crops.centred`), and both pictures are pasted.
3. The other steps: image, boxes and colours together, by Adam. Boxes stay legal for the run's augmentation, colours within its jitter.

Left out of T_k: hue, blur, and the drawn order of the colour steps.

No data can say whether the whole is mirrored, and hardly how large it is and where: moving or mirroring the image and all boxes together
changes no view. The judge therefore also measures beside the image what is free of this (`attacks.pairs`).

Two attackers with one view have the same steps and starts: the same search on the query view alone, and `optimise` of the view itself.

Not published elsewhere; a contribution of this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attacks.api import AttackOptions, Guess
from attacks.blind import mean_image
from attacks.optimise import ARRIVED, BATCH, BUDGETS, TRIED, TRIED_STEPS, Budget, Search
from attacks.scene import Joint, Observed, Outcome, Scene, whole
from attacks.view import CapabilityError, Client, SecondView, View
from ssl_split import rng
from ssl_split.data import augment
from ssl_split.data.augment import Ranges
from ssl_split.display import Bar, progress

ALONE = 0.25
"""Share of a start's steps for each view by itself."""
WEIGHTS = (0.003, 0.01, 0.03, 0.1)
"""Tried for the total variation on views of own images: it also continues the image where no view shows it, so it is never 0."""


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Rebuild the images behind both views, and beside it what one view gives at the same steps and starts.

    Raises:
        CapabilityError: the momentum client is neither known nor can it be guessed.
    """
    client, second = view.weights, view.second
    momentum, known = _momentum(view, client)
    search = Search(client, options.optimise.variation, options.optimise.tv or 0.0, 0.0, options.optimise.lr)
    length = _budget(options)
    seen = [Observed(0, client.smashed, view.smashed), Observed(1, momentum.smashed, view.momentum_view)]
    seen += [Observed(v, (momentum if k else client).smashed, z) for v, k, z in _further(second)]
    mean = mean_image(view.aux.fit)
    chunks = [torch.arange(len(view.smashed), device=mean.device)[i : i + BATCH] for i in range(0, len(view.smashed), BATCH)]
    errors: dict[float, float] = {}
    choosing, tried = options.optimise.tv is None, min(TRIED_STEPS, length.steps)
    total = len(chunks) * length.starts * length.steps * 3 + int(ALONE * length.steps) * length.starts * len(chunks)
    with progress(total + choosing * len(WEIGHTS) * (tried + int(ALONE * tried)), "twoview") as bar:
        if choosing:
            errors = _errors(view, search, (client, momentum), mean, steps=tried, bar=bar)
            search = replace(search, tv=min(errors, key=lambda weight: errors[weight]))
        joint = Joint(second.ranges, search)
        parts = []
        for rows in chunks:
            here = [o.part(rows) for o in seen]
            of_query = [o for o in here if o.view == 0]
            generator = rng.generator(seed, "twoview", int(rows[0]))
            parts.append({"joint": _best(joint, here, mean, length, generator=generator, bar=bar),
                          "one_view": _best(joint, of_query, mean, length, generator=generator, bar=bar),
                          "plain": _plain(joint, of_query, mean, length, generator=generator, bar=bar)})
    notes = {"steps": length.steps, "starts": length.starts, "tv": search.tv, "variation": search.variation,
             "tv_at_edge": bool(errors) and search.tv == WEIGHTS[-1], "validation_mse_by_tv": {f"{k:g}": v for k, v in errors.items()},
             "momentum": "known" if known else "guess", "tensors": len(seen), "left_out": ["hue", "blur", "order of colour steps"]}
    return _guess(parts, second.ranges, notes, tensors={"joint": len(seen), **dict.fromkeys(("one_view", "plain"), len(seen) // 2)})


def _errors(view: View, search: Search, encoders: tuple[Client, Client], mean: Tensor, *, steps: int, bar: Bar) -> dict[float, float]:
    """The joint search's error on own images, of which it makes two views, at each weight of the total variation."""
    own, second = view.aux.validation[:TRIED], view.second
    draws = augment.draw(2 * len(own), rng.generator(0, "twoview own views"))
    made = augment.views((own * 255).round().byte().repeat(2, 1, 1, 1), draws, second.family, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    views = made.clamp(0, 1).unflatten(0, (2, -1))
    with torch.no_grad():
        sent = view.query(views[0]), encoders[1].smashed(views[1])
    seen = [Observed(i, encoder.smashed, z) for i, (encoder, z) in enumerate(zip(encoders, sent, strict=True))]
    errors = {}
    for weight in WEIGHTS:
        joint = Joint(second.ranges, replace(search, tv=weight))
        found = _best(joint, seen, mean, Budget(steps, 1), generator=rng.generator(0, "twoview own boxes"), bar=bar)
        errors[weight] = (found.scene.x - own).square().mean().item()
    return errors


def _momentum(view: View, client: Client) -> tuple[Client, bool]:
    """The momentum client and whether it is known."""
    known = "momentum_weights" in view.capabilities
    module = view.offered("momentum_weights")() if known else client.guess
    if module is None:
        raise CapabilityError(f"the attack {view.attack} needs momentum_weights, which this client does not offer, or several averaged "
                              "clients to guess them from: this run keeps only one checkpoint (--keep-checkpoints)")
    for part in (client.module, module):
        part.requires_grad_(False)
    return replace(client, module=module), known


def _further(second: SecondView) -> list[tuple[int, bool, Tensor]]:
    """View, whether through the momentum client, and smashed data of the tensors that only doubled batches have."""
    if second.client is None or second.momentum is None:
        return []
    return [(1, False, second.client), (0, True, second.momentum)]


def _budget(options: AttackOptions) -> Budget:
    chosen = BUDGETS[options.budget]
    return Budget(options.optimise.steps or chosen.steps, options.optimise.starts or chosen.starts)


def _best(joint: Joint, seen: Sequence[Observed], mean: Tensor, length: Budget, *, generator: torch.Generator, bar: Bar) -> Outcome:
    """Of every image the start with the lowest objective."""
    alone = max(1, int(ALONE * length.steps))
    ends = []
    for start in range(length.starts):
        pictures = [joint.alone(seen, v, mean, steps=alone, bar=bar) for v in sorted({o.view for o in seen})]
        scene = joint.from_views(pictures, mean, start=start, generator=generator)
        ends.append(joint.run(scene, seen, steps=length.steps - alone, bar=bar))
    return _lowest(ends)


def _plain(joint: Joint, seen: Sequence[Observed], mean: Tensor, length: Budget, *, generator: torch.Generator, bar: Bar) -> Outcome:
    """The query view itself, as `optimise` does: from the mean of own images, grey, then noise."""
    shape = (len(seen[0].z), *mean.shape)
    begins = [mean.expand(shape), torch.full_like(mean, 0.5).expand(shape)]
    begins += [torch.rand(shape, generator=generator).to(mean) for _ in range(length.starts - 2)]
    return _lowest([joint.run(whole(begin), seen, steps=length.steps, bar=bar) for begin in begins[: length.starts]])


def _lowest(ends: Sequence[Outcome]) -> Outcome:
    best = torch.stack([end.objective for end in ends]).argmin(0)
    rows = torch.arange(len(best), device=best.device)

    def of(values: Sequence[Tensor | None], *, views: bool) -> Any:
        if values[0] is None:
            return None
        joined = torch.stack([v for v in values if v is not None])
        return joined[best, :, rows].transpose(0, 1) if views else joined[best, rows]

    fields = zip(*(end.scene.tensors for end in ends), strict=True)
    scene = Scene(*(of(values, views=i > 0) for i, values in enumerate(fields)))
    return Outcome(scene, of([e.objective for e in ends], views=False), of([e.loss for e in ends], views=False),
                   any(end.improving for end in ends))


def _guess(parts: Sequence[dict[str, Outcome]], ranges: Ranges, notes: dict[str, Any], *, tensors: Mapping[str, int]) -> Guess:
    """The reconstructions, and for the judge the boxes and views of all three searches."""
    further: dict[str, Tensor] = {}
    for name in ("joint", "one_view", "plain"):
        scenes = [part[name].scene for part in parts]
        further[f"{name}/x"] = torch.cat([s.x for s in scenes])
        further[f"{name}/boxes"] = torch.cat([s.boxes(ranges) for s in scenes], 1)
        further[f"{name}/mirrored"] = torch.cat([s.mirrored for s in scenes], 1)
        further[f"{name}/views"] = torch.cat([torch.stack(s.views(ranges)) for s in scenes], 1)
    losses = {name: torch.cat([part[name].loss for part in parts]) / tensors[name] for name in parts[0]}
    joint = losses["joint"]
    notes |= {"still_improving": any(part["joint"].improving for part in parts), "feature_loss": joint.tolist(),
              "feature_loss_mean": joint.mean().item(), "feature_loss_median": joint.median().item(),
              "arrived": (joint < ARRIVED).double().mean().item(),
              "one_view_feature_loss_mean": losses["one_view"].mean().item(), "plain_feature_loss_mean": losses["plain"].mean().item()}
    return Guess(further["joint/x"], None, notes, further)
