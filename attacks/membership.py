"""Membership: can somebody tell whether an image was among the clients' training images?

Members are training images of the clients; non-members come from the first half of the official test split, in the same class
proportions and under the same transforms; the attacker's own images are the second half. A score of 0.5 (AUC) is guessing. Beside it
stands the same attack on the client before training, which has seen no image.

A client from elsewhere (--encoder) needs no run: its members, others and the attacker's pictures are folders.
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

from attacks import results, rulers
from attacks.members import metrics, pool, roc, shadows, victims
from attacks.members.api import AttackOptions, Method, Question
from attacks.members.elsewhere import ForeignCase, ForeignMembers, refuse
from attacks.members.infer import Inference, OwnEncoder, attacked, infer, judged, ruler
from attacks.members.table import METHODS, table
from attacks.show import defended as defence_line
from attacks.show import where
from attacks.view import OwnImages, View
from probes.bench import Target
from probes.rulers import network_key
from ssl_split import allocator, fields
from ssl_split import run as runs
from ssl_split.data.images import Dataset, to_float
from ssl_split.fields import field
from ssl_split.files import write_tensors
from ssl_split.models.split import Network
from ssl_split.train import Stopped
from ssl_split.training import pick_device

__all__ = ["Options", "OwnEncoder", "infer", "main", "run"]

CURVES = 6
"""Curves in the picture."""


@dataclass(frozen=True)
class Options(AttackOptions, ForeignMembers, Target):
    """Options of the command."""

    device: str = field("auto", "auto, cpu, cuda or cuda:N", section="checkpoint")
    members: int | str = field(1000, "members asked about, balanced over clients and classes; with --encoder the folder of pictures that "
                                     "it was trained on", low=10, section="images")
    nonmembers: int | str | None = field(None, "non-members asked about (default: all of half of the test split that match the members' "
                                               "classes); with --encoder a folder of pictures of the same kind, classes and file format, "
                                               "whose difference from the members is else what an attack finds", low=10)


class Case:
    """One checkpoint under one attack.

    Raises:
        ValueError: the attack cannot be made on this run; it says which capability is missing.
    """

    def __init__(self, options: Options) -> None:
        self.options = fields.build(Options, fields.to_dict(options))
        refuse(self.options)
        self.device = pick_device(options.device)
        self.checkpoint = runs.open_checkpoint(options.checkpoint, which=options.which, out=options.out)
        if self.checkpoint.config.dataset == "tsv":
            raise ValueError("attacks.membership works on images, and this run holds sentences")
        self.method: Method = METHODS[options.method]
        names = ("members", "nonmembers", *self.method.options)
        self.identity = {k: v for k, v in fields.to_dict(self.options).items() if k in names}
        if self.defended:  # results from before say nothing of it: they met clean smashed data
            self.identity["attacker"] = "adaptive"
        if self.from_scratch:  # and began with the run's weights
            self.identity["own_encoders"] = "from scratch"
        weights = {"file": self.checkpoint.path.name, "step": self.checkpoint.step}
        self.path = runs.result_dir(self.checkpoint.run_dir, "attacks", f"membership-{options.method}",
                                    {**self.identity, "checkpoint": weights}) / "result.json"

    @property
    def defended(self) -> bool:
        """Whether what the attacker is answered went through a defence."""
        return self.checkpoint.defence.changes_release and "query" in self.method.needs

    @property
    def from_scratch(self) -> bool:
        """Whether the attacker's encoders begin otherwise than the run did, which went on from weights of another one."""
        return self.method.shadows and shadows.borrowed(self.checkpoint.config)

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences for the user."""
        scratch = ("the attacked run went on from weights of another run, and the attacker's own encoders are trained from scratch for as "
                   "many rounds: they may be less like it than they could be")
        return (*self.sets.notices, *[scratch] * self.from_scratch)

    @cached_property
    def dataset(self) -> Dataset:
        """The run's images."""
        return self.checkpoint.dataset(self.options.data_dir)

    @cached_property
    def sets(self) -> pool.MemberSets:
        """Who is asked about, and with what."""
        parts = self.checkpoint.parts(self.dataset)
        members, nonmembers = self.options.members, self.options.nonmembers
        assert isinstance(members, int)  # folders were refused
        assert not isinstance(nonmembers, str)
        return pool.choose(self.dataset, parts, members=members, nonmembers=nonmembers)

    @cached_property
    def initial(self) -> Network:
        """The network before training."""
        return self.checkpoint.untrained()

    @cached_property
    def view(self) -> View:
        """What the attack declares of the checkpoint."""
        return self._declared(victims.of_checkpoint(self.checkpoint, **self.constants))

    def _declared(self, offered: dict[str, Any]) -> View:
        own, asked = self.sets.own, self.sets.candidates
        everything = offered | {"aux_same": OwnImages(to_float(own.images.to(self.device)), torch.empty(0))}
        everything |= {name: labels.to(self.device) for name, labels in (("aux_labels", own.labels), ("labels", asked.labels))
                       if labels is not None}
        needs = victims.declared(self.method, everything, self.checkpoint.config, self.options)
        return View(everything, needs, attack=self.options.method)

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Normalisation and device."""
        return {"mean": self.dataset.mean, "std": self.dataset.std, "device": self.device}

    @cached_property
    def question(self) -> Question:
        """The images asked about, and the attacker's encoders."""
        config, encoders = self.checkpoint.config, []
        if self.method.shadows:
            encoders = shadows.prepare(
                config, self.dataset, own=self.sets.own, candidates=self.sets.candidates, encoders=self.options.encoder_count,
                online=self.options.online and self.options.method == "lira", folder=self.checkpoint.run_dir.parent / ".shadows",
                device=self.device, attack=self.options.method)
        return Question(self.sets.candidates.images.to(self.device), config.augmentation, self.options, encoders)

    def untrained(self) -> list[dict[str, Any]]:
        """The ruler."""
        config = self.checkpoint.config
        trained_as = config.fingerprint if self.method.shadows else None
        key = {"attack": self.options.method, "options": self.identity, "candidates": rulers.digest(self.sets.candidates),
               "own": rulers.digest(self.sets.own), "mean": list(self.dataset.mean), "std": list(self.dataset.std),
               "network": network_key(config, self.initial, at_cut=True), "augment": fields.to_dict(config.augmentation),
               "trained_as": trained_as, "algorithm": config.algorithm, "queue": [config.queue_size, config.temperature],
               **({"defence": config.defended_with} if self.defended else {})}

        def compute() -> list[dict[str, Any]]:
            offered = victims.of_untrained(self.initial, config, **self.constants, defence=self.checkpoint.defence)
            return ruler(attacked(self._declared(offered), self.question), self.sets.truth)

        return rulers.cached_rows(self.checkpoint.run_dir.parent / ".rulers", key, compute, prefix="membership")

    def found(self) -> Inference:
        """The attack beside its ruler."""
        view = self.view  # refuses before any encoder is trained
        return judged(attacked(view, self.question), self.sets.truth, untrained=self.untrained())

    def facts(self) -> dict[str, Any]:
        """What the result file says of client, images and attacker."""
        checkpoint, needs = self.checkpoint, self.view.capabilities
        return {
            "budget": self.options.budget if self.method.shadows and not self.options.encoders else None,
            "aux": len(self.sets.own) if "aux_same" in needs else 0, "encoders": len(self.question.shadows), "needs": list(needs),
            "sets": self.sets.record, "notices": list(self.notices), "cut": checkpoint.config.cut,
            "smashed_shape": list(self.initial.smashed_shape), "run": checkpoint.run_dir.name, "dataset": checkpoint.config.dataset,
            "options": self.identity, "checkpoint": checkpoint.reference, "defence": checkpoint.config.defended_with,
            "adaptive": True if self.defended else None,
        }


