"""Gradient matching: rebuild images from the smashed data and from the weights that a client's local step has changed.

The server knows the gradient g_z that it sent back and sees the client's update. One local step gives dW = -lr J_W(x)^T g_z, so an image
can be searched that explains both z and dW, without label and loss. Beside it stands the same search without the gradient (what the smashed
data say alone), the blind guess, and the same attack on the untrained client.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import judge, matching, picture, results, rulers, sets
from attacks.api import DEFAULT_AUX
from attacks.blind import mean_image
from attacks.judge import Scores
from attacks.matched import Matched, MatchOptions, judged, match, scored
from attacks.server import CENTRALISED, Members, answering, refuse_without_gradient
from attacks.step import Moments
from attacks.stepping import MOMENTUM, Stepping, batches, client_step, encoded_weights, history
from attacks.victim import refuse_without_wire
from probes.rulers import network_key
from ssl_split import allocator, fields
from ssl_split import run as runs
from ssl_split.data.images import normalise, to_float
from ssl_split.fields import field
from ssl_split.files import write_tensors
from ssl_split.training import pick_device

__all__ = ["Options", "main", "match", "run"]

SHOWN = 12
"""Targets in the picture."""
COLUMNS = ("mse", "psnr", "ssim", "r2")


@dataclass(frozen=True)
class Options(MatchOptions):
    """Options of the command."""

    client_lr: float | None = field(None, "learning rate of the client's step (default: the one at the start of the run)", above=0,
                                    section="the client's step")
    momentum: str = field("kept", "averages in the client's optimiser: kept, as in the checkpoint, unknown to the server; known, to "
                                  "a server that saw the step before; zero, a first step", choices=MOMENTUM)
    checkpoint: str | None = field(None, "run directory or .safetensors file (default: the newest finished run in --out)",
                                   section="checkpoint")
    which: str = field("last", "checkpoint of a run directory", choices=("last", "best"))
    out: str = field("runs", "folder in which the newest run is looked for")
    data_dir: str | None = field(None, "folder that holds the data set (default: the one the run was trained with)")
    device: str = field("auto", "auto, cpu, cuda or cuda:N")


NEUTRAL = ("checkpoint", "which", "out", "data_dir", "device")


class Case:
    """A checkpoint whose clients make a step; images and networks are made when they are first needed."""

    def __init__(self, options: Options) -> None:
        """Check the options and find the checkpoint.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what is wrong.
        """
        self.options = fields.build(Options, fields.to_dict(options))
        self.device = pick_device(self.options.device)
        self.checkpoint = runs.open_checkpoint(self.options.checkpoint, which=self.options.which, out=self.options.out)
        self.config = self.checkpoint.config
        if self.config.dataset == "tsv":
            raise ValueError(f"attacks.gradient rebuilds images, and {self.checkpoint.run_dir.name} was trained on sentences")
        refuse_without_wire(self.config)
        refuse_without_gradient(self.config, "gradient")
        if self.config.defence != "none":
            raise ValueError(f"the attack gradient matches the step of a client without a defence, and {self.checkpoint.run_dir.name} has "
                             f"{self.config.defence}, whose randomness and loss of its own the step would depend on")
        self.identity = {k: v for k, v in fields.to_dict(self.options).items() if k not in NEUTRAL}

    @property
    def directory(self) -> Path:
        """Where the result belongs: its name changes with the weights and with every option that changes numbers."""
        weights = {"file": self.checkpoint.path.name, "step": self.checkpoint.step}
        return runs.result_dir(self.checkpoint.run_dir, "attacks", "gradient", {**self.identity, "checkpoint": weights})

    @cached_property
    def sets(self) -> sets.Sets:
        """Targets, and images for the blind guess."""
        dataset = self.checkpoint.dataset(self.options.data_dir)
        return sets.choose(dataset, self.checkpoint.parts(dataset), targets=self.options.targets, aux=DEFAULT_AUX, aux_given=False)

    @cached_property
    def targets(self) -> Tensor:
        """The attacked images `(n, 3, S, S)` in [0, 1]."""
        return to_float(self.sets.targets.images.to(self.device))

    @cached_property
    def places(self) -> Tensor:
        """Of the images of every batch among the targets, `(p, B)`."""
        return batches(self._clients, self.options.batch)

    @property
    def _clients(self) -> Tensor:
        return torch.zeros_like(self.sets.clients) if self.config.algorithm in CENTRALISED else self.sets.clients

    def victim(self, *, trained: bool) -> Stepping:
        """The clients and their server at trained or initial weights; before training nothing has moved."""
        dataset, options = self.checkpoint.dataset(self.options.data_dir), self.options
        members = Members(self.sets.targets.images, self._clients, self.sets.targets.labels)
        answer = answering(self.checkpoint, members, dataset=dataset, device=self.device, trained=trained, batch=options.batch)
        network = self.checkpoint.network() if trained else self.checkpoint.untrained()
        moments: Moments = ()
        count = None
        if trained and options.momentum != "zero":
            moments, count = history(self.checkpoint, network, self._clients[self.places[:, 0]], self.device)
        return Stepping(network.client.to(self.device), lambda x: normalise(x, dataset.mean, dataset.std), answer,
                        client_step(self.config, lr=options.client_lr), moments, count, options.momentum == "known",
                        encoded_weights(self.config))

    def untrained(self) -> Scores:
        """The same attack before training; computed once for all runs in a folder with this server and these images."""
        dataset = self.checkpoint.dataset(self.options.data_dir)
        names = ("algorithm", "cohort_size", "symmetric", "client_grad_scale", "temperature", "queue_size", "queue", "ema", "seed",
                 "clients")
        key = {
            "attack": "gradient", "options": {k: v for k, v in self.identity.items() if k not in ("targets", "momentum")},
            "targets": rulers.digest(self.sets.targets), "clients": self.sets.clients.tolist(), "mean": list(dataset.mean),
            "std": list(dataset.std), "server": {name: getattr(self.config, name) for name in names},
            "step": fields.to_dict(client_step(self.config, lr=self.options.client_lr)), "wire": fields.to_dict(self.config.wire),
            "augment": fields.to_dict(self.config.augmentation), "gas": fields.to_dict(self.config.gas),
            "network": network_key(self.config, self.checkpoint.untrained(), at_cut=True),
        }

        def compute() -> Scores:
            print("the same attack on the untrained client, as a ruler (kept for other runs):", file=sys.stderr)
            return scored(self.victim(trained=False), self.targets, self.places, options=self.options)[1]

        return rulers.cached(self.checkpoint.run_dir.parent / ".rulers", key, compute)

    @property
    def notices(self) -> list[str]:
        """What a reader of the numbers should know of this run's step."""
        said, left = list(self.sets.notices), len(self.targets) - self.places.numel()
        if left:
            said.append(f"{left} of the targets fill no batch of {self.options.batch} of one client, and are left out")
        if self.config.algorithm in CENTRALISED:
            said.append(f"{self.config.algorithm} trains in one place: attacked is the client that this cut would make")
        if self.config.symmetric == "stacked" and not self.config.supervised:
            said.append("the attacked step sends the query view alone; with symmetric stacked a client's step also holds the other view")
        return said


