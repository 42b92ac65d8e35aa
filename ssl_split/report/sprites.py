"""One picture per run: targets and what each attack made of them, as a WebP of equal tiles that the page cuts up."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from ssl_split.report.collect import Outcome, Run
from ssl_split.report.table import BOUNDS

ORIGINAL, BLIND = "original", "blind guess"
QUALITY = 90
"""Of the WebP. Scores were computed on the tensors, not on these pictures."""

FILE = "reconstructions.safetensors"

Tiles = NDArray[np.uint8]


@dataclass(frozen=True)
class Sprite:
    """Pictures of one run.

    Attributes:
        rows: What each row of tiles shows: `original`, an attack's label, `blind guess`. An attack with targets of its own has its
            originals in the row before, named `original of LABEL`.
        images: Tiles in a row.
        size: Pixels per side of a tile.
        data: The WebP, base64.
        originals: Equal for runs whose attacks had the same first targets.
    """

    rows: tuple[str, ...]
    images: int
    size: tuple[int, int]
    data: str
    originals: str


def sprite(run: Run, images: int) -> Sprite | None:
    """The first `images` targets of every attack of a run that rebuilt images, one row each; None where there are none.

    Damaged or missing files of reconstructions leave their attack out: its scores stand in the tables.
    """
    rows: dict[str, Tiles] = {}
    shown: Tiles | None = None
    guess: Tiles | None = None
    for outcome in _attacks(run):
        read = _read(outcome.directory / FILE, images)
        if read is None:
            continue
        targets, rebuilt, blind = read
        if shown is None:
            rows[ORIGINAL] = shown = targets
            guess = None if blind is None else np.repeat(blind[None], len(targets), 0)
        elif targets.shape[1:] != shown.shape[1:]:
            continue
        elif not np.array_equal(targets, shown[: len(targets)]):
            rows[f"{ORIGINAL} of {outcome.label}"] = targets
        rows[outcome.label] = rebuilt
    if shown is None:
        return None
    if guess is not None:
        rows[BLIND] = guess
    return _encode(rows, shown.shape[1:3])


def _attacks(run: Run) -> list[Outcome]:
    return [o for o in run.of("attack") if o.number("mse") is not None and o.name != BOUNDS[0]]


def _read(file: Path, images: int) -> tuple[Tiles, Tiles, Tiles | None] | None:
    """Targets, reconstructions [n, H, W, 3] and the blind guess [H, W, 3] as bytes."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "numpy") as opened:
            names = set(opened.keys())
            if not {"targets", "reconstructions"} <= names:
                return None
            targets, rebuilt = (_tiles(opened.get_slice(name)[:images]) for name in ("targets", "reconstructions"))
            blind = _tiles(opened.get_tensor("blind")[None])[0] if "blind" in names else None
    except (SafetensorError, OSError, ValueError):
        return None
    return (targets, rebuilt, blind) if targets.shape == rebuilt.shape and targets.ndim == 4 and len(targets) else None


def _tiles(images: NDArray[np.generic]) -> Tiles:
    """[n, C, H, W] in [0, 1], or bytes, as colour bytes [n, H, W, 3]."""
    values = images if images.dtype == np.uint8 else np.rint(255 * np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1)).astype(np.uint8)
    last = np.moveaxis(values, 1, -1)
    return np.ascontiguousarray(np.repeat(last, 3, -1) if last.shape[-1] == 1 else last[..., :3])


def _encode(rows: dict[str, Tiles], size: Sequence[int]) -> Sprite:
    height, width = size
    count = max(map(len, rows.values()))
    canvas = np.zeros((height * len(rows), width * count, 3), np.uint8)
    for place, tiles in enumerate(rows.values()):
        for column, tile in enumerate(tiles):
            canvas[place * height : (place + 1) * height, column * width : (column + 1) * width] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="webp", quality=QUALITY, method=4)
    known = hashlib.sha256(rows[ORIGINAL].tobytes()).hexdigest()[:12]
    return Sprite(tuple(rows), count, (width, height), base64.b64encode(buffer.getvalue()).decode("ascii"), known)
