"""Local differential privacy of smashed data: every image's are clipped to a norm C, then Gaussian noise is added.

The only defence here that may be called differentially private, and of the activations alone, given the client's weights at each release.
A client that learns is stepped from its images without noise: what it sends later, of other images too, depends on an image through these
weights, and so do the weights that are uploaded at syncs; that is in no sum of releases of the image. Neighbours differ in one image, which
may be replaced, so the sensitivity is 2 C. The noise is that of the analytic Gaussian mechanism (Balle and Wang, ICML 2018, arXiv
1805.06530). The server sees who sends, so sampling amplifies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split.defences.api import Defence, normal

CLAIM = ("The claim covers the activations only, given the client's weights at each release: between releases these learn from the images "
         "without noise, so later releases, also of other images, and the weights uploaded at syncs depend on an image too. It is "
         "unconditional only with a client that is not trained on the images (--freeze-client, at weights from elsewhere). What the noise "
         "is drawn from must be secret, which a seeded simulation is not.")


@dataclass(frozen=True)
class LocalDp(Defence):
    """z min(1, C / ||z||) + sigma n, image by image.

    Attributes:
        clip: C, chosen without client data.
        sigma: Standard deviation of the noise.
    """

    clip: float
    sigma: float
    changes_release = random = True

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """Fresh noise for every release; gradients pass through the clipping."""
        return self.expected(z) + self.sigma * normal(z, generator)

    def expected(self, z: Tensor) -> Tensor:
        """The clipped smashed data."""
        norms = z.flatten(1).norm(dim=1).view(-1, *[1] * (z.dim() - 1))
        return z * (self.clip / norms.clamp(min=1e-30)).clamp(max=1)


def delta_of(epsilon: float, *, noise: float) -> float:
    """The smallest delta of a Gaussian mechanism at an epsilon, exactly (Balle and Wang, theorem 8).

    Args:
        epsilon: At least 0.
        noise: sigma / sensitivity.
    """
    from scipy.special import log_ndtr  # type: ignore[import-untyped]

    low, high = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
    return math.exp(float(log_ndtr(low))) - math.exp(epsilon + float(log_ndtr(high)))


def sigma_of(epsilon: float, *, delta: float, sensitivity: float) -> float:
    """The smallest sigma of a Gaussian mechanism that is (epsilon, delta)-private."""
    found = _root(lambda log_noise: delta_of(epsilon, noise=math.exp(log_noise)) - delta, math.log(1e-4), math.log(1e6), accuracy=1e-12)
    return sensitivity * math.exp(found)


def _root(function: Callable[[float], float], low: float, high: float, *, accuracy: float) -> float:
    from scipy.optimize import brentq  # type: ignore[import-untyped]  # here, because it takes half a second that other runs do not need

    return float(brentq(function, low, high, xtol=accuracy))


def epsilon_exact(sigma: float, *, delta: float, sensitivity: float, releases: int) -> float:
    """The smallest epsilon of so many releases of one image, given the weights at each, exactly: together they are one of
    sigma / sqrt(releases)."""
    noise = sigma / sensitivity / math.sqrt(releases)
    if delta_of(0.0, noise=noise) <= delta:
        return 0.0
    high = 1.0
    while delta_of(high, noise=noise) > delta:
        high *= 2
    return _root(lambda epsilon: delta_of(epsilon, noise=noise) - delta, 0.0, high, accuracy=1e-9)


def epsilon_rdp(sigma: float, *, delta: float, sensitivity: float, releases: int) -> float:
    """Epsilon of so many releases of one image, given the weights at each, by Renyi differential privacy (Mironov 2017).

    min over alpha > 1 of rho alpha + ln(1 / delta) / (alpha - 1) with rho = releases * sensitivity^2 / (2 sigma^2), which is
    rho + 2 sqrt(rho ln(1 / delta)).
    """
    rho = releases * sensitivity**2 / (2 * sigma**2)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def account(*, epsilon: float, delta: float, clip: float, passes: int, per_pass: int) -> dict[str, float | int | str]:
    """What may be said of a training run, given the client's weights at each release.

    Args:
        epsilon, delta: Of one release.
        clip: C.
        passes: Most passes over an image.
        per_pass: Tensors of an image that are sent in a pass.

    Returns:
        Plain values for the result file.
    """
    sensitivity = 2 * clip
    sigma, releases = sigma_of(epsilon, delta=delta, sensitivity=sensitivity), passes * per_pass
    spent = {"delta": delta, "sensitivity": sensitivity}
    return {"sigma": sigma, "clip": clip, "delta": delta, "epsilon_of_one_release": epsilon, "passes": passes, "tensors_per_pass": per_pass,
            "releases": releases, "epsilon_rdp": epsilon_rdp(sigma, **spent, releases=releases) if releases else 0.0,
            "epsilon_exact": epsilon_exact(sigma, **spent, releases=releases) if releases else 0.0, "claim": CLAIM}
