"""Published figures stand beside ours only where algorithm, data set, defence and measure agree, with every difference named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as made

from ssl_split import config
from ssl_split.report import published, sources
from ssl_split.report.collect import collect, flatten
from ssl_split.report.table import Study, study

TABLE_2: dict[str, Any] = {
    "algorithm": "mocosfl", "cut": 1, "clients": 5, "batch_size": 20, "syncs_per_round": 10, "validation_fraction": 0.0,
    "partition": {"kind": "shards", "classes": 2},
}
"""The setting of MocoSFL's Table 2 as far as it is stated, but for the rounds."""


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


def test_the_numbers_are_those_of_the_tables() -> None:
    """308 figures; some of each table, in our units."""
    found = published.numbers()
    assert len(found) == 308
    keys = set(sources.entries())
    assert {n.source for n in found} - keys == {"FL-Simulator (github.com/woodenchild95/FL-Simulator)"}

    def value(**wanted: Any) -> list[float]:
        named = {k.replace("__", "."): v for k, v in wanted.items()}
        return [n.value for n in found if all((getattr(n, k) if hasattr(n, k) else n.settings.get(k)) == v for k, v in named.items())]

    assert value(algorithm="mocosfl", dataset="cifar10", measure="mib") == [5001.4, 5057.9, 39.1, 39.1]
    assert value(algorithm="mocosfl", dataset="cifar10", cut=3, clients=1000, partition__kind="shards") == [pytest.approx(0.8475)]
    assert value(algorithm="mocosfl", dataset="cifar100", cut=1, clients=20) == [pytest.approx(0.578)]
    assert value(algorithm="mu_splitfed", dataset="cifar10", mu_splitfed__tau=2) == [pytest.approx(0.7786)]
    assert value(algorithm="gas", dataset="fashion_mnist", partition__kind="dirichlet") == [pytest.approx(0.9058)]
    assert value(algorithm="fedgamma", dataset="cifar100", partition__classes=10) == [pytest.approx(0.0198)]
    assert value(algorithm="fedwmsam", local_epochs=20) == [pytest.approx(0.7515)]
    assert value(algorithm="scaffold", measure="rounds") == [189, 241, 301, 376]
    assert value(algorithm="split_learning", dataset="mnist", attack="hijack") == [0.0048]


def test_every_setting_is_a_field_of_the_configuration() -> None:
    fields = set(flatten(config.Config().to_dict()))
    assert len(fields) > 100
    for number in published.numbers():
        assert set(number.settings) | set(number.requires) <= fields
        assert number.dataset in config.DATASETS
        assert number.algorithm in config.ALGORITHMS
        assert number.settings.get("arch", "resnet18") in (*config.ARCHITECTURES, "ResNet-20")
        assert number.settings.get("partition.kind") is None or number.unstated != ("partition",)


def test_ours_stands_beside_theirs_with_its_interval(tmp_path: Path) -> None:
    for seed in range(3):
        run = made.make_run(tmp_path, seed=seed, **{**TABLE_2, "rounds": 200})
        made.add_probe(run, 0.60 + 0.01 * seed)
    rows = published.beside(read(tmp_path))
    linear = [r for r in rows if r.number.measure == "linear"]
    assert len(linear) == 4 + 12  # CIFAR-10 in Tables 2 and 3; not CIFAR-100, not the figures behind a frozen client
    first = linear[0]
    assert (first.number.value, first.number.shown, first.number.cited) == (pytest.approx(0.8781), "87.8 %", "Li et al. 2023")
    assert first.differences == ()
    assert first.matches
    assert (first.ours.n, first.ours.mean) == (3, pytest.approx(0.61))
    assert first.ours.low is not None
    assert first.ours.low < 0.61
    assert any("best epoch on the test images" in c for c in first.cautions)
    assert first.cautions[0].startswith("not stated: symmetric")
    assert [r.number.measure for r in rows].count("mib") == 2


