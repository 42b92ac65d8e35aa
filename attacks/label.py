"""Labels: what the smashed data give away of the classes of the clients' images.

fewshot: somebody with a few labelled images of his own (1, 5, 50 a class, or all) sends them through the client and learns to tell the
classes; then he is asked about the clients' images. Beside it the same on raw pixels, and on the client before training.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import fewshot, rulers, sets
from attacks.elsewhere import Foreign, ForeignClient, digest, refuse_mixture
from attacks.fewshot import guess_labels
from attacks.show import where
from attacks.victim import Victim, refuse_without_wire
from probes.bench import Target
from probes.rulers import network_key
from ssl_split import allocator, fields
from ssl_split import run as runs
from ssl_split.data.imageset import ImageSet, to_float
from ssl_split.display import progress
from ssl_split.fields import field
from ssl_split.files import read_json, write_json
from ssl_split.models.split import Network
from ssl_split.training import pick_device

__all__ = ["Options", "guess_labels", "main", "run"]


@dataclass(frozen=True)
class Options(Foreign, Target):
    """Options of the command."""

    device: str = field("auto", "auto, cpu, cuda or cuda:N")
    method: str = field("fewshot", "attack", choices=("fewshot",), section="attack")
    targets: int | str = field(1000, "attacked images, a fixed list over clients and classes; a folder of class folders with --encoder",
                               low=10)
    aux: int | str = field(5000, "the attacker's labelled images, or all there are; a folder of class folders with --encoder", low=20)
    seed: int = field(0, "of the draws of few images", low=0)


@dataclass(frozen=True)
class Subject:
    """What is attacked.

    Attributes:
        data: Targets in [0, 1] and their labels, the attacker's images in [0, 1] and theirs.
        client: The attacked client.
        untrained: The same before training; None where there is no such ruler.
        rulers: Folder in which rulers are kept.
        key: Of the images, what changes rulers' numbers; `network` stands for the untrained client.
        facts: What the result file says of client and images.
    """

    data: tuple[Tensor, Tensor, Tensor, Tensor]
    client: Victim
    untrained: Victim | None
    rulers: Path
    key: dict[str, Any]
    facts: dict[str, Any]


def run(options: Options) -> dict[str, Any]:
    """Attack a checkpoint, or a client from elsewhere, beside its rulers.

    Returns:
        The contents of `result.json`, and the path of that file under `path`. A result that exists is read, not computed again.

    Raises:
        ValueError: images without labels, or sentences.
    """
    options = fields.build(Options, fields.to_dict(options))
    refuse_mixture(options, "attacks.label")
    device, start = pick_device(options.device), time.monotonic()
    identity = {k: v for k, v in fields.to_dict(options).items() if k in ("targets", "aux", "seed")}
    path, subject = _elsewhere(options, device) if options.encoder else _checkpoint(options, identity, device)
    if path.is_file():
        print(f"{path} exists and is not computed again", file=sys.stderr)
        return {**read_json(path), "path": str(path)}
    made = subject()
    truth = made.data[1]
    result = {"kind": "attack", "name": options.method, **_rows(made, options.seed),
              "chance": float((torch.bincount(truth).double() / len(truth)).max()), "targets": len(truth), "aux": len(made.data[3]),
              "needs": list(_needs()), "options": identity, **made.facts}
    result["verdict"] = verdict(result)
    write_json(path, result | {"seconds": time.monotonic() - start, "environment": runs.environment(), "command": runs.command_line()})
    return {**read_json(path), "path": str(path)}


def _rows(made: Subject, seed: int) -> dict[str, Any]:
    """Accuracies on the client and on both rulers."""
    def attacked(victim: Victim) -> list[dict[str, Any]]:
        return fewshot.measured(victim, *made.data, seed=seed)

    with progress(3, "fewshot") as bar:
        rows = attacked(made.client)
        bar.advance(accuracy=max(row["accuracy"] for row in rows))
        before = made.untrained
        ruler = rulers.cached_rows(made.rulers, {"attack": "fewshot", **made.key}, lambda: attacked(before)) if before else []
        bar.advance()
        images = rulers.cached_rows(made.rulers, {**made.key, "attack": "fewshot-pixels", "network": None},
                                    lambda: fewshot.pixels(*made.data, seed=seed))
        bar.advance()
    return {"rows": rows, "untrained": ruler, "pixels": images}


def _checkpoint(options: Options, identity: dict[str, Any], device: torch.device) -> tuple[Path, Callable[[], Subject]]:
    """The averaged client of a run: where its result belongs, and how to make it ready."""
    checkpoint = runs.open_checkpoint(options.checkpoint, which=options.which, out=options.out)
    if checkpoint.config.dataset == "tsv":
        raise ValueError("attacks.label works on images; for sentences: python -m probes.knn --features smashed")
    refuse_without_wire(checkpoint.config)
    weights = {"file": checkpoint.path.name, "step": checkpoint.step}
    path = runs.result_dir(checkpoint.run_dir, "attacks", options.method, {**identity, "checkpoint": weights}) / "result.json"

    def made() -> Subject:
        dataset = checkpoint.dataset(options.data_dir)
        if dataset.train.labels is None or dataset.test.labels is None:
            raise ValueError(f"{dataset.name} has no labels that could be told from its smashed data")
        chosen = sets.choose(dataset, checkpoint.parts(dataset), targets=int(options.targets), aux=int(options.aux), aux_given=False)

        def victim(network: Network) -> Victim:
            client = network.client.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            return Victim(client, dataset.mean, dataset.std)

        network, untrained = checkpoint.network(), checkpoint.untrained()
        key = {"options": identity, "targets": rulers.digest(chosen.targets), "aux": rulers.digest(chosen.aux),
               "mean": list(dataset.mean), "std": list(dataset.std), "network": network_key(checkpoint.config, untrained, at_cut=True)}
        facts = {"sets": chosen.record, "notices": list(chosen.notices), "cut": checkpoint.config.cut,
                 "smashed_shape": list(network.smashed_shape), "run": checkpoint.run_dir.name, "dataset": checkpoint.config.dataset,
                 "checkpoint": checkpoint.reference}
        return Subject(_data(chosen.targets, chosen.aux, device), victim(network), victim(untrained), checkpoint.run_dir.parent / ".rulers",
                       key, facts)

    return path, made


def _elsewhere(options: Options, device: torch.device) -> tuple[Path, Callable[[], Subject]]:
    """A client from elsewhere: where its result belongs, and how to make it ready.

    Raises:
        ValueError: pictures that lie in no class folders, or classes that the attacker has no images of.
    """
    foreign = ForeignClient(options, str(options.targets), str(options.aux), device=device)
    targets, aux = foreign.pictures["targets"], foreign.pictures["aux"]
    if targets.labels is None or aux.labels is None:
        raise ValueError("attacks.label takes the classes from folders: put the pictures of --targets and --aux into one folder a class")
    if not set(targets.labels.tolist()) <= set(aux.labels.tolist()):
        raise ValueError("--targets has classes that --aux lacks: the attacker needs images of every class, in folders of the same names")
    folder = runs.result_dir(Path(options.out) / foreign.name, "attacks", options.method, {**foreign.key, "seed": options.seed})

    def made() -> Subject:
        client = foreign.victim(foreign.client)
        data = _data(targets, aux, device)
        before = foreign.untrained
        key = {**{k: v for k, v in foreign.key.items() if k != "client"}, "options": {"seed": options.seed},
               "network": digest(before) if before else None}
        return Subject(data, client, foreign.victim(before) if before else None, Path(options.out) / ".rulers", key,
                       foreign.facts(tuple(client.release(data[0][:1]).shape[1:])))

    return folder / "result.json", made


def _data(targets: ImageSet, aux: ImageSet, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert targets.labels is not None
    assert aux.labels is not None
    return to_float(targets.images.to(device)), targets.labels, to_float(aux.images.to(device)), aux.labels


def _needs() -> tuple[str, ...]:
    return tuple("aux_same" if flag == "aux" else flag for flag in fewshot.NEEDS)


def verdict(result: dict[str, Any]) -> str:
    """One sentence: the best guesses beside chance, raw pixels and the untrained client."""
    best = max(result["rows"], key=lambda row: row["accuracy"])
    pixels = max(row["accuracy"] for row in result["pixels"])
    said = f"{best['accuracy']:.0%} of the labels [{best['low']:.0%}, {best['high']:.0%}] ({_way(best)})"
    if best["low"] <= result["chance"]:
        return f"No better than naming the commonest class: {said}, {result['chance']:.0%}."
    relation = "more than raw pixels do" if best["low"] > pixels else "less than raw pixels do" if best["high"] < pixels else \
        "about as much as raw pixels do"
    before = f"an untrained client's tell {max(r['accuracy'] for r in result['untrained']):.0%}, " if result["untrained"] else ""
    return f"The smashed data tell {said}, {relation} ({pixels:.0%}); {before}naming the commonest class {result['chance']:.0%}."


def _way(row: dict[str, Any]) -> str:
    how = "neighbours" if row["classifier"] == "neighbours" else "all images" if row["shots"] is None else f"{row['shots']} a class"
    return f"{row['features']}, {how}"


def show(result: dict[str, Any]) -> str:
    """The lines that the command ends with."""
    lines = [f"fewshot on {where(result)}",
             f"{result['targets']} targets, {result['aux']} labelled images of the attacker's own; needs {', '.join(result['needs'])}", "",
             f"  {'accuracy':<26}{'this client':>22}{'untrained' if result['untrained'] else '':>12}"]
    before = {_way(row): row["accuracy"] for row in result["untrained"]}
    for row in result["rows"]:
        way = _way(row)
        ruler = f"{before[way]:>10.3f}" if way in before else ""
        lines.append(f"  {way:<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{ruler}")
    lines += [f"  {_way(row):<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in result["pixels"]]
    lines += [f"  {'commonest class':<26}{result['chance']:>8.3f}", "", result["verdict"]]
    return "\n".join([*lines, *(f"Note: {notice}." for notice in result["notices"]), f"result: {Path(result['path'])}"])


def main(argv: Sequence[str]) -> None:
    """`python -m attacks.label`."""
    options = fields.parse(Options, argv, "python -m attacks.label", __doc__ or "", epilog=(
        f"needs: {', '.join(_needs())}\n\n"
        "examples:\n"
        "  python -m attacks.label --checkpoint runs/RUN\n"
        "  python -m attacks.label --encoder client.py:build --weights client.safetensors --targets DIR --aux DIR   # class folders\n\n"
        "writes RUN/attacks/fewshot-HASH/result.json; a result that exists is printed, not computed again"))
    allocator.keep_freed_memory()
    print(show(run(options)))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
