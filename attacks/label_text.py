"""What the label attacks found, as a sentence and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attacks.fewshot import headline
from attacks.show import defended as defence_line
from attacks.show import where

HEADLINE = {"headline": "own images"}
"""Option in a result's name: older results have the way that was best on the targets themselves."""
OWN, ENVELOPE = "the attacker's own images", "the targets: an upper envelope"


def counted(result: Mapping[str, Any]) -> dict[str, Any]:
    """Which row of a result is its headline and how it was chosen, and what its rulers tell: of the same ways, chosen in the same manner.

    Returns:
        `headline`, `headline_from`, `untrained_accuracy`, `pixels_accuracy` (None: not made); nothing for attacks of one way.
    """
    if result["name"] not in ("label-fewshot", "label-completion"):
        return {}
    place, fair = headline(result["rows"])
    if result["name"] == "label-completion":  # the ruler has learnt from as many labels
        shots = result["rows"][place]["shots"]
        before = next((row["accuracy"] for row in result["untrained"] if row["shots"] == shots), None)
    else:
        before = _told(result["untrained"])
    return {"headline": place, "headline_from": OWN if fair else ENVELOPE, "untrained_accuracy": before,
            "pixels_accuracy": _told(result.get("pixels"))}


def _told(rows: Sequence[Mapping[str, Any]] | None) -> float | None:
    return float(rows[headline(rows)[0]]["accuracy"]) if rows else None


def verdict(result: dict[str, Any]) -> str:
    """One sentence: the guesses that count beside their rulers; where they are an upper envelope, another one that says so."""
    said = {"label-fewshot": _fewshot, "label-completion": _completion}.get(result["name"], _returned)(result)
    if result.get("headline_from") == ENVELOPE:
        said += (f" This is an upper envelope: the best of {len(result['rows'])} ways on the targets themselves, which the interval does "
                 "not count.")
    return said


def _fewshot(result: dict[str, Any]) -> str:
    """One sentence: the guesses that count beside chance, raw pixels and the untrained client."""
    best, pixels = result["rows"][result["headline"]], result["pixels_accuracy"]
    said = f"{best['accuracy']:.0%} of the labels [{best['low']:.0%}, {best['high']:.0%}] ({_way(best)})"
    if best["low"] <= result["chance"]:
        return f"No better than naming the commonest class: {said}, {result['chance']:.0%}."
    relation = "more than raw pixels do" if best["low"] > pixels else "less than raw pixels do" if best["high"] < pixels else \
        "about as much as raw pixels do"
    before = f"an untrained client's tell {result['untrained_accuracy']:.0%}, " if result["untrained"] else ""
    return f"The smashed data tell {said}, {relation} ({pixels:.0%}); {before}naming the commonest class {result['chance']:.0%}."


def _way(row: Mapping[str, Any]) -> str:
    how = "neighbours" if row["classifier"] == "neighbours" else "all images" if row["shots"] is None else f"{row['shots']} a class"
    return f"{row['features']}, {how}"


def _completion(result: dict[str, Any]) -> str:
    best = result["rows"][result["headline"]]
    said = (f"{best['accuracy']:.0%} of the labels [{best['low']:.0%}, {best['high']:.0%}] with {best['labels_used']} labels of the "
            "attacker's own")
    if best["low"] <= result["chance"]:
        return f"No better than naming the commonest class ({result['chance']:.0%}): the completed model tells {said}."
    return (f"The completed model tells {said}; completed from the untrained client, {result['untrained_accuracy']:.0%}, naming the "
            f"commonest class {result['chance']:.0%}.")


def _returned(result: dict[str, Any]) -> str:
    mean, before = result["rows"][-1], result["untrained"][-1]
    classes = [row for row in result["rows"] if row["class"] is not None]
    telling = [row for row in classes if row["low"] > 0.5 or row["high"] < 0.5]
    by_norm = result["name"] == "label-norm"
    what = "norm of the returned gradient" if by_norm else "direction of the returned gradient beside one known image's"
    if not telling:
        return f"The {what} tells no class from the rest: every 95 % interval of the AUC holds 0.5 (mean AUC {mean['auc']:.2f})."
    best = max(telling, key=lambda row: abs(row["auc"] - 0.5))
    return (f"The {what} tells {len(telling)} of {len(classes)} classes from the rest, class {best['class']} best (AUC "
            f"{best['auc']:.2f} [{best['low']:.2f}, {best['high']:.2f}]); mean AUC {mean['auc']:.2f}, of an untrained network "
            f"{before['auc']:.2f}, chance 0.50.")


def show(result: dict[str, Any]) -> str:
    """The lines that the command ends with."""
    own = "" if result["aux"] is None else f", {result['aux']} labelled images of the attacker's own"
    rows = {"label-fewshot": _fewshot_rows, "label-completion": _completion_rows}.get(result["name"], _returned_rows)
    lines = [f"{result['name'].removeprefix('label-')} on {where(result)}",
             f"{result['targets']} targets{own}; needs {', '.join(result['needs'])}",
             *([defence_line(result)] if result.get("defence") else []), "", *rows(result), "", result["verdict"]]
    return "\n".join([*lines, *(f"Note: {notice}." for notice in result["notices"]), f"result: {Path(result['path'])}"])


def _fewshot_rows(result: dict[str, Any]) -> list[str]:
    lines = [f"  {'accuracy':<26}{'this client':>22}{'untrained' if result['untrained'] else '':>12}"]
    before = {_way(row): row["accuracy"] for row in result["untrained"]}
    for i, row in enumerate(result["rows"]):
        way = _way(row)
        ruler = f"{before[way]:>10.3f}" if way in before else ""
        lines.append(f"{_mark(i, result)}{way:<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{ruler}")
    if result.get("unaware"):
        best = result["unaware"][headline(result["unaware"])[0]]
        lines.append(f"  {'not knowing the defence':<26}{best['accuracy']:>8.3f} [{best['low']:.3f}, {best['high']:.3f}]  ({_way(best)})")
    lines += [f"  {_way(row):<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in result["pixels"]]
    return [*lines, f"  {'commonest class':<26}{result['chance']:>8.3f}", _marked(result)]


def _mark(place: int, result: Mapping[str, Any]) -> str:
    return "> " if place == result["headline"] else "  "


def _marked(result: Mapping[str, Any]) -> str:
    how = "chosen on the attacker's own images" if result["headline_from"] == OWN else "the best on the targets: an upper envelope"
    return f"  > {how}"


def _completion_rows(result: dict[str, Any]) -> list[str]:
    lines = [f"  {'accuracy':<26}{'this client':>22}{'untrained':>12}"]
    before = {row["shots"]: row["accuracy"] for row in result["untrained"]}
    for i, row in enumerate(result["rows"]):
        lines.append(f"{_mark(i, result)}{row['shots']} a class, {row['labels_used']} labels".ljust(28)
                     + f"{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{before[row['shots']]:>10.3f}")
    return [*lines, f"  {'commonest class':<26}{result['chance']:>8.3f}", _marked(result)]


def _returned_rows(result: dict[str, Any]) -> list[str]:
    lines = [f"  {'AUC, class against rest':<26}{'this network':>22}{'untrained':>12}"]
    for row, before in zip(result["rows"], result["untrained"], strict=True):
        name = "mean" if row["class"] is None else f"class {row['class']}"
        lines.append(f"  {name:<26}{row['auc']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{before['auc']:>10.3f}")
    return [*lines, f"  {'chance':<26}{0.5:>8.3f}"]
