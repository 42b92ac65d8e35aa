"""The methods paragraph says what the files say and nothing else; every name of the program has its sources, every source is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import synthetic_runs as made
import yaml

from attacks.label import METHODS as LABEL
from attacks.members.api import METHODS as MEMBERSHIP
from attacks.methods import METHODS as INVERSION
from attacks.view import CAPABILITIES
from ssl_split import config
from ssl_split.report import cite, measures, paragraph, sources
from ssl_split.report.collect import collect
from ssl_split.report.table import Study, study

NO_PUBLICATION = {
    "centralised", "blind", "ridge", "oracle", "twoview", "membership-infonce", "membership-momentum-gap", "label-fewshot", "none",
    "gaussian", "topk", "quantise", "imagefolder", "tsv", "mlp", "iid", "classes", "ratio", "quantity", "linear", "finetune", "classifier",
}
"""Ours, or common practice: nothing is cited for these."""


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


def test_every_name_has_its_sources() -> None:
    """Tables have exactly the program's names, with keys that exist, and are empty only where this test says so."""
    attacks = {*INVERSION, *(f"membership-{m}" for m in MEMBERSHIP), *(f"label-{m}" for m in LABEL), "gradient", "hijack"}
    assert len(attacks) == 10 + 10 + 4 + 2
    kinds = next(f for f in config.fields.dataclasses.fields(config.Partition) if f.name == "kind").metadata["choices"]
    tables = ((sources.ALGORITHMS, set(config.ALGORITHMS)), (sources.ATTACKS, attacks), (sources.DEFENCES, set(config.DEFENCES)),
              (sources.DATASETS, set(config.DATASETS)), (sources.ARCHITECTURES, set(config.ARCHITECTURES)),
              (sources.PARTITIONS, set(kinds)))
    for table, names in tables:
        assert set(table) == names
    empty = {name for table in (*(t for t, _ in tables), sources.PROBES) for name, keys in table.items() if not keys}
    assert empty == NO_PUBLICATION
    used = {key for table in (*(t for t, _ in tables), sources.PROBES) for keys in table.values() for key in keys}
    assert used <= set(sources.entries())
    assert set(paragraph.ALGORITHMS) == set(config.ALGORITHMS)
    assert set(paragraph.DATASETS) == set(config.DATASETS)
    assert set(paragraph.PARTITIONS) == set(kinds)
    assert {*measures.DEFENCES, "none"} == set(config.DEFENCES)
    assert set(measures.CAPABILITIES) >= set(CAPABILITIES)


def test_every_entry_is_complete_and_plain_ascii() -> None:
    """Title, author, year and where it appeared, balanced braces; short forms have no LaTeX left."""
    found = sources.entries()
    assert len(found) == sources.FILE.read_text(encoding="utf-8").count("\n@") + 1 == 75
    for key, text in found.items():
        assert text.isascii()
        assert text.count("{") == text.count("}")
        assert re.fullmatch(r"(19|20)\d\d", sources.value(key, "year") or ""), key
        assert any(sources.value(key, where) for where in ("booktitle", "journal", "institution")), key
        for name in ("title", "author"):
            value = sources.value(key, name)
            assert value, key
            assert not set(value) & set("\\{}"), value
    assert sources.short("przewiezlikowski2024deepcut") == "Przewięźlikowski et al. 2024"
    assert sources.short("gao2023pcat") == "Gao and Zhang 2023"
    assert sources.short("wilson1927interval") == "Wilson 1927"


def test_the_paragraph_says_what_was_done(tmp_path: Path) -> None:
    made.make_study(tmp_path)
    text = cite.methods(read(tmp_path))
    for said in ("MocoSFL (Li et al. 2023)", "MonAcoSFL (Przewięźlikowski et al. 2024)", "CIFAR-10 (Krizhevsky 2009)", "cut at 1, 9 and 17",
                 "5 clients in label shards (2 a client)", "10 rounds with batches of 20 images", "with 3 seeds (0, 1 and 2); 18 runs",
                 "10,000 test images", "raw pixels and the untrained network", "ridge regression", "5,000 own images; 128 targets; budget",
                 "blind never counted as one", "from 3 seeds on a 95 % t-interval", "commit abc1234, RESULTS_VERSION 1"):
        assert said in text, said
    for absent in ("Wilson", "Membership", "Labels were", "defended", "trials", "differ between runs", "UnSplit", "?", "\n",
                   paragraph.OPEN):
        assert absent not in text, absent


def test_what_varies_is_said_and_places_are_not(tmp_path: Path) -> None:
    made.make_run(tmp_path, clients=5, client_from="/home/somebody/run-a")
    made.make_run(tmp_path, clients=20, client_from="/home/somebody/run-b")
    text = cite.methods(read(tmp_path))
    assert "clients (5 and 20)" in text or "clients (20 and 5)" in text
    assert "client_from (2 values)" in text
    assert "/home" not in text
    assert "Accuracy is that of kNN on validation images" in text


