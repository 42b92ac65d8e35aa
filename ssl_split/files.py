"""Files that are either absent, old or whole. Tensors are the business of two functions alone, which import what they need: reading a
result must not take the seconds that PyTorch takes."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name, flush to disk, rename: a file that exists is whole.

    The name is one that nobody else has: processes on several machines, or in several containers, may have the same number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON so that the file is either absent, old or whole."""
    text = json.dumps(values, indent=1) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path} is damaged: it is not JSON") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Mappings in a file of JSON lines, none where there is no file; a line that was being written when the process was
    killed is left out."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [values for line in file if (values := read_line(line)) is not None]


def read_line(line: bytes) -> dict[str, Any] | None:
    """The mapping in a line of JSON, or None."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a safetensors file whose header carries JSON values under their names."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}

    def save(temporary: Path) -> None:
        try:
            save_file(plain, temporary, {k: json.dumps(v) for k, v in header.items()})
        except SafetensorError as error:  # the library reports a full disk with its own exception
            raise OSError(errno.ENOSPC if "os error 28" in str(error) else errno.EIO, f"cannot write {path}: {error}") from None

    replace_file(path, save)


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name[len(prefix) :]: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); an older checkpoint may be beside it") from None
