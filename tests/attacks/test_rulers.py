"""Rulers are computed once; a file that is damaged costs a computation, not the attack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attacks import rulers
from attacks.judge import Scores
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
