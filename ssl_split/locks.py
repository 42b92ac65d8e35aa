"""A lock is a file that one process holds; it ends with the process, however that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

FILE = ".lock"
"""Of a run directory, held by the process that trains there."""

PATIENCE_SECONDS = 0.5
"""How long a lock is waited for: whoever only looks whether it is held has it for an instant."""


@contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Take a lock for as long as the context lasts; the file is made where it is missing.

    Returns:
        Whether it was free. Where not, nothing is held.
    """
    with path.open("a+b") as file:
        end = time.monotonic() + PATIENCE_SECONDS
        while not (free := _take(file, shared=False)) and time.monotonic() < end:
            time.sleep(0.05)
        yield free


def is_held(path: Path) -> bool:
    """Whether another process holds a lock; looking takes no longer than an instant, and changes nothing."""
    try:
        with path.open("rb") as file:
            return not _take(file, shared=True)
    except OSError:
        return False


def _take(file: IO[Any], *, shared: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            if shared:
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
