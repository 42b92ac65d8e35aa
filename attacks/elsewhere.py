"""A client from elsewhere on the command line: any module that a user's function makes, its weights from a file, pictures from folders.

    python -m attacks.invert --encoder FILE.py:build --weights FILE --targets DIR --aux DIR --mean .485 .456 .406 --std .229 .224 .225

No run directory and no training code of this project is needed; `foreign.py` makes the client.
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
from attacks.foreign import ClientOptions, ForeignEncoder
from attacks.identify import Gallery
from attacks.judge import Scores
from attacks.reconstruct import same_attack
from attacks.victim import Victim
from ssl_split import run as runs
from ssl_split.data import folder
from ssl_split.data.imageset import ImageSet, to_float
from ssl_split.fields import field

FOLDERS = {"targets": "the client's, to be attacked", "aux": "the attacker's"}
"""Option -> whose pictures the folder holds with `--encoder`; on a run it is a number of images."""


@dataclass(frozen=True)
class Foreign(ClientOptions):
    """Options of a command that also attacks a client from elsewhere."""

    gallery: str | None = field(None, "folder of further pictures for the judge alone")


def refuse_mixture(options: Any, command: str, *, folders: Mapping[str, str] = FOLDERS, optional: Sequence[str] = ("gallery",),
                   further: Sequence[str] = ()) -> None:
    """Check that what belongs to a client from elsewhere comes with it, and what belongs to a run does not.

    Args:
        options: Of the command, a `ClientOptions`.
        command: Its name.
        folders: Options that are needed folders of pictures with `--encoder` and numbers on a run -> whose pictures.
        optional: Options that are folders of pictures, one or more, and go with `--encoder` alone.
        further: Other options that go with `--encoder` alone.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what goes together.
    """
    named = {name: value for name in folders if isinstance(value := getattr(options, name), str)}
    if options.encoder is None:
        given = [name for name in ("weights", "image_size", "mean", "std", *optional, *further) if getattr(options, name) is not None]
        for name in given:
            raise ValueError(f"{_flag(name)} belongs to a client from elsewhere: give --encoder FILE.py:build with it")
        for name, value in named.items():
            raise ValueError(f"--{name} {value} is no number: a folder goes with --encoder, and on a run it is the number of images")
        return
    if ":" not in options.encoder:
        raise ValueError(f"encoder = {options.encoder!r} must be FILE.py:function")
    if options.checkpoint is not None:
        raise ValueError("--checkpoint and --encoder name two clients: give one of them")
    if len(named) < len(folders):
        raise ValueError(f"{command} --encoder needs folders of pictures: "
                         + " and ".join(f"--{name} DIR ({whose})" for name, whose in folders.items()))
    for name in (*folders, *optional):
        value = getattr(options, name)
        for where in (value,) if isinstance(value, str) else value or ():
            if not Path(where).expanduser().is_dir():
                raise FileNotFoundError(f"{_flag(name)} {where}: there is no such folder")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class ForeignClient(ForeignEncoder):
    """A client from elsewhere with its pictures; everything is read when it is first needed.

    Args:
        options: Checked by `refuse_mixture`.
        device: Where the client and the images are to be.
    """

    def __init__(self, options: Foreign, targets: str, aux: str, *, device: torch.device) -> None:
        super().__init__(options, device=device)
        self.folders = {"targets": targets, "aux": aux, **({"gallery": options.gallery} if options.gallery else {})}

    def victim(self, client: nn.Module, **known: Any) -> Victim:
        """The client as a victim that has answered once.

        Raises:
            ValueError: it cannot take images of this size.
        """
        made = Victim(client.to(self.device), self.mean, self.std, **known)
        self.sent(made, to_float(self.pictures["targets"].images[:2].to(self.device)))
        return made

    @cached_property
    def pictures(self) -> dict[str, ImageSet]:
        """Images of the folders by name, labels where all folders have classes; those of `aux` are none of the targets'.

        Raises:
            FileNotFoundError, ValueError: no pictures, unreadable ones, fewer than two, or the attacker has one of the targets.
        """
        found = decoded(self.folders, self.size)
        for name, images in found.items():
            if name != "targets":
                kind = "auxiliary images" if name == "aux" else "gallery images"
                sets.refuse_shared(to_float(found["targets"].images), to_float(images.images), name=kind)
        return found

    @cached_property
    def key(self) -> dict[str, Any]:
        """What names a result on this client, plain values."""
        images = {name: content(part) for name, part in self.pictures.items()}
        return {"client": self.digest, "mean": list(self.mean), "std": list(self.std), **images}

    def facts(self, smashed: Sequence[int]) -> dict[str, Any]:
        """What a result file says of the client."""
        return self.described(smashed, dataset=self.folders["targets"], sets={name: len(part) for name, part in self.pictures.items()})


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


def decoded(folders: Mapping[str, str], size: int) -> dict[str, ImageSet]:
    """All pictures of the folders by name of their option, in name order, with labels where all folders have classes.

    Raises:
        FileNotFoundError, ValueError: no pictures, unreadable ones, or fewer than two.
    """
    listings = {name: folder.scan(Path(where).expanduser()) for name, where in folders.items()}
    classes = sorted({c for listing in listings.values() for c in listing.classes})
    for name, listing in listings.items():
        if len(listing.files) < 2:
            raise ValueError(f"--{name} {folders[name]} holds one picture: at least two are needed")
    return {name: ImageSet(folder.decode_all(listing.files, size), _labels(listing, classes)) for name, listing in listings.items()}


def content(images: ImageSet) -> str:
    """A hash of images in their order."""
    return hashlib.sha256("".join(images.digests()).encode()).hexdigest()[:16]


def _labels(listing: folder.Listing, classes: Sequence[str]) -> Tensor | None:
    """Indices into all folders' classes; None for a flat folder."""
    if not listing.classes:
        return None
    return torch.tensor([classes.index(listing.classes[label]) for label in listing.labels], dtype=torch.int64)
