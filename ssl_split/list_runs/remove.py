"""Removes runs: all that are meant or none, never one that is being trained, never anything that no run writes."""

from __future__ import annotations

import fnmatch
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_split import locks, runs
from ssl_split.list_runs.listing import Row, age, many, size, state

CONFIG = "config.yaml"

OWN = (
    CONFIG, "env.json", "metrics.jsonl", "ledger.csv", "result.json", "wire.safetensors", locks.FILE,
    "checkpoints/step-*.safetensors", "checkpoints/clients-*.safetensors", "checkpoints/best.safetensors", "rows/*.rows",
    "tensorboard/events.*", "probes/*/result.json", "measures/*/result.json", "attacks/*/result.json", "attacks/*/images.png",
    "attacks/*/reconstructions.safetensors", "attacks/*/roc.png", "attacks/*/scores.safetensors",
    "report.html", "report.md", "results.csv", "results.parquet", "figures/*.svg", "figures/*.png",
    "paper/methods.txt", "paper/methods.tex", "paper/references.bib", "paper/table-*.tex",
)
"""Files that training, probes, attacks, measurements and a report on a single run leave in its directory."""

TEMPORARY = ".*.tmp"
"""What a process that was killed leaves beside a file that it was writing."""


def command(rows: Sequence[Row], *, yes: bool) -> int:
    """Say what will go, ask, and remove it; a training that failed before it had a directory has nothing to remove.

    Raises:
        ValueError: a run must stay, or there is nobody to ask; nothing was removed.
    """
    for run, known in rows:
        if not os.path.lexists(run.directory):
            print(f"{known['directory']} does not exist, only the job list of its sweep names it: it is left out", file=sys.stderr)
    rows = [row for row in rows if os.path.lexists(row[0].directory)]
    if not rows:
        print("no run: nothing was removed")
        return 0
    if kept := [reason for run, known in rows if (reason := refusal(run.directory, known["changed"] or 0.0))]:
        more = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
        raise ValueError(f"nothing was removed: {kept[0]}{more}")
    for _, known in rows:
        print(f"{known['directory']}   {state(known)}   {size(known['bytes_on_disk'])}   changed {age(known['changed'])} ago")
    total = size(sum(known["bytes_on_disk"] for _, known in rows))
    if not yes and not _agreed(f"remove {many(len(rows))} ({total})? [y/N] "):
        print("nothing was removed")
        return 1
    for run, _ in rows:
        remove(run.directory)
    print(f"removed {many(len(rows))} ({total})")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("--remove asks before it removes, and there is no terminal to ask on: nothing was removed; add --yes")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def refusal(folder: Path, changed: float) -> str | None:
    """Why a directory must stay, or None.

    Args:
        folder: What is to be removed.
        changed: When one of its files last changed, in seconds since 1970.
    """
    if folder.is_symlink():
        return f"{folder} is a link; the run is {os.path.realpath(folder)}"
    if not runs.is_run(folder):
        return f"{folder} is not a run directory"
    if (found := foreign(folder)) is not None:
        return f"{folder} holds {found}, which no run writes (move it elsewhere first)"
    if runs.is_training(folder, changed):
        return f"{folder} is being trained"
    return None


def foreign(folder: Path) -> str | None:
    """A file at any depth that no run writes, or None; links are not followed, but must be where a run has a file or a folder."""
    for place, folders, files in os.walk(folder):
        within = Path(place).relative_to(folder).parts
        linked = [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted(linked + files):
            if not fnmatch.fnmatchcase(name, TEMPORARY) and not _is_own((*within, name), folder=name in linked):
                return Path(*within, name).as_posix()
    return None


def _is_own(parts: Sequence[str], *, folder: bool) -> bool:
    """Whether a file, or a folder, of a run has these parts of a path."""
    return any((len(parts) < len(own) if folder else len(parts) == len(own))
               and all(fnmatch.fnmatchcase(part, pattern) for part, pattern in zip(parts, own, strict=False))
               for own in (o.split("/") for o in OWN))


def remove(folder: Path) -> None:
    """Remove a run directory while nobody can train in it; links in it go, what they lead to stays.

    Its configuration goes last, so that a removal that was interrupted leaves a run that can be listed and removed.

    Raises:
        ValueError: a process has begun to train in it.
    """
    with locks.hold(folder / locks.FILE) as free:
        if not free:
            raise ValueError(f"{folder} is being trained: it was not removed")
        last = [folder / name for name in ("env.json", CONFIG)]
        for path in [p for p in sorted(folder.iterdir()) if p not in last and p.name != locks.FILE] + last:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder)
