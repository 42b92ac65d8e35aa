"""Writing a run's whole state to disk and taking it up again at any step.

Rows of single clients are written to shards, only those changed since the last checkpoint; each checkpoint's header says which shard
holds which row, and shards that no kept checkpoint names are deleted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_split import tree as trees
from ssl_split.algorithms.api import State
from ssl_split.files import read_tensors, write_tensors
from ssl_split.run import checkpoints, read_header


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run_dir: Path, header: Mapping[str, Any], *, keep: int) -> None:
        """
        Args:
            run_dir: The run.
            header: What every checkpoint says: config, data digest, image size.
            keep: How many of the newest are kept.
        """
        self.folder = run_dir / "checkpoints"
        self.run_dir, self.header, self.keep = run_dir, dict(header), keep
        self.before = 0.0
        """Seconds of training behind the checkpoint that was loaded."""
        self._start = time.monotonic()
        self._shard_of: dict[str, str] = {}

    def save(self, state: State, *, finished: bool) -> Path:
        """Write a checkpoint, then delete what it makes superfluous.

        Raises:
            FloatingPointError: a weight is not finite; the last good checkpoint stays.
        """
        for name, tree in state.trees.items():
            if not torch.isfinite(tree.flat.sum()):
                raise FloatingPointError(f"{name} holds values that are not finite")
        self._write_shard(state)
        whole = {"ledger.current": state.ledger.current, "ledger.total": state.ledger.total, "cohort": state.cohort,
                 "positions": state.positions}
        tensors = {f"whole/{name}": t for name, t in whole.items()} | {f"tensor/{name}": t for name, t in state.tensors.items()}
        for name, tree in state.trees.items():
            if name.startswith("cohort."):
                tensors |= {f"flat/{name}": tree.flat} if state.gathered else {}  # else the next cohort gathers its own
            else:
                tensors |= {f"{name}/{key}": tree[key] for key in tree}
        path = self.folder / f"step-{state.step:08d}.safetensors"
        write_tensors(path, tensors, self._header(state, finished))
        self._delete_old()
        return path

    def save_best(self, state: State, accuracy: float) -> None:
        """Write the weights alone, as the best so far by kNN accuracy."""
        tensors = {f"{name}/{key}": tree[key] for name, tree in state.trees.items() if not name.startswith("cohort.") for key in tree}
        write_tensors(self.folder / "best.safetensors", tensors, self._header(state, False) | {"selected_by_accuracy": accuracy})

    def load(self, path: Path, state: State) -> None:
        """Fill a fresh state with what a checkpoint holds.

        Raises:
            ValueError: the file is damaged or does not fit this run.
        """
        header = read_header(path)
        gathered = read_tensors(path, "flat/")
        for name, tree in state.trees.items():
            if name.startswith("cohort."):
                if name in gathered:
                    tree.flat.copy_(gathered[name])
            else:
                trees.fill(tree, read_tensors(path, f"{name}/"))
        for name, tensor in read_tensors(path, "tensor/").items():
            state.tensors[name].copy_(tensor)
        whole = read_tensors(path, "whole/")
        state.ledger.current, state.ledger.total = whole["ledger.current"], whole["ledger.total"]
        state.cohort, state.positions = whole["cohort"], whole["positions"]
        state.counters.update(header["counters"])
        state.round, state.step, state.step_in_round = header["round"], header["step"], header["step_in_round"]
        state.gathered = header["gathered"]
        self.before, self._start = float(header.get("seconds", 0.0)), time.monotonic()
        self._shard_of = dict(header["rows"])
        for shard in sorted(set(self._shard_of.values())):
            for key, row in read_tensors(self.folder / shard).items():
                if self._shard_of.get(key) == shard:
                    kind, client = key.split("/")
                    state.store.put(kind, int(client), row)
        state.store.changed.clear()

    def _header(self, state: State, finished: bool) -> dict[str, Any]:
        return self.header | {"round": state.round, "step": state.step, "step_in_round": state.step_in_round, "finished": finished,
                              "gathered": state.gathered, "counters": state.counters, "rows": self._shard_of,
                              "seconds": round(self.before + time.monotonic() - self._start, 3)}

    def _write_shard(self, state: State) -> None:
        held = {f"{kind}/{client}" for kind, client in state.store.keys()}  # noqa: SIM118
        self._shard_of = {key: shard for key, shard in self._shard_of.items() if key in held}
        if not state.store.changed:
            return
        shard = f"clients-{state.step:08d}.safetensors"
        rows = {f"{kind}/{client}": state.store.get(kind, client) for kind, client in sorted(state.store.changed)}
        write_tensors(self.folder / shard, rows, {})
        self._shard_of |= dict.fromkeys(rows, shard)
        state.store.changed.clear()

    def _delete_old(self) -> None:
        kept = checkpoints(self.run_dir)
        for path in kept[: -self.keep]:
            path.unlink()
        named = {shard for path in kept[-self.keep :] for shard in read_header(path)["rows"].values()}
        for path in self.folder.glob("clients-*.safetensors"):
            if path.name not in named:
                path.unlink()


def newest_readable(run_dir: Path) -> Path | None:
    """The newest checkpoint that can be read whole, or None."""
    for path in reversed(checkpoints(run_dir)):
        try:
            header = read_header(path)
            if all((path.parent / shard).is_file() for shard in set(header["rows"].values())):
                return path
        except ValueError:
            continue
    return None