def run(options: Options) -> dict[str, Any]:
    """Attack a checkpoint beside its rulers.

    Returns:
        The contents of `result.json`, and the path of that file under `path`. A result that exists is read, not computed again.
    """
    case = Case(options)
    path = case.directory / "result.json"
    if (done := results.known(path)) is not None:
        return done
    start = time.monotonic()
    blind = mean_image(to_float(case.sets.aux.images.to(case.device)))
    found = judged(case.victim(trained=True), case.targets, case.places, options=case.options, blind=blind, untrained=case.untrained)
    result = {
        "kind": "attack", "name": "gradient", "preset": None, "budget": case.options.budget, **found.result, "sets": case.sets.record,
        "notices": case.notices, "cut": case.config.cut, "smashed_shape": list(case.checkpoint.untrained().smashed_shape),
        "momentum": case.options.momentum, "run": case.checkpoint.run_dir.name, "dataset": case.config.dataset, "options": case.identity,
        "checkpoint": case.checkpoint.reference, "step": fields.to_dict(client_step(case.config, lr=case.options.client_lr)),
    }
    _pictures(case, found)
    return results.write(path, result, start=start)


def _pictures(case: Case, found: Matched) -> None:
    """`images.png` of the first targets, and every reconstruction as a tensor."""
    truth = case.targets[found.places.to(case.device)]
    count = min(SHOWN, len(truth))
    captions = [tuple(f"SSIM {s:.2f}" for s in judge.score(images[:count], truth[:count]).ssim) for images in (found.images, found.alone)]
    rows = [
        picture.Row("original", truth[:count]),
        picture.Row("reconstruction", found.images[:count], captions[0]),
        picture.Row("smashed data\nalone", found.alone[:count], captions[1]),
        picture.Row("blind guess\nmean of own images", found.blind.expand_as(truth[:count])),
    ]
    title = f"gradient ({case.options.budget}, batch {case.options.batch}) at cut {case.config.cut}: {case.checkpoint.run_dir.name}, " \
            f"step {case.checkpoint.step}"
    picture.save(picture.draw(rows, title=title, subtitle=found.verdict), case.directory / "images.png")
    originals = case.sets.targets.images[found.places]
    tensors = {"targets": originals, "reconstructions": found.images.half(), "features_alone": found.alone.half(),
               "blind": found.blind.half()}
    write_tensors(case.directory / "reconstructions.safetensors", tensors, {"verdict": found.verdict})


