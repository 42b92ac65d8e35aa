"""The decoder attack: a network trained on the attacker's own pairs (f(x), x), then applied to the targets' smashed data.

Presets: `published` trains and selects as the ResSFL and MocoSFL code does, defects included; `strong` trains longer, on more
images, and selects on the whole validation set. `mocosfl_published` is `published` on images of the training split
(`attacks.sources`). Network and figures: `ssl_split.models.decoder`, docs/attacks.md.

Sources: Li et al., ResSFL, CVPR 2022 (arXiv 2205.04007); Li et al., MocoSFL, ICLR 2023.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.api import MOCOSFL, AttackOptions, Guess
from attacks.features import Features
from attacks.substitute import channels_last
from attacks.view import OwnImages, View
from ssl_split import rng
from ssl_split.display import Bar, progress
from ssl_split.models.decoder import build

SSIM_WEIGHT = 0.1
"""Of 1 - SSIM in the loss `mse_ssim`."""
CHECKS = 20
"""Validations in one cosine of the strong preset."""
PATIENCE = 5
"""Validations in a row without a gain after which a cosine is cut short."""
GAIN = 0.01
"""Relative gain below which validation counts as no longer improving."""
SLOW_SECONDS = 300
"""A decoder that takes longer is announced."""
TIMED = 10
"""Steps by which the time is told."""


@dataclass(frozen=True)
class Budget:
    """Training length: cosines of `steps` steps, repeated while they help, `cosines` of them at most."""

    steps: int
    cosines: int = 1


BUDGETS = {"quick": Budget(500), "standard": Budget(2000), "paper": Budget(5000, cosines=4)}


@dataclass(frozen=True)
class Recipe:
    """A preset: everything that the training of a decoder depends on but data and seed.

    Attributes:
        blocks, channels: N and C of the network.
        loss: `mse`, or `mse_ssim` = MSE + 0.1 (1 - SSIM).
        lr, batch_size: Of the optimiser.
        optimiser: `adam` at a constant rate, or `adamw` (weight decay 0.01) with a cosine to 0.
        epochs: Length where no budget applies.
        selection: `validation`: lowest MSE of the whole validation set in eval mode. `published`: lowest loss of any single
            validation batch, once an epoch, with the decoder in training mode.
    """

    blocks: int = 4
    channels: int = 64
    loss: str = "mse"
    lr: float = 1e-3
    batch_size: int = 32
    optimiser: str = "adamw"
    epochs: int | None = None
    selection: str = "validation"


_PUBLISHED = Recipe(optimiser="adam", epochs=50, selection="published")
PRESETS = {"strong": Recipe(), "published": _PUBLISHED, MOCOSFL: _PUBLISHED}


def recipe(options: AttackOptions) -> Recipe:
    """The preset with the single values that were set."""
    own = options.decoder
    given: dict[str, Any] = {
        "blocks": own.blocks, "channels": own.channels, "loss": own.loss, "lr": own.lr, "batch_size": own.batch_size}
    return replace(PRESETS[options.preset], **{k: v for k, v in given.items() if v is not None})


def plan(options: AttackOptions, images: int) -> Budget:
    """Steps for a number of training images."""
    chosen = recipe(options)
    if options.decoder.steps is not None:
        return Budget(options.decoder.steps)
    if chosen.epochs is not None:
        return Budget(chosen.epochs * steps_per_epoch(images, chosen.batch_size))
    return BUDGETS[options.budget]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of one pass, the last of which may be smaller."""
    return math.ceil(images / batch_size)


