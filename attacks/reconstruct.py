"""One attack from beginning to end on any client: run it, compare with the truth and both rulers, say what the numbers mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from attacks import identify, judge, pairs, sets
from attacks.api import QUICK, AttackOptions, Guess
from attacks.identify import Gallery
from attacks.judge import Scores
from attacks.methods import METHODS, YARDSTICKS
from attacks.victim import Encoder, Victim, redrawn
from attacks.view import OwnImages, ServerModel, View
from ssl_split import fields, quality
from ssl_split.config import Augment
from ssl_split.data.imageset import Triple
from ssl_split.defences.api import Defence


@dataclass(frozen=True)
class Inversion:
    """What an attack achieved, with its rulers.

    Attributes:
        images: Reconstructions, one `(n, 3, S, S)` in [0, 1] for every attacker seed.
        blind: The blind guess `(3, S, S)`.
        scores: Of the reconstructions per image, seeds averaged.
        blind_scores: Of the blind guess per image.
        untrained_scores: The same attack on the untrained client; None if none was given.
        result: The numbers, under the keys of the result file.
    """

    images: list[Tensor]
    blind: Tensor
    scores: Scores
    blind_scores: Scores
    untrained_scores: Scores | None
    result: dict[str, Any]

    @property
    def verdict(self) -> str:
        """One sentence on what the numbers mean."""
        return str(self.result["verdict"])


def reconstruct(
    client: Encoder, targets: Tensor, aux: Tensor, *, method: str = "decoder", untrained: Encoder | None = None,
    mean: Triple = (0.0, 0.0, 0.0), std: Triple = (1.0, 1.0, 1.0), aux_kind: str = "aux_same", private: Tensor | None = None,
    gallery: Tensor | None = None, labels: Tensor | None = None, gallery_labels: Tensor | None = None,
    fresh: Callable[[int], nn.Module] | None = None, defence: Defence | None = None, momentum: nn.Module | None = None,
    augment: Augment | None = None, server: ServerModel | None = None, aux_labels: Tensor | None = None,
    private_labels: Tensor | None = None, **options: Any,
) -> Inversion:
    """Attack any client: no run directory and no training code of this project is needed.

    Args:
        client: Images `(B, 3, S, S)` -> smashed data `(B, ...)`. A module is put into eval mode for the attack and back afterwards.
        targets: The images to be reconstructed, floats `(n, 3, S, S)` in [0, 1]. Only their smashed data reach the attack.
        aux: The attacker's images, floats `(m, 3, S, S)` in [0, 1], none of them a target; a tenth serves for validation.
        method: A name of `attacks.api.METHODS`; `optimise` needs a module, whose weights it uses.
        untrained: The same client before training, as a ruler.
        mean, std: Constants with which the client's input is normalised; the default leaves images in [0, 1].
        aux_kind: `aux_same` or `aux_other`: whether `aux` is from the targets' distribution.
        private: Images of the client itself, as `aux`, no target among them: what `oracle` trains on, and whose smashed data an attacker
            in training has seen.
        gallery: Further images for the judge alone, as `aux`, none of them a target or in `aux`: the target is looked for among them.
        labels, gallery_labels: Classes of the targets and of these images, int64: with both, a classifier trained on the gallery says what
            the reconstructions show.
        fresh: Seed -> the client at new initial weights, for attacks that know its shape; without it they shuffle those of `untrained`.
        defence: What becomes of smashed data before they are sent (`ssl_split.defences`); `attacker="unaware"` is one who does not know.
        momentum: The momentum client, known to the attacker: targets are then sent as two random views, the second through it (`twoview`).
        augment: The family of these views; None for MoCo v2's.
        server: The server's half, for attackers who have it (`attacks.served`); the ruler of the untrained client meets the same.
        aux_labels, private_labels: Classes of `aux` and `private`, int64, for attackers beside a server that reads labels.
        **options: Fields of `AttackOptions`, e.g. `budget="quick"`, `seeds=1`, `decoder={"steps": 200}`.

    Raises:
        ValueError: images out of range or of different sizes, a target among `aux`, activations that are not finite.
    """
    chosen = fields.build(AttackOptions, {"method": method, **options})
    further = {"auxiliary images": aux, "private images": private, "gallery images": gallery}
    sources = {name: images for name, images in further.items() if images is not None}
    _check(targets, sources)
    shown = Gallery(targets[:0] if gallery is None else gallery, gallery_labels, labels)
    shown.check(targets, aux)
    own, theirs = sets.split(aux), None if private is None else sets.split(private)
    own_labels = None if aux_labels is None else aux_labels.to(aux.device)[~sets.held_out(len(aux)).to(aux.device)]
    known = fresh or (redrawn(untrained) if isinstance(untrained, nn.Module) else None)

    def victim(attacked: Encoder) -> Victim:
        made = Victim(attacked, mean, std, theirs, defence or Defence(), chosen.attacker == "adaptive", known, private, private_labels,
                      own_labels, server)
        if momentum is None or chosen.method != "twoview":
            return made
        shown = pairs.drawn((targets * 255).round().byte(), augment or Augment("mocov2"))
        follower = momentum if attacked is client else attacked
        assert isinstance(follower, nn.Module)
        return pairs.sending(made, shown, [follower], averaged=follower, guess=None)

    ruler = None if untrained is None else lambda: same_attack(victim(untrained), targets, own=own, options=chosen)
    return judged(victim(client), targets, own=own, options=chosen, untrained=ruler, aux_kind=aux_kind,
                  gallery=shown)


def _check(targets: Tensor, sources: Mapping[str, Tensor]) -> None:
    """Refuse images out of range or of different sizes, and targets among the others; `sources` by what they are called."""
    for name, images in {"targets": targets, **sources}.items():
        quality.check_range(images, name)
        if images.dim() != 4 or images.shape[1:] != targets.shape[1:] or images.shape[1] != 3 or len(images) < 2:
            raise ValueError(f"{name} have shape {tuple(images.shape)}: at least two images (n, 3, S, S), all of the size of the targets "
                             f"{tuple(targets.shape[1:])}, are needed")
    for name, images in sources.items():
        sets.refuse_shared(targets, images, name=name)


def guesses(victim: Victim, targets: Tensor, *, own: OwnImages, options: AttackOptions, seeds: Sequence[int],
            aux_kind: str = "aux_same") -> tuple[View, list[tuple[Guess, float]]]:
    """Run an attack with each seed; it sees what it declares, and nothing of the targets but their smashed data.

    Returns:
        The view, and every seed's guess with the seconds it took.
    """
    method = METHODS[options.method]
    offered = victim.offers(targets, own, aux=aux_kind)
    view = View(offered, method.declared(offered, supervised=victim.supervised), attack=options.method)
    found = []
    for seed in seeds:
        start = time.monotonic()
        found.append((method.run(view, options, seed), time.monotonic() - start))
    return view, found


def same_attack(victim: Victim, targets: Tensor, *, own: OwnImages, options: AttackOptions) -> Scores:
    """The scores of one attacker seed: how rulers are measured."""
    _, found = guesses(victim, targets, own=own, options=options, seeds=[options.seed])
    return judge.score(found[0][0].images, targets)


def judged(victim: Victim, targets: Tensor, *, own: OwnImages, options: AttackOptions, untrained: Callable[[], Scores] | None,
           aux_kind: str = "aux_same", gallery: Gallery | None = None) -> Inversion:
    """Attack, compare with the truth and both rulers, and say what it means."""
    method = METHODS[options.method]
    seeds = options.attacker_seeds(seeded=method.seeded)
    view, timed = guesses(victim, targets, own=own, options=options, seeds=seeds, aux_kind=aux_kind)
    found = [guess for guess, _ in timed]
    blind_view = View({aux_kind: own}, METHODS["blind"].needs, attack="blind")
    blind = METHODS["blind"].run(blind_view, options, options.seed).images
    blind_scores = judge.score(blind, targets)
    each = [judge.score(guess.images, targets, extras=True) for guess in found]
    mine = judge.mean_over_seeds(each)
    uses_wire = "smashed" in method.needs
    before = untrained() if untrained is not None and uses_wire else None if uses_wire else mine
    result = numbers(mine, blind_scores, before) | {
        "verdict": judge.verdict(mine, blind_scores, before) if uses_wire else judge.BLIND,
        "validation_mse": mean_error(found), "targets": len(targets),
        "aux": len(own.fit) + len(own.validation), "seeds": list(seeds), "needs": list(view.capabilities),
        "still_improving": any(g.notes.get("still_improving", False) for g in found),
        "per_seed": [{"seed": seed, **s.to_dict(), **judge.relative(s, blind_scores), "validation_mse": g.validation_mse, **g.notes,
                      "seconds": seconds} for seed, s, (g, seconds) in zip(seeds, each, timed, strict=True)],
    }
    adapts = uses_wire and method.adaptive and victim.defence.changes_release and victim.adaptive
    if adapts and (options.unaware or options.method in QUICK):
        scores = same_attack(replace(victim, adaptive=False), targets, own=own, options=options)
        values = scores.to_dict() | judge.relative(scores, blind_scores)
        result["unaware"] = {k: values[k] for k in ("mse", "psnr", "ssim", "r2")}
    result |= seen_in([g.images.expand(targets.shape) for g in found], targets, victim=victim, gallery=gallery or Gallery(targets[:0]))
    result |= victim.further([g.further for g in found], targets, blind[0])
    if options.method == "blind":
        result["yardsticks"] = yardsticks(victim, targets, own=own, options=options, blind=blind_scores, aux_kind=aux_kind)
    return Inversion([g.images.expand(targets.shape) for g in found], blind[0], mine, blind_scores, before, result)


def mean_error(found: Sequence[Guess]) -> float | None:
    """Mean over attacker seeds of the error on own validation images; None where the attack has none."""
    errors = [guess.validation_mse for guess in found if guess.validation_mse is not None]
    return sum(errors) / len(errors) if errors else None


def seen_in(found: Sequence[Tensor], targets: Tensor, *, victim: Victim, gallery: Gallery) -> dict[str, Any]:
    """Whose the reconstructions are and what they show: `identification` and `classification` of the result file."""
    return {"identification": identify.identification(found, targets, gallery, features=victim.release),
            "classification": identify.classification(found, targets, gallery)}


def numbers(mine: Scores, blind: Scores, untrained: Scores | None) -> dict[str, Any]:
    """The scores of a result file: means, intervals and both rulers."""
    before = {"untrained_mse": None, "untrained_ssim": None, "untrained_r2": None, "untrained_psnr": None}
    if untrained is not None:
        values = untrained.to_dict() | judge.relative(untrained, blind)
        before = {f"untrained_{k}": values[k] for k in ("mse", "ssim", "r2", "psnr")}
    guess = blind.to_dict()
    return {**mine.to_dict(), **judge.relative(mine, blind), "intervals": judge.intervals(mine, blind),
            **{f"blind_{k}": guess[k] for k in ("mse", "psnr", "ssim", "ssim_resfl")}, **before,
            "per_image": {"mse": mine.mse.tolist(), "ssim": mine.ssim.tolist()}}


def yardsticks(victim: Victim, targets: Tensor, *, own: OwnImages, options: AttackOptions, blind: Scores,
               aux_kind: str) -> dict[str, dict[str, float]]:
    """Scores of the guesses that are printed beside the blind one; `mean_colour` uses the truth."""
    offers = victim.offers(targets, own, aux=aux_kind)
    found = {name: m.run(View(offers, m.needs, attack=name), options, options.seed).images for name, m in YARDSTICKS.items()}
    found["mean_colour"] = judge.mean_colour(targets)
    scores = {name: judge.score(images, targets) for name, images in found.items()}
    return {name: {**s.to_dict(), **judge.relative(s, blind)} for name, s in scores.items()}
