"""Runs the jobs of a sweep, several at a time; a failure stops nothing but what depends on it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from rich.console import Console

from ssl_split.report.text import seconds as duration
from ssl_split.sweep.board import Lines, shown
from ssl_split.sweep.book import DONE, FAILED, RUNNING, SKIPPED, WAITING, Book
from ssl_split.sweep.features import Features
from ssl_split.sweep.jobs import Job
from ssl_split.sweep.processes import Child, Ended, Local, Workers, claim

STOP_SECONDS = 120.0
"""How long stopped children may take to write their checkpoints."""
LOOK_SECONDS, ELSEWHERE_SECONDS = 0.05, 1.0
"""Between two looks at children, and at jobs that other sweeps have taken."""


@dataclass(frozen=True)
class Running:
    """A job at work."""

    job: Job
    child: Child
    start: float


def execute(plan: Sequence[Job], book: Book, *, workers: Workers | None = None, retries: int = 0, console: Console | None = None,
            features_gib: float = 0.0) -> None:
    """Run what is not done yet; the outcome is in the book.

    Args:
        plan: Jobs, those that others need before these.
        book: States.
        workers: Where jobs run; one at a time on this machine if None. With room for several, jobs that keep others waiting longest go
            first; with room for one, the plan's order.
        retries: How often a job that failed is tried again; failures in other sweeps that share the directory count, from this start on.
        console: Where progress is shown; stderr if None.
        features_gib: Most GiB of features that the probes of a run share on disk.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the children were stopped, and the next start goes on.
    """
    (book.directory / "logs").mkdir(parents=True, exist_ok=True)
    workers = Local() if workers is None else workers
    with _signals_as_interrupt():
        book.restore()
        for job in plan:
            if job.result() is not None:
                book.note(job, DONE)
        book.write([job.key for job in plan if book.state(job.key) == DONE or not _taken(book, job)])
        with shown(book, workers.room, console) as board:
            pool = _Pool(plan, book, workers, retries=retries, board=board, features=Features(book.directory, plan, features_gib))
            try:
                pool.run()
            except BaseException:
                pool.stop()
                raise
            finally:
                pool.features.remove()


class _Pool:
    """Jobs at work and those that wait."""

    def __init__(self, plan: Sequence[Job], book: Book, workers: Workers, *, retries: int, board: Lines, features: Features) -> None:
        self.plan, self.book, self.workers, self.board, self.features = plan, book, workers, board, features
        self.running: list[Running] = []
        self.retries = retries
        self.number = {job.key: f"[{i}/{len(plan)}]" for i, job in enumerate(plan, 1)}
        self.after: dict[str, list[str]] = {}
        for job in plan:
            self.after.setdefault(job.needs or "", []).append(job.key)
        self.looked: dict[str, float] = {}

    def run(self) -> None:
        """Until no job waits or runs."""
        while True:
            while len(self.running) < self.workers.room() and (found := self._next()) is not None:
                self._start(*found)
            self.board.refresh({r.job.key: (r.child.place, time.monotonic() - r.start) for r in self.running})
            ended = [(r, how) for r in self.running if (how := r.child.ended()) is not None]
            for one, how in ended:
                try:
                    self._end(one, how)
                finally:
                    one.child.release()  # not before the book says how it ended: another sweep would try it again
                self.features.ended(one.job, self.book)
            if not ended:
                if not self.running and not self._waiting():
                    self._take_over()
                    return
                time.sleep(LOOK_SECONDS if self.running else ELSEWHERE_SECONDS / 2)

    def _waiting(self) -> list[Job]:
        return [job for job in self.plan if self.book.state(job.key) == WAITING]

    def _next(self) -> tuple[Job, IO[str]] | None:
        """A job that can start now, with its locked log."""
        for job in self._ready():
            if (log := claim(_log(self.book, job))) is None:
                self.looked[job.key] = time.monotonic()
            elif not self._ended_elsewhere(job):
                return job, log
            else:
                log.close()
        return None

    def _ended_elsewhere(self, job: Job) -> bool:
        """Whether another sweep has made a job since, or it has failed as often as told; the book knows it then."""
        failures, reason = self.book.failures(job)
        if job.result() is not None:
            self.book.set(job, DONE)
            self.board.say(f"{self.number[job.key]} {job.label}: done elsewhere")
        elif failures > self.retries:
            reason = reason or "another sweep noted no reason"
            self.book.set(job, FAILED, reason=reason)
            self.board.say(f"{self.number[job.key]} {job.label}: failed elsewhere: {reason}")
        self.features.ended(job, self.book)
        return self.book.state(job.key) != WAITING

    def _take_over(self) -> None:
        """Note as done what failed here, or was left out for that, and another sweep has made since."""
        for job in self.plan:
            if self.book.state(job.key) in (FAILED, SKIPPED) and job.result() is not None:
                self.book.set(job, DONE)

    def _ready(self) -> list[Job]:
        """Jobs whose training is done, in the order in which they should start."""
        ready = []
        for job in self._waiting():
            state = DONE if job.needs is None else self.book.state(job.needs)
            if state in (FAILED, SKIPPED):
                self.book.set(job, SKIPPED, reason=f"its training {state}")
            elif state == DONE and time.monotonic() - self.looked.get(job.key, -ELSEWHERE_SECONDS) >= ELSEWHERE_SECONDS:
                ready.append(job)
        if self.workers.room() > 1 and ready:
            expected = self.book.expected()
            running = [one.job for one in self.running]
            ready.sort(key=lambda job: (self.features.rank(job, running), -expected[job.key] - max(
                (expected[k] for k in self.after.get(job.key, ())), default=0.0)))
        return ready

    def _start(self, job: Job, log: IO[str]) -> None:
        """Start a child."""
        child = self.workers.start(job.start_words(), log, self.features.environment(job))
        self.running.append(Running(job, child, time.monotonic()))
        self.book.set(job, RUNNING, pid=child.pid)

    def _end(self, one: Running, how: Ended) -> None:
        """Note how a job ended."""
        self.running.remove(one)
        job = one.job
        if how.taken:  # by another sweep, between the look at it and its start
            self.looked[job.key] = time.monotonic()
            self.book.set(job, WAITING)
            return
        if how.reason is None and job.result() is not None:
            self.book.set(job, DONE, seconds=how.seconds)
            self.board.say(f"{self.number[job.key]} {job.label}: done in {duration(how.seconds)}")
            return
        reason = "it ended well but its result file is missing" if how.reason is None else how.reason
        again = self.book.failures(job)[0] - how.noted < self.retries
        self.book.fail(job, WAITING if again else FAILED, reason=reason, seconds=None if again else how.seconds, noted=how.noted)
        more = ", and is tried again" if again else ""
        self.board.say(f"{self.number[job.key]} {job.label}: failed: {reason}{more}")

    def stop(self) -> None:
        """End all children, leaving them time to save."""
        if not self.running:
            return
        jobs = "the job that runs" if len(self.running) == 1 else f"the {len(self.running)} jobs that run"
        print(f"stopping {jobs}, so that the next start can go on...", file=sys.stderr, flush=True)
        for one in self.running:
            one.child.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for one in self.running:
            one.child.wait(max(0.0, deadline - time.monotonic()))
            self.book.note(one.job, WAITING, reason="stopped")
        try:
            self.book.write([one.job.key for one in self.running])
        finally:
            for one in self.running:
                one.child.release()
            self.running.clear()


def _log(book: Book, job: Job) -> Path:
    return book.directory / "logs" / f"{job.key}.log"


def _taken(book: Book, job: Job) -> bool:
    """Whether another sweep, or a child that has outlived one, is at this job."""
    if not _log(book, job).exists():
        return False
    if (log := claim(_log(book, job))) is None:
        return True
    log.close()
    return False


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal stop the children like Ctrl-C does; what the caller ignores (nohup) stays ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    names = [n for n in ("SIGTERM", "SIGHUP") if main and hasattr(signal, n)]
    before = {n: signal.getsignal(getattr(signal, n)) for n in names}
    caught = [n for n in names if before[n] is not signal.SIG_IGN]
    for name in caught:
        signal.signal(getattr(signal, name), interrupt)
    try:
        yield
    finally:
        for name in caught:
            signal.signal(getattr(signal, name), before[name])
