"""Runs jobs one after another in child processes; a failure stops nothing but what depends on it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from ssl_split.display import Bar, progress
from ssl_split.report.text import seconds as duration
from ssl_split.sweep.book import DONE, FAILED, RUNNING, SKIPPED, WAITING, Book
from ssl_split.sweep.jobs import Job

STOP_SECONDS = 120.0
"""How long a stopped child may take to write its checkpoint."""


def execute(plan: Sequence[Job], book: Book) -> None:
    """Run what is not done yet; the outcome is in the book.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the child was stopped, and the next start goes on.
        ValueError: another sweep is at work in the directory.
    """
    (book.directory / "logs").mkdir(parents=True, exist_ok=True)
    live = progress(len(plan), "sweep") if sys.stderr.isatty() else contextlib.nullcontext()
    with _lock(book.directory) as lock, _signals_as_interrupt(), live as bar:
        book.restore()
        for job in plan:
            if job.result() is not None:
                book.note(job, DONE)
        book.write()
        _show(book, bar, count=book.count()[DONE])
        for index, job in enumerate(plan):
            if book.state(job.key) == DONE:
                continue
            _one(job, book, lock)
            entry = book.entries[job.key]
            outcome = f"failed: {entry['reason']}" if entry["state"] == FAILED else f"done in {duration(entry['seconds'])}"
            # the failure that a skipped job follows from was told
            text = f"[{index + 1}/{len(plan)}] {job.label}: {outcome}" if entry["state"] != SKIPPED else None
            _show(book, bar, text=text)


def _show(book: Book, bar: Bar | None, *, count: int = 1, text: str | None = None) -> None:
    """A line about a job, and how the sweep stands: beside the bar on a terminal, in the line elsewhere."""
    numbers = _numbers(book)
    if bar is not None:
        bar.advance(count, **numbers)
        if text:
            bar.note(text)
    elif text:
        print(f"{text}   ({', '.join(f'{k} {v}' for k, v in numbers.items())})", file=sys.stderr, flush=True)


def _numbers(book: Book) -> dict[str, object]:
    counts, left = book.count(), book.seconds_left()
    return {"done": counts[DONE], "failed": counts[FAILED] + counts[SKIPPED], "left": counts[WAITING] + counts[RUNNING],
            "time left": "?" if left is None else f"about {duration(left)}"}


def _one(job: Job, book: Book, lock: IO[str] | None) -> None:
    """Run one job, or skip it where what it needs is missing."""
    if job.needs is not None and book.state(job.needs) != DONE:
        book.set(job, SKIPPED, reason=f"its training {book.state(job.needs)}")
        return
    log = book.directory / "logs" / f"{job.key}.log"
    start = time.monotonic()
    try:
        code, begin = _run(job, log, book, lock)
    except KeyboardInterrupt:
        book.set(job, WAITING, reason="stopped")
        raise
    seconds = time.monotonic() - start
    if code == 0 and job.result() is not None:
        book.set(job, DONE, seconds=seconds)
    elif code == 0:
        book.set(job, FAILED, reason="it ended well but its result file is missing", seconds=seconds)
    else:
        book.set(job, FAILED, reason=_last_line(log, begin) or f"exit code {code}", seconds=seconds)


def _run(job: Job, log: Path, book: Book, lock: IO[str] | None) -> tuple[int, int]:
    """Run a child to its end.

    Returns:
        Its exit code, and where its output begins in the log.
    """
    words = job.start_words()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} $ python {' '.join(words)}\n")
        file.flush()
        begin = file.tell()
        # Its own group: Ctrl-C in the terminal reaches the child once, through this process. The lock goes along, so that a child
        # that outlives a killed sweep still keeps the directory.
        child = subprocess.Popen([sys.executable, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                 env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
                                 pass_fds=(lock.fileno(),) if lock else ())
        try:
            book.set(job, RUNNING, pid=child.pid)
            return child.wait(), begin
        except BaseException:
            _stop(child)
            raise


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a child, leaving it time to save."""
    print("stopping the job that runs, so that the next start can go on...", file=sys.stderr, flush=True)
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def _last_line(log: Path, begin: int) -> str:
    """The last line that a job wrote, without the decoration of progress bars."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.split("\r")[-1].strip() for line in text.splitlines()]
    return next((line.removeprefix("error: ") for line in reversed(lines) if line), "")[:500]


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[IO[str] | None]:
    """Keep other sweeps out of the directory (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        yield None
        return
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another sweep, or a job it left behind, is at work in {directory} (process numbers are in jobs.json): "
                             "wait for it or end it") from None
        yield file


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal stop the child like Ctrl-C does; what the caller ignores (nohup) stays ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    names = [n for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {n: signal.getsignal(getattr(signal, n)) for n in names}
    caught = [n for n in names if before[n] is not signal.SIG_IGN]
    for name in caught:
        signal.signal(getattr(signal, name), interrupt)
    try:
        yield
    finally:
        for name in caught:
            signal.signal(getattr(signal, name), before[name])
