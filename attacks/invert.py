"""Inversion: rebuild the clients' images from the smashed data that crosses the wire.

Every number stands beside two rulers on the same images: the best blind guess (the mean of the attacker's own images) and the same
attack on the untrained client. R2 = 1 - MSE / MSE of the blind guess: 0 knows nothing, 1 is perfect.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from attacks import judge, picture, results, sources
from attacks.api import PUBLISHED
from attacks.case import Case, Options
from attacks.elsewhere import Foreign, ForeignCase, refuse_mixture
from attacks.methods import METHODS, table
from attacks.reconstruct import Inversion, judged, reconstruct
from attacks.show import name, show, suggest, where
from ssl_split import allocator, fields, precision
from ssl_split.files import write_tensors
from ssl_split.training import pick_device

__all__ = ["Case", "Options", "main", "reconstruct", "run"]

SHOWN = 12
"""Targets in the picture."""


def run(options: Options) -> dict[str, Any]:
    """Attack a checkpoint beside its rulers.

    Returns:
        The contents of `result.json`, and the path of that file under `path`. A result that exists is read, not computed again.
    """
    case = _case(options)
    path = case.directory / "result.json"
    if (done := results.known(path)) is not None:
        return done
    start = time.monotonic()
    slow = precision.advice(case.options.precision, case.targets.device)
    for notice in (*case.notices, *([slow] if slow else [])):
        print(f"note: {notice}", file=sys.stderr)
    inversion = judged(case.attacked(), case.targets, own=case.own, options=case.options, untrained=case.untrained, gallery=case.gallery,
                       aux_kind=case.aux_kind if isinstance(case, Case) else "aux_same")
    result = _facts(case, inversion)
    _pictures(case, inversion, result)
    return results.write(path, result, start=start)


def _case(options: Options) -> Case | ForeignCase:
    """A run's checkpoint, or a client from elsewhere."""
    if options.encoder is None:
        return Case(options)
    if options.wire:
        raise ValueError("--wire is what a run has sent, and --encoder names a client from elsewhere: give one of them")
    checked = fields.build(Options, fields.to_dict(options))
    sources.refuse_elsewhere(checked)
    refuse_mixture(checked, "attacks.invert")
    return ForeignCase(checked, checked.identity(METHODS[checked.method].options), device=pick_device(checked.device))


def _facts(case: Case | ForeignCase, inversion: Inversion) -> dict[str, Any]:
    """The result file but for time and place."""
    options = case.options
    has_preset = "preset" in METHODS[options.method].options
    published = options.method in ("decoder", "oracle") and options.preset in PUBLISHED  # trains for epochs
    by_budget = not published and "budget" in METHODS[options.method].options
    return {
        "kind": "attack", "name": options.method, "preset": options.preset if has_preset else None,
        "budget": options.budget if by_budget else None, **inversion.result, **case.facts(),
    }


def _pictures(case: Case | ForeignCase, inversion: Inversion, result: dict[str, Any]) -> None:
    """`images.png` of the first targets, and every reconstruction of the first seed as a tensor."""
    count = min(SHOWN, len(case.targets))
    found = inversion.images[0]
    captions = tuple(f"SSIM {s:.2f}" for s in judge.score(found[:count], case.targets[:count]).ssim)
    seeds = f"\nfirst of {len(inversion.images)} seeds" if len(inversion.images) > 1 else ""
    rows = [
        picture.Row("original", case.targets[:count]),
        picture.Row(f"reconstruction{seeds}", found[:count], captions),
        picture.Row("blind guess\nmean of own images", inversion.blind.expand_as(found[:count])),
    ]
    title = f"{name(result)} on {where(result)}"
    picture.save(picture.draw(rows, title=title, subtitle=inversion.verdict), case.directory / "images.png")
    tensors = {"targets": case.pixels, "reconstructions": found.half(), "blind": inversion.blind.half()}
    write_tensors(case.directory / "reconstructions.safetensors", tensors, {"verdict": inversion.verdict})


def _client_words(options: Options) -> str | None:
    """The words of the command that name the client; None for the newest run."""
    if options.encoder is None:
        return None if options.checkpoint is None else f"--checkpoint {options.checkpoint}"
    given = fields.to_dict(options)
    names = [f.name for f in dataclasses.fields(Foreign)] + ["targets", "aux", "out"]
    texts = {n: " ".join(map(str, v)) if isinstance(v, list) else str(v) for n in names if (v := given[n]) not in (None, "runs")}
    return " ".join(f"--{n.replace('_', '-')} {text}" for n, text in texts.items())


def main(argv: Sequence[str]) -> None:
    """`python -m attacks.invert`."""
    words = list(argv)
    for i, word in enumerate(words):  # without a value: the newest finished run, as if the flag were absent
        if word == "--checkpoint" and (i + 1 == len(words) or words[i + 1].startswith("--")):
            del words[i]
            break
    options = fields.parse(Options, words, "python -m attacks.invert", __doc__ or "", epilog=(
        f"{table()}\n\n"
        "examples:\n"
        "  python -m attacks.invert --checkpoint runs/RUN                                # decoder, three seeds\n"
        "  python -m attacks.invert --checkpoint runs/RUN --method ridge                 # seconds\n"
        "  python -m attacks.invert --checkpoint runs/RUN --budget quick --aux 500       # a weaker attacker, sooner\n"
        "  python -m attacks.invert --checkpoint runs/RUN --preset published             # as ResSFL and MocoSFL attack\n"
        "  python -m attacks.invert --checkpoint runs/RUN --method optimise              # with the client's weights\n"
        "  python -m attacks.invert --checkpoint runs/RUN --unaware                      # also who does not know the run's defence\n"
        "  python -m attacks.invert --checkpoint runs/RUN --wire                         # what the run really sent (train --record-wire)\n"
        "  python -m attacks.invert --checkpoint runs/RUN --target-views                 # random views of the targets, as in training\n"
        "  python -m attacks.invert --checkpoint runs/RUN --aux-clients 0 1              # with images of clients that collude\n"
        "  python -m attacks.invert --checkpoint runs/RUN --aux-dataset photos           # with images of another data set\n"
        "  python -m attacks.invert --checkpoint runs/RUN --method oracle                # bound: trained on the clients' own images\n"
        "  python -m attacks.invert --encoder client.py:build --weights client.safetensors --targets DIR --aux DIR   # any client\n\n"
        "writes RUN/attacks/METHOD-HASH/result.json, images.png and reconstructions.safetensors; a result that exists is printed, not\n"
        "computed again"))
    allocator.keep_freed_memory()
    result = run(options)
    print(show(result))
    print(suggest(result, _client_words(options)))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
