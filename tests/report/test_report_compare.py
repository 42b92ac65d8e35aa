"""Two studies: who is matched with whom, what differs in their settings, and which differences the intervals carry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as made

from ssl_split.report import compare as comparing
from ssl_split.report.collect import collect
from ssl_split.report.compare import compare
from ssl_split.report.table import Study, study

T_3 = 4.302652730
"""Student's t, two-sided 95 %, 2 degrees of freedom."""


def read(directory: Path) -> Study:
    """The study of a directory."""
    return study(collect(directory))


def probed(directory: Path, accuracies: list[float], *, first: int = 0, **fields: Any) -> Study:
    """Runs with these accuracies, one a seed."""
    for seed, value in enumerate(accuracies, first):
        made.add_probe(made.make_run(directory, seed=seed, **fields), value)
    return read(directory)


def test_a_study_beside_itself_is_equal(tmp_path: Path) -> None:
    made.make_study(tmp_path)
    found = compare(read(tmp_path), read(tmp_path))
    assert len(found.pairs) == 6
    assert found.only_ours == found.only_other == found.flags == ()
    for pair in found.pairs:
        assert pair.settings == pair.cautions == ()
        assert {d.relation for d in pair.differences} == {comparing.EQUAL}
        assert [d.measure.key for d in pair.differences] == ["accuracy", "r2", "mse", "mib_per_client", "client_parameters", "seconds"]
    assert len(found.measures) == 6


def test_three_shared_seeds_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """Gains .02, .03, .04: mean .03, deviation .01, half t(2) .01 / sqrt 3 = .0248, so clear; the other way round too."""
    ours, other = probed(tmp_path / "a", [0.52, 0.63, 0.74]), probed(tmp_path / "b", [0.50, 0.60, 0.70])
    (pair,) = compare(ours, other).pairs
    found = pair.of("accuracy")
    assert found is not None
    half = T_3 * 0.01 / math.sqrt(3)
    assert (found.difference, found.low, found.high) == pytest.approx((0.03, 0.03 - half, 0.03 + half))
    assert (found.n, found.paired, found.relation, found.clear) == (3, True, comparing.HIGHER, True)
    (pair,) = compare(other, ours).pairs
    assert pair.of("accuracy").relation == comparing.LOWER  # type: ignore[union-attr]


def test_a_difference_within_its_interval_is_not_clear(tmp_path: Path) -> None:
    """Gains .10, -.05, .04: mean .03, but the interval covers 0."""
    (pair,) = compare(probed(tmp_path / "a", [0.60, 0.45, 0.54]), probed(tmp_path / "b", [0.5, 0.5, 0.5])).pairs
    found = pair.of("accuracy")
    assert found is not None
    assert found.low is not None
    assert found.low < 0 < found.difference
    assert (found.relation, found.clear) == (comparing.UNCLEAR_HIGHER, False)


@pytest.mark.parametrize(("gain", "relation"), [(0.03, comparing.HIGHER), (0.015, comparing.UNCLEAR_HIGHER), (-0.03, comparing.LOWER)])
def test_one_shared_seed_needs_intervals_that_do_not_overlap(tmp_path: Path, gain: float, relation: str) -> None:
    """Intervals reach .01 to either side; seed 1 is in ours alone and is not compared."""
    ours, other = probed(tmp_path / "a", [0.5 + gain, 0.9]), probed(tmp_path / "b", [0.5])
    (pair,) = compare(ours, other).pairs
    found = pair.of("accuracy")
    assert found is not None
    assert (found.n, found.low, found.ours, found.relation) == (1, None, pytest.approx(0.5 + gain), relation)
    assert any("those that both have" in c for c in pair.cautions)


def test_without_a_shared_seed_means_are_compared(tmp_path: Path) -> None:
    (pair,) = compare(probed(tmp_path / "a", [0.5]), probed(tmp_path / "b", [0.6], first=5)).pairs
    found = pair.of("accuracy")
    assert found is not None
    assert (found.n, found.paired, found.relation) == (0, False, comparing.LOWER)
    assert pair.cautions == ("no seed is in both: the means are compared",)


def test_equal_names_do_not_make_equal_settings(tmp_path: Path) -> None:
    """Every field that differs is named; seeds, places and unused options of defences are not."""
    ours = probed(tmp_path / "a", [0.5], rounds=20, partition={"kind": "iid"})
    other = probed(tmp_path / "b", [0.5], rounds=10, threads=3)
    (pair,) = compare(ours, other).pairs
    assert {(s.name, s.ours, s.other) for s in pair.settings} == {("rounds", "20", "10"), ("partition.kind", "iid", "shards")}
    defended = probed(tmp_path / "c", [0.5], defence="gaussian", gaussian={"sigma": 2.0})
    (pair,) = compare(defended, other).pairs
    assert ("gaussian.sigma", "2", "0.5") in {(s.name, s.ours, s.other) for s in pair.settings}
    assert ("defence", "gaussian", "none") in {(s.name, s.ours, s.other) for s in pair.settings}


