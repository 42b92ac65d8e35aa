"""An attack's result as text: the small table with its rulers, the verdict, where the picture is, what to run next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLUMNS = ("mse", "psnr", "ssim", "r2")
_YARDSTICKS = {"grey": "grey 0.5", "mean_colour": "own mean colour (uses the truth)", "nearest_aux": "nearest own image in z",
               "random_decoder": "untrained decoder"}


def name(result: dict[str, Any]) -> str:
    """Attack with preset and budget, e.g. `decoder (strong, standard)`."""
    inside = ", ".join(str(result[k]) for k in ("preset", "budget") if result.get(k))
    return f"{result['name']} ({inside})" if inside else str(result["name"])


def where(result: dict[str, Any]) -> str:
    """Run, step and cut, or the client from elsewhere and its weights."""
    at = result["checkpoint"]
    if at["step"] is None:
        return f"{result['run']}, {at['file'] or 'weights as build makes them'}"
    return f"{result['run']}, step {at['step']}{'' if at['finished'] else ', unfinished'}, cut {result['cut']}"


def show(result: dict[str, Any]) -> str:
    """The lines that a command ends with, all but the last."""
    shape = "x".join(map(str, result["smashed_shape"]))
    seeds = f", {len(result['seeds'])} attacker seeds" if len(result["seeds"]) > 1 else ""
    lines = [
        f"{name(result)} on {where(result)}: {shape} numbers per image",
        f"{result['targets']} targets, {result['aux']} images of the attacker's own{seeds}; needs {', '.join(result['needs'])}",
        *([defended(result)] if result.get("defence") else []),
        "", " " * 34 + "".join(f"{c.upper():>9}" for c in _COLUMNS),
    ]
    if result["name"] == "blind":
        lines.append(_row("blind guess (mean image)", result))
        lines += [_row(text, result["yardsticks"][key]) for key, text in _YARDSTICKS.items()]
    else:
        ends = result["intervals"]["r2"]
        lines.append(f"{_row('this attack', result)}   R2 95 % [{ends[0]:.3f}, {ends[1]:.3f}]")
        if "unaware" in result:
            lines.append(_row("not knowing the defence", result["unaware"]))
        lines.append(_row("blind guess", {c: 0.0 if c == "r2" else result[f"blind_{c}"] for c in _COLUMNS}))
        if result["untrained_mse"] is not None:
            lines.append(_row("untrained client", {c: result[f"untrained_{c}"] for c in _COLUMNS}))
    lines += [*two_views(result), *recognised(result), "", result["verdict"], *(f"Note: {notice}." for notice in notes(result))]
    return "\n".join([*lines, f"picture: {Path(result['path']).with_name('images.png')}"])


def defended(result: dict[str, Any]) -> str:
    """The run's defence, and whether the attacker knows it."""
    options = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in result["defence"].items() if k != "name")
    knows = {True: "; the attacker knows it", False: "; the attacker does not know it", None: ""}[result.get("adaptive")]
    return f"defence: {result['defence']['name']} ({options}){knows}"


def _row(title: str, values: dict[str, Any]) -> str:
    return f"  {title:<32}{values['mse']:9.4f}{values['psnr']:9.2f}{values['ssim']:9.3f}{values['r2']:9.3f}"


def two_views(result: dict[str, Any]) -> list[str]:
    """What the judge of the two-view attack says beside the image; nothing for other attacks."""
    found = result.get("two_views")
    if not found:
        return []
    joint, single, plain = (found[k] for k in ("joint", "one_view", "plain"))

    def row(title: str, values: dict[str, float]) -> str:
        return f"  {title:<46}{values['mse']:9.4f}{values['r2']:9.3f}"

    return ["", f"  {'at the same steps and starts':<46}{'MSE':>9}{'R2':>9}", row("image, from both views (this attack)", joint),
            row("image, from the query view alone", single), row("inside both crops, moved into place: both views", joint["aligned"]),
            row("inside both crops, moved into place: one view", single["aligned"]), row("query view, from both views", joint["view"]),
            row("query view, from it alone", single["view"]), row("query view, as optimise rebuilds it", plain["view"]),
            f"  crops show {found['coverage']:.0%} of the image; where one lies in the other's frame was found with IoU "
            f"{joint['relative_box_iou']:.2f} (median)"]


