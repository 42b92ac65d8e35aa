"""One network as units, cut into a client half and a server half that share its modules and its parameter names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_split import rng
from ssl_split.config import Config
from ssl_split.models import heads, mobilenet, opt, resnet, small, user, vgg, vit
from ssl_split.models.layers import initialise
from ssl_split.models.units import Unit, input_shape, legal_cuts, pool, trace, units_below

__all__ = ["ARCHITECTURES", "Half", "Network", "Unit", "assemble", "build", "build_units", "join"]

ARCHITECTURES: dict[str, Callable[[Config, int], list[Unit]]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "mobilenetv2": mobilenet.mobilenetv2,
    "vgg11": vgg.vgg11,
    "vgg16": vgg.vgg16,
    "alexnet": small.alexnet,
    "cnn4": small.cnn4,
    "mlp": small.mlp,
    "vit": vit.vit,
    "opt": opt.opt,
}
WITH_BATCH_NORM = ("resnet18", "resnet34", "resnet50", "mobilenetv2", "vgg11", "vgg16")
WITH_IMAGENET_STEM = ("resnet18", "resnet34", "resnet50", "mobilenetv2", "vit")
_TRACED: dict[tuple[object, ...], list[tuple[int, ...]]] = {}
"""Shapes by what they follow from: the input's shape, all layers as they print themselves, and their weights' shapes."""


class Half(nn.Module):
    """A stretch of a network: bottleneck_up, units, then either bottleneck_down or pool and head.

    Modules are shared with the network and keep their names, so that the state dictionaries of both halves together are the
    network's. Without any part it is the identity.
    """

    bottleneck_up: nn.Module | None
    bottleneck_down: nn.Module | None
    head: nn.Module | None

    def __init__(self, units: Mapping[str, nn.Module], *, up: nn.Module | None = None, down: nn.Module | None = None,
                 head: nn.Module | None = None) -> None:
        super().__init__()
        self.units = nn.ModuleDict(units)
        self.bottleneck_up, self.bottleneck_down, self.head = up, down, head

    def _backbone(self, x: Tensor) -> Tensor:
        if self.bottleneck_up is not None:
            x = self.bottleneck_up(x)
        for unit in self.units.values():
            x = unit(x)
        return x

    def maps(self, x: Tensor) -> Tensor:
        """Activations before the global average pool, `(B, C, H, W)`, `(B, tokens, dim)` or `(B, d)`, of the half that ends with the head;
        of the other half before its bottleneck."""
        return self._backbone(x)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features `(B, features)` of the half that ends with the head.

        Raises:
            ValueError: the head is in the other half.
        """
        if self.head is None:
            raise ValueError("this half of the network ends at the cut: pooled features are in the half that holds the head")
        return pool(self._backbone(x))

    def forward(self, x: Tensor) -> Tensor:
        """Client: `(B, 3, S, S)` -> smashed data. Server: smashed data -> `(B, out)`."""
        if self.head is not None:
            out: Tensor = self.head(self.features(x))
            return out
        x = self._backbone(x)
        return x if self.bottleneck_down is None else self.bottleneck_down(x)


class Network(nn.Module):
    """Units in order, global average pool, head; with a CxSy bottleneck at the cut if there is one.

    Args:
        units: The backbone.
        head: Maps pooled features `(B, feature_dim)` to `(B, out)`.
        cut: 0, the label of a unit, or `full`.
        feature_dim: Pooled features.
        smashed_shape: What crosses the wire for one image: `(C, H, W)`, `(tokens, dim)` or `(d,)`.
        input_shape: Of one image `(3, S, S)`, or of the token ids of a sentence `(L,)`.
        down, up: The two sides of the bottleneck.

    `build` makes one from a configuration.
    """

    bottleneck_down: nn.Module | None
    bottleneck_up: nn.Module | None

    def __init__(self, units: Sequence[Unit], head: nn.Module, *, cut: int | str, feature_dim: int,
                 smashed_shape: tuple[int, ...], input_shape: tuple[int, ...], down: nn.Module | None = None,
                 up: nn.Module | None = None) -> None:
        super().__init__()
        self.units = nn.ModuleDict({str(i): unit.module for i, unit in enumerate(units)})
        self.head = head
        self.bottleneck_down, self.bottleneck_up = down, up
        self.cut, self.legal_cuts = cut, legal_cuts(units)
        self.feature_dim, self.smashed_shape, self.input_shape = feature_dim, smashed_shape, input_shape
        self.unit_names = tuple(unit.name for unit in units)
        self.client_units = units_below(units, cut)

    @property
    def client(self) -> Half:
        """The client's half: images to smashed data. At 0 the identity, at `full` everything with the head."""
        units = dict(list(self.units.items())[:self.client_units])
        half = Half(units, down=self.bottleneck_down, head=self.head if self.cut == "full" else None)
        half.training = half.units.training = self.training
        return half

    @property
    def server(self) -> Half:
        """The server's half: smashed data to the head's output. At 0 everything, at `full` the identity."""
        units = dict(list(self.units.items())[self.client_units:])
        half = Half(units, up=self.bottleneck_up, head=None if self.cut == "full" else self.head)
        half.training = half.units.training = self.training
        return half

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, 3, S, S)` -> pooled features `(B, feature_dim)`."""
        for position, unit in enumerate(self.units.values(), 1):
            x = unit(x)
            if position == self.client_units and self.bottleneck_down is not None and self.bottleneck_up is not None:
                x = self.bottleneck_up(self.bottleneck_down(x))
        return pool(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(B, 3, S, S)` -> `(B, out)`."""
        out: Tensor = self.head(self.features(x))
        return out

    def projections(self, x: Tensor) -> Tensor:
        """Images `(B, 3, S, S)` -> the output of the head `(B, out)`; where it predicts too, its projections alone."""
        out: Tensor = self(x)
        return out.chunk(2, 1)[1] if isinstance(self.head, heads.PredictingHead) else out


def build_units(config: Config, image_size: int) -> list[Unit]:
    """The backbone that `config.arch` names.

    The project's own are made on the meta device, without memory and without drawing numbers; a user's by the user's code.

    Raises:
        ValueError: the architecture has no such norm or stem, or a user's function does not work.
        FileNotFoundError: a user's file does not exist.
    """
    if config.arch not in ARCHITECTURES:
        return user.load_units(config, image_size)
    if config.norm == "batch" and config.arch not in WITH_BATCH_NORM:
        raise ValueError(f"norm = batch does not exist in {config.arch}, only in {', '.join(WITH_BATCH_NORM)}")
    if config.stem == "imagenet" and config.arch not in WITH_IMAGENET_STEM:
        raise ValueError(f"stem = imagenet does not exist in {config.arch}, only in {', '.join(WITH_IMAGENET_STEM)}")
    with torch.device("meta"):
        return ARCHITECTURES[config.arch](config, image_size)


def assemble(config: Config, *, image_size: int, classes: int = 0) -> Network:
    """The network of a configuration, the project's own parts still without memory (meta device); see `build`."""
    units = build_units(config, image_size)
    return join(units, _shapes(units, config, image_size), config, classes=classes)


