"""What a run really sent: the messages of its last steps, kept with the views that they were made of.

    runs/<name>-<fingerprint>/wire.safetensors
      z, images, clients, steps           smashed data `(n, ...)` as the server read them, their images `(n, 3, S, S)` in [0, 1]
      key_z, key_images                   of the momentum encoder, where there is one
      gradients, answered                 g_z as the client read it, and which rows got one
      labels                              where they are sent
      weights/..., momentum/...           the averaged client as the server knew it when the first of these steps began, and the averaged
                                          momentum client where there is one (MonAcoSFL)
      sources                             of the views among the training images
      draws, key_draws                    what the views were made with, so that the boxes of their crops are known

Images, sources and draws are for the judge of an attack; nothing of them crossed the wire.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ssl_split.algorithms.api import Batch, State
from ssl_split.config import Config
from ssl_split.data.imageset import Triple
from ssl_split.files import read_tensors, write_tensors

FILE = "wire.safetensors"


class Recorder:
    """Looks on at the wire during the last steps of a run.

    Args:
        first: Step from which on messages are kept, counted from 0.
        mean, std: Constants of the normalisation, to give the images back in [0, 1].
        knows_momentum: Whether the server averages the momentum clients too.
    """

    def __init__(self, first: int, *, mean: Triple, std: Triple, knows_momentum: bool = False) -> None:
        self.first, self._knows_momentum = first, knows_momentum
        self._mean, self._std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
        self._weights: dict[str, Tensor] = {}
        self._rows: list[dict[str, Tensor]] = []
        self._open: dict[str, Tensor] | None = None
        self._batch: Batch | None = None

    def begin(self, state: State, batch: Batch) -> None:
        """A step begins; `batch` is what its clients feed in."""
        self.close()
        if state.step < self.first:
            return
        if not self._rows:
            averaged = {"weights": "client.online", **({"momentum": "client.momentum"} if self._knows_momentum else {})}
            self._weights = {f"{name}/{k}": v.clone() for name, tree in averaged.items() if tree in state.trees
                             for k, v in state.trees[tree].items()}
        members = state.cohort[batch.places]
        self._batch = batch
        self._open = {"clients": members, "steps": torch.full_like(members, state.step)}

    def message(self, kind: str, arrived: Tensor, clients: Tensor, came: Tensor) -> Tensor:
        """Keep what an attack reads; nothing is changed."""
        if self._open is None or kind not in ("act_up", "key_act_up", "grad_down", "label_up"):
            return arrived
        name = {"act_up": "z", "key_act_up": "key_z", "grad_down": "gradients", "label_up": "labels"}[kind]
        self._open[name], self._open[f"{name} of"] = arrived.detach().cpu().clone(), clients[came]
        self._open[f"{name} came"] = came.clone()
        return arrived

    def close(self) -> None:
        """The step has ended: rows of clients become rows of images."""
        taken, self._open = self._open, None
        batch = self._batch
        if taken is None or batch is None or batch.indices is None or "z" not in taken:
            return
        heard = torch.isin(taken["clients"], taken["z of"])
        if "key_z" in taken:
            heard &= torch.isin(taken["clients"], taken["key_z of"])
        if not bool(heard.any()):
            return
        rows = taken["z"].shape[1]
        made = {"z": taken["z"], "images": self._images(batch.views, rows), "draws": _of_rows(batch.draws, rows),
                "sources": _of_rows((batch.indices, batch.indices), rows)}
        if "key_z" in taken:
            made |= {"key_z": taken["key_z"], "key_images": self._images(batch.views[::-1], rows),
                     "key_draws": _of_rows(batch.draws[::-1], rows)}
        made = {name: values[heard].flatten(0, 1) for name, values in made.items()}
        if "labels" in taken:
            made["labels"] = taken["labels"][heard].flatten()
        made |= {name: taken[name][heard].repeat_interleave(rows) for name in ("clients", "steps")}
        made |= self._answers(taken, heard, rows)
        self._rows.append(made)

    def _answers(self, taken: dict[str, Tensor], heard: Tensor, rows: int) -> dict[str, Tensor]:
        """Gradients of the clients that were heard; zero, and so marked, where none came."""
        everybody = torch.zeros_like(taken["z"])
        answered = torch.zeros(len(heard), dtype=torch.bool)
        if "gradients" in taken:
            answered = torch.isin(taken["clients"], taken["gradients of"])
            everybody[answered] = taken["gradients"][taken["gradients came"]]
        return {"gradients": everybody[heard].flatten(0, 1), "answered": answered[heard].repeat_interleave(rows)}

    def _images(self, views: tuple[Tensor, ...], rows: int) -> Tensor:
        """The images `(A, R, 3, S, S)` in [0, 1] behind activations of the first view, or of all one after another where R is not B."""
        return (_of_rows(views, rows).detach().float().cpu() * self._std + self._mean).clamp(0, 1)

    def save(self, run_dir: Path) -> int:
        """Write the file.

        Returns:
            Images in it; 0 and no file where nothing arrived in these steps, or another process made them.
        """
        self.close()
        if not self._rows:
            return 0
        tensors = {name: torch.cat([row[name] for row in self._rows]) for name in self._rows[0]}
        write_tensors(run_dir / FILE, {**tensors, **self._weights}, {"first_step": self.first})
        return len(tensors["z"])


def _of_rows(views: tuple[Tensor, ...], rows: int) -> Tensor:
    """What belongs to `rows` activations of each client: the first view's `(A, B, ...)`, or all views' one after another."""
    return views[0] if views[0].shape[1] == rows else torch.cat(views, 1)


def recorded(run_dir: Path) -> dict[str, Tensor]:
    """What was recorded of a run, by name.

    Raises:
        FileNotFoundError: nothing was.
        ValueError: the file is damaged, or lacks what an earlier version did not keep.
    """
    if not (run_dir / FILE).is_file():
        raise FileNotFoundError(f"{run_dir} holds no recording of its wire: train it with --record-wire 4 (the last four steps)")
    try:
        found = read_tensors(run_dir / FILE)
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0] + "; train the run again in another --out to record it") from None
    if "sources" not in found:
        raise ValueError(f"{run_dir / FILE} is of an earlier version, which did not keep what the views were made of: train the run again "
                         "in another --out to record it")
    return found


def recorder(config: Config, total_steps: int, *, mean: Triple, std: Triple) -> Recorder | None:
    """The recorder that a configuration asks for.

    Raises:
        ValueError: the algorithm sends no smashed data, or the data are no images.
    """
    if not config.record_wire:
        return None
    if not config.sends_smashed_data or config.algorithm in ("moco", "centralised"):
        raise ValueError(f"record_wire = {config.record_wire}: {config.algorithm} at cut {config.cut} sends no smashed data")
    if config.dataset == "tsv":
        raise ValueError("record_wire keeps images for the attacks, and dataset tsv holds sentences")
    return Recorder(max(0, total_steps - config.record_wire), mean=mean, std=std, knows_momentum=config.algorithm == "monacosfl")
