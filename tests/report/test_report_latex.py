"""Tables in LaTeX: every row has as many cells as there are columns, braces balance, and no text can become a command."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import synthetic_runs as made
import test_report_leaks as leaking

from ssl_split.report import columns, latex, leaks, paper
from ssl_split.report.collect import collect
from ssl_split.report.compare import compare
from ssl_split.report.decide import front
from ssl_split.report.table import Study, study


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


def cells(line: str) -> list[str]:
    """Cells of a row, escaped ampersands apart."""
    assert line.endswith(r" \\")
    return [c.strip() for c in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))]


def body(text: str) -> list[list[str]]:
    """Rows between the rules, after checks that hold for every table: columns, spans, braces, environments."""
    columns = re.search(r"\\begin\{tabular\}\{((?:[lr]|p\{80mm\})+)\}", text)
    assert columns
    width = len(columns[1].replace(latex.WRAPPED, "p"))
    table = "table*" if width > latex.WIDE else "table"
    assert text.count(latex.FIT) == 1
    for command in ("toprule", "midrule", "bottomrule", f"begin{{{table}}}", f"end{{{table}}}", "end{tabular}", "caption{", "label{"):
        assert text.count(f"\\{command}") == 1, command
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    head = text.split("\\toprule\n")[1].split("\\midrule")[0].splitlines()
    if len(head) == 3:
        spans = [int(m[1]) if (m := re.match(r"\\multicolumn\{(\d+)\}", c)) else 1 for c in cells(head[0])]
        assert sum(spans) == width
        assert all(int(a) <= int(b) <= width for a, b in re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", head[1]))
    assert len(cells(head[-1])) == width
    rows = [cells(line) for line in text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()]
    assert all(len(row) == width for row in rows)
    return rows


@pytest.mark.parametrize("letter", "\\{}$&#%_^~<>|\"`[]")
def test_every_special_character_prints_itself(letter: str) -> None:
    """Commands and escapes put back give the character again, and it never stands bare."""
    back = {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<", r"\textgreater{}": ">",
            r"\textbar{}": "|", r"\symbol{34}": '"', r"\textasciigrave{}": "`", "{[}": "[", "{]}": "]"}
    escaped = latex.escape(f"a{letter}b")
    inner = escaped.removeprefix("a").removesuffix("b")
    assert inner != letter
    assert back.get(inner, inner.removeprefix("\\")) == letter


def test_escaped_text_is_one_line_without_control_characters() -> None:
    assert latex.escape(" a\n\nb\t\x00\x1bc ") == " a b c "
    assert latex.escape("\\\\&{}") == r"\textbackslash{}\textbackslash{}\&\{\}"
    assert latex.name("tab:run names_{}\\ 1") == "tab:run-names-1"


def test_the_main_table_has_the_numbers_of_the_page(tmp_path: Path) -> None:
    """Six groups of three seeds: mean, deviation and interval."""
    made.make_study(tmp_path)
    found = read(tmp_path)
    text = latex.table(found, columns.columns(found), caption="Cuts & attacks", label="tab:main")
    rows = body(text)
    assert len(rows) == 6
    assert rows[0][:3] == ["mocosfl", "1", r"61.8 \% $\pm$ 1.0 {[}59.3, 64.3{]}"]
    assert [row[-1] for row in rows] == ["3"] * 6
    assert "\\caption{Cuts \\& attacks}" in text
    assert text.count("\\multicolumn{3}{c}{Accuracy}") == 1


def test_the_table_of_costs(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.add_costs(run, seconds=10, mib=2, reached=True)
    found = read(tmp_path)
    (row,) = body(latex.table(found, columns.columns(found, columns.COSTS), caption="Costs", label="tab:costs"))
    assert row[:3] == ["monacosfl", "13", "110"]
    assert r"25.0 \%" in row


def test_probes_and_inversions_stand_beside_their_rulers(tmp_path: Path) -> None:
    made.make_study(tmp_path, cuts=(1,), seeds=2)
    found = read(tmp_path)
    rows = body(latex.probes(found, caption="Probes", label="p") or "")
    assert len(rows) == 4
    assert rows[0] == ["mocosfl", "1", "0", "linear", r"60.8 \% {[}59.8, 61.8{]}", r"36.0 \%", r"41.0 \%"]
    rows = body(latex.inversions(found, caption="Attacks", label="a") or "")
    assert len(rows) == 12
    ridge = next(row for row in rows if row[3] == "ridge")
    assert ridge[5:8] == ["0.0074 {[}0.0064, 0.0084{]}", "0.0600", "0.0350"]


def test_memberships_and_labels(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    for attack in (leaking.member, leaking.fewshot, leaking.norm):
        attack(run)
    found = read(tmp_path)
    (row,) = body(latex.findings(found, leaks.memberships(found), caption="Members", label="m") or "")
    assert row[4] == r"1000 members, 900 others; 0.031 of the members at 1 \% false alarms"
    assert row[5:] == ["AUC", "0.610 {[}0.580, 0.640{]}", "0.500", "0.520"]
    rows = body(latex.findings(found, leaks.labels(found), caption="Labels", label="l") or "")
    assert [row[-1] for row in rows] == ["0.350", "--"]  # raw pixels, where they were asked


def test_the_pareto_front_and_the_matrix_of_attacks(tmp_path: Path) -> None:
    """The front has the rows of the page's; an attack on one run has dashes elsewhere."""
    runs = made.make_study(tmp_path, cuts=(1, 9), seeds=2)
    leaking.member(runs[0])
    found = read(tmp_path)
    texts = {one.file: one.text for one in paper.texts(found)}
    rows = body(texts["table-front.tex"])
    assert [row[:2] for row in rows] == [[g.algorithm, str(g.cut)] for g in front(found.groups)]
    rows = body(texts["table-attacks.tex"])
    assert len(rows) == 4
    heads = ["algorithm", "cut", *(attack.head for attack in leaks.matrix(found))]
    member, ridge = heads.index("membership-alignment: AUC"), heads.index("ridge: R2")
    assert sorted(row[member] for row in rows) == ["--", "--", "--", "0.610"]
    assert float(rows[0][ridge]) == pytest.approx(found.groups[0].values["r2"].mean, abs=5e-4)


