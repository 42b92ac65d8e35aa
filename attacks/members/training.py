"""Scores that read what training left in the models: the contrastive loss, the momentum encoder's lag, and a classifier's answers.

infonce        minus the loss of a view against another one of the same image and the server's queue, mean over pairs of views. The key goes
               through the client that the attacker can query and the server's momentum half.
momentum-gap   ||f_w(x) - f_w'(x)||, the way that the client w is ahead of its momentum w'. Larger or smaller for members? As in `norm`,
               whichever way the images asked about lie beside the attacker's own.
loss           ln p_y - ln(1 - p_y): the cross-entropy on a scale on which it is near to Gaussian (Carlini et al. 2022); the order is
               that of the loss (Yeom et al. 2018).
confidence     the largest softmax value (Salem et al. 2019).
rmia           robust membership inference (Zarifzadeh et al., ICML 2024), offline: the share of the attacker's images z with
               ratio_x / ratio_z >= 1, ratio_x = p(x | w) / p(x), p(x) = ((1 + a) p_out(x) + 1 - a) / 2 over reference models that have not
               seen x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.members import pool
from attacks.members.api import AttackOptions, Question, Score, Shadow
from attacks.members.embed import need_classifier, outputs, server
from attacks.members.scores import BLOCK, VIEWS, own_images, standardised
from attacks.victim import evaluation
from attacks.view import CapabilityError, View
from ssl_split.config import Augment
from ssl_split.objectives.moco import info_nce_rows

OFFLINE_A = 0.3
"""a of RMIA, as published for CIFAR-10."""


def contrastive(view: View, images: Tensor, *, augment: Augment, options: AttackOptions, purpose: str = "membership views") -> Tensor:
    """Minus the InfoNCE loss, mean over the pairs (1, 2), (3, 4) ... of views, float64 `(n,)`.

    Raises:
        CapabilityError: the server has no queue.
    """
    held = server(view)
    queue = held.queue
    if queue is None:
        raise CapabilityError(f"the attack {view.attack} needs a queue of keys in server_model, and here it has none: the run was "
                              "trained with labels or without negative keys, or this file holds weights alone (--which best)")
    count = options.views // 2 * 2

    def block(part: Tensor, first: int) -> dict[str, Tensor]:
        x = pool.views(part, augment, count=count, seed=options.seed, first=first, purpose=purpose)
        q, k = (functional.normalize(outputs(view, x[i::2], momentum=i == 1).float(), dim=1) for i in (0, 1))
        loss = info_nce_rows(q, k, queue, temperature=held.temperature)
        return {"loss": loss.double().view(len(part), -1).mean(1).cpu()}

    return -pool.rows(images, block, size=max(1, VIEWS // count))["loss"]


def infonce(view: View, question: Question) -> list[Score]:
    """The contrastive loss."""
    values = contrastive(view, question.candidates, augment=question.augment, options=question.options)
    return [Score("projector", "infonce", values, ("query", "server_model"))]


def momentum_gap(view: View, question: Question) -> list[Score]:
    """The distance between client and momentum client; the latter is known, or guessed from several averaged clients.

    Raises:
        CapabilityError: it is not known, and only one averaged client was seen.
    """
    client = view.weights
    known = "momentum_weights" in view.capabilities
    other: nn.Module | None = view.offered("momentum_weights") if known else client.guess
    if other is None:
        raise CapabilityError(f"the attack {view.attack} needs momentum_weights, which this client does not offer, or several averaged "
                              "clients to guess them from: this run keeps only one checkpoint (--keep-checkpoints)")

    def block(part: Tensor, first: int) -> dict[str, Tensor]:
        x = client.normalise(pool.to_float(part))
        with evaluation(client.module), evaluation(other):
            gap = (client.module(x) - other(x)).flatten(1).double()
        return {"gap": gap.norm(dim=1).clamp(min=1e-30).log().cpu()}

    asked = pool.rows(question.candidates, block, size=BLOCK)["gap"]
    own = pool.rows(own_images(view)[: question.options.fit], block, size=BLOCK)["gap"]
    z, side = standardised(asked, own)
    notes = {"momentum": "known" if known else "guess", "members_are": "farther" if side > 0 else "nearer"}
    return [Score("cut", "momentum gap", side * z, view.capabilities, notes=notes)]


def logits(view: View, images: Tensor) -> Tensor:
    """A classifier's outputs for un-augmented images, float64 `(n, classes)` on the CPU.

    Raises:
        CapabilityError: the run was trained without labels.
    """
    need_classifier(view)
    return pool.rows(images, lambda part, first: {"out": outputs(view, pool.to_float(part)).double().cpu()}, size=BLOCK)["out"]


def label_odds(out: Tensor, labels: Tensor) -> Tensor:
    """ln p_y - ln(1 - p_y) of logits `(n, classes)` and labels `(n,)`."""
    right = out.gather(1, labels[:, None]).squeeze(1)
    others = out.scatter(1, labels[:, None], float("-inf")).logsumexp(1)
    return right - others


def loss(view: View, question: Question) -> list[Score]:
    """The label's odds."""
    values = label_odds(logits(view, question.candidates), view.offered("labels").cpu())
    return [Score("projector", "loss", values, ("query", "server_model", "labels"))]


def confidence(view: View, question: Question) -> list[Score]:
    """The largest softmax value."""
    values = logits(view, question.candidates).softmax(1).max(1).values
    return [Score("projector", "confidence", values, ("query", "server_model"))]


def rmia(view: View, question: Question) -> list[Score]:
    """Likelihood ratios against the attacker's images."""
    labels, own = view.offered("labels").cpu(), own_images(view)[: question.options.fit]
    own_labels = view.offered("aux_labels")[: len(own)].cpu()
    asked = ratios(_likelihood(view, question.candidates, labels), question.candidates, labels, question.shadows, inside="candidates_in")
    own_ratios = ratios(_likelihood(view, own, own_labels), own, own_labels, question.shadows, inside="own_in")
    population = own_ratios[torch.isfinite(own_ratios)].sort().values
    share = torch.searchsorted(population, asked, right=True).double() / len(population)
    return [Score("projector", "rmia", share, view.capabilities)]


def _likelihood(view: View, images: Tensor, labels: Tensor) -> Tensor:
    return logits(view, images).softmax(1).gather(1, labels[:, None]).squeeze(1)


def ratios(found: Tensor, images: Tensor, labels: Tensor, shadows: Sequence[Shadow], *, inside: str) -> Tensor:
    """p(x | w) / p(x) for images, p(x) from the reference models that have not seen x; not a number where all have.

    Args:
        found: p(x | w), `(n,)`.
        images: uint8 `(n, 3, S, S)`.
        labels: `(n,)`.
        shadows: Reference models.
        inside: Name of what says which images each has seen.
    """
    values = torch.stack([_likelihood(s.view, images, labels) for s in shadows])  # (K, n)
    out = torch.stack([~getattr(s, inside)[: len(images)] for s in shadows]).double()
    average = (values * out).sum(0) / out.sum(0)
    return found / (0.5 * ((1 + OFFLINE_A) * average + 1 - OFFLINE_A))
