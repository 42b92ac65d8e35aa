"""Hijack: train with a malicious server that bends chosen clients until it can read what they send (FSHA).

Two trainings of the same configuration: an honest one (kept, and used if it is there), and one in which the attacked clients get false
gradients. What the server then rebuilds of these clients' images stands beside the blind guess and beside what a passive attacker with
a ridge regression gets from the honest run; how visible it was, beside it: the cosine of false to true gradients, and the accuracy lost.

Against a run with a defence both look at what went through it. The malicious server learns from what arrives and has no use for knowing the
defence, so its `adaptive` is null; the ridge regression knows it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import judge, picture, results, sets
from attacks.api import AttackOptions
from attacks.blind import mean_image
from attacks.fsha import FSHA, NEEDS, HijackOptions
from attacks.reconstruct import numbers, same_attack
from attacks.show import defended
from attacks.victim import Victim, refuse_without_wire
from attacks.view import OwnImages, View
from ssl_split import allocator, fields, train
from ssl_split import config as configuration
from ssl_split import run as runs
from ssl_split.config import Config
from ssl_split.data import augment
from ssl_split.data.images import Dataset, to_float
from ssl_split.fields import field
from ssl_split.training import pick_device

__all__ = ["HijackOptions", "main", "run"]

SHOWN = 12
"""Targets in the picture."""


@dataclass(frozen=True)
class Options(Config):
    """What is trained, and the attack on it."""

    hijack: HijackOptions = field(HijackOptions, "the malicious server")


def run(config: Config, options: HijackOptions) -> dict[str, Any]:
    """Train honestly and with the malicious server, and compare.

    Returns:
        The contents of `result.json` in the honest run's directory, and its path under `path`. A result that exists is read.

    Raises:
        ValueError: nothing of the client crosses the wire, no gradient comes back, or a client that does not exist.
    """
    _check(config, options)
    honest = train.run(config, resume=True)
    words = {**fields.to_dict(options), "step": honest.checkpoint().step}
    if honest.checkpoint().defence.changes_release:
        words["defence"] = config.defended_with  # results of earlier versions looked past it
    path = runs.result_dir(honest.path, "attacks", "hijack", words) / "result.json"
    if (done := results.known(path)) is not None:
        return done
    start, device = time.monotonic(), pick_device(config.device)
    checkpoint = honest.checkpoint()
    dataset = checkpoint.dataset()
    parts = [checkpoint.parts(dataset)[c] for c in options.clients]
    chosen = sets.choose(dataset, parts, targets=options.targets, aux=options.aux, aux_given=False)
    own = to_float(chosen.aux.images.to(device))
    server = FSHA(_views(config, dataset, chosen.aux.images.to(device)), options, image_size=dataset.size, device=device)
    bent = _train(config, words, server)
    held, targets = sets.split(own), to_float(chosen.targets.images.to(device))
    offers = {"smashed": _victim(bent, dataset, device).release(targets), "aux_same": held, "gradient_control": server}
    view = View(offers, NEEDS, attack="hijack")
    images = server.reconstruct(view.smashed)
    result = _judged(images, targets, held, server) | {
        "passive_r2": _passive(honest, targets, held, dataset, device), "needs": list(view.capabilities), "targets": len(targets),
        "clients": list(options.clients), "aux": len(own), "seeds": [options.seed], "sets": chosen.record,
        "notices": list(chosen.notices), "cut": config.cut, "smashed_shape": list(view.smashed.shape[1:]), "run": honest.path.name,
        "hijacked_run": bent.path.name, "dataset": config.dataset, "options": words, "checkpoint": checkpoint.reference,
        "honest_accuracy": _accuracy(honest.result), "hijacked_accuracy": _accuracy(bent.result), "steps": len(server.trace.cosine),
        "defence": config.defended_with, "adaptive": None,
    }
    result["verdict"] = verdict(result)
    _picture(images, targets, held, result, path.parent)
    return results.write(path, result, start=start)


def _check(config: Config, options: HijackOptions) -> None:
    refuse_without_wire(config)
    if config.dataset == "tsv":
        raise ValueError("attacks.hijack rebuilds images, and dataset tsv holds sentences")
    if config.algorithm in ("moco", "centralised") or config.cut == 0:
        raise ValueError(f"{config.algorithm} at cut {config.cut} has no client half that a gradient could bend")
    if config.algorithm == "mu_splitfed":
        raise ValueError("mu_splitfed sends the client one number instead of a gradient: there is nothing to put in its place")
    if wrong := [c for c in options.clients if c >= config.clients]:
        raise ValueError(f"hijack.clients: client {wrong[0]} does not exist, there are {config.clients}, counted from 0")


def _views(config: Config, dataset: Dataset, images: Tensor) -> Any:
    """A draw of own images: augmented and normalised as clients do it, and the same view in [0, 1]."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (dataset.mean, dataset.std))

    def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        picked = images[torch.randint(len(images), (count,), generator=generator).to(images.device)]
        uniforms = augment.draw(count, generator).to(images.device)
        fed = augment.views(picked, uniforms, config.augmentation, mean=dataset.mean, std=dataset.std, dtype=torch.float32)
        return fed, (fed * std + mean).clamp(0, 1)

    return drawn


def _train(config: Config, words: dict[str, Any], server: FSHA) -> train.Run:
    """The hijacked training, in a folder of its own; what a stopped one left is thrown away, as the attacker's networks were not kept."""
    mark = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:8]
    bent = config.replace(out=str(Path(config.out) / ".hijacked"), name=f"hijacked-{mark}-{config.algorithm}")
    if bent.run_dir.exists():
        shutil.rmtree(bent.run_dir)
    return train.run(bent, tamper=server)


