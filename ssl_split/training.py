"""What one run needs, derived from its configuration: images, their streams, the network, the algorithm."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch

from ssl_split import tree as trees
from ssl_split.algorithms.api import Batch, Setup, State
from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.split.gas import GAS
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.config import SELF_SUPERVISED, Config
from ssl_split.data import augment, images
from ssl_split.data.cohort import Streams, draw_cohort, local_steps, steps_per_round
from ssl_split.data.images import normalise
from ssl_split.data.partition import partition
from ssl_split.defences.adversarial import Adversarial
from ssl_split.defences.release import Release
from ssl_split.display import progress
from ssl_split.dissimilarity import global_gradient, gradient_dissimilarity, gradient_divergence
from ssl_split.models.count import cost
from ssl_split.models.split import Network, build
from ssl_split.rng import generator
from ssl_split.run import open_checkpoint

DEFENCE_BATCH = 128
"""Images of a step in which a defence learns before the run."""

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


class Training:
    """Everything that one run needs, derived from its configuration; `dataset` replaces the configured images."""

    def __init__(self, config: Config, dataset: images.Dataset | None = None) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.dtype = DTYPES[config.precision]
        self.dataset = dataset or images.load(config)
        self.classes = _classes(config, self.dataset)
        self.network = build(config, image_size=self.dataset.size, classes=self.classes)
        for half, source in (("client", config.client_from), ("server", config.server_from)):
            if source is not None:
                take_half(self.network, half, source)
        self.parts = partition(self.dataset.train.labels, config.partition, images=len(self.dataset.train), clients=config.clients)
        sizes = [len(p) for p in self.parts]
        self.steps = steps_per_round(sizes, config.batch_size, local_epochs=config.local_epochs)
        if ALGORITHMS[config.algorithm].centralised:
            sizes, batch = [sum(sizes)], config.cohort_size * config.batch_size
            self.streams = Streams([torch.cat(self.parts).sort().values], seed=config.seed)
            self.steps = steps_per_round(sizes, batch, local_epochs=config.local_epochs)
        else:
            batch = config.batch_size
            self.streams = Streams(self.parts, seed=config.seed)
        self.batch = batch
        local = local_steps(sizes, batch, local_epochs=config.local_epochs, steps=config.local_steps)
        self.images = self.dataset.train.images.to(self.device)
        self.cost = cost(self.network)
        setup = Setup(config, self.network, sizes, self.steps, self.device, self.dtype, local, self._label_counts(),
                      client_flops=2.0 * self.cost.client_macs, server_flops=2.0 * self.cost.server_macs,
                      mean=self.dataset.mean, std=self.dataset.std)
        self.algorithm = ALGORITHMS[config.algorithm](setup)
        self.lengths = [self.algorithm.round_steps(self.cohort(round)) for round in range(config.rounds)]  # steps of each round

    def _label_counts(self) -> torch.Tensor:
        """Images of each client by label, `(N, classes)`."""
        labels = self.dataset.train.labels
        if labels is None:
            return torch.zeros(len(self.parts), 0, dtype=torch.int64)
        return torch.stack([torch.bincount(labels[part], minlength=len(self.dataset.classes)) for part in self.parts])

    def pretrain_defence(self) -> None:
        """Let a defence that needs it learn from the training images, un-augmented, and the client half that the run starts with."""
        release = getattr(self.algorithm, "release", None)
        if isinstance(release, Release) and isinstance(release.defence, Adversarial):
            epochs = release.defence.epochs
            with progress(epochs * math.ceil(len(self.images) / DEFENCE_BATCH), "the clients' decoder") as bar:
                release.defence.pretrain(self._smashed_batches(epochs), bar=bar)

    def _smashed_batches(self, epochs: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Smashed data and normalised images of every training image in a random order, so many times over."""
        client = copy.deepcopy(self.network.client).to(self.device, self.dtype).eval()
        for epoch in range(epochs):
            order = torch.randperm(len(self.images), generator=generator(self.config.seed, "defence order", epoch))
            for chosen in order.to(self.device).split(DEFENCE_BATCH):
                x = normalise(self.images[chosen].to(self.dtype) / 255, self.dataset.mean, self.dataset.std)
                with torch.no_grad():
                    z = client(x)
                yield z, x

    @property
    def client_entries(self) -> int:
        """State entries of the client half, c of the traffic formulas; 0 at cut 0, where it is frozen and for centralised training."""
        return 0 if self.algorithm.centralised or self.config.freeze_client else trees.layout(self.network.client).numel

    @property
    def total_steps(self) -> int:
        """Steps that this run makes."""
        planned = sum(self.lengths)
        return planned if self.config.max_steps is None else min(planned, self.config.max_steps)

    def cohort(self, round: int) -> torch.Tensor:
        """Clients of a round."""
        if self.algorithm.centralised:
            return torch.arange(1)
        return draw_cohort(self.config.clients, self.config.cohort_size, seed=self.config.seed, round=round)

    def next_batch(self, state: State) -> Batch:
        """Random views of each participant's next B images, and their labels; moves the participants' streams on."""
        config, taken, keys, views = self.config, [], [], self.algorithm.views
        places = self.algorithm.participants(state)
        clients = state.cohort[places]
        for client in clients.tolist():
            position = int(state.positions[client])
            taken.append(self.streams.take(client, position, self.batch))
            # of supervised and federated algorithms the same image gets the same views, whatever the schedule
            own_pace = config.supervised or config.federated_ssl
            keys.append(("crop", client, position) if own_pace else ("views", state.step, client))
        state.positions[clients] += self.batch
        indices = torch.stack(taken)
        chosen = self.images[indices.to(self.device)]  # (A, B, C, H, W) uint8, or (A, B, L) token ids
        picked = chosen.expand(views, *chosen.shape)
        randomness: tuple[torch.Tensor, ...] = ()
        if self.dataset.is_text:
            made = picked.flatten(0, 2).to(self.dtype)
        else:
            draws = [augment.draw(views * self.batch, generator(config.seed, *key)) for key in keys]
            uniforms = torch.stack(draws).unflatten(1, (views, self.batch)).transpose(0, 1).flatten(0, 2)
            made = augment.views(picked.flatten(0, 2), uniforms.to(self.device), config.augmentation, mean=self.dataset.mean,
                                 std=self.dataset.std, dtype=self.dtype)
            randomness = uniforms.unflatten(0, (views, len(clients), self.batch)).unbind()
        labels = self.dataset.train.labels if config.supervised else None
        return Batch(made.unflatten(0, (views, len(clients), self.batch)).unbind(),
                     labels[indices].to(self.device) if labels is not None else None, places, indices, randomness)

    def export(self, state: State) -> Network:
        """The network with the averaged client half and the server half, in eval mode."""
        weights = {k: v for name in ("client.online", "server.online") if name in state.trees for k, v in state.trees[name].items()}
        self.network.load_state_dict({k: v.float() for k, v in weights.items()})
        return self.network.to(self.device).eval()

    def point_uphill(self, state: State) -> None:
        """Give a federated method that compares its perturbations in this round the gradient of all clients at the model."""
        algorithm = self.algorithm
        if not isinstance(algorithm, FedAvg) or not algorithm.measures(state):
            return
        network, constants = self.export(state), {"mean": self.dataset.mean, "std": self.dataset.std}
        found = global_gradient(network, self.dataset.train, self.parts, **constants, count=self.config.divergence_images)
        for name, half in (("client", network.client), ("server", network.server)):
            tree, parameters = state.trees[f"{name}.uphill"], dict(half.named_parameters())
            pieces = found[name].split([p.numel() for p in parameters.values()])
            for key, piece in zip(parameters, pieces, strict=True):
                tree[key].copy_(piece.view_as(tree[key]))

    def divergence(self, state: State) -> dict[str, float]:
        """Gradient divergence of both halves at the averaged model; of GAS also the gradient dissimilarity of its buffer."""
        network, train = self.export(state), self.dataset.train
        constants = {"mean": self.dataset.mean, "std": self.dataset.std}
        found = gradient_divergence(network, train, self.parts, **constants, count=self.config.divergence_images)
        if isinstance(self.algorithm, GAS):
            for name, gradients in self.algorithm.buffer_gradients(state).items():
                key = f"gradient_dissimilarity{'_' * bool(name)}{name}"
                found[key] = gradient_dissimilarity(network, train, gradients, **constants, count=10 * self.config.batch_size)
        return found


