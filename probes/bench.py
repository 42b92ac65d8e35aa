"""The course that all probes share: one checkpoint and its two rulers under the same measurement, and the result file.

The training split is fitted, the validation part is not touched, and the test labels are read by the measurement, at its end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from probes import kept, rulers
from probes.features import BEHIND_DEFENCE, pooled_shape
from probes.statistics import Rate
from probes.subject import Common as Common
from probes.subject import Subject as Subject
from probes.subject import Target as Target
from ssl_split import fields, precision, run
from ssl_split.data.images import Dataset
from ssl_split.models.split import Network

NEUTRAL = ("checkpoint", "which", "out", "data_dir", "device", "extract_batch_size")
"""Options that say where and how fast, not what: they do not name a result."""


T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a measurement found.

    Attributes:
        rate: Correct answers on the test images.
        notes: Further keys of the result file.
    """

    rate: Rate
    notes: dict[str, Any]


Measure = Callable[[Subject], Outcome]


class Bench:
    """One checkpoint beside its two rulers; images and networks are made when they are first needed."""

    def __init__(self, options: Common) -> None:
        """Check the options and find the checkpoint.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what is wrong.
        """
        self.options = fields.build(type(options), fields.to_dict(options))
        self.checkpoint = run.open_checkpoint(self.options.checkpoint, which=self.options.which, out=self.options.out)

    @cached_property
    def device(self) -> torch.device:
        """Where networks and classifiers compute."""
        found = device(self.options.device)
        if slow := precision.advice(self.options.precision, found):
            print(f"note: {slow}", file=sys.stderr)
        return found

    @cached_property
    def dataset(self) -> Dataset:
        """The run's images.

        Raises:
            ValueError: they have no labels, or there are none to test on.
        """
        made = self.checkpoint.dataset(self.options.data_dir)
        labelled(made)
        return made

    @cached_property
    def trained(self) -> Subject:
        """The trained network."""
        return self._subject("this run", self.checkpoint.network())

    @cached_property
    def untrained(self) -> Subject:
        """The same network at its initial weights."""
        return self._subject("untrained network", self.checkpoint.untrained())

    def _subject(self, title: str, network: Network) -> Subject:
        shelf, origin = kept.shelf(self.checkpoint.run_dir.name), cache(lambda: self._origin(network))
        keep = None if shelf is None else lambda key, compute: shelf.rows({**origin(), **key}, compute)
        return Subject(title, network.to(self.device), self.dataset, self.options, self.device, self.checkpoint.defence, keep)

    def _origin(self, network: Network) -> dict[str, Any]:
        """What changes the features of a network: its weights, the run that they are of, the images, the machine and its programs (whose
        `results_version` is raised when numbers change)."""
        config, data = self.checkpoint.config, self.dataset
        return {"config": config.to_dict(), "network": rulers.network_key(config, network, at_cut=True),
                "checkpoint": self.checkpoint.reference, "data": data.digest, "mean": list(data.mean), "std": list(data.std),
                "environment": {k: v for k, v in run.environment().items() if k != "commit"}}

    @cached_property
    def pixels(self) -> Subject:
        """Raw pixels."""
        return Subject("raw pixels", None, self.dataset, self.options, self.device)

    def result(self, name: str, numbers: dict[str, Any], measure: Measure) -> dict[str, Any]:
        """The probe's only result; see `results`."""
        return self.results(name, [(numbers, measure)])[0]

    def results(self, name: str, measures: Sequence[tuple[dict[str, Any], Measure]]) -> list[dict[str, Any]]:
        """Results of one command: read where they exist, else measured on the run and both rulers.

        New results are written when all are there, so that a command that was stopped is not taken for one that was done.

        Args:
            name: Name of the probe.
            measures: Options that change the numbers (plain values), and what is measured with them; it reads the test labels at
                its end.

        Returns:
            The contents of each `result.json`, with its path under `path`.
        """
        found = []
        new: list[dict[str, Any]] = []
        for numbers, measure in measures:
            weights = {"file": self.checkpoint.path.name, "step": self.checkpoint.step}
            folder = run.result_dir(self.checkpoint.run_dir, "probes", name, {**numbers, "checkpoint": weights})
            path = folder / "result.json"
            made = known(path)
            if made is not None:
                print(f"{path} exists and is not computed again", file=sys.stderr)
                found.append({**made, "path": str(path)})
            else:
                new.append({**self._measured(name, numbers, measure), "path": str(path)})
                found.append(new[-1])
        for one in new:
            run.write_json(Path(one["path"]), {k: v for k, v in one.items() if k != "path"})
        return found

    def _measured(self, name: str, numbers: dict[str, Any], measure: Measure) -> dict[str, Any]:
        """The contents of a result file."""
        start = time.monotonic()
        mine = measure(self.trained)
        beside: dict[str, Any] = {key: rate.to_dict() for key, rate in self._rulers(name, numbers, measure).items()}
        if self.dataset.is_text:
            beside["raw_pixels"]["title"] = "the bag of words"
        return {
            "kind": "probe", "name": name, "features": self.options.features, **self._shape(), **mine.rate.to_dict(),
            "test_images": mine.rate.total, **beside, "verdict": rulers.verdict(mine.rate.to_dict(), beside), **mine.notes,
            "options": numbers, "checkpoint": self.checkpoint.reference, "run": self.checkpoint.run_dir.name,
            "dataset": self.dataset.name, "cut": self.checkpoint.config.cut,
            "defence": self.checkpoint.config.defended_with, "seconds": time.monotonic() - start,
            "environment": run.environment(), "command": run.command_line(),
        }

    def _shape(self) -> dict[str, Any]:
        network = self.trained.network
        assert network is not None
        if self.options.features != "smashed":
            return {}
        shape = network.smashed_shape
        kept = pooled_shape(shape, limit=self.options.smashed_limit)
        return {"smashed_shape": list(shape), "features_shape": list(kept)}

    def _rulers(self, name: str, numbers: dict[str, Any], measure: Measure) -> dict[str, Rate]:
        """Both rulers under the same measurement, from the cache where they are known."""
        folder = self.checkpoint.run_dir.parent / ".rulers"
        data = {"probe": name, "data": self.dataset.digest, "mean": list(self.dataset.mean), "std": list(self.dataset.std)}
        of_network = ("features", "smashed_limit", "precision")
        common = {k: v for k, v in numbers.items() if k not in of_network}
        network = self.untrained.network
        assert network is not None
        defended = self.options.features in BEHIND_DEFENCE and self.checkpoint.defence.changes_release
        weights = rulers.network_key(self.checkpoint.config, network, at_cut=defended or self.options.features == "smashed")
        pixels_key = {**data, "ruler": "raw-pixels", "options": common}
        untrained_key = {**data, "ruler": "untrained", "options": numbers, "network": weights,
                         **({"defence": self.checkpoint.config.defended_with} if defended else {})}
        return {
            "raw_pixels": rulers.cached(folder, pixels_key, lambda: measure(self.pixels).rate),
            "untrained": rulers.cached(folder, untrained_key, lambda: measure(self.untrained).rate),
        }


