"""Writes the report: `report.html`, `report.md`, `results.csv` (and `results.parquet`, with the extra `analysis`) and `figures/`."""

from __future__ import annotations

from pathlib import Path

from ssl_split.files import replace_file
from ssl_split.report import curves, figures, page, parquet, rows
from ssl_split.report.collect import collect
from ssl_split.report.draw import style
from ssl_split.report.table import Study, study

HTML, MARKDOWN, CSV, FIGURES = "report.html", "report.md", "results.csv", "figures"
PARQUET = "results.parquet"


def write(directory: Path, *, out: Path | None = None) -> Path:
    """Report on a sweep's directory, a folder of runs, or a single run.

    Args:
        directory: What to report on.
        out: Where the report goes; None puts it beside the runs.

    Returns:
        The HTML page.

    Raises:
        FileNotFoundError: nothing to report on.
    """
    made = study(collect(directory))
    return write_study(made, directory if out is None else out)


def write_study(made: Study, out: Path) -> Path:
    """Write all files of a report."""
    with style():
        drawings = figures.draw(made, out / FIGURES) + curves.draw(made, out / FIGURES)
    rows.write(made, out / CSV)
    parquet.write(made, out / PARQUET)
    texts = {HTML: page.html(made, drawings, out), MARKDOWN: page.as_markdown(made, drawings, out)}
    for name, text in texts.items():
        replace_file(out / name, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return out / HTML
