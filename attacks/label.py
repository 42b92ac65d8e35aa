"""Labels: what crosses the wire gives away of the classes of the clients' images.

fewshot: somebody with a few labelled images of his own (1, 5, 50 a class, or all) sends them through the client and learns to tell the
classes; then he is asked about the clients' images. Beside it the same on raw pixels, and on the client before training.
norm, direction (supervised): how far the gradient that the server returns tells them, by its length, or by its angle to that of one image
whose class is known. completion: the client half with a new head, fine-tuned on a few labelled images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import completion, fewshot, label_elsewhere, results, returned, rulers, sets, sources
from attacks.completion import complete
from attacks.elsewhere import Foreign, refuse_mixture
from attacks.fewshot import guess_labels
from attacks.label_text import HEADLINE, counted, show, verdict
from attacks.returned import gradient_direction, gradient_norm
from attacks.server import Members, answering, refuse_without_gradient
from attacks.sources import Sources
from attacks.victim import Victim, refuse_without_wire
from attacks.view import CapabilityError
from probes.bench import Target
from probes.rulers import network_key
from ssl_split import allocator, fields
from ssl_split import run as runs
from ssl_split.data.images import to_float
from ssl_split.defences.release import released
from ssl_split.display import progress
from ssl_split.fields import field
from ssl_split.models.split import Network
from ssl_split.training import pick_device

__all__ = ["METHODS", "Options", "complete", "gradient_direction", "gradient_norm", "guess_labels", "main", "run"]


@dataclass(frozen=True)
class Method:
    """One row of the table of label attacks.

    Attributes:
        needs: Capabilities it declares.
        options: Names of the options that change its numbers.
        cost, source: For `--help` and the docs.
    """

    needs: tuple[str, ...]
    options: tuple[str, ...]
    cost: str
    source: str


METHODS: dict[str, Method] = {
    "fewshot": Method(fewshot.NEEDS, ("targets", "aux", "seed"), "seconds to minutes", "linear classifiers and neighbours on z"),
    "norm": Method(returned.NEEDS, ("targets",), "seconds", "arXiv 2102.08504 (ICLR 2022)"),
    "direction": Method(returned.NEEDS, ("targets", "seed"), "seconds", "arXiv 2102.08504 (ICLR 2022)"),
    "completion": Method(completion.NEEDS, ("targets", "aux", "seed"), "minutes", "Fu et al., USENIX Security 2022"),
}
"""Name -> what the attack needs, what it costs and where it is from."""
RETURNED = ("norm", "direction")


@dataclass(frozen=True)
class Options(Foreign, Sources, Target):
    """Options of the command."""

    device: str = field("auto", "auto, cpu, cuda or cuda:N")
    method: str = field("fewshot", "attack", choices=tuple(METHODS), section="attack")
    targets: int | str = field(1000, "attacked images, a fixed list over clients and classes; a folder of class folders with --encoder",
                               low=10)
    aux: int | str = field(5000, "fewshot, completion: the attacker's labelled images, or all there are; a folder of class folders with "
                                 "--encoder", low=20)
    seed: int = field(0, "of the draws of few or known images", low=0)
    attacker: str = field("adaptive", "fewshot against a run with a defence: adaptive learns through it, with one who does not know it "
                                      "beside him; unaware is that one alone", choices=("adaptive", "unaware"))


class Case:
    """A checkpoint whose clients' labels are attacked."""

    def __init__(self, options: Options) -> None:
        """Check the options and find the checkpoint.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what is wrong.
        """
        self.options = fields.build(Options, fields.to_dict(options))
        refuse_mixture(self.options, "attacks.label")
        self.method = METHODS[self.options.method]
        self.device = pick_device(self.options.device)
        self.checkpoint = runs.open_checkpoint(self.options.checkpoint, which=self.options.which, out=self.options.out)
        config = self.checkpoint.config
        if config.dataset == "tsv":
            raise ValueError("attacks.label works on images; for sentences: python -m probes.knn --features smashed")
        refuse_without_wire(config)
        if self.options.method in RETURNED:
            if not config.supervised:
                raise CapabilityError(f"the attack {self.options.method} needs gradient_view of a loss on labels, and {config.algorithm} "
                                      "offers none: no label leaves its clients; use --method fewshot")
            refuse_without_gradient(config, self.options.method)
        self._check_images()
        self.defended = self.checkpoint.defence.changes_release
        if self.options.attacker == "unaware" and not (self.defended and self.options.method == "fewshot"):
            raise ValueError(f"--attacker unaware has no meaning here: it belongs to fewshot on a run with a defence that changes what is "
                             f"sent, and {self.checkpoint.run_dir.name} has {config.defence}")
        names = (*self.method.options, *["attacker"] * self.learns_through)
        self.identity = {k: v for k, v in fields.to_dict(self.options).items() if k in names}
        if self.options.method not in RETURNED:
            self.identity |= HEADLINE | sources.named(self.options)

    def _check_images(self) -> None:
        sources.check(self.options, self.checkpoint.config)
        if self.options.method not in RETURNED:
            sources.refuse_labels(self.options, self.options.method)
        elif sources.named(self.options):
            raise ValueError(f"--aux-clients and --aux-dataset have no meaning here: the attack {self.options.method} owns no images")

    @property
    def learns_through(self) -> bool:
        """Whether the attacker learns from smashed data that went through a defence."""
        return self.defended and self.options.method == "fewshot"

    @property
    def directory(self) -> Path:
        """Where the result belongs."""
        weights = {"file": self.checkpoint.path.name, "step": self.checkpoint.step}
        return runs.result_dir(self.checkpoint.run_dir, "attacks", f"label-{self.options.method}", {**self.identity, "checkpoint": weights})

    @cached_property
    def sets(self) -> sets.Sets:
        """Targets and the attacker's images, labelled.

        Raises:
            ValueError: there are no labels.
        """
        dataset = self.checkpoint.dataset(self.options.data_dir)
        if dataset.train.labels is None or dataset.test.labels is None:
            raise ValueError(f"{dataset.name} has no labels that could be told from what crosses the wire")
        made = sets.choose(dataset, self.checkpoint.parts(dataset), targets=int(self.options.targets), aux=int(self.options.aux),
                           aux_given=False, pool=sources.pool(self.options, self.checkpoint))
        return made if self.options.aux_clients is None else sources.classes_known(made)

    @cached_property
    def labels(self) -> Tensor:
        """Of the targets."""
        assert self.sets.targets.labels is not None
        return self.sets.targets.labels

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Targets and their labels, the attacker's images and theirs; images `(n, 3, S, S)` in [0, 1]."""
        chosen = self.sets
        assert chosen.aux.labels is not None
        images, own = (to_float(part.images.to(self.device)) for part in (chosen.targets, chosen.aux))
        return images, self.labels, own, chosen.aux.labels

    def attacked(self, network: Network, *, trained: bool, attacker: str | None = None) -> list[dict[str, Any]]:
        """Rows of the attack on a network, the run's or the untrained one, by the attacker of the options or another."""
        dataset, method, seed = self.checkpoint.dataset(self.options.data_dir), self.options.method, self.options.seed
        client = network.client.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adaptive = (attacker or self.options.attacker) == "adaptive"
        victim = Victim(client, dataset.mean, dataset.std, None, self.checkpoint.defence, adaptive)
        if method == "fewshot":
            return fewshot.measured(victim, *self.data, seed=seed)
        if method == "completion":
            return completion.measured(victim, *self.data, seed=seed)
        gradients = self._gradients(victim, trained=trained)
        return gradient_norm(gradients, self.labels) if method == "norm" else gradient_direction(gradients, self.labels, seed=seed)

    def _gradients(self, victim: Victim, *, trained: bool) -> Tensor:
        """g_z of the targets, as the server returns it in a training step."""
        assert isinstance(victim.client, torch.nn.Module)
        config = self.checkpoint.config
        joined = torch.zeros_like(self.sets.clients) if config.algorithm == "centralised" else self.sets.clients
        batch = config.batch_size * (config.cohort_size if config.algorithm == "centralised" else 1)
        members = Members(self.sets.targets.images, joined, self.labels)
        answer = answering(self.checkpoint, members, dataset=self.checkpoint.dataset(self.options.data_dir), device=self.device,
                           trained=trained, batch=batch)
        return returned.returned(victim.client, victim.normalise, answer, self.data[0], joined, batch=batch,
                                 release=lambda z, x: released(victim.defence, z, x, purpose="targets"))

    def key(self, network: Network) -> dict[str, Any]:
        """What identifies the ruler of the untrained client."""
        dataset, config = self.checkpoint.dataset(self.options.data_dir), self.checkpoint.config
        server = {"algorithm": config.algorithm, "batch": config.batch_size, "wire": fields.to_dict(config.wire),
                  "gas": fields.to_dict(config.gas), "clients": self.sets.clients.tolist()}
        return {"attack": self.options.method, "options": self.identity, "targets": rulers.digest(self.sets.targets),
                "aux": rulers.digest(self.sets.aux), "mean": list(dataset.mean), "std": list(dataset.std),
                "network": network_key(config, network, at_cut=True),
                **({"server": server} if self.options.method in RETURNED else {}),
                **({"defence": config.defended_with} if self.defended and self.options.method != "completion" else {})}

    def pixels_key(self, network: Network) -> dict[str, Any]:
        """What identifies the ruler of the images themselves."""
        known = {k: v for k, v in self.identity.items() if k != "attacker"}
        plain = {k: v for k, v in self.key(network).items() if k != "defence"}
        return {**plain, "attack": "fewshot-pixels", "network": None, "options": known}


