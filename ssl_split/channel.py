"""The wire: the only place where client and server meet. What crosses is encoded, counted and decoded.

Accounting: payload bytes are elements times item size of the tensors as encoded, side information of a codec included; a message is
one client's tensor, however many clients are batched in one call. No autograd edge crosses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ssl_split.clock import Clock
from ssl_split.config import LossOptions, NetworkOptions, Wire
from ssl_split.delivery import Delivery
from ssl_split.tree import Tree

UP = ("act_up", "key_act_up", "pert_act_up", "label_up", "scalar_up", "model_up", "ema_up", "control_up")
DOWN = ("grad_down", "scalar_down", "model_down", "ema_down", "control_down")
KINDS = UP + DOWN

Encoded = tuple[Tensor, ...]


@dataclass(frozen=True)
class Codec:
    """How one tensor is sent. `encode` keeps axis 0 (the clients); `decode` returns the dtype asked for."""

    encode: Callable[[Tensor, int], Encoded]
    decode: Callable[[Encoded, torch.dtype], Tensor]


def _cast(dtype: torch.dtype | None) -> Codec:
    def encode(x: Tensor, axis: int) -> Encoded:
        return (x if dtype is None else x.to(dtype),)

    return Codec(encode, lambda payload, out: payload[0].to(out))


def _affine(*, per_channel: bool) -> Codec:
    """8-bit uniform codes between the smallest and the largest value; scale and zero point travel as 4 bytes each."""

    def encode(x: Tensor, axis: int) -> Encoded:
        kept = (0, axis) if per_channel else (0,)
        over = [d for d in range(x.dim()) if d not in kept]
        low = x.amin(over, keepdim=True).float() if over else x.float()
        high = x.amax(over, keepdim=True).float() if over else x.float()
        scale = (high - low) / 255
        codes = ((x - low) / torch.where(scale > 0, scale, 1)).round().clamp(0, 255)
        return codes.to(torch.uint8), scale, low

    def decode(payload: Encoded, out: torch.dtype) -> Tensor:
        codes, scale, low = payload
        return (codes.to(scale.dtype) * scale + low).to(out)

    return Codec(encode, decode)


CODECS = {
    "fp32": _cast(None),
    "fp16": _cast(torch.float16),
    "bf16": _cast(torch.bfloat16),
    "int8": _affine(per_channel=False),
    "int8_channel": _affine(per_channel=True),
}


def codec_name(wire: Wire, kind: str) -> str:
    """The codec of a kind of message."""
    if kind in ("act_up", "key_act_up", "pert_act_up"):
        return wire.activations
    if kind in ("ema_up", "ema_down"):
        return wire.ema
    return {"grad_down": wire.gradients, "model_up": wire.weights, "model_down": wire.weights}.get(kind, "fp32")


def message_bytes(wire: Wire, kind: str, shape: tuple[int, ...], *, codec: Codec | None = None) -> int:
    """What one message of this shape costs, as the ledger would count it; `codec` as in `Channel.send`."""
    encode = (codec or CODECS[codec_name(wire, kind)]).encode
    return encoded_bytes(encode(torch.zeros(1, *shape), 2)) + wire.header_bytes


def encoded_bytes(payload: Encoded, *, item_bytes: int = 4) -> int:
    """Bytes of what a codec made; float64 and float32 numbers count as float32, or as `item_bytes`."""
    return sum(t.numel() * (item_bytes if t.dtype in (torch.float64, torch.float32) else t.element_size()) for t in payload)


class Tap(Protocol):
    """Somebody on the wire who sees what arrives and may put something else in its place: a recorder, or a malicious server."""

    def message(self, kind: str, arrived: Tensor, clients: Tensor, came: Tensor) -> Tensor:
        """A message of each client.

        Args:
            kind: One of `KINDS`: activations, labels, gradients and scalars; weights are not shown.
            arrived: `(P, ...)`, decoded.
            clients: int64 `(P,)`.
            came: Whose message arrived, bool `(P,)`.

        Returns:
            What takes its place, of the same shape and type; `arrived` itself for who only looks on.
        """
        ...


class Ledger:
    """Messages, raw bytes and encoded bytes by kind and client: of the current round, and since the start.

    Attributes:
        current, total: int64 `(kinds, N, 3)`.
    """

    def __init__(self, clients: int) -> None:
        self.current = torch.zeros(len(KINDS), clients, 3, dtype=torch.int64)
        self.total = torch.zeros_like(self.current)

    def count(self, kind: str, clients: Tensor, *, raw: int, encoded: int, times: Tensor | int = 1) -> None:
        """A message of the given bytes for each client in `clients` `(P,)`, sent so many times."""
        row = self.current[KINDS.index(kind)]
        row[clients] += torch.tensor([1, raw, encoded]) * torch.as_tensor(times).view(-1, 1)

    def close_round(self, round: int) -> list[tuple[int, int, str, str, int, int, int]]:
        """Add the current round to the totals.

        Returns:
            Rows (round, client, direction, kind, messages, raw bytes, encoded bytes), silent clients left out.
        """
        rows = []
        for k, client in self.current[:, :, 0].nonzero().tolist():
            messages, raw, encoded = self.current[k, client].tolist()
            rows.append((round, client, "up" if KINDS[k] in UP else "down", KINDS[k], messages, raw, encoded))
        self.total += self.current
        self.current.zero_()
        return rows

    def bytes(self, column: int = 2) -> dict[str, dict[str, int]]:
        """Bytes by direction and kind over all clients and closed rounds; column 1 is raw, 2 encoded."""
        summed = self.total[:, :, column].sum(1).tolist()
        by_kind = dict(zip(KINDS, summed, strict=True))
        return {"up": {k: by_kind[k] for k in UP}, "down": {k: by_kind[k] for k in DOWN}}


class Channel:
    """Encodes, counts and decodes every message of a run.

    Attributes:
        came: Of the last call of `send`, `send_labels` or `send_tree`: whose message arrived, bool `(P,)`. What they return holds every
            message, arrived or not.
    """

    def __init__(self, wire: Wire, ledger: Ledger, *, item_bytes: int = 4, clock: Clock | None = None,
                 delivery: Delivery | None = None, tap: Tap | None = None) -> None:
        """
        Args:
            wire: Codec names and header size.
            ledger: Where messages are counted.
            item_bytes: Bytes of a number sent without a codec: the wire carries float32 whatever the arithmetic.
            clock: Moved on by every message; None for one of equal clients.
            delivery: Which messages arrive; None for all.
            tap: Sees every message but weights, and may replace it.
        """
        self.delivery = delivery or Delivery(LossOptions(), seed=0)
        self.tap = tap
        self.came = torch.ones(0, dtype=torch.bool)
        self.ledger = ledger
        clients = ledger.current.shape[1]
        self.clock = clock or Clock(NetworkOptions(), torch.zeros(clients, dtype=torch.float64), seed=0, active=clients)
        self.header_bytes, self.label_bytes = wire.header_bytes, wire.label_bytes
        self.item_bytes = item_bytes
        self._codecs = {kind: codec_name(wire, kind) for kind in KINDS}

    def send(self, kind: str, payload: Tensor, clients: Tensor, *, codec: Codec | None = None) -> Tensor:
        """One message per client.

        Args:
            kind: One of `KINDS`; the direction is part of the name.
            payload: `(P, ...)`, one row per client; `(P, B, C, H, W)` for smashed data.
            clients: int64 `(P,)`, who sends or receives.
            codec: Of a defence, in place of the one that the configuration names for this kind.

        Returns:
            What arrives: same shape, dtype and device, detached.
        """
        used = codec or CODECS[self._codecs[kind]]
        encoded = used.encode(payload.detach(), 2)
        self._tally(kind, clients, payload[0].numel(), self._bytes(encoded) // len(clients))
        return self._tapped(kind, used.decode(encoded, payload.dtype), clients)

    def send_labels(self, labels: Tensor, clients: Tensor) -> Tensor:
        """Labels int64 `(P, B)`, one row per client; `wire.label_bytes` each. They arrive as they are."""
        size = labels[0].numel() * self.label_bytes
        self._count_bytes("label_up", clients, raw=size, encoded=size)
        return self._tapped("label_up", labels, clients)

    def send_tree(self, kind: str, tree: Tree, clients: Tensor) -> Tree:
        """Weights, one copy per client: each named tensor is encoded by itself.

        Args:
            kind: `model_up`, `ema_up`, ...
            tree: Rows `(P, size)`, or `(1, size)` for a broadcast to all `clients`.
            clients: int64 `(P,)`.

        Returns:
            What arrives; the same tree where the codec is exact.
        """
        name = self._codecs[kind]
        if name == "fp32":
            self._tally(kind, clients, tree.layout.numel, tree.layout.numel * self.item_bytes)
            return tree
        arrived = Tree(tree.layout, torch.zeros_like(tree.flat))
        encoded_bytes = 0
        for key in tree:
            value = tree[key]
            encoded = CODECS[name].encode(value if value.dim() > 2 else value.flatten(1)[:, None], 1)
            arrived[key].copy_(CODECS[name].decode(encoded, value.dtype).view_as(value))
            encoded_bytes += self._bytes(encoded) // len(tree.flat)
        self._tally(kind, clients, tree.layout.numel, encoded_bytes)
        return arrived

    def send_vectors(self, kind: str, rows: Tensor, clients: Tensor, *, entries: int) -> Tensor:
        """One vector of the size of the weights for each client, without a codec.

        Args:
            kind: `control_up` or `control_down`.
            rows: `(P, size)`, laid out as a tree, padding included.
            clients: int64 `(P,)`.
            entries: Numbers of each that are sent.
        """
        self._tally(kind, clients, entries, entries * self.item_bytes)
        return rows

    def _tapped(self, kind: str, arrived: Tensor, clients: Tensor) -> Tensor:
        return arrived if self.tap is None else self.tap.message(kind, arrived, clients, self.came)

    def _bytes(self, encoded: Encoded) -> int:
        return encoded_bytes(encoded, item_bytes=self.item_bytes)

    def _tally(self, kind: str, clients: Tensor, numel: int, encoded: int) -> None:
        self._count_bytes(kind, clients, raw=numel * self.item_bytes, encoded=encoded)

    def _count_bytes(self, kind: str, clients: Tensor, *, raw: int, encoded: int) -> None:
        times, self.came = self.delivery.attempts(kind, clients)
        self.ledger.count(kind, clients, raw=raw + self.header_bytes, encoded=encoded + self.header_bytes, times=times)
        self.clock.transfer(clients, encoded + self.header_bytes, times=times)
