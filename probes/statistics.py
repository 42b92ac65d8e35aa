"""Intervals: Wilson's for one run, Student's for several.

One run: the test images are the unit, and the interval says how far the accuracy may be off because they are a sample. Several
runs: the training seeds are the unit; the images' share of the variation is inside theirs, and below three runs there is no
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

MIN_RUNS = 3
"""Runs from which a t-interval is given: with two it is about 9 standard deviations wide on either side."""


def wilson(correct: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), which stays inside [0, 1] and is sound near its ends.

    Args:
        correct: Successes, 0 ... total.
        total: Trials, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        ValueError: impossible counts or coverage.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total} is no proportion: it needs 0 <= correct <= total and total >= 1")
    z = NormalDist().inv_cdf(0.5 + _half(confidence))
    share = correct / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # the ends are exactly 0 and 1 at the extremes; rounding must not push them past
    return (0.0 if correct == 0 else max(0.0, middle - spread), 1.0 if correct == total else min(1.0, middle + spread))


@dataclass(frozen=True)
class Rate:
    """How many of the images were classified correctly."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of correct answers, in [0, 1]."""
        return self.correct / self.total

    @property
    def low(self) -> float:
        """Lower end of the Wilson 95 % interval."""
        return wilson(self.correct, self.total)[0]

    @property
    def high(self) -> float:
        """Upper end of the Wilson 95 % interval."""
        return wilson(self.correct, self.total)[1]

    def to_dict(self) -> dict[str, float]:
        """What result files hold: accuracy, low, high."""
        return {"accuracy": self.accuracy, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Summary:
    """Several runs of one setting.

    Attributes:
        n: Runs.
        mean: Their mean.
        sd: Standard deviation with n - 1, None for one run.
        low, high: t-interval of the mean, None below three runs.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.sd is None:
            return f"{self.mean:.3f} (n = 1)"
        interval = "" if self.low is None or self.high is None else f", 95 % [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f} ± {self.sd:.3f} (n = {self.n}{interval})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"n": self.n, "mean": self.mean, "sd": self.sd, "low": self.low, "high": self.high}


def summarise(values: Sequence[float], *, confidence: float = 0.95) -> Summary:
    """Mean, standard deviation and t-interval over runs.

    Raises:
        ValueError: no values, or an impossible coverage.
    """
    n = len(values)
    if n == 0:
        raise ValueError("there are no runs to summarise")
    mean = fmean(values)
    if n == 1:
        return Summary(1, mean, None, None, None)
    sd = stdev(values)
    if n < MIN_RUNS:
        return Summary(n, mean, sd, None, None)
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # here, because every command imports this module, and few use it

    half = float(stdtrit(n - 1, 0.5 + _half(confidence))) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def _half(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} is impossible: it must be between 0 and 1")
    return confidence / 2
