"""What probes measure (the network of a run, the untrained one, raw pixels) as rows of features; and the options that all share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from probes.features import KINDS, SMASHED_LIMIT, extract, pixels
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.defences.api import Defence
from ssl_split.display import progress
from ssl_split.fields import field
from ssl_split.models.split import Network

Keep: TypeAlias = Callable[[Mapping[str, Any], Callable[[], Tensor]], Tensor]
"""Features by what changes them beside network, images and machine: known, or computed by the function."""


@dataclass(frozen=True)
class Target:
    """Which run is probed, and where its images are."""

    checkpoint: str | None = field(None, "run directory or .safetensors file (default: the newest finished run in --out)",
                                   section="checkpoint")
    which: str = field("last", "checkpoint of a run directory", choices=("last", "best"))
    out: str = field("runs", "folder in which the newest run is looked for")
    data_dir: str | None = field(None, "folder that holds the data set (default: the one the run was trained with)")


@dataclass(frozen=True)
class Common(Target):
    """Options of every probe."""

    features: str = field("backbone", "backbone: pooled (headline); received: the same, computed from what a defence lets through; "
                          "projector: head output; smashed: what the server sees",
                          choices=KINDS, section="features")
    smashed_limit: int = field(SMASHED_LIMIT, "most numbers per image kept of smashed data, by averaging", low=1)
    precision: str = field("fp32", "features in fp32 or under bf16 autocast", choices=("fp32", "bf16"))
    device: str = field("auto", "auto, cpu, cuda or cuda:N")
    extract_batch_size: int = field(256, "images per forward pass; changes speed and memory only", low=1)


@dataclass(frozen=True)
class Subject:
    """What is measured: the network of a run, the untrained one, or raw pixels (`network` is None); `keep` shares features of whole splits
    with other probes."""

    title: str
    network: Network | None
    dataset: Dataset
    options: Common
    device: torch.device
    defence: Defence = dataclasses.field(default_factory=Defence)
    keep: Keep | None = None
    _test: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def images(self, split: str, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 images `(n, 3, S, S)` and labels `(n,)` of `train` or `test`, on the device; `indices` as in `features`."""
        chosen = self._choose(split, indices)
        assert chosen.labels is not None  # the bench refuses data without labels
        return chosen.images.to(self.device), chosen.labels.to(self.device)

    def features(self, split: str, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rows and labels of `train` or `test` images, on the device.

        Args:
            split: Name of the split.
            indices: int64 `(n,)`, some images of it; None for all.

        Returns:
            float32 `(n, d)` and int64 `(n,)`.
        """
        chosen = self._choose(split, indices)
        assert chosen.labels is not None  # the bench refuses data without labels
        if split == "test" and indices is None:  # read by every share of labels of the fine-tune probe
            if "rows" not in self._test:
                self._test["rows"] = self._all(chosen, split)
            return self._test["rows"], chosen.labels.to(self.device)
        rows = self._all(chosen, split) if indices is None else self._extract(chosen, split)
        return rows.to(self.device), chosen.labels.to(self.device)

    def _choose(self, split: str, indices: Tensor | None) -> ImageSet:
        images = self.dataset.train if split == "train" else self.dataset.test
        return images if indices is None else images.select(indices)

    def _all(self, chosen: ImageSet, split: str) -> Tensor:
        """Features of a whole split, which other probes may have kept. Those of some images are always computed: in other batches they may
        differ in a last bit."""
        if self.keep is None or self.network is None:
            return self._extract(chosen, split).to(self.device)
        asked = {k: getattr(self.options, k) for k in ("features", "smashed_limit", "precision", "extract_batch_size")}
        key = {**asked, "split": split, "device": self.device.type}
        return self.keep(key, lambda: self._extract(chosen, split)).to(self.device)

    def _extract(self, chosen: ImageSet, split: str) -> Tensor:
        """On the CPU."""
        mean, std = self.dataset.mean, self.dataset.std
        if self.network is None:
            return pixels(chosen.images, mean=mean, std=std)
        kind, limit = self.options.features, self.options.smashed_limit
        with progress(len(chosen), f"{kind} features of {split} images, {self.title}") as bar:
            return extract(self.network, chosen.images, kind=kind, mean=mean, std=std, limit=limit, defence=self.defence,
                           advance=bar.advance, batch_size=self.options.extract_batch_size, precision=self.options.precision)
