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
from ssl_split.defences.api import Defence


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
          defence: Defence | None = None, **options: Any) -> Inference:
    """Attack any client: no run directory and no training code of this project is needed.

    Args:
        client: Normalised images `(B, 3, S, S)` -> activations `(B, ...)`.
        members: Images it was trained on, `(n, 3, S, S)`, uint8 or floats in [0, 1], which are rounded to 8 bits.
        nonmembers: Images it was not trained on, of the same kind and classes, `(m, 3, S, S)`.
        own: The attacker's images, for methods that calibrate or learn.
        labels: Of members and of non-members, int64, for `loss`, `rmia` and, where `server` is a classifier, `lira`, which calibrates the
            loss then unless `score` says otherwise.
        own_labels: Of `own`, int64, for `rmia` and `lira` where they read `labels`.
        server: The rest of the network: pooled features and the projector become places, and `infonce`, `loss` possible.
        shadows: The attacker's encoders, for `encodermi`, `partcrop`, `rmia` and `lira`.
        untrained: The client before training, as a ruler; `server` is taken for its rest too.
        augment: Random views as in training (default: MoCo v2).
        mean, std: Of the client's input.
        defence: What becomes of activations before anybody sees them, of the attacker's encoders too.
        **options: `method` and other fields of `AttackOptions`.

    Raises:
        ValueError: images out of range, of different sizes or in two sets at once, labels that do not fit them, or an attack that needs
            more than is given.
    """
    own_images = None if own is None else _images(own, "the attacker's images")
    inside, outside = (ImageSet(_images(part, name).images, labels[i] if labels else None)
                       for i, (name, part) in enumerate((("members", members), ("non-members", nonmembers))))
    asked = Asked(fields.build(AttackOptions, options), inside, outside, own_images, own_labels=own_labels, shadows=shadows,
                  augment=augment, mean=mean, std=std, defence=defence)
    return asked.infer(client, server, untrained=None if untrained is None else asked.ruler(untrained, server))


OWN = "attacker's own images"


class Asked:
    """What is asked of any client; arguments as in `infer`, images as sets.

    Attributes:
        truth: Which images of the question are members, bool `(n,)`.
        question: What an attack is asked.

    Raises:
        ValueError: as `infer`.
    """

    def __init__(self, options: AttackOptions, members: ImageSet, nonmembers: ImageSet, own: ImageSet | None = None, *,
                 own_labels: Tensor | None = None, shadows: Sequence[OwnEncoder] = (), augment: Augment | None = None,
                 mean: Triple = pool.ZERO, std: Triple = pool.ONE, defence: Defence | None = None) -> None:
        named = {"members": members, "non-members": nonmembers, **({} if own is None else {OWN: own})}
        pool.refuse_sizes(named)
        pool.refuse_shared(named)
        _refuse_unfit(options, shadows, 0 if own is None else len(own), own_labels)
        candidates, self.truth = pool.mix(members, nonmembers)
        self._known: dict[str, Any] = {"labels": candidates.labels, "aux_labels": own_labels}
        if own is not None:
            self._known["aux_same"] = OwnImages(pool.to_float(own.images), torch.empty(0))
        self._constants: dict[str, Any] = {"mean": mean, "std": std, "options": options, "defence": defence or Defence()}
        unseen = torch.zeros(len(self.truth), dtype=torch.bool)
        encoders = [Shadow(_view(e.client, e.server, {}, copy=1 + k, everything=True, **self._constants), e.seen, unseen)
                    for k, e in enumerate(shadows)]
        self.question = Question(candidates.images, augment or Augment(kind="mocov2"), options, encoders)

    def view(self, client: Encoder, server: Server | None = None) -> View:
        """What the attack declares of a client."""
        return _view(client, server, self._known, **self._constants)

    def ruler(self, client: Encoder, server: Server | None = None) -> list[dict[str, Any]]:
        """What is kept of the attack on a client before training."""
        return ruler(attacked(self.view(client, server), self.question), self.truth)

    def infer(self, client: Encoder, server: Server | None = None, *, untrained: Sequence[Mapping[str, Any]] | None = None) -> Inference:
        """The attack on a client beside its ruler."""
        return judged(attacked(self.view(client, server), self.question), self.truth, untrained=untrained)


def _refuse_unfit(options: AttackOptions, shadows: Sequence[OwnEncoder], own: int, own_labels: Tensor | None) -> None:
    """Refuse encoders of the attacker's own that are too few or say nothing of the images in question, and labels of other images."""
    if METHODS[options.method].shadows and len(shadows) < 2:
        raise ValueError(f"the attack {options.method} needs at least 2 encoders of the attacker's own (shadows), not {len(shadows)}")
    if options.method == "lira" and options.online:
        raise ValueError("online lira needs to know which of the images asked about each encoder of the attacker's own was trained on, and "
                         "infer is not told: leave online out, or attack a run (python -m attacks.membership --method lira --online true)")
    for encoder in shadows if METHODS[options.method].shadows else ():
        if len(encoder.seen) != own:
            raise ValueError(f"an encoder of the attacker's own says of {len(encoder.seen)} images whether it was trained on them (seen), "
                             f"and there are {own} of the attacker's own")
    if own_labels is not None and len(own_labels) != own:
        raise ValueError(f"there are {own} images of the attacker's own and {len(own_labels)} labels of them")


def _view(client: Encoder, server: Server | None, known: Mapping[str, Any], *, options: AttackOptions, mean: Triple, std: Triple,
          defence: Defence, copy: int = 0, everything: bool = False) -> View:
    """What the attack declares of a client; of the attacker's own encoders everything. `copy`: of a random defence's draw."""
    victim = Victim(client, mean, std, defence=defence)
    offered = {"query": lambda images: victim.query(images, copy), "server_model": server, **known}
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
