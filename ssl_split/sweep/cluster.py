"""Jobs on several machines, as tasks of Ray Core over the same job list: Ray chooses the machine, the job stays a command and its files.

A task locks the job's log and starts the command, as a sweep does on its own machine; so what is true of jobs there holds here, and sweeps
with and without Ray may share a directory. Every machine sees that directory, and the working directory, under the same path.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ssl_split.sweep.book import note_failure
from ssl_split.sweep.processes import NOTHING, Ended, claim, cores, launch, reason, threads

STOP_SECONDS = 100.0
"""How long a stopped command may take to save: less than the sweep waits for its task."""
CONNECT_SECONDS = 20.0
LOOK_SECONDS, SEE_SECONDS, ANSWER_SECONDS = 0.1, 60.0, 300.0
"""Between two looks at a command; until a new file must be seen on other machines (NFS keeps a folder's list for up to a minute); until
their workers must have said so."""

_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != {parent}:
    sys.exit("error: its Ray worker was lost")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Begins a command that gets SIGTERM when the worker that started it dies (prctl PR_SET_PDEATHSIG, Linux). Elsewhere it lives on with its
lock, and is waited for."""


@dataclass(frozen=True)
class Sight:
    """What a worker must see.

    Attributes:
        cwd: Where commands are started.
        mark: A file in the sweep's directory.
        seconds: How long it may take to appear.
    """

    cwd: str
    mark: str
    seconds: float


class Cluster:
    """Workers of a Ray cluster.

    Args:
        ray: The library.
        mark: A file in the sweep's directory that every machine must see.
        cpus: Processors of a job.
        runs_per_gpu: Jobs that share a GPU; None for jobs without one.
        see_seconds: How long a new file may take to be seen on another machine.
    """

    def __init__(self, ray: Any, mark: Path, *, cpus: int, runs_per_gpu: int | None, see_seconds: float = SEE_SECONDS) -> None:
        self.ray, self.mark, self.cpus, self.runs_per_gpu, self.see_seconds = ray, mark, cpus, runs_per_gpu, see_seconds
        gpus = 0.0 if runs_per_gpu is None else 1 / runs_per_gpu
        # The sweep tries again itself, as often as --retries says; a worker that has run a command ends, and with it what the command left.
        self.work = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)(work)
        self.environment = threads(cpus) | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})
        self.looked, self.known = 0.0, self._room()

    def room(self) -> int:
        """How many jobs the machines of this moment hold at a time."""
        if time.monotonic() - self.looked > 1.0:
            self.known = self._room()
        return self.known

    def _room(self) -> int:
        self.looked = time.monotonic()
        return sum(self._fits(node["Resources"]) for node in self.ray.nodes() if node["Alive"])

    def _fits(self, resources: Mapping[str, float]) -> int:
        fit = resources.get("CPU", 0.0) // self.cpus
        return int(fit if self.runs_per_gpu is None else min(fit, resources.get("GPU", 0.0) * self.runs_per_gpu))

    def start(self, words: Sequence[str], log: IO[str], environment: Mapping[str, str] = NOTHING) -> Task:
        """Hand a command to Ray; the worker takes the log's lock."""
        log.close()
        file = Path(log.name).resolve()
        return Task(self.ray, self.work.remote(tuple(words), str(file), self._sight(), {**self.environment, **environment}))

    def _sight(self) -> Sight:
        return Sight(os.getcwd(), str(self.mark), self.see_seconds)

    def refuse_blind_machines(self) -> None:
        """Ask every machine whether it sees the sweep's directory and the working directory.

        Raises:
            ValueError: it names the first that does not, or does not answer.
        """
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        asked = self.ray.remote(num_cpus=0, max_retries=0)(blind)
        nodes = [n for n in self.ray.nodes() if n["Alive"] and self._fits(n["Resources"])]
        answers = {asked.options(scheduling_strategy=strategy(node_id=n["NodeID"], soft=False)).remote(self._sight()):
                   n["NodeManagerHostname"] for n in nodes}
        done, late = self.ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        if late:
            raise ValueError(f"the Ray worker on {answers[late[0]]} does not answer")
        for ref in done:
            try:
                wrong = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                raise ValueError(f"the Ray worker on {answers[ref]} cannot run jobs: {_lost(self.ray, error)}") from None
            if wrong:
                raise ValueError(wrong)


class Task:
    """A job that Ray has been given."""

    place = "Ray"
    pid = None

    def __init__(self, ray: Any, ref: Any) -> None:
        self.ray, self.ref, self.begun = ray, ref, time.monotonic()

    def ended(self) -> Ended | None:
        """What its worker says, or why none does."""
        if not self.ray.wait([self.ref], timeout=0)[0]:
            return None
        try:
            how: Ended = self.ray.get(self.ref)
        except self.ray.exceptions.RayError as error:
            return Ended(time.monotonic() - self.begun, _lost(self.ray, error))
        return how

    def stop(self) -> None:
        """Not begun: it never will. Begun: the worker is interrupted, and stops the command."""
        self.ray.cancel(self.ref)

    def wait(self, seconds: float) -> None:
        """Until the worker has stopped the command, else until it is killed."""
        try:
            if self.ray.wait([self.ref], timeout=seconds)[0]:
                return
        except KeyboardInterrupt:
            pass
        self.ray.cancel(self.ref, force=True)
        self.ray.wait([self.ref], timeout=LOOK_SECONDS)

    def release(self) -> None:
        """Nothing: the worker had the log, and has given it back."""