def run(options: Options) -> dict[str, Any]:
    """Attack a checkpoint, or a client from elsewhere, beside its ruler.

    Returns:
        The contents of `result.json`, and the path of that file under `path`. A result that exists is read, not computed again.

    Raises:
        ValueError: sentences, too few images, or a capability that this client does not offer.
    """
    case = Case(options) if options.encoder is None else _elsewhere(options)
    path = case.path
    if (done := results.known(path)) is not None:
        return done
    start = time.monotonic()
    found = case.found()
    result = _facts(case, found)
    _files(path, found, result)
    return results.write(path, result, start=start)


def _elsewhere(options: Options) -> ForeignCase:
    checked = fields.build(Options, fields.to_dict(options))
    refuse(checked)
    return ForeignCase(checked, device=pick_device(checked.device))


def _facts(case: Case | ForeignCase, found: Inference) -> dict[str, Any]:
    """The result file but for time and place."""
    best, members = found.best, int(found.truth.sum())
    keys = ("place", "score", "auc", "low", "high", "balanced_accuracy", "threshold", "threshold_from", "tpr")
    return {
        "kind": "attack", "name": f"membership-{case.options.method}", **{k: best[k] for k in keys},
        "untrained_auc": best["untrained"]["auc"] if best["untrained"] else None, "verdict": found.verdict, "rows": found.rows,
        "headline": found.headline, "headline_from": "the attacker's own data" if best["validation_auc"] is not None else "the first place",
        "members": members, "nonmembers": len(found.truth) - members, "targets": len(found.truth), **case.facts(),
    }


