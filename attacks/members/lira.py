"""LiRA: any score, calibrated for each image by encoders of the attacker's own (Carlini et al., IEEE S&P 2022).

Symbols: s(x) the score of an image under the attacked client; s_k(x) under encoder k of K; mu and sigma^2 their mean and variance.

offline  no s_k has seen x: (s - mu_out) / sigma_out, the one-sided test of the paper.
online   every encoder has seen a random half of the attacker's images and of those asked about, each image in exactly half of the encoders:
         ln N(s; mu_in, sigma_in) - ln N(s; mu_out, sigma_out).

sigma is shared by all images where fewer than 8 values would make it (the paper: below 64); of a single value each, it is the spread of
the images' values. How well it works, and
from which value on an image is called a member, is asked of the attacker's encoders themselves: each is attacked once with the
others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.members import metrics
from attacks.members.api import LIRA_SCORES, Question, Score, Shadow
from attacks.members.embed import need_classifier, places, server, with_own
from attacks.members.scores import alignments, log_norms, own_images
from attacks.members.training import contrastive, label_odds, logits
from attacks.view import CAPABILITIES, CapabilityError, View

OWN_VARIANCE = 8
"""Values of one image from which on it has a variance of its own."""
SMALL = 1e-12


def _moments(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over encoders of each image's chosen values, `(n,)`; the variance is the images' common one where values are few.

    Args:
        values: `(K, n)`.
        chosen: bool `(K, n)`; an image without any gets a mean that is not a number.
    """
    count = chosen.double().sum(0)
    mean = (values * chosen).sum(0) / count
    squares = ((values - mean).nan_to_num().square() * chosen).sum(0)
    freedom = (count - 1).clamp(min=0)
    common = squares.sum() / freedom.sum() if bool(freedom.sum() > 0) else (mean - mean.nanmean()).nan_to_num().square().mean()
    own = squares / freedom.clamp(min=1)
    return mean, torch.where(count >= OWN_VARIANCE, own, common).clamp(min=SMALL)


def offline(score: Tensor, references: Tensor, seen: Tensor) -> Tensor:
    """(s - mu_out) / sigma_out.

    Args:
        score: `(n,)`.
        references: s_k, `(K, n)`.
        seen: Which encoder has seen which image, bool `(K, n)`; those that have do not count.

    Returns:
        `(n,)`; not a number where every encoder has seen the image.
    """
    mean, variance = _moments(references, ~seen)
    return (score - mean) / variance.sqrt()


def online(score: Tensor, references: Tensor, seen: Tensor) -> Tensor:
    """Log-likelihood ratio of in and out; arguments as in `offline`. Not a number where an image is in all encoders or in none."""
    (mean_in, var_in), (mean_out, var_out) = _moments(references, seen), _moments(references, ~seen)
    return 0.5 * ((score - mean_out).square() / var_out + var_out.log() - (score - mean_in).square() / var_in - var_in.log())


def on_own_encoders(references: Tensor, seen: Tensor, *, with_in: bool) -> tuple[float | None, float | None]:
    """AUC and best threshold where each of the attacker's encoders is attacked with the others; None where they are too few."""
    scores, truth = [], []
    for k in range(len(references)):
        others = torch.arange(len(references)) != k
        found = (online if with_in else offline)(references[k], references[others], seen[others])
        known = torch.isfinite(found)
        scores.append(found[known])
        truth.append(seen[k][known])
    all_scores, all_truth = torch.cat(scores), torch.cat(truth)
    if len(all_truth.unique()) < 2:
        return None, None
    threshold = metrics.curve(all_scores, all_truth).best_threshold
    return metrics.auc(all_scores, all_truth), threshold if threshold < float("inf") else None


def base_scores(view: View, images: Tensor, question: Question, labels: Tensor | None, *, name: str, purpose: str) -> dict[str, Tensor]:
    """The score to calibrate, one of `LIRA_SCORES`: float64 `(n,)` at each place; larger for members."""
    options = question.options
    if name == "alignment":
        return alignments(view, images, augment=question.augment, options=options, purpose=purpose)
    if name == "norm":
        return log_norms(view, images, p=options.p)
    if name == "infonce":
        return {"projector": contrastive(view, images, augment=question.augment, options=options, purpose=purpose)}
    need_classifier(view)
    assert labels is not None  # `need_labels`
    return {"projector": label_odds(logits(view, images), labels.cpu())}


def base_name(view: View, question: Question) -> str:
    """Which score is calibrated."""
    if question.options.score is not None:
        return question.options.score
    supervised = "server_model" in view.capabilities and server(view).supervised and "labels" in view.capabilities
    return "loss" if supervised else "alignment"


def need_labels(view: View, *, with_in: bool) -> None:
    """Check that the loss can be calibrated: of own images too, but online, where these are not asked about.

    Raises:
        CapabilityError: labels are missing.
    """
    missing = [flag for flag in ("labels", *["aux_labels"] * (not with_in)) if flag not in view.capabilities]
    if missing:
        raise CapabilityError(f"the attack {view.attack} calibrates the loss of a classifier, which needs {' and '.join(missing)} "
                              f"({CAPABILITIES[missing[0]]}): give them, or choose another score ({', '.join(LIRA_SCORES[:2])})")


def attack(view: View, question: Question) -> list[Score]:
    """The calibrated score at each place.

    Raises:
        CapabilityError: it is the loss, and labels are missing.
    """
    labels = view.offered("labels") if "labels" in view.capabilities else None
    with_in, name = question.options.online, base_name(view, question)
    if name == "loss":
        need_labels(view, with_in=with_in)
    asked, *candidates = (base_scores(v, question.candidates, question, labels, name=name, purpose="membership views")
                          for v in (view, *(s.view for s in question.shadows)))
    inside = torch.stack([s.candidates_in for s in question.shadows])
    validation = None if with_in else _own(view, question, name)
    found = []
    for place, needs in places(view).items():
        if place not in asked:
            continue
        references = torch.stack([c[place] for c in candidates])
        values = (online if with_in else offline)(asked[place], references, inside)
        seen = torch.stack([s.own_in[: question.options.fit] for s in question.shadows])
        own = (references, inside) if validation is None else (torch.stack([o[place] for o in validation]), seen)
        auc, threshold = on_own_encoders(*own, with_in=with_in)
        found.append(Score(place, f"{name}, {'online' if with_in else 'offline'}", values, with_own(view, needs), threshold, auc))
    return found


def _own(view: View, question: Question, name: str) -> list[dict[str, Tensor]]:
    own = own_images(view)[: question.options.fit]
    labels = view.offered("aux_labels")[: len(own)] if "aux_labels" in view.capabilities else None

    def of(shadow: Shadow) -> dict[str, Tensor]:
        return base_scores(shadow.view, own, question, labels, name=name, purpose="own views")

    return [of(shadow) for shadow in question.shadows]
