"""What a client has to hold in memory, counted without holding it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_split.models.count import parameters


@dataclass(frozen=True)
class ClientMemory:
    """Bytes of one client in one training step; their sum is what methods are compared by.

    Attributes:
        parameters: All weights, frozen ones and a momentum client's included; buffers (running statistics) are not.
        gradients: One number for every trainable weight; 0 in zeroth order.
        optimiser_state: The running averages of the optimiser.
        saved_activations: What autograd keeps for the backward pass, see `saved_bytes`; 0 in zeroth order.
        live_activations: Not in the sum: the most that one forward pass without a graph holds at once, see `live_bytes`. In zeroth order
            it is all that there is besides weights.
    """

    parameters: int
    gradients: int
    optimiser_state: int
    saved_activations: int
    live_activations: int

    @property
    def sum(self) -> int:
        """All but the live activations, of which the saved ones are part or successor."""
        return self.parameters + self.gradients + self.optimiser_state + self.saved_activations

    def to_dict(self) -> dict[str, int]:
        """All terms and the sum."""
        return {**asdict(self), "sum": self.sum}


def client_memory(module: nn.Module, x: Tensor, *, moments: int, dtype: torch.dtype = torch.float32, zeroth_order: bool = False,
                  momentum_client: bool = False) -> ClientMemory:
    """The memory of a client that trains `module` on batches like `x`; nothing is computed, and the module stays as it is.

    Args:
        module: The client's part, wherever its weights are; without any (cut 0) every term but the live activations is 0.
        x: A batch on any device, of which shape and kind count: `(B, 3, S, S)` images, `(B, L)` token ids (which keep their size).
        moments: Running averages that the optimiser keeps for every trainable weight: SGD 0, with momentum 1, Adam 2.
        dtype: In which weights and activations are held.
        zeroth_order: Steps come from forward passes alone.
        momentum_client: A second copy of the weights that follows the first and makes the keys, without a graph (MoCo).
    """
    module = on_meta_device(module, dtype).train()
    x = torch.empty_like(x, device="meta", dtype=dtype if x.is_floating_point() else x.dtype, memory_format=torch.contiguous_format)
    every = sum(p.numel() for p in module.parameters()) * dtype.itemsize
    trainable = parameters(module) * dtype.itemsize
    return ClientMemory(parameters=every * (2 if momentum_client else 1), gradients=0 if zeroth_order else trainable,
                        optimiser_state=moments * trainable, saved_activations=0 if zeroth_order else saved_bytes(module, x),
                        live_activations=live_bytes(module, x))


def on_meta_device(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a module whose parameters and buffers are without memory; those of floating point get `dtype`, frozen ones stay frozen."""
    stand_in: dict[int, Any] = {}
    for p in module.parameters():
        stand_in[id(p)] = nn.Parameter(torch.empty_like(p, device="meta", dtype=dtype), requires_grad=p.requires_grad)
    for b in module.buffers():
        stand_in[id(b)] = torch.empty_like(b, device="meta", dtype=dtype if b.is_floating_point() else b.dtype)
    return copy.deepcopy(module, stand_in)  # what is named here is not copied, but replaced


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd saves for the backward pass of `module(x)`, parameters and their views excluded.

    Each storage counts once and in full, however many operations saved it or a view of it. What is derived from parameters counts
    (standardised weights), and so does the input where a layer keeps it.

    Args:
        module: On any device; on the meta device nothing is computed.
        x: `(B, ...)` on the same device.
    """
    saved: dict[StorageWeakRef, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[StorageWeakRef(storage)] = storage.nbytes()
        return tensor

    with x.device, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    for parameter in module.parameters():
        saved.pop(StorageWeakRef(parameter.untyped_storage()), None)
    del out  # it held the graph, and so everything that was saved
    return sum(saved.values())


def live_bytes(module: nn.Module, x: Tensor) -> int:
    """The most bytes that activations take at any one time in a forward pass without a graph.

    Counted after every operation: its inputs and outputs and whatever else is still in use (a residual connection's input, say), with
    `x`, which the caller holds; without parameters and buffers. Memory inside an operation does not count.

    Args:
        module: On any device; on the meta device nothing is computed.
        x: `(B, ...)` on the same device.
    """
    watch = _Live([x], aside=[*module.parameters(), *module.buffers()])
    with x.device, torch.no_grad(), watch:
        module(x)
    return watch.most


class _Live(TorchDispatchMode):
    """Watches the storages that operations make, until they are freed."""

    def __init__(self, known: list[Tensor], *, aside: list[Tensor]) -> None:
        super().__init__()
        self._aside = {StorageWeakRef(t.untyped_storage()) for t in aside}
        self._live: dict[StorageWeakRef, int] = {}
        self.most = 0
        self._enter(known)

    def _enter(self, tensors: list[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = StorageWeakRef(storage)
                if key not in self._aside:
                    self._live[key] = storage.nbytes()
        self.most = max(self.most, sum(self._live.values()))

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for key in [key for key in self._live if key.expired()]:
            del self._live[key]
        out = func(*args, **(kwargs or {}))
        self._enter(tree_leaves(out))
        return out
