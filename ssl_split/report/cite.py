"""A methods paragraph for a paper, plain or in LaTeX, and the BibTeX entries that it cites."""

from __future__ import annotations

import re

from ssl_split.report import sources
from ssl_split.report.latex import escape
from ssl_split.report.measures import measured
from ssl_split.report.paragraph import CLOSE, OPEN, training
from ssl_split.report.table import Study

_MARK = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")


def methods(study: Study) -> str:
    """What was trained and measured, in one paragraph: only what the finished runs' files hold.

    Returns:
        Plain text with authors and years in brackets, one line.
    """
    return _MARK.sub(lambda mark: f" ({'; '.join(map(sources.short, mark[1].split(',')))})", _marked(study))


def methods_latex(study: Study) -> str:
    """The same paragraph with `\\cite` and everything escaped; the keys are those of `bibtex`."""
    parts = _MARK.split(_marked(study))
    return "".join(f"~\\cite{{{part}}}" if i % 2 else escape(part) for i, part in enumerate(parts))


def bibtex(study: Study) -> str:
    """The entries that the paragraph cites, each once, in the order of first use."""
    return sources.bibliography(keys(study))


def keys(study: Study) -> list[str]:
    """Keys of what the paragraph cites, in the order of first use."""
    return list(dict.fromkeys(key for mark in _MARK.findall(_marked(study)) for key in mark.split(",")))


def _marked(study: Study) -> str:
    return " ".join([*training(study), *measured(study)])
