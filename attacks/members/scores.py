"""Scores that need nothing but answers to own queries: the norm of an embedding, and how alike the embeddings of random views are.

norm        Embedding Lp-norm likelihood attack (LpLA, Sun et al., ASIA CCS 2025). The logarithm of ||f(x)||_p is fitted by a Gaussian on
            the attacker's own non-members; an image is the more a member the less likely its norm is under that fit. `one-sided` is the
            norm itself, its sign chosen by whether the images asked about have larger norms on average than the attacker's own.
alignment   EncoderMI-T (Liu et al., CCS 2021): mean cosine of the pairs of m views' embeddings; training pulls views of members together.

Deviation (norm): a Gaussian of the logarithm in place of the published fit, which also knows members of a shadow encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attacks.members import pool
from attacks.members.api import AttackOptions, Question, Score
from attacks.members.embed import at_places, places, with_own
from attacks.view import View
from ssl_split.config import Augment

BLOCK = 256
"""Images sent through the client at a time."""
VIEWS = 320
"""Views of images sent through it at a time."""
TINY = 1e-30


def log_norms(view: View, images: Tensor, *, p: float) -> dict[str, Tensor]:
    """ln ||f(x)||_p of un-augmented images at each place, float64 `(n,)` on the CPU."""
    def block(part: Tensor, first: int) -> dict[str, Tensor]:
        found = at_places(view, pool.to_float(part))
        return {place: torch.linalg.vector_norm(z.flatten(1).double(), p, dim=1).clamp(min=TINY).log().cpu() for place, z in found.items()}

    return pool.rows(images, block, size=BLOCK)


def norm(view: View, question: Question) -> list[Score]:
    """Likelihood of the norm under a fit on own non-members; two scores at each place."""
    options, reached = question.options, places(view)
    asked = log_norms(view, question.candidates, p=options.p)
    own = log_norms(view, own_images(view)[: options.fit], p=options.p)
    found = []
    for place, needs in reached.items():
        z, side = standardised(asked[place], own[place])
        needs = with_own(view, needs)
        found.append(Score(place, "likelihood", z.square(), needs))
        found.append(Score(place, "one-sided", side * z, needs, notes={"members_are": "larger" if side > 0 else "smaller"}))
    return found


def standardised(asked: Tensor, own: Tensor) -> tuple[Tensor, int]:
    """Values in units of the fit on own non-members, and the sign of their mean.

    The sign is no peep at the truth: with equal distributions it is independent of the difference between members and non-members.
    """
    z = (asked - own.mean()) / own.std().clamp(min=1e-9)
    return z, 1 if float(z.mean()) >= 0 else -1


def own_images(view: View) -> Tensor:
    """The attacker's images as uint8 `(m, 3, S, S)`."""
    return (view.aux.fit * 255).round().to(torch.uint8)


def cosines(view: View, images: Tensor, *, augment: Augment, count: int, seed: int, purpose: str = "membership views") -> dict[str, Tensor]:
    """Cosines of the pairs of views' embeddings at each place, `(n, m (m - 1) / 2)` on the CPU; arguments as in `pool.views`."""
    upper = torch.triu_indices(count, count, 1)

    def block(part: Tensor, first: int) -> dict[str, Tensor]:
        x = pool.views(part, augment, count=count, seed=seed, first=first, purpose=purpose)
        found = {}
        for place, z in at_places(view, x).items():
            unit = functional.normalize(z.flatten(1).float(), dim=1).unflatten(0, (-1, count))  # (B, m, d)
            found[place] = (unit @ unit.transpose(1, 2))[:, upper[0], upper[1]].cpu()
        return found

    return pool.rows(images, block, size=max(1, VIEWS // count))


def alignments(view: View, images: Tensor, *, augment: Augment, options: AttackOptions, purpose: str = "membership views"
               ) -> dict[str, Tensor]:
    """Mean cosine of the pairs of views at each place, float64 `(n,)`."""
    found = cosines(view, images, augment=augment, count=options.views, seed=options.seed, purpose=purpose)
    return {place: values.double().mean(1) for place, values in found.items()}


def alignment(view: View, question: Question) -> list[Score]:
    """How alike the embeddings of random views are."""
    found = alignments(view, question.candidates, augment=question.augment, options=question.options)
    return [Score(place, "alignment", found[place], needs) for place, needs in places(view).items()]
