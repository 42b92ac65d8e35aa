"""A client from elsewhere as a module: any that a user's function makes, its weights from a file, and what tells it from other clients.

Weights are read from safetensors, or as a state dict with `weights_only=True`: reading them cannot run code. The file with the function is
the user's own code, and runs.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.victim import Victim
from ssl_split import rng
from ssl_split.data.imageset import Triple
from ssl_split.fields import field
from ssl_split.files import read_tensors
from ssl_split.models import user
from ssl_split.quality import SSIM_SIDE

DEFAULT_SIZE = 32
FAILURES = (RuntimeError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
"""What a module raises for images of a size that it does not take, `torch._assert` included."""


@dataclass(frozen=True)
class ClientOptions:
    """Which client from elsewhere is attacked."""

    encoder: str | None = field(None, "FILE.py:build, a function that returns the client half: an nn.Module, normalised images -> "
                                      "activations", section="a client from elsewhere (with folders of pictures)")
    weights: str | None = field(None, "its weights: .safetensors, or a state dict that torch.load(weights_only=True) reads (default: as "
                                      "build makes them)")
    image_size: int | None = field(None, f"pixels per side to which its pictures are brought (default {DEFAULT_SIZE})", low=SSIM_SIDE)
    mean: tuple[float, float, float] | None = field(None, "of its input's normalisation, in [0, 1] (default: none)")
    std: tuple[float, float, float] | None = field(None, "of its input's normalisation (default: none)", above=0)


class ForeignEncoder:
    """A client from elsewhere without pictures.

    Args:
        options: With `encoder`.
        device: Where it is to be.

    Raises:
        FileNotFoundError, ValueError: the user's code fails, or weights do not fit what it returns.
    """

    def __init__(self, options: ClientOptions, *, device: torch.device) -> None:
        assert options.encoder is not None
        self.device, self.encoder, self.file = device, options.encoder, options.weights
        self.size = options.image_size or DEFAULT_SIZE
        self.mean: Triple = options.mean or (0.0, 0.0, 0.0)
        self.std: Triple = options.std or (1.0, 1.0, 1.0)
        self.notices: list[str] = []
        self.client = self.make(0) if self.file is None else self.filled(self.file)
        self.digest = self.mark(self.client)
        self.name = f"{Path(self.encoder.rpartition(':')[0]).stem}-{self.digest[:8]}"

    def make(self, seed: int) -> nn.Module:
        """A client as `build` makes it, with this seed, in eval mode on the CPU.

        Raises:
            FileNotFoundError, ValueError: the user's code fails or returns something else.
        """
        made = user.call(self.encoder, {"image_size": self.size}, seed=seed, option="encoder", returns="the client half")
        if not isinstance(made, nn.Module):
            raise ValueError(f"{self.encoder} must return an nn.Module, not {type(made).__name__}")
        return made.float().eval()

    def filled(self, file: str) -> nn.Module:
        """A client with the weights of a file; what the file holds besides becomes a notice.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or its weights do not fit.
        """
        made = self.make(0)
        self.notices += put_weights(made, read_weights(file), file=file, encoder=self.encoder)
        return made

    @property
    def untrained(self) -> nn.Module | None:
        """The client as `build` makes it; None where no other weights were put into it."""
        return None if self.file is None else self.make(0)

    def mark(self, client: nn.Module) -> str:
        """What names a client: a hash of it and of what it sends of two fixed images. Computed in float32 on the CPU, where it still is,
        so the name does not depend on the device; on another machine it may be another one, which costs a computation.

        Raises:
            ValueError: it cannot take images of this size.
        """
        images = torch.rand(2, 3, self.size, self.size, generator=rng.generator(0, "a client from elsewhere"))
        with repeatable():
            return digest(client, self.sent(Victim(client, self.mean, self.std), images))

    def sent(self, victim: Victim, images: Tensor) -> Tensor:
        """What the client sends of images in [0, 1].

        Raises:
            ValueError: it cannot take images of this size.
        """
        try:
            return victim.release(images)
        except FAILURES as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"{self.encoder}: the client fails on images of 3x{self.size}x{self.size} ({type(error).__name__}: {reason}); "
                             "--image-size sets their size") from None

    def described(self, smashed: Sequence[int], *, dataset: str, sets: Mapping[str, int]) -> dict[str, Any]:
        """What a result file says of the client.

        Args:
            smashed: Shape of what it sends of one image.
            dataset: The folder of the attacked pictures.
            sets: How many pictures every folder has.
        """
        return {"cut": None, "defence": None, "adaptive": None, "smashed_shape": list(smashed), "run": self.name, "dataset": dataset,
                "encoder": self.encoder, "sets": dict(sets), "notices": list(self.notices),
                "checkpoint": {"file": Path(self.file).name if self.file else None, "step": None, "finished": True}}


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
        answer: What it sends of fixed images, `(n, ...)`, computed as `ForeignEncoder.mark` does.
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
