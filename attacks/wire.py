"""What a run really sent as the target of an attack: recorded smashed data of augmented views, codec, defence and losses included.

The attacker knows the averaged client as the server had it when the recorded steps began. The clients that sent may have stepped away from
it since, each by itself: what they send fits these weights less well than in an attack on a checkpoint. Knowing how views are made, the
attacker learns from views of its own images; the judge's distractors and the images of the bound are views too, and what a server has
collected is what else was recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.sets import AUX_SEED, TARGET_SEED, distinct
from attacks.victim import Victim
from attacks.view import Collected, OwnImages
from ssl_split import rng
from ssl_split.config import Augment
from ssl_split.data import augment
from ssl_split.data.imageset import ImageSet
from ssl_split.record import recorded

WHOLE = ("weights/", "momentum/")
"""Prefixes of tensors without a row for each image."""


@dataclass(frozen=True)
class RecordedVictim(Victim):
    """A client of which messages were recorded.

    Attributes:
        sent: Smashed data of the targets as they arrived, `(n, ...)`.
        heard: Smashed data of other images as they arrived, `(m, ...)`: what the server has collected; None where nobody asks for it.
    """

    sent: Tensor = field(default_factory=lambda: torch.empty(0))
    heard: Tensor | None = None

    def offers(self, targets: Tensor, own: OwnImages, *, aux: str = "aux_same") -> dict[str, Any]:
        """As of any victim, with the smashed data that arrived."""
        found = {**super().offers(targets, own, aux=aux), "smashed": self.sent}
        if (heard := self.heard) is not None:
            found["server_training"] = Collected(len(heard), lambda places: heard[places.to(heard.device)])
        return found


@dataclass(frozen=True)
class Recording:
    """The attacked messages of a run, of different images.

    Attributes:
        rows: What was recorded of them by name (`ssl_split.record`), `(n, ...)`.
        weights: Of the averaged client when the recorded steps began.
        momentum: Of the averaged momentum client, where there is one; else empty.
        available: Images behind all that was recorded.
        span: First and last recorded step.
        partners: Of doubled batches the other messages of the same two views, with the views exchanged: `z`, `key_z`; else empty.
    """

    rows: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]
    available: int
    span: tuple[int, int]
    partners: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """A recorded tensor."""
        return self.rows[name]

    def facts(self) -> dict[str, Any]:
        """What the result file says of it."""
        return {"steps": sorted(set(self["steps"].tolist())), "clients": sorted(set(self["clients"].tolist())),
                "available": self.available}

    def sent_by(self, victim: Victim, *, device: torch.device, heard: Tensor | None = None) -> RecordedVictim:
        """The victim that has sent this, and `heard` `(m, ...)` of other images."""
        known = {f.name: getattr(victim, f.name) for f in fields(Victim)}
        return RecordedVictim(**known, sent=self["z"].float().to(device), heard=None if heard is None else heard.float().to(device))


    def of_pairs(self) -> tuple[Tensor, ...]:
        """The first view through the client, the second through the momentum client; of doubled batches then the second through the client
        and the first through the momentum client."""
        return self["z"], self["key_z"], *(self.partners[name] for name in ("z", "key_z") if name in self.partners)


def attacked(run_dir: Path, train: ImageSet, *, count: int, colluders: Sequence[int] = ()) -> Recording:
    """Messages of at most `count` different images, spread over clients and steps.

    Args:
        run_dir: Of a run trained with `--record-wire`.
        train: Its training images.
        count: Wanted number.
        colluders: Clients that are not attacked.

    Raises:
        FileNotFoundError: nothing was recorded.
        ValueError: the file is damaged, or nobody but colluders sent what it holds.
    """
    found = recorded(run_dir)
    rows = {name: value for name, value in found.items() if not name.startswith(WHOLE)}
    sent = _of_others(rows["clients"], colluders).nonzero().flatten()
    if not len(sent):
        raise ValueError(f"clients {', '.join(map(str, colluders))} sent all messages that were recorded: none is left to be attacked")
    order = sent[spread(rows["clients"][sent], rows["steps"][sent], train.select(rows["sources"][sent]).digests())]
    chosen = order[:count]
    weights, momentum = ({name.removeprefix(part): v for name, v in found.items() if name.startswith(part)} for part in WHOLE)
    span = int(rows["steps"].min()), int(rows["steps"].max())
    return Recording({name: value[chosen] for name, value in rows.items()}, weights, momentum, len(order), span,
                     _partners(rows, chosen))


def _of_others(clients: Tensor, colluders: Sequence[int]) -> Tensor:
    """Which rows colluders have not sent, bool `(n,)`."""
    return ~torch.isin(clients, torch.tensor(tuple(colluders), dtype=clients.dtype))


def others(run_dir: Path, train: ImageSet, targets: ImageSet, *, colluders: Sequence[int] = ()) -> dict[str, Tensor]:
    """`z` `(m, ...)` and `images` `(m, 3, S, S)` of all recorded messages whose images are no targets, by content.

    Args:
        run_dir: Of a run trained with `--record-wire`.
        train: Its training images.
        targets: The images that are attacked.
        colluders: Clients whose messages are left out.
    """
    found, attacked = recorded(run_dir), set(targets.digests())
    rest = torch.tensor([digest not in attacked for digest in train.select(found["sources"]).digests()], dtype=torch.bool)
    rest &= _of_others(found["clients"], colluders)
    return {name: found[name][rest] for name in ("z", "images")}


def _partners(rows: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """`z` and `key_z` of the rows in which the views of the chosen ones are exchanged; empty where there are none."""
    if "key_draws" not in rows:
        return {}
    found = []
    for row in chosen.tolist():
        same = torch.stack([rows[name] == rows[name][row] for name in ("clients", "steps", "sources")]).all(0)
        places = (same & (rows["draws"] == rows["key_draws"][row]).all(1)).nonzero().flatten()
        found += places[:1].tolist()
    return {name: rows[name][found] for name in ("z", "key_z")} if len(found) == len(chosen) else {}


def own_views(images: Tensor, options: Augment, *, purpose: str = "own views") -> Tensor:
    """One random view of each image, as the clients make them.

    Args:
        images: uint8 `(n, 3, S, S)`.
        options: The run's family of views.
        purpose: Names the randomness; the default is that of the attacker's images.

    Returns:
        Floats in [0, 1], `(n, 3, S, S)`.
    """
    draws = augment.draw(len(images), rng.generator(AUX_SEED, purpose))
    return augment.views(images, draws, options, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).clamp(0, 1)


def spread(clients: Tensor, steps: Tensor, digests: Sequence[str]) -> Tensor:
    """Places of rows of different images, in the order in which they become targets: clients and steps take turns.

    Args:
        clients, steps: Of every row, int64 `(n,)`.
        digests: A content hash of every row's image.
    """
    mixed = torch.randperm(len(digests), generator=rng.generator(TARGET_SEED, "recorded targets"))
    mixed = mixed[distinct([digests[i] for i in mixed.tolist()], ())]
    met: Counter[tuple[int, int]] = Counter()
    turns = []
    for place in mixed.tolist():
        group = int(clients[place]), int(steps[place])
        turns.append(met[group])
        met[group] += 1
    return mixed[torch.tensor(turns, dtype=torch.int64).sort(stable=True).indices]
