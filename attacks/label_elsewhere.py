"""`attacks.label` on a client from elsewhere: pictures in class folders, no run directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import fewshot, results, rulers
from attacks.elsewhere import Foreign, ForeignClient
from attacks.label_text import HEADLINE, counted, verdict
from ssl_split import run as runs
from ssl_split.data.imageset import ImageSet, to_float
from ssl_split.display import progress


def run(options: Foreign, *, targets: str, aux: str, seed: int, out: str, device: torch.device) -> dict[str, Any]:
    """The attack fewshot beside its rulers.

    Args:
        options: Name the client; checked by `refuse_mixture`.
        targets, aux: Folders of class folders.
        seed: Of the draws.
        out: Parent folder of the result's.
        device: Where the client computes.

    Returns:
        As `attacks.label.run`.

    Raises:
        ValueError: pictures that lie in no class folders, or classes that the attacker has no images of.
    """
    foreign = ForeignClient(options, targets, aux, device=device)
    asked, own = foreign.pictures["targets"], foreign.pictures["aux"]
    if asked.labels is None or own.labels is None:
        raise ValueError("attacks.label takes the classes from folders: put the pictures of --targets and --aux into one folder a class")
    if not set(asked.labels.tolist()) <= set(own.labels.tolist()):
        raise ValueError("--targets has classes that --aux lacks: the attacker needs images of every class, in folders of the same names")
    path = runs.result_dir(Path(out) / foreign.name, "attacks", "label-fewshot", {**foreign.key, "seed": seed, **HEADLINE}) / "result.json"
    if (done := results.known(path)) is not None:
        return done
    start, truth = time.monotonic(), asked.labels
    result = {
        "kind": "attack", "name": "label-fewshot", "chance": float((torch.bincount(truth).double() / len(truth)).max()),
        "targets": len(truth), "aux": len(own.labels), "needs": ["aux_same" if n == "aux" else n for n in fewshot.NEEDS],
        "options": {"seed": seed, **HEADLINE}, "defence": None, "adaptive": None, **_rows(foreign, asked, own, seed=seed, out=Path(out)),
    }
    result |= counted(result)
    result["verdict"] = verdict(result)
    return results.write(path, result, start=start)


def _rows(foreign: ForeignClient, asked: ImageSet, own: ImageSet, *, seed: int, out: Path) -> dict[str, Any]:
    """Accuracies on the client and on both rulers, and what the result file says of the client."""
    data = (*_images(asked, foreign.device), *_images(own, foreign.device))
    client, before, folder = foreign.victim(foreign.client), foreign.untrained, out / ".rulers"
    key = {**{k: v for k, v in foreign.key.items() if k != "client"}, "options": {"seed": seed, **HEADLINE},
           "network": foreign.mark(before) if before else None}
    with progress(3, "fewshot") as bar:
        rows = fewshot.measured(client, *data, seed=seed)
        bar.advance(accuracy=rows[fewshot.headline(rows)[0]]["accuracy"])
        ruler = [] if before is None else rulers.cached_rows(
            folder, {"attack": "fewshot", **key}, lambda: fewshot.measured(foreign.victim(before), *data, seed=seed))
        bar.advance()
        pixels = rulers.cached_rows(folder, {**key, "attack": "fewshot-pixels", "network": None}, lambda: fewshot.pixels(*data, seed=seed))
        bar.advance()
    return {"rows": rows, "untrained": ruler, "pixels": pixels, **foreign.facts(tuple(client.release(data[0][:1]).shape[1:]))}


def _images(part: ImageSet, device: torch.device) -> tuple[Tensor, Tensor]:
    assert part.labels is not None
    return to_float(part.images.to(device)), part.labels
