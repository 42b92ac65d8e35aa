"""Labels from smashed data: how well somebody with a few labelled images of his own tells the classes of the clients' images.

A few labelled images a class (1, 5, 50), or all, train a linear classifier on what the client makes of them; it is then asked about the
clients' images. Self-supervised clients send no labels, and this is what their smashed data give away of them.

Classifiers: least squares on standardised features (the ridge classifier of scikit-learn), its penalty chosen by leave-one-out where there
are few images and on a tenth of them where all serve; and, with all images, the nearest neighbours by cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from attacks import sets
from attacks.victim import Encoder, Victim
from attacks.view import OwnImages, View
from probes.features import pool
from probes.statistics import wilson
from ssl_split import quality, rng

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]

NEEDS = ("smashed", "query", "aux", "aux_labels")
SHOTS = (1, 5, 50)
DRAWS = 5
"""Draws of the few images, averaged."""
PENALTIES = np.logspace(-3, 3, 13)
"""For features of which a row has mean squared norm 1."""
NEIGHBOURS = 20
ENOUGH = 500
"""Images from which on the penalty is chosen on a tenth of them; with fewer, by leave-one-out, which costs more."""
BLOCK = 500
"""Images sent through the client at a time."""


@dataclass(frozen=True)
class Knowledge:
    """What the attacker works with.

    Attributes:
        own: Features of the attacker's images `(m, d)` by kind.
        labels: Of these images, `(m,)`.
        targets: Features of the targets `(n, d)` by kind.
    """

    own: dict[str, Rows]
    labels: Labels
    targets: dict[str, Rows]


@dataclass(frozen=True)
class Guesses:
    """Labels guessed in one way.

    Attributes:
        features: flat, pooled or pixels.
        shots: Labelled images a class; None for all.
        classifier: linear or neighbours.
        labels: Guessed, one `(n,)` for every draw.
    """

    features: str
    shots: int | None
    classifier: str
    labels: list[Labels]


def kinds(z: Tensor) -> dict[str, Rows]:
    """Smashed data `(n, ...)` as features: `flat`, all numbers (averaged over a grid where they are too many), and `pooled`, the mean of
    each channel."""
    found = {"flat": pool(z)}
    if z.dim() > 2:
        found["pooled"] = z.flatten(2).mean(2) if z.dim() == 4 else z.mean(1)
    return {name: values.float().cpu().numpy() for name, values in found.items()}


def know(view: View) -> Knowledge:
    """What the view shows, as features."""
    parts = [kinds(view.query(block)) for block in view.aux.fit.split(BLOCK)]
    own = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Knowledge(own, view.offered("aux_labels").cpu().numpy(), kinds(view.smashed))


def attack(known: Knowledge, *, seed: int) -> list[Guesses]:
    """Guess the targets' labels in every way."""
    made: list[Guesses] = []
    for features, own in known.own.items():
        targets = known.targets[features]
        for shots in SHOTS:
            draws = [draw(known.labels, shots, seed=seed, number=i) for i in range(DRAWS)]
            guessed = [few(own[chosen], known.labels[chosen], targets) for chosen in draws if chosen is not None]
            made += [Guesses(features, shots, "linear", guessed)] if guessed else []
        made.append(Guesses(features, None, "linear", [all_images(own, known.labels, targets)]))
        made.append(Guesses(features, None, "neighbours", [neighbours(own, known.labels, targets)]))
    return made


def draw(labels: Labels, shots: int, *, seed: int, number: int) -> Labels | None:
    """Places of so many images of each class; None where a class has fewer."""
    order = torch.randperm(len(labels), generator=rng.generator(seed, "fewshot", shots, number)).numpy()
    chosen = [order[labels[order] == c][:shots] for c in np.unique(labels)]
    return np.concatenate(chosen) if all(len(part) == shots for part in chosen) else None


def standardised(own: Rows, others: Rows) -> tuple[Rows, Rows]:
    """Both in units in which own rows have mean 0, deviation 1 and then mean squared norm 1; constant features become 0."""
    mean, std = own.mean(0), own.std(0)
    scale = np.where(std > 1e-6 * std.max(), std, np.inf) * np.sqrt(own.shape[1])
    return (own - mean) / scale, (others - mean) / scale


