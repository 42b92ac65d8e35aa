"""`python -m ssl_split.models`: what every cut of an architecture costs."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from ssl_split import config as configuration
from ssl_split import fields
from ssl_split.config import Bottleneck, Config, Head
from ssl_split.fields import field
from ssl_split.models.count import Cost, costs

DESCRIPTION = """What every cut of an architecture costs: what crosses the wire for one image, parameters and multiply-adds (MACs) of a
forward pass on either side. The head counts on the client at cut full, on the server at all others."""
EPILOG = """examples:
  python -m ssl_split.models --arch mobilenetv2
  python -m ssl_split.models --arch resnet50 --stem imagenet --image-size 224
  python -m ssl_split.models --arch resnet18 --bottleneck.channels 4 --bottleneck.stride 2
  python -m ssl_split.models --arch my_network.py:build"""
COLUMNS = ("cut", "client ends after", "units", "smashed data", "elements", "bytes", "client params", "server params", "client MACs",
           "server MACs")
LEFT = 2
"""Columns that are text, aligned to the left."""


def _like_training(name: str) -> Any:
    """The field of `Config` with its default, help and limits."""
    known = next(f for f in dataclasses.fields(Config) if f.name == name)
    return dataclasses.field(default=known.default, metadata=known.metadata)


@dataclass(frozen=True)
class Backbone:
    """Flags that name a backbone."""

    arch: str = _like_training("arch")
    width: float = _like_training("width")
    norm: str = _like_training("norm")
    stem: str = _like_training("stem")
    image_size: int = field(32, "pixels per side", low=1)


@dataclass(frozen=True)
class Options(Backbone):
    """Flags of the command."""

    head: Head = field(Head, "projection head")
    bottleneck: Bottleneck = field(Bottleneck, "CxSy bottleneck at each cut")


def _row(cost: Cost) -> tuple[str, ...]:
    last = cost.client_units[-1] if cost.client_units else "nothing"
    end = "head" if cost.cut == "full" else last
    numbers = (cost.elements, cost.bytes, cost.client_parameters, cost.server_parameters, cost.client_macs, cost.server_macs)
    shape = "x".join(map(str, cost.smashed_shape))
    return (str(cost.cut), end, str(len(cost.client_units)), shape, *(f"{number:,}" for number in numbers))


def print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], *, left: int) -> None:
    """A table that fits a terminal, or aligned plain lines, which never wrap, for a file or a pipe; the first `left` columns are text."""
    console = Console()
    if console.is_terminal:
        table = Table()
        for i, name in enumerate(columns):
            table.add_column(name, justify="left" if i < left else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for words in (columns, *rows):
        print("  ".join(f"{text:<{w}}" if i < left else f"{text:>{w}}" for i, (text, w) in enumerate(zip(words, widths, strict=True))))


def main(argv: Sequence[str]) -> None:
    """Parse flags, count, print."""
    options = fields.parse(Options, argv, "python -m ssl_split.models", DESCRIPTION, EPILOG)
    values = fields.to_dict(options)
    rows = costs(configuration.from_dict(values), options.image_size)
    total, head = rows[0].client_parameters + rows[0].server_parameters, rows[0].head_parameters
    extra = (f"a bottleneck C{options.bottleneck.channels}S{options.bottleneck.stride} at each cut" if options.bottleneck.channels else
             f"backbone {total - head:,} parameters")
    print(f"{options.arch}, width {options.width:g}, images of {options.image_size} pixels: {extra}, head {head:,} parameters")
    print_table(COLUMNS, [_row(row) for row in rows], left=LEFT)
    print(f"train with one: python -m ssl_split.train {shlex.join([*argv, '--cut', str(rows[len(rows) // 2].cut)])}")


if __name__ == "__main__":
    sys.exit(fields.command(main))