def _shapes(units: Sequence[Unit], config: Config, image_size: int) -> list[tuple[int, ...]]:
    """What `trace` says; of the project's own layers once in a process, because it takes most of the time of making a small network."""
    shape = input_shape(config, image_size)
    if config.arch not in ARCHITECTURES:
        return trace(units, shape)
    key = (shape, *((unit.name, repr(unit.module), *(p.shape for p in unit.module.parameters())) for unit in units))
    if key not in _TRACED:
        _TRACED[key] = trace(units, shape)
    return _TRACED[key]


def join(units: Sequence[Unit], shapes: Sequence[tuple[int, ...]], config: Config, *, classes: int = 0) -> Network:
    """A network of given units, cut at `config.cut`; its head and bottleneck are on the meta device.

    Args:
        units: The backbone.
        shapes: What `trace` says of it.
        config: `cut`, `head` and `bottleneck` are read.
        classes: As in `build`.

    Raises:
        ValueError: illegal cut, or a bottleneck where none can be.
    """
    legal = legal_cuts(units)
    if config.cut not in legal:
        raise ValueError(f"cut {config.cut} does not exist in {config.arch}: legal cuts are {', '.join(map(str, legal))}")
    features = shapes[-1][-1 if len(shapes[-1]) == 2 else 0]
    at_cut = shapes[units_below(units, config.cut)]
    with torch.device("meta"):
        head = _head(config, features, classes)
        down, up, at_cut = _bottleneck(config, at_cut)
    if config.cut == "full":
        at_cut = (classes or config.head.out * (1 + config.predicts),)
    return Network(units, head, cut=config.cut, feature_dim=features, smashed_shape=at_cut, input_shape=shapes[0], down=down, up=up)


def _head(config: Config, features: int, classes: int) -> nn.Module:
    if classes:
        return heads.classifier(features, classes)
    if config.predicts:
        return heads.PredictingHead(features, config.head.hidden, config.head.out, norm=config.norm)
    return heads.projection_head(features, config.head.hidden, config.head.out)


def _bottleneck(config: Config, shape: tuple[int, ...]) -> tuple[nn.Module | None, nn.Module | None, tuple[int, ...]]:
    """Both sides of the bottleneck at a cut where `shape` would cross the wire, and the shape that crosses it now."""
    width, stride = config.bottleneck.channels, config.bottleneck.stride
    if not width:
        return None, None, shape
    if config.cut in (0, "full"):
        raise ValueError(f"bottleneck.channels = {width} has no place at cut {config.cut}: it needs layers on both sides")
    if len(shape) != 3:
        raise ValueError(f"bottleneck.channels = {width} needs smashed data of shape (C, H, W): at cut {config.cut} "
                         f"{config.arch} sends {shape}")
    size = (shape[1], shape[2])
    down, up = heads.bottleneck_down(shape[0], width, stride), heads.bottleneck_up(shape[0], width, stride, size)
    return down, up, (width, *(-(-side // stride) for side in size))


def build(config: Config, *, image_size: int, classes: int = 0) -> Network:
    """The network of a configuration at its initial weights, on the CPU, in float32.

    Args:
        config: `arch`, `width`, `norm`, `stem`, `cut`, `head`, `bottleneck` and `seed` are read.
        image_size: Pixels per side, or tokens of a sentence.
        classes: Outputs of a linear classifier; 0 gives the projection head.

    Returns:
        A network in training mode. Weights are drawn in the order units, head, bottleneck, so that one seed gives one initial
        function at every cut.

    Raises:
        ValueError: illegal cut, a bottleneck where none can be, images too small, or a user's architecture that does not work.
    """
    network = assemble(config, image_size=image_size, classes=classes)
    generator = rng.generator(config.seed, "init")
    for part in (*network.units.values(), network.head, network.bottleneck_down, network.bottleneck_up):
        if part is not None and any(tensor.is_meta for tensor in part.parameters()):
            part.to_empty(device="cpu")
            initialise(part, generator)
    if config.arch == "opt":
        opt.load_weights(network.units, config.text)
    return network
