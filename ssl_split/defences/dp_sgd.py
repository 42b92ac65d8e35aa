"""DP-SGD of the client half: each image's part in an update is clipped, and Gaussian noise is added before the weights move.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (arXiv 1607.00133), at the client's backward pass.

Symbols: f(w, x) the client half, J_i = df(w, x_i)/dw, which depends on image i alone; g_i the gradient of image i's own loss with respect
to its smashed data, as it came back; C the clipping norm. The client steps along

    (1 / B) [sum_i J_i^T g_i min(1, C / ||J_i^T g_i||) + sigma C n],    n standard normal,

with one norm over all client weights, and the two views of an image, where both are queries, counted as one image. Momentum, weight decay
and averaging see nothing else of the images.

What it covers: the client's updates, given the gradients that the server sends. These count as an adversary's choice, because in a
contrastive loss, through the queue, and through the server's weights, the gradient of one image depends on the smashed data of others. The
smashed data themselves go up bare, in training and of the final model, so neither they nor what the server learns from them (its half, its
later gradients) is private, and labels are not either.

Accounting is opacus': an image takes part in one step of each pass; batches are not drawn by Poisson sampling and the server sees who
sends, so nothing is amplified. Neighbours differ by one image's part being left out (sensitivity C); replacing it costs as much as half
of sigma.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split.defence_sections import DpSgdOptions
from ssl_split.defences.api import Defence, Place, normal
from ssl_split.defences.local_dp import epsilon_exact
from ssl_split.fields import extra
from ssl_split.tree import Tree

CLAIM = ("The claim covers the client's updates given the gradients that the server sends. It covers neither the smashed data, which go up "
         "bare in training and of the final model, nor labels, nor what the server learns from them; and what the noise is drawn from "
         "must be secret, which a seeded simulation is not.")
NO_CLAIM = "sigma is 0: clipping without noise is not private."
ORDERS = [1 + hundredth / 100 for hundredth in range(1, 1000)] + list(range(11, 513))
"""Of Renyi differential privacy."""


@dataclass(frozen=True)
class DpSgd(Defence):
    """Clipped gradients of single images, their sum and noise.

    Attributes:
        clip: C.
        sigma: Noise multiplier.
    """

    clip: float
    sigma: float
    changes_update = True

    def begin(self, state: dict[str, Tree], tensors: dict[str, Tensor], place: Place) -> None:
        """Nothing is learned; the accountant that the result will need has to be there."""
        extra("opacus.accountants", "dp")

    def client_update(self, gradients: Iterable[Tensor], generator: torch.Generator) -> Tensor:
        """sum_i clipped + sigma C n."""
        total = torch.stack([self.clipped(part) for part in gradients]).sum(0)
        return total + self.sigma * self.clip * normal(total, generator) if self.sigma else total

    def clipped(self, gradients: Tensor) -> Tensor:
        """Sum of `(b, d)` after each row was clipped, `(d,)`."""
        return (self.clip / gradients.norm(dim=1).clamp(min=1e-30)).clamp(max=1) @ gradients


def squared_uses(order: Tensor, batch: int) -> int:
    """Releases that one image's uses amount to: the largest sum over steps of the squared times that it is in the step's batch.

    It is once in each pass, but a batch that joins two passes may hold it twice; then its part has norm 2 C, which costs as much as four
    steps of C.

    Args:
        order: Indices of a client's images as it takes them, int64 `(n,)`.
        batch: Images of a step.
    """
    steps = torch.arange(len(order)) // batch
    pairs, times = (order * (int(steps[-1]) + 1) + steps).unique(return_counts=True)
    total = torch.zeros(int(order.max()) + 1, dtype=torch.int64)
    return int(total.index_add_(0, pairs // (int(steps[-1]) + 1), times.square()).max())


def epsilon_rdp(sigma: float, *, delta: float, releases: int) -> float:
    """Epsilon of so many releases of sensitivity 1 by opacus' accountant, without amplification by sampling.

    Args:
        sigma: Noise multiplier, above 0.
        delta: Of all releases together.
        releases: At least 0.
    """
    if not releases:
        return 0.0
    accountant = extra("opacus.accountants", "dp").RDPAccountant()
    accountant.history = [(sigma, 1.0, releases)]
    return float(accountant.get_epsilon(delta, alphas=ORDERS))


def account(options: DpSgdOptions, *, releases: int) -> dict[str, float | int | str | None]:
    """What may be said of a training run.

    Args:
        options: Of the run.
        releases: Of the image that was used most, as `squared_uses` counts them.

    Returns:
        Plain values for the result file; epsilons are None without noise.
    """
    sigma, delta = options.sigma, options.delta
    made: dict[str, float | int | str | None] = {"sigma": sigma, "clip": options.clip, "delta": delta, "releases": releases}
    if not sigma:
        return made | {"epsilon_rdp": None, "epsilon_rdp_replaced": None, "epsilon_exact": None, "claim": NO_CLAIM}
    return made | {"epsilon_rdp": epsilon_rdp(sigma, delta=delta, releases=releases),
                   "epsilon_rdp_replaced": epsilon_rdp(sigma / 2, delta=delta, releases=releases),
                   "epsilon_exact": epsilon_exact(sigma, delta=delta, sensitivity=1.0, releases=releases) if releases else 0.0,
                   "claim": CLAIM}
