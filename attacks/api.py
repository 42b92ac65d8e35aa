"""What an attack is: a function from a view to a guess, its row in the table, and the options that all attacks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attacks.view import View
from ssl_split import fields
from ssl_split.fields import field

METHODS = ("blind", "ridge", "decoder", "oracle", "optimise", "twoview", "unsplit", "fora", "pcat", "sdar")
"""Names of the inversion attacks, in the order of tables."""
MOCOSFL = "mocosfl_published"
PRESETS = ("strong", "published", MOCOSFL)
PUBLISHED = ("published", MOCOSFL)
"""Presets of which the decoder trains for epochs."""
BUDGETS = ("quick", "standard", "paper")
DEFAULT_AUX = 5000
PUBLISHED_AUX = 500
QUICK = ("ridge",)
"""Attacks that take seconds: against a defence the attacker that does not know it is always shown beside them."""


@dataclass(frozen=True)
class DecoderOptions:
    """Single values of the preset that are replaced."""

    blocks: int | None = field(None, "residual blocks N of the decoder (both presets: 4)", low=0)
    channels: int | None = field(None, "channels C of the decoder (both presets: 64)", low=1)
    loss: str | None = field(None, "training loss (both presets: mse)", choices=("mse", "mse_ssim"))
    lr: float | None = field(None, "learning rate (both presets: 1e-3)", above=0)
    batch_size: int | None = field(None, "images per training step (both presets: 32)", low=2)
    steps: int | None = field(None, "training steps (strong: by budget; published: 50 epochs)", low=1)


@dataclass(frozen=True)
class RidgeOptions:
    """The regression."""

    copies: int = field(8, "releases of each own image that a second regression averages under a random defence (1: no second one)", low=1)


@dataclass(frozen=True)
class OptimiseOptions:
    """The search with known weights."""

    steps: int | None = field(None, "steps of a start (by budget)", low=1)
    starts: int | None = field(None, "starts: mean of own images, grey, a decoder's output, then noise (by budget)", low=1)
    lr: float = field(0.05, "Adam's rate, in units of pixel values", above=0)
    variation: str = field("tv_iso", "total variation: tv_iso length of the gradient, tv_l1, tv_sq", choices=("tv_iso", "tv_l1", "tv_sq"))
    tv: float | None = field(None, "its weight (default: chosen on own images)", low=0)
    l2: float = field(0.0, "weight of mean x^2", low=0)


@dataclass(frozen=True)
class UnsplitOptions:
    """The search for images and weights at once."""

    rounds: int | None = field(None, "outer rounds (by budget: quick 10, standard 50, paper 1000)", low=1)
    steps: int = field(100, "steps on the images and steps on the clone in each", low=1)
    tv: float = field(0.1, "weight of the total variation tv_sq", low=0)
    l2: float = field(1.0, "weight of mean x^2", low=0)
    lr: float = field(1e-3, "Adam's rate on either side", above=0)


@dataclass(frozen=True)
class ForaOptions:
    """The substitute client."""

    iterations: int | None = field(None, "steps (by budget: quick 1000, standard 5000, paper 40000)", low=1)
    starts: int | None = field(None, "substitutes trained, of which the best aligned counts (strong preset 3, published 1)", low=1)
    width: int = field(64, "channels of substitute and critic", low=1)
    batch_size: int = field(64, "own images, and collected smashed data, in each", low=2)
    speed: float = field(1.0, "times the preset's rates", above=0)


@dataclass(frozen=True)
class PcatOptions:
    """The pseudo-client."""

    iterations: int | None = field(None, "its steps (by budget: quick 1000, standard 5000, paper 20000)", low=1)
    batch_size: int = field(128, "own images in each", low=2)
    speed: float = field(1.0, "times the rate 1e-3", above=0)
    tune: int = field(200, "steps that fine-tune the decoder through the pseudo-client on the targets' smashed data", low=0)


@dataclass(frozen=True)
class SdarOptions:
    """Simulator, decoder and their discriminators."""

    iterations: int | None = field(None, "steps (by budget: quick 1000, standard 5000, paper 20000)", low=1)
    batch_size: int = field(128, "own images, and collected smashed data, in each", low=2)
    speed: float = field(1.0, "times the preset's rates", above=0)
    smashed_weight: float = field(0.04, "published preset, lambda 1: of the discriminator of smashed data (0.02 to 0.04)", low=0)
    image_weight: float = field(1e-5, "published preset, lambda 2: of that of images; 0 leaves it out and halves the cost", low=0)
    width: int = field(64, "channels of the discriminators", low=1)


@dataclass(frozen=True)
class AttackOptions:
    """How an inversion attack is run."""

    method: str = field("decoder", "attack", choices=METHODS, section="attack")
    preset: str = field("strong", "decoder, oracle, fora, sdar: strong, or published (as the papers attack); decoder: mocosfl_published, "
                                  "that on images of the training split", choices=PRESETS)
    budget: str = field("standard", "decoder, oracle: quick 500, standard 2000, paper 5000 and more steps; optimise, twoview: 200 "
                                    "steps, 500 from 2 starts, 2000 from 3; unsplit: 10, 50, 1000 rounds; fora: 1000, 5000, 40000; pcat, "
                                    "sdar: 1000, 5000, 20000", choices=BUDGETS)
    aux: int | str | None = field(None, f"the attacker's images, one tenth for validation (default: {DEFAULT_AUX} or all there are, "
                                        f"published preset {PUBLISHED_AUX}); a folder of pictures with --encoder", low=2)
    targets: int | str = field(128, "attacked images, a fixed list over clients and classes; a folder of pictures with --encoder", low=2)
    seeds: int | None = field(None, "decoders with seeds of their own, averaged (default: 3; quick or published 1)", low=1)
    seed: int = field(0, "first of these seeds", low=0)
    precision: str = field("fp32", "of decoder training; bf16 is faster where the processor has it, else slower", choices=("fp32", "bf16"))
    attacker: str = field("adaptive", "against a run with a defence: adaptive knows it and learns through it; unaware does not",
                          choices=("adaptive", "unaware"))
    unaware: bool = field(False, "against a defence: also run the attacker that does not know it, for comparison (always done for ridge)")
    decoder: DecoderOptions = field(DecoderOptions, "replaces single values of the preset")
    ridge: RidgeOptions = field(RidgeOptions, "the regression")
    optimise: OptimiseOptions = field(OptimiseOptions, "the search with known weights")
    unsplit: UnsplitOptions = field(UnsplitOptions, "the search for images and weights at once")
    fora: ForaOptions = field(ForaOptions, "the substitute client; --decoder.blocks and .channels are those of its inverse")
    pcat: PcatOptions = field(PcatOptions, "the pseudo-client; its inverse is a decoder")
    sdar: SdarOptions = field(SdarOptions, "the simulator; --decoder.blocks (published: default 0) and .channels are those of its decoder")

    def __post_init__(self) -> None:
        """Refuse a preset of another method."""
        if self.preset == MOCOSFL and self.method != "decoder":
            raise ValueError(f"--preset {MOCOSFL} goes with --method decoder alone: leave it out with {self.method}, or use published")

    @property
    def aux_images(self) -> int:
        """Images that the attacker would have if there were enough."""
        published = self.method == "decoder" and self.preset in PUBLISHED
        return self.aux if isinstance(self.aux, int) else PUBLISHED_AUX if published else DEFAULT_AUX

    def attacker_seeds(self, *, seeded: bool) -> tuple[int, ...]:
        """Seeds of the attacks to run; one is enough where a seed changes nothing."""
        default = 1 if self.budget == "quick" or self.preset in PUBLISHED else 3
        count = (self.seeds or default) if seeded else 1
        return tuple(range(self.seed, self.seed + count))

    def identity(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The options called `names`, plain values as they were set: what names a result."""
        return {k: v for k, v in fields.to_dict(self).items() if k in names}