def test_published_figures_and_a_comparison(tmp_path: Path) -> None:
    """A row for every measure of a pair; what differs in the settings stands in the first."""
    for name, rounds in (("a", 10), ("b", 20)):
        run = made.make_run(tmp_path / name, algorithm="mocosfl", cut=1, dataset="cifar10", rounds=rounds)
        made.add_probe(run, 0.5 if name == "a" else 0.6)
    ours = read(tmp_path / "a")
    texts = {one.file: one.text for one in paper.texts(ours, compare(ours, read(tmp_path / "b")))}
    rows = body(texts["table-published.tex"])
    assert rows[0][:4] == ["1", "mocosfl", "linear", r"50.0 \% {[}49.0, 51.0{]}"]
    assert "rounds: 10 (published 200)" in rows[0][-1]
    rows = body(texts["table-comparison.tex"])
    assert rows[0] == ["1", "mocosfl", "accuracy", r"50.0 \%", r"60.0 \%", r"-10.0 \%", "clearly lower", "rounds: 10 (other: 20)"]
    assert [row[-1] for row in rows[1:]] == [""] * (len(rows) - 1)
    assert "table-comparison.tex" not in {one.file for one in paper.texts(ours)}


def test_nothing_measured_is_no_table(tmp_path: Path) -> None:
    made.make_run(tmp_path)
    found = read(tmp_path)
    assert latex.probes(found, caption="", label="") is None
    assert latex.inversions(found, caption="", label="") is None
    assert latex.findings(found, leaks.labels(found), caption="", label="") is None


def test_names_cannot_become_commands(tmp_path: Path) -> None:
    evil = "\\input{x} & \\\\ [b] % _"
    run = made.make_run(tmp_path)
    config = made.yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(made.yaml.safe_dump(config | {"algorithm": evil}))
    made.add_probe(run, 0.5)
    found = read(tmp_path)
    for text in (latex.table(found, columns.columns(found), caption=evil, label=evil), latex.probes(found, caption=evil, label=evil) or ""):
        (row,) = body(text)
        assert row[0] == r"\textbackslash{}input\{x\} \& \textbackslash{}\textbackslash{} {[}b{]} \% \_"
        assert "\\input" not in text


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="has 1 cells and not 2"):
        latex.tabular([latex.Head("a"), latex.Head("b")], [["1"]], caption="", label="t")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine: install texlive-latex-recommended")
@pytest.mark.parametrize("encoding", ["OT1", "T1"])
def test_latex_takes_all_of_it_and_nothing_is_too_wide(tmp_path: Path, encoding: str) -> None:
    """Paragraph, tables and references of a study in two narrow columns, in the old and the new font encoding; every special character."""
    made.make_study(tmp_path / "study", cuts=(1, 9), seeds=3)
    for attack in (leaking.member, leaking.fewshot):
        attack(next((tmp_path / "study" / "runs").iterdir()))
    found = read(tmp_path / "study")
    texts = {one.file: one.text for one in paper.texts(found, compare(found, found))}
    assert len(texts) == 12
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    inputs = "\n\n".join(f"\\input{{{name}}}" for name in texts if name.endswith(".tex"))
    (tmp_path / "all.tex").write_text(
        f"\\documentclass[twocolumn]{{article}}\n\\usepackage[{encoding}]{{fontenc}}\n\\usepackage{{booktabs,graphicx}}\n\\begin{{document}}\n"
        f"{inputs}\n\n{latex.escape(''.join(latex.SPECIAL))}\n\n\\bibliographystyle{{plain}}\n\\bibliography{{references}}\n"
        "\\end{document}\n", encoding="utf-8")
    for command in ("pdflatex", "bibtex", "pdflatex", "pdflatex"):
        words = [command, "all"] if command == "bibtex" else [command, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r"Overfull .hbox .*in paragraph|undefined|multiply defined", done.stdout), done.stdout[-3000:]
