"""Training of a classifier on rows in memory, and its accuracy: shared by the linear and the fine-tune probe."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from probes.features import evaluation
from probes.statistics import Rate
from ssl_split import rng


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with PyTorch's default distribution, drawn from a generator of one's own."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def train(
    model: nn.Module, inputs: Tensor, *, labels: Tensor, epochs: int, lr: float, batch_size: int, seed: int
) -> Iterator[tuple[int, float]]:
    """Minimise cross-entropy with Adam, the rate falling from `lr` to 0 as one cosine over all steps.

    Args:
        model: Maps rows of `inputs` to logits; trained in place.
        inputs: `(n, ...)`, on the model's device.
        labels: int64 `(n,)`, on the same device.
        epochs: Passes over the rows, shuffled anew each time from the key (seed, epoch).
        lr: Rate at the start.
        batch_size: Rows per step. A last batch of one row joins the one before it, since BatchNorm needs two.
        seed: Seed of the order.

    Yields:
        Epoch from 1, and its mean loss; the model may be used (in eval mode) in between.
    """
    # one kernel for the whole update: with a small classifier the steps are all overhead
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    per_epoch = len(batches(len(inputs), batch_size, torch.arange(len(inputs))))
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(len(inputs), generator=rng.generator(seed, "probe-order", epoch)).to(inputs.device)
        model.train()
        total = torch.zeros((), device=inputs.device)
        for rows in batches(len(inputs), batch_size, order):
            for group in optimiser.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / (epochs * per_epoch)))
            loss = cross_entropy(model(inputs[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(rows)
            step += 1
        yield epoch + 1, float(total) / len(inputs)


def batches(count: int, batch_size: int, order: Tensor) -> list[Tensor]:
    """`order` `(count,)` in pieces of `batch_size`; no piece has one row unless `count` is 1."""
    cuts = list(range(batch_size, count, batch_size))
    if cuts and count - cuts[-1] == 1:
        cuts.pop()
    return list(torch.tensor_split(order, cuts))


def rate(model: nn.Module, inputs: Tensor, *, labels: Tensor, batch_size: int = 1024) -> Rate:
    """Accuracy of the largest logit.

    Args:
        model: Used in eval mode and left in the mode it had.
        inputs: `(n, ...)`, on the model's device.
        labels: int64 `(n,)`.
        batch_size: Rows at a time.
    """
    with evaluation(model):
        pieces = zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in pieces)
    return Rate(correct, len(labels))
