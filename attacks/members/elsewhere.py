"""`attacks.membership` on a client from elsewhere: an encoder, pictures in folders, no run directory and no training code of this project.

    python -m attacks.membership --encoder FILE.py:build --weights FILE --members DIR --nonmembers DIR --aux DIR --method norm

All pictures become squares of one size by the same code, whichever folder they are from; members and non-members are then one list in
random order, of which only the judge knows who is who. The numbers are those of `infer` on the same pictures.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import rulers
from attacks.elsewhere import content, decoded, refuse_mixture
from attacks.foreign import ClientOptions, ForeignEncoder
from attacks.members import pool
from attacks.members.api import AttackOptions
from attacks.members.infer import Asked, Inference, OwnEncoder
from attacks.members.table import METHODS
from attacks.view import CAPABILITIES, CapabilityError
from ssl_split import fields, rng
from ssl_split import run as runs
from ssl_split.config import Augment
from ssl_split.data import folder
from ssl_split.data.imageset import ImageSet
from ssl_split.fields import field

FOLDERS = {"members": "it was trained on them", "nonmembers": "of the same kind and source, it was not"}
"""Option -> what its folder holds with `--encoder`; on a run it is a number of images."""
LACKING = {"infonce": "server_model", "momentum-gap": "momentum_weights", "loss": "server_model", "confidence": "server_model",
           "rmia": "server_model"}
"""Attack -> what a client from elsewhere does not offer it."""
POSSIBLE = tuple(name for name in METHODS if name not in LACKING)


@dataclass(frozen=True)
class ForeignMembers(ClientOptions):
    """Options of the command that belong to a client from elsewhere."""

    aux: str | None = field(None, "folder of the attacker's own pictures, none of them asked about (norm, encodermi, partcrop, lira; on a "
                                   "run half of the test split)")
    own_weights: tuple[str, ...] | None = field(None, "encodermi, partcrop, lira: weights, for the same build, of encoders that the "
                                                      "attacker has trained, two files or more")
    own_members: tuple[str, ...] | None = field(None, "for each of them the folder of those pictures of --aux that it was trained on")
    augment: Augment = field(Augment, "random views with --encoder, as in its training; auto is mocov2; a run has its own")


def refuse(options: Any) -> None:
    """Check that the options go together and that the attack can be made.

    Args:
        options: Of the command: `ForeignMembers` and `AttackOptions`.

    Raises:
        CapabilityError: a client from elsewhere lacks what the attack needs.
        FileNotFoundError, ValueError: one sentence that says what goes together.
    """
    refuse_mixture(options, "attacks.membership", folders=FOLDERS, optional=("aux", "own_members"), further=("own_weights",))
    if options.encoder is None:
        if options.augment != Augment():
            raise ValueError("--augment belongs to a client from elsewhere (--encoder): on a run, views are made as its configuration says")
        return
    _refuse_lacking(options)
    if METHODS[options.method].shadows:
        _refuse_own(options)
    if options.augment == Augment(kind="none") and "views" in METHODS[options.method].options:
        raise ValueError("--augment.kind none makes all views of an image equal, and nothing can be read from them: choose mocov2, mocov1 "
                         "or standard")


def _refuse_lacking(options: Any) -> None:
    method, lacking = options.method, LACKING.get(options.method)
    if method == "lira" and options.score in ("infonce", "loss"):
        method, lacking = f"lira --score {options.score}", "server_model"
    if lacking is not None:
        raise CapabilityError(f"the attack {method} needs {lacking} ({CAPABILITIES[lacking]}), which a client by --encoder does not offer: "
                              f"choose {', '.join(POSSIBLE)}; of lira the scores norm and alignment")
    if "aux" in METHODS[method].needs and options.aux is None:
        raise CapabilityError(f"the attack {method} needs aux_same ({CAPABILITIES['aux_same']}): give --aux DIR")


def _refuse_own(options: Any) -> None:
    weights, members = (len(given or ()) for given in (options.own_weights, options.own_members))
    if min(weights, members) < 2 or weights != members:
        raise ValueError(f"the attack {options.method} needs encoders that the attacker has trained, and no run says how: give two or more "
                         "(--own-weights A B), and for each the folder of those pictures of --aux that it was trained on (--own-members "
                         f"DIR DIR); here are {weights} and {members}")
    if options.online:
        raise ValueError("--online belongs to a run: with --encoder no encoder of the attacker's own was trained on the images asked about")
    if options.encoders is not None:
        raise ValueError("--encoders belongs to a run: with --encoder there are as many encoders of the attacker's own as --own-weights")


class ForeignCase:
    """A client from elsewhere under one attack; pictures are read when they are first needed.

    Args:
        options: Of the command; checked by `refuse`.
        device: Where everything is computed.
    """

    def __init__(self, options: Any, *, device: torch.device) -> None:
        self.options, self.method, self.device = options, METHODS[options.method], device
        self.foreign = ForeignEncoder(options, device=device)
        self.augment = dataclasses.replace(options.augment, kind="mocov2") if options.augment.kind == "auto" else options.augment
        files = (options.own_weights or ()) if self.method.shadows else ()
        self.own = [self.foreign.filled(file) for file in files]
        self.own_marks = [self.foreign.mark(network) for network in self.own]

    @cached_property
    def _read(self) -> tuple[dict[str, ImageSet], list[str]]:
        """The folders' pictures, each once, and what is said of those that come twice in one folder.

        Raises:
            FileNotFoundError, ValueError: no pictures, unreadable ones, fewer than two, or one in two folders.
        """
        names = [name for name in ("members", "nonmembers", "aux") if getattr(self.options, name) is not None]
        found = decoded({name: getattr(self.options, name) for name in names}, self.foreign.size)
        pool.refuse_shared({f"pictures of --{name} {getattr(self.options, name)}": images for name, images in found.items()})
        made, notices = {}, []
        for name, images in found.items():
            made[name], dropped = _once(ImageSet(images.images))
            if len(made[name]) < 2:
                raise ValueError(f"all pictures of --{name} {getattr(self.options, name)} are one and the same: at least two are needed")
            if dropped:
                copies = "picture comes a second time and was" if dropped == 1 else "pictures come a second time and were"
                notices.append(f"{dropped} {copies} left out of --{name} {getattr(self.options, name)}")
        if "aux" in made:  # --fit takes the first ones, and class folders would come one after another
            order = torch.randperm(len(made["aux"]), generator=rng.generator(pool.HALVES_SEED, "membership aux"))
            made["aux"] = made["aux"].select(order)
        return made, notices

    @property
    def pictures(self) -> dict[str, ImageSet]:
        """Members, non-members and, where there is a folder of them, the attacker's images in random order; no picture comes twice."""
        return self._read[0]

    @cached_property
    def seen(self) -> list[Tensor]:
        """Which of the attacker's images each of its encoders was trained on, by content.

        Raises:
            FileNotFoundError, ValueError: no pictures, unreadable ones, or some that are not the attacker's.
        """
        if not self.own:
            return []
        known, made = self.pictures["aux"].digests(), []
        for where in self.options.own_members:
            files = folder.scan(Path(where).expanduser()).files
            inside = set(ImageSet(folder.decode_all(files, self.foreign.size)).digests())
            if strange := len(inside - set(known)):
                raise ValueError(f"{strange} of the {len(inside)} pictures of --own-members {where} are not in --aux {self.options.aux}, "
                                 "where everything belongs that the attacker's encoders were trained on")
            made.append(torch.tensor([digest in inside for digest in known]))
        return made

    @cached_property
    def asked(self) -> Asked:
        """The question, ready for any client."""
        sets = {name: ImageSet(images.images.to(self.device)) for name, images in self.pictures.items()}
        own = sets.get("aux") if "aux" in self.method.needs else None
        shadows = [OwnEncoder(network.to(self.device), seen) for network, seen in zip(self.own, self.seen, strict=True)]
        options = AttackOptions(**{f.name: getattr(self.options, f.name) for f in dataclasses.fields(AttackOptions)})
        return Asked(options, sets["members"], sets["nonmembers"], own, shadows=shadows, augment=self.augment, mean=self.foreign.mean,
                     std=self.foreign.std)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The options that change the numbers, beside client and pictures."""
        made = {name: getattr(self.options, name) for name in self.method.options if name not in ("budget", "encoders", "online")}
        if "crops" in made:
            made["crops"] = self.options.crop_count
        if "views" in made:
            made["augment"] = fields.to_dict(self.augment)
        return made

    @cached_property
    def key(self) -> dict[str, Any]:
        """What names a result, plain values."""
        read = {name: content(images) for name, images in self.pictures.items() if name != "aux" or "aux" in self.method.needs}
        own = [[mark, hashlib.sha256(bytes(seen.tolist())).hexdigest()[:16]] for mark, seen in zip(self.own_marks, self.seen, strict=True)]
        return {**self.identity, "client": self.foreign.digest, "mean": list(self.foreign.mean), "std": list(self.foreign.std), **read,
                **({"own": own} if own else {})}

    @property
    def path(self) -> Path:
        """Of `result.json`."""
        return runs.result_dir(Path(self.options.out) / self.foreign.name, "attacks", f"membership-{self.options.method}",
                               self.key) / "result.json"

    def found(self) -> Inference:
        """The attack beside its ruler, the same on the client as `build` makes it, where other weights were put into that."""
        before = self.foreign.untrained
        untrained = None
        if before is not None:
            key = {**self.key, "attack": self.options.method, "client": self.foreign.mark(before)}
            untrained = rulers.cached_rows(Path(self.options.out) / ".rulers", key, lambda: self.asked.ruler(before.to(self.device)),
                                           prefix="membership")
        return self.asked.infer(self.foreign.client.to(self.device), untrained=untrained)

    def facts(self) -> dict[str, Any]:
        """What the result file says of client, images and attacker."""
        view, options = self.asked.view(self.foreign.client), self.options
        smashed = tuple(view.query(pool.to_float(self.asked.question.candidates[:1])).shape[1:])
        count = {name: len(images) for name, images in self.pictures.items()}
        given = {name: value for name in ("members", "nonmembers", "aux", "own_weights", "own_members")
                 if (value := fields.to_dict(options)[name]) is not None}
        described = self.foreign.described(smashed, dataset=options.members, sets=count)
        return {"aux": count.get("aux", 0) if "aux" in self.method.needs else 0, "encoders": len(self.own), "budget": None,
                "needs": list(view.capabilities), "options": {**self.identity, **given}, **described,
                "notices": [*described["notices"], *self._read[1]]}


def _once(images: ImageSet) -> tuple[ImageSet, int]:
    """The images without later copies of earlier ones, and how many these were."""
    first: dict[str, int] = {}
    for place, digest in enumerate(images.digests()):
        first.setdefault(digest, place)
    return images.select(torch.tensor(list(first.values()))), len(images) - len(first)