def _judged(images: Tensor, targets: Tensor, own: OwnImages, server: FSHA) -> dict[str, Any]:
    blind = mean_image(own.fit)[None]
    mine, nothing = judge.score(images, targets, extras=True), judge.score(blind, targets)
    return {"kind": "attack", "name": "hijack", "preset": None, "budget": None, **numbers(mine, nothing, None), "validation_mse": None,
            "still_improving": False, "reconstruction": judge.verdict(mine, nothing, None), "visibility": server.trace.summary()}


def _passive(honest: train.Run, targets: Tensor, own: OwnImages, dataset: Dataset, device: torch.device) -> float:
    """R2 of a ridge regression on the honest run's client: what looking on would have got."""
    found = same_attack(_victim(honest, dataset, device), targets, own=own, options=AttackOptions(method="ridge"))
    return judge.relative(found, judge.score(mean_image(own.fit)[None], targets))["r2"]


def _victim(trained: train.Run, dataset: Dataset, device: torch.device) -> Victim:
    """The averaged client of a run, behind its defence."""
    checkpoint = trained.checkpoint()
    client = checkpoint.network().client.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Victim(client, dataset.mean, dataset.std, defence=checkpoint.defence)


def _accuracy(result: dict[str, Any]) -> float | None:
    found = result["validation_accuracy"] or result["validation_knn"]
    return found["accuracy"] if found else None


def verdict(result: dict[str, Any]) -> str:
    """What was rebuilt, what a passive attacker gets, and what a client could have noticed."""
    gained = result["r2"] - result["passive_r2"]
    than = "more than" if gained > 0.02 else "less than" if gained < -0.02 else "as much as"
    seen = result["visibility"]["cosine"]
    lost = (f"; validation fell from {result['honest_accuracy']:.3f} to {result['hijacked_accuracy']:.3f}"
            if result["honest_accuracy"] is not None and result["hijacked_accuracy"] is not None else "")
    return (f"{result['reconstruction']} R2 {result['r2']:.2f}, {than} a passive ridge regression on the honest client "
            f"({result['passive_r2']:.2f}). Visible to the attacked: false and true gradients have cosine {seen:.2f}{lost}.")


def _picture(images: Tensor, targets: Tensor, own: OwnImages, result: dict[str, Any], folder: Path) -> None:
    count = min(SHOWN, len(targets))
    scores = judge.score(images[:count], targets[:count])
    rows = [picture.Row("original", targets[:count]),
            picture.Row("rebuilt by the\nmalicious server", images[:count], tuple(f"SSIM {s:.2f}" for s in scores.ssim)),
            picture.Row("blind guess\nmean of own images", mean_image(own.fit).expand_as(images[:count]))]
    title = f"hijack of clients {' '.join(map(str, result['clients']))} at cut {result['cut']}: {result['hijacked_run']}"
    picture.save(picture.draw(rows, title=title, subtitle=result["reconstruction"]), folder / "images.png")


def show(result: dict[str, Any]) -> str:
    """The lines that the command ends with."""
    seen = result["visibility"]
    lines = [f"hijack of clients {' '.join(map(str, result['clients']))} of {result['run']}: cut {result['cut']}, {result['steps']} steps",
             f"{result['targets']} targets, {result['aux']} images of the attacker's own; needs {', '.join(result['needs'])}",
             *([defended(result) + ("; the ridge regression knows it" if "defence" in result["options"] else "")] if result.get("defence")
               else []), "",
             f"  {'':<34}{'MSE':>9}{'PSNR':>9}{'SSIM':>9}{'R2':>9}",
             f"  {'malicious server':<34}{result['mse']:9.4f}{result['psnr']:9.2f}{result['ssim']:9.3f}{result['r2']:9.3f}",
             f"  {'blind guess':<34}{result['blind_mse']:9.4f}{result['blind_psnr']:9.2f}{result['blind_ssim']:9.3f}{0:9.3f}",
             f"  {'passive ridge, honest client':<34}{'':>27}{result['passive_r2']:9.3f}", "",
             f"  cosine of false to true gradients  {seen['cosine_first']:.3f} at first, {seen['cosine_last']:.3f} in the end",
             f"  the pilot's own inversion (MSE)    {seen['inversion_first']:.4f} at first, {seen['inversion_last']:.4f} in the end", "",
             result["verdict"], *(f"Note: {notice}." for notice in result["notices"])]
    return "\n".join([*lines, f"picture: {Path(result['path']).with_name('images.png')}"])


def main(argv: Sequence[str]) -> None:
    """`python -m attacks.hijack`."""
    parser = fields.flags(Options, "python -m attacks.hijack", __doc__ or "", (
        f"needs: {', '.join(NEEDS)} (malicious)\n\n"
        "examples:\n"
        "  python -m attacks.hijack --cut 5                                       # client 0 of the embedded default\n"
        "  python -m attacks.hijack --config configs/cifar10.yaml --data-dir DIR --cut 5 --hijack.clients 0 1\n\n"
        "writes RUN/attacks/hijack-HASH/result.json and images.png in the honest run's directory, and the hijacked run to OUT/.hijacked"))
    parser.add_argument("--config", help="YAML file with fields of the configuration [configs/default.yaml]")
    arguments = parser.parse_args(list(argv))
    values = fields.merge(fields.read_yaml(configuration.find(getattr(arguments, "config", "default.yaml"))),
                          fields.set_flags(Options, arguments))
    attack = fields.build(HijackOptions, values.pop("hijack", {}), "hijack.")
    config = configuration.from_dict(values)
    if config.allocator:
        allocator.keep_freed_memory()
    print(show(run(config, attack)))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
