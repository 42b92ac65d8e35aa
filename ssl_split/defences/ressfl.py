"""ResSFL: a client trained against an inversion model that is trained beside it.

Li et al., "ResSFL: A Resistance Transfer Framework for Defending Model Inversion Attack in Split Federated Learning", CVPR 2022
(arXiv 2205.04007).

Symbols: g a decoder (`res_normN{N}C{C}`), trained by Adam to raise SSIM(g(z), x); the client adds lambda max(0, SSIM(g(z), x) - tau), with
the SSIM of zero-padded images in which the published thresholds are stated.

Deviations: one decoder learns from all clients of a step instead of one for each client, and its rate falls to a fifth at 30, 60 and 80 %
of the rounds (published: epochs 60, 120, 160 of 200). What clients would exchange to train it in common is not counted. TAResSFL is a run
of this on a source data set, whose client then starts another run and stays as it is: `--client-from RUN --freeze-client`.
"""

from __future__ import annotations

from torch import Tensor

from ssl_split.defence_sections import RessflOptions
from ssl_split.defences.opponent import Opponent

MILESTONES = (0.3, 0.6, 0.8)
"""Shares of the rounds after which the decoder's rate is divided by five."""


class ResSFL(Opponent):
    """lambda max(0, SSIM(g(z), x) - tau) of each client's batch beside its task."""

    has_loss = True
    purpose = "ressfl decoder"

    def __init__(self, options: RessflOptions) -> None:
        super().__init__(options)
        self.options = options

    def rate(self, share: float) -> float:
        """A fifth after each milestone."""
        return self.lr * 0.2 ** sum(share >= at for at in MILESTONES)

    def client_loss(self, z: Tensor, x: Tensor) -> Tensor:
        """Of one client's batch, with the decoder's running statistics."""
        self.decoder.eval()
        return self.options.weight * (self.similarity(z, x) - self.options.threshold).clamp(min=0)
