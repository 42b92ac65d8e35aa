"""Which runs are meant, in which order, and how they are printed."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssl_split import events, runs
from ssl_split.fields import nearest
from ssl_split.list_runs import outcomes
from ssl_split.report import text
from ssl_split.report.collect import FINISHED, Run, identify, read_run
from ssl_split.traffic import MIB

Row = tuple[Run, dict[str, Any]]
"""A run and what `runs.describe` says of it."""


def select(directories: Sequence[Path], *, names: Sequence[str], where: Sequence[str], sort: str | None, reverse: bool) -> list[Row]:
    """The runs that are meant.

    Args:
        directories: Where to look; `runs` if none is given.
        names: Run directories or parts of names; all runs where there are none.
        where: Conditions as `FIELD=VALUE`.
        sort: Field to order by; otherwise runs come in the order of `names`, else directory by directory.
        reverse: Highest first; what is not known stays last.

    Raises:
        FileNotFoundError, ValueError: there is no such directory, run or field.
    """
    given = [Path(n) for n in names]
    if names and all(runs.is_run(p) for p in given):
        found = list(dict.fromkeys(given))
        read = [read_run(p, metrics=False) for p in found]
    else:
        places, problems = runs.find(directories or [Path("runs")])
        for problem in problems:
            print(problem, file=sys.stderr)
        chosen = list(dict.fromkeys(_named(n, list(places)) for n in names)) if names else list(places)
        read = [read_run(p, places.get(p, ()), metrics=False) for p in chosen]
    rows = [(run, runs.describe(run)) for run in identify(read)]
    if not rows:
        return []
    rows = [row for row in rows if all(_condition(w, rows)(row) for w in where)]
    return rows if sort is None else _sorted(rows, sort, reverse=reverse)


def _named(name: str, places: Sequence[Path]) -> Path:
    """The one run that a name or part of a name means."""
    if runs.is_run(Path(name)):
        return Path(name)
    exact = [p for p in places if p.name == name]
    found = exact or [p for p in places if name in str(p)]
    if not found:
        raise ValueError(f"there is no run {name}: {nearest(name, [p.name for p in places]) if places else 'there are no runs here'}")
    if len(found) > 1:
        others = " and others" if len(found) > 3 else ""
        raise ValueError(f"{name} may be any of {', '.join(map(str, found[:3]))}{others}: name one of them")
    return found[0]


def field(row: Row, name: str) -> Any:
    """A field of the list or of the configuration."""
    run, known = row
    return known[name] if name in known else run.config.get(name)


def _check(name: str, rows: Sequence[Row]) -> None:
    legal = dict.fromkeys([*runs.COLUMNS, *(k for run, _ in rows for k in run.config)])
    if name not in legal:
        raise ValueError(f"no run has a field {name!r}: {nearest(name, list(legal))}")


def _condition(text: str, rows: Sequence[Row]) -> Callable[[Row], bool]:
    """A condition as a function."""
    name, equal, wanted = text.partition("=")
    unequal = name.endswith("!")
    name = name.removesuffix("!")
    if not (name and equal):
        raise ValueError(f"--where {text} is no FIELD=VALUE, such as algorithm=monacosfl or cut=1,13")
    _check(name, rows)
    return lambda row: any(_matches(field(row, name), pattern) for pattern in wanted.split(",")) != unequal


def _matches(value: Any, pattern: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(pattern) == value
        except ValueError:
            pass
    return fnmatch.fnmatchcase(plain(value), pattern)


def plain(value: Any) -> str:
    """A field as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else " ".join(map(plain, value)) if isinstance(value, list) else str(value)


def _sorted(rows: Sequence[Row], name: str, *, reverse: bool) -> list[Row]:
    """Numbers before words, the unknown last."""
    _check(name, rows)

    def key(row: Row) -> tuple[bool, Any]:
        value = field(row, name)
        is_number = isinstance(value, int | float)
        return not is_number, value if is_number else plain(value)

    known = [row for row in rows if field(row, name) is not None]
    return sorted(known, key=key, reverse=reverse) + [row for row in rows if field(row, name) is None]


