"""The report's tables in LaTeX, to be pasted into a paper that loads booktabs and graphicx; what is too wide is made to fit.

What a table shows comes from `table`, `leaks` and the columns that the caller passes in; this file only sets it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssl_split.report import text
from ssl_split.report.collect import Outcome, Run
from ssl_split.report.columns import Column
from ssl_split.report.compare import Comparison
from ssl_split.report.leaks import Column as Attack
from ssl_split.report.leaks import Finding
from ssl_split.report.published import Row
from ssl_split.report.summaries import Value, interval
from ssl_split.report.table import Group, Study

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\symbol{34}", "`": r"\textasciigrave{}", "–": "--", "—": "---", "±": r"$\pm$", "−": "$-$", "×": r"$\times$",
    "[": "{[}", "]": "{]}", "²": r"\textsuperscript{2}",
}
"""Every character with a meaning of its own in LaTeX; square brackets too, since one after `\\\\` would be its argument."""


WIDE = 8
"""Columns above which a table spans both columns of a paper."""

WRAPPED = "p{80mm}"
"""A column of sentences, which are broken into lines."""

FIT = r"\resizebox{\ifdim\width>\linewidth \linewidth\else\width\fi}{!}{%"
"""Makes what follows, up to a closing brace, narrower where it does not fit."""


@dataclass(frozen=True)
class Head:
    """A heading of a table, text that is not escaped yet.

    Attributes:
        name: Over one column.
        part: Over this column and its neighbours of the same part; empty for none.
        align: `l` for words, `r` for numbers, `WRAPPED` for many words.
    """

    name: str
    part: str = ""
    align: str = "l"


def escape(value: object) -> str:
    """Any text as LaTeX that prints it on one line: nothing in it can be a command; control characters are left out."""
    return "".join(SPECIAL.get(letter, letter) for letter in re.sub(r"\s+", " ", str(value)) if letter.isprintable())


def name(label: str) -> str:
    """Text that can stand in `\\label`."""
    return re.sub(r"[^A-Za-z0-9:.-]+", "-", label).strip("-") or "table"


def tabular(heads: Sequence[Head], rows: Sequence[Sequence[str]], *, caption: str, label: str) -> str:
    """A table with rules of booktabs.

    Args:
        heads: One a column.
        rows: Cells as text, which is escaped here.
        caption: Text, escaped here.
        label: Of `\\label`.

    Returns:
        A `table` environment; a row of parts stands over the headings where there are any. With more than `WIDE` columns it spans both
        columns of the paper.

    Raises:
        ValueError: a row with another number of cells than there are columns.
    """
    if wrong := next((row for row in rows if len(row) != len(heads)), None):
        raise ValueError(f"a row of the table {label!r} has {len(wrong)} cells and not {len(heads)}")
    kind = "table*" if len(heads) > WIDE else "table"
    lines = [f"\\begin{{{kind}}}", "\\centering", f"\\caption{{{escape(caption)}}}", f"\\label{{{name(label)}}}", FIT,
             f"\\begin{{tabular}}{{{''.join(h.align for h in heads)}}}", "\\toprule"]
    lines += _parts(heads)
    lines += [_row([h.name for h in heads]), "\\midrule", *map(_row, rows), "\\bottomrule", "\\end{tabular}}", f"\\end{{{kind}}}"]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def _parts(heads: Sequence[Head]) -> list[str]:
    if not any(h.part for h in heads):
        return []
    cells, rules, at = [], [], 0
    while at < len(heads):
        span = next((n for n in range(1, len(heads) - at) if heads[at + n].part != heads[at].part), len(heads) - at)
        part = heads[at].part
        cells.append(f"\\multicolumn{{{span}}}{{c}}{{{escape(part)}}}" if part else " & ".join([""] * span))
        rules += [f"\\cmidrule(lr){{{at + 1}-{at + span}}}"] if part else []
        at += span
    return [" & ".join(cells) + r" \\", "".join(rules)]


def written(value: Value | None, style: str) -> str:
    """A number with standard deviation and interval, or a dash."""
    return text.NOTHING if value is None else " ".join([text.FORMATS[style](value.mean), *text.spread(value, style)])


def table(study: Study, columns: Sequence[Column], *, caption: str, label: str, groups: Sequence[Group] | None = None) -> str:
    """The main table, that of costs, or the Pareto front: one row a group, in the order of the page.

    Args:
        study: What is shown.
        columns: Those of `columns` for which there are numbers.
        caption, label: Of the table.
        groups: Its rows; None for all settings.
    """
    heads = [*_of_group(study), *(Head(c.head, c.part, "r") for c in columns), Head("n", align="r")]
    rows = [[*_group(study, g), *(written(g.values.get(c.key), c.style) for c in columns), _seeds(g)]
            for g in (study.groups if groups is None else groups)]
    return tabular(heads, rows, caption=caption, label=label)


def _of_group(study: Study) -> list[Head]:
    return [Head("algorithm"), Head("cut", align="r"), *([Head("setting")] if any(g.setting for g in study.groups) else [])]


def _group(study: Study, group: Group) -> list[str]:
    return [group.algorithm, str(group.cut), *([group.setting] if any(g.setting for g in study.groups) else [])]


def _seeds(group: Group) -> str:
    return str(max((v.n for v in group.values.values()), default=0))


def _with(value: float | None, low: float | None, high: float | None, write: Callable[[float | None], str]) -> str:
    between = f" [{write(low)}, {write(high)}]".replace(" %", "") if low is not None and high is not None else ""
    return write(value) + (between if value is not None else "")


def _scored(outcome: Outcome, key: str, write: Callable[[float | None], str]) -> str:
    low, high = interval(outcome.values, key) or (None, None)
    return _with(outcome.number(key), low, high, write)


def _every(study: Study, kind: str) -> list[tuple[Group, Run, Outcome]]:
    return [(g, run, o) for g in study.groups for run in g.runs for o in run.of(kind)]


def probes(study: Study, *, caption: str, label: str) -> str | None:
    """Every probe of every run beside its rulers, with the interval over images; None without probes."""
    heads = [*_of_group(study), Head("seed", align="r"), Head("probe"), Head("accuracy", align="r"), Head("raw pixels", align="r"),
             Head("untrained", align="r")]
    rows = [[*_group(study, g), str(run.seed), o.label, _with(o.number("accuracy"), o.number("low"), o.number("high"), text.percent),
             text.percent(o.number("raw_pixels", "accuracy")), text.percent(o.number("untrained", "accuracy"))]
            for g, run, o in _every(study, "probe") if o.number("accuracy") is not None]
    return tabular(heads, rows, caption=caption, label=label) if rows else None


def inversions(study: Study, *, caption: str, label: str) -> str | None:
    """Every attack that rebuilds images, with bootstrap intervals and rulers; None without any."""
    heads = [*_of_group(study), Head("seed", align="r"), Head("attack"), *(Head(h, align="r") for h in (
        "R2", "MSE", "blind", "untrained", "SSIM"))]
    rows = []
    for g, run, o in _every(study, "attack"):
        if o.number("mse") is not None:
            scores = {k: _scored(o, k, text.score if k == "mse" else text.ratio) for k in ("r2", "mse", "ssim")}
            rows.append([*_group(study, g), str(run.seed), o.label, scores["r2"], scores["mse"], text.score(o.number("blind_mse")),
                         text.score(o.number("untrained_mse")), scores["ssim"]])
    return tabular(heads, rows, caption=caption, label=label) if rows else None


def findings(study: Study, found: Sequence[Finding], *, caption: str, label: str) -> str | None:
    """Membership or label attacks (`leaks.memberships`, `leaks.labels`) beside chance and rulers; None without any."""
    rulers = list(dict.fromkeys(name for f in found for name in f.rulers))
    heads = [*_of_group(study), Head("seed", align="r"), Head("attack"), Head("how"), Head("measure"), Head("value", align="r"),
             Head("chance", align="r"), *(Head(r, align="r") for r in rulers)]
    rows = [[*_group(study, f.group), str(f.run.seed), f.outcome.label, f.way, f.measure, _with(f.value, f.low, f.high, text.ratio),
             text.ratio(f.chance), *(text.ratio(f.rulers.get(r)) for r in rulers)] for f in found]
    return tabular(heads, rows, caption=caption, label=label) if rows else None


def matrix(study: Study, attacks: Sequence[Attack], *, caption: str, label: str) -> str | None:
    """Every attack (`leaks.matrix`) on every setting, means over seeds; None without any."""
    heads = [*_of_group(study), *(Head(a.head, align="r") for a in attacks)]
    rows = [[*_group(study, g), *(text.ratio(a.cells[g.anchor].value.mean) if g.anchor in a.cells else text.NOTHING for a in attacks)]
            for g in study.groups]
    return tabular(heads, rows, caption=caption, label=label) if attacks else None


def published(rows: Sequence[Row], *, caption: str, label: str) -> str | None:
    """Published figures beside ours (`published.nearest`); None without any."""
    heads = [Head("cut", align="r"), Head("setting"), Head("measure"), Head("ours", align="r"), Head("published", align="r"),
             Head("source"), Head("what differs", align=WRAPPED)]
    cells = [[str(r.group.cut), r.group.series, r.what, written(r.ours, r.number.style), r.number.shown,
              f"{r.number.cited}, {r.number.table}", "; ".join([*r.differences, *r.cautions])] for r in rows]
    return tabular(heads, cells, caption=caption, label=label) if rows else None


def comparison(found: Comparison, *, caption: str, label: str) -> str | None:
    """Two studies side by side, a row for every measure of a pair of settings, whose differences stand in its first; None without any."""
    heads = [Head("cut", align="r"), Head("setting"), Head("measure"), Head("ours", align="r"), Head("other", align="r"),
             Head("difference", align="r"), Head("ours is"), Head("what differs", align=WRAPPED)]
    rows = []
    for pair in found.pairs:
        differs = "; ".join([*(f"{s.name}: {s.ours} (other: {s.other})" for s in pair.settings), *pair.cautions])
        for place, d in enumerate(pair.differences):
            write = text.FORMATS[d.measure.style]
            rows.append([str(pair.ours.cut), pair.ours.series, d.measure.name, write(d.ours), write(d.other),
                         _with(d.difference, d.low, d.high, write), d.relation, "" if place else differs])
    return tabular(heads, rows, caption=caption, label=label) if rows else None
