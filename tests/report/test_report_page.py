"""The page stands alone, escapes what it shows, and every number leads to the run it came from."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic_runs as made
import yaml
from PIL import Image

from ssl_split.report import build, figures, payload
from ssl_split.report.__main__ import main
from ssl_split.report.collect import collect
from ssl_split.report.draw import style
from ssl_split.report.table import study

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use", "rect", "circle"}


class Page(HTMLParser):
    """What the tests ask of a page: tags, ids, links, and the text of number cells inside and outside links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.numbers: list[str] = []
        self.bare: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[k] for k in ("href", "src", "srcset", "data", "action", "poster", "xlink:href") if k in values]
        if tag not in VOID:
            self._open.append((tag, values.get("class", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        cell = next((i for i, (tag, _) in enumerate(self._open) if tag == "td"), None)
        if cell is None or "num" not in self._open[cell][1] or not re.search(r"\d", data):
            return
        inside = {tag for tag, _ in self._open[cell:]}
        if "a" in inside:
            self.numbers.append(data)
        elif "small" not in inside:  # the spread stands beside its linked mean
            self.bare.append(data)


def page(directory: Path) -> str:
    """The report's page."""
    return build.write(directory).read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_every_number_leads_to_an_anchor_that_exists(tmp_path: Path) -> None:
    """6 settings with 13 numbers each in the table, a place for each of 18 runs, and for every setting the numbers of its three seeds."""
    made.make_study(tmp_path)
    text = page(tmp_path)
    found, data = Page(text), made.data_of(text)
    assert found.bare == []
    assert len(found.numbers) >= 6 * 13
    inner = [link for link in found.links if link.startswith("#")]
    assert {link[1:] for link in inner} <= set(found.ids)
    assert len(set(found.ids)) == len(found.ids)
    runs = [i for i in found.ids if i.startswith("run-")]
    assert len(runs) == 18
    assert set(runs) == {run["anchor"] for run in data["runs"]}
    assert all(set(group["values"]["accuracy"][5]) <= set(runs) and group["anchor"] in found.ids for group in data["groups"])
    assert {f"sprite-{run}" for run in runs} <= set(found.ids)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of one seed and its report."""
    directory = tmp_path_factory.mktemp("reported")
    made.make_study(directory, seeds=1)
    build.write(directory)
    return directory


def test_the_page_asks_for_nothing_from_outside(reported: Path) -> None:
    """No request can leave it: the policy allows its own two scripts by their hashes, and pictures that it carries."""
    text = (reported / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    assert not set(found.tags) & {"link", "iframe", "object", "embed", "base"}
    assert all(link.startswith("#") for link in found.links)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "img-src data:" in policy[1]
    assert "unsafe-eval" not in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 1
    library = gzip.decompress(base64.b64decode(re.findall(r'id="library">([^<]*)<', text)[0])).decode("utf-8")
    for script in (scripts[0], library):
        assert base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") in policy[1]
    for forbidden in ("fetch(", "XMLHttpRequest", "innerHTML", "document.write", "eval("):
        assert forbidden not in scripts[0]


def test_pictures_are_the_tensors(reported: Path) -> None:
    """The first eight targets, the attacks' rows and the blind guess, whatever WebP leaves of them."""
    data = made.data_of((reported / "report.html").read_text(encoding="utf-8"))
    text = (reported / "report.html").read_text(encoding="utf-8")
    anchor, known = next(iter(data["sprites"].items()))
    assert known["rows"] == ["original", "decoder", "ridge", "blind guess"]
    assert (known["images"], known["size"]) == (8, [8, 8])
    sheet = base64.b64decode(re.findall(f'id="sprite-{re.escape(anchor)}">([^<]*)<', text)[0])
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"), np.int64).reshape(4, 8, 8, 8, 3).mean((1, 3))
    true = made.targets()[:8, :, 0, 0].astype(np.int64)
    assert np.abs(pixels[0] - true).max() < 8
    assert np.abs(pixels[1] - 0.8 * true).max() < 8
    assert np.abs(pixels[3] - 127.5).max() < 8


@pytest.mark.usefixtures("undrawn")
def test_damaged_pictures_are_left_out(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    whole, truncated = made.add_attack(run, 0.02), made.add_attack(run, 0.03, name="decoder")
    file = truncated / "reconstructions.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    data = made.data_of(page(tmp_path))
    assert [s["rows"] for s in data["sprites"].values()] == [["original", "ridge", "blind guess"]]
    (whole / "reconstructions.safetensors").unlink()
    assert made.data_of(page(tmp_path))["sprites"] == {}


def test_all_files_are_written(reported: Path) -> None:
    names = {p.stem for p in (reported / "figures").glob("*.svg")}
    assert names == {"accuracy", "leakage", "traffic", "client", "reconstruction", "plane", "divergence", "curve-loss",
                     "curve-validation-knn", "curve-online-to-momentum", "curve-online-to-mean"}
    assert {p.stem for p in (reported / "figures").glob("*.png")} == names
    text = (reported / "report.md").read_text(encoding="utf-8")
    assert all((reported / link).is_file() for link in re.findall(r"!\[[^]]*\]\(<?([^)>]+)>?\)", text))
    anchors = set(re.findall(r'<a id="([^"]+)"></a>', text)) | {"missing"}
    assert {link for link in re.findall(r"\]\(#([^)]+)\)", text)} <= anchors


def test_texts_for_a_paper(reported: Path) -> None:
    """Files and page hold the same; the paragraph names what was run, the bibliography what it cites."""
    files = {p.name: p.read_text(encoding="utf-8") for p in (reported / "paper").iterdir()}
    assert set(files) == {"methods.txt", "methods.tex", "references.bib", *(f"table-{name}.tex" for name in (
        "cuts", "front", "attacks", "probes", "inversions", "published"))}
    text = (reported / "report.html").read_text(encoding="utf-8")
    assert {one["file"]: one["text"] + "\n" for one in made.data_of(text)["paper"]} == files
    assert "MonAcoSFL" in files["methods.txt"]
    assert set(re.findall(r"\\cite[tp]?\{([^}]*)\}", files["methods.tex"])) != set()
    for key in {k for keys in re.findall(r"\\cite[tp]?\{([^}]*)\}", files["methods.tex"]) for k in keys.split(",")}:
        assert f"{{{key.strip()}," in files["references.bib"]
    assert "## Methods" in (reported / "report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_a_second_study_stands_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.make_study(tmp_path / "one", seeds=1, cuts=(1, 9))
    made.make_study(tmp_path / "two", seeds=1, cuts=(9, 17))
    assert main([str(tmp_path / "one"), "--compare", str(tmp_path / "two"), "--pictures", "0"]) == 0
    assert "report.html" in capsys.readouterr().out
    text = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="compare">') : text.index('<section id="paper">')]
    assert "2 of 4" in section
    assert section.count("equal") >= 2
    assert "Only here: 2" in section
    assert "Only there: 2" in section
    assert made.data_of(text)["sprites"] == {}
    assert "## Comparison with" in (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="no directory"):
        main([str(tmp_path / "one"), "--compare", str(tmp_path / "none")])
    with pytest.raises(ValueError, match="--pictures -1"):
        main([str(tmp_path / "one"), "--pictures", "-1"])


@pytest.mark.usefixtures("undrawn")
def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    run = made.make_run(tmp_path, algorithm="mocosfl", cut=1, dataset="cifar10")
    made.add_probe(run, 0.8)
    text = page(tmp_path)
    section = text[text.index('<section id="published">') : text.index('<section id="paper">')]
    assert "87.8" in section
    assert "rounds: 10 (published 200)" in section
    assert "rounds: 10 (published 200)" in (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", "")


@pytest.mark.usefixtures("undrawn")
def test_equal_files_give_an_equal_page(tmp_path: Path) -> None:
    made.make_study(tmp_path, seeds=1, cuts=(1,))
    assert page(tmp_path) == page(tmp_path)


def test_equal_numbers_give_equal_figures(tmp_path: Path) -> None:
    made.make_study(tmp_path, seeds=1, cuts=(1,))
    found = study(collect(tmp_path))
    with style():
        for folder in ("one", "two"):
            figures.accuracy(found, tmp_path / folder)
    for name in ("accuracy.svg", "accuracy.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_names_and_values_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')<b>\"&| `[a](b)"
    run = made.make_run(tmp_path / "runs")
    run = run.rename(run.parent / evil)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"algorithm": evil, "data_dir": "</pre>" + evil, "dataset": evil}))
    made.add_probe(run, 0.5, name=evil.replace("/", ""), features="backbone")
    made.add_attack(run, 0.03)
    made.write_json(run / "env.json", {"commit": "</style>" + evil})
    made.write_json(tmp_path / "runs" / "jobs.json", {"name": evil, "question": evil, "command": evil, "jobs": [
        {"run": evil, "label": evil, "state": "failed", "reason": "</dl>" + evil, "command": evil, "log": evil, "stage": None,
         "setting": {}}]})
    text = page(tmp_path / "runs")
    found = Page(text)
    assert found.tags.count("script") == 4  # data, library, one sprite, the page's own
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert text.count("</style>") == 1
    assert evil in made.data_of(text)["runs"][0]["name"]
    markdown = (tmp_path / "runs" / "report.md").read_text(encoding="utf-8")
    without_code = re.sub(r"`[^`]*`", "", markdown.replace("\\`", ""))
    assert "<script" not in without_code
    assert "[a](b)" not in without_code


@pytest.mark.usefixtures("undrawn")
def test_states_of_jobs_cannot_become_markup(tmp_path: Path) -> None:
    run = made.make_run(tmp_path / "runs")
    made.write_json(tmp_path / "jobs.json", {"name": "trial", "jobs": [
        {"run": f"runs/{run.name}", "label": "train", "state": "<img src=x> [a](b)", "command": "python", "log": "x", "stage": None,
         "setting": {}}]})
    page(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "&lt;img src=x&gt; \\[a\\]\\(b\\)" in text
    assert "[a](b)" not in text


@pytest.mark.usefixtures("undrawn")
def test_the_matrix_of_attacks_and_their_commands_are_in_the_markdown(tmp_path: Path) -> None:
    """R2 of a ridge regression with MSE .015 where the blind guess has .06, a dash where it was not run, and who computed the probe."""
    run = made.make_run(tmp_path, cut=1)
    made.add_attack(run, 0.015)
    made.add_probe(run, 0.5, environment={"commit": "fffffff"})
    made.add_attack(made.make_run(tmp_path, cut=9), 0.03, name="decoder")
    data = made.data_of(page(tmp_path))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    section = text[text.index("## All attacks") : text.index("## Methods")]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    place = {attack: i for i, attack in enumerate(rows[0])}
    ridge, decoder = next(i for a, i in place.items() if "ridge: R2" in a), next(i for a, i in place.items() if "decoder: R2" in a)
    assert [row[ridge].strip("| ") for row in rows[1:]] == [f"[0.750](#run-{run.name})", "–"]
    assert rows[2][decoder].startswith("[0.500](#run-")
    (column,) = (attack for attack in data["matrix"] if attack["label"] == "ridge")
    assert (column["measure"], column["cells"]) == ("R2", {"0": [0.75, 0.75, 1]})
    assert "`python -m probes.linear`, commit fffffff" in text


def test_images_without_labels(tmp_path: Path) -> None:
    """No probe and no kNN check: the page has no accuracy and says why."""
    run = made.make_run(tmp_path, dataset="photos")
    result = (run / "result.json").read_text().replace('"validation_knn": {"accuracy": 0.5, "low": 0.45, "high": 0.55}',
                                                       '"validation_knn": null')
    (run / "result.json").write_text(result)
    made.add_attack(run, 0.03)
    text = page(tmp_path)
    assert "probes need labels" in text
    assert ">Accuracy <small>" not in text
    assert "figures/accuracy.svg" not in text
    assert "figures/reconstruction.svg" in text


@pytest.mark.usefixtures("undrawn")
def test_a_single_run_a_folder_and_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made.make_run(tmp_path / "runs")
    assert main([str(run), "--out", str(tmp_path / "elsewhere")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'elsewhere' / 'report.html'}\n"
    assert not (run / "report.html").exists()
    assert main([str(tmp_path / "runs")]) == 0
    assert (tmp_path / "runs" / "results.csv").read_text().count("\n") == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no run in"):
        main([str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError, match="no directory"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="unrecognized arguments"):
        main([str(run), "--opne"])


def test_a_run_without_anything_measured(tmp_path: Path) -> None:
    """Only a configuration: an unfinished run is a row, not a crash."""
    run = made.make_run(tmp_path, finished=False)
    (run / "metrics.jsonl").unlink()
    (run / "env.json").unlink()
    text = page(tmp_path)
    assert "the training has not finished" in text
    assert "There are no numbers to draw yet." in text


@pytest.mark.usefixtures("undrawn")
def test_an_attack_that_rebuilds_no_images_is_shown_by_its_verdict(tmp_path: Path) -> None:
    """And it is never the strongest: that is a matter of reconstructions."""
    run = made.make_run(tmp_path, algorithm="mocosfl", cut=1, seed=0)
    made.add_attack(run, 0.02)
    made.write_json(run / "attacks" / "label-fewshot-1" / "result.json", {
        "kind": "attack", "name": "label-fewshot", "verdict": "The smashed data tell 45% of the labels.", "options": {}, "seconds": 3.0,
        "checkpoint": {"finished": True}, "environment": {}, "command": "python -m attacks.label"})
    data = made.data_of(page(tmp_path))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "The smashed data tell 45% of the labels" in text
    assert next(o.get("verdict") for o in data["runs"][0]["outcomes"]) == "The smashed data tell 45% of the labels."
    assert "label-fewshot: MSE" not in text
    assert "strongest attack \\(ridge\\)" in text


def test_counts_are_not_rounded(tmp_path: Path) -> None:
    """577,808 parameters were shown as 577,810."""
    run = made.make_run(tmp_path)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    (run / "result.json").write_text(json.dumps(result | {"client_parameters": 577808}), encoding="utf-8")
    values = made.data_of(build.write(tmp_path).read_text(encoding="utf-8"))["groups"][0]["values"]
    assert values["client_parameters"][0] == 577808
    assert payload.rounded(577808.25) == 577810.0
    assert payload.rounded(float("inf")) == float("inf")
