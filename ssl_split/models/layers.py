"""Layers of all networks: weight-standardised convolution, GroupNorm of 4 channels, BatchNorm without counter, initialisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILTER = (-3, -2, -1)
"""Dimensions of one filter in a weight `(..., out, in, kh, kw)`."""

WS_EPS = 1e-5


class _Standardise(torch.autograd.Function):
    """`w -> (w_hat, s)` with w_hat = (w - mean) / (s + eps) and s the unbiased deviation, per filter.

    Written by hand because a client with one image a step standardises all its weights for it: through `var_mean` and autograd
    that costs more than its convolutions. The forward pass borrows the layer-norm kernel. The backward pass is the closed form in
    differentiable operations on both outputs, so it can itself be differentiated (gradient matching) and vmapped (many clients).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(w: Tensor) -> tuple[Tensor, Tensor]:
        n = math.prod(w.shape[-3:])
        # A filter that is contiguous as (kh, kw, in) is channels_last; the kernel would copy it if it were not permuted.
        last = w.shape[-3] > 1 and w.stride(-3) == 1
        flat = w.movedim(-3, -1) if last else w
        # eps only keeps a constant filter finite (0 instead of 0/0); it is far below one rounding of any real variance.
        unit, _, rstd = torch.native_layer_norm(flat, flat.shape[-3:], None, None, 1e-30)
        s = math.sqrt(n / (n - 1)) / rstd
        w_hat = unit.mul_(1 / (rstd * (s + WS_EPS)))
        return (w_hat.movedim(-1, -3) if last else w_hat), s

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_s: Tensor) -> Tensor:
        w_hat, s = ctx.saved_tensors
        scale, along, shift = _pull_back(g, w_hat, s)
        along = along + g_s * (s + WS_EPS) / (s * (math.prod(w_hat.shape[-3:]) - 1))  # ds/dw = w_hat (s + eps) / (s (n - 1))
        return torch.addcmul(torch.addcmul(shift, g, scale), w_hat, along)


