"""A client from elsewhere on the command line: any module that a user's function makes, its weights from a file, pictures from folders.

    python -m attacks.invert --encoder FILE.py:build --weights FILE --targets DIR --aux DIR --mean .485 .456 .406 --std .229 .224 .225

No run directory and no training code of this project is needed. Weights are read from safetensors, or as a state dict with
`weights_only=True`: reading them cannot run code. The file with `build` is the user's own code, and runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import rulers, sets
from attacks.foreign import digest, put_weights, read_weights, repeatable
from attacks.identify import Gallery
from attacks.judge import Scores
from attacks.reconstruct import same_attack
from attacks.victim import Victim
from ssl_split import rng
from ssl_split import run as runs
from ssl_split.data import folder
from ssl_split.data.imageset import ImageSet, Triple, to_float
from ssl_split.fields import field
from ssl_split.models import user
from ssl_split.quality import SSIM_SIDE

DEFAULT_SIZE = 32
FAILURES = (RuntimeError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
"""What a module raises for images of a size that it does not take, `torch._assert` included."""


@dataclass(frozen=True)
class Foreign:
    """Options of a command that also attacks a client from elsewhere."""

    encoder: str | None = field(None, "FILE.py:build, a function that returns the client half: an nn.Module, normalised images -> "
                                      "activations", section="a client from elsewhere (with --targets and --aux folders of pictures)")
    weights: str | None = field(None, "its weights: .safetensors, or a state dict that torch.load(weights_only=True) reads (default: as "
                                      "build makes them)")
    image_size: int | None = field(None, f"pixels per side to which its pictures are brought (default {DEFAULT_SIZE})", low=SSIM_SIDE)
    mean: tuple[float, float, float] | None = field(None, "of its input's normalisation, in [0, 1] (default: none)")
    std: tuple[float, float, float] | None = field(None, "of its input's normalisation (default: none)", above=0)
    gallery: str | None = field(None, "folder of further pictures for the judge alone")


def refuse_mixture(options: Any, command: str) -> None:
    """Check that what belongs to a client from elsewhere comes with it, and what belongs to a run does not.

    Raises:
        ValueError: one sentence that says what goes together.
    """
    folders = {name: value for name in ("targets", "aux") if isinstance(value := getattr(options, name), str)}
    if options.encoder is None:
        given = [name for name in ("weights", "image_size", "mean", "std", "gallery") if getattr(options, name) is not None]
        for name in given:
            raise ValueError(f"--{name.replace('_', '-')} belongs to a client from elsewhere: give --encoder FILE.py:build with it")
        for name, value in folders.items():
            raise ValueError(f"--{name} {value} is no number: a folder goes with --encoder, and on a run it is the number of images")
        return
    if ":" not in options.encoder:
        raise ValueError(f"encoder = {options.encoder!r} must be FILE.py:function")
    if options.checkpoint is not None:
        raise ValueError("--checkpoint and --encoder name two clients: give one of them")
    if len(folders) < 2:
        raise ValueError(f"{command} --encoder needs folders of pictures: --targets DIR (the client's, to be attacked) and --aux DIR (the "
                         "attacker's)")
    for name, value in {**folders, **({"gallery": options.gallery} if options.gallery else {})}.items():
        if not Path(value).expanduser().is_dir():
            raise FileNotFoundError(f"--{name} {value}: there is no such folder")


class ForeignClient:
    """A client from elsewhere with its pictures; everything is read when it is first needed.

    Args:
        options: Checked by `refuse_mixture`.
        device: Where the client and the images are to be.
    """

    def __init__(self, options: Foreign, targets: str, aux: str, *, device: torch.device) -> None:
        self.options, self.device = options, device
        self.folders = {"targets": targets, "aux": aux, **({"gallery": options.gallery} if options.gallery else {})}
        assert options.encoder is not None
        self.encoder: str = options.encoder
        self.size = options.image_size or DEFAULT_SIZE
        self.mean: Triple = options.mean or (0.0, 0.0, 0.0)
        self.std: Triple = options.std or (1.0, 1.0, 1.0)
        self.notices: list[str] = []
        self.client = self.make(0)
        if options.weights is not None:
            self.notices += put_weights(self.client, read_weights(options.weights), file=options.weights, encoder=self.encoder)
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

    @property
    def untrained(self) -> nn.Module | None:
        """The client as `build` makes it; None where no other weights were put into it."""
        return None if self.options.weights is None else self.make(0)

    def mark(self, client: nn.Module) -> str:
        """What names a client: a hash of it and of what it sends of two fixed images. Computed in float32 on the CPU, where it still is,
        so the name does not depend on the device; on another machine it may be another one, which costs a computation.

        Raises:
            ValueError: it cannot take images of this size.
        """
        images = torch.rand(2, 3, self.size, self.size, generator=rng.generator(0, "a client from elsewhere"))
        with repeatable():
            return digest(client, self._sent(Victim(client, self.mean, self.std), images))

    def victim(self, client: nn.Module, **known: Any) -> Victim:
        """The client as a victim that has answered once.

        Raises:
            ValueError: it cannot take images of this size.
        """
        made = Victim(client.to(self.device), self.mean, self.std, **known)
        self._sent(made, to_float(self.pictures["targets"].images[:2].to(self.device)))
        return made

    def _sent(self, victim: Victim, images: Tensor) -> Tensor:
        try:
            return victim.release(images)
        except FAILURES as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"{self.encoder}: the client fails on images of 3x{self.size}x{self.size} ({type(error).__name__}: {reason}); "
                             "--image-size sets their size") from None

    @cached_property
    def pictures(self) -> dict[str, ImageSet]:
        """Images of the folders by name, labels where all folders have classes; those of `aux` are none of the targets'.

        Raises:
            FileNotFoundError, ValueError: no pictures, unreadable ones, fewer than two, or the attacker has one of the targets.
        """
        listings = {name: folder.scan(Path(where).expanduser()) for name, where in self.folders.items()}
        classes = sorted({c for listing in listings.values() for c in listing.classes})
        found = {name: ImageSet(folder.decode_all(listing.files, self.size), _labels(listing, classes))
                 for name, listing in listings.items()}
        for name, images in found.items():
            if len(images) < 2:
                raise ValueError(f"--{name} {self.folders[name]} holds one picture: at least two are needed")
            if name != "targets":
                kind = "auxiliary images" if name == "aux" else "gallery images"
                sets.refuse_shared(to_float(found["targets"].images), to_float(images.images), name=kind)
        return found

    @cached_property
    def key(self) -> dict[str, Any]:
        """What names a result on this client, plain values."""
        images = {name: hashlib.sha256("".join(part.digests()).encode()).hexdigest()[:16] for name, part in self.pictures.items()}
        return {"client": self.digest, "mean": list(self.mean), "std": list(self.std), **images}

    def facts(self, smashed: Sequence[int]) -> dict[str, Any]:
        """What a result file says of the client."""
        file = Path(self.options.weights).name if self.options.weights else None
        return {"cut": None, "defence": None, "adaptive": None, "smashed_shape": list(smashed), "run": self.name,
                "dataset": str(self.folders["targets"]), "encoder": self.encoder,
                "checkpoint": {"file": file, "step": None, "finished": True},
                "sets": {name: len(part) for name, part in self.pictures.items()}, "notices": list(self.notices)}


class ForeignCase:
    """An inversion of a client from elsewhere, as `attacks.invert` runs it.

    Args:
        options: Of the command, with `encoder`, and folders under `targets` and `aux`.
        identity: Those of them that change numbers.
        device: Where everything is computed.
    """

    def __init__(self, options: Any, identity: Mapping[str, Any], *, device: torch.device) -> None:
        self.options = options
        self.identity = {k: v for k, v in identity.items() if k not in ("targets", "aux")}
        self.foreign = ForeignClient(options, options.targets, options.aux, device=device)
        self.pixels = self.foreign.pictures["targets"].images
        self.targets = to_float(self.pixels.to(device))
        self.own = sets.split(self.foreign.pictures["aux"].images.to(device))
        self.smashed: tuple[int, ...] = ()

    @property
    def directory(self) -> Path:
        """Where the result belongs: its name changes with the weights, the pictures and every option that changes numbers."""
        key = {**self.identity, **self.foreign.key}
        return runs.result_dir(Path(self.options.out) / self.foreign.name, "attacks", self.options.method, key)

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences for the user."""
        return tuple(self.foreign.notices)

    @property
    def gallery(self) -> Gallery:
        """What the judge has besides the targets."""
        pictures = self.foreign.pictures
        found = pictures.get("gallery")
        if found is None:
            return Gallery(self.targets[:0], None, pictures["targets"].labels)
        made = Gallery(to_float(found.images.to(self.targets.device)), found.labels, pictures["targets"].labels,
                       Path(self.options.out) / ".rulers")
        made.check(self.targets, to_float(pictures["aux"].images))
        return made

    def attacked(self) -> Victim:
        """The client with its weights."""
        made = self._victim(self.foreign.client)
        self.smashed = tuple(made.release(self.targets[:1]).shape[1:])
        return made

    def _victim(self, client: nn.Module) -> Victim:
        return self.foreign.victim(client, fresh=self.foreign.make)

    @property
    def untrained(self) -> Callable[[], Scores] | None:
        """The same attack on the client as `build` makes it; None where no other weights were put into it."""
        client = self.foreign.untrained
        if client is None:
            return None
        options = {k: v for k, v in self.identity.items() if k not in ("method", "seeds")}
        key = {**self.foreign.key, "attack": self.options.method, "options": options, "client": self.foreign.mark(client)}
        return lambda: rulers.cached(Path(self.options.out) / ".rulers", key, lambda: same_attack(
            self._victim(client), self.targets, own=self.own, options=self.options))

    def facts(self) -> dict[str, Any]:
        """What the result file says of client and images."""
        return {**self.foreign.facts(self.smashed), "options": {**self.identity, "targets": self.options.targets, "aux": self.options.aux}}


def _labels(listing: folder.Listing, classes: Sequence[str]) -> Tensor | None:
    """Indices into all folders' classes; None for a flat folder."""
    if not listing.classes:
        return None
    return torch.tensor([classes.index(listing.classes[label]) for label in listing.labels], dtype=torch.int64)
