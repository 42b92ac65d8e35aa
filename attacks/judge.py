"""The judge: compares reconstructions with the truth, which no attack sees, and says in words what the numbers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_split import quality, rng

BLIND = "This is the blind guess: it looks at nothing that crosses the wire, and an attack is one only if it beats it."
SCALE = ((0.6, "the targets are clearly recognisable"), (0.3, "the gist of the targets is visible"),
         (0.15, "colour and layout of the targets are visible"))
"""Valid SSIM above -> what is said; a convention of this project."""


@dataclass(frozen=True)
class Scores:
    """How close one set of reconstructions is, per image `(n,)`."""

    mse: Tensor
    psnr: Tensor
    ssim: Tensor
    ssim_resfl: Tensor
    extras: Mapping[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Means over images; a measure that is undefined on some image is averaged over the others."""
        mean = {"mse": self.mse.mean().item(), "psnr": self.psnr.mean().item(),
                "psnr_of_mean_mse": quality.psnr_of(self.mse.mean()).item(), "ssim": self.ssim.mean().item(),
                "ssim_resfl": self.ssim_resfl.mean().item()}
        return mean | {name: value.nanmean().item() for name, value in self.extras.items()}


def score(images: Tensor, targets: Tensor, *, extras: bool = False) -> Scores:
    """Compare reconstructions with the targets.

    Args:
        images: `(n, 3, S, S)` in [0, 1], or `(1, 3, S, S)` for one guess for all.
        targets: `(n, 3, S, S)` in [0, 1].
        extras: Also compute the slower measures of `quality.EXTRAS`.

    Raises:
        ValueError: values outside [0, 1], or images too small for SSIM.
    """
    found, truth = images.detach().float().expand(targets.shape).cpu(), targets.detach().float().cpu()
    error = quality.mse(found.double(), truth.double())
    more = quality.extras(found, truth) if extras else {}
    return Scores(error, quality.psnr_of(error), quality.ssim(found, truth).double(), quality.ssim_resfl(found, truth).double(),
                  {name: value.double() for name, value in more.items()})


def mean_colour(targets: Tensor) -> Tensor:
    """Each target's own mean colour: a yardstick that uses the truth, `(n, 3, S, S)`."""
    return targets.mean((2, 3), keepdim=True).expand_as(targets)


def mean_over_seeds(scores: Sequence[Scores]) -> Scores:
    """Attacker seeds are averaged per image, before anything else."""
    def mean(values: list[Tensor]) -> Tensor:
        return torch.stack(values).mean(0)

    shared = [name for name in scores[0].extras if all(name in s.extras for s in scores)]
    return Scores(mean([s.mse for s in scores]), mean([s.psnr for s in scores]), mean([s.ssim for s in scores]),
                  mean([s.ssim_resfl for s in scores]), {name: mean([s.extras[name] for s in scores]) for name in shared})


def relative(scores: Scores, blind: Scores) -> dict[str, float]:
    """R2 and SSIM gain against the blind guess."""
    return {"r2": quality.r2(scores.mse, blind.mse).item(), "ssim_gain": quality.ssim_gain(scores.ssim, blind.ssim).item()}


def intervals(scores: Scores, blind: Scores) -> dict[str, list[float]]:
    """Bootstrap 95 % intervals over images of MSE, PSNR, SSIM and R2; an image's blind error stays with it."""
    columns = torch.stack([scores.mse, scores.psnr, scores.ssim, blind.mse])
    statistics = {"mse": lambda m: m[0], "psnr": lambda m: m[1], "ssim": lambda m: m[2],
                  "r2": lambda m: quality.r2(m[0, :, None], m[3, :, None])}
    return {name: list(quality.bootstrap(columns, statistic, generator=rng.generator(0, "bootstrap")))
            for name, statistic in statistics.items()}


def difference(mine: Tensor, ruler: Tensor) -> tuple[float, float]:
    """Interval of mean `mine - ruler` over the same images `(n,)`."""
    return quality.bootstrap((mine - ruler)[None], lambda m: m[0], generator=rng.generator(0, "bootstrap"))


def verdict(mine: Scores, blind: Scores, untrained: Scores | None) -> str:
    """One sentence: what the reconstructions show beside the blind guess and, if there is one, an untrained client."""
    r2 = relative(mine, blind)["r2"]
    inside = intervals(mine, blind)
    interval = f"R2 {r2:.2f} [{inside['r2'][0]:.2f}, {inside['r2'][1]:.2f}]"
    similarity = mine.ssim.mean().item()
    better_in_structure = difference(mine.ssim, blind.ssim)[0] > 0
    if inside["r2"][0] <= 0:
        said = f"no better than the blind guess ({interval})"
    elif not better_in_structure:
        said = f"nearer in colour, but no better in structure than the blind guess ({interval}, SSIM {similarity:.2f})"
    else:
        level = next((text for above, text in SCALE if similarity > above), "little but colour is visible")
        said = f"{level} ({interval}, SSIM {similarity:.2f})"
    return said[0].upper() + said[1:] + _beside(mine, blind, untrained) + "."


def _beside(mine: Scores, blind: Scores, untrained: Scores | None) -> str:
    """How an untrained client compares under the same attack."""
    if untrained is None:
        return ""
    low, high = difference(mine.mse, untrained.mse)
    if relative(mine, blind)["r2"] <= 0 and (ruled := relative(untrained, blind)["r2"]) <= 0:  # which of two failures is worse says nothing
        return f"; nor is the same attack on an untrained client (R2 {ruled:.2f})"
    relation = "more than" if low > 0 else "less than" if high < 0 else "about as much as"
    return f"; an untrained client gives away {relation} this one (R2 {relative(untrained, blind)['r2']:.2f})"
