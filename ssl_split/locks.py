"""A lock is a file that one process holds; it ends with the process, however that ends.

Locks hold between processes of one machine, and of several on a file system that knows `flock`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

FILE = ".lock"
"""Of a run directory, held by the process that trains there."""

PATIENCE_SECONDS, LOOK_SECONDS = 0.5, 0.05
"""How long a lock is waited for, since whoever only looks whether it is held has it for an instant; and between two tries."""


@contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Take a lock for as long as the context lasts; the file is made where it is missing.

    Returns:
        Whether it was free. Where not, nothing is held.
    """
    with path.open("a+b") as file:
        end = time.monotonic() + PATIENCE_SECONDS
        while not (free := take(file)) and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        yield free


def is_held(path: Path) -> bool:
    """Whether another process holds a lock; looking takes no longer than an instant, and changes nothing."""
    try:
        with path.open("rb") as file:
            return not take(file, shared=True)
    except OSError:
        return False


def take(file: IO[Any], *, wait: bool = False, shared: bool = False) -> bool:
    """Lock an open file for this process, and on POSIX for the children that inherit it.

    Args:
        file: Closing it everywhere gives the lock back.
        wait: Whether to wait for another process that has it.
        shared: Only to look; on Windows nothing is held afterwards.

    Returns:
        Whether it is locked; without `wait` False where another process has it.

    Raises:
        OSError: the file system knows no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                if shared:
                    msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
            except OSError:
                if not wait:
                    return False
                time.sleep(LOOK_SECONDS)
            else:
                return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time makes a file or folder; another waits, and says so.

    The lock is `.<name>.lock` beside it while it is needed. Where the file system knows no locks or cannot be written there is none:
    several may make the same at once then, each as a whole, and only time is lost.
    """
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(_held(lock, waiting_for=path))
            stack.callback(_remove, lock)  # before it is given back
        yield


def _held(lock: Path, *, waiting_for: Path) -> IO[bytes]:
    """The open, locked file of this name."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        file = lock.open("ab")
        try:
            if not take(file):
                if not said:
                    print(f"waiting for another process that makes {waiting_for}", file=sys.stderr, flush=True)
                said = True
                take(file, wait=True)
            if lock.exists() and lock.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # who had it has removed the file: the name stands for another one, or none


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def once(path: Path, read: Callable[[], T | None], make: Callable[[], T]) -> T:
    """What a shared file holds, computed by one process while others wait for it.

    Args:
        path: The file.
        read: What it holds; None while it is missing or damaged.
        make: Computes it and writes the file.
    """
    found = read()
    if found is not None:
        return found
    with alone(path):
        found = read()  # another process may have made it meanwhile
        return make() if found is None else found
