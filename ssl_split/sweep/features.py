"""Features that the probes of a run share on disk, for as long as the sweep is at that run.

A probe that finds `.features` of the sweep's directory in its environment keeps there what it has extracted, and reads what another has
(`probes.kept`). What belongs to a run goes when its last job has ended, and everything when the sweep ends.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from probes import kept
from ssl_split.sweep.book import RUNNING, WAITING, Book
from ssl_split.sweep.jobs import Job

FOLDER = ".features"

Sharing: TypeAlias = tuple[Path, str]
"""A run, and the place of the features."""


class Features:
    """Which jobs share features, and where.

    Args:
        directory: The sweep's.
        plan: Its jobs.
        gib: Most GiB at a time; 0 keeps none.
    """

    def __init__(self, directory: Path, plan: Sequence[Job], gib: float) -> None:
        self.root, self.gib = directory.resolve() / FOLDER, gib
        counts = Counter(s for job in plan if (s := _sharing(job)) is not None)
        self.shared = {s for s, count in counts.items() if count > 1 and gib > 0}
        self.of_run: dict[Path, list[str]] = {}
        for job in plan:
            self.of_run.setdefault(job.run, []).append(job.key)
        self.begun: set[Sharing] = set()

    def environment(self, job: Job) -> dict[str, str]:
        """Variables for a job that starts now."""
        sharing = _sharing(job)
        if sharing not in self.shared:
            return {}
        self.begun.add(sharing)
        return {kept.FOLDER: str(self.root), kept.LIMIT: str(self.gib)}

    def rank(self, job: Job, running: Collection[Job]) -> int:
        """0 for a job whose features are there, 1 for others, 2 for one that would wait for a job that extracts them now."""
        sharing = _sharing(job)
        if sharing not in self.begun:
            return 1
        return 2 if any(_sharing(other) == sharing for other in running) else 0

    def ended(self, job: Job, book: Book) -> None:
        """A job has ended: if it was the last of its run, its features go."""
        if not any(book.state(key) in (WAITING, RUNNING) for key in self.of_run[job.run]):
            self.remove([job.run])

    def remove(self, runs: Iterable[Path] | None = None) -> None:
        """Remove the features of some runs, or of all in the plan; another sweep that reads them extracts anew."""
        for run in self.of_run if runs is None else runs:
            shutil.rmtree(self.root / run.name, ignore_errors=True)
        with contextlib.suppress(OSError):  # another sweep's are in it, or it never was
            self.root.rmdir()


def _sharing(job: Job) -> Sharing | None:
    if job.stage is None or job.stage.kind != "probe":
        return None
    return job.run, str(job.stage.options.get("features"))
