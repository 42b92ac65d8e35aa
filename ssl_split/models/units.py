"""A network is a list of units; it can be cut after every unit that carries a cut label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_split.config import Config


@dataclass(frozen=True)
class Unit:
    """A part of the backbone that is never split.

    Args:
        name: What a table calls it, e.g. `stage 1, block 2`.
        module: Maps one tensor to one tensor, the batch in front.
        cut: Label of the cut after this unit; None where the network cannot be cut.
    """

    name: str
    module: nn.Module
    cut: int | None


def legal_cuts(units: Sequence[Unit]) -> tuple[int | str, ...]:
    """0, the labels of the units, `full`."""
    return (0, *(unit.cut for unit in units if unit.cut is not None), "full")


def units_below(units: Sequence[Unit], cut: int | str) -> int:
    """Number of units in the client's half at a legal cut."""
    if cut in (0, "full"):
        return 0 if cut == 0 else len(units)
    return next(i for i, unit in enumerate(units, 1) if unit.cut == cut)


def pool(h: Tensor) -> Tensor:
    """Global average: `(B, C, H, W)` over space, `(B, tokens, dim)` over tokens, `(B, d)` as it is; -> `(B, features)`."""
    if h.dim() == 4:
        return h.mean((2, 3))
    return h.mean(1) if h.dim() == 3 else h


def input_shape(config: Config, size: int) -> tuple[int, ...]:
    """What a network takes of one example: an image `(3, S, S)`, or token ids `(L,)`."""
    return (size,) if config.dataset == "tsv" else (3, size, size)


def on_meta(module: nn.Module, x: Tensor) -> Tensor:
    """One forward pass without memory or side effects.

    Tensors of the meta device, with the dtype of `x`, stand in for all parameters and buffers: running statistics stay, and it does
    not matter where the weights are and how precise.

    Args:
        module: Any module, wherever its weights are.
        x: `(B, ...)` on the meta device.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    stand_in = {name: torch.empty_like(t, device="meta", dtype=x.dtype if t.is_floating_point() else t.dtype)
                for name, t in tensors.items()}
    with torch.device("meta"), torch.no_grad():
        out: Tensor = torch.func.functional_call(module, stand_in, (x,))
    return out


def trace(units: Sequence[Unit], input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes for one image or sentence: its own, then every unit's output.

    Raises:
        ValueError: a unit does not run on what the one before gives.
    """
    x = torch.empty(2, *input_shape, device="meta")
    shapes: list[tuple[int, ...]] = [tuple(x.shape[1:])]
    for number, unit in enumerate(units, 1):
        try:
            x = on_meta(unit.module, x)
        except Exception as error:  # whatever a user's module may raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            given = f"images of {input_shape[-1]} pixels" if len(input_shape) == 3 else f"sentences of {input_shape[0]} tokens"
            raise ValueError(f"unit {number} ({unit.name}) does not run on {shapes[-1]}, which it gets for {given}: {lines[0]}") from error
        if not isinstance(x, Tensor) or x.dim() not in (2, 3, 4) or x.shape[0] != 2:
            got = f"shape {tuple(x.shape)} for a batch of 2" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"unit {number} ({unit.name}) returns {got}: "
                             "it must return (B, C, H, W), (B, tokens, dim) or (B, d)")
        shapes.append(tuple(x.shape[1:]))
    return shapes
