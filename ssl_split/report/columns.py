"""The columns of the report's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_split.report.table import Study


@dataclass(frozen=True)
class Column:
    """A column of the main table: which value, how written, under which heading."""

    key: str
    style: str
    head: str
    part: str
    ruler: bool = False


ATTACK = "Strongest attack"
COLUMNS = (
    Column("accuracy", "percent", "run", "Accuracy"),
    Column("raw_pixels", "percent", "raw pixels", "Accuracy", ruler=True),
    Column("untrained", "percent", "untrained", "Accuracy", ruler=True),
    Column("mib_per_client", "mib", "counted", "MiB per client"),
    Column("mib_per_client_published_formula", "mib", "formula", "MiB per client"),
    Column("client_parameters", "count", "parameters", "Client"),
    Column("client_macs_per_image", "count", "MACs", "Client"),
    Column("r2", "ratio", "R2", ATTACK),
    Column("unaware_r2", "ratio", "R2, defence unknown", ATTACK),
    Column("mse", "score", "MSE", ATTACK),
    Column("blind_mse", "score", "blind", ATTACK, ruler=True),
    Column("untrained_mse", "score", "untrained", ATTACK, ruler=True),
    Column("ssim", "ratio", "SSIM", ATTACK),
    Column("blind_ssim", "ratio", "blind", ATTACK, ruler=True),
    Column("untrained_ssim", "ratio", "untrained", ATTACK, ruler=True),
)

TARGET = "To the target accuracy"
COSTS = (
    Column("virtual_seconds", "large", "seconds", "Virtual time"),
    Column("waiting_share_fastest", "percent", "fastest client waits", "Virtual time"),
    Column("client_flops_mean", "giga", "client, mean", "GFLOPs"),
    Column("server_flops", "giga", "server", "GFLOPs"),
    Column("reached_rounds", "large", "rounds", TARGET),
    Column("reached_mib", "mib", "MiB, all clients", TARGET),
    Column("reached_virtual_seconds", "large", "virtual seconds", TARGET),
)
"""Columns of the second table: what the training took."""


def columns(study: Study, among: Sequence[Column] = COLUMNS) -> list[Column]:
    """The columns for which some group has a number."""
    return [c for c in among if any(c.key in g.values for g in study.groups)]


def parts(shown: list[Column]) -> list[tuple[str, int]]:
    """Headings over the columns, and how many columns each spans."""
    names = list(dict.fromkeys(c.part for c in shown))
    return [(name, sum(c.part == name for c in shown)) for name in names]