def device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device = {name!r} does not exist here; legal: auto, cpu, cuda, cuda:N") from None
    return torch.device(name)


def known(path: Path) -> dict[str, Any] | None:
    """A result that exists; a damaged file counts as none and is written anew."""
    try:
        values = run.read_json(path) if path.is_file() else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def labelled(dataset: Dataset) -> None:
    """Refuse images that cannot be probed.

    Raises:
        ValueError: no labels, or no test images.
    """
    if dataset.train.labels is None or len(dataset.train) == 0:
        raise ValueError(f"probes need labels, and {dataset.name} has none: put the images into train/<class>/ and "
                         "test/<class>/, or use attacks.invert, which needs none")
    if dataset.test.labels is None or len(dataset.test) == 0:
        raise ValueError(f"probes need labelled test images, and {dataset.name} has none: put some into test/<class>/")


def identity(options: Common) -> dict[str, Any]:
    """The options that change a result, plain values."""
    plain = fields.to_dict(options)
    if options.features != "smashed":
        del plain["smashed_limit"]
    return {k: v for k, v in plain.items() if k not in NEUTRAL}


def options(cls: type[T], argv: Sequence[str], prog: str, *, description: str, epilog: str) -> T:
    """Options from flags; `--checkpoint` without a value means the newest finished run, as if it were absent."""
    words = list(argv)
    for i, word in enumerate(words):
        if word == "--checkpoint" and (i + 1 == len(words) or words[i + 1].startswith("--")):
            del words[i]
            break
    return fields.parse(cls, words, prog, description, epilog)