def run(options: Options) -> dict[str, Any]:
    """Attack a checkpoint, or a client from elsewhere, beside its rulers.

    Returns:
        The contents of `result.json`, and the path of that file under `path`. A result that exists is read, not computed again.

    Raises:
        ValueError: images without labels, or sentences; a run that does not offer what the attack needs.
    """
    if options.encoder is not None:
        return _elsewhere(options)
    case = Case(options)
    path, method = case.directory / "result.json", case.options.method
    if (done := results.known(path)) is not None:
        return done
    start, folder = time.monotonic(), case.checkpoint.run_dir.parent / ".rulers"
    network, untrained = case.checkpoint.network(), case.checkpoint.untrained()
    key, result = case.key(untrained), _facts(case, network)
    with progress(3, method) as bar:
        result["rows"] = case.attacked(network, trained=True)
        if case.learns_through and case.options.attacker == "adaptive":
            result["unaware"] = case.attacked(network, trained=True, attacker="unaware")
        bar.advance()
        result["untrained"] = rulers.cached_rows(folder, key, lambda: case.attacked(untrained, trained=False))
        bar.advance()
        if method == "fewshot":
            result["pixels"] = rulers.cached_rows(folder, case.pixels_key(untrained), lambda: fewshot.pixels(*case.data, seed=options.seed))
        bar.advance()
    result |= counted(result)
    result["verdict"] = verdict(result)
    return results.write(path, result, start=start)