def test_every_difference_is_named(tmp_path: Path) -> None:
    run = made.make_run(tmp_path, **{**TABLE_2, "cut": 13, "rounds": 20, "clients": 20, "clients_per_round": 5, "width": 0.25,
                                     "train_images": 10_000, "arch": "resnet34", "partition": {"kind": "dirichlet"}})
    made.add_probe(run, 0.5)
    rows = {(r.number.settings["cut"], r.number.settings["clients"]): r for r in published.beside(read(tmp_path))
            if r.number.table.startswith("Table 2")}
    assert len(rows) == 4
    assert set(rows[1, 20].differences) == {
        "network: resnet34 (published resnet18)", "width: 0.25 (published 1)", "training images: 10,000 (published all)",
        "cut: 13 (published 1)", "rounds: 20 (published 800)", "partition: dirichlet (published shards)"}
    assert "clients: 20 (published 5)" in rows[3, 5].differences
    assert not rows[3, 5].matches


@pytest.mark.parametrize("changed", [{"dataset": "imagefolder"}, {"dataset": "svhn"}, {"algorithm": "monacosfl"}, {"defence": "nopeek"}])
def test_another_algorithm_data_set_or_defence_is_never_shown(tmp_path: Path, changed: dict[str, Any]) -> None:
    """A folder of images may be CIFAR-10, but its files do not say so."""
    run = made.make_run(tmp_path, **{**TABLE_2, **changed})
    made.add_probe(run, 0.5)
    made.add_attack(run, 0.02, name="decoder")
    assert published.beside(read(tmp_path)) == []


def test_a_figure_needs_a_number_of_ours_and_a_finished_run(tmp_path: Path) -> None:
    run = made.make_run(tmp_path, **TABLE_2)
    made.add_probe(run, 0.5, features="smashed")  # what leaks, not what the features are worth
    assert {r.number.measure for r in published.beside(read(tmp_path))} == {"mib"}
    (run / "result.json").unlink()
    assert published.beside(read(tmp_path)) == []


def test_defended_reconstructions_need_the_frozen_client(tmp_path: Path) -> None:
    """Published errors stand behind a frozen client and a bottleneck; their flaws are told."""
    run = made.make_run(tmp_path, **TABLE_2)
    made.add_attack(run, 0.02, name="decoder")
    assert not [r for r in published.beside(read(tmp_path)) if r.number.measure == "mse"]
    run = made.make_run(tmp_path / "frozen", **TABLE_2, freeze_client=True, bottleneck={"channels": 4, "stride": 2})
    made.add_attack(run, 0.02, name="decoder")
    rows = [r for r in published.beside(read(tmp_path / "frozen")) if r.number.measure == "mse"]
    assert len(rows) == 6 + 14
    assert all(any("contrast 0.8" in c for c in r.cautions) for r in rows)
    assert (rows[0].ours.low, rows[0].ours.high) == (pytest.approx(0.019), pytest.approx(0.021))
    assert rows[0].number.settings["cut"] == 1


def test_nearest_keeps_the_fewest_differences(tmp_path: Path) -> None:
    run = made.make_run(tmp_path, **{**TABLE_2, "cut": 5})
    made.add_probe(run, 0.5)
    rows = published.nearest(published.beside(read(tmp_path)), 1)
    assert [(r.number.measure, r.number.settings["cut"]) for r in rows if r.number.measure == "linear"] == [("linear", 3)]
    assert len(rows) == 2


def test_rounds_to_a_target_need_that_target(tmp_path: Path) -> None:
    run = made.make_run(tmp_path, algorithm="fedavg", cut=5)
    made.add_costs(run, seconds=1, mib=1, reached=True)  # sets 0.45
    assert published.beside(read(tmp_path)) == []
    text = (run / "config.yaml").read_text().replace("target_accuracy: 0.45", "target_accuracy: 0.72")
    (run / "config.yaml").write_text(text)
    (row,) = published.beside(read(tmp_path))
    assert (row.number.value, row.ours.mean) == (348, 6)
