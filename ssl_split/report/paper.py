"""What goes from a report into a paper: the methods paragraph, its references, and every table in LaTeX."""

from __future__ import annotations

from dataclasses import dataclass

from ssl_split.report import cite, latex, leaks
from ssl_split.report.columns import COSTS, columns
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


def texts(study: Study) -> list[Text]:
    """The paragraph in plain words and in LaTeX, BibTeX, and the tables for which there are numbers."""
    made = [Text("Methods, plain", "methods.txt", cite.methods(study)), Text("Methods, LaTeX", "methods.tex", cite.methods_latex(study)),
            Text("References, BibTeX", "references.bib", cite.bibtex(study))]
    found = (
        ("Table: cut by algorithm", "cuts", latex.table(study, columns(study), caption="Accuracy, traffic and leakage at each cut.",
                                                        label="tab:cuts")),
        ("Table: time and work", "costs", latex.table(study, columns(study, COSTS), caption="Time and work of the training.",
                                                      label="tab:costs") if columns(study, COSTS) else None),
        ("Table: probes", "probes", latex.probes(study, caption="All probes.", label="tab:probes")),
        ("Table: attacks that rebuild images", "inversions", latex.inversions(study, caption="All attacks that rebuild images.",
                                                                             label="tab:inversions")),
        ("Table: membership", "memberships", latex.findings(study, leaks.memberships(study), caption="Membership inference.",
                                                           label="tab:memberships")),
        ("Table: labels", "labels", latex.findings(study, leaks.labels(study), caption="Attacks that tell an image's class.",
                                                  label="tab:labels")),
    )
    return made + [Text(title, f"table-{name}.tex", HEAD + text) for title, name, text in found if text]
