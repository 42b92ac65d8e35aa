"""Gradient matching: the images whose smashed data and whose weight gradient are those that were seen.

The server knows the gradient g_z that it returned, the client's weights W and the client's update dW. One local step gives
dW = -lr J_W(x)^T g_z: no label and no loss is needed to compute it from a candidate x. Minimises, for every batch by itself,

    mean_b || f(x_b) - z_b ||^2 / || z_b ||^2  +  w_g || dW(x) - dW ||^2 / || dW ||^2  +  mean_b (w_tv TV(x_b) + w_2 mean x_b^2)

by Adam on the pixels, which stay in [0, 1]. At w_g = 0 it is the feature matching of `attacks.optimise`. Where the first layer is linear
with a bias and the batch one image, dW / db of that layer is its input (Phong et al. 2018), and one start begins there.

Sources: Zhu et al., NeurIPS 2019; Geiping et al., NeurIPS 2020; that g_z stands in for label and loss is particular to split learning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.api import Guess
from attacks.optimise import ARRIVED, BATCH, GAIN, Search
from attacks.step import Deltas, Half
from attacks.view import View
from ssl_split import rng
from ssl_split.display import Bar, progress

NEEDS = ("weight_deltas", "weights", "gradient_view", "smashed")
COST, SOURCE = "minutes to hours", "Zhu et al. 2019, Geiping et al. 2020, with g_z instead of the label"
HELD_BYTES = 2**30
"""Weight gradients of the batches that are searched side by side, with what a second backward pass keeps of them."""
COPIES = 8
"""Copies of a weight gradient that a step holds: itself, the optimiser's, and those of the second backward pass."""
CLOSED = "first layer"


