"""Total variation of images under its three names, which differ by orders of magnitude: a prior of the optimisation attack."""

from __future__ import annotations

from torch import Tensor

TINY = 1e-12


def tv_sq(x: Tensor) -> Tensor:
    """Mean squared difference of neighbours, columns plus rows, of each image `(n, C, H, W)`: `(n,)` (UnSplit, ResSFL)."""
    across, down = _differences(x)
    return across.square().mean((1, 2, 3)) + down.square().mean((1, 2, 3))


def tv_l1(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, columns plus rows: `(n,)`."""
    across, down = _differences(x)
    return across.abs().mean((1, 2, 3)) + down.abs().mean((1, 2, 3))


def tv_iso(x: Tensor) -> Tensor:
    """Mean length of the gradient, over pixels that have a neighbour on both sides: `(n,)` (Rudin, Osher and Fatemi 1992)."""
    across, down = _differences(x)
    return (across[:, :, :-1].square() + down[..., :-1].square() + TINY).sqrt().mean((1, 2, 3))


VARIATIONS = {"tv_iso": tv_iso, "tv_l1": tv_l1, "tv_sq": tv_sq}


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of columns `(n, C, H, W - 1)` and of rows `(n, C, H - 1, W)`."""
    return x[..., 1:] - x[..., :-1], x[:, :, 1:] - x[:, :, :-1]