def _files(path: Path, found: Inference, result: dict[str, Any]) -> None:
    """`roc.png`, and every score with the truth as tensors."""
    order = sorted(range(len(found.rows)), key=lambda i: i != found.headline)[:CURVES]
    curves = {f"{found.rows[i]['place']}, {found.rows[i]['score']} (AUC {found.rows[i]['auc']:.3f})":
              metrics.curve(found.scores[i], found.truth) for i in order}
    title = f"{_name(result)} on {where(result)}"
    roc.save(roc.draw(curves, title=title, smallest=1 / max(result["members"], result["nonmembers"])), path.with_name("roc.png"))
    write_tensors(path.with_name("scores.safetensors"), {"scores": found.scores, "members": found.truth},
                  {"rows": [[row["place"], row["score"]] for row in found.rows]})


def _name(result: dict[str, Any]) -> str:
    return str(result["name"]).removeprefix("membership-")


def show(result: dict[str, Any]) -> str:
    """The lines that the command ends with."""
    budget = f" ({result['encoders']} encoders of the attacker's own)" if result["encoders"] else ""
    lines = [f"{_name(result)}{budget} on {where(result)}",
             f"{result['members']} members, {result['nonmembers']} non-members, {result['aux']} images of the attacker's own; needs "
             f"{', '.join(result['needs'])}", *([defence_line(result)] if result.get("defence") else []), "",
             f"  {'place, score':<32}{'AUC':>6}{'95 %':>17}{'TPR at 1 %':>12}{'0.1 %':>8}{'0 %':>8}{'balanced':>10}"
             + ("" if result["untrained_auc"] is None else f"{'untrained':>11}")]
    for i, row in enumerate(result["rows"]):
        rates = [row["tpr"][rate]["value"] for rate in ("0.01", "0.001", "0")]
        a, b, c = ("–" if rate is None else f"{rate:.1%}" for rate in rates)
        bound = " " if row["threshold_from"].startswith("the attacker") else "*"
        mark = ">" if i == result["headline"] else " "
        before = f"{row['untrained']['auc']:>11.3f}" if row["untrained"] else ""
        lines.append(f"{mark} {row['place'] + ', ' + row['score']:<32}{row['auc']:>6.3f}   [{row['low']:.3f}, {row['high']:.3f}]"
                     f"{a:>10}{b:>8}{c:>8}{row['balanced_accuracy']:>9.1%}{bound}{before}")
    if any(not row["threshold_from"].startswith("the attacker") for row in result["rows"]):
        lines.append("  * threshold chosen on the truth: an upper bound")
    lines += ["", result["verdict"], *(f"Note: {notice}." for notice in notes(result))]
    return "\n".join([*lines, f"result: {Path(result['path'])}", f"picture: {Path(result['path']).with_name('roc.png')}"])


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader of the numbers should know besides."""
    found = list(result["notices"])
    best = result["rows"][result["headline"]]
    found += [f"true positives at {float(rate):.1%} false positives are not given: it {value['reason']}"
              for rate, value in best["tpr"].items() if value["value"] is None]
    if best["notes"].get("momentum") == "guess":
        found.append("the momentum client is a guess: the average of the averaged clients that were kept")
    if result["dataset"] == "digits":
        found.append("digits only show that everything works; conclusions need real images")
    return found


def main(argv: Sequence[str]) -> int:
    """`python -m attacks.membership`."""
    options = fields.parse(Options, argv, "python -m attacks.membership", __doc__ or "", epilog=(
        f"{table()}\n\n"
        "examples:\n"
        "  python -m attacks.membership --checkpoint runs/RUN                                  # alignment of random views\n"
        "  python -m attacks.membership --checkpoint runs/RUN --method lira --budget quick     # trains 2 encoders first\n"
        "  python -m attacks.membership --encoder client.py:build --weights client.safetensors --members DIR --nonmembers DIR   # any\n"
        "    client: norm (with --aux DIR), alignment (--augment.*: as it was trained); encodermi, partcrop and lira with --aux DIR\n"
        "    --own-weights A.safetensors B.safetensors --own-members DIR DIR. The others need more than a client\n\n"
        "writes RUN/attacks/METHOD-HASH/result.json, roc.png and scores.safetensors (--encoder: OUT/FILE-HASH/attacks/); a result\n"
        "that exists is printed, not computed again.\n"
        "Encoders of the attacker's own are kept in runs/.shadows/ and serve all methods."))
    allocator.keep_freed_memory()
    try:
        print(show(run(options)))
    except Stopped as stop:
        print(f"stopped while an encoder of the attacker's own was trained; the same command goes on ({stop})", file=sys.stderr)
        return stop.code
    return 0


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
