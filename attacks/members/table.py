"""The table of membership attacks: one row a method."""

from __future__ import annotations

from attacks.members import encodermi, lira, partcrop, scores, training
from attacks.members.api import METHODS as NAMES
from attacks.members.api import Method

_ELSEWHERE = ("server_model", "weights")
_SHADOWS = ("budget", "encoders", "fit", "seed")

METHODS: dict[str, Method] = {
    "norm": Method(scores.norm, needs=("query", "aux"), optional=_ELSEWHERE, options=("p", "fit"), cost="seconds", source="LpLA 2025"),
    "alignment": Method(scores.alignment, needs=("query",), optional=_ELSEWHERE, options=("views", "seed"), cost="minutes",
                        source="EncoderMI-T 2021"),
    "encodermi": Method(encodermi.attack, needs=("query", "aux"), optional=_ELSEWHERE, options=(*_SHADOWS, "views"),
                        cost="tens of minutes", source="EncoderMI-V and -S 2021", shadows=True),
    "partcrop": Method(partcrop.attack, needs=("query", "aux"), optional=_ELSEWHERE, options=(*_SHADOWS, "crops"),
                       cost="tens of minutes", source="PartCrop 2024", shadows=True),
    "infonce": Method(training.infonce, needs=("query", "server_model"), optional=(), options=("views", "seed"), cost="minutes",
                      source="the loss of MoCo"),
    "momentum-gap": Method(training.momentum_gap, needs=("weights", "aux"), optional=("momentum_weights",), options=("fit",),
                           cost="seconds", source="lag of the momentum client"),
    "loss": Method(training.loss, needs=("query", "server_model", "labels"), optional=(), options=(), cost="seconds",
                   source="Yeom et al. 2018", supervised=True),
    "confidence": Method(training.confidence, needs=("query", "server_model"), optional=(), options=(), cost="seconds",
                         source="Salem et al. 2019", supervised=True),
    "rmia": Method(training.rmia, needs=("query", "server_model", "labels", "aux", "aux_labels"), optional=(), options=_SHADOWS,
                   cost="tens of minutes", source="RMIA 2024, offline", supervised=True, shadows=True),
    "lira": Method(lira.attack, needs=("query", "aux"), optional=_ELSEWHERE, options=(*_SHADOWS, "score", "online", "views", "p"),
                   cost="tens of minutes", source="LiRA 2022, offline or --online", shadows=True),
}
"""Name -> attack, what it needs, what it costs and where it is from."""

assert tuple(METHODS) == NAMES


def table() -> str:
    """Attack, needs, cost and source as lines of text; in brackets what is read where it is offered."""
    rows = [("attack", "needs", "cost", "source")]
    for name, m in METHODS.items():
        more = f" [{', '.join(m.optional)}]" if m.optional else ""
        rows.append((name, ", ".join(m.needs) + more, m.cost, m.source + (" (supervised runs)" if m.supervised else "")))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows)
