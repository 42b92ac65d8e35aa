"""What a training run is: every field that can be set, its default, its legal values, and the fingerprint that names the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_split import defence_sections as defending
from ssl_split import fields, refusals
from ssl_split.defence_sections import DEFENCES as DEFENCES
from ssl_split.fields import field
from ssl_split.names import ALGORITHMS as ALGORITHMS
from ssl_split.names import ARCHITECTURES as ARCHITECTURES
from ssl_split.names import DATASETS as DATASETS
from ssl_split.names import FEDERATED as FEDERATED
from ssl_split.names import FEDERATED_SSL as FEDERATED_SSL
from ssl_split.names import INDEXED as INDEXED
from ssl_split.names import PERTURBED as PERTURBED
from ssl_split.names import SELF_SUPERVISED as SELF_SUPERVISED
from ssl_split.names import SUPERVISED as SUPERVISED
from ssl_split.names import UNSPLIT as UNSPLIT
from ssl_split.names import WEIGHED_BY_DATA as WEIGHED_BY_DATA
from ssl_split.sections import AdamOptions as AdamOptions
from ssl_split.sections import Augment as Augment
from ssl_split.sections import Bottleneck as Bottleneck
from ssl_split.sections import FederatedOptions as FederatedOptions
from ssl_split.sections import GasOptions as GasOptions
from ssl_split.sections import Head as Head
from ssl_split.sections import LossOptions as LossOptions
from ssl_split.sections import MonacosflOptions as MonacosflOptions
from ssl_split.sections import MuSplitfedOptions as MuSplitfedOptions
from ssl_split.sections import NetworkOptions as NetworkOptions
from ssl_split.sections import Outer as Outer
from ssl_split.sections import Partition as Partition
from ssl_split.sections import SmofiOptions as SmofiOptions
from ssl_split.sections import TextOptions as TextOptions
from ssl_split.sections import Wire as Wire

RESULTS_VERSION = 1
"""Raised by hand whenever equal configurations give other numbers than before."""

UNFINGERPRINTED = ("name", "data_dir", "download", "device", "threads", "out", "checkpoint_every_seconds", "keep_checkpoints",
                   "allocator", "engine", "target_accuracy", "record_wire", "tensorboard")


@dataclass(frozen=True)
class Config:
    """One training run."""

    algorithm: str = field("monacosfl", "what trains", choices=ALGORITHMS, section="experiment")
    cut: int | str = field(13, "where the network is cut: a number, 0 (nothing on the client) or full (default: 13; for federated "
                               "algorithms full)")
    seed: int = field(0, "seed of initial weights, order, views and cohorts", low=0)
    name: str | None = field(None, "first part of the run directory's name (default: algorithm, dataset and cut)")

    dataset: str = field("cifar10", "images, or sentences (tsv)", choices=DATASETS, section="data")
    data_dir: str | None = field(None, "folder that holds the data set")
    download: bool = field(False, "fetch a missing torchvision data set into --data-dir")
    image_size: int | None = field(None, "pixels per side (default: the data set's own; imagefolder 32)", low=8)
    mean: tuple[float, float, float] | None = field(None, "channel means (default: the data set's published ones)")
    std: tuple[float, float, float] | None = field(None, "channel deviations (default: the data set's published ones)", above=0)
    validation_fraction: float = field(0.1, "share of the training split kept for validation", low=0, high=0.9)
    train_images: int | None = field(None, "use only this many training images, drawn by class with the seed 0", low=1)
    partition: Partition = field(Partition, "how images are dealt to clients")
    augment: Augment = field(Augment, "random views")

    text: TextOptions = field(TextOptions, "sentences and their transformer")

    arch: str = field("resnet18", "network, or FILE.py:build for a function that returns its list of units", section="model")
    width: float = field(1.0, "multiplier of all channel numbers", above=0, high=8)
    norm: str = field("group", "group: GroupNorm with weight standardisation; batch: BatchNorm", choices=("group", "batch"))
    stem: str = field("small", "small: 3x3 stride 1; imagenet: the published form for large images (ResNet: 7x7 stride 2 and max-pool)",
                      choices=("small", "imagenet"))
    head: Head = field(Head, "projection head")
    bottleneck: Bottleneck = field(Bottleneck, "CxSy bottleneck at the cut")
    client_from: str | None = field(None, "run directory or checkpoint whose client half this run starts with, a pre-trained client")
    server_from: str | None = field(None, "run directory or checkpoint whose server half this run starts with")
    freeze_client: bool = field(False, "split algorithms: the client half stays as it starts, and only smashed data are sent")

    clients: int = field(5, "number of clients N", low=1, section="federation")
    clients_per_round: int | None = field(None, "clients drawn per round P (default: all)", low=1)
    batch_size: int = field(20, "images per client and step B", low=1)
    rounds: int = field(200, "rounds; in the split SSL algorithms one epoch of the cohort each", low=1)
    local_epochs: int = field(1, "passes over the client's images per round", low=1)
    syncs_per_round: int = field(10, "averagings per round S", low=1)
    local_steps: int | None = field(None, "supervised and federated: steps per client and round (default: floor(images * epochs / B), at "
                                          "least 1)", low=1)
    clients_at_once: int | None = field(None, "sfl_v1, mu_splitfed, federated: clients in memory together; others follow (default: all)",
                                        low=1)
    weighting: str = field("auto", "weights of an average: uniform, data (client sizes), or auto: data for supervised algorithms, but as "
                                   "published for federated ones",
                           choices=("auto", "uniform", "data"))

    client_lr: float = field(0.06, "client learning rate at the start", low=0, section="optimisation")
    server_lr: float = field(0.06, "server learning rate at the start", low=0)
    schedule: str = field("cosine", "decay of both rates over all steps (supervised and federated: over rounds; exponential: theirs alone)",
                          choices=("cosine", "constant", "exponential"))
    decay: float = field(0.998, "factor of both rates from round to round (exponential)", above=0, high=1)
    momentum: float = field(0.9, "SGD momentum; beta 1 of Adam", low=0, high=1)
    weight_decay: float = field(5e-4, "L2 penalty", low=0)
    reset_momentum: bool = field(False, "zero the clients' SGD momentum at each sync (published: kept)")

    optimiser: str = field("sgd", "of clients and server", choices=("sgd", "nesterov", "adam", "adamw"),
                           section="supervised and federated learning")
    adam: AdamOptions = field(AdamOptions, "further coefficients of Adam")
    optimiser_state: str = field("reset", "momentum of both halves at the start of a round: zero, or kept by each client",
                                 choices=("reset", "keep"))
    clip_norm: float = field(0.0, "largest norm of a half's gradient (0: not clipped)", low=0)
    outer: Outer = field(Outer, "momentum over rounds")
    smofi: SmofiOptions = field(SmofiOptions, "momentum fusion of SMoFi")
    mu_splitfed: MuSplitfedOptions = field(MuSplitfedOptions, "steps of MU-SplitFed")
    gas: GasOptions = field(GasOptions, "buffers of GAS")
    federated: FederatedOptions = field(FederatedOptions, "coefficients of the federated methods")

    queue_size: int = field(6000, "negative keys K; of fedmoco for each client", low=1, section="contrastive learning")
    queue: str = field("shared", "shared: one queue; per_client: K // P keys for each place in the cohort",
                       choices=("shared", "per_client"))
    temperature: float = field(0.1, "temperature T of the logits", above=0)
    ema: float = field(0.99, "decay of the momentum networks; of BYOL's targets", low=0, high=1)
    symmetric: str = field("stacked", "none: one view is the query; original: MocoSFL's two terms; stacked: both views in one batch",
                           choices=("none", "original", "stacked"))
    client_grad_scale: str = field("global_mean", "gradient sent back: of the mean over the cohort, or of the client's own mean",
                                   choices=("global_mean", "local_mean"))
    monacosfl: MonacosflOptions = field(MonacosflOptions, "alignment of momentum clients")
    wire: Wire = field(Wire, "encoding of what is sent")
    network: NetworkOptions = field(NetworkOptions, "devices and links of the virtual clock")
    loss: LossOptions = field(LossOptions, "messages that do not arrive")

    defence: str = field("none", "what clients do about their smashed data before they are sent, or about their loss (docs/defences.md)",
                         choices=DEFENCES, section="defence")
    gaussian: defending.GaussianOptions = field(defending.GaussianOptions, "noise without clipping")
    laplace: defending.LaplaceOptions = field(defending.LaplaceOptions, "noise without clipping")
    local_dp: defending.LocalDpOptions = field(defending.LocalDpOptions, "clipping and noise")
    dropout: defending.DropoutOptions = field(defending.DropoutOptions, "zeros at random places")
    topk: defending.TopkOptions = field(defending.TopkOptions, "the largest numbers alone")
    quantise: defending.QuantiseOptions = field(defending.QuantiseOptions, "few bits")
    nopeek: defending.NopeekOptions = field(defending.NopeekOptions, "distance correlation as a loss")
    shuffle: defending.ShuffleOptions = field(defending.ShuffleOptions, "parts in random order")
    ressfl: defending.RessflOptions = field(defending.RessflOptions, "training against a decoder")
    shredder: defending.ShredderOptions = field(defending.ShredderOptions, "learned noise")
    adversarial: defending.AdversarialOptions = field(defending.AdversarialOptions, "a step against a decoder of the clients'")
    dp_sgd: defending.DpSgdOptions = field(defending.DpSgdOptions, "clipped and noisy updates of the client half; smashed data stay bare")

    published_pool_average: bool = field(False, "repeat the published defect: client 0 stands in for the first cohort member in "
                                                "averages", section="defects of the published code, to measure their effect")
    published_client_schedule: bool = field(False, "repeat the published defect: client cosine stepped per batch with its period in "
                                                   "epochs")
    published_selection: bool = field(False, "repeat the published defect: the best checkpoint (--which best) is chosen by kNN on the "
                                             "test images, which makes it look too good")

    published_perturbation: bool = field(False, "repeat the published defect of FedLESAM and FedWMSAM: tensor number j is shifted as a "
                                                "whole, by number j of the flat vector")

    precision: str = field("fp32", "fp32, bf16 (autocast) or fp64", choices=("fp32", "bf16", "fp64"), section="running")
    device: str = field("auto", "auto, cpu, cuda or cuda:N")
    threads: int = field(0, "CPU threads (0: all cores)", low=0)
    engine: str = field("auto", "how clients run: loop, fused (vmap, for GPUs) or auto", choices=("auto", "loop", "fused"))
    allocator: bool = field(True, "keep freed memory in the process (Linux, glibc): faster steps, higher peak memory")
    validate_every_rounds: int = field(10, "rounds between kNN checks on validation images (0: never)", low=0)
    divergence_every_rounds: int = field(0, "supervised: rounds between measurements of the gradient divergence (0: never)", low=0)
    divergence_images: int = field(128, "images of each client that either is measured on", low=1)
    perturbation_every_rounds: int = field(0, "methods with a perturbation: rounds between measurements of its cosine with the gradient of "
                                              "all clients (0: never)", low=0)
    checkpoint_every_seconds: float = field(60.0, "seconds between checkpoints inside a round", low=0)
    keep_checkpoints: int = field(2, "newest checkpoints that are kept", low=1)
    target_accuracy: float | None = field(None, "say when validation first reached this: rounds, bytes, virtual seconds", above=0, high=1)
    record_wire: int = field(0, "keep what crossed the wire in the last so many steps, with its images, for attacks (0: nothing)", low=0)
    tensorboard: bool = field(False, "keep event files for TensorBoard in the run directory (extra: tensorboard)")
    max_steps: int | None = field(None, "stop after this many steps, for a trial", low=1)
    out: str = field("runs", "parent folder of runs")

    @property
    def cohort_size(self) -> int:
        """Clients in a round, P."""
        return self.clients if self.clients_per_round is None else self.clients_per_round

    @property
    def supervised(self) -> bool:
        """Whether training reads labels."""
        return self.algorithm in SUPERVISED + FEDERATED

    @property
    def federated_ssl(self) -> bool:
        """Whether each client trains without labels by itself (FedMoCo, FedBYOL, FedEMA)."""
        return self.algorithm in FEDERATED_SSL

    @property
    def defended_with(self) -> dict[str, Any] | None:
        """The defence and its options, plain values; None without one."""
        return None if self.defence == "none" else {"name": self.defence, **dataclasses.asdict(getattr(self, self.defence))}

    @property
    def sends_smashed_data(self) -> bool:
        """Whether anything but weights leaves a client."""
        return not (self.cut == "full" and self.algorithm in UNSPLIT)

    @property
    def predicts(self) -> bool:
        """Whether the head predicts the projection of the other view (BYOL)."""
        return self.algorithm in ("fedbyol", "fedema")

    @property
    def weighs_by_data(self) -> bool:
        """Whether averages weigh clients by their number of images."""
        return self.weighting == "data" or (self.weighting == "auto" and self.algorithm in SUPERVISED + WEIGHED_BY_DATA)

    @property
    def rho(self) -> float:
        """Radius of the perturbation."""
        default = 0.1 if self.algorithm == "fedsmoo" else 0.01
        return default if self.federated.rho is None else self.federated.rho

    @property
    def augmentation(self) -> Augment:
        """The random views, their family named."""
        if self.augment.kind != "auto":
            return self.augment
        return dataclasses.replace(self.augment, kind="standard" if self.supervised else "mocov2")

    @property
    def fingerprint(self) -> str:
        """Ten hex digits that change with every field that changes numbers."""
        values = {k: v for k, v in self.to_dict().items() if k not in UNFINGERPRINTED}
        for name in DEFENCES if self.defence != "none" else ("defence", *DEFENCES):  # of another defence nothing is read
            if name != self.defence:
                values.pop(name, None)
        if not self.freeze_client:
            values.pop("freeze_client")
        for name in ("client_from", "server_from"):
            if source := values.pop(name):  # another run's half is its weights, not its place
                values[name] = _digest(Path(source))
        file, _, function = self.arch.rpartition(":")
        if Path(file).is_file():  # a user's own network is its text, not its place
            values["arch"] = [hashlib.sha256(Path(file).read_bytes()).hexdigest(), function]
        text = json.dumps([RESULTS_VERSION, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def run_name(self) -> str:
        """Name of the run directory."""
        return f"{self.name or f'{self.algorithm}-{self.dataset}-cut{self.cut}'}-{self.fingerprint}"

    @property
    def run_dir(self) -> Path:
        """Where the run's files are."""
        return Path(self.out) / self.run_name

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as written to `config.yaml`."""
        return fields.to_dict(self)

    def replace(self, **changes: Any) -> Config:
        """A checked copy with some fields changed; sections as nested dictionaries."""
        return from_dict(fields.merge(self.to_dict(), changes))


def from_dict(values: Mapping[str, Any]) -> Config:
    """A checked configuration from nested plain values.

    Raises:
        ValueError: unknown key, wrong type or impossible value.
    """
    if "cut" not in values and values.get("algorithm") in UNSPLIT:
        values = {**values, "cut": "full"}
    config = fields.build(Config, values)
    if isinstance(config.cut, str) and config.cut != "full":
        if not config.cut.isdigit():
            raise ValueError(f"cut must be a number or full, not {config.cut!r}")
        config = dataclasses.replace(config, cut=int(config.cut))
    refusals.check(config, known=Config())
    return config


def _digest(run: Path) -> str:
    """Hash of a checkpoint, or of the last one of a run directory; the path itself where there is none (training says so)."""
    found = sorted((run / "checkpoints").glob("step-*.safetensors"))
    file = found[-1] if found else run
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else str(run)


def find(path: str) -> Path:
    """A configuration file: as given, else among those installed with the package.

    Raises:
        FileNotFoundError: in neither place.
    """
    given = Path(path)
    if given.is_file():
        return given
    for root in (Path(__file__).parent, Path(__file__).parent.parent):
        for candidate in (root / path, root / "configs" / path):
            if candidate.is_file():
                return candidate
    raise FileNotFoundError(f"there is no configuration file {path}")


def load(path: str | Path) -> Config:
    """A configuration from a YAML file."""
    return from_dict(fields.read_yaml(path))
