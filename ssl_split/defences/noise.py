"""Noise on smashed data: Gaussian and Laplace without clipping, which are not differentially private, and zeros at random places.

Sources: Laplace and dropout as in Li et al., ResSFL, CVPR 2022 (arXiv 2205.04007), which compares with them. The published settings of
Gaussian noise, sigma = sqrt(2 ln(1.25 / delta)) / epsilon, suppose a sensitivity that unclipped smashed data do not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split.defences.api import Defence, exponential, normal, uniform


@dataclass(frozen=True)
class Gaussian(Defence):
    """z + sigma n, n standard normal."""

    sigma: float
    changes_release = random = True

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """Fresh noise for every release."""
        return z + self.sigma * normal(z, generator)


@dataclass(frozen=True)
class Laplace(Defence):
    """z + Laplace noise of the given scale."""

    scale: float
    changes_release = random = True

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """The difference of two exponential numbers is a Laplace number."""
        return z + self.scale * (exponential(z, generator) - exponential(z, generator))


@dataclass(frozen=True)
class Dropout(Defence):
    """Every number is 0 with probability p; the others are not scaled up."""

    p: float
    changes_release = random = True

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """A fresh mask for every release; gradients pass where it is open."""
        return z * (uniform(z, generator) >= self.p)

    def expected(self, z: Tensor) -> Tensor:
        """(1 - p) z."""
        return (1 - self.p) * z
