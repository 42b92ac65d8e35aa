"""Rounds of the federated methods on the whole network."""

from __future__ import annotations

import torch
from supervised import Trial, small
from torch import Tensor

PLAIN = {"cut": "full", "momentum": 0.0, "weight_decay": 0.0}
UNIFORM = {"weighting": "uniform"}
SAM = ("fedsam", "mofedsam", "fedgamma", "fedsmoo")


def trial(algorithm: str, *, sizes: list[int] | None = None, rounds: int = 2, **fields: object) -> Trial:
    """So many rounds of a method on the whole network, without client momentum."""
    made = Trial(small(algorithm=algorithm, **{**PLAIN, **fields}), sizes=sizes)
    made.rounds(rounds)
    return made


def flat(weights: dict[str, Tensor]) -> Tensor:
    """All weights as one vector."""
    return torch.cat([value.flatten() for _, value in sorted(weights.items())])
