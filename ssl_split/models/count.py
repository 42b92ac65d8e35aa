"""What each cut costs: parameters, multiply-adds and numbers on the wire."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_split.config import Config
from ssl_split.models.split import Network, assemble


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
        client_macs, server_macs: Multiply-adds of one image's forward pass on either side.
    """

    cut: int | str
    client_units: tuple[str, ...]
    smashed_shape: tuple[int, ...]
    elements: int
    bytes: int
    client_parameters: int
    server_parameters: int
    client_macs: int
    server_macs: int


def macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of a forward pass on one input of `input_shape` (without batch axis), counted on the meta device.

    Convolutions, matrix products and attention count; normalisation, activations and weight standardisation do not.
    """
    meta = copy.deepcopy(module).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta(torch.empty(1, *input_shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def cost(network: Network, image_size: int) -> Cost:
    """The cost of the cut that a network has."""
    client, server = network.client, network.server
    elements = math.prod(network.smashed_shape)
    client_macs = macs(client, (3, image_size, image_size)) if len(client.units) else 0
    server_macs = macs(server, network.smashed_shape) if network.cut != "full" else 0
    return Cost(network.cut, network.unit_names[: network.client_units], network.smashed_shape, elements, 4 * elements,
                sum(p.numel() for p in client.parameters()), sum(p.numel() for p in server.parameters()), client_macs, server_macs)


def costs(config: Config, image_size: int) -> list[Cost]:
    """The costs of all legal cuts of an architecture, from 0 to `full`; a bottleneck counts only at the configured cut."""
    legal = assemble(replace(config, cut=0, bottleneck=type(config.bottleneck)()), image_size=image_size).legal_cuts
    rows = []
    for cut in legal:
        here = replace(config, cut=cut)
        if cut != config.cut:
            here = replace(here, bottleneck=type(config.bottleneck)())
        rows.append(cost(assemble(here, image_size=image_size), image_size))
    return rows
