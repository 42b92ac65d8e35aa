"""The result file of an attack on a run: read where it exists, else written with time and place."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_split import run as runs
from ssl_split.files import read_json, write_json


def known(path: Path) -> dict[str, Any] | None:
    """The contents of a result that exists, its place under `path`, and a line that says so; None where there is none, or a damaged one,
    which is written anew."""
    if not path.is_file():
        return None
    try:
        values = read_json(path)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        print(f"{path} is damaged and is computed again", file=sys.stderr)
        return None
    print(f"{path} exists and is not computed again", file=sys.stderr)
    return {**values, "path": str(path)}


def write(path: Path, result: Mapping[str, Any], *, start: float) -> dict[str, Any]:
    """Write a result.

    Args:
        path: Of `result.json`.
        result: Plain values.
        start: `time.monotonic()` when the attack began.

    Returns:
        The contents of the file as it reads now, and its place under `path`.
    """
    write_json(path, {**result, "seconds": time.monotonic() - start, "environment": runs.environment(), "command": runs.command_line()})
    return {**read_json(path), "path": str(path)}
