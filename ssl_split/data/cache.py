"""Decoded pictures kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import platformdirs
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ssl_split.data import decode
from ssl_split.files import write_tensors


def directory() -> Path:
    """Where decoded pictures are kept: `SSL_SPLIT_CACHE`, else the user's cache directory."""
    return Path(os.environ.get("SSL_SPLIT_CACHE") or platformdirs.user_cache_dir("ssl_split", appauthor=False))


def key(root: Path, files: Sequence[Path], size: int) -> str:
    """A hash of the files' relative names, sizes and times, of the wanted size and of the decoder's version."""
    listed = []
    for file in files:
        stat = file.stat()
        listed.append((file.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps([decode.VERSION, size, listed]).encode()).hexdigest()[:32]


def path(name: str) -> Path:
    """The file of the images kept under a key."""
    return directory() / f"images-{name}.safetensors"


def read(name: str, shape: tuple[int, ...]) -> Tensor | None:
    """The images kept under a key, or None where there are none or the file is damaged."""
    try:
        images = load_file(path(name)).get("images")
    except (OSError, SafetensorError):
        return None
    return images if images is not None and tuple(images.shape) == shape else None


def write(name: str, images: Tensor) -> None:
    """Keep images under a key; a machine that cannot (full disk, read-only) is warned of and works on."""
    try:
        write_tensors(path(name), {"images": images}, {})
    except OSError as error:
        warnings.warn(f"decoded pictures cannot be kept in {directory()} ({error}): the next run decodes them again", RuntimeWarning,
                      stacklevel=2)
