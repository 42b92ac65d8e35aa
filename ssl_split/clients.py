"""P clients, each with weights of its own, as one function of `(P, B, C, H, W)`; and the rows that clients keep between rounds.

Two back ends agree to rounding. The loop runs one client after another, with parameters that are leaf views of the stacked tree (indexing
`w[k]` inside the graph would build a full-size zero gradient per client); only the weights of convolutions are standardised for a chunk of
clients at once, because with one image per client the calls cost more than the arithmetic. Many clients on a CPU are shared out to its
cores, each client on one of them. The fused back end maps one functional call over the client axis.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ssl_split import tree as trees
from ssl_split.models.layers import WSConv2d, standardise_stack
from ssl_split.tree import Tree

T = TypeVar("T")

FUSE_FROM_CLIENTS = 8

CHUNK_BYTES, CHUNK_CLIENTS = 16 * 2**20, 8
"""Clients whose weights are standardised together: about what stays in a cache until the convolutions read it, and not too many."""

IMAGE_GRADIENT_BYTES = 256 * 2**20
"""What gradients of single images may take at a time."""

CLIENTS_PER_THREAD = 4
"""From here on cores work on clients of their own instead of sharing each operation."""


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
        self._skeleton = skeleton
        if engine == "fused":
            self._leaves: dict[tuple[int, int], dict[str, Tensor]] = {}
            return
        self._modules = []
        for k in range(len(weights.flat)):
            module = copy.deepcopy(skeleton)
            trees.bind(module, weights.row(k), gradients.row(k) if gradients else None)
            self._modules.append(module)
        row_bytes = weights.layout.size * weights.flat.element_size()
        self._chunk = max(1, min(CHUNK_CLIENTS, CHUNK_BYTES // max(1, row_bytes)))
        threads = torch.get_num_threads()
        own = weights.flat.device.type == "cpu" and threads > 1 and len(weights.flat) >= CLIENTS_PER_THREAD * threads
        self._pool = _pool(threads) if own else None
        paths = [path for path, part in skeleton.named_modules() if isinstance(part, WSConv2d) and part.weight[0].numel() > 1]
        self._convolutions = {f"{path}.weight": [cast(WSConv2d, m.get_submodule(path)) for m in self._modules] for path in paths}

    def module(self, row: int) -> nn.Module:
        """One client's module, on the tree's memory (loop engine only)."""
        return self._modules[row]

    def _fused_leaves(self, rows: slice) -> dict[str, Tensor]:
        """Weights of these rows, the same tensors at each call: `backward` differentiates what `forward` used."""
        key = (rows.start, rows.stop)
        if key not in self._leaves:
            self._leaves[key] = {name: self.weights[name].data[rows].requires_grad_(self.gradients is not None) for name in self.weights}
        return self._leaves[key]

    def forward(self, x: Tensor | list[Tensor], *, rows: slice | None = None) -> list[Tensor]:
        """Smashed data of every client.

        Args:
            x: `(P, B, C, H, W)`, client by client; or P tensors `(B, ...)`, which may require gradients.
            rows: Neighbours that take part, `slice(start, stop)`; P is their number. None for all.

        Returns:
            P tensors `(B, ...)` with their graphs (one tensor `(P * B, ...)` when fused). Graphs of neighbours are joined: all go
            through one call of `backward`.
        """
        rows = rows or slice(0, len(x))
        if self.engine == "fused":
            stacked = x if isinstance(x, Tensor) else torch.stack(x)
            out = vmap(lambda weights, images: functional_call(self._skeleton, weights, (images,)), randomness="different")(
                self._fused_leaves(rows), stacked)
            return [out.flatten(0, 1)]
        first = rows.start
        chunks = self._each_chunk(lambda part: self._forward_rows(slice(first + part.start, first + part.stop), x[part]), len(x))
        return [output for chunk in chunks for output in chunk]

    def _forward_rows(self, rows: slice, x: Tensor | list[Tensor]) -> list[Tensor]:
        self._standardise(rows)
        outputs = [module(in_order(images, self.weights)) for module, images in zip(self._modules[rows], x, strict=True)]
        self._forget(rows)
        return outputs

    def _each_chunk(self, function: Callable[[slice], T], count: int) -> list[T]:
        """`function` of each chunk of `count` clients, in order; on all cores where there are enough clients."""
        chunks = [slice(start, min(start + self._chunk, count)) for start in range(0, count, self._chunk)]
        if self._pool is None:
            return [function(rows) for rows in chunks]
        kind, grad = self.weights.flat.device.type, torch.is_grad_enabled()  # these belong to a thread
        precision = (torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

        def call(rows: slice) -> T:
            with torch.set_grad_enabled(grad), torch.autocast(kind, *precision):
                return function(rows)

        return list(self._pool.map(call, chunks))

    def _standardise(self, rows: slice) -> None:
        """Hand each convolution of these clients its standardised weights, made in one call per layer."""
        device, dtype = self.weights.flat.device.type, self.weights.flat.dtype
        if torch.is_autocast_enabled(device):  # the convolutions would do it, client by client
            dtype = torch.get_autocast_dtype(device)
        for name, convolutions in self._convolutions.items():
            gradients = self.gradients[name][rows] if self.gradients is not None else None
            made = standardise_stack(self.weights[name][rows], gradients, dtype=dtype)
            for convolution, weight in zip(convolutions[rows], made, strict=True):
                convolution.ready = weight

    def _forget(self, rows: slice) -> None:
        """What the backward pass needs is in the graph; the rest is freed."""
        for convolutions in self._convolutions.values():
            for convolution in convolutions[rows]:
                convolution.ready = None

    def backward(self, outputs: list[Tensor], gradient: Tensor, *, rows: slice | None = None,
                 inputs: list[Tensor] | None = None) -> None:
        """Back-propagate the gradient of the outputs into the gradient tree, and to `.grad` of the inputs that require it.

        Args:
            outputs: What `forward` returned.
            gradient: `(P * B, ...)`, client by client.
            rows: As in `forward`.
            inputs: The list of inputs, where they require gradients.
        """
        if self.gradients is None:
            raise ValueError("these clients are not trained")
        if not outputs[0].requires_grad:  # a half without parameters (cut 0) has nothing to learn
            return
        parts = gradient.split([len(o) for o in outputs])
        if self.engine == "fused":
            rows = rows or slice(0, len(self.weights.flat))
            leaves = self._fused_leaves(rows)
            found = torch.autograd.grad(outputs, [*leaves.values(), *(inputs or [])], parts, allow_unused=True)
            for name, part in zip(leaves, found, strict=False):
                if part is not None:
                    self.gradients[name][rows].add_(part)
            for leaf, part in zip(inputs or [], found[len(leaves):], strict=True):
                leaf.grad = part
            return
        # clients of a chunk share the graph of their standardised weights
        self._each_chunk(lambda part: torch.autograd.backward(outputs[part], parts[part]), len(outputs))

    def image_gradients(self, images: Tensor, gradient: Tensor, *, row: int, looks: int = 1) -> Iterator[Tensor]:
        """Gradients of one client's weights for each of its images alone, which no image of the batch may change (no BatchNorm).

        Args:
            images: `(looks * B, ...)`.
            gradient: Of the client's outputs, `(looks * B, ...)`.
            row: Of the client.
            looks: Views of an image, B rows apart; an image's gradient is their sum.

        Yields:
            Some images' gradients `(b, d)` at a time: the parameters in the order of their names, each flattened.
        """
        layout = self.weights.layout
        fixed = {name: self.weights[name].data[row] for name in self.weights}
        names = [n for n, at in zip(layout.names, layout.offsets, strict=True) if at < layout.trainable]
        learned = {name: fixed.pop(name) for name in names}

        def one(x: Tensor, g: Tensor) -> Tensor:
            pull = vjp(lambda weights: functional_call(self._skeleton, {**fixed, **weights}, (x,)), learned)[1]
            (found,) = pull(g)
            return torch.cat([found[name].flatten() for name in names])

        each = max(1, IMAGE_GRADIENT_BYTES // max(1, layout.size * self.weights.flat.element_size()))
        by_image = [t.to(self.weights.flat.dtype).unflatten(0, (looks, -1)).transpose(0, 1).split(each) for t in (images, gradient)]
        for x, g in zip(*by_image, strict=True):
            yield vmap(one, randomness="different")(x, g)

    def add_gradient(self, gradient: Tensor, *, row: int) -> None:
        """Add to one client's gradient, `(d,)` in the order of `image_gradients`."""
        if self.gradients is None:
            raise ValueError("these clients are not trained")
        start = 0
        for name, at in zip(self.weights.layout.names, self.weights.layout.offsets, strict=True):
            if at < self.weights.layout.trainable:
                target = self.gradients[name][row]
                target.add_(gradient[start : start + target.numel()].view(target.shape))
                start += target.numel()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that compute on one core each."""
    started = threading.Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes over the process's number when it first asks; only then its own one holds
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "clients", initializer=begin)
    for done in [pool.submit(torch.get_num_threads) for _ in range(threads)]:
        assert done.result() == 1
    torch.set_num_threads(threads)  # the workers' call was also the default of threads to come
    return pool


def in_order(images: Tensor, weights: Tree) -> Tensor:
    """Images `(B, C, H, W)` in the memory order of the weights; other shapes as they are."""
    if images.dim() != 4:
        return images
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
