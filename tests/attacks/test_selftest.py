"""The attacks find what there is to find, and nothing where there is nothing."""

from __future__ import annotations

import pytest

from attacks import selftest
from attacks.api import METHODS
from attacks.members import memoriser

REPEATED = ("convolution", "constant")
"""Clients that ask of the attacks what the identity and noise ask, to succeed and to fail: among the slow tests."""


def test_repeated_clients_exist() -> None:
    assert set(REPEATED) < set(selftest.GROUPS)


@pytest.mark.parametrize("group", [pytest.param(g, marks=pytest.mark.slow if g in REPEATED else ()) for g in selftest.GROUPS])
def test_every_attack_succeeds_where_it_must_and_fails_where_it_must(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Reconstructions, labels and the client's update on each client, and membership; one group after another, side by side in time."""
    assert selftest.main(["--only", group]) == 0
    unclaimed = sum(client == group for _, client in selftest.UNCLAIMED)
    count = 4 * len(memoriser.METHODS) if group == "membership" else len(METHODS) + 2 - unclaimed
    assert capsys.readouterr().out.splitlines()[-1] == f"{count} of {count} as they must be"


def test_nothing_is_left_out() -> None:
    assert len(selftest.UNCLAIMED) == 4
    assert {client for _, client in selftest.UNCLAIMED} <= set(selftest.CLIENTS)


def test_a_broken_attack_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(only: str | None) -> list[selftest.Row]:
        return [selftest.Row("ridge", "identity", 0.3, "succeed", 1.0), selftest.Row("ridge", "noise", 0.2, "fail", 1.0),
                selftest.Row("ridge", "convolution", 0.95, "succeed", 1.0)]

    monkeypatch.setattr(selftest, "rows", rows)
    monkeypatch.setattr(selftest, "membership_rows", lambda: iter(()))
    assert selftest.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 3 as they must be; not ridge on identity; not ridge on noise"
