"""Attack and judge: scores of candidates beside the truth, for a checkpoint or for any encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.members import metrics, pool
from attacks.members.api import AttackOptions, Question, Score, Shadow
from attacks.members.embed import Server
from attacks.members.table import METHODS
from attacks.victim import Encoder, Victim
from attacks.view import OwnImages, View
from ssl_split import fields, quality
from ssl_split.config import Augment
from ssl_split.data.imageset import ImageSet, Triple


@dataclass(frozen=True)
class Inference:
    """What an attack found.

    Attributes:
        rows: One for each place and score: `place`, `score`, `needs`, `validation_auc`, `notes` and what `metrics.measure` says.
        headline: Its place in `rows`: chosen on the attacker's own data, else the first.
        verdict: In words.
        scores: Of the candidates, `(rows, n)`.
        truth: Which candidates are members, bool `(n,)`.
    """

    rows: list[dict[str, Any]]
    headline: int
    verdict: str
    scores: Tensor
    truth: Tensor

    @property
    def best(self) -> dict[str, Any]:
        """The row that counts."""
        return self.rows[self.headline]


@dataclass(frozen=True)
class OwnEncoder:
    """An encoder that the attacker has trained.

    Attributes:
        client: As the attacked one.
        seen: Which of his images it was trained on, bool `(m,)`.
        server: The rest of its network.
    """

    client: Encoder
    seen: Tensor
    server: Server | None = None


def attacked(view: View, question: Question) -> list[Score]:
    """Scores by the method that the options name."""
    return METHODS[question.options.method].run(view, question)


def judged(scores: Sequence[Score], truth: Tensor, *, untrained: Sequence[Mapping[str, Any]] | None = None) -> Inference:
    """Compare scores with the truth.

    Args:
        scores: Of the candidates.
        truth: bool `(n,)`.
        untrained: `auc`, `low`, `high` of the same scores on a client before training.
    """
    rows = []
    for i, score in enumerate(scores):
        row = {"place": score.place, "score": score.name, "needs": list(score.needs), "validation_auc": score.validation_auc,
               "notes": dict(score.notes), **metrics.measure(score.values, truth, threshold=score.threshold)}
        row["untrained"] = dict(untrained[i]) if untrained else None
        rows.append(row)
    chosen = [i for i, s in enumerate(scores) if s.validation_auc is not None]
    headline = max(chosen, key=lambda i: scores[i].validation_auc or 0.0) if chosen else 0
    verdict = metrics.verdict(rows[headline], rows[headline]["untrained"])
    return Inference(rows, headline, verdict, torch.stack([s.values.double().cpu() for s in scores]), truth)


def ruler(scores: Sequence[Score], truth: Tensor) -> list[dict[str, Any]]:
    """What is kept of the attack on an untrained client."""
    found = []
    for score in scores:
        low, high = metrics.bootstrap(score.values, truth)["auc"]
        found.append({"place": score.place, "score": score.name, "auc": metrics.auc(score.values, truth), "low": low, "high": high})
    return found


def infer(client: Encoder, members: Tensor, nonmembers: Tensor, own: Tensor | None = None, *, labels: tuple[Tensor, Tensor] | None = None,
          own_labels: Tensor | None = None, server: Server | None = None, shadows: Sequence[OwnEncoder] = (),
          untrained: Encoder | None = None, augment: Augment | None = None, mean: Triple = pool.ZERO, std: Triple = pool.ONE,
          **options: Any) -> Inference:
    """Attack any client: no run directory and no training code of this project is needed.

    Args:
        client: Normalised images `(B, 3, S, S)` -> activations `(B, ...)`.
        members: Images it was trained on, `(n, 3, S, S)`, uint8 or floats in [0, 1], which are rounded to 8 bits.
        nonmembers: Images it was not trained on, of the same kind and classes, `(m, 3, S, S)`.
        own: The attacker's images, for methods that calibrate or learn.
        labels: Of members and of non-members, for `loss` and `rmia`.
        own_labels: Of `own`.
        server: The rest of the network: pooled features and the projector become places, and `infonce`, `loss` possible.
        shadows: The attacker's encoders, for `encodermi`, `partcrop`, `rmia` and `lira`.
        untrained: The client before training, as a ruler; `server` is taken for its rest too.
        augment: Random views as in training (default: MoCo v2).
        mean, std: Of the client's input.
        **options: `method` and other fields of `AttackOptions`.

    Raises:
        ValueError: images out of range, in two sets at once, or an attack that needs more than is given.
    """
    chosen = fields.build(AttackOptions, options)
    named = {"members": _images(members, "members"), "non-members": _images(nonmembers, "non-members")}
    if own is not None:
        named[OWN] = _images(own, "the attacker's images")
    pool.refuse_shared(named)
    if METHODS[chosen.method].shadows and len(shadows) < 2:
        raise ValueError(f"the attack {chosen.method} needs at least 2 encoders of the attacker's own (shadows), not {len(shadows)}")
    inside, outside = (ImageSet(named[name].images, labels[i] if labels else None) for i, name in enumerate(("members", "non-members")))
    candidates, truth = pool.mix(inside, outside)
    known: dict[str, Any] = {"labels": candidates.labels, "aux_labels": own_labels}
    if own is not None:
        known["aux_same"] = OwnImages(pool.to_float(named[OWN].images), torch.empty(0))
    constants: dict[str, Any] = {"mean": mean, "std": std, "options": chosen}
    unseen = torch.zeros(len(truth), dtype=torch.bool)
    encoders = [Shadow(_view(e.client, e.server, {}, everything=True, **constants), e.seen, unseen) for e in shadows]
    question = Question(candidates.images, augment or Augment(kind="mocov2"), chosen, encoders)
    before = None if untrained is None else ruler(attacked(_view(untrained, server, known, **constants), question), truth)
    return judged(attacked(_view(client, server, known, **constants), question), truth, untrained=before)


OWN = "attacker's own images"


def _view(client: Encoder, server: Server | None, known: Mapping[str, Any], *, options: AttackOptions, mean: Triple, std: Triple,
          everything: bool = False) -> View:
    """What the attack declares of a client; of the attacker's own encoders everything."""
    offered = {"query": Victim(client, mean, std).release, "server_model": server, **known}
    offered = {flag: value for flag, value in offered.items() if value is not None}
    method = METHODS[options.method]
    optional = (*method.optional, *(("labels", "aux_labels") if options.method == "lira" else ()))
    needs = list(offered) if everything else [*method.needs, *(flag for flag in optional if flag in offered)]
    return View(offered, needs, attack=options.method)


def _images(images: Tensor, name: str) -> ImageSet:
    if images.dtype == torch.uint8:
        return ImageSet(images)
    quality.check_range(images, name)
    return ImageSet((images.detach() * 255).round().to(torch.uint8))
