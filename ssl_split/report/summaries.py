"""Numbers of several runs as one: training seeds are the unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from probes.statistics import summarise
from ssl_split.report.collect import Run


@dataclass(frozen=True)
class Value:
    """One number over the seeds of a group; runs that repeat a seed are averaged inside it.

    Attributes:
        mean: Mean over training seeds; the number itself for one.
        sd: Standard deviation over seeds, None for one.
        low, high: 95 % interval: over images for one seed, t over seeds from three on, else None.
        n: Different seeds.
        parts: Anchor and number of every run.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int
    parts: tuple[tuple[str, float], ...]

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, else one standard deviation to either side."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return self.mean - (self.sd or 0.0), self.mean + (self.sd or 0.0)


def ends(values: Any) -> tuple[float, float] | None:
    """The interval that stands beside an accuracy: `low` and `high`."""
    return pair([values.get("low"), values.get("high")]) if isinstance(values, Mapping) else None


def pair(found: Any) -> tuple[float, float] | None:
    """Two numbers, or None."""
    if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(e, int | float) and e == e for e in found):
        return float(found[0]), float(found[1])
    return None


def interval(values: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The bootstrap interval of an attack's score."""
    known = values.get("intervals")
    return pair(known.get(name)) if isinstance(known, Mapping) else None


def summary(rows: Sequence[tuple[Run, float | None, tuple[float, float] | None]]) -> Value | None:
    """Numbers of several seeds as one: training seeds are the unit, runs that repeat one and attacker seeds are averaged inside it.

    Args:
        rows: Run, its number (None where it is missing), its own interval over images.
    """
    known = [(run, value, images) for run, value, images in rows if value is not None]
    if not known:
        return None
    parts = tuple((run.anchor, value) for run, value, _ in known)
    made = summarise(list(by_seed((run, value) for run, value, _ in known).values()))
    if made.n == 1:  # repeats saw the same images: averaging them makes their interval no narrower
        own = [images for _, _, images in known if images is not None]
        low, high = (fmean(images[i] for images in own) if own else None for i in (0, 1))
        return Value(made.mean, None, low, high, 1, parts)
    return Value(made.mean, made.sd, made.low, made.high, made.n, parts)


def by_seed(rows: Iterable[tuple[Run, float]]) -> dict[Any, float]:
    """Numbers of runs by seed, the mean where several runs repeat one."""
    found: dict[Any, list[float]] = {}
    for run, value in rows:
        found.setdefault(run.seed, []).append(value)
    return {seed: fmean(values) for seed, values in found.items()}