@dataclass(frozen=True)
class Evidence:
    """What was seen of `p` batches.

    Attributes:
        z, g: Smashed data and the gradient sent back, `(p, B, ...)`.
        deltas: The clients' updates.
    """

    z: Tensor
    g: Tensor
    deltas: Deltas

    def part(self, rows: slice) -> Evidence:
        """Some of the batches."""
        return Evidence(self.z[rows], self.g[rows], self.deltas.part(rows))


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        images: `(p, B, 3, S, S)` in [0, 1].
        objective, match: `(p,)`; `match` is the relative squared distance of the updates.
        feature: Relative squared distance of the smashed data, `(p, B)`.
        improving: Whether the last tenth of the steps still lowered the mean objective by more than 1 %.
    """

    images: Tensor
    objective: Tensor
    match: Tensor
    feature: Tensor
    improving: bool


@dataclass(frozen=True)
class Matching:
    """What is minimised, and how.

    Attributes:
        half: The client half.
        priors: Client, weights of the priors, and Adam's rate.
        weight: w_g; at 0 the updates are not looked at.
    """

    half: Half
    priors: Search
    weight: float

    def losses(self, x: Tensor, seen: Evidence, *, matched: bool = True) -> tuple[Tensor, Tensor]:
        """Feature loss `(p, B)` and match loss `(p,)` of images `(p, B, 3, S, S)`; without `matched` the second is 0."""
        if matched:
            z, gradients = self.half.pull(x, seen.g)
            match = seen.deltas.explained(self.half.weights, gradients)
        else:
            z, match = self.half.forward(x), x.new_zeros(len(x))
        distance = (z - seen.z).flatten(2).square().sum(2)
        length = seen.z.flatten(2).square().sum(2)
        return distance / torch.where(length > 0, length, torch.ones_like(length)), match

    def objective(self, x: Tensor, feature: Tensor, match: Tensor) -> Tensor:
        """Of each batch, `(p,)`."""
        priors = self.priors.priors(x.flatten(0, 1)).view_as(feature)
        return feature.mean(1) + self.weight * match + priors.mean(1)

    def run(self, start: Tensor, seen: Evidence, *, steps: int, bar: Bar) -> Found:
        """From one start `(p, B, 3, S, S)`; a batch whose start was better than its end keeps the start, for Adam leaves even an exact one.

        Raises:
            ValueError: the objective is not finite.
        """
        x = start.clone().requires_grad_()
        optimiser, lr, before = torch.optim.Adam([x], self.priors.lr), self.priors.lr, math.inf
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            feature, match = self.losses(x, seen, matched=self.weight > 0)
            objective = self.objective(x, feature, match)
            (x.grad,) = torch.autograd.grad(objective.sum(), x)  # batches do not see each other
            optimiser.step()
            with torch.no_grad():
                x.clamp_(0, 1)
            if step == int(0.9 * steps):
                before = objective.mean().item()
            bar.advance(feature_loss=feature.mean().item(), match_loss=match.mean().item())
        end, begun = self._rated(x.detach(), seen), self._rated(start, seen)
        if not bool(torch.isfinite(end.objective).all()):
            raise ValueError("the search diverged: set a lower --lr")
        improving = end.objective.mean().item() < (1 - GAIN) * before
        return replace(_chosen([end, begun], torch.stack([end.objective, begun.objective]).argmin(0)), improving=improving)

    @torch.no_grad()
    def _rated(self, x: Tensor, seen: Evidence) -> Found:
        feature, match = self.losses(x, seen)
        return Found(x, self.objective(x, feature, match), match, feature, False)

    def best(self, starts: Sequence[Tensor], seen: Evidence, *, steps: int, bar: Bar) -> tuple[Found, Tensor]:
        """Of every batch the end with the lowest objective, and from which start it came, `(p,)`."""
        ends = [self.run(start, seen, steps=steps, bar=bar) for start in starts]
        best = torch.stack([end.objective for end in ends]).argmin(0)
        return _chosen(ends, best), best


def _chosen(ends: Sequence[Found], best: Tensor) -> Found:
    """Of every batch one of the ends, by its number `(p,)`."""
    at = torch.arange(len(best), device=best.device)

    def of(name: str) -> Tensor:
        return torch.stack([getattr(end, name) for end in ends])[best, at]

    return Found(of("images"), of("objective"), of("match"), of("feature"), any(end.improving for end in ends))


@dataclass(frozen=True)
class Plan:
    """How long and from where.

    Attributes:
        steps, starts: Steps of a start, and starts beside the closed form.
        size: Side of the images, S.
        batch: Images of a step, B.
        seed: Of the noise.
    """

    steps: int
    starts: int
    size: int
    batch: int
    seed: int


def attack(view: View, matching: Matching, plan: Plan) -> Guess:
    """Search every batch from every start; the images come in the order of the smashed data."""
    deltas: Deltas = view.offered("weight_deltas")
    z, g = (values.unflatten(0, (-1, plan.batch)) for values in (view.smashed, view.offered("gradient_view")))
    seen = Evidence(z, g, deltas)
    half, count = matching.half, len(z)
    named = starts(half, seen, plan, closed=matching.weight > 0)
    chunk = max(1, min(BATCH // plan.batch, HELD_BYTES // max(1, COPIES * half.weights.numel() * half.weights.element_size())))
    places = [slice(at, min(at + chunk, count)) for at in range(0, count, chunk)]
    found, chosen = [], []
    with progress(len(named) * plan.steps * len(places), "gradient matching" if matching.weight else "feature matching") as bar:
        for rows in places:
            end, best = matching.best([start[rows] for _, start in named], seen.part(rows), steps=plan.steps, bar=bar)
            found.append(end)
            chosen.append(best)
    feature, match = torch.cat([end.feature for end in found]).flatten(), torch.cat([end.match for end in found])
    best = torch.cat(chosen)
    notes = {
        "steps": plan.steps, "starts": [name for name, _ in named], "gradient_weight": matching.weight, "tv": matching.priors.tv,
        "variation": matching.priors.variation, "still_improving": any(end.improving for end in found),
        "feature_loss": feature.tolist(), "feature_loss_mean": feature.mean().item(), "feature_loss_median": feature.median().item(),
        "match_loss": match.tolist(), "match_loss_mean": match.mean().item(), "match_loss_median": match.median().item(),
        "arrived": (feature < ARRIVED).double().mean().item(), "arrived_gradient": (match < ARRIVED).double().mean().item(),
        "best_start": {name: int((best == i).sum()) for i, (name, _) in enumerate(named)},
    }
    return Guess(torch.cat([end.images for end in found]).flatten(0, 1), None, notes)


def starts(half: Half, seen: Evidence, plan: Plan, *, closed: bool) -> list[tuple[str, Tensor]]:
    """Starts by name: the closed form where there is one (and the gradient may be used), grey, then noise."""
    shape = (len(seen.z), plan.batch, 3, plan.size, plan.size)
    grey = torch.full(shape, 0.5, dtype=seen.z.dtype, device=seen.z.device)
    made = [("grey", grey)]
    for i in range(plan.starts - 1):
        drawn = torch.rand(shape, generator=rng.generator(plan.seed, "gradient matching", i))
        made.append((f"noise {i + 1}", drawn.to(grey)))
    known = first_layer(half, seen.deltas, plan) if closed and plan.batch == 1 else None
    return made if known is None else [(CLOSED, known), *made]


def first_layer(half: Half, deltas: Deltas, plan: Plan) -> Tensor | None:
    """The input of a linear first layer with bias, from its own update: row i of dW is db_i x (Phong et al. 2018).

    Returns:
        Images `(p, 1, 3, S, S)` in [0, 1], or None where the client does not begin so, or its steps are not proportional to gradients.
    """
    layer = next((part for part in half.module.modules() if any(True for _ in part.parameters(recurse=False))), None)
    sizes = 3 * plan.size * plan.size
    fits = isinstance(layer, nn.Linear) and layer.bias is not None and layer.in_features == sizes
    if not fits or deltas.step.optimiser.kind in ("adam", "adamw"):
        return None
    assert isinstance(layer, nn.Linear)
    change = deltas.change - deltas.idle(half.weights)  # proportional to G
    weight, bias = (change[:, part] for part in _places(half, layer))
    weight = weight.unflatten(1, (layer.out_features, sizes))
    strongest = bias.abs().argmax(1)
    at = torch.arange(len(change), device=change.device)
    divisor = bias[at, strongest]
    inputs = weight[at, strongest] / torch.where(divisor == 0, torch.ones_like(divisor), divisor)[:, None]
    shape = (3, plan.size, plan.size)
    black, white = (half.normalise(torch.full((1, *shape), v, dtype=change.dtype, device=change.device)) for v in (0.0, 1.0))
    return ((inputs.view(-1, *shape) - black) / (white - black)).clamp(0, 1)[:, None]


def _places(half: Half, layer: nn.Linear) -> tuple[slice, slice]:
    """Where weight and bias of a layer are in the flat weights."""
    at, found = 0, {}
    for parameter in half.parameters.values():
        found[id(parameter)] = slice(at, at + parameter.numel())
        at += parameter.numel()
    assert layer.bias is not None
    return found[id(layer.weight)], found[id(layer.bias)]
