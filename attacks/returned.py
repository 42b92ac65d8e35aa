"""Labels from the gradient that the server returns: its norm, and its direction beside that of one known image.

The gradient g_z of a cross-entropy is J^T (softmax - one-hot): its length says how wrong the network still was about the image, and images
of one class share its direction. Source: Li et al., "Label Leakage and Protection in Two-party Split Learning", ICLR 2022 (arXiv
2102.08504), there for two classes; here each class against the rest, and one against the other where there are two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm as normal  # type: ignore[import-untyped]
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from attacks.server import Answer
from attacks.step import Half
from attacks.victim import Encoder
from attacks.view import View
from ssl_split import rng

NEEDS = ("gradient_view",)
DRAWS = 5
"""Known images of a class, one after another, whose AUC are averaged."""

Values = NDArray[np.float64]


def auc(scores: Values, positive: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Area under the ROC curve, with DeLong's 95 % interval (DeLong, DeLong and Clarke-Pearson 1988).

    Args:
        scores: `(n,)`, larger for positives.
        positive: `(n,)`, both values present.

    Returns:
        Area, lower and upper end.

    Raises:
        ValueError: there are no positives, or no negatives.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        raise ValueError(f"{m} positives and {n} negatives have no ROC curve: both are needed")
    ranks = rankdata(scores)
    above = (ranks[positive] - rankdata(scores[positive])) / n  # of each positive: share of the negatives below it
    below = 1 - (ranks[~positive] - rankdata(scores[~positive])) / m
    area = float(above.mean())
    variance = sum(float(part.var(ddof=1)) / len(part) for part in (above, below) if len(part) > 1)
    half = float(normal.ppf(0.975)) * variance**0.5
    return area, max(0.0, area - half), min(1.0, area + half)


def returned(client: nn.Module, normalise: Encoder, answer: Answer, images: Tensor, clients: Tensor, *, batch: int,
             release: Callable[[Tensor, Tensor], Tensor] = lambda z, x: z) -> Tensor:
    """g_z of every image, in batches of one client's images as in training.

    Args:
        client: The client half; a copy of it computes, in training mode.
        normalise: Images in [0, 1] -> what it takes.
        answer: The server.
        images: `(n, 3, S, S)` in [0, 1].
        clients: Whose they are, int64 `(n,)`.
        batch: B; a batch that is not full is filled up with the client's other images.
        release: Smashed data and the normalised images behind them -> what the client's defence sends.

    Returns:
        `(n, ...)`.
    """
    half, found = Half(client, normalise), [torch.empty(0)] * len(images)
    for c in dict.fromkeys(clients.tolist()):
        own = (clients == c).nonzero().flatten()
        for start in range(0, len(own), batch):
            places = own[(start + torch.arange(batch)) % len(own)]
            with torch.no_grad():
                x = images[places.to(images.device)]
                z = half.forward(x[None])[0]
            g = answer(release(z, normalise(x)), places)[1]
            for place, row in zip(own[start : start + batch].tolist(), g, strict=False):
                found[place] = row
    return torch.stack(found)


def norms(view: View) -> Values:
    """|| g_z || of every target, `(n,)`."""
    g: Tensor = view.offered("gradient_view")
    found: Values = g.flatten(1).norm(dim=1).cpu().double().numpy()
    return found


def directions(view: View, known: int) -> Values:
    """Cosine of every target's g_z to that of the target at the place `known`, `(n,)`."""
    g: Tensor = view.offered("gradient_view").flatten(1)
    found: Values = cosine_similarity(g, g[known : known + 1], dim=1).cpu().double().numpy()
    return found


def _classes(labels: NDArray[np.int64]) -> list[int]:
    """Classes that are told from the rest: all; of two the second, since the first is its mirror image.

    Raises:
        ValueError: only one class.
    """
    present = np.unique(labels).tolist()
    if len(present) < 2:
        raise ValueError("all targets have one label, so there is nothing to tell: set more --targets")
    return [int(c) for c in (present[1:] if len(present) == 2 else present)]


def gradient_norm(gradients: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """How well the norm of g_z tells each class from the rest.

    Args:
        gradients: g_z `(n, ...)`.
        labels: int64 `(n,)`; only the judge sees them.

    Returns:
        One row for each class, `class`, `auc`, `low`, `high`, and last their mean (`class` None). An AUC below 0.5 tells as much as one as
        far above: the class then has the smaller norms.

    Raises:
        ValueError: only one class.
    """
    scores, truth = norms(View({"gradient_view": gradients}, NEEDS, attack="norm")), labels.cpu().numpy()
    rows = []
    for c in _classes(truth):
        area, low, high = auc(scores, truth == c)
        rows.append({"class": c, "auc": area, "low": low, "high": high})
    return _with_mean(rows)


def gradient_direction(gradients: Tensor, labels: Tensor, *, seed: int = 0) -> list[dict[str, Any]]:
    """How well the cosine of g_z to that of one known image of a class tells this class from the rest.

    Args:
        gradients: g_z `(n, ...)`.
        labels: int64 `(n,)`; the attack learns the place of one image of the class, which is not scored.
        seed: Of the draws of the known image.

    Returns:
        As `gradient_norm`, means over up to 5 known images; a class with a single image has no row.

    Raises:
        ValueError: only one class, or none with two images.
    """
    view, truth = View({"gradient_view": gradients}, NEEDS, attack="direction"), labels.cpu().numpy()
    _classes(truth)
    rows = []
    for c in np.unique(truth).tolist():
        own = np.flatnonzero(truth == c)
        if len(own) < 2:
            continue
        order = torch.randperm(len(own), generator=rng.generator(seed, "known image", c))[:DRAWS]
        draws = []
        for known in own[order.numpy()].tolist():
            others = np.arange(len(truth)) != known
            draws.append(auc(directions(view, known)[others], truth[others] == c))
        area, low, high = np.mean(draws, 0).tolist()
        rows.append({"class": c, "auc": area, "low": low, "high": high, "draws": [draw[0] for draw in draws]})
    if not rows:
        raise ValueError("no class has two images among the targets, one to know and one to tell: set more --targets")
    return _with_mean(rows)


def _with_mean(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows and their mean: of the areas, of their ends, and of the distance from 0.5, which says how much is told."""
    mean = {k: float(np.mean([row[k] for row in rows])) for k in ("auc", "low", "high")}
    return [*rows, {"class": None, **mean, "told": float(np.mean([abs(row["auc"] - 0.5) for row in rows]))}]