@dataclass(frozen=True)
class Guess:
    """What an attack found.

    Attributes:
        images: Reconstructions of the targets, `(n, 3, S, S)` in [0, 1]; `(1, 3, S, S)` for one guess for all.
        validation_mse: Error on the attacker's own validation images, by which attacks are chosen; None where there is none.
        notes: What else the result file should say, plain values.
        further: What else the judge should see.
    """

    images: Tensor
    validation_mse: float | None
    notes: Mapping[str, Any]
    further: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One row of the table of attacks.

    Attributes:
        run: `(view, options, seed) -> Guess`.
        needs: Capabilities it declares.
        labelled: Those it declares besides where the server's loss reads labels.
        options: Names of the `AttackOptions` that change its numbers.
        seeded: Whether a seed changes its numbers.
        cost: For `--help` and the docs.
        source: Where it is from.
        optional: Capabilities that it reads where they are offered.
        adaptive: Whether it learns or searches through a defence that it knows; without that, who knows it does what the other does.
        defended: Names of further `AttackOptions` that change its numbers against a defence of what is sent.
        marks: What else names its results against a defence, plain values: earlier versions computed other numbers under the same options.
    """

    run: Callable[[View, AttackOptions, int], Guess]
    needs: tuple[str, ...]
    options: tuple[str, ...]
    seeded: bool
    cost: str
    source: str
    labelled: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    adaptive: bool = True
    defended: tuple[str, ...] = ()
    marks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def declared(self, offered: Collection[str], *, supervised: bool) -> tuple[str, ...]:
        """Capabilities it needs of a run that is supervised, or not, and takes where they are offered."""
        needed = (*self.needs, *self.labelled) if supervised else self.needs
        return (*needed, *(flag for flag in self.optional if flag in offered))
