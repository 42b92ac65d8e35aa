"""Features on disk, for the next probe of the same weights.

Where the variable `SSL_SPLIT_FEATURES` names a folder, features are kept there in `<run>/<hash>.safetensors` and read by whoever asks for
the same again; sweeps set it. The folder holds no more than `SSL_SPLIT_FEATURES_GIB` [4]: what was not used for longest goes first. A file
that is missing, damaged or cannot be written costs an extraction, never the probe.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_split.files import read_tensors, write_tensors
from ssl_split.locks import once

if TYPE_CHECKING:  # sweeps read the names of the variables, and torch is slow to import
    from torch import Tensor

FOLDER, LIMIT = "SSL_SPLIT_FEATURES", "SSL_SPLIT_FEATURES_GIB"
"""Variables: where features are kept, and how many GiB of them."""

GIB = 2**30
MOST = 4.0
"""GiB that are kept where nothing else is said."""

FREE = 2 * GIB
"""Bytes of the disk that are left to others."""


@dataclass(frozen=True)
class Shelf:
    """Features of one run.

    Attributes:
        root: Folder of all runs.
        run: Name of the run, and of its folder.
        limit: Most bytes of all runs.
    """

    root: Path
    run: str
    limit: int

    def rows(self, key: Mapping[str, Any], compute: Callable[[], Tensor]) -> Tensor:
        """Features with this key: read, or computed and kept. Of several processes one computes, the others wait for it.

        Args:
            key: Everything that changes a bit of them, plain values.
            compute: Makes them, `(n, d)` on the CPU.

        Returns:
            What `compute` would return, bit by bit, and as aligned in memory.
        """
        text = json.dumps(key, sort_keys=True, default=str)
        path = self.root / self.run / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

        def make() -> Tensor:
            made = compute()
            self._keep(path, made)
            return made

        return once(path, lambda: _read(path), make)

    def _keep(self, path: Path, rows: Tensor) -> None:
        try:
            if self._has_room(rows.numel() * rows.element_size()):
                write_tensors(path, {"rows": rows}, {})
        except OSError as error:  # a full disk, say, or another process has emptied the folder
            print(f"note: features are not kept for the next probe ({error})", file=sys.stderr)

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes may be written; makes room by removing what was not used for longest."""
        if size > self.limit:
            return False
        self.root.mkdir(parents=True, exist_ok=True)
        held = []
        for file in self.root.glob("*/*"):
            if file.suffix in (".safetensors", ".tmp"):  # the latter of a process that was killed, or is about to rename it
                with contextlib.suppress(OSError):
                    found = file.stat()
                    held.append((found.st_mtime, found.st_size, file))
        total = sum(bytes_ for _, bytes_, _ in held)
        for _, bytes_, file in sorted(held):
            if total + size <= self.limit:
                break
            with contextlib.suppress(OSError):
                file.unlink()
            total -= bytes_
        return shutil.disk_usage(self.root).free >= size + FREE


def shelf(run: str) -> Shelf | None:
    """Where the features of a run are kept; None where nobody asked for it.

    Args:
        run: Name of the run's directory.

    Raises:
        ValueError: the limit is no number.
    """
    root, limit = os.environ.get(FOLDER), os.environ.get(LIMIT)
    if not root:
        return None
    try:
        gib = MOST if limit is None else float(limit)
    except ValueError:
        gib = math.nan
    if not 0 <= gib < math.inf:
        raise ValueError(f"{LIMIT} = {limit!r} is impossible: it must be a number of GiB, 0 (none are kept) or more")
    return Shelf(Path(root), run, int(gib * GIB)) if gib else None


def _read(path: Path) -> Tensor | None:
    try:
        rows = read_tensors(path)["rows"].clone()  # a mapped file is aligned otherwise, which may change sums
    except (OSError, ValueError, KeyError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return rows
