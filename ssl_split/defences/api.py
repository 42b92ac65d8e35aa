"""What a defence is: hooks on the client's side of the wire, each of which does nothing unless a defence says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_split.channel import Codec
from ssl_split.data.imageset import Triple
from ssl_split.tree import Tree


@dataclass(frozen=True)
class Place:
    """Where a defence is at work.

    Attributes:
        smashed_shape: Of one image.
        image_size: Pixels per side.
        mean, std: Constants of the normalisation of what the client half takes.
        seed: Of the run.
        dtype: Arithmetic of weights and of what is sent.
        device: Where tensors live.
        couples_images: Whether smashed data of an image depend on others of its batch (BatchNorm).
    """

    smashed_shape: tuple[int, ...]
    image_size: int
    mean: Triple
    std: Triple
    seed: int
    dtype: torch.dtype
    device: torch.device
    couples_images: bool = False


class Defence:
    """No defence. The others state their difference.

    Attributes:
        changes_release: Whether what the server reads differs from what the client half computes.
        random: Whether that is drawn anew at each release.
        has_loss: Whether the client adds a loss of its own.
        learns_from_answer: Whether the gradients that come back teach it, also where the client's weights stay as they are.
        changes_update: Whether the client makes something else of its images' gradients than their mean.
        learned: Whether what is sent depends on what it has learned, which checkpoints hold.
        codec: How smashed data are encoded, in place of `wire.activations`; None to leave that.
    """

    changes_release: ClassVar[bool] = False
    random: ClassVar[bool] = False
    has_loss: ClassVar[bool] = False
    learns_from_answer: ClassVar[bool] = False
    changes_update: ClassVar[bool] = False
    learned: ClassVar[bool] = False
    codec: Codec | None = None

    def on_activation(self, z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """What is sent in place of z, before it is encoded, on the client's graph.

        Args:
            z: Smashed data of one client, `(B, ...)`.
            x: The images behind them as the client half takes them, `(B, C, H, W)`.
            generator: Source of randomness, on the CPU.
        """
        return z

    def expected(self, z: Tensor) -> Tensor:
        """What is sent in the mean over the defence's randomness, differentiable: what an attacker with the weights searches through.
        Encodings pass straight through."""
        return z

    def client_loss(self, z: Tensor, x: Tensor) -> Tensor:
        """A client's own loss on a batch beside the task's, a scalar; arguments as in `on_activation`."""
        raise NotImplementedError

    def begin(self, state: dict[str, Tree], tensors: dict[str, Tensor], place: Place) -> None:
        """Put what the defence learns into the run's state, at its initial values; it is updated in place and goes into checkpoints."""

    def learn(self, z: Tensor, x: Tensor, *, share: float) -> None:
        """One step of what the defence learns, before `client_loss` is asked.

        Args:
            z: Smashed data of all clients of the step, `(A * B, ...)`.
            x: Their images, `(A * B, C, H, W)`.
            share: Of the run's rounds that are over, in [0, 1).
        """

    def on_answer(self, gradient: Tensor, generators: Sequence[torch.Generator]) -> None:
        """One step from the gradient that came back.

        Args:
            gradient: Of each client's mean loss with respect to what it sent, `(A, B, ...)`.
            generators: Of each client, in the state that `on_activation` got them in.
        """

    def client_update(self, gradients: Iterable[Tensor], generator: torch.Generator) -> Tensor:
        """What a client makes of the gradients of its images in a step, in place of their sum, `(d,)`.

        Args:
            gradients: Of each image's own loss with respect to the d client weights, some images `(b, d)` at a time.
            generator: Source of randomness, on the CPU.
        """
        raise NotImplementedError

    def restore(self, tensors: dict[str, Tensor], *, shape: tuple[int, ...], image_size: int) -> None:
        """Take up what was learned, from a checkpoint.

        Args:
            tensors: Trees of `begin` by `name/key`, without the `defence.` in front.
            shape: Of one image's smashed data.
            image_size: Pixels per side.
        """

    def refuse(self, shape: tuple[int, ...]) -> None:
        """Check that the defence is defined for smashed data of this shape of one image.

        Raises:
            ValueError: it is not.
        """


def normal(z: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in the shape of z, drawn on the CPU; in float64 where z is."""
    return torch.randn(z.shape, generator=generator, dtype=_precision(z)).to(z)


def uniform(z: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1) in the shape of z, drawn on the CPU."""
    return torch.rand(z.shape, generator=generator, dtype=_precision(z)).to(z.device)


def exponential(z: Tensor, generator: torch.Generator) -> Tensor:
    """Exponential numbers of mean 1 in the shape of z, drawn on the CPU."""
    return torch.empty(z.shape, dtype=_precision(z)).exponential_(generator=generator).to(z)


def _precision(z: Tensor) -> torch.dtype:
    return torch.float64 if z.dtype == torch.float64 else torch.float32