def _pull_back(g: Tensor, w_hat: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per filter a, b, c of dL/dw = a g + b w_hat + c for g = dL/dw_hat; the s inside w_hat contributes b = -(g . w_hat) / (s (n - 1))."""
    inverse = 1 / (s + WS_EPS)
    along = -(g * w_hat).sum(FILTER, keepdim=True) / (s * (math.prod(w_hat.shape[-3:]) - 1))
    return inverse, along, -inverse * g.mean(FILTER, keepdim=True)


def standardise(weight: Tensor) -> Tensor:
    """Weight standardisation: w_hat = (w - mean) / (std + 1e-5) per output filter, std unbiased over in x kh x kw.

    Args:
        weight: `(..., out, in, kh, kw)`; leading dimensions (clients) are independent.

    Returns:
        Same shape, dtype and memory order. A filter of one single weight has no deviation and is returned as it is, because
        subtracting its mean would switch the filter off for good.

    Source: Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, arXiv 1903.10520; the
    epsilon is added to the deviation, as in the MocoSFL code.
    """
    if math.prod(weight.shape[-3:]) == 1:
        return weight
    return _Standardise.apply(weight)[0]


class _StandardiseStack(torch.autograd.Function):
    """`_Standardise` for the rows of a stack, as one tensor for each; the backward pass adds to a buffer. First derivatives only.

    The rows' gradients are stacked in the memory order of the weights, so that sums over a filter run along memory.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, w: Tensor, into: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        w_hat, s = _Standardise.forward(w)
        ctx.save_for_backward(w_hat, s)
        ctx.into = into
        return w_hat.to(dtype).unbind()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        (w_hat, s), into = ctx.saved_tensors, ctx.into
        if w_hat.stride(-3) == 1:
            w_hat, into, gradients = (w_hat.movedim(-3, -1), into.movedim(-3, -1), tuple(g.movedim(-3, -1) for g in gradients))
        g = torch.stack(gradients).to(w_hat.dtype)
        scale, along, shift = _pull_back(g, w_hat, s)
        into.addcmul_(g, scale).addcmul_(w_hat, along).add_(shift)
        return None, None, None, None


def standardise_stack(weights: Tensor, gradients: Tensor | None, *, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Weight standardisation of P clients at once: one image per client costs less than a client's calls.

    Args:
        weights: `(P, out, in, kh, kw)`, with filters of more than one weight.
        gradients: Same shape; the backward pass, one for all P together, adds to it. None: nothing is differentiated.
        dtype: Of the result.

    Returns:
        P tensors `(out, in, kh, kw)`.
    """
    if gradients is None:
        return standardise(weights).to(dtype).unbind()
    anchor = torch.empty(0, device=weights.device, requires_grad=True)  # something that asks for a backward pass
    return _StandardiseStack.apply(anchor, weights, gradients, dtype)


class WSConv2d(nn.Conv2d):
    """Convolution without bias on standardised weights.

    Attributes:
        ready: Standardised weights made outside for the next forward pass (`Clients` makes them for many clients at once), or None.
    """

    ready: Tensor | None = None

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` -> `(B, outputs, H', W')`."""
        weight = standardise(self.weight) if self.ready is None else self.ready
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)


class BatchNorm(nn.Module):
    """Batch normalisation whose only buffers are `running_mean` and `running_var`.

    `nn.BatchNorm2d` also counts its batches in an integer, which only matters for cumulative averages. Here everything in a state
    dictionary must have a mean over clients, so there is no counter.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` -> same; batch statistics in training mode, running ones in eval mode."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=self.training,
                            momentum=self.momentum, eps=self.eps)

    def extra_repr(self) -> str:
        """Channels, as the framework's own layers print them."""
        return str(len(self.weight))


def channels(base: int, width: float) -> int:
    """`base * width` rounded to a multiple of 8, at least 8."""
    return max(8, math.floor(base * width / 8 + 0.5) * 8)


def group_norm(width: int) -> nn.GroupNorm:
    """GroupNorm with 4 channels per group."""
    return nn.GroupNorm(max(width // 4, 1), width)


def conv_norm(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, norm: str) -> list[nn.Module]:
    """Convolution and normalisation, to be put into a sequence.

    Args:
        inputs, outputs: Channels.
        kernel: Odd side of the kernel; padding keeps the size at stride 1.
        stride: Of the convolution.
        groups: Of the convolution; `inputs` for a depthwise one.
        norm: `group`: weight-standardised convolution and GroupNorm; `batch`: plain convolution and BatchNorm.
    """
    if norm == "group":
        return [WSConv2d(inputs, outputs, kernel, stride=stride, groups=groups), group_norm(outputs)]
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, BatchNorm(outputs)]


def conv_norm_relu(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, norm: str) -> list[nn.Module]:
    """Convolution, normalisation and ReLU, to be put into a sequence."""
    return [*conv_norm(inputs, outputs, kernel, stride=stride, groups=groups, norm=norm), nn.ReLU()]


def max_pool() -> nn.MaxPool2d:
    """2x2 max-pool. It rounds the size up, which changes nothing at even sizes and lets five of them fit on any image."""
    return nn.MaxPool2d(2, ceil_mode=True)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Overwrite all parameters and buffers of the project's layers, in the order of the modules.

    Linear and plain convolutions: Xavier uniform, bias 0. Weight-standardised convolutions: U(-a, a), a = 1 / sqrt(fan_in), the
    PyTorch default. Normalisation: 1 and 0. A module with a method `initialise(generator)` does it itself, for all it contains.
    """
    own = getattr(module, "initialise", None)
    if callable(own):
        own(generator)
    elif isinstance(module, WSConv2d):
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
    elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GroupNorm | nn.LayerNorm | BatchNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        if isinstance(module, BatchNorm):
            nn.init.zeros_(module.running_mean)
            nn.init.ones_(module.running_var)
    else:
        if next(module.parameters(recurse=False), None) is not None:
            raise TypeError(f"{type(module).__name__} has parameters and no rule to initialise them")
        for child in module.children():
            initialise(child, generator)


def sequence(*parts: nn.Module | Sequence[nn.Module]) -> nn.Sequential:
    """A flat sequence of modules and lists of modules."""
    flat: list[nn.Module] = []
    for part in parts:
        flat += [part] if isinstance(part, nn.Module) else part
    return nn.Sequential(*flat)
