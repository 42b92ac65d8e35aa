"""What a membership attack is: a function from a view and candidate images to scores, its row in the table, its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attacks.view import View
from ssl_split import fields
from ssl_split.config import Augment

METHODS = ("norm", "alignment", "encodermi", "partcrop", "infonce", "momentum-gap", "loss", "confidence", "rmia", "lira")
"""Names of the membership attacks, in the order of tables."""
ENCODERS = {"quick": 2, "standard": 8, "paper": 16}
"""Shadow or reference encoders by budget."""
CROPS = {"quick": 32, "standard": 128, "paper": 128}
"""Crops of an image by budget (`partcrop`)."""
LIRA_SCORES = ("norm", "alignment", "infonce", "loss")


@dataclass(frozen=True)
class AttackOptions:
    """How a membership attack is run."""

    method: str = fields.field("alignment", "attack", choices=METHODS, section="attack")
    budget: str = fields.field("standard", "encodermi, partcrop, rmia, lira: quick 2, standard 8, paper 16 encoders of the attacker's own",
                               choices=tuple(ENCODERS))
    views: int = fields.field(10, "random views of an image (alignment, encodermi, infonce)", low=2)
    p: float = fields.field(2.0, "exponent of the norm (norm)", above=0)
    crops: int | None = fields.field(None, "crops of an image (partcrop; default: quick 32, else 128)", low=2)
    fit: int = fields.field(2000, "own images, at most, that each encoder of the attacker's own is asked about", low=20)
    score: str | None = fields.field(None, "score that lira calibrates (default: alignment; of supervised runs loss)", choices=LIRA_SCORES)
    online: bool = fields.field(False, "lira: the attacker's encoders are trained on part of the images asked about, too")
    encoders: int | None = fields.field(None, "encoders of the attacker's own (default: by budget)", low=2)
    seed: int = fields.field(0, "of views, crops and the attacker's networks", low=0)

    @property
    def encoder_count(self) -> int:
        """Shadow or reference encoders to train."""
        return self.encoders or ENCODERS[self.budget]

    @property
    def crop_count(self) -> int:
        """Crops of an image."""
        return self.crops or CROPS[self.budget]


@dataclass(frozen=True)
class Shadow:
    """An encoder that the attacker has trained himself.

    Attributes:
        view: Offers everything: it is his own.
        own_in: Which of his own images it was trained on, bool `(m,)`.
        candidates_in: Which of the images asked about, bool `(n,)`.
    """

    view: View
    own_in: Tensor
    candidates_in: Tensor


@dataclass(frozen=True)
class Question:
    """What is asked, and with what.

    Attributes:
        candidates: Members and non-members in random order, uint8 `(n, 3, S, S)`.
        augment: Random views as in training.
        options: Of the attack.
        shadows: The attacker's own encoders, for methods that need them.
    """

    candidates: Tensor
    augment: Augment
    options: AttackOptions
    shadows: Sequence[Shadow] = ()


@dataclass(frozen=True)
class Score:
    """One answer.

    Attributes:
        place: cut, pooled or projector.
        name: Of the score.
        values: `(n,)`, larger for members.
        needs: Capabilities behind it.
        threshold: From which on an image is called a member, where the attacker could choose one on own data.
        validation_auc: On own data, by which the headline is chosen; None where there are no members among them.
        notes: What else the result file should say, plain values.
    """

    place: str
    name: str
    values: Tensor
    needs: tuple[str, ...]
    threshold: float | None = None
    validation_auc: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One row of the table of attacks.

    Attributes:
        run: `(view, question) -> scores`, the headline first where no score was chosen on own data.
        needs: Capabilities it declares.
        optional: Capabilities it also reads where they are offered.
        options: Names of the `AttackOptions` that change its numbers.
        cost: For `--help` and the docs.
        source: Where it is from.
        supervised: Whether it reads a classifier's answers.
        shadows: Whether it needs encoders of the attacker's own.
    """

    run: Callable[[View, Question], list[Score]]
    needs: tuple[str, ...]
    optional: tuple[str, ...]
    options: tuple[str, ...]
    cost: str
    source: str
    supervised: bool = False
    shadows: bool = False
