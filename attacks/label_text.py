"""What the label attacks found, as a sentence and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attacks.show import defended as defence_line
from attacks.show import where


def verdict(result: dict[str, Any]) -> str:
    """One sentence: the best guesses beside their rulers."""
    if result["name"] == "label-fewshot":
        return _fewshot(result)
    return _completion(result) if result["name"] == "label-completion" else _returned(result)


def _fewshot(result: dict[str, Any]) -> str:
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


def _completion(result: dict[str, Any]) -> str:
    best = max(result["rows"], key=lambda row: row["accuracy"])
    before = {row["shots"]: row["accuracy"] for row in result["untrained"]}
    said = (f"{best['accuracy']:.0%} of the labels [{best['low']:.0%}, {best['high']:.0%}] with {best['labels_used']} labels of the "
            "attacker's own")
    if best["low"] <= result["chance"]:
        return f"No better than naming the commonest class ({result['chance']:.0%}): the completed model tells {said}."
    return (f"The completed model tells {said}; completed from the untrained client, {before[best['shots']]:.0%}, naming the commonest "
            f"class {result['chance']:.0%}.")


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
    for row in result["rows"]:
        way = _way(row)
        ruler = f"{before[way]:>10.3f}" if way in before else ""
        lines.append(f"  {way:<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{ruler}")
    if result.get("unaware"):
        best = max(result["unaware"], key=lambda row: row["accuracy"])
        lines.append(f"  {'not knowing the defence':<26}{best['accuracy']:>8.3f} [{best['low']:.3f}, {best['high']:.3f}]  (best: "
                     f"{_way(best)})")
    lines += [f"  {_way(row):<26}{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in result["pixels"]]
    return [*lines, f"  {'commonest class':<26}{result['chance']:>8.3f}"]


def _completion_rows(result: dict[str, Any]) -> list[str]:
    lines = [f"  {'accuracy':<26}{'this client':>22}{'untrained':>12}"]
    before = {row["shots"]: row["accuracy"] for row in result["untrained"]}
    for row in result["rows"]:
        lines.append(f"  {row['shots']} a class, {row['labels_used']} labels".ljust(28)
                     + f"{row['accuracy']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{before[row['shots']]:>10.3f}")
    return [*lines, f"  {'commonest class':<26}{result['chance']:>8.3f}"]


def _returned_rows(result: dict[str, Any]) -> list[str]:
    lines = [f"  {'AUC, class against rest':<26}{'this network':>22}{'untrained':>12}"]
    for row, before in zip(result["rows"], result["untrained"], strict=True):
        name = "mean" if row["class"] is None else f"class {row['class']}"
        lines.append(f"  {name:<26}{row['auc']:>8.3f} [{row['low']:.3f}, {row['high']:.3f}]{before['auc']:>10.3f}")
    return [*lines, f"  {'chance':<26}{0.5:>8.3f}"]
