"""Encoders of the attacker's own: trained as the attacked run was, on halves of his images, kept in `<runs>/.shadows/` for all attacks.

They always start from scratch and share no draw of a random defence with the attacked client.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from attacks import rulers
from attacks.members.api import Shadow
from attacks.members.victims import of_checkpoint
from attacks.view import View
from ssl_split import rng, train
from ssl_split.config import Config
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.locks import alone
from ssl_split.run import open_checkpoint

SEED = 7000
"""Seeds of the attacker's encoders begin here: their initial weights are not the run's."""


def halves(count: int, encoders: int) -> Tensor:
    """Which images each encoder is trained on, bool `(encoders, count)`: encoders come in pairs that share a random split in two."""
    seen = torch.zeros(encoders, count, dtype=torch.bool)
    for k in range(encoders):
        mixed = torch.randperm(count, generator=rng.generator(SEED, "shadow halves", k // 2))
        seen[k, mixed[: count // 2] if k % 2 == 0 else mixed[count // 2 :]] = True
    return seen


def borrowed(config: Config) -> bool:
    """Whether a run began with weights of another one, which the attacker's encoders do without."""
    return config.client_from is not None or config.server_from is not None


def refuse_untrainable(config: Config) -> None:
    """Check that a run could also have begun from scratch, as the attacker's encoders do: weights that have seen the members would be in
    all of them, and cancel what is to be found.

    Raises:
        ValueError: it lives on weights of another run.
    """
    frozen = config.freeze_client or config.client_lr == 0
    for lives, why in ((config.client_from and frozen, "its client stays as client_from made it"),
                       (config.server_from and config.server_lr == 0, "its server stays as server_from made it"),
                       (config.defence == "adversarial", "the defence adversarial needs a trained client (client_from)")):
        if lives:
            raise ValueError(f"encoders of the attacker's own start from scratch, and this run cannot: {why}")


def configuration(config: Config, *, images: int, number: int, out: Path, device: str) -> Config:
    """How encoder `number` is trained on so many images: as the attacked run, but from scratch, with another seed, and with fewer clients
    where each would not fill one batch.

    Raises:
        ValueError: the run cannot be trained from scratch.
    """
    refuse_untrainable(config)
    clients = max(1, min(config.clients, images // config.batch_size))
    drawn = None if config.clients_per_round is None else min(config.clients_per_round, clients)
    return config.replace(seed=SEED + number, name="shadow", out=str(out), device=device, clients=clients, clients_per_round=drawn,
                          client_from=None, server_from=None, train_images=None, validation_fraction=0.0, validate_every_rounds=0,
                          divergence_every_rounds=0, perturbation_every_rounds=0, target_accuracy=None, published_selection=False,
                          keep_checkpoints=1, tensorboard=False)


def prepare(config: Config, dataset: Dataset, *, own: ImageSet, candidates: ImageSet, encoders: int, online: bool, folder: Path,
            device: torch.device, attack: str) -> list[Shadow]:
    """Train the encoders, or read those that exist.

    Args:
        config: Of the attacked run.
        dataset: Its name, classes and constants are read.
        own: The attacker's images.
        candidates: The images asked about; trained on in part if `online`.
        encoders: How many.
        online: Whether candidates are trained on.
        folder: Where trained encoders are kept.
        device: Where they are trained and asked.
        attack: For messages.

    Raises:
        ValueError: the run cannot be trained from scratch, or these images cannot be dealt to clients as its were.
        train.Stopped: Ctrl-C; what was trained is kept, and the same command goes on.
    """
    pool = _join(own, candidates) if online else own
    seen = halves(len(pool), encoders)
    made, start, trained = [], time.monotonic(), 0
    for k in range(encoders):
        part = pool.select(seen[k].nonzero().flatten())
        place = folder / rulers.digest(part)[:12]
        planned = configuration(config, images=len(part), number=k, out=place, device=str(device))
        try:
            with alone(planned.run_dir):  # another attack may be training it
                if not (planned.run_dir / "result.json").is_file():
                    left = f", about {(time.monotonic() - start) / trained * (encoders - k):.0f} s for all that are left" if trained else ""
                    print(f"training encoder {k + 1} of {encoders} of the attacker's own{left}", file=sys.stderr)
                    trained += 1
                run = train.run(planned, resume=True, on_log=lambda line: None, dataset=_dataset(dataset, part))
        except ValueError as error:
            raise ValueError(f"encoders of the attacker's own cannot be trained as this run was: {error}") from None
        offered = of_checkpoint(open_checkpoint(str(run.path)), mean=dataset.mean, std=dataset.std, device=device, copy=1 + k)
        inside = seen[k, len(own) :] if online else torch.zeros(len(candidates), dtype=torch.bool)
        made.append(Shadow(View(offered, offered, attack=attack), seen[k, : len(own)], inside))
    return made


def _join(own: ImageSet, candidates: ImageSet) -> ImageSet:
    labelled = own.labels is not None and candidates.labels is not None
    labels = torch.cat([own.labels, candidates.labels]) if labelled else None  # type: ignore[list-item]
    return ImageSet(torch.cat([own.images, candidates.images]), labels)


def _dataset(like: Dataset, images: ImageSet) -> Dataset:
    nothing = images.select(torch.empty(0, dtype=torch.int64))
    return Dataset(like.name, images, nothing, nothing, like.classes, like.mean, like.std)
