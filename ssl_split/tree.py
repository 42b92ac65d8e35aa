"""Weights of many clients as one tree `{name: (P, *shape)}` over one flat buffer.

All arithmetic of the algorithms (averages, momentum, corrections) is elementwise over clients and parameters, so it runs on the flat
buffer `(*rows, size)` in one call; modules see named views of the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ALIGN = 16  # elements: every tensor begins on a 64-byte line, which vector loads and oneDNN like


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a module lies in a flat row.

    Attributes:
        names: Parameter names, then buffer names, in module order.
        shapes: Their shapes.
        offsets: First element of each in the row.
        trainable: Row elements that belong to parameters (padding included); buffers follow.
        size: Elements of a row, padding included.
        channels_last: Convolution weights lie in memory as (out, kh, kw, in), so that each row's view is channels_last.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    offsets: tuple[int, ...]
    trainable: int
    size: int
    channels_last: bool = True

    @property
    def numel(self) -> int:
        """State entries without padding: what one copy of the weights costs on the wire."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def trainable_numel(self) -> int:
        """Of those the parameters."""
        pairs = zip(self.shapes, self.offsets, strict=True)
        return sum(shape.numel() for shape, offset in pairs if offset < self.trainable)


def layout(module: nn.Module, *, channels_last: bool = True) -> Layout:
    """The layout of a module's parameters and floating-point buffers."""
    names: list[str] = []
    shapes: list[torch.Size] = []
    offsets: list[int] = []
    at = trainable = 0
    for group in (dict(module.named_parameters()), dict(module.named_buffers())):
        for name, tensor in group.items():
            names.append(name)
            shapes.append(tensor.shape)
            offsets.append(at)
            at += -(-tensor.numel() // _ALIGN) * _ALIGN
        trainable = trainable or at
    if not any(True for _ in module.parameters()):
        trainable = 0
    return Layout(tuple(names), tuple(shapes), tuple(offsets), trainable, at, channels_last)


class Tree(Mapping[str, Tensor]):
    """Named views `(*rows, *shape)` of one buffer `(*rows, size)`."""

    def __init__(self, layout: Layout, flat: Tensor) -> None:
        self.layout = layout
        self.flat = flat
        self._at = {name: i for i, name in enumerate(layout.names)}

    def __getitem__(self, name: str) -> Tensor:
        i = self._at[name]
        shape, offset = self.layout.shapes[i], self.layout.offsets[i]
        part = self.flat[..., offset : offset + shape.numel()]
        rows = self.flat.shape[:-1]
        if len(shape) != 4 or not self.layout.channels_last:
            return part.view(*rows, *shape)
        out, inner, height, width = shape
        last = len(rows)
        return part.view(*rows, out, height, width, inner).permute(*range(last), last, last + 3, last + 1, last + 2)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.names)

    def __len__(self) -> int:
        return len(self.layout.names)

    def row(self, index: int) -> Tree:
        """One client's tree, sharing memory."""
        return Tree(self.layout, self.flat[index])

    def clone(self) -> Tree:
        """A copy with memory of its own."""
        return Tree(self.layout, self.flat.clone())

    @property
    def parameters(self) -> Tensor:
        """The flat part that is trained, `(*rows, trainable)`, sharing memory."""
        return self.flat[..., : self.layout.trainable]


def zeros(layout: Layout, *rows: int, like: Tensor) -> Tree:
    """A tree of zeros with the given leading axes, on the device and in the dtype of `like`."""
    return Tree(layout, torch.zeros(*rows, layout.size, dtype=like.dtype, device=like.device))


def gather(module: nn.Module, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
           channels_last: bool = True) -> Tree:
    """A module's parameters and buffers copied into a tree without leading axes."""
    tree = zeros(layout(module, channels_last=channels_last), like=torch.empty(0, dtype=dtype, device=device))
    fill(tree, {**dict(module.named_parameters()), **dict(module.named_buffers())})
    return tree


def fill(tree: Tree, values: Mapping[str, Tensor]) -> None:
    """Copy named tensors into the tree.

    Raises:
        ValueError: a name is missing or a shape differs.
    """
    for name in tree:
        if name not in values:
            raise ValueError(f"the weights lack {name}")
        if values[name].shape != tree[name].shape:
            raise ValueError(f"{name} has shape {tuple(values[name].shape)}, not {tuple(tree[name].shape)}")
        with torch.no_grad():
            tree[name].copy_(values[name])


def repeat(tree: Tree, count: int) -> Tree:
    """`count` copies along a new first axis."""
    return Tree(tree.layout, tree.flat.expand(count, -1).clone())


def weighted_mean(tree: Tree, weights: Tensor) -> Tree:
    """Federated averaging: sum over clients of p_k w_k.

    Args:
        tree: Rows `(P, size)`.
        weights: `(P,)`, summing to one.

    Returns:
        The average, without the client axis.
    """
    return Tree(tree.layout, weights.to(tree.flat) @ tree.flat)


def ema_(target: Tree, source: Tree, decay: float) -> None:
    """target <- decay target + (1 - decay) source, parameters only (MoCo, He et al. 2020, eq. 2)."""
    target.parameters.lerp_(source.parameters, 1 - decay)


def bind(module: nn.Module, tree: Tree, gradients: Tree | None = None) -> None:
    """Let a module's parameters and buffers share memory with one row of a tree.

    Args:
        module: Its tensors may be on the meta device; they are replaced.
        tree: A row without leading axes.
        gradients: Where `.grad` accumulates; None for modules that are never trained.
    """
    parameters = {name for name, _ in module.named_parameters()}
    for name in tree:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        # `.data` has a version counter of its own: stepping one client must not mark the saved weights of the others as changed
        view = tree[name].data
        if name in parameters:
            parameter = nn.Parameter(view, requires_grad=gradients is not None)
            if gradients is not None:
                parameter.grad = gradients[name].data
            setattr(owner, leaf, parameter)
        else:
            owner._buffers[leaf] = view