@dataclass(frozen=True)
class Pairs:
    """Own images and what the client makes of them."""

    features: Features
    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, which: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Smashed data and images of one batch, float32."""
        z, x = self.features[which].float(), self.images[which].float()
        return channels_last(z), channels_last(x)


def batches(images: int, batch_size: int, *, seed: int) -> Iterator[Tensor]:
    """Indices of batches without end: every epoch in a new order, its last batch smaller; never a batch of one."""
    epoch = 0
    while True:
        order = torch.randperm(images, generator=rng.generator(seed, "decoder order", epoch))
        for part in order.split(batch_size):
            if len(part) > 1 or images == 1:  # batch statistics of a single image of a small map are no statistics
                yield part
        epoch += 1


@dataclass
class Training:
    """A decoder while it is trained.

    Attributes:
        model: The network.
        best: Its best weights so far by the recipe's selection.
        best_score: Their score: validation MSE, or the published single-batch loss.
        best_step: When they were found.
        history: `(step, score)` of every validation.
        steps: Steps done.
        stopped_early: Whether a plateau of validation ended a cosine before its last step.
    """

    model: nn.Module
    chosen: Recipe
    precision: str
    best: dict[str, Tensor]
    history: list[tuple[int, float]]
    best_score: float = math.inf
    best_step: int = 0
    steps: int = 0
    stopped_early: bool = False
    clock: list[float] = field(default_factory=list)

    def loss(self, z: Tensor, x: Tensor) -> Tensor:
        """Training loss of one batch."""
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = self.model(z)
        out = out.float()
        error = (out - x).square().mean()
        if self.chosen.loss == "mse_ssim":
            import piq  # here, because it imports torch's compiler, which takes seconds

            error = error + SSIM_WEIGHT * (1 - piq.ssim(out, x, data_range=1.0, downsample=False))
        return error

    def validate(self, pairs: Pairs) -> float:
        """Score the decoder as the recipe selects it, and keep its weights if they are the best so far."""
        published = self.chosen.selection == "published"
        score = single_batch(self, pairs) if published else self.error(pairs)
        self.history.append((self.steps, score))
        if score < self.best_score:
            self.best_score, self.best_step = score, self.steps
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return score

    def error(self, pairs: Pairs) -> float:
        """MSE over all validation images in eval mode."""
        total = 0.0
        for start in range(0, len(pairs), 128):
            z, x = pairs.batch(slice(start, start + 128))
            total += (self.reconstruct(z) - x).square().sum(dtype=torch.float64).item()
        return total / pairs.images.numel()

    def reconstruct(self, z: Tensor) -> Tensor:
        """Images `(n, 3, S, S)` in eval mode, float32."""
        self.model.eval()
        with torch.no_grad(), torch.autocast(z.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = torch.cat([self.model(channels_last(part)).float() for part in z.float().split(128)])
        self.model.train()
        return out

    def images(self, z: Tensor) -> Tensor:
        """As `reconstruct`, in [0, 1]."""
        return self.reconstruct(z).clamp(0, 1)

    def notes(self) -> dict[str, Any]:
        """How the training went, for the result file."""
        return {"steps": self.steps, "best_step": self.best_step, "stopped_early": self.stopped_early,
                "still_improving": self.still_improving, "history": [[s, v] for s, v in self.history]}

    def warn(self, steps: int, bar: Bar) -> None:
        """Say how long it will take once that is known and if it is long."""
        if len(self.clock) == 2 and (left := (self.clock[1] - self.clock[0]) / TIMED * steps) > SLOW_SECONDS:
            bar.note(f"this decoder takes about {left / 60:.0f} minutes here, if validation does not level off before; --budget quick, "
                     "--precision bf16 (where the processor has it) or a GPU is faster")

    @property
    def still_improving(self) -> bool:
        """Whether the last tenth of the steps still lowered the best score by more than `GAIN`."""
        before = [score for step, score in self.history if step <= 0.9 * self.steps]
        return bool(before) and self.best_score < (1 - GAIN) * min(before)


def single_batch(training: Training, pairs: Pairs) -> float:
    """Lowest loss of a single validation batch, in training mode, as published.

    The forward passes also move the running statistics, which are kept: the published code does not prevent it.
    """
    size = training.chosen.batch_size
    with torch.no_grad():
        return min(training.loss(*pairs.batch(slice(start, start + size))).item() for start in range(0, len(pairs), size))


def train(fit: Pairs, validation: Pairs, *, chosen: Recipe, budget: Budget, seed: int, image_size: int, precision: str = "fp32",
          title: str = "decoder") -> Training:
    """Train a decoder.

    Args:
        fit, validation: Own pairs.
        chosen: The recipe.
        budget: Steps.
        seed: Of initial weights and order.
        image_size: Pixels per side.
        precision: fp32, or bf16 for autocast.
        title: Of the progress display.

    Returns:
        The training at its end; `best` is loaded into the model.
    """
    made = build(fit.features.shape, rng.generator(seed, "decoder init"), image_size=image_size, blocks=chosen.blocks,
                 channels=chosen.channels)
    model = made.to(fit.images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(model, chosen, precision, {}, [])
    source = batches(len(fit), chosen.batch_size, seed=seed)
    with progress(budget.steps, title) as bar:
        for _ in range(budget.cosines):
            before = training.best_score
            run_cosine(training, fit, validation=validation, source=source, steps=budget.steps, bar=bar)
            if training.best_score > (1 - GAIN) * before:
                break
    model.load_state_dict(training.best)
    return training


def run_cosine(training: Training, fit: Pairs, *, validation: Pairs, source: Iterator[Tensor], steps: int, bar: Bar) -> None:
    """One fall of the learning rate to 0, or `steps` steps at a constant rate; ends early on a plateau of validation."""
    chosen = training.chosen
    published = chosen.selection == "published"
    every = steps_per_epoch(len(fit), chosen.batch_size) if published else max(1, steps // CHECKS)
    optimiser, rate = _optimiser(training.model, chosen, steps)
    stale, best = 0, math.inf
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate(step - 1)
        optimiser.zero_grad()
        loss = training.loss(*fit.batch(next(source)))
        loss.backward()
        optimiser.step()
        training.steps += 1
        bar.advance()
        if training.steps in (1, 1 + TIMED):
            training.clock.append(time.monotonic())
            training.warn(steps, bar)
        if step % every == 0 or step == steps:
            score = training.validate(validation)
            if not math.isfinite(score):
                raise ValueError(f"the decoder diverged at step {training.steps}: set a lower --decoder.lr than {chosen.lr}")
            stale, best = (0, score) if score < best else (stale + 1, best)
            bar.advance(0, train=loss.item(), validation_mse=training.best_score)
            if stale >= PATIENCE and not published:
                training.stopped_early = True
                break


def _optimiser(model: nn.Module, chosen: Recipe, steps: int) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    """The optimiser and its rate at each step."""
    if chosen.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), chosen.lr, fused=True), lambda step: chosen.lr
    optimiser = torch.optim.AdamW(model.parameters(), chosen.lr, weight_decay=0.01, fused=True)
    return optimiser, lambda step: chosen.lr * (1 + math.cos(math.pi * step / steps)) / 2


def of_outputs(outputs: Callable[[Tensor], Tensor], own: OwnImages, options: AttackOptions, *, seed: int) -> tuple[Training, float]:
    """A decoder trained to invert a function of images, and its error on the validation images.

    Args:
        outputs: Images `(n, 3, S, S)` in [0, 1] -> what the decoder is given of them, without gradients.
        own: The images.
        options: Of the attack.
        seed: Of initial weights and order.
    """
    fit, validation = (Pairs(Features(outputs, images), images) for images in (own.fit, own.validation))
    budget = plan(options, len(own.fit))
    training = train(fit, validation, chosen=recipe(options), budget=budget, seed=seed, image_size=own.fit.shape[-1],
                     precision=options.precision, title=f"decoder, seed {seed}")
    return training, training.error(validation)


def trained(view: View, own: OwnImages, options: AttackOptions, seed: int) -> tuple[Training, float]:
    """A decoder trained on the smashed data of these images, and its error on the validation images among them."""
    return of_outputs(view.query, own, options, seed=seed)


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Train a decoder on own pairs, select it on own validation images, and reconstruct the targets."""
    return _reconstructed(view, view.aux, options, seed)


def oracle(view: View, options: AttackOptions, seed: int) -> Guess:
    """The same decoder trained on the clients' own images, the targets apart: a bound for any trained inverse of its size."""
    return _reconstructed(view, view.offered("private_pairs"), options, seed)


def _reconstructed(view: View, own: OwnImages, options: AttackOptions, seed: int) -> Guess:
    training, error = trained(view, own, options, seed)
    return Guess(training.images(view.smashed), error, training.notes())
