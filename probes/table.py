"""What a probe prints: a small table, a sentence, and what to run next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probes import rulers
from probes.bench import Common


def show(result: dict[str, Any]) -> str:
    """The small table of one result and what it means."""
    at = result["checkpoint"]
    seen = result["features"]
    if "features_shape" in result:
        shapes = ["x".join(map(str, result[k])) for k in ("features_shape", "smashed_shape")]
        seen += f" ({shapes[0]})" if shapes[0] == shapes[1] else f" ({shapes[0]}, averaged from {shapes[1]})"
    title = result["title"]
    rows = [("this run", result)] + [(rulers.title(key, result[key]).removeprefix('the '), result[key]) for key in rulers.NAMES]
    state = "" if at["finished"] else ", unfinished"
    lines = [f"{title} on {seen} features of {result['run']}, step {at['step']}{state}", ""]
    lines += [f"  {name:<18} {row['accuracy']:.3f}   95 % [{row['low']:.3f}, {row['high']:.3f}]" for name, row in rows]
    lines += ["", f"Accuracy on {result['test_images']} test images of {result['dataset']}. {result['verdict']}"]
    if seen.startswith("smashed"):
        lines.append("On smashed data a high accuracy is leakage: the server can read the classes from what clients send.")
    if result["dataset"] == "digits":
        lines.append("Digits only show that everything works; conclusions need real images.")
    return "\n".join([*lines, f"result: {result['path']}"])


def suggest(result: dict[str, Any], options: Common, words: str) -> str:
    """The last line of a probe: what to run next on the same checkpoint."""
    target = options.checkpoint or Path(result["path"]).parents[2]
    if result["dataset"] == "tsv":  # attacks rebuild images
        words = "probes.knn --features smashed --checkpoint {}"
    return f"next: python -m {words.format(target)}"