def test_only_finished_runs_count(tmp_path: Path) -> None:
    made.make_run(tmp_path, finished=False)
    assert cite.methods(read(tmp_path)) == "No training of this study has finished."
    assert cite.bibtex(read(tmp_path)) == ""
    made.make_run(tmp_path, seed=7)
    assert "with 1 seed (7); 1 run finished" in cite.methods(read(tmp_path))


def test_runs_of_one_seed_in_one_setting_are_no_seeds(tmp_path: Path) -> None:
    """An arm that says nothing of the clients: two runs of seed 0 in one group, which the paragraph must not call two seeds."""
    runs = [made.make_run(tmp_path / "runs", clients=clients) for clients in (5, 20)]
    job = {"label": "train", "state": "done", "stage": None, "setting": {"arm": "plain", "seed": 0}}
    made.write_json(tmp_path / "jobs.json", {"name": "arms", "jobs": [{**job, "run": f"runs/{run.name}"} for run in runs]})
    text = cite.methods(read(tmp_path))
    assert "with 1 seed (0); 2 runs finished. Some settings hold several runs of one seed, which are averaged inside that seed." in text
    assert "Over several" not in text


def test_networks_without_normalisation_are_not_said_to_have_one(tmp_path: Path) -> None:
    made.make_run(tmp_path, arch="alexnet", cut=2)
    assert "The network was AlexNet (Krizhevsky et al. 2012), cut at 2." in cite.methods(read(tmp_path))


def test_training_in_one_place_has_neither_clients_nor_traffic(tmp_path: Path) -> None:
    """5 clients of 20 images are batches of 100."""
    made.make_run(tmp_path, algorithm="moco")
    text = cite.methods(read(tmp_path))
    assert "batches of 100 images," in text
    for absent in ("clients", "Traffic", "cut at", "averagings"):
        assert absent not in text, absent


def test_a_defence_stands_with_its_options_and_its_source(tmp_path: Path) -> None:
    """Options of other defences are in every configuration and are not said."""
    for sigma in (0.5, 2.0):
        made.make_run(tmp_path, defence="gaussian", gaussian={"sigma": sigma})
    made.make_run(tmp_path, defence="nopeek")
    text = cite.methods(read(tmp_path))
    assert re.search(r"Gaussian noise \(sigma (0.5 or 2|2 or 0.5)\)", text)
    assert "NoPeek (Vepakomma et al. 2020) (alpha 1)" in text
    assert "bits" not in text
    assert "vepakomma2020nopeek" in cite.keys(read(tmp_path))


def test_membership_and_labels_name_their_attacker(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.write_json(run / "attacks" / "m" / "result.json", {"kind": "attack", "name": "membership-lira", "auc": 0.6, "members": 1000,
                                                           "nonmembers": 900, "needs": ["query"], "options": {}})
    made.write_json(run / "attacks" / "l" / "result.json", {"kind": "attack", "name": "label-completion", "rows": [], "options": {},
                                                           "needs": ["weights", "aux_labels"]})
    text = cite.methods(read(tmp_path))
    assert "Membership was inferred by lira (Carlini et al. 2022) (needs the client's answers to own images; 1,000 members; 900 o" in text
    assert "completion (Fu et al. 2022) (needs the client's weights and labels of own images)" in text


def test_latex_cites_what_bibtex_holds(tmp_path: Path) -> None:
    made.make_study(tmp_path, cuts=(1,))
    found = read(tmp_path)
    text, entries = cite.methods_latex(found), cite.bibtex(found)
    keys = {key for cited in re.findall(r"\\cite\{([^}]*)\}", text) for key in cited.split(",")}
    assert keys == set(re.findall(r"^@\w+\{([^,\s]+),", entries, re.MULTILINE)) == set(cite.keys(found))
    assert {"li2023mocosfl", "wang2004ssim", "krizhevsky2009cifar"} <= keys
    assert "pasquini2021fsha" not in keys
    assert "yang2026smofi" not in keys
    without = re.sub(r"\\[a-zA-Z]+(\{[^{}]*\})?|\\[%&#_${}]|\{[\[\]]\}|~", "", text)
    assert not set(without) & set("\\{}$&#%_^~"), without


@pytest.mark.parametrize("evil", ["\\input{/etc/passwd}", "100% & more", f"{paragraph.OPEN}li2023mocosfl{paragraph.CLOSE}"])
def test_texts_of_runs_can_neither_cite_nor_command(tmp_path: Path, evil: str) -> None:
    run = made.make_run(tmp_path)
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(values | {"algorithm": evil, "dataset": evil, "schedule": evil}), encoding="utf-8")
    environment = json.loads((run / "env.json").read_text())
    made.write_json(run / "env.json", environment | {"commit": evil})
    found = read(tmp_path)
    assert "\\input" not in cite.methods_latex(found)
    assert "li2023mocosfl" not in cite.keys(found)
    assert not re.search(r"(?<!\\)[%&]", cite.methods_latex(found))
