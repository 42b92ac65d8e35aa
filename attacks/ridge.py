"""Closed-form ridge regression from smashed data to pixels: the weakest attack that a learned one has to beat.

z is standardised on the attacker's images and scaled so that a row has mean squared norm 1, so one grid of penalties serves every
cut. With Z the rows and Y the centred pixels, W = (Z'Z + lambda)^-1 Z'Y = Z'(ZZ' + lambda)^-1 Y; the smaller of the two matrices
is taken apart once, and then every lambda costs two products. In the units of unscaled standardised features the penalty is
lambda times their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.api import AttackOptions, Guess
from attacks.features import Features
from attacks.view import View
from ssl_split.display import Bar, progress

LAMBDAS = tuple(10.0 ** (k / 2) for k in range(-6, 7))
"""Penalties, chosen between on the attacker's validation images."""

STRONG = LAMBDAS + tuple(10.0 ** (k / 2) for k in range(7, 13))
"""Penalties of a regression on averaged releases: it needs larger ones, since single releases have noise that it has not seen."""


@dataclass(frozen=True)
class Scale:
    """Standardisation of smashed data, `(d,)` each; constant features are switched off."""

    mean: Tensor
    factor: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows `(k, d)` as new rows of mean squared norm 1 over the images that made the scale."""
        return (rows - self.mean).mul_(self.factor)


def standardisation(features: Features) -> Scale:
    """Mean and deviation of every feature in float64, block by block."""
    total = square = torch.zeros((), dtype=torch.float64)
    shift = features[:1].flatten(1).double()  # sums of values near their own size: no cancellation in the variance
    for _, block in features.blocks():
        for rows in block.split(64):  # the copies in float64 stay small
            rows = rows.double() - shift
            total = total.to(rows.device) + rows.sum(0)
            square = square.to(rows.device) + rows.square().sum(0)
    mean = total / len(features)
    deviation = (square / len(features) - mean.square()).clamp(min=0).sqrt()
    centre = mean + shift[0]
    dtype = features[:1].dtype
    alive = deviation > 16 * torch.finfo(dtype).eps * centre.abs() + 1e-30  # below is rounding of a constant
    factor = torch.where(alive, 1 / (deviation.where(alive, deviation.new_ones(())) * alive.sum().clamp(min=1).sqrt()), 0.0)
    return Scale(centre.to(dtype), factor.to(dtype))


def scaled(features: Features, scale: Scale, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """Standardised rows, block by block, from the image `first` on."""
    for place, rows in features.blocks(first):
        yield place, scale(rows)


def products(left: Features, right: Features, *, scale: Scale) -> Tensor:
    """Inner products of standardised rows, `(n, m)` in float64; `left is right` computes one triangle.

    Two blocks are in memory at a time, whatever the size of the smashed data.
    """
    out = torch.empty(len(left), len(right), dtype=torch.float64, device=left.images.device)
    for place, rows in scaled(left, scale):
        for other, columns in scaled(right, scale, place.start if left is right else 0):
            block = (rows @ columns.T).double()
            out[place, other] = block
            if left is right:
                out[other, place] = block.T
    return out


@dataclass(frozen=True)
class Solution:
    """Ridge regression for every penalty at once.

    Attributes:
        values: Eigenvalues of ZZ' (dual) or Z'Z (primal), `(r,)`.
        pixels: Eigenvectors applied to Y (dual) or to Z'Y (primal), `(r, P)`.
        mean: Mean pixels, `(P,)`.
    """

    values: Tensor
    pixels: Tensor
    mean: Tensor

    def predict(self, scores: Tensor, *, penalty: float) -> Tensor:
        """Pixels `(m, P)` of rows whose products with the eigenvectors are `scores` `(m, r)`; not clamped."""
        return (scores / (self.values + penalty)) @ self.pixels + self.mean


class Ridge:
    """Ridge regression from smashed data to pixels: products of rows in their own dtype, all that follows in float64.

    Args:
        features: Smashed data of the images to learn from.
        pixels: The images themselves, `(n, P)`.
        dual: Take ZZ' (n x n) apart; False takes Z'Z (d x d). Default: the smaller.
    """

    def __init__(self, features: Features, pixels: Tensor, *, dual: bool | None = None) -> None:
        self.features = features
        self.dual = features.dimensions > len(features) if dual is None else dual
        self.scale = standardisation(features)
        y = pixels.double()
        mean = y.mean(0)
        if self.dual:
            matrix, side = products(features, features, scale=self.scale), y - mean
        else:
            d = features.dimensions
            matrix = torch.zeros(d, d, dtype=torch.float64, device=y.device)
            side = torch.zeros(d, y.shape[1], dtype=torch.float64, device=y.device)
            for place, rows in scaled(features, self.scale):
                matrix += rows.T @ rows
                side += rows.T @ (y[place] - mean).to(rows.dtype)
        values, self.vectors = torch.linalg.eigh(matrix)
        self.solution = Solution(values.clamp(min=0), self.vectors.T @ side, mean)

    def scores(self, features: Features) -> Tensor:
        """Products of other images' smashed data with the eigenvectors, `(m, r)`."""
        if self.dual:
            return products(features, self.features, scale=self.scale) @ self.vectors
        return torch.cat([rows.double() @ self.vectors for _, rows in scaled(features, self.scale)])


