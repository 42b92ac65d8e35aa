"""A client from elsewhere as a module: its weights from a file, and what tells it from other clients."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_split.files import read_tensors


def read_weights(file: str) -> dict[str, Tensor]:
    """Tensors by name from safetensors or a state dict.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or more than tensors by name.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights {path}")
    if path.suffix == ".safetensors":
        try:
            return read_tensors(path)
        except ValueError as error:
            raise ValueError(str(error).partition(";")[0]) from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} is damaged or holds more than tensors, which weights_only=True does not read: save "
                         "module.state_dict()") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is truncated or no file of weights ({type(error).__name__})") from None
    inner = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, Tensor) for v in inner.values()):
        raise ValueError(f"{path} holds no state dict: it must be tensors by name, as module.state_dict() gives them")
    return {str(name): value for name, value in inner.items()}


def put_weights(module: nn.Module, weights: Mapping[str, Tensor], *, file: str, encoder: str) -> list[str]:
    """Write weights into a module; all its tensors must be in the file.

    Returns:
        A sentence if the file holds more, as that of a whole network does of which the client is the beginning.

    Raises:
        ValueError: tensors are missing or have another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    if missing:
        raise ValueError(f"{file} does not fit what {encoder} returns: it lacks {len(missing)} of {len(own)} tensors, the first is "
                         f"{missing[0]} (the file has {', '.join(list(weights)[:3])}, ...)")
    wrong = [name for name in own if weights[name].shape != own[name].shape]
    if wrong:
        name = wrong[0]
        raise ValueError(f"{file} does not fit what {encoder} returns: {name} has shape {tuple(weights[name].shape)} instead of "
                         f"{tuple(own[name].shape)}")
    module.load_state_dict({name: weights[name] for name in own})
    surplus = [name for name in weights if name not in own]
    return [f"{file} holds {len(surplus)} tensors that the client has not, such as {surplus[0]}"] if surplus else []


def digest(module: nn.Module, answer: Tensor) -> str:
    """A hash of what a client is and computes: its structure and tensors, and the shape and bits of what it sends of fixed images.

    Clients that end at another layer, or pool or stride otherwise, can hold the same tensors, and what `forward` does by functions shows
    in no structure: only clients that agree in all three are taken for one.

    Args:
        module: The client.
        answer: What it sends of fixed images, `(n, ...)`, computed as `ForeignClient.mark` does.
    """
    total = hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module)).encode())  # addresses differ from process to process
    for name, value in (*module.state_dict().items(), ("answer", answer)):
        total.update(name.encode() + repr((tuple(value.shape), value.dtype)).encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data if value.numel() else b"")
    return total.hexdigest()[:16]


@contextmanager
def repeatable() -> Iterator[None]:
    """The same bits in every process on a machine: one thread, since more add up in another order, and torch's global generator, which a
    client's own code may draw from, seeded; both are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