def test_what_has_no_partner_is_told_with_its_reason(tmp_path: Path) -> None:
    made.make_study(tmp_path / "ours", cuts=(1, 9), seeds=1)
    made.make_study(tmp_path / "theirs", cuts=(1, 17), seeds=1, algorithms=("monacosfl",))
    found = compare(read(tmp_path / "ours"), read(tmp_path / "theirs"))
    assert [p.ours.title for p in found.pairs] == ["monacosfl at cut 1"]
    assert {u.group.title: u.reason for u in found.only_ours} == {
        "mocosfl at cut 1": "theirs has no mocosfl", "mocosfl at cut 9": "theirs has no mocosfl",
        "monacosfl at cut 9": "theirs has monacosfl at 1 and 17, not at 9"}
    assert [u.reason for u in found.only_other] == ["ours has monacosfl at 1 and 9, not at 17"]


def test_settings_are_matched_by_name_first_and_else_where_only_one_is_left(tmp_path: Path) -> None:
    for clients in (5, 10):
        made.make_run(tmp_path / "ours", clients=clients)
    for clients in (5, 10, 20):
        made.make_run(tmp_path / "theirs", clients=clients)
    made.make_run(tmp_path / "single", clients=4)
    found = compare(read(tmp_path / "ours"), read(tmp_path / "theirs"))
    assert {(p.ours.setting, p.other.setting) for p in found.pairs} == {("clients 5", "clients 5"), ("clients 10", "clients 10")}
    assert [u.reason for u in found.only_other] == ["ours has no setting 'clients 20' there, but 'clients 10' and 'clients 5'"]
    assert compare(read(tmp_path / "ours"), read(tmp_path / "single")).pairs == ()
    made.make_run(tmp_path / "other", clients=20)
    (pair,) = compare(read(tmp_path / "other"), read(tmp_path / "single")).pairs
    assert [(s.name, s.ours, s.other) for s in pair.settings] == [("clients", "20", "4")]


def test_mixed_versions_machines_data_and_attacks_are_flagged(tmp_path: Path) -> None:
    for name, attack in (("a", "ridge"), ("b", "decoder")):
        run = made.make_run(tmp_path / name)
        made.add_attack(run, 0.02, name=attack)
        made.change(run, "env.json", data_digest=name, processor=f"machine {name}", commit=name)
        made.change(run, "result.json", results_version=1 if name == "a" else 2)
    found = compare(read(tmp_path / "a"), read(tmp_path / "b"))
    assert found.flags[0] == "Mixed results_version: 1 here, 2 there; numbers of different versions do not compare."
    assert [f.split(":")[0] for f in found.flags] == ["Mixed results_version", "Mixed commit", "Mixed processor"]
    assert found.pairs[0].cautions == ("the strongest attack is ridge here and decoder there",
                                       "the images or labels are not the same (data_digest)")


def test_accuracies_of_other_probes_are_not_compared(tmp_path: Path) -> None:
    ours = probed(tmp_path / "a", [0.5])
    made.add_probe(made.make_run(tmp_path / "b"), 0.5, name="knn")
    found = compare(ours, read(tmp_path / "b"))
    assert found.pairs[0].of("accuracy") is None
    assert found.pairs[0].of("seconds") is not None
    assert found.flags == ("The headline accuracy is linear here and knn there, so accuracies are not compared.",)


def test_traffic_is_counted_and_time_is_not(tmp_path: Path) -> None:
    """One seed: other bytes are a clear difference, other seconds are not."""
    made.make_run(tmp_path / "a")
    made.change(made.make_run(tmp_path / "b"), "result.json", mib_per_client=359.0, seconds=121.0)
    (pair,) = compare(read(tmp_path / "a"), read(tmp_path / "b")).pairs
    assert pair.of("mib_per_client").relation == comparing.HIGHER  # type: ignore[union-attr]
    assert pair.of("mib_per_client").difference == 1.0  # type: ignore[union-attr]
    assert pair.of("seconds").relation == comparing.UNCLEAR_LOWER  # type: ignore[union-attr]


def test_other_options_of_the_probe_or_attack_are_named(tmp_path: Path) -> None:
    """10 epochs against 100, 500 own images against 5,000: the difference is one of the measurement, not of the training."""
    for name, epochs, aux in (("a", 10, 500), ("b", 100, 5000), ("c", 10, 500)):
        run = made.make_run(tmp_path / name)
        made.add_probe(run, 0.6, epochs=epochs)
        made.add_attack(run, 0.02, aux=aux)
    (pair,) = compare(read(tmp_path / "a"), read(tmp_path / "b")).pairs
    assert pair.cautions == ("the probe was not made with the same options: epochs 10 here and 100 there",
                             "the strongest attack was not made with the same options: aux 500 here and 5000 there")
    (pair,) = compare(read(tmp_path / "a"), read(tmp_path / "c")).pairs
    assert pair.cautions == ()


def test_versions_of_probes_are_compared_too(tmp_path: Path) -> None:
    for name, commit in (("a", "abc1234"), ("b", "fffffff")):
        made.add_probe(made.make_run(tmp_path / name), 0.6, environment={"commit": commit, "processor": name})
    found = compare(read(tmp_path / "a"), read(tmp_path / "b"))
    assert found.flags == ("Mixed commit: abc1234 here, abc1234 and fffffff there; numbers of different versions may not compare.",)