def choose(fitted: Ridge, scores: Tensor, pixels: Tensor, penalties: Sequence[float] = LAMBDAS) -> tuple[float, dict[float, float]]:
    """The penalty with the lowest error on validation images.

    Args:
        fitted: The regression.
        scores: Of the validation images, `(m, r)`.
        pixels: The validation images, `(m, P)`.
        penalties: To choose between, ascending.

    Returns:
        The penalty, and the MSE after clamping of every penalty.
    """
    errors = {
        penalty: (fitted.solution.predict(scores, penalty=penalty).clamp(0, 1) - pixels).square().mean().item()
        for penalty in penalties
    }
    return min(errors, key=lambda penalty: errors[penalty]), errors


def at_edge(errors: dict[float, float]) -> bool:
    """Whether a penalty beyond the grid may be better: the best is the last one, and clearly better than the one before it."""
    values = list(errors.values())
    return min(values) < 0.99 * min(values[1:-1])


def attack(view: View, options: AttackOptions, seed: int) -> Guess:
    """Fit on the attacker's images, choose lambda on a tenth of them, reconstruct the targets.

    Under a random defence there are two regressions, one on a release of each image and one on the mean of `options.ridge.copies` releases,
    which is nearer to what a regression on endlessly many releases would be; validation images, released once like the targets, decide.
    """
    ways = [(1, LAMBDAS)]
    if options.ridge.copies > 1 and _random(view):
        ways.append((options.ridge.copies, STRONG))
    with progress(3 * len(ways), "ridge") as bar:
        error, guess = min((_fit(view, copies, penalties, bar) for copies, penalties in ways), key=lambda found: found[0])
        bar.advance(0, validation_mse=error)
    return guess


def _random(view: View) -> bool:
    """Whether two releases of one image differ."""
    image = view.aux.fit[:1]
    return not torch.equal(view.query(image), view.query(image, copy=1))


def _mean(view: View, images: Tensor, copies: int) -> Tensor:
    """Mean of several releases of each image."""
    total = view.query(images)
    for copy in range(1, copies):
        total = total + view.query(images, copy=copy)
    return total / copies if copies > 1 else total


def _fit(view: View, copies: int, penalties: Sequence[float], bar: Bar) -> tuple[float, Guess]:
    """One regression, on the mean of so many releases of own images, and its error on validation images."""
    own = view.aux
    fit = Features(lambda images: _mean(view, images, copies), own.fit)
    bar.advance(images=len(fit), dimensions=fit.dimensions)
    fitted = Ridge(fit, own.fit.flatten(1))
    bar.advance()
    validation = fitted.scores(Features(view.query, own.validation, held_bytes=0))
    penalty, errors = choose(fitted, validation, own.validation.flatten(1), penalties)
    pixels = fitted.solution.predict(fitted.scores(Features(lambda z: z, view.smashed)), penalty=penalty)
    bar.advance(validation_mse=errors[penalty])
    images = pixels.clamp(0, 1).to(own.fit.dtype).view(-1, *own.fit.shape[1:])
    notes = {"lambda": penalty, "lambda_at_edge": at_edge(errors), "dual": fitted.dual, "copies": copies,
             "validation_mse_by_lambda": {f"{k:g}": v for k, v in errors.items()}}
    return errors[penalty], Guess(images, errors[penalty], notes)
