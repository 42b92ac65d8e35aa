"""Labels from smashed data: how well somebody with a few labelled images of his own tells the classes of the clients' images.

A few labelled images a class (1, 5, 50), or all, train a linear classifier on what the client makes of them; it is then asked about the
clients' images. Self-supervised clients send no labels, and this is what their smashed data give away of them.

Classifiers: least squares on standardised features (the ridge classifier of scikit-learn), its penalty chosen by leave-one-out where there
are few images and on a tenth of them where all serve; and, with all images, the nearest neighbours by cosine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
        validation: Share of held-out own images that are told right in this way, by which the way that counts is chosen; None where it
            cannot be tried.
    """

    features: str
    shots: int | None
    classifier: str
    labels: list[Labels]
    validation: float | None = None


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
    """Guess the targets' labels in every way, and try each on held-out own images after fitting it on the others."""
    made: list[Guesses] = []
    labels, held = known.labels, held_out(known.labels)
    for features, own in known.own.items():
        targets = known.targets[features]
        rest, kept, asked, truth = own[~held], labels[~held], own[held], labels[held]
        for shots in SHOTS:
            guessed = in_draws(own, labels, targets, shots=shots, seed=seed)
            tried = in_draws(rest, kept, asked, shots=shots, seed=seed) if held.any() else []
            made += [Guesses(features, shots, "linear", guessed, rate(tried, truth))] if guessed else []
        told, validation = all_images(own, labels, targets, held=held)
        made.append(Guesses(features, None, "linear", [told], validation))
        tried = [neighbours(rest, kept, asked)] if held.any() else []
        made.append(Guesses(features, None, "neighbours", [neighbours(own, labels, targets)], rate(tried, truth)))
    return made


def held_out(labels: Labels) -> NDArray[np.bool_]:
    """Which own images choose between ways and penalties, bool `(m,)`: every tenth; none where the others would leave fewer than two
    classes to learn."""
    held: NDArray[np.bool_] = sets.held_out(len(labels)).numpy()
    return held if len(np.unique(labels[~held])) > 1 else np.zeros_like(held)


def rate(guessed: Sequence[Labels], truth: Labels) -> float | None:
    """Share of labels told right, mean over draws; None without any."""
    return float(np.mean([(labels == truth).mean() for labels in guessed])) if guessed else None


def in_draws(own: Rows, labels: Labels, asked: Rows, *, shots: int, seed: int) -> list[Labels]:
    """Guesses `(n,)` from so many images a class, for every draw; none where a class has fewer."""
    draws = [draw(labels, shots, seed=seed, number=i) for i in range(DRAWS)]
    return [few(own[chosen], labels[chosen], asked) for chosen in draws if chosen is not None]


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
    from sklearn.linear_model import RidgeClassifierCV  # here and below, because it takes seconds that no --help should

    mine, theirs = standardised(own, targets)
    found: Labels = RidgeClassifierCV(alphas=PENALTIES).fit(mine, labels).predict(theirs)
    return found


def all_images(own: Rows, labels: Labels, targets: Rows, *, held: NDArray[np.bool_]) -> tuple[Labels, float | None]:
    """Guesses `(n,)` of a linear classifier on all images, its penalty chosen on the held-out ones where they are many, and the share of
    these that it tells (of many images with the penalty that tells most of them, a little more than of new ones)."""
    from sklearn.linear_model import RidgeClassifier

    if len(own) < ENOUGH or not held.any():
        tried = [few(own[~held], labels[~held], own[held])] if held.any() else []
        return few(own, labels, targets), rate(tried, labels[held])
    mine, theirs = standardised(own, targets)
    models = [RidgeClassifier(alpha=penalty).fit(mine[~held], labels[~held]) for penalty in PENALTIES]
    scores = [float(model.score(mine[held], labels[held])) for model in models]
    found: Labels = models[int(np.argmax(scores))].predict(theirs)
    return found, max(scores)


def neighbours(own: Rows, labels: Labels, targets: Rows) -> Labels:
    """The commonest label among the nearest by cosine, `(n,)`."""
    from sklearn.neighbors import KNeighborsClassifier

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
                     "low": low, "high": high, "draws": draws, "validation": guesses.validation})
    return rows


def headline(rows: Sequence[Mapping[str, Any]]) -> tuple[int, bool]:
    """The row that counts, and whether it was chosen without a look at the targets' labels.

    It is the one that told most of the attacker's own held-out images, of equals the one that learnt from most images. Where none was
    tried on them it is the best on the targets, an upper envelope, unless there is only one.

    Args:
        rows: At least one, with `accuracy`, `shots` (None: all) and `validation` (None: not tried).
    """
    tried = [i for i, row in enumerate(rows) if row["validation"] is not None]
    if tried:
        return max(tried, key=lambda i: (rows[i]["validation"], rows[i]["shots"] or math.inf)), True
    return max(range(len(rows)), key=lambda i: rows[i]["accuracy"]), len(rows) == 1


def measured(victim: Victim, targets: Tensor, truth: Tensor, own: Tensor, labels: Tensor, *, seed: int) -> list[dict[str, Any]]:
    """Attack a victim and judge; arguments as in `guess_labels`."""
    offers = victim.offers(targets, OwnImages(own, own[:0])) | {"aux_labels": labels}
    return judge(attack(know(View(offers, NEEDS, attack="fewshot")), seed=seed), truth.cpu().numpy())


def pixels(targets: Tensor, truth: Tensor, own: Tensor, labels: Tensor, *, seed: int) -> list[dict[str, Any]]:
    """The ruler: the same on the images themselves, as somebody could who sees them."""
    mine, theirs = ({"pixels": pool(images).cpu().numpy()} for images in (own, targets))
    known = Knowledge(mine, labels.cpu().numpy(), theirs)
    return judge(attack(known, seed=seed), truth.cpu().numpy())


def check(targets: Tensor, target_labels: Tensor, aux: Tensor, aux_labels: Tensor) -> None:
    """Refuse images out of range or of different sizes, a target among `aux`, and images without labels; arguments as in `guess_labels`.

    Raises:
        ValueError: one sentence.
    """
    for name, images, labels in (("targets", targets, target_labels), ("auxiliary images", aux, aux_labels)):
        quality.check_range(images, name)
        if images.dim() != 4 or images.shape[1] != 3 or images.shape[1:] != targets.shape[1:] or len(images) < 2:
            raise ValueError(f"{name} have shape {tuple(images.shape)}: at least two images (n, 3, S, S), all of the size of the targets "
                             f"{tuple(targets.shape[1:])}, are needed")
        if len(images) != len(labels):
            raise ValueError(f"there are {len(images)} {name} and {len(labels)} labels of them")
    sets.refuse_shared(targets, aux)


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
        `high`, `draws`, `validation` (share of held-out own images told right; None: not tried). `headline(rows)` says which counts.

    Raises:
        ValueError: images out of range or of different sizes, a target among `aux`, images without labels.
    """
    check(targets, target_labels, aux, aux_labels)
    return measured(Victim(client, **constants), targets, target_labels, aux, aux_labels, seed=seed)
