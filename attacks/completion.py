"""Model completion: the client half with a new head, fine-tuned on a few labelled images of the attacker's own.

Whoever has the client's weights has features that the training has bent towards the classes, and needs only a few labels to finish the
model. The completed model is then asked for the labels of the members' images themselves: the position is that of Fu et al., whose
attacker holds the images and not the labels; the server, which holds smashed data and no images, has `fewshot` instead.

Early stopping on as many labelled images again; they count as labels used. Source: Fu et al., "Label Inference Attacks Against Vertical
Federated Learning", USENIX Security 2022 (there with semi-supervised training on unlabelled images, which is not done here).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks import sets
from attacks.fewshot import check, draw
from attacks.victim import Victim
from attacks.view import Client, View
from probes import classify, finetune
from probes.features import pool
from probes.statistics import wilson
from ssl_split.data.imageset import Triple

NEEDS = ("weights", "aux", "aux_labels")
SHOTS = (5, 50)
"""Labelled images of each class to fit, and as many to stop by where there are so many."""
DRAWS, EPOCHS, PATIENCE, BATCH, RATE = 3, 60, 10, 32, 1e-3


class Completed(nn.Module):
    """The client half, pooled to at most 4096 numbers, under a new head: images in [0, 1] -> logits."""

    def __init__(self, client: Client, head: nn.Module) -> None:
        super().__init__()
        self.client, self.head, self._normalise = client.module, head, client.normalise

    def forward(self, images: Tensor) -> Tensor:
        """`(B, 3, S, S)` -> `(B, classes)`."""
        logits: Tensor = self.head(pool(self.client(self._normalise(images))))
        return logits


Told = Callable[[Tensor], Tensor]
"""Images `(n, 3, S, S)` in [0, 1] -> labels `(n,)`."""


def attack(view: View, *, classes: int, shots: int, seed: int, number: int) -> tuple[Told, dict[str, Any]] | None:
    """Complete the model with `shots` images of each class; None where a class has fewer.

    Args:
        view: Its labels are those of `aux.fit` and then of `aux.validation`.
        classes: Number of labels.
        shots: Labelled images of each class.
        seed, number: Of the draw of the images and of the head.
    """
    own, client = view.aux, view.weights
    labels = view.offered("aux_labels").cpu()
    fitted, held = labels[: len(own.fit)], labels[len(own.fit) :]
    chosen = draw(fitted.numpy(), shots, seed=seed, number=number)
    if chosen is None:
        return None
    stop = np.concatenate([np.flatnonzero(held.numpy() == c)[:shots] for c in range(classes)])
    device = own.fit.device
    x, y = own.fit[chosen], fitted[chosen].to(device)
    v, w = own.validation[stop], held[stop].to(device)
    with torch.no_grad():
        inputs = pool(client.module(client.normalise(x[:1]))).shape[1]
    model = Completed(client, finetune.classifier(inputs, classes, seed=seed + number)).to(device)
    model.client.requires_grad_(True)
    best, kept, since, passed = -1.0, model.state_dict(), 0, 0
    for epoch, _ in classify.train(model, x, labels=y, epochs=EPOCHS, lr=RATE, batch_size=BATCH, seed=seed + number):
        passed = epoch
        accuracy = classify.rate(model, v, labels=w).accuracy if len(w) else float(epoch)
        since += 1
        if accuracy > best:
            best, kept, since = accuracy, copy.deepcopy(model.state_dict()), 0
        if since >= PATIENCE:
            break
    model.load_state_dict(kept)
    model.eval()

    @torch.no_grad()
    def told(images: Tensor) -> Tensor:
        return torch.cat([model(part).argmax(1) for part in images.split(256)]).cpu()

    return told, {"labels_used": len(y) + len(w), "epochs": passed}


def measured(victim: Victim, targets: Tensor, truth: Tensor, own: Tensor, labels: Tensor, *, seed: int) -> list[dict[str, Any]]:
    """Attack a victim and judge; arguments as in `complete`."""
    images = sets.split(own)
    held = sets.held_out(len(own)).to(labels.device)
    ordered = torch.cat([labels[~held], labels[held]])  # as the images are split
    offers = victim.offers(targets[:1], images) | {"aux_labels": ordered}  # smashed data are not asked for
    view = View(offers, NEEDS, attack="completion")
    classes, rows = int(max(labels.max(), truth.max())) + 1, []
    for shots in SHOTS:
        made = [attack(view, classes=classes, shots=shots, seed=seed, number=i) for i in range(DRAWS)]
        known = [found for found in made if found is not None]
        if not known:
            continue
        draws = [float((told(targets) == truth.cpu()).double().mean()) for told, _ in known]
        accuracy = float(np.mean(draws))
        low, high = wilson(round(accuracy * len(truth)), len(truth))
        own_share = float(np.mean([float((told(images.validation) == labels[held].cpu()).double().mean()) for told, _ in known]))
        rows.append({"shots": shots, "accuracy": accuracy, "low": low, "high": high, "draws": draws, "validation": own_share,
                     "labels_used": known[0][1]["labels_used"], "epochs": [notes["epochs"] for _, notes in known]})
    if not rows:
        raise ValueError(f"no class has {min(SHOTS)} labelled images of the attacker's own: set a larger --aux")
    return rows


def complete(client: nn.Module, targets: Tensor, target_labels: Tensor, aux: Tensor, aux_labels: Tensor, *, seed: int = 0,
             mean: Triple = (0.0, 0.0, 0.0), std: Triple = (1.0, 1.0, 1.0)) -> list[dict[str, Any]]:
    """Attack any client half: no run directory and no training code of this project is needed.

    Args:
        client: Normalised images `(B, 3, S, S)` -> smashed data `(B, ...)`; a copy is fine-tuned.
        targets: The clients' images, floats `(n, 3, S, S)` in [0, 1].
        target_labels: Their labels `(n,)`, for the judge.
        aux, aux_labels: The attacker's images and their labels; every tenth image may serve for early stopping.
        seed: Of the draws and heads.
        mean, std: Constants of the client's input.

    Returns:
        One row for each number of images a class: `shots`, `accuracy`, `low`, `high`, `draws`, `validation` (share of held-out own images
        told right, by which `attacks.fewshot.headline` chooses), `labels_used`, `epochs`.

    Raises:
        ValueError: images out of range or of different sizes, a target among `aux`, images without labels, too few of them.
    """
    check(targets, target_labels, aux, aux_labels)
    return measured(Victim(client, mean, std), targets, target_labels, aux, aux_labels, seed=seed)
