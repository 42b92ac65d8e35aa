"""`client_memory_bytes` of runs without labels and of configured optimisers; the counting itself is tested in tests/models."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny

from ssl_split import train

ADAM = {"algorithm": "sfl_v1", "optimiser": "adam", "client_lr": 0.001, "server_lr": 0.001}
FIRST_ORDER = {"algorithm": "mu_splitfed", "mu_splitfed": {"estimator": "first_order"}, "client_lr": 0.01, "server_lr": 0.01}


@pytest.mark.parametrize(("changes", "copies", "moments"), [({"momentum": 0.0}, 2, 0), ({}, 2, 1), (ADAM, 1, 2), (FIRST_ORDER, 1, 1)])
def test_terms_follow_the_configuration(changes: dict[str, object], copies: int, moments: int, tmp_path: Path) -> None:
    """A momentum client doubles the weights, not the gradients."""
    result = train.run(tiny(tmp_path, max_steps=2, **changes)).result
    one, memory = 4 * result["client_parameters"], result["client_memory_bytes"]
    assert (memory["parameters"], memory["gradients"], memory["optimiser_state"]) == (copies * one, one, moments * one)
    assert memory["sum"] == memory["parameters"] + memory["gradients"] + memory["optimiser_state"] + memory["saved_activations"]


def test_both_views_in_one_batch_save_twice_as_much(tmp_path: Path) -> None:
    """Twice but for the standardised weights, which do not depend on the batch."""
    saved = []
    for batch, symmetric in ((4, "none"), (8, "none"), (4, "stacked")):
        result = train.run(tiny(tmp_path, max_steps=1, batch_size=batch, symmetric=symmetric)).result
        saved.append(result["client_memory_bytes"]["saved_activations"])
    assert saved[0] < saved[1] == saved[2]


def test_a_client_without_weights_holds_its_batch(tmp_path: Path) -> None:
    memory = train.run(tiny(tmp_path, max_steps=1, cut=0)).result["client_memory_bytes"]
    assert memory == dict.fromkeys(memory, 0) | {"live_activations": 4 * 4 * 3 * 16 * 16}
