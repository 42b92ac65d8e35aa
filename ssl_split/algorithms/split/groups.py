"""Who of a cohort is at work in which step of a round, when clients finish at different steps."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from torch import Tensor


class Groups:
    """A cohort in groups of `at_once` neighbours, one after another, each as long as its longest client."""

    def __init__(self, cohort: Tensor, local_steps: list[int], *, at_once: int) -> None:
        """
        Args:
            cohort: Clients in the order in which they work, int64 `(P,)`.
            local_steps: T_j of every client.
            at_once: Clients side by side.
        """
        steps = [local_steps[c] for c in cohort.tolist()]
        self.cohort = cohort.clone()
        self.places = [slice(start, min(start + at_once, len(steps))) for start in range(0, len(steps), at_once)]
        self.steps = [steps[group] for group in self.places]
        self.ends = list(accumulate(max(group) for group in self.steps))
        """Step of the round after each group's last."""

    def at(self, step: int) -> tuple[slice, list[int], int]:
        """Places of the group at work in a step of the round, its T_j, and its own step."""
        number = bisect_right(self.ends, step)
        return self.places[number], self.steps[number], step - (self.ends[number - 1] if number else 0)
