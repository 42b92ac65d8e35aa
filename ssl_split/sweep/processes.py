"""Children: one job's command each, in a place of this machine; its output and its lock are the job's log.

A job that runs keeps its log locked, and its child inherits the lock. So sweeps may share a directory, on one machine or by a file system
that knows `flock`: each takes the jobs that no other has taken, and a child that outlives a killed sweep is waited for.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol

from ssl_split import locks

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
VISIBLE = "CUDA_VISIBLE_DEVICES"
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        seconds: It took.
        reason: Of its failure; None if its exit code was 0.
        taken: Whether it did nothing because another sweep is at the job.
        noted: Whether its failure stands in the job list already.
    """

    seconds: float
    reason: str | None = None
    taken: bool = False
    noted: bool = False


class Child(Protocol):
    """A job at work, here or on another machine."""

    @property
    def place(self) -> str:
        """Where, as a person reads it."""

    @property
    def pid(self) -> int | None:
        """Its process, if it is one of this machine."""

    def ended(self) -> Ended | None:
        """How it ended, or None while it runs."""

    def stop(self) -> None:
        """Ask it to save and end."""

    def wait(self, seconds: float) -> None:
        """Until it has ended; after so many seconds, or at a second Ctrl-C, it is killed."""

    def release(self) -> None:
        """Give its log back, so that another sweep may take the job."""


class Workers(Protocol):
    """Where jobs run."""

    def room(self) -> int:
        """How many at a time."""

    def start(self, words: Sequence[str], log: IO[str], environment: Mapping[str, str] = NOTHING) -> Child:
        """Start `python words` with further variables where there is room; `log` is locked, and the child's from now on."""


@dataclass(frozen=True)
class Slot:
    """A place where one job runs at a time.

    Attributes:
        name: What a person reads.
        environment: Variables that bind a child to it.
    """

    name: str
    environment: Mapping[str, str]


