"""The sweep files that come with the project are legal and have the size their headers state."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_split.sweep import plan
from ssl_split.sweep.jobs import jobs

FOLDER = Path(__file__).parents[2] / "configs" / "sweeps"
SIZES = {"quick": (12, 36), "photos": (5, 15), "privacy_utility": (54, 432), "cuts_short": (10, 50), "factors_short": (10, 30),
         "smofi_short": (45, 90), "smofi_staleness": (12, 24), "minibatch_short": (63, 126), "gas_short": (36, 72),
         "mu_splitfed_short": (36, 72), "lost_messages_short": (8, 24), "federated_short": (135, 270),
         "sam_radius_short": (80, 160), "sam_epochs_short": (36, 72), "fedwmsam_ablation_short": (22, 44),
         "federated_ssl_short": (8, 24), "federated_longer_short": (4, 8), "federated_even_short": (12, 24), "defences": (24, 120),
         "defences_short": (18, 54), "tradeoff_short": (40, 240), "supervised_attacks_short": (4, 36),
         "defences_decoder_short": (11, 44), "bottleneck_short": (2, 8)}
"""Name -> trainings, jobs."""
GIVEN = {name: {"client_from": "runs/RUN", "server_from": "runs/RUN"} for name in ("defences_short", "defences_decoder_short")}
"""Flags without which a file says what is missing."""


def test_every_sweep_file_is_known_here() -> None:
    assert {p.stem for p in FOLDER.glob("*.yaml")} == SIZES.keys()


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str, tmp_path: Path) -> None:
    sweep = plan.read(FOLDER / f"{name}.yaml", overrides=GIVEN.get(name))
    assert (len(sweep.cells), len(jobs(sweep, tmp_path))) == SIZES[name]


def test_privacy_utility_covers_all_cuts_with_three_seeds() -> None:
    sweep = plan.read(FOLDER / "privacy_utility.yaml")
    places = {(c.config.algorithm, c.config.cut, c.config.seed) for c in sweep.cells}
    assert places == {(a, cut, s) for a in ("mocosfl", "monacosfl") for cut in range(1, 18, 2) for s in range(3)}
    assert {(c.config.dataset, c.config.width, c.config.rounds) for c in sweep.cells} == {("cifar10", 1.0, 200)}
