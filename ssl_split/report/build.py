"""Writes the report: `report.html`, `report.md`, `results.csv` (also `.parquet`, with the extra `analysis`), `figures/` and `paper/`."""

from __future__ import annotations

from pathlib import Path

from ssl_split.files import replace_file
from ssl_split.report import curves, figures, page, paper, parquet, rows
from ssl_split.report.collect import collect
from ssl_split.report.compare import Comparison, compare
from ssl_split.report.draw import style
from ssl_split.report.table import Study, study

HTML, MARKDOWN, CSV, FIGURES = "report.html", "report.md", "results.csv", "figures"
PARQUET = "results.parquet"


def write(directory: Path, *, out: Path | None = None, other: Path | None = None, images: int = page.IMAGES) -> Path:
    """Report on a sweep's directory, a folder of runs, or a single run.

    Args:
        directory: What to report on.
        out: Where the report goes; None puts it beside the runs.
        other: A second study to compare with.
        images: Reconstructed images per run in the page.

    Returns:
        The HTML page.

    Raises:
        FileNotFoundError: nothing to report on.
    """
    made = study(collect(directory))
    comparison = None if other is None else compare(made, study(collect(other)))
    return write_study(made, directory if out is None else out, comparison=comparison, images=images)


def write_study(made: Study, out: Path, *, comparison: Comparison | None = None, images: int = page.IMAGES) -> Path:
    """Write all files of a report."""
    with style():
        drawings = figures.draw(made, out / FIGURES) + curves.draw(made, out / FIGURES)
    rows.write(made, out / CSV)
    parquet.write(made, out / PARQUET)
    for_paper, shown = paper.texts(made, comparison), page.context(made, drawings, out, comparison)
    texts = {HTML: page.html(shown, made, out, images=images, texts=for_paper), MARKDOWN: page.as_markdown(shown)}
    texts |= {f"{paper.FOLDER}/{one.file}": one.text + "\n" for one in for_paper}
    for name, text in texts.items():
        replace_file(out / name, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return out / HTML
