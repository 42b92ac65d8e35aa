"""`results.parquet`: the rows of `results.csv` with types, for whoever has the extra `analysis`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssl_split.fields import extra
from ssl_split.files import replace_file
from ssl_split.report import rows
from ssl_split.report.table import Study

TEXTS = frozenset({"run", "algorithm", "dataset", "setting", "state", "reason", *rows.OUTCOME, "features", "budget", "verdict", "options",
                   "directory"})
WHOLE = frozenset({"cut", "seed", "steps", "rounds", "client_parameters", "server_parameters", "client_macs_per_image",
                   "server_macs_per_image", "results_version", "reached_rounds", "test_images", "targets", "aux", "attacker_seeds"})
FLAGS = frozenset({"strongest"})
"""Columns by what they hold; all others hold numbers with a fraction."""


def write(study: Study, path: Path) -> bool:
    """Write the file; without the extra, remove one that an earlier report left, since it would not agree with the others.

    A column in which some run has another kind of value than it should (the cut `full`, a word in a damaged result) is one of texts.

    Returns:
        Whether there is a file.
    """
    if find_spec("pyarrow") is None:
        path.unlink(missing_ok=True)
        return False
    arrow, parquet = extra("pyarrow", "analysis"), extra("pyarrow.parquet", "analysis")
    found = rows.rows(study)
    table = arrow.table({name: _column(arrow, name, [row.get(name) for row in found]) for name in rows.COLUMNS})
    replace_file(path, lambda temporary: parquet.write_table(table, temporary))
    return True


def _column(arrow: Any, name: str, values: Sequence[Any]) -> Any:
    """Values as a column of their type."""
    known = [v for v in values if v is not None]
    if name in FLAGS and all(isinstance(v, bool) for v in known):
        return arrow.array(values, arrow.bool_())
    if name in WHOLE and all(isinstance(v, int | float) and not isinstance(v, bool) and v == int(v) for v in known):
        return arrow.array([None if v is None else int(v) for v in values], arrow.int64())
    if name not in TEXTS | WHOLE | FLAGS and all(isinstance(v, int | float) and not isinstance(v, bool) for v in known):
        return arrow.array([None if v is None else float(v) for v in values], arrow.float64())
    return arrow.array([None if v is None else str(v) for v in values], arrow.string())