def recognised(result: dict[str, Any]) -> list[str]:
    """Whose the reconstructions are, and what they show; nothing for results from before these were measured."""
    lines = []
    if found := result.get("identification"):
        lines += ["", f"  {'own target among ' + str(found['gallery']):<34}{'TOP-1':>9}{'95 %':>18}{'TOP-5':>9}{'95 %':>18}"]
        for text, key in (("nearest by pixels", "pixels"), ("nearest by this client's features", "features")):
            lines.append(f"  {text:<34}" + "".join(_rate(found[key][f"top{k}"]) for k in (1, 5)))
        lines.append(f"  {'by chance':<34}{found['chance_top1']:9.4f}{'':18}{found['chance_top5']:9.4f}")
    if found := result.get("classification"):
        lines += ["", f"  {'class seen by the judge':<34}{'RATE':>9}{'95 %':>18}",
                  f"  {'in the reconstructions':<34}{_rate(found['reconstructions'])}",
                  f"  {'in the true targets':<34}{_rate(found['true_targets'])}", f"  {'commonest class':<34}{found['chance']:9.4f}"]
    return lines


def _rate(values: dict[str, float]) -> str:
    return f"{values['rate']:9.4f}  [{values['low']:.3f}, {values['high']:.3f}]"


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader of the numbers should know besides."""
    found = list(result["notices"])
    if result["still_improving"]:
        what = "decoder" if result["name"] in ("decoder", "oracle") else "search"
        found.append(f"the {what} was still improving at its end, so a longer one (--budget paper) may see more")
    if result["name"] == "oracle":
        found.append("this decoder was trained on the clients' own images: a bound for trained decoders of its size, not an attacker")
    if result["name"] == "optimise":
        if any(s["tv_at_edge"] for s in result["per_seed"]):
            found.append("the best weight of the total variation is the largest that was tried: set a larger --optimise.tv")
        arrived = sum(s["arrived"] for s in result["per_seed"]) / len(result["per_seed"])
        found.append(f"the search came within 1 % of the smashed data (squared) for {arrived:.0%} of the targets; where it did not, a high "
                     "error says that it did not arrive, not that the image is safe")
    if result.get("adaptive") is False:
        found.append("this attacker does not know the defence; whoever trains through it (--attacker adaptive) may see more")
    if result["name"] == "unsplit" and result["per_seed"][0]["l2"] > 0:
        found.append("the published prior of this attack (--unsplit.l2) draws images towards black: structure says more than the error")
    if result["name"] == "twoview":
        found.append("where the whole lies and whether it is mirrored cannot be known from views; the rows moved into place leave that out")
        if any(s["momentum"] == "guess" for s in result["per_seed"]):
            found.append("the momentum client is a guess: the average of the averaged clients that the server has seen")
    if result["name"] == "ridge" and result["per_seed"][0]["lambda_at_edge"]:
        found.append("the best penalty is at the edge of the grid")
    if result["dataset"] == "digits":
        found.append("digits only show that everything works; conclusions need real images")
    return found


def suggest(result: dict[str, Any], client: str | None) -> str:
    """The last line: what to run next on the same client, which `client` names in the words of the command."""
    words = client or f"--checkpoint {Path(result['path']).parents[2]}"
    stronger = {"blind": "--method ridge", "ridge": "--method decoder"}.get(result["name"])
    if stronger is None and result["preset"] == "published":
        stronger = "--preset strong"
    if stronger is None and result["checkpoint"]["step"] is None:
        stronger = "--budget paper" if result["name"] == "optimise" else "--method optimise"
    return f"next: python -m {f'attacks.invert {words} {stronger}' if stronger else f'probes.linear {words}'}"