def few(own: Rows, labels: Labels, targets: Rows) -> Labels:
    """Guesses `(n,)` of a linear classifier whose penalty is chosen by leave-one-out."""
    mine, theirs = standardised(own, targets)
    found: Labels = RidgeClassifierCV(alphas=PENALTIES).fit(mine, labels).predict(theirs)
    return found


def all_images(own: Rows, labels: Labels, targets: Rows) -> Labels:
    """Guesses `(n,)` of a linear classifier on all images, its penalty chosen on every tenth where they are many."""
    if len(own) < ENOUGH:
        return few(own, labels, targets)
    mine, theirs = standardised(own, targets)
    held = np.arange(len(mine)) % 10 == 9
    models = [RidgeClassifier(alpha=penalty).fit(mine[~held], labels[~held]) for penalty in PENALTIES]
    best = max(models, key=lambda model: model.score(mine[held], labels[held]))
    found: Labels = best.predict(theirs)
    return found


def neighbours(own: Rows, labels: Labels, targets: Rows) -> Labels:
    """The commonest label among the nearest by cosine, `(n,)`."""
    mine, theirs = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (own, targets))
    found: Labels = KNeighborsClassifier(min(NEIGHBOURS, len(own)), algorithm="brute").fit(mine, labels).predict(theirs)
    return found


def judge(made: list[Guesses], truth: Labels) -> list[dict[str, Any]]:
    """Accuracy of every way, mean over draws, with the Wilson interval over targets."""
    rows = []
    for guesses in made:
        draws = [float((labels == truth).mean()) for labels in guesses.labels]
        accuracy = float(np.mean(draws))
        low, high = wilson(round(accuracy * len(truth)), len(truth))
        rows.append({"features": guesses.features, "shots": guesses.shots, "classifier": guesses.classifier, "accuracy": accuracy,
                     "low": low, "high": high, "draws": draws})
    return rows


def measured(victim: Victim, targets: Tensor, truth: Tensor, own: Tensor, labels: Tensor, *, seed: int) -> list[dict[str, Any]]:
    """Attack a victim and judge; arguments as in `guess_labels`."""
    offers = victim.offers(targets, OwnImages(own, own[:0])) | {"aux_labels": labels}
    return judge(attack(know(View(offers, NEEDS, attack="fewshot")), seed=seed), truth.cpu().numpy())


def pixels(targets: Tensor, truth: Tensor, own: Tensor, labels: Tensor, *, seed: int) -> list[dict[str, Any]]:
    """The ruler: the same on the images themselves, as somebody could who sees them."""
    mine, theirs = ({"pixels": pool(images).cpu().numpy()} for images in (own, targets))
    known = Knowledge(mine, labels.cpu().numpy(), theirs)
    return judge(attack(known, seed=seed), truth.cpu().numpy())


def guess_labels(client: Encoder, targets: Tensor, target_labels: Tensor, aux: Tensor, aux_labels: Tensor, *, seed: int = 0,
                 **constants: Any) -> list[dict[str, Any]]:
    """Attack any client: no run directory and no training code of this project is needed.

    Args:
        client: Images `(B, 3, S, S)` -> smashed data `(B, ...)`.
        targets: The clients' images, floats `(n, 3, S, S)` in [0, 1]; only their smashed data reach the attack.
        target_labels: Their labels `(n,)`, for the judge.
        aux, aux_labels: The attacker's images and their labels.
        seed: Of the draws.
        **constants: `mean` and `std` of the client's input.

    Returns:
        One row for each kind of features, number of shots and classifier: `features`, `shots` (None: all), `classifier`, `accuracy`, `low`,
        `high`, `draws`.

    Raises:
        ValueError: images out of range, a target among `aux`, images without labels.
    """
    for name, images, labels in (("targets", targets, target_labels), ("auxiliary images", aux, aux_labels)):
        quality.check_range(images, name)
        if len(images) != len(labels):
            raise ValueError(f"there are {len(images)} {name} and {len(labels)} labels of them")
    sets.refuse_shared(targets, aux)
    return measured(Victim(client, **constants), targets, target_labels, aux, aux_labels, seed=seed)