def take_half(network: Network, half: str, run: str) -> None:
    """Give the client or the server half of a network the weights of another run's.

    Args:
        network: Of this run, changed.
        half: `client` or `server`.
        run: Run directory or checkpoint.

    Raises:
        ValueError, FileNotFoundError: there is no such run, or its half is another one.
    """
    source = open_checkpoint(run)
    try:
        getattr(network, half).load_state_dict(getattr(source.network(), half).state_dict())
    except RuntimeError:
        other = source.config
        raise ValueError(f"the {half} half of {run} ({other.arch} x{other.width:g} cut at {other.cut}, bottleneck "
                         f"C{other.bottleneck.channels}S{other.bottleneck.stride}, trained by {other.algorithm}) is not that of this run: "
                         f"use the same --arch, --width, --cut and --bottleneck"
                         f"{'' if half == 'client' else ', and the same classes or head'}") from None


def _classes(config: Config, dataset: images.Dataset) -> int:
    """Outputs of the classifier; 0 for algorithms that train a projection head.

    Raises:
        ValueError: a supervised algorithm on images without labels.
    """
    if not config.supervised:
        return 0
    if dataset.train.labels is None:
        raise ValueError(f"{config.algorithm} learns from labels, and {dataset.name} has none: choose a data set with classes, or a "
                         f"self-supervised algorithm ({', '.join(SELF_SUPERVISED)})")
    return len(dataset.classes)


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device = {name!r} does not exist: legal: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name!r} does not exist here: PyTorch finds no CUDA device; use --device cpu")
    return device
