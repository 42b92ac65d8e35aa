"""EncoderMI: learned from the cosines between random views' embeddings, on shadow encoders (Liu et al., CCS 2021).

vector: the sorted cosines of m views' pairs and a perceptron (256, 256). set: the cosines in any order and a set network. Both at each
place that the attacker reaches; the headline is the one that does best on his own held-out images.
"""

from __future__ import annotations

from torch import Tensor

from attacks.members.api import Question, Score
from attacks.members.embed import places, with_own
from attacks.members.learned import SetNetwork, fit, gather, perceptron
from attacks.members.scores import cosines, own_images
from attacks.view import View


def attack(view: View, question: Question) -> list[Score]:
    """The vector and the set variant at each place."""
    options, augment = question.options, question.augment
    own = own_images(view)[: options.fit]

    def sorted_cosines(of: View, images: Tensor, purpose: str) -> dict[str, Tensor]:
        made = cosines(of, images, augment=augment, count=options.views, seed=options.seed, purpose=purpose)
        return {place: values.sort(dim=1).values for place, values in made.items()}

    learnt = gather(question.shadows, lambda shadow: sorted_cosines(shadow.view, own, "own views"))
    asked = sorted_cosines(view, question.candidates, "membership views")
    found = []
    for place, needs in places(view).items():
        x, inside, held_out = learnt[place]
        for name, network in (("vector", perceptron(x.shape[1], (256, 256))), ("set", SetNetwork())):
            fitted = fit(network, x, inside, held_out, seed=options.seed, common_scale=name == "set")
            found.append(Score(place, name, fitted(asked[place]), with_own(view, needs), fitted.threshold,
                               fitted.auc, {"epochs": fitted.epochs}))
    return found
