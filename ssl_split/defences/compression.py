"""Smashed data that are compressed on the wire: the largest numbers alone, or few bits a number. Bytes fall with them.

Either is an encoding of its own for each image, so what the server reads of one image does not depend on the others in the message. The
encodings are real: what is counted is what the server decodes from. Gradients pass straight through quantisation, and where top-k keeps a
number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_split.channel import Codec, Encoded
from ssl_split.defences.api import Defence


def kept(size: int, drop: float) -> int:
    """Numbers of an image that are sent, of `size`; one at least."""
    return max(1, size - int(drop * size))


@dataclass(frozen=True)
class TopK(Defence):
    """All but an image's largest numbers by magnitude become 0 (published: the smallest signed values over the whole batch).

    On the wire: the values in order of place, and the places as one bit for each number of the image, or as int32 where that is smaller.
    """

    drop: float
    changes_release = True

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """Zeros where nothing is sent; gradients pass elsewhere."""
        return self.expected(z)

    def expected(self, z: Tensor) -> Tensor:
        """The same: nothing is drawn."""
        rows = z.flatten(1)
        places = rows.detach().abs().topk(kept(rows.shape[1], self.drop), dim=1).indices
        return z * torch.zeros_like(rows).scatter_(1, places, 1.0).view_as(z)

    @property
    def codec(self) -> Codec:  # type: ignore[override]
        """Values and places of `(P, B, ...)`."""
        return Codec(self._encode, self._decode)

    def _encode(self, z: Tensor, axis: int) -> Encoded:
        rows = z.flatten(2)
        size = rows.shape[2]
        places = rows.abs().topk(kept(size, self.drop), dim=2).indices.sort(2).values
        values = rows.gather(2, places)
        shape = torch.empty(0, *z.shape[2:], dtype=torch.bool, device=z.device)  # both sides know the network: no bytes
        if 32 * places.shape[2] < size:
            return values, places.int(), shape
        mask = torch.zeros_like(rows, dtype=torch.uint8).scatter_(2, places, 1)
        return values, pack(mask, bits=1), shape

    def _decode(self, payload: Encoded, out: torch.dtype) -> Tensor:
        values, places, shape = payload
        clients, images, size = *values.shape[:2], torch.Size(shape.shape[1:]).numel()
        rows = values.new_zeros(clients, images, size)
        if places.dtype == torch.uint8:  # one bit a number: the places in order, as many in each image
            places = unpack(places, bits=1, size=size).nonzero()[:, 2].view(values.shape)
        return rows.scatter_(2, places.long(), values).view(clients, images, *shape.shape[1:]).to(out)


@dataclass(frozen=True)
class Quantise(Defence):
    """b bits a number, 2^b levels from an image's smallest to its largest; these two travel as 4 bytes each."""

    bits: int
    changes_release = True

    @property
    def codec(self) -> Codec:  # type: ignore[override]
        """Packed codes, step and smallest number of every image of `(P, B, ...)`."""
        return Codec(self._encode, self._decode)

    def _encode(self, z: Tensor, axis: int) -> Encoded:
        rows = z.flatten(2)
        low, high = rows.amin(2, keepdim=True).float(), rows.amax(2, keepdim=True).float()
        step = (high - low) / (2**self.bits - 1)
        codes = ((rows - low) / torch.where(step > 0, step, 1)).round().clamp(0, 2**self.bits - 1)
        shape = torch.empty(0, *z.shape[2:], dtype=torch.bool, device=z.device)
        return pack(codes.to(torch.uint8), bits=self.bits), step, low, shape

    def _decode(self, payload: Encoded, out: torch.dtype) -> Tensor:
        codes, step, low, shape = payload
        size = torch.Size(shape.shape[1:]).numel()
        rows = unpack(codes, bits=self.bits, size=size).to(step.dtype) * step + low
        return rows.view(*codes.shape[:2], *shape.shape[1:]).to(out)


def pack(codes: Tensor, *, bits: int) -> Tensor:
    """Codes of so many bits, uint8 `(P, B, n)`, in bytes `(P, B, ceil(n bits / 8))`, the first in the lowest bits."""
    per_byte = 8 // bits
    short = -codes.shape[2] % per_byte
    grouped = torch.nn.functional.pad(codes, (0, short)).unflatten(2, (-1, per_byte))
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=codes.device)
    return (grouped << shifts).sum(3, dtype=torch.uint8)


def unpack(packed: Tensor, *, bits: int, size: int) -> Tensor:
    """What `pack` was given, of n = `size`."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(2)[..., :size]
