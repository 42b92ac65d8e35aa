"""The attacks find what there is to find, and nothing where there is nothing."""

from __future__ import annotations

import pytest

from attacks import selftest
from attacks.api import METHODS
from attacks.members import memoriser


def test_every_attack_succeeds_where_it_must_and_fails_where_it_must(capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.main([]) == 0
    shown = capsys.readouterr().out
    assert len(selftest.UNCLAIMED) == 3
    # of reconstructions, labels, the client's update; membership
    count = 4 * (len(METHODS) + 2) - len(selftest.UNCLAIMED) + 4 * len(memoriser.METHODS)
    assert shown.splitlines()[-1] == f"{count} of {count} as they must be"


def test_a_broken_attack_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> list[selftest.Row]:
        return [selftest.Row("ridge", "identity", 0.3, "succeed", 1.0), selftest.Row("ridge", "noise", 0.2, "fail", 1.0),
                selftest.Row("ridge", "convolution", 0.95, "succeed", 1.0)]

    monkeypatch.setattr(selftest, "rows", rows)
    monkeypatch.setattr(selftest, "membership_rows", lambda: iter(()))
    assert selftest.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 3 as they must be; not ridge on identity; not ridge on noise"
