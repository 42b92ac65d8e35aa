"""Statistics of smashed data label by label, and new activations drawn from them (GAS, arXiv 2409.01251, section 4).

For each label a Gaussian over its activations A, each weighted by s. As a recursion, with S the sum of weights before:
mu <- (S mu + s A) / (S + s); Sigma <- [S (Sigma + (mu' - mu)(mu' - mu)^T) + s (mu' - A)(mu' - A)^T] / (S + s), mu' the new mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEPT = 512
"""Activations of a label that are kept; their weighted covariance is exact while there are no more."""

State = dict[str, Tensor]
"""What a kind of covariance needs, by name; it goes into checkpoints."""


class LabelStatistics:
    """A Gaussian per label. The tensors are the caller's, updated in place.

    `kept` holds the last `KEPT` activations of each label with their weights and draws mu + sum_i sqrt(w_i) eps_i (a_i - mu), which has
    exactly their weighted covariance; `full` and `diagonal` are the recursion above.
    """

    def __init__(self, kind: str, tensors: State) -> None:
        self.kind, self.tensors = kind, tensors

    @staticmethod
    def begin(kind: str, *, classes: int, size: int, like: Tensor) -> State:
        """Empty statistics.

        Args:
            kind: kept, full or diagonal.
            classes: Labels.
            size: Elements of one image's smashed data.
            like: Gives device and dtype.
        """
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=like.dtype, device=like.device)

        if kind == "kept":
            return {"rows": zeros(classes, KEPT, size), "weights": zeros(classes, KEPT), "seen": torch.zeros(classes, dtype=torch.int64)}
        spread = (classes, size, size) if kind == "full" else (classes, size)
        return {"mean": zeros(classes, size), "spread": zeros(*spread), "weights": zeros(classes),
                "seen": torch.zeros(classes, dtype=torch.int64)}

    @property
    def complete(self) -> bool:
        """Whether every label has been seen."""
        return bool((self.tensors["seen"] > 0).all())

    def add(self, rows: Tensor, labels: Tensor, weight: float) -> None:
        """Take in activations `(B, size)` with their labels `(B,)`, one after another, each with this weight."""
        for row, label in zip(rows, labels.tolist(), strict=True):
            self._kept(row, label, weight) if self.kind == "kept" else self._recursion(row, label, weight)
            self.tensors["seen"][label] += 1

    def _kept(self, row: Tensor, label: int, weight: float) -> None:
        place = int(self.tensors["seen"][label]) % KEPT
        self.tensors["rows"][label, place] = row
        self.tensors["weights"][label, place] = weight

    def _recursion(self, row: Tensor, label: int, weight: float) -> None:
        mean, spread, total = self.tensors["mean"][label], self.tensors["spread"][label], float(self.tensors["weights"][label])
        whole = total + weight
        after = (total * mean + weight * row) / whole
        moved, off = after - mean, after - row
        product = torch.outer if self.kind == "full" else torch.mul
        spread.copy_((total * (spread + product(moved, moved)) + weight * product(off, off)) / whole)
        mean.copy_(after)
        self.tensors["weights"][label] = whole

    def moments(self, label: int) -> tuple[Tensor, Tensor]:
        """Mean `(size,)` and covariance of a label: `(size, size)`, under diagonal `(size,)`."""
        if self.kind != "kept":
            return self.tensors["mean"][label], self.tensors["spread"][label]
        mean, off, shares = self._deviations(label)
        return mean, (off * shares[:, None]).T @ off

    def _deviations(self, label: int) -> tuple[Tensor, Tensor, Tensor]:
        held = min(int(self.tensors["seen"][label]), KEPT)
        rows, weights = self.tensors["rows"][label, :held], self.tensors["weights"][label, :held]
        shares = weights / weights.sum()
        mean = shares @ rows
        return mean, rows - mean, shares

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """New activations `(count, size)` of a label; the randomness is drawn on the CPU."""
        like = self.tensors["weights"]

        def normal(width: int) -> Tensor:
            return torch.randn(count, width, generator=generator, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32
                               ).to(like)

        if self.kind == "kept":
            mean, off, shares = self._deviations(label)
            return mean + (normal(len(off)) * shares.sqrt()) @ off
        mean, spread = self.moments(label)
        if self.kind == "diagonal":
            return mean + normal(len(mean)) * spread.clamp(min=0).sqrt()
        return mean + normal(len(mean)) @ _factor(spread).T


def _factor(covariance: Tensor) -> Tensor:
    """A Cholesky factor, with as much jitter on the diagonal as it takes (1e-5, then ten times more)."""
    jitter, unit = 1e-5, torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    while True:
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * unit)
        if not int(failed):
            return factor
        jitter *= 10
