"""Linear probe: a linear classifier on frozen features, the usual measure of self-supervised learning.

Average-pooled backbone features, Adam with rate 1e-3 falling to 0 as one cosine over the whole probe, batch 128, 100 epochs, no
augmentation, the last epoch reported. `--protocol published` reports the best epoch on the test images instead, as published
code does: it selects on the test set and is therefore too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from probes import bench, classify, table
from probes.bench import Bench, Common, Outcome, Subject
from probes.statistics import Rate
from ssl_split import fields, rng
from ssl_split.display import progress
from ssl_split.fields import field

PROTOCOLS = ("last", "published")
_TITLES = {"last": "linear probe", "published": "linear probe (published protocol: best epoch on the test images, too high)"}


@dataclass(frozen=True)
class Options(Common):
    """Options of the linear probe."""

    epochs: int = field(100, "passes over the training images", low=1, section="linear classifier")
    lr: float = field(1e-3, "rate of Adam at the start; it falls to 0 as one cosine", above=0)
    batch_size: int = field(128, "images per step", low=2)
    standardise: bool = field(False, "shift and scale each feature to mean 0 and deviation 1 of the training images first")
    seed: int = field(0, "seed of initial weights and order", low=0)
    protocol: str = field("last", "last: the last epoch; published: the best epoch on the test images, which is too high",
                          choices=PROTOCOLS)


@dataclass(frozen=True)
class Fit:
    """A fitted linear probe.

    Attributes:
        rate: What the protocol reports.
        epoch: Epoch it comes from, from 1.
        last: The last epoch's rate; equal to `rate` under the protocol `last`.
        train_loss: Mean loss of the last epoch.
    """

    rate: Rate
    epoch: int
    last: Rate
    train_loss: float


def linear_accuracy(
    rows: Tensor, labels: Tensor, test_rows: Tensor, test_labels: Tensor, *, options: Options | None = None, title: str = "linear"
) -> Fit:
    """Fit a linear classifier on training features and count its correct answers on test features.

    Args:
        rows: Features `(n, d)`, used as they are unless `options.standardise`.
        labels: int64 `(n,)`.
        test_rows: `(m, d)`, on the same device.
        test_labels: int64 `(m,)`; read once, after the last epoch, under the protocol `last`.
        options: Epochs, rate, batch, seed, protocol; None for the defaults.
        title: Of the progress bar.

    Raises:
        ValueError: unknown protocol.
    """
    options = options or Options()
    if options.protocol not in PROTOCOLS:
        raise ValueError(f"protocol = {options.protocol!r} does not exist; legal: {', '.join(PROTOCOLS)}")
    if options.standardise:
        rows, test_rows = standardise(rows, test_rows)
    model = classify.linear(rows.shape[1], int(labels.max()) + 1, rng.generator(options.seed, "linear-probe")).to(rows)
    best: tuple[Rate, int] | None = None
    loss = float("nan")
    with progress(options.epochs, title) as bar:
        for epoch, loss in classify.train(model, rows, labels=labels, epochs=options.epochs, lr=options.lr,
                                          batch_size=options.batch_size, seed=options.seed):
            if options.protocol == "published":
                now = classify.rate(model, test_rows, labels=test_labels)
                if best is None or now.correct > best[0].correct:
                    best = (now, epoch)
            bar.advance(loss=loss)
    last = classify.rate(model, test_rows, labels=test_labels)
    rate, epoch = best or (last, options.epochs)
    return Fit(rate, epoch, last, loss)


def standardise(rows: Tensor, test_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets with the mean and deviation of the training rows taken out of each column; constant columns become 0."""
    mean, std = rows.mean(0), rows.std(0, correction=0)
    scale = std.where(std > 0, 1)
    return (rows - mean) / scale, (test_rows - mean) / scale


def run(options: Options) -> dict[str, Any]:
    """The linear probe of a checkpoint beside its rulers.

    Returns:
        The contents of `result.json`.
    """
    def measure(subject: Subject) -> Outcome:
        rows, labels = subject.features("train")
        test_rows, test_labels = subject.features("test")
        fit = linear_accuracy(rows, labels, test_rows, test_labels, options=options, title=f"linear probe, {subject.title}")
        return Outcome(fit.rate, {
            "title": _TITLES[options.protocol], "protocol": options.protocol, "epoch": fit.epoch,
            "accuracy_last_epoch": fit.last.accuracy, "train_loss": fit.train_loss, "train_images": len(rows),
            "dimensions": rows.shape[1],
        })

    return Bench(options).result("linear", bench.identity(options), measure)


def main(argv: Sequence[str]) -> None:
    """`python -m probes.linear`."""
    made = bench.options(Options, argv, "python -m probes.linear", description=__doc__, epilog=(
        "examples:\n"
        "  python -m probes.linear --checkpoint runs/RUN\n"
        "  python -m probes.linear --checkpoint runs/RUN --protocol published   # as published: best epoch on the test images\n"
        "  python -m probes.linear --checkpoint runs/RUN --features smashed     # leakage at the cut\n\n"
        "writes RUN/probes/linear-HASH/result.json; a result that exists is printed, not computed again"))
    result = run(made)
    print(table.show(result))
    print(table.suggest(result, made, "attacks.invert --checkpoint {}"))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
