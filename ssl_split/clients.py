"""P clients, each with weights of its own, as one function of `(P, B, C, H, W)`; and the rows that clients keep between rounds.

Two back ends agree to rounding. The loop runs one client after another, with parameters that are leaf views of the stacked tree (indexing
`w[k]` inside the graph would build a full-size zero gradient per client). The fused one maps one functional call over the client axis.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ssl_split import tree as trees
from ssl_split.tree import Tree

FUSE_FROM_CLIENTS = 8


class Clients:
    """The client halves of a cohort on one stacked tree."""

    def __init__(self, half: nn.Module, weights: Tree, *, gradients: Tree | None = None, engine: str = "loop") -> None:
        """
        Args:
            half: The architecture; its own weights are not used.
            weights: `(P, size)`; the caller updates them in place.
            gradients: `(P, size)`, where `backward` accumulates; None for clients that are never trained.
            engine: `loop` or `fused`.
        """
        self.weights, self.gradients, self.engine = weights, gradients, engine
        skeleton = copy.deepcopy(half).to("meta").train()
        if engine == "fused":
            self._skeleton = skeleton
            self._leaves = self._fused_leaves()
            return
        self._modules = []
        for k in range(len(weights.flat)):
            module = copy.deepcopy(skeleton)
            trees.bind(module, weights.row(k), gradients.row(k) if gradients else None)
            self._modules.append(module)

    def module(self, row: int) -> nn.Module:
        """One client's module, on the tree's memory (loop engine only)."""
        return self._modules[row]

    def _fused_leaves(self) -> dict[str, Tensor]:
        leaves = {}
        for name in self.weights:
            leaf = self.weights[name].data
            if self.gradients is not None:
                leaf.requires_grad_()
                leaf.grad = self.gradients[name].data
            leaves[name] = leaf
        return leaves

    def forward(self, x: Tensor) -> list[Tensor]:
        """Smashed data of every client.

        Args:
            x: `(P, B, C, H, W)`, client by client.

        Returns:
            P tensors `(B, ...)` with their graphs (one tensor `(P * B, ...)` when fused).
        """
        if self.engine == "fused":
            out = vmap(lambda weights, images: functional_call(self._skeleton, weights, (images,)), randomness="different")(self._leaves, x)
            return [out.flatten(0, 1)]
        return [module(in_order(images, self.weights)) for module, images in zip(self._modules, x, strict=True)]

    def backward(self, outputs: list[Tensor], gradient: Tensor) -> None:
        """Back-propagate what the server returned, into the gradient tree.

        Args:
            outputs: What `forward` returned.
            gradient: `(P * B, ...)`, client by client.
        """
        if self.gradients is None:
            raise ValueError("these clients are not trained")
        for output, part in zip(outputs, gradient.split([len(o) for o in outputs]), strict=True):
            if output.requires_grad:  # a half without parameters (cut 0) has nothing to learn
                output.backward(part)


def in_order(images: Tensor, weights: Tree) -> Tensor:
    """Images `(B, C, H, W)` in the memory order of the weights."""
    return images.contiguous(memory_format=torch.channels_last if weights.layout.channels_last else torch.contiguous_format)


def choose_engine(engine: str, half: nn.Module, *, clients: int, device: torch.device) -> str:
    """`auto` fuses many clients on a GPU; on a CPU the loop is faster (docs/performance.md).

    Raises:
        ValueError: the fused engine was asked for a half with running statistics.
    """
    buffers = any(True for _ in half.buffers())
    if engine == "fused" and buffers:
        raise ValueError("engine fused cannot update the running statistics of BatchNorm: use --norm group or --engine loop")
    if engine != "auto":
        return engine
    return "fused" if device.type == "cuda" and clients >= FUSE_FROM_CLIENTS and not buffers else "loop"


class ClientStore:
    """Rows that single clients keep between rounds (momentum encoders, SGD momentum); a client never visited has none.

    Rows live in memory up to a limit, then in memory-mapped files.
    """

    def __init__(self, *, limit_bytes: int = 4 * 2**30, folder: Path | None = None) -> None:
        """
        Args:
            limit_bytes: Memory that rows may take before further ones go to files.
            folder: Where these files are made (and removed again); needed only past the limit.
        """
        self.changed: set[tuple[str, int]] = set()
        self._rows: dict[tuple[str, int], Tensor] = {}
        self._limit, self._folder, self._used = limit_bytes, folder, 0

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._rows

    def keys(self) -> Iterable[tuple[str, int]]:
        """All (kind, client) that have a row."""
        return self._rows.keys()

    def get(self, kind: str, client: int) -> Tensor:
        """The client's row `(size,)`."""
        return self._rows[kind, client]

    def put(self, kind: str, client: int, row: Tensor) -> None:
        """Keep a copy of `row` `(size,)` and mark it as changed since the last checkpoint."""
        key = (kind, client)
        if key not in self._rows:
            self._rows[key] = self._allocate(kind, client, row)
        self._rows[key].copy_(row)
        self.changed.add(key)

    def drop(self, kind: str) -> None:
        """Forget all rows of a kind."""
        for key in [k for k in self._rows if k[0] == kind]:
            del self._rows[key]
            self.changed.discard(key)

    def _allocate(self, kind: str, client: int, row: Tensor) -> Tensor:
        size = row.numel() * row.element_size()
        if self._used + size <= self._limit or self._folder is None:
            self._used += size
            return torch.empty_like(row, device="cpu")
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{kind}-{client}.rows"
        with path.open("wb") as file:
            file.truncate(size)
        mapped = torch.from_file(str(path), shared=True, size=row.numel(), dtype=row.dtype)
        path.unlink()  # the mapping keeps the space until the process ends, however it ends
        return mapped
