"""The ruler beside every attack: the same attack on the same network before training, on the same images.

It does not depend on the run's training, so it is computed once for all runs in a folder and kept in `<runs>/.rulers/`; of several
processes that want it at once, one computes it and the others wait.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from attacks.judge import Scores
from ssl_split.config import RESULTS_VERSION
from ssl_split.data.images import ImageSet
from ssl_split.files import read_json, write_json
from ssl_split.locks import once

P = TypeVar("P")
T = TypeVar("T")
_COLUMNS = ("mse", "psnr", "ssim", "ssim_resfl")


def digest(images: ImageSet) -> str:
    """A hash of images in their order."""
    return hashlib.sha256("".join(images.digests()).encode()).hexdigest()[:32]


def cached(folder: Path, key: Mapping[str, Any], compute: Callable[[], Scores]) -> Scores:
    """The ruler with this key: read if it was computed before, else computed and kept.

    Args:
        folder: Where rulers are kept; made when needed.
        key: Everything that changes the scores, plain values; `attack` names the attack.
        compute: Called when there is no such ruler, or its file is damaged.
    """
    def per_image() -> dict[str, list[float]]:
        found = compute()
        return {c: getattr(found, c).tolist() for c in _COLUMNS}

    def scores(known: Mapping[str, list[float]]) -> Scores:
        mse, psnr, ssim, resfl = (torch.tensor(known[c], dtype=torch.float64) for c in _COLUMNS)
        return Scores(mse, psnr, ssim, resfl, {})

    return _kept(folder, key, per_image, scores, prefix="invert", entry="per_image")


def cached_rows(folder: Path, key: Mapping[str, Any], compute: Callable[[], list[dict[str, Any]]], *, prefix: str = "label"
                ) -> list[dict[str, Any]]:
    """A ruler of label or membership attacks (`prefix`), rows of plain values; arguments as in `cached`."""
    return _kept(folder, key, compute, list, prefix=prefix, entry="rows")


def _kept(folder: Path, key: Mapping[str, Any], compute: Callable[[], P], read: Callable[[P], T], *, prefix: str, entry: str) -> T:
    """What `read` makes of the plain values of a ruler, which are in a file or else computed."""
    full = json.loads(json.dumps({"results_version": RESULTS_VERSION, **key}, sort_keys=True))
    name = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{prefix}-{key['attack']}-untrained-{name}.json"

    def known() -> T | None:
        if not path.is_file():
            return None
        try:
            held = read_json(path)
            return read(held[entry]) if held["key"] == full else None
        except (ValueError, KeyError, TypeError):
            return None  # a damaged file costs a computation, not the attack

    def make() -> T:
        found = compute()
        write_json(path, {"key": full, entry: found})
        return read(found)

    return once(path, known, make)
