"""kNN probe: each test image takes the class of the training images nearest in feature space.

Cosine similarity s, k = min(200, bank // 5) neighbours, votes exp(s / 0.1), bank of un-augmented training images (Wu et al. 2018,
arXiv 1805.01978). Backbone features are the headline; `--features projector` is the monitor that published code reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from probes import bench, table
from probes.bench import Bench, Common, Outcome, Subject
from probes.features import extract
from probes.statistics import Rate
from ssl_split import fields, rng
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.fields import field
from ssl_split.models.split import Network

_BLOCK = 1 << 24  # elements of the largest intermediate: 64 MB


@dataclass(frozen=True)
class Options(Common):
    """Options of the kNN probe."""

    k: int | None = field(None, "neighbours (default: a fifth of the bank, at most 200)", low=1, section="kNN")
    temperature: float = field(0.1, "T of the votes exp(s / T)", above=0)


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, *, k: int | None = None, temperature: float = 0.1
) -> Rate:
    """Accuracy of weighted kNN.

    Args:
        bank: `(n, d)`, any scale: cosine similarity.
        bank_labels: int64 `(n,)`.
        queries: `(m, d)`, on the bank's device.
        query_labels: int64 `(m,)`.
        k: Neighbours; None for min(200, n // 5), at least 1.
        temperature: T of the votes exp(s / T).

    Raises:
        ValueError: more neighbours than the bank holds, or no query.
    """
    from lightly.utils.benchmarking import knn_predict  # here, because it imports Lightning, which takes seconds

    k = max(1, min(200, len(bank) // 5)) if k is None else k
    if k > len(bank):
        raise ValueError(f"k = {k} is more than the {len(bank)} images in the bank")
    classes = int(bank_labels.max()) + 1
    columns = normalize(bank, dim=1).T  # (d, n)
    rows = max(1, _BLOCK // max(len(bank), k * classes))
    correct = 0
    for some, labels in zip(queries.split(rows), query_labels.split(rows), strict=True):
        ranked = knn_predict(normalize(some, dim=1), columns, bank_labels, num_classes=classes, knn_k=k, knn_t=temperature)
        correct += int((ranked[:, 0] == labels).sum())
    return Rate(correct, len(queries))


def validate(
    network: Network, dataset: Dataset, *, images: int = 5000, precision: str = "fp32", features: str = "backbone",
    published_selection: bool = False,
) -> Rate | None:
    """kNN on the validation part, for monitoring during training; it never touches the test images unless told to.

    Args:
        network: Used in eval mode on its own device and left as it was.
        dataset: Its training images are the bank, its validation images the queries.
        images: At most this many of either, always the same ones.
        precision: fp32, or bf16 autocast.
        features: backbone, projector or smashed.
        published_selection: The queries are the test images, as the published code has it.

    Returns:
        None where there are no labels or no such images.
    """
    bank, queries = _some(dataset.train, images), _some(dataset.test if published_selection else dataset.validation, images)
    if bank.labels is None or queries.labels is None or not len(bank) or not len(queries):
        return None
    device = next(network.parameters()).device
    rows = [extract(network, part.images, kind=features, mean=dataset.mean, std=dataset.std, precision=precision).to(device)
            for part in (bank, queries)]
    return knn_accuracy(rows[0], bank.labels.to(device), rows[1], queries.labels.to(device))


def _some(images: ImageSet, count: int) -> ImageSet:
    """At most `count` images, drawn with a fixed key."""
    if len(images) <= count:
        return images
    return images.select(torch.randperm(len(images), generator=rng.generator(0, "validation-knn"))[:count])


def run(options: Options) -> dict[str, Any]:
    """The kNN probe of a checkpoint beside its rulers.

    Returns:
        The contents of `result.json`.
    """
    def measure(subject: Subject) -> Outcome:
        bank, bank_labels = subject.features("train")
        queries, query_labels = subject.features("test")
        found = knn_accuracy(bank, bank_labels, queries, query_labels, k=options.k, temperature=options.temperature)
        return Outcome(found, {"title": "kNN probe", "train_images": len(bank), "dimensions": bank.shape[1]})

    return Bench(options).result("knn", bench.identity(options), measure)


def main(argv: Sequence[str]) -> None:
    """`python -m probes.knn`."""
    made = bench.options(Options, argv, "python -m probes.knn", description=__doc__, epilog=(
        "examples:\n"
        "  python -m probes.knn --checkpoint runs/RUN\n"
        "  python -m probes.knn --checkpoint runs/RUN --features projector     # the monitor of published code\n"
        "  python -m probes.knn --checkpoint runs/RUN --features smashed       # leakage at the cut\n\n"
        "writes RUN/probes/knn-HASH/result.json; a result that exists is printed, not computed again"))
    result = run(made)
    print(table.show(result))
    print(table.suggest(result, made, "probes.linear --checkpoint {}"))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
