"""Accuracy of a supervised run's own classifier on the test images.

Un-augmented images through the averaged client half and the server half with its classifier, as trained. The ruler of raw pixels is a
linear probe on them with its default options; the untrained network answers with its own classifier, which is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from probes import bench, table
from probes.bench import Bench, Common, Outcome, Subject
from probes.features import extract
from probes.linear import linear_accuracy
from probes.statistics import Rate
from ssl_split import fields
from ssl_split.data.images import Dataset
from ssl_split.fields import field
from ssl_split.models.split import Network


@dataclass(frozen=True)
class Options(Common):
    """Options of the classifier probe."""

    features: str = field("projector", "output of the head: there is no other choice here", choices=("projector",))


def validate(network: Network, dataset: Dataset, *, precision: str = "fp32", published_selection: bool = False) -> Rate | None:
    """The classifier's accuracy on the validation part, for monitoring during training.

    Args:
        network: Used in eval mode on its own device and left as it was.
        dataset: Its validation images are classified.
        precision: fp32, or bf16 autocast.
        published_selection: The test images are classified instead, as published code has it.

    Returns:
        None where there are no such images or labels.
    """
    images = dataset.test if published_selection else dataset.validation
    if images.labels is None or not len(images):
        return None
    logits = extract(network, images.images, kind="projector", mean=dataset.mean, std=dataset.std, precision=precision)
    return Rate(int((logits.argmax(1) == images.labels).sum()), len(images))


def run(options: Options) -> dict[str, Any]:
    """The run's classifier beside its rulers.

    Returns:
        The contents of `result.json`.

    Raises:
        ValueError: the run has no classifier.
    """
    made = Bench(options)
    if not made.checkpoint.config.supervised:
        raise ValueError(f"{made.checkpoint.run_dir.name} has no classifier: {made.checkpoint.config.algorithm} trains without labels; "
                         "use probes.linear or probes.knn")

    def measure(subject: Subject) -> Outcome:
        if subject.network is None:
            rows, labels = subject.features("train")
            test_rows, test_labels = subject.features("test")
            return Outcome(linear_accuracy(rows, labels, test_rows, test_labels, title="linear probe, raw pixels").rate, {})
        logits, labels = subject.features("test")
        return Outcome(Rate(int((logits.argmax(1) == labels).sum()), len(labels)), {"title": "the run's own classifier"})

    return made.result("classifier", bench.identity(options), measure)


def main(argv: Sequence[str]) -> None:
    """`python -m probes.classifier`."""
    made = bench.options(Options, argv, "python -m probes.classifier", description=__doc__, epilog=(
        "examples:\n"
        "  python -m probes.classifier --checkpoint runs/RUN\n"
        "  python -m probes.classifier --checkpoint runs/RUN --which best      # the checkpoint that validation chose\n\n"
        "writes RUN/probes/classifier-HASH/result.json; a result that exists is printed, not computed again"))
    result = run(made)
    print(table.show(result))
    print(table.suggest(result, made, "attacks.invert --checkpoint {}"))


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