def show(rows: Sequence[Row], *, form: str, more: Sequence[str] = ()) -> None:
    """Print the list.

    Args:
        rows: The runs.
        form: `text`, `json` or `csv`.
        more: Further fields of the configuration to show.

    Raises:
        ValueError: there is no such field.
    """
    for name in more if rows else ():
        _check(name, rows)
    if form == "text":
        table = [(*_HEADING, *more, ""), *((*_cells(row), *(plain(field(row, name)) for name in more), note(row[1])) for row in rows)]
        print("\n".join(aligned(table)) if rows else "no run")
        total = sum(known["bytes_on_disk"] for _, known in rows)
        print(f"{many(len(rows))}, {size(total)}", file=sys.stderr)
        return
    plain_rows = [{**row[1], "changed": moment(row[1]["changed"]), **{name: field(row, name) for name in more}} for row in rows]
    if form == "json":
        print(json.dumps(plain_rows, indent=1))
        return
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys([*runs.COLUMNS, *more])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain_rows)
    print(buffer.getvalue(), end="")


_HEADING = ("run", "algorithm", "cut", "seed", "state", "accuracy", "MiB/client", "attack", "leak", "size", "age")


def _cells(row: Row) -> tuple[str, ...]:
    _, known = row
    leak = known["attack_value"]
    return (known["directory"], plain(known["algorithm"]), plain(known["cut"]), plain(known["seed"]), state(known),
            text.percent(known["accuracy"]), text.mib(known["mib_per_client"]), (known["attack"] or text.NOTHING).partition(" (")[0],
            text.NOTHING if leak is None else f"{known['attack_measure']} {leak:.3f}", size(known["bytes_on_disk"]),
            age(known["changed"]))


def note(known: Mapping[str, Any]) -> str:
    """What is wrong with a run, empty where nothing is."""
    reason, problems = known["reason"], known["problems"]
    return "; ".join(said for said in (reason if reason and reason not in (problems or "") else None, problems) if said)


def state(known: Mapping[str, Any]) -> str:
    """How a run stands, in words."""
    if known["state"] in (FINISHED, runs.FAILED):
        return str(known["state"])
    joint = " in" if known["state"] == runs.RUNNING else " at"
    return f"{known['state']}{joint} round {known['round']} of {plain(known['rounds'])}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def many(count: int) -> str:
    """A number of runs, in words: 1 run, 2 runs."""
    return f"{count} run" if count == 1 else f"{count} runs"


def size(count: int) -> str:
    """Bytes: 12 KiB, 3.4 MiB, 1.2 GiB."""
    for unit, name in ((2**30, "GiB"), (MIB, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1024:.0f} KiB"


def age(changed: float | None) -> str:
    """Time since a moment: 42 s, 7 min, 2.5 h, 12 d."""
    if changed is None:
        return text.NOTHING
    passed = max(0.0, time.time() - changed)
    return text.seconds(passed) if passed < 2 * 86400 else f"{passed / 86400:.0f} d"


def moment(changed: float | None) -> str | None:
    """Seconds since 1970 as a date and time of day, UTC."""
    return None if changed is None else datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")


def tensorboard(rows: Sequence[Row]) -> int:
    """Write the event files of runs.

    Returns:
        Exit code: 1 where a run's could not be written.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    events.check()
    failed = 0
    for run, _ in rows:
        try:
            outcomes.write(run)
        except (ValueError, FileNotFoundError) as error:
            failed += 1
            print(f"no event files of {run.directory}: {error}", file=sys.stderr)
    print(f"wrote the event files of {many(len(rows) - failed)}")
    if len(rows) > failed:
        above = os.path.commonpath([os.path.abspath(run.directory) for run, _ in rows])
        print(f"look at them with: tensorboard --logdir {os.path.relpath(above)}")
    return 1 if failed else 0