def _elsewhere(options: Options) -> dict[str, Any]:
    checked = fields.build(Options, fields.to_dict(options))
    sources.refuse_elsewhere(checked)
    refuse_mixture(checked, "attacks.label")
    if checked.method != "fewshot" or checked.attacker != "adaptive":
        raise ValueError(f"--encoder goes with --method fewshot alone: {checked.method} needs a run's server or weights and its defence "
                         "(from attacks.label import complete, gradient_norm, gradient_direction take any client)")
    return label_elsewhere.run(checked, targets=str(checked.targets), aux=str(checked.aux), seed=checked.seed, out=checked.out,
                               device=pick_device(checked.device))


def _facts(case: Case, network: Network) -> dict[str, Any]:
    """The result file but for the numbers, time and place."""
    chosen, config, method = case.sets, case.checkpoint.config, case.options.method
    shares = torch.bincount(case.labels).double() / len(case.labels)
    return {
        "kind": "attack", "name": f"label-{method}",
        "chance": 0.5 if method in RETURNED else float(shares.max()), "targets": len(case.labels),
        "aux": None if method in RETURNED else len(chosen.aux), "needs": list(_needs(method)), "sets": chosen.record,
        "notices": list(chosen.notices), "cut": config.cut, "smashed_shape": list(network.smashed_shape),
        "run": case.checkpoint.run_dir.name, "dataset": config.dataset, "checkpoint": case.checkpoint.reference,
        "options": {**({} if method in RETURNED else {"aux_clients": None}), **case.identity},
        "defence": config.defended_with, "adaptive": case.options.attacker == "adaptive" if case.learns_through else None,
    }


def _needs(method: str) -> tuple[str, ...]:
    return tuple("aux_same" if flag == "aux" else flag for flag in METHODS[method].needs)


def main(argv: Sequence[str]) -> None:
    """`python -m attacks.label`."""
    table = "\n".join(f"{name:<12}{', '.join(_needs(name)):<44}{m.cost:<20}{m.source}" for name, m in METHODS.items())
    options = fields.parse(Options, argv, "python -m attacks.label", __doc__ or "", epilog=(
        f"attack, needs, cost, source:\n{table}\n\n"
        "examples:\n"
        "  python -m attacks.label --checkpoint runs/RUN\n"
        "  python -m attacks.label --checkpoint runs/RUN --method direction     # supervised runs\n"
        "  python -m attacks.label --checkpoint runs/RUN --aux-clients 0 1       # with labelled images of clients that collude\n"
        "  python -m attacks.label --encoder client.py:build --weights client.safetensors --targets DIR --aux DIR   # class folders\n\n"
        "writes RUN/attacks/label-METHOD-HASH/result.json; a result that exists is printed, not computed again"))
    allocator.keep_freed_memory()
    print(show(run(options)))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
