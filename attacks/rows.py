"""What single clients keep between steps (SGD momentum, momentum encoders), read from a checkpoint for the victim's part of an attack."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssl_split import tree as trees
from ssl_split.files import read_json, read_tensors
from ssl_split.run import Checkpoint
from ssl_split.tree import Tree


def kept(checkpoint: Checkpoint, kind: str, client: int) -> Tensor | None:
    """The row `(size,)` that a client keeps, or None if it has never taken part.

    Args:
        checkpoint: The run.
        kind: `velocity`, `momentum`, `client.velocity`, ...
        client: Which.

    Raises:
        ValueError: the checkpoint holds no rows of single clients.
    """
    header: dict[str, Any] = dict(checkpoint.header)
    if "selected_by_accuracy" in header:
        raise ValueError(f"{checkpoint.path.name} holds averaged weights alone, and this attack needs what single clients keep: use "
                         "--which last")
    cohort = read_tensors(checkpoint.path, "whole/cohort").get("")
    gathered = read_tensors(checkpoint.path, f"flat/cohort.{kind}").get("")
    if gathered is not None and cohort is not None and client in cohort.tolist():
        return gathered[cohort.tolist().index(client)]
    shard = header["rows"].get(f"{kind}/{client}")
    return None if shard is None else read_tensors(checkpoint.path.parent / shard, f"{kind}/{client}")[""]


def by_name(checkpoint: Checkpoint, half: nn.Module, row: Tensor) -> dict[str, Tensor]:
    """A row `(size,)` as the named tensors of a half of the network."""
    layout = trees.layout(half, channels_last=_channels_last(checkpoint))
    return dict(Tree(layout, row))


def _channels_last(checkpoint: Checkpoint) -> bool:
    """Memory order of the run's weights: `Setup.channels_last` on the machine that trained."""
    config = checkpoint.config
    if config.precision != "bf16":
        return True
    on_cpu = config.device == "cpu" or (config.device == "auto" and read_json(checkpoint.run_dir / "env.json")["cuda"] is None)
    return not on_cpu
