"""The two rulers of every accuracy, raw pixels and an untrained network, and what is said of a run beside them.

A ruler does not depend on the run, so it is computed once for all runs in a folder and kept in `<runs>/.rulers/`; of several processes that
want it at once, one computes it and the others wait.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from probes.statistics import Rate
from ssl_split.config import RESULTS_VERSION, Config
from ssl_split.files import read_json, write_json
from ssl_split.locks import once

NAMES = {"raw_pixels": "raw pixels", "untrained": "the untrained network"}
"""Key in result files -> name in a sentence."""


def cached(folder: Path, key: Mapping[str, Any], compute: Callable[[], Rate]) -> Rate:
    """The ruler with this key: read if it was computed before, else computed and kept.

    Args:
        folder: Where rulers are kept; made when needed.
        key: Everything that changes the number, plain values.
        compute: Called when there is no such ruler, or its file is damaged.
    """
    full = {"results_version": RESULTS_VERSION, **key}
    text = json.dumps(full, sort_keys=True)
    path = folder / f"{key['probe']}-{key['ruler']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"

    def known() -> Rate | None:
        if not path.is_file():
            return None
        try:
            held = read_json(path)
            return Rate(held["correct"], held["total"]) if held["key"] == json.loads(text) else None
        except (ValueError, KeyError, TypeError):
            return None  # a damaged file costs a computation, not the probe

    def make() -> Rate:
        found = compute()
        write_json(path, {"key": full, "correct": found.correct, "total": found.total, **found.to_dict()})
        return found

    return once(path, known, make)


def network_key(config: Config, untrained: nn.Module, *, at_cut: bool) -> dict[str, Any]:
    """What identifies an untrained network.

    Args:
        config: Of the run.
        untrained: The network at its initial weights; their digest stands for seed, widths and code.
        at_cut: Whether the number depends on the cut: true of smashed data, and behind a defence. Elsewhere the initial network is the
            same function at every cut, unless a bottleneck is at it.
    """
    digest = hashlib.sha256()
    for name, tensor in untrained.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    source = config.arch.rpartition(":")[0]
    code = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source and Path(source).is_file() else None
    return {
        "arch": config.arch, "code": code, "width": config.width, "norm": config.norm, "stem": config.stem, "seed": config.seed,
        "weights": digest.hexdigest(), "bottleneck": [config.bottleneck.channels, config.bottleneck.stride],
        "cut": config.cut if at_cut or config.bottleneck.channels else None,
    }


def title(key: str, ruler: Mapping[str, Any]) -> str:
    """Name of a ruler in a sentence: its own, where `raw_pixels` stands for something else (sentences have a bag of words)."""
    return str(ruler.get("title", NAMES[key]))


def verdict(run: Mapping[str, float], rulers: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: where the run stands beside its rulers.

    Args:
        run: accuracy, low, high.
        rulers: The same under the keys of `NAMES`.

    Returns:
        "clearly" is said only where the 95 % intervals do not overlap.
    """
    groups: dict[str, list[str]] = {}
    for key, ruler in rulers.items():
        if run["low"] > ruler["high"]:
            relation = "clearly better than {}"
        elif run["high"] < ruler["low"]:
            relation = "clearly worse than {}"
        elif run["accuracy"] > ruler["accuracy"]:
            relation = "above {} with overlapping 95 % intervals"
        else:
            relation = "not better than {}"
        groups.setdefault(relation, []).append(f"{title(key, ruler)} ({ruler['accuracy']:.3f})")
    contrast = len({relation.startswith(("clearly better", "above")) for relation in groups}) > 1
    said = (", but " if contrast else ", and ").join(relation.format(" and ".join(names)) for relation, names in groups.items())
    return f"This run ({run['accuracy']:.3f}) is {said}."