def slots(*, jobs: int | None = None, gpus: Sequence[str] | None = None, per_gpu: int | None = None, visible: str | None = None
          ) -> list[Slot]:
    """Places for jobs: `per_gpu` on each GPU, or `jobs` on the processor, which share its cores evenly.

    A single place on the processor leaves a job all cores and the caller's settings.

    Args:
        jobs: Places on the processor; one if None.
        gpus: Numbers of GPUs; None for the processor.
        per_gpu: Places on each GPU; one if None.
        visible: GPUs that this process was given, as CUDA_VISIBLE_DEVICES names them: numbers count in that list. None for all.

    Raises:
        ValueError: both are given, a number below 1, or a GPU that is none, is named twice or was not given to this process.
    """
    if gpus is not None and jobs is not None:
        raise ValueError("--jobs counts jobs on the processor and --gpus names GPUs: give one of them")
    if gpus is None and per_gpu is not None:
        raise ValueError("--runs-per-gpu goes with --gpus or --ray: without them jobs run on the processor")
    each = 1 if per_gpu is None else per_gpu
    named = {} if gpus is None else _named(gpus, visible)
    count = len(named) * each if named else 1 if jobs is None else jobs
    if count < 1:
        raise ValueError("a sweep needs room for at least one job at a time")
    if not named and count == 1:
        return [Slot("processor", {})]
    shared = threads(max(1, cores() // count))
    if not named:
        return [Slot(f"processor {i}", shared) for i in range(count)]
    return [Slot(f"GPU {number}" + (f" ({i + 1})" if each > 1 else ""), {**shared, VISIBLE: name})
            for i in range(each) for number, name in named.items()]


def _named(gpus: Sequence[str], visible: str | None) -> dict[int, str]:
    """Names of GPUs for CUDA, by the numbers that were asked for."""
    if not gpus or not all(gpu.isdecimal() for gpu in gpus):
        raise ValueError(f"--gpus {','.join(gpus) or 'names no GPU'}: give numbers, such as 0 or 0,1")
    numbers = [int(gpu) for gpu in gpus]
    if twice := [n for i, n in enumerate(numbers) if n in numbers[:i]]:
        raise ValueError(f"--gpus names GPU {twice[0]} twice: --runs-per-gpu 2 has two jobs at a time on each")
    if visible is None:
        here = gpus_here()
        if beyond := [n for n in numbers if n >= here]:
            legal = "is only GPU 0" if here == 1 else f"are GPUs 0 to {here - 1}"
            raise ValueError(f"--gpus {beyond[0]}: " + (f"there {legal} on this machine" if here else
                             "PyTorch finds no GPU on this machine; without --gpus jobs run on the processor"))
        return {n: str(n) for n in numbers}
    names = (name.strip() for name in visible.split(","))
    given = list(itertools.takewhile(lambda name: name.isdecimal() or name.startswith(("GPU-", "MIG-")), names))  # as CUDA reads it
    if beyond := [n for n in numbers if n >= len(given)]:
        held = f"only {len(given)} GPU{'' if len(given) == 1 else 's'}" if given else "no GPU"
        raise ValueError(f"--gpus {beyond[0]}: {VISIBLE}={visible} gives this process {held}, counted from 0")
    return {n: given[n] for n in numbers}


def gpus_here() -> int:
    """GPUs that PyTorch finds."""
    import torch  # slow to import, and only --gpus needs it

    return torch.cuda.device_count()


def threads(count: int) -> dict[str, str]:
    """Variables that give a child so many cores."""
    return dict.fromkeys(THREADS, str(count))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Process:
    """A child on this machine."""

    slot: Slot
    popen: subprocess.Popen[bytes]
    log: IO[str]
    begin: int
    start: float

    @property
    def place(self) -> str:
        """Name of its slot."""
        return self.slot.name

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self.popen.pid

    def ended(self) -> Ended | None:
        """How it ended."""
        code = self.popen.poll()
        if code is None:
            return None
        return Ended(time.monotonic() - self.start, reason(Path(self.log.name), self.begin, code))

    def stop(self) -> None:
        """SIGTERM: a training writes its checkpoint."""
        self.popen.terminate()

    def wait(self, seconds: float) -> None:
        """Until it has ended, else SIGKILL."""
        try:
            self.popen.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.popen.kill()
            self.popen.wait()

    def release(self) -> None:
        """Close the log, and with it its lock."""
        self.log.close()


class Local:
    """Child processes of this one.

    Args:
        places: One job runs at a time in each.
    """

    def __init__(self, places: Sequence[Slot] = (Slot("processor", {}),)) -> None:
        self.places = places
        self.busy: dict[str, Process] = {}

    def room(self) -> int:
        """How many places there are."""
        return len(self.places)

    def start(self, words: Sequence[str], log: IO[str], environment: Mapping[str, str] = NOTHING) -> Process:
        """Start a child in the first place that is free."""
        slot = next(s for s in self.places if s.name not in self.busy or self.busy[s.name].popen.poll() is not None)
        popen, begin = launch(words, log, {**slot.environment, **environment})
        self.busy[slot.name] = Process(slot, popen, log, begin, time.monotonic())
        return self.busy[slot.name]


def launch(words: Sequence[str], log: IO[str], environment: Mapping[str, str], *, before: Sequence[str] = ()
           ) -> tuple[subprocess.Popen[bytes], int]:
    """Start `python words`; its output, and the lock, are the log's.

    Args:
        words: Of the command.
        log: Open for appending.
        environment: Variables beside those of this process.
        before: Arguments of Python that come first.

    Returns:
        The child, and where its output begins in the log.
    """
    log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} $ python {' '.join(words)}\n")
    log.flush()
    begin = log.tell()
    # Its own group: Ctrl-C in the terminal reaches the child once, through this process.
    child = subprocess.Popen([sys.executable, *before, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                             env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, start_new_session=True)
    return child, begin


def claim(file: Path) -> IO[str] | None:
    """A job's log, locked, or None where another process has it (on Windows it is never locked)."""
    log = file.open("a", encoding="utf-8")
    if sys.platform == "win32" or locks.take(log, wait=False):
        return log
    log.close()
    return None


def reason(log: Path, begin: int, code: int) -> str | None:
    """Why a job failed, from its last line or from what ended it; None if it did not."""
    if code == 0:
        return None
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
