"""MiniBatch-SFL: one server part, one server step on the union of all clients' batches.

Huang et al., "When MiniBatch SGD Meets SplitFed Learning: Convergence Analysis and Performance Evaluation", 2023 (arXiv 2308.11953).

Symbols: as in SFL-V1; F_j client j's mean loss of a batch. Server: W_s <- W_s - eta (1 / A) sum_j grad F_j over the A clients at work
(eq. 3, with equal batches). Client j gets the gradient of its own F_j, taken before that step. After the local epochs
W_c <- sum p_j W_c,j.

Deviations: none known; the paper leaves the weights of the average open (p_j here). The rule is the one that the MocoSFL paper calls
"SFL-V1".
"""

from __future__ import annotations

from torch import Tensor

from ssl_split.algorithms.api import State
from ssl_split.algorithms.split.sfl_v1 import SFLV1


class MiniBatchSFL(SFLV1):
    """SFL-V1 with one server part instead of copies."""

    shared_server = True
    couples_clients = True

    def _step_servers(self, state: State, rows: slice, places: slice, came: Tensor) -> None:
        """The gradients are the sum over clients; the step is on their mean."""
        self.servers.gradients.flat.div_(int(came.sum()))
        super()._step_servers(state, rows, places, came)
