"""How well scores tell members from non-members: AUC, balanced accuracy, true positives at small false positive rates, intervals.

Carlini et al., "Membership inference attacks from first principles", IEEE S&P 2022: an average (AUC) says little about the few
images that are told with certainty, so the true positive rate at 1 %, 0.1 % and 0 % false positives stands beside it. Each is read at the
last point of the ROC whose false positive rate is at most the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid  # type: ignore[import-untyped]
from torch import Tensor

from ssl_split import rng

Values = NDArray[np.float64]
RATES = (0.01, 0.001, 0.0)
"""False positive rates at which true positives are counted."""
ENOUGH = {0.01: 100, 0.001: 1000}
"""Non-members below which a rate means fewer than one image, so it is not given."""
DRAWS = 1000
CHUNK = 100
"""Resamplings computed at a time."""


@dataclass(frozen=True)
class Curve:
    """A ROC.

    Attributes:
        fpr, tpr: All its points, ascending, from (0, 0) to (1, 1).
        thresholds: An image is called a member whose score is at least this.
    """

    fpr: Values
    tpr: Values
    thresholds: Values

    def tpr_at(self, rate: float) -> float:
        """True positive rate at the last point whose false positive rate is at most `rate`."""
        return float(self.tpr[np.searchsorted(self.fpr, rate, side="right") - 1])

    @property
    def best_threshold(self) -> float:
        """Where true minus false positive rate is largest."""
        return float(self.thresholds[np.argmax(self.tpr - self.fpr)])


def curve(scores: Tensor, truth: Tensor) -> Curve:
    """The ROC of scores `(n,)`, larger for members, with the truth, bool `(n,)`.

    Raises:
        ValueError: scores that are not finite, or only one kind of image.
    """
    from sklearn.metrics import roc_curve  # here and below, because it takes seconds that no --help should

    values = _checked(scores, truth)
    return Curve(*roc_curve(truth.cpu().numpy(), values, drop_intermediate=False))


def auc(scores: Tensor, truth: Tensor) -> float:
    """Area under the ROC: the chance that a member scores above a non-member, ties counted half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth.cpu().numpy(), _checked(scores, truth)))


def _checked(scores: Tensor, truth: Tensor) -> Values:
    if scores.shape != truth.shape or scores.dim() != 1:
        raise ValueError(f"scores {tuple(scores.shape)} and truth {tuple(truth.shape)} must both be (n,)")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("the scores are not finite: the weights of this network have diverged")
    if bool(truth.all()) or not bool(truth.any()):
        raise ValueError("there must be members and non-members to tell apart")
    return scores.detach().double().cpu().numpy()


def balanced_accuracy(scores: Tensor, truth: Tensor, threshold: float) -> float:
    """Mean of the shares of members at or above the threshold and of non-members below it."""
    called = scores.cpu() >= threshold
    truth = truth.cpu()
    return 0.5 * (float(called[truth].double().mean()) + float((~called[~truth]).double().mean()))


def measure(scores: Tensor, truth: Tensor, *, threshold: float | None = None, draws: int = DRAWS) -> dict[str, Any]:
    """Everything a result says of one list of scores.

    Args:
        scores: `(n,)`, larger for members.
        truth: bool `(n,)`.
        threshold: Chosen by the attacker on own data; None: the best one on the truth, so that balanced accuracy is an upper bound.
        draws: Bootstrap resamplings.

    Returns:
        `auc`, `low`, `high`, `balanced_accuracy`, `threshold`, `threshold_from`, `tpr` (rate -> value, low, high or None with a reason).
    """
    found = curve(scores, truth)
    chosen = found.best_threshold if threshold is None else threshold
    chosen = chosen if np.isfinite(chosen) else float(scores.max()) + 1.0  # nobody is called a member
    outside = int((~truth).sum())
    intervals = bootstrap(scores, truth, draws=draws)
    tpr: dict[str, Any] = {}
    for rate in RATES:
        if outside < ENOUGH.get(rate, 0):
            tpr[f"{rate:g}"] = {"value": None, "reason": f"needs {ENOUGH[rate]} non-members, and there are {outside}"}
        else:
            low, high = intervals[f"{rate:g}"]
            tpr[f"{rate:g}"] = {"value": found.tpr_at(rate), "low": low, "high": high}
    low, high = intervals["auc"]
    return {"auc": auc(scores, truth), "low": low, "high": high, "balanced_accuracy": balanced_accuracy(scores, truth, chosen),
            "threshold": chosen, "threshold_from": "the attacker's own data" if threshold is not None else "the truth: an upper bound",
            "tpr": tpr}


def bootstrap(scores: Tensor, truth: Tensor, *, draws: int = DRAWS, confidence: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the AUC and of the true positive rates; members and non-members are drawn again separately.

    A resampling is a count for every image, so one sort serves all: rates are running sums of counts over falling scores.

    Returns:
        `auc` and the rates as text -> lower and upper end.
    """
    values, inside = _checked(scores, truth), truth.cpu().numpy()
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    generator = rng.generator(0, "membership bootstrap")
    found: dict[str, list[Values]] = {name: [] for name in ("auc", *(f"{rate:g}" for rate in RATES))}
    for start in range(0, draws, CHUNK):
        counts = np.zeros((min(CHUNK, draws - start), len(values)))
        for group in (inside, ~inside):
            places = np.flatnonzero(group)
            drawn = torch.randint(len(places), (len(counts), len(places)), generator=generator).numpy()
            flat = (drawn + len(places) * np.arange(len(counts))[:, None]).ravel()
            counts[:, places] = np.bincount(flat, minlength=len(counts) * len(places)).reshape(len(counts), -1)
        sorted_counts = counts[:, order]
        tpr, fpr = (np.cumsum(sorted_counts * group[order], 1)[:, last_of_tie] / group.sum() for group in (inside, ~inside))
        tpr, fpr = (np.concatenate([np.zeros((len(rate), 1)), rate], 1) for rate in (tpr, fpr))
        found["auc"].append(trapezoid(tpr, fpr, axis=1))
        for rate in RATES:
            found[f"{rate:g}"].append(np.where(fpr <= rate + 1e-12, tpr, 0).max(1))
    tail = 50 * (1 - confidence)
    return {name: tuple(np.percentile(np.concatenate(parts), [tail, 100 - tail]).tolist())
            for name, parts in found.items()}


def verdict(row: dict[str, Any], untrained: dict[str, Any] | None) -> str:
    """One sentence: whether members can be told, how surely, and what the same attack finds on a client that has seen no image."""
    said = f"AUC {row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    if row["low"] <= 0.5 <= row["high"]:
        return f"No better than guessing: {said}."
    if row["high"] < 0.5:
        return f"The score points the wrong way: {said}; members score lower than non-members, which this attacker does not know."
    rate = row["tpr"]["0.01"]["value"]
    sure = f", {rate:.1%} of the members at 1 % false positives" if rate is not None else ""
    if untrained is None:
        return f"Members can be told from non-members: {said}{sure}."
    if row["low"] <= untrained["auc"]:
        return (f"No better than on an untrained client, which has seen no image and scores {untrained['auc']:.3f}: {said}; the images "
                "differ, not what the client knows of them.")
    return (f"Members can be told from non-members: {said}{sure}; an untrained client, which has seen no image, scores "
            f"{untrained['auc']:.3f}.")
