"""Rulers are computed once; a file that is damaged costs a computation, not the attack."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import rulers
from attacks.judge import Scores
from probes import rulers as probe_rulers
from ssl_split.files import read_json, write_json

KEY = {"attack": "ridge", "network": "a"}


@pytest.mark.parametrize("damage", ["none", "column", "entry", "torn"])
def test_a_ruler_is_kept_and_a_damaged_one_computed_again(tmp_path: Path, damage: str) -> None:
    calls = []

    def compute() -> Scores:
        calls.append(1)
        column = torch.tensor([0.1, 0.2], dtype=torch.float64)
        return Scores(column, column + 1, column + 2, column + 3, {})

    first = rulers.cached(tmp_path, KEY, compute)
    (path,) = tmp_path.glob("invert-ridge-untrained-*.json")
    held = read_json(path)
    if damage == "column":
        del held["per_image"]["ssim"]
    if damage == "entry":
        del held["per_image"]
    write_json(path, held)
    if damage == "torn":
        path.write_text(path.read_text()[:40])
    again = rulers.cached(tmp_path, KEY, compute)
    assert len(calls) == (1 if damage == "none" else 2)
    for found, expected in zip((again.mse, again.psnr, again.ssim, again.ssim_resfl), (first.mse, first.psnr, first.ssim, first.ssim_resfl),
                               strict=True):
        assert torch.equal(found, expected)


BOTH = """
import pathlib, sys, time
from attacks.rulers import cached_rows
from probes.rulers import cached
from probes.statistics import Rate
folder = pathlib.Path(sys.argv[1])

def compute(result):
    with (folder / "calls").open("a") as file:
        file.write("x")
    while not (folder / "go").exists():
        time.sleep(0.02)
    return result

rows = cached_rows(folder / ".rulers", {"attack": "norm"}, lambda: compute([{"auc": 0.5}]), prefix="membership")
print(rows, cached(folder / ".rulers", {"probe": "knn", "ruler": "untrained"}, lambda: compute(Rate(1, 4))))
"""


def test_two_processes_at_once_compute_a_ruler_once(tmp_path: Path) -> None:
    """Rulers of attacks and of probes; this process waits for the other one, and both have the same."""
    pytest.importorskip("fcntl")

    def never() -> Any:
        raise AssertionError("computed twice")

    with subprocess.Popen([sys.executable, "-c", BOTH, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        for _ in range(3000):  # until it computes
            if (tmp_path / "calls").exists() and len(list((tmp_path / ".rulers").glob(".*.lock"))) == 1:
                break
            time.sleep(0.02)
        later = threading.Timer(0.5, (tmp_path / "go").write_text, [""])
        later.start()
        rows = rulers.cached_rows(tmp_path / ".rulers", {"attack": "norm"}, never, prefix="membership")
        assert (tmp_path / "go").exists(), "it did not wait"
        said, errors = other.communicate(timeout=120)
        rate = probe_rulers.cached(tmp_path / ".rulers", {"probe": "knn", "ruler": "untrained"}, never)
    assert said == f"{rows} {rate}\n" == "[{'auc': 0.5}] Rate(correct=1, total=4)\n", errors
    assert (tmp_path / "calls").read_text() == "xx"  # each ruler once
