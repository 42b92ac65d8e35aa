"""What each cut costs: parameters, multiply-adds and numbers on the wire."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from ssl_split.config import Config
from ssl_split.models.split import Network, build_units, join
from ssl_split.models.units import input_shape, legal_cuts, on_meta, trace


@dataclass(frozen=True)
class Cost:
    """One legal cut.

    Attributes:
        cut: Its label.
        client_units: Units on the client, by name.
        smashed_shape: What crosses the wire for one image.
        elements: Numbers in it.
        bytes: The same in float32.
        client_parameters, server_parameters: Trainable parameters on either side, the head included.
        head_parameters: The head's share: the client's at `full`, else the server's.
        client_macs, server_macs: Multiply-adds of one image's forward pass on either side.
    """

    cut: int | str
    client_units: tuple[str, ...]
    smashed_shape: tuple[int, ...]
    elements: int
    bytes: int
    client_parameters: int
    server_parameters: int
    head_parameters: int
    client_macs: int
    server_macs: int


def parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(tensor.numel() for tensor in module.parameters() if tensor.requires_grad)


def macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of a forward pass on one input of `input_shape` (without batch axis), counted on the meta device.

    Convolutions, matrix products and attention count; normalisation, activations and weight standardisation do not. The module
    stays as it is, wherever its weights are.
    """
    from torch.utils.flop_counter import FlopCounterMode  # here, because it imports Triton, which takes half a second

    with FlopCounterMode(display=False) as counter:
        on_meta(module, torch.empty(2, *input_shape, device="meta"))  # BatchNorm refuses a batch of one on 1x1 maps
    return int(counter.get_total_flops()) // 4  # two operations in a multiply-add, two inputs


def cost(network: Network) -> Cost:
    """The cost of the cut that a network has."""
    return _cost(network, macs(network.client, network.input_shape), macs(network.server, network.smashed_shape))


def costs(config: Config, image_size: int) -> list[Cost]:
    """The costs of all legal cuts of an architecture, from 0 to `full`, whatever `config.cut` is.

    With a bottleneck in the configuration it stands at every cut in turn, and the cuts that have no place for it are left out.

    Raises:
        ValueError: the architecture cannot be built for this image size, or nowhere with this bottleneck.
    """
    units = build_units(config, image_size)
    shapes = trace(units, input_shape(config, image_size))
    each = [macs(unit.module, shape) for unit, shape in zip(units, shapes, strict=False)]  # once, not once for every cut
    rows = []
    problem: ValueError | None = None
    for cut in legal_cuts(units):
        try:
            network = join(units, shapes, replace(config, cut=cut))
        except ValueError as error:
            problem = problem if cut == "full" else error  # a numbered cut says more about the network
            continue
        below = network.client_units
        client, server = sum(each[:below]), sum(each[below:])
        if network.bottleneck_down is not None and network.bottleneck_up is not None:
            client += macs(network.bottleneck_down, shapes[below])
            server += macs(network.bottleneck_up, network.smashed_shape)
        head = macs(network.head, (network.feature_dim,))
        rows.append(_cost(network, client + head, server) if cut == "full" else _cost(network, client, server + head))
    if not rows and problem is not None:
        raise problem
    return rows


def _cost(network: Network, client_macs: int, server_macs: int) -> Cost:
    elements = math.prod(network.smashed_shape)
    return Cost(network.cut, network.unit_names[:network.client_units], network.smashed_shape, elements, 4 * elements,
                parameters(network.client), parameters(network.server), parameters(network.head), client_macs, server_macs)
