"""The table of inversion attacks: one row a file."""

from __future__ import annotations

from attacks import blind, decoder, fora, optimise, pcat, ridge, sdar, twoview, unsplit
from attacks.api import METHODS as NAMES
from attacks.api import Method

_SETS = ("method", "aux", "targets")
_DECODER = (*_SETS, "preset", "budget", "seeds", "seed", "precision", "decoder")
_SENDS = {"simulator": "sends all views as clients do"}

METHODS: dict[str, Method] = {
    "blind": Method(blind.attack, needs=("aux",), options=_SETS, seeded=False, cost="seconds", source="mean of the attacker's images",
                    adaptive=False),
    "ridge": Method(ridge.attack, needs=("smashed", "query", "aux"), options=_SETS, seeded=False, cost="seconds",
                    source="closed form; docs/attacks.md", defended=("ridge",)),
    "decoder": Method(decoder.attack, needs=("smashed", "query", "aux"), seeded=True, cost="minutes", source="ResSFL, MocoSFL",
                      options=_DECODER),
    "oracle": Method(decoder.oracle, needs=("smashed", "query", "private_pairs"), seeded=True, cost="minutes",
                     source="a bound, no attacker: the decoder on the clients' own images", options=_DECODER),
    "optimise": Method(optimise.attack, needs=("smashed", "query", "weights", "aux"), seeded=False, cost="minutes",
                       source="search with known weights; docs/attacks.md", options=(*_SETS, "budget", "seed", "optimise")),
    "twoview": Method(twoview.attack, needs=("smashed", "query", "weights", "momentum_view", "second_view", "aux"), seeded=False,
                      cost="minutes", source="both views of MoCo; docs/attacks.md", optional=("momentum_weights",),
                      options=(*_SETS, "budget", "seed", "optimise")),
    "unsplit": Method(unsplit.attack, needs=("smashed", "architecture"), seeded=True, cost="slow", source="UnSplit (WPES 2022)",
                      options=(*_SETS, "budget", "seeds", "seed", "unsplit"), marks={"search": "through the defence's expectation"}),
    "fora": Method(fora.attack, needs=("smashed", "aux", "server_training"), seeded=True, cost="tens of minutes", source="FORA (CVPR 2024)",
                   options=(*_DECODER, "fora"), adaptive=False),
    "pcat": Method(pcat.attack, needs=("smashed", "architecture", "server_model", "aux"), labelled=("aux_labels", "labels"), seeded=True,
                   cost="slow", source="PCAT (USENIX Security 2023)",
                   options=(*_SETS, "budget", "seeds", "seed", "precision", "decoder", "pcat"), marks=_SENDS),
    "sdar": Method(sdar.attack, needs=("smashed", "architecture", "server_model", "server_training", "aux"), labelled=("aux_labels",),
                   seeded=True, cost="slow", source="SDAR (NDSS 2025)", options=(*_DECODER, "sdar"), marks=_SENDS),
}
"""Name -> attack, what it needs, what it costs and where it is from; `attacks.api.METHODS` has the names alone."""

YARDSTICKS: dict[str, Method] = {
    "grey": Method(blind.grey, needs=("aux",), options=(), seeded=False, cost="seconds", source="grey 0.5"),
    "nearest_aux": Method(blind.nearest, needs=("smashed", "query", "aux"), options=(), seeded=False, cost="seconds",
                          source="nearest of the attacker's images in z"),
    "random_decoder": Method(blind.random_decoder, needs=("smashed", "aux"), options=(), seeded=False, cost="seconds",
                             source="decoder at its initial weights"),
}
"""Printed beside the blind guess; not attackers."""

assert tuple(METHODS) == NAMES


def needed(method: Method) -> str:
    """What a method declares, in words."""
    more = f" (supervised runs: {', '.join(method.labelled)})" if method.labelled else ""
    more += f" (where offered: {', '.join(method.optional)})" if method.optional else ""
    return ", ".join(method.needs) + more


def table() -> str:
    """Attack, needs, cost and source as lines of text."""
    rows = [("attack", "needs", "cost", "source"), *((name, needed(m), m.cost, m.source) for name, m in METHODS.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows)
