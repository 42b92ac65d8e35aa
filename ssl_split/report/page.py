"""The report as HTML (one file, no network) and as Markdown, from the same study."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ssl_split.report import cite, leaks, published, text, verdicts
from ssl_split.report.advice import advise
from ssl_split.report.collect import Outcome, Run
from ssl_split.report.columns import ATTACK, COSTS, TARGET, columns, parts
from ssl_split.report.compare import Comparison
from ssl_split.report.draw import Drawing
from ssl_split.report.flags import flags
from ssl_split.report.paper import NEAREST, Text
from ssl_split.report.payload import pack, packed, payload
from ssl_split.report.sprites import Sprite, sprite
from ssl_split.report.summaries import Value
from ssl_split.report.table import MONITORS, Group, Study

TEMPLATES, STATIC = Path(__file__).parent / "templates", Path(__file__).parent / "static"
LIBRARY = "plot.min.js"
SCRIPTS = ("base.js", "filters.js", "decide.js", "tradeoff.js", "charts.js", "curves.js", "tables.js", "pictures.js", "main.js")

IMAGES = 8
"""Reconstructed images per run in the page."""


@dataclass(frozen=True)
class Picture:
    """The strongest attack's reconstructions of one group, for `report.md`."""

    group: Group
    run: Run
    outcome: Outcome
    link: str


def anchor(group: Group, value: Value) -> str:
    """Where a number leads: to its run, or to the list of its runs."""
    return value.parts[0][0] if len(value.parts) == 1 else group.anchor


def targets(study: Study) -> list[float]:
    """The target accuracies that were set, lowest first."""
    return sorted({float(t) for run in study.runs if isinstance(t := run.config.get("target_accuracy"), int | float)})


def pictures(study: Study, out: Path) -> list[Picture]:
    """The strongest attack's picture at every group, of the first seed that has one."""
    found = []
    for group in study.groups:
        for run, outcome in group.strongest:
            file = outcome.directory / "images.png"
            if file.is_file() and file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n":
                found.append(Picture(group, run, outcome, quote(Path(os.path.relpath(file, out)).as_posix())))
                break
    return found


def sprites(study: Study, images: int) -> dict[str, Sprite]:
    """Pictures of every run that was attacked, by its anchor."""
    made = {run.anchor: sprite(run, images) for run in study.runs} if images else {}
    return {anchor: found for anchor, found in made.items() if found is not None}


def markdown(value: object) -> str:
    """Text that cannot become markup in Markdown, nor leave its table cell."""
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|<>~$])", r"\\\1", " ".join(str(value).split()))
    return escaped.replace("&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;")


def code(value: object) -> str:
    """Text for a code span in Markdown."""
    return "`" + " ".join(str(value).split()).replace("`", "'").replace("|", "\\|") + "`"


def context(study: Study, drawings: list[Drawing], out: Path, comparison: Comparison | None = None) -> dict[str, Any]:
    """What both templates are given.

    Args:
        study: What was measured.
        drawings: Figures in `figures/`.
        out: Where the files will be.
        comparison: With another study, shown in a section of its own.
    """
    shown, costs = columns(study), columns(study, COSTS)
    exceptions = [(g, said) for g in study.groups if (said := verdicts.verdict(g))]
    return {
        "study": study, "groups": study.groups, "runs": study.runs, "columns": shown, "parts": parts(shown), "drawings": drawings,
        "costs": costs, "cost_parts": parts(costs), "targets": targets(study), "target_part": TARGET,
        "comparison": comparison, "published": published.nearest(published.beside(study), NEAREST), "methods": cite.methods(study),
        "advice": advise(study.groups), "matrix": leaks.matrix(study), "sentences": verdicts.sentences(study), "exceptions": exceptions,
        "flags": [*flags(study), *(comparison.flags if comparison else ())],
        "pictures": pictures(study, out),
        "problems": [g for g in study.groups if g.problems], "attack_column": next((c.key for c in shown if c.part == ATTACK), None),
        "settings": any(g.setting for g in study.groups), "monitor": study.accuracy in MONITORS.values(), "anchor": anchor,
        "write": text.FORMATS, "spread": text.spread, "took": text.seconds,
        "memberships": leaks.memberships(study), "labels": leaks.labels(study),
        "inversions": [o.label for run in study.runs for o in run.of("attack") if o.number("mse") is not None],
        "score": text.score, "ratio": text.ratio, "percent": text.percent,
        "place": lambda path: Path(os.path.relpath(path, out)).as_posix(),
        "again": "python -m ssl_split.report " + shlex.quote(str(study.collection.directory)),
    }


def html(shown: Mapping[str, Any], study: Study, out: Path, *, images: int = IMAGES, texts: Sequence[Text] = ()) -> str:
    """The page. Every text is escaped; the data of the scripts are packed, and nothing runs that is not named by its hash in the page's
    content security policy, which also forbids every request.

    Args:
        shown: What `context` made of the study.
        study: What was measured.
        out: Where the page will be.
        images: Reconstructed images per run.
        texts: For a paper.
    """
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)
    made.filters.update(percent=text.percent)
    found = sprites(study, images)
    library, app = (STATIC / LIBRARY).read_text(encoding="utf-8"), "".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)
    body = {**payload(study, out), "columns": [vars(c) for c in columns(study) + columns(study, COSTS)],
            "paper": [vars(one) for one in texts],
            "sprites": {a: {"rows": s.rows, "images": s.images, "size": s.size, "originals": s.originals} for a, s in found.items()}}
    scripts = {
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")), "app": Markup(app), "data": packed(body),
        "library": pack(library.encode("utf-8")), "sprites": found, "hashes": [_hash(app), _hash(library)],
    }
    return made.get_template("page.html.j2").render({**shown, **scripts})


def _hash(script: str) -> str:
    """As a content security policy names a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}"


def as_markdown(shown: Mapping[str, Any]) -> str:
    """The Markdown file of what `context` made of a study; texts go through the filters `md` and `code`."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)
    made.filters.update(md=markdown, code=code, percent=text.percent)
    return made.get_template("report.md.j2").render(shown)
