"""What an inversion attack meets on a run of ours: its checkpoint or its recorded wire, the images, the rulers."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import momentum, rulers, sets, sources, wire
from attacks.api import AttackOptions
from attacks.elsewhere import Foreign, refuse_mixture
from attacks.identify import Gallery
from attacks.judge import Scores
from attacks.methods import METHODS
from attacks.pairs import Pair
from attacks.reconstruct import same_attack
from attacks.served import server_key, server_model
from attacks.sources import Sources
from attacks.victim import Victim, refuse_without_wire
from attacks.view import OwnImages
from attacks.wire import Recording
from probes.rulers import network_key
from ssl_split import fields
from ssl_split import run as runs
from ssl_split.data.images import ImageSet
from ssl_split.fields import field
from ssl_split.models.split import Network
from ssl_split.training import pick_device


@dataclass(frozen=True)
class Options(Foreign, Sources, AttackOptions):
    """Options of the command."""

    checkpoint: str | None = field(None, "run directory or .safetensors file (default: the newest finished run in --out)",
                                   section="checkpoint")
    which: str = field("last", "checkpoint of a run directory", choices=("last", "best"))
    out: str = field("runs", "folder in which the newest run is looked for, and where the result on a client from elsewhere goes")
    wire: bool = field(False, "attack what the run really sent: smashed data of augmented views, recorded with train --record-wire; "
                              "--targets of them, spread over clients and steps")
    target_views: bool = field(False, "attack random views of the targets, made as the run's clients make them, through the checkpoint's "
                                      "client; the attacker's own images are views too")
    data_dir: str | None = field(None, "folder that holds the data set (default: the one the run was trained with)")
    device: str = field("auto", "auto, cpu, cuda or cuda:N")


class Case:
    """A checkpoint as a victim; images and networks are made when they are first needed."""

    def __init__(self, options: Options) -> None:
        """Check the options and find the checkpoint.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what is wrong.
        """
        self.options = fields.build(Options, fields.to_dict(options))
        refuse_mixture(self.options, "attacks.invert")
        self.device = pick_device(self.options.device)
        self.checkpoint = runs.open_checkpoint(self.options.checkpoint, which=self.options.which, out=self.options.out)
        if self.checkpoint.config.dataset == "tsv":
            raise ValueError(f"attacks.invert rebuilds images, and {self.checkpoint.run_dir.name} was trained on sentences; what their "
                             "smashed data give away can be probed: python -m probes.knn --features smashed")
        if "smashed" in METHODS[self.options.method].needs:
            refuse_without_wire(self.checkpoint.config)
        if self.sends_pairs:
            momentum.refuse_one_view(self.checkpoint.config)
        method, config = METHODS[self.options.method], self.checkpoint.config
        sources.check_inversion(self.options, config, labelled=config.supervised and "aux_labels" in method.labelled,
                                sends_pairs=self.sends_pairs)
        if self.options.attacker == "unaware" and not self.learns_through:
            raise ValueError(f"--attacker unaware has no meaning here: {self.checkpoint.run_dir.name} has no defence that changes what is "
                             f"sent, or {self.options.method} does the same whether it knows one or not")
        self.identity = self._identity()

    def _identity(self) -> dict[str, Any]:
        """What names the result: the options that change its numbers, and what tells it from results of earlier versions."""
        method = METHODS[self.options.method]
        further = ("attacker", "unaware", *method.defended) if self.learns_through else ()
        made = self.options.identity((*method.options, *further)) | (dict(method.marks) if self.learns_through else {})
        if self.recording is not None:
            made["wire"] = list(self.recording.span)
            if not self.sends_pairs:
                made["others"] = "views"
        return made | ({"target_views": True} if self.options.target_views else {}) | sources.named(self.options)

    @property
    def defended(self) -> bool:
        """Whether the attack meets a defence."""
        return self.checkpoint.defence.changes_release and "smashed" in METHODS[self.options.method].needs

    @property
    def learns_through(self) -> bool:
        """Whether it meets a defence and is another attack for one who knows it."""
        return self.defended and METHODS[self.options.method].adaptive

    @property
    def directory(self) -> Path:
        """Where the result belongs: its name changes with the weights and with every option that changes numbers."""
        weights = {"file": self.checkpoint.path.name, "step": self.checkpoint.step}
        named = {**self.identity, **sources.digest(self.pool), "checkpoint": weights}
        return runs.result_dir(self.checkpoint.run_dir, "attacks", self.options.method, named)

    @cached_property
    def pool(self) -> sets.Pool | None:
        """What the attacker's images are drawn from; None for the test split."""
        return sources.pool(self.options, self.checkpoint)

    @property
    def aux_kind(self) -> str:
        """The capability that the attacker's images are: `aux_same` or `aux_other`."""
        return "aux_same" if self.pool is None else self.pool.kind

    @cached_property
    def sets(self) -> sets.Sets:
        """Targets and the attacker's images."""
        dataset, sent, wanted = self.checkpoint.dataset(self.options.data_dir), self.recording, self.options.targets
        assert isinstance(wanted, int)  # folders were refused
        there = wanted if sent is None else len(sent["sources"])
        made = sets.choose(dataset, self.checkpoint.parts(dataset), targets=there, aux=sources.wanted(self.options, dataset),
                           aux_given=self.options.aux is not None, pool=self.pool,
                           attacked=None if sent is None else (sent["sources"], sent["clients"]))
        made = sources.told(made) if self.options.target_views else made
        if there == wanted:
            return made
        short = f"only {there} of the {wanted} targets exist: no more different images were recorded (train with a larger --record-wire)"
        return dataclasses.replace(made, record={**made.record, "targets_wanted": wanted}, notices=(short, *made.notices))

    @cached_property
    def recording(self) -> Recording | None:
        """The attacked messages of the run, where those are attacked.

        Raises:
            FileNotFoundError, ValueError: nothing was recorded, or the file is damaged.
        """
        if not self.options.wire:
            return None
        assert isinstance(self.options.targets, int)
        return wire.attacked(self.checkpoint.run_dir, self.checkpoint.dataset(self.options.data_dir).train, count=self.options.targets,
                             colluders=self.options.aux_clients or ())

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences for the user."""
        return self.sets.notices

    @property
    def pixels(self) -> Tensor:
        """The attacked images, uint8."""
        return (self.targets * 255).round().byte().cpu()

    @cached_property
    def views(self) -> Tensor | None:
        """The recorded views, or random ones of each target, where they are what is to be rebuilt."""
        if self.options.target_views:
            return wire.own_views(self.sets.targets.images, self.checkpoint.config.augmentation, purpose="views of the targets")
        return None if self.recording is None or self.sends_pairs else self.recording["images"]

    @property
    def sends_pairs(self) -> bool:
        """Whether the images behind two views are what is to be rebuilt."""
        return "second_view" in METHODS[self.options.method].needs

    @cached_property
    def pair(self) -> Pair:
        """The two views of each target."""
        images = self.sets.targets.images.to(self.device)
        return momentum.views(self.checkpoint, images, self.recording)

    def attacked(self) -> Victim:
        """The averaged client of the checkpoint, or the one that the server knew when the recorded steps began."""
        victim = self.victim(self.network)
        if self.sends_pairs:
            if self.recording is None:
                return momentum.of_checkpoint(self.checkpoint, victim, self.pair, self.sets.clients)
            return momentum.of_recording(self.checkpoint, victim, self.pair, self.recording)
        if self.recording is None:
            return victim
        return self.recording.sent_by(victim, device=self.device, heard=self.heard["z"] if self.uses("server_training") else None)

    @cached_property
    def network(self) -> Network:
        """The network of the checkpoint, with the client half of the recording where that is attacked."""
        made = self.checkpoint.network()
        if self.recording is not None:
            made.client.load_state_dict({k: v.float() for k, v in self.recording.weights.items()})
        return made

    def facts(self) -> dict[str, Any]:
        """What the result file says of client and images."""
        return {"sets": self.sets.record, "notices": list(self.notices), "cut": self.checkpoint.config.cut,
                "smashed_shape": list(self.network.smashed_shape), "run": self.checkpoint.run_dir.name,
                "dataset": self.checkpoint.config.dataset, "options": {**sources.NOTHING, "target_views": False, **self.identity},
                "checkpoint": self.checkpoint.reference,
                "defence": self.checkpoint.config.defended_with,
                "adaptive": self.options.attacker == "adaptive" if self.learns_through else None,
                "wire": None if self.recording is None else {
                    **self.recording.facts(), "truth": "image behind two views" if self.sends_pairs else "augmented view"}}

    @cached_property
    def targets(self) -> Tensor:
        """The attacked images `(n, 3, S, S)` in [0, 1]."""
        return self._true(self.sets.targets) if self.views is None else self.views.to(self.device)

    def _true(self, images: ImageSet) -> Tensor:
        return sources.true(images.images.to(self.device), self.options, self.checkpoint.dataset(self.options.data_dir))

    @cached_property
    def own(self) -> OwnImages:
        """The attacker's images; random views of them where views are to be rebuilt."""
        images = self.sets.aux.images.to(self.device)
        return sets.split(images if self.views is None else wire.own_views(images, self.checkpoint.config.augmentation))

    @cached_property
    def heard(self) -> dict[str, Tensor]:
        """What was recorded of images that are no targets: `z`, and `images`, the views behind them."""
        return wire.others(self.checkpoint.run_dir, self.checkpoint.dataset(self.options.data_dir).train, self.sets.targets,
                           colluders=self.options.aux_clients or ())

    @cached_property
    def others(self) -> Tensor:
        """Clients' images that are no targets, `(m, 3, S, S)` in [0, 1]: behind what the server has collected, or those of the
        bound. Where views are to be rebuilt, they are views: those of the recording, or random ones."""
        if self.recording is not None and self.views is not None and self.uses("server_training"):
            return self.heard["images"].to(self.device)
        return self._shown(self.sets.private, "views of the bound")

    def _shown(self, images: ImageSet, purpose: str) -> Tensor:
        """Images in [0, 1], `(m, 3, S, S)`; random views of them where views are to be rebuilt."""
        if self.views is None:
            return self._true(images)
        return wire.own_views(images.images.to(self.device), self.checkpoint.config.augmentation, purpose=purpose)

    def uses(self, *flags: str) -> bool:
        """Whether the attack declares one of these capabilities."""
        method = METHODS[self.options.method]
        return not set(flags).isdisjoint((*method.needs, *method.labelled))

    def victim(self, network: Network, *, trained: bool = True) -> Victim:
        """The client half of a network, and what else the attack declares of the run at its checkpoints or before training."""
        dataset = self.checkpoint.dataset(self.options.data_dir)
        client = network.client.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        seen = self.others if self.uses("server_training") else None
        adaptive = self.options.attacker == "adaptive"
        server = server_model(self.checkpoint, dataset, device=self.device, trained=trained) if self.uses("server_model") else None
        own = self.sets.aux.labels
        own_labels = None if own is None or not self.uses("aux_labels") else own[~sets.held_out(len(own))].to(self.device)
        return Victim(client, dataset.mean, dataset.std, self.private, self.checkpoint.defence, adaptive,
                      lambda seed: self.checkpoint.untrained(seed).client, seen,
                      self.sets.private.labels if self.uses("labels") else None, own_labels, server)

    @cached_property
    def of_clients(self) -> str | None:
        """A hash of the clients' images that are no targets where the attack learns from them, their smashed data or their labels."""
        if self.views is not None and self.uses("private_pairs", "server_training"):
            return rulers.digest(ImageSet((self.others * 255).round().byte().cpu()))
        return rulers.digest(self.sets.private) if self.uses("private_pairs", "server_training", "labels") else None

    @cached_property
    def private(self) -> OwnImages | None:
        """The clients' own images for the bound that trains on them.

        Raises:
            ValueError: there are none beside the targets.
        """
        if not self.uses("private_pairs"):
            return None
        if len(self.sets.private) < 2:
            raise ValueError(f"{self.options.method} trains on the clients' own images, and all are targets: set a smaller --targets")
        return sets.split(self.others)

    @property
    def gallery(self) -> Gallery:
        """What the judge has besides the targets."""
        images = self._shown(self.sets.gallery, "views of the gallery")
        return Gallery(images, self.sets.gallery.labels, self.sets.targets.labels, self.checkpoint.run_dir.parent / ".rulers")

    def untrained(self) -> Scores:
        """The same attack, one attacker seed, on the client before training; computed once for all runs in a folder."""
        network = self.checkpoint.untrained()
        dataset = self.checkpoint.dataset(self.options.data_dir)
        unread = ("method", "seeds", "unaware", "wire", "others")
        shown = ImageSet((self.pair.views.flatten(0, 1) * 255).round().byte()) if self.sends_pairs else None
        key = {
            **({} if shown is None else {"views": rulers.digest(shown), "family": dataclasses.asdict(self.checkpoint.config.augmentation)}),
            **({} if self.of_clients is None else {"private": self.of_clients}),
            **({"server": server_key(self.checkpoint)} if self.uses("server_model") else {}),
            **({"defence": self.checkpoint.config.defended_with} if self.defended else {}),
            "attack": self.options.method, "options": {k: v for k, v in self.identity.items() if k not in unread},
            **({} if self.views is None else {"own": dataclasses.asdict(self.checkpoint.config.augmentation)}),
            "targets": rulers.digest(ImageSet(self.pixels)), "aux": rulers.digest(self.sets.aux), "mean": list(dataset.mean),
            "std": list(dataset.std), "network": network_key(self.checkpoint.config, network, at_cut=True),
        }

        def compute() -> Scores:
            print("the same attack on the untrained client, as a ruler (kept for other runs):", file=sys.stderr)
            victim = self.victim(network, trained=False)
            if self.sends_pairs:
                victim = momentum.of_untrained(victim, self.pair)
            return same_attack(victim, self.targets, own=self.own, options=self.options)

        return rulers.cached(self.checkpoint.run_dir.parent / ".rulers", key, compute)
