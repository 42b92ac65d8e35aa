"""What goes from a report into a paper: the methods paragraph, its references, and every table in LaTeX."""

from __future__ import annotations

from dataclasses import dataclass

from ssl_split.report import cite, latex, leaks, published
from ssl_split.report.columns import COLUMNS, COSTS, columns
from ssl_split.report.compare import Comparison
from ssl_split.report.decide import front
from ssl_split.report.table import Study

FOLDER = "paper"
"""Of their files, beside the report."""

HEAD = "% Written by ssl_split.report; needs \\usepackage{booktabs,graphicx}.\n"


@dataclass(frozen=True)
class Text:
    """A text to be pasted: its name in the page, its file, and itself."""

    title: str
    file: str
    text: str


_Table = tuple[str, str, str | None]
"""Title, name of its file, and the LaTeX, None where it would be empty."""

FRONT = ("accuracy", "r2", "mib_per_client", "client_parameters")
"""Columns of the Pareto front."""

NEAREST = 2
"""Published figures beside each setting: those whose settings are least far from ours."""


def texts(study: Study, comparison: Comparison | None = None) -> list[Text]:
    """The paragraph in plain words and in LaTeX, BibTeX, and the tables for which there are numbers."""
    made = [Text("Methods, plain", "methods.txt", cite.methods(study)), Text("Methods, LaTeX", "methods.tex", cite.methods_latex(study)),
            Text("References, BibTeX", "references.bib", cite.bibtex(study))]
    found = [*_summaries(study), *_outcomes(study), *_beside(study, comparison)]
    return made + [Text(f"Table: {title}", f"table-{name}.tex", HEAD + text) for title, name, text in found if text]


def _summaries(study: Study) -> list[_Table]:
    """A row a setting."""
    best, costs = front(study.groups), columns(study, COSTS)
    return [
        ("cut by algorithm", "cuts", latex.table(study, columns(study), label="tab:cuts",
                                                 caption="Accuracy, traffic and leakage at each cut.")),
        ("Pareto front", "front", latex.table(
            study, columns(study, [c for c in COLUMNS if c.key in FRONT]), groups=best, label="tab:front",
            caption="Pareto front of accuracy, leakage (R2 of the strongest attack) and MiB per client.") if best else None),
        ("time and work", "costs", latex.table(study, costs, caption="Time and work of the training.",
                                               label="tab:costs") if costs else None),
        ("all attacks", "attacks", latex.matrix(
            study, leaks.matrix(study), label="tab:attacks", caption="All attacks: R2 of those that rebuild images, AUC of membership "
            "inference, accuracy or AUC of those that tell labels.")),
    ]


def _outcomes(study: Study) -> list[_Table]:
    """A row a probe or attack."""
    return [
        ("probes", "probes", latex.probes(study, caption="All probes.", label="tab:probes")),
        ("attacks that rebuild images", "inversions", latex.inversions(study, caption="All attacks that rebuild images.",
                                                                       label="tab:inversions")),
        ("membership", "memberships", latex.findings(study, leaks.memberships(study), caption="Membership inference.",
                                                     label="tab:memberships")),
        ("labels", "labels", latex.findings(study, leaks.labels(study), caption="Attacks that tell an image's class.",
                                            label="tab:labels")),
    ]


def _beside(study: Study, comparison: Comparison | None) -> list[_Table]:
    """Ours beside those of others."""
    found = [("published figures", "published", latex.published(
        published.nearest(published.beside(study), NEAREST), label="tab:published", caption="Published figures beside ours."))]
    if comparison:
        caption = f"Comparison with {comparison.other.collection.name}."
        found.append(("comparison", "comparison", latex.comparison(comparison, label="tab:comparison", caption=caption)))
    return found