def _lost(ray: Any, error: Exception) -> str:
    """Why a task has no result."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "Ray killed it: the memory of its machine was full"
    if isinstance(error, ray.exceptions.TaskCancelledError):
        return "stopped"
    if isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.NodeDiedError):
        return "its Ray worker was lost: it was killed, or its machine failed"
    cause = getattr(error, "cause", None) or error
    return f"Ray: {type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else 'no reason given'}"


def blind(sight: Sight) -> str | None:
    """On a worker: a sentence if it does not see a directory of the sweep."""
    deadline = time.monotonic() + sight.seconds
    while not (Path(sight.mark).is_file() and Path(sight.cwd).is_dir()):
        if time.monotonic() > deadline:
            missing = sight.cwd if not Path(sight.cwd).is_dir() else str(Path(sight.mark).parent)
            return (f"the Ray worker on {socket.gethostname()} does not see {missing}: the sweep's directory and the working directory "
                    "must be on a file system that all machines share, under the same path")
        time.sleep(LOOK_SECONDS)
    return None


def work(words: Sequence[str], file: str, sight: Sight, environment: Mapping[str, str]) -> Ended:
    """On a worker: run a command to its end.

    Args:
        words: What follows `python`.
        file: The job's log.
        sight: Where the command is started, and whether the sweep's directory is seen.
        environment: Variables of the command, beside the worker's.
    """
    start = time.monotonic()
    if (wrong := blind(sight)) is not None:
        return Ended(0.0, wrong)
    os.chdir(sight.cwd)
    log = claim(Path(file))
    if log is None:
        return Ended(0.0, taken=True)
    with log:
        log.write(f"on {socket.gethostname()}:\n")
        before = ("-c", _WITH_PARENT.format(parent=os.getpid())) if sys.platform == "linux" else ()
        child, begin = launch(words, log, environment, before=before)
        try:
            while child.poll() is None:
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:  # Ray's way to cancel a task
            child.terminate()
            with contextlib.suppress(Exception):
                child.wait(STOP_SECONDS)
            child.kill()
            return Ended(time.monotonic() - start, "stopped")
        why = reason(Path(file), begin, child.returncode)
        noted = why is not None and note_failure(Path(file).parents[1], Path(file).stem, why)  # before another sweep can take the job
    return Ended(time.monotonic() - start, why, noted=noted)


@contextlib.contextmanager
def connected(address: str, directory: Path, *, cpus: int = 1, runs_per_gpu: int | None = None) -> Iterator[Cluster]:
    """A connection to Ray, which has room for the jobs of a sweep.

    Args:
        address: `local` starts Ray on this machine, for this sweep; `auto` is the cluster that this machine belongs to; or HOST:PORT.
        directory: The sweep's.
        cpus: Processors of a job.
        runs_per_gpu: Jobs that share a GPU; None for jobs without one.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: no such cluster, no machine in it that is large enough, or one that does not see the directory.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError:
        raise ModuleNotFoundError("--ray needs the package ray: pip install 'ssl_split[ray]'") from None
    if cpus < 1 or (runs_per_gpu is not None and runs_per_gpu < 1):
        raise ValueError("a job needs at least one processor (--cpus-per-job) and a share of a GPU (--runs-per-gpu)")
    _refuse_dead(os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address)
    own: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    directory.mkdir(parents=True, exist_ok=True)
    mark = directory.resolve() / f".ray-{uuid.uuid4().hex}"
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"there is no Ray at {address} ({str(error).strip().splitlines()[0].rstrip('.')}): start it with `ray start "
                         "--head`, or say --ray local for this machine alone") from None
    try:
        mark.touch()
        made = Cluster(ray, mark, cpus=cpus, runs_per_gpu=runs_per_gpu)
        if not made.room():
            share = "" if runs_per_gpu is None else f" and 1/{runs_per_gpu} of a GPU"
            raise ValueError(f"no machine of this Ray cluster has {cpus} processors{share} for a job")
        made.refuse_blind_machines()
        yield made
    finally:
        mark.unlink(missing_ok=True)
        ray.shutdown()


def _refuse_dead(address: str) -> None:
    """Refuse an address at which nothing answers: Ray would try it for many minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ValueError(f"--ray {address}: give auto, local or HOST:PORT as `ray start --head` prints it")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"there is no Ray at {address} ({error}): start it with `ray start --head`, or say --ray local for this machine "
                         "alone") from None
