"""The clients' side of the wire: what becomes of smashed data before they are sent, and what a client's own loss adds to the answer."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ssl_split.channel import Codec
from ssl_split.clients import Clients
from ssl_split.defences.api import Defence, Place
from ssl_split.rng import generator
from ssl_split.tree import Tree


@torch.no_grad()
def released(defence: Defence, z: Tensor, x: Tensor, *, purpose: str) -> Tensor:
    """What a server reads of smashed data outside training: through the defence, encoded and decoded.

    Args:
        defence: Of the run.
        z: What the client half computes, `(B, ...)`.
        x: From these images, `(B, ...)`.
        purpose: Names the randomness, which depends on it and on the images alone: the same images give the same again, under another
            purpose something independent.
    """
    if not defence.changes_release:
        return z
    content = hashlib.blake2b(x.detach().cpu().contiguous().numpy().tobytes(), digest_size=6).digest()
    sent = defence.on_activation(z, x, generator(0, f"released {purpose}", int.from_bytes(content, "little")))
    if defence.codec is None:
        return sent
    return defence.codec.decode(defence.codec.encode(sent[None], 2), sent.dtype)[0]


class Release:
    """A defence at work for the clients of a step; without one everything passes as it is."""

    def __init__(self, defence: Defence, place: Place, *, rounds: int) -> None:
        """
        Args:
            defence: Of the run.
            place: Its seed draws each release by step, client, kind of message and its number among equal ones; its dtype is that of what
                is sent, so that noise is not rounded to that of autocast.
            rounds: Of the run.
        """
        self.defence, self._place, self._rounds = defence, place, rounds

    def begin(self, state: dict[str, Tree], tensors: dict[str, Tensor]) -> None:
        """Put what the defence learns into the run's state."""
        self.defence.begin(state, tensors, self._place)

    @property
    def codec(self) -> Codec | None:
        """How smashed data are encoded, where the defence says so."""
        return self.defence.codec

    def __call__(self, outputs: list[Tensor], images: Tensor, members: Tensor, *, kind: str, step: int, number: int = 0) -> list[Tensor]:
        """What these clients send.

        Args:
            outputs: As `Clients.forward` returns them, with their graphs.
            images: `(A, B, ...)`, behind them.
            members: Who sends, int64 `(A,)`.
            kind: Of the message.
            step: Of the run.
            number: Of the message among those of its kind in the step.

        Returns:
            As `outputs`, to be joined for the message and given to `Clients.backward`.
        """
        if not self.defence.changes_release:
            return outputs
        made = [self.defence.on_activation(z, x, self._generator(kind, step, client, number))
                for z, x, client in zip(self._by_client(outputs, len(members)), images, members.tolist(), strict=True)]
        return made if len(outputs) == len(made) else [torch.cat(made)]

    def gradient(self, outputs: list[Tensor], images: Tensor, *, round: int) -> Tensor | None:
        """Gradient of each client's own loss with respect to what it sends, `(A, B, ...)`; None where it has no such loss.

        Args:
            outputs, images: As in a call.
            round: Of the run.
        """
        if not self.defence.has_loss:
            return None
        rows, found = self._by_client(outputs, len(images)), []
        self.defence.learn(torch.cat([z.detach() for z in rows]), images.flatten(0, 1), share=round / self._rounds)
        for z, x in zip(rows, images, strict=True):
            leaf = z.detach().requires_grad_()
            with torch.enable_grad():
                found.append(torch.autograd.grad(self.defence.client_loss(leaf, x), leaf)[0])
        return torch.stack(found)

    def backward(self, clients: Clients, outputs: list[Tensor], images: Tensor, answer: Tensor, members: Tensor, answered: Tensor, *,
                 rows: slice, step: int, scale: float = 1.0, looks: int = 1) -> None:
        """What the clients make of the gradient that came back, and of that of their own loss.

        Args:
            clients: Their halves.
            outputs: What they sent under the kind `act_up`, as a call returned it.
            images: `(A, looks * B, ...)`, behind them.
            answer: `(A, looks * B, ...)`.
            members: int64 `(A,)`.
            answered: Who got an answer, bool `(A,)`.
            rows: Of the members among the halves.
            step: Of the run.
            scale: Of the answer, relative to the gradient of each client's own mean loss.
            looks: Views of an image, B rows apart.
        """
        heard = answered.nonzero().flatten().tolist()
        if self.defence.learns_from_answer:
            if heard:
                self.defence.on_answer(answer[heard] / scale, [self._generator("act_up", step, int(members[k])) for k in heard])
        elif self.defence.changes_update:
            for k in heard:
                count = images.shape[1] // looks  # the mean over images is taken after the update is made, of each image's own loss
                parts = clients.image_gradients(images[k], answer[k] * (count / scale), row=rows.start + k, looks=looks)
                made = self.defence.client_update(parts, generator(self._place.seed, "defence update", step, int(members[k])))
                clients.add_gradient(made * (scale / count), row=rows.start + k)
        else:
            clients.backward(outputs, answer.flatten(0, 1).to(outputs[0].dtype), rows=rows)

    def _generator(self, kind: str, step: int, client: int, number: int = 0) -> torch.Generator:
        return generator(self._place.seed, f"defence {kind}", step, client, number)

    def _by_client(self, outputs: list[Tensor], clients: int) -> list[Tensor]:
        """One tensor `(B, ...)` for each client, in the arithmetic of what is sent."""
        rows = outputs if len(outputs) == clients else list(outputs[0].unflatten(0, (clients, -1)).unbind())
        return [z.to(self._place.dtype) for z in rows]
