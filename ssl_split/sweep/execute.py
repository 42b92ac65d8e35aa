"""Runs jobs in child processes, several at a time; a failure stops nothing but what depends on it.

A job that runs keeps its log locked, and its child inherits the lock. So sweeps may share a directory, on one machine or by a file system
that knows `flock`: each takes the jobs that no other has taken, and a child that outlives a killed sweep is waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from ssl_split.display import Bar, progress
from ssl_split.report.text import seconds as duration
from ssl_split.sweep.book import DONE, FAILED, RUNNING, SKIPPED, WAITING, Book
from ssl_split.sweep.jobs import Job

STOP_SECONDS = 120.0
"""How long stopped children may take to write their checkpoints."""
LOOK_SECONDS, ELSEWHERE_SECONDS = 0.05, 1.0
"""Between two looks at children, and at jobs that other sweeps have taken."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """A place where one job runs at a time.

    Attributes:
        name: What a person reads.
        environment: Variables that bind a child to it.
    """

    name: str
    environment: Mapping[str, str]


def slots(*, jobs: int | None = None, gpus: Sequence[str] = (), per_gpu: int = 1) -> list[Slot]:
    """Places for jobs: `per_gpu` on each GPU, or `jobs` on the processor, which share its cores evenly.

    A single place on the processor leaves a job all cores and the caller's settings.

    Raises:
        ValueError: both are given, or a number below 1.
    """
    if gpus and jobs is not None:
        raise ValueError("--jobs counts jobs on the processor and --gpus names GPUs: give one of them")
    count = len(gpus) * per_gpu if gpus else 1 if jobs is None else jobs
    if count < 1 or per_gpu < 1:
        raise ValueError("a sweep needs room for at least one job at a time")
    if not gpus and count == 1:
        return [Slot("processor", {})]
    threads = dict.fromkeys(THREADS, str(max(1, cores() // count)))
    if not gpus:
        return [Slot(f"processor {i}", threads) for i in range(count)]
    return [Slot(f"GPU {gpu}" + (f" ({i + 1})" if per_gpu > 1 else ""), {**threads, "CUDA_VISIBLE_DEVICES": gpu})
            for i in range(per_gpu) for gpu in gpus]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Running:
    """A job at work."""

    job: Job
    slot: Slot
    child: subprocess.Popen[bytes]
    log: IO[str]
    begin: int
    start: float


def execute(plan: Sequence[Job], book: Book, *, places: Sequence[Slot] = (Slot("processor", {}),), retries: int = 0) -> None:
    """Run what is not done yet; the outcome is in the book.

    Args:
        plan: Jobs, those that others need before these.
        book: States.
        places: One job runs at a time in each. With several, jobs that keep others waiting longest go first; with one, the plan's order.
        retries: How often a job that failed is tried again.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the children were stopped, and the next start goes on.
    """
    (book.directory / "logs").mkdir(parents=True, exist_ok=True)
    live = progress(len(plan), "sweep") if sys.stderr.isatty() else contextlib.nullcontext()
    with _signals_as_interrupt(), live as bar:
        book.restore()
        for job in plan:
            if job.result() is not None:
                book.note(job, DONE)
        book.write([job.key for job in plan if not _taken(book, job)])
        pool = _Pool(plan, book, places, retries=retries, bar=bar)
        pool.show(count=book.count()[DONE])
        try:
            pool.run()
        except BaseException:
            pool.stop()
            raise


class _Pool:
    """Jobs in their places."""

    def __init__(self, plan: Sequence[Job], book: Book, places: Sequence[Slot], *, retries: int, bar: Bar | None) -> None:
        self.plan, self.book, self.places, self.bar = plan, book, places, bar
        self.running: list[Running] = []
        self.tries = {job.key: 1 + retries for job in plan}
        self.number = {job.key: f"[{i}/{len(plan)}]" for i, job in enumerate(plan, 1)}
        self.after: dict[str, list[str]] = {}
        for job in plan:
            self.after.setdefault(job.needs or "", []).append(job.key)
        self.looked: dict[str, float] = {}

    def run(self) -> None:
        """Until no job waits or runs."""
        while True:
            free = [p for p in self.places if p not in [r.slot for r in self.running]]
            for place in free:
                if (found := self._next()) is None:
                    break
                self._start(*found, place)
            ended = [r for r in self.running if r.child.poll() is not None]
            for one in ended:
                self._end(one)
            if not ended:
                if not self.running and not self._waiting():
                    return
                time.sleep(LOOK_SECONDS if self.running else ELSEWHERE_SECONDS / 2)

    def _waiting(self) -> list[Job]:
        return [job for job in self.plan if self.book.state(job.key) == WAITING]

    def _next(self) -> tuple[Job, IO[str]] | None:
        """A job that can start now, with its locked log."""
        ready = []
        for job in self._waiting():
            state = DONE if job.needs is None else self.book.state(job.needs)
            if state in (FAILED, SKIPPED):
                self.book.set(job, SKIPPED, reason=f"its training {state}")
                self.show()
            elif state == DONE and time.monotonic() - self.looked.get(job.key, -ELSEWHERE_SECONDS) >= ELSEWHERE_SECONDS:
                ready.append(job)
        if len(self.places) > 1 and ready:
            expected = self.book.expected()
            ready.sort(key=lambda job: -expected[job.key] - max((expected[k] for k in self.after.get(job.key, ())), default=0.0))
        for job in ready:
            if (log := _claim(_log(self.book, job))) is None:
                self.looked[job.key] = time.monotonic()
            elif job.result() is None:
                return job, log
            else:  # another sweep has made it since
                log.close()
                self.book.set(job, DONE)
                self.show(text=f"{self.number[job.key]} {job.label}: done elsewhere")
        return None

    def _start(self, job: Job, log: IO[str], place: Slot) -> None:
        """Start a child; its output, and the lock, are the log's."""
        words = job.start_words()
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} $ python {' '.join(words)}\n")
        log.flush()
        begin = log.tell()
        # Its own group: Ctrl-C in the terminal reaches the child once, through this process.
        child = subprocess.Popen([sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                 env={**os.environ, "PYTHONUNBUFFERED": "1", **place.environment}, start_new_session=True)
        self.running.append(Running(job, place, child, log, begin, time.monotonic()))
        self.tries[job.key] -= 1
        self.book.set(job, RUNNING, pid=child.pid)

    def _end(self, one: Running) -> None:
        """Note how a job ended."""
        self.running.remove(one)
        job, code, seconds = one.job, one.child.returncode, time.monotonic() - one.start
        one.log.close()
        if code == 0 and job.result() is not None:
            self.book.set(job, DONE, seconds=seconds)
            self.show(text=f"{self.number[job.key]} {job.label}: done in {duration(seconds)}")
            return
        reason = "it ended well but its result file is missing" if code == 0 else _reason(Path(one.log.name), one.begin, code)
        again = self.tries[job.key]
        self.book.set(job, WAITING if again else FAILED, reason=reason, seconds=None if again else seconds)
        more = ", and is tried again" if again else ""
        self.show(count=0 if again else 1, text=f"{self.number[job.key]} {job.label}: failed: {reason}{more}")

    def stop(self) -> None:
        """End all children, leaving them time to save."""
        if not self.running:
            return
        jobs = "the job that runs" if len(self.running) == 1 else f"the {len(self.running)} jobs that run"
        print(f"stopping {jobs}, so that the next start can go on...", file=sys.stderr, flush=True)
        for one in self.running:
            one.child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for one in self.running:
            try:
                one.child.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                one.child.kill()
                one.child.wait()
            self.book.note(one.job, WAITING, reason="stopped")
            one.log.close()
        stopped = [one.job.key for one in self.running]
        self.running.clear()
        self.book.write(stopped)

    def show(self, *, count: int = 1, text: str | None = None) -> None:
        """A line about a job, and how the sweep stands: beside the bar on a terminal, in the line elsewhere."""
        numbers = self._numbers()
        if self.bar is not None:
            self.bar.advance(count, **numbers)
            if text:
                self.bar.note(text)
        elif text:
            print(f"{text}   ({', '.join(f'{k} {v}' for k, v in numbers.items())})", file=sys.stderr, flush=True)

    def _numbers(self) -> dict[str, object]:
        counts, left = self.book.count(), self.book.seconds_left()
        return {"done": counts[DONE], "failed": counts[FAILED] + counts[SKIPPED], "left": counts[WAITING] + counts[RUNNING],
                "time left": "?" if left is None else f"about {duration(left / len(self.places))}"}


def _log(book: Book, job: Job) -> Path:
    return book.directory / "logs" / f"{job.key}.log"


def _taken(book: Book, job: Job) -> bool:
    """Whether another sweep, or a child that has outlived one, is at this job."""
    if not _log(book, job).exists():
        return False
    if (log := _claim(_log(book, job))) is None:
        return True
    log.close()
    return False


def _claim(file: Path) -> IO[str] | None:
    """A job's log, locked, or None where another process has it (on Windows it is never locked)."""
    log = file.open("a", encoding="utf-8")
    try:
        import fcntl
    except ImportError:
        return log
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    return log


def _reason(log: Path, begin: int, code: int) -> str:
    """Why a job failed, from its last line or from what ended it."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"killed by {name}" + (": the system may have run out of memory" if -code == signal.SIGKILL else "")
    return _last_line(log, begin) or f"exit code {code}"


def _last_line(log: Path, begin: int) -> str:
    """The last line that a job wrote, without the decoration of progress bars."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.split("\r")[-1].strip() for line in text.splitlines()]
    return next((line.removeprefix("error: ") for line in reversed(lines) if line), "")[:500]


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
