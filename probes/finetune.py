"""Fine-tune probe: how far a few labels go, 1 % and 10 % of the training images by default.

`--mode frozen` (default): frozen features and the classifier Linear(512)-BatchNorm-ReLU-Linear(classes). `--mode full`: the
same classifier on top, and the whole network is trained with it; its untrained ruler is then training from scratch on those
labels, and its raw-pixel ruler the classifier of the frozen mode. Adam with one cosine to 0, no augmentation, the last epoch reported. The
labelled images are drawn class by class, at least one of each; those of a smaller share are among those of a larger one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probes import bench, classify, table
from probes.bench import Bench, Common, Outcome, Subject
from ssl_split import fields, rng
from ssl_split.data.images import Dataset
from ssl_split.data.imageset import to_input
from ssl_split.display import progress
from ssl_split.fields import field
from ssl_split.models.split import Network

HIDDEN = 512
"""Units of the classifier's hidden layer."""


@dataclass(frozen=True)
class Options(Common):
    """Options of the fine-tune probe."""

    fractions: tuple[float, ...] = field((0.01, 0.1), "shares of the training images whose labels are used", above=0, high=1,
                                         section="fine-tuning")
    mode: str = field("frozen", "frozen: a classifier on frozen features; full: the whole network moves (slower)",
                      choices=("frozen", "full"))
    epochs: int | None = field(None, "passes over the labelled images (default: frozen 100, full 30)", low=1)
    lr: float = field(1e-3, "rate of Adam at the start; it falls to 0 as one cosine", above=0)
    batch_size: int = field(128, "images per step", low=2)
    seed: int = field(0, "seed of the labels drawn, initial weights and order", low=0)

    @property
    def passes(self) -> int:
        """Epochs that are run."""
        return self.epochs or (100 if self.mode == "frozen" else 30)


def labelled(labels: Tensor, fraction: float, *, seed: int) -> Tensor:
    """Stratified draw of the images whose labels may be used.

    Args:
        labels: int64 `(n,)`.
        fraction: Share of each class, in (0, 1]; at least one image of each class.
        seed: Seed of the draw. With one seed, a smaller share is a subset of a larger one.

    Returns:
        Sorted indices, int64.
    """
    chosen = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=rng.generator(seed, "few-labels", int(label)))
        chosen.append(members[order[: max(1, round(fraction * len(members)))]])
    return torch.cat(chosen).sort().values


def classifier(inputs: int, classes: int, *, seed: int) -> nn.Sequential:
    """Linear(512)-BatchNorm-ReLU-Linear(classes), initialised from the seed."""
    generator = rng.generator(seed, "finetune-classifier")
    return nn.Sequential(classify.linear(inputs, HIDDEN, generator), nn.BatchNorm1d(HIDDEN), nn.ReLU(),
                         classify.linear(HIDDEN, classes, generator))


class Tuned(nn.Module):
    """A network's backbone under a classifier, from uint8 images `(B, 3, S, S)` to logits `(B, classes)`."""

    def __init__(self, network: Network, top: nn.Module, *, dataset: Dataset, precision: str) -> None:
        """Take over `network`; its own head is left out."""
        super().__init__()
        self.network = network
        self.top = top
        self.mean, self.std, self.precision = dataset.mean, dataset.std, precision

    def forward(self, images: Tensor) -> Tensor:
        """Logits of un-augmented images."""
        x = to_input(images, self.mean, self.std, torch.float32)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.top(self.network.features(x))
        return logits.float()


def run(options: Options) -> list[dict[str, Any]]:
    """The fine-tune probe of a checkpoint beside its rulers, one result for each share of labels.

    Returns:
        The contents of each `result.json`, in the order of `options.fractions`.

    Raises:
        ValueError: `--mode full` with other features than the backbone's.
    """
    if options.mode == "full" and options.features != "backbone":
        raise ValueError(f"features = {options.features!r} cannot be combined with mode full, which trains the whole backbone")
    course = Bench(options)
    plain = bench.identity(options)
    return course.results("finetune", [({**plain, "fraction": fraction}, partial(_measure, options=options, fraction=fraction))
                                       for fraction in options.fractions])


def _measure(subject: Subject, *, options: Options, fraction: float) -> Outcome:
    """Train on a share of the labels, then read the test labels."""
    if subject.network is None:  # nothing to move in pixels: the strongest ruler is the classifier trained as in the other mode
        options = dataclasses.replace(options, mode="frozen")
    train_labels = subject.dataset.train.labels
    assert train_labels is not None  # the bench refuses data without labels
    indices = labelled(train_labels, fraction, seed=options.seed)
    classes = int(train_labels.max()) + 1
    if subject.network is None or options.mode == "frozen":
        inputs, labels = subject.features("train", indices)
        test, test_labels = subject.features("test")
        model: nn.Module = classifier(inputs.shape[1], classes, seed=options.seed)
    else:
        (inputs, labels), (test, test_labels) = subject.images("train", indices), subject.images("test")
        network = copy.deepcopy(subject.network)
        model = Tuned(network, classifier(network.feature_dim, classes, seed=options.seed), dataset=subject.dataset,
                      precision=options.precision)
    model = model.to(inputs.device)
    with progress(options.passes, f"{options.mode} fine-tuning with {fraction:.3g} of the labels, {subject.title}") as bar:
        for _, loss in classify.train(model, inputs, labels=labels, epochs=options.passes, lr=options.lr,
                                      batch_size=options.batch_size, seed=options.seed):
            bar.advance(loss=loss)
    found = classify.rate(model, test, labels=test_labels, batch_size=options.extract_batch_size)
    return Outcome(found, {"title": f"fine-tune probe ({options.mode}, {fraction:.3g} of the labels: {len(indices)} images)",
                           "mode": options.mode, "fraction": fraction, "epochs": options.passes,
                           "train_images": len(indices), "train_loss": loss})


def main(argv: Sequence[str]) -> None:
    """`python -m probes.finetune`."""
    made = bench.options(Options, argv, "python -m probes.finetune", description=__doc__, epilog=(
        "examples:\n"
        "  python -m probes.finetune --checkpoint runs/RUN\n"
        "  python -m probes.finetune --checkpoint runs/RUN --mode full --fractions 0.1\n\n"
        "writes RUN/probes/finetune-HASH/result.json for each share of labels; a result that exists is printed, not recomputed"))
    results = run(made)
    print("\n\n".join(table.show(result) for result in results))
    print(table.suggest(results[-1], made, "attacks.invert --checkpoint {}"))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