def show(result: dict[str, Any]) -> str:
    """The lines that the command ends with."""
    at, shape, ends = result["checkpoint"], "x".join(map(str, result["smashed_shape"])), result["intervals"]["r2"]
    notes = result["per_seed"][0]
    lines = [
        f"gradient ({result['budget']}) on {result['run']}, step {at['step']}{'' if at['finished'] else ', unfinished'}: cut "
        f"{result['cut']}, {shape} numbers per image",
        f"{result['targets']} targets in batches of {result['batch']}; needs {', '.join(result['needs'])}",
        "", " " * 34 + "".join(f"{c.upper():>9}" for c in COLUMNS),
        f"{_row('this attack', result)}   R2 95 % [{ends[0]:.3f}, {ends[1]:.3f}]",
        _row("smashed data alone", result["features_alone"]),
        _row("blind guess", {c: 0.0 if c == "r2" else result[f"blind_{c}"] for c in COLUMNS}),
        _row("untrained client", {c: result[f"untrained_{c}"] for c in COLUMNS}),
        "", result["verdict"],
        f"The search came within 1 % (squared) of the smashed data for {notes['arrived']:.0%} of the targets and of the update for "
        f"{notes['arrived_gradient']:.0%} of the batches; where it did not, a high error says that it did not arrive.",
    ]
    said = list(result["notices"])
    if result["still_improving"]:
        said.append("the search was still improving at its end, so a longer one (--budget paper) may see more")
    if result["dataset"] == "digits":
        said.append("digits only show that everything works; conclusions need real images")
    return "\n".join([*lines, *(f"Note: {notice}." for notice in said), f"picture: {Path(result['path']).with_name('images.png')}"])


def _row(title: str, values: dict[str, Any]) -> str:
    return f"  {title:<32}{values['mse']:9.4f}{values['psnr']:9.2f}{values['ssim']:9.3f}{values['r2']:9.3f}"


def main(argv: Sequence[str]) -> None:
    """`python -m attacks.gradient`."""
    options = fields.parse(Options, argv, "python -m attacks.gradient", __doc__ or "", epilog=(
        f"needs: {', '.join(matching.NEEDS)}; cost: {matching.COST}; source: {matching.SOURCE}\n\n"
        "examples:\n"
        "  python -m attacks.gradient --checkpoint runs/RUN --budget quick\n"
        "  python -m attacks.gradient --checkpoint runs/RUN --momentum known     # the server saw the step before, too\n"
        "  python -m attacks.gradient --checkpoint runs/RUN --batch 4            # images of a batch are searched jointly\n\n"
        "writes RUN/attacks/gradient-HASH/result.json, images.png and reconstructions.safetensors; a result that exists is printed, not\n"
        "computed again"))
    allocator.keep_freed_memory()
    result = run(options)
    print(show(result))
    print(f"next: python -m attacks.invert --checkpoint {options.checkpoint or Path(result['path']).parents[2]}")


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
