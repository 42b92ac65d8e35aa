"""Labels: what the smashed data give away of the classes of the clients' images.

fewshot: somebody with a few labelled images of his own (1, 5, 50 a class, or all) sends them through the client and learns to tell the
classes; then he is asked about the clients' images. Beside it the same on raw pixels, and on the client before training.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attacks import fewshot, rulers, sets
from attacks.fewshot import guess_labels
from attacks.show import defended as defence_line
from attacks.victim import Victim, refuse_without_wire
from probes.bench import Target
from probes.rulers import network_key
from ssl_split import allocator, fields
from ssl_split import run as runs
from ssl_split.data.images import to_float
from ssl_split.display import progress
from ssl_split.fields import field
from ssl_split.files import read_json, write_json
from ssl_split.models.split import Network
from ssl_split.training import pick_device

__all__ = ["Options", "guess_labels", "main", "run"]


@dataclass(frozen=True)
class Options(Target):
    """Options of the command."""

    device: str = field("auto", "auto, cpu, cuda or cuda:N")
    method: str = field("fewshot", "attack", choices=("fewshot",), section="attack")
    targets: int = field(1000, "attacked images, a fixed list over clients and classes", low=10)
    aux: int = field(5000, "the attacker's labelled images, or all there are", low=20)
    seed: int = field(0, "of the draws of few images", low=0)
    attacker: str = field("adaptive", "against a run with a defence: adaptive learns through it, with one who does not know it beside him; "
                                      "unaware is that one alone", choices=("adaptive", "unaware"))


def run(options: Options) -> dict[str, Any]:
    """Attack a checkpoint beside its rulers.

    Returns:
        The contents of `result.json`, and the path of that file under `path`. A result that exists is read, not computed again.

    Raises:
        ValueError: images without labels, or sentences.
    """
    options = fields.build(Options, fields.to_dict(options))
    device = pick_device(options.device)
    checkpoint = runs.open_checkpoint(options.checkpoint, which=options.which, out=options.out)
    if checkpoint.config.dataset == "tsv":
        raise ValueError("attacks.label works on images; for sentences: python -m probes.knn --features smashed")
    refuse_without_wire(checkpoint.config)
    defended = checkpoint.defence.changes_release
    if options.attacker == "unaware" and not defended:
        raise ValueError(f"--attacker unaware has no meaning here: {checkpoint.run_dir.name} has no defence that changes what is sent")
    identity = {k: v for k, v in fields.to_dict(options).items() if k in ("targets", "aux", "seed", *["attacker"] * defended)}
    weights = {"file": checkpoint.path.name, "step": checkpoint.step}
    path = runs.result_dir(checkpoint.run_dir, "attacks", options.method, {**identity, "checkpoint": weights}) / "result.json"
    if path.is_file():
        print(f"{path} exists and is not computed again", file=sys.stderr)
        return {**read_json(path), "path": str(path)}
    start, dataset = time.monotonic(), checkpoint.dataset(options.data_dir)
    if dataset.train.labels is None or dataset.test.labels is None:
        raise ValueError(f"{dataset.name} has no labels that could be told from its smashed data")
    chosen = sets.choose(dataset, checkpoint.parts(dataset), targets=options.targets, aux=options.aux, aux_given=False)
    assert chosen.targets.labels is not None
    assert chosen.aux.labels is not None
    data = (to_float(chosen.targets.images.to(device)), chosen.targets.labels, to_float(chosen.aux.images.to(device)), chosen.aux.labels)

    def attacked(network: Network, attacker: str = options.attacker) -> list[dict[str, Any]]:
        client = network.client.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        victim = Victim(client, dataset.mean, dataset.std, None, checkpoint.defence, attacker == "adaptive")
        return fewshot.measured(victim, *data, seed=options.seed)

    network, untrained = checkpoint.network(), checkpoint.untrained()
    key = {"attack": "fewshot", "options": identity, "targets": rulers.digest(chosen.targets), "aux": rulers.digest(chosen.aux),
           "mean": list(dataset.mean), "std": list(dataset.std), "network": network_key(checkpoint.config, untrained, at_cut=True),
           **({"defence": checkpoint.config.defended_with} if defended else {})}
    pixels_key = {k: v for k, v in key.items() if k != "defence"} | {"attack": "fewshot-pixels", "network": None,
                                                                    "options": {k: v for k, v in identity.items() if k != "attacker"}}
    with progress(3, "fewshot") as bar:
        rows = attacked(network)
        unaware = attacked(network, "unaware") if defended and options.attacker == "adaptive" else None
        bar.advance(accuracy=max(row["accuracy"] for row in rows))
        ruler = rulers.cached_rows(checkpoint.run_dir.parent / ".rulers", key, lambda: attacked(untrained))
        bar.advance()
        images = rulers.cached_rows(checkpoint.run_dir.parent / ".rulers", pixels_key,
                                    lambda: fewshot.pixels(*data, seed=options.seed))
        bar.advance()
    shares = torch.bincount(chosen.targets.labels).double() / len(chosen.targets.labels)
    result = {
        "kind": "attack", "name": options.method, "rows": rows, "untrained": ruler, "pixels": images, "unaware": unaware,
        "defence": checkpoint.config.defended_with, "adaptive": options.attacker == "adaptive" if defended else None,
        "chance": float(shares.max()), "targets": len(chosen.targets), "aux": len(chosen.aux), "needs": list(_needs()),
        "sets": chosen.record, "notices": list(chosen.notices), "cut": checkpoint.config.cut, "smashed_shape": list(network.smashed_shape),
        "run": checkpoint.run_dir.name, "dataset": checkpoint.config.dataset, "options": identity, "checkpoint": checkpoint.reference,
    }
    result["verdict"] = verdict(result)
    write_json(path, result | {"seconds": time.monotonic() - start, "environment": runs.environment(), "command": runs.command_line()})
    return {**read_json(path), "path": str(path)}


def _needs() -> tuple[str, ...]:
    return tuple("aux_same" if flag == "aux" else flag for flag in fewshot.NEEDS)


def verdict(result: dict[str, Any]) -> str:
    """One sentence: the best guesses beside chance, raw pixels and the untrained client."""
    best = max(result["rows"], key=lambda row: row["accuracy"])
    pixels, untrained = (max(row["accuracy"] for row in result[name]) for name in ("pixels", "untrained"))
    said = f"{best['accuracy']:.0%} of the labels [{best['low']:.0%}, {best['high']:.0%}] ({_way(best)})"
    if best["low"] <= result["chance"]:
        return f"No better than naming the commonest class: {said}, {result['chance']:.0%}."
    relation = "more than raw pixels do" if best["low"] > pixels else "less than raw pixels do" if best["high"] < pixels else \
        "about as much as raw pixels do"
    return (f"The smashed data tell {said}, {relation} ({pixels:.0%}); an untrained client's tell {untrained:.0%}, naming the commonest "
            f"class {result['chance']:.0%}.")


def _way(row: dict[str, Any]) -> str:
    how = "neighbours" if row["classifier"] == "neighbours" else "all images" if row["shots"] is None else f"{row['shots']} a class"
    return f"{row['features']}, {how}"


def show(result: dict[str, Any]) -> str:
    """The lines that the command ends with."""
    at = result["checkpoint"]
    lines = [f"fewshot on {result['run']}, step {at['step']}{'' if at['finished'] else ', unfinished'}: cut {result['cut']}",
             f"{result['targets']} targets, {result['aux']} labelled images of the attacker's own; needs {', '.join(result['needs'])}",
             *([defence_line(result)] if result.get("defence") else []), "",
             f"  {'accuracy':<26}{'this client':>22}{'untrained':>12}"]
    before = {_way(row): row["accuracy"] for row in result["untrained"]}
    for row in result["rows"]:
        way = _way(row)
        lines.append(f"  {way:<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{before.get(way, float('nan')):>10.3f}")
    if result.get("unaware"):
        best = max(result["unaware"], key=lambda row: row["accuracy"])
        lines.append(f"  {'not knowing the defence':<26}{best['accuracy']:>8.3f} [{best['low']:.3f}, {best['high']:.3f}]  (best: "
                     f"{_way(best)})")
    lines += [f"  {_way(row):<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in result["pixels"]]
    lines += [f"  {'commonest class':<26}{result['chance']:>8.3f}", "", result["verdict"]]
    return "\n".join([*lines, *(f"Note: {notice}." for notice in result["notices"]), f"result: {Path(result['path'])}"])


def main(argv: Sequence[str]) -> None:
    """`python -m attacks.label`."""
    options = fields.parse(Options, argv, "python -m attacks.label", __doc__ or "", epilog=(
        f"needs: {', '.join(_needs())}\n\n"
        "examples:\n"
        "  python -m attacks.label --checkpoint runs/RUN\n\n"
        "writes RUN/attacks/fewshot-HASH/result.json; a result that exists is printed, not computed again"))
    allocator.keep_freed_memory()
    print(show(run(options)))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
