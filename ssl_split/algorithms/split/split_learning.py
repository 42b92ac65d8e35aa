"""Vanilla split learning: the client part is handed from one client to the next.

Gupta and Raskar, "Distributed learning of deep neural network over multiple agents", 2018 (arXiv 1810.06060), with the weights passed on
through the server.

Symbols: as in SFL-V2. Nothing is averaged: client j + 1 goes on with W_c,j.

Deviations: a random order in each round, and momentum does not travel with the weights (`optimiser_state` says what a client starts with).
"""

from __future__ import annotations

from torch import Tensor

from ssl_split.algorithms.api import State
from ssl_split.algorithms.split.sfl_v2 import SFLV2
from ssl_split.tree import Tree


class SplitLearning(SFLV2):
    """SFL-V2 whose next client continues where the last one stopped."""

    def _enter(self, state: State, arrived: Tree, shares: Tensor) -> None:
        """What a client sends is the model, for the next client and at the end of the round; one that is lost leaves the last."""
        state.trees["client.online"].flat.copy_(arrived.flat[0])
        state.trees["client.sum"].flat.copy_(arrived.flat[0])
        state.tensors["client.entered"].fill_(1 - shares.sum().item())  # the sum is one whole model
